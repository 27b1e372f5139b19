//! A real OpenID provider in a process of its own (`.ci/oidc/provider.mjs`), and browsers for it.

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

/// The provider's process, and what it printed about itself.
pub struct Oidc {
    process: Child,
    said: Value,
    /// It goes on printing, and ends if nobody could read that.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Oidc {
    /// Starts the provider. `audience` is that of its JWT access tokens.
    pub fn start(audience: &str) -> Self {
        let mut process = node("provider.mjs")
            .env("AUDIENCE", audience)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("node cannot be run: {error}"));
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        // The package has notices of its own to print first.
        let mut lines = output.lines();
        let line = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with('{'));
        let line = line.expect("provider.mjs did not start");
        let said = serde_json::from_str(&line).expect("JSON");
        Self { process, said, _output: lines }
    }

    pub fn text(&self, name: &str) -> &str {
        self.said[name].as_str().unwrap_or_else(|| panic!("no {name}: {}", self.said))
    }
}

impl Drop for Oidc {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/oidc")
}

/// A command that runs one of the scripts.
pub fn node(script: &str) -> Command {
    assert!(
        dir().join("node_modules/oidc-provider").is_dir(),
        "oidc-provider is not installed: run `npm ci` in .ci/oidc"
    );
    let mut command = Command::new("node");
    command.arg(script).current_dir(dir()).env("NO_PROXY", "127.0.0.1");
    command
}

/// Opens a URL with the scripted browser, and returns the page on which it ended. More arguments are
/// the code of the device flow, and `abort` to refuse it.
pub fn browse(url: &str, more: &[&str]) -> Value {
    let output = node("browser.mjs").arg(url).args(more).output().expect("node");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Signs in with a provider by a client that was not written for it, and returns what it got.
pub fn real_client(issuer: &str, client_id: &str) -> Value {
    let output = node("client.mjs").args([issuer, client_id]).output().expect("node");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Opens a URL with Chromium, and returns the document on which it ended.
pub fn chromium(url: &str, profile: &Path) -> String {
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(url);
    let output = command.output().unwrap_or_else(|error| panic!("chromium: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Opens a URL with Chromium, runs a script on the page, and returns the document of the next origin.
pub fn chromium_acts(url: &str, profile: &Path, script: &str) -> String {
    let mut command = node("chromium.mjs");
    command.arg(url).arg(profile).arg(script);
    let output = command.output().expect("node");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
