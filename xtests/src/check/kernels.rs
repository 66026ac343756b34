//! The stages that boot kernels, most of which they build, and count each cell of the table as a test.
//!
//! Each runs `xtests kernel run` as a user would: building takes long, and `timeout` can end a process
//! with everything it has started, also when this program is ended. A cell that is listed as
//! failing and fails as listed counts as passed: the expectation is what is tested.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::report::Report;
use crate::support::command::{output, tail};
use crate::support::daemon_fixture::tied_to_us;
use crate::support::install;
use crate::support::skip::missing;

/// The first kernel from nothing took 944 seconds of CPU time, each of the other three 30, the
/// machines 5 minutes, plus the waiting for expected deadlocks.
pub(super) const LIMIT: Duration = Duration::from_secs(35 * 60);
/// Eight minutes where stock was built already, with a load of 18 on two CPUs; that takes as much CPU time as above, or
/// half of it, by the machine.
pub(super) const SHORT_LIMIT: Duration = Duration::from_secs(20 * 60);
/// A boot of 10 seconds and less than a minute of tests by QEMU's translator, after downloads of some 60 MB.
const GUEST_LIMIT: Duration = Duration::from_secs(5 * 60);
/// Of [`guest`]: a distribution's kernel, which need not be built. The newest of its release, by the meta package.
const GUEST: &[&str] = &[
    "--distro",
    "linux-image-cloud-amd64/trixie",
    "--transport",
    "virtiofs",
    "--server",
    "thrufs",
    "virtiofs/both-sides",
    "virtiofs/overlay",
    "virtiofs/refused",
    "virtiofs/ghost",
    "virtiofs/partly-readable",
    "repro/family",
    "repro/append-beside-store",
];
/// Exit code of `xtests kernel`: the archive has no such kernel.
const LACKS: i32 = 77;
/// Of [`short`]: what the series is for, and what must not fail with it.
const SHORT: &[&str] = &["--variant", "stock,patched", "selftest", "repro"];

#[derive(Deserialize)]
struct Cell {
    kernel: String,
    test: String,
    verdict: String,
    detail: String,
}

/// Four kernels, all tests.
pub(super) fn table(report: &mut Report) -> Result<()> {
    run(
        report,
        "kernel",
        LIMIT,
        &["--variant", "stock,patched,rfc,hold-all"],
    )
}

/// The kernel as it is and with the series; the series' own tests and the reproducer.
pub(super) fn short(report: &mut Report) -> Result<()> {
    run(report, "kernel-short", SHORT_LIMIT, SHORT)
}

/// A guest that mounts a device of this checkout, under QEMU.
pub(super) fn guest(report: &mut Report) -> Result<()> {
    run(report, "guest", GUEST_LIMIT, GUEST)
}

fn run(report: &mut Report, stage: &str, limit: Duration, words: &[&str]) -> Result<()> {
    let own = std::env::current_exe().context("finding the path of this program")?;
    let mut command = tied_to_us(Path::new("timeout"));
    command.env("RUST_BACKTRACE", "0").arg("--kill-after=10");
    command.arg(limit.as_secs().to_string()).arg(own);
    // Most of what a machine does is to wait, and one CPU is enough for it.
    command.args(["kernel", "run", "--json", "--guests", "2"]);
    let said = output(command.args(words))?;
    let errors = String::from_utf8_lossy(&said.stderr).into_owned();
    let directory = install::target().join("check");
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join(format!("{stage}.log")), &errors)?;
    if said.status.code() == Some(LACKS) {
        return Err(missing(tail(&errors).trim().to_owned()));
    }
    let cells: Vec<Cell> = serde_json::from_slice(&said.stdout)
        .with_context(|| format!("xtests kernel run: {}\n{}", said.status, tail(&errors)))?;
    for cell in cells {
        let name = format!("{stage}::{}::{}", cell.kernel, cell.test);
        match cell.verdict.as_str() {
            "pass" | "expected" => report.pass(name),
            "not-run" => (),
            _ => report.fail(name, cell.detail),
        }
    }
    Ok(())
}
