//! The command `recover`: continues with the users that can still be read from a damaged store.

use keyfob::{Error, StoreErrorKind};
use serde_json::json;

use crate::common_args::Common;
use crate::failure::Failure;
use crate::named_user::shown;
use crate::output::Output;
use crate::session;

pub(crate) fn run(common: &Common, out: &Output) -> Result<(), Failure> {
    let kept = match session::open_stored(common).and_then(|session| Ok(session.check_store()?)) {
        Ok(()) => None,
        Err(Failure::Keyfob(Error::Store(error))) if error.kind == StoreErrorKind::Damaged => {
            Some(error.path)
        }
        Err(failure) => return Err(failure),
    };
    let session = match kept {
        None => session::open_stored(common)?,
        Some(_) => session::open_recovering(common)?,
    };
    session.check_store()?;
    let users = session.users()?;
    let (is_damaged, kept) = (kept.is_some(), kept.flatten());
    let ids: Vec<_> = users.iter().map(|user| user.id()).collect();
    let json = json!({"recovered": is_damaged, "kept": kept, "users": ids});
    if !is_damaged {
        return out.result(&json, "the store is not damaged; nothing was changed");
    }
    let mut text = match &users[..] {
        [] => "no user could be recovered: log in again".to_owned(),
        users => {
            let users: Vec<_> = users.iter().map(shown).collect();
            format!("recovered {}; other users have to log in again", users.join(", "))
        }
    };
    if let Some(kept) = kept {
        text.push_str(&format!(
            "\nthe damaged files are kept in {}; they contain tokens: delete them when nobody needs \
             them any more",
            kept.display()
        ));
    }
    out.result(&json, text)
}
