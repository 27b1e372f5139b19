//! The commands: what each may be told, and its help.
//!
//! Each command is one entry of [`COMMANDS`], help included. But for the name of a command that
//! there is not, no message repeats what was not expected: it may be a secret in the wrong place.

use std::ffi::{OsStr, OsString};

use keyfob::UserId;

use crate::command::{Command, Invocation};
use crate::failure::Failure;
use crate::parsing;
use crate::words::{SESSION, Stop, Word, Words, help_of_options, unexpected, usage};

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

/// The help of what takes a pair from a mail, the one secret that is an argument.
const PAIR: &str = "Others who use this machine may see arguments; the pair is good for one use.\n\n\
                    JSON: {}";

const COMMANDS: &[Entry] = &[
    Entry {
        usage: "demo",
        about: "Run the whole story on a backend of its own, step by step",
        details: "Needs no options and no network, and leaves nothing behind when it ends.\n\n\
                  JSON: {\"steps\"}, the titles of the steps; the story goes to standard error.",
        options: &["--json"],
        parse: |words| words.end().map(|()| Command::Demo),
    },
    Entry {
        usage: "serve [--data DIR] [--addr HOST:PORT] [--access-ttl S] [--refresh-ttl S] [--mail] \
                [--jwt-secret-file FILE | --jwt-jwks URL] [--google-client-id ID]… \
                [--disable PROVIDER]… \
                [--no-registration] [--public-url URL] [--trusted-proxy ADDR]… [--no-rate-limits]",
        about: "Run a backend for development and tests, until interrupted",
        details: "  --data DIR        keep users in DIR; without it they go when the backend ends\n\
                  \x20 --addr HOST:PORT  listen there (default 127.0.0.1:9090; port 0 takes a free one)\n\
                  \x20 --access-ttl S    access tokens live S seconds\n\
                  \x20 --refresh-ttl S   refresh tokens live S seconds\n\
                  \x20 --mail            addresses have to be confirmed, with the pair from a mail\n\
                  \x20 --jwt-secret-file FILE  accept JWTs signed with the secret in FILE (HS256)\n\
                  \x20 --jwt-jwks URL    accept JWTs signed with a key of the set at URL\n\
                  \x20 --google-client-id ID  accept ID tokens that Google made for this client;\n\
                  \x20                   repeatable\n\
                  \x20 --disable PROVIDER  switch off anon-user, api-key, local-userpass or another\n\
                  \x20                   provider; repeatable\n\
                  \x20 --no-registration  nobody can register an e-mail address\n\
                  \x20 --public-url URL  the URL by which clients reach a proxy in front\n\
                  \x20 --trusted-proxy ADDR  take the client's address from X-Forwarded-For if the\n\
                  \x20                   connection comes from ADDR; repeatable\n\
                  \x20 --no-rate-limits  allow any number of log-ins, registrations and mails\n\n\
                  Within 15 minutes an address may log in anonymously 500 times, register 100 e-mail\n\
                  addresses, and fail to log in 100 times (with a password 200 times, 20 for an\n\
                  account); in an hour an e-mail address may get 10 mails. Beyond that requests are\n\
                  refused with status 429.\n\
                  A JWT needs `aud`, the app id; `sub`, who it is; and `exp`, when it ends.\n\
                  Mails, to confirm an address or to reset a password, are not sent but printed with\n\
                  their link. Functions to call: sum, echo, whoami.\n\
                  Exit codes: 2 an option cannot be used; 4 the address cannot be had; 5 DIR cannot\n\
                  be used, or another backend has it.\n\n\
                  JSON: {\"base_url\",\"app_id\"} on the first line, then\n\
                  {\"mail\":{\"to\",\"kind\",\"token\",\"token_id\",\"link\"}} for each mail.",
        options: &["--app-id", "--json"],
        parse: parsing::serve,
    },
    Entry {
        usage: "register --email E",
        about: "Register an e-mail address; the password is read from standard input",
        details: "JSON: {}, or {\"status\":\"pending\"} if the address has to be confirmed first",
        options: SESSION,
        parse: |words| Ok(Command::Register { email: parsing::email(words)? }),
    },
    Entry {
        usage: "confirm --token T --token-id I",
        about: "Confirm an e-mail address with the pair from the confirmation mail",
        details: PAIR,
        options: SESSION,
        parse: |words| parsing::mail_token(words).map(Command::Confirm),
    },
    Entry {
        usage: "resend-confirmation --email E",
        about: "Have the confirmation mail sent again",
        details: "JSON: {}",
        options: SESSION,
        parse: |words| Ok(Command::ResendConfirmation { email: parsing::email(words)? }),
    },
    Entry {
        usage: "retry-confirmation --email E",
        about: "Have the app's own confirmation function run again",
        details: "JSON: {}",
        options: SESSION,
        parse: |words| Ok(Command::RetryConfirmation { email: parsing::email(words)? }),
    },
    Entry {
        usage: "reset-password --email E",
        about: "Have a mail sent with which the password can be set anew",
        details: "JSON: {}",
        options: SESSION,
        parse: |words| Ok(Command::ResetPassword { email: parsing::email(words)? }),
    },
    Entry {
        usage: "complete-reset --token T --token-id I",
        about: "Set a new password, read from standard input, with the pair from the reset mail",
        details: PAIR,
        options: SESSION,
        parse: |words| parsing::mail_token(words).map(Command::CompleteReset),
    },
    Entry {
        usage: "call-reset --email E [ARG…]",
        about: "Have the app's own function set a new password, read from standard input",
        details: "Each ARG is (extended) JSON, or else a string.\n\nJSON: {\"status\"}: done, pending (the old password still counts) or unknown (the backend does\nnot say)",
        options: SESSION,
        parse: parsing::call_reset,
    },
    Entry {
        usage: "login HOW",
        about: "Log in, and make that user current; secrets are read from standard input",
        details: parsing::HOW_TO_LOG_IN,
        options: SESSION,
        parse: |words| parsing::login(words).map(Command::LogIn),
    },
    Entry {
        usage: "link HOW",
        about: "Attach another account to the current user; HOW as for login",
        details: "HOW is what `keyfob login --help` says, but for --anonymous, which is no account.\n\n\
                  JSON: {\"user_id\",\"identities\":[{\"id\",\"provider\"}]}",
        options: SESSION,
        parse: |words| parsing::link(words).map(Command::Link),
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
        details: "The log-out stands here in any case. A backend that does not answer is told by a \
                  later\ncommand; if the store is in the clear it is not, and the message and the \
                  exit code say so.\nAn anonymous user is forgotten: there is no way to come back as \
                  the same one, and no\ntelling the backend later.\n\nJSON: {\"user_id\"}",
        options: SESSION,
        parse: |words| words.perhaps_a_user().map(Command::LogOut),
    },
    Entry {
        usage: "remove [ID]",
        about: "Forget a user here, the current one without ID",
        details: "The account stays on the backend. Exit code 4: either the user is removed here and \
                  the\nbackend could not be told, or the store was busy and nothing was done; the \
                  message says\nwhich.\n\nJSON: {\"user_id\"}",
        options: SESSION,
        parse: |words| words.perhaps_a_user().map(Command::Remove),
    },
    Entry {
        usage: "delete [ID] --yes",
        about: "Delete a user on the backend and here, the current one without ID",
        details: "The account is gone for good; --yes says that this is meant.\n\n\
                  JSON: {\"user_id\"}",
        options: SESSION,
        parse: parsing::delete,
    },
    Entry {
        usage: "profile [--refresh]",
        about: "Show the current user's profile; uses no network without --refresh",
        details: "JSON: the document",
        options: SESSION,
        parse: |words| Ok(Command::Profile { refresh: parsing::refresh(words)? }),
    },
    Entry {
        usage: "custom-data [--refresh]",
        about: "Show the current user's custom data; uses no network without --refresh",
        details: "JSON: the document, null if there is none",
        options: SESSION,
        parse: |words| Ok(Command::CustomData { refresh: parsing::refresh(words)? }),
    },
    Entry {
        usage: "api-keys create NAME | list | get ID | enable ID | disable ID | delete ID",
        about: "Make and manage the current user's API keys",
        details: "A key is shown once, when it is made.\n\n\
                  JSON: {\"id\",\"name\",\"enabled\"}, at creation with \"key\"; a list of them; null \
                  if there is none;\n{} for enable, disable and delete",
        options: SESSION,
        parse: |words| parsing::api_keys(words).map(Command::ApiKeys),
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
        about: "Call a function as the current user, and print its result as extended JSON",
        details: "Each ARG is (extended) JSON, or else a string. Options after `--` are arguments.\n\n\
                  JSON: the result",
        options: SESSION,
        parse: parsing::call,
    },
    Entry {
        usage: "watch",
        about: "Print what happens to the users, other processes included, until interrupted",
        details: "JSON, with and without --json: one event a line",
        options: SESSION,
        parse: |words| words.end().map(|()| Command::Watch),
    },
];

fn help() -> String {
    let commands: String =
        COMMANDS.iter().map(|entry| format!("  {:20}{}\n", entry.name(), entry.about)).collect();
    format!(
        "Keeps users logged in to an App Services-compatible backend.\n\n\
         Usage: keyfob [OPTION…] COMMAND\n\nCommands:\n{commands}\n{}\n\
         Passwords, keys and tokens to log in with are read from standard input, never from\n\
         arguments; the token pair from a mail is two options.\n\n\
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

    use std::time::Duration;

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
            ["call", "f", "1", "-2.5", "{\"z\":1,\"a\":-1}", "ada", "null", "[1", "--", "--json"];
        let Invocation { command, settings } = parse(&line).unwrap();
        let Command::Call { name, arguments } = command else { panic!("{command:?}") };
        assert_eq!(name, "f");
        let arguments = serde_json::to_string(&arguments).unwrap();
        assert_eq!(arguments, r#"[1,-2.5,{"z":1,"a":-1},"ada",null,"[1","--json"]"#);
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
            &["confirm", "--token", "t"],
            &["confirm", "--token-id", "i"],
            &["reset-password"],
            &["delete"],
            &["delete", "id"],
            &["login", "--jwt", "--api-key"],
            &["login", "--function", "7"],
            &["login", "--function", "{"],
            &["link"],
            &["link", "--anonymous"],
            &["link", "--anonymous", "--new"],
            &["api-keys"],
            &["api-keys", "burn", "id"],
            &["api-keys", "create"],
            &["api-keys", "list", "id"],
            &["profile", "--fresh"],
            &["serve", "--jwt-jwks", "http://127.0.0.1:1", "--jwt-secret-file", "f"],
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
            &["login", "--api-key", "hunter22"],
            &["login", "--jwt=hunter22"],
            &["login", "--function", "hunter22"],
            &["link", "--apple", "hunter22"],
            &["complete-reset", "--token", "t", "--token-id", "i", "hunter22"],
            &["register", "--email=ada@example.org", "hunter22"],
        ] {
            assert!(!refused(line).contains("hunter22"), "{line:?}");
        }
    }
}
