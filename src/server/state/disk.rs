//! The state on disk: a sled database, a signing key and a lock in the data folder.
//!
//! | file | what |
//! | --- | --- |
//! | `db/` (0700) | sled; one JSON record a key: `a/<e-mail>`, `k/<API key>`, `s/<session>`, `u/<user>`, `deployment` |
//! | `signing-key` (0600) | the key of all tokens, 64 hexadecimal digits |
//! | `lock` (0600) | held for as long as a server has the folder open |
//!
//! A record's version is its field `v`; records of a newer version are refused by name. Version 2
//! has API keys, accounts that wait for confirmation, and custom user data; version 1 is read. The
//! database is synced by us after each batch, because sled's own flush is no `fsync` on Linux.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Deployment;
use super::tables::{Change, Record, Tables};
use crate::server::random;

const VERSION: u32 = 2;
const DEPLOYMENT: &str = "deployment";

/// How long a child that is being started may hold a copy of an open file.
const LONGEST_COPY: Duration = Duration::from_secs(5);

pub(super) struct Disk {
    dir: PathBuf,
    /// `None` after a failure, until the next change opens it again: sled repeats the error of a
    /// full disk for as long as it is open.
    db: Option<Database>,
    /// `None` once closed.
    lock: Option<File>,
}

struct Database {
    sled: sled::Db,
    /// A second handle on sled's log, to sync it.
    log: File,
}

#[derive(Deserialize, Serialize)]
struct Versioned<T> {
    v: u32,
    #[serde(flatten)]
    record: T,
}

impl Disk {
    /// Opens a data folder, creating it if need be.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        create_private_dir(dir)?;
        let lock = private_file().create(true).truncate(false).open(dir.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message =
                    format!("the data folder {} is in use by another server", dir.display());
                return Err(io::Error::new(ErrorKind::ResourceBusy, message));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let db = Database::open(dir)?;
        sync_dir(dir)?;
        if let Some(parent) = dir.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            sync_dir(parent)?;
        }
        Ok(Self { dir: dir.to_owned(), db: Some(db), lock: Some(lock) })
    }

    /// Gives the folder up, so that another server can have it.
    pub(super) fn close(&mut self) {
        self.db = None;
        self.lock = None;
    }

    /// Returns the deployment's names, making `new` theirs if the folder is new.
    pub(super) fn deployment(&mut self, new: &Deployment) -> io::Result<Deployment> {
        let db = self.database()?;
        if let Some(value) = db.sled.get(DEPLOYMENT).map_err(from_sled)? {
            return decode(DEPLOYMENT, &value);
        }
        db.sled.insert(DEPLOYMENT, encode(new)?).map_err(from_sled)?;
        db.sync()?;
        Ok(new.clone())
    }

    /// Returns the key that signs tokens, making one if the folder is new.
    pub(super) fn signing_key(&self) -> io::Result<[u8; 32]> {
        let path = self.dir.join("signing-key");
        let mut text = String::new();
        match File::open(&path) {
            Ok(mut file) => {
                file.read_to_string(&mut text)?;
                restrict(&path, 0o600)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                text = random::hex(&random::bytes::<32>()?);
                // Whole or not at all: half a key would make every token invalid.
                let draft = self.dir.join("signing-key.tmp");
                let mut file = private_file().create(true).truncate(true).open(&draft)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::rename(&draft, &path)?;
                sync_dir(&self.dir)?;
            }
            Err(error) => return Err(error),
        }
        unhex(text.trim()).ok_or_else(|| {
            let message = format!("{} does not hold 64 hexadecimal digits", path.display());
            io::Error::new(ErrorKind::InvalidData, message)
        })
    }

    /// Reads everything.
    pub(super) fn tables(&mut self) -> io::Result<Tables> {
        let mut tables = Tables::default();
        for entry in self.database()?.sled.iter() {
            // sled repeats an error for ever: the first one ends this.
            let (key, value) = entry.map_err(from_sled)?;
            let key = String::from_utf8_lossy(&key);
            let record = match key.split_at_checked(2) {
                Some(("a/", _)) => Record::Account(decode(&key, &value)?),
                Some(("k/", _)) => Record::ApiKey(decode(&key, &value)?),
                Some(("s/", _)) => Record::Session(decode(&key, &value)?),
                Some(("u/", _)) => Record::User(decode(&key, &value)?),
                _ => continue,
            };
            tables.apply(Change::Put(record));
        }
        Ok(tables)
    }

    /// Makes the changes, all or none. They are on disk when this returns. After an error it is
    /// open whether they are.
    pub(super) fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for change in changes {
            match change {
                Change::Put(Record::Account(account)) => {
                    batch.insert(format!("a/{}", account.email).as_str(), encode(account)?);
                }
                Change::Put(Record::ApiKey(key)) => {
                    batch.insert(format!("k/{}", key.id).as_str(), encode(key)?);
                }
                Change::Put(Record::Session(session)) => {
                    batch.insert(format!("s/{}", session.id).as_str(), encode(session)?);
                }
                Change::Put(Record::User(user)) => {
                    batch.insert(format!("u/{}", user.id).as_str(), encode(user)?);
                }
                Change::RemoveAccount(email) => batch.remove(format!("a/{email}").as_str()),
                Change::RemoveApiKey(id) => batch.remove(format!("k/{id}").as_str()),
                Change::RemoveSession(id) => batch.remove(format!("s/{id}").as_str()),
                Change::RemoveUser(id) => batch.remove(format!("u/{id}").as_str()),
            }
        }
        let db = self.database()?;
        let committed = db.sled.apply_batch(batch).map_err(from_sled).and_then(|()| db.sync());
        if committed.is_err() {
            self.db = None;
        }
        committed
    }

    /// Tells whether memory and disk may differ, because a change failed half-way.
    pub(super) fn has_failed(&self) -> bool {
        self.db.is_none()
    }

    fn database(&mut self) -> io::Result<&mut Database> {
        if self.lock.is_none() {
            return Err(io::Error::other("the server has stopped"));
        }
        match &mut self.db {
            Some(db) => Ok(db),
            db => Ok(db.insert(Database::open(&self.dir)?)),
        }
    }
}

impl Database {
    fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("db");
        create_private_dir(&path)?;
        restrict(&path, 0o700)?;
        // A kill at the wrong moment leaves these behind, and sled then takes them for snapshots
        // and never opens again.
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(".generating") {
                fs::remove_file(entry.path())?;
            }
        }
        let config =
            sled::Config::new().path(&path).flush_every_ms(None).cache_capacity(8 * 1024 * 1024);
        let deadline = Instant::now() + LONGEST_COPY;
        let sled = loop {
            // sled panics over some kinds of damage.
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Ok(sled)) => break sled,
                // No other server is at it, but a child that is being started holds a copy of the
                // file, and sled's lock with it, until it has become another program.
                Ok(Err(sled::Error::Io(error)))
                    if error.to_string().contains("could not acquire lock")
                        && Instant::now() < deadline =>
                {
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(Err(sled::Error::Io(error))) => return Err(error),
                Ok(Err(error)) => return Err(damaged(&path, &error.to_string())),
                Err(_) => return Err(damaged(&path, "sled panicked while opening it")),
            }
        };
        let log = private_file().open(path.join("db"))?;
        for entry in fs::read_dir(&path)? {
            let path = entry?.path();
            if path.is_file() {
                restrict(&path, 0o600)?;
            }
        }
        sync_dir(&path)?;
        Ok(Self { sled, log })
    }

    fn sync(&self) -> io::Result<()> {
        self.sled.flush().map_err(from_sled)?;
        self.log.sync_all()
    }
}

fn encode<T: Serialize>(record: &T) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Versioned { v: VERSION, record })?)
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> io::Result<T> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    // A key can hold an e-mail address; its kind says enough.
    let kind = key.split('/').next().unwrap_or_default();
    let invalid = |what: String| {
        io::Error::new(ErrorKind::InvalidData, format!("a record of kind {kind:?} {what}"))
    };
    match serde_json::from_slice(value) {
        Ok(Version { v }) if v > VERSION => Err(invalid(format!(
            "has version {v}, this program knows versions up to {VERSION}: use a newer one"
        ))),
        _ => serde_json::from_slice::<Versioned<T>>(value)
            .map(|versioned| versioned.record)
            .map_err(|error| invalid(format!("cannot be read (column {})", error.column()))),
    }
}

fn from_sled(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::new(ErrorKind::InvalidData, other.to_string()),
    }
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let message = format!("the database {} is damaged: {what}", path.display());
    io::Error::new(ErrorKind::InvalidData, message)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Creates a directory for our eyes only. One that exists is left as it is.
fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Sets permission bits, where there are any.
fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    #[cfg(not(unix))]
    let _ = (path, mode);
    Ok(())
}

/// Makes the names in a directory durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::state::{Account, Entry, Evidence, Identity, State};

    fn account(email: &str) -> Account {
        Account {
            id: "1".repeat(24),
            email: email.to_owned(),
            password: "$argon2id$".to_owned(),
            created_at: 1,
            pending: false,
            confirm: None,
            reset: None,
        }
    }

    #[test]
    fn after_a_failure_the_disk_is_read_again() {
        let dir = std::env::temp_dir().join(format!("keyfob-disk-failure-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let state = State::open(Some(&dir), "app").unwrap();
        assert!(state.add_account(account("a")).unwrap());

        // A change that failed after all of it had reached the disk: nobody was told.
        {
            let mut disk = state.disk();
            let disk = disk.as_mut().unwrap();
            disk.commit(&[Change::put(account("b"))]).unwrap();
            disk.db = None;
        }
        assert!(state.account("b").is_none());
        assert!(state.add_account(account("c")).unwrap());
        assert!(state.account("a").is_some() && state.account("b").is_some());
        assert!(!state.add_account(account("b")).unwrap());

        state.close();
        assert!(state.add_account(account("d")).is_err());
        assert!(state.account("a").is_some() && state.account("d").is_none());
        let evidence =
            Evidence::new(Identity { id: "1".into(), provider_type: "anon-user".into() });
        let entry = Entry { device_id: String::new(), now: 1, lifetime: 1 };
        assert!(state.log_in(evidence, entry).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let bytes = [0x0f; 32];
        assert_eq!(unhex(&random::hex(&bytes)), Some(bytes));
        assert_eq!(unhex(&"0".repeat(63)), None);
        assert_eq!(unhex(&"g".repeat(64)), None);
        assert_eq!(unhex(&"+f".repeat(32)), None);
    }
}
