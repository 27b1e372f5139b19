//! The definition of the command line with clap: commands, options and their help.

use std::convert::Infallible;
use std::ffi::OsString;
use std::iter;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgGroup, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use keyfob::Secret;
use keyfob::ejson::Value;

use crate::browser::{BrowserArgs, WAYS};
use crate::common_args::Common;
use crate::failure::Failure;
use crate::serve::ServeArgs;
use crate::unprintable::trim;
use crate::usage::{self, Reason};

/// The locations of the scripts, for the help.
const COMPLETIONS_HELP: &str = "\
Bash:        keyfob completions bash > ~/.local/share/bash-completion/completions/keyfob
Zsh:         keyfob completions zsh > DIR/_keyfob, where DIR is in $fpath
Fish:        keyfob completions fish > ~/.config/fish/completions/keyfob.fish
PowerShell:  keyfob completions powershell >> $PROFILE";

/// The commands that open no session, each with the common options that it uses.
const WITHOUT_SESSION: [(&str, &[&str]); 4] =
    [("completions", &[]), ("demo", &["json"]), ("man", &[]), ("serve", &["app_id", "json"])];

/// Keeps users logged in to an App Services-compatible backend.
#[derive(Debug, Parser)]
#[command(
    name = "keyfob",
    version,
    after_help = "Passwords, keys and tokens to log in with are read from standard input or prompted for, never \
                  taken from arguments.\n\n\
                  Exit codes: 0 done; 1 the backend refused; 2 usage; 3 not logged in, or the login has ended; 4 backend unreachable or out of time; 5 the store cannot be used.\n\n\
                  `keyfob help COMMAND` shows the help of a command.",
    args_override_self = true,
    subcommand_required = true,
    arg_required_else_help = false
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what keyfob does, step by step, on a backend of its own
    ///
    /// Needs no network, and leaves nothing behind.
    #[command(
        after_help = "JSON: {\"steps\"}, the titles of the steps; the steps themselves go to standard error."
    )]
    Demo,
    /// Run a backend for development and tests, until interrupted
    #[command(after_help = crate::serve::HELP)]
    Serve(Box<ServeArgs>),
    /// Register an e-mail address; the password is read from standard input
    #[command(
        after_help = "JSON: {}, or {\"status\":\"pending\"} if the address has to be confirmed first."
    )]
    Register(Email),
    /// Confirm an e-mail address with the pair from the confirmation mail
    #[command(after_help = PAIR)]
    Confirm(MailToken),
    /// Request another confirmation mail
    #[command(after_help = "JSON: {}")]
    ResendConfirmation(Email),
    /// Run the app's own confirmation function again
    #[command(after_help = "JSON: {}")]
    RetryConfirmation(Email),
    /// Request a mail with which a new password can be set
    #[command(after_help = "JSON: {}")]
    ResetPassword(Email),
    /// Set a new password, read from standard input, with the pair from the reset mail
    #[command(after_help = PAIR)]
    CompleteReset(MailToken),
    /// Call the app's own reset function with a new password, read from standard input
    #[command(
        after_help = "JSON: {\"status\"}: done, pending (the old password is still valid) or unknown (the \
                            backend does not say)."
    )]
    CallReset {
        #[command(flatten)]
        email: Email,
        #[command(flatten)]
        arguments: Arguments,
    },
    /// Log in, and make that user the current user
    ///
    /// The password, key, token or code is read from standard input.
    #[command(after_help = "JSON: {\"user_id\",\"provider\"}; with --browser, {\"url\"} or \
                            {\"user_code\",\"verification_uri\"} comes first, on a line of standard error.")]
    #[command(
        override_usage = "keyfob login [OPTIONS] <--anonymous|--email <E>|--api-key|--browser <PROVIDER>|…>"
    )]
    Login(Box<LoginArgs>),
    /// Attach another account to the current user
    ///
    /// The password, key, token or code is read from standard input.
    #[command(after_help = "JSON: {\"user_id\",\"identities\":[{\"id\",\"provider\"}]}")]
    #[command(
        override_usage = "keyfob link [OPTIONS] <--email <E>|--api-key|--browser <PROVIDER>|…>"
    )]
    Link(Box<Account>),
    /// Show the current user; uses no network unless KEYFOB_API_KEY is set
    #[command(
        after_help = "JSON: {\"user_id\",\"state\",\"identities\":[{\"id\",\"provider\"}],\"profile\",\
                            \"custom_data\",\"email\",\"name\",\"providers\"}"
    )]
    Whoami,
    /// List all users of this store; uses no network
    #[command(
        after_help = "JSON: [{\"user_id\",\"state\",\"current\",\"email\",\"name\",\"providers\"}]"
    )]
    Users,
    /// Make another user the current user; uses no network
    #[command(after_help = "JSON: {\"user_id\"}")]
    Switch {
        /// The e-mail address of the user, the id, or the beginning of the id
        user: String,
    },
    /// Log a user out, by default the current user
    ///
    /// The user is logged out here in any case. If the backend is unreachable, a later command revokes the session
    /// there; for this, an encrypted store keeps the refresh token. An unencrypted store does not, and neither does it
    /// for an anonymous user: then the message and the exit code say that the backend was not notified.
    ///
    /// An anonymous user is removed: nobody can log in as that user again.
    #[command(after_help = ENDED)]
    Logout(OneUser),
    /// Remove a user from this store, by default the current user
    ///
    /// The account stays on the backend. Exit code 4 means: either the user is removed here and the backend could not
    /// be notified, or the store was busy and nothing was done. The message says which.
    #[command(after_help = ENDED)]
    Remove(OneUser),
    /// Delete the account of a user, on the backend and here; by default that of the current user
    ///
    /// The account is deleted permanently. On a terminal the command asks first; otherwise --yes is required.
    #[command(after_help = ENDED)]
    Delete {
        #[command(flatten)]
        user: OneUser,
        /// Do not ask: delete the account permanently
        #[arg(long)]
        yes: bool,
    },
    /// Show the profile of the current user; uses no network without --refresh or KEYFOB_API_KEY
    #[command(after_help = "JSON: the document")]
    Profile(Refresh),
    /// Show the custom data of the current user; uses no network without --refresh or KEYFOB_API_KEY
    #[command(after_help = "JSON: the document, or null if there is none")]
    CustomData(Refresh),
    /// Create and manage the API keys of the current user
    #[command(subcommand)]
    ApiKeys(ApiKeys),
    /// Print an access token of the current user, refreshed if it is due
    #[command(after_help = "JSON: {\"access_token\",\"expires_at\"}, in seconds since the epoch")]
    Token,
    /// Call a function as the current user, and print its result as relaxed extended JSON
    #[command(after_help = "JSON: the result in canonical extended JSON")]
    Call {
        /// The name of the function
        name: String,
        /// Print canonical extended JSON, with a type for each number
        #[arg(long)]
        canonical: bool,
        #[command(flatten)]
        arguments: Arguments,
    },
    /// Print changes to users, including those by other processes, until interrupted
    #[command(after_help = "JSON, with and without --json: one event a line")]
    Watch,
    /// Recover the users of a damaged store
    ///
    /// Continues in a new database with the users that can still be read. The damaged files are kept. Does nothing if
    /// the store is not damaged.
    #[command(
        after_help = "JSON: {\"recovered\",\"kept\",\"users\"}: whether the store was damaged, where the damaged \
                            files are, and the ids of the users"
    )]
    Recover,
    /// Encrypt an unencrypted store
    ///
    /// The key is in the file `key` in the data directory, or in the file that KEYFOB_STORE_KEY_FILE names. It is
    /// created if it is missing. Programs without the key cannot open the store any more. Does nothing if the store is
    /// encrypted already, or does not exist.
    #[command(after_help = "JSON: {\"encrypted\"}: whether the store was unencrypted before")]
    Encrypt,
    /// Print a script that completes commands and options in a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell: bash, elvish, fish, powershell or zsh
        #[arg(hide_possible_values = true)]
        shell: Shell,
    },
    /// Print the man page, or write it and a page for each command to a directory
    Man {
        /// Write keyfob.1, keyfob-login.1 and so on to this directory, which is created if need be
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// The JSON help of commands after which another user may be the current user.
const ENDED: &str =
    "JSON: {\"user_id\",\"current\"}, the user and who is the current user now, or null";

/// The help of commands with the token pair from a mail, the only secret in arguments.
const PAIR: &str =
    "Other users of this machine may see arguments; the pair can be used once.\n\nJSON: {}";

#[derive(Args, Debug)]
pub(crate) struct Email {
    /// The e-mail address
    #[arg(long, value_name = "E")]
    pub(crate) email: String,
}

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Arguments of the function: (extended) JSON, or else strings; what follows `--` is never an option
    #[arg(value_name = "ARG", allow_negative_numbers = true, value_parser = json_or_string)]
    pub(crate) arguments: Vec<Value>,
}

/// The pair from a mail.
#[derive(Args, Debug)]
pub(crate) struct MailToken {
    /// The token
    #[arg(long, value_name = "T", allow_hyphen_values = true, value_parser = secret)]
    pub(crate) token: Secret,
    /// The id of the token
    #[arg(long, value_name = "I", allow_hyphen_values = true, value_parser = trimmed)]
    pub(crate) token_id: String,
}

#[derive(Args, Debug)]
pub(crate) struct LoginArgs {
    /// Use no account: log in as the anonymous user of this store, or as a new one
    #[arg(long, group = "how", help_heading = WAYS)]
    pub(crate) anonymous: bool,
    /// With --anonymous: log in as a new user in any case
    #[arg(long)]
    pub(crate) new: bool,
    #[command(flatten)]
    pub(crate) account: Account,
}

/// An account that exists elsewhere. Secrets are not here: they are read from standard input.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("how").required(true)))]
pub(crate) struct Account {
    /// Use a registered e-mail address and its password
    #[arg(long, value_name = "E", group = "how", help_heading = WAYS)]
    pub(crate) email: Option<String>,
    /// Use an API key
    #[arg(long, group = "how", help_heading = WAYS)]
    pub(crate) api_key: bool,
    /// Use a JWT from an external identity provider
    #[arg(long, group = "how", help_heading = WAYS)]
    pub(crate) jwt: bool,
    /// Use an ID token from Google
    #[arg(long, group = "how", help_heading = WAYS)]
    pub(crate) google_id_token: bool,
    /// Use an authorization code from Google
    #[arg(long, group = "how", help_heading = WAYS)]
    pub(crate) google_auth_code: bool,
    /// Use an ID token from Apple
    #[arg(long, group = "how", help_heading = WAYS)]
    pub(crate) apple: bool,
    /// Use an access token from Facebook
    #[arg(long, group = "how", help_heading = WAYS)]
    pub(crate) facebook: bool,
    /// Use the app's own authentication function, with this argument
    #[arg(long, value_name = "JSON", group = "how", help_heading = WAYS, value_parser = object)]
    pub(crate) function: Option<Value>,
    #[command(flatten)]
    pub(crate) browser: BrowserArgs,
}

#[derive(Args, Debug)]
pub(crate) struct OneUser {
    /// The e-mail address of the user, the id, or the beginning of the id
    pub(crate) user: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Refresh {
    /// Request it from the backend first
    #[arg(long)]
    pub(crate) refresh: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeys {
    /// Create a key; it is printed once, now
    #[command(after_help = "JSON: {\"id\",\"name\",\"enabled\",\"key\"}")]
    Create {
        /// The name of the key
        name: String,
    },
    /// List the keys
    #[command(after_help = "JSON: [{\"id\",\"name\",\"enabled\"}]")]
    List,
    /// Show a key
    #[command(after_help = "JSON: {\"id\",\"name\",\"enabled\"}, or null if there is none")]
    Get(KeyId),
    /// Enable a key
    #[command(after_help = "JSON: {}")]
    Enable(KeyId),
    /// Disable a key
    #[command(after_help = "JSON: {}")]
    Disable(KeyId),
    /// Delete a key
    #[command(after_help = "JSON: {}")]
    Delete(KeyId),
}

#[derive(Args, Debug)]
pub(crate) struct KeyId {
    /// The id of the key
    pub(crate) id: String,
}

/// Parses the arguments, without the name of the program. Returns `None` if help or the version was
/// requested and has been printed.
///
/// # Errors
/// [`Failure::Usage`] with the problem, and where to find the help.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Option<Cli>, Failure> {
    let mut command = command();
    let words = iter::once(OsString::from("keyfob")).chain(arguments.iter().cloned());
    let parsed = command.try_get_matches_from_mut(words).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() => {
            return Err(usage::failure(&error, &mut command, arguments));
        }
        Err(help) => return help.print().map(|()| None).map_err(Failure::Output),
    };
    let name = matches.subcommand_name().unwrap_or_default();
    if let Some(message) = cli.command.contradiction() {
        return Err(Failure::Usage(format!("{message}; see `keyfob {name} --help`")));
    }
    if let Some((_, used)) = WITHOUT_SESSION.iter().find(|(command, _)| *command == name)
        && let Some(unused) = command.get_arguments().find(|option| {
            let id = option.get_id().as_str();
            matches.value_source(id) == Some(ValueSource::CommandLine) && !used.contains(&id)
        })
    {
        let option = unused.get_long().unwrap_or_default();
        return Err(Failure::Usage(format!(
            "--{option} has no effect on `{name}`; see `keyfob {name} --help`"
        )));
    }
    Ok(Some(cli))
}

impl Command {
    /// Describes an option that has no effect without another one. clap's `requires` does not catch
    /// these: it is satisfied by a group that excludes the required option.
    fn contradiction(&self) -> Option<String> {
        let account = match self {
            Self::Login(args) if args.new && !args.anonymous => {
                return Some("--new needs --anonymous".to_owned());
            }
            Self::Login(args) => &args.account,
            Self::Link(account) => account,
            _ => return None,
        };
        account.browser.unused().map(|option| format!("{option} needs --browser"))
    }
}

/// Returns the definition of the command line.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let common: Vec<_> = command.get_arguments().cloned().collect();
    command.mut_subcommands(|subcommand| {
        let name = subcommand.get_name();
        let Some((_, used)) = WITHOUT_SESSION.iter().find(|(it, _)| *it == name) else {
            return subcommand;
        };
        let unused = common.iter().filter(|option| !used.contains(&option.get_id().as_str()));
        subcommand.args(unused.map(|option| option.clone().hide(true)))
    })
}

/// Returns `true` if errors should be printed as JSON, for arguments that could not be parsed.
pub(crate) fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(trim(text)))
}

fn trimmed(text: &str) -> Result<String, Infallible> {
    Ok(trim(text).to_owned())
}

fn json_or_string(argument: &str) -> Result<Value, Infallible> {
    Ok(serde_json::from_str(argument).unwrap_or_else(|_| Value::String(argument.to_owned())))
}

fn object(text: &str) -> Result<Value, Reason> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(Reason::new("needs a JSON object")),
    }
}

#[cfg(test)]
mod tests;
