//! The entries of the database.
//!
//! | bytes of a key | value |
//! | --- | --- |
//! | `meta/app` | the backend and the app, in UTF-8 |
//! | `meta/check` | the check of the encryption; no such entry in an unencrypted store |
//! | `meta/head` | the [`CommitHeader`] in JSON, its location encrypted |
//! | `u/`, length of the id (2 bytes, big-endian), id | a user's record, encrypted |
//! | `c/`, `created_commit` (8 bytes, big-endian), id | empty: users in the order of their creation |
//! | `r/`, complement of `last_used_commit` (8 bytes, big-endian), id | empty: logged-in users, the most recently used one first |
//!
//! The values of `meta/…` and `u/…` are stored in pieces; see [`kv`](crate::kv).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::UserId;
use crate::secret::wipe;
use crate::store::StoredUser;
use crate::store::record::VERSION;

pub(super) const APP: &[u8] = b"meta/app";
pub(super) const HEAD: &[u8] = b"meta/head";
pub(super) const CHECK: &[u8] = b"meta/check";
pub(super) const RECORDS: &[u8] = b"u/";
pub(super) const BY_CREATED: &[u8] = b"c/";
pub(super) const BY_USE: &[u8] = b"r/";

/// The state after the newest commit, except the users.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct CommitHeader {
    pub(super) v: u32,
    /// The number of the newest commit.
    pub(super) number: u64,
    /// The count of the generation file after the newest commit or repair.
    pub(super) generation: u64,
    pub(super) current: Option<UserId>,
    pub(super) location: Option<String>,
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

/// The change of one user in a commit.
pub(super) struct UserEdit {
    pub(super) id: UserId,
    /// The user's position before, if there is a record.
    pub(super) before: Option<SortKeys>,
    /// The new record and position, or `None` to remove the user.
    pub(super) after: Option<(SortKeys, Vec<u8>)>,
}

/// The position of a user in the orders `c/…` and `r/…`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SortKeys {
    created: u64,
    /// `None` while the user is logged out.
    used: Option<u64>,
}

impl Drop for UserEdit {
    fn drop(&mut self) {
        if let Some((_, record)) = &mut self.after {
            wipe(record);
        }
    }
}

impl SortKeys {
    pub(super) fn of(user: &StoredUser) -> Self {
        Self {
            created: user.created_commit,
            used: user.is_logged_in().then_some(user.last_used_commit),
        }
    }

    pub(super) fn keys(self, id: &UserId) -> impl Iterator<Item = Vec<u8>> {
        // Complemented, so that the most recently used user is first. To iterate backwards would link
        // a key of 1 MiB from sled into every program.
        let by_use = self.used.map(|used| order_key(BY_USE, !used, id));
        [order_key(BY_CREATED, self.created, id)].into_iter().chain(by_use)
    }
}

impl CommitHeader {
    /// Returns the header of a database without commits.
    pub(super) fn first() -> Self {
        let (current, location, more) = (None, None, Map::new());
        Self { v: VERSION, number: 0, generation: 0, current, location, more }
    }
}

/// Returns the key of a record. The length comes first, so that no key is a prefix of another.
pub(super) fn record_key(id: &UserId) -> Vec<u8> {
    let id = id.as_str().as_bytes();
    let length = u16::try_from(id.len()).unwrap_or(u16::MAX);
    [RECORDS, &length.to_be_bytes(), id].concat()
}

/// Returns the id in the key of a record or of an entry of its value, and the bytes after the id.
pub(super) fn parse_record_key(key: &[u8]) -> Option<(UserId, &[u8])> {
    let (length, rest) = key.strip_prefix(RECORDS)?.split_first_chunk()?;
    let (id, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((UserId::new(std::str::from_utf8(id).ok()?), rest))
}

pub(super) fn order_key(order: &[u8], place: u64, id: &UserId) -> Vec<u8> {
    [order, &place.to_be_bytes(), id.as_str().as_bytes()].concat()
}

pub(super) fn parse_order_key(key: &[u8]) -> Option<UserId> {
    let rest = key.strip_prefix(BY_USE).or_else(|| key.strip_prefix(BY_CREATED))?;
    std::str::from_utf8(rest.get(8..)?).ok().map(UserId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_keys_round_trip_and_are_prefix_free() {
        let ids = ["", "a", "a\0", "a\0\0\0", "ab", "u/"];
        for id in ids.map(UserId::new) {
            let key = record_key(&id);
            assert_eq!(parse_record_key(&key), Some((id.clone(), &[][..])));
            assert_eq!(parse_record_key(&[&*key, b"12"].concat()), Some((id.clone(), &b"12"[..])));
            for other in ids.map(UserId::new) {
                assert_eq!(record_key(&other).starts_with(&key), other == id);
            }
        }
        assert_eq!(parse_record_key(b"u/\0\x05a"), None);
        assert_eq!(parse_record_key(b"meta/head"), None);
    }
}
