//! The Lua scripts that the server runs, and the head that they return.
//!
//! All keys of a namespace have the hash tag `{NAMESPACE}`, so that they are in the same slot:
//!
//! | key | type | holds |
//! | --- | --- | --- |
//! | `{N}:head` | hash | `format`, `instance`, `check`, `number`, `mark`, `safe`, `safe_mark`, `since`, `count`, `current`, `location`, and `m0` to `m63`, the marks of the last 64 commits |
//! | `{N}:users` | hash | the record of each user, by id |
//! | `{N}:order` | sorted set | `created` as 20 digits, a colon and the id, by name |
//! | `{N}:used` | sorted set | the same with the commit of the last use, logged-in users only |
//! | `{N}:places` | hash | both numbers of each user, by id |
//! | `{N}:events` | list | number of the commit as 20 digits, then its events, oldest first |
//! | `{N}:lock` | string | the token of the commit in progress; expires |
//! | `{N}:refresh:ID` | string | the token of the holder of a user's refresh lock; expires |
//!
//! Commits are published on the channel `{N}:commits`.

use std::sync::LazyLock;

use ::redis::{FromRedisValue, ParsingError, Script, Value, from_redis_value};

/// A script and its hash.
pub(super) struct Lua {
    pub(super) code: String,
    pub(super) hash: String,
}

impl Lua {
    fn new(parts: &[&str]) -> Self {
        let code = parts.concat();
        let hash = Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }
}

macro_rules! scripts {
    ($($name:ident: $($file:literal),+;)*) => {
        $(pub(super) static $name: LazyLock<Lua> =
            LazyLock::new(|| Lua::new(&[$(include_str!(concat!("lua/", $file))),+]));)*
    };
}

scripts! {
    APPLY: "apply.lua";
    BEGIN: "head.lua", "begin.lua";
    CONFIRM: "confirm.lua";
    PAGE: "head.lua", "page.lua";
    READ: "head.lua", "read.lua";
    RECENT: "head.lua", "recent.lua";
    RELEASE: "release.lua";
    RENEW: "renew.lua";
}

/// The version of this data layout.
pub(super) const FORMAT: u32 = 1;

/// How many commit marks the head holds.
pub(super) const MARKS: u64 = 64;

/// Returns the field of the head that holds the mark of a commit.
pub(super) fn mark_field(number: u64) -> String {
    format!("m{}", number % MARKS)
}

/// The names of the keys of one namespace.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) head: Vec<u8>,
    pub(super) users: Vec<u8>,
    pub(super) order: Vec<u8>,
    pub(super) used: Vec<u8>,
    pub(super) places: Vec<u8>,
    pub(super) events: Vec<u8>,
    pub(super) lock: Vec<u8>,
    pub(super) channel: Vec<u8>,
    prefix: String,
}

impl Keys {
    pub(super) fn new(namespace: &str) -> Self {
        let prefix = format!("{{{namespace}}}:");
        let key = |name: &str| format!("{prefix}{name}").into_bytes();
        Self {
            head: key("head"),
            users: key("users"),
            order: key("order"),
            used: key("used"),
            places: key("places"),
            events: key("events"),
            lock: key("lock"),
            channel: key("commits"),
            prefix,
        }
    }

    /// Returns the key of a user's refresh lock.
    pub(super) fn refresh(&self, user: &str) -> Vec<u8> {
        format!("{}refresh:{user}", self.prefix).into_bytes()
    }
}

/// The head, as returned by a script.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub(super) format: u32,
    /// A random text from the first commit, or empty if there was no commit.
    pub(super) instance: String,
    pub(super) check: Option<Vec<u8>>,
    pub(super) number: u64,
    pub(super) mark: Vec<u8>,
    /// The newest commit that enough replicas have acknowledged.
    pub(super) safe: u64,
    pub(super) safe_mark: Vec<u8>,
    /// The newest commit whose events are no longer kept.
    pub(super) since: u64,
    /// The expected number of users.
    pub(super) count: u64,
    pub(super) current: Option<String>,
    pub(super) location: Option<String>,
    /// The mark that was requested.
    pub(super) seen_mark: Vec<u8>,
    /// The actual number of users.
    pub(super) users: u64,
}

impl FromRedisValue for Head {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let Value::Array(fields) = value else { return Err("expected the head".into()) };
        let mut fields = fields.into_iter();
        let mut next = || fields.next().unwrap_or(Value::Nil);
        fn or_default<T: Default + FromRedisValue>(value: Value) -> Result<T, ParsingError> {
            Ok(from_redis_value::<Option<T>>(value)?.unwrap_or_default())
        }
        Ok(Self {
            format: or_default(next())?,
            instance: or_default(next())?,
            check: from_redis_value(next())?,
            number: or_default(next())?,
            mark: or_default(next())?,
            safe: or_default(next())?,
            safe_mark: or_default(next())?,
            since: or_default(next())?,
            count: or_default(next())?,
            current: from_redis_value(next())?,
            location: from_redis_value(next())?,
            seen_mark: or_default(next())?,
            users: or_default(next())?,
        })
    }
}
