//! What there is of a server that serves a mount, or is to take it over ([`super::succession`]), for the supervisor.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Instant;

use anyhow::Context;
use nix::unistd::Pid;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::control::Outcome;
use super::link::{Link, Serve};
use super::server::{Ending, Server, ServerEvent};
use super::source_state::SourceView;
use super::stuck;
use crate::logging::{Lines, LogOptions};
use crate::mount::detach::OwnedMount;
use crate::mount_plan::MountPlan;

/// What servers say, with the number of the server among those that served.
pub(super) type Told = (u64, ServerEvent);

/// What the daemon has of the mount, for each server.
pub(super) struct Mounted {
    pub(super) source: OwnedFd,
    pub(super) below: Option<PathBuf>,
    pub(super) serve: Serve,
    pub(super) connection: OwnedFd,
    pub(super) ours: OwnedMount,
    pub(super) status: Option<StdUnixListener>,
    pub(super) metrics: Option<std::net::TcpListener>,
}

/// What servers are listened to with.
pub(super) struct Listening {
    pub(super) lines: Lines,
    pub(super) log: LogOptions,
    pub(super) view: SourceView,
    /// Whose mount namespace has the copies of SOURCE's mounts.
    pub(super) zygote: Arc<AtomicI32>,
    pub(super) tell: UnboundedSender<Told>,
}

/// A server that was started.
pub(super) struct Standing {
    pub(super) pid: Pid,
    pub(super) link: Arc<Link>,
    pub(super) ending: Ending,
    /// What the next one takes over; from its zygote.
    pub(super) shared: Option<[OwnedFd; 2]>,
    /// While it serves.
    pub(super) freeing: JoinSet<()>,
}

/// How far a server is that is to take over.
pub(super) enum Stage {
    /// It is being shut in.
    Starting,
    /// It is to say whether it can, since then.
    Preparing(Instant),
    /// The former one stops, and its descriptors come.
    TakingOver(Instant),
    /// It serves next; requests have waited since then.
    Going(Instant),
}

/// A server that is to take over, and for whom.
pub(super) struct Next {
    pub(super) number: u64,
    pub(super) stage: Stage,
    /// None while it is being shut in.
    pub(super) standing: Option<Standing>,
    /// The former one sends here while it serves, from when the next one is there.
    pub(super) ahead: Option<OwnedFd>,
    /// The one after that sends here, when it has been told.
    pub(super) sends: Option<OwnedFd>,
    pub(super) plan: MountPlan,
    pub(super) binary: std::fs::File,
    pub(super) version: String,
    pub(super) what: &'static str,
    pub(super) failure: Option<String>,
    pub(super) outcome: Outcome,
}

impl Mounted {
    /// Ends the connection when that server is dead and not gone.
    pub(super) fn free_when_stuck(&self, server: Pid) -> anyhow::Result<JoinSet<()>> {
        let connection = self.connection.try_clone();
        let connection = connection.context("duplicate the FUSE descriptor")?;
        Ok(stuck::free(server, self.ours.clone(), connection))
    }
}

impl Standing {
    /// One that was started, and does not serve yet.
    pub(super) fn new(server: &Server) -> anyhow::Result<Self> {
        Ok(Self {
            pid: server.pid,
            link: server.link(),
            ending: server.ending()?,
            shared: None,
            freeing: JoinSet::new(),
        })
    }

    /// Its zygote has told what servers leave to each other. Once, before it has started any that reads requests: what
    /// comes later is a server's.
    pub(super) fn has_shared(&mut self, files: Vec<OwnedFd>) {
        if self.shared.is_none() {
            self.shared = files.try_into().ok();
        }
    }
}
