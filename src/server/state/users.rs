//! Users: logging in, linking, deleting.

use std::io;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::State;
use super::limits::{MAX_IDENTITIES, PRUNED_AT_ONCE, profile_fits};
use super::records::{ANONYMOUS, API_KEY, EMAIL_PASSWORD, Identity, LastUse, Session, User};
use super::tables::{Change, Record, Tables};
use crate::server::random;

/// A verified login: the identity and the profile fields that the provider returned.
pub(in crate::server) struct VerifiedLogin {
    pub identity: Identity,
    /// The profile fields from the provider.
    pub data: Map<String, Value>,
    /// Whether `data` replaces the data of an existing user.
    pub current: bool,
    pub basis: LoginSource,
}

/// The basis of a login. It is checked again when the login is stored, because it may have changed.
pub(in crate::server) enum LoginSource {
    /// The account of the identity, with this password hash.
    Account {
        password: String,
    },
    /// The API key that is the identity.
    ApiKey,
    /// One of the server's own API keys: the user is of type `server`.
    ServerKey,
    Other,
}

/// The parameters of a new server session.
pub(in crate::server) struct SessionParams {
    pub device_id: String,
    /// In seconds since the epoch.
    pub now: i64,
    /// In seconds.
    pub lifetime: i64,
}

/// The result of a log-in.
pub(in crate::server) enum LoggedIn {
    Done(Arc<User>, Arc<Session>),
    Disabled,
    /// The maximum number of users is reached.
    Full,
    ProfileTooLarge,
    /// The basis of the log-in was changed or removed in the meantime.
    Outdated,
}

/// The result of linking.
pub(in crate::server) enum Linked {
    /// The user has the identity, now or already before.
    Done,
    /// The identity belongs to another user.
    InUse,
    /// The user already has another e-mail account.
    SecondAccount,
    Disabled,
    NoUser,
    /// The same as [`LoggedIn::Outdated`].
    Outdated,
    ProfileTooLarge,
    TooManyIdentities,
}

/// The profile would exceed its maximum size.
struct TooLarge;

impl VerifiedLogin {
    pub(in crate::server) fn new(identity: Identity) -> Self {
        Self { identity, data: Map::new(), current: false, basis: LoginSource::Other }
    }

    fn still_holds(&self, tables: &Tables) -> bool {
        match &self.basis {
            LoginSource::Account { password } => tables
                .account_with_id(&self.identity.id)
                .is_some_and(|account| !account.pending && account.password == *password),
            LoginSource::ApiKey => {
                tables.api_keys.get(&self.identity.id).is_some_and(|key| !key.disabled)
            }
            LoginSource::ServerKey | LoginSource::Other => true,
        }
    }

    /// Returns the user with this identity. An API key belongs to a user even before its first use.
    fn owner(&self, tables: &Tables) -> Option<Arc<User>> {
        match self.basis {
            LoginSource::ApiKey => {
                let key = tables.api_keys.get(&self.identity.id)?;
                tables.users.get(&key.user_id).cloned()
            }
            _ => tables.user_of(&self.identity),
        }
    }

    /// Returns the user with this identity and data added, or `None` if that changes nothing.
    fn added_to(&self, user: &User) -> Result<Option<User>, TooLarge> {
        let mut with = user.clone();
        if !with.identities.contains(&self.identity) {
            with.identities.push(self.identity.clone());
        }
        for (name, value) in &self.data {
            if self.current || !with.data.contains_key(name) {
                with.data.insert(name.clone(), value.clone());
            }
        }
        let has_new_data = with.data != user.data;
        if has_new_data && !profile_fits(&with.data) {
            return Err(TooLarge);
        }
        let changed = has_new_data || with.identities.len() != user.identities.len();
        Ok(changed.then_some(with))
    }
}

impl State {
    pub(in crate::server) fn user(&self, id: &str) -> Option<Arc<User>> {
        self.tables().users.get(id).cloned()
    }

    /// Starts a server session for the user with this identity, creating the user if necessary.
    pub(in crate::server) fn log_in(
        &self,
        evidence: VerifiedLogin,
        entry: SessionParams,
    ) -> io::Result<LoggedIn> {
        let (user_id, session_id) = (random::id()?, random::id()?);
        self.change(|tables| {
            let mut changes: Vec<_> =
                tables.expired(entry.now, &self.limits, PRUNED_AT_ONCE).collect();
            if !evidence.still_holds(tables) {
                return Ok((LoggedIn::Outdated, changes));
            }
            let user = match evidence.owner(tables) {
                Some(user) if user.disabled => return Ok((LoggedIn::Disabled, changes)),
                Some(user) => match evidence.added_to(&user) {
                    Err(TooLarge) => return Ok((LoggedIn::ProfileTooLarge, changes)),
                    Ok(None) => user,
                    Ok(Some(with)) => {
                        let user = Arc::new(with);
                        changes.push(Change::Put(Record::User(Arc::clone(&user))));
                        user
                    }
                },
                None => {
                    let is_anonymous = evidence.identity.provider_type == ANONYMOUS;
                    let Ok(room) = tables.room_for_user(is_anonymous, &self.limits) else {
                        return Ok((LoggedIn::Full, changes));
                    };
                    changes.extend(room);
                    let user = Arc::new(User {
                        id: user_id,
                        identities: vec![evidence.identity.clone()],
                        data: evidence.data,
                        disabled: false,
                        server: matches!(evidence.basis, LoginSource::ServerKey),
                        custom_data: None,
                        created_at: entry.now,
                    });
                    changes.push(Change::Put(Record::User(Arc::clone(&user))));
                    user
                }
            };
            changes.extend(tables.room_for_session(&user.id, entry.now, &self.limits));
            let session = Arc::new(Session {
                login: session_id.clone(),
                id: session_id,
                user_id: user.id.clone(),
                identity: evidence.identity,
                device_id: entry.device_id,
                issued_at: entry.now,
                expires_at: entry.now.saturating_add(entry.lifetime),
                replaced: None,
                last_use: LastUse::default(),
            });
            changes.push(Change::Put(Record::Session(Arc::clone(&session))));
            Ok((LoggedIn::Done(user, session), changes))
        })
    }

    /// Adds an identity to a user, unless the user has it already.
    pub(in crate::server) fn link(
        &self,
        user_id: &str,
        evidence: &VerifiedLogin,
    ) -> io::Result<Linked> {
        self.change(|tables| {
            let refused = |why| Ok((why, vec![]));
            let Some(user) = tables.users.get(user_id) else { return refused(Linked::NoUser) };
            if user.disabled {
                return refused(Linked::Disabled);
            }
            if !evidence.still_holds(tables) {
                return refused(Linked::Outdated);
            }
            match evidence.owner(tables) {
                Some(owner) if owner.id != user.id => return refused(Linked::InUse),
                None if matches!(evidence.basis, LoginSource::ServerKey) => {
                    return refused(Linked::InUse);
                }
                _ => {}
            }
            let is_account = |identity: &Identity| identity.provider_type == EMAIL_PASSWORD;
            if is_account(&evidence.identity)
                && user.identities.iter().any(|has| is_account(has) && *has != evidence.identity)
            {
                return refused(Linked::SecondAccount);
            }
            match evidence.added_to(user) {
                Err(TooLarge) => refused(Linked::ProfileTooLarge),
                Ok(Some(with)) if with.identities.len() > MAX_IDENTITIES => {
                    refused(Linked::TooManyIdentities)
                }
                Ok(with) => Ok((Linked::Done, with.map(Change::put).into_iter().collect())),
            }
        })
    }

    /// Deletes a user and all of the user's data: sessions, e-mail accounts, API keys, custom data.
    /// Returns `false` if there is no such user.
    pub(in crate::server) fn delete_user(&self, user_id: &str) -> io::Result<bool> {
        self.change(|tables| {
            let Some(user) = tables.users.get(user_id) else { return Ok((false, vec![])) };
            let sessions = tables.sessions_of(user_id);
            let keys = tables.api_keys_of(user_id);
            let accounts = user
                .identities
                .iter()
                .filter(|identity| identity.provider_type == EMAIL_PASSWORD)
                .filter_map(|identity| tables.account_with_id(&identity.id));
            let changes = sessions
                .map(|session| Change::RemoveSession { id: session.id.clone(), at: 0 })
                .chain(keys.map(|key| Change::RemoveApiKey(key.id.clone())))
                .chain(accounts.map(|account| Change::RemoveAccount(account.email.clone())))
                .chain([Change::RemoveUser(user_id.to_owned())])
                .collect();
            Ok((true, changes))
        })
    }

    /// Disables or enables a user. Returns `false` if there is no such user.
    pub(in crate::server) fn set_disabled(
        &self,
        user_id: &str,
        disabled: bool,
    ) -> io::Result<bool> {
        self.change_user(user_id, |user| user.disabled = disabled)
    }

    /// Sets or removes a user's custom data. Returns `false` if there is no such user.
    pub(in crate::server) fn set_custom_data(
        &self,
        user_id: &str,
        data: Option<Map<String, Value>>,
    ) -> io::Result<bool> {
        self.change_user(user_id, |user| user.custom_data = data)
    }

    fn change_user(&self, user_id: &str, change: impl FnOnce(&mut User)) -> io::Result<bool> {
        self.change(|tables| {
            let Some(user) = tables.users.get(user_id) else { return Ok((false, vec![])) };
            let mut user = User::clone(user);
            change(&mut user);
            Ok((true, vec![Change::put(user)]))
        })
    }
}

/// Removes an API key's identity from its user.
pub(super) fn without_key(user: &User, key_id: &str) -> Option<User> {
    let is_key = |identity: &Identity| identity.provider_type == API_KEY && identity.id == key_id;
    user.identities.iter().any(is_key).then(|| {
        let mut user = user.clone();
        user.identities.retain(|identity| !is_key(identity));
        user
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::state::{Account, ApiKey, Registered, StateLimits};

    fn state() -> State {
        let limits = StateLimits { users: 9, sessions_per_user: 9, access_lifetime: 1 };
        let state = State::open(None, "app", limits).unwrap();
        let account = Account {
            id: "a".into(),
            email: "ada".into(),
            password: "hash".into(),
            created_at: 0,
            pending: false,
            confirm: None,
            reset: None,
        };
        assert_eq!(state.add_account(account).unwrap(), Registered::Done);
        state
    }

    fn evidence(id: &str, provider_type: &str, basis: LoginSource) -> VerifiedLogin {
        let identity = Identity { id: id.into(), provider_type: provider_type.into() };
        VerifiedLogin { basis, ..VerifiedLogin::new(identity) }
    }

    fn account(password: &str) -> VerifiedLogin {
        evidence("a", EMAIL_PASSWORD, LoginSource::Account { password: password.into() })
    }

    fn log_in(state: &State, evidence: VerifiedLogin) -> LoggedIn {
        let entry = SessionParams { device_id: String::new(), now: 0, lifetime: 1 };
        state.log_in(evidence, entry).unwrap()
    }

    fn user_of(came: LoggedIn) -> Arc<User> {
        let LoggedIn::Done(user, _) = came else { panic!("refused") };
        user
    }

    /// Another request may be handled between the check of a password and the log-in.
    #[test]
    fn concurrently_replaced_password_is_rejected() {
        let state = state();
        assert!(matches!(log_in(&state, account("old hash")), LoggedIn::Outdated));
        let user = user_of(log_in(&state, account("hash")));
        assert!(state.reset_password("a", "new".into(), None).unwrap());
        assert_eq!(state.revoke_sessions(&user.id, 0).unwrap(), Some(0), "they have ended");
        assert!(matches!(log_in(&state, account("hash")), LoggedIn::Outdated));
        let linked = state.link(&user.id, &account("hash")).unwrap();
        assert!(matches!(linked, Linked::Outdated));
    }

    #[test]
    fn concurrently_deleted_account_stays_deleted() {
        let state = state();
        let user = user_of(log_in(&state, account("hash")));
        assert!(state.delete_user(&user.id).unwrap());
        assert!(!state.delete_user(&user.id).unwrap());
        assert!(matches!(log_in(&state, account("hash")), LoggedIn::Outdated));
        assert!(state.account("ada").is_none() && state.account_with_id("a").is_none());
        let other = user_of(log_in(&state, evidence("x", ANONYMOUS, LoginSource::Other)));
        assert_ne!(other.id, user.id);
    }

    /// The same holds for a key that is deleted between its check and the login.
    #[test]
    fn concurrently_disabled_api_key_is_rejected() {
        let state = state();
        let user = user_of(log_in(&state, account("hash")));
        let key = ApiKey {
            id: "k".into(),
            user_id: user.id.clone(),
            name: "key".into(),
            hash: "h".into(),
            number: 0,
            disabled: false,
        };
        assert!(state.add_api_key(key).unwrap().is_ok());
        let by_key = || evidence("k", API_KEY, LoginSource::ApiKey);
        assert_eq!(user_of(log_in(&state, by_key())).id, user.id);
        assert!(state.set_api_key_disabled(&user.id, "k", true).unwrap());
        assert!(matches!(log_in(&state, by_key()), LoggedIn::Outdated));
        assert!(state.delete_api_key(&user.id, "k").unwrap());
        assert!(matches!(log_in(&state, by_key()), LoggedIn::Outdated));
        assert!(state.api_key_with_hash("h").is_none() && state.api_keys(&user.id).is_empty());
        assert_eq!(state.user(&user.id).unwrap().identities.len(), 1);
    }
}
