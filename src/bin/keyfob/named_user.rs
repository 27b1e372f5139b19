//! The user that a command names, and how a user is shown.

use keyfob::{Error, LocalState, Profile, Session, User, UserId};

use crate::failure::Failure;
use crate::output::printable;

/// Returns the current user.
pub(crate) fn current(session: &Session) -> Result<User, Failure> {
    let user = session.current_user()?;
    user.ok_or_else(|| Error::from(LocalState::NoCurrentUser).into())
}

/// Returns the named user, or the current user if there is no name.
pub(crate) fn named_or_current(session: &Session, name: Option<&str>) -> Result<User, Failure> {
    match name {
        Some(name) => named(session, name),
        None => session.current_user()?.ok_or(Failure::NoCurrentUser),
    }
}

/// Returns the user with this id, or the only user with this e-mail address or with an id that
/// starts with `name`.
pub(crate) fn named(session: &Session, name: &str) -> Result<User, Failure> {
    if let Some(user) = session.user(&UserId::new(name))? {
        return Ok(user);
    }
    let (mut by_email, mut by_prefix) = (Vec::new(), Vec::new());
    for listed in session.users_iter() {
        let listed = listed?;
        let user = listed.user();
        if listed.profile().email().is_some_and(|email| email.eq_ignore_ascii_case(name)) {
            by_email.push(user);
        } else if !name.is_empty() && user.id().as_str().starts_with(name) {
            by_prefix.push(user);
        }
    }
    let mut found = if by_email.is_empty() { by_prefix } else { by_email };
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(Failure::NoSuchUser),
        (Some(user), true) => Ok(user),
        (Some(last), false) => {
            found.push(last);
            let users: Vec<_> = found.iter().map(shown).collect();
            Err(Failure::Ambiguous(users))
        }
    }
}

/// Returns a display text for a user: the e-mail address or the name, if there is one, and the id.
pub(crate) fn shown(user: &User) -> String {
    user.profile().map_or_else(|_| printable(user.id().as_str()), |profile| label(user, &profile))
}

/// Returns a display text for a user with this profile.
pub(crate) fn label(user: &User, profile: &Profile) -> String {
    let id = printable(user.id().as_str());
    match profile.email().or(profile.name()) {
        Some(name) => format!("{} [{id}]", printable(name)),
        None => id,
    }
}
