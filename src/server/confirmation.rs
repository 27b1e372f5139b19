//! How e-mail addresses are confirmed, and passwords replaced.

use std::fmt;

use serde_json::Value;

use crate::Secret;

/// How the server confirms a registered e-mail address.
#[derive(Default)]
#[non_exhaustive]
pub enum Confirmation {
    /// Without asking.
    #[default]
    Automatic,
    /// With a token that is mailed to the address: see [`Server::outbox`](super::Server::outbox).
    Email,
    /// By a function that decides, or that sends the token in its own way.
    Function(Box<ConfirmationFunction>),
}

/// How the server replaces a forgotten password.
#[derive(Default)]
#[non_exhaustive]
pub enum Reset {
    /// With a token that is mailed to the address: see [`Server::outbox`](super::Server::outbox).
    #[default]
    Email,
    /// By a function that decides, or that sends the token in its own way.
    Function(Box<ResetFunction>),
}

/// What decides about an e-mail address.
pub type ConfirmationFunction = dyn Fn(&ConfirmationCall) -> Verdict + Send + Sync;

/// What decides about a new password.
pub type ResetFunction = dyn Fn(&ResetCall) -> Verdict + Send + Sync;

/// A confirmation that is to be decided.
///
/// Source: the service's custom confirmation functions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConfirmationCall {
    /// The e-mail address.
    pub username: String,
    /// Confirms the address later, together with `token_id`.
    pub token: Secret,
    /// What goes with the token.
    pub token_id: String,
}

/// A new password that is to be decided.
///
/// Source: the service's custom password reset functions.
#[derive(Clone)]
#[non_exhaustive]
pub struct ResetCall {
    /// The e-mail address.
    pub username: String,
    /// The new password.
    pub password: Secret,
    /// Lets the password be replaced later, together with `token_id`.
    pub token: Secret,
    /// What goes with the token.
    pub token_id: String,
    /// What the client sent along, as it was sent.
    pub arguments: Vec<Value>,
}

/// What a confirmation or reset function decides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// Refuse.
    Fail,
    /// Wait until the client sends the token.
    Pending,
    /// Confirm the address, or replace the password, now.
    Success,
}

impl Confirmation {
    /// Confirms by a function.
    pub fn function<F>(function: F) -> Self
    where
        F: Fn(&ConfirmationCall) -> Verdict + Send + Sync + 'static,
    {
        Self::Function(Box::new(function))
    }
}

impl Reset {
    /// Replaces passwords by a function.
    pub fn function<F>(function: F) -> Self
    where
        F: Fn(&ResetCall) -> Verdict + Send + Sync + 'static,
    {
        Self::Function(Box::new(function))
    }
}

impl fmt::Debug for ResetCall {
    /// Without the arguments, which are whatever the app makes of them.
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
