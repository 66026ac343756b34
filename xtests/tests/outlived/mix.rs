//! All kinds of requests by several callers, in which the server is killed at any moment.

use anyhow::{Context, Result};
use xtests::support::asked::{ROUNDS, number};
use xtests::support::load::under_load;
use xtests::support::random::Random;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, case};

use super::{SOON, deaths, kill_server, limit, mounted};

/// Callers.
const WORKERS: usize = 8;
/// Deaths that a mount is to outlive, unless another number is asked for.
const DEATHS: u64 = 40;

#[test]
fn server_killed_at_any_moment_is_noticed_by_no_caller() -> Outcome {
    case(|| {
        survive(&["--sandbox=namespace", "--cache=auto"])?;
        survive(&["--sandbox=none", "--cache=never"])
    })
}

/// The mix on a mount with these options.
pub(super) fn survive(options: &[&str]) -> Outcome {
    let wanted = number(ROUNDS, DEATHS)?;
    let m = mounted(Backing::Ext4(256), &[&["--xattr"], options].concat())?;
    let m = m.allow(limit(wanted));
    let free = || -> Result<u64> { Ok(rustix::fs::statvfs(m.source(""))?.f_ffree) };
    let before = free()?;
    let checks = mix(&m, wanted).with_context(|| format!("{options:?}\n{}", m.log()))?;
    eprintln!("{options:?}: {} deaths, {checks} rounds", deaths(&m)?);
    check_next_to_nothing_is_left(&m, wanted)?;
    // What holds a file that was removed: a descriptor, or the kernel by a backing id.
    wait_until("what was removed to be gone", SOON, || {
        Ok(free()? + wanted / 10 >= before)
    })?;
    m.unmount()
}

/// A death between two stores leaves a lookup of one inode, which is held until the unmount.
fn check_next_to_nothing_is_left(m: &Mount, deaths: u64) -> Outcome {
    wait_until("next to all to be forgotten", SOON, || {
        m.drop_caches()?;
        let status = m.status()?;
        let inodes = status["inodes"].as_u64().context("no inodes")?;
        Ok(status["handles"] == 0 && inodes <= 1 + deaths / 20)
    })?;
    let inodes = &m.status()?["inodes"];
    eprintln!("afterwards {inodes} inodes, the root included");
    Ok(())
}

/// Returns how many rounds were checked.
fn mix(m: &Mount, wanted: u64) -> Result<u64> {
    under_load(m.dir(), WORKERS, |load| {
        let mut random = Random(1);
        for _death in 0..wanted {
            // As much as was done, not as long as it took.
            load.wait_for(1 + random.below(12) as u64)?;
            kill_server(m)?;
        }
        Ok(())
    })
}
