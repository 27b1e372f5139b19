//! The manual: a [`guide`] for people who write programs with keyfob, and the [`design`], for those
//! who want to know how keyfob works.
//!
//! # Guide
//!
//! - First steps: [getting started](guide::getting_started), [concepts](guide::concepts).
//! - How-tos: [worker pool](guide::worker_pool), [build script](guide::build_script), [desktop
//!   utility](guide::desktop), [sign-in in the browser](guide::browser), [command-line
//!   tool](guide::command_line), [tests](guide::testing), [custom user data](guide::custom_data),
//!   [errors and retries](guide::errors), [offline start](guide::offline), [encryption and the
//!   keyring](guide::encryption), [listening for changes](guide::listening), [a store for many
//!   machines](guide::redis).
//! - Decisions: [choosing a backend](guide::backends), [migration from the Realm
//!   SDKs](guide::migration), [the limits of the server](guide::server_limits).
//! - When something fails: [troubleshooting](guide::troubleshooting).
//!
//! # Design
//!
//! - How it works: [refresh](design::refresh), [storage](design::storage),
//!   [network](design::network), [answers](design::answers), [protocol](design::protocol),
//!   [events](design::events).
//! - What was measured and tried: [speed](design::speed), [systems](design::systems),
//!   [lessons](design::lessons).
//! - What changed: [changes](design::changes).

/// The guide, for users: first steps, concepts, how-tos, and help when something fails.
///
/// The programs of these pages are tests of this crate. Begin with [getting
/// started](guide::getting_started) and [concepts](guide::concepts); the [manual](self) lists the
/// pages in order.
pub mod guide {
    #[cfg_attr(any(feature = "server", not(doctest)), doc = include_str!("guide/getting_started.md"))]
    pub mod getting_started {}

    #[doc = include_str!("guide/concepts.md")]
    pub mod concepts {}

    #[cfg_attr(any(feature = "server", not(doctest)), doc = include_str!("guide/worker_pool.md"))]
    pub mod worker_pool {}

    #[doc = include_str!("guide/build_script.md")]
    pub mod build_script {}

    #[cfg_attr(any(feature = "server", not(doctest)), doc = include_str!("guide/desktop.md"))]
    pub mod desktop {}

    // Its programs need the features.
    #[cfg_attr(any(all(feature = "browser", feature = "server"), not(doctest)), doc = include_str!("guide/browser.md"))]
    pub mod browser {}

    #[doc = include_str!("guide/command_line.md")]
    pub mod command_line {}

    #[cfg_attr(any(feature = "server", not(doctest)), doc = include_str!("guide/testing.md"))]
    pub mod testing {}

    #[cfg_attr(any(feature = "server", not(doctest)), doc = include_str!("guide/custom_data.md"))]
    pub mod custom_data {}

    #[cfg_attr(any(feature = "server", not(doctest)), doc = include_str!("guide/errors.md"))]
    pub mod errors {}

    #[cfg_attr(any(feature = "server", not(doctest)), doc = include_str!("guide/offline.md"))]
    pub mod offline {}

    #[cfg_attr(any(all(feature = "encryption", feature = "server"), not(doctest)), doc = include_str!("guide/encryption.md"))]
    pub mod encryption {}

    #[cfg_attr(any(feature = "server", not(doctest)), doc = include_str!("guide/listening.md"))]
    pub mod listening {}

    // Its programs need the feature.
    #[cfg_attr(any(feature = "redis", not(doctest)), doc = include_str!("guide/redis.md"))]
    pub mod redis {}

    #[doc = include_str!("guide/backends.md")]
    pub mod backends {}

    #[cfg_attr(any(feature = "server", not(doctest)), doc = include_str!("guide/server_limits.md"))]
    pub mod server_limits {}

    #[doc = include_str!("guide/migration.md")]
    pub mod migration {}

    #[doc = include_str!("guide/troubleshooting.md")]
    pub mod troubleshooting {}
}

/// The design: how keyfob works, what was measured, and what changed.
///
/// For people who want to know what they can rely on, and for those who change keyfob. The
/// [manual](self) lists the pages in order.
pub mod design {
    #[doc = include_str!("design/refresh.md")]
    pub mod refresh {}

    #[doc = include_str!("design/storage.md")]
    pub mod storage {}

    #[doc = include_str!("design/network.md")]
    pub mod network {}

    #[doc = include_str!("design/answers.md")]
    pub mod answers {}

    #[doc = include_str!("design/protocol.md")]
    pub mod protocol {}

    #[doc = include_str!("design/events.md")]
    pub mod events {}

    #[doc = include_str!("design/systems.md")]
    pub mod systems {}

    #[doc = include_str!("design/speed.md")]
    pub mod speed {}

    #[doc = include_str!("design/lessons.md")]
    pub mod lessons {}

    #[doc = include_str!("design/changes.md")]
    pub mod changes {}
}
