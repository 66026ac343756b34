//! The program that used to deadlock: it writes two pages of a file from a mapping of the same file
//! with one pwritev(2), so that the kernel, while it holds the page it fills, faults on that page.
//!
//! It runs in a process of its own, which is killed when it does not end in time: a kernel with the
//! defect (before 5.13, and before 5.10.36) holds it in the fault.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use thrufs_sys::mapping::SharedMapping;

use super::report::done;

/// A healthy kernel needs a millisecond.
const DEADLINE: Duration = Duration::from_secs(10);
/// A killed process is held by the kernel only while it waits unkillably.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
const TWO_PAGES: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
const TEXT: &[u8] = b"Hello World\0";
/// Both copies of the text around the end of the second page.
const OFFSET: i64 = 4096 + 4096 - 12;

/// What the hidden subcommand takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReproduceArgs {
    /// A file on the mount to be tried
    file: PathBuf,
}

/// The program itself.
pub(crate) fn reproduce(args: &ReproduceArgs) -> anyhow::Result<()> {
    let shown = args.file.display();
    let file = File::options()
        .read(true)
        .write(true)
        .truncate(true)
        .open(&args.file)
        .with_context(|| format!("open {shown}"))?;
    let mapping = SharedMapping::new(&file, TWO_PAGES).context("map the file")?;
    // Without the final zero, as in the original: the rest of each page is a hole.
    let word = &TEXT[..TEXT.len() - 1];
    file.write_all_at(word, 0).context("write the first page")?;
    file.write_all_at(word, 4096)
        .context("write the second page")?;
    // The first part faults in page one; the second one faults in page two, which is locked now.
    let parts = [0..TEXT.len(), 4096..4096 + TEXT.len()];
    let written = mapping
        .pwritev_to(&file, &parts, OFFSET)
        .context("pwritev")?;
    ensure!(
        written == 2 * TEXT.len(),
        "pwritev wrote {written} of {} bytes",
        2 * TEXT.len()
    );
    Ok(())
}

/// Runs it on a file at `mountpoint`, with a deadline, and checks what it wrote.
pub(super) fn run(mountpoint: &Path) -> anyhow::Result<()> {
    let path = mountpoint.join("reproducer");
    File::create(&path).context("make a file for the reproducer")?;
    let program = std::env::current_exe().context("find this program")?;
    let started = Instant::now();
    let mut child = std::process::Command::new(program)
        .arg("reproduce")
        .arg(&path)
        .stdin(Stdio::null())
        .spawn()
        .context("start the reproducer")?;
    if !wait_for_exit(&child, DEADLINE)? {
        child.kill().context("kill the reproducer")?;
        if wait_for_exit(&child, KILL_DEADLINE)? {
            child.wait().context("reap the reproducer")?;
        }
        bail!(
            "DEADLOCK: pwritev from a mapping of the same file did not return within {DEADLINE:?}: \
             this kernel holds a page while it faults on it"
        );
    }
    let status = child.wait().context("reap the reproducer")?;
    ensure!(status.success(), "the reproducer failed ({status})");
    let elapsed = started.elapsed();
    let content = std::fs::read(&path).context("read back what the reproducer wrote")?;
    let start = usize::try_from(OFFSET).context("the offset is positive")?;
    ensure!(
        content.get(start..) == Some(&TEXT.repeat(2)),
        "the reproducer wrote other bytes"
    );
    done(&format!(
        "pwritev from a mapping of the same file: no deadlock ({elapsed:.1?})"
    ))
}

fn wait_for_exit(child: &std::process::Child, patience: Duration) -> anyhow::Result<bool> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("a child's id")?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("pidfd")?;
    let patience = Timespec::try_from(patience).context("a deadline too far away")?;
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&patience)))
        .context("wait for the reproducer")?;
    Ok(ready > 0)
}
