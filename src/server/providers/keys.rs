//! Keys that other servers sign with.

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

/// A key that is not in the set makes it be fetched again, at most this often.
const REFETCH: Duration = Duration::from_secs(60);
/// Likewise after the set could not be fetched.
const RETRY: Duration = Duration::from_secs(5);
/// A set older than this is fetched again, so that keys can be withdrawn.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// A set that could not be fetched again for so long is not used any more.
const MAX_STALE: Duration = Duration::from_secs(24 * 3600);
/// So many log-ins wait for a set at a time, each with its connection; further ones are told to try
/// again.
const MAX_WAITING: usize = 64;
/// Keys of a set beyond these are not looked at.
const MAX_KEYS: usize = 100;

/// Where the keys that tokens are checked with come from.
///
/// A key is good for one algorithm: a token that names another one is refused, `none` above all.
#[derive(Clone, Debug)]
pub struct JwtKeys(Source);

#[derive(Clone, Debug)]
enum Source {
    Hs256(Secret),
    Rs256(String),
    Es256(String),
    Url(String),
}

/// The algorithms that the keys of a set are used with.
const SET_ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

impl JwtKeys {
    /// Takes tokens signed with a shared secret (HS256): at least 32 bytes.
    pub fn hs256(secret: impl Into<Secret>) -> Self {
        Self(Source::Hs256(secret.into()))
    }

    /// Takes tokens signed with RSA (RS256), by the holder of this public key in PEM form.
    pub fn rs256(pem: impl Into<String>) -> Self {
        Self(Source::Rs256(pem.into()))
    }

    /// Takes tokens signed with the curve P-256 (ES256), by the holder of this public key in PEM
    /// form.
    pub fn es256(pem: impl Into<String>) -> Self {
        Self(Source::Es256(pem.into()))
    }

    /// Takes tokens signed (RS256, ES256, EdDSA with Ed25519) with a key of the set at this URL:
    /// `https`, or `http` to this machine.
    ///
    /// The server fetches the set when it is first needed, again after an hour, and again for a key
    /// that is not in it, at most once a minute by the server's clock. A log-in that needs the set
    /// waits for it, for 5 seconds at most; log-ins with a key that is known do not wait. If the set
    /// cannot be fetched again, the keys of the last one are used for a day.
    pub fn jwks(url: impl Into<String>) -> Self {
        Self(Source::Url(url.into()))
    }

    /// Makes the keys usable, or says what is wrong with them.
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

/// Keys in use.
pub(super) enum Keys {
    One(Algorithm, DecodingKey),
    Set(KeySet),
    /// That of the test identity provider of this server.
    Test(Arc<SigningKey>),
}

/// A key set of another server.
pub(super) struct KeySet {
    location: Location,
    cached: Mutex<Cached>,
    /// A fetch has ended.
    fetched: Condvar,
}

/// Where a key set is.
enum Location {
    Url(Remote),
    Issuer(Discovery),
}

/// What is known of a key set. Times are monotonic.
#[derive(Default)]
struct Cached {
    keys: Vec<SetKey>,
    fetched: Option<Duration>,
    attempted: Option<Duration>,
    /// Why the last attempt failed.
    failure: Option<Unreachable>,
    /// Somebody is fetching the set.
    is_fetching: bool,
    /// How many wait for that.
    waiting: usize,
}

struct SetKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Keys {
    /// Returns the keys of an issuer, which its discovery document names.
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
            // One fetches, outside the lock; those who need the same set wait for it.
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

/// A fetch in progress. If it panics, the next one who needs the set tries again.
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

    /// Returns the key with this id. Without an id there must be only one it can be.
    fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Option<DecodingKey> {
        let mut keys = self.keys.iter().filter(|key| {
            key.algorithm == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id))
        });
        let key = keys.next()?;
        (id.is_some() || keys.next().is_none()).then(|| key.key.clone())
    }
}

/// Reads a key set. Keys of kinds we have no use for are left out.
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
        // A shared secret in a public place is none.
        _ => return None,
    };
    if common.key_algorithm.as_ref().is_some_and(|other| *other != name) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(SetKey { id: jwk.common.key_id, algorithm, key })
}

/// Returns what is between the lines of a PEM text with one of these labels.
fn pem_body(pem: &str, labels: &[&str]) -> Option<Vec<u8>> {
    labels.iter().find_map(|label| {
        let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
        let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
        let body: String = body.split_ascii_whitespace().collect();
        BASE64_STANDARD.decode(body).ok()
    })
}
