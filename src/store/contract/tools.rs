//! Helpers of the tests: users, commits and reads.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::StoreFactory;
use crate::store::{Change, RefreshLock, Store, StoredUser};
use crate::{Deadline, UserId, UserState};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

/// Waits until every handle must see the commits so far.
pub(super) fn catch_up(place: &dyn StoreFactory) {
    thread::sleep(place.staleness());
}

/// Opens a handle that must see the commits so far.
pub(super) fn reopen(place: &dyn StoreFactory) -> Box<dyn Store> {
    catch_up(place);
    place.open()
}

/// A deadline that no test should reach.
pub(super) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(300))
}

/// A deadline for an operation that must not wait: enough for a server, and short.
pub(super) fn brief() -> Deadline {
    Deadline::after(Duration::from_millis(250))
}

/// A deadline that has passed: an operation is tried once.
pub(super) fn now() -> Deadline {
    Deadline::after(Duration::ZERO)
}

pub(super) fn id(id: &str) -> UserId {
    UserId::new(id)
}

/// A token with `secret` in its last part.
pub(super) fn token(secret: &str) -> String {
    format!("e30.{}.{secret}", URL_SAFE_NO_PAD.encode(r#"{"exp":4000000000,"iat":1000}"#))
}

/// A logged-in user, created and last used by the commit `number`, with `secret` in both tokens.
pub(super) fn user_with(name: &str, number: u64, secret: &str) -> StoredUser {
    let record = json!({
        "id": name,
        "state": "logged-in",
        "epoch": 1,
        "created_commit": number,
        "last_used_commit": number,
        "access_token": token(&format!("access-{secret}")),
        "refresh_token": token(&format!("refresh-{secret}")),
        "identities": [{"id": format!("identity of {name}"), "provider": "local-userpass"}],
        "profile": {"data": {"name": name}, "kind": "normal"},
    });
    serde_json::from_value(record).unwrap()
}

pub(super) fn user(name: &str, number: u64) -> StoredUser {
    user_with(name, number, "s3cret")
}

/// The same user without tokens.
pub(super) fn logged_out(mut user: StoredUser) -> StoredUser {
    user.state = UserState::LoggedOut;
    user.epoch += 1;
    user.access_token = None;
    user.refresh_token = None;
    user
}

/// A user with about so many bytes in `unknown_fields`, which are stored unchanged.
pub(super) fn padded(mut user: StoredUser, bytes: usize) -> StoredUser {
    user.unknown_fields.insert("padding".into(), "p".repeat(bytes).into());
    user
}

pub(super) fn put(user: StoredUser) -> Change {
    Change::Put(Box::new(user))
}

pub(super) fn commit(store: &dyn Store, changes: &[Change]) -> u64 {
    store.commit(soon(), &mut |_| Ok(changes.to_vec())).unwrap()
}

/// Commits changes that depend on the number of the commit.
pub(super) fn commit_numbered(store: &dyn Store, make: impl Fn(u64) -> Vec<Change>) -> u64 {
    store.commit(soon(), &mut |tables| Ok(make(tables.number()))).unwrap()
}

pub(super) fn log_in(store: &dyn Store, name: &str) -> u64 {
    commit_numbered(store, |number| vec![put(user(name, number)), Change::Current(Some(id(name)))])
}

pub(super) fn get(store: &dyn Store, name: &str) -> Option<Arc<StoredUser>> {
    store.user(&id(name), soon()).unwrap()
}

pub(super) fn names(store: &dyn Store) -> Vec<String> {
    let users = store.users(soon()).unwrap();
    users.iter().map(|user| user.id.to_string()).collect()
}

pub(super) fn number(store: &dyn Store) -> u64 {
    store.recent(None, soon()).unwrap().number
}

pub(super) fn try_flight(store: &dyn Store, user: &str) -> Option<RefreshLock> {
    store.lock_refresh(&id(user), brief()).unwrap()
}
