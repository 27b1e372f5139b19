//! Parses a Redis URL into the server's address and the account.

use std::fmt;

use ::redis::{ConnectionAddr, IntoConnectionInfo};

use crate::secret::Secret;

/// The address of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// The account to authenticate with.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
}

/// The parts of a URL.
#[derive(Clone, Debug)]
pub(super) struct RedisUrl {
    pub(super) address: Address,
    pub(super) account: Account,
    pub(super) database: i64,
}

impl RedisUrl {
    /// Parses `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`, or the same with `rediss` for
    /// TLS. The error does not repeat the URL, which may contain a password.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected redis://HOST:PORT/DATABASE, or rediss:// for TLS";
        let (scheme, rest) = url.split_once("://").ok_or(EXPECTED)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(EXPECTED.to_owned()),
        };
        // The redis crate accepts `rediss` only with its own TLS feature, which is not enabled.
        let url = ::redis::parse_redis_url(&format!("redis://{rest}")).ok_or(EXPECTED)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("{EXPECTED}, and nothing behind it"));
        }
        let info = url.into_connection_info().map_err(|_| EXPECTED)?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err(EXPECTED.to_owned());
        };
        let settings = info.redis_settings();
        if settings.db() < 0 {
            return Err("the number of the database is negative".to_owned());
        }
        Ok(Self {
            address: Address { host: host.clone(), port: *port, tls },
            account: Account {
                username: settings.username().map(ToOwned::to_owned),
                password: settings.password().filter(|text| !text.is_empty()).map(Secret::from),
            },
            database: settings.db(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_parts_are_read() {
        let url = RedisUrl::parse("rediss://ada:p%40ss@cache.example.org:7000/3").unwrap();
        assert_eq!(url.address.to_string(), "rediss://cache.example.org:7000");
        assert_eq!(url.account.username.as_deref(), Some("ada"));
        assert_eq!(url.account.password.unwrap().expose(), "p@ss");
        assert_eq!(url.database, 3);
        let url = RedisUrl::parse("REDIS://[::1]").unwrap();
        assert_eq!(url.address.to_string(), "redis://[::1]:6379");
        assert!(url.account.username.is_none() && url.account.password.is_none());
    }

    #[test]
    fn bad_urls_are_refused_without_echo() {
        let bad = [
            "",
            "hush",
            "http://:hush@host",
            "redis://",
            "redis://:hush@",
            "redis://:hush@host/x",
            "redis://:hush@host/-1",
            "redis://:hush@host:99999",
            "redis://:hush@host/0?protocol=resp3",
            "rediss://:hush@host/#insecure",
            "redis+unix:///hush",
            "redis://:hush@0.0.0.0",
        ];
        for url in bad {
            let reason = RedisUrl::parse(url).expect_err(url);
            assert!(!reason.contains("hush"), "{reason}");
        }
    }
}
