//! Sign-in with an identity provider: the options of `login` and `link`, and the output during the
//! sign-in.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::thread;

use clap::Args;
use keyfob::browser::{DeviceCode, Page, ProviderTokens, SignIn, can_open_browser};
use keyfob::{Error, Provider, Secret, Session, User};
use serde_json::json;

use crate::common_args::Common;
use crate::failure::Failure;
use crate::output::{Output, note, note_json};
use crate::unprintable::trim;
use crate::usage::Reason;

/// The name of the provider that needs no issuer.
const GOOGLE: &str = "google";

/// The maximum length of a redirect URL from standard input, in bytes.
const LONGEST_LINE: u64 = 64 * 1024;

/// The heading of the login options, of which one is required.
pub(crate) const WAYS: &str = "Ways to log in, of which one is required";

/// Sign-in in a browser.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options for --browser")]
pub(crate) struct BrowserArgs {
    /// Use a browser to sign in with Google (google), or with any OpenID provider (https://…)
    ///
    /// You have 5 minutes, or as long as --timeout says. Where no browser can be started, open the URL
    /// that is shown in any browser, and paste the address of the page on which that browser ends.
    #[arg(
        long = "browser",
        value_name = "PROVIDER",
        group = "how",
        requires = "client_id",
        help_heading = WAYS
    )]
    provider: Option<String>,
    /// The client id that the provider knows this program by
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// The file with the secret of the client; Google's desktop clients have one
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// Request this scope beside openid, in place of email and profile; repeatable
    #[arg(long = "scope", value_name = "S")]
    scopes: Vec<String>,
    /// Listen on this port of 127.0.0.1 [default: a free port]
    #[arg(long, value_name = "N", value_parser = port)]
    port: Option<u16>,
    /// Start no browser: open the URL yourself
    #[arg(long)]
    no_browser: bool,
    /// Sign in on another device, with a code
    ///
    /// Never enter a code that somebody else gave you: they would be signed in as you.
    #[arg(long, conflicts_with_all = ["no_browser", "port"])]
    device: bool,
}

fn port(text: &str) -> Result<u16, Reason> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Reason::new("needs a number from 1 to 65535")),
    }
}

/// A sign-in with a provider.
#[derive(Debug)]
pub(crate) struct BrowserLogin<'a> {
    /// `google`, or an issuer.
    provider: &'a str,
    client_id: &'a str,
    options: &'a BrowserArgs,
}

impl BrowserArgs {
    /// Returns the sign-in settings if `--browser` was given.
    pub(crate) fn login(&self) -> Option<BrowserLogin<'_>> {
        let (provider, client_id) = (self.provider.as_deref()?, self.client_id.as_deref()?);
        Some(BrowserLogin { provider, client_id, options: self })
    }

    /// Returns an option that has no effect without `--browser`, if one was given without it.
    pub(crate) fn unused(&self) -> Option<&'static str> {
        let given = [
            ("--client-id", self.client_id.is_some()),
            ("--client-secret-file", self.client_secret_file.is_some()),
            ("--scope", !self.scopes.is_empty()),
            ("--port", self.port.is_some()),
            ("--no-browser", self.no_browser),
            ("--device", self.device),
        ];
        let mut given = given.into_iter().filter(|(_, is_given)| *is_given);
        given.next().map(|(name, _)| name).filter(|_| self.provider.is_none())
    }
}

impl BrowserLogin<'_> {
    /// Returns the backend's provider for the sign-in.
    pub(crate) fn provider(&self) -> Provider {
        if self.provider == GOOGLE { Provider::Google } else { Provider::Jwt }
    }

    /// Logs in. The browser shows the outcome.
    pub(crate) fn log_in(
        &self,
        session: &Session,
        common: &Common,
        out: &Output,
    ) -> Result<User, Failure> {
        let sign_in = self.sign_in(common, out)?;
        match self.options.device {
            true => sign_in.device().and_then(|tokens| session.log_in(&tokens.credentials())),
            false => session.sign_in(&sign_in),
        }
        .map_err(named)
    }

    /// Links an account to a user. The browser shows the outcome.
    pub(crate) fn link(&self, user: &User, common: &Common, out: &Output) -> Result<(), Failure> {
        let sign_in = self.sign_in(common, out)?;
        let link = |tokens: ProviderTokens| user.link(&tokens.credentials());
        match self.options.device {
            true => sign_in.device().and_then(link),
            false => sign_in.loopback_then(link),
        }
        .map_err(named)
    }

    fn sign_in(&self, common: &Common, out: &Output) -> Result<SignIn, Failure> {
        let Self { provider, client_id, options } = self;
        let mut sign_in = match *provider {
            GOOGLE => SignIn::google(*client_id),
            issuer => SignIn::oidc(issuer, *client_id),
        };
        if let Some(file) = &options.client_secret_file {
            sign_in = sign_in.client_secret(secret(file)?);
        }
        if !options.scopes.is_empty() {
            let more = options.scopes.iter().filter(|scope| *scope != "openid").cloned();
            sign_in = sign_in.scopes(["openid".to_owned()].into_iter().chain(more));
        }
        if let Some(port) = options.port {
            sign_in = sign_in.port(port);
        }
        if options.no_browser {
            sign_in = sign_in.open_nothing();
        }
        if let Some(timeout) = common.timeout {
            sign_in = sign_in.deadline(timeout);
        }
        let is_json = out.is_json();
        let starts_browser = !options.no_browser && can_open_browser();
        let sign_in =
            sign_in.page(Page::new("keyfob")).on_code(move |code| show_code(code, is_json));
        // The reader shares the inbox with the waiting sign-in, and passes it pasted URLs.
        let reader = sign_in.clone();
        Ok(sign_in.on_url(move |url| {
            let pastes = if io::stdin().is_terminal() { is_foreground() } else { !starts_browser };
            show_url(url, starts_browser, pastes, is_json);
            if pastes {
                let reader = reader.clone();
                let name = "redirect-url".to_owned();
                let read = move || paste(&reader, is_json);
                let _ = thread::Builder::new().name(name).spawn(read);
            }
        }))
    }
}

fn show_url(url: &str, starts_browser: bool, pastes: bool, is_json: bool) {
    if is_json {
        return note_json(&json!({"url": url}));
    }
    match starts_browser {
        true => note(format_args!("sign in with your browser; if it does not open, visit\n{url}")),
        false => note(format_args!("open this page in a browser and sign in\n{url}")),
    }
    if pastes {
        note(
            "if the browser ends on a page that it cannot reach, paste the address of that page \
             here",
        );
    }
}

fn show_code(code: &DeviceCode, is_json: bool) {
    if is_json {
        let DeviceCode { user_code, verification_uri, .. } = code;
        return note_json(&json!({"user_code": user_code, "verification_uri": verification_uri}));
    }
    note(format_args!(
        "on any device, open {} and enter the code {}",
        code.verification_uri, code.user_code
    ));
}

/// Reads lines until one is the expected redirect URL.
fn paste(sign_in: &SignIn, is_json: bool) {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        match input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        let line = trim(&line);
        if line.is_empty() {
            continue;
        }
        match sign_in.submit_redirect(line) {
            Ok(()) => return,
            Err(error) if is_json => note_json(&json!({"refused": error.to_string()})),
            Err(error) => note(error),
        }
    }
}

/// Returns `true` if standard input may be read. Reading from a terminal would stop a background
/// command.
fn is_foreground() -> bool {
    #[cfg(unix)]
    {
        // A terminal that does not control this process has no foreground group and does not stop
        // it.
        let group = rustix::termios::tcgetpgrp(io::stdin());
        !group.is_ok_and(|group| group != rustix::process::getpgrp())
    }
    #[cfg(not(unix))]
    true
}

/// Reads the client secret. The error does not repeat the path, which may be the secret itself.
fn secret(file: &Path) -> Result<Secret, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::Usage(format!("the file in --client-secret-file cannot be read: {error}"))
    })?;
    match trim(&text) {
        "" => Err(Failure::Usage("the file in --client-secret-file is empty".to_owned())),
        secret => Ok(Secret::new(secret)),
    }
}

/// Replaces the names of the library's settings by the options of the command.
fn named(error: Error) -> Failure {
    let Error::Config { what, reason } = &error else { return error.into() };
    let option = match *what {
        "the issuer" if reason.starts_with("it has no scheme") => {
            let expected = "--browser needs google, or the URL of an OpenID provider (https://…)";
            return Failure::Usage(expected.to_owned());
        }
        "the issuer" => "--browser",
        "the client id" => "--client-id",
        "the client secret" => "--client-secret-file",
        "the scopes" => "--scope",
        "the device flow" => "--device",
        _ => return error.into(),
    };
    Failure::Usage(format!("{option} cannot be used: {reason}"))
}
