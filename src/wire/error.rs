//! What an answer means that is no success: whether the backend itself says so, and what follows
//! from it for the request and for the login.

use std::fmt;
use std::time::Duration;

use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::date;
use super::redirect::is_redirect;
use super::route::Route;
use crate::base_url::origin;
use crate::error::{ServerError, ServerErrorCode};
use crate::transport::Response;
use crate::untrusted_json;

/// Reads an answer to a route that is no success.
///
/// A redirect to "see other" may come after the request was carried out. A gateway that had no
/// answer from the backend does not say whether it was; nor does an error page.
pub(crate) fn refusal(route: &Route, answer: &Response) -> ServerError {
    let (status, is_page) = (answer.status(), is_page(answer));
    let is_open = match status {
        301..=303 => true,
        502 | 504 => is_foreign(answer),
        // "Not here" and "not now".
        501 | 503 | 511 => false,
        500.. => is_page,
        _ => false,
    };
    let retryable = match status {
        302 | 303 | 307 | 408 | 429 | 502..=504 => true,
        // There is no such page: it is not the way that is wrong.
        404 | 405 | 410 => false,
        400..=499 => is_page,
        500.. => is_page || route.repeatable,
        _ => false,
    };
    let ambiguous = is_open && !route.repeatable;
    ServerError { ambiguous, retryable, ..error(route.attempt, answer) }
}

/// The body of an answer that is no success. Its fields are raw, so that a large value that is no
/// text costs nothing.
#[derive(Default)]
struct ErrorBody {
    error: Option<Box<RawValue>>,
    error_code: Option<Box<RawValue>>,
    link: Option<Box<RawValue>>,
    message: Option<Box<RawValue>>,
    /// Whether it was read to its end.
    is_whole: bool,
}

impl ErrorBody {
    /// Parses a JSON object, whatever its content type calls it. Of a truncated answer it returns
    /// the fields before the cut. `None` if it is no object, or if it has one of these fields
    /// twice, so that nobody knows which one counts. Bytes that are not UTF-8 are U+FFFD, so that
    /// they do not hide the code beside them.
    fn parse(answer: &Response) -> Option<Self> {
        let text = untrusted_json::repair(answer.body()).ok()?;
        let text = String::from_utf8_lossy(&text);
        let mut json = serde_json::Deserializer::from_str(&text);
        let mut body = Self::default();
        match json.deserialize_map(&mut body).and_then(|()| json.end()) {
            Ok(()) => body.is_whole = true,
            Err(error) if answer.is_truncated && error.is_eof() => {}
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

/// Reads the body of an answer that is no success: a JSON object with an `error` and perhaps an
/// `error_code` and a `link`.
///
/// Source: `app_utils.cpp`, `AppUtils::check_for_errors`; its order, body before status, makes an
/// error of a function that answers `{"error":…}`. Flowerbase puts its words into `message`.
fn error(attempt: &'static str, answer: &Response) -> ServerError {
    let body = ErrorBody::parse(answer).unwrap_or_default();
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
        status: answer.status(),
        code: code.as_deref().map(Into::into),
        message: words.unwrap_or_default(),
        log_link: text(&body.link),
        retry_after: retry_after(answer),
        sends_to: is_redirect(answer.status())
            .then(|| origin(answer.header("location")?.trim()))
            .flatten(),
        ambiguous: false,
        retryable: false,
    }
}

/// Reads how long the backend asks to be left alone: seconds, perhaps with a fraction, or a date to
/// be held against the answer's own. At most a year, so that it can be added to any time.
///
/// Source: RFC 9110, section 10.2.3.
fn retry_after(answer: &Response) -> Option<Duration> {
    const YEAR: Duration = Duration::from_secs(366 * 86_400);
    let value = answer.header("retry-after")?.trim();
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let pause = if is_number {
        Duration::try_from_secs_f64(value.parse().ok()?).unwrap_or(YEAR)
    } else {
        let (then, now) = (date::parse(value)?, date::parse(answer.header("date")?.trim())?);
        Duration::from_secs(then.saturating_sub(now).max(0).unsigned_abs())
    };
    Some(pause.min(YEAR))
}

/// Returns an answer's date, in milliseconds since the epoch.
pub(crate) fn answered_at(answer: &Response) -> Option<i64> {
    Some(date::parse(answer.header("date")?.trim())?.saturating_mul(1000))
}

/// Returns the date of an answer that is surely the backend's own, and not of a page on the way.
pub(crate) fn backend_answered_at(answer: &Response) -> Option<i64> {
    let is_json = answer.header("content-type").is_some_and(|kind| {
        kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
    });
    answered_at(answer).filter(|_| is_json && (200..300).contains(&answer.status()))
}

/// Tells whether an answer refuses the token that came with the request, so that a new one helps.
///
/// Source: realm-web `Fetcher.ts` asks for `InvalidSession`, realm-core for any 401. A wrong
/// password is a 401 as well, and has a code that says so.
pub(crate) fn refuses_token(answer: &Response) -> bool {
    answer.status() == 401
        && matches!(error("", answer).code, None | Some(ServerErrorCode::InvalidSession))
}

/// Tells whether an answer to a request that carried the refresh token says that this token is
/// over. Only a code says so: a 401 without one is no definite answer on these routes. Nor is any
/// answer after a redirect.
pub(crate) fn refuses_session(answer: &Response) -> bool {
    use ServerErrorCode::{InvalidSession, UserDisabled};
    !answer.was_redirected
        && answer.status() == 401
        && matches!(error("", answer).code, Some(InvalidSession | UserDisabled))
}

/// Tells whether an answer to [`super::Route::log_out`] says that there is no such session any more:
/// the backend itself, in its own words, and not whoever a redirect led to.
pub(crate) fn knows_no_session(answer: &Response) -> bool {
    !answer.was_redirected && refuses_token(answer) && is_object(answer)
}

/// Tells whether an answer to [`super::Route::refresh`] ends the login for good: the backend itself
/// says so, and neither a proxy on the way nor whoever a redirect led to. `expired` says whether
/// the refresh token's own time is over.
///
/// Source: Flowerbase answers a JSON 401, with or without code; App Services `InvalidSession`.
pub(crate) fn ends_login(answer: &Response, expired: bool) -> bool {
    if answer.was_redirected {
        return false;
    }
    let is_json = is_object(answer);
    match (answer.status(), error("", answer).code) {
        (401, Some(ServerErrorCode::InvalidSession | ServerErrorCode::UserDisabled)) => true,
        (401, None) if is_json => true,
        // A proxy's own, and "later".
        (407 | 408 | 429, _) => false,
        // With a clock that is wrong, anything on the way could end a login otherwise.
        (400..=499, _) => expired && is_json,
        _ => false,
    }
}

/// Tells whether an answer is not the protocol's: a page of whatever stands where the backend was,
/// or in front of it.
pub(crate) fn is_foreign(answer: &Response) -> bool {
    match answer.status() {
        200..=299 => is_page(answer),
        404 | 502 | 503 | 504 => !is_object(answer),
        _ => false,
    }
}

/// Says what a response to a request without a token is, if no App Services backend would send it:
/// "no such route" or "not like this" without words of the protocol.
pub(crate) fn not_a_backend(answer: &Response) -> Option<String> {
    let refusal = error("", answer);
    let is_page = is_page(answer);
    let is_known = refusal.code.is_some() || is_unknown_app(&refusal);
    let is_foreign = match answer.status() {
        404 | 405 | 410 | 501 => !is_known,
        407 | 408 | 429 => false,
        400..=499 => !is_known && refusal.message.is_empty() && is_object(answer),
        _ => false,
    };
    let body = match () {
        () if is_page => "a web page",
        () if is_object(answer) => "JSON that is no App Services error",
        () if answer.body().is_empty() => "no body",
        () => "a body that is no App Services error",
    };
    is_foreign.then(|| format!("it returned status {} with {body}", answer.status()))
}

/// Tells whether an answer is a web page: it begins like one, or it says so and is no JSON.
fn is_page(answer: &Response) -> bool {
    let body = untrusted_json::without_mark(answer.body()).trim_ascii();
    let says_so = || {
        answer.header("content-type").is_some_and(|kind| {
            kind.trim_start().get(..9).is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
        })
    };
    let is_json = || match answer.is_truncated {
        true => body.starts_with(b"{"),
        false => serde_json::from_slice::<IgnoredAny>(body).is_ok(),
    };
    body.starts_with(b"<") || !body.is_empty() && says_so() && !is_json()
}

/// Tells whether an answer is an object whose code, if it has one, can be read.
fn is_object(answer: &Response) -> bool {
    ErrorBody::parse(answer).is_some_and(|body| body.is_whole)
}

/// Tells whether the backend says that it has no such app.
pub(crate) fn is_unknown_app(error: &ServerError) -> bool {
    error.status == 404 && error.message.starts_with("cannot find app")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_of_every_backend_are_read() {
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
    fn retry_after_is_seconds_or_a_date() {
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
            let answer = Response::new(429, "").with_header("Date", date);
            let answer = answer.with_header("Retry-After", value);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(error("x", &answer).retry_after, expected, "{value}");
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
            let mut answer = Response::new(401, text);
            answer.is_truncated = is_truncated;
            let code = error("x", &answer).code.map(|code| code.as_str().to_owned());
            (code, is_object(&answer))
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
    fn marks_and_unpaired_surrogates_hide_nothing() {
        let text =
            "\u{feff} {\"\\ud83d\":1,\"error\":\"a\\ud83d\",\"error_code\":\"InvalidSession\"}";
        let answer = Response::new(401, text);
        let error = error("x", &answer);
        assert_eq!(
            (error.code, &*error.message),
            (Some(ServerErrorCode::InvalidSession), "a\u{fffd}")
        );
        assert!(refuses_session(&answer) && ends_login(&answer, false) && !is_foreign(&answer));
    }
}
