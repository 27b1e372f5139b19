//! Registration, log-in, server sessions and profiles.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use std::sync::Arc;

use super::http::Request;
use super::random;
use super::refusal::Refusal;
use super::routes::{Caller, Reply, Service};
use super::state::{Account, Identity, LogIn, Session, User};
use crate::{Secret, UserId};

pub(super) const ANONYMOUS: &str = "anon-user";
pub(super) const EMAIL_PASSWORD: &str = "local-userpass";

/// Longer addresses are refused: they would be kept as they are.
const MAX_EMAIL: usize = 1024;

#[derive(Deserialize)]
struct Registration {
    #[serde(default)]
    email: String,
    #[serde(default = "no_secret", deserialize_with = "secret")]
    password: Secret,
}

/// Log-in says `username` where registration says `email`.
#[derive(Deserialize)]
struct UserPassword {
    username: Option<String>,
    #[serde(default, deserialize_with = "optional_secret")]
    password: Option<Secret>,
    #[serde(default)]
    options: Value,
}

#[derive(Deserialize)]
struct Anonymous {
    #[serde(default)]
    options: Value,
}

impl Service {
    /// `POST …/auth/providers/local-userpass/register`. The address is confirmed at once.
    pub(super) fn register(&self, request: &Request) -> Result<Reply, Refusal> {
        let Registration { email, password } = body(request)?;
        if email.is_empty() || email.len() > MAX_EMAIL {
            return Err(Refusal::invalid_parameter("email invalid"));
        }
        if !(6..=128).contains(&password.expose().chars().count()) {
            return Err(Refusal::invalid_parameter(
                "password must be between 6 and 128 characters",
            ));
        }
        let taken = || Refusal::new(409, "AccountNameInUse", "name already in use");
        if self.state.account(&email).is_some() {
            return Err(taken());
        }
        let account = Account {
            id: random::id()?,
            email,
            password: self.passwords.turn().hash(&password)?,
            created_at: self.now(),
        };
        // Somebody else may have taken the name while this one's password was hashed.
        if self.state.add_account(account)? {
            Ok(Reply::Json(201, json!({})))
        } else {
            Err(taken())
        }
    }

    /// `POST …/auth/providers/<provider>/login`.
    pub(super) fn log_in(
        &self,
        request: &Request,
        provider: &str,
        caller: &mut Caller,
    ) -> Result<Reply, Refusal> {
        if self.wants_link(request) {
            return Err(Refusal::bad_request("linking identities is not supported"));
        }
        let (identity, data, options) = match provider {
            ANONYMOUS => {
                let Anonymous { options } = body(request)?;
                let id = format!("{}-{}", random::id()?, random::letters(8)?);
                (identity(id, ANONYMOUS), Map::new(), options)
            }
            EMAIL_PASSWORD => {
                let UserPassword { username, password, options } = body(request)?;
                let username = username.ok_or_else(|| Refusal::missing_parameter("username"))?;
                let password = password.ok_or_else(|| Refusal::missing_parameter("password"))?;
                let account = self.check_password(request, &username, &password)?;
                let data = Map::from_iter([("email".to_owned(), account.email.clone().into())]);
                (identity(account.id.clone(), EMAIL_PASSWORD), data, options)
            }
            other => {
                let message = format!("authentication via '{other}' is unsupported");
                return Err(Refusal::new(404, "AuthProviderNotFound", message));
            }
        };
        let login = LogIn {
            identity,
            data,
            device_id: device_id(&options)?,
            now: self.now(),
            lifetime: self.refresh_lifetime,
        };
        let (user, session) = self.state.log_in(login)?;
        let Some(session) = session else {
            return Err(Refusal::new(401, "UserDisabled", "user disabled"));
        };
        caller.user_id = Some(UserId::new(&user.id));
        Ok(Reply::Json(
            200,
            json!({
                "access_token": self.access_token(&session)?.expose(),
                "refresh_token": self.refresh_token(&session)?.expose(),
                "user_id": user.id,
                "device_id": session.device_id,
            }),
        ))
    }

    /// `POST /auth/session`: a new access token for a refresh token, and with rotation a new
    /// refresh token, too.
    pub(super) fn refresh(&self, request: &Request, caller: &mut Caller) -> Result<Reply, Refusal> {
        let session = self.session_of_refresh_token(request)?;
        let user = self.state.user(&session.user_id).ok_or_else(Refusal::no_session)?;
        caller.user_id = Some(UserId::new(&user.id));
        if user.disabled {
            return Err(Refusal::user_disabled_session());
        }
        if !self.rotate_refresh_tokens {
            let access_token = self.access_token(&session)?;
            return Ok(Reply::Json(201, json!({"access_token": access_token.expose()})));
        }
        let successor = self
            .state
            .rotate(&session.id, self.now(), self.refresh_lifetime, self.rotation_grace)?
            .ok_or_else(Refusal::no_session)?;
        Ok(Reply::Json(
            201,
            json!({
                "access_token": self.access_token(&successor)?.expose(),
                "refresh_token": self.refresh_token(&successor)?.expose(),
            }),
        ))
    }

    /// `DELETE /auth/session`: ends this log-in and no other. Access tokens stay good until they
    /// expire.
    pub(super) fn log_out(&self, request: &Request, caller: &mut Caller) -> Result<Reply, Refusal> {
        let session = self.session_of_refresh_token(request)?;
        caller.user_id = Some(UserId::new(&session.user_id));
        if self.state.log_out(&session.id)? { Ok(Reply::Empty) } else { Err(Refusal::no_session()) }
    }

    /// `GET /auth/profile`.
    pub(super) fn profile(&self, request: &Request, caller: &mut Caller) -> Result<Reply, Refusal> {
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
                "type": "normal",
            }),
        ))
    }

    /// Returns the user whose access token came with the request.
    pub(super) fn user_of_access_token(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<Arc<User>, Refusal> {
        let id = self
            .tokens
            .check_access(bearer(request)?, self.now())
            .map_err(Refusal::access_token)?;
        caller.user_id = Some(UserId::new(&id));
        match self.state.user(&id) {
            None => Err(Refusal::user_gone()),
            Some(user) if user.disabled => Err(Refusal::user_disabled_session()),
            Some(user) => Ok(user),
        }
    }

    /// Returns the server session whose refresh token came with the request. One that was replaced
    /// longer ago than the grace period is as good as gone.
    pub(super) fn session_of_refresh_token(
        &self,
        request: &Request,
    ) -> Result<Arc<Session>, Refusal> {
        let now = self.now();
        let id =
            self.tokens.check_refresh(bearer(request)?, now).map_err(Refusal::refresh_token)?;
        let outlived = |session: &Arc<Session>| {
            session.replaced.as_ref().is_some_and(|replaced| replaced.until <= now)
        };
        self.state.session(&id).filter(|session| !outlived(session)).ok_or_else(Refusal::no_session)
    }

    /// Returns the account with this name and password. A name that does not exist and a password
    /// that is wrong take the same time and get the same answer.
    fn check_password(
        &self,
        request: &Request,
        username: &str,
        password: &Secret,
    ) -> Result<Arc<Account>, Refusal> {
        // What cannot be an account's name need not be remembered as one.
        let name = if username.len() > MAX_EMAIL { "" } else { username };
        self.check_throttle(name, request)?;
        let turn = self.passwords.turn();
        // Those who waited for their turn meanwhile must not get more attempts than one by one.
        self.check_throttle(name, request)?;
        let account = self.state.account(name);
        let hash = account.as_ref().map(|account| account.password.as_str());
        match (turn.verify(password, hash), account) {
            (true, Some(account)) => {
                self.throttle.succeeded(name);
                Ok(account)
            }
            _ => {
                self.throttle.failed(name, request.peer, self.clock.monotonic());
                Err(Refusal::new(401, "InvalidPassword", "unauthorized"))
            }
        }
    }

    fn check_throttle(&self, name: &str, request: &Request) -> Result<(), Refusal> {
        self.throttle.check(name, request.peer, self.clock.monotonic()).map_err(|wait| {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            Refusal::without_code(429, "too many failed log-in attempts")
                .with_header("Retry-After", seconds.to_string())
        })
    }

    /// The seam for linking: the same route and body as a log-in, with the user's access token.
    fn wants_link(&self, request: &Request) -> bool {
        let query = request.query.as_deref().unwrap_or_default();
        query.split('&').any(|pair| pair == "link=true")
    }

    fn access_token(&self, session: &Session) -> Result<Secret, Refusal> {
        self.tokens.access(session, self.now()).map_err(|_| unsigned())
    }

    fn refresh_token(&self, session: &Session) -> Result<Secret, Refusal> {
        self.tokens.refresh(session).map_err(|_| unsigned())
    }
}

/// Reads a body. Clients say JSON also where they send nothing, so nothing counts as `{}`; fields
/// we do not know are left alone.
pub(super) fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    let text = request.body.trim_ascii();
    let text = if text.is_empty() { b"{}" } else { text };
    if !text.starts_with(b"{") {
        return Err(Refusal::bad_request("the request body must be a JSON object"));
    }
    // The parser's own message may quote the body, and with it a password.
    serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let what = if error.is_data() { "unexpected value" } else { "malformed JSON" };
        Refusal::bad_request(format!("{what} at line {line} column {column}"))
    })
}

/// Returns the token that came with the request.
fn bearer(request: &Request) -> Result<&str, Refusal> {
    let missing = || Refusal::new(401, "MissingAuthReq", "must authenticate first");
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

/// Returns the device id a client remembered, if it sent one, or a new one.
///
/// Source: realm-web `Authenticator.ts` sends `options.device.deviceId`, as an EJSON object id.
fn device_id(options: &Value) -> Result<String, Refusal> {
    let sent = &options["device"]["deviceId"];
    let sent = sent.as_str().or_else(|| sent["$oid"].as_str());
    match sent.filter(|id| random::is_id(id) && id.bytes().any(|digit| digit != b'0')) {
        Some(id) => Ok(id.to_owned()),
        None => Ok(random::id()?),
    }
}

fn identity(id: String, provider_type: &str) -> Identity {
    Identity { id, provider_type: provider_type.to_owned() }
}

fn unsigned() -> Refusal {
    Refusal::internal("the server could not sign a token")
}

fn no_secret() -> Secret {
    Secret::new("")
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::from)
}

fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| text.map(Secret::from))
}
