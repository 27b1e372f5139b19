//! Maps paths and methods to endpoints and routes.

use std::borrow::Cow;

use super::pages::Page;
use super::route::Route;
use super::state::EMAIL_PASSWORD;

/// One more than the longest route has segments.
const MAX_SEGMENTS: usize = 11;

/// A path that the server handles. With the method it makes a [`Route`].
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Endpoint<'a> {
    ApiKey { id: &'a str },
    ApiKeys,
    CallConfirmation,
    CallFunction,
    CallReset,
    Confirm,
    DeleteUser,
    DisableApiKey { id: &'a str },
    EnableApiKey { id: &'a str },
    Health,
    Location,
    Log { group: &'a str, app: &'a str },
    LogIn { provider: &'a str },
    Page(Page),
    Profile,
    Register,
    Reset,
    SendConfirmation,
    SendReset,
    Session,
}

impl Endpoint<'_> {
    /// Returns the methods that an endpoint supports, in the format of the `Allow` header.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Self::Health | Self::Location | Self::Log { .. } | Self::Page(_) | Self::Profile => {
                "GET, HEAD, OPTIONS"
            }
            Self::CallConfirmation
            | Self::CallFunction
            | Self::CallReset
            | Self::Confirm
            | Self::LogIn { .. }
            | Self::Register
            | Self::Reset
            | Self::SendConfirmation
            | Self::SendReset => "OPTIONS, POST",
            Self::ApiKey { .. } => "DELETE, GET, HEAD, OPTIONS",
            Self::ApiKeys => "GET, HEAD, OPTIONS, POST",
            Self::DeleteUser => "DELETE, OPTIONS",
            Self::DisableApiKey { .. } | Self::EnableApiKey { .. } => "OPTIONS, PUT",
            Self::Session => "DELETE, OPTIONS, POST",
        }
    }

    /// Returns the provider that an endpoint requires, if any.
    pub(super) fn provider(&self) -> Option<&str> {
        match self {
            Self::CallConfirmation
            | Self::CallReset
            | Self::Confirm
            | Self::Register
            | Self::Reset
            | Self::SendConfirmation
            | Self::SendReset => Some(EMAIL_PASSWORD),
            Self::LogIn { provider } => Some(provider),
            _ => None,
        }
    }

    /// Returns the route of a request to this endpoint, if the method is supported.
    pub(super) fn route(&self, method: &str, query: Option<&str>) -> Option<Route> {
        Some(match (self, method) {
            (Self::ApiKey { .. }, "DELETE") => Route::DeleteApiKey,
            (Self::ApiKey { .. }, "GET" | "HEAD") => Route::GetApiKey,
            (Self::ApiKeys, "GET" | "HEAD") => Route::ListApiKeys,
            (Self::ApiKeys, "POST") => Route::CreateApiKey,
            (Self::CallConfirmation, "POST") => Route::CallConfirmation,
            (Self::CallFunction, "POST") => Route::CallFunction,
            (Self::CallReset, "POST") => Route::CallReset,
            (Self::Confirm, "POST") => Route::Confirm,
            (Self::DeleteUser, "DELETE") => Route::DeleteUser,
            (Self::DisableApiKey { .. }, "PUT") => Route::DisableApiKey,
            (Self::EnableApiKey { .. }, "PUT") => Route::EnableApiKey,
            (Self::Health, "GET" | "HEAD") => Route::Health,
            (Self::Location, "GET" | "HEAD") => Route::Location,
            (Self::LogIn { .. }, "POST") if wants_link(query) => Route::Link,
            (Self::LogIn { .. }, "POST") => Route::LogIn,
            (Self::Log { .. } | Self::Page(_), "GET" | "HEAD") => Route::Page,
            (Self::Profile, "GET" | "HEAD") => Route::Profile,
            (Self::Register, "POST") => Route::Register,
            (Self::Reset, "POST") => Route::Reset,
            (Self::SendConfirmation, "POST") => Route::SendConfirmation,
            (Self::SendReset, "POST") => Route::SendReset,
            (Self::Session, "DELETE") => Route::LogOut,
            (Self::Session, "POST") => Route::Refresh,
            _ => return None,
        })
    }
}

/// Finds a path's endpoint, and the app that the path names, if it names one.
pub(super) fn find<'a>(segments: &[&'a str]) -> Option<(Option<&'a str>, Endpoint<'a>)> {
    let client = match segments {
        ["groups", group, "apps", app, "logs"] => {
            return Some((None, Endpoint::Log { group, app }));
        }
        ["confirm"] => return Some((None, Endpoint::Page(Page::Confirm))),
        ["health"] => return Some((None, Endpoint::Health)),
        ["reset"] => return Some((None, Endpoint::Page(Page::Reset))),
        ["api", "client", "v2.0", client @ ..] => client,
        _ => return None,
    };
    let (app, route) = match client {
        ["app", app, route @ ..] => (Some(*app), route),
        route => (None, route),
    };
    let endpoint = match (app, route) {
        (None, ["auth", "api_keys"]) => Endpoint::ApiKeys,
        (None, ["auth", "api_keys", id]) => Endpoint::ApiKey { id },
        (None, ["auth", "api_keys", id, "disable"]) => Endpoint::DisableApiKey { id },
        (None, ["auth", "api_keys", id, "enable"]) => Endpoint::EnableApiKey { id },
        (None, ["auth", "delete"]) => Endpoint::DeleteUser,
        (None, ["auth", "profile"]) => Endpoint::Profile,
        (None, ["auth", "session"]) => Endpoint::Session,
        (Some(_), ["location"]) => Endpoint::Location,
        (Some(_), ["functions", "call"]) => Endpoint::CallFunction,
        (Some(_), ["auth", "providers", "local-userpass", operation @ ..])
            if operation != ["login"] =>
        {
            match operation {
                ["confirm"] => Endpoint::Confirm,
                ["confirm", "call"] => Endpoint::CallConfirmation,
                ["confirm", "send"] => Endpoint::SendConfirmation,
                ["register"] => Endpoint::Register,
                ["reset"] => Endpoint::Reset,
                ["reset", "call"] => Endpoint::CallReset,
                ["reset", "send"] => Endpoint::SendReset,
                _ => return None,
            }
        }
        (Some(_), ["auth", "providers", provider, "login"]) => Endpoint::LogIn { provider },
        _ => return None,
    };
    Some((app, endpoint))
}

/// Splits a path and decodes its segments. Segments that cannot be decoded are left unchanged.
/// Segments beyond the longest route are dropped.
pub(super) fn segments(path: &str) -> Vec<Cow<'_, str>> {
    let parts = path.strip_prefix('/').unwrap_or(path).split('/');
    parts.take(MAX_SEGMENTS).map(percent_decoded).collect()
}

fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = (*first == b'%').then(|| after.get(..2)).flatten();
        let code = digits.and_then(|digits| {
            let plain = digits.iter().all(u8::is_ascii_hexdigit);
            let digits = std::str::from_utf8(digits).ok().filter(|_| plain)?;
            u8::from_str_radix(digits, 16).ok()
        });
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).map_or(text.into(), Cow::from)
}

/// Returns `true` if a log-in request asks to link an identity instead.
pub(super) fn wants_link(query: Option<&str>) -> bool {
    query.unwrap_or_default().split('&').any(|pair| pair == "link=true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_part_by_part() {
        assert_eq!(segments("/a%20b/c%2Fd/"), ["a b", "c/d", ""]);
        assert_eq!(segments("/%zz%4/%ff"), ["%zz%4", "%ff"]);
    }

    #[test]
    fn routes_match_full_path() {
        let found = |path: &str| {
            let segments = segments(path);
            let segments: Vec<_> = segments.iter().map(|segment| &**segment).collect();
            find(&segments).map(|(app, route)| format!("{app:?} {route:?}"))
        };
        assert_eq!(found("/health").as_deref(), Some("None Health"));
        assert_eq!(
            found("/api/client/v2.0/app/x/location").as_deref(),
            Some("Some(\"x\") Location")
        );
        assert_eq!(found("/api/client/v2.0/auth/session").as_deref(), Some("None Session"));
        for none in [
            "/",
            "/health/",
            "//health",
            "/api/client/v2.0/location",
            "/api/client/v2.0/app/x/auth/session",
            "/api/client/v2.0/app/x/location/",
        ] {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
