//! What a store on disk costs with 1, 100, 10,000 and 100,000 users of 3 KB.
//!
//! `commit` has its floor beside it: bare sled, opened, written, flushed, synced and closed, on the
//! very same database. `list` shows the most memory that was in use at a time (`max alloc`).
//! `KEYFOB_GROWTH_USERS` leaves out what is larger: 100,000 users take half a gigabyte of disk.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench may panic")]

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use divan::{AllocProfiler, Bencher};
use keyfob::store::{Change, OnDamage, SledStore, Store, StoredUser};
use keyfob::{Deadline, Session, UserId};
use serde_json::json;

#[global_allocator]
static MEMORY: AllocProfiler = AllocProfiler::system();

const SIZES: [u64; 4] = [1, 100, 10_000, 100_000];
const APP: &str = "https://backend.example.org my-app";

fn main() {
    divan::main();
    let _ = std::fs::remove_dir_all(&*ROOT);
}

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = format!("growth-{}", std::process::id());
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
});

fn sizes() -> Vec<u64> {
    let most = std::env::var("KEYFOB_GROWTH_USERS").ok().and_then(|most| most.parse().ok());
    SIZES.into_iter().filter(|size| *size <= most.unwrap_or(u64::MAX)).collect()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(600))
}

fn id(number: u64) -> UserId {
    UserId::new(format!("user-{number:08}"))
}

fn user(number: u64) -> StoredUser {
    let token = format!("e30.eyJleHAiOjQwMDAwMDAwMDAsImlhdCI6MTAwMH0.{}", "s".repeat(600));
    let record = json!({
        "id": id(number),
        "state": "logged-in",
        "epoch": 1,
        "created_commit": number,
        "last_used_commit": number,
        "access_token": token,
        "refresh_token": token,
        "identities": [{"id": format!("identity-{number}"), "provider": "local-userpass"}],
        "profile": {"data": {"text": "t".repeat(1_500)}, "kind": "normal"},
    });
    serde_json::from_value(record).unwrap()
}

fn put(number: u64) -> Change {
    Change::Put(Box::new(user(number)))
}

/// A store with so many users, the last one current. Each is made once.
fn filled(users: u64) -> (PathBuf, Arc<SledStore>) {
    static FILLED: LazyLock<Mutex<HashMap<u64, Arc<SledStore>>>> = LazyLock::new(Mutex::default);
    let dir = ROOT.join(users.to_string());
    let mut filled = FILLED.lock().unwrap();
    let store = filled.entry(users).or_insert_with(|| {
        let store = open(&dir);
        let all: Vec<_> = (1..=users).collect();
        for some in all.chunks(5_000) {
            let changes = || some.iter().copied().map(put).collect();
            store.commit(soon(), &mut |_| Ok(changes())).unwrap();
        }
        let current = Change::Current(Some(id(users)));
        store.commit(soon(), &mut |_| Ok(vec![current.clone()])).unwrap();
        Arc::new(store)
    });
    (dir, Arc::clone(store))
}

fn open(dir: &Path) -> SledStore {
    SledStore::open(dir, APP, OnDamage::Refuse, soon()).unwrap()
}

/// Opens the store and knows the current user.
#[divan::bench(args = sizes())]
fn open_and_know(bencher: Bencher<'_, '_>, users: u64) {
    let (dir, _) = filled(users);
    bencher.bench_local(|| {
        let store = open(&dir);
        let current = store.current(soon()).unwrap().unwrap();
        let record = store.user(&current, soon()).unwrap().unwrap();
        assert_eq!((current, record.created_commit), (id(users), users));
    });
}

#[divan::bench(args = sizes(), sample_count = 30)]
fn commit(bencher: Bencher<'_, '_>, users: u64) {
    let (_, store) = filled(users);
    let mut before = store.recent(None, soon()).unwrap().number;
    bencher.bench_local(|| {
        let number = store.commit(soon(), &mut |_| Ok(vec![put(users)])).unwrap();
        assert_eq!(number, before + 1);
        before = number;
    });
}

#[divan::bench(args = sizes(), sample_count = 30)]
fn commit_floor(bencher: Bencher<'_, '_>, users: u64) {
    let path = filled(users).0.join("db.0");
    let record = serde_json::to_vec(&user(users)).unwrap();
    bencher.bench_local(|| {
        let config = sled::Config::new().path(&path).segment_size(512 * 1024).flush_every_ms(None);
        let db = config.open().unwrap();
        let mut batch = sled::Batch::default();
        batch.insert(b"bench", &*record);
        db.apply_batch(batch).unwrap();
        db.flush().unwrap();
        File::options().write(true).open(path.join("db")).unwrap().sync_all().unwrap();
    });
}

#[divan::bench(args = sizes(), sample_count = 1, sample_size = 1)]
fn list(bencher: Bencher<'_, '_>, users: u64) {
    let (dir, _) = filled(users);
    let store = open(&dir);
    let session =
        Session::builder("my-app", "https://backend.example.org").store(store).open().unwrap();
    let session = session.with_deadline(Duration::from_secs(600));
    bencher
        .bench_local(|| assert_eq!(session.users_iter().map(Result::unwrap).count() as u64, users));
}
