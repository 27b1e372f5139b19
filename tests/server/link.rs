//! Linking identities.

use std::time::Duration;

use keyfob::server::{AuthFunctionAnswer, Confirmation, Server, ServerBuilder};
use serde_json::json;

use crate::client::{Client, LogIn, ManualClock, providers};

fn builder() -> ServerBuilder {
    Server::builder().auth_function(|payload| match payload["name"].as_str() {
        Some("unauthorized") => Err("unauthorized".into()),
        Some(name) => Ok(AuthFunctionAnswer::new(name).data("name", name)),
        None => Err("who are you?".into()),
    })
}

fn start() -> (Server, Client) {
    let server = builder().start().unwrap();
    let client = Client::new(&server);
    (server, client)
}

fn ada() -> serde_json::Value {
    json!({"username": "ada@example.org", "password": "hunter22"})
}

#[test]
fn linked_user_logs_in_with_new_identity() {
    let (_server, client) = start();
    let user = client.anonymous();
    client.register("ada@example.org", "hunter22");
    let answer = client.link(&user.access, "local-userpass", &ada());
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["user_id"], user.user_id.as_str());
    assert_eq!(body["device_id"].as_str().unwrap().len(), 24);
    assert!(body.get("refresh_token").is_none());
    let access = body["access_token"].as_str().unwrap();
    assert_ne!(access, user.access);
    assert_eq!(providers(&client.profile(access)), ["anon-user", "local-userpass"]);
    assert_eq!(client.profile(access).json()["data"], json!({"email": "ada@example.org"}));

    let name = json!({"name": "ada"});
    assert_eq!(client.link(access, "custom-function", &name).status, 200);
    for again in [client.log_in("local-userpass", &ada()), client.log_in("custom-function", &name)]
    {
        assert_eq!(again.user_id, user.user_id);
        assert_eq!(
            providers(&client.profile(&again.access)),
            ["anon-user", "local-userpass", "custom-function"]
        );
    }
    assert_eq!(client.refresh(&user.refresh).status, 201, "the refresh token stays");
}

#[test]
fn repeated_link_changes_nothing() {
    let (_server, client) = start();
    let user = client.ada();
    for _ in 0..2 {
        assert_eq!(client.link(&user.access, "local-userpass", &ada()).status, 200);
        assert_eq!(client.link(&user.access, "custom-function", &json!({"name": "a"})).status, 200);
    }
    let profile = client.profile(&user.access);
    assert_eq!(providers(&profile), ["local-userpass", "custom-function"]);
}

#[test]
fn identity_of_other_user_is_in_use() {
    let (_server, client) = start();
    let (ada, bob) = (client.ada(), client.anonymous());
    let answer = client.link(&bob.access, "local-userpass", &self::ada());
    answer.assert_error(409, "IdentityAlreadyInUse", "the identity belongs to another user");
    let key = client.create_key(&ada.refresh, "key").json()["key"].clone();
    let answer = client.link(&bob.access, "api-key", &json!({"key": key}));
    answer.assert_error(409, "IdentityAlreadyInUse", "the identity belongs to another user");
    assert_eq!(client.link(&ada.access, "api-key", &json!({"key": key})).status, 200);
    assert_eq!(providers(&client.profile(&bob.access)), ["anon-user"]);
    assert_eq!(providers(&client.profile(&ada.access)), ["local-userpass", "api-key"]);
}

#[test]
fn user_has_one_email_identity() {
    let (_server, client) = start();
    let user = client.ada();
    client.register("other", "hunter22");
    let other = json!({"username": "other", "password": "hunter22"});
    let answer = client.link(&user.access, "local-userpass", &other);
    let message = "the user has an email/password identity already";
    answer.assert_error(400, "BadRequest", message);
    assert_ne!(client.log_in("local-userpass", &other).user_id, user.user_id);
}

#[test]
fn anonymous_credentials_cannot_be_linked() {
    let (_server, client) = start();
    let user = client.anonymous();
    let answer = client.link(&user.access, "anon-user", &json!({}));
    answer.assert_error(400, "BadRequest", "invalid user link request");
}

/// realm-web refreshes and repeats for ever what is answered with 401 and `unauthorized`.
#[test]
fn refused_link_has_login_code_and_own_text() {
    let server = builder().confirmation(Confirmation::Email).start().unwrap();
    let client = Client::new(&server);
    let user = client.anonymous();
    let message = "the credentials to link were not accepted";
    let link = |provider, body| client.link(&user.access, provider, &body);
    link("local-userpass", ada()).assert_error(401, "InvalidPassword", message);
    client.register("ada@example.org", "hunter22");
    link("local-userpass", ada()).assert_error(401, "AuthError", message);
    link("api-key", json!({"key": "none"})).assert_error(401, "AuthError", message);
    let name = json!({"name": "unauthorized"});
    link("custom-function", name).assert_error(401, "AuthError", message);
    link("custom-function", json!({})).assert_error(401, "AuthError", "who are you?");
    let unsupported = "authentication via 'custom-token' is unsupported";
    let token = json!({"token": "a.b.c"});
    link("custom-token", token).assert_error(404, "AuthProviderNotFound", unsupported);
}

#[test]
fn link_needs_access_token_of_active_session() {
    let (server, client) = start();
    client.register("ada@example.org", "hunter22");
    let path = client.app("/auth/providers/local-userpass/login?link=true");
    let answer = client.send("POST", &path, None, &ada().to_string());
    answer.assert_error(401, "MissingAuthReq", "must authenticate first");
    let user = client.anonymous();
    assert_eq!(client.link(&user.refresh, "local-userpass", &ada()).error().1, "InvalidSession");
    server.revoke_sessions(&user.user_id).unwrap();
    assert_eq!(client.link(&user.access, "local-userpass", &ada()).error().1, "InvalidSession");
    let user = client.anonymous();
    server.disable_user(&user.user_id).unwrap();
    assert_eq!(client.link(&user.access, "local-userpass", &ada()).error().1, "InvalidSession");
}

/// The access token itself is still valid, but gives no new one.
#[test]
fn link_after_session_end_is_rejected() {
    let clock = ManualClock::new();
    for rotate in [false, true] {
        let server = builder()
            .clock(clock.clone())
            .refresh_token_lifetime(Duration::from_secs(1000))
            .rotate_refresh_tokens(rotate)
            .start()
            .unwrap();
        let client = Client::new(&server);
        let user = client.ada();
        let link = || client.link(&user.access, "local-userpass", &ada());
        // With rotation the session has a successor, and ends when the grace is over.
        assert_eq!(client.refresh(&user.refresh).status, 201);
        let lives = if rotate { 60 } else { 1000 };
        clock.advance(lives - 1);
        assert_eq!(link().status, 200);
        clock.advance(1);
        let gone = "invalid session: failed to find refresh token";
        link().assert_error(401, "InvalidSession", gone);
        assert_eq!(client.profile(&user.access).status, 200, "the access token itself is good");
    }
}

#[test]
fn concurrent_links_give_identity_to_one_user() {
    let server = builder().idle_timeout(Duration::from_secs(20)).start().unwrap();
    let client = Client::new(&server);
    let users: Vec<LogIn> = (0..8).map(|_| client.anonymous()).collect();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let link = |user: &LogIn| {
            client.link(&user.access, "custom-function", &json!({"name": "x"})).status
        };
        let threads: Vec<_> = users.iter().map(|user| scope.spawn(move || link(user))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 7, "{statuses:?}");
}
