//! Checks the claims of an ID token before it is passed on: issuer, audience, expiry and nonce.
//!
//! These functions do no I/O. The signature is not checked here. The token came from the token
//! endpoint over TLS (or plain http if the provider is on this machine), which OpenID Connect Core
//! accepts in place of a signature check (section 3.1.3.7, step 6). The backend checks the
//! signature.

use serde_json::{Map, Value};

use crate::secret::Secret;
use crate::{token, untrusted_json};

/// The tolerated clock difference between provider and program, in seconds.
const LEEWAY: f64 = 60.0;

/// The expected claims.
pub(super) struct Expected<'a> {
    /// Equivalent issuer names of the provider.
    pub(super) issuers: &'a [String],
    pub(super) client_id: &'a str,
    /// The nonce of the authorization request. The device flow has none.
    pub(super) nonce: Option<&'a str>,
    /// The provider's time, in seconds since the epoch.
    pub(super) now: i64,
}

/// Checks a token.
///
/// # Errors
/// Returns what is wrong. The text reveals nothing of the token except its issuer.
///
/// Source: OpenID Connect Core, sections 2 and 3.1.3.7.
pub(super) fn check(token: &Secret, expected: &Expected<'_>) -> Result<(), String> {
    let payload =
        token::payload(token.expose()).map_err(|reason| format!("it is no JWT: {reason}"))?;
    let claims: Map<String, Value> = untrusted_json::from_slice(&payload)
        .map_err(|_| "it is no JWT: its payload is not a JSON object".to_owned())?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    match text("iss") {
        Some(issuer) if expected.issuers.iter().any(|wanted| wanted == issuer) => {}
        Some(issuer) => {
            let wanted = expected.issuers.first().map_or("none", String::as_str);
            return Err(format!("its issuer (`iss`) is {issuer}, expected {wanted}"));
        }
        None => return Err("it names no issuer (`iss`)".to_owned()),
    }
    check_audience(claims.get("aud"), text("azp"), claims.contains_key("azp"), expected.client_id)?;
    match claims.get("exp").and_then(Value::as_f64) {
        Some(end) if end + LEEWAY > expected.now as f64 => {}
        Some(_) => return Err("it has expired (`exp`)".to_owned()),
        None => return Err("it says not when it expires (`exp`)".to_owned()),
    }
    if text("sub").is_none_or(str::is_empty) {
        return Err("it names nobody (`sub`)".to_owned());
    }
    match expected.nonce {
        Some(nonce) if text("nonce") != Some(nonce) => {
            Err("it was made for another sign-in (`nonce`)".to_owned())
        }
        _ => Ok(()),
    }
}

fn check_audience(
    audience: Option<&Value>,
    party: Option<&str>,
    has_party: bool,
    client_id: &str,
) -> Result<(), String> {
    let is_client = |value: &Value| value.as_str() == Some(client_id);
    let (is_for_client, is_one) = match audience {
        Some(Value::Array(all)) => (all.iter().any(is_client), all.len() == 1),
        Some(one) => (is_client(one), true),
        None => (false, true),
    };
    if !is_for_client {
        return Err("it was made for another client (`aud`)".to_owned());
    }
    if has_party && party != Some(client_id) {
        return Err("it was made for another client (`azp`)".to_owned());
    }
    if !is_one && !has_party {
        return Err("it has several audiences (`aud`) and no authorized party (`azp`)".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn checked(nonce: Option<&str>, change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let mut claims = json!({
            "iss": "https://id.example.org",
            "aud": "client",
            "sub": "ada",
            "exp": NOW + 600,
            "nonce": "n",
        });
        change(&mut claims);
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let issuers = ["https://id.example.org".to_owned(), "id.example.org".to_owned()];
        let expected = Expected { issuers: &issuers, client_id: "client", nonce, now: NOW };
        check(&token.into(), &expected)
    }

    #[test]
    fn good_tokens_pass() {
        assert_eq!(checked(Some("n"), |_| {}), Ok(()));
        assert_eq!(checked(None, |claims| claims["nonce"] = "other".into()), Ok(()));
        assert_eq!(checked(Some("n"), |claims| claims["iss"] = "id.example.org".into()), Ok(()));
        assert_eq!(checked(Some("n"), |claims| claims["aud"] = json!(["client"])), Ok(()));
        assert_eq!(checked(Some("n"), |claims| claims["azp"] = "client".into()), Ok(()));
        assert_eq!(checked(Some("n"), |claims| claims["exp"] = (NOW - 59).into()), Ok(()));
        assert_eq!(checked(Some("n"), |claims| claims["exp"] = json!(1.8e9 + 0.5)), Ok(()));
        let several = |claims: &mut Value| {
            claims["aud"] = json!(["other", "client"]);
            claims["azp"] = "client".into();
        };
        assert_eq!(checked(Some("n"), several), Ok(()));
    }

    #[test]
    fn each_wrong_claim_is_named() {
        for (claim, value, reason) in [
            ("iss", json!("https://evil.example"), "`iss`"),
            ("iss", json!("https://id.example.org/"), "`iss`"),
            ("iss", json!(1), "`iss`"),
            ("aud", json!("other"), "`aud`"),
            ("aud", json!([]), "`aud`"),
            ("aud", json!(null), "`aud`"),
            ("aud", json!({"client": "client"}), "`aud`"),
            ("aud", json!(["client", "other"]), "`azp`"),
            ("azp", json!("other"), "`azp`"),
            ("azp", json!(null), "`azp`"),
            ("exp", json!(NOW - 61), "`exp`"),
            ("exp", json!("soon"), "`exp`"),
            ("exp", json!(null), "`exp`"),
            ("sub", json!(""), "`sub`"),
            ("sub", json!(7), "`sub`"),
            ("nonce", json!("m"), "`nonce`"),
            ("nonce", json!(null), "`nonce`"),
        ] {
            let error = checked(Some("n"), |claims| claims[claim] = value.clone()).unwrap_err();
            assert!(error.contains(reason), "{claim} {value}: {error}");
        }
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let expected = Expected { issuers: &[], client_id: "c", nonce: None, now: NOW };
        for text in ["", "a.b", "a.b.c", "e30.W10.c2ln", "e30.***.c2ln"] {
            let error = check(&text.into(), &expected).unwrap_err();
            assert!(error.contains("no JWT"), "{text}: {error}");
        }
    }
}
