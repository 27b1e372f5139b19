//! The device flow: the person enters a code on another device, and this program polls the provider
//! until that is done.
//!
//! Source: RFC 8628 (device authorization grant). The name `verification_url` is from Google's page
//! on limited-input devices.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::attempt::Attempt;
use super::endpoints::{Endpoints, check_url};
use super::tokens::{TokenResponse, object};
use super::{ProviderTokens, SignIn};
use crate::deadline::Deadline;
use crate::error::{Error, Result, SignInError, SignInErrorKind as Kind, TransportError};
use crate::secret::Secret;
use crate::transport::Response;

/// The polling interval in seconds if the provider does not set one.
const INTERVAL: f64 = 5.0;

/// The bounds of the provider's interval, in seconds.
const INTERVALS: (f64, f64) = (1.0, 600.0);

/// How much the interval grows with each `slow_down` response.
const SLOWER: Duration = Duration::from_secs(5);

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// The maximum length of a user code.
const MAX_USER_CODE: usize = 64;

/// The code to show to the person who signs in on another device.
///
/// Show the name of your program beside it, and ask people to enter only codes that they requested:
/// an attacker who makes a person enter a code is signed in as that person.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeviceCode {
    /// The code to enter.
    pub user_code: String,
    /// The URL of the page to enter the code on (https).
    pub verification_uri: String,
    /// The URL of a page with the code already filled in, for a QR code, if the provider has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification_uri_complete: Option<String>,
    /// The lifetime of the code, in whole seconds.
    pub expires_in: u64,
}

/// The parsed device authorization response.
struct Authorization {
    code: DeviceCode,
    device_code: Secret,
    interval: Duration,
}

/// Signs in on another device.
pub(super) fn run(sign_in: &SignIn, deadline: Deadline) -> Result<ProviderTokens> {
    let mut attempt = Attempt::new(sign_in, deadline)?;
    let tokens = wait(&mut attempt);
    attempt.note(&tokens);
    tokens
}

fn wait(attempt: &mut Attempt<'_>) -> Result<ProviderTokens> {
    let endpoints = attempt.endpoints()?;
    let Authorization { code, device_code, mut interval } = authorize(attempt, &endpoints)?;
    attempt.keep_quiet(&device_code);
    attempt.sign_in.show_code(&code);
    let expiry = Deadline::after(Duration::from_secs(code.expires_in));
    let fields = [("grant_type", GRANT), ("device_code", device_code.expose())];
    loop {
        attempt.sleep(interval)?;
        if expiry.has_passed() {
            return Err(attempt.failure(Kind::TimedOut, "the code has expired"));
        }
        match attempt.post(&endpoints, &endpoints.token, &fields)? {
            Ok(response) => match TokenResponse::refused(&response) {
                None => return attempt.accept(&endpoints, &response, None),
                Some(refused) => interval = next(attempt, refused, interval)?,
            },
            // Polling again is harmless: if the code has been used up, the response says so.
            Err(error) if Error::from(error.clone()).is_retryable() => interval = slower(interval),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns how long to wait after a response without tokens.
///
/// Source: RFC 8628, section 3.5.
fn next(attempt: &Attempt<'_>, refused: TokenResponse, interval: Duration) -> Result<Duration> {
    match refused {
        TokenResponse::Refused { code, .. } if code == "authorization_pending" => Ok(interval),
        TokenResponse::Refused { code, .. } if code == "slow_down" => {
            Ok(interval.saturating_add(SLOWER))
        }
        TokenResponse::Refused { code, .. } if code == "expired_token" => {
            Err(attempt.failure(Kind::TimedOut, "the code has expired"))
        }
        TokenResponse::Unavailable(_) => Ok(slower(interval)),
        other => Err(attempt.refusal(other)),
    }
}

fn slower(interval: Duration) -> Duration {
    interval.saturating_mul(2).min(Duration::from_secs_f64(INTERVALS.1))
}

/// Requests a device code.
///
/// Source: RFC 8628, sections 3.1 and 3.2.
fn authorize(attempt: &Attempt<'_>, endpoints: &Endpoints) -> Result<Authorization> {
    let Some(url) = &endpoints.device_authorization else {
        let reason = "the provider has no device authorization endpoint: sign in with the browser";
        return Err(Error::config("the device flow", reason));
    };
    let scope = attempt.sign_in.scopes.join(" ");
    let more = attempt.sign_in.parameters.iter();
    let mut fields = vec![("scope", scope.as_str())];
    fields.extend(more.map(|(name, value)| (name.as_str(), value.as_str())));
    let response = attempt.post(endpoints, url, &fields)?.map_err(|error: TransportError| error)?;
    match TokenResponse::refused(&response) {
        None => {}
        Some(TokenResponse::Unavailable(reason)) => {
            let issuer = attempt.sign_in.source.issuer();
            return Err(SignInError::new(Kind::Unavailable, issuer, reason).retryable().into());
        }
        Some(refused) => return Err(attempt.refusal(refused)),
    }
    Authorization::parse(&response).map_err(|reason| attempt.failure(Kind::InvalidResponse, reason))
}

impl Authorization {
    fn parse(response: &Response) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Fields {
            device_code: String,
            user_code: String,
            verification_uri: Option<String>,
            verification_url: Option<String>,
            verification_uri_complete: Option<String>,
            expires_in: f64,
            interval: Option<f64>,
        }
        let fields: Fields =
            object(response).ok_or("its device authorization response is not one of OAuth")?;
        let device_code = Secret::new(fields.device_code);
        if device_code.expose().is_empty() {
            return Err("its device code is empty");
        }
        let code = fields.user_code;
        let is_typed = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if !(1..=MAX_USER_CODE).contains(&code.len()) || !code.bytes().all(is_typed) {
            return Err("its user code is no code that a person can enter");
        }
        let page = fields.verification_uri.or(fields.verification_url).unwrap_or_default();
        check_url(&page)
            .map_err(|_| "its verification URI is neither https nor on this machine")?;
        let complete = fields.verification_uri_complete.filter(|url| check_url(url).is_ok());
        let (least, most) = INTERVALS;
        let interval = fields.interval.unwrap_or(INTERVAL).clamp(least, most);
        Ok(Self {
            code: DeviceCode {
                user_code: code,
                verification_uri: page,
                verification_uri_complete: complete,
                // A cast of a float saturates.
                expires_in: fields.expires_in as u64,
            },
            device_code,
            interval: Duration::from_secs_f64(interval),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(change: impl FnOnce(&mut Value)) -> Result<Authorization, &'static str> {
        let mut body = json!({
            "device_code": "planted",
            "user_code": "ABCD-EFGH",
            "verification_uri": "https://id.example.org/device",
            "expires_in": 600,
        });
        change(&mut body);
        Authorization::parse(&Response::new(200, body.to_string()))
    }

    #[test]
    fn interval_has_default_and_bounds() {
        let interval = |value: Value| parsed(|body| body["interval"] = value).unwrap().interval;
        assert_eq!(parsed(|_| {}).unwrap().interval, Duration::from_secs(5));
        assert_eq!(interval(json!(null)), Duration::from_secs(5));
        assert_eq!(interval(json!(7)), Duration::from_secs(7));
        assert_eq!(interval(json!(0)), Duration::from_secs(1));
        assert_eq!(interval(json!(-1e300)), Duration::from_secs(1));
        assert_eq!(interval(json!(1e300)), Duration::from_secs(600));
    }

    #[test]
    fn verification_url_of_google_is_accepted() {
        let read = parsed(|body| {
            let url = body["verification_uri"].take();
            *body = json!({
                "device_code": "d", "user_code": "u", "expires_in": 1800, "verification_url": url,
            });
        });
        assert_eq!(read.unwrap().code.verification_uri, "https://id.example.org/device");
    }

    #[test]
    fn malformed_responses_are_refused() {
        for (name, value) in [
            ("device_code", json!("")),
            ("device_code", json!(1)),
            ("user_code", json!("")),
            ("user_code", json!("a\u{1b}[2J")),
            ("user_code", json!("\u{202e}abc")),
            ("verification_uri", json!(null)),
            ("user_code", json!("x".repeat(65))),
            ("verification_uri", json!("http://id.example.org/device")),
            ("verification_uri", json!("javascript:alert(1)")),
            ("expires_in", json!("soon")),
            ("interval", json!("5")),
        ] {
            assert!(parsed(|body| body[name] = value.clone()).is_err(), "{name} {value}");
        }
        let odd = parsed(|body| {
            body["expires_in"] = json!(-5);
            body["verification_uri_complete"] = json!("http://evil.example");
        });
        let code = odd.unwrap().code;
        assert_eq!((code.expires_in, code.verification_uri_complete), (0, None));
    }
}
