//! Several processes with one store and the real server: one login, one refresh, and consistent
//! state.
//!
//! The test program starts itself as its own child processes. The environment names the task of a
//! child, and [`child`] is its entry point.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "server")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use keyfob::server::{Fault, Route, Server};
use keyfob::{Clock, Credentials, Event, Secret, Session, SystemClock, UserState};
use support::{Dir, ManualClock};

const EXPIRED: Duration = Duration::from_secs(31 * 60);

/// The machine's clock, moved.
struct Moved(Duration);

impl Clock for Moved {
    fn now(&self) -> SystemTime {
        SystemClock.now() + self.0
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + self.0
    }
}

fn open(url: &str, dir: &Path) -> keyfob::SessionBuilder {
    Session::builder("keyfob-local", url).data_dir(dir)
}

fn server() -> (Server, ManualClock) {
    server_with(|builder| builder)
}

fn server_with(
    configure: impl FnOnce(keyfob::server::ServerBuilder) -> keyfob::server::ServerBuilder,
) -> (Server, ManualClock) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let clock = ManualClock::at(i64::try_from(now.as_secs()).unwrap());
    let builder = Server::builder().clock(clock.clone()).built_in_functions();
    (configure(builder).start().unwrap(), clock)
}

fn log_in(session: &Session) -> keyfob::User {
    session.email_password().register("ada@example.org", Secret::new("hunter22")).unwrap();
    session.log_in(&Credentials::email_password("ada@example.org", "hunter22")).unwrap()
}

/// Starts a child that plays a role. It says a line when it is ready and goes on when it gets one.
fn start(role: &str, url: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env("KEYFOB_TEST_ROLE", role)
        .env("KEYFOB_TEST_URL", url)
        .env("KEYFOB_TEST_DIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads lines of a child until one has this mark, and returns what comes after it.
fn hear(lines: &mut impl BufRead, mark: &str) -> String {
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        if let Some((_, rest)) = line.split_once(mark) {
            return rest.trim().to_owned();
        }
        line.clear();
    }
    panic!("the child never said {mark}");
}

#[test]
fn child() {
    let Ok(role) = std::env::var("KEYFOB_TEST_ROLE") else { return };
    let url = std::env::var("KEYFOB_TEST_URL").unwrap();
    let dir = PathBuf::from(std::env::var("KEYFOB_TEST_DIR").unwrap());
    let wait = || {
        println!("READY ");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    };
    match role.as_str() {
        "call" => {
            let session = open(&url, &dir).clock(Moved(EXPIRED)).open().unwrap();
            wait();
            let calls: Vec<_> = (0..4)
                .map(|_| {
                    let user = session.current_user().unwrap().unwrap();
                    thread::spawn(move || user.functions().call::<i64>("sum", (1, 2)).unwrap())
                })
                .collect();
            let sums: i64 = calls.into_iter().map(|call| call.join().unwrap()).sum();
            println!("SUM {sums}");
        }
        "anonymous" => {
            let session = open(&url, &dir).open().unwrap();
            wait();
            println!("USER {}", session.log_in(&Credentials::anonymous()).unwrap().id());
        }
        "log out" => {
            let session = open(&url, &dir).open().unwrap();
            wait();
            session.current_user().unwrap().unwrap().log_out().unwrap();
            println!("DONE ");
        }
        "log in and die" => {
            let session = open(&url, &dir).open().unwrap();
            let user = log_in(&session);
            println!("USER {}", user.id());
            std::process::abort();
        }
        other => panic!("{other}"),
    }
}

/// Lets 16 processes with four threads each meet one expired token.
fn meet(server: &Server, dir: &Dir) {
    assert_eq!(at_once("call", 16, server, dir, "SUM"), ["12"; 16]);
}

/// Starts processes that play a role at the same moment, and returns what each of them printed.
fn at_once(role: &str, processes: usize, server: &Server, dir: &Dir, mark: &str) -> Vec<String> {
    let start = |_| start(role, server.base_url(), dir.path());
    let mut children: Vec<_> = (0..processes).map(start).collect();
    let mut heard: Vec<_> =
        children.iter_mut().map(|child| BufReader::new(child.stdout.take().unwrap())).collect();
    for lines in &mut heard {
        hear(lines, "READY");
    }
    for child in &mut children {
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
    }
    let printed = heard.iter_mut().map(|lines| hear(lines, mark)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    printed
}

/// The backend takes half a second for each log-in.
#[test]
fn concurrent_processes_create_one_anonymous_user() {
    let (dir, (server, _)) = (Dir::new(), server());
    let slow = Fault::delay(Duration::from_millis(500)).on(Route::LogIn).always();
    server.faults().add(slow);
    let users = at_once("anonymous", 10, &server, &dir, "USER");
    assert!(users.iter().all(|user| *user == users[0]), "{users:?}");
    assert_eq!(server.journal().count(Route::LogIn), 1);
    let session = open(server.base_url(), dir.path()).open().unwrap();
    assert_eq!(session.users().unwrap().len(), 1);
}

#[test]
fn concurrent_processes_refresh_once() {
    let (dir, (server, clock)) = (Dir::new(), server());
    let user = log_in(&open(server.base_url(), dir.path()).open().unwrap());
    clock.advance(EXPIRED);
    meet(&server, &dir);
    assert_eq!(server.journal().count(Route::Refresh), 1);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn concurrent_processes_share_rotated_token() {
    let dir = Dir::new();
    let (server, clock) =
        server_with(|builder| builder.rotate_refresh_tokens(true).rotation_grace(Duration::ZERO));
    let session = open(server.base_url(), dir.path()).clock(Moved(EXPIRED)).open().unwrap();
    let user = log_in(&open(server.base_url(), dir.path()).open().unwrap());
    clock.advance(EXPIRED);
    meet(&server, &dir);
    assert_eq!(server.journal().count(Route::Refresh), 1);
    // The new refresh token is the one that works, here too.
    let user = session.user(user.id()).unwrap().unwrap();
    user.refresh_access_token().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn user_survives_crash_and_network_failure() {
    let dir = Dir::new();
    let (server, _) = server();
    let url = server.base_url().to_owned();
    let mut child = start("log in and die", &url, dir.path());
    let id = hear(&mut BufReader::new(child.stdout.take().unwrap()), "USER");
    assert!(!child.wait().unwrap().success());
    server.shut_down();
    let session = open(&url, dir.path()).open().unwrap();
    let user = session.current_user().unwrap().unwrap();
    assert_eq!(user.id().as_str(), id);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    assert_eq!(user.profile().unwrap().email(), Some("ada@example.org"));
    assert_eq!(user.identities().unwrap().len(), 1);
    assert_eq!(session.users().unwrap(), std::slice::from_ref(&user));
    let error = user.functions().call::<i64>("sum", (1, 2)).unwrap_err();
    // Not `!is_ambiguous()`: a child that another test is starting right now may hold a copy of the
    // server's socket until it runs its own program, and a connection to that is reset.
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn changes_of_other_process_are_visible_and_emitted() {
    let (dir, (server, _)) = (Dir::new(), server());
    let session = open(server.base_url(), dir.path()).open().unwrap();
    let user = log_in(&session);
    let mut events = session.events().unwrap();
    let mut child = start("log out", server.base_url(), dir.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    hear(&mut lines, "READY");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    hear(&mut lines, "DONE");
    assert_eq!(session.current_user().unwrap(), None);
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
    let event = events.next_timeout(Duration::from_secs(30));
    assert!(matches!(event, Some(Event::LoggedOut { .. })), "{event:?}");
    child.wait().unwrap();
}
