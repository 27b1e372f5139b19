//! The database of a store: users, the newest commit, and how both are found. See [`schema`] for its
//! keys. Records are encrypted and decrypted here.
//!
//! [`schema`]: super::schema

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use super::schema::{
    APP, BY_CREATED, BY_USE, CHECK, CommitHeader, HEAD, RECORDS, SortKeys, UserEdit, order_key,
    parse_order_key, parse_record_key, record_key,
};
use crate::deadline::Deadline;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;
use crate::kv::{Batch, Kv, Visited};
use crate::owner::Owner;
use crate::store::encryption::{EncryptionMode, RecordCodec};
use crate::store::record::{check_version, decode};
use crate::untrusted_json;

/// How many records are encrypted anew in one batch.
const COPY: usize = 512;

/// An open database, which no other thread or process can open meanwhile.
#[derive(Debug)]
pub(super) struct Database {
    kv: Kv,
    codec: RecordCodec,
}

impl Database {
    /// Opens the database, and creates it if there is none; see [`Kv::open`].
    pub(super) fn open(
        path: &Path,
        owner: Option<Owner>,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        Ok(Self { kv: Kv::open(path, owner, deadline)?, codec: RecordCodec::default() })
    }

    /// Remembers that the database has all that it should have.
    pub(super) fn mark_verified(&self) {
        self.kv.mark_verified();
    }

    /// Remembers that the database is damaged.
    pub(super) fn mark_damaged(&self, why: &str) {
        self.kv.mark_damaged(why);
    }

    pub(super) fn path(&self) -> &Path {
        self.kv.path()
    }

    /// Returns `true` if damage was found.
    pub(super) fn is_damaged(&self) -> bool {
        self.kv.damage().is_some()
    }

    /// Returns the backend and the app whose users the database holds.
    pub(super) fn app(&self) -> Result<Option<String>, StoreError> {
        let app = self.kv.value(APP)?;
        Ok(app.map(|app| String::from_utf8_lossy(&app).into_owned()))
    }

    /// Returns the header of the newest commit; `None` if the database was never finished or has
    /// lost everything. Its location is still encrypted.
    pub(super) fn head(&self) -> Result<Option<CommitHeader>, StoreError> {
        let Some(bytes) = self.kv.value(HEAD)? else { return Ok(None) };
        check_version("this store", &bytes).map_err(|error| error.at(self.path()))?;
        match untrusted_json::from_slice(&bytes) {
            Ok(head) => Ok(Some(head)),
            Err(_) => Err(self.kv.damage_error("its header cannot be parsed")),
        }
    }

    /// Finds out how the records are encrypted.
    ///
    /// # Errors
    /// Of kind `Key` if `encryption` does not match.
    pub(super) fn unlock(
        &mut self,
        encryption: &EncryptionMode,
        app: &str,
    ) -> Result<(), StoreError> {
        let check = self.kv.value(CHECK)?;
        let codec = encryption.fit(app, check.as_deref());
        self.codec = codec.map_err(|error| error.at(self.path()))?;
        Ok(())
    }

    /// Returns the codec that encrypts and decrypts the records.
    pub(super) fn codec(&self) -> &RecordCodec {
        &self.codec
    }

    /// Returns a user's record.
    pub(super) fn record(&self, id: &UserId) -> Result<Option<Vec<u8>>, StoreError> {
        self.kv.value(&record_key(id))?.map(|bytes| self.decrypt_record(id, bytes)).transpose()
    }

    fn decrypt_record(&self, id: &UserId, bytes: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let record = self.codec.decrypt_record(id, bytes);
        record.ok_or_else(|| self.kv.damage_error("a record was not encrypted for this user"))
    }

    /// Passes all records to `visit`, in an unspecified order, until it breaks.
    pub(super) fn each_record(
        &self,
        visit: &mut dyn FnMut(UserId, Vec<u8>) -> Visited,
    ) -> Result<(), StoreError> {
        self.kv.each_value(RECORDS, &mut |key, record| {
            let Some((id, [])) = parse_record_key(key) else {
                return Err(self.kv.damage_error("a record has an invalid key"));
            };
            let record = self.decrypt_record(&id, record)?;
            visit(id, record)
        })
    }

    /// Passes the ids of the logged-in users to `visit`, the most recently used one first, until it
    /// breaks.
    pub(super) fn each_by_use(
        &self,
        visit: &mut dyn FnMut(UserId) -> Visited,
    ) -> Result<(), StoreError> {
        self.kv.each_key(BY_USE, BY_USE, &mut |key| match parse_order_key(key) {
            Some(id) => visit(id),
            None => Err(self.kv.damage_error("the order of use is broken")),
        })
    }

    /// Passes the records to `visit` by `created_commit`, those after a position in that order or
    /// all, until it breaks.
    pub(super) fn each_by_created(
        &self,
        after: Option<(u64, &UserId)>,
        visit: &mut dyn FnMut(UserId, Vec<u8>) -> Visited,
    ) -> Result<(), StoreError> {
        let from = match after {
            // The next possible key.
            Some((created, id)) => [&*order_key(BY_CREATED, created, id), b"\0"].concat(),
            None => BY_CREATED.to_vec(),
        };
        self.kv.each_key(BY_CREATED, &from, &mut |key| {
            let id = parse_order_key(key);
            let record = id.as_ref().map(|id| self.record(id)).transpose()?.flatten();
            let (Some(id), Some(record)) = (id, record) else {
                return Err(self.kv.damage_error("the order of users is broken"));
            };
            visit(id, record)
        })
    }

    /// Writes the header and the edits, all or nothing. They are not on disk before [`Self::sync`].
    pub(super) fn write(&self, head: &CommitHeader, edits: &[UserEdit]) -> Result<(), StoreError> {
        let mut batch = self.batch(edits)?;
        let location = head.location.as_ref().map(|location| self.codec.encrypt_location(location));
        let location = location.transpose().map_err(|error| error.at(self.path()))?;
        let Ok(head) = serde_json::to_vec(&CommitHeader { location, ..head.clone() }) else {
            let reason = "the header of the database cannot be written as JSON";
            return Err(StoreError::new(StoreErrorKind::Io, reason).at(self.path()));
        };
        self.kv.put(&mut batch, HEAD, Some(&head))?;
        self.kv.apply(batch)
    }

    fn batch(&self, edits: &[UserEdit]) -> Result<Batch, StoreError> {
        let mut batch = Batch::default();
        for edit in edits {
            let id = &edit.id;
            let record =
                edit.after.as_ref().map(|(_, record)| self.codec.encrypt_record(id, record));
            let record = record.transpose().map_err(|error| error.at(self.path()))?;
            self.kv.put(&mut batch, &record_key(id), record.as_deref())?;
            for key in edit.before.into_iter().flat_map(|keys| keys.keys(id)) {
                batch.remove(key);
            }
            for key in edit.after.iter().flat_map(|(keys, _)| keys.keys(id)) {
                batch.insert(key, &[]);
            }
        }
        Ok(batch)
    }

    /// Initialises an empty database: writes the app, and how the records are encrypted.
    pub(super) fn begin(&mut self, app: &str, codec: RecordCodec) -> Result<(), StoreError> {
        self.kv.sync_config()?;
        let mut batch = Batch::default();
        self.kv.put(&mut batch, APP, Some(app.as_bytes()))?;
        self.kv.put(&mut batch, CHECK, codec.check())?;
        self.codec = codec;
        self.kv.apply(batch)
    }

    /// Copies everything except the header and the edited users into an initialised database.
    pub(super) fn copy_to(&self, to: &Self, edits: &[UserEdit]) -> Result<(), StoreError> {
        if !self.codec.is_same(&to.codec) {
            return self.copy_records_to(to, edits);
        }
        let edited: HashSet<_> = edits.iter().map(|edit| &edit.id).collect();
        self.kv.copy_to(&to.kv, |key| {
            let id = parse_record_key(key).map(|(id, _)| id).or_else(|| parse_order_key(key));
            key.starts_with(HEAD) || id.is_some_and(|id| edited.contains(&id))
        })
    }

    /// Copies the records into a database that is encrypted in another way.
    fn copy_records_to(&self, to: &Self, edits: &[UserEdit]) -> Result<(), StoreError> {
        let mut copied = Vec::new();
        let copy = |copied: &mut Vec<UserEdit>| {
            let batch = to.batch(copied)?;
            copied.clear();
            to.kv.apply(batch)
        };
        self.each_record(&mut |id, record| {
            if edits.iter().all(|edit| edit.id != id) {
                let user = decode(&record).map_err(|error| error.at(self.path()))?;
                let after = Some((SortKeys::of(&user), record));
                copied.push(UserEdit { id, before: None, after });
            }
            if copied.len() == COPY {
                copy(&mut copied)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        copy(&mut copied)
    }

    /// Makes all changes survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.kv.sync()
    }
}
