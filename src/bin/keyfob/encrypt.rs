//! The command `encrypt`: encrypts an unencrypted store.

use serde_json::json;

use crate::common_args::Common;
use crate::failure::Failure;
use crate::output::Output;
use crate::session;

pub(crate) fn run(common: &Common, out: &Output) -> Result<(), Failure> {
    let encrypted = session::encrypt_store(common)?;
    let text = match encrypted {
        true => {
            "the store is encrypted; without its key nobody can read it, so keep a backup of the key"
        }
        false => "there is no unencrypted store; nothing was changed",
    };
    out.result(&json!({"encrypted": encrypted}), text)
}
