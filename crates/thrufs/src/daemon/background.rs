//! Going to the background, and returning to the shell only when the mount answers.
//!
//! Invariant: the process that the user started returns 0 only after the mount has answered it, and
//! leaves nothing mounted when it ends in any other way, by a signal at any moment included. The daemon
//! reports over a socket: one byte when it is ready, or the reason why not. Then it waits for the byte by
//! which its starter takes the mount over, the last thing that one does: a socket that ends before that
//! means that the starter is gone, by whatever cause, and the daemon unmounts.

mod interrupts;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use thrufs_sys::fork::Side;
use thrufs_sys::mountinfo::MountPath;
use tracing::level_filters::LevelFilter;

use super::readiness::{FAILED, READY, Readiness, TAKEN_OVER};
use crate::child::{Child, STOP_DEADLINE};
use crate::logging::{self, LogOptions};
use crate::mount::detach::detach_place;
use crate::mount::paths::Endpoints;
use crate::mount_plan::MountPlan;
use crate::stderr::complain;
use crate::wait::wait_for_input;
use interrupts::{Interrupted, Interrupts};

/// How long opening SOURCE, mounting and INIT may take together.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long the first question to the mount may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The life of a daemon, from SOURCE and MOUNTPOINT to the end of the mount.
type Serve = fn(Endpoints, &MountPlan, &mut Readiness, LogOptions) -> anyhow::Result<()>;

/// Starts the daemon in a child and returns when the mount answers. This process must have one thread,
/// and no descriptor that the daemon must not keep.
pub(crate) fn start(endpoints: Endpoints, plan: &MountPlan, serve: Serve) -> anyhow::Result<()> {
    let (daemon_s, starter_s) = UnixStream::pair().context("socket pair")?;
    let mountpoint = endpoints.mountpoint.clone();
    let before = MountPath::open(&mountpoint)?.mount_id()?;
    let interrupts = Interrupts::block()?;
    match thrufs_sys::fork::fork().context("start the daemon")? {
        Side::Child => {
            drop(starter_s);
            let result = interrupts.restore();
            drop(interrupts);
            let readiness = Readiness::Background(daemon_s);
            let result = result
                .map_err(drop)
                .and_then(|()| daemon(endpoints, plan, readiness, serve));
            logging::flush(logging::FLUSH_DEADLINE);
            std::process::exit(i32::from(result.is_err()));
        }
        Side::Parent(child) => {
            drop(daemon_s);
            // The source stays held by the child alone.
            drop(endpoints);
            let child = Child::new(child)?;
            let Err(error) = take_over(&child, starter_s, &mountpoint, &interrupts) else {
                return Ok(());
            };
            child.stop();
            remove_dead_mount(&mountpoint, before);
            if let Some(Interrupted(signal)) = error.downcast_ref() {
                complain(&interrupted(*signal, &mountpoint, before));
                interrupts.die_of(*signal);
            }
            Err(error)
        }
    }
}

/// What is told of a start that was interrupted.
fn interrupted(signal: nix::sys::signal::Signal, mountpoint: &Path, before: u64) -> String {
    let shown = mountpoint.display();
    let now = MountPath::open(mountpoint).and_then(|place| place.mount_id());
    match now.is_ok_and(|now| now == before) {
        true => format!("{signal}: nothing is mounted at {shown}"),
        false => format!("{signal}: the mount at {shown} is left: run `thrufs umount {shown}`"),
    }
}

/// The child's life.
fn daemon(
    endpoints: Endpoints,
    plan: &MountPlan,
    mut readiness: Readiness,
    serve: Serve,
) -> Result<(), ()> {
    let result = rustix::process::setsid()
        .context("start a session")
        .and_then(|_| rustix::process::chdir("/").context("change to /"))
        .and_then(|()| serve(endpoints, plan, &mut readiness, quiet_start(plan.log)));
    result.map_err(|error| readiness.fail(&error))
}

/// A mount that succeeds says nothing on the terminal, unless more than the usual was asked for.
fn quiet_start(mut log: LogOptions) -> LogOptions {
    if !log.syslog && log.level == LevelFilter::INFO {
        log.level = LevelFilter::WARN;
    }
    log
}

/// Waits until the daemon serves, asks the mount a first question, and takes it over.
fn take_over(
    child: &Child,
    mut daemon: UnixStream,
    mountpoint: &Path,
    interrupts: &Interrupts,
) -> anyhow::Result<()> {
    let ready = read_report(&mut daemon, interrupts, START_DEADLINE)?;
    let ready = ready.with_context(|| {
        format!(
            "the daemon is not ready within {START_DEADLINE:?}: does SOURCE or its device hang?"
        )
    })?;
    ready.into_result(child)?;
    let shown = mountpoint.display();
    let mut question = ask(mountpoint)?;
    // Whichever is first: a daemon that fails now tells more than the error of the mount.
    match wait_for_input(&[interrupts, &daemon, &question], ANSWER_DEADLINE)? {
        Some(0) => interrupts.check()?,
        Some(1) => {
            if let Some(report) = read_report(&mut daemon, interrupts, STOP_DEADLINE)? {
                report.into_result(child)?;
            }
        }
        Some(_) => match read_report(&mut question, interrupts, ANSWER_DEADLINE)? {
            Some(Report::Failed(error)) => {
                bail!("the mount at {shown} answers with an error: {error}")
            }
            Some(Report::Ready) => {}
            Some(Report::Died) | None => bail!("the mount at {shown} cannot be asked"),
        },
        None => bail!("the mount at {shown} does not answer within {ANSWER_DEADLINE:?}"),
    }
    // The last moment for a signal; from the byte on the mount stays.
    interrupts.check()?;
    let Err(error) = daemon.write_all(&[TAKEN_OVER]) else {
        return Ok(());
    };
    // The daemon takes it no more ([`Readiness::close`]), and tells why.
    if let Some(report) = read_report(&mut daemon, interrupts, STOP_DEADLINE)? {
        report.into_result(child)?;
    }
    Err(error).context("the daemon ended")
}

/// Asks the mount a first question, as any program would, in a thread of its own, since a daemon
/// that does not answer would hold the caller as long. The answer comes as a report.
fn ask(mountpoint: &Path) -> anyhow::Result<std::io::PipeReader> {
    let (answer, mut report) = std::io::pipe().context("pipe")?;
    let path = mountpoint.to_owned();
    std::thread::Builder::new()
        .name("first-question".to_owned())
        .spawn(move || {
            // Where this process ends meanwhile nothing reads the answer.
            let _unread = match std::fs::metadata(path) {
                Ok(_) => report.write_all(&[READY]),
                Err(error) => write!(report, "{}{error}", char::from(FAILED)),
            };
        })
        .context("start a thread")?;
    Ok(answer)
}

#[derive(Debug)]
enum Report {
    Ready,
    Failed(String),
    Died,
}

impl Report {
    fn into_result(self, child: &Child) -> anyhow::Result<()> {
        match self {
            Self::Ready => Ok(()),
            Self::Failed(reason) => Err(anyhow!("{reason}")),
            Self::Died => match child.wait_for_exit(STOP_DEADLINE) {
                Some(status) => bail!("the daemon ended before the mount was ready ({status:?})"),
                None => bail!("the daemon closed its report before the mount was ready"),
            },
        }
    }
}

/// Reads a report; none when `patience` is over first.
fn read_report(
    pipe: &mut (impl Read + AsFd),
    interrupts: &Interrupts,
    patience: Duration,
) -> anyhow::Result<Option<Report>> {
    let deadline = Instant::now() + patience;
    let mut received = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match wait_for_input(&[interrupts, pipe], left)? {
            None => return Ok(None),
            Some(0) => {
                interrupts.check()?;
                continue;
            }
            Some(_) => {}
        }
        // The first byte alone: a reason that follows it is another report.
        let mut buffer = [0; 4096];
        let room = if received.is_empty() { 1 } else { buffer.len() };
        match pipe.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            // The daemon was killed before it read all.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read the daemon's report"),
        }
        if received.first() == Some(&READY) {
            return Ok(Some(Report::Ready));
        }
    }
    Ok(Some(match received.split_first() {
        Some((&FAILED, reason)) => Report::Failed(String::from_utf8_lossy(reason).into_owned()),
        _ => Report::Died,
    }))
}

/// A child that had to be killed leaves its mount behind. It is recognised by being new at this
/// place and without a server.
fn remove_dead_mount(mountpoint: &Path, before: u64) {
    let Ok(place) = MountPath::open(mountpoint) else {
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
    if let Err(error) = detach_place(&place, mountpoint) {
        complain(&error);
    }
}
