//! API keys of users.

use std::io;
use std::sync::Arc;

use super::State;
use super::records::ApiKey;
use super::tables::{Change, Tables};
use super::users::without_key;

/// Maximum number of keys of a user.
///
/// Source: the service's documented limits.
pub(in crate::server) const MAX_KEYS: usize = 20;

/// Why no key was created.
pub(in crate::server) enum KeyRefusal {
    Anonymous,
    NameTaken,
    NoUser,
    TooMany,
}

impl State {
    pub(in crate::server) fn api_keys(&self, user_id: &str) -> Vec<Arc<ApiKey>> {
        self.tables().api_keys_of(user_id).cloned().collect()
    }

    /// Returns a key if it belongs to this user.
    pub(in crate::server) fn api_key(&self, user_id: &str, id: &str) -> Option<Arc<ApiKey>> {
        find(&self.tables(), user_id, id).cloned()
    }

    pub(in crate::server) fn api_key_with_hash(&self, hash: &str) -> Option<Arc<ApiKey>> {
        self.tables().api_key_with_hash(hash).cloned()
    }

    /// Adds a key, and assigns its `number`.
    pub(in crate::server) fn add_api_key(
        &self,
        key: ApiKey,
    ) -> io::Result<Result<Arc<ApiKey>, KeyRefusal>> {
        self.change(|tables| {
            let refused = |why| Ok((Err(why), vec![]));
            let Some(user) = tables.users.get(&key.user_id) else {
                return refused(KeyRefusal::NoUser);
            };
            if user.is_anonymous() {
                return refused(KeyRefusal::Anonymous);
            }
            let mut count = 0;
            let mut number = 0;
            for other in tables.api_keys_of(&key.user_id) {
                if other.name == key.name {
                    return refused(KeyRefusal::NameTaken);
                }
                count += 1;
                number = other.number.saturating_add(1);
            }
            if count >= MAX_KEYS {
                return refused(KeyRefusal::TooMany);
            }
            let key = ApiKey { number, ..key };
            Ok((Ok(Arc::new(key.clone())), vec![Change::put(key)]))
        })
    }

    /// Disables or enables a user's key. Returns `false` if the user has no such key.
    pub(in crate::server) fn set_api_key_disabled(
        &self,
        user_id: &str,
        id: &str,
        disabled: bool,
    ) -> io::Result<bool> {
        self.change(|tables| {
            let Some(key) = find(tables, user_id, id) else { return Ok((false, vec![])) };
            Ok((true, vec![Change::put(ApiKey { disabled, ..ApiKey::clone(key) })]))
        })
    }

    /// Deletes a user's key and its identity. Returns `false` if the user has no such key.
    pub(in crate::server) fn delete_api_key(&self, user_id: &str, id: &str) -> io::Result<bool> {
        self.change(|tables| {
            if find(tables, user_id, id).is_none() {
                return Ok((false, vec![]));
            }
            let user = tables.users.get(user_id).and_then(|user| without_key(user, id));
            let mut changes = vec![Change::RemoveApiKey(id.to_owned())];
            changes.extend(user.map(Change::put));
            Ok((true, changes))
        })
    }
}

fn find<'a>(tables: &'a Tables, user_id: &str, id: &str) -> Option<&'a Arc<ApiKey>> {
    tables.api_keys.get(id).filter(|key| key.user_id == user_id)
}
