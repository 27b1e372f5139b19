//! Power failures: acknowledged commits survive and the store can be opened, regardless of which of
//! the last writes the disk loses.
//!
//! The tests record the writes of processes that commit and are killed. They replay the writes up
//! to any point; writes that were not synced are lost, kept or torn. `KEYFOB_CUTS` sets the number
//! of power failures. `KEYFOB_SEED` repeats the random choices of a run. Another test suspends a
//! writer, copies the image of its real file system and mounts the copy, `KEYFOB_IMAGE_CUTS` times.
//!
//! These tests need more than Rust: `cargo test --test store_power -- --ignored`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what tests share is a test too")]

mod store_support;

use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use keyfob::store::{Change, OnDamage, SledStore};

use store_support::disk::{Disk, Loss};
use store_support::*;

/// More commits than there are between two removals, see [`step`].
const COMMITS: u64 = 20;
/// How many processes make them: all but the last one are killed on the way, and the next one
/// repairs what is left.
const LIVES: u64 = 4;

#[test]
fn child_process() {
    let Some(words) = child_words() else { return };
    let data = words[1].as_ref();
    let store = match &*words[0] {
        #[cfg(feature = "encryption")]
        "encrypted" => SledStore::open_encrypted(data, APP, &key(), OnDamage::Refuse, soon()),
        _ => SledStore::open(data, APP, OnDamage::Refuse, soon()),
    };
    let (store, is_full) = (store.unwrap(), words[0] == "full");
    let last = if words[0] == "endless" { u64::MAX } else { COMMITS };
    let mut number = 0;
    while number < last {
        number = commit_numbered(&store, |number| numbered(number, is_full));
        say(number);
    }
}

/// As [`step`], among more users than the snapshot holds.
fn numbered(number: u64, is_full: bool) -> Vec<Change> {
    let mut changes = step(number);
    if is_full && number == 1 {
        changes.extend((0..40).map(|at| put(padded(user(&format!("user {at}"), 1), 2_000))));
    }
    changes
}

#[test]
#[ignore = "needs strace"]
fn recorded_power_cut_keeps_commits() {
    cut("clear", Dir::new, 5);
}

#[test]
#[ignore = "needs strace"]
fn recorded_power_cut_keeps_commits_beyond_snapshot() {
    cut("full", Dir::new, 1);
}

#[cfg(feature = "encryption")]
#[test]
#[ignore = "needs strace"]
fn recorded_power_cut_keeps_commits_encrypted() {
    cut("encrypted", Dir::encrypted, 2);
}

fn cut(role: &str, dir: fn() -> Dir, share: u64) {
    let cuts = std::env::var("KEYFOB_CUTS").map_or(240, |cuts| cuts.parse().unwrap()) * share / 8;
    let mut random = Random::from_env();
    let recorded = record(role, &dir(), &mut random);
    // After each call that changed something or acknowledged it, in every way; or some of these.
    let mut disk = Disk::new(&recorded.root);
    let mut all = Vec::new();
    for (at, line) in recorded.lines.iter().enumerate() {
        let (said, changed) = disk.follow(line);
        if changed || said.is_some() {
            all.extend(Loss::EVERY.map(|loss| (at, loss)));
        }
    }
    println!("{cuts} cuts, {} points", all.len());
    let mut planned = vec![Vec::new(); recorded.lines.len()];
    for cut in 0..cuts {
        let last = all.len() as u64;
        let (at, loss) = all[if cuts < last { random.below(last) } else { cut % last } as usize];
        planned[at].push(loss);
    }
    let mut disk = Disk::new(&recorded.root);
    // Who was killed may have committed once more than it said.
    let (mut acknowledged, mut possible) = (0, 1);
    let mut failures = Vec::new();
    for (line, losses) in recorded.lines.iter().zip(planned) {
        let (said, _) = disk.follow(line);
        if let Some((_, number)) = said.as_deref().and_then(|said| said.trim().split_once('>')) {
            acknowledged = number.parse().unwrap();
            possible = acknowledged + 1;
        }
        possible += u64::from(line.contains("+++ killed by"));
        for loss in losses {
            let dir = dir();
            disk.cut(loss, &mut random, dir.path());
            let survives = AssertUnwindSafe(|| check(&dir, acknowledged..=possible));
            if catch_unwind(survives).is_err() {
                let line: String = line.chars().take(60).collect();
                failures.push(format!("{loss:?} after {acknowledged} at {line}"));
            }
        }
    }
    assert_eq!(acknowledged, COMMITS);
    assert!(failures.is_empty(), "{} of {cuts}: {failures:#?}", failures.len());
}

/// What writers did, and in which directory.
struct Recorded {
    root: std::path::PathBuf,
    lines: Vec<String>,
}

fn record(role: &str, dir: &Dir, random: &mut Random) -> Recorded {
    let (data, calls) = (dir.data(), dir.path().join("calls"));
    let words = [role, data.to_str().unwrap()];
    let mut recorded = String::new();
    for life in 1..=LIVES {
        let call = ["pwrite64", "fsync", "fdatasync", "rename"][random.below(4) as usize];
        let when = 1 + random.below(10) as usize;
        let is_last = life == LIVES;
        let mut child = match is_last {
            true => spawn_child_under(strace::record_all(&calls), &words),
            false => spawn_child_under(strace::record_until(&calls, call, when), &words),
        };
        while child.hear().is_some() {}
        assert_eq!(child.child.wait().unwrap().success(), is_last);
        recorded += &std::fs::read_to_string(&calls).unwrap();
    }
    let root = dir.path().to_owned();
    let first = recorded.lines().position(|line| line.contains("mkdir"));
    let lines = recorded.lines().skip(first.unwrap()).map(str::to_owned).collect();
    Recorded { root, lines }
}

/// Demands that the store is what it was after one of these commits, from the newest one that was
/// acknowledged to the newest one that can be, and that it goes on.
fn check(dir: &Dir, expected: RangeInclusive<u64>) {
    let store = dir.open();
    let (reached, guest) = check_steps(&store);
    assert!(expected.contains(&reached), "{reached}, not {expected:?}");
    let next = commit(&store, &[Change::Location(Some("here".into()))]);
    assert_eq!(next, reached + 1);
    if !guest {
        assert_eq!(files_with(dir.path(), "guests-own"), NOWHERE);
    }
    drop(store);
    assert_eq!(number(&dir.open()), next);
}

/// A file system in a file, mounted until it is dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(image: &Path, at: &'a Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Lazily: after a failure the store is still open.
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

fn run(command: &str, arguments: &[&str]) {
    let done = Command::new(command).args(arguments).output().unwrap();
    assert!(done.status.success(), "{command} {arguments:?}: {done:?}");
}

/// Waits until every thread of a process is stopped.
fn stop(process: u32) {
    run("kill", &["-STOP", &process.to_string()]);
    let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    };
    while !std::fs::read_dir(format!("/proc/{process}/task")).unwrap().all(is_stopped) {
        thread::yield_now();
    }
}

#[test]
#[ignore = "needs mkfs.ext4, and the right to mount an image"]
fn power_cut_of_real_file_system_keeps_commits() {
    let cuts: u64 = std::env::var("KEYFOB_IMAGE_CUTS").map_or(10, |cuts| cuts.parse().unwrap());
    let mut random = Random::from_env();
    let dir = Dir::new();
    let [image, copy] = ["image", "copy"].map(|name| dir.path().join(name));
    let [at, again] = ["at", "again"].map(|name| dir.path().join(name));
    std::fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
    let _mounted = Mounted::new(&image, &at);
    let data = at.join("data");
    let (mut reached, mut unfinished) = (0, 0);
    for cut in 0..cuts {
        let mut child = spawn_child(&["endless", data.to_str().unwrap()]);
        let mut heard = reached;
        for _ in 0..random.below(5) {
            heard = child.hear().unwrap().parse().unwrap();
        }
        // Let it get anywhere within the next commit, or within its start.
        thread::sleep(Duration::from_micros(random.below(9_000)));
        stop(child.child.id());
        std::fs::copy(&image, &copy).unwrap();
        child.kill();
        while let Some(line) = child.hear() {
            heard = line.parse().unwrap();
        }
        let mounted = Mounted::new(&copy, &again);
        let left = again.join("data");
        unfinished += u32::from(is_unfinished(&left));
        let store = SledStore::open(&left, APP, OnDamage::Refuse, soon()).unwrap();
        let (found, _) = check_steps(&store);
        assert!((heard..=heard + 1).contains(&found), "cut {cut}: {found} after {heard}");
        assert_eq!(commit(&store, &[Change::Location(Some("here".into()))]), found + 1);
        drop((store, mounted));
        // The writer that was killed may have come one commit further than the copy.
        reached = check_steps(&SledStore::open(&data, APP, OnDamage::Refuse, soon()).unwrap()).0;
        assert!((heard..=heard + 1).contains(&reached), "cut {cut}: {reached} after {heard}");
    }
    println!("{cuts} cuts, {unfinished} within a commit, {reached} commits");
}
