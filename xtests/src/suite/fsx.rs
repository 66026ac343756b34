//! fsx (the crate): 100,000 random operations on one file, checked against a copy in memory.
//! SOURCE is a tmpfs: 4,000 of the operations are fsyncs, which a disk takes minutes for.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::install;
use crate::report::Report;
use crate::support::command::{tail, wait_for_exit};
use crate::support::mount::Mount;
use crate::support::scratch::{Backing, Scratch};

const VERSION: &str = "0.3.2";
const OPERATIONS: &str = "100000";
const DEADLINE: Duration = Duration::from_secs(400);

/// Every operation that Linux and FUSE have, mapped ones as often as plain ones.
const CONFIG: &str = "\
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 1
punch_hole = 2
sendfile = 2
posix_fadvise = 2
copy_file_range = 2
";

/// One file in `dir`, operations from `seed`.
pub fn exercise(dir: &Path, seed: u32) -> Result<()> {
    let fsx = install::tool("fsx", VERSION)?;
    let outside = tempfile::tempdir()?;
    let config = outside.path().join("fsx.toml");
    std::fs::write(&config, CONFIG)?;
    let log = outside.path().join("log");
    let output = std::fs::File::create(&log)?;
    let mut command = Command::new(&fsx);
    command
        .arg("-f")
        .arg(&config)
        .args(["-N", OPERATIONS, "-S", &seed.to_string(), "-P"]);
    command
        .arg(outside.path())
        .arg(dir.join(format!("fsx-{seed}")));
    let mut child = command.stdout(output.try_clone()?).stderr(output).spawn()?;
    let status = wait_for_exit(&mut child, "fsx", DEADLINE);
    let said = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let status = status.with_context(|| tail(&said))?;
    ensure!(
        status.success(),
        "fsx with seed {seed}: {status}\n{}",
        tail(&said)
    );
    Ok(())
}

/// Each cache mode, and two processes on two mounts of the same SOURCE that cache nothing.
pub fn check(report: &mut Report) -> Result<()> {
    install::tool("fsx", VERSION)?;
    // At the same time: each waits for its own daemon most of the time.
    std::thread::scope(|scope| {
        let modes = ["auto", "never", "always"].map(|cache| {
            let run = move || on_mount(&format!("--cache={cache}"), cache.len() as u32);
            (cache, scope.spawn(run))
        });
        report.record("fsx::two_mounts", on_two_mounts());
        for (cache, thread) in modes {
            let outcome = thread.join().expect("exercise returns its errors");
            report.record(&format!("fsx::{cache}"), outcome);
        }
    });
    Ok(())
}

fn on_mount(cache: &str, seed: u32) -> Result<()> {
    let mount = Mount::new(Backing::Tmpfs, &[cache])?.allow(DEADLINE);
    exercise(mount.dir(), seed)?;
    mount.unmount()
}

fn on_two_mounts() -> Result<()> {
    let first = Mount::new(Backing::Tmpfs, &["--cache=never"])?.allow(DEADLINE);
    let second =
        Mount::of(Scratch::sharing(first.source(""))?, &["--cache=never"])?.allow(DEADLINE);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| exercise(second.dir(), 11));
        exercise(first.dir(), 10)?;
        other.join().expect("exercise returns its errors")
    })?;
    second.unmount()?;
    first.unmount()
}
