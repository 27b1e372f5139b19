//! What the server keeps has limits: users, accounts, sessions, identities, profiles.

use std::time::Duration;

use keyfob::server::{AuthFunctionAnswer, Confirmation, Fault, Route, Server, ServerBuilder};
use serde_json::{Value, json};

use crate::client::{Answer, Client, LogIn, ManualClock};

const FULL: &str = "the server has as many users as it may have";
const GONE: &str = "invalid session: failed to find refresh token";
const DAY: u64 = 24 * 3600;

fn start(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, Client, ManualClock) {
    let clock = ManualClock::new();
    let server = set(Server::builder().clock(clock.clone())).start().unwrap();
    let client = Client::new(&server);
    (server, client, clock)
}

/// A login function that takes everybody at their word, and keeps what they send.
fn by_name(builder: ServerBuilder) -> ServerBuilder {
    builder.auth_function(|payload| {
        let answer = AuthFunctionAnswer::new(payload["name"].as_str().unwrap_or_default());
        let data = payload["data"].as_object().into_iter().flatten();
        Ok(data.fold(answer, |answer, (name, value)| answer.data(name, value.clone())))
    })
}

fn try_name(client: &Client, name: &str) -> Answer {
    client.try_log_in("custom-function", &json!({"name": name}).to_string())
}

#[track_caller]
fn assert_full(answer: &Answer) {
    answer.assert_error(403, "", FULL);
    assert!(answer.json()["link"].is_string(), "{answer:?}");
}

#[test]
fn users_are_limited() {
    let (_server, client, _) = start(|builder| by_name(builder).max_users(4));
    let users: Vec<_> =
        (0..4).map(|n| LogIn::read(&try_name(&client, &format!("user {n}")))).collect();
    assert_full(&try_name(&client, "one more"));
    assert_full(&client.try_log_in("anon-user", "{}"));
    assert_eq!(try_name(&client, "user 0").status, 200, "those who exist can log in");
    client.delete_user(&users[1].access);
    assert_eq!(try_name(&client, "one more").status, 200);
}

#[test]
fn accounts_are_limited() {
    let (_server, client, _) = start(|builder| builder.max_users(2));
    let register = |name: &str| client.register(name, "hunter22");
    assert_eq!(register("ada").status, 201);
    assert_eq!(register("bob").status, 201);
    assert_full(&register("eve"));
    assert_eq!(register("ada").status, 409, "which says more");
    let bob = LogIn::read(&client.try_password("bob", "hunter22"));
    client.delete_user(&bob.access);
    assert_eq!(register("eve").status, 201);
}

/// A client that creates many of them does not keep others from registering.
#[test]
fn anonymous_users_are_limited_to_half() {
    let (_server, client, _) = start(|builder| by_name(builder).max_users(6));
    for _ in 0..3 {
        client.anonymous();
    }
    assert_full(&client.try_log_in("anon-user", "{}"));
    for name in ["ada", "bob", "eve"] {
        assert_eq!(try_name(&client, name).status, 200, "{name}");
    }
    assert_full(&try_name(&client, "dan"));
}

#[test]
fn anonymous_user_is_removed_with_last_session() {
    let (server, client, clock) = start(|builder| builder);
    let (out, expired, linked) = (client.anonymous(), client.anonymous(), client.anonymous());
    client.register("ada", "hunter22");
    let ada = json!({"username": "ada", "password": "hunter22"});
    assert_eq!(client.link(&linked.access, "local-userpass", &ada).status, 200);
    for user in [&out, &linked] {
        assert_eq!(client.log_out(&user.refresh).status, 204);
    }
    let exists = |user: &LogIn| server.enable_user(&user.user_id).is_ok();
    client.anonymous();
    assert_eq!(client.profile(&out.access).status, 200, "access tokens outlive a log-out");
    clock.advance(30 * 60 + 1);
    client.anonymous();
    assert!(!exists(&out) && exists(&expired) && exists(&linked));

    clock.advance(60 * DAY);
    // One log-in finds that the session has ended, another one that the user is of no use.
    client.anonymous();
    clock.advance(1);
    client.anonymous();
    assert!(!exists(&expired) && exists(&linked));
    assert_eq!(client.try_password("ada", "hunter22").json()["user_id"], linked.user_id.as_str());
}

#[test]
fn anonymous_user_without_session_is_evicted() {
    let (_server, client, _) = start(|builder| builder.max_users(4));
    let first = client.anonymous();
    client.anonymous();
    assert_full(&client.try_log_in("anon-user", "{}"));
    assert_eq!(client.log_out(&first.refresh).status, 204);
    client.anonymous();
    assert_eq!(client.profile(&first.access).status, 401, "earlier than it would have gone");
    assert_full(&client.try_log_in("anon-user", "{}"));
}

/// Not on disk is when an anonymous user's session ended, nor when a session was used.
#[test]
fn limits_hold_after_restart() {
    let dir = crate::data_dir::TempDir::new("limits");
    let clock = ManualClock::new();
    let start = || {
        let builder = Server::builder().clock(clock.clone()).data_dir(&dir.0);
        builder.max_users(4).max_sessions_per_user(2).start().unwrap()
    };
    let server = start();
    let client = Client::new(&server);
    let (gone, stays) = (client.anonymous(), client.anonymous());
    client.log_out(&gone.refresh);
    let first = client.ada();
    clock.advance(1);
    let second = client.ada();
    server.shut_down();

    let server = start();
    let client = Client::new(&server);
    clock.advance(1);
    let third = client.ada();
    assert_gone(&client.refresh(&first.refresh));
    assert_eq!(client.refresh(&second.refresh).status, 201);
    assert_eq!(client.refresh(&third.refresh).status, 201);
    client.anonymous();
    assert_full(&client.try_log_in("anon-user", "{}"));
    assert!(server.enable_user(&gone.user_id).is_err());
    assert_eq!(client.refresh(&stays.refresh).status, 201);
}

#[track_caller]
fn assert_gone(answer: &Answer) {
    answer.assert_error(401, "InvalidSession", GONE);
}

#[test]
fn oldest_unconfirmed_account_is_evicted() {
    let confirmation = Confirmation::Email;
    let (server, client, clock) = start(|builder| builder.confirmation(confirmation).max_users(30));
    for name in ["a", "b", "c"] {
        assert_eq!(client.register(name, "hunter22").status, 201);
        clock.advance(1);
    }
    let confirm = |n: usize| {
        let mail = &server.outbox()[n];
        client.email("confirm", &json!({"token": mail.token.expose(), "tokenId": mail.token_id}))
    };
    assert_eq!(confirm(1).status, 200);
    for name in ["d", "e"] {
        assert_eq!(client.register(name, "hunter22").status, 201);
        clock.advance(1);
    }
    confirm(0).assert_error(400, "UserpassTokenInvalid", "userpass token is expired or invalid");
    assert_eq!(client.try_password("b", "hunter22").status, 200, "it waits no more");
    assert_eq!(confirm(2).status, 200);
    assert_eq!(client.register("a", "hunter22").status, 201, "the name is free");
}

#[test]
fn least_recently_used_session_is_revoked() {
    let (_server, client, clock) = start(|builder| builder.max_sessions_per_user(3));
    let other = client.anonymous();
    let sessions: Vec<_> = (0..3)
        .map(|_| {
            clock.advance(1);
            client.ada()
        })
        .collect();
    clock.advance(1);
    assert_eq!(client.refresh(&sessions[0].refresh).status, 201, "the oldest one is in use");
    clock.advance(1);
    let newest = client.ada();
    assert_gone(&client.refresh(&sessions[1].refresh));
    for session in [&sessions[0], &sessions[2], &newest, &other] {
        assert_eq!(client.refresh(&session.refresh).status, 201);
    }
    assert_eq!(client.profile(&sessions[1].access).status, 200, "until it expires");
}

/// However quickly one device rotates its tokens, the others stay logged in.
#[test]
fn replaced_sessions_are_revoked_first() {
    let (_server, client, clock) =
        start(|builder| builder.rotate_refresh_tokens(true).max_sessions_per_user(3));
    let (idle, mut busy) = (client.ada(), client.ada().refresh);
    clock.advance(1);
    let mut tokens = Vec::new();
    for _ in 0..10 {
        let answer = client.refresh(&busy).json();
        let successor = answer["refresh_token"].as_str().unwrap().to_owned();
        tokens.push(std::mem::replace(&mut busy, successor));
    }
    let old = client.refresh(tokens.last().unwrap());
    assert_eq!(old.json()["refresh_token"], busy.as_str(), "the newest one has its grace period");
    assert_gone(&client.refresh(&tokens[0]));
    assert_eq!(client.refresh(&idle.refresh).status, 201);
}

#[test]
fn total_limit_evicts_from_user_with_most_sessions() {
    let (_server, client, clock) =
        start(|builder| by_name(builder).max_users(2).max_sessions_per_user(100));
    let log_in = |name: &str| {
        clock.advance(1);
        LogIn::read(&try_name(&client, name))
    };
    let few = [log_in("few"), log_in("few")];
    let many: Vec<_> = (0..8).map(|_| log_in("many")).collect();
    let more = [log_in("few"), log_in("many")];
    for gone in &many[..2] {
        assert_gone(&client.refresh(&gone.refresh));
    }
    for stays in few.iter().chain(&many[2..]).chain(&more) {
        assert_eq!(client.refresh(&stays.refresh).status, 201);
    }
}

#[test]
fn identities_per_user_are_limited() {
    let (_server, client, _) = start(by_name);
    let user = LogIn::read(&try_name(&client, "0"));
    let link =
        |n: usize| client.link(&user.access, "custom-function", &json!({"name": n.to_string()}));
    for n in 1..100 {
        assert_eq!(link(n).status, 200, "{n}");
    }
    let message = "a user can have at most 100 identities";
    link(100).assert_error(400, "BadRequest", message);
    assert_eq!(link(99).status, 200, "it has that one already");
    assert_eq!(client.profile(&user.access).json()["identities"].as_array().unwrap().len(), 100);
}

#[test]
fn profile_size_is_limited() {
    let (_server, client, _) = start(by_name);
    let log_in = |name: &str, data: Value| {
        client.try_log_in("custom-function", &json!({"name": name, "data": data}).to_string())
    };
    let message = "the profile is too large or nested too deeply to be kept";
    let text = |size: usize| Value::from("x".repeat(size));
    for n in 0..2 {
        assert_eq!(log_in("ada", json!({format!("field {n}"): text(30_000)})).status, 200);
    }
    // Each of them is small enough.
    let refused = log_in("ada", json!({"field 2": text(30_000)}));
    refused.assert_error(500, "InternalServerError", message);
    let user = LogIn::read(&log_in("ada", json!({})));
    let linked = json!({"name": "bob", "data": {"field 2": text(30_000)}});
    let refused = client.link(&user.access, "custom-function", &linked);
    refused.assert_error(500, "InternalServerError", message);
    let profile = client.profile(&user.access).json();
    assert_eq!(profile["data"].as_object().unwrap().len(), 2);
    assert_eq!(profile["identities"].as_array().unwrap().len(), 1);
}

#[test]
fn finished_faults_are_forgotten() {
    let (server, client, _) = start(|builder| builder);
    let never = server.faults().add(Fault::status(503).times(0));
    let twice = server.faults().add(Fault::status(503).on(Route::LogIn).after(1).times(2));
    let statuses = [(); 4].map(|()| client.try_log_in("anon-user", "{}").status);
    assert_eq!(statuses, [200, 503, 503, 200]);
    assert_eq!((never.hits(), twice.hits()), (0, 2));
    assert_eq!(format!("{:?}", server.faults()), "[]");
    // Those that remain are met as before.
    server.faults().add(Fault::delay(Duration::ZERO).always());
    assert_eq!(client.try_log_in("anon-user", "{}").status, 200);
    assert_eq!(server.journal().last().unwrap().fault, Some("held back"));
    assert_ne!(format!("{:?}", server.faults()), "[]");
}
