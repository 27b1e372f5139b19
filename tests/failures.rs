//! Every operation with a failure at each request and each store operation. Afterwards the store
//! has the old state or the new one for every process that opens it, and the next call succeeds.
//!
//! Uses the real server and a store on disk. The failures are injected in between.

#![cfg(feature = "server")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, unreachable_pub, reason = "its owner uses all of it")]
#[path = "server/stub.rs"]
mod stub;
mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use keyfob::server::{
    Apple, AuthFunctionAnswer, CustomJwt, Facebook, Google, JwtKeys, Server, ServerBuilder,
};
use keyfob::store::{Decide, OnDamage, RecentEvents, RefreshLock, SledStore, Store, StoredUser};
use keyfob::transport::{Request, Response, Transport, UreqTransport};
use keyfob::{
    Clock, Credentials, Deadline, Error, Secret, Session, StoreError, StoreErrorKind, SystemClock,
    TransportError, TransportErrorKind, User, UserId,
};
use serde_json::{Value, json};
use stub::{Key, Stub};
use support::{Dir, ManualClock};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What goes wrong on the way. "After": the backend has done what it was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Trouble {
    Connect,
    Cut,
    EmptyAfter,
    EmptyBefore,
    HtmlBadGateway,
    HtmlUnauthorized,
    RefusedForNow,
    ResetAfter,
    ResetBefore,
    Resolve,
    ServerErrorAfter,
    ServerErrorBefore,
    TimeoutAfter,
    TimeoutBefore,
    TimeoutUnsent,
    TooLarge,
}

const TROUBLES: [Trouble; 16] = [
    Trouble::Connect,
    Trouble::Cut,
    Trouble::EmptyAfter,
    Trouble::EmptyBefore,
    Trouble::HtmlBadGateway,
    Trouble::HtmlUnauthorized,
    Trouble::RefusedForNow,
    Trouble::ResetAfter,
    Trouble::ResetBefore,
    Trouble::Resolve,
    Trouble::ServerErrorAfter,
    Trouble::ServerErrorBefore,
    Trouble::TimeoutAfter,
    Trouble::TimeoutBefore,
    Trouble::TimeoutUnsent,
    Trouble::TooLarge,
];

impl Trouble {
    fn befall(
        self,
        deliver: impl FnOnce() -> Result<Response, TransportError>,
    ) -> Result<Response, TransportError> {
        let error = |kind| Err(TransportError::new(kind, "http://127.0.0.1"));
        let html = "<html><body>sorry</body></html>";
        match self {
            Self::Connect => error(TransportErrorKind::Connect),
            Self::Cut => deliver().map(|answer| {
                let half = answer.body()[..answer.body().len() / 2].to_vec();
                Response::new(answer.status(), half)
            }),
            Self::EmptyAfter => deliver().map(|_| Response::new(200, "")),
            Self::EmptyBefore => Ok(Response::new(200, "")),
            Self::HtmlBadGateway => Ok(Response::new(502, html)),
            Self::HtmlUnauthorized => Ok(Response::new(401, html)),
            Self::RefusedForNow => Ok(Response::new(503, "").with_header("Retry-After", "1")),
            Self::ResetAfter => deliver().and_then(|_| error(TransportErrorKind::Interrupted)),
            Self::ResetBefore => error(TransportErrorKind::Interrupted),
            Self::Resolve => error(TransportErrorKind::Resolve),
            Self::ServerErrorAfter => deliver().map(|_| Response::new(500, r#"{"error":"no"}"#)),
            Self::ServerErrorBefore => Ok(Response::new(500, r#"{"error":"no"}"#)),
            Self::TimeoutAfter => deliver().and_then(|_| error(TransportErrorKind::Timeout)),
            Self::TimeoutBefore => error(TransportErrorKind::Timeout),
            Self::TimeoutUnsent => error(TransportErrorKind::Timeout)
                .map_err(|error: TransportError| error.before_sending()),
            Self::TooLarge => deliver().and_then(|_| error(TransportErrorKind::BodyTooLarge)),
        }
    }
}

/// When something goes wrong: at one step, or from it on.
#[derive(Clone, Copy, Debug)]
struct Plan<T> {
    at: usize,
    lasts: bool,
    what: T,
}

/// Steps that are counted, and fail by plan.
struct Steps<T> {
    taken: AtomicUsize,
    plan: Mutex<Option<Plan<T>>>,
}

impl<T: Copy> Steps<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), plan: Mutex::new(None) })
    }

    fn follow(&self, plan: Option<Plan<T>>) {
        *self.plan.lock().unwrap() = plan;
        self.taken.store(0, Ordering::SeqCst);
    }

    /// Takes a step; says what goes wrong with it.
    fn take(&self) -> Option<T> {
        let number = self.taken.fetch_add(1, Ordering::SeqCst);
        let plan = *self.plan.lock().unwrap();
        plan.filter(|plan| number == plan.at || plan.lasts && number > plan.at)
            .map(|plan| plan.what)
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

/// How a step into the store goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum StoreTrouble {
    /// At once.
    Busy,
    /// A commit, after it was decided upon; anything else at once.
    Io,
}

/// A store on disk whose steps are counted, and fail by plan.
struct Shaky(SledStore, Arc<Steps<StoreTrouble>>);

impl Shaky {
    fn step(&self) -> Result<(), StoreError> {
        match self.1.take() {
            None => Ok(()),
            Some(StoreTrouble::Busy) => Err(StoreError::new(StoreErrorKind::Busy, "a test")),
            Some(StoreTrouble::Io) => Err(StoreError::new(StoreErrorKind::Io, "a test")),
        }
    }
}

impl Store for Shaky {
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError> {
        self.step()?;
        self.0.current(deadline)
    }

    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError> {
        self.step()?;
        self.0.location(deadline)
    }

    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError> {
        self.step()?;
        self.0.user(id, deadline)
    }

    fn users_after(
        &self,
        last: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        self.step()?;
        self.0.users_after(last, deadline)
    }

    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError> {
        match self.step() {
            Err(error) if error.kind == StoreErrorKind::Io => {
                let mut error = Some(error);
                self.0.commit(deadline, &mut |tables| {
                    decide(tables)?;
                    Err(error.take().expect("one attempt"))
                })
            }
            Err(error) => Err(error),
            Ok(()) => self.0.commit(deadline, decide),
        }
    }

    fn recent(&self, number: Option<u64>, deadline: Deadline) -> Result<RecentEvents, StoreError> {
        self.0.recent(number, deadline)
    }

    fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        self.step()?;
        self.0.lock_refresh(user, deadline)
    }
}

/// A backend for one operation's cases, and its clock.
struct Fixture {
    server: Server,
    clock: ManualClock,
    cases: AtomicUsize,
    _stubs: [Stub; 2],
}

impl Fixture {
    fn new() -> Self {
        let now = SystemClock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let clock = ManualClock::at(i64::try_from(now.as_secs()).unwrap());
        let claims =
            json!({"iss": "google", "aud": "web", "sub": "g", "exp": clock.seconds() + 9_000_000});
        let code = json!({"id_token": Key::Hs256(SECRET.into()).token(&claims)});
        let stubs = [Stub::start(&json!({"id": "f", "name": "Ada"})), Stub::start(&code)];
        let keys = || JwtKeys::hs256(SECRET);
        let google = Google::new("web").keys(keys()).issuer("google").client_secret("s");
        let server = ServerBuilder::clock(Server::builder(), clock.clone())
            .built_in_functions()
            .login_attempts(None)
            .rotate_refresh_tokens(true)
            .server_api_key("machine", "a key of sixteen characters")
            .custom_jwt(CustomJwt::new(keys()))
            .google(google.token_url(stubs[1].url.clone()))
            .apple(Apple::new("bundle").keys(keys()).issuer("apple"))
            .facebook(Facebook::new().graph_url(&stubs[0].url))
            .auth_function(|payload| match payload["badge"].as_str() {
                Some(badge) => Ok(AuthFunctionAnswer::new(badge)),
                None => Err("no badge".into()),
            })
            .start()
            .unwrap();
        Self { server, clock, cases: AtomicUsize::new(0), _stubs: stubs }
    }

    fn signed(&self, issuer: &str, audience: &str) -> String {
        let exp = self.clock.seconds() + 600;
        let claims = json!({"iss": issuer, "aud": audience, "sub": "s", "exp": exp});
        Key::Hs256(SECRET.into()).token(&claims)
    }
}

/// A session in a directory of its own, with the server and clock of a fixture.
struct Stage<'a> {
    fixture: &'a Fixture,
    case: usize,
    dir: Dir,
    session: Session,
    requests: Arc<Steps<Trouble>>,
    steps: Arc<Steps<StoreTrouble>>,
}

impl<'a> Stage<'a> {
    fn new(fixture: &'a Fixture, operation: &Operation) -> Self {
        let case = fixture.cases.fetch_add(1, Ordering::Relaxed);
        let dir = Dir::new();
        let (requests, steps) = (Steps::new(), Steps::new());
        let session = open(fixture, &dir, &requests, &steps);
        let mut stage = Self { fixture, case, dir, session, requests, steps };
        (operation.prepare)(&stage);
        // The operation is another process's.
        stage.session = open(fixture, &stage.dir, &stage.requests, &stage.steps);
        stage
    }

    /// The credentials of an account of this case alone.
    fn badge(&self) -> Credentials {
        Credentials::function(json!({"badge": format!("b{}", self.case)})).unwrap()
    }

    fn email(&self) -> String {
        format!("ada{}@example.org", self.case)
    }

    fn register(&self) {
        self.session.email_password().register(&self.email(), Secret::new("hunter22")).unwrap();
    }

    fn log_in(&self) -> User {
        self.session.log_in(&self.badge()).unwrap()
    }

    /// The user who was logged in first.
    fn user(&self) -> Result<User, Error> {
        Ok(self.session.users()?.into_iter().next().expect("a user"))
    }

    fn advance(&self, minutes: u64) {
        self.fixture.clock.advance(Duration::from_secs(minutes * 60));
    }

    /// Everything that is stored, as a new session finds it.
    fn stored(&self) -> Value {
        everything(&on_disk(&self.dir))
    }
}

fn on_disk(dir: &Dir) -> SledStore {
    let deadline = Deadline::after(Duration::from_secs(20));
    SledStore::open(dir.path(), "app", OnDamage::Refuse, deadline).unwrap()
}

fn open(
    fixture: &Fixture,
    dir: &Dir,
    requests: &Arc<Steps<Trouble>>,
    steps: &Arc<Steps<StoreTrouble>>,
) -> Session {
    let (ureq, requests) = (UreqTransport::new(), requests.clone());
    Session::builder(fixture.server.app_id(), fixture.server.base_url())
        .clock(fixture.clock.clone())
        .store(Shaky(on_disk(dir), steps.clone()))
        .transport(move |request: &Request| match requests.take() {
            Some(trouble) => trouble.befall(|| ureq.send(request)),
            None => ureq.send(request),
        })
        .open()
        .unwrap()
}

fn everything(store: &SledStore) -> Value {
    let deadline = Deadline::after(Duration::from_secs(20));
    let users = store.users(deadline).unwrap();
    let users: Vec<_> = users.iter().map(|user| serde_json::to_value(&**user).unwrap()).collect();
    json!({"current": store.current(deadline).unwrap(), "users": users})
}

/// What is stored, without what differs from case to case: ids become places, and tokens become
/// "same" or "new".
fn state(stored: &Value, before: &Value) -> Value {
    let none = Vec::new();
    let users = stored["users"].as_array().unwrap_or(&none);
    let place = |id: &Value| users.iter().position(|user| user["id"] == *id);
    let shown = users.iter().map(|user| {
        let old = before["users"].as_array().unwrap_or(&none);
        let old = old.iter().find(|old| old["id"] == user["id"]).unwrap_or(&Value::Null);
        let token = |name: &str| match (&user[name], &old[name]) {
            (Value::Null, _) => "none",
            (new, old) if new == old => "same",
            _ => "new",
        };
        let providers = user["identities"].as_array().unwrap();
        let providers: Vec<_> = providers.iter().map(|identity| &identity["provider"]).collect();
        json!({
            "state": user["state"], "access": token("access_token"),
            "refresh": token("refresh_token"), "providers": providers,
        })
    });
    json!({"current": place(&stored["current"]), "users": shown.collect::<Vec<_>>()})
}

/// A state in which tokens of any age are alike.
fn any_token(state: &Value) -> Value {
    let mut state = state.clone();
    for user in state["users"].as_array_mut().unwrap() {
        for token in ["access", "refresh"] {
            if user[token] == "same" {
                user[token] = "new".into();
            }
        }
    }
    state
}

/// Something a program does.
struct Operation {
    name: &'static str,
    prepare: fn(&Stage<'_>),
    act: fn(&Stage<'_>) -> Result<(), Error>,
    /// Whether it is done here even if the backend cannot be notified.
    stands: bool,
    /// Whether it is a success even if nothing came of it.
    may_wait: bool,
    /// What doing it again may end with, if the backend did it the first time.
    again: fn(&Error) -> bool,
}

const fn operation(
    name: &'static str,
    prepare: fn(&Stage<'_>),
    act: fn(&Stage<'_>) -> Result<(), Error>,
) -> Operation {
    Operation { name, prepare, act, stands: false, may_wait: false, again: |_| false }
}

fn logs_in(stage: &Stage<'_>, credentials: &Credentials) -> Result<(), Error> {
    stage.session.log_in(credentials).map(|_| ())
}

fn code(error: &Error) -> &str {
    error.server_code().map_or("", |code| code.as_str())
}

fn operations() -> Vec<Operation> {
    let nothing: fn(&Stage<'_>) = |_| ();
    let in_: fn(&Stage<'_>) = |stage| drop(stage.log_in());
    let out: fn(&Stage<'_>) = |stage| stage.log_in().log_out().unwrap();
    let two: fn(&Stage<'_>) = |stage| {
        stage.log_in();
        stage.session.log_in(&Credentials::new_anonymous()).unwrap();
    };
    let expired: fn(&Stage<'_>) = |stage| {
        stage.log_in();
        stage.advance(31);
    };
    let due: fn(&Stage<'_>) = |stage| {
        stage.log_in();
        stage.advance(27);
    };
    let with_key: fn(&Stage<'_>) = |stage| drop(stage.log_in().api_keys().create("k").unwrap());
    let call: fn(&Stage<'_>) -> Result<(), Error> = |stage| {
        let sum: i64 = stage.user()?.functions().call("sum", (2, 40))?;
        assert_eq!(sum, 42);
        Ok(())
    };
    let refresh: fn(&Stage<'_>) -> Result<(), Error> =
        |stage| stage.user()?.refresh_access_token().map(|_| ());
    let link: fn(&Stage<'_>) -> Result<(), Error> =
        |stage| stage.user()?.link(&Credentials::email_password(stage.email(), "hunter22"));
    vec![
        operation("log in, anonymous", nothing, |s| logs_in(s, &Credentials::anonymous())),
        operation("log in, new anonymous", in_, |s| logs_in(s, &Credentials::new_anonymous())),
        operation(
            "log in, e-mail",
            |s| s.register(),
            |s| logs_in(s, &Credentials::email_password(s.email(), "hunter22")),
        ),
        operation("log in, API key", nothing, |s| {
            logs_in(s, &Credentials::api_key("a key of sixteen characters"))
        }),
        operation("log in, JWT", nothing, |s| {
            logs_in(s, &Credentials::jwt(s.fixture.signed("me", s.fixture.server.app_id())))
        }),
        operation("log in, Google token", nothing, |s| {
            logs_in(s, &Credentials::google_id_token(s.fixture.signed("google", "web")))
        }),
        operation("log in, Google code", nothing, |s| {
            logs_in(s, &Credentials::google_auth_code("code"))
        }),
        operation("log in, Apple", nothing, |s| {
            logs_in(s, &Credentials::apple(s.fixture.signed("apple", "bundle")))
        }),
        operation("log in, Facebook", nothing, |s| logs_in(s, &Credentials::facebook("EAAB"))),
        operation("log in, function", nothing, |s| logs_in(s, &s.badge())),
        operation("log in again", out, |s| logs_in(s, &s.badge())),
        Operation {
            again: |error| code(error) == "AccountNameInUse",
            ..operation("register", nothing, |s| {
                s.session.email_password().register(&s.email(), Secret::new("hunter22"))
            })
        },
        operation(
            "link",
            |s| {
                s.register();
                s.log_in();
            },
            link,
        ),
        operation(
            "link, expired",
            |s| {
                s.register();
                s.log_in();
                s.advance(31);
            },
            link,
        ),
        operation("refresh", in_, refresh),
        operation("call, expired", expired, call),
        Operation { may_wait: true, ..operation("call, due", due, call) },
        operation("call", in_, call),
        operation("custom data", in_, |s| s.user()?.refresh_custom_data::<Value>().map(|_| ())),
        operation("profile", in_, |s| s.user()?.refresh_profile().map(|_| ())),
        operation("profile, expired", expired, |s| s.user()?.refresh_profile().map(|_| ())),
        operation("switch", two, |s| s.session.switch_user(&s.user()?)),
        Operation { stands: true, ..operation("log out", two, |s| s.user()?.log_out()) },
        Operation {
            stands: true,
            ..operation(
                "log out, anonymous",
                |s| drop(s.session.log_in(&Credentials::anonymous()).unwrap()),
                |s| match s.session.users()?.first() {
                    Some(user) => user.log_out(),
                    None => Ok(()),
                },
            )
        },
        Operation {
            stands: true,
            ..operation("remove", two, |s| match s.session.users()?.get(1) {
                Some(user) => s.session.remove_user(user),
                None => Ok(()),
            })
        },
        Operation {
            again: Error::needs_login,
            ..operation("delete", two, |s| match s.session.users()?.get(1) {
                Some(user) => s.session.delete_user(user),
                None => Ok(()),
            })
        },
        Operation {
            again: |error| code(error) == "APIKeyAlreadyExists",
            ..operation("create an API key", in_, |s| s.user()?.api_keys().create("k").map(|_| ()))
        },
        operation("list API keys", with_key, |s| s.user()?.api_keys().list().map(|_| ())),
        operation("get an API key", with_key, |s| {
            let user = s.user()?;
            let keys = user.api_keys().list()?;
            keys.first().map_or(Ok(()), |key| user.api_keys().get(&key.id).map(|_| ()))
        }),
        operation("disable an API key", with_key, |s| {
            let user = s.user()?;
            let keys = user.api_keys().list()?;
            keys.first().map_or(Ok(()), |key| user.api_keys().disable(&key.id))
        }),
        operation("enable an API key", with_key, |s| {
            let user = s.user()?;
            let keys = user.api_keys().list()?;
            keys.first().map_or(Ok(()), |key| user.api_keys().enable(&key.id))
        }),
        operation("delete an API key", with_key, |s| {
            let user = s.user()?;
            let keys = user.api_keys().list()?;
            keys.first().map_or(Ok(()), |key| user.api_keys().delete(&key.id))
        }),
    ]
}

/// The states that an operation may leave: the old one, the new one, and the old one with the new
/// tokens that the operation got first.
struct States {
    old: Value,
    new: Value,
    renewed: Value,
}

/// Does the operation once without trouble: its states, its requests and its steps.
fn clean(fixture: &Fixture, operation: &Operation) -> (States, usize, usize) {
    let stage = Stage::new(fixture, operation);
    let before = stage.stored();
    stage.requests.follow(None);
    stage.steps.follow(None);
    (operation.act)(&stage).unwrap_or_else(|error| panic!("{}: {error}", operation.name));
    let (requests, steps) = (stage.requests.taken(), stage.steps.taken());
    let (old, new) = (state(&before, &before), state(&stage.stored(), &before));
    let mut renewed = old.clone();
    if new["users"][0]["refresh"] == "new" && old["users"][0]["refresh"] == "same" {
        for token in ["access", "refresh"] {
            renewed["users"][0][token] = "new".into();
        }
    }
    (States { old, new, renewed }, requests, steps)
}

/// Returns `true` for an operation that only refreshes, whose commit the store failed.
fn is_unpersisted(operation: &Operation, step: Option<Plan<StoreTrouble>>) -> bool {
    step.is_some() && matches!(operation.name, "refresh" | "call, expired" | "custom data")
}

/// Does the operation with trouble by plan; says what is wrong with what it leaves.
fn suffer(
    fixture: &Fixture,
    operation: &Operation,
    states: &States,
    request: Option<Plan<Trouble>>,
    step: Option<Plan<StoreTrouble>>,
) -> Result<(), String> {
    let stage = Stage::new(fixture, operation);
    let before = stage.stored();
    stage.requests.follow(request);
    stage.steps.follow(step);
    let outcome = (operation.act)(&stage);
    stage.requests.follow(None);
    stage.steps.follow(None);
    let stored = stage.stored();
    let after = state(&stored, &before);
    let left = |what: &str| Err(format!("{what} after {outcome:?}: {after}"));
    // A 401 without a word may be about the token: a new one is tried, and stays.
    let refused = request.is_some_and(|plan| plan.what == Trouble::HtmlUnauthorized);
    let same = |state: &Value| after == *state || refused && any_token(&after) == any_token(state);
    let is_new = same(&states.new);
    let is_old = same(&states.old) || same(&states.renewed);
    let fits = match &outcome {
        // New tokens that cannot be stored are used from memory.
        Ok(()) => is_new || is_old && (operation.may_wait || is_unpersisted(operation, step)),
        Err(Error::Store(_)) if operation.stands => is_new || is_old,
        Err(_) if operation.stands => is_new,
        Err(_) => is_old,
    };
    if !fits {
        return left("neither the old state nor the new one");
    }
    if after["users"].as_array().unwrap().iter().any(|user| {
        user["state"] == "logged-in" && (user["access"] == "none" || user["refresh"] == "none")
    }) {
        return left("logged in without tokens");
    }
    // Another process, and this one, know the same.
    let other = open(fixture, &stage.dir, &stage.requests, &stage.steps);
    for session in [&stage.session, &other] {
        let users: Vec<_> = session.users().unwrap().iter().map(|user| user.id().clone()).collect();
        if json!(users)
            != json!(
                stored["users"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|user| &user["id"])
                    .collect::<Vec<_>>()
            )
        {
            return left("sessions disagree");
        }
        let current = session.current_user().unwrap().map(|user| user.id().clone());
        if json!(current) != stored["current"] {
            return left("sessions disagree about who is current");
        }
    }
    drop(other);
    // Trouble is over, and so is the pause after a failed refresh.
    fixture.clock.advance(Duration::from_secs(10));
    match (operation.act)(&stage) {
        Ok(()) => {}
        Err(error) if (operation.again)(&error) => {}
        // What is done is done.
        Err(Error::LocalState(_)) if operation.stands => {}
        Err(error) => return left(&format!("again: {error}")),
    }
    for user in stage.session.users().unwrap() {
        let call = || user.functions().call::<i64>("sum", (2, 40));
        if user.state().unwrap() == keyfob::UserState::LoggedIn
            && let Err(error) = call()
        {
            return left(&format!("the next call: {error}"));
        }
    }
    Ok(())
}

/// Runs one case in so many. All would take ten minutes under Wine. What differs between systems,
/// the files of the store, is tested elsewhere.
const ONE_IN: usize = if cfg!(windows) { 8 } else { 1 };

/// Runs the cases of all operations, two operations at a time.
fn all(least: usize, cases: impl Fn(&Fixture, &Operation, &mut Vec<String>) -> usize + Sync) {
    let operations = operations();
    let names: BTreeSet<_> = operations.iter().map(|operation| operation.name).collect();
    assert_eq!(names.len(), operations.len());
    let (next, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(operation) = operations.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let mut found = Vec::new();
                    let count = cases(&Fixture::new(), operation, &mut found);
                    println!("{}: {count} cases / {ONE_IN}, {} wrong", operation.name, found.len());
                    // Switching asks nobody.
                    assert!(count > 0 || least > 1000 && operation.name == "switch");
                    total.fetch_add(count, Ordering::SeqCst);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    let (total, wrong) = (total.into_inner(), wrong.into_inner().unwrap());
    println!("{total} cases of {} operations", operations.len());
    assert!(total >= least, "{total}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn failure_at_any_request_is_atomic() {
    all(1900, |fixture, operation, wrong| {
        let (states, requests, _) = clean(fixture, operation);
        let mut count = 0;
        for at in 0..requests {
            for what in TROUBLES {
                for lasts in [false, true] {
                    count += 1;
                    let plan = Plan { at, lasts, what };
                    if !(count + at).is_multiple_of(ONE_IN) {
                        continue;
                    }
                    if let Err(what) = suffer(fixture, operation, &states, Some(plan), None) {
                        wrong.push(format!("{}, {plan:?}: {what}", operation.name));
                    }
                }
            }
        }
        count
    });
}

#[test]
fn failure_at_any_store_step_is_atomic() {
    all(450, |fixture, operation, wrong| {
        let (states, _, steps) = clean(fixture, operation);
        let mut count = 0;
        for at in 0..steps {
            for what in [StoreTrouble::Busy, StoreTrouble::Io] {
                for lasts in [false, true] {
                    count += 1;
                    let plan = Plan { at, lasts, what };
                    if !(count + at).is_multiple_of(ONE_IN) {
                        continue;
                    }
                    if let Err(what) = suffer(fixture, operation, &states, None, Some(plan)) {
                        wrong.push(format!("{}, {plan:?}: {what}", operation.name));
                    }
                }
            }
        }
        count
    });
}
