//! Whether the server still has the commits that this process has seen.
//!
//! Each commit has a number and a random mark. A server that lost commits (a replica was promoted
//! that had not received them, it was restarted without its data, somebody ran `FLUSHALL`) has a
//! lower number, another instance, or other marks under the same numbers.
//!
//! Commits that enough replicas have acknowledged are *safe*: losing one is a rollback. Where no
//! acknowledgement is waited for, every commit counts as safe. Losing other commits is what the
//! acknowledgement is for: the session still has the tokens, and stores them again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::scripts::{Head, MARKS, mark_field};
use crate::diagnostics::note;
use crate::error::{StoreError, StoreErrorKind};

/// What to do when the server has lost commits that this process had seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum OnRollback {
    /// Go on with what the server has. Emits
    /// [`Event::StoreRolledBack`](crate::Event::StoreRolledBack).
    Continue,
    /// Report [`StoreErrorKind::RolledBack`] until the server has the commits again or the program
    /// is started again. This is the default.
    #[default]
    Refuse,
}

/// The newest commits that this process knows of.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    instance: String,
    pub(super) number: u64,
    safe: u64,
    safe_mark: Vec<u8>,
}

/// How a head relates to what was seen before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Consistent,
    /// Commits are missing, none of which was safe.
    Behind,
}

/// What this process has seen of one namespace.
#[derive(Debug)]
pub(super) struct History {
    /// Whether acknowledgements of replicas are waited for.
    waits: bool,
    on_rollback: OnRollback,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: Option<Arc<Seen>>,
    /// How many rollbacks were accepted.
    accepted: u64,
    /// Whether the last one is still to be reported.
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

    /// What has been seen so far. To be asked before a request is sent: only then must the answer
    /// contain it.
    pub(super) fn seen(&self) -> Option<Arc<Seen>> {
        self.lock().seen.clone()
    }

    /// Which mark to ask for.
    pub(super) fn field(seen: Option<&Arc<Seen>>) -> String {
        seen.map_or_else(String::new, |seen| mark_field(seen.safe))
    }

    /// Judges the head that came back, and remembers it.
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

    /// Remembers a commit of this process. It replaces what was seen of commits that were lost.
    pub(super) fn note_commit(&self, head: &Head, verdict: Verdict) {
        let mut state = self.lock();
        if verdict == Verdict::Behind
            && let Some(seen) = &mut state.seen
        {
            Arc::make_mut(seen).number = 0;
        }
        self.remember(&mut state, head);
    }

    /// Returns how many rollbacks were accepted.
    pub(super) fn rollbacks(&self) -> u64 {
        self.lock().accepted
    }

    /// Returns `true` once after a rollback was accepted.
    pub(super) fn take_news(&self) -> bool {
        std::mem::take(&mut self.lock().is_news)
    }

    /// The error of a read that found nobody, where commits are missing.
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
