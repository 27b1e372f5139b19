//! The default data directory.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// Returns `keyfob` in the platform's directory for application data.
pub(crate) fn default_data_dir() -> Result<PathBuf> {
    let base = if cfg!(windows) {
        absolute("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        absolute("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
    };
    base.map(|base| base.join("keyfob")).ok_or_else(|| {
        let reason = "this environment names no home directory: set one with `data_dir`";
        Error::config("the data directory", reason)
    })
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .map(|path: OsString| path.into())
        .filter(|path: &PathBuf| path.is_absolute())
}
