//! What the stores of one process on one directory share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use super::file_id::FileId;
use super::generation::GenerationFile;
use crate::store::fair_mutex::FairMutex;

/// What all stores of this process on one directory share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Writers pass through it.
    pub(super) gate: FairMutex,
    /// The generation of the newest snapshot that was read by any of them, and the file that counts
    /// it: none goes behind it.
    seen: Mutex<Option<(FileId, u64)>>,
}

impl Shared {
    /// Returns the newest generation that was read here, as this file counts them.
    pub(super) fn seen(&self, file: &GenerationFile) -> u64 {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.filter(|(counted_by, _)| *counted_by == file.identity()).map_or(0, |(_, seen)| seen)
    }

    /// Notes that a generation was read.
    pub(super) fn note(&self, file: &GenerationFile, generation: u64) {
        let newest = generation.max(self.seen(file));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some((file.identity(), newest));
    }
}

/// Returns what the stores of this process on a directory share. A forked child has its own: the
/// parent's gate may be closed for ever.
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
