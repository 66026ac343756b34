//! Limits of the process that a file server needs otherwise than a program does.

use std::os::fd::AsFd;

use anyhow::{Context, anyhow, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

/// What the daemon tries to get when no number is asked for (virtiofsd's value).
const NOFILE_WANTED: u64 = 1_000_000;

/// Descriptors of the whole system (fs.file-max) that are left to others (virtiofsd's value).
const SYSTEM_RESERVE: u64 = 16_384;

/// Sets umask and RLIMIT_NOFILE. `None` takes as much as the kernel allows, `Some(0)` leaves the limit alone,
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

/// Slots that the table of descriptors has from the start: 128 KiB of the kernel's memory.
const ROOM: u64 = 16_384;

/// Has the kernel make the table of descriptors large, by a copy of `fd` with a high number. Must be called while the
/// process has one thread: with more, each time that the table doubles, expand_files() in fs/file.c waits for an RCU
/// grace period, which takes 10 to 20 ms, and a mount that is walked for the first time waits for it again and again.
pub(crate) fn make_room_for_descriptors(fd: impl AsFd) {
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft.min(ROOM));
    if let Ok(number) = i32::try_from(most.saturating_sub(1)) {
        // Without it all goes on, slower.
        let _copy = rustix::io::fcntl_dupfd_cloexec(fd, number);
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
    let wanted = wanted_nofile(
        sysctl("fs/nr_open").unwrap_or(NOFILE_WANTED),
        sysctl("fs/file-max").unwrap_or(u64::MAX),
    );
    if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(());
    }
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        bail!("raise the open files limit from {soft} to the hard limit {hard}");
    }
    Ok(())
}

fn sysctl(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    text.trim().parse().ok()
}

/// What one process may have (`nr_open`), and what leaves others something of `file_max`.
fn wanted_nofile(nr_open: u64, file_max: u64) -> u64 {
    NOFILE_WANTED
        .min(nr_open)
        .min(file_max.saturating_sub(SYSTEM_RESERVE).max(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_nofile_on_a_small_system_leaves_others_a_reserve() {
        assert_eq!(wanted_nofile(1 << 20, u64::MAX), 1_000_000);
        assert_eq!(wanted_nofile(4096, u64::MAX), 4096);
        assert_eq!(wanted_nofile(1 << 20, 100_000), 83_616);
        assert_eq!(wanted_nofile(1 << 20, 10_000), 1024);
    }
}
