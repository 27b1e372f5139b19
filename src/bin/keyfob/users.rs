//! Commands about the users of a store.

use std::fmt::Write;

use keyfob::{Error, Session, User, UserId, UserState};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Output, printable};
use crate::session::{current, named, named_or_current};

pub(crate) fn whoami(session: &Session, out: &Output) -> Result<(), Failure> {
    let user = current(session)?;
    let (state, identities, profile) = (user.state()?, user.identities()?, user.profile()?);
    let custom_data = match user.custom_data::<Box<RawValue>>() {
        // Logged out by somebody else between the lines above and this one.
        Err(Error::LocalState(_)) => None,
        custom_data => custom_data?,
    };
    let mut words = format!("user      {} ({})", shown(&user), state.as_str());
    for identity in &identities {
        let (provider, id) = (identity.provider.as_str(), &identity.id);
        // Writing to a `String` cannot fail.
        let _ = write!(words, "\nidentity  {} {}", printable(provider), printable(id));
    }
    for (name, value) in profile.data() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = write!(words, "\nprofile   {}: {}", printable(name), printable(&value));
    }
    if let Some(custom_data) = &custom_data {
        let _ = write!(words, "\ncustom    {}", printable(custom_data.get()));
    }
    #[derive(serde::Serialize)]
    struct Whoami<'a> {
        user_id: &'a UserId,
        state: UserState,
        identities: &'a [keyfob::Identity],
        profile: &'a serde_json::Map<String, Value>,
        custom_data: Option<Box<RawValue>>,
    }
    let json = Whoami {
        user_id: user.id(),
        state,
        identities: &identities,
        profile: profile.data(),
        custom_data,
    };
    out.result(&json, words)
}

pub(crate) fn list(session: &Session, out: &Output) -> Result<(), Failure> {
    let current = session.current_user()?;
    let (mut json, mut words) = (Vec::new(), String::new());
    for listed in session.users_iter() {
        let listed = listed?;
        let (user, state) = (listed.user(), listed.state());
        let is_current = current.as_ref() == Some(&user);
        let mark = if is_current { '*' } else { ' ' };
        let _ = writeln!(words, "{mark} {} ({})", shown(&user), state.as_str());
        json.push(json!({"user_id": user.id(), "state": state, "current": is_current}));
    }
    out.result(&json, words)
}

pub(crate) fn switch(session: &Session, user: &str, out: &Output) -> Result<(), Failure> {
    let user = named(session, user)?;
    session.switch_user(&user)?;
    done(&user, format_args!("{} is current now", shown(&user)), out)
}

pub(crate) fn log_out(session: &Session, user: Option<&str>, out: &Output) -> Result<(), Failure> {
    let user = named_or_current(session, user)?;
    told(user.log_out(), || {
        let gone = matches!(user.state(), Ok(UserState::Removed));
        let more = if gone { " and forgotten" } else { "" };
        format!("{} is logged out{more}", shown(&user))
    })
    .and_then(|words| done(&user, words, out))
}

pub(crate) fn remove(session: &Session, user: Option<&str>, out: &Output) -> Result<(), Failure> {
    let user = named_or_current(session, user)?;
    told(session.remove_user(&user), || format!("{} is removed", shown(&user)))
        .and_then(|words| done(&user, words, out))
}

pub(crate) fn delete(
    session: &Session,
    user: Option<&str>,
    yes: bool,
    out: &Output,
) -> Result<(), Failure> {
    if !yes {
        return Err(Failure::Usage(
            "this permanently deletes the account; pass --yes to confirm".to_owned(),
        ));
    }
    let user = named_or_current(session, user)?;
    session.delete_user(&user)?;
    done(&user, format_args!("{} is deleted", shown(&user)), out)
}

/// Tells "nothing happened" from "done here, and the backend does not know". The store comes first:
/// whatever fails after it is about the backend.
fn told(result: keyfob::Result<()>, done: impl FnOnce() -> String) -> Result<String, Failure> {
    match result {
        Ok(()) => Ok(done()),
        Err(error @ Error::Store(_)) if error.is_timeout() => Err(Failure::NotBegun(error)),
        Err(error @ (Error::LocalState(_) | Error::Store(_))) => Err(error.into()),
        Err(error) => Err(Failure::NotTold { done: done(), error }),
    }
}

fn done(user: &User, words: impl std::fmt::Display, out: &Output) -> Result<(), Failure> {
    out.result(&json!({"user_id": user.id()}), words)
}

/// Returns how a user is shown to people.
pub(crate) fn shown(user: &User) -> String {
    printable(user.id().as_str())
}
