//! The state in memory, with the indexes that lookups need, and the changes it can undergo.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::records::{Account, ApiKey, Identity, Session, User};

/// Something that is kept.
pub(super) enum Record {
    Account(Arc<Account>),
    ApiKey(Arc<ApiKey>),
    Session(Arc<Session>),
    User(Arc<User>),
}

/// One step of a change.
pub(super) enum Change {
    Put(Record),
    /// By address.
    RemoveAccount(String),
    RemoveApiKey(String),
    RemoveSession(String),
    RemoveUser(String),
}

#[derive(Default)]
pub(super) struct Tables {
    /// By address.
    pub accounts: HashMap<String, Arc<Account>>,
    /// By id.
    pub api_keys: HashMap<String, Arc<ApiKey>>,
    /// By id.
    pub sessions: HashMap<String, Arc<Session>>,
    /// By id.
    pub users: HashMap<String, Arc<User>>,
    /// Addresses by account id.
    addresses: HashMap<String, String>,
    /// API key ids by the key's hash.
    by_hash: HashMap<String, String>,
    /// API key ids by user id, in the order they were made.
    keys_of: HashMap<String, BTreeSet<(u64, String)>>,
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

impl From<ApiKey> for Record {
    fn from(key: ApiKey) -> Self {
        Self::ApiKey(Arc::new(key))
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
                self.remove_account(&account.email);
                self.addresses.insert(account.id.clone(), account.email.clone());
                self.accounts.insert(account.email.clone(), account);
            }
            Change::Put(Record::ApiKey(key)) => {
                self.remove_api_key(&key.id);
                self.by_hash.insert(key.hash.clone(), key.id.clone());
                let keys = self.keys_of.entry(key.user_id.clone()).or_default();
                keys.insert((key.number, key.id.clone()));
                self.api_keys.insert(key.id.clone(), key);
            }
            Change::Put(Record::Session(session)) => {
                self.remove_session(&session.id);
                self.by_user.entry(session.user_id.clone()).or_default().insert(session.id.clone());
                self.by_end.insert((session.end(), session.id.clone()));
                self.sessions.insert(session.id.clone(), session);
            }
            Change::Put(Record::User(user)) => {
                self.remove_user(&user.id);
                for identity in &user.identities {
                    self.identities.insert(identity.clone(), user.id.clone());
                }
                self.users.insert(user.id.clone(), user);
            }
            Change::RemoveAccount(email) => self.remove_account(&email),
            Change::RemoveApiKey(id) => self.remove_api_key(&id),
            Change::RemoveSession(id) => self.remove_session(&id),
            Change::RemoveUser(id) => self.remove_user(&id),
        }
    }

    pub(super) fn user_of(&self, identity: &Identity) -> Option<Arc<User>> {
        self.users.get(self.identities.get(identity)?).cloned()
    }

    pub(super) fn account_with_id(&self, id: &str) -> Option<&Arc<Account>> {
        self.accounts.get(self.addresses.get(id)?)
    }

    pub(super) fn api_key_with_hash(&self, hash: &str) -> Option<&Arc<ApiKey>> {
        self.api_keys.get(self.by_hash.get(hash)?)
    }

    /// Returns a user's API keys in the order they were made.
    pub(super) fn api_keys_of(&self, user_id: &str) -> impl Iterator<Item = &Arc<ApiKey>> {
        let ids = self.keys_of.get(user_id).into_iter().flatten();
        ids.filter_map(|(_, id)| self.api_keys.get(id))
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

    fn remove_account(&mut self, email: &str) {
        if let Some(account) = self.accounts.remove(email) {
            self.addresses.remove(&account.id);
        }
    }

    fn remove_api_key(&mut self, id: &str) {
        let Some(key) = self.api_keys.remove(id) else { return };
        self.by_hash.remove(&key.hash);
        if let Some(ids) = self.keys_of.get_mut(&key.user_id) {
            ids.remove(&(key.number, key.id.clone()));
            if ids.is_empty() {
                self.keys_of.remove(&key.user_id);
            }
        }
    }

    fn remove_user(&mut self, id: &str) {
        let Some(user) = self.users.remove(id) else { return };
        for identity in &user.identities {
            self.identities.remove(identity);
        }
    }

    fn remove_session(&mut self, id: &str) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.by_end.remove(&(session.end(), session.id.clone()));
        if let Some(ids) = self.by_user.get_mut(&session.user_id) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_user.remove(&session.user_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::state::records::RotatedTo;

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
            _ => unreachable!("expiry only removes sessions"),
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

        let until = RotatedTo { by: "middle".into(), until: 5 };
        tables.apply(Change::put(Session { replaced: Some(until), ..session("late", 30) }));
        assert_eq!(expired(&tables, 21), ["late", "early", "middle"]);
        for id in expired(&tables, 100) {
            tables.apply(Change::RemoveSession(id));
        }
        assert!(tables.sessions.is_empty() && tables.by_user.is_empty());
        assert!(tables.by_end.is_empty());
    }
}
