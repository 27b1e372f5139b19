//! The identity of a file, which distinguishes files that have had the same name one after the other.
//!
//! On Unix it is the inode number. Stable Rust has no function for it on Windows, where `generation`
//! has a random number after its content instead.

use std::fs::File;
use std::io;
use std::path::Path;

/// The identity of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct FileId(u64, u64);

#[cfg(unix)]
impl FileId {
    /// Returns the identity of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    /// Returns the identity of the file under a name.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&std::fs::metadata(path)?))
    }

    /// Gives a new file an identity.
    pub(super) fn assign(_: &File) -> io::Result<()> {
        Ok(())
    }

    fn from(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(metadata.dev(), metadata.ino())
    }
}

#[cfg(windows)]
impl FileId {
    /// After the content of `generation`.
    const OFFSET: u64 = 32;

    /// Returns the identity of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let mut bytes = [0; 16];
        // A file from another system has none, nor has one that is being created.
        std::os::windows::fs::FileExt::seek_read(file, &mut bytes, Self::OFFSET)?;
        let both = u128::from_le_bytes(bytes);
        Ok(Self(both as u64, (both >> 64) as u64))
    }

    /// Returns the identity of the file under a name.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Self::of(&File::open(path)?)
    }

    /// Gives a file an identity, unless it has one.
    pub(super) fn assign(file: &File) -> io::Result<()> {
        use std::hash::{BuildHasher, Hasher, RandomState};

        if Self::of(file)? == Self(0, 0) {
            let bytes = [(); 2].map(|()| RandomState::new().build_hasher().finish().to_le_bytes());
            let bytes = bytes.concat();
            std::os::windows::fs::FileExt::seek_write(file, &bytes, Self::OFFSET)?;
        }
        Ok(())
    }
}
