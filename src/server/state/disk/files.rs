//! Copies and removes whole directories.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::fs::remove_dir_all;
use crate::private::{create_new, create_private_dir, private, sync_dir};

/// Returns the options to read and write a file.
pub(super) fn private_file() -> OpenOptions {
    let mut options = private();
    options.read(true).write(true);
    options
}

/// Removes a directory, if it exists.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match remove_dir_all(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Returns `true` if the error means that the disk is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::QuotaExceeded | ErrorKind::StorageFull)
}

/// Copies a directory and everything in it. The copy is on disk when this returns.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    create_private_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            // `fs::copy` would fail where modes cannot be set.
            let (mut copy, _) = create_new(&to)?;
            io::copy(&mut File::open(&from)?, &mut copy)?;
            copy.sync_all()?;
        }
    }
    sync_dir(to)
}
