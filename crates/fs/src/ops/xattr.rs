//! GETXATTR, SETXATTR, LISTXATTR and REMOVEXATTR.
//!
//! By path through /proc/self/fd: there is no call that takes an O_PATH descriptor before Linux
//! 6.13, and files other than regular ones and directories are not to be opened. That link leads
//! to the inode itself, even when it is a symbolic link.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::thread::CapabilitySet;

use crate::caller::Caller;
use crate::caller::proc;
use crate::config::{PosixAcl, SecurityLabel};
use crate::error::{Errno, IntoErrno, Result};
use crate::ops::killpriv::mode_and_owner;
use crate::passthrough::Passthrough;

/// Largest value and largest list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX), in bytes.
const XATTR_MAX: usize = 65_536;
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// What SETXATTR sets.
#[derive(Clone, Copy, Debug)]
pub struct SetXattr<'a> {
    /// The attribute's name, as the client calls it.
    pub name: &'a OsStr,
    /// Its new value.
    pub value: &'a [u8],
    /// XATTR_CREATE, XATTR_REPLACE.
    pub flags: i32,
    /// Whether an access ACL costs the file its set-gid bit; none where the transport does not say: unless the
    /// caller is in the file's group.
    pub kills_sgid: Option<bool>,
}

impl Passthrough {
    /// Value of an extended attribute.
    ///
    /// # Errors
    /// ENODATA; ENOSYS when extended attributes are off, after which the kernel no longer asks.
    pub fn getxattr(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>> {
        let name = self.xattr_name(name)?;
        let inode = self.inode(ino)?;
        let fd = self.path_fd(&inode)?;
        let mut value = vec![0; XATTR_MAX];
        let len = rustix::fs::getxattr(proc::link(&fd), name, &mut value[..]).or_errno()?;
        value.truncate(len);
        Ok(value)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// EEXIST, ENODATA, ENOSPC, EROFS, ENOSYS when extended attributes are off.
    pub fn setxattr(&self, ino: u64, set: &SetXattr<'_>, caller: &Caller) -> Result<()> {
        let is_acl_access = set.name.as_bytes() == ACL_ACCESS;
        self.check_writable()?;
        let name = self.xattr_name(set.name)?;
        let inode = self.inode(ino)?;
        let fd = self.path_fd(&inode)?;
        let (value, flags) = (set.value, set.flags as u32);
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        let is_not_member = || -> Result<bool> {
            Ok(caller.uid != 0 && !self.is_member(&mode_and_owner(&fd)?, caller))
        };
        let kills_sgid = is_acl_access && set.kills_sgid.map_or_else(is_not_member, Ok)?;
        if kills_sgid && !caller.is_told() {
            // With the server's own rights the backing file system would keep the bit.
            self.clear_set_gid(&fd)?;
        }
        // The backing file system clears the bit, and must not find our CAP_FSETID.
        let others = match kills_sgid {
            true => CapabilitySet::FSETID,
            false => CapabilitySet::empty(),
        };
        let set = || rustix::fs::setxattr(proc::link(&fd), &name, value, flags).or_errno();
        let set = || {
            self.with_space(|| {
                self.as_owner(caller, others, set, || Ok(vec![mode_and_owner(&fd)?]))
            })
        };
        match flags.contains(XattrFlags::CREATE) {
            true => self.xattr_once(Errno::EEXIST, set),
            false => set(),
        }
    }

    /// Names of the extended attributes, each ended by a NUL.
    ///
    /// # Errors
    /// ENOSYS when extended attributes are off.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<u8>> {
        if !self.has_xattr() {
            return Err(Errno::ENOSYS);
        }
        let inode = self.inode(ino)?;
        let fd = self.path_fd(&inode)?;
        let mut names = vec![0; XATTR_MAX];
        let len = rustix::fs::listxattr(proc::link(&fd), &mut names[..]).or_errno()?;
        names.truncate(len);
        if self.serves_acl() && self.config.xattr_map.is_none() {
            return Ok(names);
        }
        let mut visible = Vec::with_capacity(names.len());
        for name in names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            if let Some(shown) = self.shown_name(name) {
                visible.extend_from_slice(shown);
                visible.push(0);
            }
        }
        Ok(visible)
    }

    /// What the client is shown of a name on SOURCE.
    fn shown_name<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let shown = match &self.config.xattr_map {
            Some(map) => map.server(name)?,
            None => name,
        };
        (!is_acl(shown) || self.serves_acl()).then_some(shown)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// ENODATA, EROFS, ENOSYS when extended attributes are off.
    pub fn removexattr(&self, ino: u64, name: &OsStr, caller: &Caller) -> Result<()> {
        self.check_writable()?;
        let name = self.xattr_name(name)?;
        let inode = self.inode(ino)?;
        // Bound to a name: the descriptor must be open until the call is over.
        let fd = self.path_fd(&inode)?;
        let remove = || rustix::fs::removexattr(proc::link(&fd), &name).or_errno();
        self.xattr_once(Errno::ENODATA, || {
            self.as_owner(caller, CapabilitySet::empty(), remove, || {
                Ok(vec![mode_and_owner(&fd)?])
            })
        })
    }

    fn has_xattr(&self) -> bool {
        self.config.xattr || self.serves_acl() || self.config.security_label != SecurityLabel::Never
    }

    /// Whether the kernel was told to check ACLs: without that they must not be seen or set, as
    /// they would not be obeyed.
    pub(crate) fn serves_acl(&self) -> bool {
        match self.config.posix_acl {
            PosixAcl::Never => false,
            PosixAcl::Auto | PosixAcl::Always => self
                .negotiated
                .get()
                .is_none_or(|negotiated| negotiated.has("FUSE_POSIX_ACL")),
        }
    }

    /// The name on SOURCE of what the client calls `name`.
    pub(crate) fn xattr_name(&self, name: &OsStr) -> Result<CString> {
        if !self.has_xattr() {
            return Err(Errno::ENOSYS);
        }
        let name = name.as_bytes();
        let mapped = self.config.xattr_on_source(name)?;
        // Neither may a rule lead to one.
        if (is_acl(name) || is_acl(mapped.to_bytes())) && !self.serves_acl() {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(mapped)
    }
}

fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}
