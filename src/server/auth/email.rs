//! E-mail accounts: registration, confirmation and password reset.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{body, check_values, is_email, no_secret, or_default, secret};
use crate::Secret;
use crate::server::confirmation::{Confirmation, ConfirmationCall, Reset, ResetCall, Verdict};
use crate::server::error::ApiError;
use crate::server::http::Request;
use crate::server::outbox::{Mail, MailKind};
use crate::server::service::{Reply, Service};
use crate::server::state::{Account, Purpose, Registered};
use crate::server::throttle::Action;
use crate::server::{digest, random};

/// Longer tokens are rejected as malformed.
const MAX_TOKEN: usize = 1024;

/// The lifetime of a mailed token in seconds, as with App Services.
const PROOF_LIFETIME: i64 = 30 * 60;

#[derive(Deserialize)]
struct Registration {
    #[serde(default, deserialize_with = "or_default")]
    email: String,
    #[serde(default = "no_secret", deserialize_with = "secret")]
    password: Secret,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default, deserialize_with = "or_default")]
    email: String,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default = "no_secret", deserialize_with = "secret")]
    token: Secret,
    #[serde(default, deserialize_with = "or_default", rename = "tokenId")]
    token_id: String,
    #[serde(default = "no_secret", deserialize_with = "secret")]
    password: Secret,
}

#[derive(Deserialize)]
struct ResetByFunction {
    #[serde(default, deserialize_with = "or_default")]
    email: String,
    #[serde(default = "no_secret", deserialize_with = "secret")]
    password: Secret,
    #[serde(default)]
    arguments: Option<Vec<Value>>,
}

impl Service {
    /// `POST …/auth/providers/local-userpass/register`.
    pub(in crate::server) fn register(&self, request: &Request) -> Result<Reply, ApiError> {
        if self.providers.registration_disabled {
            return Err(ApiError::without_code(403, "registration is disabled"));
        }
        let Registration { email, password } = body(request)?;
        if email.is_empty() {
            return Err(email_invalid());
        }
        check_email(&email)?;
        check_length(&password)?;
        self.count(Action::Registration, None, request)?;
        let taken = || ApiError::new(409, "AccountNameInUse", "name already in use");
        if self.state.account(&email).is_some() {
            return Err(taken());
        }
        let account = Account {
            id: random::id()?,
            email,
            password: self.passwords.turn().hash(&password)?,
            created_at: self.now(),
            pending: !matches!(self.email.confirmation, Confirmation::Automatic),
            confirm: None,
            reset: None,
        };
        let (id, email) = (account.id.clone(), account.email.clone());
        // Another request may have registered the name while the password was hashed.
        match self.state.add_account(account)? {
            Registered::Done => {}
            Registered::Full => return Err(ApiError::full()),
            Registered::Taken => return Err(taken()),
        }
        let confirm = || match &self.email.confirmation {
            Confirmation::Automatic => Ok(Verdict::Success),
            Confirmation::Email => {
                self.mail(&id, &email, Purpose::Confirm).map(|()| Verdict::Pending)
            }
            Confirmation::Function(_) => self.run_confirmation(&id, &email),
        };
        // The app's code runs here. If it panics, the account is not confirmed, and its name is
        // freed.
        let confirmed = catch_unwind(AssertUnwindSafe(confirm));
        if !matches!(confirmed, Ok(Ok(_))) {
            self.state.drop_pending_account(&id)?;
        }
        let verdict = confirmed.unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(Reply::Json(201, status(verdict)))
    }

    /// `POST …/confirm`: confirms an address with a mailed token.
    pub(in crate::server) fn confirm(&self, request: &Request) -> Result<Reply, ApiError> {
        let Tokens { token, token_id, .. } = body(request)?;
        check_pair(&token, &token_id)?;
        let attempt = self.begin_attempt(Action::MailToken, Some(&token_id), request)?;
        let account = self.state.account_with_id(&token_id).ok_or_else(token_invalid)?;
        if !account.pending {
            attempt.abandoned();
            return Err(already_confirmed());
        }
        let hash = digest::sha256(token.expose());
        if !self.state.confirm_account(&account.id, Some((&hash, self.now())))? {
            return Err(token_invalid());
        }
        attempt.succeeded();
        Ok(Reply::Json(200, json!({})))
    }

    /// `POST …/confirm/send`: sends another mail.
    pub(in crate::server) fn send_confirmation(
        &self,
        request: &Request,
    ) -> Result<Reply, ApiError> {
        let account = self.known_account(request)?;
        if !account.pending {
            return Err(already_confirmed());
        }
        match self.email.confirmation {
            Confirmation::Email => self.mail(&account.id, &account.email, Purpose::Confirm)?,
            _ => {
                let message =
                    format!("cannot send mail to {}: confirmation is not by email", account.email);
                return Err(ApiError::without_code(400, message));
            }
        }
        Ok(Reply::Json(200, json!({})))
    }

    /// `POST …/confirm/call`: runs the confirmation function again.
    pub(in crate::server) fn call_confirmation(
        &self,
        request: &Request,
    ) -> Result<Reply, ApiError> {
        let account = self.known_account(request)?;
        let other_mode = match self.email.confirmation {
            Confirmation::Automatic => "automatic confirmation is enabled",
            Confirmation::Email => "confirmation by email is enabled",
            Confirmation::Function(_) if !account.pending => return Err(already_confirmed()),
            Confirmation::Function(_) => {
                let verdict = self.run_confirmation(&account.id, &account.email)?;
                return Ok(Reply::Json(200, status(verdict)));
            }
        };
        let message = format!("cannot run confirmation for {}: {other_mode}", account.email);
        Err(ApiError::without_code(400, message))
    }

    /// `POST …/reset/send`: mails a token that allows the password to be replaced.
    pub(in crate::server) fn send_reset(&self, request: &Request) -> Result<Reply, ApiError> {
        let account = self.known_account(request)?;
        if matches!(self.email.reset, Reset::Function(_)) {
            let message = "please use reset password via function";
            return Err(ApiError::without_code(400, message));
        }
        self.mail(&account.id, &account.email, Purpose::Reset)?;
        Ok(Reply::Json(200, json!({})))
    }

    /// `POST …/reset`: replaces a password with the help of a mailed token, and revokes the user's
    /// sessions.
    pub(in crate::server) fn reset(&self, request: &Request) -> Result<Reply, ApiError> {
        let Tokens { token, token_id, password } = body(request)?;
        check_pair(&token, &token_id)?;
        check_length(&password)?;
        let attempt = self.begin_attempt(Action::MailToken, Some(&token_id), request)?;
        let account = self.state.account_with_id(&token_id).ok_or_else(token_invalid)?;
        let hash = digest::sha256(token.expose());
        // Hashing the password is too expensive for an invalid token.
        if !account.accepts(Purpose::Reset, &hash, self.now()) {
            return Err(token_invalid());
        }
        let password = self.passwords.turn().hash(&password)?;
        if !self.state.reset_password(&account.id, password, Some((&hash, self.now())))? {
            return Err(token_invalid());
        }
        attempt.succeeded();
        self.throttle.forgive(Action::PasswordLogin, &account.email);
        Ok(Reply::Json(200, json!({})))
    }

    /// `POST …/reset/call`: asks the function to decide on a new password.
    pub(in crate::server) fn call_reset(&self, request: &Request) -> Result<Reply, ApiError> {
        check_values(request)?;
        let ResetByFunction { email, password, arguments } = body(request)?;
        check_email(&email)?;
        self.count(Action::Mail, Some(&email), request)?;
        let account = self.state.account(&email).ok_or_else(not_found)?;
        let Reset::Function(function) = &self.email.reset else {
            let message = "cannot run reset password function: reset by email is enabled";
            return Err(ApiError::without_code(400, message));
        };
        check_length(&password)?;
        let (token, token_id) = self.new_proof(&account.id, Purpose::Reset)?;
        let call = ResetCall {
            username: email,
            password: password.clone(),
            token,
            token_id,
            arguments: arguments.unwrap_or_default(),
        };
        let verdict = function(&call);
        match verdict {
            Verdict::Success => {
                let password = self.passwords.turn().hash(&password)?;
                if !self.state.reset_password(&account.id, password, None)? {
                    return Err(not_found());
                }
                self.throttle.forgive(Action::PasswordLogin, &account.email);
            }
            Verdict::Pending => {}
            Verdict::Fail => {
                let message = format!("failed to reset password for user \"{}\"", account.email);
                return Err(ApiError::bad_request(message));
            }
        }
        Ok(Reply::Json(200, status(verdict)))
    }

    /// Asks the function to decide on a pending account.
    fn run_confirmation(&self, id: &str, email: &str) -> Result<Verdict, ApiError> {
        let Confirmation::Function(function) = &self.email.confirmation else {
            return Ok(Verdict::Pending);
        };
        let (token, token_id) = self.new_proof(id, Purpose::Confirm)?;
        match function(&ConfirmationCall { username: email.to_owned(), token, token_id }) {
            Verdict::Success => {
                if !self.state.confirm_account(id, None)? {
                    return Err(not_found());
                }
                Ok(Verdict::Success)
            }
            Verdict::Pending => Ok(Verdict::Pending),
            Verdict::Fail => {
                Err(ApiError::bad_request(format!("failed to confirm user \"{email}\"")))
            }
        }
    }

    fn mail(&self, id: &str, email: &str, purpose: Purpose) -> Result<(), ApiError> {
        let (token, token_id) = self.new_proof(id, purpose)?;
        let (kind, page, url) = match purpose {
            Purpose::Confirm => (MailKind::Confirmation, "confirm", &self.email.confirm_url),
            Purpose::Reset => (MailKind::PasswordReset, "reset", &self.email.reset_url),
        };
        let own;
        let url = match url {
            Some(url) => url,
            None => {
                own = format!("{}/{page}", self.base_url);
                &own
            }
        };
        let separator = if url.contains('?') { '&' } else { '?' };
        let link = format!("{url}{separator}token={}&tokenId={token_id}", token.expose());
        let to = email.to_owned();
        self.email.outbox.put(Mail { to, kind, token, token_id, link: Secret::new(link) });
        Ok(())
    }

    /// Creates a token for this purpose, which replaces an earlier one. Its id is the account's id.
    fn new_proof(&self, id: &str, purpose: Purpose) -> Result<(Secret, String), ApiError> {
        let token = Secret::new(random::hex(&random::bytes::<64>()?));
        let until = self.now().saturating_add(PROOF_LIFETIME);
        if !self.state.put_proof(id, purpose, digest::sha256(token.expose()), until)? {
            return Err(not_found());
        }
        Ok((token, id.to_owned()))
    }

    /// Returns the account that a mail is requested for.
    fn known_account(&self, request: &Request) -> Result<Arc<Account>, ApiError> {
        let Address { email } = body(request)?;
        check_email(&email)?;
        self.count(Action::Mail, Some(&email), request)?;
        self.state.account(&email).ok_or_else(not_found)
    }
}

/// Rejects a malformed token or token id.
///
/// Source: realm-dart `test/credentials_test.dart`, `confirm user token expired` and `…invalid`.
fn check_pair(token: &Secret, token_id: &str) -> Result<(), ApiError> {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let token = token.expose();
    let is_token = (1..=MAX_TOKEN).contains(&token.len()) && is_hex(token);
    if is_token && token_id.len() == 24 && is_hex(token_id) {
        Ok(())
    } else {
        Err(ApiError::bad_request("invalid token data"))
    }
}

/// Rejects invalid addresses before any other check.
fn check_email(email: &str) -> Result<(), ApiError> {
    if is_email(email) { Ok(()) } else { Err(email_invalid()) }
}

fn email_invalid() -> ApiError {
    ApiError::invalid_parameter("email invalid")
}

/// Returns the result of a request. App Services does not send it, and its clients ignore it.
fn status(verdict: Verdict) -> Value {
    json!({"status": if verdict == Verdict::Success { "success" } else { "pending" }})
}

fn check_length(password: &Secret) -> Result<(), ApiError> {
    if (6..=128).contains(&password.expose().chars().count()) {
        Ok(())
    } else {
        Err(ApiError::invalid_parameter("password must be between 6 and 128 characters"))
    }
}

fn already_confirmed() -> ApiError {
    ApiError::new(400, "UserAlreadyConfirmed", "already confirmed")
}

fn not_found() -> ApiError {
    ApiError::new(404, "UserNotFound", "user not found")
}

fn token_invalid() -> ApiError {
    ApiError::new(400, "UserpassTokenInvalid", "userpass token is expired or invalid")
}
