//! What was asked of the server, without anything that must stay secret.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::UserId;

/// Entries beyond this push the oldest ones out.
const CAPACITY: usize = 65_536;
/// Paths are cut to this many bytes.
const MAX_PATH: usize = 512;

/// One answered request.
///
/// Query strings, header fields and bodies are where secrets travel; none of them is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct JournalEntry {
    /// The method, as sent; `-` if the request could not be read that far.
    pub method: String,
    /// The path without its query, still percent-encoded and at most 512 bytes; `-` if the request
    /// could not be read that far.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// The user who asked, or who logged in. Known only if the request had a valid token or was a
    /// log-in that succeeded.
    pub user_id: Option<UserId>,
}

#[derive(Default)]
pub(super) struct Journal(Mutex<VecDeque<JournalEntry>>);

impl Journal {
    pub(super) fn add(&self, method: &str, path: &str, status: u16, user_id: Option<UserId>) {
        let entry = JournalEntry {
            method: cut(method).to_owned(),
            path: cut(path).to_owned(),
            status,
            user_id,
        };
        let mut entries = self.entries();
        if entries.len() == CAPACITY {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    pub(super) fn to_vec(&self) -> Vec<JournalEntry> {
        self.entries().iter().cloned().collect()
    }

    pub(super) fn count(&self, method: &str, path: &str) -> usize {
        let asked = |entry: &&JournalEntry| entry.method == method && entry.path == path;
        self.entries().iter().filter(asked).count()
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<JournalEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_PATH);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_bounded_in_both_directions() {
        let journal = Journal::default();
        journal.add("GET", &format!("/{}", "\u{e4}".repeat(400)), 404, None);
        assert_eq!(journal.to_vec()[0].path.len(), 511);
        (0..CAPACITY).for_each(|_| journal.add("GET", "/health", 200, None));
        assert_eq!(journal.count("GET", "/health"), CAPACITY);
        assert_eq!(journal.to_vec().len(), CAPACITY);
    }
}
