//! Providers that are switched off.

use keyfob::server::{
    AuthFunctionAnswer, AuthProvider, Confirmation, CustomJwt, Facebook, Google, JwtKeys, Server,
};
use serde_json::{Value, json};

use crate::client::{Answer, Client};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[track_caller]
fn assert_unsupported(answer: &Answer, provider: &str) {
    let message = format!("authentication via '{provider}' is unsupported");
    answer.assert_error(404, "AuthProviderNotFound", &message);
}

#[test]
fn disabled_provider_rejects_logins_and_links() {
    for off in AuthProvider::ALL {
        let server = Server::builder()
            .auth_function(|_| Ok(AuthFunctionAnswer::new("ada")))
            .custom_jwt(CustomJwt::new(JwtKeys::hs256(SECRET)))
            .facebook(Facebook::new())
            .google(Google::new("web"))
            .server_api_key("cron", SECRET)
            .disable_provider(off)
            .start()
            .unwrap();
        let client = Client::new(&server);
        client.register("ada@example.org", "hunter22");
        let logins = [
            (AuthProvider::Anonymous, json!({})),
            (AuthProvider::ApiKey, json!({"key": SECRET})),
            (AuthProvider::CustomFunction, json!({})),
            (AuthProvider::EmailPassword, {
                json!({"username": "ada@example.org", "password": "hunter22"})
            }),
        ];
        for (provider, body) in &logins {
            let answer = client.try_log_in(provider.as_str(), &body.to_string());
            if *provider == off {
                assert_unsupported(&answer, off.as_str());
            } else {
                assert_eq!(answer.status, 200, "{provider:?} without {off:?}: {answer:?}");
            }
        }
        assert_unsupported(&client.try_log_in(off.as_str(), "{}"), off.as_str());
        let path = client.app(&format!("/auth/providers/{}/login?link=true", off.as_str()));
        assert_unsupported(&client.send("POST", &path, None, "{}"), off.as_str());
    }
}

#[test]
fn disabled_passwords_disable_their_accounts() {
    let server = Server::builder()
        .confirmation(Confirmation::Email)
        .disable_provider(AuthProvider::EmailPassword)
        .start()
        .unwrap();
    let client = Client::new(&server);
    let body = json!({"email": "ada", "password": "hunter22", "token": "0", "tokenId": "0"});
    for operation in
        ["register", "confirm", "confirm/call", "confirm/send", "reset", "reset/call", "reset/send"]
    {
        assert_unsupported(&client.email(operation, &body), "local-userpass");
    }
    assert_eq!(server.outbox(), []);
}

/// Keys that exist can be looked at and withdrawn, but neither made nor used.
#[test]
fn disabled_api_keys_can_be_withdrawn() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("switched-off-keys");
    let _ = std::fs::remove_dir_all(&dir);
    let server = Server::builder().data_dir(&dir).start().unwrap();
    let client = Client::new(&server);
    let user = client.ada();
    let key = client.create_key(&user.refresh, "key").json();
    let id = key["_id"].as_str().unwrap();
    let by_key = client.log_in("api-key", &json!({"key": key["key"]}));
    drop(server);

    let server = Server::builder().data_dir(&dir).disable_provider(AuthProvider::ApiKey);
    let server = server.start().unwrap();
    let client = Client::new(&server);
    let send = |method, path: &str| client.send(method, path, Some(&user.refresh), "");
    let log_in = json!({"key": key["key"]}).to_string();
    assert_unsupported(&client.try_log_in("api-key", &log_in), "api-key");
    assert_unsupported(&client.create_key(&user.refresh, "other"), "api-key");
    assert_unsupported(&send("PUT", &format!("/auth/api_keys/{id}/enable")), "api-key");
    assert_eq!(send("GET", "/auth/api_keys").json().as_array().map(Vec::len), Some(1));
    assert_eq!(send("PUT", &format!("/auth/api_keys/{id}/disable")).status, 204);
    assert_eq!(send("DELETE", &format!("/auth/api_keys/{id}")).status, 204);
    assert_eq!(client.refresh(&by_key.refresh).status, 201, "who is logged in stays so");
    drop(server);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn registration_can_be_disabled_separately() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-registration");
    let _ = std::fs::remove_dir_all(&dir);
    let server = Server::builder().data_dir(&dir).start().unwrap();
    Client::new(&server).register("ada@example.org", "hunter22");
    drop(server);

    let server = Server::builder().data_dir(&dir).disable_registration().start().unwrap();
    let client = Client::new(&server);
    for email in ["ada@example.org", "bob@example.org", ""] {
        client.register(email, "hunter22").assert_error(403, "", "registration is disabled");
    }
    assert_eq!(client.try_password("ada@example.org", "hunter22").status, 200);
    assert_eq!(client.email("reset/send", &json!({"email": "ada@example.org"})).status, 200);
    drop(server);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn provider_names_match_exported_apps() {
    let names: Vec<Value> = AuthProvider::ALL.iter().map(|one| json!(one.as_str())).collect();
    let expected = json!([
        "anon-user",
        "api-key",
        "oauth2-apple",
        "custom-function",
        "custom-token",
        "local-userpass",
        "oauth2-facebook",
        "oauth2-google"
    ]);
    assert_eq!(json!(names), expected);
}
