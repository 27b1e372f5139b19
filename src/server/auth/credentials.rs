//! Checks the credentials of each provider, and produces a verified login.

use serde_json::{Map, Value};

use super::{Field, body, can_be_kept, check_values, field, identity, is_email, profile_too_large};
use crate::server::clock::Time;
use crate::server::error::ApiError;
use crate::server::http::Request;
use crate::server::providers::{
    APPLE, CUSTOM_FUNCTION, CUSTOM_TOKEN, FACEBOOK, GOOGLE, ProviderError, ProviderIdentity,
    is_identity_id,
};
use crate::server::service::Service;
use crate::server::state::{
    ANONYMOUS, API_KEY, Account, EMAIL_PASSWORD, LoginSource, VerifiedLogin, profile_fits,
};
use crate::server::throttle::Action;
use crate::server::{digest, random};
use crate::{Clock, Secret};

impl Service {
    /// Checks credentials. Fields of other providers are ignored.
    pub(super) fn identify(
        &self,
        request: &Request,
        provider: &str,
    ) -> Result<VerifiedLogin, ApiError> {
        match provider {
            ANONYMOUS => {
                self.count(Action::AnonymousLogin, None, request)?;
                let id = format!("{}-{}", random::id()?, random::letters(8)?);
                Ok(VerifiedLogin::new(identity(id, ANONYMOUS)))
            }
            EMAIL_PASSWORD => {
                let (username, password) =
                    (credential(request, "username")?, credential(request, "password")?);
                self.identify_account(request, username.expose(), &password)
            }
            API_KEY => {
                let key = credential(request, "key")?;
                let attempt = self.begin_attempt(Action::ApiKeyLogin, None, request)?;
                self.identify_key(&key).inspect(|_| attempt.succeeded())
            }
            CUSTOM_FUNCTION => self.identify_by_function(request),
            _ => self.identify_elsewhere(request, provider),
        }
    }

    /// Checks credentials from another identity provider.
    fn identify_elsewhere(
        &self,
        request: &Request,
        provider: &str,
    ) -> Result<VerifiedLogin, ApiError> {
        let attempt = self.begin_attempt(Action::ProviderLogin, None, request)?;
        let proved = match self.ask_provider(request, provider) {
            Ok(proved) => proved,
            Err(error) => {
                attempt.abandoned();
                return Err(error);
            }
        };
        let ProviderIdentity { id, data } = match proved {
            Ok(proved) => proved,
            Err(ProviderError::Refused) => return Err(ApiError::auth_error("unauthorized")),
            Err(ProviderError::Unreachable(reason)) => {
                attempt.abandoned();
                let message = format!("what '{provider}' needs could not be fetched: {reason}");
                return Err(ApiError::new(503, "InternalServerError", message));
            }
        };
        attempt.succeeded();
        check(&data)?;
        Ok(VerifiedLogin { data, current: true, ..VerifiedLogin::new(identity(id, provider)) })
    }

    fn ask_provider(
        &self,
        request: &Request,
        provider: &str,
    ) -> Result<Result<ProviderIdentity, ProviderError>, ApiError> {
        let time = Time { now: self.now(), monotonic: self.clock.monotonic() };
        let providers = &self.providers;
        let unsupported = || ApiError::unsupported_provider(provider);
        let field = |name| credential(request, name);
        Ok(match provider {
            CUSTOM_TOKEN => {
                let tokens = providers.custom_token.as_ref().ok_or_else(unsupported)?;
                tokens.identify(field("token")?.expose(), time)
            }
            APPLE => {
                let apple = providers.apple.as_ref().ok_or_else(unsupported)?;
                apple.identify(field("id_token")?.expose(), time)
            }
            GOOGLE => {
                let google = providers.google.as_ref().ok_or_else(unsupported)?;
                match optional_credential(request, "id_token")? {
                    Some(token) => google.identify(token.expose(), time),
                    None => google.identify_code(field("authCode")?.expose(), time),
                }
            }
            FACEBOOK => {
                let facebook = providers.facebook.as_ref().ok_or_else(unsupported)?;
                facebook.identify(field("accessToken")?.expose())
            }
            _ => return Err(unsupported()),
        })
    }

    fn identify_account(
        &self,
        request: &Request,
        username: &str,
        password: &Secret,
    ) -> Result<VerifiedLogin, ApiError> {
        let account = self.check_password(request, username, password)?;
        if account.pending {
            return Err(ApiError::auth_error("unauthorized"));
        }
        let Account { id, email, password, .. } = Account::clone(&account);
        Ok(VerifiedLogin {
            data: Map::from_iter([("email".to_owned(), email.into())]),
            basis: LoginSource::Account { password },
            ..VerifiedLogin::new(identity(id, EMAIL_PASSWORD))
        })
    }

    fn identify_key(&self, key: &Secret) -> Result<VerifiedLogin, ApiError> {
        let hash = digest::sha256(key.expose());
        if let Some((identity, name)) = self.providers.server_key(&hash) {
            return Ok(VerifiedLogin {
                data: Map::from_iter([("name".to_owned(), name.into())]),
                basis: LoginSource::ServerKey,
                ..VerifiedLogin::new(identity)
            });
        }
        let key = self.state.api_key_with_hash(&hash).filter(|key| !key.disabled);
        let key = key.ok_or_else(|| ApiError::auth_error("unauthorized"))?;
        Ok(VerifiedLogin {
            basis: LoginSource::ApiKey,
            ..VerifiedLogin::new(identity(key.id.clone(), API_KEY))
        })
    }

    fn identify_by_function(&self, request: &Request) -> Result<VerifiedLogin, ApiError> {
        let function = self.providers.function.as_ref();
        let function = function.ok_or_else(|| ApiError::unsupported_provider(CUSTOM_FUNCTION))?;
        check_values(request)?;
        let mut payload: Map<String, Value> = body(request)?;
        // `options` describes the client. It is a field of the protocol, not of the payload.
        payload.remove("options");
        let account = account_of(&payload);
        let attempt = self.begin_attempt(Action::FunctionLogin, account.as_deref(), request)?;
        let answer = function(&Value::Object(payload))
            .map_err(|error| ApiError::auth_error(error.to_string()))?;
        if !is_identity_id(&answer.id) {
            return Err(ApiError::auth_error("the function returned no id"));
        }
        attempt.succeeded();
        check(&answer.data)?;
        let identity = identity(answer.id, CUSTOM_FUNCTION);
        Ok(VerifiedLogin { data: answer.data, current: true, ..VerifiedLogin::new(identity) })
    }

    /// Returns the account with this name and password. An unknown name and a wrong password take
    /// the same time and get the same response.
    fn check_password(
        &self,
        request: &Request,
        username: &str,
        password: &Secret,
    ) -> Result<std::sync::Arc<Account>, ApiError> {
        // An invalid account name need not be stored as a key of the throttle.
        let name = if is_email(username) { username } else { "" };
        // The attempt is counted before the check, so that concurrent requests waiting for a slot
        // get no more attempts than sequential ones.
        let attempt = self.begin_attempt(Action::PasswordLogin, Some(name), request)?;
        let mut turn = self.passwords.turn();
        let account = self.state.account(name);
        let hash = account.as_ref().map(|account| account.password.as_str());
        match (turn.verify(password, hash)?, account) {
            (true, Some(account)) => {
                attempt.succeeded();
                Ok(account)
            }
            _ => Err(ApiError::invalid_password()),
        }
    }
}

/// Returns the account that the payload of a function log-in names, if it uses a common field name.
fn account_of(payload: &Map<String, Value>) -> Option<String> {
    ["username", "email", "user", "name", "id"].iter().find_map(|name| {
        match payload.get(*name)? {
            Value::String(text) => Some(text.clone()),
            // Numbers and ids in extended JSON are objects.
            value @ (Value::Number(_) | Value::Object(_)) => Some(value.to_string()),
            _ => None,
        }
    })
}

/// Rejects profile data of a provider if it is too large or could not be parsed again.
fn check(data: &Map<String, Value>) -> Result<(), ApiError> {
    (profile_fits(data) && can_be_kept(data)).then_some(()).ok_or_else(profile_too_large)
}

/// Returns one text field of the request body.
fn credential(request: &Request, name: &str) -> Result<Secret, ApiError> {
    optional_credential(request, name)?.ok_or_else(|| ApiError::missing_parameter(name))
}

fn optional_credential(request: &Request, name: &str) -> Result<Option<Secret>, ApiError> {
    match field(request, &[name])? {
        Field::Missing => Ok(None),
        Field::Text(text) => Ok(Some(text)),
        Field::Other => Err(ApiError::bad_request(format!("{name} must be a string"))),
    }
}
