//! A server of a device that another one follows (`--survive`): what it begins with, and how it ends.
//!
//! ```text
//! supervisor
//!   └─ zygote: owns the table of descriptors ([`crate::daemon::zygote`])
//!        └─ server: goes on with the front end and the session of the one before
//! ```
//!
//! Invariant: a session that ends, by DESTROY, by another INIT or with its front end, ends its server: no thread adds to
//! the ledger what the next session would find.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use anyhow::Context;
use thrufs_fs::Ledger;
use thrufs_session::{Kept, Survival};
use tokio::sync::Notify;

use crate::daemon::link::{Link, ToServer};
use crate::daemon::server_process::end_with_a_panic;
use crate::daemon::zygote::{HANDED_OVER, Servers, start_servers};
use crate::device_plan::DevicePlan;
use crate::logging::ServerLog;

/// Messages are the guest's, and stay in its memory: one small buffer, which is not used.
const MESSAGES: (usize, usize) = (1, 4096);

/// Returns in each server. More than `most` deaths a minute end the device.
pub(super) fn begin(
    (plan, most): (&DevicePlan, u32),
    (link, log): (&Link, ServerLog),
    listener: &UnixListener,
) -> anyhow::Result<Survival> {
    let kept = Kept::new().context("memory for what --survive keeps of the front end")?;
    let kept = Arc::new(kept);
    let servers = Servers {
        sandbox: &plan.sandbox,
        most,
        messages: MESSAGES,
        keep: &|ledger| keep(&kept, listener, ledger),
    };
    let born = start_servers(&servers, link, None)?;
    log.init()?;
    born.log();
    kept.begin().context("socket pair")?;
    end_with_a_panic(true);
    Ok(Survival {
        life: born.life,
        deaths: born.deaths,
        kept,
        hand_over: Box::new(|| std::process::exit(HANDED_OVER)),
    })
}

/// The descriptors of the front end. What the guest held is forgotten where it is to begin anew.
fn keep(kept: &Kept, listener: &UnixListener, ledger: &Ledger) -> anyhow::Result<Vec<i32>> {
    kept.find_accepted(listener);
    if kept.is_anew() {
        ledger.forget_session();
        kept.has_begun_anew();
    }
    Ok(kept.descriptors()?)
}

/// Has the device `end` when the supervisor says so, to whichever server.
pub(super) fn obey(link: &Link, kept: Arc<Kept>, end: &Arc<Notify>) -> anyhow::Result<()> {
    if kept.is_ending() {
        end.notify_one();
    }
    let (link, end) = (
        link.duplicate().context("duplicate a descriptor")?,
        Arc::clone(end),
    );
    let obey = move || {
        while let Ok(Some((order, _none))) = link.receive() {
            if let ToServer::Drain = order {
                kept.end();
                end.notify_one();
            }
        }
    };
    let thread = std::thread::Builder::new().name("orders".to_owned());
    thread.spawn(obey).context("start a thread")?;
    Ok(())
}
