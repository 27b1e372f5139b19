//! Messages for invalid command lines.
//!
//! A message repeats only names of this command's options, because any other argument may be a
//! misplaced secret.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;

/// Why a value is invalid, without the value.
#[derive(Debug)]
pub(crate) struct Reason(Cow<'static, str>);

impl Reason {
    pub(crate) fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Reason {}

/// Describes an error of the parser, and where to find the help.
pub(crate) fn failure(
    error: &clap::Error,
    keyfob: &mut Command,
    arguments: &[OsString],
) -> Failure {
    keyfob.build();
    let names = Names { error, keyfob };
    let command = names.command(arguments);
    let message = names.message(command, arguments);
    let path = command.get_bin_name().unwrap_or("keyfob");
    Failure::Usage(format!("{message}; see `{path} --help`"))
}

struct Names<'a> {
    error: &'a clap::Error,
    keyfob: &'a Command,
}

impl<'a> Names<'a> {
    /// Returns the command that the error is about: the command in its usage text, or otherwise the
    /// command that the arguments start with.
    fn command(&self, arguments: &[OsString]) -> &'a Command {
        let words: Vec<_> = match self.error.get(ContextKind::Usage) {
            Some(ContextValue::StyledStr(usage)) => {
                let usage = usage.to_string();
                let words = usage.split_whitespace().skip_while(|word| *word != "keyfob").skip(1);
                words.map(OsString::from).collect()
            }
            _ => arguments.to_vec(),
        };
        words
            .iter()
            .fold(self.keyfob, |command, word| command.find_subcommand(word).unwrap_or(command))
    }

    fn message(&self, command: &Command, arguments: &[OsString]) -> String {
        let option = self.known(ContextKind::InvalidArg).join(", ");
        match self.error.kind() {
            ErrorKind::ArgumentConflict => {
                let prior = self.known(ContextKind::PriorArg).join(", ");
                format!("{option} cannot be used together with {prior}")
            }
            ErrorKind::InvalidSubcommand => {
                let what = self.unknown("unknown command", arguments);
                self.suggesting(&what, ContextKind::SuggestedSubcommand, &listed(command))
            }
            ErrorKind::InvalidUtf8 => "an argument is not UTF-8".to_owned(),
            ErrorKind::InvalidValue => match self.texts(ContextKind::ValidValue) {
                [] => format!("{option} needs a value"),
                values => format!("{option} needs one of {}", values.join(", ")),
            },
            ErrorKind::MissingRequiredArgument => match option.strip_prefix("one of ") {
                Some(options) => format!("choose one of {options}"),
                None => format!("{option} is missing"),
            },
            // The second kind is for a command that only has subcommands.
            ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                format!("a command is missing{}", listed(command))
            }
            ErrorKind::TooManyValues => format!("{option} takes no value"),
            ErrorKind::UnknownArgument => self.surplus(command, arguments),
            ErrorKind::ValueValidation => match self.reason() {
                Some(reason) => format!("{option} {reason}"),
                None => format!("{option} cannot be used"),
            },
            _ => "the arguments cannot be used".to_owned(),
        }
    }

    /// Describes an unexpected argument.
    fn surplus(&self, command: &Command, arguments: &[OsString]) -> String {
        let texts = self.texts(ContextKind::InvalidArg);
        let text = texts.first().map_or("", String::as_str);
        if !text.starts_with('-') {
            let what = self.unknown("unexpected argument", arguments);
            return match command.get_name() {
                "link" | "login" => format!(
                    "{what}: the way to log in is an option, such as --email, and secrets are read \
                     from standard input"
                ),
                "call-reset" | "complete-reset" | "register" => {
                    format!("{what}: passwords are read from standard input")
                }
                _ => what,
            };
        }
        match text.strip_prefix("--").filter(|name| is_option(self.keyfob, name)) {
            Some(name) => {
                let path = command.get_bin_name().unwrap_or("keyfob");
                format!("--{name} is not an option of `{path}`")
            }
            None => {
                let what = self.unknown("unknown option", arguments);
                self.suggesting(&what, ContextKind::SuggestedArg, "")
            }
        }
    }

    /// Describes the position of an argument without repeating it.
    fn unknown(&self, what: &str, arguments: &[OsString]) -> String {
        let kinds = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
        let text = kinds.into_iter().flat_map(|kind| self.texts(kind)).next();
        let is_it = |argument: &OsString| {
            let argument = argument.to_string_lossy();
            text.is_some_and(|text| {
                argument
                    .strip_prefix(&**text)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            })
        };
        match arguments.iter().position(is_it) {
            Some(index) => {
                format!("{what} (argument {}, not shown because it may be a secret)", index + 1)
            }
            None => what.to_owned(),
        }
    }

    fn suggesting(&self, what: &str, kind: ContextKind, otherwise: &str) -> String {
        match self.texts(kind) {
            [] => format!("{what}{otherwise}"),
            // The most similar one comes last.
            found => {
                let found: Vec<_> = found.iter().rev().map(String::as_str).collect();
                format!("{what}; did you mean {}?", found.join(" or "))
            }
        }
    }

    /// Returns why a value is invalid, if a parser of this command rejected it.
    fn reason(&self) -> Option<&Reason> {
        self.error.source()?.downcast_ref()
    }

    /// Returns names from the definition of the command, without the names of values.
    fn known(&self, kind: ContextKind) -> Vec<String> {
        self.texts(kind).iter().map(|name| without_value(name)).collect()
    }

    fn texts(&self, kind: ContextKind) -> &[String] {
        match self.error.get(kind) {
            Some(ContextValue::String(text)) => std::slice::from_ref(text),
            Some(ContextValue::Strings(texts)) => texts,
            _ => &[],
        }
    }
}

/// Removes the names of values: `--email <E>` becomes `--email`, `<NAME>` becomes `NAME`, and
/// `<--a|--b <B>>` becomes one of `--a`, `--b`.
fn without_value(name: &str) -> String {
    match name.strip_prefix('<').and_then(|name| name.strip_suffix('>')) {
        Some(group) if group.starts_with('-') => {
            let options: Vec<_> =
                group.split('|').map(|part| part.split(' ').next().unwrap_or(part)).collect();
            format!("one of {}", options.join(", "))
        }
        Some(value) => value.to_owned(),
        None => name.split(' ').next().unwrap_or_default().to_owned(),
    }
}

/// Returns `true` if any command has an option with this name.
fn is_option(command: &Command, name: &str) -> bool {
    command.get_arguments().any(|argument| argument.get_long() == Some(name))
        || command.get_subcommands().any(|command| is_option(command, name))
}

/// Lists the subcommands of a command, or some of them if there are many.
fn listed(command: &Command) -> String {
    let names: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
    let names: Vec<_> = names.into_iter().filter(|name| *name != "help").collect();
    match names.len() {
        ..8 => format!("; expected {}", names.join(", ")),
        _ => "; try demo, serve or login".to_owned(),
    }
}
