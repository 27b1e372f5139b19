//! Eight concurrent build scripts, run by cargo, share one store and one login.

#![cfg(feature = "server")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use keyfob::server::{Route, Server};
use keyfob::{Secret, Session};
use support::Dir;

/// Writes a workspace of crates that all have the fixture's build script.
fn write_workspace(dir: &Path, crates: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut members = String::new();
    for number in 0..crates {
        let member = dir.join(format!("member{number}"));
        std::fs::create_dir_all(&member).unwrap();
        for file in ["build.rs", "lib.rs"] {
            std::fs::copy(root.join("tests/build_script").join(file), member.join(file)).unwrap();
        }
        let manifest = format!(
            "[package]\nname = \"member{number}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             [lib]\npath = \"lib.rs\"\n[build-dependencies]\nkeyfob = {{ path = '{}' }}\n",
            root.display()
        );
        std::fs::write(member.join("Cargo.toml"), manifest).unwrap();
        write!(members, "\"member{number}\", ").unwrap();
    }
    let manifest = format!("[workspace]\nresolver = \"3\"\nmembers = [{members}]\n");
    std::fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    // The versions that are here already.
    std::fs::copy(root.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
}

#[test]
fn concurrent_build_scripts_share_store() {
    let dir = Dir::new();
    let server = Server::builder().built_in_functions().start().unwrap();
    let open = |store: &Path| {
        Session::builder(server.app_id(), server.base_url()).data_dir(store).open().unwrap()
    };
    let store = dir.path().join("store");
    let password = Secret::new("hunter22");
    open(&store).email_password().register("build@example.org", &password).unwrap();
    let workspace = dir.path().join("workspace");
    write_workspace(&workspace, 8);
    let built = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--jobs", "8"])
        .current_dir(&workspace)
        .env("CARGO_TARGET_DIR", workspace.join("target"))
        .env("KEYFOB_APP_ID", server.app_id())
        .env("KEYFOB_BASE_URL", server.base_url())
        .env("KEYFOB_STORE", &store)
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    server.journal().assert_count(Route::CallFunction, 8);
    // All of them were one user, who is here too.
    let users = open(&store).users().unwrap();
    assert_eq!(users.len(), 1);
    assert_eq!(users[0].functions().call::<i64>("sum", (1, 2)).unwrap(), 3);
}
