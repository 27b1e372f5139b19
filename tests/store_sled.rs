//! `SledStore` beyond the requirements of all stores: sharing, files, permissions, limits.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what tests share is a test too")]

mod store_support;

use std::fs::File;
use std::io::{BufRead, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyfob::store::{Change, OnDamage, SledStore, Store};
use keyfob::{Deadline, Event, StoreErrorKind};

use store_support::*;

/// The child of these tests: commits one user for each line that it reads.
#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    let store = SledStore::open(words[0].as_ref(), APP, OnDamage::Refuse, soon()).unwrap();
    say(format!("users {}", names(&store).join(" ")));
    for line in std::io::stdin().lock().lines() {
        say(log_in(&store, &line.unwrap()));
    }
}

#[test]
fn two_processes_see_each_other() {
    let dir = Dir::new();
    let store = dir.open();
    log_in(&store, "ada");
    let mut child = spawn_child(&[dir.data().to_str().unwrap()]);
    assert_eq!(child.hear().as_deref(), Some("users ada"));
    for (number, name) in [(2, "eve"), (3, "joe"), (5, "mia")] {
        if number == 5 {
            assert_eq!(log_in(&store, "zoe"), 4);
        }
        writeln!(child.input.as_mut().unwrap(), "{name}").unwrap();
        assert_eq!(child.hear(), Some(number.to_string()));
        assert_eq!(store.current(soon()).unwrap(), Some(id(name)));
        assert_eq!(store.recent(None, now()).unwrap().number, number);
    }
    assert_eq!(names(&store), ["ada", "eve", "joe", "zoe", "mia"]);
}

#[test]
fn first_commit_creates_private_directory() {
    let dir = Dir::new();
    let data = dir.path().join("not/there/yet");
    let open = || SledStore::open(&data, APP, OnDamage::Refuse, soon()).unwrap();
    let (store, other) = (open(), open());
    for store in [&store, &other] {
        assert_eq!(store.current(now()).unwrap(), None);
        assert_eq!(store.location(now()).unwrap(), None);
        assert_eq!(store.user(&id("ada"), now()).unwrap(), None);
        assert!(store.users_after(None, now()).unwrap().is_empty());
        assert_eq!(store.recent(None, now()).unwrap().number, 0);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    log_in(&store, "ada");
    #[cfg(unix)]
    for made in [dir.path().join("not"), data.clone()] {
        assert_eq!(mode(&made), 0o700);
    }
    // Opened before there was a store.
    assert_eq!(other.current(now()).unwrap(), Some(id("ada")));
    let recent = other.recent(Some(0), now()).unwrap();
    assert_eq!((recent.number, recent.lagged), (1, false));
    log_in(&other, "eve");
    assert_eq!(store.users_after(None, now()).unwrap().len(), 2);
}

#[test]
fn open_and_read_take_no_lock() {
    let dir = Dir::new();
    log_in(&dir.open(), "ada");
    let lock = File::open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    for (name, _) in generation_and_snapshot(&dir) {
        assert!(name.metadata().unwrap().len() < 64 * 1024);
    }
    std::fs::rename(dir.data().join("db.0"), dir.path().join("elsewhere")).unwrap();
    let store = SledStore::open(&dir.data(), APP, OnDamage::Refuse, now()).unwrap();
    assert_eq!(store.current(now()).unwrap(), Some(id("ada")));
    assert_eq!(store.user(&id("eve"), now()).unwrap(), None);
    assert_eq!(store.users(now()).unwrap().len(), 1);
}

fn generation_and_snapshot(dir: &Dir) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let paths = ["generation", "snapshot"].map(|name| dir.data().join(name));
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn commit_times_out_with_lock_path() {
    let dir = Dir::new();
    let store = dir.open();
    log_in(&store, "ada");
    let lock = File::open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    let began = Instant::now();
    let patience = Deadline::after(Duration::from_millis(150));
    let error = store.commit(patience, &mut |_| panic!("not to be asked")).unwrap_err();
    let waited = began.elapsed();
    assert!((150..20_000).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(error.kind, StoreErrorKind::Busy);
    let text = error.to_string();
    assert!(text.contains("another process held the lock on the data directory"), "{text}");
    assert!(text.contains(dir.data().to_str().unwrap()), "{text}");
    assert!(keyfob::Error::from(error).is_retryable());
    drop(lock);
    assert_eq!(log_in(&store, "eve"), 2);
}

#[test]
fn lock_on_unlinked_file_excludes_no_writer() {
    let dir = Dir::new();
    let store = dir.open();
    log_in(&store, "ada");
    let lock = File::open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    std::fs::remove_file(dir.data().join("lock")).unwrap();
    assert_eq!(log_in(&store, "eve"), 2);
}

#[test]
fn forks_disturb_no_commit() {
    let dir = Dir::new();
    let store = dir.open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = Command::new("true").status();
            }
        });
        for _ in 0..40 {
            log_in(&store, "ada");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(number(&store), 40);
}

#[cfg(unix)]
fn mode(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[cfg(unix)]
#[test]
fn only_owner_can_read_files() {
    fn check(dir: &std::path::Path) {
        assert_eq!(mode(dir), 0o700, "{dir:?}");
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                check(&path);
            } else {
                assert_eq!(mode(&path), 0o600, "{path:?}");
            }
        }
    }
    let dir = Dir::new();
    let store = dir.open();
    for name in ["ada", "eve"] {
        log_in(&store, name);
        let _flight = store.lock_refresh(&id(name), soon()).unwrap();
        check(&dir.data());
    }
    commit(&store, &[put(logged_out(user("ada", 1)))]);
    check(&dir.data());
}

#[test]
fn existing_directory_is_unchanged() {
    let dir = Dir::new();
    std::fs::write(dir.path().join("notes"), "mine").unwrap();
    let store = SledStore::open(dir.path(), APP, OnDamage::Refuse, soon()).unwrap();
    log_in(&store, "ada");
    commit(&store, &[Change::Remove(id("ada"))]);
    assert_eq!(std::fs::read(dir.path().join("notes")).unwrap(), b"mine");
}

#[test]
fn other_app_is_rejected() {
    let dir = Dir::new();
    log_in(&dir.open(), "ada");
    let refused = |what: &str| {
        let error = SledStore::open(&dir.data(), "another app", OnDamage::Recover, soon());
        let error = error.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Mismatch, "{what}: {error}");
        assert!(error.to_string().contains("another app"), "{error}");
        assert!(error.to_string().contains(APP), "{error}");
    };
    refused("the snapshot says so");
    std::fs::remove_file(dir.data().join("snapshot")).unwrap();
    refused("the database says so");
    assert_eq!(names(&dir.open()), ["ada"]);
}

#[test]
fn log_out_removes_tokens_from_disk() {
    let dir = Dir::new();
    let store = dir.open();
    commit(&store, &[put(user_with("ada", 1, "first")), put(user_with("eve", 1, "other"))]);
    for round in 0..20 {
        commit(&store, &[put(padded(user_with("ada", 1, "second"), round * 500))]);
    }
    assert!(!files_with(&dir.data(), "access-second").is_empty());
    commit(&store, &[put(logged_out(user("ada", 1)))]);
    for secret in ["first", "second"] {
        assert_eq!(files_with(&dir.data(), secret), NOWHERE, "{secret}");
    }
    assert!(!files_with(&dir.data(), "identity of ada").is_empty());
    assert_eq!(*get(&store, "eve").unwrap(), user_with("eve", 1, "other"));
    assert_eq!(*get(&dir.open(), "eve").unwrap(), user_with("eve", 1, "other"));
    assert_eq!(names(&dir.open()), ["ada", "eve"]);
}

#[test]
fn removal_removes_user_from_disk() {
    let dir = Dir::new();
    let store = dir.open();
    // More than the snapshot holds, so that the database is copied beyond it.
    let many = (1..=60).map(|number| put(padded(user(&format!("user {number}"), number), 2_000)));
    commit(&store, &many.collect::<Vec<_>>());
    commit(&store, &[put(user_with("ada", 61, "hush")), Change::Current(Some(id("ada")))]);
    commit(&store, &[Change::Remove(id("ada")), Change::Current(None)]);
    for trace in ["hush", "identity of ada"] {
        assert_eq!(files_with(&dir.data(), trace), NOWHERE, "{trace}");
    }
    assert_eq!(names(&store).len(), 60);
    // Logged out first, and removed then: by now only the profile is left to go.
    commit(&store, &[put(logged_out(user_with("user 7", 7, "hush")))]);
    commit(&store, &[Change::Remove(id("user 7"))]);
    assert_eq!(files_with(&dir.data(), "identity of user 7\""), NOWHERE);
    assert_eq!(names(&dir.open()).len(), 59);
    assert_eq!(*get(&store, "user 8").unwrap(), padded(user("user 8", 8), 2_000));
}

#[test]
fn next_writer_removes_leftovers() {
    let dir = Dir::new();
    let store = dir.open();
    log_in(&store, "ada");
    let old = dir.data().join("db.7");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("db"), "a removed token").unwrap();
    std::fs::write(dir.data().join("snapshot.tmp"), "a removed token").unwrap();
    log_in(&store, "eve");
    assert_eq!(files_with(&dir.data(), "a removed token"), NOWHERE);
}

#[test]
fn files_are_bounded() {
    let dir = Dir::new();
    let store = dir.open();
    for round in 0..1000 {
        commit(&store, &[put(padded(user(&format!("user {}", round % 5), 1), 2_000))]);
    }
    let size: u64 = files(&dir.data()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(size < 8 * 1024 * 1024, "{size}");
    let snapshot = dir.data().join("snapshot").metadata().unwrap().len();
    assert!(snapshot < 100 * 1024, "{snapshot}");
}

#[test]
fn snapshot_is_bounded_except_current_user() {
    let dir = Dir::new();
    let store = dir.open();
    let many = (1..=100).map(|number| put(padded(user(&format!("user {number}"), number), 2_000)));
    commit(&store, &many.collect::<Vec<_>>());
    commit(&store, &[put(padded(user("large", 200), 300_000))]);
    let size = || dir.data().join("snapshot").metadata().unwrap().len();
    assert!(size() < 100 * 1024, "{}", size());
    commit(&store, &[Change::Current(Some(id("large")))]);
    assert!(size() > 300_000, "{}", size());
    let lock = File::open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(dir.open().user(&id("large"), now()).unwrap().is_some());
    // A user that has no room there is waited for, and the wait ends.
    let error = store.user(&id("user 1"), now()).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Busy);
}

#[test]
fn user_outside_snapshot_is_never_stale() {
    let dir = Dir::new();
    let (one, other) = (dir.open(), dir.open());
    let many = (1..=60).map(|number| put(padded(user(&format!("user {number}"), number), 2_000)));
    commit(&one, &many.collect::<Vec<_>>());
    for round in 1..=5 {
        assert!(get(&one, "user 1").unwrap().clock_skew_ms == round - 1);
        let mut changed = padded(user("user 1", 1), 2_000);
        changed.clock_skew_ms = round;
        commit(&other, &[put(changed)]);
    }
    assert_eq!(get(&one, "user 1").unwrap().clock_skew_ms, 5);
}

#[test]
fn deleted_directory_is_created_again() {
    let dir = Dir::new();
    let (one, other) = (dir.open(), dir.open());
    log_in(&one, "ada");
    assert_eq!(names(&other), ["ada"]);
    take_away(&dir.data());
    let began = Instant::now();
    while other.current(soon()).unwrap().is_some() {
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(log_in(&one, "eve"), 1);
    for store in [&one, &other] {
        assert_eq!(names(store), ["eve"]);
        assert!(store.recent(Some(5), soon()).unwrap().lagged);
    }
}

#[test]
fn commit_follows_directory_name() {
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    let store = dir.open();
    for name in ["ada", "eve", "joe"] {
        log_in(&store, name);
    }
    log_in(&elsewhere.open(), "mia");
    std::fs::rename(dir.data(), dir.path().join("old")).unwrap();
    std::fs::rename(elsewhere.data(), dir.data()).unwrap();
    let number = store.commit(soon(), &mut |tables| {
        assert_eq!(tables.user(&id("ada"))?, None);
        assert!(tables.user(&id("mia"))?.is_some());
        Ok(vec![Change::Location(None)])
    });
    assert_eq!(number.unwrap(), 2);
    assert_eq!(names(&store), ["mia"]);
}

#[cfg(unix)]
#[test]
fn directory_with_two_names_is_one_store() {
    let dir = Dir::new();
    let store = dir.open();
    let name = dir.path().join("name");
    std::os::unix::fs::symlink(dir.data(), &name).unwrap();
    let other = SledStore::open(&name, APP, OnDamage::Refuse, soon()).unwrap();
    for round in 1..=3 {
        assert_eq!(log_in(&store, "ada"), round * 2 - 1);
        assert_eq!(log_in(&other, "eve"), round * 2);
    }
}

#[test]
fn non_directory_path_is_rejected() {
    let dir = Dir::new();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = SledStore::open(&path, APP, OnDamage::Refuse, soon()).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Access, "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn read_only_store_can_be_read() {
    use std::os::unix::fs::PermissionsExt;

    let dir = Dir::new();
    log_in(&dir.open(), "ada");
    let permit = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(dir.data(), permissions).unwrap();
    };
    permit(0o500);
    if File::create(dir.data().join("probe")).is_ok() {
        // Nothing is forbidden to root. A lock that is a directory stops it as well.
        std::fs::remove_file(dir.data().join("probe")).unwrap();
        std::fs::remove_file(dir.data().join("lock")).unwrap();
        std::fs::create_dir(dir.data().join("lock")).unwrap();
    }
    let store = dir.open();
    assert_eq!(store.current(now()).unwrap(), Some(id("ada")));
    let error = store.commit(soon(), &mut |_| Ok(vec![Change::Current(None)])).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Access, "{error}");
    assert!(error.to_string().contains(dir.data().to_str().unwrap()), "{error}");
    // Also in the middle of a commit that was never finished.
    let (count, database) = generation(&dir.data());
    set_generation(&dir.data(), count + 1, database);
    assert_eq!(names(&store), ["ada"]);
    assert_eq!(names(&dir.open()), ["ada"]);
    permit(0o700);
}

#[test]
fn event_reaches_each_process_once() {
    let dir = Dir::new();
    let (one, other) = (dir.open(), dir.open());
    let event = |to: &str| Event::CurrentUserChanged { from: None, to: Some(id(to)) };
    let mut seen = number(&other);
    let mut heard = Vec::new();
    for round in 0..10 {
        commit(&one, &[Change::Emit(event(&round.to_string()))]);
        let recent = other.recent(Some(seen), soon()).unwrap();
        assert!(!recent.lagged);
        seen = recent.number;
        heard.extend(recent.events.into_iter().map(|(_, event)| event));
    }
    let all: Vec<_> = (0..10).map(|round| event(&round.to_string())).collect();
    assert_eq!(heard, all);
}
