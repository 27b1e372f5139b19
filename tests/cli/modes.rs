//! File systems on which the mode of a file cannot be set: the mount decides who may read.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{APP_ID, Backend, Place, Run, Running, finish, keyfob};

/// Logs in, refreshes, logs out, and keeps a backend's users, all on `dir`.
fn check(dir: &Path, command: impl Fn(&[&str]) -> Command) {
    let backend = Backend::start(&["--access-ttl", "1"]);
    let at = Place::new(&backend.base_url, dir.join("store"));
    let store = at.store.to_str().unwrap();
    let run = |words: &[&str]| -> Run {
        let at = ["--app-id", APP_ID, "--base-url", &at.base_url, "--store", store];
        let run = finish(command(&[&at[..], words].concat()), "");
        assert_eq!(run.code, 0, "{run:?}");
        run
    };
    run(&["login", "--anonymous"]);
    run(&["login", "--anonymous", "--new"]);
    run(&["call", "whoami"]);
    assert_eq!(run(&["users"]).stdout.lines().count(), 2);
    run(&["logout"]);
    assert_eq!(run(&["users"]).stdout.lines().count(), 1);
    // The same directory a second time, so that what is there is opened.
    for _ in 0..2 {
        let data = dir.join("backend");
        let serve = ["--json", "serve", "--addr", "127.0.0.1:0", "--data", data.to_str().unwrap()];
        let mut serving = Running::start(command(&serve));
        assert!(serving.stdout.next().contains("base_url"));
    }
}

/// As some network and FUSE file systems do.
#[test]
#[ignore = "needs strace"]
fn refused_chmod_is_no_error() {
    let backend = Backend::start(&[]);
    let dir = backend.place("chmod-store").store;
    check(&dir, |words| {
        let mut command = Command::new("strace");
        let plain = keyfob(words);
        // Detached: the child is the command itself, and killing it kills the command.
        command.args([
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=?chmod,?fchmod,?fchmodat",
        ]);
        command.args(["-e", "inject=?chmod,?fchmod,?fchmodat:error=EPERM"]);
        command.arg(plain.get_program()).args(plain.get_args());
        command
    });
}

/// On a FAT, or one that takes any mode and keeps its own.
#[test]
#[ignore = "needs KEYFOB_MODELESS_DISK"]
fn store_works_without_modes() {
    let disk = PathBuf::from(std::env::var_os("KEYFOB_MODELESS_DISK").expect("a directory"));
    check(&disk, keyfob);
}
