//! The session of a command.

use keyfob::store::{MemoryStore, OnDamage};
use keyfob::{Credentials, Session, SessionBuilder};

use crate::common_args::Common;
use crate::environment::{environment, text_environment};
use crate::failure::Failure;
use crate::input;
use crate::store;

/// The variable with an API key for commands that act as its user.
const API_KEY: &str = "KEYFOB_API_KEY";

/// Opens the session for the common options.
pub(crate) fn open(common: &Common) -> Result<Session, Failure> {
    opened(common, true, OnDamage::Refuse)
}

/// Opens a session for a command about the users of the store.
///
/// # Errors
/// [`Failure::Usage`] if the environment has an API key, which such commands do not use.
pub(crate) fn open_stored(common: &Common) -> Result<Session, Failure> {
    stored(common, OnDamage::Refuse)
}

/// Like [`open_stored`], and recovers a damaged store.
pub(crate) fn open_recovering(common: &Common) -> Result<Session, Failure> {
    stored(common, OnDamage::Recover)
}

/// Encrypts the store. Returns `false` if there was nothing to do.
pub(crate) fn encrypt_store(common: &Common) -> Result<bool, Failure> {
    check_stored()?;
    let store = common.store();
    if store.as_deref().is_some_and(store::is_redis) {
        let reason = "`keyfob encrypt` works on a directory, and --store is a Redis server, where \
                      everything that this command writes is encrypted";
        return Err(Failure::Usage(reason.to_owned()));
    }
    Ok(builder(common, true)?.encrypt_store()?)
}

fn stored(common: &Common, on_damage: OnDamage) -> Result<Session, Failure> {
    check_stored()?;
    opened(common, true, on_damage)
}

/// Rejects an API key in the environment.
fn check_stored() -> Result<(), Failure> {
    if environment(API_KEY).is_some() {
        return Err(Failure::Usage(format!(
            "this command works on the stored users, but {API_KEY} is set; unset the variable, or \
             use a command that acts as the user of the key, such as `keyfob call`"
        )));
    }
    Ok(())
}

/// Opens a session for a command that acts as a user: the current user of the store, or the user of
/// the API key in the environment, who is not stored on disk.
pub(crate) fn open_acting(common: &Common) -> Result<Session, Failure> {
    let Some(key) = text_environment(API_KEY)? else { return open(common) };
    if common.store_option().is_some() {
        return Err(Failure::Usage(format!(
            "--store has no effect while {API_KEY} is set: leave one of them out"
        )));
    }
    let key = input::trimmed(API_KEY, key.into())?;
    let session = opened(common, false, OnDamage::Refuse)?;
    session.log_in(&Credentials::api_key(key))?;
    Ok(session)
}

fn opened(common: &Common, is_stored: bool, on_damage: OnDamage) -> Result<Session, Failure> {
    Ok(builder(common, is_stored)?.on_damage(on_damage).open()?)
}

fn builder(common: &Common, is_stored: bool) -> Result<SessionBuilder, Failure> {
    let (app_id, base_url) = match (common.app_id()?, common.base_url()?) {
        (Some(app_id), Some(base_url)) => (app_id, base_url),
        (app_id, base_url) => {
            let app_id = app_id
                .is_none()
                .then_some("the app id is missing: pass --app-id ID or set KEYFOB_APP_ID");
            let base_url = base_url
                .is_none()
                .then_some("the base URL is missing: pass --base-url URL or set KEYFOB_BASE_URL");
            let missing: Vec<_> = app_id.into_iter().chain(base_url).collect();
            return Err(Failure::Usage(missing.join("; ")));
        }
    };
    let builder: SessionBuilder =
        Session::builder(&*app_id, &*base_url).app_info("keyfob", env!("CARGO_PKG_VERSION"));
    let mut builder = match is_stored {
        true => store::choose(builder, common.store().as_deref(), &app_id, &base_url)?,
        false => builder.store(MemoryStore::new()),
    };
    if let Some(timeout) = common.timeout {
        builder = builder.deadline(timeout);
    }
    Ok(builder)
}
