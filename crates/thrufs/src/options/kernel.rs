//! The options that the kernel is told when mounting, and what may be at MOUNTPOINT.

use super::values::bytes;
use crate::mount::options::DEFAULT_SUBTYPE;

/// As the largest --max-write.
const READ_AHEAD_MAX: u32 = 16 << 20;

/// What the kernel is told when mounting.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Mount")]
pub(crate) struct KernelOptions {
    /// Let every user in (the default for root)
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// Let root in beside the user who mounts
    #[arg(long, conflicts_with = "allow_other")]
    pub(crate) allow_root: bool,
    /// Let the kernel check permissions; always on, accepted for compatibility
    #[arg(long)]
    pub(crate) default_permissions: bool,
    /// Unmount what a daemon that died left at MOUNTPOINT, then mount
    #[arg(long)]
    pub(crate) replace_dead: bool,
    /// Mount over a FUSE mount that is at MOUNTPOINT already, and do not warn of files there
    #[arg(long)]
    pub(crate) nonempty: bool,
    /// First column of `mount` and findmnt [default: SOURCE]
    #[arg(long, value_name = "NAME")]
    pub(crate) fsname: Option<String>,
    /// The type is shown as fuse.NAME
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SUBTYPE, value_parser = subtype)]
    pub(crate) subtype: String,
    /// Let the mount be mounted again with other ids (mount --bind -o X-mount.idmap; Linux 6.12,
    /// --transport=device). Who makes a request is then known to the kernel alone, by what it has cached
    #[arg(long, conflicts_with_all = ["allow_root", "translate_uid", "translate_gid"])]
    pub(crate) idmap: bool,
    /// Largest READ in bytes (K and M are understood) [default: the kernel's]
    #[arg(long, value_name = "BYTES", value_parser = max_read)]
    pub(crate) max_read: Option<u32>,
    /// How far the kernel reads ahead, and so how large a READ is, in bytes (K and M are understood; root)
    /// [default: the kernel's, 128K]
    #[arg(long, value_name = "BYTES", value_parser = read_ahead)]
    pub(crate) read_ahead: Option<u32>,
}

fn max_read(text: &str) -> Result<u32, String> {
    match u32::try_from(bytes(text)?) {
        Ok(size) if size >= 4096 => Ok(size),
        _ => Err("must be from 4K to 4095M".to_owned()),
    }
}

fn read_ahead(text: &str) -> Result<u32, String> {
    match u32::try_from(bytes(text)?) {
        Ok(size @ 4096..=READ_AHEAD_MAX) if size % 4096 == 0 => Ok(size),
        _ => Err("must be a multiple of 4096 from 4K to 16M".to_owned()),
    }
}

/// mount(2) and fusermount3 take the subtype as a part of other strings, and it is shown as one.
fn subtype(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    if text.is_empty() || text.len() > 60 || !text.chars().all(is_plain) {
        return Err("must be 1 to 60 letters, digits or any of . _ - +".to_owned());
    }
    Ok(text.to_owned())
}
