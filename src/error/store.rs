//! Errors of a store.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Printable;
use crate::owner;

/// The store could not be read or written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreError {
    /// What kind of failure it was.
    pub kind: StoreErrorKind,
    /// The file or directory concerned.
    pub path: Option<PathBuf>,
    /// What was attempted or seen.
    pub reason: Cow<'static, str>,
    /// Whether the backend had done what was asked, such as deleting a user, before the store
    /// failed to keep it.
    pub ambiguous: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of [`StoreError`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The directory may not be used: its permissions or its owner forbid it, or it is not a
    /// directory.
    Access,
    /// Another thread or process held a lock until the deadline.
    Busy,
    /// The data is damaged. keyfob keeps the old bytes; the error names where.
    Damaged,
    /// The session was opened before this process was forked. The child may open a session of its
    /// own. If the parent had written to any store before the fork, that session can only read;
    /// start a new program (`exec`) to write.
    Forked,
    /// The disk is full.
    Full,
    /// Reading or writing failed.
    Io,
    /// The encryption key is wrong or not available, a key was given for an unencrypted store, or
    /// no key was given for an encrypted one. Nothing was changed; the message says how to open the
    /// store.
    Key,
    /// The directory holds the users of another app or backend.
    Mismatch,
    /// A newer version of keyfob wrote this.
    NewerVersion,
    /// The data directory is on a network file system, where locks and syncs are not reliable.
    NotLocal,
    /// The store has lost commits that this process had seen. The call changed nothing.
    RolledBack,
    /// The changes were made, and would not survive a failure of the store yet, for example because
    /// too few replicas have acknowledged them. The session goes on with them, and keeps new tokens
    /// as unpersisted tokens, so that later commits store them again.
    Unconfirmed,
}

impl StoreErrorKind {
    /// Returns `true` if the store cannot be written at present although it may be readable.
    pub(crate) fn is_unwritable(self) -> bool {
        matches!(self, Self::Access | Self::Busy | Self::Full | Self::Io)
    }
}

impl StoreError {
    /// Creates an error of a kind; `reason` says what was attempted or seen.
    pub fn new(kind: StoreErrorKind, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, path: None, reason: reason.into(), ambiguous: false, source: None }
    }

    /// Names the file or directory concerned.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.path = Some(path.as_ref().to_owned());
        self
    }

    /// Adds the cause, for [`source`](StdError::source).
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store cannot be used: {}", Printable(&self.reason))?;
        if let Some(path) = &self.path {
            write!(f, ": {}", Printable(&path.to_string_lossy()))?;
        }
        match self.ambiguous {
            true => f.write_str("; the backend had already carried out the request"),
            false => Ok(()),
        }
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Converts an I/O error. The result has its kind, the attempt, the path, and what the caller can do.
pub(crate) fn failed(attempt: &str, path: &Path, error: io::Error) -> StoreError {
    let kind = match error.kind() {
        ErrorKind::AlreadyExists
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory
        | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Access,
        ErrorKind::QuotaExceeded | ErrorKind::StorageFull => StoreErrorKind::Full,
        _ => StoreErrorKind::Io,
    };
    let advice = match kind {
        StoreErrorKind::Access => match owner::explain(&error, path) {
            Some(why) => format!(": {why}"),
            None => ", check its owner and its permissions".to_owned(),
        },
        StoreErrorKind::Full => ", free space on the disk".to_owned(),
        _ => String::new(),
    };
    StoreError::new(kind, format!("cannot {attempt}{advice}")).at(path).because(error)
}
