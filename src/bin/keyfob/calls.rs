//! Commands that act as the current user.

use std::time::UNIX_EPOCH;

use keyfob::Session;
use keyfob::ejson::Value;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::named_user::current;
use crate::output::{Output, note};
use crate::relaxed::relaxed;

pub(crate) fn profile(session: &Session, refresh: bool, out: &Output) -> Result<(), Failure> {
    let user = current(session)?;
    let profile = if refresh { user.refresh_profile() } else { user.profile() }?;
    out.json_line(profile.data())
}

pub(crate) fn custom_data(session: &Session, refresh: bool, out: &Output) -> Result<(), Failure> {
    let user = current(session)?;
    let data: Option<Box<RawValue>> =
        if refresh { user.refresh_custom_data() } else { user.custom_data() }?;
    out.json_line(&data)
}

pub(crate) fn token(session: &Session, out: &Output) -> Result<(), Failure> {
    let token = current(session)?.valid_access_token()?;
    let expires_at = token.expires_at().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    out.result(&json!({"access_token": token.expose(), "expires_at": expires_at}), token.expose())
}

pub(crate) fn call(
    session: &Session,
    name: &str,
    arguments: &[Value],
    canonical: bool,
    out: &Output,
) -> Result<(), Failure> {
    for (index, argument) in arguments.iter().enumerate() {
        if is_broken_json(argument) {
            note(format_args!("argument {} is not valid JSON, and is sent as a string", index + 1));
        }
    }
    // The text is checked to be JSON but not parsed further.
    let result: Box<RawValue> = current(session)?.functions().call(name, arguments)?;
    // A result that is nested too deeply to parse is printed unchanged.
    match serde_json::from_str(result.get()) {
        Ok(value) if !canonical && !out.is_json() => out.json_line(&relaxed(value)),
        _ => out.json_line(&result),
    }
}

/// Returns `true` for a string that looks like an object or an array.
fn is_broken_json(argument: &Value) -> bool {
    let Value::String(text) = argument else { return false };
    text.starts_with(['{', '[']) && serde_json::from_str::<IgnoredAny>(text).is_err()
}

pub(crate) fn watch(session: &Session, out: &Output) -> Result<(), Failure> {
    let events = session.events()?;
    if !out.is_json() {
        note("watching; interrupt to end");
    }
    for event in events {
        out.json_line(&event)?;
    }
    Ok(())
}
