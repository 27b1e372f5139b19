//! Environment variables. An empty variable counts as unset.

use std::ffi::OsString;

use crate::failure::Failure;

/// Returns a variable.
pub(crate) fn environment(variable: &str) -> Option<OsString> {
    std::env::var_os(variable).filter(|value| !value.is_empty())
}

/// Returns a variable that must be valid Unicode.
pub(crate) fn text_environment(variable: &str) -> Result<Option<String>, Failure> {
    let text = environment(variable).map(OsString::into_string).transpose();
    text.map_err(|_| Failure::Usage(format!("{variable} is not UTF-8")))
}
