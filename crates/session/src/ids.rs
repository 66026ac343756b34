//! Users and groups, where requests come in and replies go out: the one place at which
//! `--translate-uid` and `--translate-gid` act. EPERM for an id that is forbidden.

use thrufs_fs::{Caller, Errno, IdMaps, Result};

/// The caller, with its ids on SOURCE.
pub(crate) fn caller(maps: &IdMaps, uid: u32, gid: u32, pid: u32) -> Result<Caller> {
    Ok(Caller {
        uid: maps.uid.to_host(uid).ok_or(Errno::EPERM)?,
        gid: maps.gid.to_host(gid).ok_or(Errno::EPERM)?,
        pid,
    })
}

/// The owner that SETATTR sets, as it is on SOURCE.
pub(crate) fn owner(
    maps: &IdMaps,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(Option<u32>, Option<u32>)> {
    let uid = uid.map(|uid| maps.uid.to_host(uid).ok_or(Errno::EPERM));
    let gid = gid.map(|gid| maps.gid.to_host(gid).ok_or(Errno::EPERM));
    Ok((uid.transpose()?, gid.transpose()?))
}
