//! `login --browser` and `link --browser`, with a provider in the hand of the test.

use std::fs;
use std::io::Write;
#[cfg(unix)]
use std::net::TcpListener;
use std::process::{ChildStdin, Stdio};
#[cfg(unix)]
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{APP_ID, Backend, Dir, Place, Running, assert_error};
#[cfg(unix)]
use crate::support::provider::split;
use crate::support::provider::{Form, TestProvider, authorization, get, json_reply};
#[cfg(target_os = "linux")]
use crate::terminal::{Attached, Terminal};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A provider, and a backend that accepts its tokens.
struct Stage {
    provider: TestProvider,
    backend: Backend,
    dir: Dir,
}

impl Stage {
    fn new(name: &str) -> Self {
        let dir = Dir::new(&format!("browser-{name}"));
        let file = dir.0.join("jwt-secret");
        fs::write(&file, SECRET).unwrap();
        let backend = Backend::start(&["--jwt-secret-file", file.to_str().unwrap()]);
        let provider = TestProvider::start();
        provider.sign_for(APP_ID, SECRET);
        Self { provider, backend, dir }
    }

    fn place(&self) -> Place {
        Place::new(&self.backend.base_url, self.dir.0.join("store"))
    }

    /// Starts a command that signs in, without a browser unless `browser` is one.
    fn start(&self, arguments: &[&str], browser: Option<&str>) -> (Running, ChildStdin) {
        let issuer = self.provider.issuer();
        let own = ["--json", arguments[0], "--browser", &issuer, "--client-id", APP_ID];
        let mut command = self.place().command(&[&own[..], &arguments[1..]].concat());
        for name in ["BROWSER", "DISPLAY", "SSH_CONNECTION", "WAYLAND_DISPLAY"] {
            command.env_remove(name);
        }
        command.envs(browser.map(|browser| ("BROWSER", browser))).stdin(Stdio::piped());
        let mut running = Running::start(command);
        let stdin = running.child.stdin.take().unwrap();
        (running, stdin)
    }

    /// Waits until somebody is logged in.
    #[cfg(target_os = "linux")]
    fn logged_in(&self) {
        let begun = Instant::now();
        while self.place().json(&["users"]).as_array().unwrap().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
    }

    /// Signs in, and returns the page that the browser shows.
    fn agree(&self, request: Form) -> String {
        let (uri, state) = (request["redirect_uri"].clone(), request["state"].clone());
        self.provider.grant("c0de", request);
        get(&uri, &format!("code=c0de&state={state}")).html
    }
}

/// The authorization request that a command shows.
fn shown(running: &mut Running) -> Form {
    let line: Value = serde_json::from_str(&running.stderr.next()).unwrap();
    assert_eq!(line.as_object().unwrap().len(), 1, "{line}");
    authorization(line["url"].as_str().unwrap())
}

fn result(running: &mut Running) -> Value {
    let result = serde_json::from_str(&running.stdout.next()).unwrap();
    assert!(running.child.wait().unwrap().success());
    result
}

#[test]
fn login_shows_url_and_logs_in() {
    let stage = Stage::new("login");
    let (mut running, _stdin) = stage.start(&["login", "--no-browser"], None);
    let page = stage.agree(shown(&mut running));
    let user = result(&mut running);
    assert_eq!(user, json!({"user_id": user["user_id"], "provider": "custom-token"}));
    assert!(page.contains("You are signed in") && page.contains("keyfob"), "{page}");
    let known = stage.place().json(&["whoami"]);
    assert_eq!(known["user_id"], user["user_id"]);
    assert_eq!(known["identities"], json!([{"id": "ada", "provider": "custom-token"}]));
}

#[test]
fn link_attaches_account() {
    let stage = Stage::new("link");
    let user = stage.place().json(&["login", "--anonymous"]);
    let secret = stage.dir.0.join("secret");
    fs::write(&secret, "s3cret\n").unwrap();
    let file = secret.to_str().unwrap();
    let arguments =
        ["link", "--no-browser", "--client-secret-file", file, "--scope", "email", "--scope", "x"];
    let (mut running, _stdin) = stage.start(&arguments, None);
    let request = shown(&mut running);
    assert_eq!(request["scope"], "openid email x");
    let page = stage.agree(request);
    let linked = result(&mut running);
    assert_eq!(linked["user_id"], user["user_id"]);
    assert_eq!(linked["identities"].as_array().unwrap().len(), 2, "{linked}");
    assert!(page.contains("You are signed in"), "{page}");
    assert!(stage.provider.asked("/token")[0].head.contains("Basic "));
}

#[test]
fn redirect_url_is_read_from_standard_input() {
    let stage = Stage::new("paste");
    let (mut running, mut stdin) = stage.start(&["login", "--no-browser"], None);
    let request = shown(&mut running);
    let url = format!("{}?code=c0de&state={}", request["redirect_uri"], request["state"]);
    stage.provider.grant("c0de", request);
    writeln!(stdin, "\nhttps://example.org/?code=PLANTED&state=x").unwrap();
    let refused = running.stderr.next();
    assert!(refused.contains("refused") && !refused.contains("PLANTED"), "{refused}");
    writeln!(stdin, "  {url}").unwrap();
    assert_eq!(result(&mut running)["provider"], "custom-token");
}

/// The authorization request that a command on a terminal shows.
#[cfg(target_os = "linux")]
fn shown_on(terminal: &Terminal) -> Form {
    let shown = terminal.wait_for("code_challenge_method=S256");
    authorization(&shown[shown.rfind("http://").unwrap()..])
}

#[cfg(target_os = "linux")]
#[test]
fn redirect_url_is_read_from_terminal() {
    for attached in [Attached::Controlling, Attached::InputOnly] {
        let stage = Stage::new("terminal");
        let issuer = stage.provider.issuer();
        let keyfob = env!("CARGO_BIN_EXE_keyfob");
        let options = ["login", "--browser", &issuer, "--client-id", APP_ID, "--no-browser"];
        let is_whole = matches!(attached, Attached::Controlling);
        // Where only the input is a terminal, the URL goes to a file.
        let file = stage.dir.0.join("shown");
        let script = format!("exec \"$0\" \"$@\" 2> '{}'", file.display());
        let through = ["sh", "-c", &script, keyfob];
        let program = if is_whole { &through[3..] } else { &through };
        let terminal = Terminal::start(&stage.place(), attached, &[program, &options].concat());
        let request = match is_whole {
            true => shown_on(&terminal),
            false => loop {
                let shown = fs::read_to_string(&file).unwrap_or_default();
                if shown.contains("here\n") {
                    break authorization(shown.lines().nth(1).unwrap());
                }
                std::thread::sleep(Duration::from_millis(5));
            },
        };
        let url = format!("{}?code=c0de&state={}", request["redirect_uri"], request["state"]);
        stage.provider.grant("c0de", request);
        terminal.type_in(&format!("{url}\n"));
        stage.logged_in();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn background_command_is_not_stopped() {
    let stage = Stage::new("background");
    let terminal = Terminal::start(&stage.place(), Attached::Controlling, &["sh", "-i"]);
    terminal.wait_for("READY> ");
    let issuer = stage.provider.issuer();
    terminal.type_in(&format!(
        "\"$KEYFOB\" login --browser {issuer} --client-id {APP_ID} --no-browser &\n"
    ));
    let request = shown_on(&terminal);
    stage.agree(request);
    terminal.wait_for("logged in as");
}

#[cfg(unix)]
#[test]
fn browser_variable_selects_browser() {
    use std::os::unix::fs::PermissionsExt;

    let stage = Stage::new("variable");
    let (script, url) = (stage.dir.0.join("my browser"), stage.dir.0.join("url"));
    let text = format!("#!/bin/sh\necho \"$1\" > '{0}.new' && mv '{0}.new' '{0}'\n", url.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    // The first one does not exist, the second one fails.
    let browser = format!("/nonexistent:false:{}", script.display());
    let (mut running, _stdin) = stage.start(&["login"], Some(&browser));
    let request = shown(&mut running);
    let begun = Instant::now();
    let opened = loop {
        match fs::read_to_string(&url) {
            Ok(url) => break url,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(30), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(authorization(opened.trim_end()), request);
    stage.agree(request);
    result(&mut running);
}

#[test]
fn device_flow_shows_code() {
    let stage = Stage::new("device");
    let device = json!({
        "device_code": "PLANTED",
        "user_code": "ABCD-EFGH",
        "verification_uri": "https://id.example.org/device",
        "expires_in": 600,
        "interval": 1,
    });
    stage.provider.on("/device", move |_, _| Some(json_reply(200, &device)));
    stage.provider.on("/token", |provider, _| {
        let token = provider.id_token(&provider.claims(None));
        Some(json_reply(200, &json!({"id_token": token})))
    });
    let (mut running, _stdin) = stage.start(&["login", "--device"], None);
    let line: Value = serde_json::from_str(&running.stderr.next()).unwrap();
    let uri = "https://id.example.org/device";
    assert_eq!(line, json!({"user_code": "ABCD-EFGH", "verification_uri": uri}));
    assert_eq!(result(&mut running)["provider"], "custom-token");
}

#[test]
fn refusal_has_code_and_exit_code() {
    let stage = Stage::new("refused");
    let (mut running, _stdin) = stage.start(&["login", "--no-browser"], None);
    let request = shown(&mut running);
    get(&request["redirect_uri"], &format!("error=access_denied&state={}", request["state"]));
    let mut error: Value = serde_json::from_str(&running.stderr.next()).unwrap();
    assert_error(&error["error"].take(), "sign_in", Value::Null, json!("access_denied"));
    assert_eq!(running.child.wait().unwrap().code(), Some(1));

    let (mut running, _stdin) = stage.start(&["login", "--no-browser", "--timeout", "0.2"], None);
    shown(&mut running);
    let mut error: Value = serde_json::from_str(&running.stderr.next()).unwrap();
    assert_error(&error["error"].take(), "sign_in", Value::Null, Value::Null);
    assert_eq!(running.child.wait().unwrap().code(), Some(4));
    assert!(stage.place().json(&["users"]).as_array().unwrap().is_empty());
}

#[cfg(unix)]
#[test]
fn interrupt_ends_wait_and_frees_port() {
    use rustix::process::{Pid, Signal, kill_process};

    let stage = Stage::new("interrupt");
    let (mut running, _stdin) = stage.start(&["login", "--no-browser"], None);
    let request = shown(&mut running);
    let begun = Instant::now();
    kill_process(Pid::from_child(&running.child), Signal::INT).unwrap();
    assert!(!running.child.wait().unwrap().success());
    println!("interrupted in {:?}", begun.elapsed());
    TcpListener::bind(split(&request["redirect_uri"]).0).unwrap();
}

#[test]
fn unusable_options_are_usage_errors() {
    let place = Place::new("http://127.0.0.1:9", Dir::new("browser-usage").0.clone());
    let browser = ["login", "--browser", "https://id.example.org", "--client-id", "c"];
    for (arguments, part) in [
        (vec!["login", "--browser", "google"], "--client-id"),
        (vec!["login", "--client-id", "c"], "--browser"),
        (vec!["login", "--port", "1"], "--browser"),
        (vec!["login", "--email", "e", "--device"], "--device needs --browser"),
        (
            [&browser[..], &["--email", "e"]].concat(),
            "--browser cannot be used together with --email",
        ),
        (
            [&browser[..], &["--device", "--no-browser"]].concat(),
            "--device cannot be used together with",
        ),
        (
            [&browser[..], &["--device", "--port", "1"]].concat(),
            "--device cannot be used together with",
        ),
        ([&browser[..], &["--port", "0"]].concat(), "--port needs a number"),
        ([&browser[..], &["--port", "65536"]].concat(), "--port needs a number"),
        ([&browser[..], &["--scope", "a b"]].concat(), "--scope cannot be used"),
        ([&browser[..], &["--client-secret-file", "hunter22"]].concat(), "--client-secret-file"),
        ([&browser[..], &["--new"]].concat(), "--new needs --anonymous"),
        ([&browser[..], &["hunter22"]].concat(), "argument"),
        (
            vec!["login", "--browser", "http://id.example.org", "--client-id", "c"],
            "--browser cannot",
        ),
        (
            vec!["login", "--browser", "https://id.example.org", "--client-id", ""],
            "--client-id cannot",
        ),
    ] {
        let error = place.refused(2, &arguments);
        assert_error(&error, "usage", Value::Null, Value::Null);
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(part) && !message.contains("hunter22"),
            "{arguments:?}: {message}"
        );
    }
}
