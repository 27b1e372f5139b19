//! The backend's location: looking it up, and replacing it when it no longer works.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::inner::{Inner, out_of_time};
use super::send::is_success;
use super::single_flight::{Role, WaitResult};
use crate::base_url::BaseUrl;
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{Error, Result};
use crate::store::{Change, StoreView};
use crate::wire::{self, Route};

/// How long a location that failed is not looked up again, and how long the base URL is used when
/// the backend could not report a location.
const REST: Duration = Duration::from_secs(10);

/// Where to send requests.
#[derive(Debug)]
pub(super) struct Location {
    pub(super) host: BaseUrl,
    /// The backend's response, as stored. `None` if the backend does not support the look-up.
    response: Option<String>,
    /// The URL that sync engines connect to.
    pub(super) websocket: String,
    /// Until when this is used, by the monotonic clock. Set if the backend could not report a
    /// location.
    until: Option<Duration>,
    /// Set when the location was looked up by this process and is not stored yet.
    is_news: AtomicBool,
}

impl Location {
    /// Returns the change that stores the location, or `None` if it is already stored.
    pub(super) fn change(&self, stored: &dyn StoreView) -> Option<Change> {
        (stored.location() != self.response).then(|| Change::Location(self.response.clone()))
    }

    pub(super) fn mark_stored(&self) {
        self.is_news.store(false, Ordering::Relaxed);
    }
}

impl Inner {
    /// Returns the location: from this process's memory, from the store, or from the backend, in
    /// this order.
    pub(super) fn location(&self, deadline: Deadline) -> Result<Arc<Location>> {
        loop {
            if let Some(known) = self.known_location() {
                let doubted = &self.location_is_doubted;
                if doubted.load(Ordering::Relaxed) && doubted.swap(false, Ordering::Relaxed) {
                    // The location may still be right, and the base URL may not work either.
                    let soon = deadline.at_most(deadline.remaining() / 4);
                    return Ok(self.relocate(&known.host, soon).unwrap_or(known));
                }
                return Ok(known);
            }
            if !self.asks_location {
                let here = Arc::new(self.at_base_url(true));
                self.remember_location(&here, false);
                return Ok(here);
            }
            match self.location_lookups.join(&()) {
                Role::Leader(lead) => {
                    let found = match self.store.location(deadline) {
                        Ok(Some(response)) => Ok((Arc::new(self.trusted(response)), false)),
                        Ok(None) => self.look_up_location(deadline).map(|found| (found, true)),
                        Err(error) => Err(error.into()),
                    };
                    let found = found.map(|(found, is_news)| {
                        self.remember_location(&found, is_news);
                        found
                    });
                    lead.done(found.clone());
                    return found;
                }
                Role::Follower(lookup) => match lookup.wait(deadline) {
                    // The leader had less time than this caller has.
                    WaitResult::Done(Err(error))
                        if error.is_timeout() && !deadline.has_passed() => {}
                    WaitResult::Done(found) => return found,
                    WaitResult::Abandoned => {}
                    WaitResult::TimedOut => {
                        return Err(out_of_time(&self.base_url, "the app's location").into());
                    }
                },
            }
        }
    }

    /// Returns `true` if no backend has ever confirmed its location in response to a look-up.
    pub(super) fn is_doubtful(&self, location: &Location) -> bool {
        self.asks_location && location.response.is_none()
    }

    /// Looks the location up again, because `wrong` does not work. Returns the new location if it
    /// differs. Further look-ups are skipped for a while, however many callers ask for one.
    pub(super) fn relocate(&self, wrong: &BaseUrl, deadline: Deadline) -> Option<Arc<Location>> {
        if !self.asks_location {
            return None;
        }
        if deadline.has_passed() {
            self.location_is_doubted.store(true, Ordering::Relaxed);
            return None;
        }
        let elsewhere = |found: &Arc<Location>| found.host != *wrong;
        let found = match self.location_lookups.join(&()) {
            Role::Leader(lead) => {
                // Another thread may have looked it up since the response.
                if let Some(known) = self.known_location().filter(elsewhere) {
                    lead.done(Ok(known.clone()));
                    return Some(known);
                }
                let mut rests = self.relocated.lock().unwrap_or_else(PoisonError::into_inner);
                let now = self.clock.monotonic();
                if rests.is_some_and(|until| now < until) {
                    return None;
                }
                *rests = Some(now.saturating_add(REST));
                drop(rests);
                let found = self.look_up_location(deadline);
                // The rest of a call's time may have been too short.
                let is_late = found.as_ref().is_err_and(Error::is_timeout);
                self.location_is_doubted.store(is_late, Ordering::Relaxed);
                if let Ok(found) = &found {
                    if elsewhere(found) {
                        let here = &found.host;
                        note!(warn, "the backend is no longer at {wrong} but at {here}");
                    }
                    self.remember_location(found, true);
                }
                lead.done(found.clone());
                found.ok()
            }
            Role::Follower(lookup) => match lookup.wait(deadline) {
                WaitResult::Done(found) => found.ok(),
                WaitResult::Abandoned | WaitResult::TimedOut => None,
            },
        };
        found.filter(elsewhere)
    }

    fn known_location(&self) -> Option<Arc<Location>> {
        let known = self.location.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref()?;
        let serves = known.until.is_none_or(|until| self.clock.monotonic() < until);
        serves.then(|| known.clone())
    }

    /// Returns the location if the next commit has to store it.
    pub(super) fn unstored_location(&self) -> Option<Arc<Location>> {
        self.known_location().filter(|known| known.is_news.load(Ordering::Relaxed))
    }

    /// Remembers a location. If it is new and does not expire, the next commit stores it.
    fn remember_location(&self, location: &Arc<Location>, is_news: bool) {
        location.is_news.store(is_news && location.until.is_none(), Ordering::Relaxed);
        *self.location.write().unwrap_or_else(PoisonError::into_inner) = Some(location.clone());
    }

    /// Asks the backend for its location. If the backend does not support the look-up or cannot
    /// respond now, its location is the base URL.
    fn look_up_location(&self, deadline: Deadline) -> Result<Arc<Location>> {
        let route = Route::location(&self.app_id);
        let response = self.send_following_redirects(&self.base_url, &route, None, deadline)?;
        if is_success(&response) {
            let response = String::from_utf8(response.into_body()).unwrap_or_default();
            return Ok(Arc::new(self.trusted(response)));
        }
        let error = wire::refusal(&route, &response);
        if wire::is_unknown_app(&error) {
            return Err(error.into());
        }
        Ok(Arc::new(self.at_base_url(matches!(error.status, 404 | 405 | 501))))
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
                    is_news: AtomicBool::new(false),
                }
            }
            _ => self.at_base_url(true),
        }
    }

    fn at_base_url(&self, is_certain: bool) -> Location {
        let websocket = self.base_url.websocket() + &self.sync_path();
        let until = (!is_certain).then(|| self.clock.monotonic().saturating_add(REST));
        let host = self.base_url.clone();
        Location { host, response: None, websocket, until, is_news: AtomicBool::new(false) }
    }

    fn sync_path(&self) -> String {
        wire::sync_path(&self.app_id)
    }
}
