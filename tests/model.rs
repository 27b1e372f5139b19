//! Random operations on users, against a model of what the manual says.
//!
//! `KEYFOB_MODEL_OPERATIONS` says how many (two million take minutes), `KEYFOB_SEED`
//! repeats a run.

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfob::store::{MemoryStore, OnDamage, SledStore, Store};
use keyfob::transport::{Request, Response, Transport};
use keyfob::{
    Clock, Credentials, Deadline, Error, Event, Session, TransportError, UserId, UserState,
};
use serde_json::{Value, json};
use support::{APP, Dir, ManualClock, START, URL, jwt};

/// xorshift64*: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % limit
    }
}

/// A backend that keeps its accounts in memory and knows nothing of HTTP.
#[derive(Clone)]
struct Backend(Arc<Mutex<Accounts>>, ManualClock);

#[derive(Default)]
struct Accounts {
    /// By provider and name: whose it is.
    identities: HashMap<String, String>,
    /// By user: its identities, in the order of linking.
    users: HashMap<String, Vec<String>>,
    /// By token: the user and whether it is a refresh token.
    tokens: HashMap<String, (String, bool)>,
    made: usize,
}

impl Accounts {
    fn token(&mut self, user: &str, is_refresh: bool, now: i64) -> String {
        self.made += 1;
        let life = if is_refresh { 5_000_000 } else { 1800 };
        let token = jwt(&format!("{user}-{}", self.made), now, now + life);
        self.tokens.insert(token.clone(), (user.to_owned(), is_refresh));
        token
    }

    /// Returns the user of an account, who is made with its first log-in.
    fn user_of(&mut self, identity: &str) -> String {
        if let Some(user) = self.identities.get(identity) {
            return user.clone();
        }
        self.made += 1;
        let user = format!("u{}", self.made);
        self.identities.insert(identity.to_owned(), user.clone());
        self.users.insert(user.clone(), vec![identity.to_owned()]);
        user
    }
}

fn answer(status: u16, body: Value) -> Result<Response, TransportError> {
    Ok(Response::new(status, body.to_string()))
}

impl Transport for Backend {
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        let now = START + i64::try_from(self.1.monotonic().as_secs()).unwrap();
        let mut accounts = self.0.lock().unwrap();
        let path = request.url().rsplit_once("/auth/").map_or("", |(_, path)| path);
        let bearer = request.bearer().map(str::to_owned);
        let holder = bearer.as_ref().and_then(|token| accounts.tokens.get(token).cloned());
        let body: Value =
            request.body().map_or(Value::Null, |body| serde_json::from_slice(body).unwrap());
        let refused = json!({"error": "no", "error_code": "InvalidSession"});
        let identity = |accounts: &mut Accounts| match path.split('/').nth(1).unwrap() {
            "anon-user" => {
                accounts.made += 1;
                format!("anon-user {}", accounts.made)
            }
            provider => {
                format!("{provider} {}", body["token"].as_str().or(body["key"].as_str()).unwrap())
            }
        };
        match (request.method().as_str(), path, holder) {
            (_, "session", Some((user, true))) if request.method().as_str() == "POST" => {
                answer(201, json!({"access_token": accounts.token(&user, false, now)}))
            }
            ("DELETE", "session", Some((_, true))) => {
                accounts.tokens.remove(&bearer.unwrap());
                answer(204, Value::Null)
            }
            ("GET", "profile", Some((user, false))) if accounts.users.contains_key(&user) => {
                let identities = accounts.users[&user].iter().map(|identity| {
                    let (provider, id) = identity.split_once(' ').unwrap();
                    json!({"id": id, "provider_type": provider})
                });
                answer(200, json!({"identities": identities.collect::<Vec<_>>(), "data": {}}))
            }
            ("DELETE", "delete", Some((user, false))) => {
                let identities = accounts.users.remove(&user).unwrap();
                for identity in identities {
                    accounts.identities.remove(&identity);
                }
                accounts.tokens.retain(|_, (holder, _)| *holder != user);
                answer(204, Value::Null)
            }
            ("POST", path, Some((user, false))) if path.ends_with("login?link=true") => {
                let identity = identity(&mut accounts);
                match accounts.identities.get(&identity) {
                    Some(owner) if *owner != user => {
                        return answer(
                            409,
                            json!({"error": "in use", "error_code": "IdentityAlreadyInUse"}),
                        );
                    }
                    Some(_) => {}
                    None => {
                        accounts.identities.insert(identity.clone(), user.clone());
                        accounts.users.get_mut(&user).unwrap().push(identity);
                    }
                }
                answer(200, json!({"access_token": accounts.token(&user, false, now)}))
            }
            ("POST", path, None) if path.ends_with("/login") => {
                let identity = identity(&mut accounts);
                let user = accounts.user_of(&identity);
                let access = accounts.token(&user, false, now);
                let refresh = accounts.token(&user, true, now);
                answer(200, support::login_body(&user, &access, &refresh))
            }
            ("GET", "", None) => answer(404, Value::Null),
            _ => answer(401, refused),
        }
    }
}

/// What the manual says of one user.
#[derive(Clone, Debug)]
struct Known {
    id: String,
    logged_in: bool,
    used: u64,
    identities: Vec<String>,
}

/// What the manual says of a session.
#[derive(Default)]
struct Model {
    users: Vec<Known>,
    current: Option<String>,
    uses: u64,
    told: Vec<String>,
}

impl Model {
    fn at(&mut self, id: &str) -> Option<&mut Known> {
        self.users.iter_mut().find(|user| user.id == id)
    }

    fn make_current(&mut self, id: Option<String>) {
        if self.current != id {
            self.told.push(format!("current {:?}", id));
            self.current = id;
        }
    }

    fn came(&mut self, id: &str, identities: Vec<String>) {
        self.uses += 1;
        let used = self.uses;
        match self.at(id) {
            Some(user) => {
                (user.logged_in, user.used, user.identities) = (true, used, identities);
            }
            None => self.users.push(Known { id: id.to_owned(), logged_in: true, used, identities }),
        }
        self.told.push(format!("in {id}"));
        self.make_current(Some(id.to_owned()));
    }

    fn switched(&mut self, id: &str) {
        if self.current.as_deref() != Some(id) {
            self.uses += 1;
            let used = self.uses;
            self.at(id).unwrap().used = used;
            self.make_current(Some(id.to_owned()));
        }
    }

    fn left(&mut self, id: &str, removed: bool) {
        if removed {
            self.users.retain(|user| user.id != id);
        } else {
            self.at(id).unwrap().logged_in = false;
        }
        self.told.push(format!("{} {id}", if removed { "removed" } else { "out" }));
        if self.current.as_deref() == Some(id) {
            let rest = self.users.iter().filter(|user| user.logged_in && user.id != id);
            let next = rest.max_by_key(|user| user.used).map(|user| user.id.clone());
            self.make_current(next);
        }
    }

    fn anonymous(&self) -> Option<String> {
        let is_anonymous = |user: &&Known| {
            user.logged_in
                && user.identities.iter().all(|identity| identity.starts_with("anon-user"))
        };
        let current = self.users.iter().find(|user| Some(&user.id) == self.current.as_ref());
        let current = current.filter(is_anonymous);
        let best = current.or(self.users.iter().filter(is_anonymous).max_by_key(|user| user.used));
        best.map(|user| user.id.clone())
    }
}

fn name(event: &Event) -> String {
    match event {
        Event::CurrentUserChanged { to, .. } => {
            format!("current {:?}", to.as_ref().map(UserId::as_str))
        }
        Event::IdentityLinked { user, .. } => format!("linked {user}"),
        Event::LoggedIn { user, .. } => format!("in {user}"),
        Event::LoggedOut { user, .. } => format!("out {user}"),
        Event::Removed { user, .. } => format!("removed {user}"),
        Event::TokenRefreshed { user, .. } => format!("token {user}"),
        other => format!("{other:?}"),
    }
}

fn run(
    operations: usize,
    seed: u64,
    store: &dyn Fn() -> Box<dyn Fn(keyfob::SessionBuilder) -> Session>,
) {
    println!("KEYFOB_SEED={seed} KEYFOB_MODEL_OPERATIONS={operations}");
    let mut random = Random(seed);
    let clock = ManualClock::at(START);
    let backend = Backend(Arc::default(), clock.clone());
    let open = store();
    let open = || {
        let builder = Session::builder(APP, URL).clock(clock.clone()).transport(backend.clone());
        open(builder.location_lookup(false))
    };
    let mut sessions = [open(), open()];
    let ghost = sessions[0].log_in(&Credentials::jwt("ghost")).unwrap();
    sessions[0].remove_user(&ghost).unwrap();
    let mut listening = 0;
    let mut events = sessions[0].events().unwrap();
    let mut model = Model::default();
    for step in 0..operations {
        let which = random.below(2);
        let session = &sessions[which];
        // Half of the time a user who is known, else any.
        let id = match model.users.len() {
            0 => "nobody".to_owned(),
            users => model.users[random.below(users)].id.clone(),
        };
        let known = model.at(&id).cloned();
        let user = session.user(&UserId::new(&id)).unwrap();
        assert_eq!(user.is_some(), known.is_some(), "step {step}");
        let provider = random.below(2);
        let account = format!("account-{}", random.below(5));
        let credentials = match provider {
            0 => Credentials::jwt(account.as_str()),
            _ => Credentials::api_key(account.as_str()),
        };
        let identities = |id: &str| backend.0.lock().unwrap().users[id].clone();
        match (random.below(16), user, known) {
            (0..4, _, _) => {
                let user = session.log_in(&credentials).unwrap();
                let id = user.id().to_string();
                model.came(&id, identities(&id));
            }
            (4, _, _) => {
                let user = session.log_in(&Credentials::new_anonymous()).unwrap();
                let id = user.id().to_string();
                model.came(&id, identities(&id));
            }
            (5, _, _) => {
                let expected = model.anonymous();
                let user = session.log_in(&Credentials::anonymous()).unwrap();
                let id = user.id().to_string();
                match expected {
                    Some(expected) => {
                        assert_eq!(id, expected, "step {step}");
                        model.switched(&id);
                    }
                    None => model.came(&id, identities(&id)),
                }
            }
            (6 | 7, Some(user), Some(known)) => match session.switch_user(&user) {
                Ok(()) => {
                    assert!(known.logged_in, "step {step}");
                    model.switched(&id);
                }
                Err(Error::LocalState(_)) => assert!(!known.logged_in, "step {step}"),
                Err(error) => panic!("step {step}: {error}"),
            },
            (8 | 9, Some(user), Some(known)) => {
                user.log_out().unwrap();
                let anonymous =
                    known.identities.iter().all(|identity| identity.starts_with("anon-user"));
                if known.logged_in {
                    model.left(&id, anonymous);
                }
            }
            (10, Some(user), Some(_)) => {
                session.remove_user(&user).unwrap();
                model.left(&id, true);
            }
            (11, Some(user), Some(known)) => match session.delete_user(&user) {
                Ok(()) => {
                    assert!(known.logged_in, "step {step}");
                    model.left(&id, true);
                }
                Err(Error::LocalState(_)) => assert!(!known.logged_in, "step {step}"),
                // Deleted by its other login: the backend knows it no more.
                Err(error) => panic!("step {step}: {error}"),
            },
            (12, Some(user), Some(known)) => match user.link(&credentials) {
                Ok(()) => {
                    assert!(known.logged_in, "step {step}");
                    model.uses += 1;
                    let used = model.uses;
                    let linked = identities(&id);
                    let at = model.at(&id).unwrap();
                    (at.used, at.identities) = (used, linked);
                    model.told.push(format!("linked {id}"));
                    model.make_current(Some(id.clone()));
                }
                Err(Error::LocalState(_)) => assert!(!known.logged_in, "step {step}"),
                Err(error) => assert_eq!(
                    error.link_refusal(),
                    Some(keyfob::LinkRefusal::IdentityAlreadyInUse),
                    "step {step}: {error}"
                ),
            },
            (13, Some(user), Some(known)) if known.logged_in => {
                clock.advance(Duration::from_secs(1));
                user.refresh_access_token().unwrap();
                model.told.push(format!("token {id}"));
            }
            (14, _, _) => {
                let same = which == listening;
                sessions[which] = open();
                if same {
                    listening = 1 - which;
                    events = sessions[listening].events().unwrap();
                }
            }
            _ => {}
        }
        let session = &sessions[random.below(2)];
        let current = session.current_user().unwrap().map(|user| user.id().to_string());
        assert_eq!(current, model.current, "step {step}");
        if random.below(4) == 0 {
            let users = session.users().unwrap();
            let ids: Vec<_> = users.iter().map(|user| user.id().as_str()).collect();
            let expected: Vec<_> = model.users.iter().map(|user| user.id.as_str()).collect();
            assert_eq!(ids, expected, "step {step}");
            for (user, known) in users.iter().zip(&model.users) {
                let logged_in = user.state().unwrap() == UserState::LoggedIn;
                assert_eq!(logged_in, known.logged_in, "step {step}");
                let identities = user.identities().unwrap().into_iter();
                let identities: Vec<_> = identities
                    .map(|identity| format!("{} {}", identity.provider, identity.id))
                    .collect();
                assert_eq!(identities, known.identities, "step {step}");
            }
        }
        // A session looks at once when it has tried to commit itself, and ten times a second else.
        sessions[listening].remove_user(&ghost).unwrap_err();
        for expected in model.told.drain(..) {
            let told = events.next_timeout(Duration::from_secs(60));
            assert_eq!(told.as_ref().map(name), Some(expected), "step {step}");
        }
    }
    assert_eq!(events.try_next(), None);
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect(name))
}

fn seed() -> u64 {
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    setting("KEYFOB_SEED").unwrap_or_else(|| u64::try_from(now() & 0xffff_ffff).unwrap() | 1)
}

#[test]
fn random_operations_of_two_sessions_leave_what_the_manual_says() {
    let operations = setting("KEYFOB_MODEL_OPERATIONS").unwrap_or(20_000);
    run(usize::try_from(operations).unwrap(), seed(), &|| {
        let store = MemoryStore::new();
        Box::new(move |builder| builder.store(store.clone()).open().unwrap())
    });
}

#[test]
fn random_operations_on_disk_leave_what_the_manual_says() {
    let dir = Dir::new();
    let path = dir.path().to_owned();
    let operations = setting("KEYFOB_MODEL_DISK_OPERATIONS").unwrap_or(300);
    run(usize::try_from(operations).unwrap(), seed(), &|| {
        let path = path.clone();
        Box::new(move |builder| builder.data_dir(&path).open().unwrap())
    });
    let deadline = Deadline::after(Duration::from_secs(60));
    let app_dir = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let store = SledStore::open(&app_dir, &format!("{APP}\n{URL}"), OnDamage::Refuse, deadline);
    store.unwrap().users(deadline).unwrap();
}
