//! thrufs as an operator calls it: mounts in the background, asks, unmounts.
//!
//! Unlike [`super::mount::Mount`] nothing here ends a daemon that a test leaves behind.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde_json::Value;

use super::command::{output, said_on_stderr, succeed};
use super::mount::{mount_command, thrufs};
use super::mount_table::is_mounted;
use super::skip::Outcome;
use super::wait::wait_until;

/// `thrufs mount`.
pub fn mount(source: &Path, dir: &Path, options: &[&str]) -> Outcome {
    succeed(mount_command()?.args(options).args([source, dir])).map(drop)
}

/// `thrufs umount` of the only mount there.
pub fn umount(dir: &Path) -> Outcome {
    uncover(dir)?;
    ensure!(!is_mounted(dir), "{} is still mounted", dir.display());
    Ok(())
}

/// `thrufs umount` of the topmost mount there.
pub fn uncover(dir: &Path) -> Outcome {
    succeed(Command::new(thrufs()?).arg("umount").arg(dir)).map(drop)
}

/// The same once it is not busy: a child of another test has our files open for a moment between fork and
/// exec.
pub fn umount_when_idle(dir: &Path) -> Outcome {
    let what = format!("{} not to be busy", dir.display());
    wait_until(&what, Duration::from_secs(10), || {
        let done = output(Command::new(thrufs()?).arg("umount").arg(dir))?;
        let said = said_on_stderr(&done);
        ensure!(done.status.success() || said.contains("busy"), "{said}");
        Ok(done.status.success())
    })
}

/// `thrufs status --json`.
pub fn status(dir: &Path) -> Result<Value> {
    let mut status = Command::new(thrufs()?);
    let text = succeed(status.args(["status", "--json"]).arg(dir))?;
    serde_json::from_str(&text).context("what thrufs status --json says")
}

/// The process ids of the daemon and of the server, by its status.
pub fn processes(status: &Value) -> Result<[Pid; 2]> {
    let pid = |name: &str| -> Result<Pid> {
        let number = status[name].as_i64().context("a process id")?;
        Ok(Pid::from_raw(i32::try_from(number)?))
    };
    Ok([pid("pid")?, pid("server_pid")?])
}
