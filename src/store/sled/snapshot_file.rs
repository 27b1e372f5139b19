//! The format of the file `snapshot`.
//!
//! ```text
//! keyfob snapshot 0123456789abcdef 1 640 fedcba9876543210
//! {"generation":4,"database":0,…}
//! …
//! {"users":[…],"events":{…}}
//! …
//! ```
//!
//! | bytes | content |
//! | --- | --- |
//! | 16 | `keyfob snapshot` and a space |
//! | 16 | checksum of the rest of this line, from the next byte on, and of the header: hexadecimal, see [`checksum`] |
//! | to the end of the line | a space, the version, a space, the length of the header in decimal digits, a space, the checksum of the body |
//! | header | one line of JSON ([`Header`]), then the record of the current user |
//! | body | one line of JSON ([`Body`]), then the records of the other users, with the lengths in it |
//!
//! So the current user can be read from the beginning of the file, however many other users follow.
//!
//! In an encrypted store there is no body, and the header is
//!
//! | bytes | content |
//! | --- | --- |
//! | one line | JSON: `{"app":…,"check":…}` ([`Owner`]); `check` is the check of the encryption in base64 |
//! | 24 | nonce |
//! | the rest | header and body of the table above, encrypted together |
//!
//! Later versions keep the first line up to the version, so that a newer file is distinguished from
//! a damaged one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::snapshot::{CachedRecord, LoadScope, Snapshot};
use crate::error::{StoreError, StoreErrorKind, failed};
use crate::hash::checksum;
use crate::id::UserId;
use crate::secret::wipe;
use crate::store::encryption::{EncryptionMode, RecordCodec};
use crate::store::event_log::EventLog;
use crate::store::record::{VERSION, newer};

/// How many bytes are read for [`LoadScope::Header`].
const HEADER: usize = 8 * 1024;
const MAGIC: &[u8] = b"keyfob snapshot ";

/// The fields that are unencrypted in any store: a part of the [`Header`], or a line of their own.
#[derive(Deserialize, Serialize)]
struct Owner {
    app: String,
    #[serde(default)]
    check: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct Header {
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
struct Body {
    users: Vec<Entry>,
    events: EventLog,
}

/// The position of a record in the file, and what is needed before it is parsed.
#[derive(Deserialize, Serialize)]
struct Entry {
    id: UserId,
    created: u64,
    used: u64,
    bytes: usize,
}

impl Snapshot {
    /// Reads the file, at least as far as `scope`. `None` if it is missing or damaged.
    ///
    /// # Errors
    /// Of kind `Key` if it is encrypted in another way.
    pub(super) fn load(
        path: &Path,
        app: &str,
        encryption: &EncryptionMode,
        scope: LoadScope,
    ) -> Result<Option<Self>, StoreError> {
        let Some(file) = open(path)? else { return Ok(None) };
        let unread = |error| failed("read the snapshot", path, error);
        let mut bytes = Vec::with_capacity(HEADER);
        read_up_to(HEADER, &file, &mut bytes).map_err(unread)?;
        if scope == LoadScope::Header
            && let Some(envelope) = Envelope::open(&bytes)
            && let Some((owner, _)) = envelope.owner(path)?
            && owner.check.is_none()
        {
            check_app(&owner.app, app, path)?;
            let codec = encryption.fit(app, None).map_err(|error| error.at(path))?;
            return Ok(Self::decode_header(&mut { envelope.header }, codec));
        }
        read_up_to(usize::MAX, &file, &mut bytes).map_err(unread)?;
        let Some(envelope) = Envelope::open(&bytes).filter(Envelope::is_complete) else {
            return Ok(None);
        };
        let Some((owner, line)) = envelope.owner(path)? else { return Ok(None) };
        check_app(&owner.app, app, path)?;
        let check = match owner.check.map(|check| STANDARD.decode(check)).transpose() {
            Ok(check) => check,
            Err(_) => return Ok(None),
        };
        let codec = match encryption.fit(app, check.as_deref()) {
            Err(error) if error.kind == StoreErrorKind::Damaged => return Ok(None),
            codec => codec.map_err(|error| error.at(path))?,
        };
        if check.is_none() {
            return Ok(Self::decode(&bytes[envelope.start..], codec));
        }
        let Some(mut decrypted) = codec.decrypt_snapshot(&envelope.header[line..]) else {
            return Ok(None);
        };
        let snapshot = Self::decode(&decrypted, codec);
        wipe(&mut decrypted);
        Ok(snapshot)
    }

    /// Returns the bytes of the file.
    pub(super) fn encode(&self, app: &str) -> Result<Vec<u8>, StoreError> {
        let entry = |(id, cached): &(&UserId, &Arc<CachedRecord>)| Entry {
            id: (*id).clone(),
            created: cached.created,
            used: cached.used,
            bytes: cached.record.len(),
        };
        let current = self.current.as_ref().and_then(|id| self.users.get_key_value(id));
        let fields = Header {
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
        others.sort_unstable_by_key(|(id, cached)| (cached.created, *id));
        let body = Body { users: others.iter().map(entry).collect(), events: self.events.clone() };
        let mut header = line(&fields)?;
        header.extend_from_slice(current.map_or(&[], |(_, cached)| &cached.record));
        let mut body = line(&body)?;
        for (_, cached) in others {
            body.extend_from_slice(&cached.record);
        }
        let Some(check) = self.codec.check() else { return Ok(Envelope::write(&header, &body)) };
        let owner = line(&Owner { app: app.to_owned(), check: Some(STANDARD.encode(check)) })?;
        let mut decrypted = [header, body].concat();
        let encrypted = self.codec.encrypt_snapshot(&decrypted)?;
        wipe(&mut decrypted);
        Ok(Envelope::write(&[owner, encrypted].concat(), &[]))
    }

    /// Parses header and body.
    fn decode(mut bytes: &[u8], codec: RecordCodec) -> Option<Self> {
        let snapshot = Self::decode_header(&mut bytes, codec)?;
        let body: Body = serde_json::from_slice(take_line(&mut bytes)?).ok()?;
        let Self { mut users, complete, .. } = snapshot;
        users.reserve(body.users.len());
        for entry in body.users {
            let (id, cached) = entry.take(&mut bytes)?;
            users.insert(id, cached);
        }
        Some(Self { users, complete, is_full: true, events: body.events, ..snapshot })
    }

    /// Parses the header, and leaves the rest in `bytes`.
    fn decode_header(bytes: &mut &[u8], codec: RecordCodec) -> Option<Self> {
        let fields: Header = serde_json::from_slice(take_line(bytes)?).ok()?;
        let mut users = HashMap::new();
        if let Some(entry) = fields.user {
            let (id, cached) = entry.take(bytes)?;
            users.insert(id, cached);
        }
        Some(Self {
            generation: fields.generation,
            database: fields.database,
            number: fields.number,
            current: fields.current,
            location: fields.location,
            complete: fields.complete,
            is_full: false,
            users,
            events: EventLog::default(),
            codec,
        })
    }
}

impl Entry {
    /// Takes the record from the beginning of the remaining bytes.
    fn take(self, records: &mut &[u8]) -> Option<(UserId, Arc<CachedRecord>)> {
        let (record, rest) = records.split_at_checked(self.bytes)?;
        *records = rest;
        let (record, read) = (record.to_vec(), OnceLock::new());
        let cached = CachedRecord { created: self.created, used: self.used, record, read };
        Some((self.id, Arc::new(cached)))
    }
}

/// Rejects a directory that holds the users of another app or backend.
pub(super) fn check_app(found: &str, wanted: &str, path: &Path) -> Result<(), StoreError> {
    if found == wanted {
        return Ok(());
    }
    let reason = format!(
        "the directory holds the users of {found:?}, not of {wanted:?}, choose another directory"
    );
    Err(StoreError::new(StoreErrorKind::Mismatch, reason).at(path))
}

/// Takes a line from the beginning of the remaining bytes, without its end.
fn take_line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (line, rest) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n')?);
    *bytes = &rest[1..];
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

/// Reads more of the file, until `bytes` has `length` bytes or the file ends.
fn read_up_to(length: usize, file: &File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let more = length.saturating_sub(bytes.len());
    file.take(more.try_into().unwrap_or(u64::MAX)).read_to_end(bytes).map(drop)
}

/// The parts of the file, or of its beginning.
struct Envelope<'a> {
    version: u32,
    /// Where the header starts.
    start: usize,
    header: &'a [u8],
    /// The body, as far as it was read, and its checksum.
    body: &'a [u8],
    body_sum: u64,
}

impl<'a> Envelope<'a> {
    /// Parses the first line. `None` if the header is damaged or incomplete.
    fn open(bytes: &'a [u8]) -> Option<Self> {
        const DIGITS: usize = 16;
        let (sum, rest) = bytes.strip_prefix(MAGIC)?.split_at_checked(DIGITS)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let mut words = std::str::from_utf8(&rest[..end]).ok()?.strip_prefix(' ')?.split(' ');
        let version = words.next()?.parse().ok()?;
        let length = words.next()?.parse().ok()?;
        let body_sum = number(words.next()?)?;
        let (header, body) = rest[end + 1..].split_at_checked(length)?;
        let right = checksum(&[&rest[..=end], header]) == number(std::str::from_utf8(sum).ok()?)?;
        let start = MAGIC.len() + DIGITS + end + 1;
        (right && words.next().is_none()).then_some(Self { version, start, header, body, body_sum })
    }

    /// Returns `true` if the body is complete.
    fn is_complete(&self) -> bool {
        checksum(&[self.body]) == self.body_sum
    }

    /// Returns the unencrypted fields, and the length of the line that they are in; `None` if it is
    /// damaged.
    fn owner(&self, path: &Path) -> Result<Option<(Owner, usize)>, StoreError> {
        if self.version > VERSION {
            return Err(newer("the snapshot", self.version).at(path));
        }
        let line = self.header.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(serde_json::from_slice(line)
            .ok()
            .map(|owner| (owner, self.header.len().min(line.len() + 1))))
    }

    /// Returns the bytes of the file.
    fn write(header: &[u8], body: &[u8]) -> Vec<u8> {
        let first = format!(" {VERSION} {} {:016x}\n", header.len(), checksum(&[body]));
        let sum = format!("{:016x}", checksum(&[first.as_bytes(), header]));
        [MAGIC, sum.as_bytes(), first.as_bytes(), header, body].concat()
    }
}

/// Parses a checksum: sixteen digits, exactly as [`Envelope::write`] writes them.
fn number(digits: &str) -> Option<u64> {
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}
