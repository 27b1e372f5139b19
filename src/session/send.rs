//! Sending a request: with the access token, the refresh token or neither; to the backend's
//! location, with a repetition where that is harmless, and along redirects that are safe to follow.
//! The manual page `network` has the rules.

use super::inner::{Inner, out_of_time};
use crate::base_url::{BaseUrl, origin};
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{Error, LocalState, Result, TransportError, TransportErrorKind};
use crate::id::UserId;
use crate::token::RefreshToken;
use crate::transport::{Request, Response};
use crate::wire::{self, Bearer, Route};

/// The maximum number of redirects for one request.
const MAX_REDIRECTS: u32 = 5;

impl Inner {
    /// Sends a route with the user's access token, and returns the response if it is a success. A
    /// due token is refreshed first. If the backend rejects the token, it is refreshed once and the
    /// request is repeated once.
    pub(crate) fn send_as(
        &self,
        user: &UserId,
        route: &Route,
        deadline: Deadline,
    ) -> Result<Response> {
        debug_assert_eq!(route.bearer, Bearer::Access);
        let token = self.valid_access_token(user, deadline)?;
        let response = self.send(route, Some(token.expose()), deadline)?;
        if !wire::refuses_token(&response) {
            return success(route, response);
        }
        let token = self.refresh_rejected(user, &token, deadline)?;
        success(route, self.send(route, Some(token.expose()), deadline)?)
    }

    /// Sends a route with the user's refresh token, and returns the response if it is a success. If
    /// the backend refuses the token, the login ends, as in a refresh.
    pub(crate) fn send_with_refresh_token(
        &self,
        user: &UserId,
        route: &Route,
        deadline: Deadline,
    ) -> Result<Response> {
        debug_assert_eq!(route.bearer, Bearer::Refresh);
        let mut last_chance = false;
        loop {
            let (record, _) = self.logged_in_for_request(user, deadline)?;
            let Some(token) = &record.refresh_token else {
                return Err(LocalState::NotLoggedIn(user.clone()).into());
            };
            let response = self.send(route, Some(token.expose()), deadline)?;
            if !wire::refuses_session(&response) {
                return success(route, response);
            }
            let error = wire::refusal(route, &response);
            // A refresh in progress may have rotated this token: wait for its outcome.
            let _lock = self.lock_refresh(user, deadline)?;
            let error = self.end_login(&record, token, error, deadline)?;
            if last_chance {
                return Err(error.into());
            }
            last_chance = true;
        }
    }

    /// Sends a route without a token, and returns the response if it is a success.
    pub(crate) fn send_plain(&self, route: &Route, deadline: Deadline) -> Result<Response> {
        debug_assert_eq!(route.bearer, Bearer::None);
        success(route, self.send(route, None, deadline)?)
    }

    /// Sends a route to the backend's location, and returns the response with any status. If the
    /// location is wrong, the backend is asked once for the current one. A web page with a success
    /// status is an error.
    pub(super) fn send(
        &self,
        route: &Route,
        token: Option<&str>,
        deadline: Deadline,
    ) -> Result<Response> {
        let mut location = self.location(deadline)?;
        let mut outcome = self.send_following_redirects(&location.host, route, token, deadline);
        if let Some(repeat) = self.check_location(&location.host, route, &outcome)
            && let Some(moved) = self.relocate(&location.host, deadline)
            && repeat
        {
            outcome = self.send_following_redirects(&moved.host, route, token, deadline);
            location = moved;
        }
        match outcome {
            Ok(response) if response.is_success() && wire::is_foreign(&response) => {
                let kind = TransportErrorKind::Intercepted;
                let mut error = TransportError::new(kind, location.host.as_str());
                error.ambiguous = !route.repeatable;
                Err(error.into())
            }
            Ok(response) if route.bearer == Bearer::None && self.is_doubtful(&location) => {
                match wire::not_a_backend(&response) {
                    Some(seen) => Err(not_a_backend(&location.host, seen)),
                    None => Ok(response),
                }
            }
            outcome => outcome,
        }
    }

    /// Revokes a refresh token, which ends its server session.
    pub(super) fn end_server_session(
        &self,
        token: &RefreshToken,
        deadline: Deadline,
    ) -> Result<()> {
        let route = Route::log_out();
        let response = self.send(&route, Some(token.expose()), deadline)?;
        // If the backend does not know the session, it has already ended.
        if wire::knows_no_session(&response) {
            return Ok(());
        }
        success(&route, response).map(|_| ())
    }

    /// Returns `None` if the location is right, or no better one can be expected. Otherwise the
    /// location has to be looked up again, and this returns whether the request may be repeated
    /// there.
    fn check_location(
        &self,
        location: &BaseUrl,
        route: &Route,
        outcome: &Result<Response>,
    ) -> Option<bool> {
        use TransportErrorKind::{Connect, Interrupted, Protocol, Resolve, Timeout, Tls};
        let elsewhere = *location != self.base_url;
        let repeat = match outcome {
            Ok(response) if wire::is_redirect(response.status()) => match response.status() {
                // Permanent, as in realm-core: `app.cpp`, `App::handle_possible_redirect_response`
                // up to 14.12. A server that redirects has not processed the request.
                301 | 308 => true,
                307 if elsewhere => true,
                _ if elsewhere => route.repeatable,
                _ => return None,
            },
            Ok(response) if elsewhere && wire::is_foreign(response) => {
                response.status() == 404 || route.repeatable
            }
            Err(Error::Transport(error)) if elsewhere => match error.kind {
                Connect | Interrupted | Protocol | Resolve | Timeout | Tls => {
                    !error.may_have_arrived() || route.repeatable
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(repeat)
    }

    /// Sends a route to a host, and follows the redirects that `next_hop` allows.
    pub(super) fn send_following_redirects(
        &self,
        to: &BaseUrl,
        route: &Route,
        token: Option<&str>,
        deadline: Deadline,
    ) -> Result<Response> {
        let mut request = Request {
            bearer: token.map(Into::into),
            body: route.body.clone(),
            ..Request::new(route.method, to.join(&route.path), deadline, route.limit)
        };
        let mut response = self.send_once_or_retry(to, &mut request, route)?;
        for _ in 0..MAX_REDIRECTS {
            let Some(next) = self.next_hop(&request, &response) else { break };
            note!(debug, "following a redirect ({}) to {}", response.status(), route.attempt);
            request.url = next;
            request.fresh = false;
            response = self.send_once_or_retry(to, &mut request, route)?;
            response.was_redirected = true;
        }
        Ok(response)
    }

    /// Returns the URL that a response redirects to, if it may be followed.
    fn next_hop(&self, request: &Request, response: &Response) -> Option<String> {
        if !wire::is_redirect(response.status())
            || !wire::keeps_request(response.status(), request.method)
        {
            return None;
        }
        let next = wire::redirect(&request.url, response)?;
        let here = origin(&request.url)?;
        let may_follow = next.origin == here || {
            // Only a request without secrets may leave its origin: the look-up of the location.
            // Only permanent redirects (301, 308) are followed there, so that a captive portal is
            // not mistaken for the backend.
            let is_open = request.bearer.is_none() && request.body.is_none();
            let is_safe = next.origin.starts_with("https:") || !here.starts_with("https:");
            is_open
                && is_safe
                && matches!(response.status(), 301 | 308)
                && BaseUrl::parse(&next.origin, self.insecure_http).is_ok()
        };
        may_follow.then_some(next.url)
    }

    /// Sends a request, and repeats it once on a fresh connection if that is harmless.
    fn send_once_or_retry(
        &self,
        to: &BaseUrl,
        request: &mut Request,
        route: &Route,
    ) -> Result<Response> {
        let deadline = request.deadline;
        if deadline.has_passed() {
            return Err(out_of_time(to, "the store, a refresh or another thread").into());
        }
        let mut outcome = self.transport.send(request);
        if let Err(error) = &outcome {
            let again = error.kind == TransportErrorKind::Connect
                || error.kind == TransportErrorKind::Interrupted && route.repeatable;
            if again && !deadline.has_passed() {
                note!(debug, "once more, after {:?}: {}", error.kind, route.attempt);
                request.fresh = true;
                outcome = self.transport.send(request);
            }
        }
        if let Ok(response) = &outcome {
            self.clock.record_date(response);
        }
        outcome.map_err(|mut error| {
            error.ambiguous = error.may_have_arrived() && !route.repeatable;
            error.into()
        })
    }
}

/// Returns the error for a base URL that probably belongs to another service.
pub(super) fn not_a_backend(at: &BaseUrl, seen: impl Into<String>) -> Error {
    let kind = TransportErrorKind::NotABackend;
    TransportError::new(kind, at.as_str()).because(seen.into()).into()
}

/// Returns a response that is a success, and turns any other into an error.
pub(super) fn success(route: &Route, response: Response) -> Result<Response> {
    if response.is_success() {
        return Ok(response);
    }
    Err(wire::refusal(route, &response).into())
}
