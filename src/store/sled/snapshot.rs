//! `snapshot`: what readers need, in one small file, so that they never open the database.
//!
//! ```text
//! keyfob snapshot 1 0123456789abcdef      version, and the checksum of all the rest
//! {"generation":4,"database":0,…}         the index, one line of JSON
//! …                                       the records, as long as the index says
//! ```
//!
//! In a sealed store the second line is `{"app":…,"seal":…}`, and the rest, index and records, is
//! sealed as one.
//!
//! It holds the current user and those that were used last, while they fit. A version to come
//! keeps the first line as it is, so that it can be told from a damaged one. Nothing is lost with
//! a snapshot: the database has it all, recent events aside.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::VERSION;
use super::database::{Database, Edit, Head, Rank};
use super::files::failed;
use super::record::{decode, newer};
use super::secrecy::{Codec, Secrecy};
use crate::error::{StoreError, StoreErrorKind};
use crate::hash::fnv1a;
use crate::id::UserId;
use crate::secret::wipe;
use crate::store::ring::Ring;
use crate::store::{Recent, StoredUser};

/// How many bytes of users a snapshot holds; the current one is there whatever its size.
const BYTES: usize = 64 * 1024;
const MAGIC: &[u8] = b"keyfob snapshot ";

/// The state after a commit, as far as it fits.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// The settled generation that this is the snapshot of, at least.
    pub(super) generation: u64,
    /// The number in the name of the database this was taken from.
    pub(super) database: u64,
    /// The number of the newest commit.
    pub(super) number: u64,
    pub(super) current: Option<UserId>,
    pub(super) location: Option<String>,
    /// Whether all users are here.
    pub(super) complete: bool,
    users: HashMap<UserId, Arc<Kept>>,
    pub(super) ring: Ring,
    /// What it is sealed with.
    pub(super) codec: Codec,
}

/// A user's record as it is written, read at most once.
struct Kept {
    created: u64,
    used: u64,
    record: Vec<u8>,
    read: OnceLock<Arc<StoredUser>>,
}

/// The beginning of what is in the file: in the clear that of the index, else all of its line.
#[derive(Deserialize, Serialize)]
struct Owner {
    app: String,
    #[serde(default)]
    seal: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct Index {
    generation: u64,
    database: u64,
    number: u64,
    app: String,
    current: Option<UserId>,
    location: Option<String>,
    complete: bool,
    users: Vec<Place>,
    ring: Ring,
}

#[derive(Deserialize, Serialize)]
struct Place {
    id: UserId,
    created: u64,
    used: u64,
    bytes: usize,
}

impl Snapshot {
    /// Returns the state of a store without commits.
    pub(super) fn empty(codec: Codec) -> Self {
        Self {
            generation: 0,
            database: 0,
            number: 0,
            current: None,
            location: None,
            complete: true,
            users: HashMap::new(),
            ring: Ring::default(),
            codec,
        }
    }

    /// Reads the file. `None` means that it is missing or damaged; an error of kind `Key`, that it
    /// is sealed in another way.
    pub(super) fn load(
        path: &Path,
        app: &str,
        secrecy: &Secrecy,
    ) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = read(path)? else { return Ok(None) };
        let Some((owner, body)) = open_file(&bytes, path)? else { return Ok(None) };
        check_app(&owner.app, app, path)?;
        let check = match owner.seal.map(|seal| STANDARD.decode(seal)).transpose() {
            Ok(check) => check,
            Err(_) => return Ok(None),
        };
        let codec = match secrecy.fit(app, check.as_deref()) {
            Err(error) if error.kind == StoreErrorKind::Damaged => return Ok(None),
            codec => codec.map_err(|error| error.at(path))?,
        };
        let sealed = match body.iter().position(|byte| *byte == b'\n') {
            Some(end) if check.is_some() => &body[end + 1..],
            _ => body,
        };
        let Some(mut body) = codec.open_snapshot(sealed) else { return Ok(None) };
        let snapshot = Self::decode(&body, codec);
        wipe(&mut body);
        Ok(snapshot)
    }

    /// Tells whether the file has a whole snapshot in the clear.
    #[cfg(feature = "encryption")]
    pub(super) fn is_clear(path: &Path) -> Result<bool, StoreError> {
        let Some(bytes) = read(path)? else { return Ok(false) };
        Ok(open_file(&bytes, path)?.is_some_and(|(owner, _)| owner.seal.is_none()))
    }

    /// Takes the state from the database, without reading many more users than fit.
    pub(super) fn take(database: &Database, number: u64, head: &Head) -> Result<Self, StoreError> {
        let mut snapshot = Self {
            generation: head.generation,
            database: number,
            number: head.number,
            current: head.current.clone(),
            location: head.location.clone(),
            ring: Ring::since(head.number),
            ..Self::empty(database.codec().clone())
        };
        let mut room = BYTES;
        database.each_record(&mut |id, record| {
            let flow = snapshot.add(&mut room, id, record)?;
            snapshot.complete = flow.is_continue();
            Ok(flow)
        })?;
        if !snapshot.complete {
            snapshot.take_last_used(database)?;
        }
        Ok(snapshot)
    }

    fn take_last_used(&mut self, database: &Database) -> Result<(), StoreError> {
        self.users.clear();
        self.take_current(database)?;
        let mut room = BYTES.saturating_sub(self.bytes());
        database.each_by_use(&mut |id| match database.record(&id)? {
            Some(record) if !self.users.contains_key(&id) => self.add(&mut room, id, record),
            _ => Ok(ControlFlow::Continue(())),
        })
    }

    /// Takes the current user from the database, if it is not here and there is one.
    pub(super) fn take_current(&mut self, database: &Database) -> Result<(), StoreError> {
        if let Some(current) = self.current.clone()
            && !self.users.contains_key(&current)
            && let Some(record) = database.record(&current)?
        {
            let kept = Kept::new(record)?;
            self.users.insert(current, Arc::new(kept));
        }
        Ok(())
    }

    /// Adds a user if there is room for it.
    fn add(
        &mut self,
        room: &mut usize,
        id: UserId,
        record: Vec<u8>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let kept = Kept::new(record)?;
        let Some(left) = room.checked_sub(kept.size(&id)) else {
            return Ok(ControlFlow::Break(()));
        };
        *room = left;
        self.users.insert(id, Arc::new(kept));
        Ok(ControlFlow::Continue(()))
    }

    /// Tells whether there is room for users that had to be left out.
    pub(super) fn is_thin(&self) -> bool {
        !self.complete && self.bytes() < BYTES / 2
    }

    fn bytes(&self) -> usize {
        self.users.iter().map(|(id, kept)| kept.size(id)).sum()
    }

    pub(super) fn recent(&self, number: Option<u64>) -> Recent {
        self.ring.after(number, self.number)
    }

    /// Returns a user; `None` if it is not here, which says that there is none only if the
    /// snapshot is complete.
    pub(super) fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError> {
        self.users.get(id).map(|kept| kept.read()).transpose()
    }

    /// Returns the users that are here, by `created`, those after a place in that order or all.
    pub(super) fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        let is_after = |id, kept: &Kept| after.is_none_or(|after| (kept.created, id) > after);
        let mut users: Vec<_> = self.users.iter().filter(|(id, kept)| is_after(id, kept)).collect();
        users.sort_unstable_by_key(|(id, kept)| (kept.created, *id));
        users.into_iter().map(|(_, kept)| kept.read()).collect()
    }

    /// Returns what a database needs to hold the users that are here.
    pub(super) fn edits(&self) -> Result<Vec<Edit>, StoreError> {
        let edit = |(id, kept): (&UserId, &Arc<Kept>)| {
            let after = Some((Rank::of(&*kept.read()?), kept.record.clone()));
            Ok(Edit { id: id.clone(), before: None, after })
        };
        self.users.iter().map(edit).collect()
    }

    /// Puts a user in or takes one out, as a commit does.
    pub(super) fn edit(&mut self, edit: &Edit) -> Result<(), StoreError> {
        match &edit.after {
            Some((_, record)) => {
                let kept = Kept::new(record.clone())?;
                self.users.insert(edit.id.clone(), Arc::new(kept));
            }
            None => {
                self.users.remove(&edit.id);
            }
        }
        Ok(())
    }

    /// Leaves out the users whose last use is longest ago, until the rest fits.
    pub(super) fn fit(&mut self) {
        let mut bytes = self.bytes();
        if bytes <= BYTES {
            return;
        }
        let mut users: Vec<_> =
            self.users.iter().map(|(id, kept)| (kept.used, id.clone(), kept.size(id))).collect();
        users.sort_unstable();
        for (_, id, size) in users {
            if bytes <= BYTES {
                break;
            }
            if self.current.as_ref() != Some(&id) {
                self.users.remove(&id);
                self.complete = false;
                bytes -= size;
            }
        }
    }

    pub(super) fn encode(&self, app: &str) -> Result<Vec<u8>, StoreError> {
        let mut users: Vec<_> = self.users.iter().collect();
        users.sort_unstable_by_key(|(id, kept)| (kept.created, *id));
        let place = |(id, kept): &(&UserId, &Arc<Kept>)| Place {
            id: (*id).clone(),
            created: kept.created,
            used: kept.used,
            bytes: kept.record.len(),
        };
        let index = Index {
            generation: self.generation,
            database: self.database,
            number: self.number,
            app: app.to_owned(),
            current: self.current.clone(),
            location: self.location.clone(),
            complete: self.complete,
            users: users.iter().map(place).collect(),
            ring: self.ring.clone(),
        };
        let cannot = |error: serde_json::Error| {
            StoreError::new(StoreErrorKind::Io, "the snapshot cannot be written").because(error)
        };
        let mut body = serde_json::to_vec(&index).map_err(cannot)?;
        body.push(b'\n');
        for (_, kept) in users {
            body.extend_from_slice(&kept.record);
        }
        let Some(check) = self.codec.check() else { return Ok(seal_envelope(VERSION, &[&body])) };
        let owner = Owner { app: app.to_owned(), seal: Some(STANDARD.encode(check)) };
        let owner = serde_json::to_vec(&owner).map_err(cannot)?;
        let sealed = self.codec.seal_snapshot(&body)?;
        wipe(&mut body);
        Ok(seal_envelope(VERSION, &[&owner, b"\n", &sealed]))
    }

    /// Reads index and records.
    fn decode(body: &[u8], codec: Codec) -> Option<Self> {
        let end = body.iter().position(|byte| *byte == b'\n')?;
        let (index, mut records) = (&body[..end], &body[end + 1..]);
        let index: Index = serde_json::from_slice(index).ok()?;
        let mut users = HashMap::with_capacity(index.users.len());
        for Place { id, created, used, bytes } in index.users {
            let (record, rest) = records.split_at_checked(bytes)?;
            let (record, read) = (record.to_vec(), OnceLock::new());
            users.insert(id, Arc::new(Kept { created, used, record, read }));
            records = rest;
        }
        Some(Self {
            generation: index.generation,
            database: index.database,
            number: index.number,
            current: index.current,
            location: index.location,
            complete: index.complete,
            users,
            ring: index.ring,
            codec,
        })
    }
}

impl Kept {
    fn new(record: Vec<u8>) -> Result<Self, StoreError> {
        let user = decode(&record)?;
        let (created, used) = (user.created, user.used);
        Ok(Self { created, used, record, read: OnceLock::from(Arc::new(user)) })
    }

    /// What it takes in the file, the index roughly included.
    fn size(&self, id: &UserId) -> usize {
        self.record.len() + id.as_str().len() + 64
    }

    fn read(&self) -> Result<Arc<StoredUser>, StoreError> {
        if let Some(user) = self.read.get() {
            return Ok(Arc::clone(user));
        }
        let user = Arc::new(decode(&self.record)?);
        Ok(Arc::clone(self.read.get_or_init(|| user)))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        wipe(&mut self.record);
    }
}

// By hand: the record holds tokens.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("created", &self.created).finish_non_exhaustive()
    }
}

/// Refuses a directory that holds the users of another app or backend.
pub(super) fn check_app(found: &str, wanted: &str, path: &Path) -> Result<(), StoreError> {
    if found == wanted {
        return Ok(());
    }
    let reason = format!(
        "the directory holds the users of {found:?}, not of {wanted:?}, choose another directory"
    );
    Err(StoreError::new(StoreErrorKind::Mismatch, reason).at(path))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(Some).map_err(|error| failed("read the snapshot", path, error)),
    }
}

/// Returns whose users are in the file, and all of its body; `None` if it is damaged.
fn open_file<'a>(bytes: &'a [u8], path: &Path) -> Result<Option<(Owner, &'a [u8])>, StoreError> {
    let Some((version, body)) = open_envelope(bytes) else { return Ok(None) };
    if version > VERSION {
        return Err(newer("the snapshot", version).at(path));
    }
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice(line).ok().map(|owner| (owner, body)))
}

/// Puts the first line before a body, which comes in parts.
fn seal_envelope(version: u32, body: &[&[u8]]) -> Vec<u8> {
    let version = version.to_string();
    let sum = fnv1a(&[&[version.as_bytes(), b" "], body].concat());
    let first = format!(" {sum:016x}\n");
    [&[MAGIC, version.as_bytes(), first.as_bytes()], body].concat().concat()
}

/// Returns version and body, if the checksum of both is right.
fn open_envelope(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let body = &rest[end + 1..];
    let (version, sum) = std::str::from_utf8(&rest[..end]).ok()?.split_once(' ')?;
    let right = fnv1a(&[version.as_bytes(), b" ", body]);
    (sum == format!("{right:016x}")).then_some((version.parse().ok()?, body))
}
