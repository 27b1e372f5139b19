//! Keys that other servers sign with.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::ProviderError;
use super::fetch::{Remote, Unreachable};
use crate::Secret;

/// A key that is not in the set makes it be fetched again, at most this often.
const REFETCH: Duration = Duration::from_secs(60);
/// Likewise after the set could not be fetched.
const RETRY: Duration = Duration::from_secs(5);
/// A set older than this is fetched again, so that keys can be withdrawn.
const MAX_AGE: Duration = Duration::from_secs(3600);
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

    /// Takes tokens signed (RS256, ES256) with a key of the set at this URL: `https`, or `http` to
    /// this machine.
    ///
    /// The set is fetched when it is first needed, again after an hour, and again for a key that is
    /// not in it, at most once a minute by the server's clock. A log-in waits for it, for 5 seconds
    /// at most.
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
            Source::Url(url) => {
                Ok(Keys::Set(KeySet { remote: Remote::new(url)?, cached: Mutex::default() }))
            }
        }
    }
}

/// Keys in use.
pub(super) enum Keys {
    One(Algorithm, DecodingKey),
    Set(KeySet),
}

/// A key set at a URL.
pub(super) struct KeySet {
    remote: Remote,
    cached: Mutex<Cached>,
}

/// What is known of a key set. Times are monotonic.
#[derive(Default)]
struct Cached {
    keys: Vec<SetKey>,
    fetched: Option<Duration>,
    attempted: Option<Duration>,
    failed: bool,
}

struct SetKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Keys {
    /// Returns the key for a token with this header. `now` is monotonic time.
    pub(super) fn find(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        now: Duration,
    ) -> Result<DecodingKey, ProviderError> {
        match self {
            Self::One(only, key) if *only == algorithm => Ok(key.clone()),
            Self::One(..) => Err(ProviderError::Refused),
            Self::Set(_) if !matches!(algorithm, Algorithm::RS256 | Algorithm::ES256) => {
                Err(ProviderError::Refused)
            }
            Self::Set(set) => set.find(algorithm, id, now),
        }
    }
}

impl KeySet {
    fn find(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        now: Duration,
    ) -> Result<DecodingKey, ProviderError> {
        // Held while fetching, so that those who come meanwhile get the same answer.
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let age = cached.fetched.map(|at| now.saturating_sub(at));
        let fresh = age.is_some_and(|age| age < MAX_AGE);
        if let (true, Some(key)) = (fresh, cached.find(algorithm, id)) {
            return Ok(key);
        }
        let wait = if cached.failed { RETRY } else { REFETCH };
        if cached.attempted.is_none_or(|at| now.saturating_sub(at) >= wait) {
            cached.attempted = Some(now);
            let answer = self.remote.get(&[], None).and_then(|answer| read_set(&answer));
            cached.failed = answer.is_err();
            if let Ok(keys) = answer {
                cached.keys = keys;
                cached.fetched = Some(now);
            }
        }
        let missing =
            if cached.failed { ProviderError::Unreachable } else { ProviderError::Refused };
        cached.find(algorithm, id).ok_or(missing)
    }
}

impl Cached {
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
        return Err(Unreachable);
    }
    let keys = body["keys"].as_array().ok_or(Unreachable)?;
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
