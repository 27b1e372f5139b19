//! Responses to requests that succeeded.

use std::mem;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

use crate::account::{ApiKey, Identity, Profile, RequestOutcome};
use crate::credentials::Provider;
use crate::error::{Error, Result};
use crate::id::{ApiKeyId, DeviceId, UserId};
use crate::secret::Secret;
use crate::token::{AccessToken, RefreshToken};
use crate::{lenient, untrusted_json};

/// The reason for rejecting a response whose fields are wrong.
const WRONG_FIELDS: &str = "a field is missing or has the wrong type";

/// The response to a log-in.
pub(crate) struct LoginResponse {
    pub(crate) user: UserId,
    pub(crate) access_token: AccessToken,
    pub(crate) refresh_token: RefreshToken,
    pub(crate) device_id: Option<DeviceId>,
}

/// The response to a refresh. Backends that rotate refresh tokens include a new one.
#[derive(Clone)]
pub(crate) struct RefreshResponse {
    pub(crate) access_token: AccessToken,
    pub(crate) refresh_token: Option<RefreshToken>,
}

/// The response to [`super::Route::location`]: the hosts for all other requests.
pub(crate) struct LocationResponse {
    pub(crate) http: String,
    pub(crate) websocket: Option<String>,
}

/// Parses the response to [`super::Route::location`].
pub(crate) fn location(body: &[u8]) -> Result<LocationResponse> {
    #[derive(Deserialize)]
    struct Body {
        hostname: String,
        #[serde(default, deserialize_with = "lenient::or_default")]
        ws_hostname: String,
    }
    let body: Body = parse("the location response", body)?;
    let is_websocket = body.ws_hostname.starts_with("ws") && body.ws_hostname.contains("://");
    let websocket = is_websocket.then(|| body.ws_hostname.trim_end_matches('/').to_owned());
    Ok(LocationResponse { http: body.hostname, websocket })
}

/// Parses the response to [`super::Route::log_in`].
pub(crate) fn login(body: &[u8]) -> Result<LoginResponse> {
    #[derive(Deserialize)]
    struct Body {
        access_token: String,
        #[serde(default, deserialize_with = "lenient::text")]
        device_id: String,
        refresh_token: String,
        user_id: String,
    }
    let body: Body = parse("the log-in response", body)?;
    if body.user_id.is_empty() {
        return Err(Error::decode("the log-in response", "its `user_id` is empty"));
    }
    let login = LoginResponse {
        user: UserId::new(body.user_id),
        access_token: AccessToken::parse(body.access_token.into())?,
        refresh_token: RefreshToken::parse(body.refresh_token.into())?,
        device_id: DeviceId::from_wire(&body.device_id),
    };
    let is_own =
        login.access_token.belongs_to(&login.user) && login.refresh_token.belongs_to(&login.user);
    own(is_own, "the log-in response")?;
    Ok(login)
}

/// Returns `true` if a response has a field of a log-in.
pub(crate) fn resembles_login(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Body {
        access_token: Option<IgnoredAny>,
        refresh_token: Option<IgnoredAny>,
        user_id: Option<IgnoredAny>,
    }
    parse("the log-in answer", body).is_ok_and(|body: Body| {
        [body.access_token, body.refresh_token, body.user_id].iter().any(Option::is_some)
    })
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

/// Parses the response to [`super::Route::link`]: the user's new access token.
///
/// A backend without linking (Flowerbase) logs in as the other user instead. Then this returns that
/// log-in, which the caller has to revoke.
pub(crate) fn linked(
    body: &[u8],
    user: &UserId,
) -> Result<Result<AccessToken, Box<LoginResponse>>> {
    #[derive(Deserialize)]
    struct Body {
        access_token: String,
        #[serde(default, deserialize_with = "lenient::or_default")]
        user_id: String,
    }
    let response: Body = parse("the link response", body)?;
    if !response.user_id.is_empty() && response.user_id != user.as_str() {
        return Ok(Err(Box::new(login(body)?)));
    }
    let access_token = AccessToken::parse(response.access_token.into())?;
    own(access_token.belongs_to(user), "the link response")?;
    Ok(Ok(access_token))
}

/// Parses the response to [`super::Route::refresh`].
pub(crate) fn refreshed(body: &[u8], user: &UserId) -> Result<RefreshResponse> {
    #[derive(Deserialize)]
    struct Body {
        access_token: String,
        #[serde(default)]
        refresh_token: Option<String>,
        #[serde(default)]
        user_id: Value,
    }
    const WHAT: &str = "the refresh response";
    let body: Body = parse(WHAT, body)?;
    let access_token = AccessToken::parse(body.access_token.into())?;
    let refresh_token = body.refresh_token.filter(|token| !token.is_empty());
    let refresh_token = refresh_token.map(|token| RefreshToken::parse(token.into()));
    let refresh_token = refresh_token.transpose()?;
    let is_own = is_id_of(&body.user_id, user)
        && access_token.belongs_to(user)
        && refresh_token.as_ref().is_none_or(|token| token.belongs_to(user));
    own(is_own, WHAT)?;
    Ok(RefreshResponse { access_token, refresh_token })
}

/// Parses the response to [`super::Route::profile`].
pub(crate) fn profile(body: &[u8], user: &UserId) -> Result<(Vec<Identity>, Profile)> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        data: Option<Map<String, Value>>,
        #[serde(default)]
        identities: Option<Vec<Value>>,
        #[serde(default, rename = "type", deserialize_with = "lenient::or_default")]
        kind: Option<String>,
        #[serde(default)]
        user_id: Value,
    }
    #[derive(Deserialize)]
    struct IdentityBody {
        #[serde(default, deserialize_with = "lenient::text")]
        id: String,
        #[serde(default, deserialize_with = "lenient::text")]
        provider_type: String,
    }
    const WHAT: &str = "the profile response";
    const FIELDS: [&str; 5] = ["data", "domain_id", "identities", "type", "user_id"];
    let fields: Map<String, Value> = parse(WHAT, body)?;
    if !fields.is_empty() && !FIELDS.iter().any(|field| fields.contains_key(*field)) {
        return Err(Error::decode(WHAT, "it has no field of a profile"));
    }
    let body: Body =
        serde_json::from_value(fields.into()).map_err(|_| Error::decode(WHAT, WRONG_FIELDS))?;
    own(is_id_of(&body.user_id, user), WHAT)?;
    let identities = objects(body.identities.unwrap_or_default()).map(|identity: IdentityBody| {
        Identity::new(identity.id, Provider::from(identity.provider_type.as_str()))
    });
    Ok((identities.collect(), Profile::new(body.data.unwrap_or_default(), body.kind)))
}

/// Parses the items of a list. Items that are not objects of this type are left out.
fn objects<T: DeserializeOwned>(items: Vec<Value>) -> impl Iterator<Item = T> {
    let objects = items.into_iter().filter(Value::is_object);
    objects.filter_map(|item| serde_json::from_value(item).ok())
}

#[derive(Deserialize)]
struct ApiKeyBody {
    // `{"$oid":"…"}` in the tests of realm-web.
    #[serde(default, rename = "_id", deserialize_with = "lenient::text")]
    id: String,
    #[serde(default, deserialize_with = "lenient::text")]
    name: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    disabled: bool,
    #[serde(default, deserialize_with = "lenient::or_default")]
    key: String,
}

impl ApiKeyBody {
    /// Returns the key; `None` if it has neither an id nor a name.
    fn identified(self) -> Option<ApiKey> {
        (!self.id.is_empty() || !self.name.is_empty()).then(|| self.into())
    }
}

impl From<ApiKeyBody> for ApiKey {
    fn from(body: ApiKeyBody) -> Self {
        Self { id: ApiKeyId::new(body.id), name: body.name, is_enabled: !body.disabled }
    }
}

/// Parses the response to [`super::Route::create_api_key`], the only one that contains the secret.
pub(crate) fn created_api_key(body: &[u8]) -> Result<(ApiKey, Secret)> {
    let mut body: ApiKeyBody = parse("the new API key", body)?;
    let key = mem::take(&mut body.key);
    if key.is_empty() {
        return Err(Error::decode("the new API key", "its `key` is missing"));
    }
    // A terminal interprets control characters.
    if key.contains(char::is_control) {
        return Err(Error::decode("the new API key", "it contains control characters"));
    }
    Ok((body.into(), key.into()))
}

/// Parses the response to [`super::Route::get_api_key`].
pub(crate) fn api_key(body: &[u8]) -> Result<ApiKey> {
    const WHAT: &str = "the API key";
    let key = parse::<ApiKeyBody>(WHAT, body)?.identified();
    key.ok_or_else(|| Error::decode(WHAT, "it has neither an `_id` nor a name"))
}

/// Parses the response to [`super::Route::list_api_keys`].
pub(crate) fn api_keys(body: &[u8]) -> Result<Vec<ApiKey>> {
    const WHAT: &str = "the list of API keys";
    let items: Option<Vec<Value>> = parse_any(WHAT, body)?;
    let mut items = items.unwrap_or_default();
    items.retain(|item| !item.is_null());
    let is_empty = items.is_empty();
    let keys: Vec<_> = objects(items).filter_map(ApiKeyBody::identified).collect();
    if keys.is_empty() && !is_empty {
        return Err(Error::decode(WHAT, "none of its items is a key"));
    }
    Ok(keys)
}

/// Parses the status of a request that the backend accepted. Any other response is
/// [`RequestOutcome::Unknown`].
pub(crate) fn outcome(body: &[u8]) -> RequestOutcome {
    #[derive(Deserialize)]
    struct Body {
        status: String,
    }
    let body: Result<Body> = parse("the response", body);
    match body.as_ref().map(|body| body.status.as_str()) {
        Ok("pending") => RequestOutcome::Pending,
        Ok("success" | "confirmed") => RequestOutcome::Done,
        _ => RequestOutcome::Unknown,
    }
}

/// Parses an object. serde would also accept a list of its values.
fn parse<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T> {
    match untrusted_json::without_mark(body).trim_ascii_start().first() {
        Some(b'[') => Err(Error::decode(what, "it is a list")),
        _ => parse_any(what, body),
    }
}

fn parse_any<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T> {
    let body = untrusted_json::repair(body).map_err(|reason| Error::decode(what, reason))?;
    serde_json::from_slice(&body).map_err(|error| {
        // serde_json's message can quote the body, which can hold a token.
        let reason = match error.classify() {
            serde_json::error::Category::Data => WRONG_FIELDS,
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
    fn unexpected_profile_fields_are_ignored() {
        let read = |text: &str| {
            profile(text.as_bytes(), &UserId::new("u"))
                .unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        for text in [
            "{}",
            r#"{"user_id":"u"}"#,
            r#"{"data":null,"identities":null,"type":null}"#,
            r#"{"data":{},"identities":[],"type":7}"#,
            r#"{"identities":[null,7,"x",[{"id":"1"}]]}"#,
            "\u{feff}{\"identities\":[]}",
        ] {
            assert_eq!(read(text), (Vec::new(), Profile::default()), "{text}");
        }
        let (identities, profile) = read(
            r#"{"identities":[{"id":7},{"id":{"$oid":"5f"},"provider_type":null},{"provider_type":"api-key"},
                {"id":"8","provider_type":"local-userpass","more":1}],
                "data":{"name":"Ann \ud83d","a\ude00":[1.5]},"type":"normal"}"#,
        );
        let seen: Vec<_> =
            identities.iter().map(|identity| (&*identity.id, identity.provider.as_str())).collect();
        assert_eq!(seen, [("7", ""), ("5f", ""), ("", "api-key"), ("8", "local-userpass")]);
        assert_eq!((profile.name(), profile.kind()), (Some("Ann \u{fffd}"), Some("normal")));
        assert!(profile.data().contains_key("a\u{fffd}"));
        for text in
            ["null", "7", "[]", r#"{"error":"no"}"#, r#"{"identities":7}"#, r#"{"data":[1]}"#]
        {
            assert!(super::profile(text.as_bytes(), &UserId::new("u")).is_err(), "{text}");
        }
    }

    #[test]
    fn created_key_ignores_unexpected_fields() {
        for text in [
            r#"{"key":"sekret"}"#,
            r#"{"key":"sekret","_id":null,"name":null,"disabled":null}"#,
            r#"{"key":"sekret","_id":[1],"name":{"a":1},"disabled":"maybe"}"#,
            r#"{"key":"sekret","name":"\ud83d"}"#,
        ] {
            let (key, secret) = created_api_key(text.as_bytes()).unwrap();
            assert_eq!((key.id.as_str(), key.is_enabled, secret.expose()), ("", true, "sekret"));
        }
        for text in [r#"{"_id":"k"}"#, r#"{"key":null}"#, r#"{"key":""}"#, r#"{"key":"a\u001bb"}"#]
        {
            assert!(created_api_key(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn key_list_ignores_unexpected_items() {
        let read = |text: &str| {
            let keys = api_keys(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
            let seen = |key: ApiKey| (key.id.as_str().to_owned(), key.name, key.is_enabled);
            keys.into_iter().map(seen).collect::<Vec<_>>()
        };
        for text in ["null", "[]", "[null]"] {
            assert_eq!(read(text), [], "{text}");
        }
        let key = |id: &str, name: &str, enabled| (id.to_owned(), name.to_owned(), enabled);
        assert_eq!(
            read(
                r#"[{"_id":{"$oid":"5f"},"name":7,"disabled":1},{"_id":8},null,{"name":"n","disabled":null}]"#
            ),
            [key("5f", "7", false), key("8", "", true), key("", "n", true)]
        );
        for text in ["{}", "7", "[7]", "[{}]", r#"["x",{"disabled":true}]"#] {
            assert!(api_keys(text.as_bytes()).is_err(), "{text}");
        }
        assert!(api_key(b"{}").is_err());
    }

    #[test]
    fn logins_and_refreshes_are_parsed_leniently() {
        let token = "e30.eyJleHAiOjIuNSwiaWF0IjoxfQ.c2ln";
        for device in ["null", "7", r#"{"$oid":"5f"}"#, "[1]", r#""""#] {
            let text = format!(
                r#"{{"access_token":"{token}","refresh_token":"{token}","user_id":"7","device_id":{device},"\ud83d":1}}"#
            );
            assert_eq!(login(text.as_bytes()).unwrap().user.as_str(), "7", "{text}");
            assert!(linked(text.as_bytes(), &UserId::new("7")).unwrap().is_ok(), "{text}");
            assert!(linked(text.as_bytes(), &UserId::new("8")).unwrap().is_err(), "{text}");
        }
        for same in ["", r#","refresh_token":null"#, r#","refresh_token":"""#] {
            let text = format!(r#"{{"access_token":"{token}"{same}}}"#);
            assert!(
                refreshed(text.as_bytes(), &UserId::new("8")).unwrap().refresh_token.is_none(),
                "{text}"
            );
            assert!(linked(text.as_bytes(), &UserId::new("8")).unwrap().is_ok(), "{text}");
        }
        let odd = br#"{"hostname":"https://h","ws_hostname":7}"#;
        assert_eq!(location(odd).unwrap().http, "https://h");
    }

    #[test]
    fn wrong_responses_are_errors_without_text() {
        for body in ["", "<html>", "{}", r#"{"access_token":7}"#, r#"{"access_token":"sekret"}"#] {
            let error = login(body.as_bytes()).err().unwrap();
            assert!(matches!(error, Error::Decode(_)), "{body}");
            assert!(!error.to_string().contains("sekret"), "{error}");
        }
    }
}
