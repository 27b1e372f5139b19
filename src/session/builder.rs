//! The settings of a session, and their defaults.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::Session;
use super::backend_clock::BackendClock;
use super::backoff::Failures;
use super::events::EventDispatcher;
use super::inner::Inner;
use super::location_cache::LocationCache;
use super::single_flight::SingleFlight;
use super::unpersisted::Unpersisted;
use crate::base_url::BaseUrl;
use crate::clock::{Clock, SystemClock};
use crate::data_dir::default_data_dir;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::hash::fnv1a;
use crate::shutdown::Shutdown;
#[cfg(feature = "encryption")]
use crate::store::EncryptionKey;
use crate::store::{OnDamage, SledStore, Store};
use crate::transport::{Transport, UreqTransport};
use crate::wire::{self, Device};

/// How long a call may take (60 s), unless [`SessionBuilder::deadline`] or
/// [`Session::with_deadline`] sets another deadline.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// The settings of a [`Session`]; created by [`Session::builder`].
///
/// Only the app id and the base URL are required. By default, users and tokens are stored
/// unencrypted in the platform's directory for application data, in files that only their owner can
/// read.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use keyfob::Session;
///
/// # let dir = std::env::temp_dir().join(format!("keyfob-doc-builder-{}", std::process::id()));
/// let session = Session::builder("my-app-id", "https://example.org")
///     .app_info("my-tool", env!("CARGO_PKG_VERSION"))
///     .data_dir(&dir)
///     .deadline(Duration::from_secs(20))
///     .open()?;
/// assert!(session.current_user()?.is_none());
/// assert!(!dir.exists()); // created by the first log-in
/// # Ok::<(), keyfob::Error>(())
/// ```
#[must_use = "a builder does nothing until `open` is called"]
pub struct SessionBuilder {
    app_id: String,
    base_url: String,
    allow_insecure_http: bool,
    app_info: Device,
    clock: Box<dyn Clock>,
    data_dir: Option<PathBuf>,
    deadline: Duration,
    #[cfg(feature = "encryption")]
    encryption: Option<EncryptionKey>,
    location_lookup: bool,
    on_damage: OnDamage,
    store: Option<Arc<dyn Store>>,
    transport: Option<Box<dyn Transport>>,
}

impl SessionBuilder {
    pub(super) fn new(app_id: String, base_url: String) -> Self {
        Self {
            app_id,
            base_url,
            allow_insecure_http: false,
            app_info: Device::default(),
            clock: Box::new(SystemClock),
            data_dir: None,
            deadline: DEFAULT_DEADLINE,
            #[cfg(feature = "encryption")]
            encryption: None,
            location_lookup: true,
            on_damage: OnDamage::Refuse,
            store: None,
            transport: None,
        }
    }

    /// Sets whether plain http to other machines is allowed. Defaults to `false`; plain http to
    /// this machine is always allowed.
    ///
    /// With plain http, an attacker on the network path between the two machines can read passwords
    /// and tokens, and can act as these users.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::Session;
    ///
    /// let builder = || Session::builder("my-app-id", "http://backend.example");
    /// # let builder = || builder().store(keyfob::store::MemoryStore::new());
    /// let error = builder().open().unwrap_err();
    /// assert!(error.to_string().starts_with("the base URL cannot be used: plain http"));
    /// builder().allow_insecure_http(true).open()?;
    /// # Ok::<(), keyfob::Error>(())
    /// ```
    pub fn allow_insecure_http(mut self, allow: bool) -> Self {
        self.allow_insecure_http = allow;
        self
    }

    /// Sets the name and the version of the application, which the backend records with the device
    /// at log-in. Both default to empty strings.
    pub fn app_info(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.app_info = Device { app_name: name.into(), app_version: version.into() };
        self
    }

    /// Sets the clock that keyfob uses to judge tokens, for tests. Defaults to [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Sets the directory under which users and tokens are stored. The first commit creates it and
    /// its parents, accessible only to the owner.
    ///
    /// Defaults to `keyfob` in the platform's directory for application data: `$XDG_DATA_HOME` or
    /// `~/.local/share`, `~/Library/Application Support`, or `%LOCALAPPDATA%`. Apps and backends
    /// have their own directories below it, so different apps may share one data directory.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Sets how long each call may take, including everything that it does. Defaults to 60 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Encrypts everything stored in the data directory with this key. By default users and tokens
    /// are stored unencrypted.
    ///
    /// An unencrypted store cannot be opened with a key, unless the key is
    /// [for new stores](EncryptionKey::for_new_stores); [`Self::encrypt_store`] encrypts it. An
    /// encrypted one cannot be opened without its key.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::{EncryptionKey, Session};
    ///
    /// # let dir = std::env::temp_dir().join(format!("keyfob-doc-encryption-{}", std::process::id()));
    /// let session = Session::builder("my-app-id", "https://example.org")
    ///     .data_dir(&dir)
    ///     .encryption(EncryptionKey::key_file())
    ///     .open()?;
    /// # Ok::<(), keyfob::Error>(())
    /// ```
    #[cfg(feature = "encryption")]
    pub fn encryption(mut self, key: EncryptionKey) -> Self {
        self.encryption = Some(key);
        self
    }

    /// Sets whether keyfob asks the backend which host to send requests to. Turn this off if a
    /// reverse proxy serves the protocol under a name other than the backend's own. Defaults to
    /// `true`.
    pub fn location_lookup(mut self, lookup: bool) -> Self {
        self.location_lookup = lookup;
        self
    }

    /// Sets what happens if the files of the store are damaged. Defaults to [`OnDamage::Refuse`].
    pub fn on_damage(mut self, on_damage: OnDamage) -> Self {
        self.on_damage = on_damage;
        self
    }

    /// Stores users and tokens in `store` instead of a data directory. This can be a
    /// [`MemoryStore`](crate::store::MemoryStore), a `RedisStore` (feature `redis`), or a custom
    /// store.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::Session;
    /// use keyfob::store::MemoryStore;
    ///
    /// let session = Session::builder("my-app-id", "https://example.org")
    ///     .store(MemoryStore::new()) // everybody is forgotten when the program ends
    ///     .open()?;
    /// # Ok::<(), keyfob::Error>(())
    /// ```
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Sets how requests are sent: a [`UreqTransport`] with [other
    /// settings](UreqTransport::builder) for proxies and certificates, or a custom transport.
    /// Defaults to [`UreqTransport::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::Session;
    /// use keyfob::transport::UreqTransport;
    /// # use keyfob::store::MemoryStore;
    ///
    /// let transport = UreqTransport::builder().no_proxy().build()?;
    /// let session = Session::builder("my-app-id", "https://example.org")
    ///     .transport(transport)
    /// #   .store(MemoryStore::new())
    ///     .open()?;
    /// # Ok::<(), keyfob::Error>(())
    /// ```
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Box::new(transport));
        self
    }

    /// Opens the session. Uses no network and creates nothing on disk: the first commit creates
    /// files and directories.
    ///
    /// # Errors
    /// - [`Error::Config`] if the app id, the base URL, or the proxy that the environment sets for
    ///   it cannot be used; if there is no data directory or its path is empty; or if both a store
    ///   and an encryption key were given.
    /// - [`Error::Store`] if the store cannot be opened.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::Session;
    ///
    /// let error = Session::builder("", "https://example.org").open().unwrap_err();
    /// assert_eq!(error.to_string(), "the app id cannot be used: it is empty");
    /// ```
    pub fn open(self) -> Result<Session> {
        let base_url = self.checked_base_url()?;
        let transport = self.transport.unwrap_or_else(|| Box::new(UreqTransport::new()));
        transport.check(base_url.as_str())?;
        let (store, app_dir) = match self.store {
            #[cfg(feature = "encryption")]
            Some(_) if self.encryption.is_some() => return Err(own_store_with_key()),
            Some(store) => (store, None),
            None => {
                let (root, dir, app) = store_place(self.data_dir, &self.app_id, &base_url)?;
                let deadline = Deadline::after(self.deadline);
                #[cfg(feature = "encryption")]
                let store = match self.encryption.map(|key| key.in_data_dir(&root)) {
                    Some(key) => {
                        SledStore::open_encrypted(&dir, &app, &key, self.on_damage, deadline)?
                    }
                    None => SledStore::open(&dir, &app, self.on_damage, deadline)?,
                };
                #[cfg(not(feature = "encryption"))]
                let store = SledStore::open(&dir, &app, self.on_damage, deadline)?;
                (Arc::new(store.in_data_dir(root)) as Arc<dyn Store>, Some(dir))
            }
        };
        let inner = Arc::new_cyclic(|this| Inner {
            app_id: self.app_id,
            base_url,
            insecure_http: self.allow_insecure_http,
            asks_location: self.location_lookup,
            device: self.app_info,
            store,
            transport,
            clock: BackendClock::new(self.clock),
            dispatcher: EventDispatcher::new(),
            app_dir,
            location_cache: LocationCache::default(),
            refreshes: SingleFlight::default(),
            failures: Failures::default(),
            unpersisted: Unpersisted::default(),
            may_have_revocations: AtomicBool::new(true),
            shutdown: Shutdown::new(),
            this: this.clone(),
            jitter: RandomState::new().build_hasher().finish().to_le_bytes()[0],
        });
        Ok(Session { inner, limit: self.deadline, cancel: None })
    }

    /// Encrypts the unencrypted store in the data directory with the key that was given to
    /// [`Self::encryption`]; see [`SledStore::encrypt`]. Returns `false` if there was nothing to
    /// do. Uses no network.
    ///
    /// # Errors
    /// [`Error::Config`] if a setting is invalid, there is no key, or a store was given;
    /// [`Error::Store`] as [`SledStore::encrypt`]. The store is unencrypted or encrypted then, and
    /// complete.
    ///
    /// # Examples
    ///
    /// ```
    /// use keyfob::{EncryptionKey, Session};
    ///
    /// # let dir = std::env::temp_dir().join(format!("keyfob-doc-encrypt-{}", std::process::id()));
    /// let builder = || Session::builder("my-app-id", "https://example.org").data_dir(&dir);
    /// builder().encryption(EncryptionKey::key_file()).encrypt_store()?;
    /// let session = builder().encryption(EncryptionKey::key_file()).open()?;
    /// # Ok::<(), keyfob::Error>(())
    /// ```
    #[cfg(feature = "encryption")]
    pub fn encrypt_store(self) -> Result<bool> {
        let base_url = self.checked_base_url()?;
        let Some(key) = self.encryption else {
            return Err(Error::config(
                "the encryption key",
                "it is missing: set one with `encryption`",
            ));
        };
        if self.store.is_some() {
            return Err(own_store_with_key());
        }
        let (root, dir, app) = store_place(self.data_dir, &self.app_id, &base_url)?;
        let deadline = Deadline::after(self.deadline);
        Ok(SledStore::encrypt(&dir, &app, &key.in_data_dir(&root), deadline)?)
    }

    fn checked_base_url(&self) -> Result<BaseUrl> {
        if self.app_id.trim().is_empty() {
            return Err(Error::config("the app id", "it is empty"));
        }
        BaseUrl::parse(&self.base_url, self.allow_insecure_http)
            .map_err(|reason| Error::config("the base URL", reason))
    }
}

#[cfg(feature = "encryption")]
fn own_store_with_key() -> Error {
    let reason = "keyfob does not encrypt a custom store, remove the store or the key";
    Error::config("the encryption key", reason)
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Omits the base URL: it is not validated yet and may contain a password.
        f.debug_struct("SessionBuilder")
            .field("app_id", &self.app_id)
            .field("data_dir", &self.data_dir)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Returns the data directory, the directory of the store in it, and the name of backend and app.
fn store_place(
    data_dir: Option<PathBuf>,
    app_id: &str,
    base_url: &BaseUrl,
) -> Result<(PathBuf, PathBuf, String)> {
    let root = match data_dir {
        Some(dir) if dir.as_os_str().is_empty() => {
            return Err(Error::config("the data directory", "its path is empty"));
        }
        Some(dir) => dir,
        None => default_data_dir()?,
    };
    let app = format!("{app_id}\n{base_url}");
    let dir = app_dir(&root, app_id, &app);
    Ok((root, dir, app))
}

/// Returns the directory of one app on one backend. The name is readable, and unique to the pair.
fn app_dir(root: &Path, app_id: &str, app: &str) -> PathBuf {
    const READABLE: usize = 64;
    let mut name = wire::segment(app_id);
    name.truncate(READABLE);
    root.join(format!("{name}-{:016x}", fnv1a(&[app.as_bytes()])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_never_share_directory() {
        let dir = |app: &str, url: &str| app_dir(Path::new("/d"), app, &format!("{app}\n{url}"));
        assert_eq!(dir("app-x", "https://a"), dir("app-x", "https://a"));
        assert_ne!(dir("app-x", "https://a"), dir("app-x", "https://b"));
        assert_ne!(dir("app-x", "https://a"), dir("app-y", "https://a"));
        let odd = dir(&"../".repeat(100), "https://a");
        assert_eq!(odd.parent(), Some(Path::new("/d")));
        assert!(odd.file_name().unwrap().len() < 100);
    }
}
