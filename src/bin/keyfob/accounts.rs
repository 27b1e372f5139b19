//! Accounts with e-mail address and password, and API keys.

use keyfob::{ApiKey, Session, User};
use serde_json::{Value, json};

use crate::command::{ApiKeys, Command, MailToken};
use crate::failure::Failure;
use crate::input;
use crate::output::{Output, printable};

/// Runs a command that needs no user.
pub(crate) fn run(session: &Session, command: Command, out: &Output) -> Result<(), Failure> {
    let accounts = session.email_password();
    let words = match command {
        Command::CallReset { email, arguments } => {
            let password = input::password(true)?;
            accounts.call_reset_function(&email, &password, arguments)?;
            format!("the password of {} was reset", printable(&email))
        }
        Command::CompleteReset(MailToken { token, token_id }) => {
            accounts.complete_reset(&input::password(true)?, &token, &token_id)?;
            "the password was reset".to_owned()
        }
        Command::Confirm(MailToken { token, token_id }) => {
            accounts.confirm(&token, &token_id)?;
            "the address is confirmed".to_owned()
        }
        Command::Register { email } => {
            accounts.register(&email, &input::password(true)?)?;
            format!("registered {}", printable(&email))
        }
        Command::ResendConfirmation { email } => {
            accounts.resend_confirmation(&email)?;
            format!("a confirmation mail is on its way to {}", printable(&email))
        }
        Command::ResetPassword { email } => {
            accounts.send_reset(&email)?;
            format!("a mail to reset the password is on its way to {}", printable(&email))
        }
        Command::RetryConfirmation { email } => {
            accounts.retry_custom_confirmation(&email)?;
            format!("the confirmation of {} was tried again", printable(&email))
        }
        // The others have been taken by whoever calls this.
        _ => return Ok(()),
    };
    out.result(&json!({}), words)
}

/// Does something with a user's API keys.
pub(crate) fn api_keys(user: &User, command: ApiKeys, out: &Output) -> Result<(), Failure> {
    let keys = user.api_keys();
    match command {
        ApiKeys::Create(name) => {
            let (key, secret) = keys.create(&name)?;
            let mut json = described(&key);
            json["key"] = secret.expose().into();
            out.result(&json, format_args!("{}\n{}", line(&key), secret.expose()))
        }
        ApiKeys::Delete(id) => {
            keys.delete(&id)?;
            out.result(&json!({}), format_args!("{} is deleted", printable(id.as_str())))
        }
        ApiKeys::Disable(id) => {
            keys.disable(&id)?;
            out.result(&json!({}), format_args!("{} is disabled", printable(id.as_str())))
        }
        ApiKeys::Enable(id) => {
            keys.enable(&id)?;
            out.result(&json!({}), format_args!("{} is enabled", printable(id.as_str())))
        }
        ApiKeys::Get(id) => match keys.get(&id)? {
            Some(key) => out.result(&described(&key), line(&key)),
            None => out.result(&Value::Null, "there is no such key"),
        },
        ApiKeys::List => {
            let keys = keys.list()?;
            let json: Vec<_> = keys.iter().map(described).collect();
            let lines: Vec<_> = keys.iter().map(line).collect();
            out.result(&json, lines.join("\n"))
        }
    }
}

fn described(key: &ApiKey) -> Value {
    json!({"id": key.id.as_str(), "name": key.name, "enabled": key.is_enabled})
}

fn line(key: &ApiKey) -> String {
    let state = if key.is_enabled { "enabled" } else { "disabled" };
    format!("{} {} ({state})", printable(key.id.as_str()), printable(&key.name))
}
