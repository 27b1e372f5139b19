//! The process-wide registry of open stores: all that use one directory share a mutex.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use super::file_id::FileId;
use super::generation::GenerationFile;
use crate::store::fair_mutex::FairMutex;

/// The state that all stores of this process on one directory share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Locked by the writer of this process.
    pub(super) writers: FairMutex,
    /// The generation of the newest snapshot that any of them has read, and the file that it belongs
    /// to: none of them reads an older one.
    seen: Mutex<Option<(FileId, u64)>>,
}

impl Shared {
    /// Returns the newest generation that was read in this process from a file.
    pub(super) fn seen(&self, file: &GenerationFile) -> u64 {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.filter(|(id, _)| *id == file.identity()).map_or(0, |(_, seen)| seen)
    }

    /// Records that a generation was read.
    pub(super) fn note(&self, file: &GenerationFile, generation: u64) {
        let newest = generation.max(self.seen(file));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some((file.identity(), newest));
    }
}

/// Returns the shared state of a directory. A forked child has its own, because a copy of the
/// parent's mutex may stay locked for ever.
pub(super) fn shared(dir: &Path, process: u32) -> Arc<Shared> {
    type All = HashMap<(u32, PathBuf), Weak<Shared>>;
    static ALL: LazyLock<Mutex<All>> = LazyLock::new(Mutex::default);
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, shared| shared.strong_count() > 0);
    let entry = all.entry((process, dir.to_owned())).or_default();
    entry.upgrade().unwrap_or_else(|| {
        let shared = Arc::default();
        *entry = Arc::downgrade(&shared);
        shared
    })
}
