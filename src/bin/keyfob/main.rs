//! The `keyfob` command: users, tokens and function calls for scripts and for people, and the
//! backend to try them on.
//!
//! Results go to standard output and everything else to standard error. Passwords, keys and the
//! tokens of log-ins are read from standard input, or prompted for, and never taken as arguments;
//! the token pair from a mail, good for one use, is. Exit codes: 0 done, 1 the backend refused, 2
//! usage, 3 not logged in or the login has ended, 4 the backend was not reached or the time was up,
//! 5 the store cannot be used.

mod accounts;
mod args;
mod browser;
mod command;
mod commands;
mod demo;
mod failure;
mod input;
mod json;
mod output;
mod parsing;
mod serve;
mod signals;
mod store;
#[cfg(unix)]
mod terminal;
#[path = "../../unprintable.rs"]
mod unprintable;
mod words;

use std::process::ExitCode;

use self::command::{Command, Invocation};
use self::failure::Failure;
use self::output::Output;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let result = match args::parse(arguments.clone()) {
        Ok(invocation) => {
            let json = invocation.settings.json;
            run(invocation).map_err(|failure| (failure, json))
        }
        Err(failure) => Err((failure, args::asks_for_json(&arguments))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((failure, json)) => {
            if let Failure::Interrupted(signal) = failure {
                signals::end_by(signal);
            }
            output::report(&failure, json);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(Invocation { command, settings }: Invocation) -> Result<(), Failure> {
    let out = Output::new(settings.json);
    match command {
        Command::Demo => demo::run(&out),
        Command::Serve(options) => serve::run(&settings, &options, &out),
        Command::Text(text) => out.text(&text),
        command => commands::run(command, &settings, &out),
    }
}
