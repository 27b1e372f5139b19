//! The command in processes of its own: on a place, or serving one.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf, absolute};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, SystemTime};

use keyfob::{Clock, SystemClock};
use serde_json::{Value, json};

pub(crate) const APP_ID: &str = "test-app";
pub(crate) const EMAIL: &str = "ada@example.org";
pub(crate) const PASSWORD: &str = "hunter22-is-secret";

/// Longer than anything here takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory for one test, empty at first and gone afterwards.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
        let dir = absolute(dir).unwrap();
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `keyfob serve` in a process of its own, killed when it is dropped.
pub(crate) struct Backend {
    pub(crate) running: Running,
    pub(crate) base_url: String,
    dirs: std::cell::RefCell<Vec<Dir>>,
}

impl Backend {
    pub(crate) fn start(options: &[&str]) -> Self {
        let serve = ["--json", "--app-id", APP_ID, "serve", "--addr", "127.0.0.1:0"];
        let mut running = Running::start(keyfob(&[&serve[..], options].concat()));
        let first: Value = serde_json::from_str(&running.stdout.next()).unwrap();
        let base_url = first["base_url"].as_str().unwrap().to_owned();
        assert_eq!(first, json!({"base_url": base_url, "app_id": APP_ID}));
        Self { running, base_url, dirs: Vec::new().into() }
    }

    pub(crate) fn place(&self, name: &str) -> Place {
        let dir = Dir::new(name);
        let place = Place::new(&self.base_url, dir.0.clone());
        self.dirs.borrow_mut().push(dir);
        place
    }

    pub(crate) fn kill(&mut self) {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
    }
}

/// An app on a backend, and a store.
pub(crate) struct Place {
    pub(crate) app_id: String,
    pub(crate) base_url: String,
    pub(crate) store: PathBuf,
}

impl Place {
    pub(crate) fn new(base_url: &str, store: PathBuf) -> Self {
        Self { app_id: APP_ID.to_owned(), base_url: base_url.to_owned(), store }
    }

    /// The store's own directory.
    pub(crate) fn data(&self) -> PathBuf {
        let entries = fs::read_dir(&self.store).unwrap().map(|entry| entry.unwrap().path());
        let mut dirs = entries.filter(|path| path.is_dir());
        dirs.next().expect("a store")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = keyfob(&["--app-id", &self.app_id, "--base-url", &self.base_url]);
        command.arg("--store").arg(&self.store).args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.run_with("", arguments)
    }

    pub(crate) fn run_with(&self, input: &str, arguments: &[&str]) -> Run {
        finish(self.command(arguments), input)
    }

    /// Runs a command that must succeed, and returns the one value that it printed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.json_with("", arguments)
    }

    pub(crate) fn json_with(&self, input: &str, arguments: &[&str]) -> Value {
        self.run_with(input, &[&["--json"], arguments].concat()).json()
    }

    /// Runs a command that must fail, and returns its error.
    pub(crate) fn refused(&self, code: i32, arguments: &[&str]) -> Value {
        self.refused_with(code, "", arguments)
    }

    pub(crate) fn refused_with(&self, code: i32, input: &str, arguments: &[&str]) -> Value {
        let run = self.run_with(input, &[&["--json"], arguments].concat());
        assert_eq!((run.code, &*run.stdout), (code, ""), "{arguments:?}: {run:?}");
        run.error()
    }
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn error(&self) -> Value {
        let mut error: Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(error.as_object().unwrap().len(), 1, "{error}");
        error["error"].take()
    }
}

pub(crate) fn assert_error(error: &Value, kind: &str, status: Value, code: Value) {
    let is_ambiguous = error.get("ambiguous") == Some(&Value::Bool(true));
    assert_eq!(error.as_object().unwrap().len(), 4 + usize::from(is_ambiguous), "{error}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    assert_eq!(error["kind"], kind, "{error}");
    assert_eq!((&error["status"], &error["code"]), (&status, &code), "{error}");
}

pub(crate) fn keyfob(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyfob"));
    for variable in ["API_KEY", "APP_ID", "BASE_URL", "STORE", "STORE_KEY_FILE"] {
        command.env_remove(format!("KEYFOB_{variable}"));
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

pub(crate) fn finish(mut command: Command, input: &str) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish_started(command.spawn().unwrap(), input)
}

pub(crate) fn finish_started(mut child: Child, input: &str) -> Run {
    if let Some(mut stdin) = child.stdin.take() {
        // A command that needs no input may have ended without reading it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A command that goes on, killed when it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines as they come, none of them later than anybody has patience for.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    pub(crate) fn next(&mut self) -> String {
        self.0.recv_timeout(PATIENCE).expect("a line")
    }
}

/// A backend's clock that can be put forward by an hour.
#[derive(Clone, Default)]
pub(crate) struct LateClock(Arc<AtomicU64>);

impl LateClock {
    pub(crate) fn advance(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_secs(3600 * self.0.load(Ordering::SeqCst))
    }
}

impl Clock for LateClock {
    fn now(&self) -> SystemTime {
        SystemClock.now() + self.ahead()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + self.ahead()
    }
}
