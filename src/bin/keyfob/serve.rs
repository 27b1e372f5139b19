//! `keyfob serve`: a backend in the foreground, until a signal ends it.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use keyfob::Secret;
use keyfob::server::{
    AuthProvider, Confirmation, CustomJwt, Google, JwtKeys, Mail, MailKind, RateLimits, Server,
    ServerBuilder,
};
use serde_json::json;

use crate::command::Serve;
use crate::failure::{Failure, Obstacle};
use crate::output::{Output, note, printable};
use crate::signals;
use crate::words::Settings;

/// How many mails wait to be printed at most.
const MOST_UNPRINTED: usize = 1024;

/// How often the command looks for a signal.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);
/// How long the mails that were sent during a shutdown may take to be printed.
const LAST_MAILS: Duration = Duration::from_secs(1);

/// Runs a backend until SIGINT or SIGTERM, then lets the requests in progress complete.
pub(crate) fn run(settings: &Settings, options: &Serve, out: &Output) -> Result<(), Failure> {
    // Before anybody can know that the backend runs.
    let stop = signals::shutdown_flag().map_err(|error| Failure::Serve(Obstacle::Other, error))?;
    // Mails are printed by a thread of their own, so that the backend goes on if nobody reads the
    // output. Mails for which there is no room in the queue are lost.
    let (queue, mails) = mpsc::sync_channel(MOST_UNPRINTED);
    let mut builder = Server::builder()
        .addr(options.addr)
        .built_in_functions()
        .on_mail(move |mail| drop(queue.try_send(mail.clone())));
    if let Some(app_id) = settings.app_id()? {
        builder = builder.app_id(app_id);
    }
    if let Some(dir) = &options.data {
        builder = builder.data_dir(dir);
    }
    if let Some(lifetime) = options.access_ttl {
        builder = builder.access_token_lifetime(lifetime);
    }
    if let Some(lifetime) = options.refresh_ttl {
        builder = builder.refresh_token_lifetime(lifetime);
    }
    if options.mail {
        builder = builder.confirmation(Confirmation::Email);
    }
    if let Some(url) = &options.public_url {
        builder = builder.public_url(url);
    }
    if options.no_registration {
        builder = builder.disable_registration();
    }
    for provider in &options.disabled {
        builder = builder.disable_provider(*provider);
    }
    let limits = if options.no_rate_limits { RateLimits::off() } else { RateLimits::default() };
    builder = builder.rate_limits(limits).trusted_proxies(options.trusted_proxies.iter().copied());
    let keys = match (&options.jwt_secret_file, &options.jwt_jwks) {
        (Some(file), _) => Some(JwtKeys::hs256(secret(file)?)),
        (None, Some(url)) => Some(JwtKeys::jwks(url)),
        (None, None) => None,
    };
    if let Some(keys) = keys {
        builder = builder.custom_jwt(CustomJwt::new(keys));
    }
    if let Some((first, others)) = options.google_client_ids.split_first() {
        let google = Google::new(first);
        builder = builder.google(others.iter().fold(google, Google::client_id));
    }
    let server = builder.start().map_err(|error| cannot_start(options, error))?;
    let (app_id, base_url) = (server.app_id(), server.base_url());
    out.result(
        &json!({"base_url": base_url, "app_id": app_id}),
        format_args!("keyfob: serving app {app_id} at {base_url}"),
    )?;
    if !out.is_json() && !options.disabled.contains(&AuthProvider::Anonymous) {
        note(format_args!(
            "in another terminal: KEYFOB_APP_ID={app_id} KEYFOB_BASE_URL={base_url} \
             keyfob login --anonymous"
        ));
    }
    let printed = print_all(mails, *out);
    while !stop.load(Ordering::SeqCst) {
        thread::sleep(SIGNAL_INTERVAL);
    }
    if !out.is_json() {
        let seconds = ServerBuilder::DEFAULT_SHUTDOWN_TIMEOUT.as_secs();
        note(format_args!(
            "shutting down: requests in progress have {seconds} seconds to complete; a second \
             signal ends the process at once"
        ));
    }
    server.shut_down();
    let _ = printed.recv_timeout(LAST_MAILS);
    Ok(())
}

/// Prints mails until there will be no more. The channel that it returns ends then.
fn print_all(mails: Receiver<Mail>, out: Output) -> Receiver<()> {
    let (done, printed) = mpsc::channel();
    thread::spawn(move || {
        for mail in mails {
            print(&mail, &out);
        }
        drop(done);
    });
    printed
}

/// Says which option it was that no backend could be started with.
fn cannot_start(options: &Serve, error: io::Error) -> Failure {
    let text = error.to_string();
    let is_about = |what: String| text.starts_with(&what);
    let data = options.data.clone().map_or(Obstacle::Other, Obstacle::Data);
    if error.kind() != ErrorKind::InvalidInput {
        // Neither the kind nor the text tells an address from a directory; the address comes first.
        let is_free = TcpListener::bind(options.addr).is_ok();
        let obstacle = if is_free { data } else { Obstacle::Address(options.addr) };
        return Failure::Serve(obstacle, error);
    }
    match (&options.jwt_jwks, &options.data) {
        (Some(url), _) if is_about(format!("{url:?}")) => {
            Failure::Usage(format!("--jwt-jwks cannot be used: {text}"))
        }
        _ if is_about("the public URL".to_owned()) => {
            Failure::Usage(format!("--public-url cannot be used: {text}"))
        }
        // It belongs to another app.
        (_, Some(dir)) if is_about(format!("the data directory {}", dir.display())) => {
            Failure::Serve(data, error)
        }
        // The other options were checked before.
        _ => Failure::Usage(format!("--app-id (or KEYFOB_APP_ID) cannot be used: {text}")),
    }
}

/// Prints a mail instead of sending it.
fn print(mail: &Mail, out: &Output) {
    let kind = match mail.kind {
        MailKind::Confirmation => "confirmation",
        MailKind::PasswordReset => "password-reset",
        _ => "other",
    };
    let json = json!({"mail": {
        "to": mail.to,
        "kind": kind,
        "token": mail.token.expose(),
        "token_id": mail.token_id,
        "link": mail.link.expose(),
    }});
    let words = format!("mail to {} ({kind}): {}", printable(&mail.to), mail.link.expose());
    let _ = out.result(&json, words);
}

/// Reads the secret of those who sign, without one line end.
fn secret(file: &Path) -> Result<Secret, Failure> {
    let cannot = |why: String| {
        Failure::Usage(format!("--jwt-secret-file {} cannot be used: {why}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| cannot(error.to_string()))?;
    let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let secret = line.unwrap_or(&text);
    if secret.len() < SHORTEST_SECRET {
        return Err(cannot(format!("a secret has at least {SHORTEST_SECRET} bytes")));
    }
    Ok(Secret::new(secret))
}

/// How many bytes [`JwtKeys::hs256`] demands.
const SHORTEST_SECRET: usize = 32;
