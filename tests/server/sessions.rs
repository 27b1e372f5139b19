//! Tokens, server sessions, profiles, and the errors around them.

use std::io::ErrorKind;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfob::server::{Route, Server, ServerBuilder};
use serde_json::{Value, json};

use crate::client::{Answer, Client, LogIn, ManualClock};

fn start(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, Client, ManualClock) {
    let clock = ManualClock::new();
    let server = set(Server::builder().clock(clock.clone())).start().unwrap();
    let client = Client::new(&server);
    (server, client, clock)
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

const GONE: &str = "invalid session: failed to find refresh token";

#[track_caller]
fn assert_gone(answer: &Answer) {
    answer.assert_error(401, "InvalidSession", GONE);
}

#[test]
fn profile_has_required_fields() {
    let (_server, client, _) = start(|builder| builder);
    let user = client.ada();
    let answer = client.profile(&user.access);
    let profile = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!(profile["user_id"], user.user_id.as_str());
    assert_eq!(profile["domain_id"], claims(&user.access)["baas_domain_id"]);
    assert_eq!(profile["type"], "normal");
    assert_eq!(profile["data"], json!({"email": "ada@example.org"}));
    let identities = profile["identities"].as_array().unwrap();
    assert_eq!(identities.len(), 1);
    assert_eq!(identities[0]["provider_type"], "local-userpass");
    assert_ne!(identities[0]["id"], profile["user_id"]);
    assert_eq!(claims(&user.refresh)["baas_identity"]["id"], identities[0]["id"]);

    let anonymous = client.profile(&client.anonymous().access).json();
    assert_eq!(anonymous["data"], json!({}));
    assert_eq!(anonymous["identities"][0]["provider_type"], "anon-user");
}

#[test]
fn tokens_have_app_services_claims() {
    let (_server, client, _) = start(|builder| builder);
    let user = client.ada();
    let (access, refresh) = (claims(&user.access), claims(&user.refresh));
    let names = |claims: &Value| claims.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&access),
        ["baas_device_id", "baas_domain_id", "exp", "iat", "iss", "jti", "sub", "typ"]
    );
    assert_eq!(
        names(&refresh),
        [
            "baas_data",
            "baas_device_id",
            "baas_domain_id",
            "baas_id",
            "baas_identity",
            "exp",
            "iat",
            "sub",
            "typ"
        ]
    );
    assert_eq!((&access["typ"], &refresh["typ"]), (&json!("access"), &json!("refresh")));
    assert_eq!((access["sub"].as_str(), &access["sub"]), (Some(&*user.user_id), &refresh["sub"]));
    let lasts = |claims: &Value| claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!((lasts(&access), lasts(&refresh)), (30 * 60, 60 * 24 * 3600));
    assert_eq!(access["iat"], 1_700_000_000, "by the server's own clock");
    assert!(refresh["baas_data"].is_null());
}

#[test]
fn access_token_expiry_follows_server_clock() {
    let (_server, client, clock) =
        start(|builder| builder.access_token_lifetime(Duration::from_secs(100)));
    let user = client.anonymous();
    clock.advance(99);
    assert_eq!(client.profile(&user.access).status, 200);
    clock.advance(1);
    let expired = "invalid session: access token expired";
    client.profile(&user.access).assert_error(401, "InvalidSession", expired);
    client.call(&user.access, "echo", &json!([])).assert_error(401, "InvalidSession", expired);

    let answer = client.refresh(&user.refresh);
    assert_eq!(answer.status, 201);
    let access = answer.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.profile(&access).status, 200);
}

#[test]
fn refresh_token_expiry_follows_server_clock() {
    let (_server, client, clock) =
        start(|builder| builder.refresh_token_lifetime(Duration::from_secs(1000)));
    let user = client.anonymous();
    clock.advance(999);
    assert_eq!(client.refresh(&user.refresh).status, 201);
    clock.advance(1);
    assert_gone(&client.refresh(&user.refresh));
    assert_gone(&client.log_out(&user.refresh));
}

/// A refresh token can be used any number of times.
#[test]
fn refresh_returns_only_access_token() {
    let (_server, client, clock) = start(|builder| builder);
    let user = client.anonymous();
    for _ in 0..3 {
        clock.advance(10);
        let body = client.refresh(&user.refresh).json();
        assert_eq!(body.as_object().unwrap().len(), 1);
        assert_ne!(body["access_token"], user.access.as_str());
    }
}

#[test]
fn token_of_other_kind_is_rejected() {
    let (_server, client, _) = start(|builder| builder);
    let user = client.anonymous();
    let message = "invalid refresh token: incorrect token type";
    client.refresh(&user.access).assert_error(401, "InvalidSession", message);
    client.log_out(&user.access).assert_error(401, "InvalidSession", message);
    let message = "invalid access token: incorrect token type";
    client.profile(&user.refresh).assert_error(401, "InvalidSession", message);
    client.call(&user.refresh, "echo", &json!([])).assert_error(401, "InvalidSession", message);
}

#[test]
fn request_without_token_is_unauthenticated() {
    let (_server, client, _) = start(|builder| builder);
    for (method, path) in [
        ("GET", "/auth/profile".to_owned()),
        ("POST", "/auth/session".to_owned()),
        ("DELETE", "/auth/session".to_owned()),
        ("POST", client.app("/functions/call")),
    ] {
        let answer = client.send(method, &path, None, "");
        answer.assert_error(401, "MissingAuthReq", "must authenticate first");
    }
    client.profile("").assert_error(401, "MissingAuthReq", "must authenticate first");
}

#[test]
fn foreign_tokens_are_rejected() {
    let (_server, client, _) = start(|builder| builder);
    let (_other, stranger, _) = start(|builder| builder);
    let (user, foreign) = (client.anonymous(), stranger.anonymous());
    let parts: Vec<_> = user.access.split('.').collect();
    let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    for token in [
        "x",
        "a.b.c",
        &foreign.access,
        &format!("{}.{}.", parts[0], parts[1]),
        &format!("{none}.{}.", parts[1]),
        &format!("{}.{}.{}", parts[0], claims_with(&user.access, "sub", "0"), parts[2]),
        &"x".repeat(20_000),
    ] {
        let answer = client.profile(token);
        assert_eq!((answer.status, answer.error().1.as_str()), (401, "InvalidSession"), "{token}");
        let answer = client.refresh(token);
        assert_eq!((answer.status, answer.error().1.as_str()), (401, "InvalidSession"), "{token}");
    }
}

fn claims_with(token: &str, name: &str, value: &str) -> String {
    let mut claims = claims(token);
    claims[name] = value.into();
    BASE64_URL_SAFE_NO_PAD.encode(claims.to_string())
}

#[test]
fn logout_ends_own_session_only() {
    let (_server, client, _) = start(|builder| builder);
    let (first, second) = (client.ada(), client.ada());
    let answer = client.log_out(&first.refresh);
    assert_eq!((answer.status, answer.text.as_str()), (204, ""));
    assert_gone(&client.refresh(&first.refresh));
    assert_gone(&client.log_out(&first.refresh));
    assert_eq!(client.refresh(&second.refresh).status, 201);
}

#[test]
fn access_token_survives_logout() {
    let (_server, client, clock) = start(|builder| builder);
    let user = client.ada();
    client.log_out(&user.refresh);
    assert_eq!(client.profile(&user.access).status, 200);
    clock.advance(30 * 60);
    assert_eq!(client.profile(&user.access).status, 401);
}

#[test]
fn revocation_ends_all_sessions_of_user() {
    let (server, client, _) = start(|builder| builder);
    let (first, second, other) = (client.ada(), client.ada(), client.anonymous());
    assert_eq!(server.revoke_sessions(&first.user_id).unwrap(), 2);
    assert_gone(&client.refresh(&first.refresh));
    assert_gone(&client.refresh(&second.refresh));
    assert_eq!(client.refresh(&other.refresh).status, 201);
    assert_eq!(server.revoke_sessions(&first.user_id).unwrap(), 0);
}

#[test]
fn disabled_user_is_rejected_until_enabled() {
    let (server, client, _) = start(|builder| builder.built_in_functions());
    let user = client.ada();
    server.disable_user(&user.user_id).unwrap();
    let disabled = "invalid session: user is disabled";
    client.refresh(&user.refresh).assert_error(401, "InvalidSession", disabled);
    client.profile(&user.access).assert_error(401, "InvalidSession", disabled);
    client.call(&user.access, "echo", &json!([])).assert_error(401, "InvalidSession", disabled);
    server.enable_user(&user.user_id).unwrap();
    assert_eq!(client.refresh(&user.refresh).status, 201);
    assert_eq!(client.profile(&user.access).status, 200);
}

#[test]
fn unknown_users_cannot_be_managed() {
    let (server, ..) = start(|builder| builder);
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(server.disable_user("nobody")), ErrorKind::NotFound);
    assert_eq!(kind(server.enable_user("nobody")), ErrorKind::NotFound);
    assert_eq!(server.revoke_sessions("nobody").unwrap_err().kind(), ErrorKind::NotFound);
}

fn rotated(answer: &Answer) -> LogIn {
    assert_eq!(answer.status, 201, "{answer:?}");
    let body = answer.json();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    let (access, refresh) = (text("access_token"), text("refresh_token"));
    LogIn { user_id: claims(&access)["sub"].as_str().unwrap().to_owned(), access, refresh }
}

#[test]
fn rotated_token_has_one_successor_within_grace() {
    let (_server, client, clock) = start(|builder| builder.rotate_refresh_tokens(true));
    let old = client.anonymous();
    clock.advance(10);
    let new = rotated(&client.refresh(&old.refresh));
    assert_ne!(new.refresh, old.refresh);
    assert_eq!(new.user_id, old.user_id);
    clock.advance(59);
    let again = rotated(&client.refresh(&old.refresh));
    assert_eq!(again.refresh, new.refresh);
    clock.advance(1);
    assert_gone(&client.refresh(&old.refresh));
    assert_gone(&client.log_out(&old.refresh));
    let newest = rotated(&client.refresh(&new.refresh));
    assert_ne!(newest.refresh, new.refresh);
    assert_eq!(client.profile(&newest.access).status, 200);
}

#[test]
fn revocation_counts_active_logins_once() {
    let (server, client, clock) = start(|builder| builder.rotate_refresh_tokens(true));
    let user = client.ada();
    client.refresh(&user.refresh);
    assert_eq!(server.revoke_sessions(&user.user_id).unwrap(), 1);
    let user = client.ada();
    clock.advance(61 * 24 * 3600);
    assert_eq!(server.revoke_sessions(&user.user_id).unwrap(), 0);
}

#[test]
fn concurrent_refreshes_give_one_successor() {
    let (_server, client, _) = start(|builder| builder.rotate_refresh_tokens(true));
    let old = client.anonymous();
    let successors: Vec<_> = std::thread::scope(|scope| {
        let refresh = || rotated(&client.refresh(&old.refresh)).refresh;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(refresh)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(successors.iter().all(|token| *token == successors[0]));
}

#[test]
fn logout_ends_both_rotated_tokens() {
    let (_server, client, _) = start(|builder| builder.rotate_refresh_tokens(true));
    for use_old in [true, false] {
        let old = client.anonymous();
        let new = rotated(&client.refresh(&old.refresh));
        let token = if use_old { &old.refresh } else { &new.refresh };
        assert_eq!(client.log_out(token).status, 204);
        assert_gone(&client.refresh(&old.refresh));
        assert_gone(&client.refresh(&new.refresh));
    }
}

#[test]
fn error_link_contains_request_id() {
    let (server, client, _) = start(|builder| builder);
    let answer = client.profile("nonsense");
    let id = answer.header("x-appservices-request-id").unwrap().to_owned();
    assert_eq!(id.len(), 24);
    let link = answer.json()["link"].as_str().unwrap().to_owned();
    assert!(link.starts_with(&format!("{}/groups/", server.base_url())), "{link}");
    assert!(link.ends_with(&format!("/logs?co_id={id}")), "{link}");
    assert_eq!(link.matches("/apps/").count(), 1, "{link}");
}

#[test]
fn json_responses_have_plain_content_type() {
    let (_server, client, _) = start(|builder| builder.built_in_functions());
    let user = client.ada();
    for answer in [
        client.send("GET", &client.app("/location"), None, ""),
        client.register("bob@example.org", "hunter22"),
        client.register("bob@example.org", "hunter22"),
        client.try_password("nobody", "hunter22"),
        client.profile(&user.access),
        client.profile("nonsense"),
        client.refresh(&user.refresh),
        client.call(&user.access, "echo", &json!(["text"])),
        client.send("GET", "/no/such/route", None, ""),
        client.send("PUT", "/auth/session", None, ""),
    ] {
        assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
        assert!(answer.header("x-appservices-request-id").is_some(), "{answer:?}");
        answer.json();
    }
    assert_eq!(client.log_out(&user.refresh).header("content-type"), None);
}

#[test]
fn journal_names_users_without_secrets() {
    let (server, client, _) = start(|builder| builder.built_in_functions());
    let user = client.ada();
    client.try_password("ada@example.org", "wrong-secret");
    let path = format!("/functions/call?baas_at={}", user.access);
    client.send("GET", &client.app(&path), Some(&user.access), "");
    client.call(&user.access, "echo", &json!(["argument-secret"]));
    client.refresh(&user.refresh);

    let journal = server.journal();
    let session = "/api/client/v2.0/auth/session";
    let last = journal.last().unwrap();
    assert_eq!((last.method.as_str(), last.path.as_str(), last.status), ("POST", session, 201));
    assert_eq!(last.user_id.as_ref().map(|id| id.as_str()), Some(&*user.user_id));
    assert_eq!(journal.count(Route::Refresh), 1);
    assert_eq!(journal.count(Route::LogOut), 0);

    let text = format!("{journal:?} {server:?}");
    for secret in [
        "hunter22",
        "wrong-secret",
        "argument-secret",
        "ada@example.org",
        user.access.as_str(),
        user.refresh.as_str(),
    ] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
