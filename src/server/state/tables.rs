//! The state in memory: records, indexes for lookups, and the changes that can be applied.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::limits::{PRUNED_AT_ONCE, StateLimits};
use super::records::{Account, ApiKey, Identity, Session, User};

/// A stored record.
pub(super) enum Record {
    Account(Arc<Account>),
    ApiKey(Arc<ApiKey>),
    Session(Arc<Session>),
    User(Arc<User>),
}

/// There is no room for one more record.
#[derive(Debug)]
pub(super) struct Full;

/// One step of a change.
pub(super) enum Change {
    Put(Record),
    /// By address.
    RemoveAccount(String),
    RemoveApiKey(String),
    RemoveSession {
        id: String,
        /// When it ended, in seconds since the epoch.
        at: i64,
    },
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
    /// API key ids by user id, in the order of creation.
    keys_of: HashMap<String, BTreeSet<(u64, String)>>,
    /// User ids by identity.
    identities: HashMap<Identity, String>,
    /// Session ids by user id.
    by_user: HashMap<String, BTreeSet<String>>,
    /// Session ids in the order of their end times.
    by_end: BTreeSet<(i64, String)>,
    /// User ids by the number of their sessions.
    by_sessions: BTreeSet<(usize, String)>,
    /// The number of anonymous users.
    anonymous: usize,
    /// Anonymous users without a session, ordered by the end of their last session. They cannot log
    /// in again.
    abandoned: BTreeSet<(i64, String)>,
    abandoned_at: HashMap<String, i64>,
    /// The addresses of accounts pending confirmation, in the order of creation.
    pending: BTreeSet<(i64, String)>,
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
                if account.pending {
                    self.pending.insert((account.created_at, account.email.clone()));
                }
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
                self.remove_session(&session.id, None);
                let ids = self.by_user.entry(session.user_id.clone()).or_default();
                ids.insert(session.id.clone());
                let count = ids.len();
                self.count_sessions(&session.user_id, count - 1, count);
                self.reclaim(&session.user_id);
                self.by_end.insert((session.end(), session.id.clone()));
                self.sessions.insert(session.id.clone(), session);
            }
            Change::Put(Record::User(user)) => {
                let abandoned_at = self.abandoned_at.get(&user.id).copied();
                self.remove_user(&user.id);
                for identity in &user.identities {
                    self.identities.insert(identity.clone(), user.id.clone());
                }
                if user.is_anonymous() {
                    self.anonymous += 1;
                    if let Some(at) = abandoned_at {
                        self.abandon(&user.id, at);
                    }
                }
                self.users.insert(user.id.clone(), user);
            }
            Change::RemoveAccount(email) => self.remove_account(&email),
            Change::RemoveApiKey(id) => self.remove_api_key(&id),
            Change::RemoveSession { id, at } => self.remove_session(&id, Some(at)),
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

    /// Returns a user's API keys in the order of creation.
    pub(super) fn api_keys_of(&self, user_id: &str) -> impl Iterator<Item = &Arc<ApiKey>> {
        let ids = self.keys_of.get(user_id).into_iter().flatten();
        ids.filter_map(|(_, id)| self.api_keys.get(id))
    }

    pub(super) fn sessions_of(&self, user_id: &str) -> impl Iterator<Item = &Arc<Session>> {
        self.by_user.get(user_id).into_iter().flatten().filter_map(|id| self.sessions.get(id))
    }

    /// Returns the changes that remove sessions that ended before `now`, and anonymous users whose
    /// last session ended so long ago that their access tokens have expired. At most this many of
    /// each.
    pub(super) fn expired(
        &self,
        now: i64,
        limits: &StateLimits,
        at_most: usize,
    ) -> impl Iterator<Item = Change> {
        let ended = self.by_end.iter().take_while(move |(end, _)| *end < now).take(at_most);
        let sessions = ended.map(|(end, id)| Change::RemoveSession { id: id.clone(), at: *end });
        let until = now.saturating_sub(limits.access_lifetime);
        let abandoned = self.abandoned.iter().take_while(move |(at, _)| *at < until).take(at_most);
        sessions.chain(abandoned.map(|(_, id)| Change::RemoveUser(id.clone())))
    }

    /// Returns the change that makes room for one more user, if necessary: the removal of the
    /// anonymous user that has been without a session for longest. Returns `Err` if there is no
    /// room.
    pub(super) fn room_for_user(
        &self,
        is_anonymous: bool,
        limits: &StateLimits,
    ) -> Result<Option<Change>, Full> {
        let is_full = self.users.len() >= limits.users
            || is_anonymous && self.anonymous >= limits.anonymous_users();
        if !is_full {
            return Ok(None);
        }
        let (_, id) = self.abandoned.first().ok_or(Full)?;
        Ok(Some(Change::RemoveUser(id.clone())))
    }

    /// Returns the change that makes room for one more account, if necessary: the removal of the
    /// account that has been pending confirmation for longest. Returns `Err` if there is no room.
    pub(super) fn room_for_account(
        &self,
        is_pending: bool,
        limits: &StateLimits,
    ) -> Result<Option<Change>, Full> {
        let is_full = self.accounts.len() >= limits.users
            || is_pending && self.pending.len() >= limits.pending_accounts();
        if !is_full {
            return Ok(None);
        }
        let (_, email) = self.pending.first().ok_or(Full)?;
        Ok(Some(Change::RemoveAccount(email.clone())))
    }

    /// Returns the changes that make room for one more session of a user: the removal of the
    /// sessions that have been unused for longest. They belong to this user or, if there are too
    /// many in total, to the user with the most sessions.
    pub(super) fn room_for_session(
        &self,
        user_id: &str,
        now: i64,
        limits: &StateLimits,
    ) -> Vec<Change> {
        let own = self.by_user.get(user_id).map_or(0, BTreeSet::len);
        let (user_id, surplus) = if own >= limits.sessions_per_user {
            (user_id, own + 1 - limits.sessions_per_user)
        } else if self.sessions.len() >= limits.sessions() {
            let most = self.by_sessions.last();
            (most.map_or(user_id, |(_, user_id)| user_id.as_str()), 1)
        } else {
            return Vec::new();
        };
        let mut sessions: Vec<_> = self.sessions_of(user_id).collect();
        sessions.sort_by_key(|session| (session.replaced.is_none(), session.last_use()));
        let surplus = sessions.into_iter().take(surplus.min(PRUNED_AT_ONCE));
        surplus.map(|session| Change::RemoveSession { id: session.id.clone(), at: now }).collect()
    }

    /// Finds the anonymous users without a session. The disk does not store when their sessions
    /// ended.
    pub(super) fn find_abandoned(&mut self) {
        let is_abandoned =
            |user: &&Arc<User>| user.is_anonymous() && !self.by_user.contains_key(&user.id);
        let abandoned: Vec<_> = self.users.values().filter(is_abandoned).cloned().collect();
        for user in abandoned {
            self.abandon(&user.id, user.created_at);
        }
    }

    fn abandon(&mut self, user_id: &str, at: i64) {
        self.reclaim(user_id);
        self.abandoned.insert((at, user_id.to_owned()));
        self.abandoned_at.insert(user_id.to_owned(), at);
    }

    fn reclaim(&mut self, user_id: &str) {
        if let Some(at) = self.abandoned_at.remove(user_id) {
            self.abandoned.remove(&(at, user_id.to_owned()));
        }
    }

    fn count_sessions(&mut self, user_id: &str, before: usize, after: usize) {
        self.by_sessions.remove(&(before, user_id.to_owned()));
        if after > 0 {
            self.by_sessions.insert((after, user_id.to_owned()));
        }
    }

    fn remove_account(&mut self, email: &str) {
        if let Some(account) = self.accounts.remove(email) {
            self.addresses.remove(&account.id);
            if account.pending {
                self.pending.remove(&(account.created_at, account.email.clone()));
            }
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
        self.anonymous -= usize::from(user.is_anonymous());
        self.reclaim(id);
        for identity in &user.identities {
            self.identities.remove(identity);
        }
    }

    /// Removes a session that ended or is replaced.
    fn remove_session(&mut self, id: &str, ended_at: Option<i64>) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.by_end.remove(&(session.end(), session.id.clone()));
        let Some(ids) = self.by_user.get_mut(&session.user_id) else { return };
        let before = ids.len();
        ids.remove(id);
        let after = ids.len();
        if after == 0 {
            self.by_user.remove(&session.user_id);
        }
        self.count_sessions(&session.user_id, before, after);
        let is_anonymous =
            || self.users.get(&session.user_id).is_some_and(|user| user.is_anonymous());
        if let (0, Some(at), true) = (after, ended_at, is_anonymous()) {
            self.abandon(&session.user_id, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::state::records::{LastUse, RotatedTo};

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
            last_use: LastUse::default(),
        }
    }

    const LIMITS: StateLimits = StateLimits { users: 2, sessions_per_user: 3, access_lifetime: 5 };

    fn id(change: Change) -> String {
        match change {
            Change::RemoveAccount(id) | Change::RemoveSession { id, .. } => id,
            Change::RemoveUser(id) => format!("user {id}"),
            _ => unreachable!("only removals make room"),
        }
    }

    fn expired(tables: &Tables, now: i64) -> Vec<String> {
        tables.expired(now, &LIMITS, 10).map(id).collect()
    }

    #[test]
    fn sessions_expire_by_end_time() {
        let mut tables = Tables::default();
        for (id, expires_at) in [("late", 30), ("early", 10), ("middle", 20)] {
            tables.apply(Change::put(session(id, expires_at)));
        }
        assert_eq!(expired(&tables, 10), Vec::<String>::new());
        assert_eq!(expired(&tables, 21), ["early", "middle"]);
        assert_eq!(tables.expired(100, &LIMITS, 1).count(), 1);

        let until = RotatedTo { by: "middle".into(), until: 5 };
        tables.apply(Change::put(Session { replaced: Some(until), ..session("late", 30) }));
        assert_eq!(expired(&tables, 21), ["late", "early", "middle"]);
        for id in expired(&tables, 100) {
            tables.apply(Change::RemoveSession { id, at: 100 });
        }
        assert!(tables.sessions.is_empty() && tables.by_user.is_empty());
        assert!(tables.by_end.is_empty());
    }
}
