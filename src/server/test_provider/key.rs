//! The signing key of the test identity provider, generated when it is first needed.

use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Value, json};

use crate::server::providers::ProviderError;
use crate::server::random;

/// An RSA key for RS256, the one algorithm that every OpenID Connect client supports.
#[derive(Default)]
pub(in crate::server) struct SigningKey(OnceLock<Option<Pair>>);

struct Pair {
    id: String,
    key: RsaKeyPair,
    /// The modulus and the exponent, as in a key set.
    public: (String, String),
}

impl SigningKey {
    /// Returns the key, generating it if necessary. Returns `None` if that failed.
    fn pair(&self) -> Option<&Pair> {
        let make = || {
            let key = RsaKeyPair::generate(KeySize::Rsa2048).ok()?;
            let public = key.public_key();
            let text = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
            let public = (
                text(public.modulus().big_endian_without_leading_zero()),
                text(public.exponent().big_endian_without_leading_zero()),
            );
            Some(Pair { id: random::id().ok()?, key, public })
        };
        self.0.get_or_init(make).as_ref()
    }

    /// Signs claims as a token with this `typ`.
    pub(super) fn sign(&self, typ: &str, claims: &Value) -> Option<String> {
        let pair = self.pair()?;
        let header = json!({"alg": "RS256", "kid": pair.id, "typ": typ});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(claims));
        let mut signature = vec![0; pair.key.public_modulus_len()];
        let random = SystemRandom::new();
        pair.key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).ok()?;
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    pub(super) fn jwks(&self) -> Option<Value> {
        let Pair { id, public: (n, e), .. } = self.pair()?;
        let key = json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id, "n": n, "e": e});
        Some(json!({"keys": [key]}))
    }

    /// Returns the public key for a token with this key id. Before the first token there is no key.
    pub(in crate::server) fn decoding_key(
        &self,
        id: Option<&str>,
    ) -> Result<DecodingKey, ProviderError> {
        let pair = self.0.get().and_then(Option::as_ref).filter(|pair| id == Some(&pair.id));
        let (n, e) = &pair.ok_or(ProviderError::Refused)?.public;
        DecodingKey::from_rsa_components(n, e).map_err(|_| ProviderError::Refused)
    }
}
