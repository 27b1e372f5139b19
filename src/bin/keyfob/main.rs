//! The `keyfob` command: users, tokens and function calls on the command line and in scripts, and a
//! backend for development and tests.
//!
//! Results are written to standard output, everything else to standard error. Passwords, keys and
//! login tokens are read from standard input or from a prompt, never from arguments. The only
//! secret in arguments is the token pair from a mail, which can be used once.
//!
//! Exit codes: 0 success, 1 rejected by the backend, 2 usage error, 3 not logged in or login
//! expired, 4 backend unreachable or timeout, 5 store unusable.

mod accounts;
mod api_keys;
mod args;
mod browser;
mod calls;
mod common_args;
mod demo;
mod encrypt;
mod environment;
mod failure;
mod input;
mod login;
mod named_user;
mod oidc;
mod output;
mod recover;
mod relaxed;
mod serve;
mod session;
mod shell;
mod signals;
mod store;
#[cfg(unix)]
mod terminal;
#[path = "../../unprintable.rs"]
mod unprintable;
mod usage;
mod users;

use std::process::ExitCode;

use self::args::{Cli, Command};
use self::failure::Failure;
use self::output::Output;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (result, json) = match args::parse(&arguments) {
        Ok(None) => (Ok(()), false),
        Ok(Some(cli)) => {
            let json = cli.common.json;
            (run(cli), json)
        }
        Err(failure) => (Err(failure), args::asks_for_json(&arguments)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Failure::Interrupted(signal) = failure {
                signals::end_by(signal);
            }
            output::report(&failure, json);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(Cli { common, command }: Cli) -> Result<(), Failure> {
    let out = &Output::new(common.json);
    let session = || session::open(&common);
    let acting = || session::open_acting(&common);
    let stored = || session::open_stored(&common);
    match command {
        Command::Demo => demo::run(out),
        Command::Serve(options) => serve::run(&common, &options, out),
        Command::Register(email) => accounts::register(&session()?, &email, out),
        Command::Confirm(pair) => accounts::confirm(&session()?, &pair, out),
        Command::ResendConfirmation(email) => {
            accounts::resend_confirmation(&session()?, &email, out)
        }
        Command::RetryConfirmation(email) => accounts::retry_confirmation(&session()?, &email, out),
        Command::ResetPassword(email) => accounts::reset_password(&session()?, &email, out),
        Command::CompleteReset(pair) => accounts::complete_reset(&session()?, &pair, out),
        Command::CallReset { email, arguments } => {
            accounts::call_reset(&session()?, &email, &arguments, out)
        }
        Command::Login(args) => login::log_in(&stored()?, *args, &common, out),
        Command::Link(account) => login::link(&stored()?, *account, &common, out),
        Command::Whoami => users::whoami(&acting()?, out),
        Command::Users => users::list(&stored()?, out),
        Command::Switch { user } => users::switch(&stored()?, &user, out),
        Command::Logout(one) => users::log_out(&stored()?, one.user.as_deref(), out),
        Command::Remove(one) => users::remove(&stored()?, one.user.as_deref(), out),
        Command::Delete { user, yes } => users::delete(&stored()?, user.user.as_deref(), yes, out),
        Command::Profile(which) => calls::profile(&acting()?, which.refresh, out),
        Command::CustomData(which) => calls::custom_data(&acting()?, which.refresh, out),
        Command::ApiKeys(command) => api_keys::run(&acting()?, command, out),
        Command::Token => calls::token(&acting()?, out),
        Command::Call { name, canonical, arguments } => {
            calls::call(&acting()?, &name, &arguments.arguments, canonical, out)
        }
        Command::Watch => calls::watch(&stored()?, out),
        Command::Encrypt => encrypt::run(&common, out),
        Command::Recover => recover::run(&common, out),
        Command::Completions { shell } => shell::completions(shell, out),
        Command::Man { dir } => shell::man(dir.as_deref(), out),
    }
}
