//! The backend's location: looking it up, and replacing it when it no longer works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::inner::{Inner, out_of_time};
use super::location_cache::Location;
use super::single_flight::{Outcome, Role};
use crate::base_url::BaseUrl;
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::Result;
use crate::wire::{self, Route};

/// How long a location that failed is not looked up again, and how long the base URL is used when
/// the backend could not report a location.
const LOOKUP_BACKOFF: Duration = Duration::from_secs(10);

impl Inner {
    /// Returns the location: from this process's memory, from the store, or from the backend, in
    /// this order. A location that failed is looked up again, for at most a quarter of the time.
    pub(super) fn location(&self, deadline: Deadline) -> Result<Arc<Location>> {
        loop {
            if let Some(known) = self.known_location() {
                return Ok(known);
            }
            match self.location_cache.lookups.join(&()) {
                Role::Leader(lead) => {
                    // Another thread may have found it since.
                    let found = self.known_location().map_or_else(|| self.find(deadline), Ok);
                    lead.done(found.clone());
                    return found;
                }
                Role::Follower(lookup) => match lookup.wait(deadline) {
                    // The leader had less time than this caller has.
                    Outcome::Done(Err(error)) if error.is_timeout() && !deadline.has_passed() => {}
                    Outcome::Done(found) => return found,
                    Outcome::Abandoned => {}
                    Outcome::Pending => {
                        return Err(out_of_time(&self.base_url, "the app's location").into());
                    }
                },
            }
        }
    }

    /// Finds the location when none is known or the known one has failed.
    fn find(&self, deadline: Deadline) -> Result<Arc<Location>> {
        let failed =
            self.location_cache.update(|state| state.known.clone().filter(|_| state.has_failed));
        let found = match &failed {
            _ if !self.asks_location => Arc::new(self.at_base_url(true)),
            Some(failed) => {
                let soon = deadline.at_most(deadline.remaining() / 4);
                // The location may still be right, and the base URL may not work either.
                let found = self.look_up_location(soon).unwrap_or_else(|_| Arc::clone(failed));
                if found.host != failed.host {
                    let (gone, here) = (&failed.host, &found.host);
                    note!(warn, "the backend is no longer at {gone} but at {here}");
                }
                found
            }
            None => match self.store.location(deadline)?.map(|response| self.trusted(response)) {
                // Not if it could not be parsed.
                Some(stored) if stored.until.is_none() => Arc::new(stored),
                _ => self.look_up_location(deadline)?,
            },
        };
        let backoff_until = self.clock.monotonic().saturating_add(LOOKUP_BACKOFF);
        self.location_cache.update(|state| {
            state.known = Some(Arc::clone(&found));
            if std::mem::take(&mut state.has_failed) {
                state.backoff_until = backoff_until;
            }
        });
        Ok(found)
    }

    /// Returns `true` if no backend has ever confirmed its location in response to a look-up.
    pub(super) fn is_doubtful(&self, location: &Location) -> bool {
        self.asks_location && location.response.is_none()
    }

    /// Looks the location up again, because `wrong` does not work. Returns the new location if it
    /// differs. Further look-ups are skipped for a while, however many callers ask for one. If no
    /// time is left, the next call looks it up.
    pub(super) fn relocate(&self, wrong: &BaseUrl, deadline: Deadline) -> Option<Arc<Location>> {
        if !self.asks_location {
            return None;
        }
        let now = self.clock.monotonic();
        self.location_cache.update(|state| {
            // Another thread may have replaced it since the response.
            let is_known = state.known.as_ref().is_some_and(|known| known.host == *wrong);
            state.has_failed |= is_known && now >= state.backoff_until;
        });
        if deadline.has_passed() {
            return None;
        }
        self.location(deadline).ok().filter(|found| found.host != *wrong)
    }

    /// Returns the location in memory, unless it has to be looked up.
    fn known_location(&self) -> Option<Arc<Location>> {
        self.location_cache.known(self.clock.monotonic())
    }

    /// Returns the location if the next commit has to store it.
    pub(super) fn unstored_location(&self) -> Option<Arc<Location>> {
        self.known_location().filter(|known| known.is_unstored.load(Ordering::Relaxed))
    }

    /// Asks the backend for its location. If the backend does not support the look-up or cannot
    /// respond now, its location is the base URL.
    fn look_up_location(&self, deadline: Deadline) -> Result<Arc<Location>> {
        let route = Route::location(&self.app_id);
        let response = self.send_following_redirects(&self.base_url, &route, None, deadline)?;
        let found = if response.is_success() {
            self.trusted(String::from_utf8(response.into_body()).unwrap_or_default())
        } else {
            let error = wire::refusal(&route, &response);
            if wire::is_unknown_app(&error) {
                return Err(error.into());
            }
            self.at_base_url(matches!(error.status, 404 | 405 | 501))
        };
        // The next commit stores it, unless it is only used for a while.
        found.is_unstored.store(found.until.is_none(), Ordering::Relaxed);
        Ok(Arc::new(found))
    }

    /// Accepts a location only if tokens are as safe there as at the configured base URL.
    fn trusted(&self, response: String) -> Location {
        let Ok(hosts) = wire::location(response.as_bytes()) else { return self.at_base_url(false) };
        let safe = |url: &str, secure: &str| url.starts_with(secure) || !self.base_url.is_https();
        match BaseUrl::parse(&hosts.http, self.insecure_http) {
            Ok(host) if safe(host.as_str(), "https:") => {
                let websocket = hosts.websocket.and_then(|url| {
                    let url = format!("http{}", url.strip_prefix("ws")?);
                    let url = BaseUrl::parse(&url, self.insecure_http).ok()?.websocket();
                    safe(&url, "wss:").then_some(url)
                });
                let websocket = websocket.unwrap_or_else(|| host.websocket()) + &self.sync_path();
                Location {
                    host,
                    response: Some(response),
                    websocket,
                    until: None,
                    is_unstored: AtomicBool::new(false),
                }
            }
            _ => self.at_base_url(true),
        }
    }

    fn at_base_url(&self, is_certain: bool) -> Location {
        let websocket = self.base_url.websocket() + &self.sync_path();
        let until = (!is_certain).then(|| self.clock.monotonic().saturating_add(LOOKUP_BACKOFF));
        let host = self.base_url.clone();
        Location { host, response: None, websocket, until, is_unstored: AtomicBool::new(false) }
    }

    fn sync_path(&self) -> String {
        wire::sync_path(&self.app_id)
    }
}
