//! The configuration with which a sync engine opens a synced realm of a user. keyfob has no sync
//! engine.
//!
//! Source: realm-core `object-store/sync/impl/sync_file.cpp` for the names of files,
//! `sync_session.cpp` for what a session does with users that are logged out or removed.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::ejson;
use crate::error::{Error, Result, failed};
use crate::private::create_private_dir;
use crate::session::{ListedUser, Session};
use crate::token::AccessToken;
use crate::untrusted_json;
use crate::user::User;
use crate::wire;

/// The directory of synced realms, in the directory of the app.
const REALMS: &str = "realms";

/// The longest file name. A longer one is replaced by its hash.
const LONGEST_NAME: usize = 180;

/// The configuration with which a sync engine opens one of a user's realms; returned by
/// [`User::sync_flexible`] and [`User::sync_partition`].
///
/// While the user is logged out, the realm can be opened and read, and
/// [`valid_access_token`](Self::valid_access_token) fails until the next log-in. After the user was
/// removed, methods that need the user return an error.
#[derive(Clone)]
pub struct SyncConfiguration {
    user: User,
    partition: Option<String>,
    path: PathBuf,
}

impl SyncConfiguration {
    /// Returns the user.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Returns the value of the partition as canonical extended JSON, such as `"abc"` (including the
    /// quotes) or `{"$oid":"…"}`; `None` for flexible sync.
    pub fn partition(&self) -> Option<&str> {
        self.partition.as_deref()
    }

    /// Returns `true` for flexible sync.
    pub fn is_flexible(&self) -> bool {
        self.partition.is_none()
    }

    /// Returns the path of the realm file. It is in the session's data directory, with one directory
    /// per app and user and one file per partition. The directory exists and is private to its owner.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the URL to connect to, without the token. Append the token as the query parameter
    /// `baas_at`; then the URL is a secret. Blocks for one request if the location of the backend is
    /// not known yet.
    ///
    /// # Errors
    /// [`Error::Transport`] if the location is not known and the backend could not be reached.
    pub fn websocket_url(&self) -> Result<String> {
        self.user.session().websocket_url()
    }

    /// Returns a token to connect with, like [`User::valid_access_token`]. Call it before each
    /// attempt to connect; the token is refreshed only when it is due, within the session's deadline.
    ///
    /// # Errors
    /// As [`User::valid_access_token`].
    pub fn valid_access_token(&self) -> Result<AccessToken> {
        self.user.valid_access_token()
    }
}

impl User {
    /// Returns the configuration of this user's realm for flexible sync. Uses no network.
    ///
    /// # Errors
    /// [`Error::LocalState`] if the user was removed, [`Error::Config`] if the session has no data
    /// directory, [`Error::Store`] if the directory cannot be created.
    pub fn sync_flexible(&self) -> Result<SyncConfiguration> {
        self.sync(None, "flx_sync_default".to_owned())
    }

    /// Returns the configuration of this user's realm for a partition: a string, an integer, an
    /// [`ObjectId`](ejson::ObjectId), a UUID ([`Binary`](ejson::Binary) of subtype 4) or
    /// `()`. Uses no network.
    ///
    /// # Errors
    /// As [`User::sync_flexible`]; [`Error::Config`] if the value is of another type.
    pub fn sync_partition(&self, value: impl Serialize) -> Result<SyncConfiguration> {
        let wrong = || {
            let reason = "expected a string, an integer, an ObjectId, a UUID or ()";
            Error::config("the partition", reason)
        };
        let text = ejson::to_vec(&value).map_err(|_| wrong())?;
        let value: Value = untrusted_json::from_slice(&text).map_err(|_| wrong())?;
        let name = partition_name(&value).ok_or_else(wrong)?;
        self.sync(Some(value.to_string()), name)
    }

    fn sync(&self, partition: Option<String>, name: String) -> Result<SyncConfiguration> {
        self.identities()?;
        let dir = realms(self.session())?.join(file_name(self.id().as_str()));
        create_private_dir(&dir)
            .map_err(|error| failed("create the directory of synced realms", &dir, error))?;
        let path = dir.join(format!("{}.realm", file_name(&name)));
        Ok(SyncConfiguration { user: self.clone(), partition, path })
    }
}

impl Session {
    /// Returns the directories of synced realms whose users are no longer in the store. keyfob does
    /// not delete them, because an engine may have a file open. Delete them when no engine does.
    ///
    /// # Errors
    /// [`Error::Config`] if the session has no data directory, [`Error::Store`] if they cannot be
    /// listed.
    pub fn unused_sync_dirs(&self) -> Result<Vec<PathBuf>> {
        let dir = realms(self)?;
        let unlisted = |error| failed("list the directories of synced realms", &dir, error);
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(unlisted)?,
        };
        let entries: Vec<_> = entries.collect::<io::Result<_>>().map_err(unlisted)?;
        // List the users after the directories, so that a user who logs in meanwhile is included.
        let name = |listed: Result<ListedUser>| Ok(file_name(listed?.user().id().as_str()));
        let known: HashSet<_> = self.users_iter().map(name).collect::<Result<_>>()?;
        let mut unused = Vec::new();
        for entry in entries {
            if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
                unused.push(entry.path());
            }
        }
        unused.sort();
        Ok(unused)
    }
}

fn realms(session: &Session) -> Result<PathBuf> {
    session.app_dir().map(|dir| dir.join(REALMS)).ok_or_else(|| {
        let reason = "this session has a store of its own and no data directory, open it with \
                      `data_dir` to sync";
        Error::config("the session", reason)
    })
}

fn partition_name(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(format!("s_{text}"));
    }
    if value.is_null() {
        return Some("null".to_owned());
    }
    let (wrapper, inner) = value.as_object()?.iter().next()?;
    match wrapper.as_str() {
        "$numberInt" => Some(format!("i_{}", inner.as_str()?)),
        "$numberLong" => Some(format!("l_{}", inner.as_str()?)),
        "$oid" => Some(format!("o_{}", inner.as_str()?)),
        "$binary" => {
            let binary: ejson::Binary = serde_json::from_value(value.clone()).ok()?;
            let uuid: [u8; 16] = binary.bytes.try_into().ok()?;
            let hex = |range: std::ops::Range<usize>| -> String {
                uuid[range].iter().map(|byte| format!("{byte:02x}")).collect()
            };
            (binary.subtype == 4).then(|| {
                let parts = [hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)];
                format!("u_{}", parts.join("-"))
            })
        }
        _ => None,
    }
}

/// How the file system treats names.
#[derive(Clone, Copy)]
struct Naming {
    /// Names that differ only in case are equal.
    ignores_case: bool,
    /// Some names are devices, and a dot at the end of a name is ignored.
    has_devices: bool,
}

impl Naming {
    const HERE: Self =
        Self { ignores_case: cfg!(any(windows, target_os = "macos")), has_devices: cfg!(windows) };
}

/// Returns a valid file name for any text. Different texts have different names.
fn file_name(text: &str) -> String {
    file_name_on(text, Naming::HERE)
}

fn file_name_on(text: &str, naming: Naming) -> String {
    let mut name = wire::segment(text).replace('~', "%7E");
    if naming.ignores_case {
        name = without_capitals(&name);
    }
    if naming.has_devices {
        if is_device(&name) {
            name = format!("%{:02X}{}", name.as_bytes()[0], &name[1..]);
        }
        if let Some(start) = name.strip_suffix('.') {
            name = format!("{start}%2E");
        }
    }
    if name.len() <= LONGEST_NAME {
        name
    } else {
        format!("h_{:016x}", crate::hash::fnv1a(&[text.as_bytes()]))
    }
}

/// Escapes upper-case letters, except in escapes.
fn without_capitals(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut escape = 0;
    for letter in name.chars() {
        if escape == 0 && letter.is_ascii_uppercase() {
            out.push_str(&format!("%{:02X}", u32::from(letter)));
        } else {
            escape = if letter == '%' { 2_u8 } else { escape.saturating_sub(1) };
            out.push(letter);
        }
    }
    out
}

/// Returns `true` if Windows treats an escaped name as a device, with or without an extension.
///
/// Source: "Naming Files, Paths, and Namespaces" of the Windows API.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_uppercase();
    match stem.as_str() {
        "AUX" | "CON" | "NUL" | "PRN" => true,
        _ => {
            let number = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
            number.is_some_and(|number| matches!(number.as_bytes(), [b'0'..=b'9']))
        }
    }
}

impl fmt::Debug for SyncConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncConfiguration")
            .field("user", &self.user)
            .field("partition", &self.partition)
            .field("path", &self.path)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn partitions_are_named_by_their_type() {
        for (value, name) in [
            (json!("a/b"), "s_a/b"),
            (json!(null), "null"),
            (json!({"$numberInt": "7"}), "i_7"),
            (json!({"$numberLong": "7"}), "l_7"),
            (json!({"$oid": "5f"}), "o_5f"),
            (
                json!({"$binary": {"base64": "AAECAwQFBgcICQoLDA0ODw==", "subType": "04"}}),
                "u_00010203-0405-0607-0809-0a0b0c0d0e0f",
            ),
        ] {
            assert_eq!(partition_name(&value).as_deref(), Some(name));
        }
        for value in [json!({"$numberDouble": "1.5"}), json!([1]), json!(true), json!({"a": 1})] {
            assert_eq!(partition_name(&value), None);
        }
    }

    #[test]
    fn file_names_are_safe_and_short() {
        assert_eq!(file_name("s_a/b"), "s_a%2Fb");
        assert_eq!(file_name(".."), "%2E%2E");
        assert!(file_name(&"/".repeat(1000)).len() < 200);
        assert_ne!(file_name(&"/".repeat(1000)), file_name(&"/".repeat(1001)));
    }

    #[test]
    fn device_names_are_escaped_on_windows() {
        let windows = Naming { ignores_case: true, has_devices: true };
        for (text, name) in [
            ("con", "%63on"),
            ("NUL", "%4E%55%4C"),
            ("aux.c", "%61ux.c"),
            ("com1", "%63om1"),
            ("lpt9.x.y", "%6Cpt9.x.y"),
            ("conin$", "conin%24"),
            ("COM\u{b9}", "%43%4F%4D%C2%B9"),
            ("com10", "com10"),
            ("console", "console"),
            ("a.", "a%2E"),
            ("a..", "a.%2E"),
            ("a ", "a%20"),
            ("con.", "%63on%2E"),
            ("..", "%2E%2E"),
            ("c:x", "c%3Ax"),
        ] {
            assert_eq!(file_name_on(text, windows), name, "{text}");
        }
        let unix = Naming { ignores_case: false, has_devices: false };
        assert_eq!(file_name_on("Con.", unix), "Con.");
    }

    #[test]
    fn names_differ_without_their_case() {
        let naming = Naming { ignores_case: true, has_devices: false };
        let texts =
            ["ada", "Ada", "ADA", "a%41", "%41da", "a/a", "a/A", "a%2Fa", "\u{e4}", "\u{c4}"];
        let names: HashSet<_> =
            texts.iter().map(|text| file_name_on(text, naming).to_lowercase()).collect();
        assert_eq!(names.len(), texts.len(), "{names:?}");
    }
}
