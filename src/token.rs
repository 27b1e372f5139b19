//! Access and refresh tokens: their claims, and when they have to be refreshed.
//!
//! There is no clock and no I/O here: the caller passes the time. keyfob does not check signatures;
//! the backend does.
//!
//! Source: realm-core `object-store/sync/jwt.cpp` for the form that clients accept.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::milliseconds;
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::secret::Secret;
use crate::{lenient, untrusted_json};

/// The latest time of a claim: the end of the year 9999, in seconds since the epoch.
const LATEST: i64 = 253_402_300_799;

/// The longest token that can be sent, in bytes: the headers of a request must fit into ureq's buffer.
const LONGEST: usize = 96 * 1024;

/// The times of a token, in seconds since the epoch by the backend's clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Claims {
    pub(crate) issued_at: i64,
    pub(crate) expires_at: i64,
}

#[derive(Debug)]
struct Token {
    text: Secret,
    claims: Claims,
}

/// A short-lived token that goes with each request; returned by
/// [`User::valid_access_token`](crate::User::valid_access_token). Cloning is cheap. `Debug` shows
/// no secret; serialised, it is the plain token, for a store to write.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "server")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
/// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
/// #     .store(keyfob::store::MemoryStore::new())
/// #     .open()?;
/// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
/// let token = user.valid_access_token()?;
/// assert!(token.expires_at() > token.issued_at());
/// let header = format!("Bearer {}", token.expose()); // keep it out of logs
/// # assert!(header.len() > 7);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "server"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct AccessToken(Arc<Token>);

/// A long-lived token that gets new access tokens. keyfob sends it to the backend only and stores
/// it inside a [`StoredUser`](crate::store::StoredUser). `Debug` shows no secret; serialised, it is
/// the plain token, for a store to write.
#[derive(Clone)]
pub struct RefreshToken(Arc<Token>);

/// The state of an access token at a given time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Freshness {
    /// It can be used.
    Fresh,
    /// It can be used for this long, and should be refreshed.
    Due(Duration),
    /// It has expired.
    Expired,
}

impl Claims {
    /// Parses the claims of a token, which has three parts. The second one is base64 (either
    /// alphabet, padded or not) of a JSON object with the numbers `iat` and `exp`. Times are clamped
    /// to the years 1970 to 9999.
    fn parse(text: &str) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Payload {
            #[serde(deserialize_with = "lenient::seconds")]
            exp: i64,
            #[serde(deserialize_with = "lenient::seconds")]
            iat: i64,
        }
        let payload: Payload = untrusted_json::from_slice(&payload(text)?)
            .map_err(|_| "expected numbers `exp` and `iat` in its payload")?;
        let in_range = |seconds: i64| seconds.clamp(0, LATEST);
        Ok(Self { issued_at: in_range(payload.iat), expires_at: in_range(payload.exp) })
    }

    /// Returns how long before its expiry the token should be refreshed, in milliseconds: a fifth of
    /// its lifetime, at least 5 s and at most 5 min, but never more than half of its lifetime.
    fn margin(&self) -> i64 {
        let life = self.expires_at.saturating_sub(self.issued_at).max(0).saturating_mul(1000);
        (life / 5).clamp(5_000, 300_000).min(life / 2)
    }

    /// Returns `true` if a refresh token expires soon: within a week, or within a tenth of its
    /// lifetime if that is shorter. `now` is in milliseconds by the backend's clock.
    pub(crate) fn is_ending(&self, now: i64) -> bool {
        const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
        let near = milliseconds(WEEK.min(self.lifetime() / 10));
        self.expires_at.saturating_mul(1000).saturating_sub(now) < near
    }

    pub(crate) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.expires_at.saturating_sub(self.issued_at).max(0).unsigned_abs())
    }

    /// Returns the state of the token at a time by the backend's clock, in milliseconds since the
    /// epoch. `early` is the jitter of this process, so that not all processes refresh in the same
    /// second: it shortens the margin, from 0 for nothing to 255 for a tenth.
    pub(crate) fn freshness(&self, now: i64, early: u8) -> Freshness {
        let left = self.expires_at.saturating_mul(1000).saturating_sub(now);
        let margin = self.margin();
        // At most a tenth of the margin, so that the token is fresh for at least half of its lifetime.
        let window = margin - margin * i64::from(early) / 2550;
        match left {
            ..1 => Freshness::Expired,
            left if left > window => Freshness::Fresh,
            left => Freshness::Due(Duration::from_millis(left.unsigned_abs())),
        }
    }
}

impl Token {
    /// Returns `false` if the claim `sub` is a string and not the user's id.
    ///
    /// Source: realm-web `User.ts` reads `sub` as the user's id.
    fn belongs_to(&self, user: &UserId) -> bool {
        #[derive(Deserialize)]
        struct Payload {
            sub: String,
        }
        let payload = payload(self.text.expose()).unwrap_or_default();
        let payload = untrusted_json::from_slice(&payload);
        payload.map_or(true, |Payload { sub }| sub == user.as_str())
    }
}

impl AccessToken {
    pub(crate) fn parse(text: Secret) -> Result<Self> {
        parse("the access token", text).map(Self)
    }

    /// Returns the token itself, as it goes into an `Authorization` header.
    pub fn expose(&self) -> &str {
        self.0.text.expose()
    }

    /// Returns when it expires, by the backend's clock.
    pub fn expires_at(&self) -> SystemTime {
        time(self.0.claims.expires_at)
    }

    /// Returns when it was issued, by the backend's clock.
    pub fn issued_at(&self) -> SystemTime {
        time(self.0.claims.issued_at)
    }

    pub(crate) fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// Returns `false` if the token names another user.
    pub(crate) fn belongs_to(&self, user: &UserId) -> bool {
        self.0.belongs_to(user)
    }

    /// Returns the custom user data that the backend put into the token, as its JSON text.
    ///
    /// Source: the claim `user_data`, realm-core `jwt.cpp`.
    pub(crate) fn user_data(&self) -> Result<Option<Box<RawValue>>> {
        #[derive(Deserialize)]
        struct Payload {
            #[serde(default)]
            user_data: Option<Box<RawValue>>,
        }
        let wrong = |reason: &str| Error::decode("the access token's custom user data", reason);
        let payload = payload(self.expose()).map_err(wrong)?;
        let payload: Payload =
            untrusted_json::from_slice(&payload).map_err(|_| wrong("its payload is not JSON"))?;
        Ok(payload.user_data)
    }
}

impl RefreshToken {
    pub(crate) fn parse(text: Secret) -> Result<Self> {
        parse("the refresh token", text).map(Self)
    }

    /// Returns the token itself.
    pub(crate) fn expose(&self) -> &str {
        self.0.text.expose()
    }

    /// Returns when it expires, by the backend's clock. After that only a log-in helps.
    pub fn expires_at(&self) -> SystemTime {
        time(self.0.claims.expires_at)
    }

    pub(crate) fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// Returns `false` if the token names another user.
    pub(crate) fn belongs_to(&self, user: &UserId) -> bool {
        self.0.belongs_to(user)
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl PartialEq for RefreshToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for AccessToken {}
impl Eq for RefreshToken {}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AccessToken").field(&self.0.claims).finish()
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RefreshToken").field(&self.0.claims).finish()
    }
}

// For the records of stores only.
impl Serialize for AccessToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl Serialize for RefreshToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for AccessToken {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(text.into()).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for RefreshToken {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(text.into()).map_err(serde::de::Error::custom)
    }
}

fn parse(what: &'static str, text: Secret) -> Result<Arc<Token>> {
    if text.expose().len() > LONGEST {
        return Err(Error::decode(what, "it is too long for a request: expected 96 KiB at most"));
    }
    let claims = Claims::parse(text.expose()).map_err(|reason| Error::decode(what, reason))?;
    // A line break or a space would end the header in which it is sent.
    if !text.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::decode(what, "it has characters that no token has"));
    }
    Ok(Arc::new(Token { text, claims }))
}

/// Returns the payload of a token: its middle part, decoded.
pub(crate) fn payload(text: &str) -> Result<Vec<u8>, &'static str> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let mut parts = text.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("expected three parts with dots between them");
    };
    if header.is_empty() || signature.is_empty() {
        return Err("expected three parts with dots between them, one is empty");
    }
    let alphabet = if payload.contains(['+', '/']) { &STANDARD } else { &URL_SAFE };
    GeneralPurpose::new(alphabet, CONFIG).decode(payload).map_err(|_| "its payload is not base64")
}

/// Converts clamped seconds since the epoch.
fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    fn token(payload: &str) -> Secret {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload)).into()
    }

    fn claims(lifetime: i64) -> Claims {
        Claims { issued_at: 1000, expires_at: 1000 + lifetime }
    }

    #[test]
    fn both_base64_alphabets_are_decoded() {
        let payload = r#"{"exp":2,"iat":1,"x":"??>>~~"}"#;
        for text in [
            format!("e30.{}.s", STANDARD.encode(payload)),
            format!("e30.{}.s", URL_SAFE_NO_PAD.encode(payload)),
        ] {
            let token = AccessToken::parse(text.into()).unwrap();
            assert_eq!(token.claims(), &Claims { issued_at: 1, expires_at: 2 });
        }
    }

    #[test]
    fn token_unfit_for_header_is_rejected() {
        let long = |length| token(&format!(r#"{{"exp":2,"iat":1,"x":"{}"}}"#, "x".repeat(length)));
        assert!(AccessToken::parse(long(70_000)).is_ok());
        let error = AccessToken::parse(long(75_000)).unwrap_err();
        assert!(error.to_string().contains("expected 96 KiB at most"), "{error}");
    }

    #[test]
    fn only_string_sub_names_user() {
        let belongs = |sub: &str| {
            let token = AccessToken::parse(token(&format!(r#"{{"exp":2,"iat":1{sub}}}"#))).unwrap();
            token.belongs_to(&UserId::new("ada"))
        };
        assert!(belongs("") && belongs(r#","sub":"ada""#));
        assert!(belongs(r#","sub":7"#) && belongs(r#","sub":null"#));
        assert!(!belongs(r#","sub":"eve""#) && !belongs(r#","sub":"Ada""#));
    }

    #[test]
    fn malformed_tokens_are_hidden_errors() {
        for (text, reason) in [
            ("", "expected three parts"),
            ("a.b", "expected three parts"),
            ("a.b.c.d", "expected three parts"),
            (".e30.c", "one is empty"),
            ("a.***.c", "not base64"),
            ("a.e30.c", "`exp` and `iat`"),
            (token(r#"{"exp":"2","iat":1}"#).expose(), "`exp` and `iat`"),
            (token(r#"{"exp":null,"iat":1}"#).expose(), "`exp` and `iat`"),
            (token(r#"{"exp":2,"iat":[1]}"#).expose(), "`exp` and `iat`"),
            (token(r#"{"exp":2}"#).expose(), "`exp` and `iat`"),
            (
                format!("a\r\nb.{}.c", URL_SAFE_NO_PAD.encode(r#"{"exp":2,"iat":1}"#)).as_str(),
                "no token",
            ),
        ] {
            let error = AccessToken::parse(text.into()).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn times_are_any_numbers() {
        for (exp, iat, expected) in [
            ("1800000000.999", "1.5", (1_800_000_000, 1)),
            ("1.8e9", "1.7E+9", (1_800_000_000, 1_700_000_000)),
            ("-1", "-0.5", (0, 0)),
            ("99999999999999", "99999999999999999999", (LATEST, LATEST)),
            ("1e400", "-1e400", (LATEST, 0)),
        ] {
            let text = token(&format!(r#"{{"exp":{exp},"iat":{iat}}}"#));
            let token = AccessToken::parse(text).unwrap_or_else(|error| panic!("{exp}: {error}"));
            let claims = token.claims();
            assert_eq!((claims.expires_at, claims.issued_at), expected, "{exp}");
        }
    }

    #[test]
    fn byte_order_mark_and_surrogates_are_tolerated() {
        let text = "\u{feff}{\"exp\":2,\"iat\":1,\"\\ud83d\":\"\\ude00\",\"user_data\":{\"\\ud83d\":\"x\"}}";
        let token = AccessToken::parse(token(text)).unwrap();
        assert_eq!(token.claims(), &Claims { issued_at: 1, expires_at: 2 });
        assert_eq!(token.user_data().unwrap().unwrap().get(), r#"{"\ufffd":"x"}"#);
    }

    #[test]
    fn margin_is_bounded_fifth_of_lifetime() {
        for (lifetime, margin) in
            [(1800, 300_000), (600, 120_000), (60, 12_000), (12, 5_000), (6, 3_000), (0, 0)]
        {
            assert_eq!(claims(lifetime).margin(), margin, "{lifetime}");
        }
    }

    #[test]
    fn token_is_fresh_due_then_expired() {
        let claims = claims(1800);
        assert_eq!(claims.freshness(1_000_000, 0), Freshness::Fresh);
        assert_eq!(claims.freshness(2_499_999, 0), Freshness::Fresh);
        assert_eq!(claims.freshness(2_500_000, 0), Freshness::Due(Duration::from_secs(300)));
        assert_eq!(claims.freshness(2_799_999, 0), Freshness::Due(Duration::from_millis(1)));
        assert_eq!(claims.freshness(2_800_000, 0), Freshness::Expired);
        assert_eq!(claims.freshness(i64::MAX, 255), Freshness::Expired);
        assert_eq!(claims.freshness(i64::MIN, 255), Freshness::Fresh);
    }

    #[test]
    fn jitter_is_at_most_tenth_of_margin() {
        let claims = claims(1800);
        assert_eq!(claims.freshness(2_500_000, 255), Freshness::Fresh);
        assert_eq!(claims.freshness(2_530_000, 255), Freshness::Due(Duration::from_secs(270)));
    }

    #[test]
    fn new_token_is_never_due() {
        for lifetime in 1..5000 {
            assert_eq!(claims(lifetime).freshness(1_000_000, 0), Freshness::Fresh, "{lifetime}");
        }
    }

    #[test]
    fn login_ends_soon_in_last_week() {
        let year = claims(365 * 86_400);
        assert!(!year.is_ending((1000 + 357 * 86_400) * 1000));
        assert!(year.is_ending((1000 + 359 * 86_400) * 1000));
        let hour = claims(3600);
        assert!(!hour.is_ending((1000 + 3200) * 1000));
        assert!(hour.is_ending((1000 + 3300) * 1000));
    }

    #[test]
    fn debug_shows_no_token() {
        let token = AccessToken::parse(token(r#"{"exp":2,"iat":1}"#)).unwrap();
        assert!(!format!("{token:?}").contains("e30"));
    }
}
