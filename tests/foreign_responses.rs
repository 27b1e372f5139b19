//! Responses for another user, as a shared cache returns them: the result is `Error::Decode`, and
//! nothing is stored.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use keyfob::{Credentials, Error, Event, Result, User};
use serde_json::{Value, json};
use support::*;

/// An access token of a user, as a backend issues it at [`START`].
fn access_of(user: &str, mark: &str) -> String {
    jwt_with(mark, json!({"iat": START, "exp": START + 1800, "sub": user}))
}

fn refresh_of(user: &str, mark: &str) -> String {
    jwt_with(mark, json!({"iat": START, "exp": START + 60 * 86400, "sub": user}))
}

#[track_caller]
fn assert_foreign<T>(outcome: Result<T>, what: &str) {
    let error = outcome.map(drop).unwrap_err();
    assert!(matches!(error, Error::Decode(_)) && !error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains(&format!("the {what} response")), "{error}");
    assert!(error.to_string().contains("it belongs to another user"), "{error}");
}

/// The tokens that a call would use and the profile, as they are stored.
fn stored(user: &User) -> (String, Value) {
    let profile = json!(user.profile().unwrap().data());
    (user.access_token().unwrap().expose().to_owned(), profile)
}

/// Each log-in response that contradicts itself, and each profile of another user.
#[test]
fn foreign_login_stores_nothing() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let session = builder(&script, &clock).open().unwrap();
    script.reply(LOGOUT, 204, Value::Null).reply(PROFILE, 200, profile_body("ada"));
    for (access, refresh, owner) in
        [("eve", "ada", "ada"), ("ada", "eve", "ada"), ("ada", "ada", "eve")]
    {
        let body = login_body(owner, &access_of(access, "a"), &refresh_of(refresh, "r"));
        script.reply(LOGIN, 200, body);
        assert_foreign(session.log_in(&password()), "log-in");
    }
    assert_eq!(script.count(LOGOUT), 0, "a session of another user is left alone");
    script.reply(LOGIN, 200, login_body("ada", &access_of("ada", "a"), &refresh_of("ada", "r")));
    script.reply(PROFILE, 200, profile_body("eve"));
    assert_foreign(session.log_in(&password()), "profile");
    assert_eq!(script.count(LOGOUT), 1, "nothing was stored, so the new session is revoked");
    assert_eq!((session.users().unwrap(), session.current_user().unwrap()), (vec![], None));
}

#[test]
fn foreign_refresh_keeps_tokens() {
    let (script, clock, session, user) = logged_in();
    let before = stored(&user);
    let mut events = session.events().unwrap();
    for body in [
        json!({"access_token": access_of("eve", "a2")}),
        json!({"access_token": access_of("ada", "a2"), "refresh_token": refresh_of("eve", "r2")}),
        json!({"access_token": access_of("eve", "a2"), "refresh_token": refresh_of("ada", "r2")}),
        json!({"access_token": access("a2"), "user_id": "eve"}),
    ] {
        script.reply(REFRESH, 201, body);
        assert_foreign(user.refresh_access_token(), "refresh");
        assert_foreign(user.refresh_custom_data::<Value>(), "refresh");
        assert_eq!(stored(&user), before);
    }
    // A token that is due serves on; one that has expired is not replaced by another user's.
    script.reply(CALL, 200, json!(7));
    clock.advance(Duration::from_secs(1700));
    assert_eq!(user.functions().call::<i64>("f", ()).unwrap(), 7);
    clock.advance(Duration::from_secs(200));
    assert_foreign(user.functions().call::<i64>("f", ()), "refresh");
    assert_eq!(script.count(CALL), 1);
    assert_eq!(events.try_next(), None);
    // The refresh token was not replaced either.
    script.reply(REFRESH, 201, json!({"access_token": access_of("ada", "a3"), "user_id": "ada"}));
    user.refresh_access_token().unwrap();
    assert_eq!(script.sent().last().unwrap().bearer, Some(refresh("r1")));
}

#[test]
fn foreign_profile_keeps_profile() {
    let (script, _, _, user) = logged_in();
    let before = stored(&user);
    script.reply(PROFILE, 200, profile_body("eve"));
    assert_foreign(user.refresh_profile(), "profile");
    assert_eq!(stored(&user), before);
    // A response need not name its user.
    let mut body = profile_body("ada");
    for id in [json!("ada"), Value::Null] {
        body["user_id"] = id;
        script.reply(PROFILE, 200, body.clone());
        user.refresh_profile().unwrap();
    }
}

#[test]
fn foreign_link_keeps_user() {
    let (script, _, session, user) = logged_in();
    let before = stored(&user);
    let mut events = session.events().unwrap();
    let link = "POST /auth/providers/api-key/login?link=true";
    for owner in [Some("ada"), None] {
        let mut body = json!({"access_token": access_of("eve", "a2")});
        if let Some(owner) = owner {
            body["user_id"] = owner.into();
        }
        script.reply(link, 200, body);
        assert_foreign(user.link(&Credentials::api_key("k")), "link");
    }
    script.reply(link, 200, json!({"access_token": access_of("ada", "a2"), "user_id": "ada"}));
    script.reply(PROFILE, 200, profile_body("eve"));
    assert_foreign(user.link(&Credentials::api_key("k")), "profile");
    assert_eq!(stored(&user), before);
    assert_eq!(events.next_timeout(Duration::ZERO), None::<Event>);
}
