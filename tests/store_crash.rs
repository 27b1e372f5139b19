//! Processes that are killed at random moments: no acknowledged commit is lost, commit numbers
//! never decrease, the store can always be opened, and a refresh lock has one holder.
//!
//! The test binary starts itself as the writers and readers that it kills. `KEYFOB_SEED` repeats
//! the random choices of a run, but not its timing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what tests share is a test too")]

mod store_support;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyfob::StoreErrorKind;
use keyfob::store::{OnDamage, SledStore, Store, StoredUser};

use store_support::*;

#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    let open = || SledStore::open(words[1].as_ref(), APP, OnDamage::Refuse, soon()).unwrap();
    match &*words[0] {
        "count" => count(&open()),
        #[cfg(feature = "encryption")]
        "count encrypted" => {
            let (data, on_damage) = (words[1].as_ref(), OnDamage::Refuse);
            count(&SledStore::open_encrypted(data, APP, &key(), on_damage, soon()).unwrap());
        }
        "write" => write(&open(), &words[2]),
        "read" => read(&open()),
        "fly" => fly(&open(), words[1].as_ref()),
        role => panic!("no such role: {role}"),
    }
}

fn count(store: &dyn Store) {
    loop {
        say(commit_numbered(store, step));
    }
}

/// Checks that the state is the one that belongs to its number, and returns the number.
fn check(store: &dyn Store, dir: &Path) -> u64 {
    let (reached, guest) = check_steps(store);
    if reached > 0 && !guest {
        let traces = files_with(dir, "guests-own");
        // A log-in that never happened may have been on its way into the next snapshot.
        assert!(traces.iter().all(|path| path.ends_with("snapshot.tmp")), "{reached} {traces:?}");
    }
    reached
}

#[test]
fn kill_keeps_acknowledged_commits() {
    kill(if cfg!(windows) { 40 } else { 250 }, "count", Dir::new());
}

#[cfg(feature = "encryption")]
#[test]
fn kill_keeps_acknowledged_commits_encrypted() {
    kill(if cfg!(windows) { 20 } else { 80 }, "count encrypted", Dir::encrypted());
}

/// Kills a writer so many times: on Windows fewer, since it takes long to start one there.
fn kill(rounds: u32, role: &str, dir: Dir) {
    /// About as long as a commit takes, in microseconds.
    const COMMIT: u64 = if cfg!(windows) { 30_000 } else { 9_000 };
    let mut random = Random::from_env();
    let data = dir.data();
    let long_lived = dir.open();
    let (mut reached, mut acknowledged, mut unfinished) = (0, 0, 0);
    let mut round = 0;
    // A slow disk may need more of them before one comes within a commit.
    while round < rounds || round < 10 * rounds && (unfinished == 0 || acknowledged <= 50) {
        round += 1;
        let mut child = spawn_child(&[role, data.to_str().unwrap()]);
        let mut heard = reached;
        for _ in 0..random.below(4) {
            heard = child.hear().expect("the child goes on until it is killed").parse().unwrap();
        }
        // Let it get anywhere within the next commit, or within its start.
        thread::sleep(Duration::from_micros(random.below(COMMIT)));
        child.kill();
        while let Some(line) = child.hear() {
            heard = line.parse().unwrap();
        }
        unfinished += u32::from(is_unfinished(&data));
        acknowledged += heard - reached;
        // Who repairs: a reader that was there, one that comes, or the next writer.
        let found = match round % 3 {
            0 => check(&long_lived, &data),
            1 => check(&dir.open(), &data),
            _ => heard,
        };
        assert!(found == heard || found == heard + 1, "round {round}: {found} after {heard}");
        reached = found;
    }
    let store = dir.open();
    let last = check(&store, &data);
    assert!(last >= reached);
    assert_eq!(check(&long_lived, &data), last);
    println!("{round} kills, {unfinished} within a commit, {acknowledged} commits acknowledged");
    assert!(unfinished > 0 && acknowledged > 50);
}

/// Counts its own user and the one of all, and says how far its own is.
fn write(store: &dyn Store, name: &str) {
    loop {
        let mut own = 0;
        let committed = store.commit(soon(), &mut |tables| {
            let next = |name: &str| -> Result<StoredUser, _> {
                let before = tables.user(&id(name))?;
                let mut next = user(name, tables.number());
                if let Some(before) = before {
                    (next.epoch, next.created_commit) = (before.epoch + 1, before.created_commit);
                }
                Ok(next)
            };
            let mut mine = next(name)?;
            own = mine.epoch;
            if own % 11 == 0 {
                mine = logged_out(mine);
                mine.epoch = own;
            }
            let mut all = next("all")?;
            all.epoch = tables.number();
            Ok(vec![put(mine), put(all)])
        });
        say(format!("{own} {}", committed.unwrap()));
    }
}

/// Demands of everything it reads that it is whole and never older than before.
fn read(store: &dyn Store) {
    let mut newest = 0;
    loop {
        for _ in 0..50 {
            // A page is of one moment; a listing of several is not.
            let users = store.users_after(None, soon()).unwrap();
            let sum: u64 =
                users.iter().filter(|user| user.id.as_str() != "all").map(|u| u.epoch).sum();
            let all =
                users.iter().find(|user| user.id.as_str() == "all").map_or(0, |all| all.epoch);
            assert_eq!(sum, all, "half a commit");
            assert!(all >= newest, "{all} after {newest}");
            let number = number(store);
            assert!(number >= all, "{number} after {all}");
            newest = number;
        }
        say(newest);
    }
}

#[test]
fn killed_processes_see_complete_commits_only() {
    const WRITERS: usize = 4;
    const READERS: usize = 4;
    const TIME: Duration = Duration::from_secs(15);
    let mut random = Random::from_env();
    let dir = Dir::new();
    let data = dir.data().to_str().unwrap().to_owned();
    let acknowledged: Vec<_> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let kills = AtomicU64::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        for slot in 0..WRITERS + READERS {
            let (data, kills, acknowledged) = (&data, &kills, &acknowledged);
            let mut random = Random::new(random.below(u64::MAX));
            scope.spawn(move || {
                let name = format!("writer {slot}");
                while began.elapsed() < TIME {
                    let mut child = match slot {
                        0..WRITERS => spawn_child(&["write", data, &name]),
                        _ => spawn_child(&["read", data]),
                    };
                    // Readers hear more in the same time.
                    let mut patience = random.below(12) * if slot < WRITERS { 1 } else { 40 };
                    let hear = |child: &mut Child| {
                        let line = child.hear()?;
                        if let Some((own, _)) = line.split_once(' ') {
                            let own = own.parse().unwrap();
                            assert_eq!(acknowledged[slot].load(Ordering::Relaxed).max(own), own);
                            acknowledged[slot].store(own, Ordering::Relaxed);
                        }
                        Some(())
                    };
                    while patience > 0 && began.elapsed() < TIME {
                        assert!(hear(&mut child).is_some(), "a child of slot {slot} has failed");
                        patience -= 1;
                    }
                    thread::sleep(Duration::from_micros(random.below(9_000)));
                    child.kill();
                    kills.fetch_add(1, Ordering::Relaxed);
                    while hear(&mut child).is_some() {}
                }
            });
        }
    });
    let store = dir.open();
    let users = store.users(soon()).unwrap();
    let mut sum = 0;
    for (slot, acknowledged) in acknowledged.iter().enumerate() {
        let name = format!("writer {slot}");
        let own = users.iter().find(|user| user.id.as_str() == name).map_or(0, |user| user.epoch);
        let acknowledged = acknowledged.load(Ordering::Relaxed);
        assert!(own >= acknowledged, "{name}: {own} of {acknowledged}");
        sum += own;
    }
    assert_eq!(get(&store, "all").unwrap().epoch, sum);
    assert_eq!(number(&store), sum);
    println!("{} kills, {sum} commits", kills.load(Ordering::Relaxed));
}

/// Acquires the refresh lock repeatedly, and writes a mark that no other holder may change.
fn fly(store: &dyn Store, dir: &Path) {
    let (witness, mine) = (dir.join("witness"), std::process::id().to_string());
    loop {
        let flight = store.lock_refresh(&id("ada"), soon()).unwrap().unwrap();
        // No lock: the system gives those of a process that is killed back in no order.
        std::fs::write(&witness, &mine).unwrap();
        thread::yield_now();
        let seen = std::fs::read_to_string(&witness).unwrap();
        assert_eq!(seen, mine, "somebody else is in flight");
        drop(flight);
        say("flown");
    }
}

#[test]
fn refresh_lock_has_one_holder_despite_kills() {
    const TIME: Duration = Duration::from_secs(6);
    let mut random = Random::from_env();
    let dir = Dir::new();
    drop(dir.open());
    let data = dir.data().to_str().unwrap().to_owned();
    let flights = AtomicU64::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            let (data, flights) = (&data, &flights);
            let mut random = Random::new(random.below(u64::MAX));
            scope.spawn(move || {
                while began.elapsed() < TIME {
                    let mut child = spawn_child(&["fly", data]);
                    for _ in 0..random.below(200) {
                        child.hear().expect("a child has seen another one in flight");
                        flights.fetch_add(1, Ordering::Relaxed);
                    }
                    child.kill();
                }
            });
        }
    });
    println!("{} flights", flights.load(Ordering::Relaxed));
    let store = dir.open();
    assert!(store.lock_refresh(&id("ada"), now()).unwrap().is_some());
}

#[test]
fn concurrent_first_commits_agree() {
    let mut random = Random::from_env();
    for _ in 0..5 {
        let dir = Dir::new();
        let data = dir.data().to_str().unwrap().to_owned();
        let mut children: Vec<_> = (0..8).map(|_| spawn_child(&["count", &data])).collect();
        let mut numbers = Vec::new();
        for child in &mut children {
            numbers.push(child.hear().unwrap().parse::<u64>().unwrap());
        }
        let victim = random.below(8) as usize;
        children[victim].kill();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!((numbers.len(), numbers[0]), (8, 1));
    }
}

#[test]
fn killed_writer_releases_lock() {
    let dir = Dir::new();
    let stopped = AtomicBool::new(false);
    let errors = Mutex::new(Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..10 {
                let mut child = spawn_child(&["count", dir.data().to_str().unwrap()]);
                child.hear().unwrap();
                child.kill();
            }
            stopped.store(true, Ordering::Relaxed);
        });
        let store = dir.open();
        while !stopped.load(Ordering::Relaxed) {
            match store.commit(soon(), &mut |tables| Ok(step(tables.number()))) {
                Ok(_) => {}
                Err(error) => errors.lock().unwrap().push((error.kind, error.to_string())),
            }
        }
    });
    let errors = errors.into_inner().unwrap();
    assert!(!errors.iter().any(|(kind, _)| *kind == StoreErrorKind::Busy), "{errors:?}");
    assert!(errors.is_empty(), "{errors:?}");
}
