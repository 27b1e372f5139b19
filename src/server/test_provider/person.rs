//! The persons who sign in; any name is accepted.

use serde_json::{Map, Value};

use crate::server::digest;
use crate::server::text::is_plain;

/// The maximum length of a name, in characters.
const MAX_NAME: usize = 100;

/// The claims that tokens may contain.
pub(super) const CLAIMS: [&str; 6] =
    ["sub", "name", "given_name", "family_name", "email", "email_verified"];

/// A person who signed in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Person(String);

impl Person {
    /// Creates a person from a name or an e-mail address.
    pub(super) fn new(name: &str) -> Option<Self> {
        let name = name.trim();
        let is_name = !name.is_empty() && name.chars().count() <= MAX_NAME && is_plain(name);
        is_name.then(|| Self(name.to_owned()))
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// Returns a stable id, derived from the e-mail address. It has a prefix, so it never equals an
    /// id from Google, which is a decimal number.
    pub(super) fn subject(&self) -> String {
        let mut hash = digest::sha256(&self.email());
        hash.truncate(20);
        format!("test-{hash}")
    }

    pub(super) fn email(&self) -> String {
        let lower = self.0.to_lowercase();
        match is_address(&self.0) {
            true => lower,
            false => {
                let dotted: Vec<_> = lower.split_whitespace().collect();
                format!("{}@example.org", dotted.join("."))
            }
        }
    }

    /// Returns the claims for these scopes.
    pub(super) fn claims(&self, scope: &str) -> Map<String, Value> {
        let has = |wanted: &str| scope.split(' ').any(|scope| scope == wanted);
        let mut claims = Map::new();
        let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        put("sub", self.subject().into());
        if has("email") {
            put("email", self.email().into());
            put("email_verified", true.into());
        }
        if has("profile") {
            let name = match is_address(&self.0) {
                true => self.0.split('@').next().unwrap_or_default(),
                false => &self.0,
            };
            let (given, family) = name.split_once(' ').unwrap_or((name, ""));
            put("name", name.into());
            put("given_name", given.into());
            if !family.is_empty() {
                put("family_name", family.trim().into());
            }
        }
        claims
    }
}

fn is_address(name: &str) -> bool {
    name.split_once('@').is_some_and(|(local, host)| !local.is_empty() && !host.is_empty())
        && !name.contains(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn person_has_same_subject_in_any_spelling() {
        let ada = Person::new(" Ada  Lovelace ").unwrap();
        assert_eq!(ada.email(), "ada.lovelace@example.org");
        let by_address = Person::new("Ada.Lovelace@Example.org").unwrap();
        assert_eq!(ada.subject(), by_address.subject());
        assert_ne!(ada.subject(), Person::new("Bob").unwrap().subject());
        let claims = by_address.claims("openid profile");
        assert_eq!(claims["name"], "Ada.Lovelace");
        assert!(!claims.contains_key("email") && !claims.contains_key("family_name"));
        let all = Value::Object(ada.claims("openid profile email"));
        assert_eq!((&all["given_name"], &all["family_name"]), (&"Ada".into(), &"Lovelace".into()));
        for claim in CLAIMS {
            assert!(!all[claim].is_null(), "{claim}");
        }
    }

    #[test]
    fn invalid_names_are_rejected() {
        for bad in ["", "  ", "a\r\nb", "a\0", &"x".repeat(101)] {
            assert_eq!(Person::new(bad), None, "{bad:?}");
        }
        assert!(Person::new(&"\u{e4}".repeat(100)).is_some());
    }
}
