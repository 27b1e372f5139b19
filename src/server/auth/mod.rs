//! Log-in, linking, server sessions, profiles and user deletion.
//!
//! `credentials` checks the credentials of each provider, `email` manages e-mail accounts, and
//! `api_keys` manages the API keys of users.

mod api_keys;
mod credentials;
mod email;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Deserializer;
use serde_json::{Map, Value, json};

use super::endpoint::wants_link;
use super::error::ApiError;
use super::http::Request;
use super::json_body::{Field, body, check_values, field, or_default};
use super::random;
use super::service::{Caller, Reply, Service};
use super::state::{
    ANONYMOUS, Identity, Linked, LoggedIn, LoginSource, MAX_IDENTITIES, Session, SessionParams,
    User, VerifiedLogin,
};
use super::text::is_plain;
use super::throttle::{Action, Attempt};
use super::token::Access;
use crate::{Clock, Secret, UserId, untrusted_json};

/// Longer addresses are rejected, because accounts and counters store them.
const MAX_EMAIL: usize = 1024;
/// Larger custom user data is rejected, because clients send it in the header of every request.
pub(super) const MAX_CUSTOM_DATA: usize = 24 * 1024;

impl Service {
    /// `POST …/auth/providers/<provider>/login`.
    pub(super) fn log_in(
        &self,
        request: &Request,
        provider: &str,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        if wants_link(request.query.as_deref()) {
            return self.link(request, provider, caller);
        }
        let evidence = self.identify(request, provider)?;
        let outdated = outdated(&evidence);
        let entry = SessionParams {
            device_id: device_id(request)?,
            now: self.now(),
            lifetime: self.refresh_lifetime,
        };
        let (user, session) = match self.state.log_in(evidence, entry)? {
            LoggedIn::Done(user, session) => (user, session),
            LoggedIn::Disabled => return Err(ApiError::new(401, "UserDisabled", "user disabled")),
            LoggedIn::Full => return Err(ApiError::full()),
            LoggedIn::Outdated => return Err(outdated),
            LoggedIn::ProfileTooLarge => return Err(profile_too_large()),
        };
        caller.user_id = Some(UserId::new(&user.id));
        // The source of custom data needs the user, so the log-in comes first.
        let data = self.custom_data(&user).inspect_err(|_| {
            let _ = match provider {
                // No later log-in can return this user.
                ANONYMOUS => self.state.delete_user(&user.id),
                _ => self.state.log_out(&session.id, self.now()),
            };
        })?;
        Ok(Reply::Json(
            200,
            json!({
                "access_token": self.access_token(&session, data)?.expose(),
                "refresh_token": self.refresh_token(&session)?.expose(),
                "user_id": user.id,
                "device_id": session.device_id,
            }),
        ))
    }

    /// `POST …/auth/providers/<provider>/login?link=true`: adds an identity to the user of the
    /// access token. The refresh token does not change and is not sent again.
    ///
    /// Source: realm-core `object-store/sync/app.cpp`, `App::link_user`.
    fn link(
        &self,
        request: &Request,
        provider: &str,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let (user, access) = self.caller_of_access_token(request, caller)?;
        // An access token outlives its session, but must not be used to issue new tokens after
        // that.
        let session = self.state.session(&access.session_id, self.now());
        let session = session.ok_or_else(ApiError::no_session)?;
        if provider == ANONYMOUS {
            return Err(ApiError::bad_request("invalid user link request"));
        }
        let evidence = self.identify(request, provider).map_err(for_link)?;
        // Custom data can fail, so it is fetched before the state changes.
        let data = self.custom_data(&user)?;
        match self.state.link(&user.id, &evidence)? {
            Linked::Done => {}
            Linked::InUse => {
                let message = "the identity belongs to another user";
                return Err(ApiError::new(409, "IdentityAlreadyInUse", message));
            }
            Linked::SecondAccount => {
                let message = "the user has an email/password identity already";
                return Err(ApiError::bad_request(message));
            }
            Linked::Disabled => return Err(ApiError::user_disabled_session()),
            Linked::NoUser => return Err(ApiError::user_gone()),
            Linked::Outdated => return Err(for_link(outdated(&evidence))),
            Linked::ProfileTooLarge => return Err(profile_too_large()),
            Linked::TooManyIdentities => {
                let message = format!("a user can have at most {MAX_IDENTITIES} identities");
                return Err(ApiError::bad_request(message));
            }
        }
        Ok(Reply::Json(
            200,
            json!({
                "access_token": self.access_token(&session, data)?.expose(),
                "user_id": user.id,
                "device_id": session.device_id,
            }),
        ))
    }

    /// `DELETE /auth/delete`: deletes the user and all of the user's data.
    pub(super) fn delete_user(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let user = self.user_of_access_token(request, caller)?;
        if self.state.delete_user(&user.id)? {
            Ok(Reply::Empty)
        } else {
            Err(ApiError::user_gone())
        }
    }

    /// `POST /auth/session`: exchanges a refresh token for a new access token, and with rotation
    /// also for a new refresh token.
    pub(super) fn refresh(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let session = self.session_of_refresh_token(request)?;
        let user = self.state.user(&session.user_id).ok_or_else(ApiError::no_session)?;
        caller.user_id = Some(UserId::new(&user.id));
        if user.disabled {
            return Err(ApiError::user_disabled_session());
        }
        // Before the rotation, which replaces the old token.
        let data = self.custom_data(&user)?;
        if !self.rotate_refresh_tokens {
            let access_token = self.access_token(&session, data)?;
            return Ok(Reply::Json(201, json!({"access_token": access_token.expose()})));
        }
        let successor = self
            .state
            .rotate(&session.id, self.now(), self.refresh_lifetime, self.rotation_grace)?
            .ok_or_else(ApiError::no_session)?;
        Ok(Reply::Json(
            201,
            json!({
                "access_token": self.access_token(&successor, data)?.expose(),
                "refresh_token": self.refresh_token(&successor)?.expose(),
            }),
        ))
    }

    /// `DELETE /auth/session`: ends this log-in only. Access tokens stay valid until they expire.
    pub(super) fn log_out(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let session = self.session_of_refresh_token(request)?;
        caller.user_id = Some(UserId::new(&session.user_id));
        if self.state.log_out(&session.id, self.now())? {
            Ok(Reply::Empty)
        } else {
            Err(ApiError::no_session())
        }
    }

    /// `GET /auth/profile`.
    pub(super) fn profile(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let user = self.user_of_access_token(request, caller)?;
        let identity = |identity: &Identity| {
            json!({
                "id": identity.id,
                "provider_type": identity.provider_type,
                "provider_id": self.tokens.provider_id(identity),
            })
        };
        Ok(Reply::Json(
            200,
            json!({
                "user_id": user.id,
                "domain_id": self.state.deployment().domain_id,
                "identities": user.identities.iter().map(identity).collect::<Vec<_>>(),
                "data": user.data,
                "type": if user.server { "server" } else { "normal" },
            }),
        ))
    }

    /// Begins an action that counts if it fails, unless there were too many failures.
    fn begin_attempt(
        &self,
        action: Action,
        account: Option<&str>,
        request: &Request,
    ) -> Result<Attempt<'_>, ApiError> {
        let address = self.trusted_proxies.client(request.peer, &request.headers);
        self.throttle
            .begin(action, account, address, self.clock.monotonic())
            .map_err(|wait| ApiError::too_many(action.refusal(), wait))
    }

    /// Counts an action, unless its limit is exceeded.
    fn count(
        &self,
        action: Action,
        account: Option<&str>,
        request: &Request,
    ) -> Result<(), ApiError> {
        self.begin_attempt(action, account, request).map(drop)
    }

    /// Returns the user of the request's access token.
    pub(super) fn user_of_access_token(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<Arc<User>, ApiError> {
        self.caller_of_access_token(request, caller).map(|(user, _)| user)
    }

    /// Returns the user of the request's access token, and the content of the token.
    pub(super) fn caller_of_access_token(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<(Arc<User>, Arc<Access>), ApiError> {
        let access = self
            .tokens
            .check_access(bearer(request)?, self.now())
            .map_err(ApiError::access_token)?;
        caller.user_id = Some(UserId::new(&access.user_id));
        match self.state.user(&access.user_id) {
            None => Err(ApiError::user_gone()),
            Some(user) if user.disabled => Err(ApiError::user_disabled_session()),
            Some(user) => Ok((user, access)),
        }
    }

    /// Returns the server session of the request's refresh token. A session that was replaced
    /// longer ago than the grace period counts as missing.
    pub(super) fn session_of_refresh_token(
        &self,
        request: &Request,
    ) -> Result<Arc<Session>, ApiError> {
        let now = self.now();
        let id =
            self.tokens.check_refresh(bearer(request)?, now).map_err(ApiError::refresh_token)?;
        self.state.session(&id, now).ok_or_else(ApiError::no_session)
    }

    fn access_token(
        &self,
        session: &Session,
        data: Option<Map<String, Value>>,
    ) -> Result<Secret, ApiError> {
        self.tokens.access(session, data, self.now()).map_err(|_| unsigned())
    }

    fn refresh_token(&self, session: &Session) -> Result<Secret, ApiError> {
        self.tokens.refresh(session).map_err(|_| unsigned())
    }

    /// Returns the custom data that was set for a user, or otherwise the data of the app's source.
    fn custom_data(&self, user: &User) -> Result<Option<Map<String, Value>>, ApiError> {
        let data = match (&user.custom_data, &self.custom_data_source) {
            (Some(data), _) => Some(data.clone()),
            (None, None) => None,
            (None, Some(source)) => match catch_unwind(AssertUnwindSafe(|| source(&user.id))) {
                Ok(None | Some(Value::Null)) => None,
                Ok(Some(Value::Object(data))) => Some(data),
                Ok(Some(_)) => {
                    return Err(ApiError::internal("custom user data must be an object"));
                }
                // The panic is caught, so that the caller can undo earlier changes.
                Err(_) => return Err(ApiError::internal("internal server error")),
            },
        };
        if data.as_ref().is_some_and(|data| !fits(data)) {
            let reason = "the custom user data is too large or too deep for a token";
            return Err(ApiError::internal(reason));
        }
        Ok(data)
    }
}

/// Returns `true` if custom data fits into a token.
pub(super) fn fits(data: &Map<String, Value>) -> bool {
    serde_json::to_vec(data).is_ok_and(|text| text.len() <= MAX_CUSTOM_DATA) && can_be_kept(data)
}

/// Returns `true` if data can still be parsed inside a token or a record, which adds nesting
/// levels.
pub(super) fn can_be_kept(data: &Map<String, Value>) -> bool {
    let text = serde_json::to_vec(&[[data]]);
    text.is_ok_and(|text| untrusted_json::from_slice::<Value>(&text).is_ok())
}

/// Returns `true` if a text can be an e-mail address, or is empty. The text is stored unchanged,
/// and appears in mails and logs.
fn is_email(text: &str) -> bool {
    text.len() <= MAX_EMAIL && is_plain(text)
}

/// The error if the basis of a log-in changed before the log-in was stored.
fn outdated(evidence: &VerifiedLogin) -> ApiError {
    match evidence.basis {
        LoginSource::Account { .. } => ApiError::invalid_password(),
        _ => ApiError::auth_error("unauthorized"),
    }
}

/// Rewords the error `unauthorized`. realm-web takes a 401 with that text for an expired access
/// token, and would refresh and link in an endless loop.
fn for_link(mut refusal: ApiError) -> ApiError {
    if refusal.status == 401 && refusal.message == "unauthorized" {
        refusal.message = "the credentials to link were not accepted".to_owned();
    }
    refusal
}

/// Returns the bearer token of the request.
fn bearer(request: &Request) -> Result<&str, ApiError> {
    let missing = || ApiError::new(401, "MissingAuthReq", "must authenticate first");
    let (scheme, token) = request
        .header("authorization")
        .and_then(|value| value.split_once(' '))
        .ok_or_else(missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(missing());
    }
    Ok(token)
}

/// Returns the device id that the client sent, or otherwise a new one.
///
/// Source: realm-web `Authenticator.ts` sends `options.device.deviceId`, as an EJSON object id.
fn device_id(request: &Request) -> Result<String, ApiError> {
    let sent = match field(request, &["options", "device", "deviceId"])? {
        Field::Other => field(request, &["options", "device", "deviceId", "$oid"])?,
        field => field,
    };
    match sent {
        Field::Text(id) if is_device_id(id.expose()) => Ok(id.expose().to_owned()),
        _ => Ok(random::id()?),
    }
}

fn is_device_id(text: &str) -> bool {
    random::is_id(text) && text.bytes().any(|digit| digit != b'0')
}

fn identity(id: String, provider_type: &str) -> Identity {
    Identity { id, provider_type: provider_type.to_owned() }
}

fn profile_too_large() -> ApiError {
    ApiError::internal("the profile is too large or nested too deeply to be kept")
}

fn unsigned() -> ApiError {
    ApiError::internal("the server could not sign a token")
}

fn no_secret() -> Secret {
    Secret::new("")
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    or_default::<D, String>(deserializer).map(Secret::from)
}
