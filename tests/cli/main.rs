//! The `keyfob` command as a process: its output, its exit codes, and several processes with one
//! store. The backend is another process of the same program.

#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;
/// What these tests share with others.
#[allow(dead_code, unreachable_pub, reason = "not all of it is used here")]
#[path = "../support"]
mod support {
    pub mod net;
    pub mod provider;
}

mod browser;
mod failures;
#[cfg(target_os = "linux")]
mod modes;
mod people;
mod results;
mod serve;
#[cfg(target_os = "linux")]
mod shells;
#[cfg(target_os = "linux")]
mod signals;
mod store;
#[cfg(target_os = "linux")]
mod terminal;
