//! Server sessions, which back refresh tokens.

use std::io;
use std::sync::Arc;

use super::State;
use super::limits::PRUNED_AT_ONCE;
use super::records::{RotatedTo, Session};
use super::tables::{Change, Record};
use crate::server::random;

impl State {
    /// Returns a session that has not ended at this time, and records that it was used.
    pub(in crate::server) fn session(&self, id: &str, now: i64) -> Option<Arc<Session>> {
        let tables = self.tables();
        let session = tables.sessions.get(id).filter(|session| now < session.end())?;
        session.last_use.note(now);
        Some(Arc::clone(session))
    }

    /// Returns the successor of a session, creating it if there is none. Returns `None` if the
    /// session does not exist, or was replaced too long ago.
    pub(in crate::server) fn rotate(
        &self,
        id: &str,
        now: i64,
        lifetime: i64,
        grace: i64,
    ) -> io::Result<Option<Arc<Session>>> {
        let successor_id = random::id()?;
        self.change(|tables| {
            let Some(old) = tables.sessions.get(id) else { return Ok((None, vec![])) };
            if let Some(replaced) = &old.replaced {
                let successor = tables.sessions.get(&replaced.by).cloned();
                return Ok((successor.filter(|_| now < replaced.until), vec![]));
            }
            let successor = Arc::new(Session {
                id: successor_id,
                issued_at: now,
                expires_at: now.saturating_add(lifetime),
                ..Session::clone(old)
            });
            let until = now.saturating_add(grace);
            let old = Session {
                replaced: Some(RotatedTo { by: successor.id.clone(), until }),
                ..Session::clone(old)
            };
            let mut changes = tables.room_for_session(&old.user_id, now, &self.limits);
            changes.extend(tables.expired(now, &self.limits, PRUNED_AT_ONCE));
            changes.push(Change::put(old));
            changes.push(Change::Put(Record::Session(Arc::clone(&successor))));
            Ok((Some(successor), changes))
        })
    }

    /// Ends a log-in: the session, its predecessors and its successors. Returns `false` if the
    /// session does not exist.
    pub(in crate::server) fn log_out(&self, id: &str, now: i64) -> io::Result<bool> {
        self.change(|tables| {
            let Some(session) = tables.sessions.get(id) else { return Ok((false, vec![])) };
            let changes = tables
                .sessions_of(&session.user_id)
                .filter(|other| other.login == session.login)
                .map(|other| Change::RemoveSession { id: other.id.clone(), at: now })
                .collect();
            Ok((true, changes))
        })
    }

    /// Ends all of a user's sessions and returns the number of log-ins, or `None` if there is no
    /// such user.
    pub(in crate::server) fn revoke_sessions(
        &self,
        user_id: &str,
        now: i64,
    ) -> io::Result<Option<usize>> {
        self.change(|tables| {
            if !tables.users.contains_key(user_id) {
                return Ok((None, vec![]));
            }
            let sessions = tables.sessions_of(user_id);
            let live = sessions.filter(|session| session.replaced.is_none() && now < session.end());
            let count = live.count();
            let sessions = tables.sessions_of(user_id);
            let changes =
                sessions.map(|session| Change::RemoveSession { id: session.id.clone(), at: now });
            Ok((Some(count), changes.collect()))
        })
    }
}
