//! Several hosts at once: a transport that answers by URL and notes what arrived where.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfob::store::MemoryStore;
use keyfob::transport::{Request, Response, Transport};
use keyfob::{Session, SessionBuilder, TransportError, TransportErrorKind, User};
use serde_json::Value;

use super::{
    APP, ManualClock, START, URL, access, json_answer, login_body, password, profile_body, refresh,
};

/// A request as it arrived at some host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Arrived {
    pub origin: String,
    /// Method and path, as in a [`super::Script`].
    pub route: String,
    pub bearer: Option<String>,
    pub has_body: bool,
}

type Answer = dyn Fn(&Arrived) -> Option<Result<Response, TransportErrorKind>> + Send + Sync;

/// Hosts that all know the protocol and let `ada` in, but for what a test says. Clones are one.
#[derive(Clone)]
pub struct Web {
    answer: Arc<Mutex<Arc<Answer>>>,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Web {
    pub fn new() -> Self {
        Self { answer: Arc::new(Mutex::new(Arc::new(|_| None))), arrived: Arc::default() }
    }

    /// Answers differently from now on; `None` leaves it at what a backend says.
    pub fn answers(
        &self,
        answer: impl Fn(&Arrived) -> Option<Result<Response, TransportErrorKind>>
        + Send
        + Sync
        + 'static,
    ) -> &Self {
        *self.answer.lock().unwrap() = Arc::new(answer);
        self
    }

    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    pub fn count(&self, origin: &str, route: &str) -> usize {
        let here = |seen: &&Arrived| seen.origin == origin && seen.route == route;
        self.arrived.lock().unwrap().iter().filter(here).count()
    }

    pub fn clear(&self) {
        self.arrived.lock().unwrap().clear();
    }

    pub fn builder(&self, base_url: &str, clock: &ManualClock) -> SessionBuilder {
        Session::builder(APP, base_url)
            .transport(self.clone())
            .clock(clock.clone())
            .store(MemoryStore::new())
            .deadline(Duration::from_secs(20))
    }

    /// A session with `ada` logged in, nothing noted yet.
    pub fn logged_in(&self, base_url: &str) -> (ManualClock, Session, User) {
        let clock = ManualClock::at(START);
        let session = self.builder(base_url, &clock).open().unwrap();
        let user = session.log_in(&password()).unwrap();
        self.clear();
        (clock, session, user)
    }
}

/// What a backend says by itself.
fn usual(route: &str) -> Response {
    let answer = |status, body| json_answer(status, &body);
    match route {
        super::LOCATION => Response::new(404, ""),
        super::PROFILE => answer(200, profile_body("ada")),
        super::REFRESH => answer(201, serde_json::json!({"access_token": access("a2")})),
        super::CALL => answer(200, 7.into()),
        route if route.ends_with("/login") => {
            answer(200, login_body("ada", &access("a1"), &refresh("r1")))
        }
        route if route.ends_with("?link=true") => {
            answer(200, serde_json::json!({"access_token": access("a3")}))
        }
        route if route.starts_with("GET /auth/api_keys") => answer(200, serde_json::json!([])),
        _ => answer(204, Value::Null),
    }
}

impl Transport for Web {
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        let url = request.url();
        let path_at = url[8..].find('/').map_or(url.len(), |at| at + 8);
        let (origin, path) = url.split_at(path_at);
        let path = path.strip_prefix("/api/client/v2.0").unwrap_or(path);
        let path = path.strip_prefix(&format!("/app/{APP}")).unwrap_or(path);
        let arrived = Arrived {
            origin: origin.to_owned(),
            route: format!("{} {path}", request.method().as_str()),
            bearer: request.bearer().map(str::to_owned),
            has_body: request.body().is_some(),
        };
        self.arrived.lock().unwrap().push(arrived.clone());
        let answer = self.answer.lock().unwrap().clone();
        let outcome = answer(&arrived).unwrap_or_else(|| Ok(usual(&arrived.route)));
        outcome.map_err(|kind| TransportError::new(kind, origin))
    }
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.arrived()).finish()
    }
}

/// An answer that sends elsewhere.
pub fn sends_to(status: u16, location: &str) -> Response {
    Response::new(status, "<html>").with_header("Location", location)
}

/// A page of some proxy.
pub fn page(status: u16) -> Response {
    Response::new(status, "<html>").with_header("Content-Type", "text/html; charset=utf-8")
}

/// An answer to the question where the backend is.
pub fn located(host: &str) -> Response {
    json_answer(200, &serde_json::json!({"hostname": host, "ws_hostname": ""}))
}

pub const HERE: &str = URL;
pub const THERE: &str = "http://127.0.0.1:10";
