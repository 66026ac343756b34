//! The process that outlives servers (`--survive`): shut in as they are, it owns the table of descriptors, starts a
//! server that shares it, and starts the next one when that dies.
//!
//! Invariant: it has one thread, reads no descriptor, and of the memory that it shares with servers nothing at all: a
//! server that was taken over can make it start another one, or end it, which ends the mount. A server that exits
//! by itself has served to the end, or has said why not, or hands over to another process ([`super::turn`]); one that is
//! ended by a signal has died.
//!
//! Why not the supervisor: that has the rights of the user who mounts, and its descriptors.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{Resource, getrlimit};
use thrufs_fs::{Ledger, Life, Turn};
use thrufs_session::shared_buffer_size;
use thrufs_sys::confine::close_numbers_but;
use thrufs_sys::fork::{OpenDescriptor, Side, fork_sharing_descriptors, open_descriptors};
use thrufs_sys::inherited::is_open;
use thrufs_sys::shared_buffers::SharedBuffers;

use super::link::{FromServer, Link};
use super::taken::Taken;
use crate::mount_plan::MountPlan;
use crate::sandbox;
use crate::sandbox::plan::SandboxPlan;

/// The numbers of this process's own descriptors are below this: it has less than 20.
const OWN_END: i32 = 1024;
/// Descriptors that are noted at most: beyond any limit that a machine has memory for.
const MOST_DESCRIPTORS: u64 = 1 << 26;
/// Exit code of a server that has stopped for another process to take over, and which another one follows here. A server
/// that was taken over can have others follow it so, as it could go on itself.
pub(crate) const HANDED_OVER: i32 = 75;
/// In which so many deaths are too many.
const WHILE: Duration = Duration::from_secs(60);

/// A server, as it begins.
pub(crate) struct Born {
    pub(crate) life: Life,
    /// What ended the one before, if that died.
    pub(crate) after: Option<Signal>,
    /// Servers of this process before.
    pub(crate) before: u64,
    /// Those of them that died.
    pub(crate) deaths: u64,
    /// For the first one, where it takes over.
    pub(crate) taken: Option<Taken>,
}

impl Born {
    /// Tells of the death of the one before.
    pub(crate) fn log(&self) {
        if let Some(signal) = self.after {
            tracing::warn!(
                "the serving process was ended by {signal}: another one goes on, after {} deaths",
                self.deaths
            );
        }
    }

    /// The next one follows one that was ended by `signal`, or handed over.
    fn comes_after(&mut self, signal: Option<Signal>) {
        self.before += 1;
        self.deaths += u64::from(signal.is_some());
        self.after = signal;
        self.life.is_later = true;
        self.life.died = signal.is_some();
        // What was killed from outside says nothing of what it served.
        self.life.crashed = signal.is_some_and(|signal| signal != Signal::SIGKILL);
    }
}

type Keep<'a> = &'a dyn Fn(&Ledger) -> anyhow::Result<Vec<i32>>;

/// What servers are started for.
pub(crate) struct Servers<'a> {
    pub(crate) sandbox: &'a SandboxPlan,
    /// More deaths a minute end it all.
    pub(crate) most: u32,
    /// How many messages that come once are read at a time, and how large their buffers are.
    pub(crate) messages: (usize, usize),
    /// In each server that follows another, first of all: the descriptors that stay open beside those that the ledger
    /// names.
    pub(crate) keep: Keep<'a>,
}

impl<'a> Servers<'a> {
    /// Those of a mount.
    pub(crate) fn of_mount(plan: &'a MountPlan, most: u32) -> Self {
        Self {
            sandbox: &plan.sandbox,
            most,
            // Some more, for threads that end while others begin.
            messages: (
                plan.session.threads + 8,
                shared_buffer_size(plan.config.max_write),
            ),
            keep: &|_all_is_in_the_ledger| Ok(Vec::new()),
        }
    }
}

/// Returns in each server, and never in this process. More than [`Servers::most`] deaths a minute end the mount, dead.
///
/// # Errors
/// In this process: there can be no server. In a server: it cannot begin.
pub(crate) fn start_servers(
    servers: &Servers<'_>,
    link: &Link,
    taken: Option<Taken>,
) -> anyhow::Result<Born> {
    let ledger = new_ledger(servers.messages, taken.as_ref())?;
    link.send(&FromServer::Shared, &ledger.files())?;
    let mut own = open_descriptors(OWN_END);
    // The first server closes those when it has read them.
    let of_taken = taken.as_ref().map(Taken::numbers).unwrap_or_default();
    own.retain(|open| !of_taken.contains(&open.0));
    let mut born = Born {
        life: Life {
            ledger: Arc::new(ledger),
            is_later: taken.is_some(),
            died: false,
            crashed: false,
            own: own.iter().map(|open| open.0).collect(),
            looked_at: Arc::from([]),
        },
        after: None,
        before: 0,
        deaths: 0,
        taken,
    };
    // Signals are the supervisor's matter.
    let mut before = SigSet::empty();
    nix::sys::signal::pthread_sigmask(
        nix::sys::signal::SigmaskHow::SIG_BLOCK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    sandbox::seal_zygote(servers.sandbox)?;
    let zygote = nix::unistd::getpid();
    let mut deaths = VecDeque::new();
    loop {
        match fork_sharing_descriptors().context("start the serving process")? {
            Side::Child => {
                if born.before > 0 {
                    // Their numbers may mean other files by now.
                    std::mem::forget(born.taken.take());
                }
                begin(&born, (&own, servers.keep), zygote)?;
                before.thread_set_mask()?;
                return Ok(born);
            }
            Side::Parent(server) => {
                let signal = wait_for_death(server, link);
                born.comes_after(signal);
                let Some(signal) = signal else { continue };
                deaths.push_back(Instant::now());
                while deaths.front().is_some_and(|death| death.elapsed() > WHILE) {
                    deaths.pop_front();
                }
                if deaths.len() > servers.most as usize {
                    let reason = anyhow!(
                        "the serving process was ended by {signal}, and {} died within a minute: more \
                         than --survive-deaths",
                        deaths.len()
                    );
                    end(link, &reason);
                }
            }
        }
    }
}

/// One with room for the descriptors that this process may have, and for messages of as many threads as there are, or
/// were in a server that this one takes over from.
fn new_ledger(
    (mut buffers, size): (usize, usize),
    taken: Option<&Taken>,
) -> anyhow::Result<Ledger> {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(MOST_DESCRIPTORS, |limit| limit.min(MOST_DESCRIPTORS));
    if let Some(taken) = taken {
        let len = rustix::fs::fstat(&taken.ledger[1])?.st_size;
        buffers = buffers.max(usize::try_from(len)? / size);
    }
    let messages = SharedBuffers::new(buffers, size).context("memory for messages")?;
    let ledger = Ledger::new(usize::try_from(limit)?, Arc::new(messages));
    let ledger = ledger.context("the ledger of --survive")?;
    if taken.is_some() {
        ledger.set_turn(Turn::TakingOver);
    }
    Ok(ledger)
}

/// In a server: it dies with the zygote, and closes what its predecessor had open for itself. One that was ending, upon an
/// unmount, when it died, may have closed what all share, and has ended.
fn begin(
    born: &Born,
    (own, keep): (&[OpenDescriptor], Keep<'_>),
    zygote: Pid,
) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("die with the zygote")?;
    if nix::unistd::getppid() != zygote {
        std::process::exit(1);
    }
    let now = open_descriptors(OWN_END);
    if !own.iter().all(|open| now.contains(open)) {
        std::process::exit(0);
    }
    let mut kept = match born.before {
        0 => Vec::new(),
        _later => keep(&born.life.ledger)?,
    };
    kept.extend(born.life.ledger.descriptors());
    kept.extend_from_slice(&born.life.own);
    kept.extend(born.taken.iter().flat_map(Taken::numbers));
    kept.sort_unstable();
    if kept.windows(2).any(|pair| pair[0] == pair[1]) {
        bail!("the ledger of the server that died is damaged: a descriptor is two things");
    }
    close_numbers_but(&kept).context("close what the serving process before had open")?;
    // Before this process opens anything: a number that is free now would be that of something else.
    if !kept.iter().all(|number| is_open(*number)) {
        bail!("the ledger of the server that died is damaged: a descriptor is closed");
    }
    sandbox::begin_server()
}

/// Returns what has ended it, none if it hands over; ends with a server that exits by itself.
fn wait_for_death(server: Pid, link: &Link) -> Option<Signal> {
    loop {
        match waitpid(server, None) {
            Ok(WaitStatus::Exited(_, HANDED_OVER)) => return None,
            Ok(WaitStatus::Exited(_, code)) => std::process::exit(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some(signal),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => end(
                link,
                &anyhow!(error).context("wait for the serving process"),
            ),
        }
    }
}

/// Ends the mount, dead.
fn end(link: &Link, reason: &anyhow::Error) -> ! {
    // A supervisor that is gone needs no reason.
    let _ = link.send(&FromServer::failed(reason), &[]);
    std::process::exit(1);
}
