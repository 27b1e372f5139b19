//! The words of a command line, one after the other, and the options that commands share.
//!
//! No message repeats a word that was not expected but the name of an option: it may be a secret in
//! the wrong place.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use keyfob::UserId;
use lexopt::Arg;

use crate::failure::Failure;

/// The options that commands have in common.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    app_id: Option<String>,
    base_url: Option<String>,
    store: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) timeout: Option<Duration>,
}

/// What is left of the command line. Common options go to the settings wherever they stand.
pub(crate) struct Words {
    parser: lexopt::Parser,
    settings: Settings,
    given: Vec<&'static str>,
}

/// What is no common option.
pub(crate) enum Word {
    /// With its dashes.
    Option(String),
    Value(OsString),
}

/// Why parsing stops.
pub(crate) enum Stop {
    Help,
    Usage(String),
    Version,
}

pub(crate) fn usage<T>(message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Usage(message.into()))
}

impl From<lexopt::Error> for Stop {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(match error {
            lexopt::Error::MissingValue { option: Some(option) } => {
                format!("{option} needs a value")
            }
            lexopt::Error::UnexpectedValue { option, .. } => format!("{option} takes no value"),
            _ => "the arguments cannot be read".to_owned(),
        })
    }
}

/// The longest time that is taken for a number of seconds on purpose: ten years.
const LONGEST: u64 = 10 * 365 * 24 * 3600;

/// The common options of a command that opens a session.
pub(crate) const SESSION: &[&str] = &["--app-id", "--base-url", "--store", "--timeout", "--json"];

/// What `--store` takes.
const STORE: &str = if cfg!(feature = "redis") { "DIR|URL" } else { "DIR" };

const STORE_HELP: &str = if cfg!(feature = "redis") {
    "where users and tokens are kept (or KEYFOB_STORE): a directory,\n\
     or redis://USER@HOST:PORT or rediss://, with the password in\n\
     KEYFOB_REDIS_PASSWORD; by default the platform's directory for\n\
     application data"
} else {
    "where users and tokens are kept (or KEYFOB_STORE);\n\
     by default the platform's directory for application data"
};

/// Name, value and meaning.
const OPTIONS: [(&str, &str, &str); 5] = [
    ("--app-id", "ID", "the app's client app id (or KEYFOB_APP_ID)"),
    ("--base-url", "URL", "where the backend is (or KEYFOB_BASE_URL)"),
    ("--store", STORE, STORE_HELP),
    ("--timeout", "SECONDS", "how long the command may take (default 60)"),
    ("--json", "", "the result, and errors, as JSON"),
];

impl Settings {
    /// Returns the app id, from the option or the environment.
    pub(crate) fn app_id(&self) -> Result<Option<String>, Failure> {
        or_environment(self.app_id.as_deref(), "KEYFOB_APP_ID")
    }

    /// Returns the base URL, from the option or the environment.
    pub(crate) fn base_url(&self) -> Result<Option<String>, Failure> {
        or_environment(self.base_url.as_deref(), "KEYFOB_BASE_URL")
    }

    /// Returns the directory of the store, from the option or the environment.
    pub(crate) fn store(&self) -> Option<PathBuf> {
        let environment = || std::env::var_os("KEYFOB_STORE").filter(|dir| !dir.is_empty());
        self.store.clone().or_else(|| environment().map(PathBuf::from))
    }
}

fn or_environment(option: Option<&str>, variable: &str) -> Result<Option<String>, Failure> {
    if let Some(option) = option {
        return Ok(Some(option.to_owned()));
    }
    let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let not_text = |_| Failure::Usage(format!("{variable} is not UTF-8"));
    value.into_string().map(Some).map_err(not_text)
}

impl Words {
    pub(crate) fn new(arguments: Vec<OsString>) -> Self {
        let parser = lexopt::Parser::from_args(arguments);
        Self { parser, settings: Settings::default(), given: Vec::new() }
    }

    pub(crate) fn into_settings(self) -> Settings {
        self.settings
    }

    /// Returns a common option that was given and is not among these.
    pub(crate) fn given_beyond(&self, options: &[&str]) -> Option<&'static str> {
        self.given.iter().find(|option| !options.contains(option)).copied()
    }

    /// Returns the next word; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Word>, Stop> {
        loop {
            match self.parser.next()? {
                None => return Ok(None),
                Some(Arg::Value(value)) => return Ok(Some(Word::Value(value))),
                Some(Arg::Short('h') | Arg::Long("help")) => return Err(Stop::Help),
                Some(Arg::Short('V') | Arg::Long("version")) => return Err(Stop::Version),
                Some(Arg::Short(option)) => return Ok(Some(Word::Option(format!("-{option}")))),
                Some(Arg::Long(option)) => {
                    let option = format!("--{option}");
                    match OPTIONS.iter().find(|(name, ..)| option == *name) {
                        Some((name, ..)) => self.common(name)?,
                        None => return Ok(Some(Word::Option(option))),
                    }
                }
            }
        }
    }

    /// Takes in a common option and its value.
    fn common(&mut self, option: &'static str) -> Result<(), Stop> {
        self.given.push(option);
        match option {
            "--app-id" => self.settings.app_id = Some(self.text(option)?),
            "--base-url" => self.settings.base_url = Some(self.text(option)?),
            "--store" => self.settings.store = Some(self.path(option)?),
            "--timeout" => self.settings.timeout = Some(self.seconds(option)?),
            _ => self.settings.json = true,
        }
        Ok(())
    }

    /// Returns the next argument of a function: any value, also a negative number.
    pub(crate) fn next_argument(&mut self) -> Result<Option<String>, Stop> {
        let what = "an argument of the function";
        if let Some(mut raw) = self.parser.try_raw_args()
            && let Some(number) = raw.next_if(|word| {
                word.to_str().is_some_and(|word| {
                    word.starts_with('-')
                        && serde_json::from_str::<serde_json::Number>(word).is_ok()
                })
            })
        {
            return text(what, number).map(Some);
        }
        match self.next()? {
            Some(Word::Value(value)) => text(what, value).map(Some),
            Some(word) => unexpected(word),
            None => Ok(None),
        }
    }

    /// Returns the value of an option.
    pub(crate) fn text(&mut self, option: &str) -> Result<String, Stop> {
        text(option, self.parser.value()?)
    }

    /// Returns the value of an option as a path.
    pub(crate) fn path(&mut self, option: &str) -> Result<PathBuf, Stop> {
        let path = PathBuf::from(self.parser.value()?);
        if path.as_os_str().is_empty() { usage(format!("{option} is empty")) } else { Ok(path) }
    }

    /// Returns the value of an option as a time span, fractions included.
    fn seconds(&mut self, option: &str) -> Result<Duration, Stop> {
        match self.text(option)?.parse::<f64>() {
            // NaN, infinity and everything below zero are in no such range.
            Ok(seconds) if (0.0..=LONGEST as f64).contains(&seconds) => {
                Ok(Duration::from_secs_f64(seconds))
            }
            _ => usage(format!("{option} is not a number of seconds from 0 to {LONGEST}")),
        }
    }

    /// Returns the value of an option as the lifetime of a token.
    pub(crate) fn lifetime(&mut self, option: &str) -> Result<Duration, Stop> {
        match self.text(option)?.parse() {
            Ok(seconds @ 1..=LONGEST) => Ok(Duration::from_secs(seconds)),
            _ => usage(format!("{option} is not a whole number of seconds from 1 to {LONGEST}")),
        }
    }

    /// Returns the next word, which must be a value.
    pub(crate) fn one(&mut self, what: &str) -> Result<String, Stop> {
        match self.next()? {
            Some(Word::Value(value)) => text(what, value),
            Some(word) => unexpected(word),
            None => usage(format!("{what} is missing")),
        }
    }

    /// Says that nothing may follow.
    pub(crate) fn end(&mut self) -> Result<(), Stop> {
        self.next()?.map_or(Ok(()), unexpected)
    }

    /// Returns the last word, the ID of a user, if there is one.
    pub(crate) fn perhaps_a_user(&mut self) -> Result<Option<UserId>, Stop> {
        match self.next()? {
            None => Ok(None),
            Some(Word::Value(id)) => {
                let id = text("the ID of a user", id)?;
                self.end()?;
                Ok(Some(UserId::new(id)))
            }
            Some(word) => unexpected(word),
        }
    }
}

/// Turns a word into text.
pub(crate) fn text(what: &str, value: OsString) -> Result<String, Stop> {
    value.into_string().or_else(|_| usage(format!("{what} is not UTF-8")))
}

pub(crate) fn unexpected<T>(word: Word) -> Result<T, Stop> {
    usage(match word {
        Word::Option(option) => format!("there is no option {option} here"),
        Word::Value(_) => {
            "there is an argument too many; passwords, keys and tokens to log in with \
                           are read from standard input, never from arguments"
                .to_owned()
        }
    })
}

/// Describes some of the common options.
pub(crate) fn help_of_options(options: &[&str]) -> String {
    let mut text = "Options:\n".to_owned();
    for (name, value, about) in OPTIONS.iter().filter(|(name, ..)| options.contains(name)) {
        let option = format!("{name} {value}");
        let about = about.replace('\n', &format!("\n{:21}", ""));
        text.push_str(&format!("  {option:19}{about}\n"));
    }
    text + "  --help, --version\n"
}
