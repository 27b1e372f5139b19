//! The state on disk: a sled database, a signing key and a lock in the data directory.
//!
//! | file | what |
//! | --- | --- |
//! | `db/` (0700) | sled; one JSON record a key: `a/<e-mail>`, `k/<API key>`, `s/<session>`, `u/<user>`, `deployment`, `head` |
//! | `db.kept.<number>/` | a copy of `db/` from before it was opened, until `db/` is verified |
//! | `signing-key` (0600) | the key of all tokens, 64 hexadecimal digits |
//! | `lock` (0600) | locked while a server has the directory open; contains the number of the newest change |
//!
//! A record's field `v` is its version. Records of a newer version are rejected with an error that
//! names the version.

mod database;
mod files;
mod lock;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::database::Database;
use self::files::{copy, is_full, remove};
use self::lock::Lock;
use super::Deployment;
use super::tables::{Change, Record, Tables};
use crate::fs::rename;
use crate::owner::Owner;
use crate::private::{create_private_dir, replace, restrict, sync_dir};
use crate::server::random;
use crate::untrusted_json;

const VERSION: u32 = 1;
const DEPLOYMENT: &str = "deployment";

pub(super) struct Disk {
    dir: PathBuf,
    /// `None` after a failure. The next use opens it again, because sled repeats the error of a
    /// full disk until it is reopened.
    db: Option<Database>,
    /// `None` once closed.
    lock: Option<Lock>,
    /// The owner that files are given to, if it is not the user of this process.
    owner: Option<Owner>,
}

#[derive(Deserialize, Serialize)]
struct Versioned<T> {
    v: u32,
    #[serde(flatten)]
    record: T,
}

impl Disk {
    /// Opens a data directory, creating it if necessary.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        create_private_dir(dir)?;
        let lock = Lock::take(dir)?;
        let owner = Owner::find(dir)?;
        if let Some(owner) = owner {
            lock.check(owner, dir)?;
            owner.check_tree(dir)?;
        }
        let mut disk = Self { dir: dir.to_owned(), db: None, lock: Some(lock), owner };
        disk.put_back_after_a_kill()?;
        disk.keep()?;
        if let Err(error) = disk.with_database(|_| Ok(())) {
            disk.give_up(error)?;
            disk.with_database(|_| Ok(()))?;
        }
        sync_dir(dir)?;
        if let Some(parent) = dir.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            sync_dir(parent)?;
        }
        Ok(disk)
    }

    /// Releases the directory, so that another server can open it.
    pub(super) fn close(&mut self) {
        self.db = None;
        self.lock = None;
    }

    /// Returns the ids of the deployment. In a new directory, stores and returns `new`.
    pub(super) fn deployment(&mut self, new: &Deployment) -> io::Result<Deployment> {
        if let Some(value) = self.with_database(|db| db.value(DEPLOYMENT))? {
            return decode(DEPLOYMENT, &value);
        }
        self.write(BTreeMap::from([(DEPLOYMENT.to_owned(), Some(encode(new)?))]))?;
        Ok(new.clone())
    }

    /// Returns the key that signs tokens, creating it in a new directory.
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
                // Written atomically, because a truncated key would make every token invalid.
                let draft = self.dir.join("signing-key.tmp");
                let (mut file, _) = replace(&draft)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                rename(&draft, &path)?;
                sync_dir(&self.dir)?;
            }
            Err(error) => return Err(error),
        }
        unhex(text.trim()).ok_or_else(|| {
            let message = format!("{} does not hold 64 hexadecimal digits", path.display());
            io::Error::new(ErrorKind::InvalidData, message)
        })
    }

    /// Reads all records, and verifies that none is missing.
    pub(super) fn tables(&mut self) -> io::Result<Tables> {
        let tables = match self.read_tables() {
            Err(error) => {
                self.give_up(error)?;
                self.read_tables()?
            }
            Ok(tables) => tables,
        };
        // The database will be written to from here on, so the copy must never be restored.
        let (kept, draft) = (self.kept(), self.dir.join("db.tmp"));
        if kept.try_exists()? {
            rename(&kept, &draft)?;
            // Otherwise the copy could reappear after a power failure and replace later changes.
            sync_dir(&self.dir)?;
            let _ = remove(&draft);
        }
        Ok(tables)
    }

    /// The path of the copy of the database from before it was opened. It is kept until the
    /// database is verified, because sled zeroes everything after damage while it opens a database.
    /// The name contains the number of the newest change, so that the copy cannot replace a newer
    /// database.
    fn kept(&self) -> PathBuf {
        let noted = self.lock.as_ref().map_or(0, Lock::noted);
        self.dir.join(format!("db.kept.{noted}"))
    }

    /// Creates that copy, unless the disk is too full.
    fn keep(&self) -> io::Result<()> {
        let (from, draft) = (self.dir.join("db"), self.dir.join("db.tmp"));
        if !from.try_exists()? {
            return Ok(());
        }
        let give = || self.owner.map_or(Ok(()), |owner| owner.give_tree(&draft));
        match copy(&from, &draft).and_then(|()| give()) {
            Err(error) if is_full(&error) => remove(&draft),
            copied => {
                copied?;
                rename(&draft, &self.kept())?;
                sync_dir(&self.dir)
            }
        }
    }

    /// Restores the copy that a process left if it was killed before it had read the database.
    fn put_back_after_a_kill(&mut self) -> io::Result<()> {
        remove(&self.dir.join("db.tmp"))?;
        let kept = self.kept();
        if kept.try_exists()? {
            self.take_kept()?;
        }
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("db.kept.") {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Restores the database from the copy, after it could not be read. Returns the error, unless
    /// the disk was full because of the copy.
    fn give_up(&mut self, error: io::Error) -> io::Result<()> {
        self.db = None;
        let has_copy = self.kept().try_exists()?;
        if has_copy {
            self.take_kept()?;
        }
        if has_copy && is_full(&error) { Ok(()) } else { Err(error) }
    }

    fn take_kept(&self) -> io::Result<()> {
        let (db, draft) = (self.dir.join("db"), self.dir.join("db.tmp"));
        if db.try_exists()? {
            rename(&db, &draft)?;
        }
        rename(&self.kept(), &db)?;
        sync_dir(&self.dir)?;
        remove(&draft)
    }

    fn read_tables(&mut self) -> io::Result<Tables> {
        let noted = self.lock.as_ref().map_or(0, Lock::noted);
        self.with_database(|db| {
            let mut tables = Tables::default();
            let values = db.values()?;
            for (key, value) in &values {
                let record = match key.split_at_checked(2) {
                    Some(("a/", _)) => Record::Account(decode(key, value)?),
                    Some(("k/", _)) => Record::ApiKey(decode(key, value)?),
                    Some(("s/", _)) => Record::Session(decode(key, value)?),
                    Some(("u/", _)) => Record::User(decode(key, value)?),
                    _ => continue,
                };
                tables.apply(Change::Put(record));
            }
            // Checked last, so that the error names a newer version if that version stores its head
            // differently.
            db.check(&values, noted)?;
            tables.find_abandoned();
            Ok(tables)
        })
    }

    /// Makes all changes or none. They are on disk when this returns. After an error, they may or
    /// may not be on disk.
    pub(super) fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        // If one record is changed more than once, the last change wins.
        let mut values = BTreeMap::new();
        for change in changes {
            let (key, value) = match change {
                Change::Put(Record::Account(account)) => {
                    (format!("a/{}", account.email), Some(encode(account)?))
                }
                Change::Put(Record::ApiKey(key)) => (format!("k/{}", key.id), Some(encode(key)?)),
                Change::Put(Record::Session(session)) => {
                    (format!("s/{}", session.id), Some(encode(session)?))
                }
                Change::Put(Record::User(user)) => (format!("u/{}", user.id), Some(encode(user)?)),
                Change::RemoveAccount(email) => (format!("a/{email}"), None),
                Change::RemoveApiKey(id) => (format!("k/{id}"), None),
                Change::RemoveSession { id, .. } => (format!("s/{id}"), None),
                Change::RemoveUser(id) => (format!("u/{id}"), None),
            };
            values.insert(key, value);
        }
        self.write(values)
    }

    /// Returns `true` if memory and disk may differ because a change failed.
    pub(super) fn has_failed(&self) -> bool {
        self.db.is_none()
    }

    fn write(&mut self, values: BTreeMap<String, Option<Vec<u8>>>) -> io::Result<()> {
        let number = self.with_database(|db| db.write(values))?;
        if let Some(lock) = &self.lock {
            lock.note(number);
        }
        Ok(())
    }

    /// Runs `work` on the database, opening it if necessary. Closes the database if `work` fails.
    fn with_database<T>(
        &mut self,
        work: impl FnOnce(&mut Database) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.lock.is_none() {
            return Err(io::Error::other("the server has stopped"));
        }
        let db = match &mut self.db {
            Some(db) => db,
            db => db.insert(Database::open(&self.dir.join("db"), self.owner)?),
        };
        let done = work(db);
        if done.is_err() {
            self.db = None;
        }
        done
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
    }
}

/// Encodes a record so that [`decode`] can read it. A record that `decode` would reject is rejected
/// here rather than at the next start.
fn encode<T: DeserializeOwned + Serialize>(record: &T) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(&Versioned { v: VERSION, record })?;
    match untrusted_json::from_slice::<Versioned<T>>(&bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => {
            let what = "a record cannot be written as JSON that can be read again";
            Err(io::Error::new(ErrorKind::InvalidInput, what))
        }
    }
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> io::Result<T> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    // A key can contain an e-mail address, so the error names only its kind.
    let kind = key.split('/').next().unwrap_or_default();
    let invalid = |what: String| {
        io::Error::new(ErrorKind::InvalidData, format!("a record of kind {kind:?} {what}"))
    };
    match serde_json::from_slice(value) {
        Ok(Version { v }) if v > VERSION => Err(invalid(format!(
            "has version {v}, this program knows versions up to {VERSION}: use a newer one"
        ))),
        _ => untrusted_json::from_slice::<Versioned<T>>(value)
            .map(|versioned| versioned.record)
            .map_err(|error| invalid(format!("cannot be read (column {})", error.column()))),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::state::{
        Account, Identity, Registered, SessionParams, State, StateLimits, VerifiedLogin,
    };

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
    fn state_is_reloaded_after_disk_failure() {
        let dir = std::env::temp_dir().join(format!("keyfob-disk-failure-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let limits = StateLimits { users: 9, sessions_per_user: 9, access_lifetime: 1 };
        let state = State::open(Some(&dir), "app", limits).unwrap();
        let added = |email| state.add_account(account(email)).unwrap();
        assert_eq!(added("a"), Registered::Done);

        // Simulates a change that failed after all of it had reached the disk. No caller was
        // notified.
        {
            let mut disk = state.disk();
            let disk = disk.as_mut().unwrap();
            disk.commit(&[Change::put(account("b"))]).unwrap();
            disk.db = None;
        }
        assert!(state.account("b").is_none());
        assert_eq!(added("c"), Registered::Done);
        assert!(state.account("a").is_some() && state.account("b").is_some());
        assert_eq!(added("b"), Registered::Taken);

        state.close();
        assert!(state.add_account(account("d")).is_err());
        assert!(state.account("a").is_some() && state.account("d").is_none());
        let evidence =
            VerifiedLogin::new(Identity { id: "1".into(), provider_type: "anon-user".into() });
        let entry = SessionParams { device_id: String::new(), now: 1, lifetime: 1 };
        assert!(state.log_in(evidence, entry).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn hex_keys_round_trip() {
        let bytes = [0x0f; 32];
        assert_eq!(unhex(&random::hex(&bytes)), Some(bytes));
        assert_eq!(unhex(&"0".repeat(63)), None);
        assert_eq!(unhex(&"g".repeat(64)), None);
        assert_eq!(unhex(&"+f".repeat(32)), None);
    }
}
