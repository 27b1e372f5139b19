//! Encoding and decoding of users, events and the location.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::scripts::Head;
use crate::error::{StoreError, StoreErrorKind};
use crate::event::Event;
use crate::id::UserId;
use crate::store::encryption::{RecordCodec, random};
use crate::store::{RecentEvents, StoredUser, record};

/// The maximum size of the events of one commit, in bytes.
const EVENT_BYTES: usize = 16 * 1024;

/// How many digits a number has in keys that are sorted as text.
const DIGITS: usize = 20;

/// Formats a number so that its text sorts like the number.
pub(super) fn digits(number: u64) -> String {
    format!("{number:0DIGITS$}")
}

/// Returns the name of a user in the sorted set `order`: by `created`, then by id.
pub(super) fn order_name(created: u64, id: &UserId) -> String {
    format!("{}:{}", digits(created), id.as_str())
}

/// Returns 128 random bits as hexadecimal text.
pub(super) fn random_hex() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Decodes a user's record.
pub(super) fn decode_user(
    codec: &RecordCodec,
    id: &UserId,
    bytes: Vec<u8>,
) -> Result<Arc<StoredUser>, StoreError> {
    let Some(record) = codec.decrypt_record(id, bytes) else {
        return Err(damaged("a user's record was not written for this user of this namespace"));
    };
    Ok(Arc::new(record::decode(&record)?))
}

/// Decodes the stored location.
pub(super) fn decrypt_location(
    codec: &RecordCodec,
    head: &Head,
) -> Result<Option<String>, StoreError> {
    let Some(location) = head.location.clone() else { return Ok(None) };
    match codec.decrypt_location(location) {
        Some(location) => Ok(Some(location)),
        None => Err(damaged("the location was not written for this namespace")),
    }
}

/// Encodes the events of a commit, preceded by its number. Events that are too long are omitted;
/// readers then see that they missed some.
pub(super) fn encode_events(
    codec: &RecordCodec,
    number: u64,
    events: &[&Event],
) -> Result<Vec<u8>, StoreError> {
    let mut entry = digits(number).into_bytes();
    let text = serde_json::to_vec(events).unwrap_or_default();
    if !text.is_empty() && text.len() <= EVENT_BYTES {
        entry.extend(codec.encrypt_events(number, &text)?);
    }
    Ok(entry)
}

/// Decodes an entry from [`encode_events`] into `recent`. An invalid entry sets `lagged`.
pub(super) fn decode_events(codec: &RecordCodec, entry: &[u8], recent: &mut RecentEvents) {
    let read = || {
        let (number, encrypted) = entry.split_at_checked(DIGITS)?;
        let number = std::str::from_utf8(number).ok()?.parse().ok()?;
        let text = codec.decrypt_events(number, encrypted)?;
        let events: Vec<Box<RawValue>> = serde_json::from_slice(&text).ok()?;
        Some((number, events))
    };
    let Some((number, events)) = read() else {
        recent.lagged = true;
        return;
    };
    for event in events {
        match serde_json::from_str(event.get()) {
            Ok(event) => recent.events.push((number, event)),
            Err(_) => recent.lagged = true,
        }
    }
}

pub(super) fn damaged(reason: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Damaged, reason)
}
