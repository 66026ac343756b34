//! The options that say how the file system behaves. Names and values are virtiofsd's wherever it has
//! the option.

use std::time::Duration;

use thrufs_fs::{
    CachePolicy, Durability, Fault, InodeFileHandles, KernelPassthrough, Locks, PosixAcl,
    WriteJoining,
};

use super::values::{Choices, bytes, choice};

/// The kernel refuses less than a page.
const MAX_WRITE_MIN: u64 = 4096;
/// The session's buffers end there.
const MAX_WRITE_MAX: u64 = 16 << 20;
/// With fewer the kernel would forget what it is about to use.
const MAX_INODES_MIN: usize = 1024;
/// A timeout beyond a century is a typing error (and seconds since then overflow in some kernels).
const TIMEOUT_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How the file system behaves.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "File system")]
pub(crate) struct FileOptions {
    /// What the client kernel may cache: never = nothing (direct I/O), auto = data of open files
    /// until it is changed under SOURCE and metadata for 1 s, always = everything, metadata =
    /// metadata only
    #[arg(long, value_name = "POLICY", default_value = "auto", value_parser = choice(CACHE))]
    pub(crate) cache: CachePolicy,
    /// Seconds for which attributes are cached [default: by --cache]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) attr_timeout: Option<Duration>,
    /// Seconds for which names are cached [default: by --cache]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) entry_timeout: Option<Duration>,
    /// Seconds for which it is cached that a name does not exist [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) negative_timeout: Option<Duration>,
    /// Seconds for which names of directories are cached [default: as --entry-timeout]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) dir_timeout: Option<Duration>,
    /// Serve extended attributes
    #[arg(long)]
    pub(crate) xattr: bool,
    /// Serve POSIX ACLs (implies --xattr): auto = if the kernel can, always = or fail
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
        default_value = "never", default_missing_value = "always", value_parser = choice(POSIX_ACL))]
    pub(crate) posix_acl: PosixAcl,
    /// Refuse every change (EROFS), and mount read-only
    #[arg(long)]
    pub(crate) readonly: bool,
    /// Do not answer READDIRPLUS
    #[arg(long)]
    pub(crate) no_readdirplus: bool,
    /// Open the backing file with O_DIRECT when the client does
    #[arg(long)]
    pub(crate) allow_direct_io: bool,
    /// Let files that are not cached (--cache=never, metadata) be mapped shared. The kernel then loses
    /// what is written by write(2) to a page while another thread stores to the same page through the
    /// mapping
    #[arg(long, value_name = "YES|NO", num_args = 0..=1, require_equals = true,
        default_value = "no", default_missing_value = "yes", value_parser = choice(YES_NO))]
    pub(crate) allow_mmap: bool,
    /// Hold inodes by file handle, so that known files cost no descriptors [default: prefer, but
    /// never in a sandbox when SOURCE is a part of a file system, of which a handle could name the
    /// rest]
    #[arg(long, value_name = "WHEN", value_parser = choice(FILE_HANDLES))]
    pub(crate) inode_file_handles: Option<InodeFileHandles>,
    /// Inodes that the kernel is to know at most, 0 for any number; what is in use stays (Linux 6.18)
    /// [default: any number, or half of the open files where each inode costs one]
    #[arg(long, value_name = "NUMBER", value_parser = max_inodes)]
    pub(crate) max_inodes: Option<usize>,
    /// Where POSIX and flock locks are kept: local = in the client kernel, host = on SOURCE, where
    /// other processes see them
    #[arg(long, value_name = "WHERE", default_value = "local", value_parser = choice(LOCKS))]
    pub(crate) locks: Locks,
    /// Let READ and WRITE go from the kernel to the backing file, past the daemon (Linux 6.9, root):
    /// auto = where it can be, always = or fail [default: auto for root, where no other option asks that the
    /// daemon see each READ and WRITE; else never]
    #[arg(long, value_name = "WHEN", value_parser = choice(PASSTHROUGH))]
    pub(crate) passthrough: Option<KernelPassthrough>,
    /// Let write(2) return when the bytes are in the kernel's cache; a failure shows at fsync(2)
    #[arg(long)]
    pub(crate) writeback: bool,
    /// When written bytes are on stable storage: fsync = when fsync(2) has returned, dsync = before
    /// each WRITE is answered
    #[arg(long, value_name = "WHEN", default_value = "fsync", value_parser = choice(DURABILITY))]
    pub(crate) durability: Durability,
    /// Do WRITEs to one file that wait at the same time together: auto = where it pays, with
    /// --durability=dsync
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = choice(WRITE_JOINING))]
    pub(crate) write_joining: WriteJoining,
    /// Largest WRITE to ask for, in bytes (K and M are understood); the kernel may grant less
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = max_write)]
    pub(crate) max_write: u32,
    /// One page in each WRITE: the slow way, to compare with
    #[arg(long, conflicts_with = "max_write")]
    pub(crate) one_page_writes: bool,
    /// Raise fs.fuse.max_pages_limit for as long as mounting takes, so that --max-write is granted
    /// (root)
    #[arg(long)]
    pub(crate) raise_max_pages_limit: bool,
    /// Have the kernel abort the mount when a request has had no answer for so long, at least 15
    /// seconds; it looks every 15 seconds (Linux 6.15; root, unless with --transport=device)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(15..))]
    pub(crate) request_timeout: Option<u16>,
    /// Show what others change under SOURCE at once, whatever is cached (root; the whole file system of
    /// SOURCE is watched)
    #[arg(long)]
    pub(crate) watch: bool,
    /// For diagnosis: do not ask the kernel for a capability of FUSE, such as FUSE_DO_READDIRPLUS; may be given
    /// several times (see `thrufs status` for those that are on)
    #[arg(long, value_name = "CAPABILITY", value_parser = capability, action = clap::ArgAction::Append)]
    pub(crate) without: Vec<String>,
    /// For tests: make calls on SOURCE fail, fall short or take long
    #[arg(long, value_name = "SPEC", hide = true, action = clap::ArgAction::Append)]
    pub(crate) fault: Vec<Fault>,
}

const CACHE: Choices<CachePolicy> = &[
    ("never", CachePolicy::Never),
    ("auto", CachePolicy::Auto),
    ("always", CachePolicy::Always),
    ("metadata", CachePolicy::Metadata),
];
const POSIX_ACL: Choices<PosixAcl> = &[
    ("never", PosixAcl::Never),
    ("auto", PosixAcl::Auto),
    ("always", PosixAcl::Always),
];
const PASSTHROUGH: Choices<KernelPassthrough> = &[
    ("never", KernelPassthrough::Never),
    ("auto", KernelPassthrough::Auto),
    ("always", KernelPassthrough::Always),
];
const DURABILITY: Choices<Durability> =
    &[("fsync", Durability::Fsync), ("dsync", Durability::Dsync)];
const WRITE_JOINING: Choices<WriteJoining> = &[
    ("never", WriteJoining::Never),
    ("auto", WriteJoining::Auto),
    ("always", WriteJoining::Always),
];
const FILE_HANDLES: Choices<InodeFileHandles> = &[
    ("never", InodeFileHandles::Never),
    ("prefer", InodeFileHandles::Prefer),
    ("mandatory", InodeFileHandles::Mandatory),
];
const LOCKS: Choices<Locks> = &[("local", Locks::Local), ("host", Locks::Host)];
const YES_NO: Choices<bool> = &[("yes", true), ("no", false)];

fn seconds(text: &str) -> Result<Duration, String> {
    let wanted = || {
        format!(
            "expected seconds from 0 to {}, such as 0.5",
            TIMEOUT_MAX.as_secs()
        )
    };
    let value: f64 = text.parse().map_err(|_| wanted())?;
    let duration = Duration::try_from_secs_f64(value).map_err(|_| wanted())?;
    if duration > TIMEOUT_MAX {
        Err(wanted())
    } else {
        Ok(duration)
    }
}

fn max_write(text: &str) -> Result<u32, String> {
    let size = bytes(text)?;
    if !(MAX_WRITE_MIN..=MAX_WRITE_MAX).contains(&size) || size % MAX_WRITE_MIN != 0 {
        return Err("must be a multiple of 4096 from 4K to 16M".to_owned());
    }
    u32::try_from(size).map_err(|_| "too large".to_owned())
}

fn capability(text: &str) -> Result<String, String> {
    let known = thrufs_session::optional_capabilities();
    match known.iter().any(|name| name == text) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected one of {}", known.join(", "))),
    }
}

fn max_inodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Ok(usize::MAX),
        Ok(count) if count >= MAX_INODES_MIN => Ok(count),
        _ => Err(format!("must be 0 (no limit) or at least {MAX_INODES_MIN}")),
    }
}
