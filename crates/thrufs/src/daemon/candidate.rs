//! A binary that the supervisor has started to take a mount over, until it is a server that is shut in.
//!
//! Invariant: it is believed nothing but its version until then, and ended where it is not what it should be or does not
//! answer in time. By SCM_RIGHTS it gets what a server has, and no descriptor else: its standard input is the link, and
//! all that the supervisor has open is closed on execve(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::link::{FORM, FromServer, Link, TAKE_OVER, TakeOver, ToServer};
use super::server::{self, Server, Within};
use crate::sandbox::plan::Sandbox;

/// A binary that was started, and may become a server ([`Candidate::prepare`]).
#[derive(Debug)]
pub(super) struct Candidate {
    child: Pid,
    link: Link,
}

/// How long a binary may take until it is shut in.
const PREPARATION: Duration = Duration::from_secs(10);

impl Candidate {
    /// Starts `binary`. By the thread with which the process ends, since the server dies with that.
    pub(super) fn start(binary: &Path) -> anyhow::Result<Self> {
        let (link, theirs) = Link::pair().context("socket pair")?;
        let child = Command::new(binary)
            .arg0("thrufs")
            .arg(TAKE_OVER)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("it cannot be started")?;
        let child = Pid::from_raw(i32::try_from(child.id())?);
        Ok(Self { child, link })
    }

    fn hear(&self) -> anyhow::Result<String> {
        self.link.set_patience(Some(PREPARATION))?;
        match self.link.receive() {
            Ok(Some((FromServer::Hello { form, version }, _))) if form == FORM => Ok(version),
            Ok(Some((FromServer::Hello { version, .. }, _))) => bail!(
                "it is thrufs {version}, which cannot take over from this version: unmount, and mount with it"
            ),
            Ok(_) => bail!("it is no thrufs that can take a mount over"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                bail!("it says nothing: is it thrufs?")
            }
            Err(error) => Err(error.into()),
        }
    }

    fn end(&self) {
        // It is not reaped: the number is its own.
        let _gone = nix::sys::signal::kill(self.child, nix::sys::signal::Signal::SIGKILL);
        let _reaped = waitpid(self.child, None);
    }

    /// Makes a server of it with `order`, and these descriptors for it. Returns its version too.
    pub(super) fn prepare(
        self,
        order: TakeOver,
        (registering, descriptors): (&OwnedFd, &[OwnedFd]),
    ) -> anyhow::Result<(Server, String)> {
        let sandbox = match order.is_namespace {
            true => Sandbox::Namespace,
            false => Sandbox::None,
        };
        let (ours, theirs) = server::ends()?;
        let sent = self.hear().and_then(|version| {
            let mut with = vec![theirs.asking.as_fd(), registering.as_fd()];
            with.push(theirs.output.as_fd());
            with.extend(descriptors.iter().map(AsFd::as_fd));
            self.link.send(&ToServer::TakeOver(order), &with)?;
            Ok(version)
        });
        let version = sent.inspect_err(|_| self.end())?;
        drop(theirs);
        let Self { child, link } = self;
        let (pid, _first_ones) = server::wait_until_confined(child, sandbox, &link, None)?;
        link.set_patience(None)?;
        let server = Server::new((pid, sandbox, Within::default()), link, ours)?;
        Ok((server, version))
    }
}
