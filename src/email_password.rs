//! Accounts with e-mail address and password: what comes before a log-in, and what helps when it
//! fails.

use crate::account::RequestOutcome;
use crate::arguments::Arguments;
use crate::ejson;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::session::Session;
use crate::wire::{self, Route};

/// The client for accounts that the backend keeps by e-mail address and password;
/// returned by [`Session::email_password`].
///
/// Nothing here needs a user or changes who is logged in. Each call blocks for one request (and the
/// look-up of the host before the first), within the session's deadline.
#[derive(Debug)]
pub struct EmailPassword<'a> {
    session: &'a Session,
}

impl<'a> EmailPassword<'a> {
    pub(crate) fn new(session: &'a Session) -> Self {
        Self { session }
    }

    /// Registers an address with a password. It does not log in; that is
    /// [`Session::log_in`] with
    /// [`Credentials::email_password`](crate::Credentials::email_password), once the address is
    /// confirmed if the app asks for that.
    ///
    /// Passwords have 6 to 128 characters on App Services; the backend judges. Blocks for two
    /// requests at most, within the session's deadline.
    ///
    /// # Errors
    /// [`Error::Server`] with code `AccountNameInUse` if the address is registered,
    /// `InvalidParameter` if the backend takes no such address or password;
    /// [`Error::Transport`] if the backend could not be reached; if
    /// [`is_ambiguous`](Error::is_ambiguous), the address may be registered all the same.
    ///
    /// Source: realm-core `app.cpp`, `UsernamePasswordProviderClient::register_email`.
    pub fn register(&self, email: &str, password: impl Into<Secret>) -> Result<()> {
        self.send(&Route::register(self.app(), email, &password.into()))
    }

    /// Registers an address as [`register`](Self::register) does, and returns whether the address
    /// can log in now or has to be confirmed first, as far as the backend says.
    ///
    /// # Errors
    /// As [`EmailPassword::register`].
    pub fn register_with_outcome(
        &self,
        email: &str,
        password: impl Into<Secret>,
    ) -> Result<RequestOutcome> {
        let route = Route::register(self.app(), email, &password.into());
        self.send_for_outcome(&route)
    }

    /// Confirms an address with the `token` and `tokenId` from the link in the confirmation mail.
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserpassTokenInvalid` or `BadRequest` if the pair is wrong,
    /// used, older than 30 minutes or replaced by that of a newer mail, `UserAlreadyConfirmed` if
    /// there is nothing left to confirm.
    ///
    /// Source: `UsernamePasswordProviderClient::confirm_user`.
    pub fn confirm(&self, token: impl Into<Secret>, token_id: &str) -> Result<()> {
        self.send(&Route::confirm(self.app(), &token.into(), token_id))
    }

    /// Has the confirmation mail sent again.
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserNotFound` if nobody registered the address,
    /// `UserAlreadyConfirmed` if it is confirmed; without a code if the app confirms in another way.
    ///
    /// Source: `UsernamePasswordProviderClient::resend_confirmation_email`.
    pub fn resend_confirmation(&self, email: &str) -> Result<()> {
        self.send(&Route::resend_confirmation(self.app(), email))
    }

    /// Has the app's own confirmation function run again for an address that is still pending. The
    /// address may be pending after it, too.
    ///
    /// # Errors
    /// As [`EmailPassword::resend_confirmation`].
    ///
    /// Source: `UsernamePasswordProviderClient::retry_custom_confirmation`.
    pub fn retry_custom_confirmation(&self, email: &str) -> Result<()> {
        self.send(&Route::retry_confirmation(self.app(), email))
    }

    /// Has a mail sent with which the password can be set anew.
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserNotFound` if nobody registered the address; without a code
    /// if the app resets passwords in another way.
    ///
    /// Source: `UsernamePasswordProviderClient::send_reset_password_email`.
    pub fn send_reset(&self, email: &str) -> Result<()> {
        self.send(&Route::send_reset(self.app(), email))
    }

    /// Sets a new password with the `token` and `tokenId` from the link in the reset mail.
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserpassTokenInvalid` or `BadRequest` if the pair is wrong,
    /// used, older than 30 minutes or replaced by that of a newer mail.
    ///
    /// Source: `UsernamePasswordProviderClient::reset_password`.
    pub fn complete_reset(
        &self,
        password: impl Into<Secret>,
        token: impl Into<Secret>,
        token_id: &str,
    ) -> Result<()> {
        let (password, token) = (password.into(), token.into());
        self.send(&Route::complete_reset(self.app(), &password, &token, token_id))
    }

    /// Has the app's own reset function decide about a new password. `arguments` is a list,
    /// as for [`Functions::call`](crate::Functions::call), and is handed to the function.
    ///
    /// Returns whether the password was changed, as far as the backend says. A function can leave the
    /// old password in place until [`complete_reset`](Self::complete_reset) is called with the pair
    /// that it passes on in its own way: [`RequestOutcome::Pending`]. App Services does not say which
    /// of the two it was: [`RequestOutcome::Unknown`].
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserNotFound` if nobody registered the address, `BadRequest` if
    /// the function refused.
    ///
    /// Source: `UsernamePasswordProviderClient::call_reset_password_function`.
    pub fn call_reset_function(
        &self,
        email: &str,
        password: impl Into<Secret>,
        arguments: impl Arguments,
    ) -> Result<RequestOutcome> {
        let arguments = ejson::list(&arguments)?;
        let arguments = serde_json::from_slice(&arguments)
            .map_err(|error| Error::decode("the arguments of a function", error))?;
        self.send_for_outcome(&Route::call_reset(self.app(), email, &password.into(), arguments))
    }

    fn send_for_outcome(&self, route: &Route) -> Result<RequestOutcome> {
        let session = self.session;
        let response = session.within(|deadline| session.inner.send_plain(route, deadline))?;
        Ok(wire::outcome(response.body()))
    }

    fn app(&self) -> &str {
        self.session.app_id()
    }

    fn send(&self, route: &Route) -> Result<()> {
        let session = self.session;
        session.within(|deadline| session.inner.send_plain(route, deadline)).map(|_| ())
    }
}
