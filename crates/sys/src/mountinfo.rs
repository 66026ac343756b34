//! The mounts of this process's namespace (/proc/self/mountinfo), and which of them a path names.
//!
//! Invariant: nothing here sends a request to a file system, so that a mount whose server is dead
//! or hung is answered about like any other. That is why a path is opened with O_PATH and asked
//! for its mount id, and never passed to stat(2) or realpath(3), which wait for the server.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

/// Of statx(2); rustix has no name for it.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Number of the mount; the kernel uses it again after an unmount.
    pub mount_id: u64,
    /// The mount that this one is mounted on.
    pub parent_id: u64,
    /// Device of the file system, as `major:minor`.
    pub device: String,
    /// The directory of the file system that is mounted, `/` for all of it; unescaped.
    pub root: PathBuf,
    /// Where it is mounted, unescaped.
    pub mount_point: PathBuf,
    /// Whether mounts that are made and removed on it show in other namespaces, and theirs here
    /// (mount_namespaces(7)).
    pub is_shared: bool,
    /// Nothing can be written through this mount, by its own flag or by that of its file system.
    pub is_read_only: bool,
    /// For instance `ext4` or `fuse.thrufs`.
    pub fs_type: String,
    /// What is mounted (for FUSE: the fsname), unescaped.
    pub source: OsString,
    /// Who mounted it, if it is FUSE (`user_id=`).
    pub owner: Option<u32>,
}

impl MountEntry {
    /// Reads one line; `None` if it is not as proc_pid_mountinfo(5) has it.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let mount_id = text(fields.next()?)?.parse().ok()?;
        let parent_id = text(fields.next()?)?.parse().ok()?;
        let device = text(fields.next()?)?.to_owned();
        let root = PathBuf::from(unescape(fields.next()?));
        let mount_point = PathBuf::from(unescape(fields.next()?));
        let mut is_read_only = has_ro(fields.next()?);
        // Any number of optional fields ends at a single `-`.
        let mut is_shared = false;
        loop {
            match fields.next()? {
                b"-" => break,
                field => is_shared |= field.starts_with(b"shared:"),
            }
        }
        let fs_type = text(fields.next()?)?.to_owned();
        let source = unescape(fields.next()?);
        let options = fields.next().unwrap_or_default();
        is_read_only |= has_ro(options);
        let mut options = options.split(|&byte| byte == b',');
        let owner = options.find_map(|option| option.strip_prefix(b"user_id="));
        let owner = owner.and_then(|uid| text(uid)?.parse().ok());
        Some(Self {
            mount_id,
            parent_id,
            device,
            root,
            mount_point,
            is_shared,
            is_read_only,
            fs_type,
            source,
            owner,
        })
    }
}

fn has_ro(options: &[u8]) -> bool {
    options
        .split(|&byte| byte == b',')
        .any(|option| option == b"ro")
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// Undoes the kernel's `\ooo` for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .first_chunk::<3>()
            .filter(|_| first == b'\\')
            .and_then(octal_byte);
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn octal_byte(digits: &[u8; 3]) -> Option<u8> {
    let mut value = 0_u32;
    for digit in digits {
        value = value * 8 + char::from(*digit).to_digit(8)?;
    }
    u8::try_from(value).ok()
}

/// Every mount, in the kernel's order.
///
/// # Errors
/// /proc is not mounted or not readable.
pub fn all() -> io::Result<Vec<MountEntry>> {
    read("/proc/self/mountinfo")
}

/// Every mount that the process `pid` has.
///
/// # Errors
/// As [`all`]; or there is no such process.
pub fn of_process(pid: i32) -> io::Result<Vec<MountEntry>> {
    read(&format!("/proc/{pid}/mountinfo"))
}

fn read(path: &str) -> io::Result<Vec<MountEntry>> {
    let table = std::fs::read(path).map_err(|error| {
        io::Error::new(error.kind(), format!("{path}: {error} (is /proc mounted?)"))
    })?;
    Ok(table
        .split(|&byte| byte == b'\n')
        .filter_map(MountEntry::parse)
        .collect())
}

/// A place in the tree, held without a request to its file system. Holding it keeps the mount
/// busy, so drop it soon.
#[derive(Debug)]
pub struct MountPath {
    fd: OwnedFd,
}

impl MountPath {
    /// What `path` leads to now: the topmost mount, if something is mounted there.
    ///
    /// # Errors
    /// The path does not exist or may not be traversed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// The id of the mount that this place is in.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn mount_id(&self) -> io::Result<u64> {
        mount_id(&self.fd)
    }

    /// The number of that mount which the kernel never uses again; none before Linux 6.8
    /// (STATX_MNT_ID_UNIQUE, statx(2)).
    pub fn unique_mount_id(&self) -> Option<u64> {
        let mask = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(&self.fd, c"", flags, mask).ok()?;
        let has_it = found.stx_mask & STATX_MNT_ID_UNIQUE != 0;
        has_it.then_some(found.stx_mnt_id)
    }

    /// The absolute path without symlinks.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn path(&self) -> io::Result<PathBuf> {
        std::fs::read_link(self.link())
    }

    /// A path that leads to exactly this place, whatever is mounted over it meanwhile.
    pub fn link(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// The mount that this place is in.
    ///
    /// # Errors
    /// /proc is not mounted, or the mount left the namespace meanwhile.
    pub fn entry(&self) -> io::Result<MountEntry> {
        let mount_id = self.mount_id()?;
        all()?
            .into_iter()
            .find(|entry| entry.mount_id == mount_id)
            .ok_or_else(|| {
                // A chroot(2) hides the mount that its root is in, unless the root is a mount point.
                let why = "it is gone, or / is a chroot's directory: `mount --bind DIR DIR` before chroot(1)";
                let text = format!("mount {mount_id} is not in the mount table: {why}");
                io::Error::new(io::ErrorKind::NotFound, text)
            })
    }
}

/// The id of the mount that an open file is in, from /proc/self/fdinfo.
///
/// # Errors
/// /proc is not mounted.
pub fn mount_id(file: impl AsFd) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    mount_id_of(&info).ok_or_else(|| io::Error::other(format!("{path}: no mnt_id line")))
}

/// The `mnt_id:` line of a text from /proc/PID/fdinfo.
pub fn mount_id_of(fdinfo: &str) -> Option<u64> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_with_optional_fields_and_escapes_finds_every_field() {
        let line = br"36 35 0:98 /mnt1 /mnt\0402/a\134b rw,noatime shared:1 master:2 - fuse.thrufs a\011b rw,user_id=7,group_id=8";
        let entry = MountEntry::parse(line).unwrap();
        assert_eq!((entry.mount_id, entry.parent_id), (36, 35));
        assert!(entry.is_shared && !entry.is_read_only);
        assert_eq!(entry.device, "0:98");
        assert_eq!(entry.root, Path::new("/mnt1"));
        assert_eq!(entry.mount_point, Path::new("/mnt 2/a\\b"));
        assert_eq!(entry.fs_type, "fuse.thrufs");
        assert_eq!(entry.source, "a\tb");
        assert_eq!(entry.owner, Some(7));
    }

    #[test]
    fn parse_without_optional_fields_finds_the_type() {
        let entry = MountEntry::parse(b"1 1 8:1 / / rw - ext4 /dev/sda1 rw").unwrap();
        assert_eq!((entry.fs_type.as_str(), entry.mount_id), ("ext4", 1));
        assert!(!entry.is_shared);
        assert_eq!(entry.owner, None);
    }

    #[test]
    fn parse_of_a_mount_that_is_read_only_by_either_flag_says_so() {
        for (mount, file_system, wanted) in [
            ("ro,nodev", "rw", true),
            ("rw", "ro", true),
            ("rw", "rw,errors=ro", false),
        ] {
            let line = format!("1 1 8:1 / / {mount} - ext4 /dev/sda1 {file_system}");
            let entry = MountEntry::parse(line.as_bytes()).unwrap();
            assert_eq!(entry.is_read_only, wanted, "{line}");
        }
    }

    #[test]
    fn parse_of_a_broken_line_gives_none() {
        for line in [
            "",
            "36",
            "x 35 0:98 / / rw - ext4 a rw",
            "36 35 0:98 / / rw shared:1",
        ] {
            assert_eq!(MountEntry::parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn unescape_keeps_what_is_no_escape() {
        assert_eq!(unescape(br"a\04"), r"a\04");
        assert_eq!(unescape(br"a\0499"), r"a\0499");
        assert_eq!(unescape(br"\777"), r"\777");
        assert_eq!(unescape(b"a\\"), r"a\");
        assert_eq!(unescape(br"\043\012"), "#\n");
    }

    #[test]
    fn place_of_the_root_is_in_the_table() {
        let entry = MountPath::open(Path::new("/")).unwrap().entry().unwrap();
        assert_eq!(entry.mount_point, Path::new("/"));
    }

    #[test]
    fn place_of_a_symlink_has_the_path_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let place = MountPath::open(&dir.path().join("link")).unwrap();
        assert_eq!(place.path().unwrap(), real);
    }
}
