//! The device flow.
//!
//! Source: RFC 8628, sections 3.1 to 3.3.

use serde_json::json;

use super::authorize::{has_openid, is_kept, is_same_origin};
use super::grants::{DEVICE_LIFETIME, DeviceState};
use super::person::Person;
use super::token::client_id;
use super::{OAuthError, TestProvider, body_form, json_response, oauth_error, page, query};
use crate::form;
use crate::server::clock::Time;
use crate::server::http::{Request, Response};

/// The polling interval for programs, in seconds.
const INTERVAL: u64 = 1;

impl TestProvider {
    /// `POST /device_authorization`: issues a device code and a user code.
    pub(super) fn device_authorization(&self, request: &Request, time: Time) -> Response {
        let begun = body_form(request).and_then(|form| {
            let client_id = client_id(request, &form)?;
            let scope = form.get("scope").unwrap_or_default();
            if !is_kept(&client_id) || !is_kept(scope) || !has_openid(scope) {
                return Err(OAuthError("invalid_scope", "the scope must have `openid`"));
            }
            let begun = self.grants().add_device(client_id, scope.to_owned(), time.monotonic);
            begun.map_err(|_| OAuthError("server_error", "no code could be made"))
        });
        let (device_code, user_code) = match begun {
            Ok(codes) => codes,
            Err(error) => return oauth_error(400, &error),
        };
        let page = format!("{}/device", self.issuer());
        let complete = format!("{page}?{}", form::encode([("user_code", user_code.as_str())]));
        json_response(
            200,
            &json!({
                "device_code": device_code,
                "user_code": user_code,
                "verification_uri": page,
                "verification_uri_complete": complete,
                "expires_in": DEVICE_LIFETIME.as_secs(),
                "interval": INTERVAL,
            }),
        )
    }

    /// `GET /device`: the page on which a person enters the user code.
    pub(super) fn device_page(&self, request: &Request) -> Response {
        match query(request) {
            Ok(query) => {
                page::device(query.get("user_code").unwrap_or_default(), &self.grants().names())
            }
            Err(error) => page::failure(error.1),
        }
    }

    /// `POST /device`: the user code, and the person's choice.
    pub(super) fn device_sign_in(&self, request: &Request, time: Time) -> Response {
        if !is_same_origin(request) {
            return page::failure("the form was sent by another page");
        }
        let form = match body_form(request) {
            Ok(form) => form,
            Err(error) => return page::failure(error.1),
        };
        let state = match (form.get("refuse"), form.get("name").and_then(Person::new)) {
            (Some(_), _) => DeviceState::Refused,
            (None, Some(person)) => DeviceState::Approved(person),
            (None, None) => return page::failure(page::BAD_NAME),
        };
        let mut grants = self.grants();
        let code = form.get("user_code").unwrap_or_default();
        let Some(device) = grants.pending_device(code, time.monotonic) else {
            return page::failure("no sign-in waits for this code: it may have expired");
        };
        device.state = state.clone();
        match state {
            DeviceState::Approved(person) => {
                grants.remember(&person);
                page::done("You are signed in", "Return to your device.")
            }
            _ => page::done("You refused", "The program on your device is not signed in."),
        }
    }
}
