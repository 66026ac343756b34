//! How far the process that serves is shut in, so that whoever takes it over finds SOURCE and
//! nothing else.
//!
//! Invariant: it is complete before the process reads its first request, and nothing of it can be
//! undone from inside. What has to happen outside (mounting, unmounting, the files in the runtime
//! directory, looking at callers in /proc) is done by the process that started it
//! ([`crate::supervisor`]), over a few fixed questions.
//!
//! The order is bound: namespaces while there are capabilities, descriptors closed when the last
//! path was opened, capabilities dropped when the last mount was made, the filter at the very end.

mod breakout;
mod filter;
mod namespace;
mod privileges;
mod syscalls;

use std::fmt;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use anyhow::Context;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::CapabilitySet;
use thrufs_fs::{Callers, HeldProc};

pub(crate) use breakout::BreakOut;
pub(crate) use filter::Seccomp;
pub(crate) use namespace::{IdRange, enter as enter_namespaces, map_ids};
pub(crate) use privileges::ModCaps;

/// Where the serving process is shut in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// Mount, pid, network and IPC namespaces of its own, and SOURCE as root.
    Namespace,
    /// SOURCE as root.
    Chroot,
    /// Nowhere.
    None,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "namespace",
            Self::Chroot => "chroot",
            Self::None => "none",
        })
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Confinement {
    /// To be tried in this order; a single one is had or it is an error.
    pub(crate) candidates: &'static [Sandbox],
    pub(crate) seccomp: Seccomp,
    pub(crate) modcaps: ModCaps,
    pub(crate) uid_map: Option<IdRange>,
    pub(crate) gid_map: Option<IdRange>,
    /// For tests: try to get out, in place of serving.
    pub(crate) break_out: Option<BreakOut>,
}

impl Confinement {
    /// Whether a second process is needed, to do what a confined one cannot.
    pub(crate) fn splits(&self) -> bool {
        self.candidates != [Sandbox::None]
            || self.seccomp != Seccomp::None
            || self.modcaps != ModCaps::default()
    }

    /// Whether the namespaces include one of users.
    pub(crate) fn has_user_namespace(&self) -> bool {
        self.uid_map.is_some() || self.gid_map.is_some() || !crate::attach::is_root()
    }
}

/// What the file system needs of the privileges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// open_by_handle_at(2).
    pub(crate) file_handles: bool,
    /// FUSE_DEV_IOC_BACKING_OPEN.
    pub(crate) kernel_passthrough: bool,
    /// fanotify_init(2), and the handles in its events.
    pub(crate) watch: bool,
}

impl Needs {
    /// What goes again before the first request is read.
    fn for_the_start(self) -> CapabilitySet {
        match self.watch {
            true => CapabilitySet::SYS_ADMIN,
            false => CapabilitySet::empty(),
        }
    }
}

/// What a confined process is made with, beside the request.
pub(crate) struct Inside {
    pub(crate) sandbox: Sandbox,
    /// SOURCE, as O_PATH, from outside; also the current directory.
    pub(crate) source: OwnedFd,
    /// Becomes standard error.
    pub(crate) log: OwnedFd,
    pub(crate) callers: Box<dyn Callers>,
    pub(crate) needs: Needs,
}

/// Shuts this process in, but for the filter. Returns SOURCE, as O_PATH, from inside.
pub(crate) fn enter(confinement: &Confinement, inside: Inside) -> anyhow::Result<OwnedFd> {
    // A terminal that closes, or a key pressed there, is the supervisor's matter.
    rustix::process::setsid().context("start a session")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&inside.log)?;
    drop((null, inside.log));
    let held = match namespace::take_proc_along(inside.sandbox)? {
        Some(self_fd) => Some(HeldProc::open(self_fd, inside.callers)?),
        None => None,
    };
    let source = match inside.sandbox {
        Sandbox::Namespace => namespace::pivot_into(inside.source)?,
        Sandbox::Chroot => namespace::chroot_into(inside.source)?,
        Sandbox::None => inside.source,
    };
    if let Some(held) = held {
        held.hold().context("hold on to /proc/self/fd")?;
    }
    if inside.sandbox == Sandbox::Namespace && confinement.has_map() {
        namespace::become_first_user(confinement)?;
    }
    let kept = confinement.capabilities(inside.sandbox, inside.needs);
    privileges::drop_all_but(kept, inside.needs.for_the_start())?;
    Ok(source)
}

/// The last step, while there is one thread, and after SOURCE is watched.
pub(crate) fn seal(
    confinement: &Confinement,
    sandbox: Sandbox,
    needs: Needs,
) -> anyhow::Result<()> {
    privileges::reduce_to(confinement.capabilities(sandbox, needs))?;
    for name in confinement.modcaps.missing()? {
        tracing::warn!("--modcaps=+{name}: the daemon was started without it, and has it not");
    }
    filter::apply(confinement.seccomp)
}

impl Confinement {
    /// Whether ids of the user namespace are mapped from outside.
    pub(crate) fn has_map(&self) -> bool {
        self.uid_map.is_some() || self.gid_map.is_some()
    }

    fn capabilities(&self, sandbox: Sandbox, needs: Needs) -> CapabilitySet {
        let alone = sandbox == Sandbox::Namespace && self.has_user_namespace() && !self.has_map();
        privileges::kept(&self.modcaps, needs, alone)
    }
}

/// SOURCE from inside, once it is the root.
fn open_root() -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/", flags, Mode::empty()).context("open SOURCE from inside")
}

/// A number in a list of numbers, or what is wrong with it.
fn number(field: &str) -> Result<u32, String> {
    u32::from_str(field).map_err(|_| format!("'{field}' is not a number from 0 to 4294967295"))
}
