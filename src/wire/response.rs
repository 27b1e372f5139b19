//! What the backend answers when it has done what was asked.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::account::{ApiKey, Identity, Profile, RequestOutcome};
use crate::credentials::Provider;
use crate::error::{Error, Result};
use crate::id::{ApiKeyId, DeviceId, UserId};
use crate::secret::Secret;
use crate::token::{AccessToken, RefreshToken};
use crate::untrusted_json;

/// The answer to a log-in.
pub(crate) struct LoginResponse {
    pub(crate) user: UserId,
    pub(crate) access_token: AccessToken,
    pub(crate) refresh_token: RefreshToken,
    pub(crate) device_id: Option<DeviceId>,
}

/// The answer to a refresh. Backends that rotate refresh tokens send a new one along.
#[derive(Clone)]
pub(crate) struct RefreshResponse {
    pub(crate) access_token: AccessToken,
    pub(crate) refresh_token: Option<RefreshToken>,
}

/// The answer to [`super::Route::location`]: the hosts for everything else.
pub(crate) struct LocationResponse {
    pub(crate) http: String,
    pub(crate) websocket: Option<String>,
}

/// Reads the answer to [`super::Route::location`].
pub(crate) fn location(body: &[u8]) -> Result<LocationResponse> {
    #[derive(Deserialize)]
    struct Body {
        hostname: String,
        #[serde(default)]
        ws_hostname: Option<String>,
    }
    let body: Body = parse("the location answer", body)?;
    let websocket = body.ws_hostname.filter(|host| host.starts_with("ws") && host.contains("://"));
    let websocket = websocket.map(|host| host.trim_end_matches('/').to_owned());
    Ok(LocationResponse { http: body.hostname, websocket })
}

/// Reads the answer to [`super::Route::log_in`].
pub(crate) fn login(body: &[u8]) -> Result<LoginResponse> {
    #[derive(Deserialize)]
    struct Body {
        access_token: String,
        #[serde(default)]
        device_id: Option<String>,
        refresh_token: String,
        user_id: String,
    }
    let body: Body = parse("the log-in answer", body)?;
    if body.user_id.is_empty() {
        return Err(Error::decode("the log-in answer", "its `user_id` is empty"));
    }
    let login = LoginResponse {
        user: UserId::new(body.user_id),
        access_token: AccessToken::parse(body.access_token.into())?,
        refresh_token: RefreshToken::parse(body.refresh_token.into())?,
        device_id: body.device_id.as_deref().and_then(DeviceId::from_wire),
    };
    let is_own =
        login.access_token.belongs_to(&login.user) && login.refresh_token.belongs_to(&login.user);
    own(is_own, "the log-in answer")?;
    Ok(login)
}

/// Rejects a response that belongs to another user. Shared caches can return one.
fn own(is_own: bool, what: &'static str) -> Result<()> {
    match is_own {
        true => Ok(()),
        false => Err(Error::decode(what, "it belongs to another user")),
    }
}

/// Returns `false` if a response names another user. It need not name one.
fn is_id_of(id: &Value, user: &UserId) -> bool {
    id.as_str().is_none_or(|id| id == user.as_str())
}

/// Reads the answer to [`super::Route::link`]: the user's new access token.
///
/// A backend that does not know linking logs in as the other user instead (Flowerbase does). Then
/// the answer is that log-in, to be ended.
pub(crate) fn linked(
    body: &[u8],
    user: &UserId,
) -> Result<Result<AccessToken, Box<LoginResponse>>> {
    #[derive(Deserialize)]
    struct Body {
        access_token: String,
        #[serde(default)]
        user_id: Option<String>,
    }
    let answer: Body = parse("the link answer", body)?;
    if answer.user_id.is_some_and(|other| other != user.as_str()) {
        return Ok(Err(Box::new(login(body)?)));
    }
    let access_token = AccessToken::parse(answer.access_token.into())?;
    own(access_token.belongs_to(user), "the link answer")?;
    Ok(Ok(access_token))
}

/// Reads the answer to [`super::Route::refresh`].
pub(crate) fn refreshed(body: &[u8], user: &UserId) -> Result<RefreshResponse> {
    #[derive(Deserialize)]
    struct Body {
        access_token: String,
        #[serde(default)]
        refresh_token: Option<String>,
        #[serde(default)]
        user_id: Value,
    }
    const WHAT: &str = "the refresh answer";
    let body: Body = parse(WHAT, body)?;
    let access_token = AccessToken::parse(body.access_token.into())?;
    let refresh_token = body.refresh_token.map(|token| RefreshToken::parse(token.into()));
    let refresh_token = refresh_token.transpose()?;
    let is_own = is_id_of(&body.user_id, user)
        && access_token.belongs_to(user)
        && refresh_token.as_ref().is_none_or(|token| token.belongs_to(user));
    own(is_own, WHAT)?;
    Ok(RefreshResponse { access_token, refresh_token })
}

/// Reads the answer to [`super::Route::profile`].
pub(crate) fn profile(body: &[u8], user: &UserId) -> Result<(Vec<Identity>, Profile)> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        data: Map<String, Value>,
        identities: Vec<IdentityBody>,
        #[serde(default, rename = "type")]
        kind: Option<String>,
        #[serde(default)]
        user_id: Value,
    }
    #[derive(Deserialize)]
    struct IdentityBody {
        id: String,
        provider_type: String,
    }
    const WHAT: &str = "the profile answer";
    let body: Body = parse(WHAT, body)?;
    own(is_id_of(&body.user_id, user), WHAT)?;
    let identities = body.identities.into_iter().map(|identity| {
        Identity::new(identity.id, Provider::from(identity.provider_type.as_str()))
    });
    Ok((identities.collect(), Profile::new(body.data, body.kind)))
}

#[derive(Deserialize)]
struct ApiKeyBody {
    #[serde(rename = "_id")]
    id: Value,
    name: String,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    key: Option<String>,
}

impl ApiKeyBody {
    fn read(self) -> Result<ApiKey> {
        // realm-web's tests have the second form.
        let id = self.id.as_str().or_else(|| self.id.get("$oid")?.as_str());
        let id = id.ok_or_else(|| Error::decode("the API key", "its `_id` is no text"))?;
        Ok(ApiKey { id: ApiKeyId::new(id), name: self.name, is_enabled: !self.disabled })
    }
}

/// Reads the answer to [`super::Route::create_api_key`]: the only one that holds the key itself.
pub(crate) fn created_api_key(body: &[u8]) -> Result<(ApiKey, Secret)> {
    let mut body: ApiKeyBody = parse("the new API key", body)?;
    match body.key.take() {
        // A terminal would take it for a command.
        Some(key) if key.contains(char::is_control) => {
            Err(Error::decode("the new API key", "it has characters that no key has"))
        }
        Some(key) => Ok((body.read()?, key.into())),
        None => Err(Error::decode("the new API key", "its `key` is missing")),
    }
}

/// Reads the answer to [`super::Route::get_api_key`].
pub(crate) fn api_key(body: &[u8]) -> Result<ApiKey> {
    parse::<ApiKeyBody>("the API key", body)?.read()
}

/// Reads the answer to [`super::Route::list_api_keys`].
pub(crate) fn api_keys(body: &[u8]) -> Result<Vec<ApiKey>> {
    let keys: Vec<ApiKeyBody> = parse_any("the list of API keys", body)?;
    keys.into_iter().map(ApiKeyBody::read).collect()
}

/// Reads an object. serde takes a list for one as well, value by value.
/// Reads what a backend says about a request that it accepted. Whatever else it answers means
/// nothing.
pub(crate) fn outcome(body: &[u8]) -> RequestOutcome {
    #[derive(Deserialize)]
    struct Body {
        status: String,
    }
    let body: Result<Body> = parse("the answer", body);
    match body.as_ref().map(|body| body.status.as_str()) {
        Ok("pending") => RequestOutcome::Pending,
        Ok("success" | "confirmed") => RequestOutcome::Done,
        _ => RequestOutcome::Unknown,
    }
}

fn parse<'de, T: Deserialize<'de>>(what: &'static str, body: &'de [u8]) -> Result<T> {
    match body.trim_ascii_start().first() {
        Some(b'[') => Err(Error::decode(what, "it is a list")),
        _ => parse_any(what, body),
    }
}

fn parse_any<'de, T: Deserialize<'de>>(what: &'static str, body: &'de [u8]) -> Result<T> {
    untrusted_json::check(body).map_err(|reason| Error::decode(what, reason))?;
    serde_json::from_slice(body).map_err(|error| {
        // serde_json's text can quote the body, and the body can hold a token.
        let reason = match error.classify() {
            serde_json::error::Category::Data => "a field is missing or has the wrong type",
            serde_json::error::Category::Eof => "it ends too early",
            _ => "it is not JSON",
        };
        Error::decode(what, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_do_not_fit_are_errors_without_their_text() {
        for body in ["", "<html>", "{}", r#"{"access_token":7}"#, r#"{"access_token":"sekret"}"#] {
            let error = login(body.as_bytes()).err().unwrap();
            assert!(matches!(error, Error::Decode(_)), "{body}");
            assert!(!error.to_string().contains("sekret"), "{error}");
        }
    }
}
