//! Commits: a lock serialises decisions, and a fence stops a decision that took longer than its
//! lock.
//!
//! The lock is a key that expires. The script that applies the changes checks that the lock is
//! still held and that there was no other commit in between; it applies all changes or none. It can
//! be sent again if its reply was lost: the mark of the commit shows whether it was applied.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::failure::Failure;
use super::history::{History, Verdict};
use super::limit::Limit;
use super::pool::Pooled;
use super::record::{decode_user, decrypt_location, digits, encode_events, random_hex};
use super::scripts::{self, APPLY, BEGIN, CONFIRM, Head, mark_field};
use super::{Inner, jittered};
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::UserId;
use crate::store::encryption::RecordCodec;
use crate::store::{Change, Decide, StoreView, StoredUser, record, validate};

/// How long the lock is held if its holder crashes. If a commit takes longer, it is decided again.
const LOCK: Duration = Duration::from_secs(5);

/// The minimum and maximum sleep between two attempts to acquire the lock.
const SLEEP: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(8));

/// The maximum time to wait for replicas.
const REPLICAS: Duration = Duration::from_secs(1);

/// The maximum time to release the lock after a decision without changes.
const RELEASE: Duration = Duration::from_millis(500);

/// How many commits keep their events.
const EVENTS: &str = "256";

/// How many users are read at a time to find the most recently used one.
const USED: isize = 32;

/// A commit that holds the lock.
struct Attempt<'a> {
    store: &'a Inner,
    limit: Limit,
    /// The connection that acquired the lock; `None` after an error.
    connection: RefCell<Option<Pooled<'a>>>,
    token: String,
    head: Head,
    verdict: Verdict,
    codec: RecordCodec,
    location: Option<String>,
    records: RefCell<HashMap<UserId, Option<Arc<StoredUser>>>>,
    is_over: bool,
}

/// The reply of the script that acquires the lock.
type Begun = (Head, Option<Vec<u8>>);

/// The outcome of a request to apply changes.
enum Applied {
    Yes,
    /// There was another commit in between, or the lock was lost.
    No,
}

impl Inner {
    pub(super) fn commit_with(
        &self,
        deadline: Deadline,
        decide: &mut Decide<'_>,
    ) -> Result<u64, StoreError> {
        let busy = |reason| StoreError::new(StoreErrorKind::Busy, reason);
        let Some(_turn) = self.writers.enter(deadline) else {
            let reason = "another thread was committing until the deadline, try again later";
            return Err(busy(reason));
        };
        let limit = Limit::until(deadline);
        loop {
            let Some(mut attempt) = self.begin(limit)? else {
                let reason = "another process was committing until the deadline, try again later";
                return Err(busy(reason));
            };
            let changes = decide(&attempt)?;
            validate(&changes)?;
            if changes.is_empty() {
                return Ok(attempt.head.number);
            }
            if let Applied::Yes = attempt.apply(&changes)? {
                return attempt.finish(&changes);
            }
            note!(debug, "a commit lost its lock and is decided again");
            if limit.has_passed() {
                return Err(busy("commits of other processes came first until the deadline"));
            }
        }
    }

    /// Acquires the lock. Returns `None` if others held it until the limit.
    fn begin(&self, limit: Limit) -> Result<Option<Attempt<'_>>, StoreError> {
        let token = random_hex()?;
        let lock = LOCK.as_millis().to_string();
        let (mut sleep, mut was_taken) = (SLEEP.0, false);
        loop {
            let seen = self.history.seen();
            let field = History::field(seen.as_ref());
            let arguments = [field.as_bytes(), token.as_bytes(), lock.as_bytes()];
            let keys: [&[u8]; 3] = [&self.keys.head, &self.keys.users, &self.keys.lock];
            let mut pooled = self.pool.get(limit).map_err(|failure| self.pool.error(&failure))?;
            let begun: Result<Option<Begun>, _> =
                pooled.within(limit).run(&BEGIN, &keys, &arguments);
            match begun {
                Ok(Some((head, _))) => {
                    let mut attempt = Attempt {
                        store: self,
                        limit,
                        connection: RefCell::new(Some(pooled)),
                        token,
                        head,
                        verdict: Verdict::Consistent,
                        codec: RecordCodec::default(),
                        location: None,
                        records: RefCell::default(),
                        is_over: false,
                    };
                    // From here on the lock is released in any case, when `attempt` is dropped.
                    attempt.verdict = self.judge(seen.as_ref(), &attempt.head)?;
                    attempt.codec = self.codec(&attempt.head)?;
                    attempt.location = decrypt_location(&attempt.codec, &attempt.head)?;
                    return Ok(Some(attempt));
                }
                Ok(None) => pooled.put_back(),
                Err(Failure::Broken(_)) if pooled.was_idle() => continue,
                // The deadline passed while another process held the lock.
                Err(Failure::TimedOut) if was_taken && limit.pause().is_zero() => return Ok(None),
                Err(failure) => {
                    self.pool.clear_after(&failure);
                    // The server may have granted the lock even though the reply is missing.
                    self.leases.give_back(self.keys.lock.clone(), token);
                    return Err(self.pool.error(&failure));
                }
            }
            was_taken = true;
            let wait = sleep.min(limit.pause());
            if wait.is_zero() {
                return Ok(None);
            }
            thread::sleep(jittered(wait));
            sleep = (sleep * 2).min(SLEEP.1);
        }
    }
}

impl Attempt<'_> {
    /// Sends a command on the connection of this commit.
    fn ask<T: ::redis::FromRedisValue>(&self, command: &::redis::Cmd) -> Result<T, StoreError> {
        let mut connection = self.connection.borrow_mut();
        let Some(mut pooled) = connection.take() else {
            let reason = "the connection to the Redis server broke during a commit";
            return Err(StoreError::new(StoreErrorKind::Io, reason));
        };
        let answer = pooled.within(self.limit).ask(command);
        match answer {
            Ok(answer) => {
                *connection = Some(pooled);
                Ok(answer)
            }
            Err(failure) => {
                self.store.pool.clear_after(&failure);
                Err(self.store.pool.error(&failure))
            }
        }
    }

    /// Sends the changes. If the reply is lost, sends them again until the outcome is known or the
    /// limit has passed.
    fn apply(&mut self, changes: &[Change]) -> Result<Applied, StoreError> {
        let keys = &self.store.keys;
        let keys: [&[u8]; 7] = [
            &keys.head,
            &keys.users,
            &keys.order,
            &keys.used,
            &keys.places,
            &keys.events,
            &keys.lock,
        ];
        let (head, arguments) = self.arguments(changes)?;
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        // `true` if an earlier attempt may have been applied.
        let mut is_in_doubt = false;
        let answer = loop {
            let kept = self.connection.borrow_mut().take();
            let pooled = kept.map_or_else(|| self.store.pool.get(self.limit), Ok);
            let (failure, was_sent) = match pooled {
                Ok(mut pooled) => {
                    match pooled.within(self.limit).run::<String>(&APPLY, &keys, &arguments) {
                        Ok(answer) => {
                            *self.connection.borrow_mut() = Some(pooled);
                            break answer;
                        }
                        // The server refuses before it writes.
                        Err(failure @ Failure::Refused(_)) => (failure, false),
                        Err(failure) => (failure, true),
                    }
                }
                Err(failure) => (failure, false),
            };
            self.store.pool.clear_after(&failure);
            is_in_doubt |= was_sent;
            if !is_in_doubt {
                return Err(self.store.pool.error(&failure));
            }
            if self.limit.has_passed() {
                return Err(self.in_doubt(&failure));
            }
            note!(warn, "the answer to a commit was lost, asking again");
            thread::sleep(SLEEP.1.min(self.limit.wait()));
        };
        match answer.as_str() {
            "ok" | "done" => {
                self.is_over = true;
                self.head = head;
                Ok(Applied::Yes)
            }
            _ => Ok(Applied::No),
        }
    }

    fn in_doubt(&self, failure: &Failure) -> StoreError {
        let error = self.store.pool.error(failure);
        StoreError::new(error.kind, format!("{}; the commit may have been applied", error.reason))
    }

    /// Returns the new head and the arguments of the script.
    fn arguments(&self, changes: &[Change]) -> Result<(Head, Vec<Vec<u8>>), StoreError> {
        let before = &self.head;
        let mut head = before.clone();
        head.number = before.number + 1;
        head.mark = self.token.clone().into_bytes();
        let mut codec = self.codec.clone();
        if before.instance.is_empty() {
            head.instance = random_hex()?;
            codec = self.store.mode.begin(&self.store.namespace)?;
            head.check = codec.check().map(ToOwned::to_owned);
        }
        let is_new = before.instance.is_empty();
        let channel = if self.store.publishes { &self.store.keys.channel[..] } else { b"" };
        let mut arguments: Vec<Vec<u8>> = vec![
            head.mark.clone(),
            mark_field(head.number).into(),
            before.number.to_string().into(),
            head.number.to_string().into(),
            before.instance.clone().into(),
            head.instance.clone().into(),
            head.check.clone().filter(|_| is_new).unwrap_or_default(),
            channel.to_owned(),
            EVENTS.into(),
        ];
        let mut add = |parts: &[&[u8]]| arguments.extend(parts.iter().map(|part| part.to_vec()));
        let mut events = Vec::new();
        for change in changes {
            match change {
                Change::Current(Some(user)) => add(&[b"set", b"current", user.as_str().as_bytes()]),
                Change::Current(None) => add(&[b"clear", b"current"]),
                Change::Location(Some(location)) => {
                    add(&[b"set", b"location", codec.encrypt_location(location)?.as_bytes()]);
                }
                Change::Location(None) => add(&[b"clear", b"location"]),
                Change::Put(user) => {
                    let record = codec.encrypt_record(&user.id, &record::encode(user)?)?;
                    let used = match user.is_logged_in() {
                        true => digits(user.last_used_commit),
                        false => String::new(),
                    };
                    let (created, id) = (digits(user.created_commit), user.id.as_str());
                    add(&[b"put", id.as_bytes(), &record, created.as_bytes(), used.as_bytes()]);
                }
                Change::Remove(user) => add(&[b"remove", user.as_str().as_bytes()]),
                Change::Emit(event) => events.push(event),
            }
        }
        if !events.is_empty() {
            let entry = encode_events(&codec, head.number, &events)?;
            arguments.extend([b"events".to_vec(), entry]);
        }
        Ok((head, arguments))
    }

    /// Waits for replicas, and remembers the applied commit.
    fn finish(mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let (number, since) = (self.head.number, Instant::now());
        let store = self.store;
        let is_safe = self.wait_for_replicas(number, &self.head.mark);
        if is_safe {
            (self.head.safe, self.head.safe_mark) = (number, self.head.mark.clone());
        }
        store.history.note_commit(&self.head, self.verdict);
        store.copies.apply(number, changes, since);
        if is_safe {
            return Ok(number);
        }
        let reason = format!(
            "the commit was applied, but fewer than {} replicas of the Redis server at {} have it",
            store.replicas,
            store.pool.address()
        );
        Err(StoreError::new(StoreErrorKind::Unconfirmed, reason))
    }

    /// Waits until enough replicas have received the writes of this connection, and records that in
    /// the head. Returns `false` on a timeout.
    fn wait_for_replicas(&self, number: u64, mark: &[u8]) -> bool {
        if self.store.replicas == 0 {
            return true;
        }
        // `WAIT` with zero would block forever.
        let milliseconds = REPLICAS.min(self.limit.remaining()).as_millis().max(1);
        let mut wait = ::redis::cmd("WAIT");
        wait.arg(self.store.replicas).arg(milliseconds.to_string());
        let count: u32 = self.ask(&wait).unwrap_or_default();
        if count < self.store.replicas {
            return false;
        }
        let (number, field) = (number.to_string(), mark_field(number));
        let arguments = [number.as_bytes(), mark, field.as_bytes()];
        let mut connection = self.connection.borrow_mut();
        if let Some(mut pooled) = connection.take() {
            let keys: [&[u8]; 1] = [&self.store.keys.head];
            let confirmed = pooled.within(self.limit).run::<i64>(&CONFIRM, &keys, &arguments);
            *connection = confirmed.is_ok().then_some(pooled);
        }
        true
    }

    /// Releases the lock, unless the script has released it.
    fn release(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let keys: [&[u8]; 1] = [&self.store.keys.lock];
        let token = [self.token.as_bytes()];
        let limit = self.limit.at_most(RELEASE);
        let mut connection = self.connection.borrow_mut();
        let Some(mut pooled) = connection.take() else {
            let again = |connection: &mut Connection| {
                connection.run::<i64>(&scripts::RELEASE, &keys, &token)
            };
            let _ = self.store.pool.run(limit, again);
            return;
        };
        let released = pooled.within(limit).run::<i64>(&scripts::RELEASE, &keys, &token);
        *connection = released.is_ok().then_some(pooled);
    }
}

impl StoreView for Attempt<'_> {
    fn number(&self) -> u64 {
        self.head.number + 1
    }

    fn current(&self) -> Option<UserId> {
        self.head.current.clone().map(UserId::new)
    }

    fn location(&self) -> Option<String> {
        self.location.clone()
    }

    fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>, StoreError> {
        if let Some(known) = self.records.borrow().get(id) {
            return Ok(known.clone());
        }
        let mut read = ::redis::cmd("HGET");
        read.arg(&self.store.keys.users).arg(id.as_str());
        let record: Option<Vec<u8>> = self.ask(&read)?;
        let record = record.map(|record| decode_user(&self.codec, id, record)).transpose()?;
        self.records.borrow_mut().insert(id.clone(), record.clone());
        Ok(record)
    }

    fn last_used(
        &self,
        wanted: &dyn Fn(&StoredUser) -> bool,
    ) -> Result<Option<Arc<StoredUser>>, StoreError> {
        for start in (0..).step_by(USED.unsigned_abs()) {
            let mut next = ::redis::cmd("ZREVRANGE");
            next.arg(&self.store.keys.used).arg(start).arg(start + USED - 1);
            let names: Vec<String> = self.ask(&next)?;
            if names.is_empty() {
                break;
            }
            for name in names {
                let id = UserId::new(name.get(21..).unwrap_or_default());
                let user = self.user(&id)?;
                if let Some(user) = user.filter(|user| user.is_logged_in() && wanted(user)) {
                    return Ok(Some(user));
                }
            }
        }
        Ok(None)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.release();
        if let Some(pooled) = self.connection.take() {
            pooled.put_back();
        }
    }
}
