//! Damaged stores: either no data is lost, or an error reports the damage and the files are kept.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what tests share is a test too")]

mod store_support;

use std::io::Write;
use std::path::{Path, PathBuf};

use keyfob::store::{Change, OnDamage, SledStore, Store, StoreView};
use keyfob::{Event, StoreError, StoreErrorKind};

use store_support::*;

macro_rules! plaintext_and_encrypted {
    ($($test:ident)*) => {
        mod plaintext {
            $(#[test] fn $test() { super::$test(super::Dir::new()); })*
        }
        #[cfg(feature = "encryption")]
        mod encrypted {
            $(#[test] fn $test() { super::$test(super::Dir::encrypted()); })*
        }
    };
}

plaintext_and_encrypted! {
    lost_small_file_loses_nothing
    both_small_files_lost_loses_nothing
    flipped_snapshot_byte_is_detected
    damaged_database_is_complete_or_rejected
    random_damage_is_reported
    truncated_database_is_rejected_without_snapshot
    missing_database_is_rejected
    recovery_of_nothing_keeps_numbers_rising
}

/// A store with some history, and what is in it.
fn with_history() -> (Dir, Vec<String>) {
    with_history_in(Dir::new())
}

fn with_history_in(dir: Dir) -> (Dir, Vec<String>) {
    let store = dir.open();
    for name in ["ada", "eve", "joe", "mia"] {
        log_in(&store, name);
        for round in 0..5 {
            commit(&store, &[put(padded(user(name, 1), 500 * round))]);
        }
    }
    commit(&store, &[put(logged_out(user("joe", 3)))]);
    for round in 0..10 {
        commit(&store, &[put(padded(user("zoe", 30), 100 * round))]);
    }
    let _flight = store.lock_refresh(&id("ada"), soon()).unwrap();
    let all = names(&store);
    assert_eq!(all.len(), 5);
    (dir, all)
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip(u64),
    Cut(u64),
    Zero(u64),
    Garbage,
    Empty,
    Delete,
}

/// Positions are in thousandths of the file's length.
fn harm(path: &Path, harm: Harm) {
    let Ok(mut bytes) = std::fs::read(path) else { return };
    let at = |share: u64| (bytes.len() as u64 * share / 1000) as usize;
    match harm {
        Harm::Flip(share) => {
            let at = at(share);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x10;
            }
        }
        Harm::Cut(share) => bytes.truncate(at(share)),
        Harm::Zero(share) => {
            let from = at(share);
            let to = bytes.len().min(from + 4096);
            bytes[from..to].fill(0);
        }
        Harm::Garbage => {
            let mut random = Random::new(bytes.len() as u64);
            bytes.iter_mut().for_each(|byte| *byte = random.below(256) as u8);
        }
        Harm::Empty => bytes.clear(),
        Harm::Delete => return std::fs::remove_file(path).unwrap(),
    }
    std::fs::write(path, bytes).unwrap();
}

const HARMS: &[Harm] = &[
    Harm::Flip(0),
    Harm::Flip(200),
    Harm::Flip(500),
    Harm::Flip(999),
    Harm::Cut(10),
    Harm::Cut(500),
    Harm::Cut(990),
    Harm::Zero(0),
    Harm::Zero(400),
    Harm::Garbage,
    Harm::Empty,
    Harm::Delete,
];

/// What came of a harmed store.
#[derive(Debug, PartialEq)]
enum Outcome {
    Whole,
    Refused(PathBuf),
}

/// Uses the store as a program would, and demands that it is whole or says that it is not.
fn use_it(dir: &Dir, all: &[String], what: &str) -> Outcome {
    let used = || -> Result<(), StoreError> {
        let store = dir.try_open(OnDamage::Refuse)?;
        check(&store, all, what)?;
        store.commit(soon(), &mut |tables| {
            // Damage may show here for the first time, and must show then.
            for name in all {
                assert!(tables.user(&id(name))?.is_some(), "{what}: {name} is lost in silence");
            }
            Ok(vec![Change::Location(Some("after".into()))])
        })?;
        let store = dir.try_open(OnDamage::Refuse)?;
        check(&store, all, what)?;
        assert_eq!(store.location(soon())?.as_deref(), Some("after"), "{what}");
        Ok(())
    };
    match used() {
        Ok(()) => Outcome::Whole,
        Err(error) => {
            assert_eq!(error.kind, StoreErrorKind::Damaged, "{what}: {error}");
            let path = error.path.clone().unwrap_or_default();
            assert!(path.starts_with(dir.data()), "{what}: {error}");
            assert!(error.to_string().contains("OnDamage::Recover"), "{what}: {error}");
            Outcome::Refused(path)
        }
    }
}

fn check(store: &dyn Store, all: &[String], what: &str) -> Result<(), StoreError> {
    let users = store.users(soon())?;
    let names: Vec<_> = users.iter().map(|user| user.id.to_string()).collect();
    assert_eq!(names, all, "{what}: somebody is lost in silence");
    for name in all {
        let user = store.user(&id(name), soon())?.unwrap();
        assert_eq!(user.is_logged_in(), name != "joe", "{what}");
    }
    assert_eq!(store.current(soon())?, Some(id("mia")), "{what}");
    Ok(())
}

fn copy_of(dir: &Dir) -> Dir {
    dir.copy()
}

/// The directory of the database in use.
fn database(dir: &Dir) -> PathBuf {
    dir.data().join(format!("db.{}", generation(&dir.data()).1))
}

/// Without it sled takes a log that was cut for the whole one.
fn remove_sleds_snapshot(dir: &Dir) {
    for entry in std::fs::read_dir(database(dir)).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("snap.") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// How much of the log is in use, in thousandths; the rest of it is padding.
fn used(dir: &Dir) -> u64 {
    let log = std::fs::read(database(dir).join("db")).unwrap();
    log.iter().rposition(|byte| *byte != 0).unwrap() as u64 * 1000 / log.len() as u64
}

fn lost_small_file_loses_nothing(dir: Dir) {
    let (dir, all) = with_history_in(dir);
    let names = ["generation", "snapshot", "lock", "snapshot.tmp"].map(str::to_owned);
    let flights = (0..16).map(|stripe| format!("refresh.{stripe}"));
    for name in names.into_iter().chain(flights) {
        for &way in HARMS {
            let copied = copy_of(&dir);
            harm(&copied.data().join(&name), way);
            let what = format!("{name} {way:?}");
            assert_eq!(use_it(&copied, &all, &what), Outcome::Whole, "{what}");
            assert!(copied.open().lock_refresh(&id("ada"), soon()).unwrap().is_some());
        }
    }
}

fn both_small_files_lost_loses_nothing(dir: Dir) {
    let (dir, all) = with_history_in(dir);
    for way in [Harm::Garbage, Harm::Empty, Harm::Delete] {
        let copied = copy_of(&dir);
        for name in ["generation", "snapshot"] {
            harm(&copied.data().join(name), way);
        }
        let newest = number(&dir.open());
        let store = copied.open();
        assert_eq!(number(&store), newest);
        // The events are lost with the snapshot, and the reader is reported to have lagged.
        assert!(store.recent(Some(newest - 1), soon()).unwrap().lagged);
        assert_eq!(use_it(&copied, &all, &format!("{way:?}")), Outcome::Whole);
    }
}

fn flipped_snapshot_byte_is_detected(dir: Dir) {
    let (dir, all) = with_history_in(dir);
    let length = dir.data().join("snapshot").metadata().unwrap().len();
    for at in (0..length).step_by(97).chain(0..40) {
        let copied = copy_of(&dir);
        let path = copied.data().join("snapshot");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at as usize] ^= 0x02;
        std::fs::write(&path, bytes).unwrap();
        check(&copied.open(), &all, &format!("byte {at}")).unwrap();
    }
}

/// Harms a file of the database and demands: whole, or refused with the bytes kept; and in both
/// cases everything is there after recovery, because the snapshot has it.
fn harm_database(dir: &Dir, all: &[String], file: &str, way: Harm) -> Outcome {
    let what = format!("{file} {way:?}");
    let copied = copy_of(dir);
    harm(&database(&copied).join(file), way);
    let outcome = use_it(&copied, all, &what);
    if let Outcome::Refused(kept) = &outcome {
        assert!(kept.to_string_lossy().ends_with(".damaged"), "{what}: {kept:?}");
        assert!(kept.is_dir(), "{what}: {kept:?}");
        // A second attempt gives the same result, and never creates a new store.
        assert_eq!(use_it(&copied, all, &what), outcome, "{what}");
        recover(&copied, all, &what, kept);
    }
    outcome
}

fn recover(dir: &Dir, all: &[String], what: &str, kept: &Path) {
    let before = dir.open().recent(None, soon()).unwrap().number;
    let store = dir.try_open(OnDamage::Recover).unwrap();
    let number = commit(&store, &[Change::Location(Some("recovered".into()))]);
    assert_eq!(number, before + 2, "{what}");
    check(&store, all, what).unwrap();
    let events = store.recent(Some(before), soon()).unwrap();
    let kept = kept.to_string_lossy().into_owned();
    assert_eq!(events.events, [(before + 1, Event::StoreDamaged { kept: kept.clone() })], "{what}");
    assert!(Path::new(&kept).is_dir(), "{what}");
    assert_eq!(use_it(dir, all, what), Outcome::Whole);
}

fn damaged_database_is_complete_or_rejected(dir: Dir) {
    let (dir, all) = with_history_in(dir);
    // Of every age: as sled leaves it when it is new, and after it was opened again.
    let files = std::fs::read_dir(database(&dir)).unwrap();
    let files: Vec<_> =
        files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(files.iter().any(|name| name.starts_with("snap.")), "{files:?}");
    let mut refused = 0;
    for file in files.iter().filter(|name| *name != "blobs") {
        for &way in HARMS {
            refused += u32::from(harm_database(&dir, &all, file, way) != Outcome::Whole);
        }
    }
    println!("refused {refused} of {}", HARMS.len() * 3);
    assert!(refused > 5);
}

fn random_damage_is_reported(dir: Dir) {
    let mut random = Random::from_env();
    let (dir, all) = with_history_in(dir);
    let used = used(&dir);
    for round in 0..120 {
        let at = random.below(used + 1);
        let way = [Harm::Flip(at), Harm::Cut(at), Harm::Zero(at)][round % 3];
        harm_database(&dir, &all, "db", way);
    }
}

fn truncated_database_is_rejected_without_snapshot(dir: Dir) {
    let (dir, all) = with_history_in(dir);
    for share in [0, 1, 2, 5, 8].map(|tenths| used(&dir) * tenths / 10) {
        let copied = copy_of(&dir);
        remove_sleds_snapshot(&copied);
        harm(&database(&copied).join("db"), Harm::Cut(share));
        std::fs::remove_file(copied.data().join("snapshot")).unwrap();
        let outcome = use_it(&copied, &all, &format!("cut at {share}"));
        assert!(matches!(outcome, Outcome::Refused(_)), "{share}: {outcome:?}");
    }
}

#[test]
fn truncated_database_is_rejected_after_crash() {
    let (dir, all) = with_history();
    let (count, number) = generation(&dir.data());
    for share in [1, 5, 8].map(|tenths| used(&dir) * tenths / 10) {
        let copied = copy_of(&dir);
        remove_sleds_snapshot(&copied);
        harm(&database(&copied).join("db"), Harm::Cut(share));
        set_generation(&copied.data(), count + 1, number);
        let outcome = use_it(&copied, &all, &format!("cut at {share}"));
        assert!(matches!(outcome, Outcome::Refused(_)), "{share}: {outcome:?}");
    }
}

fn missing_database_is_rejected(dir: Dir) {
    let (dir, all) = with_history_in(dir);
    std::fs::remove_dir_all(database(&dir)).unwrap();
    let Outcome::Refused(path) = use_it(&dir, &all, "gone") else { panic!("not noticed") };
    assert!(!path.exists());
    // Readers have all they need.
    check(&dir.open(), &all, "gone").unwrap();
    let store = dir.try_open(OnDamage::Recover).unwrap();
    commit(&store, &[Change::Location(None)]);
    check(&store, &all, "gone").unwrap();
}

fn recovery_of_nothing_keeps_numbers_rising(dir: Dir) {
    let (dir, _) = with_history_in(dir);
    let before = number(&dir.open());
    std::fs::remove_file(dir.data().join("snapshot")).unwrap();
    std::fs::write(database(&dir).join("db"), "garbage").unwrap();
    let error = dir.try_open(OnDamage::Refuse).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Damaged);
    let store = dir.try_open(OnDamage::Recover).unwrap();
    let recent = store.recent(Some(before), soon()).unwrap();
    assert!(recent.number > before);
    assert!(matches!(&recent.events[..], [(_, Event::StoreDamaged { kept })]
        if Path::new(kept).join("db").exists()));
    assert!(names(&store).is_empty());
    assert_eq!(log_in(&store, "ada"), recent.number + 1);
    assert_eq!(names(&dir.open()), ["ada"]);
}

#[test]
fn every_damaged_database_is_preserved() {
    let (dir, all) = with_history();
    for round in 1..=3 {
        std::fs::write(database(&dir).join("db"), "garbage").unwrap();
        let store = dir.try_open(OnDamage::Recover).unwrap();
        commit(&store, &[Change::Location(None)]);
        check(&store, &all, "again").unwrap();
        let kept = std::fs::read_dir(dir.data()).unwrap().filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".damaged")
        });
        assert_eq!(kept.count(), round);
    }
}

#[test]
fn unfinished_sled_file_is_not_damage() {
    let (dir, all) = with_history();
    // Its name says that it is newer than the finished one.
    std::fs::write(database(&dir).join("snap.00000000FFFFFFFF.generating"), "").unwrap();
    assert_eq!(use_it(&dir, &all, "generating"), Outcome::Whole);
}

fn is_newer(dir: &Dir, what: &str) {
    for on_damage in [OnDamage::Refuse, OnDamage::Recover] {
        let opened = dir.try_open(on_damage);
        let error = opened.and_then(|store| store.commit(soon(), &mut |_| panic!("{what}")));
        let error = error.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NewerVersion, "{what}: {error}");
        let text = error.to_string();
        assert!(text.contains("a newer keyfob wrote") && text.contains("format 2"), "{text}");
        assert!(text.contains(dir.data().to_str().unwrap()), "{text}");
    }
}

#[test]
fn newer_version_is_rejected_unchanged() {
    let (dir, all) = with_history();
    let path = dir.data().join("snapshot");
    let ours = std::fs::read(&path).unwrap();
    let theirs = snapshot_file("2", 9, b"who knows");
    std::fs::write(&path, &theirs).unwrap();
    is_newer(&dir, "the snapshot");
    assert_eq!(std::fs::read(&path).unwrap(), theirs);
    std::fs::write(&path, ours).unwrap();

    let head = b"meta/head\0\0";
    let db = sled_at(database(&dir));
    let mine = db.insert(head, b"\0\x01{\"v\":2,\"all\":\"new\"}").unwrap().unwrap();
    drop(db);
    assert_eq!(
        dir.open().commit(soon(), &mut |_| Ok(vec![])).unwrap_err().kind,
        StoreErrorKind::NewerVersion
    );
    std::fs::remove_file(&path).unwrap();
    is_newer(&dir, "the database");

    sled_at(database(&dir)).insert(head, mine).unwrap();
    assert_eq!(use_it(&dir, &all, "the old one is back"), Outcome::Whole);
}

#[test]
fn events_of_newer_version_are_lagged() {
    let dir = Dir::new();
    let store = dir.open();
    let event = Event::CurrentUserChanged { from: None, to: Some(id("ada")) };
    commit(&store, &[Change::Emit(event.clone()), put(user("ada", 1))]);
    let path = dir.data().join("snapshot");
    let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
    let (first, body) = text.split_once('\n').unwrap();
    let head = first.split(' ').nth(4).unwrap().parse().unwrap();
    let body = body.replace("current_user_changed", "something_else_hap_n");
    std::fs::write(&path, snapshot_file("1", head, body.as_bytes())).unwrap();
    let store = dir.open();
    let recent = store.recent(Some(0), soon()).unwrap();
    assert!(recent.lagged && recent.events.is_empty());
    assert_eq!(names(&store), ["ada"]);
    commit(&store, &[Change::Emit(event.clone())]);
    let recent = dir.open().recent(Some(1), soon()).unwrap();
    assert_eq!((recent.lagged, recent.events), (false, vec![(2, event)]));
}

/// Two copies of a store, before and after a commit.
fn around(change: &[Change]) -> (Dir, Dir) {
    let before = Dir::new();
    let store = before.open();
    for name in ["ada", "eve"] {
        log_in(&store, name);
    }
    let after = copy_of(&before);
    commit(&after.open(), change);
    (before, after)
}

#[test]
fn synced_commit_survives_crash() {
    let (before, after) = around(&[put(user("joe", 3)), Change::Current(Some(id("joe")))]);
    let (count, database) = generation(&after.data());
    // Killed between the sync of the database and the rename of the snapshot.
    std::fs::copy(before.data().join("snapshot"), after.data().join("snapshot")).unwrap();
    set_generation(&after.data(), count - 1, database);
    let early = before.open();
    let store = after.open();
    assert_eq!(store.current(soon()).unwrap(), Some(id("joe")));
    assert_eq!((number(&store), number(&early)), (3, 2));
    let (repaired, _) = generation(&after.data());
    assert!(repaired > count && repaired.is_multiple_of(2));
    assert!(store.recent(Some(2), soon()).unwrap().lagged);
    assert_eq!(log_in(&store, "mia"), 4);
}

#[test]
fn unsynced_commit_is_discarded() {
    let (before, _) = around(&[]);
    let (count, database) = generation(&before.data());
    set_generation(&before.data(), count + 1, database);
    std::fs::write(before.data().join("snapshot.tmp"), "half a snap").unwrap();
    let store = before.open();
    assert_eq!((number(&store), names(&store).len()), (2, 2));
    assert!(!store.recent(Some(0), soon()).unwrap().lagged);
    assert!(!before.data().join("snapshot.tmp").exists());
}

#[test]
fn damage_after_crash_is_reported() {
    let (before, after) = around(&[put(user("joe", 3)), Change::Current(Some(id("joe")))]);
    let (count, database) = generation(&after.data());
    std::fs::copy(before.data().join("snapshot"), after.data().join("snapshot")).unwrap();
    set_generation(&after.data(), count - 1, database);
    std::fs::write(after.data().join(format!("db.{database}/db")), "garbage").unwrap();
    for _ in 0..2 {
        let error = after.try_open(OnDamage::Refuse).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Damaged, "{error}");
    }
    assert_eq!(names(&after.try_open(OnDamage::Recover).unwrap()).len(), 2);
}

#[test]
fn active_writer_leaves_snapshot_readable() {
    let (before, _) = around(&[]);
    let store = before.open();
    let (count, database) = generation(&before.data());
    let lock = std::fs::File::open(before.data().join("lock")).unwrap();
    lock.lock().unwrap();
    set_generation(&before.data(), count + 1, database);
    for store in [&store, &before.try_open(OnDamage::Refuse).unwrap()] {
        assert_eq!(store.users(now()).unwrap().len(), 2);
        assert_eq!(store.current(now()).unwrap(), Some(id("eve")));
    }
    // With a damaged snapshot there is nothing to go by, and it is not taken for an empty store.
    harm(&before.data().join("snapshot"), Harm::Flip(500));
    assert_eq!(store.users(now()).unwrap().len(), 2);
    let error = SledStore::open(&before.data(), APP, OnDamage::Refuse, now()).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Busy, "{error}");
    drop(lock);
    assert_eq!(names(&before.open()).len(), 2);
}

#[test]
fn published_snapshot_is_visible_to_process() {
    let dir = Dir::new();
    let open = || dir.try_open(OnDamage::Refuse).unwrap();
    commit(&open(), &[put(user("ada", 1))]);
    let behind = open();
    assert_eq!(names(&behind).len(), 1);
    commit(&open(), &[put(user("eve", 2))]);
    // The snapshot is there, and the generation is not even yet.
    let (count, database) = generation(&dir.data());
    let lock = std::fs::File::open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    set_generation(&dir.data(), count - 1, database);
    assert_eq!(names(&open()).len(), 2);
    assert_eq!(names(&behind).len(), 2, "no read goes behind another one");
}

#[test]
fn interrupted_log_out_is_atomic() {
    let out = logged_out(user_with("ada", 1, "hush"));
    let before = Dir::new();
    commit(&before.open(), &[put(user_with("ada", 1, "hush")), put(user("eve", 1))]);
    let after = copy_of(&before);
    commit(&after.open(), &[put(out)]);
    let (count, _) = generation(&after.data());
    assert_eq!(generation(&after.data()).1, 1);

    // The new database was there, and nothing named it yet.
    let cut = copy_of(&before);
    copy(&after.data().join("db.1"), &cut.data().join("db.1"));
    set_generation(&cut.data(), count - 1, 0);
    let store = cut.open();
    assert!(get(&store, "ada").unwrap().is_logged_in());
    assert!(!cut.data().join("db.1").exists());
    assert_eq!(log_in(&store, "joe"), 2);

    // The generation named it, and the old one was still there, and the old snapshot.
    let cut = copy_of(&before);
    copy(&after.data().join("db.1"), &cut.data().join("db.1"));
    set_generation(&cut.data(), count - 1, 1);
    let store = cut.open();
    assert!(!get(&store, "ada").unwrap().is_logged_in());
    assert!(get(&store, "eve").unwrap().is_logged_in());
    assert_eq!(files_with(&cut.data(), "hush"), NOWHERE);
    assert_eq!(log_in(&store, "joe"), 3);

    // Neither that nor the generation: the highest one that was finished is the truth.
    for unfinished in [false, true] {
        let cut = copy_of(&after);
        std::fs::remove_file(cut.data().join("generation")).unwrap();
        copy(&before.data().join("db.0"), &cut.data().join("db.0"));
        if unfinished {
            std::fs::create_dir(cut.data().join("db.2")).unwrap();
            std::fs::write(cut.data().join("db.2/conf"), "").unwrap();
        }
        let store = cut.open();
        assert!(!get(&store, "ada").unwrap().is_logged_in());
        commit(&store, &[Change::Location(None)]);
        assert_eq!(files_with(&cut.data(), "hush"), NOWHERE);
    }
}

#[test]
fn interrupted_first_commit_leaves_empty_store() {
    let whole = Dir::new();
    log_in(&whole.open(), "ada");
    for way in [Harm::Cut(0), Harm::Cut(500), Harm::Garbage, Harm::Delete] {
        for file in ["db", "conf"] {
            let cut = copy_of(&whole);
            harm(&cut.data().join("db.0").join(file), way);
            remove_sleds_snapshot(&cut);
            std::fs::remove_file(cut.data().join("snapshot")).unwrap();
            set_generation(&cut.data(), 1, 0);
            let store = cut.open();
            let number = number(&store);
            assert_eq!(names(&store).len() as u64, number);
            assert_eq!(log_in(&store, "eve"), number + 1, "{way:?} {file}");
        }
    }
}

/// Needs `KEYFOB_SMALL_DISK` to name a directory on a file system of a few megabytes; `.ci/run` makes
/// one where it may.
#[test]
#[ignore = "needs a small file system, which KEYFOB_SMALL_DISK names"]
fn full_disk_keeps_data_readable() {
    let disk = std::env::var_os("KEYFOB_SMALL_DISK").map(PathBuf::from);
    let disk = disk.expect("KEYFOB_SMALL_DISK must name a directory on a small file system");
    let (data, filler) = (disk.join("data"), disk.join("filler"));
    let open = || SledStore::open(&data, APP, OnDamage::Refuse, soon()).unwrap();
    let fill = |leave: u64| {
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        let size = file.metadata().unwrap().len();
        file.set_len(size.saturating_sub(leave)).unwrap();
    };
    let store = open();
    commit_numbered(&store, numbered);
    let (mut full, mut done) = (0, 0);
    for step in 0..60 {
        for log_out in [false, true] {
            fill(step * 24 * 1024);
            let before = number(&store);
            let committed = store.commit(soon(), &mut |tables| {
                let mut changes = numbered(tables.number());
                if log_out {
                    changes.push(Change::Remove(id("guest")));
                }
                Ok(changes)
            });
            let after = match committed {
                Ok(number) => number,
                Err(error) => {
                    assert_eq!(error.kind, StoreErrorKind::Full, "{error}");
                    before
                }
            };
            (full, done) = (full + u32::from(after == before), done + u32::from(after > before));
            for store in [&store, &open()] {
                assert_eq!(number(store), after);
                assert_eq!(get(store, "counter").unwrap().epoch, after);
            }
            std::fs::remove_file(&filler).unwrap();
            let number_again = commit_numbered(&open(), numbered);
            assert_eq!(number_again, after + 1);
            assert_eq!(get(&store, "counter").unwrap().epoch, number_again);
        }
    }
    println!("{full} commits found no room, {done} did");
    assert!(full > 0 && done > 0);
}

fn numbered(number: u64) -> Vec<Change> {
    // Small ones need no room but for opening, large ones fail in the middle.
    let mut counter = padded(user("counter", 1), [3_000, 600_000, 200_000][number as usize % 3]);
    counter.epoch = number;
    vec![put(counter), Change::Current(Some(id("counter"))), put(user("guest", 1))]
}

#[test]
fn encrypted_store_without_key_is_rejected() {
    let (dir, _) = with_history();
    std::fs::remove_file(dir.data().join("snapshot")).unwrap();
    sled_at(database(&dir)).insert(b"meta/check\0\0", [&[0, 1, 1], &[7; 46][..]].concat()).unwrap();
    for on_damage in [OnDamage::Refuse, OnDamage::Recover] {
        let error = dir.try_open(on_damage).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Key);
        assert!(
            error.to_string().contains("the store is encrypted, open it with its key"),
            "{error}"
        );
        let advice = error.to_string().contains("feature `encryption`");
        assert_eq!(advice, cfg!(not(feature = "encryption")), "{error}");
        assert!(database(&dir).exists());
    }
}

#[test]
fn commit_lost_in_recovery_is_repeated() {
    let dir = Dir::new();
    let store = dir.try_open(OnDamage::Recover).unwrap();
    log_in(&store, "ada");
    let mut turns = 0;
    let number = store.commit(soon(), &mut |tables| {
        turns += 1;
        if turns == 1 {
            // The file is lost while the commit is on its way. The recovery's own commit has the
            // number that this one would have had.
            std::fs::remove_file(dir.data().join("db.0/db")).unwrap();
        }
        Ok(vec![put(user("eve", tables.number())), Change::Current(Some(id("eve")))])
    });
    assert_eq!((number.unwrap(), turns), (3, 2));
    assert_eq!(names(&store), ["ada", "eve"]);
}

#[test]
fn small_damaged_database_is_unchanged() {
    let dir = Dir::new();
    log_in(&dir.open(), "ada");
    let path = dir.data().join("db.0/db");
    let whole = std::fs::read(&path).unwrap();
    // sled zeroes all that comes after it while it opens the database.
    let mut harmed = whole.clone();
    harmed[30] ^= 1;
    std::fs::write(&path, &harmed).unwrap();
    let change = &mut |_: &dyn StoreView| Ok(vec![Change::Current(None)]);
    let error = dir.open().commit(soon(), change).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Damaged);
    let kept = dir.data().join("db.0.damaged");
    assert!(std::fs::read(kept.join("db")).unwrap() == harmed);
    // Nothing is lost once the damage is repaired.
    std::fs::write(kept.join("db"), &whole).unwrap();
    std::fs::rename(&kept, dir.data().join("db.0")).unwrap();
    assert_eq!(log_in(&dir.open(), "eve"), 2);
}

#[test]
fn unnamed_database_is_quarantined() {
    let dir = Dir::new();
    let store = dir.open();
    for round in 0..4 {
        let name = |at: u32| format!("user {round} {at}");
        let users = (0..25).map(|at| put(padded(user(&name(at), 1), 3000)));
        commit(&store, &users.collect::<Vec<_>>());
    }
    drop(store);
    // As in a copy that was put together from two.
    let (count, _) = generation(&dir.data());
    set_generation(&dir.data(), count, 5);
    let store = dir.try_open(OnDamage::Recover).unwrap();
    log_in(&store, "ada");
    assert!(names(&store).len() < 100, "the snapshot has not all of them");
    assert!(dir.data().join("db.0.damaged/db").exists());
    let recent = store.recent(Some(0), soon()).unwrap();
    let kept = recent.events.into_iter().find_map(|(_, event)| match event {
        Event::StoreDamaged { kept } => Some(kept),
        _ => None,
    });
    assert!(kept.unwrap().ends_with("db.0.damaged"));
}

#[test]
fn read_during_commit_is_never_older() {
    let dir = Dir::new();
    let (early, late) = (dir.open(), dir.open());
    log_in(&early, "ada");
    assert_eq!(number(&early), 1);
    log_in(&late, "eve");
    commit(&late, &[Change::Current(None), Change::Remove(id("ada"))]);
    // The snapshot is lost, which loses no users, and a writer starts.
    std::fs::remove_file(dir.data().join("snapshot")).unwrap();
    let (count, database) = generation(&dir.data());
    set_generation(&dir.data(), count + 1, database);
    let lock = std::fs::File::options().write(true).open(dir.data().join("lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(early.current(now()).unwrap_err().kind, StoreErrorKind::Busy);
    drop(lock);
    assert_eq!(early.current(soon()).unwrap(), None);
}

#[test]
fn largest_number_is_damage_without_panic() {
    let dir = Dir::new();
    log_in(&dir.open(), "ada");
    let db = sled_at(dir.data().join("db.0"));
    let head = db.get(b"meta/head\0\0").unwrap().unwrap();
    let text = std::str::from_utf8(&head[2..]).unwrap();
    let text = text.replacen("\"number\":1,", &format!("\"number\":{},", u64::MAX), 1);
    db.insert(b"meta/head\0\0", [&head[..2], text.as_bytes()].concat()).unwrap();
    drop(db);
    let change = &mut |_: &dyn StoreView| Ok(vec![Change::Current(None)]);
    let error = dir.open().commit(soon(), change).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Damaged, "{error}");
}

/// A store of twenty commits with harm in the middle of its database, and what that is then. sled's
/// own snapshots are gone, so that it opens as it was some commits ago.
fn harmed_late(dir: &Dir) -> Vec<u8> {
    let store = dir.open();
    for round in 0..20 {
        log_in(&store, &format!("user {round}"));
    }
    drop(store);
    for entry in std::fs::read_dir(dir.data().join("db.0")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("snap.") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let path = dir.data().join("db.0/db");
    let mut bytes = std::fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| !matches!(byte, 0 | 0xf7)).unwrap();
    bytes[used / 2] ^= 0x10;
    std::fs::write(&path, &bytes).unwrap();
    bytes
}

#[test]
fn damaged_database_is_unchanged_without_generation() {
    let dir = Dir::new();
    let harmed = harmed_late(&dir);
    std::fs::remove_file(dir.data().join("generation")).unwrap();
    let error = dir.try_open(OnDamage::Refuse).and_then(|store| {
        let change = &mut |_: &dyn StoreView| Ok(vec![Change::Current(None)]);
        store.commit(soon(), change)
    });
    assert_eq!(error.unwrap_err().kind, StoreErrorKind::Damaged);
    assert!(std::fs::read(dir.data().join("db.0.damaged/db")).unwrap() == harmed);
}

#[cfg(feature = "encryption")]
#[test]
fn opening_without_key_changes_nothing() {
    let dir = Dir::encrypted();
    let harmed = harmed_late(&dir);
    // Without it the database is asked what it is encrypted with.
    std::fs::remove_file(dir.data().join("snapshot")).unwrap();
    let error = dir.try_open_plaintext(OnDamage::Refuse).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Key);
    assert!(std::fs::read(dir.data().join("db.0/db")).unwrap() == harmed);
}
