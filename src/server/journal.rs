//! The journal of requests, without their query strings, header fields and bodies.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Route;
use crate::UserId;

/// Maximum number of entries; the oldest ones are dropped.
const CAPACITY: usize = 65_536;
/// Maximum size of all texts in bytes; the oldest entries are dropped.
const MAX_TEXT: usize = 16 * 1024 * 1024;
/// Methods are truncated to this many bytes.
const MAX_METHOD: usize = 32;
/// Paths are truncated to this many bytes.
const MAX_PATH: usize = 512;
/// Maximum number of entries, the newest, that `Display` and failed assertions show.
const SHOWN: usize = 200;

/// A request and its response. Query strings, header fields and bodies may contain secrets, so the
/// journal does not store them.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct JournalEntry {
    /// The route, if the path and method match one.
    pub route: Option<Route>,
    /// The method as sent, truncated to 32 bytes; `-` if it could not be parsed.
    pub method: String,
    /// The path without its query, percent-encoded and truncated to 512 bytes; `-` if it could not
    /// be parsed.
    pub path: String,
    /// The status of the response. If a [fault](Self::fault) suppressed the response, this is the
    /// status that the client would have received, or zero if there was no response at all.
    pub status: u16,
    /// The user who sent the request or logged in. Known only if the request had a valid token or
    /// was a successful log-in.
    pub user_id: Option<UserId>,
    /// A short description of the fault that the request triggered.
    pub fault: Option<&'static str>,
    /// The id in the response header `X-Appservices-Request-Id`, and in the link of an error.
    pub request_id: String,
}

/// A snapshot of the requests that a server received, oldest first. Returned by
/// [`Server::journal`](super::Server::journal).
///
/// `Display` shows one request per line. The assertions print that list when they fail.
///
/// # Examples
///
/// ```
/// use keyfob::server::{Route, Server};
/// use keyfob::store::MemoryStore;
/// use keyfob::{Credentials, Session};
///
/// let server = Server::builder().start()?;
/// let session = Session::builder(server.app_id(), server.base_url())
///     .store(MemoryStore::new())
///     .open()?;
/// session.log_in(&Credentials::anonymous())?;
///
/// let journal = server.journal();
/// journal.assert_count(Route::Refresh, 0);
/// journal.assert_routes(&[Route::Location, Route::LogIn, Route::Profile]);
/// assert!(journal.iter().all(|entry| entry.status == 200));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Journal(Vec<JournalEntry>);

impl Journal {
    /// Returns the number of requests of a route, whatever the response.
    pub fn count(&self, route: Route) -> usize {
        self.iter().filter(|entry| entry.route == Some(route)).count()
    }

    /// Returns the routes of the requests, in order. Requests without a route are left out.
    pub fn routes(&self) -> Vec<Route> {
        self.iter().filter_map(|entry| entry.route).collect()
    }

    /// Asserts the number of requests of a route.
    ///
    /// # Panics
    /// If the number differs. The message contains the journal.
    #[track_caller]
    pub fn assert_count(&self, route: Route, expected: usize) {
        let count = self.count(route);
        assert!(
            count == expected,
            "expected {expected} × {route}, there were {count}; the journal:\n{self}"
        );
    }

    /// Asserts the routes of all requests, in order.
    ///
    /// # Panics
    /// If the routes differ. The message contains the journal.
    #[track_caller]
    pub fn assert_routes(&self, expected: &[Route]) {
        assert!(self.routes() == expected, "expected {expected:?}; the journal:\n{self}");
    }
}

impl Deref for Journal {
    type Target = [JournalEntry];

    fn deref(&self) -> &[JournalEntry] {
        &self.0
    }
}

impl IntoIterator for Journal {
    type Item = JournalEntry;
    type IntoIter = std::vec::IntoIter<JournalEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Journal {
    type Item = &'a JournalEntry;
    type IntoIter = std::slice::Iter<'a, JournalEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for JournalEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:3} {} {}", self.status, self.method, self.path)?;
        if let Some(user) = &self.user_id {
            write!(f, " by {user}")?;
        }
        self.fault.map_or(Ok(()), |fault| write!(f, " [{fault}]"))
    }
}

impl fmt::Display for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.len().saturating_sub(SHOWN);
        if hidden > 0 {
            writeln!(f, "  … {hidden} before")?;
        }
        self[hidden..].iter().try_for_each(|entry| writeln!(f, "  {entry}"))
    }
}

/// Records the requests of a server.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Recorded>);

#[derive(Default)]
struct Recorded {
    entries: VecDeque<JournalEntry>,
    /// The total length of all methods, paths and ids.
    text: usize,
}

impl Recorder {
    pub(super) fn add(&self, mut entry: JournalEntry) {
        cut(&mut entry.method, MAX_METHOD);
        cut(&mut entry.path, MAX_PATH);
        let mut recorded = self.recorded();
        recorded.text += text_len(&entry);
        recorded.entries.push_back(entry);
        while recorded.entries.len() > CAPACITY || recorded.text > MAX_TEXT {
            let Some(oldest) = recorded.entries.pop_front() else { break };
            recorded.text -= text_len(&oldest);
        }
    }

    /// Returns the request with this id, if it is still in the journal.
    pub(super) fn find(&self, request_id: &str) -> Option<JournalEntry> {
        let recorded = self.recorded();
        recorded.entries.iter().rfind(|entry| entry.request_id == request_id).cloned()
    }

    pub(super) fn journal(&self) -> Journal {
        Journal(self.recorded().entries.iter().cloned().collect())
    }

    pub(super) fn clear(&self) {
        *self.recorded() = Recorded::default();
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text_len(entry: &JournalEntry) -> usize {
    entry.method.len() + entry.path.len() + entry.request_id.len()
}

/// Truncates a text and frees its unused memory.
fn cut(text: &mut String, at_most: usize) {
    let mut end = text.len().min(at_most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> JournalEntry {
        JournalEntry {
            route: Some(Route::Health),
            method: "GET".to_owned(),
            path: path.to_owned(),
            status: 200,
            user_id: None,
            fault: None,
            request_id: String::new(),
        }
    }

    #[test]
    fn journal_is_bounded_in_both_directions() {
        let recorder = Recorder::default();
        let long = format!("/{}", "\u{e4}".repeat(30_000));
        recorder.add(JournalEntry { method: "M".repeat(60_000), ..entry(&long) });
        let first = recorder.recorded().entries.pop_front().unwrap();
        recorder.clear();
        assert_eq!((first.path.len(), first.method.len()), (511, MAX_METHOD));
        assert!(first.path.capacity() + first.method.capacity() < 1024, "no more than is used");
        (0..CAPACITY).for_each(|_| recorder.add(entry("/health")));
        let journal = recorder.journal();
        assert!(journal.len() == CAPACITY && journal.iter().all(|entry| entry.path == "/health"));
    }

    #[test]
    fn long_paths_evict_oldest_entries() {
        let recorder = Recorder::default();
        let long = format!("/{}", "x".repeat(MAX_PATH));
        (0..CAPACITY).for_each(|_| recorder.add(entry(&long)));
        let text: usize = recorder.journal().iter().map(text_len).sum();
        assert!(text <= MAX_TEXT && text > MAX_TEXT - 1024, "{text}");
        recorder.add(entry("/health"));
        assert_eq!(recorder.journal().last().unwrap().path, "/health");
        recorder.clear();
        assert!(recorder.journal().is_empty() && recorder.recorded().text == 0);
    }

    #[test]
    fn display_is_one_bounded_line_per_request() {
        let fault = Some("cut after commit");
        let journal = Journal(vec![
            entry("/health"),
            JournalEntry { user_id: Some(UserId::new("u1")), fault, ..entry("/x") },
        ]);
        assert_eq!(
            journal.to_string(),
            "  200 GET /health\n  200 GET /x by u1 [cut after commit]\n"
        );
        let long = Journal(vec![entry("/health"); SHOWN + 3]).to_string();
        assert_eq!((long.lines().count(), long.lines().next()), (SHOWN + 1, Some("  … 3 before")));
    }
}
