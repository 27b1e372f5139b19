//! The network, by ureq. The only file that names it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::{Config, ConfigBuilder};
use ureq::http::Uri;
#[cfg(feature = "tls")]
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{self as wire, ConnectProxyConnector, Connector, NextTimeout};
#[cfg(feature = "tls")]
use ureq::unversioned::transport::{ConnectionDetails, RustlsConnector};
use ureq::{Agent, Timeout};

use super::connection::ThriftyConnector;
use super::proxy::Proxies;
use super::{Method, Request, Response, Transport};
use crate::error::{Error, Result, TransportError, TransportErrorKind as Kind};

/// The largest answer that is read of a refusal, in bytes.
const MAX_REFUSAL: u64 = 1024 * 1024;

/// How long an idle connection is kept for the next request.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// How many idle connections are kept: as many as there may be threads, or each burst reconnects.
const MAX_IDLE_CONNECTIONS: usize = 64;

/// The longest that one attempt to connect may take, and a look-up before it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a looked-up address serves.
const ADDRESS_LIFE: Duration = Duration::from_secs(30);

/// Sends requests with ureq: https with rustls, proxies from the environment except for loopback,
/// connections kept for 10 s. Cloning shares the connections.
///
/// The environment's `https_proxy` is for https, `http_proxy` for plain http, `all_proxy` for what
/// has none of its own; `no_proxy` names hosts with all below them, addresses and blocks of them
/// that are reached directly. Capital letters do as well. A proxy that cannot be used, such as one
/// that speaks SOCKS, is an error and not a reason to go without.
#[derive(Clone)]
pub struct UreqTransport {
    agent: Agent,
    proxies: Proxies,
    /// What ureq makes of them.
    http_proxy: Option<ureq::Proxy>,
    https_proxy: Option<ureq::Proxy>,
    /// Counts the clones.
    clones: Arc<()>,
}

/// Describes a [`UreqTransport`]; begun by [`UreqTransport::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct UreqTransportBuilder {
    proxies: Result<Proxies, String>,
    #[cfg(feature = "tls")]
    roots: Roots,
}

/// Whose certificates are trusted.
#[cfg(feature = "tls")]
enum Roots {
    Mozilla,
    Pem(Vec<u8>),
    #[cfg(feature = "platform-verifier")]
    Platform,
}

impl UreqTransportBuilder {
    /// Sends everything through this proxy, such as `http://user:password@proxy.example.org:8080`, but for
    /// what goes to this machine; the environment does not count. Defaults to what the environment
    /// says.
    pub fn proxy(mut self, url: &str) -> Self {
        self.proxies = Proxies::one(url);
        self
    }

    /// Uses no proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.proxies = Ok(Proxies::none());
        self
    }

    /// Trusts the certificates in this text (PEM) and no others: those of an authority of your own.
    /// Defaults to the authorities that Mozilla trusts.
    #[cfg(feature = "tls")]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Roots::Pem(pem.into());
        self
    }

    /// Trusts what this machine trusts, such as the authorities that a company has installed on it.
    #[cfg(feature = "platform-verifier")]
    pub fn platform_verifier(mut self) -> Self {
        self.roots = Roots::Platform;
        self
    }

    /// Makes the transport.
    ///
    /// # Errors
    /// [`Error::Config`] if the proxy cannot be used, or if there is no certificate in the text. A
    /// proxy of the environment is checked when a session is opened, which may not need it.
    pub fn build(self) -> Result<UreqTransport> {
        let proxies = self.proxies.map_err(|reason| Error::config("the proxy", reason))?;
        #[cfg(feature = "tls")]
        let tls = TlsConfig::builder().root_certs(match self.roots {
            Roots::Mozilla => RootCerts::WebPki,
            Roots::Pem(pem) => certificates(&pem)?,
            #[cfg(feature = "platform-verifier")]
            Roots::Platform => RootCerts::PlatformVerifier,
        });
        #[cfg(feature = "tls")]
        let configure = |config: ConfigBuilder<_>| config.tls_config(tls.build());
        #[cfg(not(feature = "tls"))]
        let configure = |config| config;
        Ok(UreqTransport::with(proxies, configure))
    }
}

#[cfg(feature = "tls")]
fn certificates(pem: &[u8]) -> Result<RootCerts> {
    const WHAT: &str = "the text of the root certificates";
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(Error::config(WHAT, "it is no PEM")),
        }
    }
    if certificates.is_empty() {
        return Err(Error::config(WHAT, "there is no certificate in it"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

impl UreqTransport {
    /// Makes a transport with its own connections, proxies from the environment, and trust in the
    /// authorities that Mozilla trusts.
    pub fn new() -> Self {
        Self::with(environment(), |config| config)
    }

    /// Begins to describe a transport with other settings.
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
        let resolver = CachingResolver::default();
        let agent = Agent::with_parts(config, connector(), resolver);
        Self { agent, proxies, http_proxy, https_proxy, clones: Arc::default() }
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
        if request.body().is_some() {
            head = head.header("content-type", "application/json");
        }
        let body = match (request.body(), request.method()) {
            (None, Method::Delete | Method::Get) => None,
            (body, _) => Some(body.unwrap_or_default()),
        };
        let mut answer = match body {
            Some(body) => self.run(head.body(body)?, left, proxy, request)?,
            None => self.run(head.body(())?, left, proxy, request)?,
        };
        let mut response = Response::new(answer.status().as_u16(), Vec::new());
        for name in Response::HEADERS {
            if let Some(Ok(value)) = answer.headers().get(name).map(|value| value.to_str()) {
                response = response.with_header(name, value);
            }
        }
        // Read to the end, or the connection cannot be used again.
        let success = answer.status().is_success();
        let limit = if success { request.max_answer() } else { MAX_REFUSAL };
        response.body = answer.body_mut().with_config().limit(limit).read_to_vec()?.into();
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
            // Of its own, so that it can be told from one that comes after the request was sent.
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
        self.exchange(request).map_err(|error| {
            let origin = origin(request.url());
            let (error, in_handshake) = out_of_handshake(error);
            let kind = match kind(&error, origin.starts_with("https:")) {
                Kind::Interrupted if in_handshake => Kind::Connect,
                kind => kind,
            };
            // A time-out of the look-up or of connecting comes before anything is sent.
            let is_early =
                matches!(error, ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect));
            let unsent = is_early || in_handshake;
            let trouble = TransportError::new(kind, origin);
            let trouble = if unsent { trouble.before_sending() } else { trouble };
            trouble.because(error)
        })
    }

    /// Refuses a base URL that the environment wants to be reached through a proxy that cannot be
    /// used.
    fn check(&self, base_url: &str) -> Result<()> {
        let Ok(uri) = base_url.parse::<Uri>() else { return Ok(()) };
        self.proxy_for(&uri).map(drop).map_err(|error| match error {
            ureq::Error::ConnectProxyFailed(reason) => {
                Error::config("the proxy in the environment", reason)
            }
            other => Error::config("the proxy in the environment", other.to_string()),
        })
    }

    /// Closes all connections, those in use as well. Nothing while there are clones: they share the
    /// connections, perhaps with another session.
    fn shut_down(&self) {
        if Arc::strong_count(&self.clones) == 1 {
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
    Proxies::from_environment(|name| {
        // What is no Unicode is no URL either, and must not count as nothing.
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    })
}

fn kind(error: &ureq::Error, tls: bool) -> Kind {
    use ureq::Error;
    match error {
        Error::BadUri(_) | Error::Http(_) | Error::RequireHttpsOnly(_) => Kind::InvalidUrl,
        Error::BodyExceedsLimit(_) => Kind::BodyTooLarge,
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
            io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable => Kind::Connect,
            // rustls reports a refused certificate this way.
            io::ErrorKind::InvalidData if tls => Kind::Tls,
            io::ErrorKind::TimedOut => Kind::Timeout,
            _ => Kind::Interrupted,
        },
        #[cfg(feature = "tls")]
        Error::Rustls(_) | Error::Pem(_) => Kind::Tls,
        _ => Kind::Interrupted,
    }
}

/// Returns the scheme, host and port of a URL: all of it that an error shows.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |end| host + end);
    &url[..end]
}

/// What ureq has by default, but for [`ThriftyConnector`].
#[cfg(not(feature = "tls"))]
fn connector() -> impl Connector<Out = impl wire::Transport> {
    ().chain(ConnectProxyConnector::default()).chain(ThriftyConnector::default())
}

/// What ureq has by default, but for [`ThriftyConnector`] and [`OneTlsConfig`].
#[cfg(feature = "tls")]
fn connector() -> impl Connector<Out = impl wire::Transport> {
    ().chain(ConnectProxyConnector::default())
        .chain(ThriftyConnector::default())
        .chain(OneTlsConfig(RustlsConnector::default()))
}

/// rustls with one configuration for all connections.
///
/// ureq makes one for each connection of a request that has any setting of its own, and ours all
/// have: their time. That costs, with the platform's verifier most of all, and no session is
/// resumed.
#[cfg(feature = "tls")]
#[derive(Debug)]
struct OneTlsConfig(RustlsConnector);

#[cfg(feature = "tls")]
impl<In: wire::Transport> Connector<In> for OneTlsConfig {
    type Out = <RustlsConnector as Connector<In>>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let details = ConnectionDetails {
            // Only the settings for TLS count here, and those no request has of its own.
            request_level: false,
            addrs: details.resolver.empty(),
            uri: details.uri,
            config: details.config,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.0.connect(&details, chained).map_err(|error| io::Error::other(Handshake(error)).into())
    }
}

/// An error of a TLS handshake: nothing of the request was sent.
#[cfg(feature = "tls")]
#[derive(Debug)]
struct Handshake(ureq::Error);

#[cfg(feature = "tls")]
impl fmt::Display for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "tls")]
impl std::error::Error for Handshake {}

/// Returns what was wrong, and whether it was so in a TLS handshake.
fn out_of_handshake(error: ureq::Error) -> (ureq::Error, bool) {
    match error {
        #[cfg(feature = "tls")]
        ureq::Error::Io(error) => match error.downcast::<Handshake>() {
            Ok(Handshake(error)) => (error, true),
            Err(error) => (ureq::Error::Io(error), false),
        },
        other => (other, false),
    }
}

/// Looks names up with ureq's own resolver, which starts a thread for each look-up that has a
/// time-out, but only on a miss: an address literal needs no look-up, and a name's addresses serve
/// for 30 s.
#[derive(Debug, Default)]
struct CachingResolver {
    inner: DefaultResolver,
    known: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (Some(host), Some(scheme)) = (uri.host(), uri.scheme_str()) else {
            return self.inner.resolve(uri, config, timeout);
        };
        let port = match (uri.port_u16(), scheme) {
            (Some(port), _) => port,
            (None, "http") => 80,
            (None, "https") => 443,
            // A proxy's scheme.
            (None, _) => return self.inner.resolve(uri, config, timeout),
        };
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(self.list(&[SocketAddr::new(address, port)]));
        }
        let key = format!("{host}:{port}");
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, addresses)) = known.get(&key)
            && since.elapsed() < ADDRESS_LIFE
        {
            return Ok(self.list(addresses));
        }
        drop(known);
        let found = self.inner.resolve(uri, config, timeout).map_err(|error| match error {
            // The system's "name not known" has no kind of its own.
            ureq::Error::Io(_) => ureq::Error::HostNotFound,
            other => other,
        })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key, (Instant::now(), found.to_vec()));
        Ok(found)
    }
}

impl CachingResolver {
    fn list(&self, addresses: &[SocketAddr]) -> ResolvedSocketAddrs {
        let mut list = self.empty();
        for address in addresses.iter().take(16) {
            list.push(*address);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Deadline;

    /// Looks for ever, or as long as it may.
    #[derive(Debug)]
    struct Lost;

    impl Resolver for Lost {
        fn resolve(
            &self,
            _: &Uri,
            _: &Config,
            timeout: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            assert!(*timeout.after < Duration::from_secs(8), "there is an end to it");
            Err(ureq::Error::Timeout(timeout.reason))
        }
    }

    #[test]
    fn a_look_up_without_end_is_trouble_before_anything_was_sent() {
        let mut transport = UreqTransport::builder().no_proxy().build().unwrap();
        let config = transport.agent.config().clone();
        transport.agent = Agent::with_parts(config, connector(), Lost);
        let request = Request {
            method: Method::Post,
            url: "http://backend.invalid/".to_owned(),
            bearer: None,
            body: None,
            deadline: Deadline::after(Duration::from_secs(10)),
            fresh: false,
            limit: 1,
        };
        let error = transport.send(&request).unwrap_err();
        assert_eq!(error.kind, Kind::Timeout);
        assert!(!error.may_have_arrived());
    }

    #[test]
    fn an_error_names_the_origin_alone() {
        for (url, expected) in [
            ("https://example.org:8443/api?secret=1", "https://example.org:8443"),
            ("http://[::1]:80/", "http://[::1]:80"),
            ("http://h?x", "http://h"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(origin(url), expected);
        }
    }
}
