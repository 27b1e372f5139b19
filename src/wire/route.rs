//! Requests: one constructor of [`Route`] per endpoint of the backend.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::credentials::{Credentials, Kind, Payload, Provider};
use crate::error::LINK;
use crate::id::ApiKeyId;
use crate::secret::{Body, Secret};
use crate::transport::Method;

/// The user's token that a route carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Bearer {
    Access,
    None,
    Refresh,
}

/// A request without its host and its token.
#[derive(Clone)]
pub(crate) struct Route {
    /// The attempt, for messages: "the backend refused to …".
    pub(crate) attempt: &'static str,
    pub(crate) method: Method,
    /// The path at the location's host.
    pub(crate) path: String,
    pub(crate) bearer: Bearer,
    pub(crate) body: Option<Arc<Body>>,
    /// Whether the request can be sent twice without harm.
    pub(crate) repeatable: bool,
    /// The largest body of a response, in bytes.
    pub(crate) limit: u64,
}

/// The application that a log-in reports to the backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Device {
    pub(crate) app_name: String,
    pub(crate) app_version: String,
}

/// The largest response of any other endpoint: a profile, which may hold a picture.
const MAX_RESPONSE: u64 = 16 * 1024 * 1024;

/// The largest result of a function.
const MAX_RESULT: u64 = 64 * 1024 * 1024;

const CLIENT: &str = "/api/client/v2.0";

impl Route {
    fn new(attempt: &'static str, method: Method, path: String) -> Self {
        let (bearer, limit) = (Bearer::None, MAX_RESPONSE);
        Self { attempt, method, path, bearer, body: None, repeatable: false, limit }
    }

    fn bearer(self, bearer: Bearer) -> Self {
        Self { bearer, ..self }
    }

    fn body(self, body: &impl Serialize) -> Self {
        // Strings and numbers always serialise.
        Self { body: serde_json::to_vec(body).ok().map(|body| Arc::new(body.into())), ..self }
    }

    fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }

    /// Asks for the hosts of the app's backend.
    pub(crate) fn location(app: &str) -> Self {
        let path = format!("{CLIENT}/app/{}/location", segment(app));
        Self::new("return the app's location", Method::Get, path).repeatable()
    }

    /// Logs in.
    ///
    /// Source: `app_credentials.cpp` for the fields, `AppCredentials::serialize_as_json`.
    pub(crate) fn log_in(app: &str, credentials: &Credentials, device: &Device) -> Self {
        Self::provider(app, credentials.provider().as_str(), "login", "log in")
            .body(&LoginBody::new(app, credentials, device))
    }

    /// Attaches an account to the user whose access token is sent.
    pub(crate) fn link(app: &str, credentials: &Credentials, device: &Device) -> Self {
        Self::provider(app, credentials.provider().as_str(), "login?link=true", LINK)
            .body(&LoginBody::new(app, credentials, device))
            .bearer(Bearer::Access)
    }

    fn provider(app: &str, provider: &str, what: &str, attempt: &'static str) -> Self {
        let (app, provider) = (segment(app), segment(provider));
        let path = format!("{CLIENT}/app/{app}/auth/providers/{provider}/{what}");
        Self::new(attempt, Method::Post, path)
    }

    fn email_password(app: &str, what: &str, attempt: &'static str, body: &impl Serialize) -> Self {
        Self::provider(app, "local-userpass", what, attempt).body(body)
    }

    /// Registers an e-mail address with a password.
    pub(crate) fn register(app: &str, email: &str, password: &Secret) -> Self {
        let body = json!({"email": email, "password": password.expose()});
        Self::email_password(app, "register", "register", &body)
    }

    /// Confirms an address with the token pair from the mail.
    pub(crate) fn confirm(app: &str, token: &Secret, token_id: &str) -> Self {
        let body = json!({"token": token.expose(), "tokenId": token_id});
        Self::email_password(app, "confirm", "confirm the address", &body)
    }

    /// Asks for the confirmation mail again.
    pub(crate) fn resend_confirmation(app: &str, email: &str) -> Self {
        let body = json!({"email": email});
        Self::email_password(app, "confirm/send", "send the confirmation mail", &body)
    }

    /// Runs the app's own confirmation function again.
    pub(crate) fn retry_confirmation(app: &str, email: &str) -> Self {
        let body = json!({"email": email});
        Self::email_password(app, "confirm/call", "run the confirmation function", &body)
    }

    /// Asks for a mail with which to set a new password.
    pub(crate) fn send_reset(app: &str, email: &str) -> Self {
        let body = json!({"email": email});
        Self::email_password(app, "reset/send", "send the password reset mail", &body)
    }

    /// Sets a new password with the token pair from the mail.
    pub(crate) fn complete_reset(
        app: &str,
        password: &Secret,
        token: &Secret,
        token_id: &str,
    ) -> Self {
        let body = json!({
            "password": password.expose(), "token": token.expose(), "tokenId": token_id,
        });
        Self::email_password(app, "reset", "reset the password", &body)
    }

    /// Runs the app's own function that sets a new password; `arguments` is a list in JSON.
    pub(crate) fn call_reset(
        app: &str,
        email: &str,
        password: &Secret,
        arguments: &RawValue,
    ) -> Self {
        // Not a `Value`, which would sort the fields of the arguments.
        #[derive(Serialize)]
        struct CallReset<'a> {
            email: &'a str,
            password: &'a str,
            arguments: &'a RawValue,
        }
        let body = CallReset { email, password: password.expose(), arguments };
        Self::email_password(app, "reset/call", "run the password reset function", &body)
    }

    /// Deletes the user on the backend.
    pub(crate) fn delete_user() -> Self {
        Self::new("delete the user", Method::Delete, format!("{CLIENT}/auth/delete"))
            .bearer(Bearer::Access)
    }

    /// Creates an API key.
    pub(crate) fn create_api_key(name: &str) -> Self {
        Self::api_keys("create the API key", Method::Post, "").body(&json!({"name": name}))
    }

    /// Lists the user's API keys.
    pub(crate) fn list_api_keys() -> Self {
        Self::api_keys("list the API keys", Method::Get, "").repeatable()
    }

    /// Fetches one API key.
    pub(crate) fn get_api_key(id: &ApiKeyId) -> Self {
        let path = format!("/{}", segment(id.as_str()));
        Self::api_keys("give the API key", Method::Get, &path).repeatable()
    }

    /// Deletes an API key.
    pub(crate) fn delete_api_key(id: &ApiKeyId) -> Self {
        let path = format!("/{}", segment(id.as_str()));
        Self::api_keys("delete the API key", Method::Delete, &path).repeatable()
    }

    /// Enables or disables an API key.
    pub(crate) fn enable_api_key(id: &ApiKeyId, enable: bool) -> Self {
        let (verb, attempt) = match enable {
            true => ("enable", "enable the API key"),
            false => ("disable", "disable the API key"),
        };
        let path = format!("/{}/{verb}", segment(id.as_str()));
        Self::api_keys(attempt, Method::Put, &path).repeatable()
    }

    fn api_keys(attempt: &'static str, method: Method, path: &str) -> Self {
        Self::new(attempt, method, format!("{CLIENT}/auth/api_keys{path}")).bearer(Bearer::Refresh)
    }

    /// Fetches the profile.
    pub(crate) fn profile() -> Self {
        Self::new("give the profile", Method::Get, format!("{CLIENT}/auth/profile"))
            .bearer(Bearer::Access)
            .repeatable()
    }

    /// Asks for a new access token. Repeatable: without rotation nothing changes, and a backend that
    /// rotates returns the same successor of a refresh token for a while.
    pub(crate) fn refresh() -> Self {
        Self::new("refresh the access token", Method::Post, format!("{CLIENT}/auth/session"))
            .bearer(Bearer::Refresh)
            .repeatable()
    }

    /// Ends the server session.
    pub(crate) fn log_out() -> Self {
        Self::new("log out", Method::Delete, format!("{CLIENT}/auth/session"))
            .bearer(Bearer::Refresh)
            .repeatable()
    }

    /// Calls a function; `arguments` is a list in JSON.
    pub(crate) fn call(app: &str, name: &str, service: Option<&str>, arguments: &[u8]) -> Self {
        let mut body = Vec::with_capacity(arguments.len() + name.len() + 64);
        body.extend_from_slice(br#"{"arguments":"#);
        body.extend_from_slice(arguments);
        body.extend_from_slice(br#","name":"#);
        body.extend_from_slice(Value::from(name).to_string().as_bytes());
        if let Some(service) = service {
            body.extend_from_slice(br#","service":"#);
            body.extend_from_slice(Value::from(service).to_string().as_bytes());
        }
        body.push(b'}');
        let path = format!("{CLIENT}/app/{}/functions/call", segment(app));
        let route = Self::new("call the function", Method::Post, path).bearer(Bearer::Access);
        Self { body: Some(Arc::new(body.into())), limit: MAX_RESULT, ..route }
    }
}

impl Device {
    /// Describes this device with every key that realm-core sends. The framework's name and version
    /// are those of the application.
    ///
    /// Source: `app.cpp`, `App::log_in_with_credentials` and `app_config.hpp`, `DeviceInfo`.
    fn describe(&self, app: &str) -> Value {
        let platform = match std::env::consts::OS {
            "linux" => "Linux",
            "macos" => "macOS",
            "windows" => "Windows",
            other => other,
        };
        json!({
            "appId": app,
            "appVersion": self.app_version,
            "bundleId": self.app_name,
            "coreVersion": env!("CARGO_PKG_VERSION"),
            "cpuArch": std::env::consts::ARCH,
            "deviceName": "",
            "deviceVersion": "",
            "frameworkName": self.app_name,
            "frameworkVersion": self.app_version,
            "platform": platform,
            "platformVersion": std::env::consts::FAMILY,
            "sdk": "keyfob",
            "sdkVersion": env!("CARGO_PKG_VERSION"),
        })
    }
}

/// Returns the path at the websocket host to which sync engines connect.
///
/// Source: `app.cpp`, `App::make_sync_route`.
pub(crate) fn sync_path(app: &str) -> String {
    format!("{CLIENT}/app/{}/realm-sync", segment(app))
}

/// The body of a log-in or a link.
#[derive(Serialize)]
struct LoginBody<'a> {
    #[serde(flatten)]
    fields: LoginFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Provider>,
    options: Value,
}

/// The fields of a log-in that depend on the provider.
enum LoginFields<'a> {
    Known(Value),
    /// Fields of the program, in their order, without the ones that the protocol defines.
    Payload(&'a Payload, &'static [&'static str]),
}

impl<'a> LoginBody<'a> {
    fn new(app: &str, credentials: &'a Credentials, device: &Device) -> Self {
        let known = LoginFields::Known;
        let fields = match &credentials.0 {
            Kind::Anonymous { .. } => known(json!({})),
            Kind::ApiKey(key) => known(json!({"key": key.expose()})),
            Kind::Apple(token) | Kind::GoogleIdToken(token) => {
                known(json!({"id_token": token.expose()}))
            }
            Kind::EmailPassword { email, password } => {
                known(json!({"username": email, "password": password.expose()}))
            }
            Kind::Facebook(token) => known(json!({"accessToken": token.expose()})),
            Kind::GoogleAuthCode(code) => known(json!({"authCode": code.expose()})),
            Kind::Jwt(token) => known(json!({"token": token.expose()})),
            Kind::Function(payload) => LoginFields::Payload(payload, &["options"]),
            Kind::Other(_, payload) => LoginFields::Payload(payload, &["options", "provider"]),
        };
        let is_function = matches!(credentials.0, Kind::Function(_));
        Self {
            fields,
            provider: (!is_function).then(|| credentials.provider()),
            options: json!({"device": device.describe(app)}),
        }
    }
}

impl Serialize for LoginFields<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(fields) => fields.serialize(out),
            Self::Payload(payload, replaced) => {
                let fields = payload.iter().map(|(name, value)| (name, value));
                out.collect_map(fields.filter(|(name, _)| !replaced.contains(&name.as_str())))
            }
        }
    }
}

/// Percent-encodes any text so that it is one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(byte.into()),
            b'.' if !matches!(text, "." | "..") => out.push('.'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn body(route: &Route) -> Value {
        serde_json::from_slice(route.body.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn log_in_sends_username_register_sends_email() {
        let credentials = Credentials::email_password("a@b", "p\u{e4}ss \"\\");
        let route = Route::log_in("app-x", &credentials, &Device::default());
        assert_eq!(route.path, "/api/client/v2.0/app/app-x/auth/providers/local-userpass/login");
        let mut login = body(&route);
        let device = login["options"]["device"].take();
        assert_eq!(device["appId"], "app-x");
        assert!(device.as_object().unwrap().values().all(Value::is_string), "{device}");
        login.as_object_mut().unwrap().remove("options");
        assert_eq!(
            login,
            json!({"username": "a@b", "password": "p\u{e4}ss \"\\", "provider": "local-userpass"})
        );
        let route = Route::register("app-x", "a@b", &"secret".into());
        assert_eq!(body(&route), json!({"email": "a@b", "password": "secret"}));
    }

    #[test]
    fn call_always_sends_arguments() {
        let route = Route::call("app", "f\"n", Some("svc"), b"[]");
        assert_eq!(body(&route), json!({"arguments": [], "name": "f\"n", "service": "svc"}));
    }

    #[test]
    fn payloads_and_arguments_keep_field_order() {
        #[derive(Serialize)]
        struct Sort {
            zeta: i32,
            options: &'static str,
            alpha: BTreeMap<&'static str, Option<()>>,
            provider: &'static str,
        }
        let sort = Sort {
            zeta: 1,
            options: "mine",
            alpha: BTreeMap::from([("x\"", None)]),
            provider: "mine",
        };
        let text = |route: Route| String::from_utf8(route.body.unwrap().to_vec()).unwrap();
        let login = |credentials| text(Route::log_in("app", &credentials, &Device::default()));
        let start = r#"{"zeta":{"$numberInt":"1"},"alpha":{"x\"":null},"provider":"#;
        let function = login(Credentials::function(&sort).unwrap());
        assert!(function.starts_with(&format!("{start}\"mine\",\"options\":{{")), "{function}");
        let other = login(Credentials::other("some", &sort).unwrap());
        assert!(other.starts_with(&format!("{start}\"some\",\"options\":{{")), "{other}");
        let arguments = serde_json::from_str(r#"[{"zeta":1,"alpha":2}]"#).unwrap();
        assert_eq!(
            text(Route::call_reset("app", "a@b", &"secret".into(), arguments)),
            r#"{"email":"a@b","password":"secret","arguments":[{"zeta":1,"alpha":2}]}"#
        );
    }

    #[test]
    fn path_segments_are_encoded() {
        for (text, expected) in [
            ("my-app_1.x~", "my-app_1.x~"),
            ("..", "%2E%2E"),
            ("a/b?c#d%", "a%2Fb%3Fc%23d%25"),
            ("\0\u{e4}", "%00%C3%A4"),
        ] {
            assert_eq!(segment(text), expected);
        }
    }
}
