//! Tests of the error type.

use super::*;

#[test]
fn error_size_is_bounded() {
    assert!(size_of::<Error>() <= 64, "{}", size_of::<Error>());
}

#[test]
fn control_characters_are_escaped() {
    let error = ServerError {
        attempt: "log in",
        status: 401,
        code: Some("Bad\u{7}Code".into()),
        message: "no\u{1b}[2Jway".into(),
        log_link: None,
        retry_after: None,
        redirect_origin: None,
        ambiguous: false,
        retryable: false,
    };
    assert_eq!(
        Error::from(error).to_string(),
        "the backend refused to log in: no\\u{1b}[2Jway (status 401, Bad\\u{7}Code)"
    );
    let error = Error::decode("the response", "a\u{202e}b\n");
    assert_eq!(error.to_string(), "the response cannot be read: a\\u{202e}b\\u{a}");
}

#[test]
fn long_messages_are_truncated() {
    let error = Error::decode("the response", "x".repeat(10_000));
    assert!(error.to_string().len() < 600);
}
