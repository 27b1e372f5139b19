//! What all handles of a session share, and the ways to send a route: with the access token, with
//! the refresh token, or with none. All of them go through [`Inner::send`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use super::backend_clock::BackendClock;
use super::events::{EventDispatcher, Events};
use super::location::Location;
use super::pending_revocations::PendingRevocations;
use super::refresh::{Cooldown, LogoutCheck, RefreshOutcome, RefreshReason};
use super::send::success;
use super::single_flight::SingleFlight;
use super::unpersisted::UnpersistedTokens;
use crate::base_url::BaseUrl;
use crate::clock::{Clock, milliseconds};
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{
    Error, LocalState, Result, StoreError, StoreErrorKind, TransportError, TransportErrorKind,
};
use crate::id::UserId;
use crate::shutdown::Shutdown;
use crate::store::{Change, Store, StoreView, StoredUser};
use crate::token::AccessToken;
use crate::transport::{Response, Transport};
use crate::wire::{self, Bearer, Device, Route};

/// A session's shared state. No lock in here is held while the network or a listener is waited for.
pub(crate) struct Inner {
    pub(crate) app_id: String,
    pub(super) base_url: BaseUrl,
    pub(super) insecure_http: bool,
    /// Whether the backend may be asked where it is; behind some proxies it must not.
    pub(super) asks_location: bool,
    pub(super) device: Device,
    pub(crate) store: Arc<dyn Store>,
    pub(super) transport: Box<dyn Transport>,
    pub(super) clock: Box<dyn Clock>,
    pub(super) time: BackendClock,
    pub(super) hub: Arc<EventDispatcher>,
    /// Where the backend is, once that is known.
    pub(super) location: RwLock<Option<Arc<Location>>>,
    /// Whether that was asked for here and is not stored yet.
    pub(super) location_is_news: AtomicBool,
    /// Whether it took all the time of a call, so that the next one asks again.
    pub(super) location_is_doubted: AtomicBool,
    pub(super) location_lookups: SingleFlight<(), Result<Arc<Location>>>,
    /// Until when nobody asks again, by the monotonic clock, since somebody did.
    pub(super) relocated: Mutex<Option<Duration>>,
    /// Where the files of this app are, if they are anywhere.
    pub(super) app_dir: Option<PathBuf>,
    pub(super) refreshes: SingleFlight<UserId, RefreshOutcome>,
    pub(super) cooldowns: Mutex<HashMap<UserId, Cooldown>>,
    /// Access tokens that the backend refused and that were not replaced yet.
    pub(super) refused: Mutex<HashMap<UserId, AccessToken>>,
    /// Whether there may be any of those.
    pub(super) has_refused: AtomicBool,
    /// Rotated refresh tokens that could not be stored when they came.
    pub(super) unsaved: Mutex<HashMap<UserId, UnpersistedTokens>>,
    /// Whether there may be any of those.
    pub(super) has_any_unsaved: AtomicBool,
    /// Whether there may be log-outs that the backend has not been told of.
    pub(super) has_untold: AtomicBool,
    pub(super) untold: Mutex<PendingRevocations>,
    pub(super) shutdown: Shutdown,
    /// This process's share of the refresh jitter.
    pub(super) early: u8,
}

impl Inner {
    pub(super) fn base_url(&self) -> &str {
        self.base_url.as_str()
    }

    /// Ends what waits, and everything that begins later.
    pub(super) fn shut_down(&self) {
        note!(debug, "shutting the session down");
        self.shutdown.begin();
        self.hub.close();
        self.refreshes.abandon();
        self.location_lookups.abandon();
        self.transport.shut_down();
    }

    /// Subscribes to everything, or to what concerns one user.
    pub(crate) fn events(&self, of: Option<UserId>, deadline: Deadline) -> Result<Events> {
        self.hub.events(&self.store, of, deadline)
    }

    /// Returns the time by the wall clock here, in milliseconds since the epoch.
    pub(super) fn now(&self) -> i64 {
        milliseconds(self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Returns a user's record.
    pub(crate) fn record(&self, user: &UserId, deadline: Deadline) -> Result<Arc<StoredUser>> {
        let record = self.store.user(user, deadline)?;
        record.ok_or_else(|| LocalState::UnknownUser(user.clone()).into())
    }

    /// Returns the record and the access token of a user who is logged in.
    pub(crate) fn logged_in(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<(Arc<StoredUser>, AccessToken)> {
        let record = self.record(user, deadline)?;
        match &record.access_token {
            Some(token) if record.is_logged_in() => {
                let token = token.clone();
                Ok((record, token))
            }
            _ => Err(LocalState::NotLoggedIn(user.clone()).into()),
        }
    }

    /// Commits what `decide` makes of the newest state, and gives back what it says beside. An
    /// error of its own changes nothing.
    pub(super) fn commit<T>(
        &self,
        deadline: Deadline,
        mut decide: impl FnMut(&dyn StoreView) -> Result<(Vec<Change>, T)>,
    ) -> Result<T> {
        let mut decided = None;
        // Whether the news of a location was taken, and whether it is among the changes.
        let (mut takes_location, mut has_location) = (false, false);
        let committed = self.store.commit(deadline, &mut |tables| match decide(tables) {
            Ok((mut changes, value)) => {
                decided = Some(Ok(value));
                has_location = !changes.is_empty();
                if has_location {
                    // What is learned from here on is news for the next commit.
                    takes_location |= self.location_is_news.swap(false, Ordering::Relaxed);
                    changes.extend(self.location_change(tables).filter(|_| takes_location));
                }
                Ok(changes)
            }
            Err(Error::Store(error)) => Err(*error),
            Err(error) => {
                has_location = false;
                decided = Some(Err(error));
                Ok(Vec::new())
            }
        });
        if takes_location && (committed.is_err() || !has_location) {
            self.location_is_news.store(true, Ordering::Relaxed);
        }
        committed?;
        self.hub.wake();
        decided.unwrap_or_else(|| {
            let reason = "it committed without asking for the changes";
            Err(StoreError::new(StoreErrorKind::Io, reason).into())
        })
    }

    /// Sends a route that carries the user's access token, and returns the answer if it is a
    /// success. A token that is due is refreshed first; one that the backend refuses all the same
    /// is refreshed once, and the request is replayed once.
    pub(crate) fn send_as(
        &self,
        user: &UserId,
        route: &Route,
        deadline: Deadline,
    ) -> Result<Response> {
        debug_assert_eq!(route.bearer, Bearer::Access);
        let token = self.valid_access_token(user, deadline)?;
        let answer = self.send(route, Some(token.expose()), deadline)?;
        if !wire::refuses_token(&answer) {
            return success(route, answer);
        }
        self.note_refused(user, &token);
        let token = self.refresh(user, &token, RefreshReason::Rejected, deadline)?;
        success(route, self.send(route, Some(token.expose()), deadline)?)
    }

    /// Sends a route that carries the user's refresh token, and returns the answer if it is a
    /// success. A refusal of the token ends the login, as it does when refreshing.
    pub(crate) fn send_with_refresh_token(
        &self,
        user: &UserId,
        route: &Route,
        deadline: Deadline,
    ) -> Result<Response> {
        debug_assert_eq!(route.bearer, Bearer::Refresh);
        let mut last_chance = false;
        loop {
            let (record, _) = self.logged_in_to_send(user, deadline)?;
            let Some(token) = &record.refresh_token else {
                return Err(LocalState::NotLoggedIn(user.clone()).into());
            };
            let flight = || {
                let flight = self.store.lock_refresh(user, deadline)?;
                let what = "a refresh by another process";
                flight.ok_or_else(|| Error::from(out_of_time(&self.base_url, what)))
            };
            if self.has_unsaved(&record) {
                let _flight = flight()?;
                self.store_unsaved(user, deadline)?;
                continue;
            }
            let answer = self.send(route, Some(token.expose()), deadline)?;
            if !wire::refuses_session(&answer) {
                return success(route, answer);
            }
            let error = wire::refusal(route, &answer);
            // A refresh on its way may have made the backend forget this token: wait for what it
            // brings.
            let _flight = flight()?;
            if self.has_unsaved(&record) {
                continue;
            }
            match self.end_login(&record, token, &error, deadline)? {
                LogoutCheck::LoggedOut => return Err(Error::LoginEnded(Box::new(error))),
                LogoutCheck::TokenReplaced if last_chance => return Err(error.into()),
                LogoutCheck::TokenReplaced => last_chance = true,
            }
        }
    }

    /// Sends a route that carries no token, and returns the answer if it is a success.
    pub(crate) fn send_plain(&self, route: &Route, deadline: Deadline) -> Result<Response> {
        debug_assert_eq!(route.bearer, Bearer::None);
        success(route, self.send(route, None, deadline)?)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.close();
    }
}

/// Returns a user's record in a commit's decision; a user without one is not known here.
pub(super) fn known(tables: &dyn StoreView, user: &UserId) -> Result<Arc<StoredUser>> {
    tables.user(user)?.ok_or_else(|| LocalState::UnknownUser(user.clone()).into())
}

pub(super) fn out_of_time(at: &BaseUrl, waiting_for: &'static str) -> TransportError {
    TransportError::new(TransportErrorKind::Timeout, at.as_str())
        .before_sending()
        .because(format!("waiting for: {waiting_for}"))
}
