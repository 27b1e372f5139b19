//! The state that all handles of a session share, and the records of its users.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::backend_clock::BackendClock;
use super::backoff::Failures;
use super::events::{EventDispatcher, Events};
use super::location_cache::LocationCache;
use super::single_flight::SingleFlight;
use super::unpersisted::Unpersisted;
use crate::base_url::BaseUrl;
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{LocalState, Result, TransportError, TransportErrorKind};
use crate::id::UserId;
use crate::shutdown::Shutdown;
use crate::store::{Store, StoredUser};
use crate::token::AccessToken;
use crate::transport::Transport;
use crate::wire::Device;

/// Maximum time that an ending session waits for the store to persist its tokens.
pub(super) const LAST_LIMIT: Duration = Duration::from_secs(5);

/// A session's shared state. No lock in here is held during network requests or calls of listeners.
pub(crate) struct Inner {
    pub(crate) app_id: String,
    pub(super) base_url: BaseUrl,
    pub(super) insecure_http: bool,
    /// Set if keyfob may ask the backend for its location. Behind some proxies it must not.
    pub(super) asks_location: bool,
    pub(super) device: Device,
    pub(crate) store: Arc<dyn Store>,
    pub(super) transport: Box<dyn Transport>,
    pub(super) clock: BackendClock,
    pub(super) dispatcher: Arc<EventDispatcher>,
    pub(super) location_cache: LocationCache,
    /// The directory of this app's files, if the store has one.
    pub(super) app_dir: Option<PathBuf>,
    pub(super) refreshes: SingleFlight<UserId, Result<AccessToken>>,
    pub(super) failures: Failures,
    pub(super) unpersisted: Unpersisted,
    /// Fast check: the store may hold pending revocations.
    pub(super) may_have_revocations: AtomicBool,
    pub(super) shutdown: Shutdown,
    pub(super) this: Weak<Self>,
    /// This process's share of the refresh jitter.
    pub(super) jitter: u8,
}

impl Inner {
    pub(super) fn base_url(&self) -> &str {
        self.base_url.as_str()
    }

    /// Ends all waiting calls and all later ones.
    pub(super) fn shut_down(&self) {
        note!(debug, "shutting the session down");
        self.shutdown.begin();
        self.dispatcher.close();
        self.transport.shut_down();
    }

    /// Runs work on its own thread, so that a cancelled call need not wait for it.
    pub(super) fn run_apart(&self, work: impl FnOnce(&Self) + Send + 'static) -> io::Result<()> {
        let Some(inner) = self.this.upgrade() else { return Ok(()) };
        let thread = thread::Builder::new().name("keyfob-background".to_owned());
        thread.spawn(move || work(&inner)).map(drop)
    }

    /// Subscribes to all events, or to those of one user.
    pub(crate) fn events(&self, of: Option<UserId>, deadline: Deadline) -> Result<Events> {
        self.dispatcher.events(&self.store, of, deadline)
    }

    /// Returns a user's record, including unpersisted tokens.
    pub(crate) fn user(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<Arc<StoredUser>>> {
        let stored = self.store.user(user, deadline)?;
        Ok(stored.map(|stored| self.unpersisted.renew(stored)))
    }

    /// Returns the record of a user who is known here.
    pub(crate) fn record(&self, user: &UserId, deadline: Deadline) -> Result<Arc<StoredUser>> {
        known(user, self.user(user, deadline)?)
    }

    /// Returns the record and the access token of a user who is logged in.
    pub(crate) fn logged_in(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<(Arc<StoredUser>, AccessToken)> {
        logged_in(user, self.user(user, deadline)?)
    }

    /// As [`logged_in`](Self::logged_in), before a request: first stores unpersisted tokens, best
    /// effort.
    pub(crate) fn logged_in_for_request(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<(Arc<StoredUser>, AccessToken)> {
        self.retry_persist(deadline);
        self.logged_in(user, deadline)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // No later call of this session can store them.
        self.persist_all(Deadline::after(LAST_LIMIT));
        self.dispatcher.close();
    }
}

/// Returns the record of a user who is known here.
pub(super) fn known(user: &UserId, record: Option<Arc<StoredUser>>) -> Result<Arc<StoredUser>> {
    record.ok_or_else(|| LocalState::UnknownUser(user.clone()).into())
}

/// Returns the record and the access token of a user who is logged in.
pub(super) fn logged_in(
    user: &UserId,
    record: Option<Arc<StoredUser>>,
) -> Result<(Arc<StoredUser>, AccessToken)> {
    let record = known(user, record)?;
    match &record.access_token {
        Some(token) if record.is_logged_in() => {
            let token = token.clone();
            Ok((record, token))
        }
        _ => Err(LocalState::NotLoggedIn(user.clone()).into()),
    }
}

pub(super) fn out_of_time(at: &BaseUrl, waiting_for: &'static str) -> TransportError {
    TransportError::new(TransportErrorKind::Timeout, at.as_str())
        .before_sending()
        .because(format!("waiting for: {waiting_for}"))
}
