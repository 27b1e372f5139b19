//! Log-in through an identity provider in the user's browser.

use super::Session;
use crate::browser::SignIn;
use crate::error::Result;
use crate::user::User;

impl Session {
    /// Signs a person in with an identity provider in the browser, logs in with the result, and
    /// makes the user current.
    ///
    /// Opens the browser and blocks until the person has signed in, for at most the deadline of the
    /// sign-in ([`SignIn::deadline`], 5 min by default). Then logs in as [`log_in`](Self::log_in)
    /// does, within the session's deadline. The browser waits for the log-in and shows its result.
    ///
    /// The token of [`SignIn::cancel_token`] and that of [`with_cancel`](Self::with_cancel) each
    /// cancel both the sign-in and the log-in.
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
        self.check()?;
        let both = Self { cancel: Some(sign_in.token().clone()), ..self.clone() };
        let outcome = sign_in.loopback_within(self.interruptible(sign_in.limit()), |tokens| {
            let (credentials, deadline) = (tokens.credentials(), self.deadline());
            self.inner.log_in(&credentials, deadline.with_cancel(sign_in.token()))
        });
        // A sign-in reports a shutdown as a timeout.
        let user = outcome.map_err(|error| both.explain(self.explain(error)))?;
        Ok(self.handle(user))
    }
}
