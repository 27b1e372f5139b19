//! `Send` and `Sync` of public types. Programs with threads rely on them, and a new field can
//! change them without notice.

use keyfob::store::{MemoryStore, RefreshLock, SledStore};
use keyfob::transport::{UreqTransport, UreqTransportBuilder};
use keyfob::{
    AccessToken, ApiKey, CancelToken, Credentials, Deadline, Error, Event, Events, Identity,
    ListedUser, Profile, RefreshToken, Secret, Session, SessionBuilder, Subscription,
    SyncConfiguration, User, UserId, Users,
};

fn shared<T: Send + Sync + 'static>() {}

fn sent<T: Send + 'static>() {}

#[test]
fn public_types_are_send_and_sync() {
    shared::<AccessToken>();
    shared::<ApiKey>();
    shared::<CancelToken>();
    shared::<Credentials>();
    shared::<Deadline>();
    shared::<Error>();
    shared::<Event>();
    shared::<Identity>();
    shared::<ListedUser>();
    shared::<MemoryStore>();
    shared::<Profile>();
    shared::<RefreshToken>();
    shared::<Secret>();
    shared::<Session>();
    shared::<SledStore>();
    shared::<Subscription>();
    shared::<SyncConfiguration>();
    shared::<UreqTransport>();
    shared::<User>();
    shared::<UserId>();
}

#[test]
fn single_thread_types_are_send() {
    sent::<Events>();
    sent::<RefreshLock>();
    sent::<SessionBuilder>();
    sent::<UreqTransportBuilder>();
    sent::<Users>();
}

#[cfg(feature = "server")]
#[test]
fn server_is_send_and_sync() {
    shared::<keyfob::server::Server>();
    shared::<keyfob::server::ServerBuilder>();
}

#[cfg(feature = "browser")]
#[test]
fn sign_in_is_send_and_sync() {
    shared::<keyfob::browser::ProviderTokens>();
    shared::<keyfob::browser::SignIn>();
}

#[cfg(feature = "redis")]
#[test]
fn redis_store_is_send_and_sync() {
    shared::<keyfob::store::RedisStore>();
    shared::<keyfob::store::RedisStoreBuilder>();
}
