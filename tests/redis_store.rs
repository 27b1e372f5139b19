//! The Redis store with a real redis-server: the conformance test suite, and the settings.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod redis_support;

use std::time::Duration;

use keyfob::store::contract::{REQUIREMENTS, StoreFactory};
use keyfob::store::{RedisStore, RedisStoreBuilder, Store};
use redis_support::*;

/// How long copies live in the conformance suite, where there are any.
const COPIES: Duration = Duration::from_millis(40);

/// A namespace that is opened any number of times.
struct Place<'a> {
    server: &'a RedisServer,
    namespace: String,
    configure: fn(RedisStoreBuilder) -> RedisStoreBuilder,
    staleness: Duration,
}

impl StoreFactory for Place<'_> {
    fn open(&self) -> Box<dyn Store> {
        let builder = self.server.builder().namespace(&self.namespace);
        let builder = (self.configure)(builder.local_copies(self.staleness));
        Box::new(builder.open().unwrap())
    }

    fn staleness(&self) -> Duration {
        self.staleness
    }
}

fn conform(
    server: &RedisServer,
    staleness: Duration,
    configure: fn(RedisStoreBuilder) -> RedisStoreBuilder,
) {
    for (number, requirement) in REQUIREMENTS.iter().enumerate() {
        println!("{}", requirement.name);
        let namespace = format!("{NAMESPACE}#{number}");
        requirement.check(&Place { server, namespace, configure, staleness });
        server.run::<()>(&["FLUSHALL"]);
    }
}

#[test]
#[ignore = "needs redis-server"]
fn plaintext_store_conforms_with_fsync_always() {
    conform(&RedisServer::durable("always"), Duration::ZERO, |builder| builder);
}

#[test]
#[ignore = "needs redis-server"]
fn plaintext_store_conforms_with_fsync_everysec() {
    conform(&RedisServer::durable("everysec"), COPIES, |builder| builder);
}

#[test]
#[ignore = "needs redis-server"]
fn encrypted_store_conforms_with_fsync_always() {
    conform(&RedisServer::durable("always"), Duration::ZERO, |builder| builder.encryption(key()));
}

#[test]
#[ignore = "needs redis-server"]
fn encrypted_store_conforms_with_fsync_everysec() {
    conform(&RedisServer::durable("everysec"), COPIES, |builder| {
        builder.encryption(key()).publish_subscribe(true)
    });
}

#[test]
fn bad_settings_are_config_errors() {
    let url = "redis://ada:hush@localhost";
    let host = || builder(url);
    let bad = [
        RedisStore::builder(url).plaintext(),
        RedisStore::builder(url).namespace("app"),
        host().namespace(""),
        host().namespace("a b"),
        host().namespace("{a}"),
        host().namespace("a*"),
        host().namespace("n".repeat(257)),
        host().lease(Duration::from_millis(1)),
        host().pool(1),
        host().poll_interval(Duration::ZERO),
        host().sentinel("", ["redis://b"]),
        host().sentinel("fleet", ["http://b"]),
        builder("http://localhost"),
        builder("redis://:hush@localhost/x"),
    ];
    for bad in bad {
        assert!(!format!("{bad:?}").contains("hush"));
        let error = bad.open().unwrap_err();
        assert!(matches!(error, keyfob::Error::Config { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }
    let store = host().open().unwrap();
    assert!(!format!("{store:?}").contains("hush"), "{store:?}");
}

/// Opened in another way than it was written: a typed error, and nothing is changed.
#[test]
#[ignore = "needs redis-server"]
fn other_key_or_none_is_refused() {
    let server = RedisServer::start();
    let soon = || keyfob::Deadline::after(Duration::from_secs(60));
    let put = |store: &dyn Store| {
        store.commit(soon(), &mut |_| {
            Ok(vec![keyfob::store::Change::Location(Some("here".to_owned()))])
        })
    };
    let right = || server.builder().encryption(key());
    put(&right().open().unwrap()).unwrap();
    let wrong = [
        server.builder().encryption(keyfob::EncryptionKey::from_bytes([8; 32])),
        server.builder().plaintext(),
    ];
    for wrong in wrong {
        let store = wrong.open().unwrap();
        for error in [store.location(soon()).unwrap_err(), put(&store).unwrap_err()] {
            assert_eq!(error.kind, keyfob::StoreErrorKind::Key, "{error}");
        }
    }
    assert_eq!(right().open().unwrap().recent(None, soon()).unwrap().number, 1);
    // Nothing but ids is readable on the server.
    let head: Vec<Vec<u8>> = server.run(&["HGETALL", &format!("{{{NAMESPACE}}}:head")]);
    assert!(head.contains(&b"location".to_vec()) && !head.contains(&b"here".to_vec()));
}
