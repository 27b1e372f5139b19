//! Who files belong to: what is in a directory belongs to the owner of that directory.
//!
//! A process that runs as another user, such as root, gives what it creates to that owner, or is
//! refused before it writes. Otherwise the owner could not open the files any more.
//!
//! A directory that belongs to root and lets others write, such as a mounted volume, is shared on
//! purpose: what others create in it stays theirs.
//!
//! The owner of a directory can put links into it, to have somebody else's files given away. So a
//! file is given away only by its open handle, and only if this process created it, or if sled has
//! read it as its own.

use std::error::Error as StdError;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use crate::private;

const ROOT: u32 = 0;

/// The owner of a directory in which this process creates files as another user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    uid: u32,
    gid: u32,
    /// The user to whom new files of this process belong.
    creator: u32,
}

/// Why files may not be created, or used: they do not belong to the owner of their directory.
#[derive(Debug)]
pub(crate) enum ForeignFile {
    /// It cannot be given to the owner.
    NotGiven { owner: u32, creator: u32 },
    /// It is there already, and is a link or belongs to somebody else.
    NotTrusted { owner: u32, file: PathBuf },
}

impl Owner {
    /// Returns the owner of a directory if this process creates files as another user, and can give
    /// them to the owner. If it cannot, that is an error, and nothing is left behind.
    pub(crate) fn find(dir: &Path) -> io::Result<Option<Self>> {
        let owner = fs::metadata(dir)?.uid();
        if owner == ROOT || own_uid() == Some(owner) {
            return Ok(None);
        }
        let probe = dir.join("owner.tmp");
        let (_, owner) = private::replace(&probe)?;
        private::remove_file(&probe)?;
        Ok(owner)
    }

    /// Returns `true` for the error that something which root created cannot be given to the owner.
    pub(crate) fn is_refused_to_root(error: &io::Error) -> bool {
        let why = error.get_ref().and_then(|why| why.downcast_ref());
        matches!(why, Some(ForeignFile::NotGiven { creator: ROOT, .. }))
    }

    /// Gives a file or directory that this process has just created to the owner of the directory
    /// that it is in. Returns the owner if that is not the user of this process.
    pub(crate) fn give_created(created: &File, path: &Path) -> io::Result<Option<Self>> {
        let creator = created.metadata()?.uid();
        let dir = parent(path);
        let owner = fs::metadata(dir)?.uid();
        if owner == creator || owner == ROOT {
            return Ok(None);
        }
        // Held open, so that nothing else can take its place.
        let dir = File::open(dir)?;
        let metadata = dir.metadata()?;
        let owner = Self { uid: metadata.uid(), gid: metadata.gid(), creator };
        if !is_in(&dir, path, created)? {
            return Err(owner.not_given());
        }
        owner.give(created)?;
        Ok(Some(owner))
    }

    /// Refuses an open file that belongs to anybody else than the owner: it may have been reached
    /// by a link.
    pub(crate) fn check(self, file: &File, path: &Path) -> io::Result<()> {
        if file.metadata()?.uid() == self.uid { Ok(()) } else { Err(self.not_trusted(path)) }
    }

    /// Refuses a directory with links in it, or with files of anybody else than the owner and this
    /// process.
    pub(crate) fn check_tree(self, dir: &Path) -> io::Result<()> {
        self.walk(dir, &mut |path, metadata| {
            let is_known = [self.uid, self.creator].contains(&metadata.uid());
            let is_single = metadata.is_dir() || metadata.is_file() && metadata.nlink() == 1;
            if is_known && is_single { Ok(()) } else { Err(self.not_trusted(path)) }
        })
    }

    /// Gives everything in a directory, and the directory, to the owner.
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

    /// Visits what is in a directory, and the directory last. Links are not followed.
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
        // There are file systems that accept it and do nothing.
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

/// Explains why a path may not be used, if that is because of who owns something there.
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

/// Returns the user as whom this process creates files, where the system has a cheap way to say so.
/// A process that may not be inspected seems to be root's.
fn own_uid() -> Option<u32> {
    if cfg!(target_os = "linux") { Some(fs::metadata("/proc/self").ok()?.uid()) } else { None }
}

/// Returns `true` if a name in the open directory is the name of this very file.
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
