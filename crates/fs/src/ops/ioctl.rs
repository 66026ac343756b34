//! IOCTL: the few requests that a passthrough file system can hand on.
//!
//! FICLONE and FICLONERANGE never come: the kernel turns them into a remap, which FUSE lacks.

use rustix::thread::CapabilitySet;
use thrufs_sys::creds::{FsCreds, Power};
use thrufs_sys::ioctl::FileIoctl;
use thrufs_sys::verity::{self, FS_IOC_ENABLE_VERITY, FS_IOC_MEASURE_VERITY};

use crate::caller::{Caller, OVERRIDE};
use crate::coherence::invalidate::InvalRange;
use crate::error::{Errno, IntoErrno, Result};
use crate::handle_table::Handle;
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
        let handle = || self.handle_or_directory(fh, ino);
        let output = match (number, FileIoctl::from_number(number)) {
            (FS_IOC_MEASURE_VERITY, _) => {
                return verity::measure(&handle()?.fd, input).or_errno();
            }
            (FS_IOC_ENABLE_VERITY, _) => self.enable_verity(&*handle()?, input, caller)?,
            (_, Some(request)) if !request.is_write() => {
                return request.call(&handle()?.fd, input).or_errno();
            }
            (_, Some(request)) => {
                self.check_writable()?;
                let handle = handle()?;
                let set = || request.call(&handle.fd, input).or_errno();
                self.as_owner(caller, CapabilitySet::empty(), set, || {
                    Ok(vec![mode_and_owner(&handle.fd)?])
                })?
            }
            (_, None) => return Err(Errno::ENOTTY),
        };
        // The change time at least is new, and nothing in an IOCTL's reply says so.
        self.invalidations.push(ino, InvalRange::ATTRIBUTES);
        Ok(output)
    }

    /// With the caller's own rights: the kernel lets each that has the file open ask for it, and the file system
    /// those that may write to it (`fsverity_ioctl_enable`).
    fn enable_verity(&self, handle: &Handle, input: &[u8], caller: &Caller) -> Result<Vec<u8>> {
        self.check_writable()?;
        if !caller.is_told() {
            return Err(Errno::EACCES);
        }
        let (groups, power) = (self.supplementary_groups(caller), Power::KeepBut(OVERRIDE));
        let groups = (&groups[..], power);
        let _creds = FsCreds::assume_with_groups(caller.uid, caller.gid, groups).or_errno()?;
        verity::enable(&handle.fd, input).or_errno()?;
        Ok(Vec::new())
    }
}
