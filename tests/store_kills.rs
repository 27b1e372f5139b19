//! A kill at every system call of a commit: the store has the state before or after the commit, no
//! acknowledged commit is lost, and removed tokens are gone.
//!
//! `strace` kills the child processes: `cargo test --all-features --test store_kills -- --ignored`.
//! `KEYFOB_KILLS` sets the number of kills. `KEYFOB_SEED` repeats the random choices of a run. If
//! there are more kills than system calls, all of them are tested, and then again with a second
//! kill during the recovery from the first one.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what tests share is a test too")]

mod store_support;
mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfob::store::{
    Change, Decide, OnDamage, RecentEvents, RefreshLock, SledStore, Store, StoredUser,
};
use keyfob::{Credentials, Deadline, Session, StoreError, UserId};
use serde_json::{Value, json};

use store_support::{
    Dir, NOWHERE, Random, child_words, commit_numbered, files_with, padded, put, say, soon,
    spawn_child, spawn_child_under, strace, user,
};
use support::backend::setting;
use support::{APP, ManualClock, START, Script, URL, jwt, login_body};

/// What begins every token, as base64: whole groups of three letters stay as they are.
const SECRET: &str = "hush hush hush ";

/// Everything that is one commit, or two.
const ACTIONS: &[&str] = &[
    "log in",
    "log in again",
    "link",
    "refresh",
    "switch",
    "log out",
    "log out the last",
    "log out anonymous",
    "remove",
    "delete",
];

/// What is there before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Before {
    /// Nothing, not even the directory.
    Nothing,
    /// Four users.
    Few,
    /// More users than the snapshot holds.
    Many,
}

/// How the store is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kept {
    Clear,
    #[cfg(feature = "encryption")]
    Encrypted,
    /// Unencrypted before, and encrypted by the process that opens it.
    #[cfg(feature = "encryption")]
    EncryptedNow,
}

/// The name of a system call, and the how manieth of that name it is in its thread.
type Point = (String, usize);

/// One action, and where a child can be killed on the way through it.
struct Case {
    action: &'static str,
    before: Before,
    kept: Kept,
    /// What to begin with.
    template: Dir,
    /// The states by number: the one before, and those after each commit.
    states: BTreeMap<u64, Value>,
    points: Vec<Point>,
}

#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    let [role, dir, kept, action] = [0, 1, 2, 3].map(|at| words[at].as_str());
    let store = Telling { inner: open(dir.as_ref(), kept), all: role == "record" };
    match role {
        "prepare" => prepare(store),
        "touch" => {
            touch(&store);
        }
        _ => act(store, action),
    }
    say("done");
}

fn open(dir: &Path, kept: &str) -> SledStore {
    let opened = match kept {
        #[cfg(feature = "encryption")]
        "encrypted" | "encrypted now" => {
            if kept == "encrypted now" {
                SledStore::encrypt(dir, APP, &store_support::key(), soon()).unwrap();
            }
            SledStore::open_encrypted(dir, APP, &store_support::key(), OnDamage::Refuse, soon())
        }
        #[cfg(feature = "encryption")]
        "either" => {
            let key = store_support::key().for_new_stores();
            SledStore::open_encrypted(dir, APP, &key, OnDamage::Refuse, soon())
        }
        _ => SledStore::open(dir, APP, OnDamage::Refuse, soon()),
    };
    opened.unwrap()
}

/// A store that says which commits have returned.
struct Telling {
    inner: SledStore,
    /// Whether it says the state as well.
    all: bool,
}

impl Store for Telling {
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError> {
        self.inner.current(deadline)
    }

    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError> {
        self.inner.location(deadline)
    }

    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError> {
        self.inner.user(id, deadline)
    }

    fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        self.inner.users_after(after, deadline)
    }

    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError> {
        let number = self.inner.commit(deadline, decide)?;
        if self.all {
            say(state(&self.inner));
        } else {
            say(number);
        }
        Ok(number)
    }

    fn recent(&self, number: Option<u64>, deadline: Deadline) -> Result<RecentEvents, StoreError> {
        self.inner.recent(number, deadline)
    }

    fn is_encrypted(&self) -> bool {
        self.inner.is_encrypted()
    }

    fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        self.inner.lock_refresh(user, deadline)
    }
}

/// All that a store says.
fn state(store: &dyn Store) -> Value {
    let users = store.users(soon()).unwrap();
    json!({
        "number": store.recent(None, soon()).unwrap().number,
        "current": store.current(soon()).unwrap(),
        "location": store.location(soon()).unwrap(),
        "users": users.iter().map(|user| serde_json::to_value(user).unwrap()).collect::<Vec<_>>(),
    })
}

fn number(state: &Value) -> u64 {
    state["number"].as_u64().unwrap()
}

/// Commits something that changes no user, and returns the number.
fn touch(store: &dyn Store) -> u64 {
    commit_numbered(store, |number| vec![Change::Location(Some(format!("location {number}")))])
}

/// A session whose backend accepts any name and stores nothing: the token contains the user.
fn session(store: Telling, turn: &str) -> Session {
    let token = {
        let turn = turn.to_owned();
        move |name: &str, what: &str| {
            jwt(&format!("{SECRET}{name} {what} {turn}"), START, START + 5_000_000)
        }
    };
    let name_of = |bearer: &Option<String>| {
        let mark = bearer.as_ref().unwrap().rsplit_once('.').unwrap().1;
        let mark = String::from_utf8(URL_SAFE_NO_PAD.decode(mark).unwrap()).unwrap();
        mark[SECRET.len()..].split(' ').next().unwrap().to_owned()
    };
    let script = Script::new();
    for provider in ["custom-token", "anon-user"] {
        let log_in = token.clone();
        script.on(&format!("POST /auth/providers/{provider}/login"), move |sent| {
            let name =
                sent.body.as_ref().and_then(|body| body["token"].as_str()).unwrap_or("guest");
            let body = login_body(name, &log_in(name, "access"), &log_in(name, "refresh"));
            Ok(support::json_answer(200, &body))
        });
    }
    let link = token.clone();
    script.on("POST /auth/providers/api-key/login?link=true", move |sent| {
        let token = link(&name_of(&sent.bearer), "linked");
        Ok(support::json_answer(200, &json!({"access_token": token})))
    });
    script.on("POST /auth/session", move |sent| {
        let token = token(&name_of(&sent.bearer), "refreshed");
        Ok(support::json_answer(201, &json!({"access_token": token})))
    });
    script.on("GET /auth/profile", move |sent| {
        let name = name_of(&sent.bearer);
        let provider = if name == "guest" { "anon-user" } else { "custom-token" };
        let body = json!({
            "identities": [{"id": format!("i-{name}"), "provider_type": provider}],
            "data": {"email": format!("{name}@example.org")},
        });
        Ok(support::json_answer(200, &body))
    });
    script.reply("DELETE /auth/session", 204, Value::Null);
    script.reply("DELETE /auth/delete", 204, Value::Null);
    let builder = Session::builder(APP, URL).transport(script).clock(ManualClock::at(START));
    builder.location_lookup(false).store(store).open().unwrap()
}

fn prepare(store: Telling) {
    let session = session(store, "1");
    session.log_in(&Credentials::jwt("joe")).unwrap().log_out().unwrap();
    session.log_in(&Credentials::new_anonymous()).unwrap();
    session.log_in(&Credentials::jwt("eve")).unwrap();
    session.log_in(&Credentials::jwt("ada")).unwrap();
}

fn act(store: Telling, action: &str) {
    let session = session(store, "2");
    let find = |name: &str| session.user(&UserId::new(name)).unwrap().unwrap();
    match action {
        "log in" => drop(session.log_in(&Credentials::jwt("zoe")).unwrap()),
        "log in again" => drop(session.log_in(&Credentials::jwt("eve")).unwrap()),
        "link" => find("eve").link(&Credentials::api_key("key")).unwrap(),
        "refresh" => drop(find("ada").refresh_access_token().unwrap()),
        "switch" => session.switch_user(&find("eve")).unwrap(),
        "log out" => find("ada").log_out().unwrap(),
        "log out the last" => {
            for name in ["guest", "eve", "ada"] {
                find(name).log_out().unwrap();
            }
        }
        "log out anonymous" => find("guest").log_out().unwrap(),
        "remove" => session.remove_user(&find("eve")).unwrap(),
        "delete" => session.delete_user(&find("ada")).unwrap(),
        _ => panic!("no such action: {action}"),
    }
}

impl Kept {
    fn before(self) -> Self {
        match self {
            #[cfg(feature = "encryption")]
            Self::Encrypted => self,
            _ => Self::Clear,
        }
    }

    fn open(self, dir: &Dir) -> SledStore {
        let mode = match self {
            // The killed process may have encrypted it or not.
            #[cfg(feature = "encryption")]
            Self::EncryptedNow => "either",
            kept => kept.word(),
        };
        open(&dir.data(), mode)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            #[cfg(feature = "encryption")]
            Self::Encrypted => "encrypted",
            #[cfg(feature = "encryption")]
            Self::EncryptedNow => "encrypted now",
        }
    }

    /// Runs a child to its end, under a command if there is one, and returns what it said and
    /// whether it was killed.
    fn run(
        self,
        role: &str,
        action: &str,
        dir: &Dir,
        under: Option<Command>,
    ) -> (Vec<String>, bool) {
        let words = [role, dir.data().to_str().unwrap(), self.word(), action].map(str::to_owned);
        let words = words.each_ref().map(String::as_str);
        let mut child = match under {
            Some(command) => spawn_child_under(command, &words),
            None => spawn_child(&words),
        };
        let lines = std::iter::from_fn(|| child.hear()).collect();
        let status = child.child.wait().unwrap();
        let killed = status.signal() == Some(9);
        assert!(killed || status.success(), "{role} {action}: {status:?}, see {:?}", dir.path());
        (lines, killed)
    }
}

impl Case {
    fn new(action: &'static str, before: Before, kept: Kept) -> Self {
        let template = Dir::new();
        let first = match before {
            Before::Nothing => {
                json!({"number": 0, "current": null, "location": null, "users": []})
            }
            _ => {
                kept.before().run("prepare", "", &template, None);
                let store = kept.before().open(&template);
                if before == Before::Many {
                    let filler = |at| padded(user(&format!("user {at}"), 1), 2_000);
                    commit_numbered(&store, |_| (0..60).map(|at| put(filler(at))).collect());
                }
                touch(&store);
                state(&store)
            }
        };
        let states = BTreeMap::from([(number(&first), first)]);
        let mut case = Self { action, before, kept, template, states, points: Vec::new() };
        let dir = case.begin();
        let calls = dir.path().join("calls");
        let (lines, _) = kept.run("record", action, &dir, Some(strace::record(&calls)));
        for line in lines.iter().filter(|line| *line != "done") {
            let state: Value = serde_json::from_str(line).unwrap();
            case.states.insert(number(&state), state);
        }
        assert!(case.states.len() > 1 && lines.iter().any(|line| line == "done"));
        case.points = points(&calls, &dir.data());
        case
    }

    fn all() -> Vec<Self> {
        use Before::{Few, Many, Nothing};
        let mut all = vec![("log in", Nothing, Kept::Clear)];
        for action in ACTIONS {
            all.push((action, Few, Kept::Clear));
            all.push((action, Many, Kept::Clear));
            #[cfg(feature = "encryption")]
            all.push((action, Few, Kept::Encrypted));
        }
        #[cfg(feature = "encryption")]
        all.extend([
            ("log in", Nothing, Kept::Encrypted),
            ("log out", Many, Kept::Encrypted),
            ("log in", Few, Kept::EncryptedNow),
            ("remove", Many, Kept::EncryptedNow),
        ]);
        let prepare = |part: &[(&'static str, Before, Kept)]| -> Vec<_> {
            part.iter().map(|(action, before, kept)| Self::new(action, *before, *kept)).collect()
        };
        let (some, others) = all.split_at(all.len() / 2);
        thread::scope(|scope| {
            let others = scope.spawn(|| prepare(others));
            let mut cases = prepare(some);
            cases.extend(others.join().unwrap());
            cases
        })
    }

    fn begin(&self) -> Dir {
        if self.before == Before::Nothing { Dir::new() } else { self.template.copy() }
    }

    /// Kills a child at a point, and perhaps the one that repairs after it, and looks at what is
    /// left. Returns how many were killed.
    fn kill(&self, point: &Point, again: Option<&Point>, who_repairs: u64) -> usize {
        let what = format!("{self:?} {point:?} {again:?} {who_repairs}");
        let dir = self.begin();
        let (before, last) = (self.states.first_key_value(), self.states.last_key_value());
        let mut acknowledged = *before.unwrap().0;
        let mut touches = 0;
        let kill_at = |(call, when): &Point| Some(strace::kill_at(call, *when));
        let (lines, was_killed) = self.kept.run("act", self.action, &dir, kill_at(point));
        let mut killed = usize::from(was_killed);
        for line in lines {
            acknowledged = line.parse().unwrap_or(*last.unwrap().0);
        }
        if let Some(again) = again {
            let (lines, was_killed) = self.kept.run("touch", "", &dir, kill_at(again));
            killed += usize::from(was_killed);
            touches = 1;
            if let Some(number) = lines.first() {
                acknowledged = acknowledged.max(number.parse().unwrap_or_default());
            }
        }
        #[cfg(feature = "encryption")]
        if self.kept == Kept::Encrypted {
            assert_eq!(files_with(dir.path(), &hush()), NOWHERE, "{what}");
        }
        // Who repairs: a reader, a writer of this process, or another process.
        let touched = match who_repairs {
            0 => None,
            1 => Some(touch(&self.kept.open(&dir))),
            _ => self.kept.run("touch", "", &dir, None).0[0].parse().ok(),
        };
        let store = self.kept.open(&dir);
        let found = state(&store);
        let reached = number(&found) - u64::from(touched.is_some());
        assert!(touched.is_none_or(|number| number == reached + 1), "{what}");
        assert!(reached >= acknowledged, "{what}: {reached} after {acknowledged}");
        let same = |known: &&Value| {
            let is_whole = ["users", "current"].iter().all(|at| known[at] == found[at]);
            is_whole && (number(known)..=number(known) + touches).contains(&reached)
        };
        let known = self.states.values().rfind(same);
        let known = known.unwrap_or_else(|| panic!("{what}: {reached}, half of it: {found}"));
        if touched.is_none() {
            self.check_traces(&dir, known, false, &what);
            assert_eq!(touch(&store), reached + 1, "{what}");
        }
        self.check_traces(&dir, known, true, &what);
        assert_eq!(state(&self.kept.open(&dir))["users"], known["users"], "{what}");
        #[cfg(feature = "encryption")]
        if self.kept == Kept::EncryptedNow {
            SledStore::encrypt(&dir.data(), APP, &store_support::key(), soon()).unwrap();
            assert_eq!(files_with(dir.path(), &hush()), NOWHERE, "{what}");
            let store = open(&dir.data(), "encrypted");
            assert_eq!(state(&store)["users"], known["users"], "{what}");
        }
        killed
    }

    /// Checks that users who are not logged in have no token on disk. A token that was never committed
    /// may be in an unfinished snapshot until the next commit.
    fn check_traces(&self, dir: &Dir, known: &Value, is_committed: bool, what: &str) {
        let users = |state: &Value| state["users"].as_array().unwrap().clone();
        let is_here = |user: &Value| user["access_token"].is_string();
        let here = users(known).into_iter().filter(is_here).map(|user| user["id"].clone());
        let here: Vec<Value> = here.collect();
        for (at, state) in &self.states {
            if *at > number(known) && !is_committed {
                continue;
            }
            for user in users(state).iter().filter(|user| !here.contains(&user["id"])) {
                for token in ["access_token", "refresh_token"] {
                    if let Some((_, trace)) = user[token].as_str().and_then(|t| t.rsplit_once('.'))
                    {
                        assert_eq!(files_with(dir.path(), trace), NOWHERE, "{what}: {user}");
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.action, self.before, self.kept)
    }
}

/// A part of every token, which must not occur in an encrypted store.
#[cfg(feature = "encryption")]
fn hush() -> String {
    URL_SAFE_NO_PAD.encode(SECRET)
}

/// Returns the points at which a child with the recorded calls can be killed, from the first call that
/// concerns the directory. Opening a file for reading changes nothing.
fn points(calls: &Path, data: &Path) -> Vec<Point> {
    let data = data.to_str().unwrap();
    let mut counts = HashMap::new();
    let mut has_begun = false;
    let mut points = BTreeSet::new();
    for call in strace::calls(&std::fs::read_to_string(calls).unwrap()) {
        let count = counts.entry((call.thread, call.name.clone())).or_insert(0);
        *count += 1;
        has_begun |= call.rest.contains(data);
        if has_begun && !call.rest.contains("O_RDONLY") {
            points.insert((call.name, *count));
        }
    }
    points.into_iter().collect()
}

#[test]
#[ignore = "needs strace"]
fn kill_at_any_system_call_is_atomic() {
    let kills = usize::try_from(setting("KEYFOB_KILLS").unwrap_or(200)).unwrap();
    let mut random = Random::from_env();
    let cases = Case::all();
    let every: Vec<_> =
        cases.iter().flat_map(|case| case.points.iter().map(move |p| (case, p))).collect();
    println!("{} points in {} cases", every.len(), cases.len());
    let mut order: Vec<_> = every.iter().collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    // What a child does that repairs first is alike everywhere.
    let repairs = &cases[1].points;
    let (killed, begun) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let seeds = [(); 2].map(|()| random.below(u64::MAX));
    thread::scope(|scope| {
        for seed in seeds {
            let (killed, begun, order) = (&killed, &begun, &order);
            scope.spawn(move || {
                let mut random = Random::new(seed);
                while killed.load(Ordering::Relaxed) < kills {
                    let turn = begun.fetch_add(1, Ordering::Relaxed);
                    let (case, point) = order[turn % order.len()];
                    let again = (turn >= order.len())
                        .then(|| &repairs[random.below(repairs.len() as u64) as usize]);
                    let died = case.kill(point, again, random.below(3));
                    killed.fetch_add(died, Ordering::Relaxed);
                }
            });
        }
    });
    let (killed, begun) = (killed.into_inner(), begun.into_inner());
    println!("{killed} kills, {begun} runs, {} points", order.len());
}
