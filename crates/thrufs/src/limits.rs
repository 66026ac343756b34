//! Limits of the process that a file server needs otherwise than a program does.

use anyhow::{Context, anyhow, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

/// What the daemon tries to get when no number is asked for (virtiofsd's value).
const NOFILE_WANTED: u64 = 1_000_000;

/// Sets umask and RLIMIT_NOFILE. `None` takes what can be had, `Some(0)` leaves the limit alone,
/// any other number is reached or is an error.
pub(crate) fn apply(rlimit_nofile: Option<u64>) -> anyhow::Result<()> {
    // The client's umask is applied by the kernel or arrives in the request; ours must not be.
    nix::sys::stat::umask(Mode::empty());
    match rlimit_nofile {
        Some(0) => Ok(()),
        Some(wanted) => set_nofile(wanted),
        None => raise_nofile(),
    }
}

fn set_nofile(wanted: u64) -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the open files limit")?;
    let set = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted));
    set.map_err(|errno| {
        anyhow!(
            "--rlimit-nofile={wanted}: {errno}: the hard limit is {hard}; above it needs \
             CAP_SYS_RESOURCE and no more than sysctl fs.nr_open"
        )
    })
}

fn raise_nofile() -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the open files limit")?;
    let nr_open = std::fs::read_to_string("/proc/sys/fs/nr_open");
    let nr_open = nr_open
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(NOFILE_WANTED);
    let wanted = NOFILE_WANTED.min(nr_open);
    if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(());
    }
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        bail!("raise the open files limit from {soft} to the hard limit {hard}");
    }
    Ok(())
}
