//! Commands about the users of a store.

use std::fmt::Write;

use keyfob::{Error, Identity, Session, User, UserId, UserState};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::input::confirm;
use crate::named_user::{current, label, named, named_or_current, shown};
use crate::output::{Output, note, printable};

pub(crate) fn whoami(session: &Session, out: &Output) -> Result<(), Failure> {
    let user = current(session)?;
    let (state, identities, profile) = (user.state()?, user.identities()?, user.profile()?);
    let custom_data = match user.custom_data::<Box<RawValue>>() {
        // Another process logged the user out after the lines above.
        Err(Error::LocalState(_)) => None,
        custom_data => custom_data?,
    };
    let mut words = format!("user      {} ({})", printable(user.id().as_str()), state.as_str());
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
        identities: &'a [Identity],
        profile: &'a serde_json::Map<String, Value>,
        custom_data: Option<Box<RawValue>>,
        email: Option<&'a str>,
        name: Option<&'a str>,
        providers: Vec<&'a str>,
    }
    let json = Whoami {
        user_id: user.id(),
        state,
        identities: &identities,
        profile: profile.data(),
        custom_data,
        email: profile.email(),
        name: profile.name(),
        providers: providers(&identities),
    };
    out.result(&json, words)
}

pub(crate) fn list(session: &Session, out: &Output) -> Result<(), Failure> {
    let current = session.current_user()?;
    let (mut json, mut words) = (Vec::new(), String::new());
    for listed in session.users_iter() {
        let listed = listed?;
        let (user, state) = (listed.user(), listed.state());
        let (profile, providers) = (listed.profile(), providers(listed.identities()));
        let is_current = current.as_ref() == Some(&user);
        let mark = if is_current { '*' } else { ' ' };
        let _ = writeln!(
            words,
            "{mark} {} ({}; {})",
            label(&user, profile),
            printable(&providers.join(", ")),
            state.as_str()
        );
        json.push(json!({
            "user_id": user.id(),
            "state": state,
            "current": is_current,
            "email": profile.email(),
            "name": profile.name(),
            "providers": providers,
        }));
    }
    if json.is_empty() && !out.is_json() {
        note(format_args!(
            "this store has no users of the app {} at {}",
            printable(session.app_id()),
            printable(session.base_url())
        ));
    }
    out.result(&json, words)
}

pub(crate) fn switch(session: &Session, user: &str, out: &Output) -> Result<(), Failure> {
    let user = named(session, user)?;
    session.switch_user(&user)?;
    out.result(
        &json!({"user_id": user.id()}),
        format_args!("{} is the current user now", shown(&user)),
    )
}

pub(crate) fn log_out(session: &Session, user: Option<&str>, out: &Output) -> Result<(), Failure> {
    let user = named_or_current(session, user)?;
    let shown = shown(&user);
    let done = finished(session, user.log_out(), || {
        let is_removed = matches!(user.state(), Ok(UserState::Removed));
        let more = if is_removed { " and removed" } else { "" };
        format!("{shown} is logged out{more}")
    })?;
    ended(session, &user, &done, out)
}

pub(crate) fn remove(session: &Session, user: Option<&str>, out: &Output) -> Result<(), Failure> {
    let user = named_or_current(session, user)?;
    let shown = shown(&user);
    let done = finished(session, session.remove_user(&user), || format!("{shown} is removed"))?;
    ended(session, &user, &done, out)
}

pub(crate) fn delete(
    session: &Session,
    user: Option<&str>,
    yes: bool,
    out: &Output,
) -> Result<(), Failure> {
    let user = named_or_current(session, user)?;
    let shown = shown(&user);
    let question = || format!("this permanently deletes the account of {shown}.");
    if !yes {
        match confirm(&question()) {
            Some(true) => {}
            Some(false) => {
                let reason = "nothing was deleted, because the answer was not yes";
                return Err(Failure::Usage(reason.to_owned()));
            }
            None => {
                let question = question();
                let question = question.trim_end_matches('.');
                return Err(Failure::Usage(format!("{question}; pass --yes to confirm")));
            }
        }
    }
    if matches!(user.state(), Ok(UserState::LoggedOut)) {
        return Err(Failure::LoggedOut(shown));
    }
    session.delete_user(&user)?;
    ended(session, &user, &format!("{shown} is deleted"), out)
}

/// Distinguishes "nothing was changed" from "done here, but the backend was not notified". The
/// store is changed first, so a later failure concerns the backend.
fn finished(
    session: &Session,
    result: keyfob::Result<()>,
    done: impl FnOnce() -> String,
) -> Result<String, Failure> {
    match result {
        Ok(()) => Ok(done()),
        Err(error @ Error::Store(_)) if error.is_timeout() => Err(Failure::NotBegun(error)),
        Err(error @ (Error::LocalState(_) | Error::Store(_))) => Err(error.into()),
        Err(error) => {
            let current = current_in_words(session.current_user()?.as_ref());
            Err(Failure::NotNotified { done: done(), error, current })
        }
    }
}

/// Reports the change to a user, and the current user after it.
fn ended(session: &Session, user: &User, done: &str, out: &Output) -> Result<(), Failure> {
    let current = session.current_user()?;
    out.result(
        &json!({"user_id": user.id(), "current": current.as_ref().map(User::id)}),
        format_args!("{done}; {}", current_in_words(current.as_ref())),
    )
}

fn current_in_words(current: Option<&User>) -> String {
    match current {
        Some(current) => format!("the current user is {}", shown(current)),
        None => "nobody is the current user".to_owned(),
    }
}

fn providers(identities: &[Identity]) -> Vec<&str> {
    let mut providers: Vec<_> =
        identities.iter().map(|identity| identity.provider.as_str()).collect();
    providers.dedup();
    providers
}
