//! Renames and removals that retry on Windows until another program closes a file.
//!
//! Windows cannot replace or remove a file that another program, such as a virus scanner, an indexer
//! or a backup, has open without sharing it. It completes a removal only when the last handle is
//! closed. Such programs close their files within milliseconds, so these functions retry for at most
//! [`PATIENCE`]. On other systems they do not retry.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long to retry before the error is returned.
const PATIENCE: Duration = Duration::from_millis(500);

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Renames a file or a directory. A file at the new name is replaced.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    while_in_use(|| fs::rename(from, to))
}

/// Removes a directory and its content.
pub(crate) fn remove_dir_all(path: &Path) -> io::Result<()> {
    while_in_use(|| fs::remove_dir_all(path))
}

/// Retries while another program has the file open.
pub(crate) fn while_in_use<T>(attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    retry(PATIENCE, attempt)
}

fn retry<T>(patience: Duration, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt() {
            Err(error) if is_in_use(&error) && began.elapsed() < patience => {}
            done => return done,
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Returns `true` if the error may mean that another program has the file open.
///
/// Source: "System Error Codes" of the Windows API.
#[cfg(windows)]
fn is_in_use(error: &io::Error) -> bool {
    const ACCESS_DENIED: i32 = 5;
    const SHARING_VIOLATION: i32 = 32;
    const LOCK_VIOLATION: i32 = 33;
    const DIR_NOT_EMPTY: i32 = 145;
    const DELETE_PENDING: i32 = 303;
    const USER_MAPPED_FILE: i32 = 1224;
    matches!(
        error.raw_os_error(),
        Some(
            ACCESS_DENIED
                | SHARING_VIOLATION
                | LOCK_VIOLATION
                | DIR_NOT_EMPTY
                | DELETE_PENDING
                | USER_MAPPED_FILE
        )
    )
}

#[cfg(not(windows))]
fn is_in_use(_: &io::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_error_is_returned_at_once() {
        let mut attempts = 0;
        let error: io::Result<()> = retry(Duration::from_secs(3600), || {
            attempts += 1;
            Err(io::ErrorKind::NotFound.into())
        });
        assert_eq!((error.unwrap_err().kind(), attempts), (io::ErrorKind::NotFound, 1));
    }

    #[cfg(windows)]
    mod in_use {
        use std::fs::File;
        use std::os::windows::fs::OpenOptionsExt;
        use std::path::PathBuf;
        use std::sync::mpsc;

        use super::*;

        fn directory(name: &str) -> PathBuf {
            let dir = std::env::temp_dir().join(format!("keyfob-fs-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("old"), "old").unwrap();
            fs::write(dir.join("new"), "new").unwrap();
            dir
        }

        /// Opens a file as a program does that shares it with nobody.
        fn hold(path: &Path) -> File {
            File::options().read(true).share_mode(0).open(path).unwrap()
        }

        /// Runs an attempt that fails while a file is open, and closes the file meanwhile.
        fn closed_meanwhile(file: File, attempt: impl Fn() -> io::Result<()>) {
            let (failed, has_failed) = mpsc::channel();
            let closing = thread::spawn(move || {
                has_failed.recv().unwrap();
                drop(file);
            });
            retry(Duration::from_secs(60), || {
                let done = attempt();
                if done.is_err() {
                    let _ = failed.send(());
                }
                done
            })
            .unwrap();
            closing.join().unwrap();
        }

        #[test]
        fn rename_waits_until_target_is_closed() {
            let dir = directory("rename");
            let (old, new) = (dir.join("old"), dir.join("new"));
            closed_meanwhile(hold(&old), || fs::rename(&new, &old));
            assert_eq!(fs::read(&old).unwrap(), b"new");
            fs::remove_dir_all(dir).unwrap();
        }

        #[test]
        fn removal_waits_until_files_are_closed() {
            let dir = directory("remove");
            closed_meanwhile(hold(&dir.join("old")), || fs::remove_dir_all(&dir));
            assert!(!dir.exists());
        }

        #[test]
        fn file_that_stays_open_is_error() {
            let dir = directory("stays");
            let file = hold(&dir.join("old"));
            assert!(rename(&dir.join("new"), &dir.join("old")).is_err());
            drop(file);
            assert_eq!(fs::read(dir.join("old")).unwrap(), b"old");
            fs::remove_dir_all(dir).unwrap();
        }
    }
}
