//! What all handles of a session share, and the one way to the backend: [`Inner::send_as`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::UNIX_EPOCH;

use super::events::{Events, Hub};
use super::refresh::{Brought, Cooldown, Ended, Landed};
use super::single::{Role, Single, Waited};
use super::url::BaseUrl;
use crate::clock::{Clock, Deadline};
use crate::error::{
    Error, LocalState, Result, StoreError, StoreErrorKind, TransportError, TransportErrorKind,
};
use crate::id::UserId;
use crate::store::{Change, Store, StoredUser, Tables};
use crate::token::AccessToken;
use crate::transport::{Request, Response, Transport};
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
    pub(super) hub: Arc<Hub>,
    /// Where the backend is, once that is known.
    pub(super) location: RwLock<Option<Location>>,
    /// Whether that was asked for here and is not stored yet.
    pub(super) location_is_news: AtomicBool,
    pub(super) location_lookups: Single<(), Result<Location>>,
    /// Where the files of this app are, if they are anywhere.
    pub(super) app_dir: Option<PathBuf>,
    pub(super) refreshes: Single<UserId, Landed>,
    pub(super) cooldowns: Mutex<HashMap<UserId, Cooldown>>,
    /// Rotated refresh tokens that could not be stored when they came.
    pub(super) unsaved: Mutex<HashMap<UserId, Brought>>,
    /// Whether there may be log-outs that the backend has not been told of.
    pub(super) has_untold: AtomicBool,
    /// This process's share of the refresh jitter.
    pub(super) early: u8,
}

/// Where the backend is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Location {
    host: BaseUrl,
    /// What the backend said, as the store remembers it; nothing if it does not know the question.
    said: Option<String>,
    /// Where sync engines connect.
    pub(super) websocket: String,
    /// Whether the backend was able to say. If it was not, it is asked again.
    is_certain: bool,
}

impl Inner {
    pub(super) fn base_url(&self) -> &str {
        self.base_url.as_str()
    }

    /// Subscribes to everything, or to what concerns one user.
    pub(crate) fn events(&self, of: Option<UserId>, deadline: Deadline) -> Result<Events> {
        self.hub.events(&self.store, of, deadline)
    }

    /// Returns the time by the wall clock here, in milliseconds since the epoch.
    pub(super) fn now(&self) -> i64 {
        let since = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        seconds.saturating_mul(1000).saturating_add(i64::from(since.subsec_millis()))
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
        mut decide: impl FnMut(&dyn Tables) -> Result<(Vec<Change>, T)>,
    ) -> Result<T> {
        let mut decided = None;
        self.store.commit(deadline, &mut |tables| match decide(tables) {
            Ok((mut changes, value)) => {
                decided = Some(Ok(value));
                if !changes.is_empty() {
                    changes.extend(self.location_change(tables));
                }
                Ok(changes)
            }
            Err(Error::Store(error)) => Err(*error),
            Err(error) => {
                decided = Some(Err(error));
                Ok(Vec::new())
            }
        })?;
        self.location_is_news.store(false, Ordering::Relaxed);
        self.hub.wake();
        decided.unwrap_or_else(|| {
            let reason = "it committed without asking for the changes";
            Err(StoreError::new(StoreErrorKind::Io, reason).into())
        })
    }

    /// A location that was learned is remembered with whatever is committed next.
    fn location_change(&self, tables: &dyn Tables) -> Option<Change> {
        // Somebody else may have learned something newer than what was read from the store here.
        if !self.location_is_news.load(Ordering::Relaxed) {
            return None;
        }
        let known = self.location.read().unwrap_or_else(PoisonError::into_inner);
        let said = known.as_ref()?.said.clone();
        (tables.location() != said).then_some(Change::Location(said))
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
        let token = self.refresh(user, &token, deadline, false)?;
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
            let (record, _) = self.logged_in(user, deadline)?;
            let Some(token) = &record.refresh_token else {
                return Err(LocalState::NotLoggedIn(user.clone()).into());
            };
            let answer = self.send(route, Some(token.expose()), deadline)?;
            if !wire::refuses_session(&answer) {
                return success(route, answer);
            }
            let error = wire::error(route.attempt, &answer);
            // A refresh on its way may have made the backend forget this token: wait for what it
            // brings.
            let Some(_flight) = self.store.refresh_flight(user, deadline)? else {
                return Err(out_of_time(&self.base_url, "a refresh by another process").into());
            };
            match self.end_login(&record, token, &error, deadline)? {
                Ended::Yes => return Err(Error::LoginEnded(Box::new(error))),
                Ended::Changed if last_chance => return Err(error.into()),
                Ended::Changed => last_chance = true,
            }
        }
    }

    /// Sends a route that carries no token, and returns the answer if it is a success.
    pub(crate) fn send_plain(&self, route: &Route, deadline: Deadline) -> Result<Response> {
        debug_assert_eq!(route.bearer, Bearer::None);
        success(route, self.send(route, None, deadline)?)
    }

    /// Sends a route to where the backend is, and returns the answer, whatever its status.
    pub(super) fn send(
        &self,
        route: &Route,
        token: Option<&str>,
        deadline: Deadline,
    ) -> Result<Response> {
        let location = self.location(deadline)?.host;
        let error = match self.deliver(&location, route, token, deadline) {
            Err(Error::Transport(error)) if location != self.base_url => error,
            other => return other,
        };
        // The backend may have moved since it said where it is.
        if error.may_have_arrived() {
            return Err(Error::Transport(error));
        }
        let moved = self.look_up_location(deadline);
        match moved {
            Ok(moved) if moved.host != location => {
                if moved.is_certain {
                    self.remember_location(&moved);
                }
                self.deliver(&moved.host, route, token, deadline)
            }
            _ => Err(Error::Transport(error)),
        }
    }

    fn deliver(
        &self,
        to: &BaseUrl,
        route: &Route,
        token: Option<&str>,
        deadline: Deadline,
    ) -> Result<Response> {
        let mut request = Request {
            method: route.method,
            url: to.join(&route.path),
            bearer: token.map(Into::into),
            body: route.body.clone(),
            deadline,
            fresh: false,
            limit: route.limit,
        };
        if deadline.has_passed() {
            return Err(out_of_time(to, "nothing was sent").into());
        }
        let mut outcome = self.transport.send(&request);
        if let Err(error) = &outcome {
            let again = error.kind == TransportErrorKind::Connect
                || error.kind == TransportErrorKind::Interrupted && route.repeatable;
            if again && !deadline.has_passed() {
                request.fresh = true;
                outcome = self.transport.send(&request);
            }
        }
        outcome.map_err(|mut error| {
            error.ambiguous = error.may_have_arrived() && !route.repeatable;
            error.into()
        })
    }

    /// Returns where the backend is: as it was learned in this process, as the store remembers it,
    /// or as the backend says now, in this order.
    pub(super) fn location(&self, deadline: Deadline) -> Result<Location> {
        if !self.asks_location {
            return Ok(self.at_base_url(true));
        }
        if let Some(known) = &*self.location.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(known.clone());
        }
        loop {
            match self.location_lookups.join(&()) {
                Role::Lead(lead) => {
                    let found = self.remembered_location(deadline);
                    if let Ok(found) = &found
                        && found.is_certain
                    {
                        self.remember_location(found);
                    }
                    lead.done(found.clone());
                    return found;
                }
                Role::Follow(lookup) => match lookup.wait(deadline) {
                    // Whoever asked had less time than this caller has.
                    Waited::Done(Err(error)) if error.is_timeout() && !deadline.has_passed() => {}
                    Waited::Done(found) => return found,
                    Waited::Abandoned => {}
                    Waited::TimedOut => {
                        return Err(out_of_time(&self.base_url, "the app's location").into());
                    }
                },
            }
        }
    }

    fn remembered_location(&self, deadline: Deadline) -> Result<Location> {
        match self.store.location(deadline)? {
            Some(said) => Ok(self.trusted(said)),
            None => self.look_up_location(deadline),
        }
    }

    /// Asks the backend where it is. A backend that does not know the question, or cannot answer it
    /// now, is where it is.
    fn look_up_location(&self, deadline: Deadline) -> Result<Location> {
        let route = Route::location(&self.app_id);
        let answer = self.deliver(&self.base_url, &route, None, deadline)?;
        if is_success(&answer) {
            let said = String::from_utf8(answer.into_body()).unwrap_or_default();
            let found = self.trusted(said);
            self.location_is_news.store(found.is_certain, Ordering::Relaxed);
            return Ok(found);
        }
        let error = wire::error(route.attempt, &answer);
        if wire::is_unknown_app(&error) {
            return Err(error.into());
        }
        Ok(self.at_base_url(matches!(error.status, 404 | 405 | 501)))
    }

    /// A location is followed only to where tokens are as safe as at the configured base URL.
    fn trusted(&self, said: String) -> Location {
        let Ok(hosts) = wire::location(said.as_bytes()) else { return self.at_base_url(false) };
        let safe = |url: &str, secure: &str| url.starts_with(secure) || !self.base_url.is_https();
        match BaseUrl::parse(&hosts.http, self.insecure_http) {
            Ok(host) if safe(host.as_str(), "https:") => {
                let websocket = hosts.websocket.filter(|url| safe(url, "wss:"));
                let websocket = websocket.unwrap_or_else(|| host.websocket());
                let websocket = websocket + &self.sync_path();
                Location { host, said: Some(said), websocket, is_certain: true }
            }
            _ => self.at_base_url(true),
        }
    }

    fn at_base_url(&self, is_certain: bool) -> Location {
        let websocket = self.base_url.websocket() + &self.sync_path();
        Location { host: self.base_url.clone(), said: None, websocket, is_certain }
    }

    fn sync_path(&self) -> String {
        wire::sync_path(&self.app_id)
    }

    fn remember_location(&self, location: &Location) {
        *self.location.write().unwrap_or_else(PoisonError::into_inner) = Some(location.clone());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.close();
    }
}

/// Returns a user's record in a commit's decision; a user without one is not known here.
pub(super) fn known(tables: &dyn Tables, user: &UserId) -> Result<Arc<StoredUser>> {
    tables.user(user)?.ok_or_else(|| LocalState::UnknownUser(user.clone()).into())
}

pub(super) fn is_success(answer: &Response) -> bool {
    (200..300).contains(&answer.status())
}

pub(super) fn success(route: &Route, answer: Response) -> Result<Response> {
    if is_success(&answer) { Ok(answer) } else { Err(wire::error(route.attempt, &answer).into()) }
}

pub(super) fn out_of_time(at: &BaseUrl, waiting_for: &'static str) -> TransportError {
    TransportError::new(TransportErrorKind::Timeout, at.as_str())
        .before_sending()
        .because(format!("waiting for: {waiting_for}"))
}
