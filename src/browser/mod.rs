//! Sign-in with Google or any OpenID Connect provider, in a browser on this machine or on another
//! device.
//!
//! A [`SignIn`] holds the settings. [`Session::sign_in`](crate::Session::sign_in) opens the
//! browser, waits until the person has signed in, and logs in with the ID token from the provider:
//!
//! ```no_run
//! use keyfob::browser::{Page, SignIn};
//! use keyfob::Session;
//!
//! # fn main() -> keyfob::Result<()> {
//! let session = Session::builder("my-app-id", "https://example.org").open()?;
//! let sign_in = SignIn::google("1234.apps.googleusercontent.com")
//!     .client_secret("GOCSPX-…") // Google's desktop clients have one; it is not confidential
//!     .page(Page::new("Notes"));
//! let user = session.sign_in(&sign_in)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`SignIn::loopback`] and [`SignIn::device`] only return the tokens, for
//! [`Session::log_in`](crate::Session::log_in) and [`User::link`](crate::User::link). The page
//! [`browser`](crate::manual::guide::browser) of the manual has a complete program and describes
//! how to register the client with the provider.
//!
//! # What is checked
//!
//! - keyfob accepts a response only if it carries the `state` of this sign-in: 256 random bits that
//!   only the browser receives. The listener rejects every other request and continues to wait.
//! - The code can be redeemed only with a secret that never leaves this program (PKCE, S256).
//!   keyfob redeems it once.
//! - The response and the ID token must name the expected issuer. The ID token must be issued for
//!   this client, must not have expired, and must carry the nonce of this sign-in.
//! - Every endpoint must use https or be on this machine. keyfob does not follow redirects from the
//!   provider's endpoints.
//!
//! keyfob does not check the signature of the ID token, because the token comes from the token
//! endpoint over TLS. The backend checks the signature. A provider on this machine may use plain
//! http; keyfob trusts it like any other program on this machine.

mod attempt;
mod connection;
mod device;
mod endpoints;
mod id_token;
mod inbox;
mod launch;
mod listener;
mod loopback;
mod page;
mod random;
mod request;
mod tokens;

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

pub use self::device::DeviceCode;
pub use self::endpoints::Endpoints;
use self::inbox::Inbox;
pub use self::launch::can_open_browser;
use self::launch::{Callback, Open};
pub use self::listener::RedirectHost;
use self::page::Outcome;
pub use self::page::Page;
pub use self::tokens::ProviderTokens;
use crate::cancel::CancelToken;
use crate::credentials::Provider;
use crate::deadline::Deadline;
use crate::error::{Error, Printable, Result};
use crate::secret::Secret;
use crate::transport::UreqTransport;

/// The default time limit of a sign-in (5 min); see [`SignIn::deadline`].
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(300);

/// The characters allowed in a scope; keyfob joins scopes with spaces.
const SCOPE: &str = "scopes are printable ASCII without spaces, quotes and backslashes";

/// The settings of a sign-in with an identity provider. A `SignIn` can be used any number of times,
/// even concurrently. Clones share the redirect URLs from
/// [`submit_redirect`](Self::submit_redirect).
///
/// `Debug` does not show the client secret.
#[derive(Clone)]
#[must_use = "nobody signs in until it is passed to `Session::sign_in`, or `loopback` or `device` is called"]
pub struct SignIn {
    source: Source,
    backend_provider: Provider,
    client_id: String,
    client_secret: Option<Secret>,
    scopes: Vec<String>,
    parameters: Vec<(String, String)>,
    ports: Vec<u16>,
    redirect_host: RedirectHost,
    redirect_path: String,
    form_post: bool,
    allow_missing_issuer: bool,
    page: Page,
    open: Open,
    on_url: Option<Callback<str>>,
    on_code: Option<Callback<DeviceCode>>,
    limit: Duration,
    cancel: CancelToken,
    transport: Option<UreqTransport>,
    inbox: Arc<Inbox>,
}

/// The source of the endpoints.
#[derive(Clone, Debug)]
enum Source {
    /// The discovery document of this issuer.
    Discovery(String),
    Endpoints(Endpoints),
}

impl Source {
    fn issuer(&self) -> &str {
        match self {
            Self::Discovery(issuer) => issuer,
            Self::Endpoints(endpoints) => endpoints.issuer(),
        }
    }
}

impl SignIn {
    /// Creates a sign-in with Google, for a client of the type *Desktop app* (or *TVs and limited
    /// input devices* for [`device`](Self::device)). The backend's provider is `oauth2-google`,
    /// which must accept this client id.
    ///
    /// Google issues a secret for such a client; set it with
    /// [`client_secret`](Self::client_secret).
    pub fn google(client_id: impl Into<String>) -> Self {
        Self::new(Source::Endpoints(Endpoints::google()), Provider::Google, client_id.into())
    }

    /// Creates a sign-in with the OpenID Connect provider at `issuer`, such as
    /// `https://id.example.org`. keyfob reads the endpoints from its discovery document. The
    /// backend's provider is `custom-token`.
    pub fn oidc(issuer: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self::new(Source::Discovery(issuer.into()), Provider::Jwt, client_id.into())
    }

    /// Creates a sign-in with an OpenID Connect provider that has no discovery document. The
    /// backend's provider is `custom-token`.
    pub fn with_endpoints(endpoints: Endpoints, client_id: impl Into<String>) -> Self {
        Self::new(Source::Endpoints(endpoints), Provider::Jwt, client_id.into())
    }

    fn new(source: Source, backend_provider: Provider, client_id: String) -> Self {
        Self {
            source,
            backend_provider,
            client_id,
            client_secret: None,
            scopes: ["openid", "email", "profile"].map(str::to_owned).to_vec(),
            parameters: Vec::new(),
            ports: vec![0],
            redirect_host: RedirectHost::default(),
            redirect_path: "/callback".to_owned(),
            form_post: false,
            allow_missing_issuer: false,
            page: Page::default(),
            open: Open::default(),
            on_url: None,
            on_code: None,
            limit: DEFAULT_DEADLINE,
            cancel: CancelToken::new(),
            transport: None,
            inbox: Arc::default(),
        }
    }

    /// Uses another issuer, such as a test identity provider in place of Google. keyfob reads its
    /// discovery document.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.source = Source::Discovery(issuer.into());
        self
    }

    /// Sets the backend's provider that receives the ID token: [`Provider::Google`],
    /// [`Provider::Apple`] or [`Provider::Jwt`].
    pub fn backend_provider(mut self, provider: Provider) -> Self {
        self.backend_provider = provider;
        self
    }

    /// Sets the client secret. keyfob sends it to the token endpoint with the method that the
    /// provider requires. Anyone who has the program can extract the secret, so a provider must not
    /// rely on it.
    pub fn client_secret(mut self, secret: impl Into<Secret>) -> Self {
        self.client_secret = Some(secret.into());
        self
    }

    /// Sets the scopes to request, which must include `openid`. Defaults to `openid`, `email` and
    /// `profile`.
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// Adds a parameter to the authorization request, such as `prompt`, `login_hint` or `audience`.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// Listens on this port, for a provider that checks the port of the redirect URL. Defaults to
    /// any free port.
    pub fn port(self, port: u16) -> Self {
        self.ports([port])
    }

    /// Listens on the first free port of these.
    pub fn ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.ports = ports.into_iter().collect();
        self
    }

    /// Sets the host of the redirect URL. Defaults to 127.0.0.1.
    pub fn redirect_host(mut self, host: RedirectHost) -> Self {
        self.redirect_host = host;
        self
    }

    /// Sets the path of the redirect URL. Defaults to `/callback`. With an empty path the URL ends
    /// with the port.
    pub fn redirect_path(mut self, path: impl Into<String>) -> Self {
        self.redirect_path = path.into();
        self
    }

    /// Requests the provider's response as a form POST, which keeps the code out of the browser's
    /// history. The provider must list `form_post` among its response modes. A redirect URL cannot
    /// be pasted in this mode, because it contains no code. By default the response is in the query
    /// of the redirect URL.
    pub fn form_post(mut self, form_post: bool) -> Self {
        self.form_post = form_post;
        self
    }

    /// Accepts a response without an issuer even if the discovery document promises one, as some
    /// versions of Keycloak send it. If the response names an issuer, it must match in any case.
    pub fn allow_missing_issuer(mut self, allow: bool) -> Self {
        self.allow_missing_issuer = allow;
        self
    }

    /// Sets the texts of the page that the browser shows after the sign-in.
    pub fn page(mut self, page: Page) -> Self {
        self.page = page;
        self
    }

    /// Calls `show` with the URL to open, before keyfob starts a browser. The sign-in continues
    /// when `show` returns. By default keyfob prints a line to standard error.
    pub fn on_url(mut self, show: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_url = Some(Arc::new(show));
        self
    }

    /// Calls `show` with the code to enter on another device. By default keyfob prints a line to
    /// standard error.
    pub fn on_code(mut self, show: impl Fn(&DeviceCode) + Send + Sync + 'static) -> Self {
        self.on_code = Some(Arc::new(show));
        self
    }

    /// Opens the URL with this function. By default keyfob starts the first usable program in
    /// `$BROWSER`, or otherwise the default browser of the desktop, if there is one
    /// ([`can_open_browser`]).
    pub fn open_with(mut self, open: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.open = Open::With(Arc::new(open));
        self
    }

    /// Does not start a browser; the person opens the URL.
    pub fn open_nothing(mut self) -> Self {
        self.open = Open::Nothing;
        self
    }

    /// Sets the time limit of the sign-in. Defaults to [`DEFAULT_DEADLINE`].
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Ends the sign-in when this token is cancelled.
    pub fn cancel_token(mut self, token: &CancelToken) -> Self {
        self.cancel = token.clone();
        self
    }

    /// Sends the requests to the provider through this transport, for another proxy or other root
    /// certificates. Defaults to [`UreqTransport::new`].
    pub fn transport(mut self, transport: UreqTransport) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Signs a person in with the browser, and returns the provider's tokens.
    ///
    /// Listens on this machine, shows the URL, opens the browser, waits for the response and
    /// exchanges its code for the tokens. The browser then shows that the person can return to the
    /// program, or why the sign-in failed. Blocks for the [deadline](Self::deadline) at most. The
    /// listener is closed when this returns.
    ///
    /// # Errors
    /// [`Error::SignIn`] with the kind of failure. [`Error::Transport`] if the provider is
    /// unreachable. [`Error::Cancelled`] if the sign-in was cancelled. [`Error::Config`] if a
    /// setting is invalid.
    pub fn loopback(&self) -> Result<ProviderTokens> {
        loopback::run(self, self.limit(), Outcome::Returned, Ok)
    }

    /// Signs a person in with the browser, and calls `then` with the tokens while the browser
    /// waits. The page shows whether `then` succeeded, or why it failed. For example, for
    /// [`User::link`](crate::User::link):
    ///
    /// ```no_run
    /// # use keyfob::{User, browser::SignIn};
    /// # fn link(user: &User, sign_in: &SignIn) -> keyfob::Result<()> {
    /// sign_in.loopback_then(|tokens| user.link(&tokens.credentials()))
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of [`loopback`](Self::loopback), and the errors of `then`.
    pub fn loopback_then<T>(&self, then: impl FnOnce(ProviderTokens) -> Result<T>) -> Result<T> {
        self.loopback_within(self.limit(), then)
    }

    /// Signs a person in on another device, and returns the provider's tokens.
    ///
    /// Shows a code, and polls the provider at the interval that it allows until the person has
    /// entered the code on another device. Blocks for the [deadline](Self::deadline) at most.
    ///
    /// Use this only when the person asked for it. An attacker who makes another person enter a
    /// code is signed in as that person, and neither the provider nor this program can detect it.
    ///
    /// # Errors
    /// The errors of [`loopback`](Self::loopback). [`Error::Config`] if the provider does not
    /// support the device flow.
    pub fn device(&self) -> Result<ProviderTokens> {
        device::run(self, self.limit())
    }

    /// Passes the redirect URL that a person has copied from a browser on another machine to the
    /// sign-in that waits for it. Call this from a different thread than the one that waits.
    ///
    /// # Errors
    /// [`Error::Config`] if no sign-in of this `SignIn` waits for this URL. The sign-in continues
    /// to wait.
    pub fn submit_redirect(&self, url: &str) -> Result<()> {
        self.inbox.submit(url)
    }

    pub(crate) fn token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Returns the deadline of a sign-in that starts now.
    pub(crate) fn limit(&self) -> Deadline {
        Deadline::after(self.limit).with_cancel(&self.cancel)
    }

    /// Like [`loopback_then`](Self::loopback_then), with another deadline.
    pub(crate) fn loopback_within<T>(
        &self,
        deadline: Deadline,
        then: impl FnOnce(ProviderTokens) -> Result<T>,
    ) -> Result<T> {
        loopback::run(self, deadline, Outcome::Success, then)
    }

    fn show(&self, url: &str) {
        match &self.on_url {
            Some(show) => show(url),
            None => print(&format!("Open this page to sign in: {url}")),
        }
    }

    fn show_code(&self, code: &DeviceCode) {
        match &self.on_code {
            Some(show) => show(code),
            None => {
                let (page, code) = (Printable(&code.verification_uri), Printable(&code.user_code));
                print(&format!("To sign in, open {page} on any device and enter the code {code}"));
            }
        }
    }

    /// Validates the settings.
    fn check(&self) -> Result<()> {
        if let Source::Endpoints(endpoints) = &self.source {
            endpoints.check().map_err(|reason| Error::config("the provider", reason))?;
        }
        if self.client_id.is_empty() || self.client_id.contains(char::is_control) {
            return Err(Error::config("the client id", "it is empty or has control characters"));
        }
        let is_in_scope = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        let is_scope = |scope: &String| !scope.is_empty() && scope.bytes().all(is_in_scope);
        if !self.scopes.iter().all(is_scope) {
            return Err(Error::config("the scopes", SCOPE));
        }
        if !self.scopes.iter().any(|scope| scope == "openid") {
            let reason = "`openid` is not among them, so there would be no ID token";
            return Err(Error::config("the scopes", reason));
        }
        if self.ports.is_empty() {
            return Err(Error::config("the ports", "there are none; 0 is any free one"));
        }
        if !is_redirect_path(&self.redirect_path) {
            let reason = "expected a path such as /callback, of letters, digits, `-`, `_` and `.`";
            return Err(Error::config("the redirect path", reason));
        }
        for (at, (name, _)) in self.parameters.iter().enumerate() {
            let before = &self.parameters[..at];
            if is_own(name) || before.iter().any(|(other, _)| other == name) {
                let reason = format!("`{name}` is repeated, or keyfob sets it");
                return Err(Error::config("a parameter of the sign-in", reason));
            }
        }
        match self.backend_provider {
            Provider::Apple | Provider::Google | Provider::Jwt => Ok(()),
            _ => {
                let reason = "only those of Google, Apple and custom JWTs accept ID tokens";
                Err(Error::config("the backend's provider", reason))
            }
        }
    }
}

/// Returns `true` for parameters that keyfob sets itself and the program must not set.
fn is_own(name: &str) -> bool {
    const OWN: [&str; 14] = [
        "client_assertion",
        "client_id",
        "client_secret",
        "code_challenge",
        "code_challenge_method",
        "device_code",
        "grant_type",
        "nonce",
        "redirect_uri",
        "request",
        "response_mode",
        "response_type",
        "scope",
        "state",
    ];
    name.is_empty() || OWN.contains(&name)
}

/// Returns `true` if browsers request this path unchanged.
fn is_redirect_path(path: &str) -> bool {
    let is_segment = |segment: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        !segment.is_empty() && segment.bytes().all(allowed) && ![".", ".."].contains(&segment)
    };
    match path.strip_prefix('/') {
        Some("") => true,
        Some(rest) => rest.strip_suffix('/').unwrap_or(rest).split('/').all(is_segment),
        None => path.is_empty(),
    }
}

/// Prints a line to standard error, best effort.
fn print(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn")
            .field("issuer", &self.source.issuer())
            .field("backend_provider", &self.backend_provider)
            .field("client_id", &self.client_id)
            .field("client_secret", &self.client_secret)
            .field("scopes", &self.scopes)
            .field("ports", &self.ports)
            .field("redirect_host", &self.redirect_host)
            .field("redirect_path", &self.redirect_path)
            .field("open", &self.open)
            .field("deadline", &self.limit)
            .finish_non_exhaustive()
    }
}
