//! `keyfob --store redis://…` with a real redis-server: one login on two machines, and the sources
//! of passwords and keys.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod redis_support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keyfob::server::Server;
use redis_support::RedisServer;

/// A machine: a home directory of its own.
struct Machine<'a> {
    home: PathBuf,
    backend: &'a Server,
    store: String,
}

impl<'a> Machine<'a> {
    fn new(redis: &RedisServer, backend: &'a Server, name: &str) -> Self {
        let home = redis.dir().join(name);
        std::fs::create_dir_all(&home).unwrap();
        Self { home, backend, store: redis.url() }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyfob"));
        command
            .args(words)
            .env_clear()
            .env("HOME", &self.home)
            .env("KEYFOB_APP_ID", "keyfob-local")
            .env("KEYFOB_BASE_URL", self.backend.base_url())
            .env("KEYFOB_STORE_KEY_FILE", self.key_file())
            .args(["--store", &self.store, "--timeout", "20"]);
        command
    }

    fn key_file(&self) -> PathBuf {
        self.home.join("fleet.key")
    }

    fn run(&self, words: &[&str], input: &str) -> Output {
        run(self.command(words), input)
    }
}

fn run(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(both).unwrap()
}

fn succeed(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

fn backend() -> Server {
    Server::builder().built_in_functions().start().unwrap()
}

fn log_in(machine: &Machine<'_>) {
    succeed(&machine.run(&["register", "--email", "ada@example.org"], "hunter22"));
    succeed(&machine.run(&["login", "--email", "ada@example.org"], "hunter22"));
}

fn copy_key(from: &Machine<'_>, to: &Machine<'_>) {
    std::fs::copy(from.key_file(), to.key_file()).unwrap();
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
#[ignore = "needs redis-server"]
fn login_is_shared_with_other_machine() {
    let (redis, backend) = (RedisServer::start(), backend());
    let [first, second] = ["first", "second"].map(|name| Machine::new(&redis, &backend, name));
    log_in(&first);
    #[cfg(unix)]
    assert_eq!(mode(&first.key_file()), 0o600);
    copy_key(&first, &second);
    assert!(succeed(&second.run(&["call", "sum", "1", "2"], "")).contains('3'));
    succeed(&second.run(&["logout"], ""));
    assert_eq!(first.run(&["call", "sum", "1", "2"], "").status.code(), Some(3));
    // Nothing but the key was written on the machines.
    assert!(!second.home.join(".local").exists());
}

#[test]
#[ignore = "needs redis-server"]
fn other_key_is_refused() {
    let (redis, backend) = (RedisServer::start(), backend());
    let [first, second] = ["first", "second"].map(|name| Machine::new(&redis, &backend, name));
    log_in(&first);
    // Without a key file none is created: it could not be the right one.
    let output = second.run(&["whoami"], "");
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(!second.key_file().exists());
    std::fs::write(second.key_file(), [9; 32]).unwrap();
    #[cfg(unix)]
    redis_support::set_mode(&second.key_file(), 0o600);
    let output = second.run(&["whoami"], "");
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
}

#[test]
#[ignore = "needs redis-server"]
fn password_in_url_is_refused() {
    let (redis, backend) = (RedisServer::start(), backend());
    let mut machine = Machine::new(&redis, &backend, "first");
    machine.store = format!("redis://keyfob:hush@127.0.0.1:{}", redis.port());
    let output = machine.run(&["whoami"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(!text(&output).contains("hush"), "{}", text(&output));
    assert!(text(&output).contains("KEYFOB_REDIS_PASSWORD"), "{}", text(&output));
}

#[test]
#[ignore = "needs redis-server"]
fn password_comes_from_environment_or_file() {
    let redis = RedisServer::start();
    let backend = backend();
    let mut machine = Machine::new(&redis, &backend, "first");
    machine.store = format!("redis://keyfob@127.0.0.1:{}", redis.port());
    redis.run::<()>(&redis_support::ACL.replace("PASSWORD", "hush").split(' ').collect::<Vec<_>>());
    let with = |name: &str, value: &str| {
        let mut command = machine.command(&["users"]);
        command.env(name, value);
        run(command, "")
    };
    succeed(&with("KEYFOB_REDIS_PASSWORD", "hush"));
    let file = machine.home.join("password");
    std::fs::write(&file, "hush\n").unwrap();
    succeed(&with("KEYFOB_REDIS_PASSWORD_FILE", file.to_str().unwrap()));
    let output = with("KEYFOB_REDIS_PASSWORD", "wrong-one");
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(!text(&output).contains("wrong-one"), "{}", text(&output));
}

#[test]
#[ignore = "needs redis-server"]
fn unreachable_server_is_store_error() {
    let (mut redis, backend) = (RedisServer::start(), backend());
    let machine = Machine::new(&redis, &backend, "first");
    log_in(&machine);
    redis.kill();
    let output = machine.run(&["whoami"], "");
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains("cannot connect"), "{}", text(&output));
}
