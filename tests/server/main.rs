//! The server over real sockets, with plain HTTP clients that are independent of keyfob.

#![cfg(feature = "server")]
#![allow(clippy::expect_used, clippy::unwrap_used, unreachable_pub)]

mod client;

mod accounts;
mod api_keys;
mod bodies;
mod confirm_reset;
mod custom_data;
mod data_dir;
mod delete;
mod disk;
mod faults;
mod functions;
mod http;
mod limits;
mod link;
mod oidc;
mod providers;
mod rate_limits;
mod sessions;
mod state_limits;
mod stub;
mod switches;
mod test_provider;
