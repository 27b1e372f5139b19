//! Log-in by way of an identity provider, in the person's browser.

use super::Session;
use crate::browser::SignIn;
use crate::error::Result;
use crate::user::User;

impl Session {
    /// Signs a person in with an identity provider in the browser, logs in with the result, and
    /// makes the user current.
    ///
    /// Opens the browser and blocks until the person has signed in, at most for the deadline of the
    /// sign-in ([`SignIn::deadline`], 5 min unless set); then logs in as
    /// [`log_in`](Self::log_in) does, within the session's deadline. The browser waits for that, and
    /// shows whether the person is logged in.
    ///
    /// # Errors
    /// As [`SignIn::loopback`] and [`log_in`](Self::log_in). Nothing is stored after an error.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> keyfob::Result<()> {
    /// # let session = keyfob::Session::builder("my-app-id", "https://example.org").open()?;
    /// use keyfob::browser::SignIn;
    ///
    /// let user = session.sign_in(&SignIn::oidc("https://id.example.org", "my-client-id"))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sign_in(&self, sign_in: &SignIn) -> Result<User> {
        self.inner.shutdown.check()?;
        let deadline = sign_in.limit().with_shutdown(&self.inner.shutdown);
        let outcome =
            sign_in.loopback_within(deadline, |tokens| self.log_in(&tokens.credentials()));
        outcome.map_err(|error| match self.inner.shutdown.check() {
            // To a sign-in, the shutdown is the end of its time.
            Err(shut_down) if error.is_timeout() => shut_down,
            _ => error,
        })
    }
}
