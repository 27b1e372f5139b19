//! The builder of a [`RedisStore`].

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::address::{Account, RedisUrl};
use super::connection::Target;
use super::copies::Copies;
use super::history::{History, OnRollback};
use super::lease::Leases;
use super::limit::Limit;
use super::pool::{Pool, Primary};
use super::scripts::Keys;
use super::tls::TlsSettings;
use super::{Inner, RedisStore};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::store::EncryptionKey;
use crate::store::encryption::{EncryptionMode, RecordCodec};

/// The time limit of [`RedisStoreBuilder::open`], if it has to ask the server.
const OPEN: Duration = Duration::from_secs(60);

/// The maximum length of a namespace, in bytes.
const LONGEST_NAMESPACE: usize = 256;

/// Builds a [`RedisStore`]; see [`RedisStore::builder`].
#[must_use = "a builder does nothing until `open` is called"]
pub struct RedisStoreBuilder {
    url: String,
    username: Option<String>,
    password: Option<Secret>,
    sentinels: Option<(String, Vec<String>)>,
    tls: TlsSettings,
    namespace: Option<String>,
    protection: Option<Protection>,
    replicas: u32,
    lease: Duration,
    pool: usize,
    local_copies: Duration,
    poll_interval: Duration,
    publish_subscribe: bool,
    on_rollback: OnRollback,
}

/// How values are stored.
enum Protection {
    Key(EncryptionKey),
    Plaintext,
}

impl RedisStoreBuilder {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            username: None,
            password: None,
            sentinels: None,
            tls: TlsSettings::default(),
            namespace: None,
            protection: None,
            replicas: 0,
            lease: Duration::from_secs(10),
            pool: 8,
            local_copies: Duration::from_secs(1),
            poll_interval: Duration::from_secs(1),
            publish_subscribe: false,
            on_rollback: OnRollback::default(),
        }
    }

    /// Sets the namespace, the prefix of all keys. Required. Programs with the same namespace share
    /// users and tokens, so use a separate namespace for each app on each backend.
    ///
    /// A namespace is visible ASCII without `{`, `}`, `*`, `?`, `[`, `]` and `\`, and has at most
    /// 256 bytes. All keys begin with `{NAMESPACE}:`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Encrypts records, events and the location with a key that all machines share. Encryption
    /// happens on this machine. User ids are not encrypted.
    ///
    /// A [key file](EncryptionKey::from_file) that does not exist is created if the namespace is
    /// still empty; copy it to the other machines. [`EncryptionKey::key_file`] is the file `key` in
    /// the default data directory. A key in a keyring must already exist.
    pub fn encryption(mut self, key: EncryptionKey) -> Self {
        self.protection = Some(Protection::Key(key));
        self
    }

    /// Stores tokens and profiles unencrypted. Anyone who can read the server's memory, files,
    /// replicas or backups can act as the users.
    pub fn plaintext(mut self) -> Self {
        self.protection = Some(Protection::Plaintext);
        self
    }

    /// Authenticates to the server as this ACL user. Defaults to the user in the URL, or to the
    /// server's default user.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets the password for the server. Defaults to the one in the URL.
    pub fn password(mut self, password: Secret) -> Self {
        self.password = Some(password);
        self
    }

    /// Finds the primary of `service` through Redis Sentinel each time a connection is opened. The
    /// URL of the builder and `others` then name sentinels.
    ///
    /// keyfob authenticates to each sentinel with the account in that sentinel's URL. It
    /// authenticates to the primary with [`username`](Self::username) and
    /// [`password`](Self::password), or otherwise with the account in the builder's URL. The
    /// primary also uses the scheme and the database of that URL.
    pub fn sentinel<T: Into<String>>(
        mut self,
        service: impl Into<String>,
        others: impl IntoIterator<Item = T>,
    ) -> Self {
        self.sentinels = Some((service.into(), others.into_iter().map(Into::into).collect()));
        self
    }

    /// Trusts these root certificates, in PEM, in place of Mozilla's. For `rediss://`.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.roots = Some(pem.into());
        self
    }

    /// Authenticates with this client certificate chain and its private key, both in PEM. For
    /// `rediss://` and servers with `tls-auth-clients yes`.
    pub fn client_certificate(mut self, chain: impl Into<Vec<u8>>, key: Secret) -> Self {
        self.tls.client = Some((chain.into(), key));
        self
    }

    /// Waits after each commit until this many replicas have received it, at most for a second.
    /// Defaults to 0.
    ///
    /// If fewer replicas have received it, the commit still takes effect and is reported as
    /// [`Unconfirmed`](crate::StoreErrorKind::Unconfirmed). The session continues, keeps new tokens
    /// in memory, and stores them again with its next commits.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets how long a refresh lock outlives a machine that crashes while it holds the lock.
    /// Defaults to 10 s, at least 100 ms. The holder renews the lock every third of this time.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets the maximum number of connections, not including one that renews locks and one that
    /// listens for commits. Defaults to 8, at least 2.
    pub fn pool(mut self, connections: usize) -> Self {
        self.pool = connections;
        self
    }

    /// Sets how long a copy of a record in this process counts as current. Defaults to 1 s. With
    /// zero, each call asks the server.
    ///
    /// A logout on another machine is noticed after this time at the latest. While the server is
    /// unreachable, copies of users with tokens are used regardless of their age.
    pub fn local_copies(mut self, lifetime: Duration) -> Self {
        self.local_copies = lifetime;
        self
    }

    /// Sets how often keyfob polls the server for events while a program listens for them. Defaults
    /// to 1 s, at least 10 ms.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// Publishes commits, and receives the commits of other machines without a delay while a
    /// program listens for events. Defaults to `false`. The account needs permission for the
    /// channel `{NAMESPACE}:commits`.
    pub fn publish_subscribe(mut self, on: bool) -> Self {
        self.publish_subscribe = on;
        self
    }

    /// Sets the reaction to a server that has lost commits. Defaults to [`OnRollback::Refuse`].
    pub fn on_rollback(mut self, on_rollback: OnRollback) -> Self {
        self.on_rollback = on_rollback;
        self
    }

    /// Opens the store. Connects only if a key file has to be created; otherwise the first use
    /// connects.
    ///
    /// # Errors
    /// [`Error::Config`] if a setting is invalid or missing. [`Error::Store`] if the key cannot be
    /// read, or if it has to be created and the server cannot be asked whether the namespace is
    /// empty.
    pub fn open(self) -> Result<RedisStore> {
        let namespace = self.checked_namespace()?;
        self.check_limits()?;
        let pool = Arc::new(Pool::new(self.primary()?, self.pool));
        let store = |mode| {
            RedisStore(Arc::new(Inner {
                leases: Leases::new(Arc::clone(&pool), self.lease),
                pool: Arc::clone(&pool),
                keys: Keys::new(&namespace),
                namespace: namespace.clone(),
                mode,
                replicas: self.replicas,
                publishes: self.publish_subscribe,
                poll_interval: self.poll_interval,
                history: History::new(self.replicas > 0, self.on_rollback),
                copies: Copies::new(self.local_copies),
                writers: Default::default(),
                codec: Mutex::new(RecordCodec::default()),
            }))
        };
        let key = match &self.protection {
            Some(Protection::Key(key)) => key,
            Some(Protection::Plaintext) => return Ok(store(EncryptionMode::default())),
            None => {
                let reason = "it is missing: give a key with `encryption`, or choose `plaintext`";
                return Err(Error::config("the encryption key", reason));
            }
        };
        let deadline = Deadline::after(OPEN);
        // The head is not encrypted.
        let is_new = || store(EncryptionMode::default()).0.is_new(Limit::until(deadline));
        let mode = EncryptionMode::encrypted(key.missing(Path::new("")), false);
        mode.set_key(key.find_shared(is_new, deadline)?);
        Ok(store(mode))
    }

    fn checked_namespace(&self) -> Result<String> {
        let refused = |reason: &str| Error::config("the namespace", reason);
        let Some(namespace) = &self.namespace else {
            return Err(refused("it is missing: name one with `namespace`"));
        };
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && !br"{}*?[]\".contains(&byte);
        if namespace.is_empty()
            || namespace.len() > LONGEST_NAMESPACE
            || !namespace.bytes().all(is_allowed)
        {
            return Err(refused(
                r"expected 1 to 256 visible ASCII characters other than { } * ? [ ] \",
            ));
        }
        Ok(namespace.clone())
    }

    fn check_limits(&self) -> Result<()> {
        if self.lease < Duration::from_millis(100) || self.lease > Duration::from_secs(3600) {
            return Err(Error::config("the lease", "expected 100 ms to an hour"));
        }
        if self.pool < 2 {
            return Err(Error::config("the pool", "expected at least 2 connections"));
        }
        if self.poll_interval < Duration::from_millis(10) {
            return Err(Error::config("the poll interval", "expected at least 10 ms"));
        }
        Ok(())
    }

    fn primary(&self) -> Result<Primary> {
        let first = self.target(&self.url)?;
        let account = Account {
            username: self.username.clone().or(first.account.username.clone()),
            password: self.password.clone().or(first.account.password.clone()),
        };
        let primary = Target { account, ..first.clone() };
        let Some((service, others)) = &self.sentinels else { return Ok(Primary::At(primary)) };
        if service.is_empty() {
            return Err(Error::config("the sentinel service", "its name is empty"));
        }
        let mut sentinels = vec![Target { database: 0, ..first }];
        for url in others {
            sentinels.push(Target { database: 0, ..self.target(url)? });
        }
        Ok(Primary::Sentinel { service: service.clone(), sentinels, primary })
    }

    fn target(&self, url: &str) -> Result<Target> {
        let RedisUrl { address, account, database } =
            RedisUrl::parse(url).map_err(|reason| Error::config("the Redis URL", reason))?;
        let tls = match address.tls {
            true => Some(self.tls.config()?),
            false if self.tls.is_set() => {
                let reason = "certificates were given: expected a URL that begins with rediss://";
                return Err(Error::config("the Redis URL", reason));
            }
            false => None,
        };
        Ok(Target { address, account, database, tls })
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Omit the URL, which may contain a password.
        f.debug_struct("RedisStoreBuilder")
            .field("namespace", &self.namespace)
            .field("replicas", &self.replicas)
            .field("lease", &self.lease)
            .field("pool", &self.pool)
            .field("local_copies", &self.local_copies)
            .field("poll_interval", &self.poll_interval)
            .field("publish_subscribe", &self.publish_subscribe)
            .field("on_rollback", &self.on_rollback)
            .finish_non_exhaustive()
    }
}
