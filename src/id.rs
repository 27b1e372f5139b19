//! Ids that the backend assigns to users, devices and API keys.
//!
//! Ids are opaque text. App Services uses 24 hexadecimal digits; other backends may not.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The id of a user. It is the same for all linked identities and on every device.
///
/// Cloning is cheap (one reference count).
///
/// Source: `user_id` of the log-in response, realm-core `object-store/sync/app.cpp`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UserId(Arc<str>);

/// The id that the backend assigned to this device at log-in. On the wire, all zeros means no id.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct DeviceId(String);

/// The id of an API key. It is not the key itself and not a secret.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ApiKeyId(String);

impl ApiKeyId {
    /// Creates an id from text that [`ApiKey::id`](crate::ApiKey::id) returned earlier.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UserId {
    /// Creates an id from text of a backend, or from [`UserId::as_str`].
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(id.as_ref().into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DeviceId {
    /// Returns the id, or `None` for the two representations of "none": empty, or all zeros.
    pub(crate) fn from_wire(id: &str) -> Option<Self> {
        (!id.bytes().all(|digit| digit == b'0')).then(|| Self(id.to_owned()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for UserId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for UserId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_or_empty_device_id_is_none() {
        assert_eq!(DeviceId::from_wire(""), None);
        assert_eq!(DeviceId::from_wire("000000000000000000000000"), None);
        assert_eq!(DeviceId::from_wire("0a").unwrap().as_str(), "0a");
    }
}
