//! Commands for e-mail/password accounts.

use keyfob::{RequestOutcome, Session};
use serde_json::{Value, json};

use crate::args::{Arguments, Email, MailToken};
use crate::failure::Failure;
use crate::input;
use crate::output::{Output, printable};

/// Says where to find a mail that the backend was asked to send.
const MAILS: &str = "; `keyfob serve` prints mails in its terminal and does not send them";

pub(crate) fn register(
    session: &Session,
    Email { email }: &Email,
    out: &Output,
) -> Result<(), Failure> {
    let password = input::password(true)?;
    let outcome = session.email_password().register_with_outcome(email, &password)?;
    let registered = format!("registered {}", printable(email));
    match outcome {
        RequestOutcome::Pending => {
            let more = "the address is pending and has to be confirmed before it can log in";
            out.result(&json!({"status": "pending"}), format_args!("{registered}; {more}"))
        }
        _ => out.result(&json!({}), registered),
    }
}

pub(crate) fn confirm(session: &Session, pair: &MailToken, out: &Output) -> Result<(), Failure> {
    session.email_password().confirm(&pair.token, &pair.token_id)?;
    out.result(&json!({}), "the address is confirmed")
}

pub(crate) fn resend_confirmation(
    session: &Session,
    Email { email }: &Email,
    out: &Output,
) -> Result<(), Failure> {
    session.email_password().resend_confirmation(email)?;
    let what = "the backend accepted the request for another confirmation mail to";
    out.result(&json!({}), format_args!("{what} {}{MAILS}", printable(email)))
}

pub(crate) fn retry_confirmation(
    session: &Session,
    Email { email }: &Email,
    out: &Output,
) -> Result<(), Failure> {
    session.email_password().retry_custom_confirmation(email)?;
    let what = "the backend ran the confirmation function again for";
    out.result(&json!({}), format_args!("{what} {}, which may still be pending", printable(email)))
}

pub(crate) fn reset_password(
    session: &Session,
    Email { email }: &Email,
    out: &Output,
) -> Result<(), Failure> {
    session.email_password().send_reset(email)?;
    let what = "the backend accepted the request for a mail to reset the password to";
    out.result(&json!({}), format_args!("{what} {}{MAILS}", printable(email)))
}

pub(crate) fn complete_reset(
    session: &Session,
    pair: &MailToken,
    out: &Output,
) -> Result<(), Failure> {
    let password = input::password(true)?;
    session.email_password().complete_reset(&password, &pair.token, &pair.token_id)?;
    out.result(&json!({}), "the password was reset")
}

pub(crate) fn call_reset(
    session: &Session,
    Email { email }: &Email,
    Arguments { arguments }: &Arguments,
    out: &Output,
) -> Result<(), Failure> {
    let password = input::password(true)?;
    let outcome = session.email_password().call_reset_function(email, &password, arguments)?;
    let (json, words) = reset_outcome(outcome, &printable(email));
    out.result(&json, words)
}

/// Describes the backend's response to a password reset.
fn reset_outcome(outcome: RequestOutcome, email: &str) -> (Value, String) {
    let accepted = format!("the backend accepted the request to reset the password of {email}");
    match outcome {
        RequestOutcome::Done => {
            (json!({"status": "done"}), format!("the password of {email} was reset"))
        }
        RequestOutcome::Pending => {
            let more = "it is pending, and the old password is still valid; to complete it, use \
                        `keyfob complete-reset` with the pair that the app sends";
            (json!({"status": "pending"}), format!("{accepted}; {more}"))
        }
        _ => {
            let more = "it does not say whether the password was changed";
            (json!({"status": "unknown"}), format!("{accepted}; {more}"))
        }
    }
}
