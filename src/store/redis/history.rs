//! Rollback detection: checks that the server still has the commits that this process has seen.
//!
//! Each commit has a number and a random mark. A server loses commits if a replica that had not
//! received them is promoted, if it restarts without its data, or if `FLUSHALL` is run. It then has
//! a lower number, another instance, or other marks for the same numbers.
//!
//! A commit that enough replicas have acknowledged is *safe*; losing it is a rollback. If the store
//! does not wait for acknowledgements, every commit counts as safe. Losing a commit that is not
//! safe is no rollback: the session still has the tokens and stores them again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::scripts::{Head, MARKS, mark_field};
use crate::diagnostics::note;
use crate::error::{StoreError, StoreErrorKind};

/// The reaction to a server that has lost commits that this process had seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum OnRollback {
    /// Continue with the data that the server has, and emit
    /// [`Event::StoreRolledBack`](crate::Event::StoreRolledBack).
    Continue,
    /// Report [`StoreErrorKind::RolledBack`] until the server has the commits again or the program
    /// is restarted. This is the default.
    #[default]
    Refuse,
}

/// The newest commits that this process has seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    instance: String,
    pub(super) number: u64,
    safe: u64,
    safe_mark: Vec<u8>,
}

/// The result of comparing a head with the commits seen before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Consistent,
    /// Commits are missing, but no safe ones.
    Behind,
}

/// The commits that this process has seen in one namespace.
#[derive(Debug)]
pub(super) struct History {
    /// `true` if the store waits for acknowledgements of replicas.
    waits: bool,
    on_rollback: OnRollback,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: Option<Arc<Seen>>,
    /// The number of accepted rollbacks.
    accepted: u64,
    /// `true` if the last rollback is not reported yet.
    is_news: bool,
}

impl Seen {
    fn of(head: &Head, waits: bool) -> Self {
        let (safe, safe_mark) = match waits {
            true => (head.safe, head.safe_mark.clone()),
            false => (head.number, head.mark.clone()),
        };
        Self { instance: head.instance.clone(), number: head.number, safe, safe_mark }
    }
}

impl History {
    pub(super) fn new(waits: bool, on_rollback: OnRollback) -> Self {
        Self { waits, on_rollback, state: Mutex::default() }
    }

    /// Returns the commits seen so far. Call this before sending a request: the server must still
    /// have every commit that was seen before the request was sent.
    pub(super) fn seen(&self) -> Option<Arc<Seen>> {
        self.lock().seen.clone()
    }

    /// Returns the field of the mark to request.
    pub(super) fn field(seen: Option<&Arc<Seen>>) -> String {
        seen.map_or_else(String::new, |seen| mark_field(seen.safe))
    }

    /// Judges a head against `before`, and remembers it if it is consistent or the first one after
    /// an accepted rollback.
    pub(super) fn judge(
        &self,
        before: Option<&Arc<Seen>>,
        head: &Head,
    ) -> Result<Verdict, StoreError> {
        let mut state = self.lock();
        let Some(before) = before else {
            self.remember(&mut state, head);
            return Ok(Verdict::Consistent);
        };
        let is_lost = head.instance != before.instance
            || head.number < before.safe
            || before.safe > 0
                && head.number - before.safe < MARKS
                && head.seen_mark != before.safe_mark;
        if is_lost {
            note!(
                warn,
                "the Redis server has lost commits: {} after {}",
                head.number,
                before.number
            );
            if self.on_rollback == OnRollback::Refuse {
                return Err(rolled_back(before, head));
            }
            let is_first = state.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, before));
            if is_first {
                state.accepted += 1;
                state.is_news = true;
                state.seen = None;
                self.remember(&mut state, head);
            }
            return Ok(Verdict::Consistent);
        }
        if head.number < before.number {
            return Ok(Verdict::Behind);
        }
        self.remember(&mut state, head);
        Ok(Verdict::Consistent)
    }

    /// Remembers a commit of this process. After [`Verdict::Behind`] it replaces the lost commits.
    pub(super) fn note_commit(&self, head: &Head, verdict: Verdict) {
        let mut state = self.lock();
        if verdict == Verdict::Behind
            && let Some(seen) = &mut state.seen
        {
            Arc::make_mut(seen).number = 0;
        }
        self.remember(&mut state, head);
    }

    /// Returns the number of accepted rollbacks.
    pub(super) fn rollbacks(&self) -> u64 {
        self.lock().accepted
    }

    /// Returns `true` once after each accepted rollback.
    pub(super) fn take_news(&self) -> bool {
        std::mem::take(&mut self.lock().is_news)
    }

    /// Returns the error for a read without a result while commits are missing.
    pub(super) fn behind(&self, head: &Head) -> StoreError {
        let seen = self.lock().seen.as_ref().map_or(0, |seen| seen.number);
        lost_some(seen, head.number)
    }

    fn remember(&self, state: &mut State, head: &Head) {
        if head.instance.is_empty() {
            return;
        }
        let mut newer = Seen::of(head, self.waits);
        if let Some(seen) = &state.seen {
            if seen.instance != newer.instance || seen.number > newer.number {
                return;
            }
            if seen.safe > newer.safe {
                (newer.safe, newer.safe_mark) = (seen.safe, seen.safe_mark.clone());
            }
        }
        state.seen = Some(Arc::new(newer));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rolled_back(before: &Seen, head: &Head) -> StoreError {
    if head.instance == before.instance {
        return lost_some(before.number, head.number);
    }
    let reason = "the Redis server has lost the data that this program has seen there, restore its \
                  data, or start this program again to go on with what the server has";
    StoreError::new(StoreErrorKind::RolledBack, reason)
}

fn lost_some(before: u64, now: u64) -> StoreError {
    let reason = format!(
        "the Redis server has lost commits that this program has seen (it was at commit {before}, \
         and is at {now}), start this program again to go on with what the server has"
    );
    StoreError::new(StoreErrorKind::RolledBack, reason)
}
