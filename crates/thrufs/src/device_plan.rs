//! From the arguments of `thrufs device`, or of `virtiofsd`, to one validated [`DevicePlan`].
//!
//! Invariant: as for a mount ([`crate::mount_plan`]): a plan that exists can be carried out, as far as this
//! is known without touching the system. What cannot work in a virtual machine is an error that says so, and
//! what will not be as was asked for is a warning.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use thrufs_fs::{Config, Fault, InodeFileHandles, KernelPassthrough, SecurityLabel};
use thrufs_session::Tag;
use tracing::level_filters::LevelFilter;

use crate::logging::LogOptions;
use crate::mount_plan::{config, contradictions};
use crate::options::device::{DeviceArgs, VirtiofsdOptions, default_queues};
use crate::options::files::FileOptions;
use crate::options::old_virtiofsd;
use crate::options::process::Survive;
use crate::sandbox::capabilities::Needs;
use crate::sandbox::plan::{Sandbox, SandboxPlan};

/// Where the front end connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketPlan {
    /// A socket that is made at this path, for the user or this group.
    Path(PathBuf, Option<String>),
    /// A descriptor that was inherited.
    Fd(i32),
    /// The descriptor that systemd passes.
    Systemd,
}

/// One device, as asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DevicePlan {
    pub(crate) source: PathBuf,
    pub(crate) socket: SocketPlan,
    pub(crate) tag: Option<Tag>,
    pub(crate) request_queues: usize,
    pub(crate) keep: bool,
    /// How many deaths of its server within a minute it outlives; none for none at all.
    pub(crate) survive: Option<u32>,
    pub(crate) config: Config,
    /// For tests; empty otherwise.
    pub(crate) faults: Vec<Fault>,
    pub(crate) sandbox: SandboxPlan,
    /// Whether --inode-file-handles was given, rather than left to what is safe.
    pub(crate) wants_file_handles: bool,
    pub(crate) log: LogOptions,
    /// Where Prometheus is answered.
    pub(crate) metrics: Option<SocketAddr>,
    /// `None`: as much as the kernel allows. `Some(0)`: unchanged.
    pub(crate) rlimit_nofile: Option<u64>,
    /// What is not as was asked for, each with its reason.
    pub(crate) warnings: Vec<String>,
}

impl DevicePlan {
    /// As [`crate::mount_plan::MountPlan::with_safe_file_handles`].
    pub(crate) fn with_safe_file_handles(mut self, whole: impl FnOnce() -> bool) -> Self {
        let sandboxed = self.sandbox.candidates.first() != Some(&Sandbox::None);
        if sandboxed && !self.wants_file_handles && !whole() {
            self.config.inode_file_handles = InodeFileHandles::Never;
        }
        self
    }

    /// The privileges that the file system uses.
    pub(crate) fn needs(&self) -> Needs {
        Needs {
            file_handles: self.config.inode_file_handles != InodeFileHandles::Never,
            watch: false,
        }
    }
}

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    /// `--print-capabilities`.
    Capabilities,
    Device(Box<DevicePlan>),
}

/// Reads the arguments after `thrufs device` or `virtiofsd`, with those in `-o`.
///
/// # Errors
/// For clap to print: a question such as `--help` as well.
pub(crate) fn parse(
    program: &str,
    arguments: &[OsString],
    is_root: bool,
) -> Result<Asked, clap::Error> {
    let whole_line = |from_o: &[String]| -> Result<DeviceArgs, clap::Error> {
        let line = std::iter::once(program.into())
            .chain(from_o.iter().map(OsString::from))
            .chain(arguments.iter().cloned());
        let matches = DeviceArgs::command().try_get_matches_from(line)?;
        DeviceArgs::from_arg_matches(&matches)
            .map_err(|error| error.format(&mut DeviceArgs::command()))
    };
    let typed = whole_line(&[])?;
    let from_o = old_virtiofsd::translate(&typed.old_options).map_err(|text| usage(&text))?;
    let args = whole_line(&from_o)?;
    if args.process.print_capabilities {
        return Ok(Asked::Capabilities);
    }
    let plan = build(args, is_root).map_err(|text| usage(&text))?;
    Ok(Asked::Device(Box::new(plan)))
}

/// An error that clap prints, and exits for, like its own.
fn usage(message: &str) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{message}\n"))
}

fn build(args: DeviceArgs, is_root: bool) -> Result<DevicePlan, String> {
    check_files(&args.files)?;
    check_virtiofsd(&args.virtiofsd)?;
    contradictions::check(&args.files, is_root)?;
    args.mapping.check(&args.files)?;
    let config = config(&args.files, &args.mapping)?;
    let mut config = Config {
        takes_notifications: false,
        survive: false,
        xattr: config.xattr || args.virtiofsd.security_label != SecurityLabel::Never,
        security_label: args.virtiofsd.security_label,
        announce_submounts: !args.virtiofsd.no_announce_submounts,
        ..config
    };
    let survive = match args.process.survive {
        Survive::Always => Some(args.process.survive_deaths),
        Survive::Never => None,
    };
    let mut sandbox = args.sandbox.clone().plan(is_root, false, false)?;
    if survive.is_some() {
        sandbox.restarts = true;
        contradictions::check_surviving(&args.files, &sandbox)?;
        config.inode_file_handles = InodeFileHandles::Never;
    }
    let warnings = warnings(&args, is_root);
    let source = args
        .shared_dir
        .ok_or("no directory to serve: use --shared-dir=DIR")?;
    let socket = match (args.socket_path, args.fd) {
        (Some(path), _) => SocketPlan::Path(path, args.socket_group),
        (None, Some(fd)) => SocketPlan::Fd(fd),
        (None, None) => SocketPlan::Systemd,
    };
    let level = match args.process.debug {
        true => LevelFilter::DEBUG,
        false => args.process.log_level,
    };
    Ok(DevicePlan {
        source,
        socket,
        tag: args.tag,
        request_queues: args.num_request_queues.unwrap_or_else(default_queues),
        keep: args.keep,
        survive,
        config,
        faults: args.files.fault,
        sandbox,
        wants_file_handles: args.files.inode_file_handles.is_some(),
        log: LogOptions {
            level,
            syslog: args.process.syslog,
        },
        metrics: args.process.metrics,
        rlimit_nofile: args.process.rlimit_nofile,
        warnings,
    })
}

/// What needs notifications, or the host's kernel as the client.
fn check_files(files: &FileOptions) -> Result<(), String> {
    let refused = [
        (
            files.watch,
            "--watch",
            "a guest takes no notifications: use --cache=auto or shorter timeouts",
        ),
        (
            files
                .passthrough
                .is_some_and(|how| how != KernelPassthrough::Never),
            "--passthrough",
            "a guest cannot reach the backing file past the device: leave it out",
        ),
        (
            files.max_inodes.is_some(),
            "--max-inodes",
            "a guest cannot be told to forget: use --inode-file-handles, or raise --rlimit-nofile",
        ),
        (
            files.request_timeout.is_some(),
            "--request-timeout",
            "it is a setting of the guest's kernel: set fs.fuse.default_request_timeout there",
        ),
        (
            files.raise_max_pages_limit,
            "--raise-max-pages-limit",
            "it is a setting of the guest's kernel: set fs.fuse.max_pages_limit there",
        ),
    ];
    match refused.iter().find(|(is_given, ..)| *is_given) {
        Some((_, option, why)) => Err(format!("{option} cannot work for a device: {why}")),
        None => Ok(()),
    }
}

fn check_virtiofsd(options: &VirtiofsdOptions) -> Result<(), String> {
    if options.migration_mode.is_some()
        || options.migration_on_error.is_some()
        || options.migration_verify_handles
        || options.migration_confirm_paths
    {
        return Err(
            "--migration-...: migration of the device's state is not implemented: leave it out"
                .to_owned(),
        );
    }
    Ok(())
}

/// What is accepted, and will not be as was asked for.
fn warnings(args: &DeviceArgs, is_root: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if !is_root && args.sandbox.uid_map.is_none() {
        warnings.push(
            "not started as root: files that the guest makes belong to the user of this process, \
             whichever guest user makes them"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests;
