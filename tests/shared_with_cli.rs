//! A program and the `keyfob` command with one store: each sees the other's changes in its next
//! call. A program without a key can still open the store.

#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use keyfob::server::Server;
use keyfob::{
    Credentials, EncryptionKey, Error, Event, LocalState, Secret, Session, StoreErrorKind, UserId,
    UserState,
};
use serde_json::{Value, json};
use support::Dir;

const PASSWORD: &str = "hunter22";
const THREADS: usize = 8;
const ROUNDS: usize = 3;

/// The command on the program's store.
struct Cli<'a> {
    base_url: &'a str,
    dir: &'a Dir,
}

impl Cli<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyfob"))
            .args(["--json", "--app-id", "keyfob-local", "--base-url", self.base_url, "--store"])
            .arg(self.dir.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who needs no password may have ended without reading it.
        let _ = child.stdin.take().unwrap().write_all(PASSWORD.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let done = self.run(arguments);
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        serde_json::from_slice(&done.stdout).unwrap()
    }

    fn whoami(&self) -> Option<UserId> {
        let done = self.run(&["whoami"]);
        if done.status.code() == Some(3) {
            return None;
        }
        let printed: Value = serde_json::from_slice(&done.stdout).expect("whoami says who it is");
        Some(UserId::new(printed["user_id"].as_str().unwrap()))
    }
}

/// Who must be current, as long as nobody is at changing it.
#[derive(Default)]
struct Expected {
    /// Odd while somebody is at it.
    turn: AtomicU64,
    current: RwLock<Option<UserId>>,
}

impl Expected {
    /// Changes who is current, to whom the change returns.
    fn change(&self, change: impl FnOnce() -> Option<UserId>) {
        self.turn.fetch_add(1, Ordering::SeqCst);
        *self.current.write().unwrap() = change();
        self.turn.fetch_add(1, Ordering::SeqCst);
    }

    /// Demands of one call that it sees the state, if nobody changed it meanwhile. Returns whether
    /// anything could be demanded.
    fn check(&self, session: &Session) -> bool {
        let turn = self.turn.load(Ordering::SeqCst);
        let expected = self.current.read().unwrap().clone();
        let current = session.current_user().unwrap();
        let calm = turn.is_multiple_of(2) && self.turn.load(Ordering::SeqCst) == turn;
        if calm {
            assert_eq!(current.map(|user| user.id().clone()), expected, "turn {turn}");
        }
        calm
    }
}

/// Uses the session as a program does: the current user calls functions, and other processes may
/// log that user out meanwhile.
fn work(session: &Session) -> bool {
    let worked = session.current_user().and_then(|user| match user {
        Some(user) => user.functions().call::<i64>("sum", (1, 2)).map(Some),
        None => Ok(None),
    });
    match worked {
        Ok(sum) => sum.is_some_and(|sum| sum == 3),
        Err(Error::LocalState(LocalState::NotLoggedIn(_))) => false,
        // The request was under way when the backend ended the session it belongs to.
        Err(Error::Server(error)) if error.status == 401 => false,
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn program_and_command_see_each_other() {
    let server = Server::builder().built_in_functions().start().unwrap();
    let dir = Dir::new();
    let cli = Cli { base_url: server.base_url(), dir: &dir };
    let session = Session::builder("keyfob-local", server.base_url())
        .data_dir(dir.path())
        .encryption(EncryptionKey::key_file())
        .open()
        .unwrap();
    for name in ["ada", "eve"] {
        let email = format!("{name}@example.org");
        session.email_password().register(&email, Secret::new(PASSWORD)).unwrap();
    }
    let mut events = session.events().unwrap();
    let (expected, done) = (Expected::default(), AtomicBool::new(false));
    let (checks, calls) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = Stop(&done);
        for number in 0..THREADS {
            let (session, expected, done) = (session.clone(), &expected, &done);
            let (checks, calls) = (&checks, &calls);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    checks.fetch_add(expected.check(&session).into(), Ordering::Relaxed);
                    // Half of them only look.
                    if number % 2 == 0 {
                        calls.fetch_add(work(&session).into(), Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..ROUNDS {
            play(&cli, &session, &expected);
        }
        // Two log-ins and two log-outs a round, each told once.
        let mut heard = 0;
        while heard < 4 * ROUNDS {
            let event = events.next_timeout(Duration::from_secs(60)).expect("an event");
            // Where a file that is being read cannot be replaced, as under Wine, a slow reader makes
            // the store repair itself, which keeps no events and says so.
            if cfg!(windows) && event == Event::Lagged {
                break;
            }
            assert_ne!(event, Event::Lagged);
            heard += usize::from(matches!(event, Event::LoggedIn { .. } | Event::LoggedOut { .. }));
        }
    });
    let (checks, calls) = (checks.into_inner(), calls.into_inner());
    println!("{checks} checks, {calls} calls");
    assert!(checks > 0 && calls > 0);
}

#[test]
fn command_keeps_plaintext_store_plaintext() {
    let server = Server::builder().built_in_functions().start().unwrap();
    let dir = Dir::new();
    let cli = Cli { base_url: server.base_url(), dir: &dir };
    let open = || {
        let builder = Session::builder("keyfob-local", server.base_url());
        builder.data_dir(dir.path()).open().unwrap()
    };
    let session = open();
    for name in ["ada", "eve"] {
        let email = format!("{name}@example.org");
        session.email_password().register(&email, Secret::new(PASSWORD)).unwrap();
    }
    let credentials = Credentials::email_password("ada@example.org", PASSWORD);
    let ada = session.log_in(&credentials).unwrap();

    assert_eq!(cli.whoami().as_ref(), Some(ada.id()));
    let eve = cli.json(&["login", "--email", "eve@example.org"]);
    let eve = UserId::new(eve["user_id"].as_str().unwrap());
    // Who had it open goes on, and so does who opens it anew.
    for session in [&session, &open()] {
        assert_eq!(session.current_user().unwrap().unwrap().id(), &eve);
        assert!(work(session));
    }
    cli.json(&["logout"]);
    let again = open();
    assert_eq!(again.current_user().unwrap().as_ref(), Some(&ada));
    assert_eq!(again.user(&eve).unwrap().unwrap().state().unwrap(), UserState::LoggedOut);
    assert!(work(&again));
    assert!(!dir.path().join("key").exists());

    // The program with its own settings cannot go on once the command has encrypted the store.
    assert_eq!(cli.json(&["encrypt"]), json!({"encrypted": true}));
    assert_eq!(cli.json(&["encrypt"]), json!({"encrypted": false}));
    for error in [session.current_user().unwrap_err(), again.log_in(&credentials).unwrap_err()] {
        assert!(
            matches!(&error, Error::Store(error) if error.kind == StoreErrorKind::Key),
            "{error}"
        );
    }
    assert_eq!(cli.whoami().as_ref(), Some(ada.id()));
    let with_key = || {
        let builder = Session::builder("keyfob-local", server.base_url()).data_dir(dir.path());
        builder.encryption(EncryptionKey::key_file())
    };
    let session = with_key().open().unwrap();
    assert_eq!(session.current_user().unwrap().unwrap().id(), ada.id());
    assert!(work(&session));
    assert!(!with_key().encrypt_store().unwrap());

    // What the command makes is encrypted.
    let other = Dir::new();
    let cli = Cli { dir: &other, ..cli };
    cli.json(&["login", "--email", "eve@example.org"]);
    let builder = Session::builder("keyfob-local", server.base_url());
    let Err(Error::Store(error)) = builder.data_dir(other.path()).open() else {
        panic!("a program without the key opened it")
    };
    assert_eq!(error.kind, StoreErrorKind::Key);
}

/// Lets the threads end, also when the test has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Each logs in, switches and logs out, and the other looks at once.
fn play(cli: &Cli<'_>, session: &Session, expected: &Expected) {
    let current = || session.current_user().unwrap().map(|user| user.id().clone());

    expected.change(|| {
        let printed = cli.json(&["login", "--email", "ada@example.org"]);
        Some(UserId::new(printed["user_id"].as_str().unwrap()))
    });
    let ada = session.current_user().unwrap().unwrap();
    assert_eq!(ada.state().unwrap(), UserState::LoggedIn);
    assert_eq!(ada.profile().unwrap().email(), Some("ada@example.org"));

    let credentials = Credentials::email_password("eve@example.org", PASSWORD);
    expected.change(|| Some(session.log_in(&credentials).unwrap().id().clone()));
    let eve = session.current_user().unwrap().unwrap();
    assert_eq!(cli.whoami().as_ref(), Some(eve.id()));

    let (ada_id, eve_id) = (Some(ada.id().clone()), Some(eve.id().clone()));
    expected.change(|| {
        session.switch_user(&ada).unwrap();
        ada_id.clone()
    });
    assert_eq!(cli.whoami(), ada_id);
    expected.change(|| {
        cli.json(&["switch", eve.id().as_str()]);
        eve_id.clone()
    });
    assert_eq!(current(), eve_id);

    expected.change(|| {
        cli.json(&["logout"]);
        ada_id.clone()
    });
    assert_eq!((eve.state().unwrap(), current()), (UserState::LoggedOut, ada_id));
    expected.change(|| {
        ada.log_out().unwrap();
        None
    });
    assert_eq!(cli.whoami(), None);
}
