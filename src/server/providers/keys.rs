//! Verification keys for tokens of external identity providers.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::ProviderError;
use super::discovery::Discovery;
use super::fetch::{Remote, Unreachable};
use crate::Secret;
use crate::server::test_provider::SigningKey;

/// The minimum time before a set is fetched again because of an unknown key.
const REFETCH: Duration = Duration::from_secs(60);
/// The minimum time before a failed fetch is repeated.
const RETRY: Duration = Duration::from_secs(5);
/// The maximum age of a set before it is fetched again, so that keys can be withdrawn.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// The maximum age of a set that cannot be fetched again; older keys are not used.
const MAX_STALE: Duration = Duration::from_secs(24 * 3600);
/// The maximum number of logins that wait for a set, each with a connection. Further logins get an
/// error and can try again.
const MAX_WAITING: usize = 64;
/// The maximum number of keys of a set; further keys are ignored.
const MAX_KEYS: usize = 100;

/// The source of the keys that verify tokens.
///
/// Each key is used with one algorithm only. A token that names another algorithm is rejected,
/// including `none`.
#[derive(Clone, Debug)]
pub struct JwtKeys(Source);

#[derive(Clone, Debug)]
enum Source {
    Hs256(Secret),
    Rs256(String),
    Es256(String),
    Url(String),
}

/// The algorithms that are supported for keys of a set.
const SET_ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

impl JwtKeys {
    /// Accepts tokens that are signed with a shared secret (HS256) of at least 32 bytes.
    pub fn hs256(secret: impl Into<Secret>) -> Self {
        Self(Source::Hs256(secret.into()))
    }

    /// Accepts tokens that are signed with RSA (RS256). `pem` is the public key.
    pub fn rs256(pem: impl Into<String>) -> Self {
        Self(Source::Rs256(pem.into()))
    }

    /// Accepts tokens that are signed with the curve P-256 (ES256). `pem` is the public key.
    pub fn es256(pem: impl Into<String>) -> Self {
        Self(Source::Es256(pem.into()))
    }

    /// Accepts tokens that are signed with a key of the set at this URL (RS256, ES256, or EdDSA
    /// with Ed25519). The URL must be `https`, or `http` to this machine.
    ///
    /// The server fetches the set when it is first needed, and again after an hour. It also fetches
    /// the set for an unknown key, at most once a minute by the server's clock. A login that needs
    /// the set waits for it, for 5 seconds at most; logins with a known key do not wait. If the set
    /// cannot be fetched again, the server uses the previous keys for a day.
    pub fn jwks(url: impl Into<String>) -> Self {
        Self(Source::Url(url.into()))
    }

    /// Parses the keys, or returns what is wrong with them.
    pub(super) fn open(self) -> io::Result<Keys> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        match self.0 {
            Source::Hs256(secret) if secret.expose().len() < 32 => {
                Err(invalid("the secret of tokens must have at least 32 bytes"))
            }
            Source::Hs256(secret) => Ok(Keys::One(
                Algorithm::HS256,
                DecodingKey::from_secret(secret.expose().as_bytes()),
            )),
            Source::Rs256(pem) => {
                let der = pem_body(&pem, &["PUBLIC KEY", "RSA PUBLIC KEY"])
                    .filter(|der| ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).is_ok())
                    .ok_or_else(|| invalid("not the PEM form of an RSA public key"))?;
                Ok(Keys::One(Algorithm::RS256, DecodingKey::from_rsa_der(&der)))
            }
            Source::Es256(pem) => {
                let der = pem_body(&pem, &["PUBLIC KEY"])
                    .filter(|der| ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der).is_ok())
                    .ok_or_else(|| invalid("not the PEM form of a P-256 public key"))?;
                Ok(Keys::One(Algorithm::ES256, DecodingKey::from_ec_der(&der)))
            }
            Source::Url(url) => Ok(Keys::Set(KeySet::new(Location::Url(Remote::new(url)?)))),
        }
    }
}

/// The keys of a running server.
pub(super) enum Keys {
    One(Algorithm, DecodingKey),
    Set(KeySet),
    /// The key of this server's test identity provider.
    Test(Arc<SigningKey>),
}

/// A key set of an external server.
pub(super) struct KeySet {
    location: Location,
    cached: Mutex<Cached>,
    /// Notified when a fetch has ended.
    fetched: Condvar,
}

/// The location of a key set.
enum Location {
    Url(Remote),
    Issuer(Discovery),
}

/// The cached keys of a set. Times are monotonic.
#[derive(Default)]
struct Cached {
    keys: Vec<SetKey>,
    fetched: Option<Duration>,
    attempted: Option<Duration>,
    /// The error of the last attempt, if it failed.
    failure: Option<Unreachable>,
    /// A thread is fetching the set.
    is_fetching: bool,
    /// The number of threads that wait for the fetch.
    waiting: usize,
}

struct SetKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Keys {
    /// Returns the keys of an issuer, located by its discovery document.
    pub(super) fn of_issuer(discovery: Discovery) -> Self {
        Self::Set(KeySet::new(Location::Issuer(discovery)))
    }

    /// Returns the key for a token with this header. `now` is monotonic time.
    pub(super) fn find(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        now: Duration,
    ) -> Result<DecodingKey, ProviderError> {
        match self {
            Self::One(only, key) if *only == algorithm => Ok(key.clone()),
            Self::Set(set) if SET_ALGORITHMS.contains(&algorithm) => set.find(algorithm, id, now),
            Self::Test(key) if algorithm == Algorithm::RS256 => key.decoding_key(id),
            _ => Err(ProviderError::Refused),
        }
    }
}

impl KeySet {
    fn new(location: Location) -> Self {
        Self { location, cached: Mutex::default(), fetched: Condvar::new() }
    }

    fn find(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        now: Duration,
    ) -> Result<DecodingKey, ProviderError> {
        let mut cached = self.cached();
        loop {
            if let (true, Some(key)) = (cached.is_younger(MAX_AGE, now), cached.find(algorithm, id))
            {
                return Ok(key);
            }
            // One thread fetches, without holding the mutex; the others wait for it.
            if !cached.is_fetching {
                break;
            }
            if cached.waiting == MAX_WAITING {
                return Err(ProviderError::Unreachable("too many log-ins wait for its keys"));
            }
            cached.waiting += 1;
            cached = self.fetched.wait(cached).unwrap_or_else(PoisonError::into_inner);
            cached.waiting -= 1;
        }
        let wait = if cached.failure.is_some() { RETRY } else { REFETCH };
        if cached.attempted.is_none_or(|at| now.saturating_sub(at) >= wait) {
            cached.attempted = Some(now);
            cached.is_fetching = true;
            drop(cached);
            let fetch = Fetch(self);
            let keys = self.location.fetch();
            cached = self.cached();
            match keys {
                Ok(keys) => {
                    (cached.keys, cached.fetched, cached.failure) = (keys, Some(now), None);
                }
                Err(failure) => cached.failure = Some(failure),
            }
            fetch.end(&mut cached);
        }
        let key = cached.find(algorithm, id).filter(|_| cached.is_younger(MAX_STALE, now));
        key.ok_or(match cached.failure {
            Some(Unreachable(reason)) => ProviderError::Unreachable(reason),
            None => ProviderError::Refused,
        })
    }

    fn cached(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fetch in progress. If it panics, the next thread that needs the set tries again.
struct Fetch<'a>(&'a KeySet);

impl Fetch<'_> {
    fn end(self, cached: &mut Cached) {
        cached.is_fetching = false;
        self.0.fetched.notify_all();
        std::mem::forget(self);
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        self.0.cached().is_fetching = false;
        self.0.fetched.notify_all();
    }
}

impl Location {
    fn fetch(&self) -> Result<Vec<SetKey>, Unreachable> {
        match self {
            Self::Url(remote) => read_set(&remote.get(&[], None)?),
            Self::Issuer(discovery) => read_set(&discovery.jwks()?.get(&[], None)?),
        }
    }
}

impl Cached {
    fn is_younger(&self, age: Duration, now: Duration) -> bool {
        self.fetched.is_some_and(|at| now.saturating_sub(at) < age)
    }

    /// Returns the key with this id. Without an id, returns a key only if exactly one matches.
    fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Option<DecodingKey> {
        let mut keys = self.keys.iter().filter(|key| {
            key.algorithm == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id))
        });
        let key = keys.next()?;
        (id.is_some() || keys.next().is_none()).then(|| key.key.clone())
    }
}

/// Parses a key set. Unsupported keys are ignored.
fn read_set((status, body): &(u16, Value)) -> Result<Vec<SetKey>, Unreachable> {
    if *status != 200 {
        return Err(Unreachable("the status of its keys is not 200"));
    }
    let keys = body["keys"].as_array().ok_or(Unreachable("its keys are no key set"))?;
    Ok(keys.iter().take(MAX_KEYS).filter_map(read_key).collect())
}

fn read_key(key: &Value) -> Option<SetKey> {
    let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        // A symmetric key in a public set is not a secret.
        _ => return None,
    };
    if common.key_algorithm.as_ref().is_some_and(|other| *other != name) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(SetKey { id: jwk.common.key_id, algorithm, key })
}

/// Returns the decoded content of a PEM block with one of these labels.
fn pem_body(pem: &str, labels: &[&str]) -> Option<Vec<u8>> {
    labels.iter().find_map(|label| {
        let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
        let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
        let body: String = body.split_ascii_whitespace().collect();
        BASE64_STANDARD.decode(body).ok()
    })
}
