//! Fault injection, for testing clients.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Route;
use super::http::{Outcome, Response};
use crate::Deadline;

/// The faults that a server injects into its responses, for testing clients. Returned by
/// [`Server::faults`](super::Server::faults).
///
/// A request triggers the first fault, in the order in which they were added, that matches its
/// [route](Route) and has triggers left. A request triggers at most one fault; if it triggers none,
/// the server handles it as usual. An incomplete request triggers no fault.
///
/// # Examples
///
/// A log-in whose response is lost: the server logs the user in, but the client does not know it.
///
/// ```
/// use keyfob::server::{Fault, Route, Server};
/// use keyfob::store::MemoryStore;
/// use keyfob::{Credentials, Session};
///
/// let server = Server::builder().start()?;
/// let session = Session::builder(server.app_id(), server.base_url())
///     .store(MemoryStore::new())
///     .open()?;
///
/// server.faults().add(Fault::cut_after_commit().on(Route::LogIn));
/// let error = session.log_in(&Credentials::anonymous()).unwrap_err();
/// assert!(error.is_ambiguous());
///
/// let busy = server.faults().add(Fault::status(503).on(Route::Profile).always());
/// assert!(session.log_in(&Credentials::anonymous()).unwrap_err().is_retryable());
/// assert_eq!(busy.hits(), 1);
/// busy.remove();
/// session.log_in(&Credentials::anonymous())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Faults(Arc<Shared>);

/// A fault. By default it applies to one request of any route; change that with [`on`](Self::on),
/// [`times`](Self::times) or [`always`](Self::always).
///
/// With [`status`](Self::status), [`html`](Self::html), [`redirect`](Self::redirect),
/// [`bytes`](Self::bytes), [`garbage`](Self::garbage) and
/// [`cut_before_handling`](Self::cut_before_handling) the server does not handle the request. With
/// the others it handles the request, and only the response is faulty.
#[derive(Clone)]
#[must_use = "a fault does nothing until it is added"]
pub struct Fault {
    kind: Kind,
    route: Option<Route>,
    skipped: usize,
    times: Option<usize>,
}

/// A fault that was added to a server. Dropping this value does not remove the fault.
#[derive(Clone)]
pub struct ActiveFault {
    shared: Arc<Shared>,
    armed: Arc<FaultState>,
}

#[derive(Clone)]
enum Kind {
    Answer(Vec<(&'static str, String)>, u16, Vec<u8>),
    Bytes(Vec<u8>),
    CutAfterCommit,
    CutBeforeHandling,
    CutInBody,
    /// `None` delays until released.
    Delay(Option<Duration>),
    Drip(usize, Duration),
}

struct Shared {
    state: Mutex<State>,
    /// Notified when a fault is triggered, released or removed, and when the server stops.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    armed: Vec<Arc<FaultState>>,
    stopping: bool,
}

struct FaultState {
    fault: Fault,
    /// Matching requests, including those skipped at first.
    seen: AtomicUsize,
    /// Requests that triggered the fault and whose responses are not complete.
    held: AtomicUsize,
    released: AtomicBool,
}

/// A fault that a request triggered.
pub(super) struct TriggeredFault {
    shared: Arc<Shared>,
    armed: Arc<FaultState>,
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { kind, route: None, skipped: 0, times: Some(1) }
    }

    /// Responds with a status and an empty body.
    pub fn status(status: u16) -> Self {
        Self::new(Kind::Answer(Vec::new(), status, Vec::new()))
    }

    /// Responds with a web page, as proxies and captive portals do.
    pub fn html(status: u16) -> Self {
        let page = format!("<!DOCTYPE html><html><body><h1>{status}</h1></body></html>\n");
        Self::status(status).body("text/html; charset=utf-8", page)
    }

    /// Responds with a redirect to `target`.
    pub fn redirect(status: u16, target: impl Into<String>) -> Self {
        Self::status(status).header("Location", target)
    }

    /// Responds with bytes that are not HTTP, and closes the connection.
    pub fn garbage() -> Self {
        Self::bytes(b"\x16\x03\x01\0\xff\xfe garbage \0\r\n\r\n\r\n".repeat(8))
    }

    /// Responds with these bytes, which need not be HTTP, and closes the connection.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(Kind::Bytes(bytes.into()))
    }

    /// Closes the connection without handling the request.
    pub fn cut_before_handling() -> Self {
        Self::new(Kind::CutBeforeHandling)
    }

    /// Handles the request, so that its effect is durable, and then closes the connection without a
    /// response.
    pub fn cut_after_commit() -> Self {
        Self::new(Kind::CutAfterCommit)
    }

    /// Handles the request and closes the connection in the middle of the response body. If there
    /// is no body, the response is cut in its head.
    pub fn cut_in_body() -> Self {
        Self::new(Kind::CutInBody)
    }

    /// Handles the request and delays the response, in real time, unless it is
    /// [released](ActiveFault::release) earlier.
    pub fn delay(duration: Duration) -> Self {
        Self::new(Kind::Delay(Some(duration)))
    }

    /// Handles the request and delays the response until it is [released](ActiveFault::release) or
    /// the server stops.
    pub fn hold() -> Self {
        Self::new(Kind::Delay(None))
    }

    /// Handles the request and sends the response in pieces of `bytes` bytes (at least one), with a
    /// pause in real time between them. When the fault is [released](ActiveFault::release) or the
    /// server stops, the rest is sent immediately.
    pub fn drip(bytes: usize, pause: Duration) -> Self {
        Self::new(Kind::Drip(bytes.max(1), pause))
    }

    /// Adds a header field to the response of [`status`](Self::status), [`html`](Self::html) or
    /// [`redirect`](Self::redirect).
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Kind::Answer(headers, ..) = &mut self.kind {
            headers.push((name, value.into()));
        }
        self
    }

    /// Adds `Retry-After`, in whole seconds, to the response.
    pub fn retry_after(self, pause: Duration) -> Self {
        self.header("Retry-After", pause.as_secs().to_string())
    }

    /// Sets the body of the response, and its content type.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        if let Kind::Answer(headers, _, old) = &mut self.kind {
            headers.retain(|(name, _)| *name != "Content-Type");
            headers.push(("Content-Type", content_type.to_owned()));
            *old = body.into();
        }
        self
    }

    /// Sets the body of the response to a backend error, such as `error("InvalidSession", "invalid
    /// session")`.
    pub fn error(self, code: &str, message: &str) -> Self {
        let body = json!({"error": message, "error_code": code}).to_string();
        self.body("application/json", body)
    }

    /// Limits the fault to requests of this route.
    pub fn on(mut self, route: Route) -> Self {
        self.route = Some(route);
        self
    }

    /// Skips this many requests before the first fault.
    pub fn after(mut self, requests: usize) -> Self {
        self.skipped = requests;
        self
    }

    /// Sets how many requests trigger the fault. Defaults to one.
    pub fn times(mut self, requests: usize) -> Self {
        self.times = Some(requests);
        self
    }

    /// Makes all requests trigger the fault, until it is removed.
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Answer(..) => "status",
            Kind::Bytes(_) => "bytes",
            Kind::CutAfterCommit => "cut after commit",
            Kind::CutBeforeHandling => "cut before handling",
            Kind::CutInBody => "cut in the body",
            Kind::Delay(_) => "held back",
            Kind::Drip(..) => "drip",
        }
    }
}

impl Faults {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Adds a fault after the existing ones.
    pub fn add(&self, fault: Fault) -> ActiveFault {
        let armed = Arc::new(FaultState {
            fault,
            seen: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            released: AtomicBool::new(false),
        });
        if !armed.is_finished() {
            self.0.state().armed.push(Arc::clone(&armed));
        }
        ActiveFault { shared: Arc::clone(&self.0), armed }
    }

    /// Removes all faults, and releases the responses that they delay.
    pub fn clear(&self) {
        for armed in self.0.state().armed.drain(..) {
            armed.released.store(true, Ordering::Relaxed);
        }
        self.0.changed.notify_all();
    }

    /// Returns the fault that a request triggers, if any.
    pub(super) fn trigger(&self, route: Option<Route>) -> Option<TriggeredFault> {
        let state = self.0.state();
        let armed = state.armed.iter().find(|armed| {
            let Fault { route: wanted, skipped, .. } = armed.fault;
            (wanted.is_none() || wanted == route)
                && !armed.is_finished()
                && armed.seen.fetch_add(1, Ordering::Relaxed) >= skipped
        });
        let armed = Arc::clone(armed?);
        armed.held.fetch_add(1, Ordering::Relaxed);
        drop(state);
        self.0.changed.notify_all();
        Some(TriggeredFault { shared: Arc::clone(&self.0), armed })
    }

    /// Releases all delayed responses. Later responses are not delayed.
    pub(super) fn stop(&self) {
        self.0.state().stopping = true;
        self.0.changed.notify_all();
    }
}

impl ActiveFault {
    /// Returns how many requests have triggered the fault.
    pub fn hits(&self) -> usize {
        self.armed.hits()
    }

    /// Waits until this many requests have triggered the fault, or until the deadline. Returns
    /// `true` if they have.
    ///
    /// With [`Fault::hold`] the request may still be in progress when this returns. The journal
    /// contains it once its effect is complete.
    pub fn wait(&self, hits: usize, deadline: Deadline) -> bool {
        let state = self.shared.state();
        let waiting = |_: &mut State| self.hits() < hits;
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(state, deadline.remaining(), waiting);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.hits() >= hits
    }

    /// Sends the responses that the fault delays. It delays no later responses.
    pub fn release(&self) {
        let state = self.shared.state();
        self.armed.released.store(true, Ordering::Relaxed);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Removes the fault from the server, and releases the responses that it delays.
    pub fn remove(&self) {
        self.shared.state().armed.retain(|armed| !Arc::ptr_eq(armed, &self.armed));
        self.release();
    }
}

impl TriggeredFault {
    pub(super) fn name(&self) -> &'static str {
        self.armed.fault.name()
    }

    /// Returns the outcome that replaces the response, and its status, or zero if it has none.
    /// Returns `None` if the request must be handled first.
    pub(super) fn replacement(&self) -> Option<(u16, Outcome)> {
        match &self.armed.fault.kind {
            Kind::Answer(headers, status, body) => {
                let (headers, body) = (headers.clone(), body.clone());
                Some((*status, Outcome::Answer(Response::new(*status, headers, body))))
            }
            Kind::Bytes(bytes) => Some((0, Outcome::Bytes(bytes.clone()))),
            Kind::CutBeforeHandling => Some((0, Outcome::Cut)),
            Kind::CutAfterCommit | Kind::CutInBody | Kind::Delay(_) | Kind::Drip(..) => None,
        }
    }

    /// Applies this fault to a response. Blocks while the response is delayed.
    pub(super) fn apply_to(self, response: Response) -> Outcome {
        match self.armed.fault.kind {
            Kind::CutAfterCommit => Outcome::Cut,
            Kind::CutInBody => Outcome::Half(response),
            Kind::Delay(duration) => {
                self.pause(duration);
                Outcome::Answer(response)
            }
            Kind::Drip(size, duration) => {
                let pause = Box::new(move || self.pause(Some(duration)));
                Outcome::Drip { response, size, pause }
            }
            Kind::Answer(..) | Kind::Bytes(_) | Kind::CutBeforeHandling => {
                Outcome::Answer(response)
            }
        }
    }

    /// Waits for this long, or forever if `None`. Returns `false` if the fault was released or the
    /// server stops.
    fn pause(&self, duration: Option<Duration>) -> bool {
        let until = duration.and_then(|duration| Instant::now().checked_add(duration));
        let released =
            |state: &State| state.stopping || self.armed.released.load(Ordering::Relaxed);
        let mut state = self.shared.state();
        while !released(&state) {
            let left = match until {
                None => Duration::from_secs(3600),
                Some(until) => until.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return true;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}

/// Removes a fault that has no triggers left and delays no response.
impl Drop for TriggeredFault {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if self.armed.held.fetch_sub(1, Ordering::Relaxed) == 1 && self.armed.is_finished() {
            state.armed.retain(|armed| !Arc::ptr_eq(armed, &self.armed));
        }
    }
}

impl FaultState {
    fn hits(&self) -> usize {
        self.seen.load(Ordering::Relaxed).saturating_sub(self.fault.skipped)
    }

    /// Returns `true` if the fault has no triggers left.
    fn is_finished(&self) -> bool {
        self.fault.times.is_some_and(|times| self.hits() >= times)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match &self.kind {
            Kind::Answer(_, status, _) => write!(f, " {status}")?,
            Kind::Delay(Some(time)) => write!(f, " for {time:?}")?,
            Kind::Drip(bytes, pause) => write!(f, " of {bytes} bytes every {pause:?}")?,
            _ => {}
        }
        self.route.map_or(Ok(()), |route| write!(f, " on {route}"))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({self})")
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.state().armed.iter().map(|armed| &armed.fault)).finish()
    }
}

impl fmt::Debug for ActiveFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveFault")
            .field("fault", &self.armed.fault)
            .field("hits", &self.hits())
            .finish_non_exhaustive()
    }
}
