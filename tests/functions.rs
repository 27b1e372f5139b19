//! Function calls: the requests, and the types that a result can be deserialised to.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;

#[cfg(feature = "bson")]
use keyfob::transport::{Request, Response, Transport};
use keyfob::{Error, ServerErrorCode, TransportErrorKind};
use serde_json::{Value, json};
use support::*;

#[test]
fn arguments_are_canonical_extended_json() {
    let (script, _, _, user) = logged_in();
    script.reply(CALL, 200, Value::Null);
    let functions = user.functions();
    functions.call::<()>("f", ()).unwrap();
    functions.call::<()>("f", (1, "x", 1.5)).unwrap();
    functions.call::<()>("f", [1_i64 << 40]).unwrap();
    functions.call::<()>("f", vec![json!({"a": [null, true]})]).unwrap();
    functions.call::<()>("f", &[Value::from(1), 2.into()]).unwrap();
    let sent: Vec<_> = script.sent().into_iter().map(|sent| sent.body.unwrap()).collect();
    let int = |n: i32| json!({"$numberInt": n.to_string()});
    for (sent, arguments) in sent.iter().zip([
        json!([]),
        json!([int(1), "x", {"$numberDouble": "1.5"}]),
        json!([{"$numberLong": "1099511627776"}]),
        json!([{"a": [null, true]}]),
        json!([int(1), int(2)]),
    ]) {
        assert_eq!(*sent, json!({"name": "f", "arguments": arguments}));
    }
}

#[test]
fn arguments_beyond_bson_are_errors() {
    let (script, _, _, user) = logged_in();
    let error = user.functions().call::<()>("f", [u64::MAX]).unwrap_err();
    assert!(matches!(error, Error::Decode(_)), "{error}");
    assert_eq!(script.routes(), Vec::<String>::new());
}

#[test]
fn unit_result_accepts_anything() {
    let (script, _, _, user) = logged_in();
    for result in [json!(null), json!(7), json!("text"), json!({"a": [1, {"$oid": "5f"}]})] {
        script.reply(CALL, 200, result);
        user.functions().call::<()>("f", ()).unwrap();
    }
}

#[test]
fn wrong_result_names_its_path() {
    let (script, _, _, user) = logged_in();
    script.reply(CALL, 200, json!({"items": [{"name": "tea"}, {"name": 7}]}));
    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code, reason = "it is never read")]
    struct Item {
        name: String,
    }
    let result = user.functions().call::<std::collections::BTreeMap<String, Vec<Item>>>("f", ());
    assert_eq!(
        result.unwrap_err().to_string(),
        "the result of function `f` cannot be read: \
         expected a string, got a number at `items[1].name`"
    );
    script.reply(CALL, 200, json!({"$numberInt": "7"}));
    assert_eq!(
        user.functions().call::<String>("f", ()).unwrap_err().to_string(),
        "the result of function `f` cannot be read: expected a string, got a number"
    );
}

#[test]
fn result_is_parsed_as_requested_type() {
    let (script, _, _, user) = logged_in();
    script.reply(CALL, 200, json!({"n": {"$numberLong": "5"}, "m": 2.5}));
    let functions = user.functions();
    let map: BTreeMap<String, f64> = functions.call("f", ()).unwrap();
    assert_eq!(map, BTreeMap::from([("m".into(), 2.5), ("n".into(), 5.0)]));
    assert_eq!(functions.call::<Value>("f", ()).unwrap(), json!({"n": 5, "m": 2.5}));
    assert_eq!(functions.call_text("f", ()).unwrap(), r#"{"m":2.5,"n":{"$numberLong":"5"}}"#);
    let error = functions.call::<Vec<i32>>("f", ()).unwrap_err();
    assert!(error.to_string().starts_with("the result of function `f` cannot be read"), "{error}");
}

#[test]
fn undefined_is_null_everywhere() {
    let (script, _, _, user) = logged_in();
    let undefined = json!({"$undefined": true});
    script.reply(CALL, 200, undefined.clone());
    assert_eq!(user.functions().call::<Option<i64>>("f", ()).unwrap(), None);
    user.functions().call::<()>("f", ()).unwrap();
    script.reply(CALL, 200, json!({"a": undefined, "b": [1, undefined], "c": "$undefined"}));
    #[derive(serde::Deserialize)]
    struct Answer {
        a: Option<i64>,
        b: Vec<Option<i64>>,
        c: String,
    }
    let Answer { a, b, c } = user.functions().call("f", ()).unwrap();
    assert_eq!((a, b, &*c), (None, vec![Some(1), None], "$undefined"));
    let value: Value = user.functions().call("f", ()).unwrap();
    assert_eq!(value, json!({"a": null, "b": [1, null], "c": "$undefined"}));
}

#[test]
fn result_with_error_field_is_result() {
    let (script, _, _, user) = logged_in();
    script.reply(CALL, 200, json!({"error": "none", "error_code": "InvalidSession"}));
    let result: Value = user.functions().call("f", ()).unwrap();
    assert_eq!(result["error"], "none");
}

#[test]
fn function_error_has_message_and_code() {
    let (script, _, _, user) = logged_in();
    script.reply(CALL, 404, error_body("FunctionNotFound", "function not found: 'f'"));
    let error = user.functions().call::<()>("f", ()).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::FunctionNotFound));
    assert_eq!(
        error.to_string(),
        "the backend refused to call the function: function not found: 'f' (status 404, FunctionNotFound)"
    );
    let Error::Server(error) = error else { panic!("{error}") };
    assert_eq!(error.log_link.as_deref(), Some("http://log"));
}

#[test]
fn lost_response_is_ambiguous_and_not_repeated() {
    let (script, _, _, user) = logged_in();
    script.fail(CALL, TransportErrorKind::Interrupted);
    assert!(user.functions().call::<()>("f", ()).unwrap_err().is_ambiguous());
    assert_eq!(script.count(CALL), 1);
}

#[cfg(feature = "bson")]
#[test]
fn bson_types_round_trip() {
    use bson::{Bson, doc, oid::ObjectId};
    let (script, _, _, user) = logged_in();
    script.on(CALL, |sent| Ok(json_answer(200, &sent.body.as_ref().unwrap()["arguments"][0])));
    let value = Bson::Document(doc! {
        "int": 1_i32, "long": 1_i64, "double": 1.0, "none": Bson::Null,
        "id": ObjectId::from_bytes([7; 12]), "list": [true, "x"],
        "date": bson::DateTime::from_millis(-5),
        "bytes": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2] },
        "decimal": Bson::Decimal128("1.50".parse().unwrap()),
    });
    assert_eq!(user.functions().call_bson("echo", std::slice::from_ref(&value)).unwrap(), value);
    assert_eq!(
        script.sent()[0].body.as_ref().unwrap()["arguments"][0]["int"],
        json!({"$numberInt": "1"})
    );
    script.on(CALL, |_| Ok(Response::new(200, "")));
    assert_eq!(user.functions().call_bson("f", &[]).unwrap(), Bson::Null);
    script.on(CALL, |_| Ok(Response::new(200, r#"{"$oid":"SECRET"}"#)));
    let error = user.functions().call_bson("f", &[]).unwrap_err();
    assert!(matches!(error, Error::Decode(_)) && !error.to_string().contains("SECRET"), "{error}");
}

#[cfg(feature = "bson")]
#[test]
fn bson_keeps_field_order() {
    use bson::{Bson, doc};
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let logins = script.clone();
    // Sends the text of the arguments back.
    let echo = move |request: &Request| match request.body() {
        Some(body) if request.url().ends_with("/functions/call") => {
            let body = std::str::from_utf8(body).unwrap();
            let arguments = body.strip_prefix(r#"{"arguments":"#).unwrap();
            Ok(Response::new(200, arguments.strip_suffix(r#","name":"echo"}"#).unwrap()))
        }
        _ => logins.send(request),
    };
    let session = builder(&script, &clock).transport(echo).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    let sort = [Bson::Document(doc! {"$sort": {"zeta": 1, "alpha": -1}})];
    assert_eq!(
        user.functions().call_bson("echo", &sort).unwrap().to_string(),
        Bson::Array(sort.to_vec()).to_string()
    );
}
