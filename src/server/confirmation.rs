//! How the server confirms e-mail addresses and replaces passwords.

use std::fmt;

use serde_json::Value;

use super::outbox::Outbox;
use crate::Secret;

/// The settings of e-mail accounts.
#[derive(Default)]
pub(super) struct EmailSettings {
    pub confirmation: Confirmation,
    pub confirm_url: Option<String>,
    pub reset: Reset,
    pub reset_url: Option<String>,
    pub outbox: Outbox,
}

/// How the server confirms a registered e-mail address.
#[derive(Default)]
#[non_exhaustive]
pub enum Confirmation {
    /// Immediately, without a check.
    #[default]
    Automatic,
    /// With a token that is mailed to the address: see [`Server::outbox`](super::Server::outbox).
    Email,
    /// With a function, which decides or sends the token in its own way.
    Function(Box<ConfirmationFunction>),
}

/// How the server replaces a forgotten password.
#[derive(Default)]
#[non_exhaustive]
pub enum Reset {
    /// With a token that is mailed to the address: see [`Server::outbox`](super::Server::outbox).
    #[default]
    Email,
    /// With a function, which decides or sends the token in its own way.
    Function(Box<ResetFunction>),
}

/// A function that decides about an e-mail address.
pub type ConfirmationFunction = dyn Fn(&ConfirmationCall) -> Verdict + Send + Sync;

/// A function that decides about a new password.
pub type ResetFunction = dyn Fn(&ResetCall) -> Verdict + Send + Sync;

/// A confirmation request, for the function to decide.
///
/// Source: the service's custom confirmation functions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConfirmationCall {
    /// The e-mail address.
    pub username: String,
    /// A token that confirms the address later, together with `token_id`.
    pub token: Secret,
    /// The id of the token.
    pub token_id: String,
}

/// A request for a new password, for the function to decide.
///
/// Source: the service's custom password reset functions.
#[derive(Clone)]
#[non_exhaustive]
pub struct ResetCall {
    /// The e-mail address.
    pub username: String,
    /// The new password.
    pub password: Secret,
    /// A token that allows the password to be replaced later, together with `token_id`.
    pub token: Secret,
    /// The id of the token.
    pub token_id: String,
    /// The arguments as the client sent them.
    pub arguments: Vec<Value>,
}

/// The decision of a confirmation or reset function.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// Reject the request.
    Fail,
    /// Wait until the client sends the token.
    Pending,
    /// Confirm the address, or replace the password, now.
    Success,
}

impl Confirmation {
    /// Creates a confirmation that calls a function.
    pub fn function<F>(function: F) -> Self
    where
        F: Fn(&ConfirmationCall) -> Verdict + Send + Sync + 'static,
    {
        Self::Function(Box::new(function))
    }
}

impl Reset {
    /// Creates a reset that calls a function.
    pub fn function<F>(function: F) -> Self
    where
        F: Fn(&ResetCall) -> Verdict + Send + Sync + 'static,
    {
        Self::Function(Box::new(function))
    }
}

impl fmt::Debug for ResetCall {
    /// Omits the arguments, which may contain secrets of the app.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResetCall")
            .field("username", &self.username)
            .field("token_id", &self.token_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Automatic => "Automatic",
            Self::Email => "Email",
            Self::Function(_) => "Function(..)",
        })
    }
}

impl fmt::Debug for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Email => "Email",
            Self::Function(_) => "Function(..)",
        })
    }
}
