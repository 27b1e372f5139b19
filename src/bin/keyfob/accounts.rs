//! Accounts with e-mail address and password, and API keys.

use keyfob::{ApiKey, RequestOutcome, Session, User};
use serde_json::{Value, json};

use crate::command::{ApiKeys, Command, MailToken};
use crate::failure::Failure;
use crate::input;
use crate::output::{Output, printable};

/// Runs a command that needs no user.
pub(crate) fn run(session: &Session, command: Command, out: &Output) -> Result<(), Failure> {
    let accounts = session.email_password();
    let (json, words) = match command {
        Command::CallReset { email, arguments } => {
            let password = input::password(true)?;
            let outcome = accounts.call_reset_function(&email, &password, arguments)?;
            reset_outcome(outcome, &printable(&email))
        }
        Command::CompleteReset(MailToken { token, token_id }) => {
            accounts.complete_reset(&input::password(true)?, &token, &token_id)?;
            (json!({}), "the password was reset".to_owned())
        }
        Command::Confirm(MailToken { token, token_id }) => {
            accounts.confirm(&token, &token_id)?;
            (json!({}), "the address is confirmed".to_owned())
        }
        Command::Register { email } => {
            let outcome = accounts.register_with_outcome(&email, &input::password(true)?)?;
            let registered = format!("registered {}", printable(&email));
            match outcome {
                RequestOutcome::Pending => {
                    let more =
                        "the address is pending and has to be confirmed before it can log in";
                    (json!({"status": "pending"}), format!("{registered}; {more}"))
                }
                _ => (json!({}), registered),
            }
        }
        Command::ResendConfirmation { email } => {
            accounts.resend_confirmation(&email)?;
            let what = "the request for another confirmation mail";
            (json!({}), format!("the backend accepted {what} to {}", printable(&email)))
        }
        Command::ResetPassword { email } => {
            accounts.send_reset(&email)?;
            let what = "the request for a mail to reset the password";
            (json!({}), format!("the backend accepted {what} to {}", printable(&email)))
        }
        Command::RetryConfirmation { email } => {
            accounts.retry_custom_confirmation(&email)?;
            let what = "the backend ran the confirmation function again for";
            (json!({}), format!("{what} {}, which may still be pending", printable(&email)))
        }
        // The others have been taken by whoever calls this.
        _ => return Ok(()),
    };
    out.result(&json, words)
}

/// Describes what the backend said about a new password.
fn reset_outcome(outcome: RequestOutcome, email: &str) -> (Value, String) {
    let accepted = format!("the backend accepted the request to reset the password of {email}");
    match outcome {
        RequestOutcome::Done => {
            (json!({"status": "done"}), format!("the password of {email} was reset"))
        }
        RequestOutcome::Pending => {
            let more = "it is pending, and the old password still counts; to end it, use                         `keyfob complete-reset` with the pair that the app sends";
            (json!({"status": "pending"}), format!("{accepted}; {more}"))
        }
        _ => {
            let more = "it does not say whether the password was changed";
            (json!({"status": "unknown"}), format!("{accepted}; {more}"))
        }
    }
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
