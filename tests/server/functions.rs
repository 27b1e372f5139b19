//! Calling functions.

use keyfob::server::{FunctionError, Server};
use serde_json::{Value, json};

use crate::client::{Client, LogIn};

fn start() -> (Server, Client, LogIn) {
    let server = Server::builder()
        .built_in_functions()
        .function("fail", |_, _| Err("out of cheese".into()))
        .function("fail_in_json", |_, _| Err(FunctionError::new(r#"{"reason":1}"#)))
        .function("panic", |_, _| panic!("on purpose"))
        .function("numbers", |_, _| Ok(json!({"int": 1, "long": 1_u64 << 40, "double": 1.0})))
        .function("like_an_error", |_, _| Ok(json!({"error": "none"})))
        .function("date", |_, _| Ok(json!({"$date": "1970-01-01T00:00:01.5Z"})))
        .function("mail", |context, _| Ok(context.data()["email"].clone()))
        .start()
        .unwrap();
    let client = Client::new(&server);
    let user = client.ada();
    (server, client, user)
}

#[test]
fn results_are_canonical_extended_json() {
    let (_server, client, user) = start();
    let call = |name: &str, arguments: Value| {
        let answer = client.call(&user.access, name, &arguments);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    assert_eq!(
        call("numbers", json!([])),
        json!({
            "int": {"$numberInt": "1"},
            "long": {"$numberLong": "1099511627776"},
            "double": {"$numberDouble": "1.0"},
        })
    );
    assert_eq!(call("date", json!([])), json!({"$date": {"$numberLong": "1500"}}));
    assert_eq!(call("sum", json!([1, 2])), json!({"$numberInt": "3"}));
    assert_eq!(
        call("sum", json!([{"$numberInt": "1"}, {"$numberLong": "4294967296"}])),
        json!({"$numberLong": "4294967297"})
    );
    assert_eq!(call("sum", json!([1, {"$numberDouble": "0.5"}])), json!({"$numberDouble": "1.5"}));
    assert_eq!(call("sum", json!([])), json!({"$numberInt": "0"}));
    assert_eq!(call("echo", json!([])), Value::Null);
    assert_eq!(call("echo", json!(["text", "more"])), json!("text"));
    let values = json!({"oid": {"$oid": "5f0000000000000000000000"}, "list": [true, null]});
    assert_eq!(call("echo", json!([values])), values);
}

#[test]
fn function_receives_caller() {
    let (_server, client, user) = start();
    let me = client.call(&user.access, "whoami", &json!([])).json();
    let profile = client.profile(&user.access).json();
    assert_eq!(me["user_id"], user.user_id.as_str());
    assert_eq!(me["data"], json!({"email": "ada@example.org"}));
    assert_eq!(
        me["identities"],
        json!([{"id": profile["identities"][0]["id"], "provider_type": "local-userpass"}])
    );
    let mail = client.call(&user.access, "mail", &json!([])).json();
    assert_eq!(mail, json!("ada@example.org"));
}

#[test]
fn function_error_message_is_returned() {
    let (_server, client, user) = start();
    let answer = client.call(&user.access, "fail", &json!([]));
    answer.assert_error(400, "FunctionExecutionError", "out of cheese");
    let answer = client.call(&user.access, "fail_in_json", &json!([]));
    answer.assert_error(400, "FunctionExecutionError", r#"{"reason":1}"#);
    let answer = client.call(&user.access, "sum", &json!(["one"]));
    let message = "sum: argument 1 is not a number";
    answer.assert_error(400, "FunctionExecutionError", message);
}

#[test]
fn result_resembling_error_is_result() {
    let (_server, client, user) = start();
    let answer = client.call(&user.access, "like_an_error", &json!([]));
    assert_eq!((answer.status, answer.json()), (200, json!({"error": "none"})));
}

#[test]
fn unknown_functions_and_services_are_named() {
    let (_server, client, user) = start();
    let answer = client.call(&user.access, "nope", &json!([]));
    answer.assert_error(404, "FunctionNotFound", "function not found: 'nope'");
    let body = r#"{"name":"find","service":"mongodb-atlas","arguments":[{}]}"#;
    let answer = client.send("POST", &client.app("/functions/call"), Some(&user.access), body);
    answer.assert_error(404, "ServiceNotFound", "service not found: 'mongodb-atlas'");
}

#[test]
fn malformed_calls_are_rejected() {
    let (_server, client, user) = start();
    for body in ["", "[]", "{", r#"{"name":1}"#, r#"{"name":"echo","arguments":{}}"#] {
        let answer = client.send("POST", &client.app("/functions/call"), Some(&user.access), body);
        answer.assert_error(400, "BadRequest", "invalid function call request");
    }
}

#[test]
fn panic_returns_500_and_server_continues() {
    let (_server, client, user) = start();
    for _ in 0..3 {
        let answer = client.call(&user.access, "panic", &json!([]));
        answer.assert_error(500, "InternalServerError", "internal server error");
        assert_eq!(client.call(&user.access, "echo", &json!([1])).status, 200);
    }
}

#[test]
fn concurrent_users_get_own_results() {
    let (_server, client, _) = start();
    std::thread::scope(|scope| {
        for number in 0..8_i64 {
            let client = &client;
            scope.spawn(move || {
                let user = client.anonymous();
                for round in 0..20 {
                    let answer = client.call(&user.access, "sum", &json!([number, round]));
                    let sum = (number + round).to_string();
                    assert_eq!(answer.json(), json!({"$numberInt": sum}));
                }
                let me = client.call(&user.access, "whoami", &json!([])).json();
                assert_eq!(me["user_id"], user.user_id.as_str());
            });
        }
    });
}
