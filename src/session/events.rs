//! Who hears of what happened: the hub of a session, and the two ways to listen.
//!
//! One dispatcher thread per session, started by the first listener and ended with the last, reads
//! the store's recent events, after a commit here at once and otherwise ten times a second, which
//! is how events of other processes arrive. It puts them into the listeners' queues and never calls
//! anybody, so a listener that is stuck or panics holds up nobody but itself.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::event_queue::{Queue, wait_until};
use crate::deadline::Deadline;
use crate::error::{Error, Result, StoreError, StoreErrorKind};
use crate::event::Event;
use crate::id::UserId;
use crate::store::{RecentEvents, Store};

/// The longest that the dispatcher waits for the store.
const STORE_DEADLINE: Duration = Duration::from_secs(5);

/// The listeners of a session.
pub(crate) struct EventDispatcher {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queues: Vec<Weak<Queue>>,
    running: bool,
    woken: bool,
    closed: bool,
    /// How often somebody asked for what is committed by now, and which of these were delivered.
    asked: u64,
    delivered: u64,
    /// Whether the dispatcher of a closed session has ended.
    ended: bool,
}

/// How far the dispatcher has come, and in which store's life.
struct Seen {
    number: u64,
    life: u64,
    /// Whether a rollback of the store was reported.
    rolled_back: bool,
}

/// The events of a session or a user from now on: a blocking iterator that ends with the session;
/// returned by [`Session::events`](crate::Session::events) and
/// [`User::changes`](crate::User::changes).
///
/// Events are emitted after the change is on disk. They include changes by other processes that
/// share the store, within a tenth of a second. Up to 1,024 events wait in a queue; if more happen
/// before they are taken, [`Event::Lagged`] takes the place of the others. Dropping the iterator
/// unsubscribes.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "server")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
/// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
/// #     .store(keyfob::store::MemoryStore::new())
/// #     .open()?;
/// use std::thread;
///
/// use keyfob::{Credentials, Event};
///
/// let events = session.events()?;
/// let listener = thread::spawn(move || events.collect::<Vec<Event>>());
/// session.log_in(&Credentials::anonymous())?;
/// session.shut_down(); // the iterator ends after the last event
/// let events = listener.join().unwrap();
/// assert!(matches!(events[0], Event::LoggedIn { .. }));
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "server"))]
/// # fn main() {}
/// ```
pub struct Events {
    hub: Arc<EventDispatcher>,
    queue: Arc<Queue>,
}

/// Keeps a listener subscribed; dropping it unsubscribes. A call that is in progress then goes on,
/// and events that still wait are not delivered: [`drain`](Self::drain) waits for both. Returned by
/// [`Session::subscribe`](crate::Session::subscribe) and
/// [`User::subscribe`](crate::User::subscribe).
#[must_use = "dropping it unsubscribes the listener"]
pub struct Subscription {
    hub: Arc<EventDispatcher>,
    queue: Weak<Queue>,
}

impl EventDispatcher {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), wake: Condvar::new() })
    }

    /// Says that something was committed here.
    pub(crate) fn wake(&self) {
        self.lock().woken = true;
        self.wake.notify_all();
    }

    /// Ends all iterators and the dispatcher: the last handle of the session is gone, or it was
    /// shut down.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.closed = true;
        // The dispatcher still delivers what was committed, and closes the queues then.
        if !state.running {
            state.end(true);
        }
        self.wake.notify_all();
    }

    /// Subscribes to everything, or to what concerns one user, that is committed from now on.
    pub(crate) fn events(
        self: &Arc<Self>,
        store: &Arc<dyn Store>,
        of: Option<UserId>,
        deadline: Deadline,
    ) -> Result<Events> {
        let RecentEvents { number: since, instance: life, .. } = store.recent(None, deadline)?;
        let queue = Arc::new(Queue::new(since, of));
        let mut state = self.lock();
        state.queues.push(Arc::downgrade(&queue));
        if !state.running {
            let (hub, store) = (self.clone(), store.clone());
            thread::Builder::new()
                .name("keyfob-events".to_owned())
                .spawn(move || {
                    hub.dispatch(&*store, Seen { number: since, life, rolled_back: false })
                })
                .map_err(no_thread)?;
            state.running = true;
        }
        drop(state);
        Ok(Events { hub: Arc::clone(self), queue })
    }

    fn dispatch(self: &Arc<Self>, store: &dyn Store, mut seen: Seen) {
        let hub = Arc::downgrade(self);
        let _watch = store.watch(Box::new(move || {
            if let Some(hub) = hub.upgrade() {
                hub.wake();
            }
        }));
        while let Some(asked) = self.wait(store.poll_interval()) {
            if self.deliver(store, &mut seen) {
                self.lock().delivered = asked;
                self.wake.notify_all();
            }
        }
        let mut state = self.lock();
        if state.closed {
            let is_heard = state.queues.iter().any(|queue| queue.strong_count() > 0);
            drop(state);
            let delivered = !is_heard || self.deliver(store, &mut seen);
            state = self.lock();
            state.end(delivered);
            self.wake.notify_all();
        }
    }

    /// Waits until what is committed by now is in the queues; `false` if the time is up before.
    fn catch_up(&self, until: Option<Instant>) -> bool {
        let mut state = self.lock();
        state.asked += 1;
        let asked = state.asked;
        state.woken = true;
        self.wake.notify_all();
        while state.delivered < asked && !state.ended {
            match wait_until(&self.wake, state, until) {
                Some(woken) => state = woken,
                None => return false,
            }
        }
        state.delivered >= asked
    }

    /// Puts what is new into the queues; `false` if the store cannot be read.
    fn deliver(&self, store: &dyn Store, seen: &mut Seen) -> bool {
        // A store that cannot be read now is read later; the commits are not lost.
        let deadline = Deadline::after(STORE_DEADLINE);
        let recent = match store.recent(Some(seen.number), deadline) {
            Ok(recent) => recent,
            Err(error) => {
                let rolled_back = error.kind == StoreErrorKind::RolledBack;
                if rolled_back && !seen.rolled_back {
                    self.push_to_all(&Event::StoreRolledBack);
                }
                seen.rolled_back |= rolled_back;
                return false;
            }
        };
        // Another store is in this place, and its numbers say nothing about those before.
        let replaced = recent.instance != seen.life || recent.number < seen.number;
        if recent.number == seen.number && !replaced {
            return true;
        }
        for queue in self.queues() {
            if replaced {
                queue.since.store(0, Ordering::Relaxed);
            }
            let since = queue.since.load(Ordering::Relaxed);
            if replaced || recent.lagged && since < recent.number {
                queue.push(&Event::Lagged);
            }
            for (number, event) in &recent.events {
                if *number > since {
                    queue.push(event);
                }
            }
        }
        *seen = Seen { number: recent.number, life: recent.instance, rolled_back: false };
        true
    }

    /// Notifies the listeners of this process alone.
    pub(super) fn push_to_all(&self, event: &Event) {
        for queue in self.queues() {
            queue.push(event);
        }
    }

    fn queues(&self) -> Vec<Arc<Queue>> {
        self.lock().queues.iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits for a reason to look, and returns how often somebody had asked by then; nothing once
    /// nobody listens any more.
    fn wait(&self, poll: Duration) -> Option<u64> {
        let state = self.lock();
        let (mut state, _) = self
            .wake
            .wait_timeout_while(state, poll, |state| !state.woken && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.woken = false;
        state.queues.retain(|queue| queue.strong_count() > 0);
        state.running = !state.closed && !state.queues.is_empty();
        state.running.then_some(state.asked)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Closes the queues, which have everything or will never have it.
    fn end(&mut self, delivered: bool) {
        self.ended = true;
        if delivered {
            self.delivered = u64::MAX;
        }
        for queue in self.queues.drain(..).filter_map(|queue| queue.upgrade()) {
            queue.close();
        }
    }
}

impl Events {
    /// Waits until all events of commits that were made before this call are in the queue, at most
    /// this long: then [`try_next`](Self::try_next) returns them, one after the other. Returns `false`
    /// if the time is up before, because the store cannot be read.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use std::time::Duration;
    ///
    /// use keyfob::Credentials;
    ///
    /// let mut events = session.events()?;
    /// session.log_in(&Credentials::anonymous())?;
    /// assert!(events.catch_up(Duration::from_secs(5)));
    /// while let Some(event) = events.try_next() {
    ///     println!("{event:?}");
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn catch_up(&self, timeout: Duration) -> bool {
        self.hub.catch_up(Instant::now().checked_add(timeout))
    }

    /// Returns the next event if there is one now. Does not block.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// let mut events = session.events()?;
    /// assert_eq!(events.try_next(), None); // nothing has happened yet
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn try_next(&mut self) -> Option<Event> {
        self.queue.take(Some(Instant::now()))
    }

    /// Returns `true` if no more events will come: the session has ended, and all its events were
    /// taken.
    pub fn has_ended(&self) -> bool {
        self.queue.has_ended()
    }

    /// Waits for the next event, for at most `timeout`. Returns `None` if no event came by then,
    /// and at once if [no more](Self::has_ended) will come.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use std::time::Duration;
    ///
    /// use keyfob::Event;
    ///
    /// let mut events = session.events()?;
    /// user.refresh_access_token()?;
    /// let event = events.next_timeout(Duration::from_secs(10));
    /// assert!(matches!(event, Some(Event::TokenRefreshed { .. })));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Event> {
        self.queue.take(Instant::now().checked_add(timeout))
    }

    /// Calls `listener` with each event, on a thread of its own.
    pub(crate) fn subscribe(
        self,
        listener: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Subscription> {
        let (hub, queue) = (Arc::clone(&self.hub), Arc::downgrade(&self.queue));
        thread::Builder::new()
            .name("keyfob-listener".to_owned())
            .spawn(move || {
                for event in self {
                    // Its panic was reported by the panic hook, and the next event is another one.
                    let _ = catch_unwind(AssertUnwindSafe(|| listener(&event)));
                }
            })
            .map_err(no_thread)?;
        Ok(Subscription { hub, queue })
    }
}

fn no_thread(error: std::io::Error) -> Error {
    StoreError::new(StoreErrorKind::Io, "no thread could be started to watch it")
        .because(error)
        .into()
}

impl Iterator for Events {
    type Item = Event;

    /// Waits for the next event, without limit; `None` once the session has ended.
    fn next(&mut self) -> Option<Event> {
        self.queue.take(None)
    }
}

impl Subscription {
    /// Waits until the listener has returned from its calls with all events of commits that were made
    /// before this call, at most this long. Call this at the end of a program: the listener's thread
    /// ends with the program.
    ///
    /// Returns `false` if the time is up before: the listener is slow, or the store cannot be read. In
    /// the listener itself this waits for nothing but the end of the time.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// use std::time::Duration;
    ///
    /// use keyfob::Credentials;
    ///
    /// let subscription = session.subscribe(|event| println!("{event:?}"))?;
    /// session.log_in(&Credentials::anonymous())?;
    /// // The program is about to end.
    /// if !subscription.drain(Duration::from_secs(5)) {
    ///     eprintln!("some events were not printed");
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn drain(&self, timeout: Duration) -> bool {
        let until = Instant::now().checked_add(timeout);
        let waits = |queue: Arc<Queue>| queue.wait_for_calls(until);
        self.hub.catch_up(until) && self.queue.upgrade().is_none_or(waits)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.upgrade() {
            queue.abandon();
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("of", &self.queue.of()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}
