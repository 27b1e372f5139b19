//! The options that commands have in common, and how time spans are parsed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::environment::{environment, text_environment};
use crate::failure::Failure;
use crate::usage::Reason;

/// The maximum number of seconds of a time span: ten years.
const LONGEST: u64 = 10 * 365 * 24 * 3600;

/// The options that commands have in common.
#[derive(Args, Debug)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// The client app id of the app (or KEYFOB_APP_ID)
    #[arg(long, value_name = "ID", global = true)]
    app_id: Option<String>,
    /// The URL of the backend (or KEYFOB_BASE_URL)
    #[arg(long, value_name = "URL", global = true)]
    base_url: Option<String>,
    #[arg(long, value_name = STORE, global = true, help = STORE_HELP)]
    store: Option<PathBuf>,
    /// How long the command may take [default: 60]
    #[arg(
        long,
        value_name = "SECONDS",
        global = true,
        allow_negative_numbers = true,
        value_parser = seconds
    )]
    pub(crate) timeout: Option<Duration>,
    /// Print the result, and errors, as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The placeholder for the value of `--store`.
const STORE: &str = if cfg!(feature = "redis") { "DIR|URL" } else { "DIR" };

const STORE_HELP: &str = if cfg!(feature = "redis") {
    "Where users and tokens are stored (or KEYFOB_STORE): a directory, or redis://USER@HOST:PORT or \
     rediss://…, with the password in KEYFOB_REDIS_PASSWORD; by default, the platform's directory \
     for application data"
} else {
    "The directory for users and tokens (or KEYFOB_STORE); by default, the platform's directory for \
     application data"
};

impl Common {
    /// Returns the app id, from the option or the environment.
    pub(crate) fn app_id(&self) -> Result<Option<String>, Failure> {
        or_environment(self.app_id.as_deref(), "KEYFOB_APP_ID")
    }

    /// Returns the base URL, from the option or the environment.
    pub(crate) fn base_url(&self) -> Result<Option<String>, Failure> {
        or_environment(self.base_url.as_deref(), "KEYFOB_BASE_URL")
    }

    /// Returns the location of the store, from the option or the environment.
    pub(crate) fn store(&self) -> Option<PathBuf> {
        self.store.clone().or_else(|| environment("KEYFOB_STORE").map(PathBuf::from))
    }

    /// Returns the location of the store from the option.
    pub(crate) fn store_option(&self) -> Option<&Path> {
        self.store.as_deref()
    }
}

fn or_environment(option: Option<&str>, variable: &str) -> Result<Option<String>, Failure> {
    match option {
        Some(option) => Ok(Some(option.to_owned())),
        None => text_environment(variable),
    }
}

/// Parses a time span in seconds, including fractions.
pub(crate) fn seconds(text: &str) -> Result<Duration, Reason> {
    match text.parse::<f64>() {
        // NaN, infinity and negative numbers are not in this range.
        Ok(seconds) if (0.0..=LONGEST as f64).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(Reason::new(format!("needs a number of seconds from 0 to {LONGEST}"))),
    }
}

/// Parses a token lifetime.
pub(crate) fn lifetime(text: &str) -> Result<Duration, Reason> {
    match text.parse() {
        Ok(seconds @ 1..=LONGEST) => Ok(Duration::from_secs(seconds)),
        _ => Err(Reason::new(format!("needs a whole number of seconds from 1 to {LONGEST}"))),
    }
}
