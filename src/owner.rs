//! The owner of files: files in a directory belong to the owner of that directory.
//!
//! A process that runs as another user, such as root, gives new files to that owner, or fails before
//! it writes. Otherwise the owner could not open the files any more.
//!
//! A directory that belongs to root and that others may write, such as a mounted volume, is shared
//! on purpose: files that other users create in it stay theirs.
//!
//! The owner of a directory can put links into it, so that root would give away files of other users.
//! So the owner of a file is changed only through an open handle, and only if this process created
//! the file or sled opened it as its own.

use std::error::Error as StdError;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

const ROOT: u32 = 0;

/// The owner of a directory in which this process creates files as another user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    uid: u32,
    gid: u32,
    /// The user that new files of this process belong to.
    creator: u32,
}

/// Why a file cannot be created or used: it does not belong to the owner of its directory.
#[derive(Debug)]
pub(crate) enum ForeignFile {
    /// A new file cannot be given to the owner.
    NotGiven { owner: u32, creator: u32 },
    /// An existing file is a link or belongs to another user.
    NotTrusted { owner: u32, file: PathBuf },
}

impl Owner {
    /// Returns the owner of a directory if this process creates files as another user.
    ///
    /// # Errors
    /// If this process cannot give files to the owner. No file is left behind.
    pub(crate) fn find(dir: &Path) -> io::Result<Option<Self>> {
        let owner = fs::metadata(dir)?.uid();
        if owner == ROOT || own_uid() == Some(owner) {
            return Ok(None);
        }
        let probe = dir.join("owner.tmp");
        match fs::remove_file(&probe) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&probe)?;
        let owner = Self::give_created(&file, &probe);
        fs::remove_file(&probe)?;
        owner
    }

    /// Returns `true` for the error that a file of root cannot be given to the owner.
    pub(crate) fn is_refused_to_root(error: &io::Error) -> bool {
        let why = error.get_ref().and_then(|why| why.downcast_ref());
        matches!(why, Some(ForeignFile::NotGiven { creator: ROOT, .. }))
    }

    /// Gives a file or directory that this process has just created to the owner of its directory.
    /// Returns that owner if it is not the user of this process.
    pub(crate) fn give_created(created: &File, path: &Path) -> io::Result<Option<Self>> {
        let creator = created.metadata()?.uid();
        let dir = parent(path);
        let owner = fs::metadata(dir)?.uid();
        if owner == creator || owner == ROOT {
            return Ok(None);
        }
        // Keep it open, so that it cannot be replaced.
        let dir = File::open(dir)?;
        let metadata = dir.metadata()?;
        let owner = Self { uid: metadata.uid(), gid: metadata.gid(), creator };
        if !is_in(&dir, path, created)? {
            return Err(owner.not_given());
        }
        owner.give(created)?;
        Ok(Some(owner))
    }

    /// Rejects an open file of another user than the owner, which may have been opened through a
    /// link.
    pub(crate) fn check(self, file: &File, path: &Path) -> io::Result<()> {
        if file.metadata()?.uid() == self.uid { Ok(()) } else { Err(self.not_trusted(path)) }
    }

    /// Rejects a directory that contains links, or files of other users than the owner and the user
    /// of this process.
    pub(crate) fn check_tree(self, dir: &Path) -> io::Result<()> {
        self.walk(dir, &mut |path, metadata| {
            let is_known = [self.uid, self.creator].contains(&metadata.uid());
            let is_single = metadata.is_dir() || metadata.is_file() && metadata.nlink() == 1;
            if is_known && is_single { Ok(()) } else { Err(self.not_trusted(path)) }
        })
    }

    /// Gives a directory and its content to the owner.
    pub(crate) fn give_tree(self, dir: &Path) -> io::Result<()> {
        self.walk(dir, &mut |path, metadata| {
            if metadata.uid() != self.creator || self.creator == self.uid {
                return Ok(());
            }
            if !metadata.is_dir() && !metadata.is_file() {
                return Err(self.not_trusted(path));
            }
            let file = File::open(path)?;
            let opened = file.metadata()?;
            let is_single = opened.is_dir() || opened.nlink() == 1;
            if is_same(&opened, &fs::symlink_metadata(path)?) && is_single {
                self.give(&file)
            } else {
                Err(self.not_trusted(path))
            }
        })
    }

    /// Visits the content of a directory, and then the directory. Does not follow links.
    fn walk(
        self,
        path: &Path,
        visit: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>,
    ) -> io::Result<()> {
        let metadata = match fs::symlink_metadata(path) {
            // Another process removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            metadata => metadata?,
        };
        if metadata.is_dir() {
            for entry in fs::read_dir(path)? {
                self.walk(&entry?.path(), visit)?;
            }
        }
        visit(path, &metadata)
    }

    fn give(self, file: &File) -> io::Result<()> {
        let given = fchown(file, Some(self.uid), Some(self.gid));
        // Some file systems report success and do nothing.
        match given.and_then(|()| file.metadata()) {
            Ok(metadata) if metadata.uid() == self.uid => Ok(()),
            _ => Err(self.not_given()),
        }
    }

    fn not_given(self) -> io::Error {
        refused(ForeignFile::NotGiven { owner: self.uid, creator: self.creator })
    }

    fn not_trusted(self, file: &Path) -> io::Error {
        refused(ForeignFile::NotTrusted { owner: self.uid, file: file.to_owned() })
    }
}

/// Explains why a path cannot be used, if the reason is the owner of a file.
pub(crate) fn explain(error: &io::Error, path: &Path) -> Option<String> {
    if let Some(why) = error.get_ref().and_then(|why| why.downcast_ref::<ForeignFile>()) {
        return Some(why.to_string());
    }
    if error.kind() != ErrorKind::PermissionDenied {
        return None;
    }
    let is_foreign = |file: &Path, owner: u32| {
        owner != ROOT && fs::symlink_metadata(file).is_ok_and(|file| file.uid() != owner)
    };
    let owner = fs::metadata(parent(path)).ok()?.uid();
    if is_foreign(path, owner) {
        return Some(ForeignFile::NotTrusted { owner, file: path.to_owned() }.to_string());
    }
    let owner = fs::metadata(path).ok()?.uid();
    let mut files = fs::read_dir(path).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let file = files.find(|file| is_foreign(file, owner))?;
    Some(ForeignFile::NotTrusted { owner, file }.to_string())
}

/// Returns the user as whom this process creates files, if the system has a cheap way to find it. A
/// process that may not be inspected seems to belong to root.
fn own_uid() -> Option<u32> {
    if cfg!(target_os = "linux") { Some(fs::metadata("/proc/self").ok()?.uid()) } else { None }
}

/// Returns `true` if a name in the open directory is the name of this file.
fn is_in(dir: &File, path: &Path, file: &File) -> io::Result<bool> {
    let name = path.file_name().unwrap_or_default();
    #[cfg(target_os = "linux")]
    let place = {
        let held = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(dir));
        Path::new(&held).join(name)
    };
    #[cfg(not(target_os = "linux"))]
    let place = path;
    #[cfg(not(target_os = "linux"))]
    let _ = (dir, name);
    Ok(is_same(&fs::symlink_metadata(place)?, &file.metadata()?))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn refused(why: ForeignFile) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

impl fmt::Display for ForeignFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGiven { owner, creator } => write!(
                f,
                "the directory belongs to user {owner}, this program runs as user {creator} and \
                 cannot give files to that user: run it as user {owner}, or choose another directory"
            ),
            Self::NotTrusted { owner, file } => write!(
                f,
                "{} is a link or does not belong to user {owner}, the owner of its directory: give \
                 it back (chown {owner}) or remove it",
                file.display()
            ),
        }
    }
}

impl StdError for ForeignFile {}
