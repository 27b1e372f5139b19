//! A client we did not write: realm-web, unchanged, against the server.
//!
//! Runs with `KEYFOB_REALM_WEB=1`, Node.js on the path and `npm ci` done in `.ci/realm-web`.

#![cfg(feature = "server")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyfob::server::Server;

#[test]
fn realm_web_unchanged_works_with_the_server() {
    if std::env::var_os("KEYFOB_REALM_WEB").is_none_or(|value| value != "1") {
        println!("not asked for: set KEYFOB_REALM_WEB=1 to run realm-web against the server");
        return;
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/realm-web");
    assert!(
        dir.join("node_modules/realm-web").is_dir(),
        "realm-web is not installed: run `npm ci` in .ci/realm-web"
    );
    let server = Server::builder()
        .app_id("realm-web-abcde")
        .access_token_lifetime(Duration::from_secs(2))
        .built_in_functions()
        .start()
        .unwrap();
    let status = Command::new("node")
        .arg("test.mjs")
        .current_dir(&dir)
        .env("BASE_URL", server.base_url())
        .env("APP_ID", server.app_id())
        .env("ACCESS_TTL", "2")
        .env("NO_PROXY", "127.0.0.1")
        .status()
        .unwrap_or_else(|error| panic!("node cannot be run: {error}"));
    assert!(status.success(), "test.mjs failed: {status}; the journal: {:#?}", server.journal());
}
