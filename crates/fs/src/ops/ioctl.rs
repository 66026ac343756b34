//! IOCTL: the few requests that a passthrough file system can hand on.
//!
//! FICLONE and FICLONERANGE never come: the kernel turns them into a remap, which FUSE lacks.

use rustix::thread::CapabilitySet;
use thrufs_sys::ioctl::FileIoctl;

use crate::caller::Caller;
use crate::coherence::invalidate::InvalRange;
use crate::error::{Errno, IntoErrno, Result};
use crate::ops::killpriv::mode_and_owner;
use crate::passthrough::Passthrough;

impl Passthrough {
    /// Makes the ioctl `number` on an open file or directory; returns its output.
    ///
    /// # Errors
    /// ENOTTY for one that is not handed on; EROFS; else the backing file system's.
    pub fn ioctl(
        &self,
        ino: u64,
        fh: u64,
        number: u32,
        input: &[u8],
        caller: &Caller,
    ) -> Result<Vec<u8>> {
        let request = FileIoctl::from_number(number).ok_or(Errno::ENOTTY)?;
        if !request.is_write() {
            return request.call(&self.handle(fh, ino)?.fd, input).or_errno();
        }
        self.check_writable()?;
        let handle = self.handle(fh, ino)?;
        let set = || request.call(&handle.fd, input).or_errno();
        let output = self.as_owner(caller, CapabilitySet::empty(), set, || {
            Ok(vec![mode_and_owner(&handle.fd)?])
        })?;
        // The change time at least is new, and nothing in an IOCTL's reply says so.
        self.invalidations.push(ino, InvalRange::ATTRIBUTES);
        Ok(output)
    }
}
