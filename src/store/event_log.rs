//! A bounded log of the events of recent commits.
//!
//! Events are kept as JSON text, so that events of a newer version are preserved. A reader of this
//! version is reported to have lagged in their place.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::RecentEvents;
use crate::event::Event;

/// The largest number of commits with events, and of bytes of events, in a log that each commit
/// writes to disk.
const COMMITS: usize = 64;
const BYTES: usize = 16 * 1024;
/// The largest number of commits in memory, where they can be faster than a listener is scheduled.
const COMMITS_IN_MEMORY: usize = 1024;

/// All events of the commits after `since`, oldest first.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct EventLog {
    since: u64,
    commits: VecDeque<LoggedCommit>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct LoggedCommit {
    number: u64,
    events: Vec<Box<RawValue>>,
}

impl EventLog {
    /// Returns an empty log of the events after the commit with this number.
    pub(super) fn since(number: u64) -> Self {
        Self { since: number, commits: VecDeque::new() }
    }

    /// Adds the events of a commit, and removes the oldest ones beyond the limits.
    pub(super) fn push(&mut self, number: u64, events: &[Event]) {
        self.push_within(number, events, COMMITS, BYTES);
    }

    /// Like [`EventLog::push`], with the limits of a log in memory.
    pub(super) fn push_in_memory(&mut self, number: u64, events: &[Event]) {
        self.push_within(number, events, COMMITS_IN_MEMORY, usize::MAX);
    }

    fn push_within(&mut self, number: u64, events: &[Event], commits: usize, limit: usize) {
        if events.is_empty() {
            return;
        }
        let Ok(events) = events.iter().map(to_raw_value).collect() else {
            *self = Self::since(number);
            return;
        };
        self.commits.push_back(LoggedCommit { number, events });
        let counted = limit != usize::MAX;
        let mut bytes = if counted { self.commits.iter().map(LoggedCommit::size).sum() } else { 0 };
        while self.commits.len() > commits || bytes > limit {
            let Some(oldest) = self.commits.pop_front() else { break };
            bytes = bytes.saturating_sub(oldest.size());
            self.since = oldest.number;
        }
    }

    /// Returns the events after the commit `number`, where `newest` is the newest commit.
    pub(super) fn after(&self, number: Option<u64>, newest: u64) -> RecentEvents {
        let mut recent = RecentEvents { number: newest, ..RecentEvents::default() };
        let Some(number) = number else { return recent };
        // A reader with a higher number has read another store at this path.
        recent.lagged = number < self.since || number > newest;
        let first = self.commits.partition_point(|commit| commit.number <= number);
        for commit in self.commits.range(first..) {
            for event in &commit.events {
                match serde_json::from_str(event.get()) {
                    Ok(event) => recent.events.push((commit.number, event)),
                    Err(_) => recent.lagged = true,
                }
            }
        }
        recent
    }
}

impl LoggedCommit {
    fn size(&self) -> usize {
        self.events.iter().map(|event| event.get().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::UserId;

    fn switched(to: &str) -> Event {
        Event::CurrentUserChanged { from: None, to: Some(UserId::new(to)) }
    }

    #[test]
    fn reader_of_removed_events_has_lagged() {
        let mut log = EventLog::default();
        for number in 1..=100 {
            log.push(number, &[switched("ada")]);
        }
        assert!(log.after(Some(35), 100).lagged);
        let recent = log.after(Some(36), 100);
        assert!(!recent.lagged);
        assert_eq!(recent.events.first().unwrap().0, 37);
        assert_eq!(recent.events.len(), 64);
    }

    #[test]
    fn large_commit_is_not_logged() {
        let mut log = EventLog::default();
        log.push(1, &[switched(&"x".repeat(2 * BYTES))]);
        assert!(log.after(Some(0), 1).lagged);
        assert!(!log.after(Some(1), 1).lagged);
        log.push(2, &[switched("ada")]);
        assert_eq!(log.after(Some(1), 2).events, [(2, switched("ada"))]);
    }

    #[test]
    fn event_of_newer_version_is_preserved_and_lags() {
        let text =
            r#"{"since":0,"commits":[{"number":1,"events":[{"event":"teleported","x":1}]}]}"#;
        let mut log: EventLog = serde_json::from_str(text).unwrap();
        log.push(2, &[switched("ada")]);
        let recent = log.after(Some(0), 2);
        assert!(recent.lagged);
        assert_eq!(recent.events, [(2, switched("ada"))]);
        assert!(!log.after(Some(1), 2).lagged);
        assert!(serde_json::to_string(&log).unwrap().contains("teleported"));
    }

    #[test]
    fn reader_ahead_of_store_has_lagged() {
        assert!(EventLog::default().after(Some(5), 3).lagged);
        assert!(!EventLog::default().after(None, 3).lagged);
    }
}
