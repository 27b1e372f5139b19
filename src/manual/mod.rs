//! The manual: how it works underneath. Nothing but text.

#[doc = include_str!("refresh.md")]
pub mod refresh {}

#[doc = include_str!("answers.md")]
pub mod answers {}

// Its programs need the feature.
#[cfg_attr(any(feature = "browser", not(doctest)), doc = include_str!("browser.md"))]
pub mod browser {}

#[doc = include_str!("events.md")]
pub mod events {}

#[doc = include_str!("flutter.md")]
pub mod flutter {}

#[doc = include_str!("lessons.md")]
pub mod lessons {}

#[doc = include_str!("storage.md")]
pub mod storage {}

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[doc = include_str!("network.md")]
pub mod network {}

#[doc = include_str!("speed.md")]
pub mod speed {}

#[doc = include_str!("changes.md")]
pub mod changes {}
