//! Going to the background, and returning to the shell only when the mount answers.
//!
//! Invariant: the process that the user started returns 0 only after the mount has answered it, and
//! leaves nothing mounted when it returns anything else. The child reports over a pipe: one byte
//! when it is ready, or the reason why not; a pipe that ends without either is a death.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal};
use thrufs_sys::fork::Side;
use thrufs_sys::mountinfo::Place;
use tracing::level_filters::LevelFilter;

use crate::control;
use crate::places::Places;
use crate::request::{LogRequest, MountRequest};
use crate::teardown::wait_for_answer;

/// How long opening SOURCE, mounting and INIT may take together.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long the first question to the mount may take.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How long a child whose start failed may take to unmount before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

const READY: u8 = b'R';
const FAILED: u8 = b'E';

/// How the daemon tells that it serves.
#[derive(Debug)]
pub(crate) enum Readiness {
    /// In the foreground: the log has told. INIT is answered, so the mount serves; no question is
    /// put to it from here, since a process that is killed while it asks itself cannot end: the
    /// thread that asks waits for the connection to go, and holds it by its descriptors.
    Foreground,
    /// In the background: tell the parent, which checks; then let go of the terminal.
    Background(File),
    /// It has been told.
    Announced,
}

impl Readiness {
    /// Tells it, once.
    pub(crate) fn announce(&mut self) -> anyhow::Result<()> {
        match std::mem::replace(self, Self::Announced) {
            Self::Background(mut pipe) => {
                pipe.write_all(&[READY])
                    .context("the program that started the mount is gone")?;
                leave_the_terminal()
            }
            Self::Foreground | Self::Announced => Ok(()),
        }
    }

    /// Tells why it will not come. Only a parent that waits is told here; else the error goes the
    /// way of every error of the daemon.
    fn fail(self, error: &anyhow::Error) {
        if let Self::Background(mut pipe) = self {
            // A parent that is gone cannot be told, and nobody else waits.
            let _ = pipe
                .write_all(&[FAILED])
                .and_then(|()| write!(pipe, "{error:#}"));
        } else {
            tracing::error!("{error:#}");
        }
    }
}

fn leave_the_terminal() -> anyhow::Result<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Starts the daemon in a child and returns when the mount answers.
pub(crate) fn start(places: Places, request: &MountRequest) -> anyhow::Result<()> {
    let (report, pipe) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("pipe to the daemon")?;
    let mountpoint = places.mountpoint.clone();
    let before = Place::open(&mountpoint)?.mount_id()?;
    match thrufs_sys::fork::fork().context("start the daemon")? {
        Side::Child => {
            drop(report);
            let result = daemon(places, request, Readiness::Background(File::from(pipe)));
            std::process::exit(i32::from(result.is_err()));
        }
        Side::Parent(child) => {
            drop(pipe);
            // The source stays held by the child alone.
            drop(places);
            let child = Child::new(child)?;
            wait_until_served(&child, File::from(report), &mountpoint).inspect_err(|_| {
                child.stop();
                remove_dead_mount(&mountpoint, before);
            })
        }
    }
}

/// The child's life.
fn daemon(places: Places, request: &MountRequest, mut readiness: Readiness) -> Result<(), ()> {
    let result = rustix::process::setsid()
        .context("start a session")
        .and_then(|_| rustix::process::chdir("/").context("change to /"))
        .and_then(|()| control::serve(places, request, &mut readiness, quiet_start(request.log)));
    result.map_err(|error| readiness.fail(&error))
}

/// A mount that succeeds says nothing on the terminal, unless more than the usual was asked for.
fn quiet_start(mut log: LogRequest) -> LogRequest {
    if !log.syslog && log.level == LevelFilter::INFO {
        log.level = LevelFilter::WARN;
    }
    log
}

fn wait_until_served(child: &Child, report: File, mountpoint: &Path) -> anyhow::Result<()> {
    match read_report(report)? {
        Report::Ready => wait_for_answer(mountpoint, ANSWER_DEADLINE),
        Report::Failed(reason) => Err(anyhow!("{reason}")),
        Report::Died => match child.wait_for_exit(STOP_DEADLINE) {
            Some(status) => bail!("the daemon ended before the mount was ready ({status:?})"),
            None => bail!("the daemon closed its report before the mount was ready"),
        },
    }
}

enum Report {
    Ready,
    Failed(String),
    Died,
}

fn read_report(mut pipe: File) -> anyhow::Result<Report> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut received = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !wait_for_input(&pipe, left)? {
            bail!(
                "the daemon is not ready within {START_DEADLINE:?}: does SOURCE or its device hang?"
            );
        }
        let mut buffer = [0; 4096];
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read the daemon's report"),
        }
        if received.first() == Some(&READY) {
            return Ok(Report::Ready);
        }
    }
    Ok(match received.split_first() {
        Some((&FAILED, reason)) => Report::Failed(String::from_utf8_lossy(reason).into_owned()),
        _ => Report::Died,
    })
}

/// Waits until `file` can be read or has ended; false when `patience` is over first.
fn wait_for_input(file: impl std::os::fd::AsFd, patience: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("a deadline too far away")?;
        let mut fds = [PollFd::new(&file, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("wait for the daemon"),
        }
    }
}

/// The daemon, seen from the parent. The pidfd cannot come to mean another process.
#[derive(Debug)]
struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    fn new(pid: Pid) -> anyhow::Result<Self> {
        let raw = rustix::process::Pid::from_raw(pid.as_raw()).context("a child's id")?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).context("pidfd")?;
        Ok(Self { pid, pidfd })
    }

    fn wait_for_exit(&self, patience: Duration) -> Option<WaitStatus> {
        match wait_for_input(&self.pidfd, patience) {
            Ok(true) => nix::sys::wait::waitpid(self.pid, None).ok(),
            _ => None,
        }
    }

    /// Asks it to unmount and end, and makes it end.
    fn stop(&self) {
        for signal in [Signal::TERM, Signal::KILL] {
            // It fails only if the child is gone, which is what is wanted.
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
            if self.wait_for_exit(STOP_DEADLINE).is_some() {
                return;
            }
        }
    }
}

/// A child that had to be killed leaves its mount behind. It is recognised by being new at this
/// place and without a server.
fn remove_dead_mount(mountpoint: &Path, before: u64) {
    let Ok(place) = Place::open(mountpoint) else {
        return;
    };
    let is_new = place.mount_id().is_ok_and(|now| now != before);
    // Asked past the cache: the daemon may have answered before it died.
    let is_dead = statx(
        CWD,
        place.link(),
        AtFlags::STATX_FORCE_SYNC,
        StatxFlags::BASIC_STATS,
    )
    .is_err_and(|errno| errno == Errno::NOTCONN);
    if !is_new || !is_dead {
        return;
    }
    if let Err(error) = crate::umount::detach_place(&place, mountpoint) {
        crate::complain(&error);
    }
}
