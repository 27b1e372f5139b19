//! Very many users in one store: memory use stays small, the database stays closed, and users are
//! listed page by page. `benches/growth.rs` measures the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod store_support;

use keyfob::store::{Change, SledStore, Store};
use keyfob::{Session, UserState};
use store_support::*;

const USERS: u64 = 20_000;

fn name(number: u64) -> String {
    format!("user {number:05}")
}

/// A store with all users, the first one current.
fn filled() -> Dir {
    let dir = Dir::new();
    let store = dir.open();
    let all: Vec<_> = (1..=USERS).collect();
    for some in all.chunks(5_000) {
        let record = |number: &u64| put(padded(user(&name(*number), *number), 500));
        commit(&store, &some.iter().map(record).collect::<Vec<_>>());
    }
    commit(&store, &[Change::Current(Some(id(&name(1))))]);
    dir
}

fn session(store: SledStore) -> Session {
    Session::builder("my-app", "https://backend.example.org").store(store).open().unwrap()
}

/// Except for listing, twenty thousand users cost what a few cost.
#[test]
fn cost_is_independent_of_user_count() {
    let dir = filled();
    // 64 KB of users, their places, and 16 KB of events.
    let snapshot = dir.data().join("snapshot").metadata().unwrap().len();
    assert!(snapshot < 100 * 1024, "{snapshot}");

    // Who is current, and its token, are known without the database.
    let (database, away) = (dir.data().join("db.0"), dir.path().join("away"));
    std::fs::rename(&database, &away).unwrap();
    let current = session(dir.open()).current_user().unwrap().unwrap();
    assert_eq!(current.id().as_str(), name(1));
    assert_eq!(current.state().unwrap(), UserState::LoggedIn);
    assert!(current.access_token().is_ok());
    std::fs::rename(&away, &database).unwrap();

    // Pages are bounded, and nobody holds the store between them.
    let store = dir.open();
    let (mut last, mut pages, mut listed) = (None, 0, 0);
    loop {
        let after = last.as_ref().map(|(created, id)| (*created, id));
        let page = store.users_after(after, soon()).unwrap();
        let Some(end) = page.last() else { break };
        assert!(page.iter().map(|user| user.created_commit).eq(listed + 1..=end.created_commit));
        (listed, pages) = (end.created_commit, pages + 1);
        let bytes: usize = page.iter().map(|user| serde_json::to_vec(user).unwrap().len()).sum();
        assert!(bytes < 5 * 1024 * 1024, "{bytes}");
        assert!(dir.open().commit(now(), &mut |_| Ok(vec![Change::Location(None)])).is_ok());
        last = Some((end.created_commit, end.id.clone()));
    }
    assert_eq!(listed, USERS);
    assert!((4..=40).contains(&pages), "{pages}");

    let session = session(store);
    let mut number = 0;
    for listed in session.users_iter() {
        let listed = listed.unwrap();
        number += 1;
        assert_eq!(listed.user().id().as_str(), name(number));
        assert_eq!(listed.state(), UserState::LoggedIn);
        assert_eq!(listed.identities().len(), 1);
    }
    assert_eq!(number, USERS);
    let shown = format!("{:?}", session.users_iter().next().unwrap().unwrap());
    assert!(shown.contains("user 00001") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn failed_listing_yields_one_error() {
    let dir = Dir::new();
    let store = dir.open();
    let many = |number| put(padded(user(&name(number), number), 5_000));
    commit(&store, &(1..=20).map(many).collect::<Vec<_>>());
    let session = session(store);
    std::fs::remove_dir_all(dir.data().join("db.0")).unwrap();
    let mut users = session.users_iter();
    assert!(matches!(users.next(), Some(Err(keyfob::Error::Store(_)))));
    assert!(users.next().is_none());
    assert!(session.users().is_err());
}
