//! What is kept in a data directory, and how.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use keyfob::Deadline;
use keyfob::server::{AuthFunctionAnswer, Confirmation, MailKind, Server, ServerBuilder};
use serde_json::{Value, json};

use crate::client::{Client, LogIn, ManualClock, providers};

/// A directory that is gone when the test is over.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("keyfob-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }

    /// The database in it, as sled alone has it. Another test's child may hold a copy of its file,
    /// and sled's lock with it, until it has become another program.
    pub fn sled(&self) -> sled::Db {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            match sled::open(self.0.join("db")) {
                Err(sled::Error::Io(error))
                    if error.to_string().contains("could not acquire lock")
                        && Instant::now() < limit =>
                {
                    std::thread::yield_now();
                }
                opened => return opened.unwrap(),
            }
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn builder(dir: &TempDir) -> ServerBuilder {
    Server::builder().data_dir(&dir.0)
}

#[test]
fn users_sessions_and_tokens_survive_restart() {
    let dir = TempDir::new("restart");
    let server = builder(&dir).start().unwrap();
    let client = Client::new(&server);
    let (ada, anonymous, gone) = (client.ada(), client.anonymous(), client.anonymous());
    let profile = client.profile(&ada.access).json();
    client.log_out(&gone.refresh);
    server.disable_user(&anonymous.user_id).unwrap();
    server.shut_down();

    let server = builder(&dir).start().unwrap();
    let client = Client::new(&server);
    assert_eq!(client.profile(&ada.access).json(), profile, "the same key signs");
    assert_eq!(client.refresh(&ada.refresh).status, 201);
    assert_eq!(client.refresh(&gone.refresh).status, 401, "a log-out is for good");
    assert_eq!(client.refresh(&anonymous.refresh).status, 401, "disabled stays disabled");
    server.enable_user(&anonymous.user_id).unwrap();
    assert_eq!(client.refresh(&anonymous.refresh).status, 201);
    let again = LogIn::read(&client.try_password("ada@example.org", "hunter22"));
    assert_eq!(again.user_id, ada.user_id);
    assert_eq!(client.register("ada@example.org", "hunter22").status, 409);
}

#[test]
fn links_keys_and_deletions_survive_restart() {
    let dir = TempDir::new("more");
    let start = || {
        let builder = builder(&dir).server_api_key("cron", "0123456789abcdef");
        builder.auth_function(|_| Ok(AuthFunctionAnswer::new("ada"))).start().unwrap()
    };
    let server = start();
    let client = Client::new(&server);
    let ada = client.ada();
    assert_eq!(client.link(&ada.access, "custom-function", &json!({})).status, 200);
    let key = |name: &str| client.create_key(&ada.refresh, name).json();
    let (good, disabled, deleted) = (key("good"), key("disabled"), key("deleted"));
    let path = |key: &serde_json::Value| format!("/auth/api_keys/{}", key["_id"].as_str().unwrap());
    client.send("PUT", &format!("{}/disable", path(&disabled)), Some(&ada.refresh), "");
    client.send("DELETE", &path(&deleted), Some(&ada.refresh), "");
    let list = client.send("GET", "/auth/api_keys", Some(&ada.refresh), "").json();
    server.set_custom_data(&ada.user_id, Some(json!({"likes": "tea"}))).unwrap();
    let cron = client.log_in("api-key", &json!({"key": "0123456789abcdef"}));
    client.register("bob", "hunter22");
    let bob = LogIn::read(&client.try_password("bob", "hunter22"));
    assert_eq!(client.delete_user(&bob.access).status, 204);
    server.shut_down();

    let server = start();
    let client = Client::new(&server);
    assert_eq!(client.log_in("custom-function", &json!({})).user_id, ada.user_id);
    assert_eq!(client.send("GET", "/auth/api_keys", Some(&ada.refresh), "").json(), list);
    assert_eq!(client.log_in("api-key", &json!({"key": good["key"]})).user_id, ada.user_id);
    for key in [disabled, deleted] {
        assert_eq!(
            client.try_log_in("api-key", &json!({"key": key["key"]}).to_string()).status,
            401
        );
    }
    let profile = client.profile(&ada.access);
    assert_eq!(providers(&profile), ["local-userpass", "custom-function", "api-key"]);
    let again = client.log_in("api-key", &json!({"key": "0123456789abcdef"}));
    assert_eq!(again.user_id, cron.user_id);
    assert_eq!(client.profile(&again.access).json()["type"], "server");
    assert_eq!(client.try_password("bob", "hunter22").error().1, "InvalidPassword");
    assert_eq!(client.profile(&bob.access).error().1, "InvalidSession");
    let access = client.refresh(&ada.refresh).json()["access_token"].clone();
    server.set_custom_data(&ada.user_id, None).unwrap();
    let without = client.refresh(&ada.refresh).json()["access_token"].clone();
    assert!(access.as_str().unwrap().len() > without.as_str().unwrap().len());
}

#[test]
fn unconfirmed_accounts_survive_restart() {
    let dir = TempDir::new("pending");
    let start = || builder(&dir).confirmation(Confirmation::Email).start().unwrap();
    let server = start();
    Client::new(&server).register("ada@example.org", "hunter22");
    let now = Deadline::after(Duration::ZERO);
    let mail = server.wait_for_mail("ada@example.org", MailKind::Confirmation, now).unwrap();
    server.shut_down();
    let server = start();
    let client = Client::new(&server);
    assert_eq!(client.try_password("ada@example.org", "hunter22").error().1, "AuthError");
    let tokens = json!({"token": mail.token.expose(), "tokenId": mail.token_id});
    assert_eq!(client.email("confirm", &tokens).status, 200);
    server.shut_down();
    let server = start();
    assert_eq!(Client::new(&server).try_password("ada@example.org", "hunter22").status, 200);
}

#[test]
fn unreadable_values_are_not_stored() {
    let dir = TempDir::new("unreadable");
    let start = || {
        let asked = |payload: &Value| {
            let name = payload["name"].as_str().unwrap_or("name");
            Ok(AuthFunctionAnswer::new("x").data(name, payload["value"].clone()))
        };
        builder(&dir).auth_function(asked).start().unwrap()
    };
    let server = start();
    let client = Client::new(&server);
    let name = "$serde_json::private::RawValue";
    let deep = (0..125).fold(json!(1), |value, _| json!([value]));
    for unreadable in [json!({"value": deep}), json!({"name": name, "value": "{}"})] {
        let answer = client.try_log_in("custom-function", &unreadable.to_string());
        assert_eq!(answer.status, 500, "{answer:?}");
    }
    let user = client.ada();
    for unreadable in [json!({"a": deep}), json!({name: "{}"})] {
        let error = server.set_custom_data(&user.user_id, Some(unreadable)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    server.shut_down();
    let server = start();
    assert_eq!(Client::new(&server).profile(&user.access).status, 200);
}

#[test]
fn rotated_token_keeps_successor_after_restart() {
    let dir = TempDir::new("rotation");
    let clock = ManualClock::new();
    let start = || builder(&dir).clock(clock.clone()).rotate_refresh_tokens(true).start().unwrap();
    let server = start();
    let old = Client::new(&server).anonymous();
    let new = Client::new(&server).refresh(&old.refresh).json()["refresh_token"].clone();
    server.shut_down();
    clock.advance(59);
    let server = start();
    let again = Client::new(&server).refresh(&old.refresh).json()["refresh_token"].clone();
    assert!(new.is_string());
    assert_eq!(again, new);
}

#[test]
fn expired_sessions_are_removed() {
    let dir = TempDir::new("expiry");
    let clock = ManualClock::new();
    let lifetime = Duration::from_secs(1000);
    let server =
        builder(&dir).clock(clock.clone()).refresh_token_lifetime(lifetime).start().unwrap();
    let client = Client::new(&server);
    for _ in 0..10 {
        client.anonymous();
    }
    clock.advance(1001);
    client.anonymous();
    server.shut_down();
    let db = dir.sled();
    assert_eq!(db.scan_prefix("s/").count(), 1);
}

#[test]
fn directory_is_locked_by_one_server() {
    let dir = TempDir::new("lock");
    let first = builder(&dir).start().unwrap();
    let error = builder(&dir).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(error.to_string().contains("in use by another server"), "{error}");
    first.shut_down();
    builder(&dir).start().unwrap();
}

#[test]
fn directory_of_other_app_is_rejected() {
    let dir = TempDir::new("app");
    builder(&dir).app_id("one").start().unwrap();
    let error = builder(&dir).app_id("two").start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("\"one\""), "{error}");
    builder(&dir).app_id("one").start().unwrap();
}

#[cfg(unix)]
#[test]
fn files_are_private_to_owner() {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    let dir = TempDir::new("modes");
    let server = builder(&dir).start().unwrap();
    Client::new(&server).ada();
    server.shut_down();
    // As after a restore from a backup.
    for (path, mode) in [("db", 0o755), ("db/db", 0o644), ("signing-key", 0o644)] {
        fs::set_permissions(dir.0.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let server = builder(&dir).start().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.0), 0o700);
    assert_eq!(mode(&dir.0.join("db")), 0o700);
    for file in ["signing-key", "lock", "db/db", "db/conf"] {
        assert_eq!(mode(&dir.0.join(file)), 0o600, "{file}");
    }
    drop(server);
}

#[test]
fn disk_has_no_passwords_or_tokens() {
    let dir = TempDir::new("secrets");
    let server = builder(&dir).start().unwrap();
    let client = Client::new(&server);
    client.register("ada@example.org", "correct horse battery");
    let user = LogIn::read(&client.try_password("ada@example.org", "correct horse battery"));
    let key = client.create_key(&user.refresh, "key").json()["key"].as_str().unwrap().to_owned();
    client.email("reset/send", &json!({"email": "ada@example.org"}));
    let mail = server.outbox().remove(0);
    server.shut_down();
    let mut files = 0;
    let mut open = vec![dir.0.clone()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        files += 1;
        let bytes = fs::read(&path).unwrap();
        let secrets = [
            "correct horse",
            user.access.as_str(),
            user.refresh.as_str(),
            key.as_str(),
            mail.token.expose(),
        ];
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} in {}", path.display());
        }
    }
    assert!(files >= 4);
}

#[test]
fn invalid_signing_key_is_rejected() {
    let dir = TempDir::new("key");
    builder(&dir).start().unwrap();
    fs::write(dir.0.join("signing-key"), "short").unwrap();
    let error = builder(&dir).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains("signing-key"), "{error}");
    fs::remove_file(dir.0.join("signing-key")).unwrap();
    builder(&dir).start().unwrap();
}

#[test]
fn server_starts_after_kill() {
    let dir = TempDir::new("leftover");
    let server = builder(&dir).start().unwrap();
    let user = Client::new(&server).ada();
    server.shut_down();
    fs::write(dir.0.join("db/snap.0000000000000001.generating"), "half").unwrap();
    fs::write(dir.0.join("signing-key.tmp"), "half").unwrap();
    let server = builder(&dir).start().unwrap();
    assert_eq!(Client::new(&server).refresh(&user.refresh).status, 201);
}

/// Runs this test once more in a process of its own, which aborts right after its last answer: no
/// thread is joined, nothing is dropped, nothing is flushed.
#[test]
fn acknowledged_changes_survive_abort() {
    const CHILD: &str = "KEYFOB_TEST_ABORT_DIR";
    if let Some(dir) = std::env::var_os(CHILD) {
        let server = Server::builder().data_dir(dir).start().unwrap();
        let client = Client::new(&server);
        let gone = client.anonymous();
        let ada = client.ada();
        client.log_out(&gone.refresh);
        println!("\n{} {}", ada.refresh, gone.refresh);
        std::process::abort();
    }
    let dir = TempDir::new("abort");
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "data_dir::acknowledged_changes_survive_abort", "--nocapture"])
        .env(CHILD, &dir.0)
        .output()
        .unwrap();
    assert!(!child.status.success(), "the child was to abort");
    let text = String::from_utf8(child.stdout).unwrap();
    let tokens = text.lines().find(|line| line.starts_with("eyJ")).expect(&text);
    let (ada, gone) = tokens.split_once(' ').unwrap();

    let server = builder(&dir).start().unwrap();
    let client = Client::new(&server);
    assert_eq!(client.refresh(ada).status, 201);
    assert_eq!(client.refresh(gone).status, 401);
    assert_eq!(client.try_password("ada@example.org", "hunter22").status, 200);
}

#[test]
fn concurrent_logins_are_all_stored() {
    let dir = TempDir::new("parallel");
    let server = builder(&dir).start().unwrap();
    let client = Client::new(&server);
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let log_in = || (0..5).map(|_| client.anonymous().refresh).collect::<Vec<_>>();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(log_in)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    server.shut_down();
    let server = builder(&dir).start().unwrap();
    let client = Client::new(&server);
    assert_eq!(tokens.len(), 40);
    for token in tokens {
        assert_eq!(client.refresh(&token).status, 201);
    }
}

#[test]
fn uncreatable_directory_is_named() {
    let dir = TempDir::new("file");
    fs::write(&dir.0, "not a directory").unwrap();
    for path in [dir.0.clone(), dir.0.join("below")] {
        let error = Server::builder().data_dir(&path).start().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory));
        let text = error.to_string();
        let start = format!("the data directory {} cannot be used: ", path.display());
        assert!(text.starts_with(&start), "{text}");
    }
    fs::remove_file(&dir.0).unwrap();
}
