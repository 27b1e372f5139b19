//! Custom user data, service functions, and the names of tokens.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfob::server::{Server, ServerBuilder};
use serde_json::{Value, json};

use crate::client::{Client, LogIn, ManualClock, providers};

fn start(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, Client) {
    let builder = Server::builder().function("mine", |context, _| {
        Ok(context.custom_data().cloned().map_or(Value::Null, Value::Object))
    });
    let server = set(builder).start().unwrap();
    let client = Client::new(&server);
    (server, client)
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn refreshed(client: &Client, user: &LogIn) -> String {
    client.refresh(&user.refresh).json()["access_token"].as_str().unwrap().to_owned()
}

#[test]
fn next_access_token_has_custom_data() {
    let (server, client) = start(|builder| builder);
    let user = client.ada();
    assert_eq!(claims(&user.access).get("user_data"), None);
    server.set_custom_data(&user.user_id, Some(json!({"likes": "tea", "n": 7}))).unwrap();
    assert_eq!(client.call(&user.access, "mine", &json!([])).json(), Value::Null, "not before");
    let access = refreshed(&client, &user);
    assert_eq!(claims(&access)["user_data"], json!({"likes": "tea", "n": 7}));
    let mine = client.call(&access, "mine", &json!([])).json();
    assert_eq!(mine, json!({"likes": "tea", "n": {"$numberInt": "7"}}));
    assert_eq!(claims(&client.ada().access)["user_data"]["likes"], "tea");
    server.set_custom_data(&user.user_id, None).unwrap();
    assert_eq!(claims(&refreshed(&client, &user)).get("user_data"), None);
}

#[test]
fn app_can_supply_custom_data() {
    let (server, client) = start(|builder| {
        builder.custom_data(|user_id| Some(json!({"_id": user_id, "from": "source"})))
    });
    let user = client.anonymous();
    let data = json!({"_id": user.user_id, "from": "source"});
    assert_eq!(claims(&user.access)["user_data"], data);
    server.set_custom_data(&user.user_id, Some(json!({"from": "set"}))).unwrap();
    assert_eq!(claims(&refreshed(&client, &user))["user_data"], json!({"from": "set"}));
}

#[test]
fn custom_data_is_bounded_object() {
    let (server, client) = start(|builder| builder);
    let user = client.ada();
    for bad in [json!([1]), json!("x"), json!({"x": "y".repeat(24 * 1024)})] {
        let error = server.set_custom_data(&user.user_id, Some(bad)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let most = json!({"x": "y".repeat(24 * 1024 - 8)});
    server.set_custom_data(&user.user_id, Some(most)).unwrap();
    assert_eq!(client.profile(&refreshed(&client, &user)).status, 200);
    let error = server.set_custom_data("nobody", Some(json!({}))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let (_server, client) = start(|builder| builder.custom_data(|_| Some(json!([]))));
    let answer = client.try_log_in("anon-user", "{}");
    answer.assert_error(500, "InternalServerError", "custom user data must be an object");
}

#[test]
fn failing_source_keeps_data_and_session() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let clock = ManualClock::new();
    let (server, client) = start(|builder| {
        let is_broken = Arc::clone(&is_broken);
        let source = move |_: &str| is_broken.load(Ordering::SeqCst).then(|| json!([]));
        builder.custom_data(source).rotate_refresh_tokens(true).clock(clock.clone())
    });
    let user = client.anonymous();
    client.register("ada@example.org", "hunter22");
    let ada = json!({"username": "ada@example.org", "password": "hunter22"});

    is_broken.store(true, Ordering::SeqCst);
    assert_eq!(client.refresh(&user.refresh).status, 500);
    assert_eq!(client.link(&user.access, "local-userpass", &ada).status, 500);
    assert_eq!(client.try_log_in("local-userpass", &ada.to_string()).status, 500);
    assert_eq!(client.try_log_in("anon-user", "{}").status, 500);
    is_broken.store(false, Ordering::SeqCst);

    // Nobody was left behind by the log-in without an account.
    let ids: Vec<_> = server.journal().iter().filter_map(|entry| entry.user_id.clone()).collect();
    assert!(server.revoke_sessions(ids.last().unwrap()).is_err());
    // The link was not made, and the old token was not replaced a grace period ago.
    assert_eq!(providers(&client.profile(&user.access)), ["anon-user"]);
    clock.advance(61);
    assert_eq!(client.refresh(&user.refresh).status, 201);
    let ada = client.ada();
    assert_eq!(server.revoke_sessions(&ada.user_id).unwrap(), 1, "the failed log-in has ended");
}

#[test]
fn panicking_source_keeps_data_and_session() {
    let (server, client) = start(|builder| builder.custom_data(|_| panic!("on purpose")));
    assert_eq!(client.try_log_in("anon-user", "{}").status, 500);
    let journal = server.journal();
    let id = journal.last().unwrap().user_id.as_ref().unwrap();
    assert_eq!(server.revoke_sessions(id).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn simultaneous_access_tokens_differ() {
    let (_server, client) = start(|builder| builder);
    let user = client.anonymous();
    assert_ne!(refreshed(&client, &user), refreshed(&client, &user));
}

#[test]
fn service_functions_have_two_names() {
    let (_server, client) = start(|builder| {
        builder.service_function("mongodb-atlas", "count", |context, arguments| {
            Ok(json!([context.identities().len(), arguments]))
        })
    });
    let user = client.anonymous();
    let call = |service: &str, name: &str| {
        let body = json!({"service": service, "name": name, "arguments": [{"a": "b"}]});
        client.send("POST", &client.app("/functions/call"), Some(&user.access), &body.to_string())
    };
    let answer = call("mongodb-atlas", "count");
    assert_eq!(answer.json(), json!([{"$numberInt": "1"}, [{"a": "b"}]]));
    let message = "service not found: 'other'";
    call("other", "count").assert_error(404, "ServiceNotFound", message);
    let message = "service command not found: 'find'";
    call("mongodb-atlas", "find").assert_error(404, "ServiceCommandNotFound", message);
    let message = "function not found: 'count'";
    call("", "count").assert_error(404, "FunctionNotFound", message);
}
