//! What `thrufs device` takes, and `virtiofsd` where thrufs is called by that name: virtiofsd 1.14's options,
//! with those of a mount that make sense for a device.
//!
//! Invariant: what virtiofsd takes is taken, or is an error that says why it cannot work; nothing is accepted
//! and silently not done ([`crate::device_plan`]).

use std::net::SocketAddr;
use std::path::PathBuf;

use thrufs_fs::SecurityLabel;
use thrufs_session::Tag;
use tracing::level_filters::LevelFilter;

use super::files::FileOptions;
use super::mapping::MappingOptions;
use super::process::{LEVELS, SURVIVE, Survive, metrics_address};
use super::sandbox::SandboxOptions;
use super::values::{Choices, choice};

/// Request queues at most when `--num-request-queues` is not given.
const DEFAULT_QUEUES_MAX: usize = 16;

/// What `thrufs device` takes.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    version,
    about = "Serve a directory to a virtual machine, as a virtiofs device in place of virtiofsd",
    args_override_self = true,
    disable_help_subcommand = true,
    // They cannot work for a device, and are errors that say so.
    mut_arg("watch", |option| option.hide(true)),
    mut_arg("passthrough", |option| option.hide(true)),
    mut_arg("max_inodes", |option| option.hide(true)),
    mut_arg("request_timeout", |option| option.hide(true)),
    mut_arg("raise_max_pages_limit", |option| option.hide(true))
)]
#[command(
    after_help = "The guest mounts it with `mount -t virtiofs TAG MOUNTPOINT`. Called as virtiofsd, thrufs \
    takes the same options. Needs guest memory that is shared: with QEMU \
    `-object memory-backend-memfd,id=mem,size=2G,share=on -machine memory-backend=mem \
    -chardev socket,id=fs,path=SOCKET -device vhost-user-fs-pci,chardev=fs,tag=TAG`."
)]
pub(crate) struct DeviceArgs {
    /// Directory to serve, or a file, which cannot be shut in
    #[arg(long, value_name = "DIR")]
    pub(crate) shared_dir: Option<PathBuf>,
    /// Socket to listen on for the virtual machine monitor; SOCKET.pid beside it has the process's number
    #[arg(long, value_name = "SOCKET", alias = "socket")]
    pub(crate) socket_path: Option<PathBuf>,
    /// Group that may connect to SOCKET
    #[arg(long, value_name = "GROUP", requires = "socket_path")]
    pub(crate) socket_group: Option<String>,
    /// Descriptor of a socket that listens, in place of SOCKET [default: the one that systemd passes]
    #[arg(long, value_name = "NUMBER", conflicts_with = "socket_path")]
    pub(crate) fd: Option<i32>,
    /// Name of the device in the guest, for a virtual machine monitor that asks for it, 1 to 36 bytes
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Option<Tag>,
    /// Request queues, each with a thread of its own; the virtual machine monitor is told how many of them it uses
    /// [default: this machine's CPUs, at most 16]
    #[arg(long, value_name = "NUMBER", value_parser = queues)]
    pub(crate) num_request_queues: Option<usize>,
    /// Wait for the next front end when one has disconnected, rather than end
    #[arg(long)]
    pub(crate) keep: bool,
    /// Options as the C virtiofsd had them
    #[arg(short = 'o', value_name = "OPTION,...", action = clap::ArgAction::Append)]
    pub(crate) old_options: Vec<String>,

    #[command(flatten)]
    pub(crate) files: FileOptions,
    #[command(flatten)]
    pub(crate) mapping: MappingOptions,
    #[command(flatten)]
    pub(crate) sandbox: SandboxOptions,
    #[command(flatten)]
    pub(crate) process: DeviceProcessOptions,
    #[command(flatten)]
    pub(crate) virtiofsd: VirtiofsdOptions,
}

/// How the process runs. A device is always in the foreground.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Daemon")]
pub(crate) struct DeviceProcessOptions {
    #[arg(short = 'f', long, hide = true)]
    pub(crate) foreground: bool,
    /// As --log-level=debug
    #[arg(short = 'd', long)]
    pub(crate) debug: bool,
    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = choice(LEVELS))]
    pub(crate) log_level: LevelFilter,
    /// Log to the system log instead of standard error
    #[arg(long)]
    pub(crate) syslog: bool,
    /// Number of open files to allow, 0 to leave the limit alone [default: the hard limit, or
    /// 1000000 where the kernel allows it]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) rlimit_nofile: Option<u64>,
    /// Serve counters to Prometheus at http://ADDRESS/metrics: a port of the loopback interface, or
    /// ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// What happens when the serving process dies: the device ends (never), or another process goes on where it was,
    /// without an error in the guest (always). Not with --inode-file-handles, --sandbox=chroot or a user namespace
    #[arg(long, value_name = "WHEN", default_value = "never", value_parser = choice(SURVIVE))]
    pub(crate) survive: Survive,
    /// Deaths within a minute that a device with --survive outlives
    #[arg(long, value_name = "NUMBER", default_value = "30")]
    pub(crate) survive_deaths: u32,
    /// Print what this build offers, as JSON
    #[arg(long)]
    pub(crate) print_capabilities: bool,
}

/// Virtiofsd's options that a mount has not.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "As virtiofsd")]
pub(crate) struct VirtiofsdOptions {
    /// Accepted for compatibility: each request queue has one thread
    #[arg(long, value_name = "NUMBER")]
    pub(crate) thread_pool_size: Option<usize>,
    /// Tell the guest of file systems that are mounted below DIR, so that each has a device number and statfs(2) of
    /// its own there (the default)
    #[arg(long, overrides_with = "no_announce_submounts")]
    pub(crate) announce_submounts: bool,
    /// Let them appear as directories of one file system, with inode numbers that no two files have
    #[arg(long, overrides_with = "announce_submounts")]
    pub(crate) no_announce_submounts: bool,
    /// Accepted for compatibility: set-uid and set-gid bits are always removed on a write
    #[arg(long)]
    pub(crate) killpriv_v2: bool,
    /// Accepted for compatibility, and without effect
    #[arg(long)]
    pub(crate) no_killpriv_v2: bool,
    /// Accepted for compatibility: O_NOATIME is kept where it may be used
    #[arg(long)]
    pub(crate) preserve_noatime: bool,
    /// Give new files the labels of the guest's security module: never, auto = where guest and DIR take part, always
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
        default_value = "never", default_missing_value = "always", value_parser = choice(LABEL))]
    pub(crate) security_label: SecurityLabel,
    #[arg(long, value_name = "MODE", hide = true)]
    pub(crate) migration_mode: Option<String>,
    #[arg(long, value_name = "MODE", hide = true)]
    pub(crate) migration_on_error: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) migration_verify_handles: bool,
    #[arg(long, hide = true)]
    pub(crate) migration_confirm_paths: bool,
}

const LABEL: Choices<SecurityLabel> = &[
    ("never", SecurityLabel::Never),
    ("auto", SecurityLabel::Auto),
    ("always", SecurityLabel::Always),
];

/// Request queues when `--num-request-queues` is not given: more than the machine has CPUs gain a guest nothing. A front end
/// that uses fewer leaves the rest asleep.
pub(crate) fn default_queues() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cpus.min(DEFAULT_QUEUES_MAX)
}

fn queues(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=thrufs_session::REQUEST_QUEUES_MAX).contains(&count) => Ok(count),
        _ => Err(format!(
            "must be from 1 to {} queues",
            thrufs_session::REQUEST_QUEUES_MAX
        )),
    }
}
