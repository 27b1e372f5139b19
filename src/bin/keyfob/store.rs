//! The store of the command: a directory, or a Redis server.

use std::path::Path;

use keyfob::{EncryptionKey, SessionBuilder};

use crate::environment::environment;
use crate::failure::Failure;

/// Sets the store that `--store` or `KEYFOB_STORE` names.
pub(crate) fn choose(
    builder: SessionBuilder,
    store: Option<&Path>,
    app_id: &str,
    base_url: &str,
) -> Result<SessionBuilder, Failure> {
    let Some(store) = store else { return Ok(on_disk(builder)) };
    match store.to_str().filter(|_| is_redis(store)) {
        Some(url) => on_redis(builder, url, app_id, base_url),
        None => Ok(on_disk(builder).data_dir(store)),
    }
}

fn on_disk(builder: SessionBuilder) -> SessionBuilder {
    // A program without a key can still open its store in the same directory.
    builder.encryption(key().for_new_stores())
}

/// Returns the key file in the environment, or the one in the data directory.
fn key() -> EncryptionKey {
    match environment("KEYFOB_STORE_KEY_FILE") {
        Some(path) => EncryptionKey::from_file(path),
        None => EncryptionKey::key_file(),
    }
}

pub(crate) fn is_redis(store: &Path) -> bool {
    let scheme = store
        .to_str()
        .and_then(|store| store.split_once("://"))
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| matches!(scheme.as_str(), "redis" | "rediss"))
}

#[cfg(not(feature = "redis"))]
fn on_redis(_: SessionBuilder, _: &str, _: &str, _: &str) -> Result<SessionBuilder, Failure> {
    let reason = "--store is a Redis URL, and this keyfob was built without the feature redis";
    Err(Failure::Usage(reason.to_owned()))
}

#[cfg(feature = "redis")]
use redis::on_redis;

#[cfg(feature = "redis")]
mod redis {
    use keyfob::store::{MemoryStore, RedisStore};
    use keyfob::{Secret, Session, SessionBuilder};

    use crate::environment::{environment, text_environment};
    use crate::failure::Failure;

    /// The maximum size of a password file.
    const LARGEST: u64 = 64 * 1024;

    pub(super) fn on_redis(
        builder: SessionBuilder,
        url: &str,
        app_id: &str,
        base_url: &str,
    ) -> Result<SessionBuilder, Failure> {
        if has_password(url) {
            let reason = "--store has a password in its URL, which other users of this machine can \
                          read: set KEYFOB_REDIS_PASSWORD, or KEYFOB_REDIS_PASSWORD_FILE to a file \
                          with it";
            return Err(Failure::Usage(reason.to_owned()));
        }
        let namespace = match text_environment("KEYFOB_REDIS_NAMESPACE")? {
            Some(name) => name,
            None => namespace(app_id, base_url)?,
        };
        let mut store = RedisStore::builder(url).namespace(namespace).encryption(super::key());
        if let Some(service) = text_environment("KEYFOB_REDIS_SENTINEL_SERVICE")? {
            let others = text_environment("KEYFOB_REDIS_SENTINELS")?.unwrap_or_default();
            store = store.sentinel(service, others.split_whitespace());
        }
        if let Some(password) = password()? {
            store = store.password(password);
        }
        Ok(builder.store(store.open()?))
    }

    /// Returns `true` for `redis://USER:PASSWORD@HOST`: the part before the last `@` has a colon.
    fn has_password(url: &str) -> bool {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        rest.rsplit_once('@').is_some_and(|(account, _)| account.contains(':'))
    }

    /// Returns the namespace that the manual documents: the app id and the base URL, normalised as
    /// in a session.
    fn namespace(app_id: &str, base_url: &str) -> Result<String, Failure> {
        let session = Session::builder(app_id, base_url).store(MemoryStore::new()).open()?;
        Ok(format!("{app_id}@{}", session.base_url()))
    }

    fn password() -> Result<Option<Secret>, Failure> {
        if let Some(password) = text_environment("KEYFOB_REDIS_PASSWORD")? {
            return Ok(Some(Secret::new(password)));
        }
        let Some(path) = environment("KEYFOB_REDIS_PASSWORD_FILE") else { return Ok(None) };
        let unread = |reason: String| {
            Failure::Usage(format!(
                "the file in KEYFOB_REDIS_PASSWORD_FILE cannot be read: {reason}"
            ))
        };
        let size = std::fs::metadata(&path).map_err(|error| unread(error.to_string()))?;
        if !size.is_file() || size.len() > LARGEST {
            return Err(unread("expected a file of at most 64 KiB".to_owned()));
        }
        let password = std::fs::read_to_string(&path).map_err(|error| unread(error.to_string()))?;
        let password = Secret::new(password);
        Ok(Some(Secret::new(password.expose().trim_end_matches(['\r', '\n']))))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn password_in_url_is_seen() {
            for url in
                ["redis://:hush@h", "rediss://ada:hush@h:1/2", "redis://a:b@c@h", "redis://a:@h"]
            {
                assert!(has_password(url), "{url}");
            }
            for url in ["redis://h:6379", "rediss://ada@h:6379/0", "redis://[::1]:6379"] {
                assert!(!has_password(url), "{url}");
            }
        }
    }
}
