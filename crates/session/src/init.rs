//! INIT: every value that is negotiated with the kernel, with its reason, in one place, for all
//! transports.

use std::io;

use thrufs_fs::{
    CachePolicy, Config, Errno, InodeFileHandles, KernelPassthrough, Locks, Negotiated, PosixAcl,
    SecurityLabel,
};
use thrufs_wire::abi::{FUSE_KERNEL_MINOR_VERSION, FUSE_KERNEL_VERSION, InitIn, InitOut};
use thrufs_wire::{Dialect, InitFlags};

use crate::requests::Capabilities;

/// Requests that the kernel may have under way in the background (readahead, asynchronous direct
/// I/O, FORGET). The kernel's default of 12 starves more than a few readers.
const MAX_BACKGROUND: u16 = 64;
/// Kernel's limit on pages in one request where the sysctl does not exist (before Linux 6.13).
const DEFAULT_MAX_PAGES: u64 = 256;

/// File systems that may be stacked up to and including this one when kernel passthrough is on. With
/// 1 the mount can still be a layer of overlayfs (the kernel's limit is 2); a SOURCE that is itself
/// stacked, such as one on overlayfs, is then not passed through.
const MAX_STACK_DEPTH: u32 = 1;

/// What a capability is asked for, and when.
struct Wish {
    flag: InitFlags,
    /// Whether this mount wants it.
    wanted: bool,
    /// The option that the mount must fail for without it, and what to use instead.
    required_by: Option<(&'static str, &'static str)>,
}

impl Wish {
    fn when(wanted: bool, flag: InitFlags) -> Self {
        Self {
            flag,
            wanted,
            required_by: None,
        }
    }

    fn required_by(self, is: bool, option: &'static str, remedy: &'static str) -> Self {
        Self {
            required_by: is.then_some((option, remedy)),
            ..self
        }
    }
}

/// Never asked for: what contrib/doc/semantics.md, "What a mount cannot do", names and no row here has.
#[allow(clippy::too_many_lines, reason = "a table: a row a capability")]
fn wishes(config: &Config) -> Vec<Wish> {
    let host_locks = config.locks == Locks::Host;
    vec![
        // Several LOOKUPs and READDIRs in one directory at a time: nothing here needs the
        // kernel's serialization.
        Wish::when(true, InitFlags::FUSE_PARALLEL_DIROPS),
        // Asynchronous direct I/O of one file in parallel.
        Wish::when(true, InitFlags::FUSE_ASYNC_DIO),
        // The umask comes with the request, for the backing file system to combine with a
        // directory's default ACL.
        Wish::when(true, InitFlags::FUSE_DONT_MASK),
        // Cached data goes when GETATTR shows another mtime or size: SOURCE may be changed by
        // others. Under `always` it is not, and where we can tell by whom, we do it (`coherence/external.rs` in thrufs-fs).
        Wish::when(
            config.cache == CachePolicy::Auto && config.watch_period().is_none(),
            InitFlags::FUSE_AUTO_INVAL_DATA,
        ),
        // `ls -l` in one request per buffer instead of one per file; _AUTO only when the caller
        // looks at the entries.
        Wish::when(config.readdirplus, InitFlags::FUSE_DO_READDIRPLUS),
        Wish::when(config.readdirplus, InitFlags::FUSE_READDIRPLUS_AUTO),
        // Where the kernel may keep what a directory contains it can list it without a handle (`listings.rs`).
        Wish::when(
            matches!(config.cache, CachePolicy::Always | CachePolicy::Metadata),
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
        ),
        // A symbolic link's content is as lasting as its attributes.
        Wish::when(
            config.cache == CachePolicy::Always,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ),
        // LOOKUP of "." finds a forgotten inode by its nodeid, for who has a file handle of the mount.
        Wish::when(
            config.inode_file_handles != InodeFileHandles::Never,
            InitFlags::FUSE_EXPORT_SUPPORT,
        ),
        // Set-uid and set-gid bits are removed here (`ops/killpriv.rs` in thrufs-fs). Otherwise the kernel asks for
        // security.capability before every write(2), as soon as extended attributes are served.
        Wish::when(true, InitFlags::FUSE_HANDLE_KILLPRIV_V2),
        // chattr(1) on directories as on files.
        Wish::when(true, InitFlags::FUSE_HAS_IOCTL_DIR),
        // Whether an ACL costs the set-gid bit comes with SETXATTR, instead of being asked of the caller.
        Wish::when(
            config.posix_acl != PosixAcl::Never,
            InitFlags::FUSE_SETXATTR_EXT,
        ),
        // The kernel has taken the set-gid bit from a new file whose creator is not in the directory's group, by
        // the group and mode that it has cached: with this the backing file system does, by its own.
        Wish::when(true, InitFlags::FUSE_CREATE_SUPP_GROUP),
        // The label that the client's security module gives a new file.
        Wish::when(
            config.security_label != SecurityLabel::Never,
            InitFlags::FUSE_SECURITY_CTX,
        )
        .required_by(
            config.security_label == SecurityLabel::Always,
            "--security-label",
            "use --security-label=auto",
        ),
        // Idmapped mounts. By option only, since with it the kernel tells the caller of no request but those that
        // make an inode (`fuse_fill_creds`). The kernel grants it to mounts with default_permissions, as ours are.
        Wish::when(config.idmap, InitFlags::FUSE_ALLOW_IDMAP).required_by(
            true,
            "--idmap",
            "leave it out, or use Linux 6.12 or later and --transport=device",
        ),
        // Only guests offer it.
        Wish::when(config.announce_submounts, InitFlags::FUSE_SUBMOUNTS),
        // Without these two the kernel keeps locks itself.
        Wish::when(host_locks, InitFlags::FUSE_POSIX_LOCKS),
        Wish::when(host_locks, InitFlags::FUSE_FLOCK_LOCKS),
        // A shared mapping of a file that is open past the page cache; otherwise ENODEV.
        Wish::when(
            config.allow_mmap && config.cache.is_direct(),
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ),
        // The kernel checks and applies ACLs, which it reads as extended attributes.
        Wish::when(
            config.posix_acl != PosixAcl::Never,
            InitFlags::FUSE_POSIX_ACL,
        )
        .required_by(
            config.posix_acl == PosixAcl::Always,
            "--posix-acl=always",
            "use --posix-acl=auto",
        ),
        // READ and WRITE of a regular file past the daemon, by backing id.
        Wish::when(
            config.passthrough != KernelPassthrough::Never,
            InitFlags::FUSE_PASSTHROUGH,
        )
        .required_by(
            config.passthrough == KernelPassthrough::Always,
            "--passthrough=always",
            "use --passthrough=auto, or Linux 6.9 or later with CONFIG_FUSE_PASSTHROUGH",
        ),
        // What a server that died had read and not answered comes again.
        Wish::when(config.survive, InitFlags::FUSE_HAS_RESEND).required_by(
            true,
            "--survive",
            "leave it out, or use Linux 6.9 or later",
        ),
        // The kernel ends the connection when a request has had no answer for so long.
        Wish::when(
            config.request_timeout.is_some(),
            InitFlags::FUSE_REQUEST_TIMEOUT,
        )
        .required_by(
            true,
            "--request-timeout",
            "leave it out, or use Linux 6.15 or later",
        ),
        // write(2) returns when the bytes are in the client's cache: by option only, since it gives up
        // write-through.
        Wish::when(config.writeback, InitFlags::FUSE_WRITEBACK_CACHE).required_by(
            true,
            "--writeback",
            "leave it out",
        ),
    ]
}

/// Names of the capabilities that some mount asks for and can do without (`--without`).
pub fn optional_capabilities() -> Vec<String> {
    let wishes = wishes(&Config::default());
    wishes
        .into_iter()
        .flat_map(|wish| names(wish.flag))
        .collect()
}

/// The oldest protocol that is decoded: Linux 5.4.
const OLDEST_MINOR: u32 = 31;

/// What comes of an INIT.
#[derive(Debug)]
pub(crate) enum Handshake {
    /// The client speaks another major version, and sends INIT again upon this answer.
    OtherVersion(InitOut),
    /// The client is too old, or lacks what an option needs.
    Refused(Errno, io::Error),
    /// The session begins.
    Agreed {
        answer: InitOut,
        dialect: Dialect,
        negotiated: Negotiated,
    },
}

/// Answers the INIT of a client that comes by a transport with these `capabilities`.
pub(crate) fn shake_hands(config: &Config, capabilities: &Capabilities, arg: &InitIn) -> Handshake {
    let (major, minor) = (arg.major, arg.minor);
    if major > FUSE_KERNEL_VERSION {
        return Handshake::OtherVersion(InitOut {
            major: FUSE_KERNEL_VERSION,
            minor: FUSE_KERNEL_MINOR_VERSION,
            ..InitOut::default()
        });
    }
    if (major, minor) < (FUSE_KERNEL_VERSION, OLDEST_MINOR) {
        let text =
            format!("the kernel's FUSE protocol {major}.{minor} is older than 7.31 (Linux 5.4)");
        return Handshake::Refused(Errno::EPROTO, io::Error::other(text));
    }
    let offer = Offer {
        abi: (major, minor),
        capabilities: arg.capabilities(),
        max_readahead: arg.max_readahead,
        max_pages: capabilities.max_pages,
        carried: InitFlags::from_bits_retain(!0),
    };
    match negotiate(config, &offer) {
        Ok(agreed) => {
            let minor = minor.min(FUSE_KERNEL_MINOR_VERSION);
            Handshake::Agreed {
                answer: answer(minor, &agreed),
                dialect: Dialect::new(minor, agreed.capabilities),
                negotiated: agreed.negotiated,
            }
        }
        Err(error) => Handshake::Refused(Errno::EIO, error),
    }
}

fn answer(minor: u32, agreed: &Agreed) -> InitOut {
    let negotiated = &agreed.negotiated;
    // What was asked for, whatever limit the sysctl shows by now: the kernel has noted its own at the
    // mount, and obeys that one. Its buffers are checked against this value (`fuse_dev_do_read`).
    let max_write = negotiated.max_write_asked;
    // A READ is as large as read-ahead makes it.
    let largest = max_write.max(negotiated.max_readahead);
    let max_pages = u64::from(largest).div_ceil(rustix::param::page_size() as u64);
    InitOut {
        major: FUSE_KERNEL_VERSION,
        minor,
        max_readahead: negotiated.max_readahead,
        max_background: agreed.max_background,
        // The kernel's own share: 3/4.
        congestion_threshold: agreed.max_background / 4 * 3,
        max_write,
        time_gran: agreed.time_gran,
        request_timeout: agreed.request_timeout,
        max_pages: u16::try_from(max_pages).unwrap_or(u16::MAX),
        max_stack_depth: agreed.max_stack_depth,
        ..InitOut::default()
    }
    .with_capabilities(agreed.capabilities)
}

/// What the kernel offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) abi: (u32, u32),
    pub(crate) capabilities: InitFlags,
    /// What the transport can carry: the rest is as if the kernel did not offer it.
    pub(crate) carried: InitFlags,
    /// The largest that is allowed: the answer can only lower it, which never pays.
    pub(crate) max_readahead: u32,
    /// Pages in one request, where that is not this machine's limit.
    pub(crate) max_pages: Option<u64>,
}

/// What this mount answers.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    /// Granted out of the offer, with those that every mount has.
    pub(crate) capabilities: InitFlags,
    pub(crate) max_background: u16,
    /// The kernel looks at it only when FUSE_PASSTHROUGH is granted.
    pub(crate) max_stack_depth: u32,
    /// Times are the backing file system's own; finer than it keeps does no harm.
    pub(crate) time_gran: u32,
    /// In seconds; 0: none. The kernel looks at it only when FUSE_REQUEST_TIMEOUT is granted.
    pub(crate) request_timeout: u16,
    pub(crate) negotiated: Negotiated,
}

/// What becomes of the wishes of a mount.
struct Chosen {
    granted: InitFlags,
    /// Wanted, and not offered by this kernel.
    refused: InitFlags,
    /// Wanted, but for `--without`.
    left_out: InitFlags,
}

/// Chooses out of the kernel's offer what this mount wants.
///
/// # Errors
/// There is not what an option needs.
fn choose(config: &Config, offer: &Offer) -> io::Result<Chosen> {
    let offered = offer.capabilities & offer.carried;
    let named = config.without.iter().map(String::as_str);
    let without: InitFlags = named.filter_map(InitFlags::named).collect();
    let always = InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_BIG_WRITES;
    let mut chosen = Chosen {
        granted: always | InitFlags::FUSE_MAX_PAGES,
        refused: InitFlags::empty(),
        left_out: InitFlags::empty(),
    };
    for wish in wishes(config).into_iter().filter(|wish| wish.wanted) {
        let (flag, name) = (wish.flag, names(wish.flag).join(" "));
        let is_left_out = without.contains(flag);
        if !is_left_out && offered.contains(flag) {
            chosen.granted |= flag;
        } else if let Some((option, remedy)) = wish.required_by {
            return Err(io::Error::other(match is_left_out {
                true => format!(
                    "--without={name} leaves out what {option} needs: leave out one of them"
                ),
                false => {
                    format!("this kernel does not offer {name}, which {option} needs; {remedy}")
                }
            }));
        } else if is_left_out {
            chosen.left_out |= flag;
        } else if offer.carried.contains(flag) {
            chosen.refused |= flag;
        }
    }
    Ok(chosen)
}

/// What this mount answers to the kernel's offer.
///
/// # Errors
/// As [`choose`].
pub(crate) fn negotiate(config: &Config, offer: &Offer) -> io::Result<Agreed> {
    let max_pages_limit = offer.max_pages.unwrap_or_else(max_pages_limit);
    let limit = max_pages_limit * rustix::param::page_size() as u64;
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let chosen = choose(config, offer)?;
    let negotiated = Negotiated {
        kernel_abi: offer.abi,
        max_write_asked: config.max_write,
        max_write: config.max_write.min(limit),
        max_pages_limit,
        max_readahead: offer.max_readahead,
        max_background: MAX_BACKGROUND,
        granted: names(chosen.granted),
        refused: names(chosen.refused),
        left_out: names(chosen.left_out),
    };
    tracing::info!(
        max_write = negotiated.max_write,
        max_write_asked = negotiated.max_write_asked,
        capabilities = negotiated.granted.join(" "),
        "INIT"
    );
    // The upper half of the word counts only beside this one.
    let granted = (chosen.granted | InitFlags::FUSE_INIT_EXT) & offer.capabilities;
    Ok(Agreed {
        capabilities: granted,
        max_background: MAX_BACKGROUND,
        max_stack_depth: MAX_STACK_DEPTH,
        time_gran: 1,
        request_timeout: config.request_timeout.unwrap_or(0),
        negotiated,
    })
}

fn names(flags: InitFlags) -> Vec<String> {
    flags.names().map(str::to_owned).collect()
}

/// Pages that this kernel allows in one request.
fn max_pages_limit() -> u64 {
    thrufs_fs::max_pages_limit().unwrap_or(DEFAULT_MAX_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(capabilities: InitFlags) -> Offer {
        Offer {
            abi: (7, 45),
            capabilities,
            carried: InitFlags::from_bits_retain(!0),
            max_readahead: 1 << 17,
            max_pages: None,
        }
    }

    #[test]
    fn negotiate_grants_nothing_that_is_not_offered() {
        let offered = InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_PARALLEL_DIROPS;
        let agreed = negotiate(&Config::default(), &offer(offered)).unwrap();
        assert_eq!(agreed.capabilities, offered);
        assert!(agreed.negotiated.has("FUSE_PARALLEL_DIROPS"));
        let refused = &agreed.negotiated.refused;
        assert!(refused.contains(&"FUSE_HANDLE_KILLPRIV_V2".to_owned()));
    }

    #[test]
    fn negotiate_grants_of_all_offers_only_what_the_mount_wants() {
        let all = InitFlags::from_bits_retain(!0);
        let agreed = negotiate(&Config::default(), &offer(all)).unwrap();
        assert!(agreed.capabilities.contains(InitFlags::FUSE_INIT_EXT));
        for never in [
            InitFlags::FUSE_WRITEBACK_CACHE,
            InitFlags::FUSE_SETXATTR_EXT,
            InitFlags::FUSE_ALLOW_IDMAP,
            InitFlags::FUSE_OVER_IO_URING,
        ] {
            assert!(!agreed.capabilities.intersects(never), "{never:?}");
        }
    }

    #[test]
    fn negotiate_leaves_out_what_it_is_told_to_and_says_so() {
        let without = |names: &[&str]| Config {
            writeback: true,
            without: names.iter().map(|&name| name.to_owned()).collect(),
            ..Config::default()
        };
        let all = offer(InitFlags::from_bits_retain(!0));
        let names = ["FUSE_DONT_MASK", "FUSE_HANDLE_KILLPRIV_V2"];
        let agreed = negotiate(&without(&names), &all).unwrap();
        let (mask, killpriv) = (
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        );
        assert!(!agreed.capabilities.intersects(mask | killpriv));
        assert_eq!(agreed.negotiated.left_out, names);
        let error = negotiate(&without(&["FUSE_WRITEBACK_CACHE"]), &all).unwrap_err();
        assert!(error.to_string().contains("--writeback"), "{error}");
    }

    #[test]
    fn negotiate_of_a_timeout_answers_its_seconds() {
        let config = Config {
            request_timeout: Some(60),
            ..Config::default()
        };
        let agreed = negotiate(&config, &offer(InitFlags::from_bits_retain(!0))).unwrap();
        assert_eq!(answer(45, &agreed).request_timeout, 60);
        let error = negotiate(&config, &offer(InitFlags::empty())).unwrap_err();
        assert!(error.to_string().contains("--request-timeout"), "{error}");
    }

    #[test]
    fn negotiate_without_what_an_option_needs_names_option_and_remedy() {
        let config = Config {
            writeback: true,
            ..Config::default()
        };
        let error = negotiate(&config, &offer(InitFlags::empty())).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("--writeback") && text.contains("leave it out"),
            "{text}"
        );
    }
}
