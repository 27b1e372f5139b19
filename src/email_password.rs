//! Accounts with e-mail address and password: registration, confirmation and password reset.

use crate::account::RequestOutcome;
use crate::arguments::Arguments;
use crate::ejson;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::session::Session;
use crate::wire::{self, Route};

/// The client for accounts that the backend identifies by e-mail address and password; returned by
/// [`Session::email_password`].
///
/// No method needs a user or changes which users are logged in. Each call blocks for one request,
/// within the session's deadline. The first request also waits for the look-up of the backend's
/// location.
#[derive(Debug)]
pub struct EmailPassword<'a> {
    session: &'a Session,
}

impl<'a> EmailPassword<'a> {
    pub(crate) fn new(session: &'a Session) -> Self {
        Self { session }
    }

    /// Registers an address with a password.
    ///
    /// This does not log in. To log in, call [`Session::log_in`] with
    /// [`Credentials::email_password`](crate::Credentials::email_password). If the app requires
    /// confirmation, the address must be confirmed first. The backend decides which passwords it
    /// accepts; App Services accepts 6 to 128 characters.
    ///
    /// # Errors
    /// - [`Error::Server`] with code `AccountNameInUse` if the address is already registered, or
    ///   `InvalidParameter` if the backend does not accept the address or the password.
    /// - [`Error::Transport`] if the backend could not be reached. If the error
    ///   [`is_ambiguous`](Error::is_ambiguous), the address may have been registered.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use keyfob::ServerErrorCode;
    ///
    /// let accounts = session.email_password();
    /// accounts.register("ada@example.org", "correct horse")?;
    /// let again = accounts.register("ada@example.org", "another horse").unwrap_err();
    /// assert_eq!(again.server_code(), Some(&ServerErrorCode::AccountNameInUse));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `app.cpp`, `UsernamePasswordProviderClient::register_email`.
    pub fn register(&self, email: &str, password: impl Into<Secret>) -> Result<()> {
        self.send(&Route::register(self.app(), email, &password.into()))
    }

    /// Registers an address as [`register`](Self::register) does. Returns whether the address can
    /// log in now or has to be confirmed first, if the backend reports that.
    ///
    /// # Errors
    /// As [`EmailPassword::register`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use keyfob::server::{Confirmation, Server};
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{RequestOutcome, Session};
    ///
    /// let server = Server::builder().confirmation(Confirmation::Email).start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// let outcome =
    ///     session.email_password().register_with_outcome("ada@example.org", "correct horse")?;
    /// if outcome == RequestOutcome::Pending {
    ///     println!("open the link in the mail to ada@example.org");
    /// }
    /// # assert_eq!(outcome, RequestOutcome::Pending);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn register_with_outcome(
        &self,
        email: &str,
        password: impl Into<Secret>,
    ) -> Result<RequestOutcome> {
        let route = Route::register(self.app(), email, &password.into());
        self.send_for_outcome(&route)
    }

    /// Confirms an address with the `token` and `tokenId` from the link in the confirmation e-mail.
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserpassTokenInvalid` or `BadRequest` if the pair is wrong,
    /// used, older than 30 minutes, or replaced by that of a newer e-mail; with code
    /// `UserAlreadyConfirmed` if the address is already confirmed.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use keyfob::server::{Confirmation, MailKind, Server};
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{Credentials, Deadline, Session};
    ///
    /// let server = Server::builder().confirmation(Confirmation::Email).start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// session.email_password().register("ada@example.org", "correct horse")?;
    /// // A person copies both from the link in the mail; a test takes the mail from the server.
    /// let deadline = Deadline::after(Duration::from_secs(5));
    /// let mail = server.wait_for_mail("ada@example.org", MailKind::Confirmation, deadline).unwrap();
    /// session.email_password().confirm(mail.token, &mail.token_id)?;
    /// session.log_in(&Credentials::email_password("ada@example.org", "correct horse"))?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `app.cpp`, `UsernamePasswordProviderClient::confirm_user`.
    pub fn confirm(&self, token: impl Into<Secret>, token_id: &str) -> Result<()> {
        self.send(&Route::confirm(self.app(), &token.into(), token_id))
    }

    /// Asks the backend to send the confirmation e-mail again.
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserNotFound` if the address is not registered, with code
    /// `UserAlreadyConfirmed` if it is already confirmed, and without a code if the app does not
    /// confirm by e-mail.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use keyfob::Session;
    /// use keyfob::server::{Confirmation, Server};
    /// use keyfob::store::MemoryStore;
    ///
    /// let server = Server::builder().confirmation(Confirmation::Email).start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// session.email_password().register("ada@example.org", "correct horse")?;
    /// session.email_password().resend_confirmation("ada@example.org")?;
    /// assert_eq!(server.outbox().len(), 2);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `app.cpp`, `UsernamePasswordProviderClient::resend_confirmation_email`.
    pub fn resend_confirmation(&self, email: &str) -> Result<()> {
        self.send(&Route::resend_confirmation(self.app(), email))
    }

    /// Asks the backend to run the app's own confirmation function again, for an address whose
    /// confirmation is pending. The function may leave the address pending.
    ///
    /// # Errors
    /// As [`EmailPassword::resend_confirmation`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// use keyfob::server::{Confirmation, Server, Verdict};
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{Credentials, Session};
    ///
    /// // A function of the app that confirms an address when it is asked a second time.
    /// let asked = AtomicBool::new(false);
    /// let function = Confirmation::function(move |_| match asked.swap(true, Ordering::Relaxed) {
    ///     true => Verdict::Success,
    ///     false => Verdict::Pending,
    /// });
    /// let server = Server::builder().confirmation(function).start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// session.email_password().register("ada@example.org", "correct horse")?;
    /// session.email_password().retry_custom_confirmation("ada@example.org")?;
    /// session.log_in(&Credentials::email_password("ada@example.org", "correct horse"))?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `app.cpp`, `UsernamePasswordProviderClient::retry_custom_confirmation`.
    pub fn retry_custom_confirmation(&self, email: &str) -> Result<()> {
        self.send(&Route::retry_confirmation(self.app(), email))
    }

    /// Asks the backend to send an e-mail with which the user can set a new password.
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserNotFound` if the address is not registered, and without a
    /// code if the app does not reset passwords by e-mail.
    ///
    /// # Examples
    ///
    /// All steps, from the forgotten password to the new one:
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # session.email_password().register("ada@example.org", "correct horse")?;
    /// # let ada = keyfob::Credentials::email_password("ada@example.org", "correct horse");
    /// # let user = session.log_in(&ada)?;
    /// use std::time::Duration;
    ///
    /// use keyfob::server::MailKind;
    /// use keyfob::{Credentials, Deadline};
    ///
    /// session.email_password().send_reset("ada@example.org")?;
    /// // A person copies both from the link in the mail; a test takes the mail from the server.
    /// let deadline = Deadline::after(Duration::from_secs(5));
    /// let mail = server.wait_for_mail("ada@example.org", MailKind::PasswordReset, deadline).unwrap();
    /// session.email_password().complete_reset("new horse", mail.token, &mail.token_id)?;
    /// session.log_in(&Credentials::email_password("ada@example.org", "new horse"))?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `app.cpp`, `UsernamePasswordProviderClient::send_reset_password_email`.
    pub fn send_reset(&self, email: &str) -> Result<()> {
        self.send(&Route::send_reset(self.app(), email))
    }

    /// Sets a new password with the `token` and `tokenId` from the link in the reset e-mail; see
    /// [`send_reset`](Self::send_reset) for an example.
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserpassTokenInvalid` or `BadRequest` if the pair is wrong,
    /// used, older than 30 minutes, or replaced by that of a newer e-mail.
    ///
    /// Source: realm-core `app.cpp`, `UsernamePasswordProviderClient::reset_password`.
    pub fn complete_reset(
        &self,
        password: impl Into<Secret>,
        token: impl Into<Secret>,
        token_id: &str,
    ) -> Result<()> {
        let (password, token) = (password.into(), token.into());
        self.send(&Route::complete_reset(self.app(), &password, &token, token_id))
    }

    /// Asks the app's own reset function to accept or refuse a new password. The function receives
    /// `arguments`, a list as for [`Functions::call`](crate::Functions::call).
    ///
    /// Returns whether the password was changed, if the backend reports that. A function can keep
    /// the old password until [`complete_reset`](Self::complete_reset) is called with a token that
    /// the function sends by other means: this returns [`RequestOutcome::Pending`]. App Services
    /// does not report which of the two happened: this returns [`RequestOutcome::Unknown`].
    ///
    /// # Errors
    /// [`Error::Server`] with code `UserNotFound` if the address is not registered, or `BadRequest`
    /// if the function refused.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use keyfob::server::{Reset, Server, Verdict};
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{Credentials, RequestOutcome, Session};
    ///
    /// // A function of the app that asks for the name of a pet.
    /// let function = Reset::function(|call| match call.arguments.first() {
    ///     Some(pet) if pet == "Byron" => Verdict::Success,
    ///     _ => Verdict::Fail,
    /// });
    /// let server = Server::builder().reset(function).start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// let accounts = session.email_password();
    /// accounts.register("ada@example.org", "correct horse")?;
    /// let outcome = accounts.call_reset_function("ada@example.org", "new horse", ("Byron",))?;
    /// assert_eq!(outcome, RequestOutcome::Done);
    /// session.log_in(&Credentials::email_password("ada@example.org", "new horse"))?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: realm-core `app.cpp`,
    /// `UsernamePasswordProviderClient::call_reset_password_function`.
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
