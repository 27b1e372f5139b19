//! The state in memory, with the indexes that lookups need, and the changes it can undergo.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Account, Identity, Session, User};

/// Something that is kept.
pub(super) enum Record {
    Account(Arc<Account>),
    Session(Arc<Session>),
    User(Arc<User>),
}

/// One step of a change.
pub(super) enum Change {
    Put(Record),
    RemoveSession(String),
}

#[derive(Default)]
pub(super) struct Tables {
    /// By address.
    pub accounts: HashMap<String, Arc<Account>>,
    /// By id.
    pub sessions: HashMap<String, Arc<Session>>,
    /// By id.
    pub users: HashMap<String, Arc<User>>,
    /// User ids by identity.
    identities: HashMap<Identity, String>,
    /// Session ids by user id.
    by_user: HashMap<String, BTreeSet<String>>,
    /// Session ids in the order of their end.
    by_end: BTreeSet<(i64, String)>,
}

impl Change {
    pub(super) fn put(record: impl Into<Record>) -> Self {
        Self::Put(record.into())
    }
}

impl From<Account> for Record {
    fn from(account: Account) -> Self {
        Self::Account(Arc::new(account))
    }
}

impl From<Session> for Record {
    fn from(session: Session) -> Self {
        Self::Session(Arc::new(session))
    }
}

impl From<User> for Record {
    fn from(user: User) -> Self {
        Self::User(Arc::new(user))
    }
}

impl Tables {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Put(Record::Account(account)) => {
                self.accounts.insert(account.email.clone(), account);
            }
            Change::Put(Record::Session(session)) => {
                self.remove_session(&session.id);
                self.by_user.entry(session.user_id.clone()).or_default().insert(session.id.clone());
                self.by_end.insert((end(&session), session.id.clone()));
                self.sessions.insert(session.id.clone(), session);
            }
            Change::Put(Record::User(user)) => {
                for identity in &user.identities {
                    self.identities.insert(identity.clone(), user.id.clone());
                }
                self.users.insert(user.id.clone(), user);
            }
            Change::RemoveSession(id) => self.remove_session(&id),
        }
    }

    pub(super) fn user_of(&self, identity: &Identity) -> Option<Arc<User>> {
        self.users.get(self.identities.get(identity)?).cloned()
    }

    pub(super) fn sessions_of(&self, user_id: &str) -> impl Iterator<Item = &Arc<Session>> {
        self.by_user.get(user_id).into_iter().flatten().filter_map(|id| self.sessions.get(id))
    }

    /// Returns the changes that remove sessions which ended before `now`.
    pub(super) fn expired(&self, now: i64, at_most: usize) -> impl Iterator<Item = Change> {
        self.by_end
            .iter()
            .take_while(move |(end, _)| *end < now)
            .take(at_most)
            .map(|(_, id)| Change::RemoveSession(id.clone()))
    }

    fn remove_session(&mut self, id: &str) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.by_end.remove(&(end(&session), session.id.clone()));
        if let Some(ids) = self.by_user.get_mut(&session.user_id) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_user.remove(&session.user_id);
            }
        }
    }
}

/// Returns the moment from which a session answers nothing any more.
fn end(session: &Session) -> i64 {
    let replaced = session.replaced.as_ref();
    replaced.map_or(session.expires_at, |replaced| replaced.until.min(session.expires_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::state::Replaced;

    fn session(id: &str, expires_at: i64) -> Session {
        Session {
            id: id.into(),
            login: id.into(),
            user_id: "u".into(),
            identity: Identity { id: "i".into(), provider_type: "anon-user".into() },
            device_id: String::new(),
            issued_at: 0,
            expires_at,
            replaced: None,
        }
    }

    fn expired(tables: &Tables, now: i64) -> Vec<String> {
        let id = |change| match change {
            Change::RemoveSession(id) => id,
            Change::Put(_) => unreachable!("expiry only removes"),
        };
        tables.expired(now, 10).map(id).collect()
    }

    #[test]
    fn sessions_expire_in_the_order_of_their_end() {
        let mut tables = Tables::default();
        for (id, expires_at) in [("late", 30), ("early", 10), ("middle", 20)] {
            tables.apply(Change::put(session(id, expires_at)));
        }
        assert_eq!(expired(&tables, 10), Vec::<String>::new());
        assert_eq!(expired(&tables, 21), ["early", "middle"]);
        assert_eq!(tables.expired(100, 1).count(), 1);

        let until = Replaced { by: "middle".into(), until: 5 };
        tables.apply(Change::put(Session { replaced: Some(until), ..session("late", 30) }));
        assert_eq!(expired(&tables, 21), ["late", "early", "middle"]);
        for id in expired(&tables, 100) {
            tables.apply(Change::RemoveSession(id));
        }
        assert!(tables.sessions.is_empty() && tables.by_user.is_empty());
        assert!(tables.by_end.is_empty());
    }
}
