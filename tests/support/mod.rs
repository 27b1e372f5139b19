//! What the tests of a session share: a transport that follows a script, a clock in the hand, and
//! tokens of any age. Built on the public traits alone.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod backend;
pub mod interrupt;
pub mod net;
pub mod oidc;
#[cfg(feature = "browser")]
pub mod provider;
pub mod store;
pub mod web;
pub mod world;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf, absolute};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfob::store::MemoryStore;
use keyfob::transport::{Request, Response, Transport};
use keyfob::{
    Clock, Credentials, Session, SessionBuilder, TransportError, TransportErrorKind, User,
};
use serde_json::{Value, json};

pub const APP: &str = "app-abcde";
pub const URL: &str = "http://127.0.0.1:9";

/// The time at which most tests begin, in seconds since the epoch.
pub const START: i64 = 1_800_000_000;

/// A request as it was sent.
#[derive(Clone)]
pub struct Sent {
    /// Method and path, such as `POST /auth/session`; the protocol's prefix is left out.
    pub route: String,
    pub bearer: Option<String>,
    pub body: Option<Value>,
}

/// A reply in a script.
type Reply = Arc<Mutex<dyn FnMut(&Sent) -> Result<Response, TransportErrorKind> + Send>>;

/// A transport that follows a script and records what it was sent. Clones share both.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    replies: HashMap<String, Reply>,
    sent: Vec<Sent>,
}

impl Script {
    /// A backend that answers nothing yet, and has no location route.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers a route from now on, in place of what was said before.
    pub fn on(
        &self,
        route: &str,
        reply: impl FnMut(&Sent) -> Result<Response, TransportErrorKind> + Send + 'static,
    ) -> &Self {
        let mut inner = self.0.lock().unwrap();
        inner.replies.insert(route.to_owned(), Arc::new(Mutex::new(reply)));
        self
    }

    /// Answers a route with a status and a body from now on.
    pub fn reply(&self, route: &str, status: u16, body: Value) -> &Self {
        self.on(route, move |_| Ok(json_answer(status, &body)))
    }

    /// Fails a route from now on.
    pub fn fail(&self, route: &str, kind: TransportErrorKind) -> &Self {
        self.on(route, move |_| Err(kind))
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.0.lock().unwrap().sent.clone()
    }

    pub fn routes(&self) -> Vec<String> {
        self.sent().into_iter().map(|sent| sent.route).collect()
    }

    pub fn count(&self, route: &str) -> usize {
        self.routes().iter().filter(|sent| *sent == route).count()
    }

    pub fn clear(&self) {
        self.0.lock().unwrap().sent.clear();
    }

    /// Lets a user log in by e-mail and password, with tokens of these ages.
    pub fn accept_login(&self, user: &str, access: &str, refresh: &str) -> &Self {
        self.reply(LOGIN, 200, login_body(user, access, refresh));
        self.reply(PROFILE, 200, profile_body(user))
    }
}

pub const LOGIN: &str = "POST /auth/providers/local-userpass/login";
pub const ANONYMOUS: &str = "POST /auth/providers/anon-user/login";
pub const PROFILE: &str = "GET /auth/profile";
pub const REFRESH: &str = "POST /auth/session";
pub const LOGOUT: &str = "DELETE /auth/session";
pub const CALL: &str = "POST /functions/call";
pub const LOCATION: &str = "GET /location";

impl Transport for Script {
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        let path = request.url().split_once("/api/client/v2.0").expect("a protocol route").1;
        let path = path.strip_prefix(&format!("/app/{APP}")).unwrap_or(path);
        let sent = Sent {
            route: format!("{} {path}", request.method().as_str()),
            bearer: request.bearer().map(str::to_owned),
            body: request.body().map(|body| serde_json::from_slice(body).expect("a JSON body")),
        };
        let mut inner = self.0.lock().unwrap();
        inner.sent.push(sent.clone());
        let reply = inner.replies.get(&sent.route).cloned();
        drop(inner);
        let Some(reply) = reply else {
            assert_eq!(sent.route, LOCATION, "no answer in the script");
            return Ok(Response::new(404, ""));
        };
        // Without the script's lock: a reply may log out, wait for another thread, or send more.
        let outcome = (reply.lock().unwrap())(&sent);
        outcome.map_err(|kind| TransportError::new(kind, URL))
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes()).finish()
    }
}

/// A clock that stands still until it is told otherwise. Clones share the time.
#[derive(Clone)]
pub struct ManualClock(Arc<Mutex<(i64, Duration)>>);

impl ManualClock {
    /// Starts at a time in seconds since the epoch.
    pub fn at(seconds: i64) -> Self {
        Self(Arc::new(Mutex::new((seconds * 1000, Duration::ZERO))))
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let mut time = self.0.lock().unwrap();
        time.0 += i64::try_from(by.as_millis()).unwrap();
        time.1 += by;
    }

    pub fn seconds(&self) -> i64 {
        self.0.lock().unwrap().0 / 1000
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.lock().unwrap().0.try_into().unwrap())
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

/// A directory that goes with its test.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keyfob-{}-{number}", std::process::id());
        let path = absolute(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).unwrap();
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Takes a directory away in which files may be open. Windows removes it all the same, and Wine
/// only renames it.
pub fn take_away(dir: &Path) {
    if std::fs::remove_dir_all(dir).is_err() {
        std::fs::rename(dir, dir.parent().unwrap().with_extension("gone")).unwrap();
    }
}

pub fn json_answer(status: u16, body: &Value) -> Response {
    Response::new(status, body.to_string()).with_header("Content-Type", "application/json")
}

pub fn error_body(code: &str, message: &str) -> Value {
    json!({"error": message, "error_code": code, "link": "http://log"})
}

/// A token of a kind that lives from one moment to another; `mark` makes it unlike others.
pub fn jwt(mark: &str, issued_at: i64, expires_at: i64) -> String {
    jwt_with(mark, json!({"iat": issued_at, "exp": expires_at}))
}

pub fn jwt_with(mark: &str, mut claims: Value) -> String {
    claims["mark"] = mark.into();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({"alg": "HS256"})), part(&claims), URL_SAFE_NO_PAD.encode(mark))
}

/// An access token as a backend gives at [`START`]: half an hour long.
pub fn access(mark: &str) -> String {
    jwt(mark, START, START + 1800)
}

/// A refresh token as a backend gives at [`START`]: sixty days long.
pub fn refresh(mark: &str) -> String {
    jwt(mark, START, START + 60 * 86400)
}

pub fn login_body(user: &str, access: &str, refresh: &str) -> Value {
    json!({
        "access_token": access,
        "refresh_token": refresh,
        "user_id": user,
        "device_id": "000000000000000000000000",
    })
}

pub fn profile_body(user: &str) -> Value {
    json!({
        "user_id": user,
        "domain_id": "d",
        "identities": [{"id": format!("i-{user}"), "provider_type": "local-userpass"}],
        "data": {"email": format!("{user}@example.org")},
        "type": "normal",
    })
}

pub fn anonymous_profile_body(user: &str) -> Value {
    json!({"identities": [{"id": format!("i-{user}"), "provider_type": "anon-user"}], "data": {}})
}

pub fn password() -> Credentials {
    Credentials::email_password("ada@example.org", "hunter22")
}

/// A session on a script, with a clock, that keeps everything in memory.
pub fn builder(script: &Script, clock: &ManualClock) -> SessionBuilder {
    Session::builder(APP, URL)
        .transport(script.clone())
        .clock(clock.clone())
        .store(MemoryStore::new())
        .deadline(Duration::from_secs(20))
}

/// A session on a new script with `ada` logged in at [`START`].
pub fn logged_in() -> (Script, ManualClock, Session, User) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    script.reply(LOGOUT, 204, Value::Null);
    let session = builder(&script, &clock).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    script.clear();
    (script, clock, session, user)
}
