//! The store on Redis, on a real redis-server: the conformance suite, and its settings.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod redis_support;

use std::time::Duration;

use keyfob::store::contract::{REQUIREMENTS, StoreFactory};
use keyfob::store::{RedisStoreBuilder, Store};
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
fn plaintext_store_conforms() {
    conform(&RedisServer::start(), Duration::ZERO, |builder| builder);
}

#[test]
#[ignore = "needs redis-server"]
fn store_with_copies_conforms() {
    conform(&RedisServer::start(), COPIES, |builder| builder);
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
