//! Data directories on a file system that is read-only or full: a program with a logged-in user
//! continues, and no refresh token on disk is used up without a stored successor.
//!
//! The next program is this test program, which starts itself with [`child`] as its entry point.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]
#![cfg(all(feature = "server", target_os = "linux"))]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use keyfob::server::{Route, Server};
use keyfob::{Error, Event, Session, StoreErrorKind, User, UserState};
use support::{Dir, ManualClock};

const LIFE: Duration = Duration::from_secs(31 * 60);

/// A file system of its own, which can be made unwritable.
struct Disk {
    dir: Dir,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Full,
    ReadOnly,
}

fn run(command: &str, words: &[&str]) {
    let output = Command::new(command).args(words).output().unwrap();
    assert!(output.status.success(), "{command} {words:?}: {output:?}");
}

impl Disk {
    fn new(fault: Fault) -> Self {
        let dir = Dir::new();
        let disk = Self { dir, fault };
        run("mount", &["-t", "tmpfs", "-o", "size=12m", "none", disk.path()]);
        disk
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn break_it(&self) {
        match self.fault {
            // A mount on top of this one: the kernel makes none read-only that has files open.
            Fault::ReadOnly => {
                run("mount", &["--bind", self.path(), self.path()]);
                run("mount", &["-o", "remount,bind,ro", self.path()]);
            }
            Fault::Full => {
                let mut filler = std::fs::File::create(self.filler()).unwrap();
                while filler.write_all(&[1; 4096]).is_ok() {}
            }
        }
    }

    fn repair(&self) {
        match self.fault {
            Fault::ReadOnly => run("umount", &[self.path()]),
            Fault::Full => std::fs::remove_file(self.filler()).unwrap(),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while Command::new("umount")
            .args(["--lazy", "--quiet", self.path()])
            .status()
            .is_ok_and(|status| status.success())
        {}
    }
}

fn open(url: &str, data: &Path, clock: &ManualClock) -> Session {
    let session = Session::builder("keyfob-local", url).data_dir(data).clock(clock.clone());
    session.deadline(Duration::from_secs(20)).open().unwrap()
}

fn sum(user: &User) -> keyfob::Result<i64> {
    user.functions().call("sum", (3, 4))
}

/// A program with a user who is logged in, whose login was refreshed once.
fn program(disk: &Disk, rotates: bool) -> (Server, ManualClock, Session, User) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let clock = ManualClock::at(now.as_secs().try_into().unwrap());
    let server = Server::builder().clock(clock.clone()).built_in_functions();
    let server = server.rotate_refresh_tokens(rotates).rotation_grace(Duration::ZERO);
    let server = server.start().unwrap();
    let session = open(server.base_url(), &disk.data(), &clock);
    let user = session.log_in(&keyfob::Credentials::anonymous()).unwrap();
    user.refresh_access_token().unwrap();
    (server, clock, session, user)
}

/// Starts the next program, which calls a function as the user that the disk knows.
fn next_program(server: &Server, disk: &Disk, clock: &ManualClock) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--ignored"])
        .env("KEYFOB_TEST_URL", server.base_url())
        .env("KEYFOB_TEST_DIR", disk.data())
        .env("KEYFOB_TEST_NOW", clock.seconds().to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("CHILD 7"), "{output:?}");
}

#[test]
#[ignore = "needs the test that starts it"]
fn child() {
    let Ok(url) = std::env::var("KEYFOB_TEST_URL") else { return };
    let data = PathBuf::from(std::env::var("KEYFOB_TEST_DIR").unwrap());
    let clock = ManualClock::at(std::env::var("KEYFOB_TEST_NOW").unwrap().parse().unwrap());
    let user = open(&url, &data, &clock).current_user().unwrap().unwrap();
    println!("CHILD {}", sum(&user).unwrap());
}

#[test]
#[ignore = "needs root, which may mount a file system"]
fn program_continues_without_disk() {
    for fault in [Fault::ReadOnly, Fault::Full] {
        let disk = Disk::new(fault);
        let (server, clock, session, user) = program(&disk, false);
        let mut events = session.events().unwrap();
        disk.break_it();
        let refreshes = server.journal().count(Route::Refresh);
        for _ in 0..3 {
            clock.advance(LIFE);
            assert_eq!((sum(&user).unwrap(), sum(&user).unwrap()), (7, 7), "{fault:?}");
        }
        assert_eq!(server.journal().count(Route::Refresh), refreshes + 3, "{fault:?}");
        let warning = events.next_timeout(LIFE).unwrap();
        assert!(matches!(warning, Event::TokensUnpersisted { .. }), "{fault:?}: {warning:?}");
        assert_eq!(events.try_next(), None, "{fault:?}");
        // The next program refreshes for itself: the token on disk is still good for that.
        next_program(&server, &disk, &clock);

        disk.repair();
        assert_eq!(sum(&user).unwrap(), 7);
        let event = events.next_timeout(LIFE).unwrap();
        assert!(matches!(event, Event::TokenRefreshed { .. }), "{fault:?}: {event:?}");
        let refreshes = server.journal().count(Route::Refresh);
        next_program(&server, &disk, &clock);
        assert_eq!(server.journal().count(Route::Refresh), refreshes, "{fault:?}: they are stored");
    }
}

#[test]
#[ignore = "needs root, which may mount a file system"]
fn rotated_token_on_disk_is_not_used_up() {
    for fault in [Fault::ReadOnly, Fault::Full] {
        let disk = Disk::new(fault);
        let (server, clock, _session, user) = program(&disk, true);
        disk.break_it();
        let refreshes = server.journal().count(Route::Refresh);
        clock.advance(LIFE);
        for _ in 0..3 {
            let error = sum(&user).unwrap_err();
            let Error::Store(inner) = &error else { panic!("{fault:?}: {error:?}") };
            let expected: &[_] = match fault {
                Fault::Full => &[StoreErrorKind::Full],
                Fault::ReadOnly => &[StoreErrorKind::Access, StoreErrorKind::Io],
            };
            assert!(expected.contains(&inner.kind), "{fault:?}: {error:?}");
            assert!(!error.needs_login() && error.to_string().contains("was not refreshed"));
        }
        assert_eq!(server.journal().count(Route::Refresh), refreshes, "{fault:?}: nothing is sent");
        assert_eq!(user.state().unwrap(), UserState::LoggedIn);

        disk.repair();
        next_program(&server, &disk, &clock);
        assert_eq!(sum(&user).unwrap(), 7);
        assert_eq!(
            server.journal().count(Route::Refresh),
            refreshes + 1,
            "{fault:?}: one for both"
        );
    }
}
