//! A request's way to the backend: to where it is, once more where that does no harm, and along
//! redirects as far as they may be followed. The manual's page `network` has the rules.

use super::inner::{Inner, out_of_time};
use crate::base_url::{BaseUrl, origin};
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{Error, Result, TransportError, TransportErrorKind};
use crate::token::RefreshToken;
use crate::transport::{Request, Response};
use crate::wire::{self, Bearer, Route};

/// The most redirects that are followed for one request.
const MOST_HOPS: u32 = 5;

/// What the outcome of a request says about the place it was sent to.
enum LocationCheck {
    /// The backend, or what stands for it.
    Right,
    /// Another place must be found.
    Wrong {
        /// Whether the request may be sent there once more.
        repeat: bool,
    },
}

impl Inner {
    /// Sends a route to where the backend is, and returns its answer, whatever its status; if that
    /// is no place for it any more, it is asked once where it is now. A web page that reads as a
    /// success is no answer.
    pub(super) fn send(
        &self,
        route: &Route,
        token: Option<&str>,
        deadline: Deadline,
    ) -> Result<Response> {
        let mut place = self.location(deadline)?;
        let mut outcome = self.send_following_redirects(&place.host, route, token, deadline);
        if let LocationCheck::Wrong { repeat } = self.check_location(&place.host, route, &outcome)
            && let Some(moved) = self.relocate(&place.host, deadline)
            && repeat
        {
            outcome = self.send_following_redirects(&moved.host, route, token, deadline);
            place = moved;
        }
        match outcome {
            Ok(answer) if is_success(&answer) && wire::is_foreign(&answer) => {
                let kind = TransportErrorKind::Intercepted;
                let mut error = TransportError::new(kind, place.host.as_str());
                error.ambiguous = !route.repeatable;
                Err(error.into())
            }
            Ok(answer) if route.bearer == Bearer::None && self.is_doubtful(&place) => {
                match wire::not_a_backend(&answer) {
                    Some(seen) => Err(not_a_backend(&place.host, seen)),
                    None => Ok(answer),
                }
            }
            outcome => outcome,
        }
    }

    /// Tells the backend that a login has ended.
    pub(super) fn end_server_session(
        &self,
        token: &RefreshToken,
        deadline: Deadline,
    ) -> Result<()> {
        let route = Route::log_out();
        let answer = self.send(&route, Some(token.expose()), deadline)?;
        // A session that the backend does not know any more has ended.
        if wire::knows_no_session(&answer) {
            return Ok(());
        }
        success(&route, answer).map(|_| ())
    }

    fn check_location(
        &self,
        place: &BaseUrl,
        route: &Route,
        outcome: &Result<Response>,
    ) -> LocationCheck {
        use TransportErrorKind::{Connect, Interrupted, Protocol, Resolve, Timeout, Tls};
        let elsewhere = *place != self.base_url;
        let repeat = match outcome {
            Ok(answer) if wire::is_redirect(answer.status()) => match answer.status() {
                // For good, as realm-core takes it: `app.cpp`,
                // `App::handle_possible_redirect_response` up to 14.12. Whoever
                // sends away has not done what was asked.
                301 | 308 => true,
                307 if elsewhere => true,
                _ if elsewhere => route.repeatable,
                _ => return LocationCheck::Right,
            },
            Ok(answer) if elsewhere && wire::is_foreign(answer) => {
                answer.status() == 404 || route.repeatable
            }
            Err(Error::Transport(error)) if elsewhere => match error.kind {
                Connect | Interrupted | Protocol | Resolve | Timeout | Tls => {
                    !error.may_have_arrived() || route.repeatable
                }
                _ => return LocationCheck::Right,
            },
            _ => return LocationCheck::Right,
        };
        LocationCheck::Wrong { repeat }
    }

    /// Sends a route to a place, and follows redirects that leave the request as it is and do not
    /// carry it off to another origin.
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
        let mut answer = self.send_once_or_retry(to, &mut request, route)?;
        for _ in 0..MOST_HOPS {
            let Some(next) = self.next_hop(&request, &answer) else { break };
            note!(debug, "following a redirect ({}) to {}", answer.status(), route.attempt);
            request.url = next;
            request.fresh = false;
            answer = self.send_once_or_retry(to, &mut request, route)?;
            answer.was_redirected = true;
        }
        Ok(answer)
    }

    /// Returns the URL that an answer sends a request to, if it may be followed.
    fn next_hop(&self, request: &Request, answer: &Response) -> Option<String> {
        if !wire::is_redirect(answer.status())
            || !wire::keeps_request(answer.status(), request.method)
        {
            return None;
        }
        let next = wire::redirect(&request.url, answer)?;
        let here = origin(&request.url)?;
        let may_follow = next.origin == here || {
            // Only what holds no secret leaves its origin, which is the question where the backend
            // is; and only for good, so that no sign-on page of a network is taken for it.
            let is_open = request.bearer.is_none() && request.body.is_none();
            let is_safe = next.origin.starts_with("https:") || !here.starts_with("https:");
            is_open
                && is_safe
                && matches!(answer.status(), 301 | 308)
                && BaseUrl::parse(&next.origin, self.insecure_http).is_ok()
        };
        may_follow.then_some(next.url)
    }

    /// Sends a request, and once more on a fresh connection if that does no harm.
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
        if let Ok(answer) = &outcome {
            self.record_date_header(answer);
        }
        outcome.map_err(|mut error| {
            error.ambiguous = error.may_have_arrived() && !route.repeatable;
            error.into()
        })
    }
}

/// The error of a base URL that is probably another service's.
pub(super) fn not_a_backend(at: &BaseUrl, seen: impl Into<String>) -> Error {
    let kind = TransportErrorKind::NotABackend;
    TransportError::new(kind, at.as_str()).because(seen.into()).into()
}

pub(super) fn is_success(answer: &Response) -> bool {
    (200..300).contains(&answer.status())
}

/// Returns an answer that is a success, and any other as an error.
pub(super) fn success(route: &Route, answer: Response) -> Result<Response> {
    if is_success(&answer) {
        return Ok(answer);
    }
    Err(wire::refusal(route, &answer).into())
}

/// Returns the part of a call's time that the network may take: what comes back has to be stored
/// within the deadline as well.
pub(super) fn network_part(deadline: Deadline) -> Deadline {
    deadline.at_most(deadline.remaining() * 9 / 10)
}
