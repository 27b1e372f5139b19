//! The kinds of requests, by name.

use std::fmt;

/// A kind of request. [Faults](super::Faults) apply to routes, and the [journal](super::Journal)
/// counts requests by route.
///
/// `Display` shows the method and the path below `/api/client/v2.0`, such as `POST /auth/session`,
/// with `…` for the parts that vary.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Route {
    /// `POST …/auth/providers/local-userpass/confirm/call`: runs the confirmation function again.
    CallConfirmation,
    /// `POST …/functions/call`
    CallFunction,
    /// `POST …/auth/providers/local-userpass/reset/call`: the function that replaces a password.
    CallReset,
    /// `POST …/auth/providers/local-userpass/confirm`
    Confirm,
    /// `POST /auth/api_keys`
    CreateApiKey,
    /// `DELETE /auth/api_keys/…`
    DeleteApiKey,
    /// `DELETE /auth/delete`
    DeleteUser,
    /// `PUT /auth/api_keys/…/disable`
    DisableApiKey,
    /// `PUT /auth/api_keys/…/enable`
    EnableApiKey,
    /// `GET /auth/api_keys/…`
    GetApiKey,
    /// `GET /health`, which is outside the client API.
    Health,
    /// `POST …/auth/providers/…/login?link=true`, with any provider.
    Link,
    /// `GET /auth/api_keys`
    ListApiKeys,
    /// `GET …/location`
    Location,
    /// `POST …/auth/providers/…/login`, with any provider.
    LogIn,
    /// `DELETE /auth/session`
    LogOut,
    /// A page for people, outside the client API: `GET /confirm`, `GET /reset` and the log that
    /// errors link to.
    Page,
    /// `GET /auth/profile`
    Profile,
    /// `POST /auth/session`: a new access token for a refresh token.
    Refresh,
    /// `POST …/auth/providers/local-userpass/register`
    Register,
    /// `POST …/auth/providers/local-userpass/reset`
    Reset,
    /// `POST …/auth/providers/local-userpass/confirm/send`
    SendConfirmation,
    /// `POST …/auth/providers/local-userpass/reset/send`
    SendReset,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CallConfirmation => "POST …/auth/providers/local-userpass/confirm/call",
            Self::CallFunction => "POST …/functions/call",
            Self::CallReset => "POST …/auth/providers/local-userpass/reset/call",
            Self::Confirm => "POST …/auth/providers/local-userpass/confirm",
            Self::CreateApiKey => "POST /auth/api_keys",
            Self::DeleteApiKey => "DELETE /auth/api_keys/…",
            Self::DeleteUser => "DELETE /auth/delete",
            Self::DisableApiKey => "PUT /auth/api_keys/…/disable",
            Self::EnableApiKey => "PUT /auth/api_keys/…/enable",
            Self::GetApiKey => "GET /auth/api_keys/…",
            Self::Health => "GET /health",
            Self::Link => "POST …/auth/providers/…/login?link=true",
            Self::ListApiKeys => "GET /auth/api_keys",
            Self::Location => "GET …/location",
            Self::LogIn => "POST …/auth/providers/…/login",
            Self::LogOut => "DELETE /auth/session",
            Self::Page => "GET /…",
            Self::Profile => "GET /auth/profile",
            Self::Refresh => "POST /auth/session",
            Self::Register => "POST …/auth/providers/local-userpass/register",
            Self::Reset => "POST …/auth/providers/local-userpass/reset",
            Self::SendConfirmation => "POST …/auth/providers/local-userpass/confirm/send",
            Self::SendReset => "POST …/auth/providers/local-userpass/reset/send",
        })
    }
}
