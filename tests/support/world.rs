//! A world with a true time, a machine whose clocks may be wrong, and a backend that judges tokens
//! by a clock of its own. Nothing in it sleeps: time passes when it is told to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyfob::store::MemoryStore;
use keyfob::transport::{Request, Response, Transport};
use keyfob::{Clock, Session, TransportError, TransportErrorKind};
use serde_json::{Value, json};

use super::{APP, START, URL, jwt, login_body};

/// How long access tokens last, and refresh tokens, in seconds.
pub const ACCESS_LIFE: i64 = 1800;
pub const REFRESH_LIFE: i64 = 60 * 86_400;
/// How long before its end an access token is due, in seconds.
pub const MARGIN: i64 = 300;
/// For how long a rotated refresh token is still answered, in seconds.
const GRACE: i64 = 60;

/// What time it is, truly and by each clock. As a [`Clock`] it is the machine's. Clones share it.
#[derive(Clone, Default)]
pub struct SimulatedWorld(Arc<Clocks>);

#[derive(Default)]
struct Clocks {
    /// Milliseconds since the beginning.
    truth: AtomicI64,
    awake: AtomicI64,
    /// How far clocks are ahead of the truth, in milliseconds.
    wall: AtomicI64,
    server: AtomicI64,
}

impl SimulatedWorld {
    /// Lets time pass while everybody is awake.
    pub fn pass(&self, time: Duration) {
        let time = i64::try_from(time.as_millis()).unwrap();
        self.0.truth.fetch_add(time, Ordering::Relaxed);
        self.0.awake.fetch_add(time, Ordering::Relaxed);
    }

    /// Lets time pass while the machine sleeps: its monotonic clock stands still.
    pub fn sleep(&self, time: Duration) {
        self.0.truth.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Sets the machine's wall clock, in seconds ahead of the truth.
    pub fn set_wall(&self, ahead: i64) {
        self.0.wall.store(ahead * 1000, Ordering::Relaxed);
    }

    /// Sets the backend's clock, in seconds ahead of the truth.
    pub fn set_server(&self, ahead: i64) {
        self.0.server.store(ahead * 1000, Ordering::Relaxed);
    }

    /// Returns the true time in milliseconds since the beginning.
    pub fn truth(&self) -> i64 {
        self.0.truth.load(Ordering::Relaxed)
    }

    /// Returns the time by the machine's monotonic clock, in milliseconds.
    pub fn awake(&self) -> i64 {
        self.0.awake.load(Ordering::Relaxed)
    }

    /// Returns the backend's time in milliseconds since the epoch.
    pub fn server(&self) -> i64 {
        START * 1000 + self.truth() + self.0.server.load(Ordering::Relaxed)
    }
}

impl Clock for SimulatedWorld {
    fn now(&self) -> SystemTime {
        let now = START * 1000 + self.truth() + self.0.wall.load(Ordering::Relaxed);
        UNIX_EPOCH + Duration::from_millis(now.try_into().unwrap())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.awake().try_into().unwrap())
    }
}

/// What is asked of the backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    Call,
    LogIn,
    LogOut,
    Profile,
    Refresh,
}

/// What happens to a request on its way.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Somebody else answers in the backend's place.
    Answer(Response),
    /// The request is lost.
    Before(TransportErrorKind),
    /// The answer is lost.
    After(TransportErrorKind),
    /// The machine falls asleep while the answer is on its way.
    Asleep(Duration),
    /// The answer ends too early.
    Truncated,
}

/// What the backend has to say of how it was treated, per user.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub calls: usize,
    /// Refreshes that were answered with a token, the answer having arrived.
    pub refreshed: usize,
    /// All requests for a refresh.
    pub refreshes: usize,
    /// Those of them that timed out.
    pub timed_out: usize,
    /// Calls that were refused for their token's sake.
    pub refused: usize,
    /// Tokens in calls that had expired by more than seconds.
    pub expired: usize,
    /// Those of them whose refusal had arrived before.
    pub expired_again: usize,
    /// Answers that have arrived and that end a login by the manual's table.
    pub ended: usize,
    /// The same, had the refresh token's own time been over.
    pub may_have_ended: usize,
    /// When refreshes came (by the monotonic clock, in milliseconds) that nothing called for.
    pub needless: Vec<i64>,
    /// The access token that arrived last, when it was minted, truly, and whether a call was refused
    /// with it.
    held: (String, i64, bool),
}

/// A server session.
#[derive(Clone)]
struct Login {
    user: String,
    ended: bool,
}

struct State {
    /// By token: the number of its server session, when it expires, and whether it is a refresh
    /// token; and until when it is good after its rotation, with its successor.
    tokens: HashMap<String, Issued>,
    logins: Vec<Login>,
    made: usize,
    seen: HashMap<String, Seen>,
    disabled: Vec<String>,
}

#[derive(Clone)]
struct Issued {
    login: usize,
    expires_at: i64,
    is_refresh: bool,
    /// Its successor, and until when it is answered with that.
    replaced: Option<(String, i64)>,
    /// Whether a refusal of it has arrived after its end.
    was_refused: bool,
}

type Plan = Box<dyn FnMut(Asked, &str) -> Trouble + Send>;

/// A backend that judges tokens by its own clock, keeps account of what it is asked, and can be
/// reached as well as a plan says. Clones share it.
#[derive(Clone)]
pub struct Judge {
    world: SimulatedWorld,
    state: Arc<Mutex<State>>,
    plan: Arc<Mutex<Plan>>,
    /// Whether answers say what time it is.
    pub dates: bool,
    /// Whether each refresh gives a new refresh token.
    pub rotates: bool,
}

/// By how much a token may have expired, and a refresh come early, before it counts: whole seconds,
/// the noise below which clocks count as equal, and the time a request takes. In milliseconds.
const SLOP: i64 = 90_000;

impl Judge {
    /// Opens a session with this backend on a machine with the clocks of the world.
    pub fn open(&self, world: &SimulatedWorld, store: &MemoryStore) -> Session {
        Session::builder(APP, URL)
            .transport(self.clone())
            .clock(world.clone())
            .store(store.clone())
            .location_lookup(false)
            .open()
            .unwrap()
    }

    pub fn new(world: &SimulatedWorld) -> Self {
        let state = State {
            tokens: HashMap::new(),
            logins: Vec::new(),
            made: 0,
            seen: HashMap::new(),
            disabled: Vec::new(),
        };
        Self {
            world: world.clone(),
            state: Arc::new(Mutex::new(state)),
            plan: Arc::new(Mutex::new(Box::new(|_, _| Trouble::None))),
            dates: true,
            rotates: false,
        }
    }

    /// Decides what happens to requests from now on, by what is asked and by whom. What it does to
    /// the world is done while the request is on its way.
    pub fn plan(&self, plan: impl FnMut(Asked, &str) -> Trouble + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// Lets something happen while the next request of a kind is on its way, before it arrives.
    pub fn during(&self, asked: Asked, happens: impl FnOnce() + Send + 'static) {
        let mut happens = Some(happens);
        self.plan(move |what, _| {
            if what == asked
                && let Some(happens) = happens.take()
            {
                happens();
            }
            Trouble::None
        });
    }

    pub fn seen(&self, user: &str) -> Seen {
        self.state.lock().unwrap().seen.get(user).cloned().unwrap_or_default()
    }

    /// Forgets which tokens were refused: the sessions that knew are gone.
    pub fn forget_refusals(&self) {
        let mut state = self.state.lock().unwrap();
        state.tokens.values_mut().for_each(|token| token.was_refused = false);
    }

    /// Ends all server sessions of a user.
    pub fn revoke(&self, user: &str) {
        let mut state = self.state.lock().unwrap();
        state.logins.iter_mut().filter(|login| login.user == user).for_each(|l| l.ended = true);
    }

    pub fn set_disabled(&self, user: &str, disabled: bool) {
        let mut state = self.state.lock().unwrap();
        state.disabled.retain(|other| other != user);
        if disabled {
            state.disabled.push(user.to_owned());
        }
    }

    fn answer(&self, status: u16, body: &Value) -> Response {
        let answer = super::json_answer(status, body);
        if self.dates { answer.with_header("Date", http_date(self.world.server())) } else { answer }
    }

    fn refusal(&self, code: &str) -> Response {
        self.answer(401, &json!({"error": "no", "error_code": code}))
    }

    /// Does what is asked.
    fn handle(&self, state: &mut State, asked: Asked, who: &str, request: &Request) -> Response {
        let now = self.world.server() / 1000;
        let bearer = request.bearer().unwrap_or_default();
        let mut issued = state.tokens.get(bearer).cloned();
        let disabled = state.disabled.iter().any(|user| user == who);
        issued = issued.filter(|token| {
            let live = !state.logins[token.login].ended && token.expires_at > now;
            live && token.is_refresh == matches!(asked, Asked::LogOut | Asked::Refresh)
        });
        match (asked, issued) {
            (Asked::LogIn, _) if disabled => self.refusal("UserDisabled"),
            (Asked::LogIn, _) => {
                state.logins.push(Login { user: who.to_owned(), ended: false });
                let login = state.logins.len() - 1;
                let access = state.issue(login, who, now, false);
                let refresh = state.issue(login, who, now, true);
                self.answer(200, &login_body(who, &access, &refresh))
            }
            (_, None) => self.refusal("InvalidSession"),
            (Asked::Refresh, Some(_)) if disabled => self.refusal("UserDisabled"),
            (Asked::Refresh, Some(token)) => {
                if token.replaced.as_ref().is_some_and(|(_, until)| now >= *until) {
                    return self.refusal("InvalidSession");
                }
                let access = state.issue(token.login, who, now, false);
                let mut body = json!({"access_token": access});
                if self.rotates {
                    let successor = match token.replaced {
                        Some((successor, _)) => successor,
                        None => {
                            let successor = state.issue(token.login, who, now, true);
                            let old = state.tokens.get_mut(bearer).unwrap();
                            old.replaced = Some((successor.clone(), now + GRACE));
                            successor
                        }
                    };
                    body["refresh_token"] = successor.into();
                }
                self.answer(201, &body)
            }
            (Asked::LogOut, Some(token)) => {
                state.logins[token.login].ended = true;
                Response::new(204, "")
            }
            (Asked::Profile, Some(_)) => self.answer(200, &super::profile_body(who)),
            (Asked::Call, Some(_)) => {
                let body: Value = serde_json::from_slice(request.body().unwrap()).unwrap();
                self.answer(200, &body["arguments"][0])
            }
        }
    }

    /// Keeps account of a request that is about to be sent.
    fn note_request(&self, state: &mut State, asked: Asked, who: &str, request: &Request) {
        let now = self.world.server();
        let issued = request.bearer().and_then(|token| state.tokens.get(token)).cloned();
        let seen = state.seen.entry(who.to_owned()).or_default();
        match (asked, issued) {
            (Asked::Call, Some(issued)) => {
                seen.calls += 1;
                if issued.expires_at * 1000 + SLOP <= now {
                    seen.expired += 1;
                    seen.expired_again += usize::from(issued.was_refused);
                }
            }
            (Asked::Refresh, _) => seen.refreshes += 1,
            _ => {}
        }
    }

    /// Keeps account of an answer that arrives.
    fn note_answer(
        &self,
        state: &mut State,
        (asked, who, minted): (Asked, &str, i64),
        request: &Request,
        answer: &Response,
    ) {
        let server = self.world.server();
        let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let issued = request.bearer().and_then(|token| state.tokens.get(token)).cloned();
        let seen = state.seen.entry(who.to_owned()).or_default();
        let (status, code) = (answer.status(), body["error_code"].as_str());
        let token = body["access_token"].as_str();
        match (asked, status, token) {
            (Asked::Refresh, 201, Some(token)) => {
                let (held, held_since, was_refused) = &seen.held;
                // The backend's clock counts, which may have been set since.
                let expires_at = state.tokens.get(held).map_or(0, |held| held.expires_at);
                let due = held_since + (ACCESS_LIFE - MARGIN) * 1000 - SLOP;
                let is_due = minted >= due || server >= (expires_at - MARGIN) * 1000 - SLOP;
                if !is_due && !was_refused {
                    seen.needless.push(self.world.awake());
                }
                seen.refreshed += 1;
                seen.held = (token.to_owned(), minted, false);
            }
            (Asked::LogIn, 200, Some(token)) => seen.held = (token.to_owned(), minted, false),
            (Asked::Call, 401, _) if matches!(code, None | Some("InvalidSession")) => {
                seen.refused += 1;
                if let Some(token) = request.bearer().and_then(|token| state.tokens.get_mut(token))
                {
                    token.was_refused |= token.expires_at * 1000 <= server;
                }
                seen.held.2 |= request.bearer() == Some(&*seen.held.0);
            }
            (Asked::Refresh, 401, _) if matches!(code, Some("InvalidSession" | "UserDisabled")) => {
                seen.ended += 1;
            }
            (Asked::Refresh, 401, _) if code.is_none() && body.is_object() => seen.ended += 1,
            (Asked::Refresh, 400..=499, _) if body.is_object() => {
                let over = issued.is_none_or(|token| token.expires_at * 1000 <= server + SLOP);
                seen.may_have_ended += usize::from(over);
            }
            _ => {}
        }
    }
}

impl State {
    fn issue(&mut self, login: usize, who: &str, now: i64, is_refresh: bool) -> String {
        self.made += 1;
        let expires_at = now + if is_refresh { REFRESH_LIFE } else { ACCESS_LIFE };
        let token = jwt(&format!("{who} {}", self.made), now, expires_at);
        let issued = Issued { login, expires_at, is_refresh, replaced: None, was_refused: false };
        self.tokens.insert(token.clone(), issued);
        token
    }
}

impl Transport for Judge {
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        let asked = match (request.method().as_str(), request.url()) {
            ("DELETE", url) if url.ends_with("/auth/session") => Asked::LogOut,
            ("POST", url) if url.ends_with("/auth/session") => Asked::Refresh,
            (_, url) if url.ends_with("/auth/profile") => Asked::Profile,
            (_, url) if url.ends_with("/login") => Asked::LogIn,
            (_, url) if url.ends_with("/functions/call") => Asked::Call,
            (_, url) => panic!("nobody asks for {url}"),
        };
        let who = {
            let mut state = self.state.lock().unwrap();
            let who = match request.bearer() {
                Some(token) => {
                    let login = state.tokens.get(token).expect("a token of ours").login;
                    state.logins[login].user.clone()
                }
                None => {
                    let body: Value = serde_json::from_slice(request.body().unwrap()).unwrap();
                    body["token"].as_str().expect("a log-in with a token").to_owned()
                }
            };
            self.note_request(&mut state, asked, &who, request);
            who
        };
        let trouble = (self.plan.lock().unwrap())(asked, &who);
        let mut state = self.state.lock().unwrap();
        let minted = self.world.truth();
        let timeout = TransportErrorKind::Timeout;
        if asked == Asked::Refresh
            && matches!(trouble, Trouble::Before(kind) | Trouble::After(kind) if kind == timeout)
        {
            state.seen.entry(who.clone()).or_default().timed_out += 1;
        }
        let lost = |kind| Err(TransportError::new(kind, super::URL));
        let answer = match trouble {
            Trouble::Before(kind) => return lost(kind),
            Trouble::Answer(answer) => answer,
            Trouble::None => self.handle(&mut state, asked, &who, request),
            Trouble::After(kind) => {
                self.handle(&mut state, asked, &who, request);
                return lost(kind);
            }
            Trouble::Asleep(time) => {
                let answer = self.handle(&mut state, asked, &who, request);
                self.world.sleep(time);
                answer
            }
            Trouble::Truncated => {
                let answer = self.handle(&mut state, asked, &who, request);
                let half = &answer.body()[..answer.body().len() / 2];
                Response::new(answer.status(), half).with_header("Content-Type", "application/json")
            }
        };
        self.note_answer(&mut state, (asked, &who, minted), request, &answer);
        Ok(answer)
    }
}

/// Returns a time in milliseconds since the epoch as a `Date` header has it.
pub fn http_date(time: i64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, seconds) = (time.div_euclid(86_400_000), time.div_euclid(1000).rem_euclid(86_400));
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut day) = (1970, days);
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("Day, {:02} {} {year:04} {hour:02}:{minute:02}:{second:02} GMT", day + 1, MONTHS[month])
}
