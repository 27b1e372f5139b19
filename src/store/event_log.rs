//! The events of the newest commits, for those who read behind.
//!
//! Events are kept as JSON text: what a newer version wrote is carried along unread, and whoever
//! asks for it here is told that it missed something instead.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::RecentEvents;
use crate::event::Event;

/// How many commits with events are remembered, and how many bytes of events, where each commit
/// writes the ring to disk.
const COMMITS: usize = 64;
const BYTES: usize = 16 * 1024;
/// The same where nothing is written: commits can come in faster than a listener is scheduled.
const COMMITS_IN_MEMORY: usize = 1024;

/// All events of the commits after `since`, oldest first.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct EventLog {
    since: u64,
    told: VecDeque<LoggedCommit>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct LoggedCommit {
    number: u64,
    events: Vec<Box<RawValue>>,
}

impl EventLog {
    /// Returns a ring that knows no events up to the commit with this number, and all from there.
    pub(super) fn since(number: u64) -> Self {
        Self { since: number, told: VecDeque::new() }
    }

    /// Remembers the events of a commit, and forgets the oldest ones if there are too many.
    pub(super) fn push(&mut self, number: u64, events: &[Event]) {
        self.push_within(number, events, COMMITS, BYTES);
    }

    /// As [`EventLog::push`], with the bounds of a ring that is not written.
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
        self.told.push_back(LoggedCommit { number, events });
        let counted = limit != usize::MAX;
        let mut bytes = if counted { self.told.iter().map(LoggedCommit::size).sum() } else { 0 };
        while self.told.len() > commits || bytes > limit {
            let Some(oldest) = self.told.pop_front() else { break };
            bytes = bytes.saturating_sub(oldest.size());
            self.since = oldest.number;
        }
    }

    /// Returns what was told after the commit `number`, when `newest` is the newest commit.
    pub(super) fn after(&self, number: Option<u64>, newest: u64) -> RecentEvents {
        let mut recent = RecentEvents { number: newest, ..RecentEvents::default() };
        let Some(number) = number else { return recent };
        // Who knows more than there is has seen another store in this place.
        recent.lagged = number < self.since || number > newest;
        let known = self.told.partition_point(|told| told.number <= number);
        for told in self.told.range(known..) {
            for event in &told.events {
                match serde_json::from_str(event.get()) {
                    Ok(event) => recent.events.push((told.number, event)),
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
    fn who_asks_for_what_is_gone_has_lagged() {
        let mut ring = EventLog::default();
        for number in 1..=100 {
            ring.push(number, &[switched("ada")]);
        }
        assert!(ring.after(Some(35), 100).lagged);
        let recent = ring.after(Some(36), 100);
        assert!(!recent.lagged);
        assert_eq!(recent.events.first().unwrap().0, 37);
        assert_eq!(recent.events.len(), 64);
    }

    #[test]
    fn bytes_are_bounded_even_by_one_commit() {
        let mut ring = EventLog::default();
        ring.push(1, &[switched(&"x".repeat(2 * BYTES))]);
        assert!(ring.after(Some(0), 1).lagged);
        assert!(!ring.after(Some(1), 1).lagged);
        ring.push(2, &[switched("ada")]);
        assert_eq!(ring.after(Some(1), 2).events, [(2, switched("ada"))]);
    }

    #[test]
    fn an_event_of_a_newer_version_counts_as_lagged_and_is_carried_along() {
        let text = r#"{"since":0,"told":[{"number":1,"events":[{"event":"teleported","x":1}]}]}"#;
        let mut ring: EventLog = serde_json::from_str(text).unwrap();
        ring.push(2, &[switched("ada")]);
        let recent = ring.after(Some(0), 2);
        assert!(recent.lagged);
        assert_eq!(recent.events, [(2, switched("ada"))]);
        assert!(!ring.after(Some(1), 2).lagged);
        assert!(serde_json::to_string(&ring).unwrap().contains("teleported"));
    }

    #[test]
    fn who_is_ahead_has_lagged() {
        assert!(EventLog::default().after(Some(5), 3).lagged);
        assert!(!EventLog::default().after(None, 3).lagged);
    }
}
