//! The session that a command works on.

use keyfob::{Error, LocalState, Session, User, UserId};

use crate::args::Common;
use crate::failure::Failure;
use crate::store;

/// Opens the session that the common options describe.
pub(crate) fn open(common: &Common) -> Result<Session, Failure> {
    let missing = |what: &str, option: &str, variable: &str| {
        Failure::Usage(format!("{what} is missing: pass {option} or set {variable}"))
    };
    let app_id =
        common.app_id()?.ok_or_else(|| missing("the app id", "--app-id ID", "KEYFOB_APP_ID"))?;
    let base_url = common
        .base_url()?
        .ok_or_else(|| missing("the base URL", "--base-url URL", "KEYFOB_BASE_URL"))?;
    let builder =
        Session::builder(&*app_id, &*base_url).app_info("keyfob", env!("CARGO_PKG_VERSION"));
    let mut builder = store::choose(builder, common.store().as_deref(), &app_id, &base_url)?;
    if let Some(timeout) = common.timeout {
        builder = builder.deadline(timeout);
    }
    Ok(builder.open()?)
}

/// Returns the current user.
pub(crate) fn current(session: &Session) -> Result<User, Failure> {
    let user = session.current_user()?;
    user.ok_or_else(|| Error::from(LocalState::NoCurrentUser).into())
}

/// Returns the user that is named, by default the current user.
pub(crate) fn named_or_current(session: &Session, name: Option<&str>) -> Result<User, Failure> {
    name.map_or_else(|| current(session), |name| named(session, name))
}

/// Returns the user that is named.
pub(crate) fn named(session: &Session, name: &str) -> Result<User, Failure> {
    let id = UserId::new(name);
    let user = session.user(&id)?;
    user.ok_or_else(|| Error::from(LocalState::UnknownUser(id)).into())
}
