//! INIT by fuser: the table of [`crate::init`], in fuser's values.

use std::io;
use std::time::Duration;

use ::fuser::KernelConfig;
use thrufs_fs::{Config, Negotiated};
use thrufs_wire::InitFlags;

use crate::init::{Agreed, Offer};

/// fuser 0.18 does not parse what these change: on the longer SETXATTR its thread panics, and what follows the
/// names of requests that create it does not hand on. Nor does it tell FATTR_KILL_SUIDGID, which stands in for the
/// ids that idmapped mounts cost.
const NOT_CARRIED: InitFlags = InitFlags::FUSE_SETXATTR_EXT
    .union(InitFlags::FUSE_ALLOW_IDMAP)
    .union(InitFlags::FUSE_CREATE_SUPP_GROUP)
    .union(InitFlags::FUSE_SECURITY_CTX);

/// Tells the kernel what this mount wants.
pub(super) fn negotiate(config: &Config, kernel: &mut KernelConfig) -> io::Result<Negotiated> {
    let abi = kernel.kernel_abi();
    let offer = Offer {
        abi: (abi.0, abi.1),
        capabilities: InitFlags::from_bits_retain(kernel.capabilities().bits()),
        carried: InitFlags::from_bits_retain(!0).difference(NOT_CARRIED),
        max_readahead: kernel.set_max_readahead(u32::MAX).err().unwrap_or(u32::MAX),
        max_pages: None,
    };
    let Agreed {
        capabilities,
        max_background,
        max_stack_depth,
        time_gran,
        // A sysctl asks for it.
        request_timeout: _,
        negotiated,
    } = crate::init::negotiate(config, &offer)?;
    let max_write = negotiated.max_write_asked;
    kernel.set_max_write(max_write).map_err(|nearest| {
        io::Error::other(format!(
            "--max-write={max_write}: the nearest size is {nearest}"
        ))
    })?;
    let _previous = kernel.set_max_background(max_background);
    let _previous = kernel.set_max_stack_depth(max_stack_depth);
    let _previous = kernel.set_time_granularity(Duration::from_nanos(u64::from(time_gran)));
    let granted = ::fuser::InitFlags::from_bits_retain(capabilities.bits());
    kernel.add_capabilities(granted).map_err(|missing| {
        io::Error::other(format!(
            "fuser does not grant {missing:?}, which was offered"
        ))
    })?;
    Ok(negotiated)
}
