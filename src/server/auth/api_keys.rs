//! API keys of users.
//!
//! All of these requests need the refresh token.

use serde::Deserialize;
use serde_json::{Value, json};

use super::body;
use crate::UserId;
use crate::server::error::ApiError;
use crate::server::http::Request;
use crate::server::service::{Caller, Reply, Service};
use crate::server::state::{API_KEY, ApiKey, KeyRefusal, MAX_KEYS, Session};
use crate::server::{digest, random};

/// Maximum number of characters of a name.
const MAX_NAME: usize = 128;

#[derive(Deserialize)]
struct NewKey {
    name: Option<String>,
}

impl Service {
    /// `POST /auth/api_keys`: the only response that contains the key.
    pub(in crate::server) fn create_api_key(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let session = self.session_of_key_owner(request, caller)?;
        self.check_keys_enabled()?;
        let NewKey { name } = body(request)?;
        let name = name.ok_or_else(|| ApiError::missing_parameter("name"))?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(ApiError::invalid_parameter(
                "API key name can only contain ASCII letters, numbers, underscores, and hyphens",
            ));
        }
        if name.len() > MAX_NAME {
            let message = format!("API key name can have at most {MAX_NAME} characters");
            return Err(ApiError::invalid_parameter(message));
        }
        let secret = random::hex(&random::bytes::<32>()?);
        let key = ApiKey {
            id: random::id()?,
            user_id: session.user_id.clone(),
            name,
            hash: digest::sha256(&secret),
            number: 0,
            disabled: false,
        };
        let key = self.state.add_api_key(key)?.map_err(|why| match why {
            KeyRefusal::Anonymous => {
                ApiError::without_code(403, "anonymous users cannot have API keys")
            }
            KeyRefusal::NameTaken => {
                ApiError::new(409, "APIKeyAlreadyExists", "API key with name already exists")
            }
            KeyRefusal::NoUser => ApiError::user_gone(),
            KeyRefusal::TooMany => {
                ApiError::bad_request(format!("a user can have at most {MAX_KEYS} API keys"))
            }
        })?;
        let mut answer = object(&key);
        answer["key"] = secret.into();
        Ok(Reply::Json(201, answer))
    }

    /// `GET /auth/api_keys`.
    pub(in crate::server) fn list_api_keys(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let session = self.session_of_key_owner(request, caller)?;
        let keys = self.state.api_keys(&session.user_id);
        Ok(Reply::Json(200, keys.iter().map(|key| object(key)).collect()))
    }

    /// `GET /auth/api_keys/<id>`.
    pub(in crate::server) fn api_key(
        &self,
        request: &Request,
        id: &str,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let session = self.session_of_key_owner(request, caller)?;
        let key = self.state.api_key(&session.user_id, id).ok_or_else(not_found)?;
        Ok(Reply::Json(200, object(&key)))
    }

    /// `PUT /auth/api_keys/<id>/enable` and `…/disable`. Sessions that were started with the key
    /// stay valid.
    pub(in crate::server) fn set_api_key_disabled(
        &self,
        request: &Request,
        id: &str,
        disabled: bool,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let session = self.session_of_key_owner(request, caller)?;
        if !disabled {
            self.check_keys_enabled()?;
        }
        let found = self.state.set_api_key_disabled(&session.user_id, id, disabled)?;
        if found { Ok(Reply::Empty) } else { Err(not_found()) }
    }

    /// `DELETE /auth/api_keys/<id>`.
    pub(in crate::server) fn delete_api_key(
        &self,
        request: &Request,
        id: &str,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let session = self.session_of_key_owner(request, caller)?;
        let used = session.identity.provider_type == API_KEY && session.identity.id == id;
        if used && self.state.api_key(&session.user_id, id).is_some() {
            let message = "the API key that one is logged in with cannot be deleted";
            return Err(ApiError::without_code(403, message));
        }
        let found = self.state.delete_api_key(&session.user_id, id)?;
        if found { Ok(Reply::Empty) } else { Err(not_found()) }
    }

    /// Without the provider, keys can still be listed, disabled and deleted.
    fn check_keys_enabled(&self) -> Result<(), ApiError> {
        if self.providers.is_disabled(API_KEY) {
            return Err(ApiError::unsupported_provider(API_KEY));
        }
        Ok(())
    }

    fn session_of_key_owner(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<std::sync::Arc<Session>, ApiError> {
        let session = self.session_of_refresh_token(request)?;
        caller.user_id = Some(UserId::new(&session.user_id));
        match self.state.user(&session.user_id) {
            None => Err(ApiError::no_session()),
            Some(user) if user.disabled => Err(ApiError::user_disabled_session()),
            Some(_) => Ok(session),
        }
    }
}

/// The JSON representation of a key, without the key itself.
fn object(key: &ApiKey) -> Value {
    json!({"_id": key.id, "name": key.name, "disabled": key.disabled})
}

fn not_found() -> ApiError {
    ApiError::new(404, "APIKeyNotFound", "API key not found")
}
