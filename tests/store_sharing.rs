//! Locks between threads and processes: waiters acquire the lock in order, a process that dies
//! releases it, and a forked child does not keep it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what tests share is a test too")]

mod store_support;

use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use keyfob::store::{OnDamage, SledStore, Store};
use keyfob::{Deadline, StoreErrorKind};

use store_support::*;

/// How often each of eight processes commits.
const SHARE: u64 = 25;

#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    let store = SledStore::open(words[1].as_ref(), APP, OnDamage::Refuse, soon()).unwrap();
    let wait = || std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    match &*words[0] {
        "share" => {
            for _ in 0..SHARE {
                say(log_in(&store, &words[2]));
            }
        }
        "hold the lock" => {
            store
                .commit(soon(), &mut |_| {
                    say("held");
                    wait();
                    Ok(Vec::new())
                })
                .unwrap();
        }
        "hold the flight" => {
            say(std::process::id());
            let _flight = store.lock_refresh(&id("ada"), soon()).unwrap().unwrap();
            say(if Path::new(&words[1]).join("free").exists() { "was free" } else { "was held" });
            wait();
        }
        role => panic!("no such role: {role}"),
    }
}

fn child(role: &str, dir: &Dir, name: &str) -> Child {
    spawn_child(&[role, dir.data().to_str().unwrap(), name])
}

#[test]
fn busy_processes_share_commits_fairly() {
    let dir = Dir::new();
    let mut children: Vec<_> =
        (0..8).map(|number| child("share", &dir, &format!("user {number}"))).collect();
    let mut numbers = Vec::new();
    for child in &mut children {
        let said = std::iter::from_fn(|| child.hear()).map(|line| line.parse::<u64>().unwrap());
        let own: Vec<_> = said.collect();
        assert_eq!(own.len() as u64, SHARE);
        assert!(own.is_sorted());
        assert!(child.child.wait().unwrap().success());
        numbers.extend(own);
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=8 * SHARE));
}

#[test]
fn killed_holder_releases_lock_at_once() {
    let dir = Dir::new();
    let store = dir.open();
    log_in(&store, "ada");
    for _ in 0..3 {
        let mut holder = child("hold the lock", &dir, "");
        assert_eq!(holder.hear().as_deref(), Some("held"));
        let error = store.commit(now(), &mut |_| panic!("not to be asked")).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Busy);
        holder.kill();
        store.commit(now(), &mut |_| Ok(Vec::new())).unwrap();
        let mut holder = child("hold the flight", &dir, "");
        assert!(holder.hear().is_some() && holder.hear().is_some());
        assert!(store.lock_refresh(&id("ada"), now()).unwrap().is_none());
        holder.kill();
        assert!(store.lock_refresh(&id("ada"), now()).unwrap().is_some());
    }
}

#[test]
fn waiting_thread_times_out_as_busy() {
    let dir = Dir::new();
    let (store, other) = (dir.open(), dir.open());
    let (inside, is_inside) = mpsc::channel();
    let (leave, may_leave) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let holder = scope.spawn(move || {
            other.commit(soon(), &mut |_| {
                inside.send(()).unwrap();
                may_leave.recv().unwrap();
                Ok(Vec::new())
            })
        });
        // Dropped if this fails, so that the holder ends as well.
        let leave = leave;
        is_inside.recv().unwrap();
        for patience in [now(), Deadline::after(Duration::from_millis(50))] {
            let error = store.commit(patience, &mut |_| panic!("not to be asked")).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Busy);
            let text = error.to_string();
            assert!(text.contains("another thread of this process was writing"), "{text}");
            assert!(text.contains(dir.data().to_str().unwrap()), "{text}");
        }
        let waits = scope.spawn(|| log_in(&store, "ada"));
        leave.send(()).unwrap();
        assert_eq!(holder.join().unwrap().unwrap(), 0);
        assert_eq!(waits.join().unwrap(), 1);
    });
}

/// Starts children all the time, each of which keeps copies of all open files for a while: it
/// looks for its program in many places.
fn start_children(until: &AtomicBool) {
    let places = vec!["/nowhere"; 5_000].join(":");
    while !until.load(Ordering::Relaxed) {
        let mut command = Command::new("no-such-program");
        assert!(command.env("PATH", &places).stdin(Stdio::null()).status().is_err());
    }
}

/// Sets it when it is dropped, also when a test has failed.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn released_lock_is_free_despite_forks() {
    let dir = Dir::new();
    let store = dir.open();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&done);
        for _ in 0..2 {
            scope.spawn(|| start_children(&done));
        }
        for round in 0..2_000 {
            let flight = store.lock_refresh(&id("ada"), now()).unwrap();
            assert!(flight.is_some(), "round {round}");
        }
    });
}

#[test]
fn commits_succeed_despite_forks() {
    let dir = Dir::new();
    let done = AtomicBool::new(false);
    let mut numbers: Vec<u64> = thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| start_children(&done));
        let commit = |thread: u64| {
            let store = dir.open();
            (0..20).map(|_| log_in(&store, &format!("user {thread}"))).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || commit(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=80));
}

/// Stops a child between opening the file of a lock and locking it, and replaces the file.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs strace"]
fn replaced_lock_file_is_not_locked() {
    use std::io::Write;

    let dir = Dir::new();
    let store = dir.open();
    drop(store.lock_refresh(&id("ada"), soon()).unwrap());
    let flights = files(&dir.data());
    let file = flights.iter().find(|path| path.to_str().unwrap().contains("refresh.")).unwrap();

    let (data, log) = (dir.data(), dir.path().join("calls"));
    let words = ["hold the flight", data.to_str().unwrap()];
    let mut other = spawn_child_under(strace::stop_after_opening(file, &log), &words);
    let process = other.hear().unwrap();
    let opened = || std::fs::read_to_string(&log).unwrap().matches("openat(").count();
    while opened() == 0 {
        thread::yield_now();
    }
    std::fs::remove_file(file).unwrap();
    let flight = store.lock_refresh(&id("ada"), now()).unwrap();
    assert!(flight.is_some(), "the child has not locked it");
    let (done, (say, said)) = (AtomicBool::new(false), mpsc::channel());
    thread::scope(|scope| {
        let _done = Done(&done);
        // Again and again: the first ones may come before it has stopped.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = Command::new("kill").args(["-CONT", &process]).status();
            }
        });
        let hears = scope.spawn(|| {
            say.send(other.hear().unwrap()).unwrap();
            other
        });
        // Either it has found out and tries again, or it believes that it has the lock.
        while opened() < 2 && !hears.is_finished() {
            thread::yield_now();
        }
        std::fs::write(data.join("free"), "").unwrap();
        drop(flight);
        assert_eq!(said.recv().unwrap(), "was free");
        writeln!(hears.join().unwrap().input.as_mut().unwrap()).unwrap();
    });
}

#[test]
fn replacement_store_is_read_despite_lower_numbers() {
    let dir = Dir::new();
    let first = dir.open();
    for round in 0..5 {
        log_in(&first, &format!("user {round}"));
    }
    take_away(&dir.data());
    let second = dir.open();
    log_in(&second, "ada");
    let (count, database) = generation(&dir.data());
    set_generation(&dir.data(), count + 1, database);
    let lock = std::fs::File::options().write(true).open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    // Somebody is at work, and the first one is still there.
    assert_eq!(second.current(now()).unwrap(), Some(id("ada")));
    drop(first);
}
