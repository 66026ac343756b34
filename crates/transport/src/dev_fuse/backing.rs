//! Backing files of kernel passthrough: registered by ioctl(2), and known to the kernel by a number.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};

use thrufs_sys::fuse_device;

use super::connection::DevFuse;

/// A backing file that the kernel holds until this is dropped. Files that are open through it keep it.
#[derive(Debug)]
pub struct BackingId {
    /// Weak: an id does not keep the connection open.
    device: Weak<DevFuse>,
    id: i32,
}

impl BackingId {
    /// Registers `file`.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN in the first user namespace, or where INIT did not grant
    /// FUSE_PASSTHROUGH; ELOOP where `file`'s file system is stacked too deep; EOPNOTSUPP for what is
    /// no regular file (`fuse_backing_open`).
    pub fn open(device: &Arc<DevFuse>, file: BorrowedFd<'_>) -> io::Result<Self> {
        let id = fuse_device::open_backing(device.as_fd(), file)?;
        let device = Arc::downgrade(device);
        Ok(Self { device, id })
    }

    /// For `fuse_open_out.backing_id`.
    pub fn as_raw(&self) -> i32 {
        self.id
    }
}

impl Drop for BackingId {
    fn drop(&mut self) {
        if let Some(device) = self.device.upgrade() {
            // Refused only after an abort, which has ended all ids.
            let _gone = fuse_device::close_backing(device.as_fd(), self.id);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::File;

    use nix::errno::Errno;

    use super::*;

    #[test]
    fn open_of_what_is_no_fuse_device_is_an_error() {
        let null = Arc::new(DevFuse::new(File::open("/dev/null").unwrap().into()));
        let file = File::open("/proc/self/exe").unwrap();
        let refused = BackingId::open(&null, file.as_fd()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::ENOTTY as i32));
    }
}
