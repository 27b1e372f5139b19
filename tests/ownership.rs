//! Files belong to the owner of their directory, regardless of which user runs the program.
//! Requires root, which is needed to act as several users; otherwise each test reports that it was
//! skipped.

#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use keyfob::server::Server;

const ROOT: u32 = 0;
const ADA: u32 = 61_001;
const EVE: u32 = 61_002;
/// A group of both.
const GROUP: u32 = 61_003;

/// Ada's home and a backend.
struct Home {
    dir: PathBuf,
    server: Server,
}

impl Home {
    /// Returns `None`, and says why, if the tests do not run as root.
    fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Other users must reach it and the command in it.
        let name =
            format!("keyfob-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        if fs::metadata(&dir).unwrap().uid() != ROOT {
            fs::remove_dir(&dir).unwrap();
            eprintln!("skipped: {test} needs root, to act as two users");
            return None;
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        // In another process, since a child of another test would hold the file open for writing.
        copy(Path::new(env!("CARGO_BIN_EXE_keyfob")), &dir.join("keyfob"));
        let home = dir.join("ada");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(ADA), Some(ADA)).unwrap();
        let server = Server::builder().built_in_functions().start().unwrap();
        Some(Self { dir, server })
    }

    fn home(&self) -> PathBuf {
        self.dir.join("ada")
    }

    /// The command as a user, at home at Ada's.
    fn command(&self, uid: u32, words: &[&str]) -> Command {
        let mut command = Command::new(self.dir.join("keyfob"));
        if uid != ROOT {
            // Groups of root are given up with the user.
            command.uid(uid).gid(if uid == EVE { GROUP } else { uid });
        }
        self.configure(&mut command, words);
        command
    }

    fn configure(&self, command: &mut Command, words: &[&str]) {
        command.args(words).env("HOME", self.home()).env_remove("XDG_DATA_HOME");
        command.env_remove("KEYFOB_STORE").current_dir(&self.dir);
        command.env("KEYFOB_APP_ID", self.server.app_id());
        command.env("KEYFOB_BASE_URL", self.server.base_url());
    }

    fn try_run(&self, uid: u32, words: &[&str]) -> Output {
        output(self.command(uid, words), "")
    }

    fn run(&self, uid: u32, words: &[&str]) -> String {
        succeeded(self.try_run(uid, words), words)
    }

    /// Ada's data directory.
    fn data(&self) -> PathBuf {
        self.home().join(".local/share/keyfob")
    }

    /// The directory of the only store in it.
    fn store(&self) -> PathBuf {
        let entries = fs::read_dir(self.data()).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| path.is_dir()).unwrap()
    }

    /// Finds that everything is Ada's.
    fn check(&self) {
        for (path, (uid, _)) in tree(&self.home()) {
            assert_eq!(uid, ADA, "{}", path.display());
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn output(mut command: Command, input: &str) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn succeeded(output: Output, words: &[&str]) -> String {
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Finds that the store could not be used, and returns the message.
fn refused(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{message}");
    message
}

/// All that is in a directory: who it belongs to, and its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let metadata = fs::symlink_metadata(dir).unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(dir).unwrap() {
            found.append(&mut tree(&entry.unwrap().path()));
        }
    }
    let content = if metadata.is_file() { fs::read(dir).unwrap() } else { Vec::new() };
    found.insert(dir.to_owned(), (metadata.uid(), content));
    found
}

#[test]
fn store_used_by_root_keeps_owner() {
    let Some(home) = Home::new("store_used_by_root_keeps_owner") else { return };
    home.run(ADA, &["login", "--anonymous"]);
    for words in [
        &["login", "--anonymous", "--new"][..],
        &["call", "whoami"],
        &["users"],
        &["logout"],
        &["login", "--anonymous"],
        &["whoami"],
    ] {
        home.run(ROOT, words);
        home.check();
        home.run(ADA, &["users"]);
    }
    home.run(ADA, &["login", "--anonymous", "--new"]);
    home.run(ADA, &["call", "whoami"]);
    home.check();
}

/// `sudo` with the home of who called it.
#[test]
fn first_use_by_root_gives_files_to_owner() {
    let Some(home) = Home::new("first_use_by_root_gives_files_to_owner") else { return };
    assert_eq!(home.try_run(ROOT, &["whoami"]).status.code(), Some(3));
    assert_eq!(tree(&home.home()).len(), 1, "nothing was created");
    home.run(ROOT, &["login", "--anonymous"]);
    home.check();
    home.run(ADA, &["whoami"]);
    home.run(ADA, &["login", "--anonymous", "--new"]);
    home.check();
}

#[test]
fn root_without_chown_is_rejected() {
    let Some(home) = Home::new("root_without_chown_is_rejected") else { return };
    let attempt = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        // Root of a container without the right to change owners.
        command.args(["--bounding-set=-chown", "--inh-caps=-chown"]).arg(home.dir.join("keyfob"));
        home.configure(&mut command, words);
        refused(&output(command, ""))
    };
    let message = attempt(&["login", "--anonymous"]);
    assert!(message.contains(&format!("run it as user {ADA}")), "{message}");
    assert_eq!(tree(&home.home()).len(), 1, "nothing was created");

    home.run(ADA, &["login", "--anonymous"]);
    let before = tree(&home.home());
    for words in [&["login", "--anonymous", "--new"][..], &["logout"]] {
        let message = attempt(words);
        assert!(message.contains(&format!("run it as user {ADA}")), "{message}");
        assert_eq!(tree(&home.home()), before, "nothing was changed");
    }
    home.run(ADA, &["logout"]);
}

/// Ada wants a file of root's, or to have it overwritten.
#[test]
fn planted_links_are_not_followed() {
    let Some(home) = Home::new("planted_links_are_not_followed") else { return };
    home.run(ADA, &["login", "--anonymous"]);
    let (saved, victim) = (home.dir.join("saved"), home.dir.join("victim"));
    copy(&home.data(), &saved);
    let store = home.store();
    let inside = |name: &str| store.join(name);
    let snap = fs::read_dir(inside("db.0")).unwrap().map(|entry| entry.unwrap().path());
    let snap = snap.into_iter().find(|path| path.to_string_lossy().contains("snap."));
    let mut names = vec![inside("generation"), inside("lock"), inside("lock.next")];
    names.extend([inside("snapshot"), inside("snapshot.tmp"), inside("owner.tmp")]);
    names.extend([inside("db.0/db"), inside("db.0/conf"), inside("db.0/snap.0000000000000001")]);
    names.extend(snap);
    names.extend([home.data().join("key.lock"), home.data().join("key.tmp")]);
    for name in names {
        for hard in [false, true] {
            fs::write(&victim, "root's own secret, more than 32 bytes of it").unwrap();
            fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
            let _ = fs::remove_file(&name);
            if hard {
                fs::hard_link(&victim, &name).unwrap();
            } else {
                symlink(&victim, &name).unwrap();
            }
            // Refused, or the link was replaced.
            home.try_run(ROOT, &["login", "--anonymous", "--new"]);
            home.try_run(ROOT, &["logout"]);
            let metadata = fs::metadata(&victim).unwrap();
            let what = format!("{} {hard}", name.display());
            assert_eq!((metadata.uid(), metadata.mode() & 0o777), (ROOT, 0o600), "{what}");
            let content = fs::read_to_string(&victim).unwrap();
            assert_eq!(content, "root's own secret, more than 32 bytes of it", "{what}");
            fs::remove_dir_all(home.data()).unwrap();
            copy(&saved, &home.data());
        }
    }
}

/// Copies a file or directory with its owners.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[test]
fn file_of_root_is_named() {
    let Some(home) = Home::new("file_of_root_is_named") else { return };
    home.run(ADA, &["login", "--anonymous"]);
    for name in ["generation", "lock", "snapshot", "db.0/db"] {
        let file = home.store().join(name);
        chown(&file, Some(ROOT), Some(ROOT)).unwrap();
        let message = refused(&home.try_run(ADA, &["login", "--anonymous", "--new"]));
        assert!(message.contains(&*file.to_string_lossy()), "{message}");
        assert!(message.contains(&format!("(chown {ADA})")), "{message}");
        chown(&file, Some(ADA), Some(ADA)).unwrap();
    }
    home.run(ADA, &["login", "--anonymous", "--new"]);
}

#[test]
fn other_group_member_is_rejected() {
    let Some(home) = Home::new("other_group_member_is_rejected") else { return };
    let shared = home.dir.join("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, Some(ADA), Some(GROUP)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o2770)).unwrap();
    let at = ["--store", shared.to_str().unwrap()];
    let words = |words: &[&'static str]| [&at[..], words].concat();
    // Before there is a store, and after.
    for _ in 0..2 {
        let before = tree(&shared);
        let message = refused(&home.try_run(EVE, &words(&["login", "--anonymous"])));
        assert!(message.contains(&*shared.to_string_lossy()), "{message}");
        assert_eq!(tree(&shared), before);
        home.run(ADA, &words(&["login", "--anonymous"]));
        for (path, _) in tree(&shared) {
            let mode = if path.is_dir() { 0o2770 } else { 0o660 };
            chown(&path, None, Some(GROUP)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(shared.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    home.run(ADA, &words(&["login", "--anonymous", "--new"]));
}

/// A volume of a container, which root has made and others may write.
#[test]
fn directory_of_root_is_shared() {
    let Some(home) = Home::new("directory_of_root_is_shared") else { return };
    let volume = home.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    chown(&volume, Some(ROOT), Some(GROUP)).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o2775)).unwrap();
    let at = ["--store", volume.to_str().unwrap()];
    for words in [&["login", "--anonymous"][..], &["call", "whoami"], &["logout"]] {
        home.run(EVE, &[&at[..], words].concat());
    }
}

#[test]
fn server_run_by_root_keeps_owner() {
    let Some(home) = Home::new("server_run_by_root_keeps_owner") else { return };
    let data = home.home().join("backend");
    let serve = |uid: u32| {
        let mut command =
            home.command(uid, &["--json", "serve", "--addr", "127.0.0.1:0", "--data"]);
        command.arg(&data).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut serve = command.spawn().unwrap();
        let mut first = String::new();
        let stdout = std::io::BufReader::new(serve.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut { stdout }, &mut first).unwrap();
        let first: serde_json::Value = serde_json::from_str(&first).unwrap();
        let at = ["--base-url", first["base_url"].as_str().unwrap(), "--store"];
        let store = home.dir.join(format!("client-{uid}"));
        let login = ["login", "--anonymous", "--new"];
        home.run(ROOT, &[&at[..], &[store.to_str().unwrap()], &login].concat());
        serve.kill().unwrap();
        serve.wait().unwrap();
        for (path, (uid, _)) in tree(&data) {
            assert_eq!(uid, ADA, "{}", path.display());
        }
    };
    // The first one creates the directory.
    for uid in [ROOT, ADA, ROOT, ADA] {
        serve(uid);
    }
    let victim = home.dir.join("victim");
    fs::write(&victim, "0").unwrap();
    fs::remove_file(data.join("lock")).unwrap();
    symlink(&victim, data.join("lock")).unwrap();
    let words = ["serve", "--addr", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let message = refused(&home.try_run(ROOT, &words));
    assert!(message.contains("is a link"), "{message}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "0");
}
