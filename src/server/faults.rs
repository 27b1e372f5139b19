//! Misbehaviour on purpose, so that clients can be tested against it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Route;
use super::http::{Outcome, Response};
use crate::Deadline;

/// What a server does wrong on purpose; returned by [`Server::faults`](super::Server::faults).
///
/// A request meets the first fault, in the order they were added, that is for its [route](Route)
/// and has not met as many as it should. There is at most one fault for each request, and without
/// one it is answered as always. A request that does not arrive whole meets none.
///
/// # Examples
///
/// A log-in whose answer is lost: the server logs the user in, and the client cannot know.
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

/// One thing to do wrong: for every route and once, unless [`on`](Self::on), [`times`](Self::times)
/// or [`always`](Self::always) say otherwise.
///
/// With [`status`](Self::status), [`html`](Self::html), [`redirect`](Self::redirect),
/// [`bytes`](Self::bytes), [`garbage`](Self::garbage) and
/// [`cut_before_handling`](Self::cut_before_handling) the request has no effect. With the others it
/// has all of its effect, and the answer suffers.
#[derive(Clone)]
#[must_use = "a fault does nothing until it is added"]
pub struct Fault {
    kind: Kind,
    route: Option<Route>,
    skipped: usize,
    times: Option<usize>,
}

/// A fault that was added to a server. It stays there when this is dropped.
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
    /// For ever, if there is no time.
    Delay(Option<Duration>),
    Drip(usize, Duration),
}

struct Shared {
    state: Mutex<State>,
    /// Something was met, released or removed, or the server stops.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    armed: Vec<Arc<FaultState>>,
    stopping: bool,
}

struct FaultState {
    fault: Fault,
    /// Requests it was for, those that it let pass at first included.
    seen: AtomicUsize,
    released: AtomicBool,
}

/// A fault that a request met.
pub(super) struct TriggeredFault {
    shared: Arc<Shared>,
    armed: Arc<FaultState>,
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { kind, route: None, skipped: 0, times: Some(1) }
    }

    /// Answers with a status and an empty body, and does nothing else.
    pub fn status(status: u16) -> Self {
        Self::new(Kind::Answer(Vec::new(), status, Vec::new()))
    }

    /// Answers with a page, as proxies and captive portals do.
    pub fn html(status: u16) -> Self {
        let page = format!("<!DOCTYPE html><html><body><h1>{status}</h1></body></html>\n");
        Self::status(status).body("text/html; charset=utf-8", page)
    }

    /// Answers that what was asked for is elsewhere.
    pub fn redirect(status: u16, target: impl Into<String>) -> Self {
        Self::status(status).header("Location", target)
    }

    /// Answers with something that is no HTTP at all, and closes the connection.
    pub fn garbage() -> Self {
        Self::bytes(b"\x16\x03\x01\0\xff\xfe garbage \0\r\n\r\n\r\n".repeat(8))
    }

    /// Answers with these bytes, whatever they are, and closes the connection.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(Kind::Bytes(bytes.into()))
    }

    /// Closes the connection as if the request had never arrived.
    pub fn cut_before_handling() -> Self {
        Self::new(Kind::CutBeforeHandling)
    }

    /// Does what was asked, so that it is done for good, then closes the connection without an
    /// answer.
    pub fn cut_after_commit() -> Self {
        Self::new(Kind::CutAfterCommit)
    }

    /// Does what was asked and closes the connection in the middle of the answer's body; of an
    /// answer without one, in the middle of its head.
    pub fn cut_in_body() -> Self {
        Self::new(Kind::CutInBody)
    }

    /// Does what was asked and holds the answer back for this long, in real time, or until it is
    /// [released](ActiveFault::release).
    pub fn delay(duration: Duration) -> Self {
        Self::new(Kind::Delay(Some(duration)))
    }

    /// Does what was asked and holds the answer back until it is [released](ActiveFault::release)
    /// or the server stops.
    pub fn hold() -> Self {
        Self::new(Kind::Delay(None))
    }

    /// Does what was asked and sends the answer in pieces of so many bytes, at least one, with a
    /// pause between them in real time. What is left is sent at once when it is
    /// [released](ActiveFault::release) or the server stops.
    pub fn drip(bytes: usize, pause: Duration) -> Self {
        Self::new(Kind::Drip(bytes.max(1), pause))
    }

    /// Adds a header field to an answer made by [`status`](Self::status), [`html`](Self::html) or
    /// [`redirect`](Self::redirect).
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Kind::Answer(headers, ..) = &mut self.kind {
            headers.push((name, value.into()));
        }
        self
    }

    /// Adds `Retry-After` to an answer, in whole seconds.
    pub fn retry_after(self, pause: Duration) -> Self {
        self.header("Retry-After", pause.as_secs().to_string())
    }

    /// Sets the body of an answer, and what it says it is.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        if let Kind::Answer(headers, _, old) = &mut self.kind {
            headers.retain(|(name, _)| *name != "Content-Type");
            headers.push(("Content-Type", content_type.to_owned()));
            *old = body.into();
        }
        self
    }

    /// Sets the body of an answer to an error as the backend words it, such as
    /// `error("InvalidSession", "invalid session")`.
    pub fn error(self, code: &str, message: &str) -> Self {
        let body = json!({"error": message, "error_code": code}).to_string();
        self.body("application/json", body)
    }

    /// Concerns requests of this kind alone.
    pub fn on(mut self, route: Route) -> Self {
        self.route = Some(route);
        self
    }

    /// Lets so many requests pass before it begins.
    pub fn after(mut self, requests: usize) -> Self {
        self.skipped = requests;
        self
    }

    /// Concerns so many requests.
    pub fn times(mut self, requests: usize) -> Self {
        self.times = Some(requests);
        self
    }

    /// Concerns all requests, until it is removed.
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

    /// Adds a fault, after those that are there.
    pub fn add(&self, fault: Fault) -> ActiveFault {
        let armed = Arc::new(FaultState {
            fault,
            seen: AtomicUsize::new(0),
            released: AtomicBool::new(false),
        });
        self.0.state().armed.push(Arc::clone(&armed));
        ActiveFault { shared: Arc::clone(&self.0), armed }
    }

    /// Removes all faults. What they hold back is released.
    pub fn clear(&self) {
        for armed in self.0.state().armed.drain(..) {
            armed.released.store(true, Ordering::Relaxed);
        }
        self.0.changed.notify_all();
    }

    /// Returns the fault that a request meets, if there is one for it.
    pub(super) fn trigger(&self, route: Option<Route>) -> Option<TriggeredFault> {
        let state = self.0.state();
        let armed = state.armed.iter().find(|armed| {
            let Fault { route: wanted, skipped, times, .. } = armed.fault;
            if wanted.is_some() && wanted != route {
                return false;
            }
            if times.is_some_and(|times| armed.hits() >= times) {
                return false;
            }
            armed.seen.fetch_add(1, Ordering::Relaxed) >= skipped
        });
        let armed = Arc::clone(armed?);
        drop(state);
        self.0.changed.notify_all();
        Some(TriggeredFault { shared: Arc::clone(&self.0), armed })
    }

    /// Releases what is held back, now and from here on.
    pub(super) fn stop(&self) {
        self.0.state().stopping = true;
        self.0.changed.notify_all();
    }
}

impl ActiveFault {
    /// Returns how many requests have met it.
    pub fn hits(&self) -> usize {
        self.armed.hits()
    }

    /// Waits until so many requests have met it, and tells whether they have. Blocks until the
    /// deadline at most.
    ///
    /// With [`Fault::hold`] the request's effect may still be under way; the journal has it when it
    /// is done.
    pub fn wait(&self, hits: usize, deadline: Deadline) -> bool {
        let state = self.shared.state();
        let waiting = |_: &mut State| self.hits() < hits;
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(state, deadline.remaining(), waiting);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.hits() >= hits
    }

    /// Sends what it holds back, and holds nothing back any more.
    pub fn release(&self) {
        let state = self.shared.state();
        self.armed.released.store(true, Ordering::Relaxed);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Removes it from the server. What it holds back is released.
    pub fn remove(&self) {
        self.shared.state().armed.retain(|armed| !Arc::ptr_eq(armed, &self.armed));
        self.release();
    }
}

impl TriggeredFault {
    pub(super) fn name(&self) -> &'static str {
        self.armed.fault.name()
    }

    /// Returns what happens in place of an answer, and its status, zero if it has none. `None` if
    /// the request is to be answered first.
    pub(super) fn replacement(&self) -> Option<(u16, Outcome)> {
        match &self.armed.fault.kind {
            Kind::Answer(headers, status, body) => {
                let (headers, body) = (headers.clone(), body.clone());
                Some((*status, Outcome::Answer(Response { status: *status, headers, body })))
            }
            Kind::Bytes(bytes) => Some((0, Outcome::Bytes(bytes.clone()))),
            Kind::CutBeforeHandling => Some((0, Outcome::Cut)),
            Kind::CutAfterCommit | Kind::CutInBody | Kind::Delay(_) | Kind::Drip(..) => None,
        }
    }

    /// Does to an answer what this fault does to answers. Blocks for as long as it is held back.
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

    /// Waits for this long, for ever if `None`. False if nothing is held back any more.
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

impl FaultState {
    fn hits(&self) -> usize {
        self.seen.load(Ordering::Relaxed).saturating_sub(self.fault.skipped)
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
