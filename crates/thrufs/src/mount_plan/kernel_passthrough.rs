//! Whether files of a mount are passed through by the kernel: by default where root mounts, and no other option
//! asks that the daemon see each READ and WRITE.

use thrufs_fs::{Durability, KernelPassthrough, WriteJoining};

use crate::options::files::FileOptions;

/// Why no file of the mount is passed through; none where they are.
pub(super) fn why_not(files: &FileOptions, is_root: bool) -> Option<String> {
    let never = files.passthrough == Some(KernelPassthrough::Never);
    let by_option = [
        (never, "--passthrough=never"),
        (
            files.cache.is_direct(),
            "with --cache=never and --cache=metadata the kernel is to cache no data",
        ),
        (
            files.durability == Durability::Dsync,
            "with --durability=dsync the daemon makes each WRITE durable",
        ),
        (
            files.watch,
            "with --watch the daemon tells the mount's own WRITEs from what others change",
        ),
        (
            files.writeback,
            "with --writeback the kernel keeps what is written",
        ),
        (
            files.write_joining == WriteJoining::Always,
            "with --write-joining=always the daemon joins WRITEs",
        ),
        (
            files.request_timeout.is_some(),
            "with --request-timeout the kernel times each READ and WRITE",
        ),
        (
            files.one_page_writes,
            "with --one-page-writes the daemon gets a WRITE for each page",
        ),
        (
            !files.fault.is_empty(),
            "with --fault the daemon makes calls on SOURCE fail",
        ),
        (!is_root, "only root may give files to the kernel"),
    ];
    let reason = by_option.into_iter().find(|(is_so, _)| *is_so);
    reason.map(|(_, reason)| reason.to_owned())
}
