//! What a mount was asked to do. Names and defaults are virtiofsd's wherever it has the option.
//! Plain data: the command line fills it in, [`crate::Passthrough`] reads it, nothing changes it
//! after the mount.

use std::ffi::CString;
use std::time::Duration;

use crate::error::{Errno, Result};
use crate::translate::ids::IdMaps;
use crate::translate::xattrs::{ClientName, XattrMap};

/// Longest time the kernel may rely on what it cached under `--cache=always|metadata`
/// (virtiofsd's value).
pub const LONG_TIMEOUT: Duration = Duration::from_secs(86_400);

/// How much the client kernel may cache (`--cache`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// Nothing: timeouts 0 and FOPEN_DIRECT_IO on every file. Several mounts of one SOURCE agree.
    Never,
    /// Data until the file is opened, if it is not open already, or is found to have been changed
    /// under SOURCE; metadata for a second.
    #[default]
    Auto,
    /// Everything, until the kernel drops it: for a SOURCE that only this mount changes.
    Always,
    /// Metadata as in `Always`, data never (FOPEN_DIRECT_IO).
    Metadata,
}

/// How long the kernel may use what a reply said before it asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Attributes of an inode (`--attr-timeout`).
    pub attr: Duration,
    /// A name that exists (`--entry-timeout`).
    pub entry: Duration,
    /// A name that does not exist (`--negative-timeout`).
    pub negative: Duration,
    /// A name that exists and is a directory (`--dir-timeout`).
    pub dir: Duration,
}

impl CachePolicy {
    /// The timeouts that go with this policy when none is given separately.
    pub fn timeouts(self) -> Timeouts {
        let (entry, negative) = match self {
            Self::Never => (Duration::ZERO, Duration::ZERO),
            Self::Auto => (Duration::from_secs(1), Duration::ZERO),
            Self::Always | Self::Metadata => (LONG_TIMEOUT, Duration::ZERO),
        };
        Timeouts {
            attr: entry,
            entry,
            negative,
            dir: entry,
        }
    }

    /// Whether files are opened with FOPEN_DIRECT_IO, so that the kernel caches no data.
    pub fn is_direct(self) -> bool {
        match self {
            Self::Never | Self::Metadata => true,
            Self::Auto | Self::Always => false,
        }
    }
}

/// Whether POSIX ACLs are served (`--posix-acl`). Needs extended attributes, and implies them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PosixAcl {
    /// No.
    #[default]
    Never,
    /// If the kernel offers FUSE_POSIX_ACL.
    Auto,
    /// Yes, and fail to mount otherwise.
    Always,
}

/// Whether new files get the labels that the client's security module gives them (`--security-label`). Needs
/// extended attributes, and implies them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityLabel {
    /// No: SOURCE labels them.
    #[default]
    Never,
    /// If the client offers FUSE_SECURITY_CTX, and SOURCE takes such labels from this process.
    Auto,
    /// Yes, and INIT fails otherwise.
    Always,
}

/// How the file system holds inodes that the kernel knows (`--inode-file-handles`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InodeFileHandles {
    /// An O_PATH descriptor for each.
    Never,
    /// A file handle where the backing file system has them and we may open them, else a descriptor.
    #[default]
    Prefer,
    /// A file handle, and an error where there is none.
    Mandatory,
}

/// Where advisory locks are kept (`--locks`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locks {
    /// In the client kernel: processes that use SOURCE directly do not see them (as virtiofsd).
    #[default]
    Local,
    /// On SOURCE, as OFD locks and flock(2).
    Host,
}

/// Whether READ and WRITE of regular files go from the kernel to the backing file, past the daemon
/// (`--passthrough`). Not with direct I/O or the writeback cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelPassthrough {
    /// No: every WRITE is answered by the daemon.
    #[default]
    Never,
    /// Where the kernel, the privilege and the file allow it.
    Auto,
    /// Yes, and fail to mount or to open otherwise.
    Always,
}

/// When what a WRITE wrote is on stable storage (`--durability`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When fsync(2) has returned.
    #[default]
    Fsync,
    /// When it is answered, as if every file were open with O_DSYNC. Not with kernel passthrough or
    /// the writeback cache, which answer write(2) without the daemon.
    Dsync,
}

/// Whether WRITEs to one inode that wait at the same time are joined (`--write-joining`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteJoining {
    /// No: each by itself.
    Never,
    /// Where it pays: with [`Durability::Dsync`], when they share a flush, on files where that is
    /// measured to be faster than flushes at the same time.
    #[default]
    Auto,
    /// Yes.
    Always,
}

/// Everything that decides how a mount behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// See [`CachePolicy`].
    pub cache: CachePolicy,
    /// See [`Timeouts`]; starts as the policy's own.
    pub timeouts: Timeouts,
    /// Serve extended attributes (`--xattr`).
    pub xattr: bool,
    /// Other names for them on SOURCE (`--xattrmap`).
    pub xattr_map: Option<XattrMap>,
    /// Other users and groups on SOURCE (`--translate-uid`, `--translate-gid`). Not with POSIX ACLs,
    /// in which ids are not translated.
    pub ids: IdMaps,
    /// Let the mount be mounted again with other ids (`--idmap`, FUSE_ALLOW_IDMAP). The kernel then tells the caller
    /// of requests that make an inode alone. Not with `ids`.
    pub idmap: bool,
    /// See [`PosixAcl`].
    pub posix_acl: PosixAcl,
    /// See [`SecurityLabel`].
    pub security_label: SecurityLabel,
    /// Tell the client of file systems that are mounted below SOURCE, so that it mounts them too
    /// (`--announce-submounts`). Otherwise they appear as directories of one file system.
    pub announce_submounts: bool,
    /// Refuse every change with EROFS (`--readonly`).
    pub readonly: bool,
    /// Answer READDIRPLUS (off with `--no-readdirplus`).
    pub readdirplus: bool,
    /// Pass the client's O_DIRECT on to the backing file (`--allow-direct-io`); otherwise it is
    /// dropped there and the backing file goes through the host's page cache.
    pub allow_direct_io: bool,
    /// Let a file that is open with FOPEN_DIRECT_IO be mapped shared (FUSE_DIRECT_IO_ALLOW_MMAP). Not
    /// the default: while one thread stores to a page through the mapping, what another writes to the
    /// same page by write(2) can be lost, in the kernel.
    pub allow_mmap: bool,
    /// See [`InodeFileHandles`].
    pub inode_file_handles: InodeFileHandles,
    /// Inodes that the kernel is to know at most (`--max-inodes`); what it uses it may know beyond that.
    /// None: as many as it likes where they are held by file handle, else half of the descriptors.
    pub max_inodes: Option<usize>,
    /// See [`Locks`].
    pub locks: Locks,
    /// See [`KernelPassthrough`].
    pub passthrough: KernelPassthrough,
    /// The kernel answers write(2) from its cache and writes back later (`--writeback`).
    pub writeback: bool,
    /// See [`Durability`].
    pub durability: Durability,
    /// See [`WriteJoining`].
    pub write_joining: WriteJoining,
    /// Largest WRITE to ask for, in bytes; the kernel grants at most max_pages_limit pages. The
    /// default is the kernel's default limit: 64 KiB already gives most of the speed, from 256 KiB
    /// on nothing changes, but each write(2) of up to 1 MiB is then one request.
    pub max_write: u32,
    /// Whether the client's kernel takes notifications; that of a virtual machine does not.
    pub takes_notifications: bool,
    /// Another process may go on serving when this one dies (`--survive`). Then the kernel looks for external changes by
    /// itself.
    pub survive: bool,
    /// Seconds without an answer after which the client's kernel ends the connection, where INIT can ask for that
    /// (FUSE_REQUEST_TIMEOUT).
    pub request_timeout: Option<u16>,
    /// Capabilities by their names (`FUSE_...`) that INIT does not ask for (`--without`).
    pub without: Vec<String>,
}

/// Shorter timeouts are left to the kernel: it asks before each read(2) then.
const SHORTEST_WATCH: Duration = Duration::from_millis(100);

impl Config {
    /// The name on SOURCE that `--xattrmap` gives what the client calls `name`.
    ///
    /// # Errors
    /// EPERM or EOPNOTSUPP where a rule says so; EINVAL for a name with a NUL.
    pub(crate) fn xattr_on_source(&self, name: &[u8]) -> Result<CString> {
        let mapped = match &self.xattr_map {
            Some(map) => match map.client(name) {
                ClientName::Named(mapped) => mapped,
                ClientName::Denied => return Err(Errno::EPERM),
                ClientName::Unsupported => return Err(Errno::EOPNOTSUPP),
            },
            None => name.to_vec(),
        };
        CString::new(mapped).map_err(|_nul| Errno::EINVAL)
    }

    /// How often open files are looked at for changes that were made under SOURCE, so that those
    /// show within the timeout of attributes (`coherence/external.rs`). None where the kernel caches no data,
    /// or relies on it, or is to look by itself (FUSE_AUTO_INVAL_DATA): when it takes no notifications, for
    /// timeouts too short, and where the mount may outlive this process: a thread that waits for a folio in a
    /// notification would keep a process that is killed from ending. Files that are passed through have nothing
    /// cached and are not looked at.
    pub fn watch_period(&self) -> Option<Duration> {
        let is_watched = self.cache == CachePolicy::Auto
            && !self.writeback
            && self.takes_notifications
            && !self.survive
            && self.timeouts.attr >= SHORTEST_WATCH;
        is_watched.then(|| self.timeouts.attr / 2)
    }
}

impl Default for Config {
    fn default() -> Self {
        let cache = CachePolicy::default();
        Self {
            cache,
            timeouts: cache.timeouts(),
            xattr: false,
            xattr_map: None,
            ids: IdMaps::default(),
            idmap: false,
            posix_acl: PosixAcl::default(),
            security_label: SecurityLabel::default(),
            announce_submounts: false,
            readonly: false,
            readdirplus: true,
            allow_direct_io: false,
            allow_mmap: false,
            inode_file_handles: InodeFileHandles::default(),
            max_inodes: None,
            locks: Locks::default(),
            passthrough: KernelPassthrough::default(),
            writeback: false,
            durability: Durability::default(),
            write_joining: WriteJoining::default(),
            max_write: 1 << 20,
            takes_notifications: true,
            survive: false,
            request_timeout: None,
            without: Vec::new(),
        }
    }
}
