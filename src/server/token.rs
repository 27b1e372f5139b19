//! Issues and checks access and refresh tokens.
//!
//! Both are HS256 tokens, signed with one random key. Expiry is decided by the server's clock, so
//! that a test can move it. A refresh token also needs its server session, which is stored in
//! [`State`].
//!
//! [`State`]: super::state::State

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json_memory::memory_as_values;
use super::random;
use super::state::{Deployment, Identity, Session};
use crate::{Secret, untrusted_json};

/// Maximum number of cached tokens. When it is exceeded, the cache is cleared.
const MOST_KNOWN: usize = 1024;
/// Maximum memory of the cache in bytes, because custom data makes some tokens large.
const MOST_KNOWN_MEMORY: usize = 16 * 1024 * 1024;
/// Maximum memory of the header of a token, as values. The header is parsed before the signature is
/// checked. The limit allows for the certificates that some issuers include.
const MAX_HEADER_MEMORY: usize = 64 * 1024;

/// Signs and checks tokens.
pub(super) struct Tokens {
    signing: EncodingKey,
    checking: DecodingKey,
    validation: Validation,
    domain_id: String,
    /// In seconds.
    access_lifetime: i64,
    /// Access tokens with a verified signature. They are cached because clients send each token
    /// many times.
    known: RwLock<KnownTokens>,
}

#[derive(Default)]
struct KnownTokens {
    tokens: HashMap<String, Arc<Access>>,
    /// An estimate, in bytes.
    memory: usize,
}

/// Why a token was rejected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TokenFault {
    Expired,
    /// The text is not a token, or another server issued it.
    Invalid,
    /// A refresh token in place of an access token, or the reverse.
    WrongType,
}

/// The claims of a token of either kind.
#[derive(Deserialize, Serialize)]
#[serde(tag = "typ", rename_all = "lowercase")]
enum Claims {
    Access(AccessClaims),
    Refresh(RefreshClaims),
}

/// The claims of an access token.
///
/// Source: tokens of the service; `iss` there is the refresh token's id.
#[derive(Deserialize, Serialize)]
struct AccessClaims {
    baas_device_id: String,
    baas_domain_id: String,
    exp: i64,
    iat: i64,
    iss: String,
    /// Makes two tokens of the same second differ. Tokens of earlier versions have no value.
    #[serde(default)]
    jti: String,
    sub: String,
    /// The custom user data, for clients to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_data: Option<Map<String, Value>>,
}

/// The verified content of an access token.
#[derive(Debug, PartialEq)]
pub(super) struct Access {
    /// Seconds since the epoch.
    pub expires_at: i64,
    pub user_id: String,
    pub session_id: String,
    pub user_data: Option<Map<String, Value>>,
}

/// The claims of a refresh token.
#[derive(Deserialize, Serialize)]
struct RefreshClaims {
    baas_data: (),
    baas_device_id: String,
    baas_domain_id: String,
    baas_id: String,
    baas_identity: IdentityClaim,
    exp: i64,
    iat: i64,
    sub: String,
}

#[derive(Deserialize, Serialize)]
struct IdentityClaim {
    id: String,
    provider_type: String,
    provider_id: String,
}

impl Tokens {
    /// `access_lifetime` is in seconds.
    pub(super) fn new(key: &[u8], deployment: &Deployment, access_lifetime: i64) -> Self {
        // The crate would use the system time; the server uses its own clock.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        Self {
            signing: EncodingKey::from_secret(key),
            checking: DecodingKey::from_secret(key),
            validation,
            domain_id: deployment.domain_id.clone(),
            access_lifetime,
            known: RwLock::default(),
        }
    }

    /// Issues an access token for a server session. `now` is in seconds since the epoch.
    pub(super) fn access(
        &self,
        session: &Session,
        user_data: Option<Map<String, Value>>,
        now: i64,
    ) -> Result<Secret, TokenFault> {
        let jti = random::id().map_err(|_| TokenFault::Invalid)?;
        self.sign(&Claims::Access(AccessClaims {
            baas_device_id: session.device_id.clone(),
            baas_domain_id: self.domain_id.clone(),
            exp: now.saturating_add(self.access_lifetime),
            iat: now,
            iss: session.id.clone(),
            jti,
            sub: session.user_id.clone(),
            user_data,
        }))
    }

    /// Issues the refresh token of a server session. One session always has the same text.
    pub(super) fn refresh(&self, session: &Session) -> Result<Secret, TokenFault> {
        self.sign(&Claims::Refresh(RefreshClaims {
            baas_data: (),
            baas_device_id: session.device_id.clone(),
            baas_domain_id: self.domain_id.clone(),
            baas_id: session.id.clone(),
            baas_identity: IdentityClaim {
                id: session.identity.id.clone(),
                provider_type: session.identity.provider_type.clone(),
                provider_id: self.provider_id(&session.identity),
            },
            exp: session.expires_at,
            iat: session.issued_at,
            sub: session.user_id.clone(),
        }))
    }

    /// Checks an access token and returns its content.
    pub(super) fn check_access(&self, token: &str, now: i64) -> Result<Arc<Access>, TokenFault> {
        let access = match self.recall(token) {
            Some(access) => access,
            None => self.read_access(token)?,
        };
        if access.expires_at <= now { Err(TokenFault::Expired) } else { Ok(access) }
    }

    fn read_access(&self, token: &str) -> Result<Arc<Access>, TokenFault> {
        let claims = match self.verify(token)? {
            Claims::Access(claims) => claims,
            Claims::Refresh(claims) => return Err(self.wrong_type(&claims.baas_domain_id)),
        };
        if claims.baas_domain_id != self.domain_id {
            return Err(TokenFault::Invalid);
        }
        let AccessClaims { exp, sub, iss, user_data, .. } = claims;
        let access = Access { expires_at: exp, user_id: sub, session_id: iss, user_data };
        let access = Arc::new(access);
        let claims = part(token, 1).unwrap_or_default();
        self.remember(token, &access, token.len() + memory_as_values(&claims));
        Ok(access)
    }

    fn recall(&self, token: &str) -> Option<Arc<Access>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.tokens.get(token).cloned()
    }

    fn remember(&self, token: &str, access: &Arc<Access>, memory: usize) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.tokens.len() >= MOST_KNOWN || known.memory + memory > MOST_KNOWN_MEMORY {
            *known = KnownTokens::default();
        }
        if known.tokens.insert(token.to_owned(), Arc::clone(access)).is_none() {
            known.memory += memory;
        }
    }

    /// Checks a refresh token and returns its session's id.
    pub(super) fn check_refresh(&self, token: &str, now: i64) -> Result<String, TokenFault> {
        let claims = match self.verify(token)? {
            Claims::Refresh(claims) => claims,
            Claims::Access(claims) => return Err(self.wrong_type(&claims.baas_domain_id)),
        };
        match claims.baas_domain_id == self.domain_id {
            false => Err(TokenFault::Invalid),
            true if claims.exp <= now => Err(TokenFault::Expired),
            true => Ok(claims.baas_id),
        }
    }

    /// Returns the id of an identity's provider. The server derives a stable id.
    pub(super) fn provider_id(&self, identity: &Identity) -> String {
        // FNV-1a. The result must never change.
        let hash = identity
            .provider_type
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("{}{hash:08x}", self.domain_id.get(..16).unwrap_or_default())
    }

    fn sign(&self, claims: &impl Serialize) -> Result<Secret, TokenFault> {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.signing)
            .map(Secret::from)
            .map_err(|_| TokenFault::Invalid)
    }

    /// Verifies the signature of a token.
    fn verify(&self, token: &str) -> Result<Claims, TokenFault> {
        if !is_readable(token) {
            return Err(TokenFault::Invalid);
        }
        jsonwebtoken::decode(token, &self.checking, &self.validation)
            .map(|token| token.claims)
            .map_err(|_| TokenFault::Invalid)
    }

    fn wrong_type(&self, domain_id: &str) -> TokenFault {
        if domain_id == self.domain_id { TokenFault::WrongType } else { TokenFault::Invalid }
    }
}

/// Returns `true` if the header and the claims of a token are safe to parse. jsonwebtoken parses
/// the header before it verifies the signature, whatever the header contains.
pub(super) fn is_readable(token: &str) -> bool {
    let may_be_parsed = |text: &[u8]| untrusted_json::repair(text).is_ok();
    part(token, 0).is_some_and(|header| {
        may_be_parsed(&header) && memory_as_values(&header) <= MAX_HEADER_MEMORY
    }) && part(token, 1).is_some_and(|claims| may_be_parsed(&claims))
}

/// Decodes a part of a token.
fn part(token: &str, index: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(token.split('.').nth(index)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use crate::server::state::LastUse;

    fn tokens() -> Tokens {
        let deployment = Deployment {
            client_app_id: "app".into(),
            app_id: "a".repeat(24),
            domain_id: "d".repeat(24),
            group_id: "e".repeat(24),
        };
        Tokens::new(&[7; 32], &deployment, 1800)
    }

    fn session() -> Session {
        Session {
            id: "1".repeat(24),
            login: "1".repeat(24),
            user_id: "2".repeat(24),
            identity: Identity { id: "3".repeat(24), provider_type: "local-userpass".into() },
            device_id: "4".repeat(24),
            issued_at: 1000,
            expires_at: 9000,
            replaced: None,
            last_use: LastUse::default(),
        }
    }

    fn claims(token: &Secret) -> Value {
        let payload = token.expose().split('.').nth(1).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    }

    /// Tokens have the claims that App Services puts into its own.
    #[test]
    fn claims_match_app_services() {
        let tokens = tokens();
        let mut access = claims(&tokens.access(&session(), None, 5000).unwrap());
        let jti = access.as_object_mut().unwrap().remove("jti").unwrap();
        assert!(random::is_id(jti.as_str().unwrap()));
        assert_eq!(
            access,
            json!({
                "baas_device_id": "4".repeat(24), "baas_domain_id": "d".repeat(24),
                "exp": 6800, "iat": 5000, "iss": "1".repeat(24), "sub": "2".repeat(24),
                "typ": "access",
            })
        );
        assert_eq!(
            claims(&tokens.refresh(&session()).unwrap()),
            json!({
                "baas_data": null,
                "baas_device_id": "4".repeat(24), "baas_domain_id": "d".repeat(24),
                "baas_id": "1".repeat(24),
                "baas_identity": {
                    "id": "3".repeat(24), "provider_type": "local-userpass",
                    "provider_id": "dddddddddddddddda237ca25",
                },
                "exp": 9000, "iat": 1000, "sub": "2".repeat(24), "typ": "refresh",
            })
        );
    }

    #[test]
    fn custom_data_round_trips_and_tokens_differ() {
        let tokens = tokens();
        let data = json!({"likes": ["tea"]}).as_object().cloned();
        let token = tokens.access(&session(), data.clone(), 5000).unwrap();
        assert_eq!(claims(&token)["user_data"], json!({"likes": ["tea"]}));
        assert_eq!(tokens.check_access(token.expose(), 5000).unwrap().user_data, data);
        assert_ne!(tokens.access(&session(), data, 5000).unwrap(), token);
    }

    /// Earlier versions issued tokens without a `jti`.
    #[test]
    fn tokens_without_jti_are_accepted() {
        let tokens = tokens();
        let old = json!({
            "baas_device_id": "4".repeat(24), "baas_domain_id": "d".repeat(24),
            "exp": 6800, "iat": 5000, "iss": "1".repeat(24), "sub": "2".repeat(24),
            "typ": "access",
        });
        let old = tokens.sign(&old).unwrap();
        assert_eq!(tokens.check_access(old.expose(), 5000).unwrap().user_id, "2".repeat(24));
    }

    #[test]
    fn tokens_are_valid_for_own_purpose_until_expiry() {
        let tokens = tokens();
        let access = tokens.access(&session(), None, 5000).unwrap();
        let refresh = tokens.refresh(&session()).unwrap();
        let said = tokens.check_access(access.expose(), 6799).unwrap();
        assert_eq!((&said.user_id, &said.session_id), (&"2".repeat(24), &"1".repeat(24)));
        assert_eq!(tokens.check_access(access.expose(), 6800), Err(TokenFault::Expired));
        assert_eq!(tokens.check_access(refresh.expose(), 5000), Err(TokenFault::WrongType));
        assert_eq!(tokens.check_refresh(refresh.expose(), 8999), Ok("1".repeat(24)));
        assert_eq!(tokens.check_refresh(refresh.expose(), 9000), Err(TokenFault::Expired));
        assert_eq!(tokens.check_refresh(access.expose(), 5000), Err(TokenFault::WrongType));
    }

    #[test]
    fn foreign_tokens_are_rejected() {
        let tokens = tokens();
        let token = tokens.access(&session(), None, 5000).unwrap();
        let parts: Vec<_> = token.expose().split('.').collect();
        let unsigned = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let mut other = Tokens::new(&[8; 32], &deployment_of(&tokens), 1800);
        let forged = other.access(&session(), None, 5000).unwrap();
        other.domain_id = "f".repeat(24);
        other.signing = EncodingKey::from_secret(&[7; 32]);
        let foreign = other.access(&session(), None, 5000).unwrap();
        for bad in [
            String::new(),
            "a.b".into(),
            "a.b.c".into(),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{unsigned}.{}.", parts[1]),
            format!("{unsigned}.{}.{}", parts[1], parts[2]),
            format!("{}x", token.expose()),
            forged.expose().into(),
            foreign.expose().into(),
        ] {
            assert_eq!(tokens.check_access(&bad, 5000), Err(TokenFault::Invalid), "{bad}");
        }
    }

    fn deployment_of(tokens: &Tokens) -> Deployment {
        Deployment {
            client_app_id: "app".into(),
            app_id: "a".repeat(24),
            domain_id: tokens.domain_id.clone(),
            group_id: "e".repeat(24),
        }
    }
}
