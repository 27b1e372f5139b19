//! Rejects directories on network file systems, whose locks and syncs are too unreliable for a store
//! that several processes write.

use std::fs::Metadata;
use std::path::{Component, Path, PathBuf, Prefix};
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{StoreError, StoreErrorKind};

/// The rejected file systems, as named in `/proc/self/mountinfo`.
const NETWORK: &[&str] = &[
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "orangefs",
    "smb3",
    "smbfs",
];

/// Rejects a directory on a network file system, as far as the operating system names it.
pub(super) fn check(dir: &Path) -> Result<(), StoreError> {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    // The directory may not exist yet: check its nearest parent.
    let parent = absolute.ancestors().find_map(|path| Some((path, path.metadata().ok()?)));
    let Some((parent, metadata)) = parent else { return Ok(()) };
    // Reading the list of mounts would take longer than the rest of opening a store.
    if is_on_block_device(&metadata) {
        return Ok(());
    }
    let Ok(parent) = parent.canonicalize() else { return Ok(()) };
    let refuse = |kind: &str| {
        let reason = format!(
            "the data directory is on a network file system ({kind}), choose one on a local disk"
        );
        Err(StoreError::new(StoreErrorKind::NotLocal, reason).at(dir))
    };
    if is_on_share(&parent) {
        return refuse("a Windows share");
    }
    // The names of mounts may have any encoding.
    let Ok(mounts) = std::fs::read("/proc/self/mountinfo") else { return Ok(()) };
    let mounts = String::from_utf8_lossy(&mounts);
    match file_system(&mounts, &parent) {
        Some(kind) if NETWORK.contains(&kind) => refuse(kind),
        _ => Ok(()),
    }
}

/// Returns `true` for a path such as `\\server\share\dir`. In a canonical path Windows replaces the
/// drive letter of a share by this form.
fn is_on_share(canonical: &Path) -> bool {
    use Prefix::{UNC, VerbatimUNC};
    match canonical.components().next() {
        Some(Component::Prefix(prefix)) => matches!(prefix.kind(), UNC(..) | VerbatimUNC(..)),
        _ => false,
    }
}

/// Returns `true` if a file is on a block device, which no network file system has.
///
/// Source: `sysfs(5)`; `/sys/dev/block` has an entry for each, `major:minor`.
#[cfg(target_os = "linux")]
fn is_on_block_device(metadata: &Metadata) -> bool {
    /// The last device that was found; a program rarely has another.
    static KNOWN: AtomicU64 = AtomicU64::new(0);
    let device = std::os::linux::fs::MetadataExt::st_dev(metadata);
    if KNOWN.load(Ordering::Relaxed) == device {
        return true;
    }
    let major = (device >> 8) & 0xfff | (device >> 32) & 0xffff_f000;
    let minor = device & 0xff | (device >> 12) & 0xffff_ff00;
    let is_one = Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists();
    if is_one {
        KNOWN.store(device, Ordering::Relaxed);
    }
    is_one
}

#[cfg(not(target_os = "linux"))]
fn is_on_block_device(_: &Metadata) -> bool {
    false
}

/// Returns the type of the file system that holds the path.
///
/// Source: `proc_pid_mountinfo(5)`. A line is `36 35 98:0 /root /mount/point options [optional
/// fields] - type source super-options`; of two mounts at one point the later one hides the other.
fn file_system<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mut found: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((mount, rest)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4).map(unescape) else { continue };
        let depth = point.components().count();
        if path.starts_with(&point) && found.is_none_or(|(deepest, _)| deepest <= depth) {
            found = rest.split(' ').next().map(|kind| (depth, kind));
        }
    }
    found.map(|(_, kind)| kind)
}

/// Replaces octal escapes such as `\040` by their characters.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).map(|digits| u8::from_str_radix(digits, 8)) {
            Some(Ok(byte)) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[3..]);
            }
            _ => {
                bytes.push(b'\\');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 28 0:21 / /proc rw,nosuid - proc proc rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 28 0:50 / /home rw - nfs4 server:/home rw,vers=4.2
41 40 0:51 / /home/ada/My\\040Disk rw master:3 - ext4 /dev/sdb rw
42 28 0:52 / /mnt/x rw - ext4 /dev/sdc rw
43 28 0:53 / /mnt/x rw - fuse.sshfs ada@host: rw
broken line
";

    #[test]
    fn deepest_and_latest_mount_decides() {
        for (path, kind) in [
            ("/", "ext4"),
            ("/home/ada/.local", "nfs4"),
            ("/home/ada/My Disk/x", "ext4"),
            ("/homes", "ext4"),
            ("/mnt/x/y", "fuse.sshfs"),
        ] {
            assert_eq!(file_system(MOUNTS, Path::new(path)), Some(kind), "{path}");
        }
    }

    #[cfg(windows)]
    #[test]
    fn network_share_is_not_local_disk() {
        for share in [r"\\server\share\data", r"\\?\UNC\server\share\data"] {
            assert!(is_on_share(Path::new(share)), "{share}");
        }
        for disk in [r"C:\data", r"\\?\C:\data", r"\data", "data"] {
            assert!(!is_on_share(Path::new(disk)), "{disk}");
        }
    }

    #[test]
    fn missing_directory_is_judged_by_parent() {
        assert!(check(&std::env::temp_dir().join("not/there/yet")).is_ok());
    }
}
