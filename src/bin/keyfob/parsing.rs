//! How what follows the name of a command is read.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use keyfob::server::AuthProvider;
use keyfob::{ApiKeyId, Secret, UserId};

use crate::browser;
use crate::command::{ApiKeys, Command, How, Login, MailToken, Serve};
use crate::json::Json;
use crate::unprintable::trim;
use crate::words::{Stop, Word, Words, text, unexpected, usage};

/// The help of all ways to log in.
pub(crate) const HOW_TO_LOG_IN: &str = "HOW is one of:\n\
    \x20 --email E           with an e-mail address that was registered\n\
    \x20 --anonymous [--new] without an account, as the anonymous user who is here already,\n\
    \x20                     or always as a new one\n\
    \x20 --api-key           with an API key\n\
    \x20 --jwt               with a token of somebody else's\n\
    \x20 --google-id-token, --google-auth-code, --apple, --facebook\n\
    \x20                     with what their log-ins gave\n\
    \x20 --function JSON     by the app's own function\n\
    \x20 --browser google|ISSUER --client-id ID\n\
    \x20                     in the browser, with Google or the OpenID provider ISSUER (https://…)\n\
    \x20   --client-secret-file FILE\n\
    \x20                     the secret of the client; Google's desktop clients have one\n\
    \x20   --scope S         ask for this scope beside openid, in place of email and profile;\n\
    \x20                     may be repeated\n\
    \x20   --port N          listen on port N of 127.0.0.1 (default: a free one)\n\
    \x20   --no-browser      start no browser: open the page yourself\n\
    \x20   --device          sign in on another device, with a code. Enter no code that somebody\n\
    \x20                     else gave you: they would be signed in as you\n\
    \x20                     You have 5 minutes, or what --timeout says.\n\
    The password, key, token or code is read from standard input. With --browser, the address of\n\
    the page on which a browser elsewhere ended is read there.\n\n\
    JSON: {\"user_id\",\"provider\"}; with --browser {\"url\"} or {\"user_code\",\"verification_uri\"}\n\
    on a line of standard error before.";

/// Parses how to log in.
pub(crate) fn login(words: &mut Words) -> Result<How, Stop> {
    let (mut how, mut new) = (None, false);
    let mut browser = browser::Options::default();
    while let Some(word) = words.next()? {
        let Word::Option(option) = word else { return unexpected(word) };
        let login = match option.as_str() {
            "--anonymous" => Login::Anonymous { new: false },
            "--api-key" => Login::ApiKey,
            "--apple" => Login::Apple,
            "--email" => Login::Email(words.text(&option)?),
            "--facebook" => Login::Facebook,
            "--function" => Login::Function(object(&words.text(&option)?)?),
            "--google-auth-code" => Login::GoogleAuthCode,
            "--google-id-token" => Login::GoogleIdToken,
            "--jwt" => Login::Jwt,
            "--new" => {
                new = true;
                continue;
            }
            option if browser.take(option, words)? => continue,
            _ => return unexpected(Word::Option(option)),
        };
        if how.replace(login).is_some() {
            return usage("there is more than one way to log in");
        }
    }
    match (how, browser.finish()?) {
        (Some(_), Some(_)) => usage("there is more than one way to log in"),
        (Some(Login::Anonymous { .. }), None) => Ok(How::Given(Login::Anonymous { new })),
        _ if new => usage("--new goes with --anonymous"),
        (Some(login), None) => Ok(How::Given(login)),
        (None, Some(login)) => Ok(How::Browser(Box::new(login))),
        (None, None) => usage("it is missing how: --email E, --anonymous or another"),
    }
}

/// Parses what to link: an account, which somebody anonymous has not.
pub(crate) fn link(words: &mut Words) -> Result<How, Stop> {
    match login(words)? {
        How::Given(Login::Anonymous { .. }) => {
            usage("--anonymous cannot be linked: it is no account")
        }
        how => Ok(how),
    }
}

fn object(text: &str) -> Result<Json, Stop> {
    match serde_json::from_str(text) {
        Ok(value @ Json::Object(_)) => Ok(value),
        _ => usage("--function is no JSON object"),
    }
}

/// Parses `--email E` and nothing else.
pub(crate) fn email(words: &mut Words) -> Result<String, Stop> {
    let mut email = None;
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) if option == "--email" => email = Some(words.text(&option)?),
            word => return unexpected(word),
        }
    }
    email.map_or_else(|| usage("--email is missing"), Ok)
}

/// Parses `--token T --token-id I`.
pub(crate) fn mail_token(words: &mut Words) -> Result<MailToken, Stop> {
    let (mut token, mut token_id) = (None, None);
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) if option == "--token" => token = Some(words.text(&option)?),
            Word::Option(option) if option == "--token-id" => token_id = Some(words.text(&option)?),
            word => return unexpected(word),
        }
    }
    match (token, token_id) {
        (Some(token), Some(token_id)) => {
            Ok(MailToken { token: Secret::new(trim(&token)), token_id: trim(&token_id).to_owned() })
        }
        (None, _) => usage("--token is missing"),
        (_, None) => usage("--token-id is missing"),
    }
}

/// Parses what follows `call-reset`.
pub(crate) fn call_reset(words: &mut Words) -> Result<Command, Stop> {
    let (mut email, mut arguments) = (None, Vec::new());
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) if option == "--email" => email = Some(words.text(&option)?),
            Word::Value(value) => {
                arguments.push(json_or_string(text("an argument of the function", value)?));
            }
            word => return unexpected(word),
        }
    }
    match email {
        Some(email) => Ok(Command::CallReset { email, arguments }),
        None => usage("--email is missing"),
    }
}

/// Parses what follows `delete`.
pub(crate) fn delete(words: &mut Words) -> Result<Command, Stop> {
    let (mut id, mut yes) = (None, false);
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) if option == "--yes" => yes = true,
            Word::Value(value) if id.is_none() => id = Some(text("the ID of a user", value)?),
            word => return unexpected(word),
        }
    }
    if !yes {
        return usage("this would delete the account for good: say --yes if that is meant");
    }
    Ok(Command::Delete(id.map(UserId::new)))
}

/// Parses `[--refresh]`.
pub(crate) fn refresh(words: &mut Words) -> Result<bool, Stop> {
    let mut refresh = false;
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) if option == "--refresh" => refresh = true,
            word => return unexpected(word),
        }
    }
    Ok(refresh)
}

/// Parses what follows `api-keys`.
pub(crate) fn api_keys(words: &mut Words) -> Result<ApiKeys, Stop> {
    let what = words.one("what to do")?;
    let mut id = || words.one("the ID of a key").map(ApiKeyId::new);
    let command = match what.as_str() {
        "create" => ApiKeys::Create(words.one("the NAME of the key")?),
        "delete" => ApiKeys::Delete(id()?),
        "disable" => ApiKeys::Disable(id()?),
        "enable" => ApiKeys::Enable(id()?),
        "get" => ApiKeys::Get(id()?),
        "list" => ApiKeys::List,
        _ => return usage("expected create, list, get, enable, disable or delete"),
    };
    words.end()?;
    Ok(command)
}

/// Parses what follows `call`.
pub(crate) fn call(words: &mut Words) -> Result<Command, Stop> {
    let name = words.one("the NAME of the function")?;
    let mut arguments = Vec::new();
    while let Some(argument) = words.next_argument()? {
        arguments.push(json_or_string(argument));
    }
    Ok(Command::Call { name, arguments })
}

fn json_or_string(argument: String) -> Json {
    serde_json::from_str(&argument).unwrap_or(Json::Text(argument))
}

const DEFAULT_ADDR: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);

/// Parses what follows `serve`.
pub(crate) fn serve(words: &mut Words) -> Result<Command, Stop> {
    let mut serve = Serve {
        data: None,
        addr: DEFAULT_ADDR,
        access_ttl: None,
        refresh_ttl: None,
        mail: false,
        jwt_secret_file: None,
        jwt_jwks: None,
        google_client_ids: Vec::new(),
        disabled: Vec::new(),
        no_registration: false,
        no_rate_limits: false,
        public_url: None,
        trusted_proxies: Vec::new(),
    };
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) => match option.as_str() {
                "--access-ttl" => serve.access_ttl = Some(words.lifetime(&option)?),
                "--addr" => serve.addr = address(&words.text(&option)?)?,
                "--jwt-jwks" => serve.jwt_jwks = Some(words.text(&option)?),
                "--jwt-secret-file" => serve.jwt_secret_file = Some(words.path(&option)?),
                "--disable" => serve.disabled.push(provider(&words.text(&option)?)?),
                "--google-client-id" => serve.google_client_ids.push(words.text(&option)?),
                "--mail" => serve.mail = true,
                "--no-rate-limits" => serve.no_rate_limits = true,
                "--no-registration" => serve.no_registration = true,
                "--public-url" => serve.public_url = Some(words.text(&option)?),
                "--trusted-proxy" => serve.trusted_proxies.push(proxy(&words.text(&option)?)?),
                "--data" => serve.data = Some(words.path(&option)?),
                "--refresh-ttl" => serve.refresh_ttl = Some(words.lifetime(&option)?),
                _ => return unexpected(Word::Option(option)),
            },
            word => return unexpected(word),
        }
    }
    if serve.jwt_jwks.is_some() && serve.jwt_secret_file.is_some() {
        return usage("--jwt-jwks and --jwt-secret-file exclude each other");
    }
    Ok(Command::Serve(Box::new(serve)))
}

fn provider(name: &str) -> Result<AuthProvider, Stop> {
    let found = AuthProvider::ALL.into_iter().find(|provider| provider.as_str() == name);
    let names = AuthProvider::ALL.map(AuthProvider::as_str).join(", ");
    found.map_or_else(|| usage(format!("--disable needs one of {names}")), Ok)
}

fn proxy(text: &str) -> Result<IpAddr, Stop> {
    let address = text.parse();
    address.or_else(|_| usage("--trusted-proxy needs an IP address, such as 127.0.0.1"))
}

fn address(text: &str) -> Result<SocketAddr, Stop> {
    let addresses = text.to_socket_addrs();
    match addresses.ok().and_then(|mut addresses| addresses.next()) {
        Some(address) if address.ip().to_canonical().is_loopback() => Ok(address),
        Some(_) => usage("--addr can be reached from other machines, and nothing is encrypted"),
        None => usage("--addr is no HOST:PORT, such as 127.0.0.1:9090"),
    }
}
