//! The snapshot: the state that readers need, in one small file, so that they need not open the
//! database.
//!
//! It holds the current user and the most recently used other ones, up to a limit, and the events of
//! recent commits. If it is lost it is built from the database, except for the events. See
//! [`snapshot_file`](super::snapshot_file) for the format.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use super::database::Database;
use super::schema::{CommitHeader, SortKeys, UserEdit};
use crate::error::StoreError;
use crate::id::UserId;
use crate::secret::wipe;
use crate::store::encryption::RecordCodec;
use crate::store::event_log::EventLog;
use crate::store::record::decode;
use crate::store::{RecentEvents, StoredUser};

/// How many bytes of users a snapshot holds. The current user is included whatever its size.
const LIMIT: usize = 64 * 1024;

/// How much of a snapshot a reader needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LoadScope {
    /// The header: the current user and the location.
    Header,
    Full,
}

/// The state after a commit, up to a limit.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// The generation of this snapshot; the state may also be that of a later one.
    pub(super) generation: u64,
    /// The number in the name of the database.
    pub(super) database: u64,
    /// The number of the newest commit.
    pub(super) number: u64,
    pub(super) current: Option<UserId>,
    pub(super) location: Option<String>,
    /// Whether the snapshot has all users of the database.
    pub(super) complete: bool,
    /// Whether the body was loaded too; see [`LoadScope`].
    pub(super) is_full: bool,
    pub(super) users: HashMap<UserId, Arc<CachedRecord>>,
    pub(super) events: EventLog,
    /// The codec that encrypts and decrypts the file.
    pub(super) codec: RecordCodec,
}

/// A user's record in JSON, which is parsed at most once.
pub(super) struct CachedRecord {
    pub(super) created: u64,
    pub(super) used: u64,
    pub(super) record: Vec<u8>,
    pub(super) read: OnceLock<Arc<StoredUser>>,
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
            is_full: true,
            users: HashMap::new(),
            events: EventLog::default(),
            codec,
        }
    }

    /// Builds the snapshot from the database, without reading many more users than fit.
    pub(super) fn build_from(
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
            events: EventLog::since(head.number),
            ..Self::empty(database.codec().clone())
        };
        let mut room = LIMIT;
        database.each_record(&mut |id, record| {
            let flow = snapshot.add(&mut room, id, record)?;
            snapshot.complete = flow.is_continue();
            Ok(flow)
        })?;
        if !snapshot.complete {
            snapshot.add_last_used(database)?;
        }
        Ok(snapshot)
    }

    fn add_last_used(&mut self, database: &Database) -> Result<(), StoreError> {
        self.users.clear();
        self.add_current(database)?;
        let mut room = LIMIT.saturating_sub(self.bytes());
        database.each_by_use(&mut |id| match database.record(&id)? {
            Some(record) if !self.users.contains_key(&id) => self.add(&mut room, id, record),
            _ => Ok(ControlFlow::Continue(())),
        })
    }

    /// Adds the current user from the database, unless the snapshot has it.
    pub(super) fn add_current(&mut self, database: &Database) -> Result<(), StoreError> {
        if let Some(current) = self.current.clone()
            && !self.users.contains_key(&current)
            && let Some(record) = database.record(&current)?
        {
            let cached = CachedRecord::new(record)?;
            self.users.insert(current, Arc::new(cached));
        }
        Ok(())
    }

    /// Adds a user if there is room.
    fn add(
        &mut self,
        room: &mut usize,
        id: UserId,
        record: Vec<u8>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let cached = CachedRecord::new(record)?;
        let Some(left) = room.checked_sub(cached.size(&id)) else {
            return Ok(ControlFlow::Break(()));
        };
        *room = left;
        self.users.insert(id, Arc::new(cached));
        Ok(ControlFlow::Continue(()))
    }

    /// Returns `true` if there is room for users that were left out.
    pub(super) fn has_spare_room(&self) -> bool {
        !self.complete && self.bytes() < LIMIT / 2
    }

    fn bytes(&self) -> usize {
        self.users.iter().map(|(id, cached)| cached.size(id)).sum()
    }

    /// Returns `true` if as much was loaded as `scope` requires.
    pub(super) fn has(&self, scope: LoadScope) -> bool {
        self.is_full || scope == LoadScope::Header
    }

    pub(super) fn recent(&self, number: Option<u64>) -> RecentEvents {
        self.events.after(number, self.number)
    }

    /// Returns a user. `None` means that the user does not exist only if the snapshot is complete
    /// and was loaded in full.
    pub(super) fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError> {
        self.users.get(id).map(|cached| cached.read()).transpose()
    }

    /// Returns the users of the snapshot by `created_commit`, those after a position in that order or
    /// all.
    pub(super) fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        let is_after =
            |id, cached: &CachedRecord| after.is_none_or(|after| (cached.created, id) > after);
        let users = self.users.iter().filter(|(id, cached)| is_after(id, cached));
        let mut users: Vec<_> = users.collect();
        users.sort_unstable_by_key(|(id, cached)| (cached.created, *id));
        users.into_iter().map(|(_, cached)| cached.read()).collect()
    }

    /// Returns the header of a database with the state of the snapshot.
    pub(super) fn commit_header(&self) -> CommitHeader {
        CommitHeader {
            number: self.number,
            generation: self.generation,
            current: self.current.clone(),
            location: self.location.clone(),
            ..CommitHeader::first()
        }
    }

    /// Returns the edits that write the users of the snapshot into an empty database.
    pub(super) fn edits(&self) -> Result<Vec<UserEdit>, StoreError> {
        let edit = |(id, cached): (&UserId, &Arc<CachedRecord>)| {
            let after = Some((SortKeys::of(&*cached.read()?), cached.record.clone()));
            Ok(UserEdit { id: id.clone(), before: None, after })
        };
        self.users.iter().map(edit).collect()
    }

    /// Inserts, replaces or removes a user.
    pub(super) fn edit(&mut self, edit: &UserEdit) -> Result<(), StoreError> {
        match &edit.after {
            Some((_, record)) => {
                let cached = CachedRecord::new(record.clone())?;
                self.users.insert(edit.id.clone(), Arc::new(cached));
            }
            None => {
                self.users.remove(&edit.id);
            }
        }
        Ok(())
    }

    /// Removes the least recently used users, until the others fit.
    pub(super) fn evict_to_limit(&mut self) {
        let mut bytes = self.bytes();
        if bytes <= LIMIT {
            return;
        }
        let size = |(id, cached): (&UserId, &Arc<CachedRecord>)| {
            (cached.used, id.clone(), cached.size(id))
        };
        let mut users: Vec<_> = self.users.iter().map(size).collect();
        users.sort_unstable();
        for (_, id, size) in users {
            if bytes <= LIMIT {
                break;
            }
            if self.current.as_ref() != Some(&id) {
                self.users.remove(&id);
                self.complete = false;
                bytes -= size;
            }
        }
    }
}

impl CachedRecord {
    fn new(record: Vec<u8>) -> Result<Self, StoreError> {
        let user = decode(&record)?;
        let (created, used) = (user.created_commit, user.last_used_commit);
        Ok(Self { created, used, record, read: OnceLock::from(Arc::new(user)) })
    }

    /// Its approximate size in the file, including its entry.
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
