//! Whose turn it is to serve, where a mount goes from one server to another: `thrufs upgrade` and `thrufs set`, from the
//! servers' side ([`super::succession`] is the supervisor's).
//!
//! ```text
//! supervisor          server before (and its zygote)            server that takes over (and its zygote)
//! SendAhead ────────> sends descriptors of inodes, serves ────> looks at each, reads the ledger: Prepared ──>
//! Drain, HandOver ──> reads no more, ends; the next server
//!                     of its zygote sends what is lacking ────> takes all in: TookOver ──>
//! ends the zygote
//! Go ─────────────────────────────────────────────────────────> RESEND, serves
//! or GoOn ──────────> serves on
//! ```
//!
//! Invariant: at no time do two servers serve. Whose turn it is stands in each ledger ([`Turn`]), so a server that begins
//! because another died obeys it; the new one's changes only when the zygote before has ended with all of its servers.
//!
//! Why the next server sends, and not the one that served: of that one's threads some may be in calls on SOURCE that do not
//! return. The end of the process stops them, as its death would, and the next server has the journal for
//! what they began.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use thrufs_fs::{Ahead, Ledger, Life, Turn};
use thrufs_session::{DevFuseSession, Drain, SHARED_BUFFER_START};

use super::descriptors;
use super::link::{FromServer, Link, ToServer};
use super::taken::Taken;
use super::zygote::HANDED_OVER;
use crate::mount_plan::MountPlan;

/// How long a server that is to stop may take; then its process ends all the same.
const LIMIT: Duration = Duration::from_millis(500);
/// How often those are fetched that have come while others were, and how many are not worth it.
const ROUNDS: usize = 4;
const FEW: usize = 64;

/// Waits until this server is the one that goes on with the mount, as far as this is known before it is made. A server of
/// a zygote that takes over has all of the one before then, but for its turn ([`wait_to_serve`]). Returns [`Life::looked_at`].
pub(super) fn begin(
    life: &Life,
    link: &Link,
    taken: Option<Taken>,
    can_resume: impl FnOnce(&Ledger) -> io::Result<()>,
) -> anyhow::Result<Vec<i32>> {
    let ledger = &life.ledger;
    let done = match (ledger.turn(), taken) {
        (Turn::TakingOver, Some(taken)) => return take_over(ledger, link, taken, can_resume),
        // One that died before its turn has left nothing that can be relied upon.
        (Turn::TakingOver, _) if !has_input(link)? => {
            bail!("the server died while it took over")
        }
        (Turn::TakingOver, _) => Ok(()),
        (Turn::HandingOver, _) => wait_to_go_on(ledger, link),
        (Turn::Serving, _) => {
            // What the server before was told, and may have died before it did.
            while has_input(link)? {
                match link.receive()? {
                    Some((ToServer::HandOver, sockets)) => {
                        hand_over(ledger, link, sockets)?;
                        return Ok(Vec::new());
                    }
                    Some((_drain_or_send_ahead, _)) => {}
                    None => std::process::exit(0),
                }
            }
            Ok(())
        }
    };
    done.map(|()| Vec::new())
}

fn take_over(
    ledger: &Ledger,
    link: &Link,
    taken: Taken,
    can_resume: impl FnOnce(&Ledger) -> io::Result<()>,
) -> anyhow::Result<Vec<i32>> {
    let old = Ledger::of_files(taken.ledger).context("the ledger of the server before")?;
    can_resume(&old)?;
    let lacking = "the descriptors of the server before";
    let ahead = fetch_ahead(&old, &taken.ahead).context(lacking)?;
    // Nothing more comes by it.
    drop(taken.ahead);
    tracing::debug!(
        "{} inodes are here while the former server serves",
        ahead.len()
    );
    link.send(&FromServer::Prepared, &[])?;
    descriptors::wait_for_begin(&taken.descriptors).context(lacking)?;
    let fetch = |numbers: &[i32]| {
        let fetched = descriptors::fetch(&taken.descriptors, numbers)?;
        Ok(fetched.into_iter().collect())
    };
    let looked_at = ledger.take_in(&old, ahead, fetch, SHARED_BUFFER_START);
    if taken.is_upgrade {
        ledger.count_upgrade();
    }
    looked_at.context(lacking)
}

/// As far as the server before sends them: what does not come now comes when that has stopped.
fn fetch_ahead(old: &Ledger, socket: &OwnedFd) -> io::Result<Ahead> {
    let mut ahead = Ahead::default();
    for _round in 0..ROUNDS {
        let lacking = ahead.lacks(old);
        for batch in lacking.chunks(descriptors::BATCH) {
            match descriptors::fetch(socket, batch) {
                Ok(fetched) => fetched.into_iter().for_each(|(_number, fd)| ahead.keep(fd)),
                // That server has died.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(ahead),
                Err(error) => return Err(error),
            }
        }
        if lacking.len() <= FEW {
            break;
        }
    }
    Ok(ahead)
}

/// Says that all is there, and waits for the word that it is this server's turn; at once where it is.
pub(super) fn wait_to_serve(ledger: &Ledger, link: &Link) -> anyhow::Result<()> {
    if ledger.turn() != Turn::TakingOver {
        return Ok(());
    }
    link.send(&FromServer::TookOver, &[])?;
    wait_for_turn(ledger, link)
}

fn hand_over(ledger: &Ledger, link: &Link, mut sockets: Vec<OwnedFd>) -> anyhow::Result<()> {
    ledger.set_turn(Turn::HandingOver);
    let socket = sockets.pop().context("no socket came along")?;
    let begun = descriptors::begin(&socket).map_err(anyhow::Error::from);
    if let Err(error) = begun.and_then(|()| answer_until_told(ledger, link, &socket)) {
        // The other side fails by it, and this one goes on.
        tracing::warn!("the descriptors are not handed over: {error:#}");
    }
    drop(socket);
    wait_to_go_on(ledger, link)
}

/// Sends what is asked for, until there is a word of the supervisor's or the other side has all.
fn answer_until_told(ledger: &Ledger, link: &Link, socket: &OwnedFd) -> anyhow::Result<()> {
    loop {
        let mut fds =
            [link.as_fd(), socket.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))
            .context("wait for a question")?;
        let [is_told, is_asked] = fds.map(|fd| !fd.revents().is_empty());
        let more = !is_asked || descriptors::answer_one(socket, |number| ledger.names(number))?;
        if is_told || !more {
            return Ok(());
        }
    }
}

fn wait_to_go_on(ledger: &Ledger, link: &Link) -> anyhow::Result<()> {
    wait_for_turn(ledger, link)?;
    tracing::info!("no other server took over: this one goes on");
    Ok(())
}

/// The next word of the supervisor's is that.
fn wait_for_turn(ledger: &Ledger, link: &Link) -> anyhow::Result<()> {
    wait_for_input(link)?;
    // Before the word is taken: a server that dies between the two leaves one that knows.
    ledger.set_turn(Turn::Serving);
    match link.receive()? {
        Some((ToServer::Go, _)) => Ok(()),
        // The supervisor is gone, and with it what this server could be for.
        _ => std::process::exit(0),
    }
}

/// Has this server send descriptors while it serves, and end, when the supervisor says so: its session is drained by
/// `drain`, and then the process ends.
pub(super) fn obey(link: &Link, drain: Arc<Drain>, ledger: Arc<Ledger>) -> anyhow::Result<()> {
    let link = link.duplicate().context("duplicate a descriptor")?;
    let obey = move || {
        while let Ok(Some((order, sockets))) = link.receive() {
            match order {
                ToServer::SendAhead => {
                    // What does not come so comes later.
                    let answered = sockets
                        .first()
                        .map(|socket| answer_until_told(&ledger, &link, socket));
                    if let Some(Err(error)) = answered {
                        tracing::debug!("descriptors are not sent ahead: {error:#}");
                    }
                }
                ToServer::Drain => {
                    drain.ask();
                    // The end of the session ends the process before, as a rule.
                    std::thread::park_timeout(LIMIT);
                    std::process::exit(HANDED_OVER);
                }
                _other => {}
            }
        }
    };
    let thread = std::thread::Builder::new().name("orders".to_owned());
    thread.spawn(obey).context("start a thread")?;
    Ok(())
}

fn has_input(link: &Link) -> anyhow::Result<bool> {
    poll(link, Some(&Timespec::default()))
}

fn wait_for_input(link: &Link) -> anyhow::Result<()> {
    while !poll(link, None)? {}
    Ok(())
}

/// Whether there is a word, or the supervisor is gone.
fn poll(link: &Link, timeout: Option<&Timespec>) -> anyhow::Result<bool> {
    let mut fds = [PollFd::new(link, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout));
    Ok(ready.context("wait for the supervisor")? > 0)
}

/// Whether the mount can be gone on with as `plan` says.
pub(super) fn can_resume(
    plan: &MountPlan,
    connection: &OwnedFd,
) -> impl FnOnce(&Ledger) -> io::Result<()> {
    move |ledger| DevFuseSession::can_resume(&plan.config, ledger, connection.try_clone()?)
}
