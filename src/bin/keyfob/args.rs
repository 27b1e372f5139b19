//! The commands: what each may be told, and its help.
//!
//! Each command is one entry of [`COMMANDS`], help included. But for the name of a command that
//! there is not, no message repeats what was not expected: it may be a secret in the wrong place.

use std::ffi::{OsStr, OsString};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use keyfob::UserId;
use serde_json::Value;

use crate::failure::Failure;
use crate::words::{SESSION, Settings, Stop, Word, Words, help_of_options, unexpected, usage};

/// What is to be done, and where.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    pub(crate) settings: Settings,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Command {
    Call {
        name: String,
        arguments: Vec<Value>,
    },
    Demo,
    LogIn(Login),
    LogOut(Option<UserId>),
    Register {
        email: String,
    },
    Remove(Option<UserId>),
    Serve(Serve),
    Switch(UserId),
    /// Help, or the version.
    Text(String),
    Token,
    Users,
    Watch,
    Whoami,
}

/// How to log in.
#[derive(Debug)]
pub(crate) enum Login {
    Anonymous { new: bool },
    Email(String),
}

/// What backend to run.
#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) data: Option<PathBuf>,
    pub(crate) addr: SocketAddr,
    pub(crate) access_ttl: Option<Duration>,
    pub(crate) refresh_ttl: Option<Duration>,
}

/// Parses the arguments, without the name of the program.
///
/// # Errors
/// [`Failure::Usage`] with what is wrong, and where the help is.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Invocation, Failure> {
    let mut words = Words::new(arguments);
    let mut entry = None;
    let command = match command(&mut words, &mut entry) {
        Ok(command) => command,
        Err(Stop::Help) => Command::Text(entry.map_or_else(help, help_of)),
        Err(Stop::Version) => Command::Text(format!("keyfob {}", env!("CARGO_PKG_VERSION"))),
        Err(Stop::Usage(message)) => {
            let of = entry.map(|entry| format!(" {}", entry.name())).unwrap_or_default();
            return Err(Failure::Usage(format!("{message} (see `keyfob{of} --help`)")));
        }
    };
    Ok(Invocation { command, settings: words.into_settings() })
}

/// Tells whether errors are wanted as JSON, for arguments that could not be parsed.
pub(crate) fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

fn command(words: &mut Words, entry: &mut Option<&'static Entry>) -> Result<Command, Stop> {
    let name = match words.next()? {
        Some(Word::Value(name)) => name,
        Some(word) => return unexpected(word),
        None => return usage("there is no command"),
    };
    let Some(found) = COMMANDS.iter().find(|entry| name == OsStr::new(entry.name())) else {
        return usage(format!("there is no command {name:?}"));
    };
    *entry = Some(found);
    let command = (found.parse)(words)?;
    match words.given_beyond(found.options) {
        Some(option) => usage(format!("{option} means nothing to `{}`", found.name())),
        None => Ok(command),
    }
}

/// A command, with its help.
struct Entry {
    usage: &'static str,
    about: &'static str,
    details: &'static str,
    /// The common options that mean something to the command.
    options: &'static [&'static str],
    parse: fn(&mut Words) -> Result<Command, Stop>,
}

impl Entry {
    fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }
}

const COMMANDS: &[Entry] = &[
    Entry {
        usage: "demo",
        about: "Run the whole story on a backend of its own, step by step",
        details: "Needs no options and no network, and leaves nothing behind.\n\n\
                  JSON: {\"steps\"}, the titles of the steps; the story goes to standard error.",
        options: &["--json"],
        parse: |words| words.end().map(|()| Command::Demo),
    },
    Entry {
        usage: "serve [--data DIR] [--addr HOST:PORT] [--access-ttl S] [--refresh-ttl S]",
        about: "Run a backend for development and tests, until interrupted",
        details: "  --data DIR        keep users in DIR; without it they go when the backend ends\n\
                  \x20 --addr HOST:PORT  listen there (default 127.0.0.1:9090; port 0 takes a free one)\n\
                  \x20 --access-ttl S    access tokens live S seconds\n\
                  \x20 --refresh-ttl S   refresh tokens live S seconds\n\n\
                  Functions to call: sum, echo, whoami.\n\
                  JSON: {\"base_url\",\"app_id\"} on the first line.",
        options: &["--app-id", "--json"],
        parse: parse_serve,
    },
    Entry {
        usage: "register --email E",
        about: "Register an e-mail address; the password is read from standard input",
        details: "JSON: {}",
        options: SESSION,
        parse: parse_register,
    },
    Entry {
        usage: "login --email E | login --anonymous [--new]",
        about: "Log in, and make that user current; the password is read from standard input",
        details: "  --email E    with an e-mail address that was registered\n\
                  \x20 --anonymous  without an account, as the anonymous user who is here already\n\
                  \x20 --new        always as a new anonymous user\n\n\
                  JSON: {\"user_id\",\"provider\"}",
        options: SESSION,
        parse: parse_login,
    },
    Entry {
        usage: "whoami",
        about: "Show the current user; uses no network",
        details: "JSON: {\"user_id\",\"state\",\"identities\":[{\"id\",\"provider\"}],\"profile\",\
                  \"custom_data\"}",
        options: SESSION,
        parse: |words| words.end().map(|()| Command::Whoami),
    },
    Entry {
        usage: "users",
        about: "List all users known here; uses no network",
        details: "JSON: [{\"user_id\",\"state\",\"current\"}]",
        options: SESSION,
        parse: |words| words.end().map(|()| Command::Users),
    },
    Entry {
        usage: "switch ID",
        about: "Make another user current; uses no network",
        details: "JSON: {\"user_id\"}",
        options: SESSION,
        parse: |words| {
            let id = words.one("the ID of a user")?;
            words.end()?;
            Ok(Command::Switch(UserId::new(id)))
        },
    },
    Entry {
        usage: "logout [ID]",
        about: "Log a user out, the current one without ID",
        details: "The tokens are gone from here in any case; the exit code says if the backend could \
                  not be told.\nAn anonymous user is forgotten: there is no way to come back as \
                  the same one.\n\nJSON: {\"user_id\"}",
        options: SESSION,
        parse: |words| words.perhaps_a_user().map(Command::LogOut),
    },
    Entry {
        usage: "remove [ID]",
        about: "Forget a user here, the current one without ID",
        details: "The account stays on the backend.\n\nJSON: {\"user_id\"}",
        options: SESSION,
        parse: |words| words.perhaps_a_user().map(Command::Remove),
    },
    Entry {
        usage: "token",
        about: "Print an access token that the backend accepts, refreshed if need be",
        details: "JSON: {\"access_token\",\"expires_at\"}, in seconds since the epoch",
        options: SESSION,
        parse: |words| words.end().map(|()| Command::Token),
    },
    Entry {
        usage: "call NAME [ARG…]",
        about: "Call a function as the current user, and print its result as it was sent",
        details: "Each ARG is (extended) JSON, or else a string. Options after `--` are arguments.\n\n\
                  JSON: the result",
        options: SESSION,
        parse: parse_call,
    },
    Entry {
        usage: "watch",
        about: "Print what happens to the users, other processes included, until interrupted",
        details: "JSON, with and without --json: one event a line",
        options: SESSION,
        parse: |words| words.end().map(|()| Command::Watch),
    },
];

fn parse_register(words: &mut Words) -> Result<Command, Stop> {
    let mut email = None;
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) if option == "--email" => email = Some(words.text(&option)?),
            word => return unexpected(word),
        }
    }
    match email {
        Some(email) => Ok(Command::Register { email }),
        None => usage("--email is missing"),
    }
}

fn parse_login(words: &mut Words) -> Result<Command, Stop> {
    let (mut email, mut anonymous, mut new) = (None, false, false);
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) => match option.as_str() {
                "--anonymous" => anonymous = true,
                "--email" => email = Some(words.text("--email")?),
                "--new" => new = true,
                _ => return unexpected(Word::Option(option)),
            },
            word => return unexpected(word),
        }
    }
    match (email, anonymous) {
        (Some(_), true) => usage("--email and --anonymous exclude each other"),
        (Some(_), false) if new => usage("--new goes with --anonymous"),
        (Some(email), false) => Ok(Command::LogIn(Login::Email(email))),
        (None, true) => Ok(Command::LogIn(Login::Anonymous { new })),
        (None, false) => usage("--email or --anonymous is missing"),
    }
}

fn parse_call(words: &mut Words) -> Result<Command, Stop> {
    let name = words.one("the NAME of the function")?;
    let mut arguments = Vec::new();
    while let Some(argument) = words.next_argument()? {
        arguments.push(serde_json::from_str(&argument).unwrap_or(Value::String(argument)));
    }
    Ok(Command::Call { name, arguments })
}

const DEFAULT_ADDR: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);

fn parse_serve(words: &mut Words) -> Result<Command, Stop> {
    let mut serve = Serve { data: None, addr: DEFAULT_ADDR, access_ttl: None, refresh_ttl: None };
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) => match option.as_str() {
                "--access-ttl" => serve.access_ttl = Some(words.lifetime(&option)?),
                "--addr" => serve.addr = address(&words.text(&option)?)?,
                "--data" => serve.data = Some(words.path(&option)?),
                "--refresh-ttl" => serve.refresh_ttl = Some(words.lifetime(&option)?),
                _ => return unexpected(Word::Option(option)),
            },
            word => return unexpected(word),
        }
    }
    Ok(Command::Serve(serve))
}

fn address(text: &str) -> Result<SocketAddr, Stop> {
    let addresses = text.to_socket_addrs();
    match addresses.ok().and_then(|mut addresses| addresses.next()) {
        Some(address) if address.ip().to_canonical().is_loopback() => Ok(address),
        Some(_) => usage("--addr can be reached from other machines, and nothing is encrypted"),
        None => usage("--addr is no HOST:PORT, such as 127.0.0.1:9090"),
    }
}

fn help() -> String {
    let commands: String =
        COMMANDS.iter().map(|entry| format!("  {:10}{}\n", entry.name(), entry.about)).collect();
    format!(
        "Keeps users logged in to an App Services-compatible backend.\n\n\
         Usage: keyfob [OPTION…] COMMAND\n\nCommands:\n{commands}\n{}\n\
         Exit codes: 0 done; 1 the backend refused; 2 usage; 3 not logged in, or the login has\n\
         ended; 4 backend unreachable or out of time; 5 the store cannot be used.\n",
        help_of_options(SESSION)
    )
}

fn help_of(entry: &Entry) -> String {
    let Entry { usage, about, details, options, .. } = entry;
    let options = help_of_options(options);
    format!("{about}.\n\nUsage: keyfob [OPTION…] {usage}\n\n{details}\n\n{options}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(line: &[&str]) -> Result<Invocation, String> {
        super::parse(line.iter().map(OsString::from).collect()).map_err(|failure| {
            assert_eq!(failure.exit_code(), 2);
            failure.message()
        })
    }

    fn refused(line: &[&str]) -> String {
        parse(line).map(|invocation| panic!("{invocation:?}")).unwrap_err()
    }

    #[test]
    fn options_for_all_stand_before_or_after_the_command() {
        for line in
            [&["--json", "--timeout", "1.5", "users"], &["users", "--json", "--timeout", "1.5"]]
        {
            let Invocation { command, settings } = parse(line).unwrap();
            assert!(matches!(command, Command::Users));
            assert!(settings.json);
            assert_eq!(settings.timeout, Some(Duration::from_millis(1500)));
        }
    }

    #[test]
    fn arguments_of_a_function_are_json_or_else_strings() {
        let line =
            ["call", "f", "1", "-2.5", "{\"$oid\":\"5f\"}", "ada", "null", "[1", "--", "--json"];
        let Invocation { command, settings } = parse(&line).unwrap();
        let Command::Call { name, arguments } = command else { panic!("{command:?}") };
        assert_eq!(name, "f");
        assert_eq!(
            Value::from(arguments),
            json!([1, -2.5, {"$oid": "5f"}, "ada", null, "[1", "--json"])
        );
        assert!(!settings.json);
    }

    #[test]
    fn every_command_has_help() {
        assert!(matches!(parse(&["--help"]), Ok(Invocation { command: Command::Text(_), .. })));
        for entry in COMMANDS {
            let Ok(Invocation { command: Command::Text(text), .. }) = parse(&[entry.name(), "-h"])
            else {
                panic!("{}", entry.name())
            };
            assert!(text.contains(entry.usage), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            &[][..],
            &["--json"],
            &["frobnicate"],
            &["confirm", "--token", "t", "--token-id", "i"],
            &["whoami", "--new"],
            &["switch"],
            &["switch", "a", "b"],
            &["register"],
            &["login"],
            &["login", "--new"],
            &["login", "--email"],
            &["login", "--email", "a", "--anonymous"],
            &["login", "--email", "a", "--new"],
            &["login", "--anonymous=yes"],
            &["call"],
            &["call", "f", "--option"],
            &["serve", "--addr", "nowhere"],
            &["serve", "--addr", "0.0.0.0:0"],
            &["serve", "--app", "dir"],
            &["serve", "--access-ttl", "0"],
            &["serve", "--access-ttl", "1.5"],
            &["serve", "--refresh-ttl", "18446744073709551616"],
            &["serve", "--data", ""],
            &["serve", "--base-url", "http://127.0.0.1:1"],
            &["demo", "--store", "dir"],
            &["users", "--store", ""],
            &["users", "--timeout", "-1"],
            &["users", "--timeout", "nan"],
            &["users", "--timeout", "inf"],
            &["users", "--timeout", "1e30"],
            &["users", "--timeout", "soon"],
        ] {
            assert!(refused(line).contains("--help"), "{line:?}");
        }
    }

    #[test]
    fn secrets_in_the_wrong_place_are_not_repeated() {
        for line in [
            &["login", "--email", "ada@example.org", "hunter22"][..],
            &["login", "--email", "ada@example.org", "--password=hunter22"],
            &["login", "--email", "ada@example.org", "--password", "hunter22"],
            &["login", "--email", "ada@example.org", "-phunter22"],
            &["login", "--anonymous=hunter22"],
            &["register", "--email=ada@example.org", "hunter22"],
        ] {
            assert!(!refused(line).contains("hunter22"), "{line:?}");
        }
    }
}
