//! Settings for log-in providers, registration and account confirmation.

use serde_json::Value;

use super::ServerBuilder;
use crate::Secret;
#[cfg(doc)]
use crate::server::Server;
use crate::server::functions::FunctionError;
use crate::server::{
    Apple, AuthFunctionAnswer, AuthProvider, Confirmation, CustomJwt, Facebook, Google, Mail, Oidc,
    Reset,
};

impl ServerBuilder {
    /// Disables a provider: log-ins and links with it get status 404 and the code
    /// `AuthProviderNotFound`. By default, anonymous users, e-mail addresses with passwords, and
    /// API keys can log in. The other providers are disabled until they are configured.
    ///
    /// Without [`AuthProvider::EmailPassword`], clients cannot register, confirm an address or
    /// reset a password. Without [`AuthProvider::ApiKey`], clients cannot create or enable a key;
    /// they can still list, disable and delete keys. Users who logged in with a provider earlier
    /// stay logged in.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::server::{AuthProvider, Server};
    /// # use keyfob::store::MemoryStore;
    /// # use keyfob::{Credentials, ServerErrorCode, Session};
    ///
    /// let server = Server::builder().disable_provider(AuthProvider::Anonymous).start()?;
    /// # let session = Session::builder(server.app_id(), server.base_url())
    /// #     .store(MemoryStore::new())
    /// #     .open()?;
    /// let error = session.log_in(&Credentials::anonymous()).unwrap_err();
    /// assert_eq!(error.server_code(), Some(&ServerErrorCode::AuthProviderNotFound));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disable_provider(mut self, provider: AuthProvider) -> Self {
        self.providers.disabled.push(provider);
        self
    }

    /// Disables registration: registrations get status 403. Users who have an account can still log
    /// in.
    pub fn disable_registration(mut self) -> Self {
        self.providers.registration_disabled = true;
        self
    }

    /// Sets how e-mail addresses are confirmed. Defaults to [`Confirmation::Automatic`].
    ///
    /// An account cannot log in until it is confirmed. If a confirmation function rejects a
    /// registration, the server deletes the account.
    pub fn confirmation(mut self, confirmation: Confirmation) -> Self {
        self.email.confirmation = confirmation;
        self
    }

    /// Sets how forgotten passwords are replaced. Defaults to [`Reset::Email`].
    ///
    /// Replacing a password revokes the user's server sessions: the server rejects their refresh
    /// tokens from then on. Access tokens stay valid until they expire.
    pub fn reset(mut self, reset: Reset) -> Self {
        self.email.reset = reset;
        self
    }

    /// Sets the page that confirmation mails link to; `token` and `tokenId` are appended. Defaults
    /// to this server's page `/confirm`, which asks the user for a click.
    pub fn confirm_url(mut self, url: impl Into<String>) -> Self {
        self.email.confirm_url = Some(url.into());
        self
    }

    /// Sets the page that password-reset mails link to; `token` and `tokenId` are appended.
    /// Defaults to this server's page `/reset`, which asks the user for the new password.
    pub fn reset_url(mut self, url: impl Into<String>) -> Self {
        self.email.reset_url = Some(url.into());
        self
    }

    /// Sets a function that receives each mail after it was added to the [outbox](Server::outbox).
    /// It runs on the thread of the connection that caused the mail.
    pub fn on_mail<F>(mut self, on_mail: F) -> Self
    where
        F: Fn(&Mail) + Send + Sync + 'static,
    {
        self.email.outbox.on_mail = Some(Box::new(on_mail));
        self
    }

    /// Adds an API key of the app. It replaces an earlier key of the same name. Log-ins with the
    /// key belong to a separate user of type `server`. The key needs at least 16 characters;
    /// generate it randomly.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::server::Server;
    /// # use keyfob::store::MemoryStore;
    /// # use keyfob::{Credentials, Session};
    ///
    /// let key = "k4b3-9f2c-7d1e-55aa"; // from a secret of the machine
    /// let server = Server::builder().server_api_key("importer", key).start()?;
    /// # let session = Session::builder(server.app_id(), server.base_url())
    /// #     .store(MemoryStore::new())
    /// #     .open()?;
    /// let user = session.log_in(&Credentials::api_key(key))?;
    /// assert_eq!(user.profile()?.kind(), Some("server"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn server_api_key(mut self, name: impl Into<String>, key: impl Into<Secret>) -> Self {
        self.providers.server_keys.push((name.into(), key.into()));
        self
    }

    /// Accepts log-ins with JWTs of an issuer of your choice: the provider `custom-token`. It can
    /// be used together with [`oidc`](Self::oidc).
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::server::{CustomJwt, JwtKeys, Server};
    ///
    /// let keys = JwtKeys::jwks("https://issuer.example/.well-known/jwks.json");
    /// let server = Server::builder()
    ///     .custom_jwt(CustomJwt::new(keys).audience("my-app").issuer("https://issuer.example"))
    ///     .start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn custom_jwt(mut self, custom_jwt: CustomJwt) -> Self {
        self.providers.custom_jwt = Some(custom_jwt);
        self
    }

    /// Accepts log-ins with ID tokens of an OpenID Connect provider: the provider `custom-token`.
    /// Each call adds one provider. The issuer named in a token selects the provider that verifies
    /// it.
    pub fn oidc(mut self, oidc: Oidc) -> Self {
        self.providers.oidc.push(oidc);
        self
    }

    /// Starts a test identity provider beside the server, in place of Google or another OpenID
    /// Connect provider. It signs in every user under the name they pick or type, without a
    /// password.
    ///
    /// **Anyone who can reach this server can sign in as anyone.** Use it only for development and
    /// tests. It is off by default, and available on this machine only: [`start`](Self::start)
    /// fails if other machines can reach the server or if it has a [public URL](Self::public_url).
    /// The test provider rejects requests that came through a proxy or name another host.
    ///
    /// Its ID tokens log in with two providers:
    ///
    /// - `oauth2-google`, for the client ids of [`google`](Self::google), or for any client id if
    ///   that was not called;
    /// - `custom-token`, for the client ids of [`oidc`](Self::oidc), or for any client id if that
    ///   was not called.
    ///
    /// The test provider does not change which tokens of other issuers are accepted.
    ///
    /// With `oauth2-google`, an e-mail address is the same identity after each start. With
    /// `custom-token`, the identity contains the issuer, and with it the port. Tokens issued before
    /// the current start are rejected.
    ///
    /// [`Server::test_issuer`] returns its issuer. With the feature `browser`, use `SignIn::issuer`
    /// to direct a program's sign-in to it:
    ///
    /// ```
    /// # #[cfg(feature = "browser")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use keyfob::browser::SignIn;
    /// use keyfob::server::Server;
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{Provider, Session};
    ///
    /// let server = Server::builder().test_identity_provider().start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    ///
    /// let sign_in = SignIn::google("1234.apps.googleusercontent.com")
    ///     .issuer(server.test_issuer().unwrap())
    ///     // In place of a browser and a person: fills in the form, and follows the redirect.
    ///     .open_with(|url| {
    ///         let url = url.to_owned();
    ///         std::thread::spawn(move || ureq::post(url).send_form([("name", "Ada Lovelace")]));
    ///     });
    /// let user = session.sign_in(&sign_in)?;
    /// assert_eq!(user.identities()?[0].provider, Provider::Google);
    /// assert_eq!(user.profile()?.name(), Some("Ada Lovelace"));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "browser"))]
    /// # fn main() {}
    /// ```
    pub fn test_identity_provider(mut self) -> Self {
        self.test_provider = true;
        self
    }

    /// Accepts log-ins with Google: the provider `oauth2-google`.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::server::{Google, Server};
    ///
    /// let server = Server::builder().google(Google::new("1234.apps.googleusercontent.com")).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn google(mut self, google: Google) -> Self {
        self.providers.google = Some(google);
        self
    }

    /// Accepts log-ins with Apple: the provider `oauth2-apple`.
    pub fn apple(mut self, apple: Apple) -> Self {
        self.providers.apple = Some(apple);
        self
    }

    /// Accepts log-ins with Facebook: the provider `oauth2-facebook`.
    pub fn facebook(mut self, facebook: Facebook) -> Self {
        self.providers.facebook = Some(facebook);
        self
    }

    /// Accepts log-ins that a function approves: the provider `custom-function`.
    ///
    /// The function receives the payload that the client sent, in canonical or relaxed extended
    /// JSON and without `options`. It returns the identity of the user. If it fails, the client
    /// gets the message of its error, with status 401 and the code `AuthError`.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::server::{AuthFunctionAnswer, Server};
    /// # use keyfob::store::MemoryStore;
    /// # use keyfob::{Credentials, Session};
    /// use serde_json::json;
    ///
    /// let server = Server::builder()
    ///     .auth_function(|payload| match payload["badge"].as_str() {
    ///         Some(badge) => Ok(AuthFunctionAnswer::new(badge).data("name", "Ada")),
    ///         None => Err("no badge".into()),
    ///     })
    ///     .start()?;
    /// # let session = Session::builder(server.app_id(), server.base_url())
    /// #     .store(MemoryStore::new())
    /// #     .open()?;
    /// let user = session.log_in(&Credentials::function(json!({"badge": "A-113"}))?)?;
    /// assert_eq!(user.profile()?.name(), Some("Ada"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn auth_function<F>(mut self, function: F) -> Self
    where
        F: Fn(&Value) -> Result<AuthFunctionAnswer, FunctionError> + Send + Sync + 'static,
    {
        self.providers.function = Some(Box::new(function));
        self
    }
}
