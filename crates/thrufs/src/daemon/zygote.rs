//! The process that outlives servers (`--survive`): shut in as they are, it owns the table of descriptors, starts a
//! server that shares it, and starts the next one when that dies.
//!
//! Invariant: it has one thread, reads no descriptor, and of the memory that it shares with servers nothing at all: a
//! server that was taken over can make it start another one, or end it, which ends the mount. A server that exits
//! by itself has served to the end, or has said why not; one that is ended by a signal has died.
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
use thrufs_fs::{Ledger, Life};
use thrufs_session::shared_buffer_size;
use thrufs_sys::confine::close_numbers_but;
use thrufs_sys::fork::{OpenDescriptor, Side, fork_sharing_descriptors, open_descriptors};
use thrufs_sys::inherited::is_open;
use thrufs_sys::shared_buffers::SharedBuffers;

use super::link::{FromServer, Link};
use crate::mount_plan::MountPlan;
use crate::sandbox;

/// The numbers of this process's own descriptors are below this: it has less than 20.
const OWN_END: i32 = 1024;
/// Descriptors that are noted at most: beyond any limit that a machine has memory for.
const MOST_DESCRIPTORS: u64 = 1 << 26;
/// In which so many deaths are too many.
const WHILE: Duration = Duration::from_secs(60);

/// A server, as it begins.
pub(super) struct Born {
    pub(super) life: Life,
    /// What ended the one before.
    pub(super) after: Option<Signal>,
}

/// Returns in each server, and never in this process. More than `most` deaths a minute end the mount, dead.
///
/// # Errors
/// In this process: there can be no server. In a server: it cannot begin.
pub(super) fn start_servers(plan: &MountPlan, most: u32, link: &Link) -> anyhow::Result<Born> {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(MOST_DESCRIPTORS, |limit| limit.min(MOST_DESCRIPTORS));
    // Some more, for threads that end while others begin.
    let buffers = plan.session.threads + 8;
    let messages = SharedBuffers::new(buffers, shared_buffer_size(plan.config.max_write));
    let messages = messages.context("memory for messages")?;
    let ledger = Ledger::new(usize::try_from(limit)?, Arc::new(messages));
    let ledger = ledger.context("the ledger of --survive")?;
    let own = open_descriptors(OWN_END);
    let mut born = Born {
        life: Life {
            ledger: Arc::new(ledger),
            deaths: 0,
            crashed: false,
            own: own.iter().map(|open| open.0).collect(),
        },
        after: None,
    };
    // Signals are the supervisor's matter.
    let mut before = SigSet::empty();
    nix::sys::signal::pthread_sigmask(
        nix::sys::signal::SigmaskHow::SIG_BLOCK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    sandbox::seal_zygote(&plan.sandbox)?;
    let zygote = nix::unistd::getpid();
    let mut deaths = VecDeque::new();
    loop {
        match fork_sharing_descriptors().context("start the serving process")? {
            Side::Child => {
                begin(&born.life, &own, zygote)?;
                before.thread_set_mask()?;
                return Ok(born);
            }
            Side::Parent(server) => {
                let signal = wait_for_death(server, link);
                deaths.push_back(Instant::now());
                while deaths.front().is_some_and(|death| death.elapsed() > WHILE) {
                    deaths.pop_front();
                }
                if deaths.len() > most as usize {
                    let reason = anyhow!(
                        "the serving process was ended by {signal}, and {} died within a minute: more \
                         than --survive-deaths",
                        deaths.len()
                    );
                    end(link, &reason);
                }
                born.life.deaths += 1;
                // What was killed from outside says nothing of what it served.
                born.life.crashed = signal != Signal::SIGKILL;
                born.after = Some(signal);
            }
        }
    }
}

/// In a server: it dies with the zygote, and closes what its predecessor had open for itself. One that was ending, upon an
/// unmount, when it died, may have closed what all share, and has ended.
fn begin(life: &Life, own: &[OpenDescriptor], zygote: Pid) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("die with the zygote")?;
    if nix::unistd::getppid() != zygote {
        std::process::exit(1);
    }
    let now = open_descriptors(OWN_END);
    if !own.iter().all(|open| now.contains(open)) {
        std::process::exit(0);
    }
    let mut kept = life.ledger.descriptors();
    kept.extend_from_slice(&life.own);
    close_numbers_but(&kept).context("close what the serving process before had open")?;
    // Before this process opens anything: a number that is free now would be that of something else.
    if !kept.iter().all(|number| is_open(*number)) {
        bail!("the ledger of the server that died is damaged: a descriptor is closed");
    }
    sandbox::begin_server()
}

/// Returns what has ended it; ends with a server that exits by itself.
fn wait_for_death(server: Pid, link: &Link) -> Signal {
    loop {
        match waitpid(server, None) {
            Ok(WaitStatus::Exited(_, code)) => std::process::exit(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return signal,
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
