//! What may be asked of the command, once it is parsed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use keyfob::server::AuthProvider;
use keyfob::{ApiKeyId, Secret, UserId};

use crate::browser::BrowserLogin;
use crate::json::Json;
use crate::words::Settings;

/// What is to be done, and where.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    pub(crate) settings: Settings,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Command {
    ApiKeys(ApiKeys),
    Call {
        name: String,
        arguments: Vec<Json>,
    },
    CallReset {
        email: String,
        arguments: Vec<Json>,
    },
    CompleteReset(MailToken),
    Confirm(MailToken),
    CustomData {
        refresh: bool,
    },
    Delete(Option<UserId>),
    Demo,
    Link(How),
    LogIn(How),
    LogOut(Option<UserId>),
    Profile {
        refresh: bool,
    },
    Register {
        email: String,
    },
    Remove(Option<UserId>),
    ResendConfirmation {
        email: String,
    },
    ResetPassword {
        email: String,
    },
    RetryConfirmation {
        email: String,
    },
    Serve(Box<Serve>),
    Switch(UserId),
    /// Help, or the version.
    Text(String),
    Token,
    Users,
    Watch,
    Whoami,
}

/// How to log in, or what to link.
#[derive(Debug)]
pub(crate) enum How {
    Browser(Box<BrowserLogin>),
    Given(Login),
}

/// What is given to log in with. Secrets are not here: they are read from standard input.
#[derive(Debug)]
pub(crate) enum Login {
    Anonymous { new: bool },
    ApiKey,
    Apple,
    Email(String),
    Facebook,
    Function(Json),
    GoogleAuthCode,
    GoogleIdToken,
    Jwt,
}

/// The pair from a mail.
#[derive(Debug)]
pub(crate) struct MailToken {
    pub(crate) token: Secret,
    pub(crate) token_id: String,
}

/// What to do with API keys.
#[derive(Debug)]
pub(crate) enum ApiKeys {
    Create(String),
    Delete(ApiKeyId),
    Disable(ApiKeyId),
    Enable(ApiKeyId),
    Get(ApiKeyId),
    List,
}

/// What backend to run.
#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) data: Option<PathBuf>,
    pub(crate) addr: SocketAddr,
    pub(crate) access_ttl: Option<Duration>,
    pub(crate) refresh_ttl: Option<Duration>,
    /// Whether addresses have to be confirmed by mail.
    pub(crate) mail: bool,
    /// The file with the secret of those who sign custom JWTs.
    pub(crate) jwt_secret_file: Option<PathBuf>,
    /// Where the keys of those are who sign custom JWTs.
    pub(crate) jwt_jwks: Option<String>,
    /// The client ids for which Google's ID tokens are accepted.
    pub(crate) google_client_ids: Vec<String>,
    /// Providers that are switched off.
    pub(crate) disabled: Vec<AuthProvider>,
    pub(crate) no_registration: bool,
    pub(crate) no_rate_limits: bool,
    pub(crate) public_url: Option<String>,
    pub(crate) trusted_proxies: Vec<IpAddr>,
}
