//! Creates private files and directories, and syncs directories.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(unix)]
use crate::diagnostics::note;
use crate::fs::while_in_use;
use crate::owner::Owner;

/// Returns options for creating a file that only its owner can read.
pub(crate) fn private() -> OpenOptions {
    #[cfg_attr(not(unix), allow(unused_mut))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates a private file, which must not exist, for the owner of its directory. Returns that owner
/// if it is not the user of this process.
pub(crate) fn create_new(path: &Path) -> io::Result<(File, Option<Owner>)> {
    let file = private().read(true).write(true).create_new(true).open(path)?;
    match Owner::give_created(&file, path) {
        Ok(owner) => Ok((file, owner)),
        Err(error) => {
            drop(file);
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// Opens a file, and creates it as [`create_new`] does if it does not exist.
pub(crate) fn open_or_create(options: &OpenOptions, path: &Path) -> io::Result<File> {
    const ATTEMPTS: u32 = 100;
    let mut error = None;
    for _ in 0..ATTEMPTS {
        match options.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
        match create_new(path) {
            // Open it again, with these options.
            Ok(_) => {}
            // Another process created it first, or it is a link to a file that does not exist.
            Err(exists) if exists.kind() == ErrorKind::AlreadyExists => error = Some(exists),
            Err(error) => return Err(error),
        }
    }
    Err(error.unwrap_or_else(|| ErrorKind::AlreadyExists.into()))
}

/// Replaces a file by a new, private one for the owner of its directory. Returns that owner if it is
/// not the user of this process.
pub(crate) fn replace(path: &Path) -> io::Result<(File, Option<Owner>)> {
    remove_file(path)?;
    while_in_use(|| create_new(path))
}

/// Writes a private file for the owner of its directory. If that fails, removes the file.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (mut file, _) = replace(path)?;
    file.write_all(bytes).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// Removes a file, if it exists.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Creates a directory and its missing parents, private to their owner. Existing directories are not
/// changed.
///
/// If root creates a directory, it belongs to the owner of its parent.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    create_dir(dir, Sharing::Allowed)
}

/// Like [`create_private_dir`], in a data directory, in which only its owner and root may create
/// directories.
pub(crate) fn create_private_dir_in(dir: &Path, parent: &Path) -> io::Result<()> {
    create_dir(parent, Sharing::Allowed)?;
    create_dir(dir, Sharing::Refused)
}

/// Whether a directory may belong to another user than its parent.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Sharing {
    Allowed,
    Refused,
}

fn create_dir(dir: &Path, sharing: Sharing) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir(parent, Sharing::Allowed)?;
    }
    #[cfg_attr(not(unix), expect(unused_mut))]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        // Another process created it first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => return Ok(()),
        created => created?,
    }
    give_dir(dir, sharing).inspect_err(|_| {
        let _ = fs::remove_dir(dir);
    })
}

/// Gives a new directory to the owner of its parent.
fn give_dir(dir: &Path, sharing: Sharing) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let given = Owner::give_created(&File::open(dir)?, dir);
    match given {
        Err(error) if sharing == Sharing::Allowed && !Owner::is_refused_to_root(&error) => Ok(()),
        given => given.map(drop),
    }
}

/// Sets the mode of a file or directory, so that other users cannot read it. On a file system without
/// modes this logs a warning instead: the options of the mount decide who may read.
#[cfg(any(unix, feature = "server"))]
pub(crate) fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
            Err(error) if !is_unsupported(&error) => return Err(error),
            _ => {}
        }
        if fs::metadata(path)?.permissions().mode() & 0o777 & !mode != 0 {
            warn_about_modes(path);
        }
    }
    #[cfg(not(unix))]
    let _ = (path, mode);
    Ok(())
}

/// Makes the files in a directory private, if others may read them.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;

            let mode = entry.metadata()?.permissions().mode();
            if mode & 0o077 != 0 {
                restrict(&entry.path(), mode & 0o700)?;
            }
        }
        #[cfg(not(unix))]
        let _ = entry;
    }
    Ok(())
}

/// Returns `true` if the file system does not support modes. The caller has checked that the file
/// does not belong to another user.
#[cfg(unix)]
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported)
}

/// Returns `true` if a file system ignores the mode of a new file, so that other users may be able to
/// read it.
#[cfg(all(unix, feature = "encryption"))]
pub(crate) fn has_own_modes(dir: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    let probe = dir.join(format!("mode.{}.tmp", std::process::id()));
    let created = replace(&probe).and_then(|(file, _)| file.metadata());
    let _ = remove_file(&probe);
    created.is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Logs a warning, once per process.
#[cfg(unix)]
pub(crate) fn warn_about_modes(path: &Path) {
    static HAS_WARNED: AtomicBool = AtomicBool::new(false);
    if !HAS_WARNED.swap(true, Ordering::Relaxed) {
        note!(
            warn,
            "other users may read {}: its file system ignores modes; mount it for one \
             user (uid=, umask=077) or choose another directory",
            path.display()
        );
    }
}

/// Syncs a directory, so that the names in it survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    // On other systems a directory cannot be opened, and need not be synced.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}
