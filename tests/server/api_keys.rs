//! API keys of users, and those of the app.

use keyfob::server::Server;
use serde_json::{Value, json};

use crate::client::{Answer, Client, LogIn, providers};

fn start() -> (Server, Client, LogIn) {
    let server = Server::builder().server_api_key("cron", "0123456789abcdef").start().unwrap();
    let client = Client::new(&server);
    let user = client.ada();
    (server, client, user)
}

fn text(answer: &Answer, name: &str) -> String {
    answer.json()[name].as_str().expect(name).to_owned()
}

fn key_log_in(client: &Client, key: &str) -> Answer {
    client.try_log_in("api-key", &json!({"provider": "api-key", "key": key}).to_string())
}

#[test]
fn key_secret_is_returned_once() {
    let (_server, client, user) = start();
    let created = client.create_key(&user.refresh, "my-Key_1");
    assert_eq!(created.status, 201);
    let (id, key) = (text(&created, "_id"), text(&created, "key"));
    assert_eq!((id.len(), key.len()), (24, 64));
    let shown = json!({"_id": id, "name": "my-Key_1", "disabled": false});
    let list = client.send("GET", "/auth/api_keys", Some(&user.refresh), "");
    assert_eq!((list.status, list.json()), (200, json!([shown])));
    let one = client.send("GET", &format!("/auth/api_keys/{id}"), Some(&user.refresh), "");
    assert_eq!((one.status, one.json()), (200, shown));
}

#[test]
fn keys_are_listed_in_creation_order() {
    let (_server, client, user) = start();
    assert_eq!(client.send("GET", "/auth/api_keys", Some(&user.refresh), "").json(), json!([]));
    for name in ["c", "a", "b"] {
        client.create_key(&user.refresh, name);
    }
    let list = client.send("GET", "/auth/api_keys", Some(&user.refresh), "").json();
    let names: Vec<_> = list.as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
    assert_eq!(names, ["c", "a", "b"]);
}

#[test]
fn key_logs_in_until_disabled() {
    let (_server, client, user) = start();
    let created = client.create_key(&user.refresh, "key");
    let (id, key) = (text(&created, "_id"), text(&created, "key"));
    let by_key = LogIn::read(&key_log_in(&client, &key));
    assert_eq!(by_key.user_id, user.user_id);
    let profile = client.profile(&by_key.access);
    assert_eq!(providers(&profile), ["local-userpass", "api-key"]);
    assert_eq!(profile.json()["identities"][1]["id"], id.as_str());

    let put = |what: &str| {
        client.send("PUT", &format!("/auth/api_keys/{id}/{what}"), Some(&user.refresh), "").status
    };
    assert_eq!((put("disable"), put("disable")), (204, 204));
    let one = client.send("GET", &format!("/auth/api_keys/{id}"), Some(&user.refresh), "");
    assert_eq!(one.json()["disabled"], true);
    key_log_in(&client, &key).assert_error(401, "AuthError", "unauthorized");
    assert_eq!(client.refresh(&by_key.refresh).status, 201, "its sessions go on");
    assert_eq!((put("enable"), put("enable")), (204, 204));
    assert_eq!(key_log_in(&client, &key).status, 200);

    let path = format!("/auth/api_keys/{id}");
    assert_eq!(client.send("DELETE", &path, Some(&by_key.refresh), "").status, 403);
    assert_eq!(client.send("DELETE", &path, Some(&user.refresh), "").status, 204);
    key_log_in(&client, &key).assert_error(401, "AuthError", "unauthorized");
    assert_eq!(providers(&client.profile(&user.access)), ["local-userpass"]);
    let answer = client.send("DELETE", &path, Some(&user.refresh), "");
    answer.assert_error(404, "APIKeyNotFound", "API key not found");
}

#[test]
fn keys_of_other_users_are_not_found() {
    let (_server, client, user) = start();
    let id = text(&client.create_key(&user.refresh, "key"), "_id");
    client.register("bob", "hunter22");
    let bob = LogIn::read(&client.try_password("bob", "hunter22"));
    for (method, path) in [
        ("GET", format!("/auth/api_keys/{id}")),
        ("DELETE", format!("/auth/api_keys/{id}")),
        ("PUT", format!("/auth/api_keys/{id}/enable")),
        ("PUT", format!("/auth/api_keys/{id}/disable")),
        ("GET", "/auth/api_keys/5f0000000000000000000000".to_owned()),
        ("GET", "/auth/api_keys/x".to_owned()),
    ] {
        let answer = client.send(method, &path, Some(&bob.refresh), "");
        answer.assert_error(404, "APIKeyNotFound", "API key not found");
    }
}

#[test]
fn names_are_plain_and_unique_per_user() {
    let (_server, client, user) = start();
    let refused = "API key name can only contain ASCII letters, numbers, underscores, and hyphens";
    for name in ["with space", "\u{e4}", "", "a.b", "a/b"] {
        client.create_key(&user.refresh, name).assert_error(400, "InvalidParameter", refused);
    }
    let long = client.create_key(&user.refresh, &"x".repeat(129));
    assert_eq!(long.error().1, "InvalidParameter");
    let answer = client.send("POST", "/auth/api_keys", Some(&user.refresh), "{}");
    answer.assert_error(400, "MissingParameter", "missing parameter: name");
    assert_eq!(client.create_key(&user.refresh, "key").status, 201);
    let again = client.create_key(&user.refresh, "key");
    again.assert_error(409, "APIKeyAlreadyExists", "API key with name already exists");
    client.register("bob", "hunter22");
    let bob = LogIn::read(&client.try_password("bob", "hunter22"));
    assert_eq!(client.create_key(&bob.refresh, "key").status, 201);
}

/// At most twenty keys; none for an anonymous user.
#[test]
fn key_count_is_limited_per_user() {
    let (_server, client, user) = start();
    for number in 0..20 {
        assert_eq!(client.create_key(&user.refresh, &format!("key{number}")).status, 201);
    }
    let answer = client.create_key(&user.refresh, "one-more");
    answer.assert_error(400, "BadRequest", "a user can have at most 20 API keys");
    let anonymous = client.anonymous();
    let answer = client.create_key(&anonymous.refresh, "key");
    answer.assert_error(403, "", "anonymous users cannot have API keys");
}

#[test]
fn key_calls_need_refresh_token() {
    let (server, client, user) = start();
    let answer = client.send("GET", "/auth/api_keys", None, "");
    answer.assert_error(401, "MissingAuthReq", "must authenticate first");
    let wrong = "invalid refresh token: incorrect token type";
    let answer = client.send("GET", "/auth/api_keys", Some(&user.access), "");
    answer.assert_error(401, "InvalidSession", wrong);
    server.disable_user(&user.user_id).unwrap();
    assert_eq!(client.create_key(&user.refresh, "key").error().1, "InvalidSession");
}

#[test]
fn server_key_has_own_user() {
    let (_server, client, user) = start();
    let cron = LogIn::read(&key_log_in(&client, "0123456789abcdef"));
    assert_ne!(cron.user_id, user.user_id);
    let profile = client.profile(&cron.access).json();
    assert_eq!((&profile["type"], &profile["data"]), (&json!("server"), &json!({"name": "cron"})));
    assert_eq!(client.profile(&user.access).json()["type"], "normal");
    let again = LogIn::read(&key_log_in(&client, "0123456789abcdef"));
    assert_eq!(again.user_id, cron.user_id);
    let body = json!({"key": "0123456789abcdef"});
    let answer = client.link(&user.access, "api-key", &body);
    answer.assert_error(409, "IdentityAlreadyInUse", "the identity belongs to another user");
}

#[test]
fn unused_server_key_cannot_be_linked() {
    let (_server, client, user) = start();
    let body = json!({"key": "0123456789abcdef"});
    assert_eq!(client.link(&user.access, "api-key", &body).status, 409);
}

#[test]
fn server_keys_must_be_long() {
    let error = Server::builder().server_api_key("cron", "short").start().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(!error.to_string().contains("short"), "{error}");
}

#[test]
fn unknown_and_missing_keys_are_refused() {
    let (_server, client, _) = start();
    key_log_in(&client, "nope").assert_error(401, "AuthError", "unauthorized");
    let answer = client.try_log_in("api-key", &Value::Null.to_string());
    assert_eq!(answer.status, 400);
    let answer = client.try_log_in("api-key", "{}");
    answer.assert_error(400, "MissingParameter", "missing parameter: key");
}
