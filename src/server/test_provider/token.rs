//! The token endpoint and the userinfo endpoint.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::grants::DeviceState;
use super::person::{CLAIMS, Person};
use super::{
    NO_KEY, OAuthError, TOKEN_LIFETIME, TestProvider, body_form, json_response, oauth_error, text,
};
use crate::form::Parameters;
use crate::server::clock::Time;
use crate::server::http::{Request, Response};
use crate::server::providers::Verifier;

/// The grant type of the device flow (RFC 8628).
pub(super) const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A redeemed grant: the person, the client and the scope.
struct Grant {
    person: Person,
    client_id: String,
    scope: String,
    nonce: Option<String>,
}

impl TestProvider {
    /// `POST /token`.
    pub(super) fn token(&self, request: &Request, time: Time) -> Response {
        let grant = body_form(request).and_then(|form| self.redeem(request, &form, time));
        match grant.and_then(|grant| self.tokens(&grant, time.now)) {
            Ok(tokens) => json_response(200, &tokens),
            Err(error) if error.0 == NO_KEY.0 => oauth_error(500, &error),
            Err(error) => oauth_error(400, &error),
        }
    }

    fn redeem(
        &self,
        request: &Request,
        form: &Parameters,
        time: Time,
    ) -> Result<Grant, OAuthError> {
        let client_id = client_id(request, form)?;
        match form.get("grant_type") {
            Some("authorization_code") => self.redeem_code(client_id, form, time),
            Some(DEVICE_GRANT) => {
                let missing = OAuthError("invalid_request", "device_code is missing");
                let code = form.get("device_code").ok_or(missing)?;
                let found = self.grants().poll_device(code, &client_id, time.monotonic);
                match found {
                    Some((DeviceState::Approved(person), scope)) => {
                        Ok(Grant { person, client_id, scope, nonce: None })
                    }
                    Some((DeviceState::Pending, _)) => {
                        Err(OAuthError("authorization_pending", "nobody has entered the code yet"))
                    }
                    Some((DeviceState::Refused, _)) => {
                        Err(OAuthError("access_denied", "the person refused"))
                    }
                    None => Err(OAuthError("expired_token", "there is no such device code")),
                }
            }
            _ => Err(OAuthError("unsupported_grant_type", "this grant type is not supported")),
        }
    }

    fn redeem_code(
        &self,
        client_id: String,
        form: &Parameters,
        time: Time,
    ) -> Result<Grant, OAuthError> {
        let invalid = |reason| OAuthError("invalid_grant", reason);
        let code = form.get("code").ok_or(OAuthError("invalid_request", "code is missing"))?;
        // A code is used up even if the request is invalid otherwise, which prevents guessing.
        let grant = self.grants().take_code(code, time.monotonic);
        let grant = grant.ok_or(invalid("the code was used, has expired, or never was"))?;
        if grant.client_id != client_id {
            return Err(invalid("the code is another client's"));
        }
        if form.get("redirect_uri") != Some(&grant.redirect_uri) {
            return Err(invalid("redirect_uri is not that of the authorization request"));
        }
        let verifier = form.get("code_verifier").filter(|text| (43..=128).contains(&text.len()));
        let verifier = verifier.ok_or(invalid("code_verifier is missing or has a wrong length"))?;
        let hash = digest::digest(&digest::SHA256, verifier.as_bytes());
        if URL_SAFE_NO_PAD.encode(hash) != grant.challenge {
            return Err(invalid("code_verifier does not match the code_challenge"));
        }
        Ok(Grant { person: grant.person, client_id, scope: grant.scope, nonce: grant.nonce })
    }

    fn tokens(&self, grant: &Grant, now: i64) -> Result<Value, OAuthError> {
        let claims = |audience: &str| {
            let mut claims = grant.person.claims(&grant.scope);
            claims.insert("iss".to_owned(), self.issuer().into());
            claims.insert("aud".to_owned(), audience.into());
            claims.insert("iat".to_owned(), now.into());
            claims.insert("exp".to_owned(), now.saturating_add(TOKEN_LIFETIME).into());
            claims
        };
        let mut id = claims(&grant.client_id);
        id.insert("azp".to_owned(), grant.client_id.as_str().into());
        if let Some(nonce) = &grant.nonce {
            id.insert("nonce".to_owned(), nonce.as_str().into());
        }
        let mut access = claims(&self.user_info_url());
        access.insert("client_id".to_owned(), grant.client_id.as_str().into());
        Ok(json!({
            "access_token": self.key.sign("at+jwt", &access.into()).ok_or(NO_KEY)?,
            "token_type": "Bearer",
            "expires_in": TOKEN_LIFETIME,
            "id_token": self.key.sign("JWT", &id.into()).ok_or(NO_KEY)?,
            "scope": grant.scope,
        }))
    }

    /// `GET /userinfo`.
    pub(super) fn user_info(&self, request: &Request, time: Time) -> Response {
        let bearer = request.header("authorization").and_then(|value| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let verifier = Verifier::of_access_tokens(self, self.user_info_url());
        let claims = bearer.and_then(|(_, token)| verifier.verify(token.trim(), time).ok());
        let Some(mut claims) = claims else {
            let mut response = text(401, "an access token of this provider is required");
            let challenge = "Bearer error=\"invalid_token\"".to_owned();
            response.headers.push(("WWW-Authenticate", challenge));
            return response;
        };
        let shown: Map<_, _> =
            CLAIMS.iter().filter_map(|name| claims.remove_entry(*name)).collect();
        json_response(200, &shown.into())
    }

    fn user_info_url(&self) -> String {
        format!("{}/userinfo", self.issuer())
    }
}

/// Returns the client id. Every client id is accepted, and secrets are not checked.
///
/// Source: RFC 6749, section 2.3.1.
pub(super) fn client_id(request: &Request, form: &Parameters) -> Result<String, OAuthError> {
    let invalid = OAuthError("invalid_client", "client_id is missing, or differs in two places");
    let by_basic = match request.header("authorization").map(basic_user) {
        None => None,
        Some(Some(id)) => Some(id),
        Some(None) => return Err(invalid),
    };
    match (by_basic, form.get("client_id")) {
        (Some(id), None) => Ok(id),
        (Some(id), Some(other)) if id == other => Ok(id),
        (None, Some(id)) => Ok(id.to_owned()),
        _ => Err(invalid),
    }
}

fn basic_user(value: &str) -> Option<String> {
    let (scheme, pair) = value.split_once(' ')?;
    let pair =
        STANDARD.decode(pair.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let pair = String::from_utf8(pair).ok()?;
    let (id, _) = pair.split_once(':')?;
    // The id is form-encoded.
    let form = Parameters::parse(&format!("id={id}")).ok()?;
    form.get("id").map(str::to_owned)
}
