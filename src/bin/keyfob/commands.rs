//! The commands that work on a session: each opens it, does one thing and prints what came of it.

use std::fmt::Write;
use std::time::UNIX_EPOCH;

use keyfob::{Credentials, Error, LocalState, Session, User, UserId, UserState};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::accounts;
use crate::command::{Command, How, Login};
use crate::failure::Failure;
use crate::input;
use crate::json::Json;
use crate::output::{Output, note, printable};
use crate::store;
use crate::words::Settings;

/// Runs a command on the session that the settings describe.
pub(crate) fn run(command: Command, settings: &Settings, out: &Output) -> Result<(), Failure> {
    let session = open(settings)?;
    match command {
        Command::ApiKeys(command) => accounts::api_keys(&current(&session)?, command, out),
        Command::Call { name, arguments } => call(&session, &name, &arguments, out),
        Command::CustomData { refresh } => custom_data(&session, refresh, out),
        Command::Delete(id) => delete(&session, id, out),
        Command::Link(how) => link(&session, how, settings, out),
        Command::LogIn(how) => log_in(&session, how, settings, out),
        Command::LogOut(id) => log_out(&session, id, out),
        Command::Profile { refresh } => profile(&session, refresh, out),
        Command::Remove(id) => remove(&session, id, out),
        Command::Switch(id) => switch(&session, id, out),
        Command::Token => token(&session, out),
        Command::Users => users(&session, out),
        Command::Watch => watch(&session, out),
        Command::Whoami => whoami(&session, out),
        // They open no session, and `main` has them.
        Command::Demo | Command::Serve(_) | Command::Text(_) => Ok(()),
        command => accounts::run(&session, command, out),
    }
}

fn open(settings: &Settings) -> Result<Session, Failure> {
    let missing = |what: &str, option: &str, variable: &str| {
        Failure::Usage(format!("there is no {what}: give {option} or set {variable}"))
    };
    let app_id =
        settings.app_id()?.ok_or_else(|| missing("app id", "--app-id ID", "KEYFOB_APP_ID"))?;
    let base_url = settings
        .base_url()?
        .ok_or_else(|| missing("base URL", "--base-url URL", "KEYFOB_BASE_URL"))?;
    let builder =
        Session::builder(&*app_id, &*base_url).app_info("keyfob", env!("CARGO_PKG_VERSION"));
    let mut builder = store::choose(builder, settings.store().as_deref(), &app_id, &base_url)?;
    if let Some(timeout) = settings.timeout {
        builder = builder.deadline(timeout);
    }
    Ok(builder.open()?)
}

fn log_in(session: &Session, how: How, settings: &Settings, out: &Output) -> Result<(), Failure> {
    let (user, provider) = match how {
        How::Browser(login) => (login.log_in(session, settings, out)?, login.provider()),
        How::Given(login) => {
            let credentials = credentials(login)?;
            (session.log_in(&credentials)?, credentials.provider())
        }
    };
    out.result(
        &json!({"user_id": user.id(), "provider": provider}),
        format_args!("logged in as {} ({provider})", shown(&user)),
    )
}

fn link(session: &Session, how: How, settings: &Settings, out: &Output) -> Result<(), Failure> {
    let user = current(session)?;
    let provider = match how {
        How::Browser(login) => {
            login.link(&user, settings, out)?;
            login.provider()
        }
        How::Given(login) => {
            let credentials = credentials(login)?;
            user.link(&credentials)?;
            credentials.provider()
        }
    };
    out.result(
        &json!({"user_id": user.id(), "identities": user.identities()?}),
        format_args!("linked to {} ({provider})", shown(&user)),
    )
}

/// Reads what goes with a way to log in.
fn credentials(login: Login) -> Result<Credentials, Failure> {
    Ok(match login {
        Login::Anonymous { new: false } => Credentials::anonymous(),
        Login::Anonymous { new: true } => Credentials::new_anonymous(),
        Login::ApiKey => Credentials::api_key(input::token("API key")?),
        Login::Apple => Credentials::apple(input::token("token")?),
        Login::Email(email) => Credentials::email_password(email, input::password(false)?),
        Login::Facebook => Credentials::facebook(input::token("token")?),
        Login::Function(payload) => Credentials::function(payload)?,
        Login::GoogleAuthCode => Credentials::google_auth_code(input::token("code")?),
        Login::GoogleIdToken => Credentials::google_id_token(input::token("token")?),
        Login::Jwt => Credentials::jwt(input::token("token")?),
    })
}

fn delete(session: &Session, id: Option<UserId>, out: &Output) -> Result<(), Failure> {
    let user = id.map_or_else(|| current(session), |id| known(session, id))?;
    session.delete_user(&user)?;
    done(&user, format_args!("{} is deleted", shown(&user)), out)
}

fn profile(session: &Session, refresh: bool, out: &Output) -> Result<(), Failure> {
    let user = current(session)?;
    let profile = if refresh { user.refresh_profile() } else { user.profile() }?;
    out.json_line(profile.data())
}

fn custom_data(session: &Session, refresh: bool, out: &Output) -> Result<(), Failure> {
    let user = current(session)?;
    let data: Option<Box<RawValue>> =
        if refresh { user.refresh_custom_data() } else { user.custom_data() }?;
    out.json_line(&data)
}

fn whoami(session: &Session, out: &Output) -> Result<(), Failure> {
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

fn users(session: &Session, out: &Output) -> Result<(), Failure> {
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

fn switch(session: &Session, id: UserId, out: &Output) -> Result<(), Failure> {
    let user = known(session, id)?;
    session.switch_user(&user)?;
    done(&user, format_args!("{} is current now", shown(&user)), out)
}

fn log_out(session: &Session, id: Option<UserId>, out: &Output) -> Result<(), Failure> {
    let user = id.map_or_else(|| current(session), |id| known(session, id))?;
    told(user.log_out(), || {
        let gone = matches!(user.state(), Ok(UserState::Removed));
        let more = if gone { " and forgotten" } else { "" };
        format!("{} is logged out{more}", shown(&user))
    })
    .and_then(|words| done(&user, words, out))
}

fn remove(session: &Session, id: Option<UserId>, out: &Output) -> Result<(), Failure> {
    let user = id.map_or_else(|| current(session), |id| known(session, id))?;
    told(session.remove_user(&user), || format!("{} is removed", shown(&user)))
        .and_then(|words| done(&user, words, out))
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

fn token(session: &Session, out: &Output) -> Result<(), Failure> {
    let token = current(session)?.valid_access_token()?;
    let expires_at = token.expires_at().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    out.result(&json!({"access_token": token.expose(), "expires_at": expires_at}), token.expose())
}

fn call(session: &Session, name: &str, arguments: &[Json], out: &Output) -> Result<(), Failure> {
    // Checked to be JSON, and not read as anything else.
    let result: Box<RawValue> = current(session)?.functions().call(name, arguments)?;
    out.json_line(&result)
}

fn watch(session: &Session, out: &Output) -> Result<(), Failure> {
    let events = session.events()?;
    if !out.is_json() {
        note("watching; interrupt to end");
    }
    for event in events {
        out.json_line(&event)?;
    }
    Ok(())
}

fn current(session: &Session) -> Result<User, Failure> {
    let user = session.current_user()?;
    user.ok_or_else(|| Error::from(LocalState::NoCurrentUser).into())
}

fn known(session: &Session, id: UserId) -> Result<User, Failure> {
    let user = session.user(&id)?;
    user.ok_or_else(|| Error::from(LocalState::UnknownUser(id)).into())
}

fn done(user: &User, words: impl std::fmt::Display, out: &Output) -> Result<(), Failure> {
    out.result(&json!({"user_id": user.id()}), words)
}

fn shown(user: &User) -> String {
    printable(user.id().as_str())
}
