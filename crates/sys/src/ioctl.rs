//! ioctl(2) on regular files and directories with the argument in a byte buffer, as FUSE carries
//! it. Only the requests named here can be made: an arbitrary number could make the kernel write
//! past the buffer.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The ioctls that a passthrough file system may hand on. Each has an argument of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileIoctl {
    /// FS_IOC_GETFLAGS: chattr(1) flags, an `int` despite its number (ioctl_iflags(2)).
    GetFlags,
    /// FS_IOC_SETFLAGS.
    SetFlags,
    /// FS_IOC_FSGETXATTR: `struct fsxattr`.
    FsGetXattr,
    /// FS_IOC_FSSETXATTR.
    FsSetXattr,
    /// FS_IOC_GETVERSION: inode generation, a `long` in the number and an `int` in fact.
    GetVersion,
}

/// Bytes in `struct fsxattr` (linux/fs.h).
const FSXATTR_SIZE: usize = 28;
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC_GETVERSION: u32 = 0x8008_7601;
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

impl FileIoctl {
    /// The request with this number, if it is one that can be handed on. The 32-bit numbers of
    /// GETFLAGS, SETFLAGS and GETVERSION (where `long` is 4 bytes) mean the same.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            FS_IOC_GETFLAGS | 0x8004_6601 => Some(Self::GetFlags),
            FS_IOC_SETFLAGS | 0x4004_6602 => Some(Self::SetFlags),
            FS_IOC_GETVERSION | 0x8004_7601 => Some(Self::GetVersion),
            FS_IOC_FSGETXATTR => Some(Self::FsGetXattr),
            FS_IOC_FSSETXATTR => Some(Self::FsSetXattr),
            _other => None,
        }
    }

    /// Whether it changes the file.
    pub fn is_write(self) -> bool {
        match self {
            Self::SetFlags | Self::FsSetXattr => true,
            Self::GetFlags | Self::FsGetXattr | Self::GetVersion => false,
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::GetFlags => FS_IOC_GETFLAGS,
            Self::SetFlags => FS_IOC_SETFLAGS,
            Self::GetVersion => FS_IOC_GETVERSION,
            Self::FsGetXattr => FS_IOC_FSGETXATTR,
            Self::FsSetXattr => FS_IOC_FSSETXATTR,
        }
    }

    /// Bytes of the argument.
    pub fn size(self) -> usize {
        match self {
            Self::GetFlags | Self::SetFlags | Self::GetVersion => size_of::<i32>(),
            Self::FsGetXattr | Self::FsSetXattr => FSXATTR_SIZE,
        }
    }

    /// Makes the call. `input` is the argument of a write request (shorter input is padded with
    /// zeros); the result is the argument of a read request, empty for a write.
    ///
    /// # Errors
    /// The backing file system's: ENOTTY or EOPNOTSUPP where it does not know the request.
    pub fn call(self, fd: impl AsFd, input: &[u8]) -> io::Result<Vec<u8>> {
        // Twice the room of the largest argument, so that a kernel that reads or writes a `long`
        // where it documents one stays inside.
        let mut arg = [0u64; 2 * FSXATTR_SIZE.div_ceil(8)];
        let mut bytes = [0u8; FSXATTR_SIZE];
        let given = input.len().min(self.size());
        bytes[..given].copy_from_slice(&input[..given]);
        for (word, chunk) in arg.iter_mut().zip(bytes.chunks(8)) {
            let mut padded = [0u8; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(padded);
        }
        // SAFETY: each of the five requests reads or writes at most FSXATTR_SIZE bytes at `arg`.
        let rc = unsafe {
            libc::ioctl(
                fd.as_fd().as_raw_fd(),
                self.number() as libc::Ioctl,
                arg.as_mut_ptr(),
            )
        };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        if self.is_write() {
            return Ok(Vec::new());
        }
        let mut out: Vec<u8> = arg.iter().flat_map(|word| word.to_ne_bytes()).collect();
        out.truncate(self.size());
        Ok(out)
    }
}
