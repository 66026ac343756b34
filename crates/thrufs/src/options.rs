//! Every option of a mount, once.
//!
//! Invariant: this struct is the only list. `--help`, the long options, the keys of `-o`
//! ([`crate::mount_options`] turns `-o key=value` into `--key=value`) and their near matches are all
//! derived from it; only what mount(8) calls flags (`ro`, `nodev`, ...) has a table beside it.
//! Names and value sets are virtiofsd's wherever it has the option.

mod confine;
mod mapping;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use thrufs_fs::{
    CachePolicy, Durability, Fault, InodeFileHandles, KernelPassthrough, Locks, PosixAcl,
    WriteJoining,
};
use tracing::level_filters::LevelFilter;

pub(crate) use confine::ConfineOptions;
pub(crate) use mapping::MappingOptions;

/// Session threads when `--thread-pool-size` is not given. Each serves one request at a time, so it
/// is also how many calls on SOURCE may wait for a disk at once; but with many, a sequential reader
/// is served by all of them in turn, each with a buffer that is in no cache (README, "How many
/// threads").
pub(crate) const DEFAULT_THREADS: usize = 8;
/// The same with `--durability=dsync`, where the threads wait and the more WRITEs meet the fewer
/// flushes there are.
pub(crate) const DEFAULT_THREADS_DSYNC: usize = 16;
/// Each session thread has a 16 MiB buffer; more of them than this is a typing error.
const THREADS_MAX: u64 = 256;
/// The kernel refuses less than a page.
const MAX_WRITE_MIN: u64 = 4096;
/// The session's buffers end there.
const MAX_WRITE_MAX: u64 = 16 << 20;
/// A timeout beyond a century is a typing error (and seconds since then overflow in some kernels).
const TIMEOUT_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What `thrufs mount` takes.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    version,
    about = "Make SOURCE appear at MOUNTPOINT",
    args_override_self = true,
    disable_help_subcommand = true
)]
#[command(
    after_help = "Each long option is also a key of -o, with - or _ between the words: \
    -o cache=never,attr_timeout=0.5. A long option on the command line wins over -o."
)]
pub(crate) struct MountArgs {
    /// Directory to serve
    pub(crate) source: PathBuf,
    /// Directory where it shall appear
    pub(crate) mountpoint: PathBuf,
    #[arg(short = 'o', value_name = "OPTION,...", action = clap::ArgAction::Append)]
    #[arg(
        help = "Mount options, comma-separated: ro rw [no]dev [no]suid [no]exec [no]atime sync \
        dirsync, and every long option; `\\,` is a comma inside a value"
    )]
    pub(crate) mount_options: Vec<String>,

    #[command(flatten)]
    pub(crate) files: FileOptions,
    #[command(flatten)]
    pub(crate) mapping: MappingOptions,
    #[command(flatten)]
    pub(crate) confine: ConfineOptions,
    #[command(flatten)]
    pub(crate) mount: KernelOptions,
    #[command(flatten)]
    pub(crate) process: ProcessOptions,
    #[command(flatten)]
    pub(crate) helper: HelperFlags,
}

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
    /// auto = where it can be, always = or fail
    #[arg(long, value_name = "WHEN", default_value = "never", value_parser = choice(PASSTHROUGH))]
    pub(crate) passthrough: KernelPassthrough,
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
    /// seconds; it looks every 15 seconds (root, Linux 6.15)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(15..))]
    pub(crate) request_timeout: Option<u16>,
    /// Show what others change under SOURCE at once, whatever is cached (root; the whole file system of
    /// SOURCE is watched)
    #[arg(long)]
    pub(crate) watch: bool,
    /// For tests: make calls on SOURCE fail, fall short or take long
    #[arg(long, value_name = "SPEC", hide = true, action = clap::ArgAction::Append)]
    pub(crate) fault: Vec<Fault>,
}

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
    #[arg(long, value_name = "NAME", default_value = thrufs_subtype(), value_parser = subtype)]
    pub(crate) subtype: String,
    /// Largest READ in bytes (K and M are understood) [default: the kernel's]
    #[arg(long, value_name = "BYTES", value_parser = max_read)]
    pub(crate) max_read: Option<u32>,
}

/// How the daemon runs.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Daemon")]
pub(crate) struct ProcessOptions {
    /// Stay in the foreground and log to standard error
    #[arg(short = 'f', long)]
    pub(crate) foreground: bool,
    /// Foreground with --log-level=debug
    #[arg(short = 'd', long, conflicts_with = "log_level")]
    pub(crate) debug: bool,
    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = choice(LEVELS))]
    pub(crate) log_level: LevelFilter,
    /// Log to the system log instead of standard error
    #[arg(long)]
    pub(crate) syslog: bool,
    /// Number of open files to allow, 0 to leave the limit alone [default: the hard limit, or
    /// 1000000 if that can be had]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) rlimit_nofile: Option<u64>,
    /// Serve counters to Prometheus at http://ADDRESS/metrics: a port of the loopback interface, or
    /// ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Session threads [default: 8, or 16 with --durability=dsync]
    #[arg(long, value_name = "NUMBER", alias = "max-threads", value_parser = threads)]
    pub(crate) thread_pool_size: Option<usize>,
    /// Give each session thread its own /dev/fuse descriptor
    #[arg(long)]
    pub(crate) clone_fd: bool,
}

/// What mount(8) passes to a mount helper; hidden, since nobody types it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HelperFlags {
    #[arg(short = 'n', hide = true)]
    pub(crate) no_mtab: bool,
    #[arg(short = 's', hide = true)]
    pub(crate) sloppy: bool,
    #[arg(short = 'v', hide = true)]
    pub(crate) verbose: bool,
    #[arg(short = 'r', hide = true)]
    pub(crate) read_only: bool,
    #[arg(short = 'w', hide = true)]
    pub(crate) read_write: bool,
    #[arg(short = 't', hide = true, value_name = "TYPE")]
    pub(crate) fs_type: Option<String>,
}

type Choices<T> = &'static [(&'static str, T)];

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
const LEVELS: Choices<LevelFilter> = &[
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// A parser of one of the names in `table`; clap lists them in help and errors.
fn choice<T: Copy + Send + Sync + 'static>(table: Choices<T>) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(table.iter().map(|(name, _)| *name)).try_map(move |given| {
        let found = table.iter().find(|(name, _)| *name == given);
        found
            .map(|(_, value)| *value)
            .ok_or("not one of the possible values")
    })
}

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

/// A number of bytes, with `K` or `M` for 2^10 and 2^20.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected bytes, such as 65536, 64K or 1M")?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}

fn max_write(text: &str) -> Result<u32, String> {
    let size = bytes(text)?;
    if !(MAX_WRITE_MIN..=MAX_WRITE_MAX).contains(&size) || size % MAX_WRITE_MIN != 0 {
        return Err("must be a multiple of 4096 from 4K to 16M".to_owned());
    }
    u32::try_from(size).map_err(|_| "too large".to_owned())
}

fn max_read(text: &str) -> Result<u32, String> {
    match u32::try_from(bytes(text)?) {
        Ok(size) if size >= 4096 => Ok(size),
        _ => Err("must be from 4K to 4095M".to_owned()),
    }
}

/// With fewer the kernel would forget what it is about to use.
const MAX_INODES_MIN: usize = 1024;

fn max_inodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Ok(usize::MAX),
        Ok(count) if count >= MAX_INODES_MIN => Ok(count),
        _ => Err(format!("must be 0 (no limit) or at least {MAX_INODES_MIN}")),
    }
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=THREADS_MAX) => usize::try_from(count).map_err(|_| "too large".to_owned()),
        _ => Err(format!("must be from 1 to {THREADS_MAX} session threads")),
    }
}

/// A port alone is one of the loopback interface: other machines are let in by name only.
fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| {
        "must be a port, or an IP address and a port such as 127.0.0.1:9323 or [::1]:9323"
            .to_owned()
    })
}

/// mount(2) and fusermount3 take the subtype as a part of other strings, and it is shown as one.
fn subtype(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    if text.is_empty() || text.len() > 60 || !text.chars().all(is_plain) {
        return Err("must be 1 to 60 letters, digits or any of . _ - +".to_owned());
    }
    Ok(text.to_owned())
}

/// The subtype of a mount that names none; `thrufs umount` takes it as its own.
pub(crate) const fn thrufs_subtype() -> &'static str {
    "thrufs"
}
