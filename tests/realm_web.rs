//! A third-party client, realm-web, unmodified, with the server.
//!
//! Requires `-- --ignored`, Node.js on the path and `npm ci` in `.ci/realm-web`.

#![cfg(feature = "server")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfob::server::{
    AuthFunctionAnswer, Confirmation, CustomJwt, JwtKeys, MetadataField, Server, Verdict,
};
use serde_json::{Value, json};

const JWT_SECRET: &str = "a secret that the app's own backend shares";

/// The texts that the server hands out and test.mjs asks for, by what they are for.
type Shared = Arc<Mutex<HashMap<String, Value>>>;

fn server() -> Server {
    let (mails, documents) = (Shared::default(), Shared::default());
    let put = |shared: &Shared, key: &str, value: Value| {
        shared.lock().expect("no panic").insert(key.to_owned(), value);
    };
    let get = |shared: &Shared, key: &str| shared.lock().expect("no panic").get(key).cloned();
    let (confirmations, resets, asked) = (mails.clone(), mails.clone(), mails);
    let (set, source) = (documents.clone(), documents);
    Server::builder()
        .app_id("realm-web-abcde")
        .access_token_lifetime(Duration::from_secs(2))
        .built_in_functions()
        .confirmation(Confirmation::function(move |call| {
            let tokens = json!({"token": call.token.expose(), "tokenId": call.token_id});
            put(&confirmations, &call.username, tokens);
            match call.username.split('-').next() {
                Some("pending") => Verdict::Pending,
                Some("fail") => Verdict::Fail,
                _ => Verdict::Success,
            }
        }))
        .on_mail(move |mail| {
            let tokens = json!({"token": mail.token.expose(), "tokenId": mail.token_id});
            put(&resets, &mail.to, tokens);
        })
        .function("mailed", move |_, arguments| {
            let to = arguments.first().and_then(Value::as_str).unwrap_or_default();
            Ok(get(&asked, to).unwrap_or_default())
        })
        .custom_data(move |user_id| get(&source, user_id))
        .function("set_custom_data", move |context, arguments| {
            let data = arguments.first().cloned().unwrap_or_default();
            put(&set, context.user_id().as_str(), data);
            Ok(Value::Null)
        })
        .function("custom_data", |context, _| {
            Ok(context.custom_data().cloned().map_or(Value::Null, Value::Object))
        })
        .service_function("mongodb-atlas", "count", |_, _| Ok(json!(3)))
        .auth_function(|payload| match payload["name"].as_str() {
            Some(name) => Ok(AuthFunctionAnswer::new(name).data("name", name)),
            None => Err("who are you?".into()),
        })
        .custom_jwt(
            CustomJwt::new(JwtKeys::hs256(JWT_SECRET))
                .metadata_field(MetadataField::new("nick", "nick").required(true)),
        )
        .server_api_key("server", "a-server-key-for-tests")
        .start()
        .expect("a server")
}

#[test]
#[ignore = "needs Node.js, and `npm ci` in .ci/realm-web"]
fn unmodified_realm_web_works_with_server() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/realm-web");
    assert!(
        dir.join("node_modules/realm-web").is_dir(),
        "realm-web is not installed: run `npm ci` in .ci/realm-web"
    );
    let server = server();
    let status = Command::new("node")
        .arg("test.mjs")
        .current_dir(&dir)
        .env("BASE_URL", server.base_url())
        .env("APP_ID", server.app_id())
        .env("ACCESS_TTL", "2")
        .env("JWT_SECRET", JWT_SECRET)
        .env("NO_PROXY", "127.0.0.1")
        .status()
        .unwrap_or_else(|error| panic!("node cannot be run: {error}"));
    assert!(status.success(), "test.mjs failed: {status}; the journal: {:#?}", server.journal());
}
