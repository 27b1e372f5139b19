//! What the tests of the stores share: directories that go away, users, short ways to commit.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "it is a module of several test binaries")]

pub mod disk;
pub mod strace;

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf, absolute};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
#[cfg(feature = "encryption")]
use keyfob::EncryptionKey;
use keyfob::store::{Change, OnDamage, SledStore, Store, StoredUser};
use keyfob::{Deadline, StoreError, UserId};
use serde_json::json;

pub const APP: &str = "https://backend.example.org my-app";

/// A directory of a test, removed at its end unless it failed.
pub struct Dir {
    path: PathBuf,
    encrypted: bool,
}

impl Dir {
    pub fn new() -> Self {
        Self::of(false)
    }

    /// A directory whose store is encrypted with [`key`].
    #[cfg(feature = "encryption")]
    pub fn encrypted() -> Self {
        Self::of(true)
    }

    fn of(encrypted: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("store-{}-{count}", std::process::id());
        // As the store names it: on Windows with a drive and no slash.
        let path = absolute(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).unwrap();
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self { path, encrypted }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that the store creates.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub fn open(&self) -> SledStore {
        self.try_open(OnDamage::Refuse).unwrap()
    }

    pub fn try_open(&self, on_damage: OnDamage) -> Result<SledStore, StoreError> {
        match self.encrypted {
            #[cfg(feature = "encryption")]
            true => self.try_open_with(&key(), on_damage),
            _ => self.try_open_plaintext(on_damage),
        }
    }

    pub fn try_open_plaintext(&self, on_damage: OnDamage) -> Result<SledStore, StoreError> {
        SledStore::open(&self.data(), APP, on_damage, soon())
    }

    #[cfg(feature = "encryption")]
    pub fn try_open_with(
        &self,
        key: &EncryptionKey,
        on_damage: OnDamage,
    ) -> Result<SledStore, StoreError> {
        SledStore::open_encrypted(&self.data(), APP, key, on_damage, soon())
    }

    /// A copy of what is on disk.
    pub fn copy(&self) -> Self {
        let copied = Self::of(self.encrypted);
        copy(&self.data(), &copied.data());
        copied
    }
}

/// The key of all tests.
#[cfg(feature = "encryption")]
pub fn key() -> EncryptionKey {
    EncryptionKey::from_bytes(*b"the key of all tests, 32 letters")
}

/// Any other key.
#[cfg(feature = "encryption")]
pub fn other_key() -> EncryptionKey {
    EncryptionKey::from_bytes([7; 32])
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A deadline that no test should meet.
pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// A deadline that has passed: what is asked for is tried once.
pub fn now() -> Deadline {
    Deadline::after(Duration::ZERO)
}

pub fn id(id: &str) -> UserId {
    UserId::new(id)
}

/// A token with `secret` in its last part.
pub fn token(secret: &str) -> String {
    format!("e30.{}.{secret}", URL_SAFE_NO_PAD.encode(r#"{"exp":4000000000,"iat":1000}"#))
}

/// A logged-in user, used and created by the commit `number`, with `secret` in both tokens.
pub fn user_with(name: &str, number: u64, secret: &str) -> StoredUser {
    let record = json!({
        "id": name,
        "state": "logged-in",
        "epoch": 1,
        "created_commit": number,
        "last_used_commit": number,
        "access_token": token(&format!("access-{secret}")),
        "refresh_token": token(&format!("refresh-{secret}")),
        "identities": [{"id": format!("identity of {name}"), "provider": "local-userpass"}],
        "profile": {"data": {"name": name}, "kind": "normal"},
    });
    serde_json::from_value(record).unwrap()
}

pub fn user(name: &str, number: u64) -> StoredUser {
    user_with(name, number, "s3cret")
}

/// The same user without tokens.
pub fn logged_out(mut user: StoredUser) -> StoredUser {
    user.state = keyfob::UserState::LoggedOut;
    user.epoch += 1;
    user.access_token = None;
    user.refresh_token = None;
    user
}

/// The user with about so many bytes in `unknown_fields`, which are stored unchanged.
pub fn padded(mut user: StoredUser, bytes: usize) -> StoredUser {
    user.unknown_fields.insert("padding".into(), "p".repeat(bytes).into());
    user
}

pub fn put(user: StoredUser) -> Change {
    Change::Put(Box::new(user))
}

pub fn commit(store: &dyn Store, changes: &[Change]) -> u64 {
    store.commit(soon(), &mut |_| Ok(changes.to_vec())).unwrap()
}

/// Commits what the number of the commit makes of it.
pub fn commit_numbered(store: &dyn Store, make: impl Fn(u64) -> Vec<Change>) -> u64 {
    store.commit(soon(), &mut |tables| Ok(make(tables.number()))).unwrap()
}

pub fn log_in(store: &dyn Store, name: &str) -> u64 {
    commit_numbered(store, |number| vec![put(user(name, number)), Change::Current(Some(id(name)))])
}

pub fn get(store: &dyn Store, name: &str) -> Option<Arc<StoredUser>> {
    store.user(&id(name), soon()).unwrap()
}

pub fn names(store: &dyn Store) -> Vec<String> {
    let users = store.users(soon()).unwrap();
    users.iter().map(|user| user.id.to_string()).collect()
}

pub fn number(store: &dyn Store) -> u64 {
    store.recent(None, soon()).unwrap().number
}

/// The changes of the commit with this number. The state after it depends only on the number.
pub fn step(number: u64) -> Vec<Change> {
    let mut counter = padded(user("counter", 1), (number % 5 * 1_500) as usize);
    counter.epoch = number;
    let mut changes = vec![put(counter), Change::Current(Some(id("counter")))];
    let guest = || user_with("guest", number, "guests-own");
    match number % 4 {
        1 => changes.push(put(guest())),
        3 => changes.push(put(logged_out(guest()))),
        _ => {}
    }
    if number % 16 == 8 {
        changes.push(Change::Remove(id("guest")));
    }
    changes
}

/// Checks that the state is that of [`step`] for its number, and returns the number and whether the
/// guest is logged in.
pub fn check_steps(store: &dyn Store) -> (u64, bool) {
    let reached = number(store);
    if reached == 0 {
        assert!(names(store).is_empty());
        return (0, false);
    }
    assert_eq!(store.current(soon()).unwrap(), Some(id("counter")));
    assert_eq!(get(store, "counter").unwrap().epoch, reached);
    let guest = get(store, "guest").is_some_and(|guest| guest.is_logged_in());
    assert_eq!(guest, matches!(reached % 4, 1 | 2), "{reached}");
    (reached, guest)
}

/// All files below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The expected result of [`files_with`].
pub const NOWHERE: [PathBuf; 0] = [];

/// The files below a directory that contain a text.
pub fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let contains = |path: &PathBuf| {
        std::fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes())
    };
    files(dir).into_iter().filter(contains).collect()
}

/// Random enough, and the same again for the same seed.
pub struct Random(u64);

impl Random {
    /// Takes the seed from `KEYFOB_SEED`, or a new one, and prints it.
    pub fn from_env() -> Self {
        let seed = std::env::var("KEYFOB_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64
        });
        println!("KEYFOB_SEED={seed}");
        Self(seed)
    }

    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Starts this test binary again as a child that runs `child_process` with these words. Its own
/// lines on standard output begin with `>`.
pub fn spawn_child(words: &[&str]) -> Child {
    spawn(Command::new(std::env::current_exe().unwrap()), words)
}

/// The same for a command to which this test binary and its arguments are appended.
pub fn spawn_child_under(mut command: Command, words: &[&str]) -> Child {
    command.arg(std::env::current_exe().unwrap());
    spawn(command, words)
}

fn spawn(mut command: Command, words: &[&str]) -> Child {
    let mut child = command
        .args(["child_process", "--exact", "--nocapture", "--test-threads=1"])
        .env("KEYFOB_CHILD", words.join("\n"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    Child { input: child.stdin.take(), output: output.lines(), child }
}

/// The words that this process was started with, if it is a child.
pub fn child_words() -> Option<Vec<String>> {
    let words = std::env::var("KEYFOB_CHILD").ok()?;
    Some(words.split('\n').map(str::to_owned).collect())
}

/// Says something to the parent.
pub fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // In one piece, so that a kill leaves no half of it.
    out.write_all(format!(">{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// A child process; killed when it is dropped.
pub struct Child {
    pub child: std::process::Child,
    pub input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Waits for the next line that the child says; `None` once it has ended.
    pub fn hear(&mut self) -> Option<String> {
        loop {
            match self.output.next()? {
                // The test harness may have begun the line.
                Ok(line) => {
                    if let Some((_, said)) = line.split_once('>') {
                        return Some(said.to_owned());
                    }
                }
                Err(_) => return None,
            }
        }
    }

    /// Ends the child without any chance to tidy up.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Opens a database of a store as sled alone has it. Another test's child may hold a copy of its
/// file, and sled's lock with it, until it has become another program.
pub fn sled_at(path: impl AsRef<Path>) -> sled::Db {
    let config = sled::Config::new().path(path).segment_size(512 * 1024);
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && Instant::now() < limit =>
            {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Takes a directory away in which files may be open. Windows removes it all the same, and Wine
/// only renames it.
pub fn take_away(dir: &Path) {
    if std::fs::remove_dir_all(dir).is_err() {
        std::fs::rename(dir, dir.parent().unwrap().with_extension("gone")).unwrap();
    }
}

/// Copies a directory and all below it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Reads `generation`: the count and the number of the database.
pub fn generation(dir: &Path) -> (u64, u64) {
    let bytes = std::fs::read(dir.join("generation")).unwrap();
    let word = |at: usize| u64::from_le_bytes(bytes[at * 8..][..8].try_into().unwrap());
    // On Windows the identity of the file comes after it.
    let length = if cfg!(windows) { 48 } else { 32 };
    assert_eq!((bytes.len(), word(0), word(1)), (length, !word(2), !word(3)));
    (word(0), word(1))
}

/// Tells whether a writer that was killed or cut off had begun a commit and not finished it.
pub fn is_unfinished(dir: &Path) -> bool {
    match std::fs::metadata(dir.join("generation")) {
        Err(_) => false,
        // The first commit of a store creates the file before it writes to it.
        Ok(file) if file.len() == 0 => true,
        Ok(_) => generation(dir).0 % 2 == 1,
    }
}

/// Writes `generation` in place, as a writer does.
pub fn set_generation(dir: &Path, count: u64, database: u64) {
    let words = [count, database, !count, !database];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut file = std::fs::File::options().write(true).open(dir.join("generation")).unwrap();
    file.write_all(&bytes).unwrap();
}

/// Returns a snapshot file with valid checksums for header and body, of which the header has so many bytes.
pub fn snapshot_file(version: &str, header: usize, content: &[u8]) -> Vec<u8> {
    const SEED: u64 = 0xcbf2_9ce4_8422_2325;
    let mix = |sum: u64, word: u64| {
        let mixed = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    };
    let add = |sum: u64, part: &[u8]| {
        let mut padded = part.to_vec();
        padded.resize(part.len() / 8 * 8 + 8, 0);
        let words = padded.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        mix(words.fold(sum, mix), part.len() as u64)
    };
    let (header, body) = content.split_at(header);
    let first = format!(" {version} {} {:016x}\n", header.len(), add(SEED, body));
    let sum = add(add(SEED, first.as_bytes()), header);
    [format!("keyfob snapshot {sum:016x}{first}").as_bytes(), content].concat()
}
