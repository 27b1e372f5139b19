//! Deleting users.

use keyfob::server::Server;
use serde_json::json;

use crate::client::{Client, LogIn};

#[test]
fn deletion_removes_all_user_data() {
    let server = Server::builder().start().unwrap();
    let client = Client::new(&server);
    let (user, second) = (client.ada(), client.ada());
    let key = client.create_key(&user.refresh, "key").json()["key"].clone();
    let bystander = client.anonymous();

    let answer = client.delete_user(&user.access);
    assert_eq!((answer.status, answer.text.as_str()), (204, ""));
    for answer in [
        client.profile(&user.access),
        client.profile(&second.access),
        client.delete_user(&user.access),
        client.refresh(&user.refresh),
        client.refresh(&second.refresh),
        client.log_out(&user.refresh),
        client.create_key(&user.refresh, "other"),
    ] {
        assert_eq!((answer.status, answer.error().1.as_str()), (401, "InvalidSession"));
    }
    let answer = client.try_password("ada@example.org", "hunter22");
    answer.assert_error(401, "InvalidPassword", "unauthorized");
    let answer = client.try_log_in("api-key", &json!({"key": key}).to_string());
    answer.assert_error(401, "AuthError", "unauthorized");
    assert_eq!(server.revoke_sessions(&user.user_id).unwrap_err().to_string(), {
        "there is no user with this id"
    });
    assert_eq!(client.profile(&bystander.access).status, 200);

    assert_eq!(client.register("ada@example.org", "hunter23").status, 201);
    let again = LogIn::read(&client.try_password("ada@example.org", "hunter23"));
    assert_ne!(again.user_id, user.user_id);
}

#[test]
fn deletion_needs_access_token() {
    let server = Server::builder().start().unwrap();
    let client = Client::new(&server);
    let user = client.ada();
    let answer = client.send("DELETE", "/auth/delete", None, "");
    answer.assert_error(401, "MissingAuthReq", "must authenticate first");
    let wrong = "invalid access token: incorrect token type";
    client.delete_user(&user.refresh).assert_error(401, "InvalidSession", wrong);
    assert_eq!(client.profile(&user.access).status, 200);
    assert_eq!(client.send("GET", "/auth/delete", Some(&user.access), "").status, 405);
}
