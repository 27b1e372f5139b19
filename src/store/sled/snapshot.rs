//! `snapshot`: what readers need, in one small file, so that they never open the database.
//!
//! ```text
//! keyfob snapshot 0123456789abcdef 1 640 fedcba9876543210
//! {"generation":4,"database":0,…}         the head: one line of JSON,
//! …                                       and the record of the current user
//! {"users":[…],"ring":[…]}                the tail: one line of JSON,
//! …                                       and the records of others, as long as it says
//! ```
//!
//! The first line has the checksum of what comes after it, to the end of the head; the version;
//! the length of the head; and the checksum of the tail. So who is current is known from the
//! beginning of the file, however many others there are. In a sealed store the head is one line,
//! `{"app":…,"seal":…}`, and all of the above sealed as one; there is no tail.
//!
//! It holds the current user and those that were used last, while they fit. A version to come
//! keeps the first line as it is, so that it can be told from a damaged one. Nothing is lost with
//! a snapshot: the database has it all, recent events aside.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::database::{CommitHeader, Database, SortKeys, UserEdit};
use super::layout::failed;
use crate::error::{StoreError, StoreErrorKind};
use crate::hash::fnv1a;
use crate::id::UserId;
use crate::secret::wipe;
use crate::store::encryption::{EncryptionMode, RecordCodec};
use crate::store::event_log::EventLog;
use crate::store::record::VERSION;
use crate::store::record::{decode, newer};
use crate::store::{RecentEvents, StoredUser};

/// How many bytes of users a snapshot holds; the current one is there whatever its size.
const BYTES: usize = 64 * 1024;
/// How much of the file is read for a glance.
const GLANCE: usize = 8 * 1024;
const MAGIC: &[u8] = b"keyfob snapshot ";

/// How much of a snapshot somebody needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LoadScope {
    /// The head: who is current, and that user.
    Header,
    Full,
}

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
    /// Whether the tail was read as well.
    whole: bool,
    users: HashMap<UserId, Arc<CachedRecord>>,
    pub(super) ring: EventLog,
    /// What it is sealed with.
    pub(super) codec: RecordCodec,
}

/// A user's record as it is written, read at most once.
struct CachedRecord {
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
    user: Option<Entry>,
}

#[derive(Deserialize, Serialize)]
struct Tail {
    users: Vec<Entry>,
    ring: EventLog,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    id: UserId,
    created: u64,
    used: u64,
    bytes: usize,
}

impl Snapshot {
    /// Returns the state of a store without commits.
    pub(super) fn empty(codec: RecordCodec) -> Self {
        Self {
            generation: 0,
            database: 0,
            number: 0,
            current: None,
            location: None,
            complete: true,
            whole: true,
            users: HashMap::new(),
            ring: EventLog::default(),
            codec,
        }
    }

    /// Reads the file, at least as much of it as is asked for. `None` means that it is missing or
    /// damaged; an error of kind `Key`, that it is sealed in another way.
    pub(super) fn load(
        path: &Path,
        app: &str,
        secrecy: &EncryptionMode,
        part: LoadScope,
    ) -> Result<Option<Self>, StoreError> {
        let Some(file) = open(path)? else { return Ok(None) };
        let unread = |error| failed("read the snapshot", path, error);
        let mut bytes = Vec::with_capacity(GLANCE);
        read_on(&file, &mut bytes, GLANCE).map_err(unread)?;
        if part == LoadScope::Header
            && let Some(envelope) = Envelope::open(&bytes)
            && let Some((owner, _)) = envelope.owner(path)?
            && owner.seal.is_none()
        {
            check_app(&owner.app, app, path)?;
            let codec = secrecy.fit(app, None).map_err(|error| error.at(path))?;
            return Ok(Self::decode_head(&mut { envelope.head }, codec));
        }
        read_on(&file, &mut bytes, usize::MAX).map_err(unread)?;
        let Some(envelope) = Envelope::open(&bytes).filter(Envelope::is_whole) else {
            return Ok(None);
        };
        let Some((owner, line)) = envelope.owner(path)? else { return Ok(None) };
        check_app(&owner.app, app, path)?;
        let check = match owner.seal.map(|seal| STANDARD.decode(seal)).transpose() {
            Ok(check) => check,
            Err(_) => return Ok(None),
        };
        let codec = match secrecy.fit(app, check.as_deref()) {
            Err(error) if error.kind == StoreErrorKind::Damaged => return Ok(None),
            codec => codec.map_err(|error| error.at(path))?,
        };
        if check.is_none() {
            return Ok(Self::decode(&bytes[envelope.start..], codec));
        }
        let Some(mut body) = codec.open_snapshot(&envelope.head[line..]) else { return Ok(None) };
        let snapshot = Self::decode(&body, codec);
        wipe(&mut body);
        Ok(snapshot)
    }

    /// Tells whether the file has a whole snapshot in the clear.
    #[cfg(feature = "encryption")]
    pub(super) fn is_clear(path: &Path) -> Result<bool, StoreError> {
        let Some(file) = open(path)? else { return Ok(false) };
        let mut bytes = Vec::new();
        read_on(&file, &mut bytes, usize::MAX)
            .map_err(|error| failed("read the snapshot", path, error))?;
        let Some(envelope) = Envelope::open(&bytes).filter(Envelope::is_whole) else {
            return Ok(false);
        };
        Ok(envelope.owner(path)?.is_some_and(|(owner, _)| owner.seal.is_none()))
    }

    /// Takes the state from the database, without reading many more users than fit.
    pub(super) fn take(
        database: &Database,
        number: u64,
        head: &CommitHeader,
    ) -> Result<Self, StoreError> {
        let mut snapshot = Self {
            generation: head.generation,
            database: number,
            number: head.number,
            current: head.current.clone(),
            location: head.location.clone(),
            ring: EventLog::since(head.number),
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
            let kept = CachedRecord::new(record)?;
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
        let kept = CachedRecord::new(record)?;
        let Some(left) = room.checked_sub(kept.size(&id)) else {
            return Ok(ControlFlow::Break(()));
        };
        *room = left;
        self.users.insert(id, Arc::new(kept));
        Ok(ControlFlow::Continue(()))
    }

    /// Tells whether there is room for users that had to be left out.
    pub(super) fn has_spare_room(&self) -> bool {
        !self.complete && self.bytes() < BYTES / 2
    }

    fn bytes(&self) -> usize {
        self.users.iter().map(|(id, kept)| kept.size(id)).sum()
    }

    /// Tells whether it has what is asked for.
    pub(super) fn has(&self, part: LoadScope) -> bool {
        self.whole || part == LoadScope::Header
    }

    pub(super) fn recent(&self, number: Option<u64>) -> RecentEvents {
        self.ring.after(number, self.number)
    }

    /// Returns a user; `None` if it is not here, which says that there is none only if the
    /// snapshot is complete and whole.
    pub(super) fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError> {
        self.users.get(id).map(|kept| kept.read()).transpose()
    }

    /// Returns the users that are here, by `created_commit`, those after a place in that order or all.
    pub(super) fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        let is_after =
            |id, kept: &CachedRecord| after.is_none_or(|after| (kept.created, id) > after);
        let mut users: Vec<_> = self.users.iter().filter(|(id, kept)| is_after(id, kept)).collect();
        users.sort_unstable_by_key(|(id, kept)| (kept.created, *id));
        users.into_iter().map(|(_, kept)| kept.read()).collect()
    }

    /// Returns what a database needs to hold the users that are here.
    pub(super) fn edits(&self) -> Result<Vec<UserEdit>, StoreError> {
        let edit = |(id, kept): (&UserId, &Arc<CachedRecord>)| {
            let after = Some((SortKeys::of(&*kept.read()?), kept.record.clone()));
            Ok(UserEdit { id: id.clone(), before: None, after })
        };
        self.users.iter().map(edit).collect()
    }

    /// Puts a user in or takes one out, as a commit does.
    pub(super) fn edit(&mut self, edit: &UserEdit) -> Result<(), StoreError> {
        match &edit.after {
            Some((_, record)) => {
                let kept = CachedRecord::new(record.clone())?;
                self.users.insert(edit.id.clone(), Arc::new(kept));
            }
            None => {
                self.users.remove(&edit.id);
            }
        }
        Ok(())
    }

    /// Leaves out the users whose last use is longest ago, until the rest fits.
    pub(super) fn evict_to_limit(&mut self) {
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
        let entry = |(id, kept): &(&UserId, &Arc<CachedRecord>)| Entry {
            id: (*id).clone(),
            created: kept.created,
            used: kept.used,
            bytes: kept.record.len(),
        };
        let current = self.current.as_ref().and_then(|id| self.users.get_key_value(id));
        let index = Index {
            generation: self.generation,
            database: self.database,
            number: self.number,
            app: app.to_owned(),
            current: self.current.clone(),
            location: self.location.clone(),
            complete: self.complete,
            user: current.as_ref().map(entry),
        };
        let mut others: Vec<_> =
            self.users.iter().filter(|(id, _)| Some(*id) != self.current.as_ref()).collect();
        others.sort_unstable_by_key(|(id, kept)| (kept.created, *id));
        let tail = Tail { users: others.iter().map(entry).collect(), ring: self.ring.clone() };
        let mut head = line(&index)?;
        head.extend_from_slice(current.map_or(&[], |(_, kept)| &kept.record));
        let mut tail = line(&tail)?;
        for (_, kept) in others {
            tail.extend_from_slice(&kept.record);
        }
        let Some(check) = self.codec.check() else { return Ok(Envelope::seal(&head, &tail)) };
        let owner = line(&Owner { app: app.to_owned(), seal: Some(STANDARD.encode(check)) })?;
        let mut body = [head, tail].concat();
        let sealed = self.codec.seal_snapshot(&body)?;
        wipe(&mut body);
        Ok(Envelope::seal(&[owner, sealed].concat(), &[]))
    }

    /// Reads head and tail.
    fn decode(mut body: &[u8], codec: RecordCodec) -> Option<Self> {
        let snapshot = Self::decode_head(&mut body, codec)?;
        let tail: Tail = serde_json::from_slice(take_line(&mut body)?).ok()?;
        let Self { mut users, complete, .. } = snapshot;
        users.reserve(tail.users.len());
        for entry in tail.users {
            let (id, kept) = entry.take(&mut body)?;
            users.insert(id, kept);
        }
        Some(Self { users, complete, whole: true, ring: tail.ring, ..snapshot })
    }

    /// Reads the head, and leaves what comes after it.
    fn decode_head(body: &mut &[u8], codec: RecordCodec) -> Option<Self> {
        let index: Index = serde_json::from_slice(take_line(body)?).ok()?;
        let mut users = HashMap::new();
        if let Some(entry) = index.user {
            let (id, kept) = entry.take(body)?;
            users.insert(id, kept);
        }
        Some(Self {
            generation: index.generation,
            database: index.database,
            number: index.number,
            current: index.current,
            location: index.location,
            complete: index.complete,
            whole: false,
            users,
            ring: EventLog::default(),
            codec,
        })
    }
}

impl Entry {
    /// Takes the record from the beginning of what is left.
    fn take(self, records: &mut &[u8]) -> Option<(UserId, Arc<CachedRecord>)> {
        let (record, rest) = records.split_at_checked(self.bytes)?;
        *records = rest;
        let (record, read) = (record.to_vec(), OnceLock::new());
        let kept = CachedRecord { created: self.created, used: self.used, record, read };
        Some((self.id, Arc::new(kept)))
    }
}

impl CachedRecord {
    fn new(record: Vec<u8>) -> Result<Self, StoreError> {
        let user = decode(&record)?;
        let (created, used) = (user.created_commit, user.last_used_commit);
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

impl Drop for CachedRecord {
    fn drop(&mut self) {
        wipe(&mut self.record);
    }
}

// By hand: the record holds tokens.
impl std::fmt::Debug for CachedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedRecord")
            .field("created_commit", &self.created)
            .finish_non_exhaustive()
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

/// Takes a line of JSON from the beginning, without its end.
fn take_line<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (line, rest) = body.split_at(body.iter().position(|byte| *byte == b'\n')?);
    *body = &rest[1..];
    Some(line)
}

fn line(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let mut line = serde_json::to_vec(value).map_err(|error| {
        StoreError::new(StoreErrorKind::Io, "the snapshot cannot be written").because(error)
    })?;
    line.push(b'\n');
    Ok(line)
}

fn open(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => file.map(Some).map_err(|error| failed("open the snapshot", path, error)),
    }
}

/// Reads on, until there are so many bytes or no more.
fn read_on(file: &File, bytes: &mut Vec<u8>, until: usize) -> io::Result<()> {
    let more = until.saturating_sub(bytes.len());
    file.take(more.try_into().unwrap_or(u64::MAX)).read_to_end(bytes).map(drop)
}

/// The file, or the beginning of it, by its first line.
struct Envelope<'a> {
    version: u32,
    /// Where the head starts.
    start: usize,
    head: &'a [u8],
    /// What was read of the tail, and what it should be.
    tail: &'a [u8],
    tail_sum: u64,
}

impl<'a> Envelope<'a> {
    /// Reads the first line; `None` if the head is damaged, or not all of it is here.
    fn open(bytes: &'a [u8]) -> Option<Self> {
        const DIGITS: usize = 16;
        let (sum, rest) = bytes.strip_prefix(MAGIC)?.split_at_checked(DIGITS)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let mut words = std::str::from_utf8(&rest[..end]).ok()?.strip_prefix(' ')?.split(' ');
        let version = words.next()?.parse().ok()?;
        let length = words.next()?.parse().ok()?;
        let tail_sum = number(words.next()?)?;
        let (head, tail) = rest[end + 1..].split_at_checked(length)?;
        let right = fnv1a(&[&rest[..=end], head]) == number(std::str::from_utf8(sum).ok()?)?;
        let start = MAGIC.len() + DIGITS + end + 1;
        (right && words.next().is_none()).then_some(Self { version, start, head, tail, tail_sum })
    }

    fn is_whole(&self) -> bool {
        fnv1a(&[self.tail]) == self.tail_sum
    }

    /// Returns whose users are in the file, and the length of the line that says so; `None` if it
    /// is damaged.
    fn owner(&self, path: &Path) -> Result<Option<(Owner, usize)>, StoreError> {
        if self.version > VERSION {
            return Err(newer("the snapshot", self.version).at(path));
        }
        let line = self.head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(serde_json::from_slice(line)
            .ok()
            .map(|owner| (owner, self.head.len().min(line.len() + 1))))
    }

    /// Puts the first line before head and tail.
    fn seal(head: &[u8], tail: &[u8]) -> Vec<u8> {
        let first = format!(" {VERSION} {} {:016x}\n", head.len(), fnv1a(&[tail]));
        let sum = format!("{:016x}", fnv1a(&[first.as_bytes(), head]));
        [MAGIC, sum.as_bytes(), first.as_bytes(), head, tail].concat()
    }
}

/// Reads a checksum: sixteen digits, as they are written here and in no other way.
fn number(digits: &str) -> Option<u64> {
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}
