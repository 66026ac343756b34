//! From the arguments to one validated [`MountPlan`].
//!
//! Invariant: a plan that exists can be carried out, as far as this is known without touching the system;
//! contradictions between options are found here and nowhere else. An option that is not honoured in full,
//! and is no error, has a warning in the plan.

pub(crate) mod contradictions;
mod kernel_passthrough;
pub(crate) mod settable;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::error::{ContextKind, ErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use nix::mount::MsFlags;
use thrufs_fs::{
    Config, Durability, Fault, InodeFileHandles, KernelPassthrough, PosixAcl, SecurityLabel,
};
use tracing::level_filters::LevelFilter;

use crate::logging::LogOptions;
use crate::mount::options::{Access, MountOptions};
use crate::options::MountArgs;
use crate::options::files::FileOptions;
use crate::options::mapping::MappingOptions;
use crate::options::option_list::OptionList;
use crate::options::process::{
    DEFAULT_THREADS, DEFAULT_THREADS_DSYNC, ProcessOptions, Survive, Transport,
};
use crate::options::virtiofsd::virtiofsd_hint;
use crate::sandbox::capabilities::Needs;
use crate::sandbox::plan::{Sandbox, SandboxPlan};

/// How the session is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SessionOptions {
    pub(crate) threads: usize,
    pub(crate) clone_fd: bool,
    pub(crate) transport: Transport,
    pub(crate) access: Access,
}

/// What was asked for in words: by it another version makes a plan of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    pub(crate) program: String,
    pub(crate) arguments: Vec<OsString>,
    /// As `KEY=VALUE`, of [`settable::KEYS`]; the last one of a key counts.
    pub(crate) set: Vec<String>,
}

impl CommandLine {
    /// The arguments with what was set, which wins.
    fn whole(&self) -> Vec<OsString> {
        let mut all = self.arguments.clone();
        let end = all.iter().position(|argument| argument == "--");
        let set = self
            .set
            .iter()
            .map(|item| OsString::from(format!("--{item}")));
        let at = end.unwrap_or(all.len());
        all.splice(at..at, set);
        all
    }
}

/// One mount, as asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MountPlan {
    pub(crate) line: CommandLine,
    pub(crate) source: PathBuf,
    pub(crate) mountpoint: PathBuf,
    pub(crate) config: Config,
    /// Why no file is passed through; none where files are.
    pub(crate) no_passthrough: Option<String>,
    /// For tests; empty otherwise.
    pub(crate) faults: Vec<Fault>,
    pub(crate) kernel: MountOptions,
    pub(crate) session: SessionOptions,
    pub(crate) log: LogOptions,
    pub(crate) sandbox: SandboxPlan,
    /// Whether --inode-file-handles was given, rather than left to what is safe.
    pub(crate) wants_file_handles: bool,
    /// Raise fs.fuse.max_pages_limit to what `config.max_write` needs.
    pub(crate) raise_max_pages_limit: bool,
    /// How far the kernel reads ahead, in bytes; none: as far as it does.
    pub(crate) read_ahead: Option<u32>,
    /// Seconds after which the kernel gives the daemon up.
    pub(crate) request_timeout: Option<u16>,
    /// Unmount a dead mount of ours at `mountpoint` first.
    pub(crate) replace_dead: bool,
    /// Mount over what is mounted at `mountpoint`.
    pub(crate) nonempty: bool,
    /// Tell the kernel of what others change under `source`.
    pub(crate) watch: bool,
    pub(crate) foreground: bool,
    /// The mount outlives servers, of which at most so many may die in a minute.
    pub(crate) survive: Option<u32>,
    /// Where `--metrics` are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// `None`: as much as the kernel allows. `Some(0)`: unchanged.
    pub(crate) rlimit_nofile: Option<u64>,
    /// What is not as was asked for, each with its reason.
    pub(crate) warnings: Vec<String>,
}

impl MountPlan {
    /// Without file handles where they were not asked for, a sandbox was, and SOURCE is not
    /// `whole`: a process that may open handles may open any file of the file system.
    pub(crate) fn with_safe_file_handles(mut self, whole: impl FnOnce() -> bool) -> Self {
        let sandboxed = self.sandbox.candidates.first() != Some(&Sandbox::None);
        if sandboxed && !self.wants_file_handles && !whole() {
            self.config.inode_file_handles = InodeFileHandles::Never;
        }
        self
    }

    /// The seconds for which the sysctl is changed: what fuser cannot ask for by INIT.
    pub(crate) fn sysctl_timeout(&self) -> Option<u16> {
        match self.session.transport {
            Transport::Fuser => self.request_timeout,
            Transport::Device => None,
        }
    }

    /// The max_write in bytes for which fs.fuse.max_pages_limit is raised.
    pub(crate) fn raise_for(&self) -> Option<u32> {
        self.raise_max_pages_limit.then_some(self.config.max_write)
    }

    /// The privileges that the file system uses.
    pub(crate) fn needs(&self) -> Needs {
        Needs {
            file_handles: self.config.inode_file_handles != InodeFileHandles::Never,
            watch: self.watch,
        }
    }
}

/// Reads the arguments after `thrufs mount` (or `mount.thrufs`), with those in `-o`.
pub(crate) fn parse(
    program: &str,
    arguments: &[OsString],
    is_root: bool,
) -> Result<MountPlan, clap::Error> {
    let line = CommandLine {
        program: program.to_owned(),
        arguments: arguments.to_vec(),
        set: Vec::new(),
    };
    parse_line(line, is_root)
}

/// The plan of a mount that there is, with what was set.
///
/// # Errors
/// A key that cannot be set, or a value that is none of it.
pub(crate) fn parse_again(line: &CommandLine, is_root: bool) -> anyhow::Result<MountPlan> {
    for item in &line.set {
        settable::check(item)?;
    }
    // One line, without what clap adds for a terminal.
    let one_line = |error: clap::Error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        anyhow!("{}", first.trim_start_matches("error: "))
    };
    parse_line(line.clone(), is_root).map_err(one_line)
}

fn parse_line(line: CommandLine, is_root: bool) -> Result<MountPlan, clap::Error> {
    let (matches, options) = matches(&line.program, &line.whole())?;
    let args = read(&matches)?;
    let plan = build(args, options, is_root).map_err(|message| usage_error(&message))?;
    Ok(MountPlan { line, ..plan })
}

/// What the arguments are for clap.
///
/// `-o` items become long options in front of the typed ones, so clap checks both alike, and the
/// typed ones win.
pub(crate) fn matches(
    program: &str,
    arguments: &[OsString],
) -> Result<(ArgMatches, OptionList), clap::Error> {
    let whole_line = |from_o: &[String]| {
        let from_o = from_o.iter().map(OsString::from);
        let line = std::iter::once(program.into())
            .chain(from_o)
            .chain(arguments.iter().cloned());
        let matches = MountArgs::command().try_get_matches_from(line);
        matches.map_err(with_virtiofsd_hint)
    };
    let typed = read(&whole_line(&[])?)?;
    let options = OptionList::parse(&typed.mount_options, typed.helper.sloppy)
        .map_err(|error| usage_error(&error.to_string()))?;
    Ok((whole_line(&options.arguments)?, options))
}

fn read(matches: &ArgMatches) -> Result<MountArgs, clap::Error> {
    MountArgs::from_arg_matches(matches).map_err(|error| error.format(&mut MountArgs::command()))
}

/// Says what thrufs has in the place of an option of virtiofsd's.
fn with_virtiofsd_hint(error: clap::Error) -> clap::Error {
    let argument = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(argument)) => argument.to_string(),
        _other => return error,
    };
    match virtiofsd_hint(&argument) {
        Some(hint) => usage_error(&format!("'{argument}' is virtiofsd's: {hint}")),
        None => error,
    }
}

/// An error that clap prints, and exits for, like its own.
fn usage_error(message: &str) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{message}\n"))
}

/// What INIT asks for depends on who mounts, and by which transport. Returns why no file is passed through.
fn ask_of_kernel(args: &MountArgs, is_root: bool, config: &mut Config) -> Option<String> {
    config.request_timeout = match args.process.transport {
        Transport::Fuser => None,
        Transport::Device => args.files.request_timeout,
    };
    config.idmap = args.mount.idmap;
    if survives(&args.process) {
        config.survive = true;
        config.inode_file_handles = InodeFileHandles::Never;
    }
    let no_passthrough = kernel_passthrough::why_not(&args.files, is_root);
    config.passthrough = match no_passthrough {
        None => args.files.passthrough.unwrap_or(KernelPassthrough::Auto),
        Some(_) => KernelPassthrough::Never,
    };
    no_passthrough
}

fn build(args: MountArgs, mut options: OptionList, is_root: bool) -> Result<MountPlan, String> {
    set_flags(&args, &mut options)?;
    contradictions::check(&args.files, is_root)?;
    contradictions::check_process(&args.process, (&args.mount, &args.files), is_root)?;
    args.mapping.check(&args.files)?;
    let mut config = config(&args.files, &args.mapping)?;
    let no_passthrough = ask_of_kernel(&args, is_root, &mut config);
    let warnings = warnings(&args, &options, is_root);
    let threads = session_threads(&args);
    let access = if args.mount.allow_root {
        Access::OwnerAndRoot
    } else if args.mount.allow_other || is_root {
        Access::AllUsers
    } else {
        Access::Owner
    };
    let sandbox = sandbox(&args, is_root)?;
    let fsname = match args.mount.fsname {
        Some(name) => OsString::from(name),
        None => absolute(&args.source).into_os_string(),
    };
    Ok(MountPlan {
        line: CommandLine::default(),
        config,
        no_passthrough,
        sandbox,
        wants_file_handles: args.files.inode_file_handles.is_some(),
        faults: args.files.fault,
        kernel: MountOptions {
            flags: options.flags_over(MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
            fsname,
            subtype: args.mount.subtype,
            max_read: args.mount.max_read,
            access,
        },
        session: SessionOptions {
            threads,
            clone_fd: args.process.clone_fd,
            transport: args.process.transport,
            access,
        },
        log: log_options(&args.process),
        raise_max_pages_limit: args.files.raise_max_pages_limit,
        read_ahead: args.mount.read_ahead,
        request_timeout: args.files.request_timeout,
        replace_dead: args.mount.replace_dead,
        nonempty: args.mount.nonempty,
        watch: args.files.watch,
        foreground: args.process.foreground || args.process.debug,
        survive: survives(&args.process).then_some(args.process.survive_deaths),
        metrics: args.process.metrics,
        rlimit_nofile: args.process.rlimit_nofile,
        warnings,
        source: args.source,
        mountpoint: args.mountpoint,
    })
}

/// Where the server is shut in, and whether others follow it.
fn sandbox(args: &MountArgs, is_root: bool) -> Result<SandboxPlan, String> {
    let (allow_root, clone_fd) = (args.mount.allow_root, args.process.clone_fd);
    let mut sandbox = args.sandbox.clone().plan(is_root, allow_root, clone_fd)?;
    sandbox.restarts = survives(&args.process);
    contradictions::check_survival(&args.process, &args.files, &sandbox)?;
    Ok(sandbox)
}

/// What `-r`, `-w` and `--readonly` say of the mount's flags.
fn set_flags(args: &MountArgs, options: &mut OptionList) -> Result<(), String> {
    if args.helper.read_only {
        options.set_flag(MsFlags::MS_RDONLY, true);
    }
    if args.helper.read_write {
        options.set_flag(MsFlags::MS_RDONLY, false);
    }
    if args.files.readonly {
        if options.mentioned.contains(MsFlags::MS_RDONLY)
            && !options.flags.contains(MsFlags::MS_RDONLY)
        {
            return Err("--readonly and rw contradict each other: leave one out".to_owned());
        }
        options.set_flag(MsFlags::MS_RDONLY, true);
    }
    Ok(())
}

/// What is accepted, and will not be as was asked for.
fn warnings(args: &MountArgs, options: &OptionList, is_root: bool) -> Vec<String> {
    let mut warnings: Vec<String> = options
        .ignored
        .iter()
        .map(|error| format!("{error}; ignored (-s)"))
        .collect();
    if !is_root {
        let lost = options.not_for_users().into_iter();
        warnings
            .extend(lost.map(|name| format!("-o {name} is ignored: only root can mount with it")));
    }
    if is_root && args.process.clone_fd && args.sandbox.sandbox.is_none() {
        warnings.push(
            "--clone-fd: the serving process is not shut in: say --sandbox=none if that is wanted, \
             or leave --clone-fd out"
                .to_owned(),
        );
    }
    let log = log_options(&args.process);
    let is_foreground = args.process.foreground || args.process.debug;
    if log.level > LevelFilter::INFO && !log.syslog && !is_foreground {
        warnings.push(format!(
            "--log-level={}: log lines go nowhere once the daemon is in the background: use -f or \
             --syslog",
            log.level
        ));
    }
    warnings
}

fn log_options(process: &ProcessOptions) -> LogOptions {
    LogOptions {
        level: if process.debug {
            LevelFilter::DEBUG
        } else {
            process.log_level
        },
        syslog: process.syslog,
    }
}

/// Whether the mount outlives its server.
fn survives(process: &ProcessOptions) -> bool {
    match process.survive {
        Survive::Always => true,
        Survive::Never => false,
    }
}

/// Their number, by default according to --durability.
fn session_threads(args: &MountArgs) -> usize {
    let by_durability = match args.files.durability {
        Durability::Fsync => DEFAULT_THREADS,
        Durability::Dsync => DEFAULT_THREADS_DSYNC,
    };
    args.process.thread_pool_size.unwrap_or(by_durability)
}

/// What the file system is asked to do.
pub(crate) fn config(files: &FileOptions, mapping: &MappingOptions) -> Result<Config, String> {
    let mut timeouts = files.cache.timeouts();
    timeouts.attr = files.attr_timeout.unwrap_or(timeouts.attr);
    timeouts.negative = files.negative_timeout.unwrap_or(timeouts.negative);
    timeouts.entry = files.entry_timeout.unwrap_or(timeouts.entry);
    timeouts.dir = files
        .dir_timeout
        .or(files.entry_timeout)
        .unwrap_or(timeouts.dir);
    Ok(Config {
        cache: files.cache,
        timeouts,
        xattr: files.xattr || files.posix_acl != PosixAcl::Never || mapping.xattrmap.is_some(),
        xattr_map: mapping.xattrmap.clone(),
        ids: mapping.ids()?,
        idmap: false,
        posix_acl: files.posix_acl,
        security_label: SecurityLabel::Never,
        announce_submounts: false,
        readonly: files.readonly,
        readdirplus: !files.no_readdirplus,
        allow_direct_io: files.allow_direct_io,
        allow_mmap: files.allow_mmap,
        inode_file_handles: files.inode_file_handles.unwrap_or_default(),
        max_inodes: files.max_inodes,
        locks: files.locks,
        passthrough: KernelPassthrough::Never,
        writeback: files.writeback,
        durability: files.durability,
        write_joining: files.write_joining,
        max_write: if files.one_page_writes {
            4096
        } else {
            files.max_write
        },
        takes_notifications: true,
        survive: false,
        request_timeout: None,
        without: files.without.clone(),
    })
}

/// A relative SOURCE is meaningless in the mount table; an absolute one is shown exactly as typed, because
/// programs look for it.
fn absolute(source: &Path) -> PathBuf {
    if source.is_absolute() {
        return source.to_owned();
    }
    source.canonicalize().unwrap_or_else(|_| source.to_owned())
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
