//! Event dispatch: the dispatcher of a session and its two receivers, an iterator and a callback.
//!
//! Each session has one dispatcher thread. The first listener starts it, and it ends with the last
//! one. It reads the store's recent events: at once after a commit in this process, otherwise ten
//! times a second, which is how it finds events of other processes. It puts them into the
//! listeners' queues and calls no listener itself, so a listener that blocks or panics delays no
//! other.

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

/// Maximum time that the dispatcher waits for the store.
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
    /// The number of requests to deliver everything committed so far, and the last one that was
    /// served.
    asked: u64,
    delivered: u64,
    /// Set when the dispatcher of a closed session has ended.
    ended: bool,
}

/// The dispatcher's position: the number of the last commit it read, and the store instance.
struct Seen {
    number: u64,
    instance: u64,
    /// Set when a rollback of the store was reported.
    rolled_back: bool,
}

/// The events of a session or a user from now on: a blocking iterator that ends with the session.
/// Returned by [`Session::events`](crate::Session::events) and
/// [`User::changes`](crate::User::changes).
///
/// Events are emitted after the change is on disk. They include changes by other processes that
/// share the store, within a tenth of a second. The queue holds up to 1,024 events. If it
/// overflows, one [`Event::Lagged`] replaces the events that do not fit. Dropping the iterator
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
    dispatcher: Arc<EventDispatcher>,
    queue: Arc<Queue>,
}

/// Keeps a listener subscribed; dropping it unsubscribes. A call in progress then continues, and
/// queued events are not delivered: [`drain`](Self::drain) waits for both. Returned by
/// [`Session::subscribe`](crate::Session::subscribe) and
/// [`User::subscribe`](crate::User::subscribe).
#[must_use = "dropping it unsubscribes the listener"]
pub struct Subscription {
    dispatcher: Arc<EventDispatcher>,
    queue: Weak<Queue>,
}

impl EventDispatcher {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), wake: Condvar::new() })
    }

    /// Wakes the dispatcher after a commit in this process.
    pub(crate) fn wake(&self) {
        self.lock().woken = true;
        self.wake.notify_all();
    }

    /// Ends all iterators and the dispatcher. Called when the last handle of the session is dropped
    /// and at a shutdown.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.closed = true;
        // The dispatcher still delivers what was committed, and then closes the queues.
        if !state.running {
            state.end(true);
        }
        self.wake.notify_all();
    }

    /// Subscribes to all events that are committed from now on, or to those of one user.
    pub(crate) fn events(
        self: &Arc<Self>,
        store: &Arc<dyn Store>,
        of: Option<UserId>,
        deadline: Deadline,
    ) -> Result<Events> {
        let RecentEvents { number: since, instance, .. } = store.recent(None, deadline)?;
        let queue = Arc::new(Queue::new(since, of));
        let mut state = self.lock();
        state.queues.push(Arc::downgrade(&queue));
        if !state.running {
            let (dispatcher, store) = (self.clone(), store.clone());
            thread::Builder::new()
                .name("keyfob-events".to_owned())
                .spawn(move || {
                    dispatcher
                        .dispatch(&*store, Seen { number: since, instance, rolled_back: false })
                })
                .map_err(no_thread)?;
            state.running = true;
        }
        drop(state);
        Ok(Events { dispatcher: Arc::clone(self), queue })
    }

    fn dispatch(self: &Arc<Self>, store: &dyn Store, mut seen: Seen) {
        let dispatcher = Arc::downgrade(self);
        let _watch = store.watch(Box::new(move || {
            if let Some(dispatcher) = dispatcher.upgrade() {
                dispatcher.wake();
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
            let has_listeners = state.queues.iter().any(|queue| queue.strong_count() > 0);
            drop(state);
            let delivered = !has_listeners || self.deliver(store, &mut seen);
            state = self.lock();
            state.end(delivered);
            self.wake.notify_all();
        }
    }

    /// Waits until everything committed so far is in the queues. Returns `false` on timeout.
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

    /// Puts new events into the queues. Returns `false` if the store cannot be read.
    fn deliver(&self, store: &dyn Store, seen: &mut Seen) -> bool {
        // If the store cannot be read now, the next attempt reads the same commits.
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
        // Another store is at this path: its commit numbers cannot be compared with the earlier
        // ones.
        let replaced = recent.instance != seen.instance || recent.number < seen.number;
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
        *seen = Seen { number: recent.number, instance: recent.instance, rolled_back: false };
        true
    }

    /// Sends an event to the listeners of this process only.
    pub(super) fn push_to_all(&self, event: &Event) {
        for queue in self.queues() {
            queue.push(event);
        }
    }

    fn queues(&self) -> Vec<Arc<Queue>> {
        self.lock().queues.iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits until there is a reason to read the store. Returns the number of requests so far, or
    /// `None` if there are no listeners left or the session is closed.
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
    /// Closes the queues: they have all events, or the missing ones can no longer be delivered.
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
    /// Waits for at most `timeout` until the events of all commits made before this call are in the
    /// queue. [`try_next`](Self::try_next) then returns them one by one. Returns `false` if the
    /// timeout passes first, because the store cannot be read.
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
        self.dispatcher.catch_up(Instant::now().checked_add(timeout))
    }

    /// Returns the next event, or `None` if the queue is empty. Does not block.
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

    /// Waits for the next event, for at most `timeout`. Returns `None` if none came in that time,
    /// and at once if [the events have ended](Self::has_ended).
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
        let (dispatcher, queue) = (Arc::clone(&self.dispatcher), Arc::downgrade(&self.queue));
        thread::Builder::new()
            .name("keyfob-listener".to_owned())
            .spawn(move || {
                for event in self {
                    // The panic hook has reported the panic; continue with the next event.
                    let _ = catch_unwind(AssertUnwindSafe(|| listener(&event)));
                }
            })
            .map_err(no_thread)?;
        Ok(Subscription { dispatcher, queue })
    }
}

fn no_thread(error: std::io::Error) -> Error {
    StoreError::new(StoreErrorKind::Io, "no thread could be started to watch it")
        .because(error)
        .into()
}

impl Iterator for Events {
    type Item = Event;

    /// Waits for the next event, without a timeout. Returns `None` once the session has ended.
    fn next(&mut self) -> Option<Event> {
        self.queue.take(None)
    }
}

impl Subscription {
    /// Waits for at most `timeout` until the listener has returned from its calls for the events of
    /// all commits made before this call. Call this at the end of a program, because the listener's
    /// thread ends with the program.
    ///
    /// Returns `false` if the timeout passes first: the listener is slow, or the store cannot be
    /// read. Do not call this in the listener itself: it would only wait for the timeout.
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
        self.dispatcher.catch_up(until) && self.queue.upgrade().is_none_or(waits)
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
