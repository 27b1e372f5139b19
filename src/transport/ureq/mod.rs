//! The network, by ureq. The only place on the client's side that names it.

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
use self::coalescing::ThriftyConnector;
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

/// The largest answer that is read of a refusal, in bytes.
const MAX_REFUSAL: u64 = 1024 * 1024;

/// How long an idle connection is kept for the next request.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// How many idle connections are kept: as many as there may be threads, or each burst reconnects.
const MAX_IDLE_CONNECTIONS: usize = 64;

/// The longest that one attempt to connect may take, and a look-up before it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

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
    addresses: Arc<AddressBook>,
    /// Whether the connections were closed. It counts the clones as well.
    is_shut: Arc<AtomicBool>,
}

/// Describes a [`UreqTransport`]; begun by [`UreqTransport::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct UreqTransportBuilder {
    proxies: Result<Proxies, String>,
    #[cfg(feature = "tls")]
    roots: Roots,
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
        let tls = self.roots.config()?;
        #[cfg(feature = "tls")]
        let configure = |config: ConfigBuilder<_>| config.tls_config(tls);
        #[cfg(not(feature = "tls"))]
        let configure = |config| config;
        Ok(UreqTransport::with(proxies, configure))
    }
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
        let says_end = |name: &str| answer.headers().contains_key(name);
        let has_end = answer.body().content_length().is_some()
            || says_end("content-length")
            || says_end("transfer-encoding")
            || matches!(answer.status().as_u16(), 204 | 304);
        // Read to the end, or the connection cannot be used again.
        let success = answer.status().is_success();
        let limit = if success { request.max_answer() } else { MAX_REFUSAL };
        let (body, mut read) = body::read(&mut answer, limit);
        if !has_end && self.is_shut.load(Ordering::SeqCst) {
            // It was we who ended it.
            read = Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        match read {
            Ok(()) => {}
            Err(error) if !has_end && is_broken(&error) && ends_by_itself(&body) => {}
            // A refusal is one by its status.
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
        if request.deadline().has_passed() {
            let error = TransportError::new(Kind::Timeout, origin(request.url()));
            return Err(error.before_sending());
        }
        let _call = Call::begin(request.deadline());
        self.exchange(request).map_err(|error| {
            let origin = origin(request.url());
            self.addresses.forget_lookups();
            let (error, unsent) = split_connect_error(error);
            let trouble = TransportError::new(kind(&error, unsent), origin);
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
        // What is no Unicode is no URL either, and must not count as nothing.
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    };
    Proxies::from_environment(variable, cfg!(windows))
}

/// `unsent` says that it was so before anything of the request was sent.
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
            // rustls reports a refused certificate this way, and later a record that was spoilt.
            io::ErrorKind::InvalidData if unsent => Kind::Tls,
            io::ErrorKind::TimedOut => Kind::Timeout,
            _ => broken,
        },
        #[cfg(feature = "tls")]
        Error::Rustls(_) | Error::Pem(_) => Kind::Tls,
        _ => broken,
    }
}

/// Tells whether a proxy will not connect however often it is asked. ureq has its status in a text
/// only.
fn refuses(reason: &str) -> bool {
    let status = reason.strip_prefix("proxy server responded ").and_then(|status| status.get(..3));
    matches!(status.map(str::parse), Some(Ok(400..=407 | 409..=428 | 430..=499)))
}

/// Tells whether a connection ended as it should not have.
fn is_broken(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(cause) if cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Tells whether an answer says itself where it ends, and has come to there: there are servers that
/// neither say how long their answers are nor end their connections as they should.
fn ends_by_itself(body: &[u8]) -> bool {
    let body = untrusted_json::without_mark(body);
    let is_closed = matches!(body.trim_ascii(), [b'{', .., b'}'] | [b'[', .., b']']);
    is_closed && serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// Returns the scheme, host and port of a URL: all of it that an error shows.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |end| host + end);
    &url[..end]
}

/// What ureq has by default, but for [`ThriftyConnector`] and [`RejectTruncated`].
#[cfg(not(feature = "tls"))]
fn connector(book: Arc<AddressBook>) -> impl Connector<Out = impl wire::Transport> {
    let tcp = ThriftyConnector(RacingConnector::new(book.clone()));
    let plain = ().chain(ConnectProxyConnector::default()).chain(tcp);
    TagConnectErrors { inner: RejectTruncated(plain), book }
}

/// What ureq has by default, but for [`ThriftyConnector`], [`OneTlsConfig`] and [`RejectTruncated`].
#[cfg(feature = "tls")]
fn connector(book: Arc<AddressBook>) -> impl Connector<Out = impl wire::Transport> {
    let tcp = ThriftyConnector(RacingConnector::new(book.clone()));
    let plain = ().chain(ConnectProxyConnector::default()).chain(tcp);
    let tls = plain.chain(OneTlsConfig::default());
    TagConnectErrors { inner: RejectTruncated(tls), book }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::Mutex;

    use ureq::config::Config;
    use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
    use ureq::unversioned::transport::NextTimeout;

    use super::*;
    use crate::cancel::CancelToken;
    use crate::deadline::Deadline;

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

    /// Finds every host, without asking anybody.
    #[derive(Debug)]
    struct Found;

    impl Resolver for Found {
        fn resolve(
            &self,
            _: &Uri,
            _: &Config,
            _: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            let mut found = self.empty();
            found.push(([127, 0, 0, 1], 9).into());
            Ok(found)
        }
    }

    /// Never connects.
    struct Fails(fn() -> ureq::Error);

    impl fmt::Debug for Fails {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Fails")
        }
    }

    impl Connector for Fails {
        type Out = Box<dyn wire::Transport>;

        fn connect(
            &self,
            _: &wire::ConnectionDetails<'_>,
            _: Option<()>,
        ) -> Result<Option<Self::Out>, ureq::Error> {
            Err(self.0())
        }
    }

    /// A transport whose agent is made of other parts.
    fn transport(connector: impl Connector, resolver: impl Resolver) -> UreqTransport {
        let mut transport = UreqTransport::builder().no_proxy().build().unwrap();
        let config = transport.agent.config().clone();
        transport.agent = Agent::with_parts(config, connector, resolver);
        transport
    }

    fn request() -> Request {
        let deadline = Deadline::after(Duration::from_secs(10));
        let url = "http://backend.invalid/".to_owned();
        Request { fresh: true, ..Request::new(Method::Post, url, deadline, 1) }
    }

    /// Sends a request with an agent made of other parts, which fails.
    fn trouble(connector: impl Connector, resolver: impl Resolver) -> TransportError {
        transport(connector, resolver).send(&request()).unwrap_err()
    }

    /// Finds every host at these addresses.
    #[derive(Debug)]
    struct At(Mutex<Vec<SocketAddr>>);

    impl Resolver for At {
        fn resolve(
            &self,
            _: &Uri,
            _: &Config,
            _: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            let mut found = self.empty();
            self.0.lock().unwrap().iter().for_each(|address| found.push(*address));
            Ok(found)
        }
    }

    /// A transport for a host with these addresses, and its address book.
    fn at(addresses: &[SocketAddr]) -> (UreqTransport, Arc<AddressBook>) {
        let book = Arc::<AddressBook>::default();
        let inner = At(Mutex::new(addresses.to_vec()));
        let resolver = CachingResolver { inner: Arc::new(inner), book: book.clone() };
        let mut transport = transport(connector(book.clone()), resolver);
        transport.addresses = book.clone();
        (transport, book)
    }

    /// A server that accepts connections for as long as it is there, and says 204 to each.
    fn server() -> (SocketAddr, Arc<AtomicBool>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, is_there) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
        let serves = is_there.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(std::io::Result::ok) {
                if !serves.load(Ordering::SeqCst) {
                    break;
                }
                let mut head = [0; 1024];
                let _ = stream.read(&mut head);
                let _ = stream.write_all(b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n");
            }
        });
        (address, is_there)
    }

    /// An address where nothing answers: a queue of connections that is full. It is one for as long
    /// as the rest is there.
    #[cfg(any(target_os = "linux", windows))]
    fn black_hole() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_millis(200);
        let queue: Vec<_> = (0..10_000)
            .map_while(|_| TcpStream::connect_timeout(&address, patience).ok())
            .collect();
        (address, listener, queue)
    }

    #[test]
    #[cfg(any(target_os = "linux", windows))]
    fn dead_first_address_delays_first_call_only() {
        let (dead, _listener, _queue) = black_hole();
        let (alive, _) = server();
        let (transport, book) = at(&[dead, alive]);
        let host = ("backend.invalid".to_owned(), 80);
        let begin = std::time::Instant::now();
        transport.send(&request()).unwrap();
        let first = begin.elapsed();
        assert!(first >= Duration::from_millis(250) && first < Duration::from_secs(3), "{first:?}");
        assert_eq!(book.get(&host).unwrap(), [alive, dead]);
        let begin = std::time::Instant::now();
        for _ in 0..20 {
            transport.send(&request()).unwrap();
            // Looked up again, it is still known which address works.
            book.forget_lookups();
        }
        assert!(begin.elapsed() < Duration::from_millis(250) * 20, "{:?}", begin.elapsed());
    }

    #[test]
    #[cfg(any(target_os = "linux", windows))]
    fn silent_addresses_hold_up_nobody_beyond_the_deadline() {
        let (dead, _listener, _queue) = black_hole();
        let (transport, _) = at(&[dead, dead, dead]);
        let deadline = Deadline::after(Duration::from_secs(1));
        let begin = std::time::Instant::now();
        let error = transport.send(&Request { deadline, ..request() }).unwrap_err();
        assert_eq!((error.kind, error.may_have_arrived()), (Kind::Timeout, false));
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }

    /// Sends a request on a thread of its own, and cancels it there.
    fn cancelled(transport: UreqTransport) -> TransportError {
        let token = CancelToken::new();
        let deadline = Deadline::after(Duration::from_secs(3600)).with_cancel(&token);
        let caller = std::thread::spawn(move || {
            transport.send(&Request { deadline, ..request() }).unwrap_err()
        });
        (0..1000).for_each(|_| std::thread::yield_now());
        let begin = std::time::Instant::now();
        token.cancel();
        let error = caller.join().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        error
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn cancelled_call_stops_connecting() {
        let (dead, _listener, _queue) = black_hole();
        for addresses in [&[dead][..], &[dead, dead, dead]] {
            let error = cancelled(at(addresses).0);
            assert_eq!((error.kind, error.may_have_arrived()), (Kind::Timeout, false));
        }
    }

    /// Looks until the test ends.
    #[derive(Debug)]
    struct Slow(Mutex<std::sync::mpsc::Receiver<()>>);

    impl Resolver for Slow {
        fn resolve(
            &self,
            _: &Uri,
            _: &Config,
            timeout: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            let _ = self.0.lock().unwrap().recv();
            Err(ureq::Error::Timeout(timeout.reason))
        }
    }

    #[test]
    fn cancelled_call_stops_looking_up() {
        let (_lookup, wait) = std::sync::mpsc::channel();
        let book = Arc::<AddressBook>::default();
        let inner = Arc::new(Slow(Mutex::new(wait)));
        let resolver = CachingResolver { inner, book: book.clone() };
        let error = cancelled(transport(connector(book), resolver));
        assert_eq!((error.kind, error.may_have_arrived()), (Kind::Timeout, false));
    }

    #[test]
    fn failed_connection_forgets_the_address() {
        let (first, is_there) = server();
        let (second, _) = server();
        let (transport, book) = at(&[first, second]);
        let host = ("backend.invalid".to_owned(), 80);
        transport.send(&request()).unwrap();
        assert_eq!(book.get(&host).unwrap(), [first, second]);
        // It closes its socket: the next connections are refused there.
        is_there.store(false, Ordering::SeqCst);
        drop(TcpStream::connect(first));
        while TcpStream::connect(first).is_ok() {
            std::thread::yield_now();
        }
        transport.send(&request()).unwrap();
        assert_eq!(book.get(&host).unwrap(), [second, first]);
        let (transport, book) = at(&[first]);
        let error = transport.send(&request()).unwrap_err();
        assert_eq!((error.kind, error.may_have_arrived()), (Kind::Connect, false));
        assert_eq!(book.get(&host), None);
    }

    #[test]
    fn broken_connection_has_the_host_looked_up_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let (transport, book) = at(&[address]);
        let error = transport.send(&request()).unwrap_err();
        assert_eq!((error.kind, error.may_have_arrived()), (Kind::Interrupted, true));
        assert_eq!(book.get(&("backend.invalid".to_owned(), 80)), None);
    }

    #[test]
    fn a_look_up_without_end_is_trouble_before_anything_was_sent() {
        let error = trouble(connector(Arc::default()), Lost);
        assert_eq!(error.kind, Kind::Timeout);
        assert!(!error.may_have_arrived());
    }

    #[test]
    fn whatever_goes_wrong_while_connecting_nothing_was_sent() {
        let failures: [(fn() -> ureq::Error, Kind); 5] = [
            (|| ureq::Error::Timeout(ureq::Timeout::Connect), Kind::Timeout),
            // After a slow look-up the call's own time is the nearer one.
            (|| ureq::Error::Timeout(ureq::Timeout::Global), Kind::Timeout),
            // A session that is shut down meanwhile.
            (|| io::Error::from(io::ErrorKind::NotConnected).into(), Kind::Connect),
            (|| io::Error::from(io::ErrorKind::UnexpectedEof).into(), Kind::Connect),
            (|| io::Error::from(io::ErrorKind::InvalidData).into(), Kind::Tls),
        ];
        for (failure, kind) in failures {
            let book = Arc::<AddressBook>::default();
            let inner = TagConnectErrors { inner: Fails(failure), book: book.clone() };
            let error = trouble(TagConnectErrors { inner, book }, Found);
            assert_eq!(error.kind, kind);
            assert!(!error.may_have_arrived(), "{kind:?}");
        }
    }

    #[test]
    fn a_network_that_goes_away_after_the_request_was_sent_says_nothing_of_it() {
        for cause in [
            io::ErrorKind::AddrNotAvailable,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::InvalidData,
            io::ErrorKind::NetworkDown,
            io::ErrorKind::NetworkUnreachable,
        ] {
            let error = ureq::Error::Io(cause.into());
            assert_eq!(
                (kind(&error, false), kind(&error, true) == Kind::Interrupted),
                (Kind::Interrupted, false)
            );
        }
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
