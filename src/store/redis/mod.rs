//! A store on a Redis server that several machines share. The page `redis` of the manual describes
//! when to use it and how to configure the server.
//!
//! This module has the read operations and refresh locks; [`commit`] has the write operations.
//! [`scripts`] describes the data layout.

mod address;
mod builder;
mod commit;
mod connection;
mod copies;
mod failure;
mod history;
mod lease;
mod limit;
mod notify;
mod pool;
mod record;
mod resolver;
mod scripts;
mod tls;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::redis::FromRedisValue;

pub use self::builder::RedisStoreBuilder;
use self::connection::Connection;
use self::copies::Copies;
use self::failure::Failure;
pub use self::history::OnRollback;
use self::history::{History, Verdict};
use self::lease::Leases;
use self::limit::Limit;
use self::pool::Pool;
use self::record::{
    damaged, decode_events, decode_user, decrypt_location, digits, order_name, random_hex,
};
use self::scripts::{BEGIN, Head, Keys, Lua, PAGE, READ, RECENT};
use super::encryption::{EncryptionMode, RecordCodec};
use super::fair_mutex::FairMutex;
use super::{Decide, RecentEvents, RefreshLock, Store, StoredUser};
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::StoreError;
use crate::event::Event;
use crate::id::UserId;

/// The page size when users are listed: a maximum number of users and of bytes.
const PAGE_USERS: &str = "256";
const PAGE_BYTES: &str = "1048576";

/// How long a read waits for the server if a copy is available.
const PATIENCE: Duration = Duration::from_millis(250);

/// The minimum and maximum sleep between two attempts to acquire a refresh lock.
const LOCK_SLEEP: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(40));

/// The maximum time to wait for the server's reply to a lock request.
const LOCK_ANSWER: Duration = Duration::from_secs(5);

/// A store on a Redis server that any number of machines can share.
///
/// Cloning is cheap: clones share connections and copies. The page
/// [`redis`](crate::manual::guide::redis) of the manual describes when to use this store, how to
/// configure the server, and the effect of each failure.
/// failure does.
///
/// # Examples
///
/// ```no_run
/// use keyfob::store::RedisStore;
/// use keyfob::{EncryptionKey, Secret, Session};
///
/// # fn main() -> keyfob::Result<()> {
/// # let password = "hunter22";
/// let store = RedisStore::builder("rediss://keyfob@redis.example.org:6380")
///     .namespace("my-app")
///     .password(Secret::new(password))
///     .encryption(EncryptionKey::from_file("/etc/my-app/keyfob.key"))
///     .replicas(1)
///     .open()?;
/// let session = Session::builder("my-app-id", "https://example.org").store(store).open()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    pool: Arc<Pool>,
    namespace: String,
    keys: Keys,
    mode: EncryptionMode,
    replicas: u32,
    /// `true` if commits are published, and received from other processes, with publish and
    /// subscribe.
    publishes: bool,
    poll_interval: Duration,
    history: History,
    copies: Copies,
    leases: Arc<Leases>,
    writers: FairMutex,
    codec: Mutex<RecordCodec>,
}

/// The reply of a read script.
struct Answer<T> {
    head: Head,
    codec: RecordCodec,
    verdict: Verdict,
    rest: T,
    /// When the request was sent.
    since: Instant,
}

impl RedisStore {
    /// Creates a builder for a store on the server at `url`:
    /// `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS.
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.into())
    }
}

impl Inner {
    /// Runs a read script and judges the head that it returns. Its first keys are the head and the
    /// users.
    fn read<T: FromRedisValue>(
        &self,
        script: &Lua,
        key: Option<&[u8]>,
        arguments: &[&[u8]],
        limit: Limit,
    ) -> Result<Answer<T>, StoreError> {
        let (seen, since) = (self.history.seen(), Instant::now());
        let field = History::field(seen.as_ref());
        let mut keys: Vec<&[u8]> = vec![&self.keys.head, &self.keys.users];
        keys.extend(key);
        let arguments = [&[field.as_bytes()], arguments].concat();
        let (head, rest): (Head, T) = self
            .pool
            .run(limit, |connection| connection.run(script, &keys, &arguments))
            .map_err(|failure| self.pool.error(&failure))?;
        let verdict = self.judge(seen.as_ref(), &head)?;
        let codec = self.codec(&head)?;
        Ok(Answer { head, codec, verdict, rest, since })
    }

    /// Checks a head: this version supports the format, no users are missing, and the server still
    /// has every commit that this process has seen.
    fn judge(&self, seen: Option<&Arc<history::Seen>>, head: &Head) -> Result<Verdict, StoreError> {
        if head.format > scripts::FORMAT {
            return Err(super::record::newer("this namespace", head.format));
        }
        if head.count != head.users {
            return Err(damaged(
                "keys of this namespace are missing on the Redis server; set its maxmemory-policy \
                 to noeviction",
            ));
        }
        let rollbacks = self.history.rollbacks();
        let verdict = self.history.judge(seen, head)?;
        if self.history.rollbacks() != rollbacks {
            self.copies.clear();
        }
        if verdict == Verdict::Consistent {
            self.copies.outdate(head.number);
        }
        Ok(verdict)
    }

    /// Returns `true` if the namespace has no commits yet.
    fn is_new(&self, limit: Limit) -> Result<bool, StoreError> {
        let arguments: [&[u8]; 1] = [b""];
        let keys: [&[u8]; 2] = [&self.keys.head, &self.keys.users];
        let read = |connection: &mut Connection| connection.run(&READ, &keys, &arguments);
        let (head, _): (Head, Option<Vec<u8>>) =
            self.pool.run(limit, read).map_err(|failure| self.pool.error(&failure))?;
        Ok(head.instance.is_empty() && head.users == 0)
    }

    /// Returns the codec for records of this namespace.
    fn codec(&self, head: &Head) -> Result<RecordCodec, StoreError> {
        if head.instance.is_empty() {
            return Ok(RecordCodec::default());
        }
        let mut codec = self.codec.lock().unwrap_or_else(PoisonError::into_inner);
        if codec.check() != head.check.as_deref() || codec.check().is_none() {
            *codec = self.mode.fit(&self.namespace, head.check.as_deref())?;
        }
        Ok(codec.clone())
    }

    fn read_user(&self, id: &UserId, limit: Limit) -> Result<Option<Arc<StoredUser>>, StoreError> {
        let argument = [id.as_str().as_bytes()];
        let answer: Answer<Option<Vec<u8>>> = self.read(&READ, None, &argument, limit)?;
        let user = answer.rest.map(|record| decode_user(&answer.codec, id, record)).transpose()?;
        match answer.verdict {
            Verdict::Consistent => {
                self.copies.note_user(id, user.as_ref(), answer.head.number, answer.since);
            }
            // One of the missing commits may be a login, so a user who is logged out or absent is
            // not reported as such.
            Verdict::Behind if user.as_ref().is_some_and(|user| user.is_logged_in()) => {}
            Verdict::Behind => return Err(self.history.behind(&answer.head)),
        }
        Ok(user)
    }

    fn read_current(&self, limit: Limit) -> Result<Option<UserId>, StoreError> {
        let answer: Answer<Option<Vec<u8>>> = self.read(&READ, None, &[], limit)?;
        let current = answer.head.current.clone().map(UserId::new);
        match answer.verdict {
            Verdict::Consistent => {
                let number = answer.head.number;
                self.copies.note_current(current.as_ref(), number, answer.since);
            }
            Verdict::Behind if current.is_some() => {}
            Verdict::Behind => return Err(self.history.behind(&answer.head)),
        }
        Ok(current)
    }

    /// Returns `copy` if there is one, otherwise the result of `read`. If the read fails, returns
    /// the `last` copy.
    fn copy_or<T>(
        &self,
        copy: Option<T>,
        last: impl FnOnce() -> Option<T>,
        deadline: Deadline,
        read: impl FnOnce(Limit) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if copy.is_some() {
            return Ok(copy);
        }
        let last = last();
        if last.is_some() && self.copies.is_away() {
            return Ok(last);
        }
        let mut limit = Limit::until(deadline);
        if last.is_some() {
            limit = limit.at_most(PATIENCE.min(limit.remaining() / 4));
        }
        let read = read(limit);
        match read {
            Ok(found) => {
                self.copies.note_away(false);
                Ok(found)
            }
            Err(error) if last.is_some() => {
                note!(warn, "the store cannot be read ({:?}), a copy is used", error.kind);
                self.copies.note_away(true);
                Ok(last)
            }
            Err(error) => Err(error),
        }
    }

    fn lock_refresh_with(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        let (limit, token) = (Limit::until(deadline), random_hex()?);
        let key = self.keys.refresh(user.as_str());
        let lease = self.leases.lease().as_millis().to_string();
        let (mut sleep, mut was_taken) = (LOCK_SLEEP.0, false);
        loop {
            let (seen, since) = (self.history.seen(), Instant::now());
            let field = History::field(seen.as_ref());
            let keys: [&[u8]; 3] = [&self.keys.head, &self.keys.users, &key];
            let arguments = [field.as_bytes(), token.as_bytes(), lease.as_bytes()];
            let answer = self.pool.run(limit.half(LOCK_ANSWER), |connection| {
                connection.run(&BEGIN, &keys, &arguments)
            });
            let taken: Option<(Head, Option<Vec<u8>>)> = match answer {
                Ok(taken) => taken,
                // The deadline passed while another process held the lock.
                Err(Failure::TimedOut) if was_taken && limit.pause().is_zero() => return Ok(None),
                Err(failure) => {
                    // The server may have granted the lock even though the reply is missing.
                    self.leases.give_back(key, token);
                    return Err(self.pool.error(&failure));
                }
            };
            if let Some((head, _)) = taken {
                let held = self.leases.keep(key, token, since, deadline);
                // From here on, copies may be older than the changes of the previous holder.
                self.judge(seen.as_ref(), &head)?;
                return Ok(Some(RefreshLock::leased(held)));
            }
            was_taken = true;
            let wait = sleep.min(limit.pause());
            if wait.is_zero() {
                return Ok(None);
            }
            thread::sleep(jittered(wait));
            sleep = (sleep * 2).min(LOCK_SLEEP.1);
        }
    }
}

impl Store for RedisStore {
    fn current(&self, deadline: Deadline) -> Result<Option<UserId>, StoreError> {
        let copies = &self.0.copies;
        let read = |limit| self.0.read_current(limit);
        self.0.copy_or(copies.current(), || copies.last_current(), deadline, read)
    }

    fn location(&self, deadline: Deadline) -> Result<Option<String>, StoreError> {
        let limit = Limit::until(deadline);
        let answer: Answer<Option<Vec<u8>>> = self.0.read(&READ, None, &[], limit)?;
        decrypt_location(&answer.codec, &answer.head)
    }

    fn user(&self, id: &UserId, deadline: Deadline) -> Result<Option<Arc<StoredUser>>, StoreError> {
        let copies = &self.0.copies;
        let read = |limit| self.0.read_user(id, limit);
        self.0.copy_or(copies.user(id), || copies.last_user(id), deadline, read)
    }

    fn users_after(
        &self,
        after: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>, StoreError> {
        let from = after.map_or_else(
            || "-".to_owned(),
            |(created, id)| format!("({}", order_name(created, id)),
        );
        let arguments = [from.as_bytes(), PAGE_USERS.as_bytes(), PAGE_BYTES.as_bytes()];
        let limit = Limit::until(deadline);
        let answer: Answer<Vec<(String, Option<Vec<u8>>)>> =
            self.0.read(&PAGE, Some(&self.0.keys.order), &arguments, limit)?;
        if answer.verdict == Verdict::Behind {
            return Err(self.0.history.behind(&answer.head));
        }
        let users = answer.rest.into_iter().map(|(id, record)| {
            let record = record.ok_or_else(|| damaged("the record of a user is missing"))?;
            decode_user(&answer.codec, &UserId::new(id), record)
        });
        users.collect()
    }

    fn commit(&self, deadline: Deadline, decide: &mut Decide<'_>) -> Result<u64, StoreError> {
        self.0.commit_with(deadline, decide)
    }

    fn recent(&self, number: Option<u64>, deadline: Deadline) -> Result<RecentEvents, StoreError> {
        let from = number.map(digits).unwrap_or_default();
        let limit = Limit::until(deadline);
        let answer: Answer<Vec<Vec<u8>>> =
            self.0.read(&RECENT, Some(&self.0.keys.events), &[from.as_bytes()], limit)?;
        let Answer { head, codec, .. } = answer;
        let mut recent = RecentEvents {
            number: head.number,
            instance: 1 + self.0.history.rollbacks(),
            ..RecentEvents::default()
        };
        let Some(number) = number else { return Ok(recent) };
        if self.0.history.take_news() {
            recent.events.push((head.number.max(1), Event::StoreRolledBack));
        }
        recent.lagged = number < head.since || number > head.number;
        for entry in answer.rest {
            decode_events(&codec, &entry, &mut recent);
        }
        Ok(recent)
    }

    fn is_encrypted(&self) -> bool {
        self.0.mode.is_encrypted()
    }

    fn lock_refresh(
        &self,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>, StoreError> {
        self.0.lock_refresh_with(user, deadline)
    }

    fn poll_interval(&self) -> Duration {
        self.0.poll_interval
    }

    fn staleness(&self) -> Duration {
        self.0.copies.lifetime()
    }

    fn watch(&self, notify: Box<dyn Fn() + Send + Sync>) -> Option<Box<dyn Send>> {
        if !self.0.publishes {
            return None;
        }
        notify::watch(Arc::clone(&self.0), notify).map(|watch| Box::new(watch) as Box<dyn Send>)
    }
}

/// Returns a random time between half of `time` and `time`, so that waiting processes do not all
/// wake up at once.
fn jittered(time: Duration) -> Duration {
    let mut byte = [u8::MAX];
    let _ = super::encryption::random(&mut byte);
    time / 2 + time * u32::from(byte[0]) / 510
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("address", &self.0.pool.address().to_string())
            .field("namespace", &self.0.namespace)
            .finish_non_exhaustive()
    }
}
