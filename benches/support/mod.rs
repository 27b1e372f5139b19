//! Stores with many users, for the benches.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyfob::store::{Change, OnDamage, SledStore, Store, StoredUser};
use keyfob::{AccessToken, Deadline, RefreshToken, UserId, UserState};

/// Plenty: nothing here is meant to run out of time.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(600))
}

/// Returns the id of a user by its number.
pub(crate) fn id(number: usize) -> String {
    format!("{number:024x}")
}

/// Opens an unencrypted store.
pub(crate) fn open(dir: &Path) -> SledStore {
    SledStore::open(dir, "bench", OnDamage::Refuse, soon()).unwrap()
}

/// Returns the directory of a store with so many users, each with tokens of the usual size. It is
/// made once; number 0 is current.
pub(crate) fn populated(users: usize) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-users-{users}"));
    if dir.join("complete").exists() {
        return dir;
    }
    let _ = std::fs::remove_dir_all(&dir);
    let store = open(&dir);
    for first in (0..users).step_by(1000) {
        let numbers = first..users.min(first + 1000);
        let put = |number| Change::Put(Box::new(user(number)));
        let current = Change::Current(Some(UserId::new(id(0))));
        let changes: Vec<_> = numbers.map(put).chain([current]).collect();
        store.commit(soon(), &mut |_| Ok(changes.clone())).unwrap();
    }
    std::fs::write(dir.join("complete"), "").unwrap();
    dir
}

/// Returns the record of a user who is logged in.
pub(crate) fn user(number: usize) -> StoredUser {
    let mut user = StoredUser::new(UserId::new(id(number)));
    let token = || serde_json::Value::from(token(number));
    user.state = UserState::LoggedIn;
    user.access_token = serde_json::from_value::<AccessToken>(token()).ok();
    user.refresh_token = serde_json::from_value::<RefreshToken>(token()).ok();
    assert!(user.is_logged_in());
    user
}

/// A token that is good until the year 2100.
fn token(number: usize) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let payload = format!(
        r#"{{"exp":4102444800,"iat":1700000000,"sub":"{number:024x}","iss":"{number:024x}"}}"#
    );
    let signature = URL_SAFE_NO_PAD.encode([number as u8; 32]);
    format!("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.{}.{signature}", URL_SAFE_NO_PAD.encode(payload))
}
