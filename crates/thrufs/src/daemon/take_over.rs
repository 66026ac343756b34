//! `thrufs take-over`: what the supervisor of a mount starts a binary with that is to serve it on ([`super::succession`]).
//! Its standard input is the link to the supervisor, by which all else comes.
//!
//! Invariant: until it is told to serve it stops and changes nothing; what it cannot do, it says, and ends. It becomes a
//! server as one of a first start does, and no other way into the sandbox exists: the namespaces are new but for that of
//! the mounts, which it joins.
//!
//! Why a program of its own, and not the one that serves: that one is shut in, and can start none. Why the supervisor's
//! child: it has to be outside first.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::{Context, bail};

use super::link::{FORM, FromServer, Link, TakeOver, ToServer};
use super::server_process::{self, Ends, Start, become_server};
use super::taken::Taken;
use crate::logging::ServerLog;
use crate::mount_plan::{self, CommandLine, MountPlan};
use crate::sandbox::plan::Sandbox;
use crate::user;

/// Becomes a server, if the supervisor at the other end of standard input says so.
///
/// # Errors
/// It cannot; the supervisor knows why.
pub(crate) fn run() -> anyhow::Result<()> {
    let standard_input = thrufs_sys::inherited::take(0).context("standard input")?;
    let link = Link::of(standard_input);
    // It was started by a number, that of a descriptor. Without the name all goes on.
    let _named = rustix::thread::set_name(c"thrufs");
    let hello = FromServer::Hello {
        form: FORM,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    link.send(&hello, &[])
        .context("`thrufs take-over` is started by the daemon of a mount (see `thrufs upgrade`)")?;
    let Some((ToServer::TakeOver(order), descriptors)) = link.receive()? else {
        bail!("nothing is to be taken over");
    };
    let prepared = plan(&order).and_then(|plan| Ok((plan, given(&order, descriptors)?)));
    let (plan, given) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            link.send(&FromServer::failed(&error), &[])?;
            return Err(error);
        }
    };
    let start = Start {
        sandbox: match order.is_namespace {
            true => Sandbox::Namespace,
            false => Sandbox::None,
        },
        source: given.source,
        plan: &plan.sandbox,
        needs: plan.needs(),
        log: ServerLog::shown(plan.log, order.shows_target),
        taken: Some(given.taken),
    };
    let ends = Ends {
        link,
        asking: given.asking,
        registering: given.registering,
        output: given.output,
    };
    let below = order.below.as_deref().map(OsStr::from_bytes).map(Path::new);
    become_server(start, ends, |start, asking, link| {
        server_process::serve(start, asking, link, (&plan, below))
    })
}

/// As this version understands the options.
fn plan(order: &TakeOver) -> anyhow::Result<MountPlan> {
    let line = CommandLine {
        program: order.program.clone(),
        arguments: order
            .arguments
            .iter()
            .map(|bytes| OsString::from_vec(bytes.clone()))
            .collect(),
        set: order.set.clone(),
    };
    let plan = mount_plan::parse_again(&line, user::is_root())?;
    if plan.survive.is_none() {
        bail!("with these options the mount would not outlive its server");
    }
    Ok(plan)
}

/// What comes along.
struct Given {
    asking: Link,
    registering: OwnedFd,
    output: OwnedFd,
    source: OwnedFd,
    taken: Taken,
}

fn given(order: &TakeOver, descriptors: Vec<OwnedFd>) -> anyhow::Result<Given> {
    let mut descriptors = descriptors.into_iter();
    let mut next = || {
        descriptors
            .next()
            .context("a descriptor did not come along")
    };
    Ok(Given {
        asking: Link::of(next()?),
        registering: next()?,
        output: next()?,
        source: next()?,
        taken: Taken {
            ledger: [next()?, next()?],
            ahead: next()?,
            descriptors: next()?,
            mounts: order.has_mounts.then(&mut next).transpose()?,
            covered: order.has_covered.then(&mut next).transpose()?,
            is_upgrade: order.is_upgrade,
        },
    })
}
