//! `keyfob serve`: a backend in the foreground that runs until a signal stops it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use keyfob::Secret;
use keyfob::server::{
    AuthProvider, Confirmation, CustomJwt, Google, JwtKeys, Mail, MailKind, RateLimits, Server,
    ServerBuilder,
};
use serde_json::json;

use crate::common_args::{Common, lifetime, seconds};
use crate::failure::{Failure, Obstacle};
use crate::oidc::OidcArgs;
use crate::output::{Output, note, printable};
use crate::signals;
use crate::usage::Reason;

/// The maximum number of mails in the print queue.
const MOST_UNPRINTED: usize = 1024;

/// How often the command checks for signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);
/// The maximum time to print mails that were sent during a shutdown.
const LAST_MAILS: Duration = Duration::from_secs(1);

/// What backend to run.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Keep users in DIR; without this option they are kept in memory until the backend ends
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Listen on this address of this machine; port 0 takes a free port
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9090", value_parser = address)]
    addr: SocketAddr,
    /// The lifetime of access tokens in seconds [default: 1800]
    #[arg(long, value_name = "S", value_parser = lifetime)]
    access_ttl: Option<Duration>,
    /// The lifetime of refresh tokens in seconds [default: 60 days]
    #[arg(long, value_name = "S", value_parser = lifetime)]
    refresh_ttl: Option<Duration>,
    /// Require that e-mail addresses are confirmed, with the pair from a mail
    #[arg(long)]
    mail: bool,
    /// Accept JWTs that are signed with the secret in FILE (HS256)
    #[arg(long, value_name = "FILE", conflicts_with = "jwt_jwks")]
    jwt_secret_file: Option<PathBuf>,
    /// Accept JWTs that are signed with a key of the JWK set at URL
    #[arg(long, value_name = "URL")]
    jwt_jwks: Option<String>,
    /// Accept ID tokens from Google for this client; repeatable
    #[arg(long = "google-client-id", value_name = "ID")]
    google_client_ids: Vec<String>,
    #[command(flatten)]
    oidc: OidcArgs,
    /// Run a test identity provider, in place of Google: ANYONE can sign in as anyone
    #[arg(long, conflicts_with = "public_url")]
    test_idp: bool,
    /// Switch a provider off; repeatable
    #[arg(long = "disable", value_name = "PROVIDER", value_parser = provider())]
    disabled: Vec<AuthProvider>,
    /// Accept no registrations of e-mail addresses
    #[arg(long)]
    no_registration: bool,
    /// The URL by which clients reach a proxy in front of this backend
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Take the address of clients from X-Forwarded-For on connections from ADDR; repeatable
    #[arg(long = "trusted-proxy", value_name = "ADDR", value_parser = proxy)]
    trusted_proxies: Vec<IpAddr>,
    /// Allow any number of log-ins, registrations and mails
    #[arg(long)]
    no_rate_limits: bool,
    /// How long requests in progress may take to complete after SIGTERM or SIGINT [default: 5]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    shutdown_timeout: Option<Duration>,
}

/// The help text after the options.
pub(crate) const HELP: &str = "\
Within 15 minutes, one client address may log in anonymously 500 times, register 100 e-mail \
addresses, and fail to log in 100 times (with a password 200 times, and 20 times for one account). \
Within an hour, one e-mail address may get 10 mails. Further requests are refused with status 429.

A JWT needs `aud`, the app id; `sub`, the user; and `exp`, its expiry.

Mails, to confirm an address or to reset a password, are not sent: they are printed here, with \
their link. Functions to call: sum, which adds numbers; echo, which returns its first argument; and \
whoami, which describes the caller.

Exit codes: 2 an option cannot be used; 4 cannot listen on the address; 5 cannot use DIR, or \
another backend uses it.

--test-idp is for development. Anyone who can reach this backend can sign in as anyone with it, by \
picking or typing a name, and log in with Google's provider and with custom tokens. It is for this \
machine only, and it accepts the client ids of --google-client-id and --oidc-client-id, or any \
without these options.

JSON: {\"base_url\",\"app_id\"} on the first line, with --test-idp \"test_issuer\", too; then \
{\"mail\":{\"to\",\"kind\",\"token\",\"token_id\",\"link\"}} for each mail.";

/// Runs a backend until SIGINT or SIGTERM, then lets the requests in progress complete.
pub(crate) fn run(common: &Common, options: &ServeArgs, out: &Output) -> Result<(), Failure> {
    // Register the handlers before other processes can find out that the backend runs.
    let stop = signals::shutdown_flag().map_err(|error| Failure::Serve(Obstacle::Other, error))?;
    // A separate thread prints mails, so that the backend is not blocked if the output is not read.
    // Mails that do not fit into the queue are lost.
    let (queue, mails) = mpsc::sync_channel(MOST_UNPRINTED);
    let mut builder = Server::builder()
        .addr(options.addr)
        .built_in_functions()
        .on_mail(move |mail| drop(queue.try_send(mail.clone())));
    if let Some(app_id) = common.app_id()? {
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
    let shutdown_timeout =
        options.shutdown_timeout.unwrap_or(ServerBuilder::DEFAULT_SHUTDOWN_TIMEOUT);
    builder = builder.shutdown_timeout(shutdown_timeout);
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
    for provider in options.oidc.providers()? {
        builder = builder.oidc(provider);
    }
    if options.test_idp {
        builder = builder.test_identity_provider();
    }
    let server = builder.start().map_err(|error| cannot_start(options, error))?;
    let (app_id, base_url) = (server.app_id(), server.base_url());
    let mut json = json!({"base_url": base_url, "app_id": app_id});
    if let Some(issuer) = server.test_issuer() {
        json["test_issuer"] = issuer.into();
        note(format_args!(
            "WARNING: anyone who can reach this backend can sign in as anyone, at the test identity \
             provider; its issuer is {issuer}"
        ));
    }
    out.result(&json, format_args!("keyfob: serving app {app_id} at {base_url}"))?;
    if !out.is_json() && !options.disabled.contains(&AuthProvider::Anonymous) {
        note(format_args!(
            "in another terminal: KEYFOB_APP_ID={app_id} KEYFOB_BASE_URL={base_url} \
             keyfob login --anonymous"
        ));
    }
    if let (false, Some(issuer)) = (out.is_json(), server.test_issuer()) {
        note(format_args!(
            "to sign in with the browser, log in with --browser {issuer} --client-id test"
        ));
    }
    let printed = print_all(mails, *out);
    while !stop.load(Ordering::SeqCst) {
        thread::sleep(SIGNAL_INTERVAL);
    }
    if !out.is_json() {
        let seconds = shutdown_timeout.as_secs_f64();
        note(format_args!(
            "shutting down: requests in progress have {seconds} seconds to complete; a second \
             signal ends the process at once"
        ));
    }
    server.shut_down();
    let _ = printed.recv_timeout(LAST_MAILS);
    Ok(())
}

/// Prints mails until the sender is dropped. The returned channel then closes.
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

/// Names the option that prevented the backend from starting.
fn cannot_start(options: &ServeArgs, error: io::Error) -> Failure {
    let text = error.to_string();
    let is_about = |what: String| text.starts_with(&what);
    let data = options.data.clone().map_or(Obstacle::Other, Obstacle::Data);
    if error.kind() != ErrorKind::InvalidInput {
        // Neither the kind nor the text distinguishes an address from a directory, so check the
        // address first.
        let is_free = TcpListener::bind(options.addr).is_ok();
        let obstacle = if is_free { data } else { Obstacle::Address };
        return Failure::Serve(obstacle, error);
    }
    match (&options.jwt_jwks, &options.data) {
        (Some(url), _) if is_about(format!("{url:?}")) => {
            // Do not repeat the URL.
            let reason = text.trim_start_matches(&format!("{url:?} "));
            Failure::Usage(format!("--jwt-jwks cannot be used: it {reason}"))
        }
        _ if is_about("the issuer".to_owned()) => {
            Failure::Usage(format!("--oidc cannot be used: {text}"))
        }
        _ if is_about("the public URL".to_owned()) => {
            let (_, reason) = text.split_once(": ").unwrap_or(("", &text));
            Failure::Usage(format!("--public-url cannot be used: {reason}"))
        }
        // The data directory belongs to another app.
        (_, Some(dir)) if is_about(format!("the data directory {}", dir.display())) => {
            Failure::Serve(data, error)
        }
        // The other options have been validated before.
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

/// Reads the signing secret, without one line end. The error does not repeat the path, which may be
/// the secret itself.
fn secret(file: &Path) -> Result<Secret, Failure> {
    let cannot = |why: String| {
        Failure::Usage(format!("the file in --jwt-secret-file cannot be used: {why}"))
    };
    let text = std::fs::read_to_string(file).map_err(|error| cannot(error.to_string()))?;
    let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let secret = line.unwrap_or(&text);
    if secret.len() < SHORTEST_SECRET {
        return Err(cannot(format!("a secret has at least {SHORTEST_SECRET} bytes")));
    }
    Ok(Secret::new(secret))
}

/// The minimum size of a secret for [`JwtKeys::hs256`], in bytes.
const SHORTEST_SECRET: usize = 32;

fn provider() -> impl TypedValueParser<Value = AuthProvider> {
    PossibleValuesParser::new(AuthProvider::ALL.map(AuthProvider::as_str)).try_map(|name| {
        let found = AuthProvider::ALL.into_iter().find(|provider| provider.as_str() == name);
        found.ok_or_else(|| Reason::new("needs the name of a provider"))
    })
}

fn proxy(text: &str) -> Result<IpAddr, Reason> {
    text.parse().map_err(|_| Reason::new("needs an IP address, such as 127.0.0.1"))
}

fn address(text: &str) -> Result<SocketAddr, Reason> {
    let addresses = text.to_socket_addrs();
    match addresses.ok().and_then(|mut addresses| addresses.next()) {
        Some(address) if address.ip().to_canonical().is_loopback() => Ok(address),
        Some(_) => Err(Reason::new(
            "needs an address of this machine alone, such as 127.0.0.1:9090: nothing is encrypted, and \
             other machines could connect to this one",
        )),
        None => Err(Reason::new("needs HOST:PORT, such as 127.0.0.1:9090")),
    }
}
