//! Responses with an error: whether the backend itself sent it, and what it means for the request
//! and for the login.

use std::fmt;
use std::time::Duration;

use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::redirect::is_redirect;
use super::route::Route;
use crate::base_url::origin;
use crate::error::{ServerError, ServerErrorCode};
use crate::http_date;
use crate::transport::Response;
use crate::untrusted_json;

/// Returns the error of a response that is not a success.
///
/// A redirect may come after the request was carried out. A gateway that got no response from the
/// backend does not know whether it was, and an error page does not say so.
pub(crate) fn refusal(route: &Route, response: &Response) -> ServerError {
    let (status, is_page) = (response.status(), is_page(response));
    let may_have_happened = match status {
        301..=303 => true,
        502 | 504 => is_foreign(response),
        // "Not implemented", "unavailable", "network authentication required": nothing was done.
        501 | 503 | 511 => false,
        500.. => is_page,
        _ => false,
    };
    let retryable = match status {
        302 | 303 | 307 | 408 | 429 | 502..=504 => true,
        // The page does not exist: repeating the request does not help.
        404 | 405 | 410 => false,
        400..=499 => is_page,
        500.. => is_page || route.repeatable,
        _ => false,
    };
    let ambiguous = may_have_happened && !route.repeatable;
    ServerError { ambiguous, retryable, ..error(route.attempt, response) }
}

/// The body of an error response. Its fields stay unparsed, because a large value that is not a
/// string is not needed.
#[derive(Default)]
struct ErrorBody {
    error: Option<Box<RawValue>>,
    error_code: Option<Box<RawValue>>,
    link: Option<Box<RawValue>>,
    message: Option<Box<RawValue>>,
    /// Whether the body was parsed to its end.
    is_complete: bool,
}

impl ErrorBody {
    /// Parses a JSON object, whatever its content type. Of a truncated response it returns the
    /// complete fields. `None` if the body is not an object, or has one of these fields twice, so
    /// that its value is unclear. Bytes that are not UTF-8 become U+FFFD, so that the other fields
    /// can be parsed.
    fn parse(response: &Response) -> Option<Self> {
        let text = untrusted_json::repair(response.body()).ok()?;
        let text = String::from_utf8_lossy(&text);
        let mut json = serde_json::Deserializer::from_str(&text);
        let mut body = Self::default();
        match json.deserialize_map(&mut body).and_then(|()| json.end()) {
            Ok(()) => body.is_complete = true,
            Err(error) if response.is_truncated && error.is_eof() => {}
            Err(_) => return None,
        }
        Some(body)
    }
}

impl<'de> Visitor<'de> for &mut ErrorBody {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(name) = fields.next_key::<String>()? {
            let field = match &*name {
                "error" => &mut self.error,
                "error_code" => &mut self.error_code,
                "link" => &mut self.link,
                "message" => &mut self.message,
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if field.replace(fields.next_value()?).is_some() {
                return Err(A::Error::duplicate_field("of an error"));
            }
        }
        Ok(())
    }
}

/// Parses the body of an error response: a JSON object with an `error`, and optionally an
/// `error_code` and a `link`.
///
/// Source: `app_utils.cpp`, `AppUtils::check_for_errors`. It looks at the body before the status,
/// so that it takes a function's result `{"error":…}` for an error. Flowerbase sends its message in
/// `message`.
fn error(attempt: &'static str, response: &Response) -> ServerError {
    let body = ErrorBody::parse(response).unwrap_or_default();
    let text = |value: &Option<Box<RawValue>>| {
        let text = serde_json::from_str::<String>(value.as_ref()?.get()).ok()?;
        Some(text).filter(|text| !text.is_empty())
    };
    let code = text(&body.error_code);
    let words = match code {
        Some(_) => text(&body.error).or_else(|| text(&body.message)),
        None => text(&body.message).or_else(|| text(&body.error)),
    };
    ServerError {
        attempt,
        status: response.status(),
        code: code.as_deref().map(Into::into),
        message: words.unwrap_or_default(),
        log_link: text(&body.link),
        retry_after: retry_after(response),
        redirect_origin: is_redirect(response.status())
            .then(|| origin(response.header("location")?.trim()))
            .flatten(),
        ambiguous: false,
        retryable: false,
    }
}

/// Returns how long to wait before retrying, at most a year: a number of seconds, possibly with a
/// fraction, or a date, which is compared with the response's `Date`.
///
/// Source: RFC 9110, section 10.2.3.
fn retry_after(response: &Response) -> Option<Duration> {
    const YEAR: Duration = Duration::from_secs(366 * 86_400);
    let value = response.header("retry-after")?.trim();
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let pause = if is_number {
        Duration::try_from_secs_f64(value.parse().ok()?).unwrap_or(YEAR)
    } else {
        let (then, now) =
            (http_date::parse(value)?, http_date::parse(response.header("date")?.trim())?);
        Duration::from_secs(then.saturating_sub(now).max(0).unsigned_abs())
    };
    Some(pause.min(YEAR))
}

/// Returns the `Date` of a response, in milliseconds since the epoch.
pub(crate) fn answered_at(response: &Response) -> Option<i64> {
    Some(http_date::parse(response.header("date")?.trim())?.saturating_mul(1000))
}

/// Returns the `Date` of a response that the backend itself sent, and not a proxy.
pub(crate) fn backend_answered_at(response: &Response) -> Option<i64> {
    let is_json = response.header("content-type").is_some_and(|kind| {
        kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
    });
    answered_at(response).filter(|_| is_json && response.is_success())
}

/// Returns `true` if a response rejects the token of the request, so that a new one helps.
///
/// Source: realm-web `Fetcher.ts` checks for `InvalidSession`, realm-core for any 401. A wrong
/// password is a 401 too, with a code of its own.
pub(crate) fn refuses_token(response: &Response) -> bool {
    response.status() == 401
        && matches!(error("", response).code, None | Some(ServerErrorCode::InvalidSession))
}

/// Returns `true` if a response to a request with the refresh token says that this token is no
/// longer valid. On these routes a 401 without a code is not definite, and neither is any response
/// after a redirect.
pub(crate) fn refuses_session(response: &Response) -> bool {
    use ServerErrorCode::{InvalidSession, UserDisabled};
    !response.was_redirected
        && response.status() == 401
        && matches!(error("", response).code, Some(InvalidSession | UserDisabled))
}

/// Returns `true` if the backend itself, and not the target of a redirect, says in the response to
/// [`super::Route::log_out`] that the session no longer exists.
pub(crate) fn knows_no_session(response: &Response) -> bool {
    !response.was_redirected && refuses_token(response) && is_object(response)
}

/// Returns `true` if a response to [`super::Route::refresh`] ends the login: the backend itself
/// rejects the refresh token, and not a proxy or the target of a redirect. `expired` says whether
/// the refresh token has expired.
///
/// Source: Flowerbase returns a JSON 401, with or without a code; App Services `InvalidSession`.
pub(crate) fn ends_login(response: &Response, expired: bool) -> bool {
    if response.was_redirected {
        return false;
    }
    let is_json = is_object(response);
    match (response.status(), error("", response).code) {
        (401, Some(ServerErrorCode::InvalidSession | ServerErrorCode::UserDisabled)) => true,
        (401, None) if is_json => true,
        // From a proxy, or temporary.
        (407 | 408 | 429, _) => false,
        // JSON only: if the clock is wrong, a proxy's page could end a login otherwise.
        (400..=499, _) => expired && is_json,
        _ => false,
    }
}

/// Returns `true` if a response does not follow the protocol: it is a page of a proxy, or of another
/// service at the backend's address.
pub(crate) fn is_foreign(response: &Response) -> bool {
    match response.status() {
        200..=299 => is_page(response),
        404 | 502 | 503 | 504 => !is_object(response),
        _ => false,
    }
}

/// Says what a response to a request without a token is, if no App Services backend would send it:
/// "no such route" or "not like this" without words of the protocol.
pub(crate) fn not_a_backend(response: &Response) -> Option<String> {
    let refusal = error("", response);
    let is_page = is_page(response);
    let is_known = refusal.code.is_some() || is_unknown_app(&refusal);
    let is_foreign = match response.status() {
        404 | 405 | 410 | 501 => !is_known,
        407 | 408 | 429 => false,
        400..=499 => !is_known && refusal.message.is_empty() && is_object(response),
        _ => false,
    };
    let body = match () {
        () if is_page => "a web page",
        () if is_object(response) => "JSON that is no App Services error",
        () if response.body().is_empty() => "no body",
        () => "a body that is no App Services error",
    };
    is_foreign.then(|| format!("it returned status {} with {body}", response.status()))
}

/// Returns `true` if a response is a web page: it begins like one, or its content type is HTML and
/// its body is not JSON.
fn is_page(response: &Response) -> bool {
    let body = untrusted_json::without_mark(response.body()).trim_ascii();
    let says_so = || {
        response.header("content-type").is_some_and(|kind| {
            kind.trim_start().get(..9).is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
        })
    };
    let is_json = || match response.is_truncated {
        true => body.starts_with(b"{"),
        false => serde_json::from_slice::<IgnoredAny>(body).is_ok(),
    };
    body.starts_with(b"<") || !body.is_empty() && says_so() && !is_json()
}

/// Returns `true` if the body is a complete error object, so that its code, if any, is known.
fn is_object(response: &Response) -> bool {
    ErrorBody::parse(response).is_some_and(|body| body.is_complete)
}

/// Returns `true` if the backend says that the app does not exist.
pub(crate) fn is_unknown_app(error: &ServerError) -> bool {
    error.status == 404 && error.message.starts_with("cannot find app")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_of_all_backends_are_parsed() {
        let read = |body: &str| {
            let error = error("log in", &Response::new(401, body));
            (error.code.map(|code| code.as_str().to_owned()), error.message)
        };
        let code = |code: &str, message: &str| (Some(code.to_owned()), message.to_owned());
        let plain = |message: &str| (None, message.to_owned());
        assert_eq!(
            read(r#"{"error":"unauthorized","error_code":"InvalidPassword","link":"l"}"#),
            code("InvalidPassword", "unauthorized")
        );
        assert_eq!(
            read(
                r#"{"message":"Unauthorized","error":"unauthorized","errorCode":"InvalidSession","error_code":"InvalidSession"}"#
            ),
            code("InvalidSession", "unauthorized")
        );
        assert_eq!(
            read(
                r#"{"statusCode":400,"code":"FST_ERR_VALIDATION","error":"Bad Request","message":"body/password must NOT"}"#
            ),
            plain("body/password must NOT")
        );
        for odd in [
            "",
            "<html>no</html>",
            "[1]",
            r#"["no","InvalidSession"]"#,
            r#"{"error":{"a":1},"error_code":5}"#,
            "null",
        ] {
            assert_eq!(read(odd), plain(""), "{odd}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_date() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (value, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("0120", Some(120)),
            ("120.0", Some(120)),
            ("soon", None),
            ("-5", None),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("inf", None),
            ("1e3", None),
        ] {
            let response = Response::new(429, "").with_header("Date", date);
            let response = response.with_header("Retry-After", value);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(error("x", &response).retry_after, expected, "{value}");
        }
        let after = |value: &str| {
            error("x", &Response::new(429, "").with_header("Retry-After", value)).retry_after
        };
        assert_eq!(after("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(after(&"9".repeat(40)), Some(Duration::from_secs(366 * 86_400)));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT"), None, "against nothing");
    }

    #[test]
    fn truncated_errors_keep_their_first_fields() {
        let long = "x".repeat(1000);
        let read = |text: &str, is_truncated| {
            let mut response = Response::new(401, text);
            response.is_truncated = is_truncated;
            let code = error("x", &response).code.map(|code| code.as_str().to_owned());
            (code, is_object(&response))
        };
        let cut = format!(r#"{{"error":"no","error_code":"InvalidSession","stack":"{long}"#);
        assert_eq!(read(&cut, true), (Some("InvalidSession".to_owned()), false));
        assert_eq!(read(&cut, false), (None, false));
        assert_eq!(read(&format!("{cut}\"}}"), true), (Some("InvalidSession".to_owned()), true));
        for text in [
            format!(r#"{{"stack":"{long}"#),
            format!(r#"{{"error_code":"{long}"#),
            format!(r#"{{"error_code":"a","error_code":"b","stack":"{long}"#),
            format!(r#"{{"error_code":"a" "{long}"#),
            format!(r#"["error_code","a","{long}"#),
            format!("<html>{long}"),
        ] {
            assert_eq!(read(&text, true), (None, false), "{text}");
        }
    }

    #[test]
    fn byte_order_mark_and_surrogates_hide_nothing() {
        let text =
            "\u{feff} {\"\\ud83d\":1,\"error\":\"a\\ud83d\",\"error_code\":\"InvalidSession\"}";
        let response = Response::new(401, text);
        let error = error("x", &response);
        assert_eq!(
            (error.code, &*error.message),
            (Some(ServerErrorCode::InvalidSession), "a\u{fffd}")
        );
        assert!(
            refuses_session(&response) && ends_login(&response, false) && !is_foreign(&response)
        );
    }
}
