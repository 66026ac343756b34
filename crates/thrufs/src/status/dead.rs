//! Whether a mount is dead, asked of the mount itself.
//!
//! Invariant: the question holds neither this program nor what waits for its output. The caller of a request
//! that a daemon has taken and does not answer cannot be killed (request_wait_answer), and a process ends
//! only when each of its threads has. So a child asks, which keeps nothing of this program open, and
//! is left behind after the deadline. Why not a thread: see above.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::sys::wait::WaitStatus;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use thrufs_sys::confine::close_all_but;
use thrufs_sys::fork::{Side, fork};

use crate::child::Child;

/// The child's exit codes.
const DEAD: i32 = 1;
const ALIVE: i32 = 0;

/// Whether the kernel says that nothing serves the mount. One that does not answer within `patience` is not
/// dead. This process must have one thread.
///
/// # Errors
/// When there can be no child.
pub(super) fn is_dead(mountpoint: &Path, patience: Duration) -> anyhow::Result<bool> {
    let ask = "start the process that asks the mount";
    match fork().context(ask)? {
        Side::Child => std::process::exit(answer(mountpoint)),
        Side::Parent(child) => {
            let child = Child::new(child).context(ask)?;
            let ended = child.wait_for_exit(patience);
            if ended.is_none() {
                child.abandon();
            }
            Ok(matches!(ended, Some(WaitStatus::Exited(_, DEAD))))
        }
    }
}

/// In the child.
fn answer(mountpoint: &Path) -> i32 {
    // Without, a pipe behind the program's output would stay open as long as the child hangs.
    let is_closed = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .is_ok_and(|null| {
            rustix::stdio::dup2_stdin(&null).is_ok()
                && rustix::stdio::dup2_stdout(&null).is_ok()
                && rustix::stdio::dup2_stderr(&null).is_ok()
        })
        && close_all_but(&[]).is_ok();
    if !is_closed {
        return ALIVE;
    }
    let asked = statx(
        CWD,
        mountpoint,
        AtFlags::STATX_FORCE_SYNC,
        StatxFlags::BASIC_STATS,
    );
    match asked {
        Err(Errno::NOTCONN) => DEAD,
        _ => ALIVE,
    }
}
