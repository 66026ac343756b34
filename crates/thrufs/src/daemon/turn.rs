//! Whose turn it is to serve, where a mount goes from one server to another: `thrufs upgrade` and `thrufs set`, from the
//! servers' side ([`super::succession`] is the supervisor's).
//!
//! ```text
//! supervisor          server before (and its zygote)            server that takes over (and its zygote)
//!                                                               reads the ledger: Prepared ──>
//! Drain, HandOver ──> reads no more, ends; the next server
//!                     of its zygote sends the descriptors ────> takes them in, looks at each: TookOver ──>
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
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use thrufs_fs::{Ledger, Life, Turn};
use thrufs_session::{DevFuseSession, Drain, SHARED_BUFFER_START};
use thrufs_sys::inherited;

use super::descriptors;
use super::link::{FromServer, Link, ToServer};
use super::taken::Taken;
use super::zygote::HANDED_OVER;
use crate::mount_plan::MountPlan;

/// How long a server that is to stop may take; then its process ends all the same.
const LIMIT: Duration = Duration::from_millis(500);

/// Waits until this server is the one that goes on with the mount, as far as this is known before it is made. A server of
/// a zygote that takes over has all of the one before then, but for its turn ([`wait_to_serve`]).
pub(super) fn begin(
    life: &Life,
    link: &Link,
    taken: Option<Taken>,
    can_resume: impl FnOnce(&Ledger) -> io::Result<()>,
) -> anyhow::Result<()> {
    let ledger = &life.ledger;
    match (ledger.turn(), taken) {
        (Turn::TakingOver, Some(taken)) => take_over(ledger, link, taken, can_resume),
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
                        return hand_over(ledger, link, sockets);
                    }
                    Some((_drain, _)) => {}
                    None => std::process::exit(0),
                }
            }
            Ok(())
        }
    }
}

fn take_over(
    ledger: &Ledger,
    link: &Link,
    taken: Taken,
    can_resume: impl FnOnce(&Ledger) -> io::Result<()>,
) -> anyhow::Result<()> {
    let old = Ledger::of_files(taken.ledger).context("the ledger of the server before")?;
    can_resume(&old)?;
    link.send(&FromServer::Prepared, &[])?;
    let moved = descriptors::receive(&taken.descriptors);
    let moved = moved.context("the descriptors of the server before")?;
    ledger.take_in(&old, &moved, SHARED_BUFFER_START)?;
    let kept = ledger.descriptors();
    // Of an inode that was forgotten last.
    for number in moved
        .values()
        .filter(|number| kept.binary_search(number).is_err())
    {
        drop(inherited::adopt(*number));
    }
    if taken.is_upgrade {
        ledger.count_upgrade();
    }
    Ok(())
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
    if let Err(error) = descriptors::send(&socket, &ledger.descriptors()) {
        // The other side fails by it, and this one goes on.
        tracing::warn!("the descriptors are not handed over: {error}");
    }
    drop(socket);
    wait_to_go_on(ledger, link)
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

/// Has this server end when the supervisor says so: its session is drained by `drain`, and then the process ends.
pub(super) fn obey(link: &Link, drain: Arc<Drain>) -> anyhow::Result<()> {
    let link = link.duplicate().context("duplicate a descriptor")?;
    let obey = move || {
        while let Ok(Some((order, _none))) = link.receive() {
            if let ToServer::Drain = order {
                drain.ask();
                // The end of the session ends the process before, as a rule.
                std::thread::park_timeout(LIMIT);
                std::process::exit(HANDED_OVER);
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
