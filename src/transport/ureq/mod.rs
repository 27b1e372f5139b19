//! The transport on ureq. No other module of the client uses ureq, except `browser`, which takes its
//! agent from here.

mod addresses;
mod body;
mod call;
mod coalescing;
mod connect_error;
#[cfg(windows)]
mod polled;
mod resolver;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
mod truncation;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::de::IgnoredAny;
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::http::Uri;
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{self as wire, ConnectProxyConnector, Connector};

use self::addresses::AddressBook;
use self::call::Call;
use self::coalescing::CoalescingConnector;
use self::connect_error::{TagConnectErrors, split_connect_error};
use self::resolver::CachingResolver;
use self::tcp::RacingConnector;
#[cfg(feature = "tls")]
use self::tls::{OneTlsConfig, Roots};
use self::truncation::RejectTruncated;
use super::proxy::Proxies;
use super::{Method, Request, Response, Transport};
use crate::error::{Error, Result, TransportError, TransportErrorKind as Kind};
use crate::untrusted_json;

/// The largest body that is read of an error response, in bytes.
const MAX_ERROR_BODY: u64 = 1024 * 1024;

/// How long an idle connection is kept for the next request.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// How many idle connections are kept: one for each of many threads, so that they need not reconnect
/// for each burst of requests.
const MAX_IDLE_CONNECTIONS: usize = 64;

/// The timeout of an attempt to connect, and of the look-up before it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends requests with ureq. Clones share its connections, which stay open for 10 s without a request.
///
/// https uses rustls. Requests use the proxies in the environment, except to loopback: `https_proxy`
/// for https, `http_proxy` for plain http, and `all_proxy` for both. `no_proxy` lists exceptions:
/// hosts including their subdomains, addresses, and blocks of addresses. Upper-case names work too.
/// An unusable proxy, such as a SOCKS proxy, is an error; requests are never sent without it.
#[derive(Clone)]
pub struct UreqTransport {
    agent: Agent,
    proxies: Proxies,
    /// `proxies`, as ureq needs them.
    http_proxy: Option<ureq::Proxy>,
    https_proxy: Option<ureq::Proxy>,
    addresses: Arc<AddressBook>,
    /// Whether [`Transport::shut_down`] closed the connections. Its reference count is the number
    /// of clones.
    is_shut: Arc<AtomicBool>,
}

/// Builds a [`UreqTransport`]; created by [`UreqTransport::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct UreqTransportBuilder {
    proxies: Result<Proxies, String>,
    #[cfg(feature = "tls")]
    roots: Roots,
}

impl UreqTransportBuilder {
    /// Uses this proxy for all requests except to loopback, and ignores the environment. For example
    /// `http://user:password@proxy.example.org:8080`. Defaults to the proxies in the environment.
    pub fn proxy(mut self, url: &str) -> Self {
        self.proxies = Proxies::one(url);
        self
    }

    /// Uses no proxy, and ignores the environment.
    pub fn no_proxy(mut self) -> Self {
        self.proxies = Ok(Proxies::none());
        self
    }

    /// Trusts only the root certificates in this PEM text, such as that of a private certificate
    /// authority. Defaults to the authorities that Mozilla trusts.
    #[cfg(feature = "tls")]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Roots::Pem(pem.into());
        self
    }

    /// Uses the operating system's certificate store, which may include authorities that a company
    /// has installed.
    #[cfg(feature = "platform-verifier")]
    pub fn platform_verifier(mut self) -> Self {
        self.roots = Roots::Platform;
        self
    }

    /// Creates the transport.
    ///
    /// # Errors
    /// [`Error::Config`] if the proxy cannot be used, or if the text has no certificate. A proxy in
    /// the environment is checked when a session is opened that needs it.
    pub fn build(self) -> Result<UreqTransport> {
        let proxies = self.proxies.map_err(|reason| Error::config("the proxy", reason))?;
        #[cfg(feature = "tls")]
        let tls = self.roots.config()?;
        #[cfg(feature = "tls")]
        let configure = |config: ConfigBuilder<_>| config.tls_config(tls);
        #[cfg(not(feature = "tls"))]
        let configure = |config| config;
        Ok(UreqTransport::with(proxies, configure))
    }
}

impl UreqTransport {
    /// Creates a transport with its own connections, which uses the proxies in the environment and
    /// trusts the authorities that Mozilla trusts.
    pub fn new() -> Self {
        Self::with(environment(), |config| config)
    }

    /// Creates a builder for a transport with other settings.
    pub fn builder() -> UreqTransportBuilder {
        UreqTransportBuilder {
            proxies: Ok(environment()),
            #[cfg(feature = "tls")]
            roots: Roots::Mozilla,
        }
    }

    fn with(
        mut proxies: Proxies,
        configure: impl FnOnce(ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope>,
    ) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_age(MAX_IDLE)
            .max_idle_connections(MAX_IDLE_CONNECTIONS)
            .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS)
            .accept("application/json")
            .user_agent(concat!("keyfob/", env!("CARGO_PKG_VERSION")))
            .proxy(None);
        let config = configure(config).build();
        let [http_proxy, https_proxy] = proxies.each(|url| ureq::Proxy::new(url).ok());
        let addresses = Arc::new(AddressBook::default());
        let inner = Arc::new(DefaultResolver::default());
        let resolver = CachingResolver { inner, book: addresses.clone() };
        let agent = Agent::with_parts(config, connector(addresses.clone()), resolver);
        Self { agent, proxies, http_proxy, https_proxy, addresses, is_shut: Arc::default() }
    }

    fn exchange(&self, request: &Request) -> Result<Response, ureq::Error> {
        let left = request.deadline().remaining();
        let uri: Uri = request
            .url()
            .parse()
            .map_err(|error| ureq::Error::Http(ureq::http::Error::from(error)))?;
        let proxy = self.proxy_for(&uri)?;
        let mut head = ureq::http::Request::builder().method(request.method().as_str()).uri(uri);
        if let Some(token) = request.bearer() {
            head = head.header("authorization", ["Bearer ", token].concat());
        }
        if let Some(pair) = &request.basic {
            head = head.header("authorization", ["Basic ", pair.expose()].concat());
        }
        if request.is_form {
            head = head.header("content-type", "application/x-www-form-urlencoded");
        } else if request.body().is_some() {
            head = head.header("content-type", "application/json");
        }
        let body = match (request.body(), request.method()) {
            (None, Method::Delete | Method::Get) => None,
            (body, _) => Some(body.unwrap_or_default()),
        };
        let mut received = match body {
            Some(body) => self.run(head.body(body)?, left, proxy, request)?,
            None => self.run(head.body(())?, left, proxy, request)?,
        };
        let mut response = Response::new(received.status().as_u16(), Vec::new());
        for name in Response::HEADERS {
            if let Some(Ok(value)) = received.headers().get(name).map(|value| value.to_str()) {
                response = response.with_header(name, value);
            }
        }
        let has_header = |name: &str| received.headers().contains_key(name);
        let has_length = received.body().content_length().is_some()
            || has_header("content-length")
            || has_header("transfer-encoding")
            || matches!(received.status().as_u16(), 204 | 304);
        // Read to the end, because the connection cannot be used again otherwise.
        let success = received.status().is_success();
        let limit = if success { request.max_answer() } else { MAX_ERROR_BODY };
        let (body, mut read) = body::read(&mut received, limit);
        if !has_length && self.is_shut.load(Ordering::SeqCst) {
            // The shutdown may have ended the body.
            read = Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        match read {
            Ok(()) => {}
            Err(error) if !has_length && is_broken(&error) && is_complete_json(&body) => {}
            // The status is enough for an error response.
            Err(ureq::Error::BodyExceedsLimit(_) | ureq::Error::Decompress(..)) if !success => {
                response.is_truncated = true;
            }
            Err(error) => return Err(error),
        }
        response.body = body.into();
        Ok(response)
    }

    fn proxy_for(&self, uri: &Uri) -> Result<Option<&ureq::Proxy>, ureq::Error> {
        let is_https = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        match self.proxies.for_host(is_https, host, uri.port_u16()) {
            Ok(None) => Ok(None),
            Ok(Some(_)) if is_https => Ok(self.https_proxy.as_ref()),
            Ok(Some(_)) => Ok(self.http_proxy.as_ref()),
            Err(reason) => Err(ureq::Error::ConnectProxyFailed(reason.to_owned())),
        }
    }

    fn run(
        &self,
        request: ureq::http::Request<impl ureq::AsSendBody>,
        left: Duration,
        proxy: Option<&ureq::Proxy>,
        wish: &Request,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut config = self
            .agent
            .configure_request(request)
            .timeout_global(Some(left))
            // A timeout of its own, to be distinguished from one after the request was sent.
            .timeout_resolve(Some(CONNECT_TIMEOUT.min(left * 3 / 4)))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(left * 3 / 4)));
        if let Some(proxy) = proxy {
            config = config.proxy(Some(proxy.clone()));
        }
        if wish.wants_fresh_connection() {
            config = config.max_idle_age(Duration::ZERO);
        }
        self.agent.run(config.build())
    }
}

impl Default for UreqTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport for UreqTransport {
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        if request.deadline().has_passed() {
            let error = TransportError::new(Kind::Timeout, origin(request.url()));
            return Err(error.before_sending());
        }
        let _call = Call::begin(request.deadline());
        self.exchange(request).map_err(|error| {
            let origin = origin(request.url());
            self.addresses.forget_lookups();
            let (error, unsent) = split_connect_error(error);
            let transport_error = TransportError::new(kind(&error, unsent), origin);
            match unsent {
                true => transport_error.before_sending().because(error),
                false => transport_error.because(error),
            }
        })
    }

    /// Rejects a base URL for which the environment names an unusable proxy.
    fn check(&self, base_url: &str) -> Result<()> {
        let Ok(uri) = base_url.parse::<Uri>() else { return Ok(()) };
        self.proxy_for(&uri).map(drop).map_err(|error| match error {
            ureq::Error::ConnectProxyFailed(reason) => {
                Error::config("the proxy in the environment", reason)
            }
            other => Error::config("the proxy in the environment", other.to_string()),
        })
    }

    /// Closes all connections, including those in use. Does nothing while there are clones, because
    /// another session may use their connections.
    fn shut_down(&self) {
        if Arc::strong_count(&self.is_shut) == 1 {
            self.is_shut.store(true, Ordering::SeqCst);
            self.agent.clone().shutdown();
        }
    }
}

impl fmt::Debug for UreqTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UreqTransport").field("proxies", &self.proxies).finish_non_exhaustive()
    }
}

impl fmt::Debug for UreqTransportBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UreqTransportBuilder")
            .field("proxies", &self.proxies)
            .finish_non_exhaustive()
    }
}

fn environment() -> Proxies {
    let variable = |name: &str| {
        // Text that is not Unicode is not a URL; it must be an error and not be ignored.
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    };
    Proxies::from_environment(variable, cfg!(windows))
}

/// Returns the kind of an error. `unsent` says whether it occurred before anything was sent.
fn kind(error: &ureq::Error, unsent: bool) -> Kind {
    use ureq::Error;
    let broken = if unsent { Kind::Connect } else { Kind::Interrupted };
    match error {
        Error::BadUri(_) | Error::Http(_) | Error::RequireHttpsOnly(_) => Kind::InvalidUrl,
        Error::BodyExceedsLimit(_) => Kind::BodyTooLarge,
        Error::ConnectProxyFailed(reason) if refuses(reason) => Kind::Proxy,
        Error::ConnectProxyFailed(_) | Error::ConnectionFailed | Error::InvalidProxyUrl => {
            Kind::Connect
        }
        Error::Decompress(..) | Error::LargeResponseHeader(..) | Error::Protocol(_) => {
            Kind::Protocol
        }
        Error::HostNotFound => Kind::Resolve,
        Error::Timeout(_) => Kind::Timeout,
        Error::Tls(_) | Error::TlsRequired => Kind::Tls,
        Error::Io(cause) => match cause.kind() {
            // rustls reports a rejected certificate this way, and after the handshake a corrupt
            // record.
            io::ErrorKind::InvalidData if unsent => Kind::Tls,
            io::ErrorKind::TimedOut => Kind::Timeout,
            _ => broken,
        },
        #[cfg(feature = "tls")]
        Error::Rustls(_) | Error::Pem(_) => Kind::Tls,
        _ => broken,
    }
}

/// Returns `true` if a proxy permanently refuses to connect. ureq reports the status as text only.
fn refuses(reason: &str) -> bool {
    let status = reason.strip_prefix("proxy server responded ").and_then(|status| status.get(..3));
    matches!(status.map(str::parse), Some(Ok(400..=407 | 409..=428 | 430..=499)))
}

/// Returns `true` if a connection ended unexpectedly.
fn is_broken(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(cause) if cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Returns `true` if a body is a complete JSON object or array. Some servers neither send a length
/// nor close their connections properly.
fn is_complete_json(body: &[u8]) -> bool {
    let body = untrusted_json::without_mark(body);
    let is_closed = matches!(body.trim_ascii(), [b'{', .., b'}'] | [b'[', .., b']']);
    is_closed && serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// Returns the scheme, host and port of a URL, which an error shows.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |end| host + end);
    &url[..end]
}

/// Returns ureq's default chain of connectors, with the adapters of this module.
fn connector(book: Arc<AddressBook>) -> impl Connector<Out = impl wire::Transport> {
    let tcp = CoalescingConnector(RacingConnector::new(book.clone()));
    let chain = ().chain(ConnectProxyConnector::default()).chain(tcp);
    #[cfg(feature = "tls")]
    let chain = chain.chain(OneTlsConfig::default());
    TagConnectErrors { inner: RejectTruncated(chain), book }
}

#[cfg(test)]
mod tests;
