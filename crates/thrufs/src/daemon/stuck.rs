//! A server that has died and is not gone.
//!
//! Invariant: its connection ends, so that the mount's users get an error and wait no longer. Why this cannot be left to
//! the kernel: the connection ends with its last descriptor, which a thread of the dead server keeps.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::task::JoinSet;

use crate::mount::detach::OwnedMount;

/// How often the server is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Looks at a dead server that is not gone, after which it is not waited for: what it does on SOURCE ends before.
const STUCK: u32 = 10;

/// Ends the connection when the server has died and is not gone, or one of those that a zygote starts is not for so
/// many [`LOOK`]s. One of its threads may be in the kernel,
/// uninterruptibly, until a request is answered that no thread serves any more (as in
/// [`crate::mount::detach::OwnedMount::abort`]): without an end the connection would stay, and its users wait.
pub(super) fn free(server: Pid, ours: OwnedMount, connection: OwnedFd) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut looks = 0;
        while !has_died(server) && looks < STUCK {
            tokio::time::sleep(LOOK).await;
            looks = match children(server).any(has_died) {
                true => looks + 1,
                false => 0,
            };
        }
        ours.abort(&connection);
    });
    task
}

/// What `parent` has started, where the kernel tells (CONFIG_PROC_CHILDREN).
fn children(parent: Pid) -> impl Iterator<Item = Pid> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let numbers: Vec<_> = list
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .map(Pid::from_raw)
        .collect();
    numbers.into_iter()
}

/// Whether the first thread is a zombie. The number is the server's own until it is waited for, and
/// then there is nothing left to free.
fn has_died(server: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, fields)| fields.starts_with('Z'))
}
