//! A backend for random operations: it keeps its accounts in memory, and answers any log-in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use keyfob::transport::{Request, Response, Transport};
use keyfob::{Clock, TransportError};
use serde_json::{Value, json};

use super::{ManualClock, START, jwt};

/// xorshift64*: the same numbers for the same seed, everywhere.
pub struct Random(pub u64);

impl Random {
    /// Returns a number below the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % limit
    }
}

/// A backend that keeps its accounts in memory and knows nothing of HTTP.
#[derive(Clone)]
pub struct Backend(Arc<Mutex<Accounts>>, ManualClock);

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

impl Backend {
    /// Returns a backend without accounts, whose tokens begin at the clock's time.
    pub fn new(clock: &ManualClock) -> Self {
        Self(Arc::default(), clock.clone())
    }

    /// Returns a user's identities, each as its provider and its id.
    pub fn identities(&self, user: &str) -> Vec<String> {
        self.0.lock().unwrap().users[user].clone()
    }
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
                answer(200, super::login_body(&user, &access, &refresh))
            }
            ("GET", "", None) => answer(404, Value::Null),
            _ => answer(401, refused),
        }
    }
}

/// Returns a number from the environment.
pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect(name))
}

/// Returns the seed of a run: from the environment, or from the clock.
pub fn seed() -> u64 {
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    setting("KEYFOB_SEED").unwrap_or_else(|| u64::try_from(now() & 0xffff_ffff).unwrap() | 1)
}
