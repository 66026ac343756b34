//! File handles: name_to_handle_at(2) and open_by_handle_at(2), which nix, rustix and libc leave
//! open. A handle names an inode without holding a descriptor, so that a daemon can know a million
//! of them; it carries the inode's generation, so that a reused inode number is told apart.

use std::ffi::c_int;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Largest handle of any file system (MAX_HANDLE_SZ in linux/exportfs.h), in bytes.
const MAX_HANDLE_SZ: usize = 128;

/// `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; MAX_HANDLE_SZ],
}

/// What name_to_handle_at(2) returns for an inode: the kernel's "fid". Opaque; equal for equal
/// inodes of one file system, different when an inode number was used again.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FileHandle {
    handle_type: i32,
    bytes: Box<[u8]>,
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileHandle({}:", self.handle_type)?;
        self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str(")")
    }
}

impl FileHandle {
    /// The handle of the inode behind `fd` (O_PATH will do).
    ///
    /// # Errors
    /// EOPNOTSUPP where the file system has no handles (some stacked and network file systems).
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let mut raw = RawHandle {
            handle_bytes: MAX_HANDLE_SZ as u32,
            handle_type: 0,
            f_handle: [0; MAX_HANDLE_SZ],
        };
        let mut mount_id: c_int = 0;
        // SAFETY: `raw` is a struct file_handle followed by handle_bytes writable bytes, the path
        // is a NUL-terminated constant, and both out-pointers live across the call.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                fd.as_fd().as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount_id,
                libc::AT_EMPTY_PATH,
            )
        };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        let len = (raw.handle_bytes as usize).min(MAX_HANDLE_SZ);
        Ok(Self {
            handle_type: raw.handle_type,
            bytes: raw.f_handle[..len].into(),
        })
    }

    /// The same for equal handles (FNV-1a).
    pub fn digest(&self) -> u32 {
        let kind = self.handle_type.to_ne_bytes();
        let bytes = kind.iter().chain(&self.bytes);
        bytes.fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        })
    }

    /// A handle that came from the kernel by another way (fanotify(7)); `None` if it is none.
    pub fn from_parts(handle_type: i32, bytes: &[u8]) -> Option<Self> {
        (!bytes.is_empty() && bytes.len() <= MAX_HANDLE_SZ).then(|| Self {
            handle_type,
            bytes: bytes.into(),
        })
    }

    /// Opens the inode. `mount` is any descriptor on the mount that the handle came from, but not
    /// an O_PATH one. `flags` as for open(2); O_CLOEXEC is added.
    ///
    /// # Errors
    /// EPERM without CAP_DAC_READ_SEARCH; ESTALE when the inode no longer exists.
    pub fn open(&self, mount: BorrowedFd<'_>, flags: c_int) -> io::Result<OwnedFd> {
        let mut raw = RawHandle {
            handle_bytes: self.bytes.len() as u32,
            handle_type: self.handle_type,
            f_handle: [0; MAX_HANDLE_SZ],
        };
        raw.f_handle[..self.bytes.len()].copy_from_slice(&self.bytes);
        // SAFETY: `raw` is a complete struct file_handle that the kernel only reads.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                &raw const raw,
                flags | libc::O_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor, so it has no other owner.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn of_two_descriptors_of_one_file_is_equal() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = tempfile::NamedTempFile::new().unwrap();
        let Ok(a) = FileHandle::of(file.as_file()) else {
            return;
        };
        let b = FileHandle::of(File::open(file.path()).unwrap()).unwrap();
        assert_eq!(a, b);
        assert_ne!(a, FileHandle::of(other.as_file()).unwrap());
    }
}
