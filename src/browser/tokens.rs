//! The tokens of a sign-in, and the parser for responses of a token endpoint.

use std::fmt;

use serde::Deserialize;

use crate::credentials::{Credentials, Provider};
use crate::secret::Secret;
use crate::transport::Response;
use crate::untrusted_json;

/// The tokens of an identity provider, for one person. `Debug` shows none of them.
#[derive(Clone)]
pub struct ProviderTokens {
    pub(super) backend_provider: Provider,
    pub(super) id_token: Secret,
    pub(super) access_token: Option<Secret>,
    pub(super) refresh_token: Option<Secret>,
}

impl ProviderTokens {
    /// Returns the credentials for [`Session::log_in`](crate::Session::log_in) or
    /// [`User::link`](crate::User::link): the ID token, for the backend's provider that
    /// [`SignIn`](super::SignIn) names.
    pub fn credentials(&self) -> Credentials {
        match self.backend_provider {
            Provider::Apple => Credentials::apple(&self.id_token),
            Provider::Google => Credentials::google_id_token(&self.id_token),
            _ => Credentials::jwt(&self.id_token),
        }
    }

    /// Returns the ID token. Its issuer, audience, expiry and nonce were checked, but its signature
    /// was not; see the [module](super#what-is-checked).
    pub fn id_token(&self) -> &Secret {
        &self.id_token
    }

    /// Returns the provider's own access token, if it sent one. Use it for the provider's APIs, or
    /// for a backend that accepts it in place of the ID token.
    pub fn access_token(&self) -> Option<&Secret> {
        self.access_token.as_ref()
    }

    /// Returns the provider's own refresh token, if it sent one. keyfob neither stores nor uses it.
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref()
    }
}

impl fmt::Debug for ProviderTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderTokens")
            .field("provider", &self.backend_provider)
            .finish_non_exhaustive()
    }
}

/// Parses a JSON object from a provider. Rejects arrays, which serde would accept as structs.
pub(super) fn object<T: for<'de> Deserialize<'de>>(response: &Response) -> Option<T> {
    let is_object = response.body().trim_ascii_start().starts_with(b"{");
    if is_object { untrusted_json::from_slice(response.body()).ok() } else { None }
}

/// The response of a token endpoint.
pub(super) enum TokenResponse {
    Tokens {
        id_token: Secret,
        access_token: Option<Secret>,
        refresh_token: Option<Secret>,
    },
    /// An OAuth error code, and the provider's description.
    Refused {
        code: String,
        description: String,
    },
    /// The provider is temporarily unavailable.
    Unavailable(String),
    /// An invalid response, and what is wrong with it.
    Invalid(String),
}

impl TokenResponse {
    /// Source: RFC 6749, sections 5.1 and 5.2; OpenID Connect Core, section 3.1.3.3.
    pub(super) fn parse(response: &Response) -> Self {
        #[derive(Deserialize)]
        struct Tokens {
            id_token: Option<String>,
            access_token: Option<String>,
            refresh_token: Option<String>,
        }
        if let Some(refused) = Self::refused(response) {
            return refused;
        }
        let secret = |text: Option<String>| text.filter(|text| !text.is_empty()).map(Secret::new);
        match object::<Tokens>(response) {
            Some(tokens) => match secret(tokens.id_token) {
                Some(id_token) => Self::Tokens {
                    id_token,
                    access_token: secret(tokens.access_token),
                    refresh_token: secret(tokens.refresh_token),
                },
                None => Self::Invalid("there is no ID token in it".to_owned()),
            },
            None => Self::Invalid("its token response is not one of OpenID Connect".to_owned()),
        }
    }

    /// Returns what is wrong with an unsuccessful response, or `None` if it succeeded.
    pub(super) fn refused(response: &Response) -> Option<Self> {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
            #[serde(default)]
            error_description: Option<String>,
        }
        let status = response.status();
        match (status, object::<Refusal>(response)) {
            (429 | 500.., Some(refusal)) => {
                Some(Self::Unavailable(format!("{} (status {status})", refusal.error)))
            }
            (429 | 500.., None) => Some(Self::Unavailable(format!("status {status}"))),
            // Some providers send an error with a success status.
            (200 | 400..500, Some(Refusal { error, error_description })) => {
                let description = error_description.unwrap_or_default();
                Some(Self::Refused { code: error, description })
            }
            (200, None) => None,
            (300..400, _) => Some(Self::Invalid(format!(
                "it redirects, which is not followed (status {status})"
            ))),
            _ => Some(Self::Invalid(format!("its status is {status}, without an error code"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(status: u16, body: &str) -> String {
        match TokenResponse::parse(&Response::new(status, body)) {
            TokenResponse::Tokens { access_token, .. } => {
                format!("tokens {}", access_token.is_some())
            }
            TokenResponse::Refused { code, description } => format!("refused {code} {description}"),
            TokenResponse::Unavailable(reason) => format!("unavailable {reason}"),
            TokenResponse::Invalid(reason) => format!("invalid {reason}"),
        }
    }

    #[test]
    fn token_responses_are_distinguished() {
        for (status, body, expected) in [
            (200, r#"{"id_token":"a.b.c","access_token":"x","expires_in":"soon"}"#, "tokens true"),
            (200, r#"{"id_token":"a.b.c"}"#, "tokens false"),
            (200, r#"{"id_token":""}"#, "invalid there is no ID token in it"),
            (200, "{}", "invalid there is no ID token in it"),
            (200, "<html>", "invalid its token response is not one of OpenID Connect"),
            (200, r#"{"id_token":7}"#, "invalid its token response is not one of OpenID Connect"),
            (200, r#"{"error":"bad_code"}"#, "refused bad_code "),
            (
                400,
                r#"{"error":"invalid_grant","error_description":"used"}"#,
                "refused invalid_grant used",
            ),
            (401, r#"{"error":"invalid_client"}"#, "refused invalid_client "),
            (
                400,
                r#"["invalid_grant","used"]"#,
                "invalid its status is 400, without an error code",
            ),
            (200, r#"["a.b.c"]"#, "invalid its token response is not one of OpenID Connect"),
            (400, "no", "invalid its status is 400, without an error code"),
            (302, "", "invalid it redirects, which is not followed (status 302)"),
            (204, "", "invalid its status is 204, without an error code"),
            (503, "<html>", "unavailable status 503"),
            (500, r#"{"error":"server_error"}"#, "unavailable server_error (status 500)"),
            (429, "", "unavailable status 429"),
        ] {
            assert_eq!(parsed(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let tokens = ProviderTokens {
            backend_provider: Provider::Google,
            id_token: "planted".into(),
            access_token: Some("planted".into()),
            refresh_token: Some("planted".into()),
        };
        assert!(!format!("{tokens:?}").contains("planted"));
    }
}
