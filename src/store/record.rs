//! The format of a user's record: JSON with a version, `{"v":1,"user":{…}}`. The database and the
//! snapshot encrypt it.

use std::error::Error as StdError;

use serde::{Deserialize, Serialize};

use crate::error::{StoreError, StoreErrorKind};
use crate::store::StoredUser;
use crate::untrusted_json;

/// The version of all formats of the stores.
pub(super) const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    user: &'a StoredUser,
}

#[derive(Deserialize)]
struct Read {
    user: StoredUser,
}

/// Serialises a user. Rejects a record that could not be parsed again.
pub(super) fn encode(user: &StoredUser) -> Result<Vec<u8>, StoreError> {
    let refused = |error: Box<dyn StdError + Send + Sync>| {
        let reason = "the user's record cannot be written as JSON that can be parsed again";
        StoreError::new(StoreErrorKind::Io, reason).because(error)
    };
    let record = serde_json::to_vec(&Written { v: VERSION, user })
        .map_err(|error| refused(Box::new(error)))?;
    // JSON that is nested too deeply, such as a profile, can be written but not parsed.
    decode(&record).map_err(|error| refused(Box::new(error)))?;
    Ok(record)
}

/// Parses a record of this version or an earlier one.
pub(super) fn decode(record: &[u8]) -> Result<StoredUser, StoreError> {
    check_version("a user's record", record)?;
    match untrusted_json::from_slice(record) {
        Ok(Read { user }) => Ok(user),
        // The cause is left out, because it may quote the record.
        Err(_) => Err(StoreError::new(StoreErrorKind::Damaged, "a user's record is damaged")),
    }
}

/// Rejects data of a newer version. `what` names the data.
pub(super) fn check_version(what: &str, bytes: &[u8]) -> Result<(), StoreError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    match serde_json::from_slice(bytes) {
        Ok(Versioned { v }) if v <= VERSION => Ok(()),
        Ok(Versioned { v }) => Err(newer(what, v)),
        Err(_) => Err(StoreError::new(StoreErrorKind::Damaged, format!("{what} is damaged"))),
    }
}

/// Returns the error for data of a newer version.
pub(super) fn newer(what: &str, version: u32) -> StoreError {
    let reason = format!(
        "a newer keyfob wrote {what} (format {version}, this one reads up to {VERSION}), update \
         this program"
    );
    StoreError::new(StoreErrorKind::NewerVersion, reason)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::id::UserId;

    #[test]
    fn record_of_newer_version_is_rejected() {
        let error = decode(br#"{"v":2,"user":[1,2,3]}"#).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NewerVersion);
        assert!(error.to_string().contains("a newer keyfob wrote a user's record (format 2"));
    }

    #[test]
    fn damaged_record_is_not_quoted() {
        // serde_json would parse the text of this field again, with a new depth limit.
        let text = br#"{"v":1,"user":{"id":"hush","x":{"$serde_json::private::RawValue":"{}"}}}"#;
        for bytes in [&b""[..], b"{", b"{}", br#"{"v":1,"user":{"id":"hush"}}"#, text] {
            let error = decode(bytes).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Damaged);
            assert!(!format!("{error:?}").contains("hush"));
        }
    }

    #[test]
    fn unparsable_record_is_not_written() {
        let mut user = StoredUser::new(UserId::new("ada"));
        let deep = (0..200).fold(json!(1), |value, _| Value::Array(vec![value]));
        user.unknown_fields.insert("deep".into(), deep);
        assert_eq!(encode(&user).unwrap_err().kind, StoreErrorKind::Io);
    }
}
