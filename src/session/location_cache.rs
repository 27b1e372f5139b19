//! The backend's location, as this process knows it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::single_flight::SingleFlight;
use crate::base_url::BaseUrl;
use crate::error::Result;
use crate::store::{Change, StoreView};

/// Where to send requests.
#[derive(Debug)]
pub(super) struct Location {
    pub(super) host: BaseUrl,
    /// The backend's response, as stored. `None` if the backend does not support the look-up.
    pub(super) response: Option<String>,
    /// The URL that sync engines connect to.
    pub(super) websocket: String,
    /// Until when this is used, by the monotonic clock. Set if the backend could not report a
    /// location.
    pub(super) until: Option<Duration>,
    /// Set when the location was looked up by this process and is not stored yet.
    pub(super) is_unstored: AtomicBool,
}

/// The location that this process uses.
#[derive(Default)]
pub(super) struct LocationCache {
    state: RwLock<CacheState>,
    pub(super) lookups: SingleFlight<(), Result<Arc<Location>>>,
}

#[derive(Default)]
pub(super) struct CacheState {
    pub(super) known: Option<Arc<Location>>,
    /// Set when the location failed and has to be looked up again.
    pub(super) has_failed: bool,
    /// Until when a failed location is not looked up again, by the monotonic clock.
    pub(super) backoff_until: Duration,
}

impl Location {
    /// Returns the change that stores the location, or `None` if it is already stored.
    pub(super) fn change(&self, stored: &dyn StoreView) -> Option<Change> {
        (stored.location() != self.response).then(|| Change::Location(self.response.clone()))
    }

    pub(super) fn mark_stored(&self) {
        self.is_unstored.store(false, Ordering::Relaxed);
    }
}

impl LocationCache {
    /// Returns the location, unless it has to be looked up. `now` is the monotonic time.
    pub(super) fn known(&self, now: Duration) -> Option<Arc<Location>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let known = state.known.as_ref()?;
        let serves = known.until.is_none_or(|until| now < until);
        (serves && !state.has_failed).then(|| Arc::clone(known))
    }

    pub(super) fn update<T>(&self, change: impl FnOnce(&mut CacheState) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}
