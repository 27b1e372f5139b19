//! Linking accounts, and deleting users.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use keyfob::transport::Response;
use keyfob::{
    Credentials, Error, Event, LinkRefusal, LocalState, Provider, RemovalReason, Session,
    TransportErrorKind, UserState,
};
use serde_json::{Value, json};
use support::store::FailingStore;
use support::*;

const LINK: &str = "POST /auth/providers/local-userpass/login?link=true";
const DELETE: &str = "DELETE /auth/delete";

/// An anonymous user at [`START`].
fn anonymous() -> (Script, ManualClock, keyfob::Session, keyfob::User) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.reply(ANONYMOUS, 200, login_body("ada", &access("a1"), &refresh("r1")));
    script.reply(PROFILE, 200, anonymous_profile_body("ada"));
    script.reply(LOGOUT, 204, Value::Null);
    let session = builder(&script, &clock).open().unwrap();
    let user = session.log_in(&Credentials::anonymous()).unwrap();
    script.clear();
    (script, clock, session, user)
}

fn linked_profile() -> Value {
    json!({
        "identities": [
            {"id": "x", "provider_type": "anon-user"},
            {"id": "y", "provider_type": "local-userpass"},
        ],
        "data": {"email": "ada@example.org"},
    })
}

#[test]
fn link_refetches_profile_and_emits_once() {
    let (script, _, session, user) = anonymous();
    let mut events = session.events().unwrap();
    script.reply(LINK, 200, json!({"access_token": access("a2"), "user_id": "ada"}));
    script.reply(PROFILE, 200, linked_profile());
    user.link(&password()).unwrap();
    assert_eq!(script.routes(), [LINK, PROFILE]);
    assert_eq!(script.sent()[0].bearer, Some(access("a1")));
    assert_eq!(script.sent()[1].bearer, Some(access("a2")));
    let providers: Vec<_> =
        user.identities().unwrap().into_iter().map(|identity| identity.provider).collect();
    assert_eq!(providers, [Provider::Anonymous, Provider::EmailPassword]);
    assert_eq!(user.profile().unwrap().email(), Some("ada@example.org"));
    assert_eq!(user.access_token().unwrap().expose(), access("a2"));
    user.log_out().unwrap();
    let provider = Provider::EmailPassword;
    assert_eq!(events.next(), Some(Event::IdentityLinked { user: user.id().clone(), provider }));
    assert!(matches!(events.next(), Some(Event::LoggedOut { .. })), "one event, and no other");
    assert_eq!(script.sent()[2].bearer, Some(refresh("r1")), "the refresh token stays");
}

#[test]
fn linked_anonymous_user_survives_logout() {
    let (script, _, session, user) = anonymous();
    script.reply(LINK, 200, json!({"access_token": access("a2")}));
    script.reply(PROFILE, 200, linked_profile());
    user.link(&password()).unwrap();
    script.reply(ANONYMOUS, 200, login_body("eve", &access("b1"), &refresh("s1")));
    script.reply(PROFILE, 200, anonymous_profile_body("eve"));
    assert_ne!(session.log_in(&Credentials::anonymous()).unwrap(), user);
    user.log_out().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
}

#[test]
fn link_makes_user_current() {
    let (script, _, session, user) = anonymous();
    script.accept_login("bob", &access("b1"), &refresh("s1"));
    session.log_in(&password()).unwrap();
    script.reply(LINK, 200, json!({"access_token": access("a2")}));
    script.reply(PROFILE, 200, linked_profile());
    user.link(&password()).unwrap();
    assert_eq!(session.current_user().unwrap(), Some(user));
}

#[test]
fn anonymous_credentials_cannot_be_linked() {
    let (script, _, _, user) = anonymous();
    for credentials in [Credentials::anonymous(), Credentials::new_anonymous()] {
        let error = user.link(&credentials).unwrap_err();
        assert!(matches!(error, Error::LocalState(LocalState::CannotLinkAnonymous)));
    }
    assert_eq!(script.routes(), Vec::<String>::new());
}

/// No refresh is attempted, and the other refusals are distinguished from it.
#[test]
fn link_with_wrong_password_fails_at_once() {
    let (script, _, _, user) = anonymous();
    for (status, body, refusal) in [
        (401, error_body("InvalidPassword", "unauthorized"), Some(LinkRefusal::RegisterFirst)),
        (
            409,
            error_body("IdentityAlreadyInUse", "in use"),
            Some(LinkRefusal::IdentityAlreadyInUse),
        ),
        (400, json!({"error": "invalid user link request"}), Some(LinkRefusal::NotLinkable)),
        (401, error_body("AuthError", "no"), None),
    ] {
        script.clear();
        script.reply(LINK, status, body);
        let error = user.link(&password()).unwrap_err();
        assert_eq!(error.link_refusal(), refusal, "{error}");
        assert_eq!(script.routes(), [LINK]);
        assert_eq!(user.access_token().unwrap().expose(), access("a1"));
    }
}

#[test]
fn link_401_costs_one_refresh() {
    let (script, _, _, user) = anonymous();
    script.reply(LINK, 401, json!({"error": "unauthorized"}));
    script.reply(REFRESH, 201, json!({"access_token": access("a2")}));
    assert_eq!(user.link(&password()).unwrap_err().status(), Some(401));
    assert_eq!(script.routes(), [LINK, REFRESH, LINK]);
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
}

#[test]
fn login_instead_of_link_is_detected() {
    let (script, _, session, user) = anonymous();
    script.reply(LINK, 200, login_body("somebody-else", &access("b1"), &refresh("s1")));
    let error = user.link(&password()).unwrap_err();
    assert!(error.to_string().contains("does not link"), "{error}");
    assert_eq!(script.routes(), [LINK, LOGOUT]);
    assert_eq!(script.sent()[1].bearer, Some(refresh("s1")));
    assert_eq!(session.users().unwrap(), [user]);
}

#[test]
fn logout_during_link_wins() {
    let (script, _, _, user) = anonymous();
    script.reply(LINK, 200, json!({"access_token": access("a2")}));
    let during = user.clone();
    script.on(PROFILE, move |_| {
        during.log_out().unwrap();
        Ok(json_answer(200, &linked_profile()))
    });
    assert!(matches!(user.link(&password()).unwrap_err(), Error::LocalState(_)));
    assert_eq!(user.state().unwrap(), UserState::Removed);
}

#[test]
fn deletion_uses_own_token_and_removes_user() {
    let (script, _, session, ada) = anonymous();
    script.accept_login("bob", &access("b1"), &refresh("s1"));
    let bob = session.log_in(&password()).unwrap();
    let mut events = session.events().unwrap();
    script.clear();
    script.reply(DELETE, 204, Value::Null);
    session.delete_user(&ada).unwrap();
    assert_eq!(script.routes(), [DELETE]);
    assert_eq!(script.sent()[0].bearer, Some(access("a1")));
    assert_eq!(ada.state().unwrap(), UserState::Removed);
    assert_eq!(session.current_user().unwrap(), Some(bob.clone()));
    session.delete_user(&bob).unwrap();
    assert_eq!(session.current_user().unwrap(), None);
    let reason = RemovalReason::Deleted;
    assert_eq!(events.next(), Some(Event::Removed { user: ada.id().clone(), reason }));
    assert_eq!(events.next(), Some(Event::Removed { user: bob.id().clone(), reason }));
}

#[test]
fn failed_deletion_keeps_user() {
    let (script, _, session, user) = logged_in();
    script.reply(DELETE, 500, Value::Null);
    session.delete_user(&user).unwrap_err();
    script.fail(DELETE, TransportErrorKind::Interrupted);
    assert!(session.delete_user(&user).unwrap_err().is_ambiguous());
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    user.log_out().unwrap();
    let error = session.delete_user(&user).unwrap_err();
    assert!(matches!(error, Error::LocalState(LocalState::NotLoggedIn(_))), "{error}");
}

#[test]
fn concurrent_profile_fetch_keeps_link() {
    let (script, _, _, user) = anonymous();
    script.reply(LINK, 200, json!({"access_token": access("a2")}));
    let (during, other) = (user.clone(), script.clone());
    script.on(PROFILE, move |_| {
        other.reply(PROFILE, 200, linked_profile());
        during.link(&password()).unwrap();
        Ok(json_answer(200, &anonymous_profile_body("ada")))
    });
    user.refresh_profile().unwrap();
    assert_eq!(user.identities().unwrap().len(), 2);
    user.log_out().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
}

#[test]
fn linked_user_without_profile_is_not_anonymous() {
    let (script, _, session, user) = anonymous();
    script.reply(LINK, 200, json!({"access_token": access("a2"), "user_id": "ada"}));
    script.fail(PROFILE, TransportErrorKind::Timeout);
    let error = user.link(&password()).unwrap_err();
    assert!(error.is_ambiguous() && error.is_retryable(), "{error:?}");
    script.reply(ANONYMOUS, 200, login_body("eve", &access("e1"), &refresh("e1")));
    script.reply(PROFILE, 200, anonymous_profile_body("eve"));
    assert_eq!(session.log_in(&Credentials::anonymous()).unwrap().id().as_str(), "eve");
    user.log_out().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedOut, "a log-out keeps it");
}

#[test]
fn concurrent_profile_fetch_keeps_user_not_anonymous() {
    let (script, _, _session, user) = anonymous();
    let (during, other) = (user.clone(), script.clone());
    script.on(PROFILE, move |_| {
        other.reply(LINK, 200, json!({"access_token": access("a2"), "user_id": "ada"}));
        other.fail(PROFILE, TransportErrorKind::Timeout);
        during.link(&password()).unwrap_err();
        // From before the link, and not the same as what is stored.
        let mut body = anonymous_profile_body("ada");
        body["data"] = json!({"name": "Ada"});
        Ok(json_answer(200, &body))
    });
    // It is fetched once more, in vain.
    user.refresh_profile().unwrap_err();
    user.log_out().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedOut, "a log-out keeps it");
}

/// The error says that the backend has carried out the link.
#[test]
fn failure_after_link_is_ambiguous() {
    let (script, _, session, user) = anonymous();
    let ending = session.clone();
    script.reply(LINK, 200, json!({"access_token": access("a2"), "user_id": "ada"}));
    script.reply(PROFILE, 200, json!({"identities": 7}));
    let error = user.link(&password()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the profile response, after the backend had carried out the request, cannot be read: a field is \
         missing or has the wrong type"
    );
    script.on(LINK, move |_| {
        ending.shut_down();
        Ok(json_answer(200, &json!({"access_token": access("a3"), "user_id": "ada"})))
    });
    let error = user.link(&password()).unwrap_err();
    assert!(matches!(error, Error::ShutDown { ambiguous: true }), "{error:?}");
}

#[test]
fn unstorable_profile_keeps_link() {
    let (dir, script, clock) = (Dir::new(), Script::new(), ManualClock::at(START));
    let session = Session::builder(APP, URL).transport(script.clone()).clock(clock);
    let session = session.data_dir(dir.path()).open().unwrap();
    script.reply(ANONYMOUS, 200, login_body("anon", &access("a1"), &refresh("r1")));
    script.reply(PROFILE, 200, anonymous_profile_body("anon"));
    script.reply(LOGOUT, 204, json!(null));
    let user = session.log_in(&Credentials::anonymous()).unwrap();
    let link = "POST /auth/providers/api-key/login?link=true";
    script.reply(link, 200, json!({"access_token": access("a2")}));
    // It can be read, and not once it is part of a record.
    let deep = format!("{}1{}", "[".repeat(124), "]".repeat(124));
    let body = format!(r#"{{"identities":[],"data":{{"a":{deep}}}}}"#);
    script.on(PROFILE, move |_| Ok(Response::new(200, body.clone())));
    assert!(user.link(&Credentials::api_key("k")).unwrap_err().is_ambiguous());
    user.log_out().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedOut, "and not removed");
}

#[test]
fn unstored_deletion_or_link_is_ambiguous() {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), FailingStore::default());
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let ada = session.log_in(&password()).unwrap();
    let busy = |status, body: Value| {
        let store = store.clone();
        move |_: &Sent| {
            store.set_busy(true);
            Ok(json_answer(status, &body))
        }
    };
    let link = format!("{LOGIN}?link=true");
    script.on(&link, busy(200, json!({"access_token": access("a2"), "user_id": "ada"})));
    let linking = ada.link(&password()).unwrap_err();
    store.set_busy(false);
    script.on("DELETE /auth/delete", busy(204, Value::Null));
    let deleting = session.delete_user(&ada).unwrap_err();
    store.set_busy(false);
    for error in [linking, deleting] {
        assert!(matches!(error, Error::Store(_)) && error.is_ambiguous(), "{error:?}");
        assert!(
            error.to_string().contains("the backend had already carried out the request"),
            "{error}"
        );
    }
    assert_eq!(ada.state().unwrap(), UserState::LoggedIn, "nothing has changed here");
    let ended = session.clone();
    script.on("DELETE /auth/delete", move |_| {
        ended.shut_down();
        store.set_busy(true);
        Ok(Response::new(204, ""))
    });
    let error = session.delete_user(&ada).unwrap_err();
    assert!(matches!(error, Error::ShutDown { ambiguous: true }), "{error:?}");
}
