//! The server over real sockets, asked by plain HTTP clients that know nothing of it.

#![cfg(feature = "server")]
#![allow(clippy::expect_used, clippy::unwrap_used, unreachable_pub)]

mod client;

mod accounts;
mod data_dir;
mod functions;
mod http;
mod limits;
mod sessions;
