//! E-mail accounts.

use std::io;
use std::sync::Arc;

use super::State;
use super::records::{Account, EMAIL_PASSWORD, Identity, OneTimeToken, Session};
use super::tables::{Change, Tables};

/// The purpose of a mailed secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::server) enum Purpose {
    Confirm,
    Reset,
}

/// The result of a registration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::server) enum Registered {
    Done,
    /// The maximum number of accounts is reached.
    Full,
    /// The address is already registered.
    Taken,
}

impl Account {
    /// Returns `true` if this is the secret's hash and the secret is still valid.
    pub(in crate::server) fn accepts(&self, purpose: Purpose, hash: &str, now: i64) -> bool {
        let proof = match purpose {
            Purpose::Confirm => &self.confirm,
            Purpose::Reset => &self.reset,
        };
        proof.as_ref().is_some_and(|proof| proof.hash == hash && now < proof.until)
    }
}

impl State {
    pub(in crate::server) fn account(&self, email: &str) -> Option<Arc<Account>> {
        self.tables().accounts.get(email).cloned()
    }

    pub(in crate::server) fn account_with_id(&self, id: &str) -> Option<Arc<Account>> {
        self.tables().account_with_id(id).cloned()
    }

    /// Adds an account.
    pub(in crate::server) fn add_account(&self, account: Account) -> io::Result<Registered> {
        self.change(|tables| {
            if tables.accounts.contains_key(&account.email) {
                return Ok((Registered::Taken, vec![]));
            }
            let Ok(room) = tables.room_for_account(account.pending, &self.limits) else {
                return Ok((Registered::Full, vec![]));
            };
            Ok((Registered::Done, room.into_iter().chain([Change::put(account)]).collect()))
        })
    }

    /// Removes an account that was never confirmed.
    pub(in crate::server) fn drop_pending_account(&self, id: &str) -> io::Result<()> {
        self.change(|tables| {
            let account = tables.account_with_id(id).filter(|account| account.pending);
            let change = account.map(|account| Change::RemoveAccount(account.email.clone()));
            Ok(((), change.into_iter().collect()))
        })
    }

    /// Stores a secret, replacing an earlier one for the same purpose. Returns `false` if the
    /// account does not exist.
    pub(in crate::server) fn put_proof(
        &self,
        id: &str,
        purpose: Purpose,
        hash: String,
        until: i64,
    ) -> io::Result<bool> {
        let proof = Some(OneTimeToken { hash, until });
        self.change_account(id, |account, _| {
            match purpose {
                Purpose::Confirm => account.confirm = proof,
                Purpose::Reset => account.reset = proof,
            }
            Some(vec![])
        })
    }

    /// Confirms an account. If a secret's hash is given, it must be the valid one at this time.
    pub(in crate::server) fn confirm_account(
        &self,
        id: &str,
        proof: Option<(&str, i64)>,
    ) -> io::Result<bool> {
        self.change_account(id, |account, _| {
            if let Some((hash, now)) = proof
                && !account.accepts(Purpose::Confirm, hash, now)
            {
                return None;
            }
            account.pending = false;
            account.confirm = None;
            Some(vec![])
        })
    }

    /// Replaces an account's password and revokes the sessions of its user. If a secret's hash is
    /// given, it must be the valid one at this time.
    pub(in crate::server) fn reset_password(
        &self,
        id: &str,
        password: String,
        proof: Option<(&str, i64)>,
    ) -> io::Result<bool> {
        self.change_account(id, |account, tables| {
            if let Some((hash, now)) = proof
                && !account.accepts(Purpose::Reset, hash, now)
            {
                return None;
            }
            account.password = password;
            account.reset = None;
            let identity =
                Identity { id: account.id.clone(), provider_type: EMAIL_PASSWORD.to_owned() };
            let user = tables.user_of(&identity);
            let sessions = user.iter().flat_map(|user| tables.sessions_of(&user.id));
            // The user is not anonymous, so the time when the sessions ended does not matter.
            let ended =
                |session: &Arc<Session>| Change::RemoveSession { id: session.id.clone(), at: 0 };
            Some(sessions.map(ended).collect())
        })
    }

    /// Changes an account, together with the changes that `change` returns. `None` changes nothing.
    fn change_account(
        &self,
        id: &str,
        change: impl FnOnce(&mut Account, &Tables) -> Option<Vec<Change>>,
    ) -> io::Result<bool> {
        self.change(|tables| {
            let Some(account) = tables.account_with_id(id) else { return Ok((false, vec![])) };
            let mut account = Account::clone(account);
            let Some(mut changes) = change(&mut account, tables) else {
                return Ok((false, vec![]));
            };
            changes.push(Change::put(account));
            Ok((true, changes))
        })
    }
}
