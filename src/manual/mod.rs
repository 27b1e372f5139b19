//! The manual, in two parts: the [`guide`] is for people who write programs with keyfob, and
//! [`design`] describes how keyfob works, how fast it is and what changed.

/// The guide, for users: first steps, concepts, how-tos, and help when something fails.
///
/// The programs of these pages are tests of this crate.
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

    #[doc = include_str!("guide/migration.md")]
    pub mod migration {}

    #[doc = include_str!("guide/troubleshooting.md")]
    pub mod troubleshooting {}
}

/// The design: how keyfob works, and why. For people who want to know what they can rely on, and
/// for those who change keyfob.
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
