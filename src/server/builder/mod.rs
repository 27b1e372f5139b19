//! Server settings. `auth` contains the settings for log-in, `rate_limits` those for rate limits,
//! and `state` the limits on users and sessions. `start` checks the settings and starts the server.

mod auth;
mod rate_limits;
mod start;
mod state;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

#[cfg(doc)]
use super::Server;
use super::confirmation::EmailSettings;
use super::functions::{Context, FunctionError, Functions};
use super::http::Limits;
use super::providers;
use super::rate_limits::RateLimits;
use super::service::CustomData;
use crate::{Clock, SystemClock};

/// The settings of a [`Server`]; created by [`Server::builder`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use keyfob::server::{Confirmation, Server};
/// use serde_json::json;
///
/// let server = Server::builder()
///     .app_id("my-app")
///     .access_token_lifetime(Duration::from_secs(60))
///     .confirmation(Confirmation::Email)
///     .function("greet", |caller, _| Ok(json!(format!("hello, {}", caller.user_id()))))
///     .start()?;
/// println!("{} at {}", server.app_id(), server.base_url());
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a builder does nothing until `start` is called"]
pub struct ServerBuilder {
    app_id: String,
    addr: SocketAddr,
    allow_public: bool,
    public_url: Option<String>,
    data_dir: Option<PathBuf>,
    access_token_lifetime: Duration,
    refresh_token_lifetime: Duration,
    rotate_refresh_tokens: bool,
    rotation_grace: Duration,
    clock: Arc<dyn Clock>,
    custom_data: Option<Box<CustomData>>,
    email: EmailSettings,
    functions: Functions,
    providers: providers::Settings,
    login_attempts: Option<Option<u32>>,
    rate_limits: Option<RateLimits>,
    test_provider: bool,
    trusted_proxies: Vec<IpAddr>,
    max_body_size: usize,
    max_request_memory: usize,
    max_sessions_per_user: usize,
    max_users: usize,
    limits: Limits,
}

impl ServerBuilder {
    /// The default app id.
    pub const DEFAULT_APP_ID: &str = "keyfob-local";
    /// The default lifetime of access tokens: 30 minutes, as with App Services.
    pub const DEFAULT_ACCESS_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 60);
    /// The default lifetime of refresh tokens: 60 days, as with App Services.
    pub const DEFAULT_REFRESH_TOKEN_LIFETIME: Duration = Duration::from_secs(60 * 24 * 3600);
    /// The default time that a replaced refresh token stays valid: 60 seconds.
    pub const DEFAULT_ROTATION_GRACE: Duration = Duration::from_secs(60);
    /// The default number of failed log-ins that an account may have within 15 minutes.
    pub const DEFAULT_LOGIN_ATTEMPTS: u32 = 20;
    /// The default limit of the body of a function call: 16 MiB.
    pub const DEFAULT_MAX_BODY_SIZE: usize = 16 * 1024 * 1024;
    /// The default limit of the memory for large bodies and the arguments of function calls: 256
    /// MiB.
    pub const DEFAULT_MAX_REQUEST_MEMORY: usize = 256 * 1024 * 1024;
    /// The default number of server sessions that a user may have.
    pub const DEFAULT_MAX_SESSIONS_PER_USER: usize = 1000;
    /// The default number of users that may exist.
    pub const DEFAULT_MAX_USERS: usize = 100_000;
    /// The default number of open connections.
    pub const DEFAULT_MAX_CONNECTIONS: usize = 512;
    /// The default number of open connections of one address.
    pub const DEFAULT_MAX_CONNECTIONS_PER_ADDRESS: usize = 256;
    /// The default time that a connection may wait for its next request: 60 seconds.
    pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
    /// The default time limit for receiving a request, and for the client to receive a response: 30
    /// seconds.
    pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
    /// The default time that a shutdown waits for requests in progress: 5 seconds.
    pub const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

    pub(super) fn new() -> Self {
        Self {
            app_id: Self::DEFAULT_APP_ID.to_owned(),
            addr: (Ipv4Addr::LOCALHOST, 0).into(),
            allow_public: false,
            public_url: None,
            data_dir: None,
            access_token_lifetime: Self::DEFAULT_ACCESS_TOKEN_LIFETIME,
            refresh_token_lifetime: Self::DEFAULT_REFRESH_TOKEN_LIFETIME,
            rotate_refresh_tokens: false,
            rotation_grace: Self::DEFAULT_ROTATION_GRACE,
            clock: Arc::new(SystemClock),
            custom_data: None,
            email: EmailSettings::default(),
            functions: Functions::default(),
            providers: providers::Settings::default(),
            login_attempts: None,
            rate_limits: None,
            test_provider: false,
            trusted_proxies: Vec::new(),
            max_body_size: Self::DEFAULT_MAX_BODY_SIZE,
            max_request_memory: Self::DEFAULT_MAX_REQUEST_MEMORY,
            max_sessions_per_user: Self::DEFAULT_MAX_SESSIONS_PER_USER,
            max_users: Self::DEFAULT_MAX_USERS,
            limits: Limits {
                connections: Self::DEFAULT_MAX_CONNECTIONS,
                connections_per_client: Self::DEFAULT_MAX_CONNECTIONS_PER_ADDRESS,
                proxies: Vec::new(),
                head: 64 * 1024,
                body_memory: 0,
                idle: Self::DEFAULT_IDLE_TIMEOUT,
                request: Self::DEFAULT_REQUEST_TIMEOUT,
                response: Self::DEFAULT_REQUEST_TIMEOUT,
                stop: Self::DEFAULT_SHUTDOWN_TIMEOUT,
            },
        }
    }

    /// Sets the client app id, which clients use to name the app. Letters, digits, `-`, `_` and `.`
    /// are allowed. Defaults to `keyfob-local`.
    pub fn app_id(mut self, app_id: impl Into<String>) -> Self {
        self.app_id = app_id.into();
        self
    }

    /// Sets the address to listen on. Defaults to `127.0.0.1:0`: this machine only, any free port.
    pub fn addr(mut self, addr: SocketAddr) -> Self {
        self.addr = match addr.ip().to_canonical() {
            // Windows refuses to listen on an IPv4-mapped IPv6 address.
            ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
            IpAddr::V6(_) => addr,
        };
        self
    }

    /// Allows [`addr`](Self::addr) to be an address that other machines can reach.
    ///
    /// The server does not support TLS: anyone on the network can read passwords and tokens. Put a
    /// reverse proxy with TLS in front of it, and set the proxy's URL with
    /// [`public_url`](Self::public_url).
    pub fn allow_public(mut self) -> Self {
        self.allow_public = true;
        self
    }

    /// Sets the URL by which clients reach this server through a reverse proxy, such as
    /// `https://auth.example.org`. The server uses it as the [base URL](Server::base_url), in
    /// responses to `location` requests, and in links in mails. Without it, URLs in responses use
    /// the `Host` of the request, with plain `http`.
    ///
    /// Also set the address of the proxy with [`trusted_proxies`](Self::trusted_proxies). Otherwise
    /// the [rate limits](Self::rate_limits) count all clients as one address, and one client that
    /// guesses passwords locks out all others.
    pub fn public_url(mut self, url: impl Into<String>) -> Self {
        self.public_url = Some(url.into());
        self
    }

    /// Stores users, server sessions and the signing key in this directory. If it does not exist,
    /// the server creates it with access for its owner only. By default all state is in memory and
    /// is lost when the server stops.
    ///
    /// Only one server at a time can open the directory. Acknowledged changes are on disk and
    /// survive a crash of the program or of the machine. While it opens the directory, the server
    /// keeps a copy of the database, so that it can restore a damaged database unchanged. The files
    /// are not encrypted: anyone who can read them can sign tokens for every user.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::server::Server;
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{Credentials, Session};
    ///
    /// # let dir = std::env::temp_dir().join(format!("keyfob-doc-server-{}", std::process::id()));
    /// let start = || Server::builder().data_dir(&dir).start();
    /// # let open = |server: &Server| {
    /// #     Session::builder(server.app_id(), server.base_url()).store(MemoryStore::new()).open()
    /// # };
    /// let server = start()?;
    /// open(&server)?.email_password().register("ada@example.org", "correct horse")?;
    /// server.shut_down();
    ///
    /// // The account survives a restart.
    /// let server = start()?;
    /// open(&server)?.log_in(&Credentials::email_password("ada@example.org", "correct horse"))?;
    /// # drop(server);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Sets the lifetime of access tokens, in whole seconds: at least one second, at most a
    /// century. Defaults to 30 minutes.
    pub fn access_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.access_token_lifetime = lifetime;
        self
    }

    /// Sets the lifetime of refresh tokens, in whole seconds: at least one second, at most a
    /// century. Defaults to 60 days.
    pub fn refresh_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.refresh_token_lifetime = lifetime;
        self
    }

    /// Sets whether each refresh also returns a new refresh token. The new token replaces the old
    /// one and has a full lifetime. Off by default, as with App Services.
    ///
    /// During a [grace period](Self::rotation_grace) a refresh with the old token returns the same
    /// new token, so that a client can retry after a lost response. A log-out with either token
    /// ends both.
    pub fn rotate_refresh_tokens(mut self, rotate: bool) -> Self {
        self.rotate_refresh_tokens = rotate;
        self
    }

    /// Sets how long a replaced refresh token stays valid, in whole seconds. Defaults to 60
    /// seconds.
    pub fn rotation_grace(mut self, grace: Duration) -> Self {
        self.rotation_grace = grace;
        self
    }

    /// Sets the clock for token expiry and for the windows of failed log-ins. Defaults to
    /// [`SystemClock`]. Time-outs of connections always use real time. [`Server::clock`] can change
    /// the clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Adds a function that users can call. It replaces an earlier function of the same name.
    ///
    /// The function receives the arguments as they were sent, in canonical or relaxed extended
    /// JSON, except that `serde_json::Value` sorts the fields of objects by name. The server sends
    /// the result in canonical form: it adds wrappers to plain numbers and leaves objects that are
    /// wrappers unchanged.
    ///
    /// The function runs on the thread of the caller's connection, concurrently with other calls.
    /// If it panics, only that caller is affected and gets status 500.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::server::Server;
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{Credentials, Session};
    /// use serde_json::json;
    ///
    /// let server = Server::builder()
    ///     .function("greet", |caller, arguments| {
    ///         let name = arguments.first().and_then(|name| name.as_str()).ok_or("a name is missing")?;
    ///         Ok(json!({"greeting": format!("hello, {name}"), "caller": caller.user_id().as_str()}))
    ///     })
    ///     .start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// let user = session.log_in(&Credentials::anonymous())?;
    /// let result: serde_json::Value = user.functions().call("greet", ("Ada",))?;
    /// assert_eq!(result["greeting"], "hello, Ada");
    /// assert_eq!(result["caller"], user.id().as_str());
    ///
    /// let error = user.functions().call::<()>("greet", ()).unwrap_err();
    /// assert!(error.to_string().contains("a name is missing"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn function<F>(mut self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(&Context, &[Value]) -> Result<Value, FunctionError> + Send + Sync + 'static,
    {
        self.functions.add(name.into(), function);
        self
    }

    /// Adds three functions for experiments:
    ///
    /// - `sum` adds its arguments, whole numbers to a whole number;
    /// - `echo` returns its first argument, or null;
    /// - `whoami` returns `{"user_id","identities":[{"id","provider_type"}],"data"}`.
    pub fn built_in_functions(mut self) -> Self {
        self.functions.add_built_in();
        self
    }

    /// Adds a function of a service. Clients call it by the names of the service and the function;
    /// see [`Functions::of_service`](crate::Functions::of_service). In all other respects it is
    /// like [`function`](Self::function).
    pub fn service_function<F>(
        mut self,
        service: impl Into<String>,
        name: impl Into<String>,
        function: F,
    ) -> Self
    where
        F: Fn(&Context, &[Value]) -> Result<Value, FunctionError> + Send + Sync + 'static,
    {
        self.functions.add_to_service(service.into(), name.into(), function);
        self
    }

    /// Sets the source of custom user data: a function from the user id to the data. Access tokens
    /// issued from then on contain the data. The data must be an object of at most 24 KiB as JSON;
    /// otherwise log-ins of that user fail with status 500.
    ///
    /// The source is not called for users whose data was [set](Server::set_custom_data). It runs on
    /// the thread of the user's connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::server::Server;
    /// # use keyfob::store::MemoryStore;
    /// # use keyfob::{Credentials, Session};
    /// use serde_json::{Value, json};
    ///
    /// let server = Server::builder()
    ///     .custom_data(|user_id| Some(json!({"folder": format!("/srv/{user_id}")})))
    ///     .start()?;
    /// # let session = Session::builder(server.app_id(), server.base_url())
    /// #     .store(MemoryStore::new())
    /// #     .open()?;
    /// let user = session.log_in(&Credentials::anonymous())?;
    /// let data: Value = user.custom_data()?.unwrap();
    /// assert_eq!(data["folder"], format!("/srv/{}", user.id()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn custom_data<F>(mut self, source: F) -> Self
    where
        F: Fn(&str) -> Option<Value> + Send + Sync + 'static,
    {
        self.custom_data = Some(Box::new(source));
        self
    }

    /// Sets the limit of the body of a function call, in bytes. Defaults to 16 MiB.
    ///
    /// All other requests, and function calls without a valid access token, may have 64 KiB, or
    /// less if this limit is lower. The server rejects a larger body with status 413 before it
    /// reads the body.
    pub fn max_body_size(mut self, bytes: usize) -> Self {
        self.max_body_size = bytes;
        self
    }

    /// Sets how much memory, in bytes, all function calls in progress may take: a quarter for
    /// bodies of more than 64 KiB, the rest for the arguments that are parsed from the bodies.
    /// Defaults to 256 MiB.
    ///
    /// A `serde_json::Value` takes up to a hundred times the memory of its text. The server
    /// estimates the memory of the arguments before it parses them. A call waits up to 10 seconds
    /// for memory that other calls use, and then gets status 503 and `Retry-After`. A call whose
    /// arguments alone exceed the limit gets status 413.
    pub fn max_request_memory(mut self, bytes: usize) -> Self {
        self.max_request_memory = bytes;
        self
    }

    /// Sets how many connections may be open at a time. Each has its own thread. Defaults to 512.
    ///
    /// If the limit is reached, a new connection closes another one of the address with the most
    /// connections. An idle connection is closed first, then one that sends its request slowly or
    /// receives its response slowly. Among those, the one that has been in that state for longest
    /// is closed. The server never closes a connection while it handles a request. If no connection
    /// can be closed, the new one gets status 503 and `Retry-After`.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.connections = connections;
        self
    }

    /// Sets how many connections one address may have open at a time. Defaults to 256. A new
    /// connection beyond the limit closes another one of the same address, in the order that
    /// [`max_connections`](Self::max_connections) describes. An IPv6 /64 network counts as one
    /// address. [Trusted proxies](Self::trusted_proxies) are not limited.
    pub fn max_connections_per_address(mut self, connections: usize) -> Self {
        self.limits.connections_per_client = connections;
        self
    }

    /// Sets how long a connection may wait for its next request. Defaults to 60 seconds.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle = timeout;
        self
    }

    /// Sets the time limit for receiving a request, from its first byte to its last, and for the
    /// client to receive the response. Defaults to 30 seconds.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.limits.request = timeout;
        self.limits.response = timeout;
        self
    }

    /// Sets how long a shutdown waits for requests in progress. Defaults to 5 seconds.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.limits.stop = timeout;
        self
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("app_id", &self.app_id)
            .field("addr", &self.addr)
            .field("data_dir", &self.data_dir)
            .field("functions", &self.functions.names().collect::<Vec<_>>())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
