//! The metadata of an identity provider: its endpoints, its issuer names and the client
//! authentication method. Preset for Google, parsed from a discovery document, or set by the
//! program.

use serde::Deserialize;

use super::tokens::object;
use crate::base_url::BaseUrl;
use crate::transport::Response;

/// The path of discovery documents below the issuer.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// The endpoints of an identity provider that has no discovery document.
///
/// # Examples
///
/// ```
/// use keyfob::browser::{Endpoints, SignIn};
///
/// let endpoints = Endpoints::new(
///     "https://id.example.org",
///     "https://id.example.org/authorize",
///     "https://id.example.org/token",
/// );
/// let sign_in = SignIn::with_endpoints(endpoints, "my-client-id");
/// ```
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Equivalent issuer names. The first one is shown in messages.
    pub(super) issuers: Vec<String>,
    pub(super) authorization: Option<String>,
    pub(super) token: String,
    pub(super) device_authorization: Option<String>,
    pub(super) client_auth: ClientAuth,
    /// `true` if the provider supports the response mode `form_post`.
    pub(super) has_form_post: bool,
    /// `true` if the provider promises its issuer in the response (RFC 9207).
    pub(super) promises_issuer: bool,
}

/// How a client authenticates with its secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ClientAuth {
    Basic,
    Body,
    /// The provider accepts only methods that keyfob does not support.
    Unsupported,
}

impl Endpoints {
    /// Creates the endpoints of a provider from its issuer, its authorization endpoint and its
    /// token endpoint. `issuer` must match the `iss` claim of its ID tokens exactly.
    pub fn new(
        issuer: impl Into<String>,
        authorization_endpoint: impl Into<String>,
        token_endpoint: impl Into<String>,
    ) -> Self {
        Self {
            issuers: vec![issuer.into()],
            authorization: Some(authorization_endpoint.into()),
            token: token_endpoint.into(),
            device_authorization: None,
            client_auth: ClientAuth::Basic,
            has_form_post: true,
            promises_issuer: false,
        }
    }

    /// Sets the device authorization endpoint, for [`SignIn::device`](super::SignIn::device).
    #[must_use]
    pub fn device_authorization_endpoint(mut self, url: impl Into<String>) -> Self {
        self.device_authorization = Some(url.into());
        self
    }

    /// Sends the client secret in the body of token requests. Defaults to the `Authorization`
    /// header (HTTP Basic).
    #[must_use]
    pub fn client_secret_in_body(mut self) -> Self {
        self.client_auth = ClientAuth::Body;
        self
    }

    /// Returns the endpoints of Google.
    ///
    /// Source: accounts.google.com's discovery document, and Google's page on desktop apps.
    pub(super) fn google() -> Self {
        Self {
            issuers: vec![
                "https://accounts.google.com".to_owned(),
                "accounts.google.com".to_owned(),
            ],
            authorization: Some("https://accounts.google.com/o/oauth2/v2/auth".to_owned()),
            token: "https://oauth2.googleapis.com/token".to_owned(),
            device_authorization: Some("https://oauth2.googleapis.com/device/code".to_owned()),
            client_auth: ClientAuth::Body,
            has_form_post: true,
            promises_issuer: false,
        }
    }

    /// Parses a discovery document.
    ///
    /// # Errors
    /// Returns what is wrong with the document.
    ///
    /// Source: OpenID Connect Discovery 1.0, sections 3 and 4.3; RFC 8414, section 2; RFC 8628,
    /// section 4; RFC 9207, section 3.
    pub(super) fn discovered(issuer: &str, response: &Response) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            authorization_endpoint: Option<String>,
            token_endpoint: Option<String>,
            device_authorization_endpoint: Option<String>,
            response_modes_supported: Option<Vec<String>>,
            token_endpoint_auth_methods_supported: Option<Vec<String>>,
            authorization_response_iss_parameter_supported: Option<bool>,
        }
        match response.status() {
            200 => {}
            301..=308 => return Err("its discovery document redirects elsewhere".to_owned()),
            404 => return Err(format!("it has no discovery document at {WELL_KNOWN}")),
            status => return Err(format!("its discovery document has the status {status}")),
        }
        let document: Document =
            object(response).ok_or("its discovery document is not one of OpenID Connect")?;
        if document.issuer != issuer {
            return Err(format!(
                "its discovery document is that of the issuer {}: if that is the provider you \
                 mean, use this name for it",
                document.issuer
            ));
        }
        let has = |list: &Option<Vec<String>>, wanted: &str| {
            list.as_ref().map(|list| list.iter().any(|entry| entry == wanted))
        };
        let methods = &document.token_endpoint_auth_methods_supported;
        let client_auth = if has(methods, "client_secret_basic").unwrap_or(true) {
            ClientAuth::Basic
        } else if has(methods, "client_secret_post") == Some(true) {
            ClientAuth::Body
        } else {
            ClientAuth::Unsupported
        };
        let endpoints = Self {
            issuers: vec![document.issuer],
            authorization: document.authorization_endpoint,
            token: document
                .token_endpoint
                .ok_or("its discovery document names no token endpoint")?,
            device_authorization: document.device_authorization_endpoint,
            client_auth,
            has_form_post: has(&document.response_modes_supported, "form_post") == Some(true),
            promises_issuer: document.authorization_response_iss_parameter_supported == Some(true),
        };
        endpoints.check()?;
        Ok(endpoints)
    }

    /// Checks that every endpoint uses https or is on this machine.
    ///
    /// # Errors
    /// Returns what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { authorization, token, device_authorization, .. } = self;
        for (name, url) in [
            ("authorization", authorization.as_ref()),
            ("token", Some(token)),
            ("device authorization", device_authorization.as_ref()),
        ] {
            let Some(url) = url else { continue };
            check_url(url).map_err(|reason| format!("its {name} endpoint: {reason}"))?;
        }
        Ok(())
    }

    /// Returns the issuer name to show in messages.
    pub(super) fn issuer(&self) -> &str {
        self.issuers.first().map_or("the provider", String::as_str)
    }
}

/// Returns the URL of a provider's discovery document.
///
/// # Errors
/// Returns what is wrong with the issuer.
pub(super) fn discovery_url(issuer: &str) -> Result<String, String> {
    if issuer.contains('?') {
        return Err("it has a query".to_owned());
    }
    check_url(issuer)?;
    Ok(format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/')))
}

/// Checks a URL that may have a query: https, or http to this machine.
pub(super) fn check_url(url: &str) -> Result<(), String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    if query.bytes().any(|byte| !byte.is_ascii_graphic() || b"#\"<>\\^`{|}".contains(&byte)) {
        return Err("it has characters that a URL does not have".to_owned());
    }
    match BaseUrl::parse(base, false) {
        Ok(_) => Ok(()),
        Err(_) if BaseUrl::parse(base, true).is_ok() => {
            Err("it is plain http: expected https, or http to this machine".to_owned())
        }
        Err(reason) => Err(reason),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://id.example.org";

    fn document() -> Value {
        json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.example.org/auth?tenant=1",
            "token_endpoint": "https://id.example.org/token",
        })
    }

    fn read(document: &Value) -> Result<Endpoints, String> {
        Endpoints::discovered(ISSUER, &Response::new(200, document.to_string()))
    }

    fn read_with(name: &str, value: Value) -> Result<Endpoints, String> {
        let mut document = document();
        document[name] = value;
        read(&document)
    }

    #[test]
    fn discovery_defaults_match_standard() {
        let endpoints = read(&document()).unwrap();
        assert_eq!(endpoints.client_auth, ClientAuth::Basic);
        assert!(!endpoints.has_form_post && !endpoints.promises_issuer);
        assert_eq!(endpoints.device_authorization, None);
        let auth = |list: Value| {
            read_with("token_endpoint_auth_methods_supported", list).unwrap().client_auth
        };
        assert_eq!(auth(json!(["client_secret_post", "client_secret_basic"])), ClientAuth::Basic);
        assert_eq!(auth(json!(["client_secret_post"])), ClientAuth::Body);
        assert_eq!(auth(json!(["private_key_jwt", "none"])), ClientAuth::Unsupported);
        let modes = json!(["query", "form_post"]);
        assert!(read_with("response_modes_supported", modes).unwrap().has_form_post);
        let name = "authorization_response_iss_parameter_supported";
        assert!(read_with(name, json!(true)).unwrap().promises_issuer);
    }

    #[test]
    fn foreign_issuer_is_refused() {
        for issuer in ["https://id.example.org/", "https://evil.example", "id.example.org", ""] {
            let error = read_with("issuer", json!(issuer)).unwrap_err();
            assert!(error.contains("use this name"), "{error}");
        }
    }

    #[test]
    fn endpoints_must_be_secure() {
        for name in ["authorization_endpoint", "token_endpoint", "device_authorization_endpoint"] {
            for url in
                ["http://id.example.org/x", "ftp://id.example.org", "javascript:alert(1)", ""]
            {
                assert!(read_with(name, json!(url)).is_err(), "{name} {url}");
            }
            assert!(read_with(name, json!("http://127.0.0.1:9/x")).is_ok(), "{name}");
        }
        assert!(Endpoints::google().check().is_ok());
    }

    #[test]
    fn invalid_discovery_documents_are_rejected() {
        for (status, body, reason) in [
            (404, "", "no discovery document"),
            (302, "", "redirects"),
            (503, "", "status 503"),
            (200, "<html>", "not one of OpenID Connect"),
            (200, "[]", "not one of OpenID Connect"),
            (200, r#"{"issuer":"https://id.example.org"}"#, "no token endpoint"),
        ] {
            let error = Endpoints::discovered(ISSUER, &Response::new(status, body)).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn issuers_become_discovery_urls() {
        let url = "https://id.example.org/realms/a/.well-known/openid-configuration";
        for issuer in ["https://id.example.org/realms/a", "https://id.example.org/realms/a/"] {
            assert_eq!(discovery_url(issuer).as_deref(), Ok(url));
        }
        for issuer in ["http://id.example.org", "id.example.org", "https://id.example.org?x", ""] {
            assert!(discovery_url(issuer).is_err(), "{issuer}");
        }
        assert!(discovery_url("http://localhost:3000").is_ok());
    }
}
