//! A WRITE that fails or is short: the application gets the exact errno or count, the backing file
//! has exactly the acknowledged bytes, and afterwards read(2) and mappings show the backing file.
//! Byte for byte against an oracle: the old content with the acknowledged bytes of the new one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use thrufs_sys::mapping::SharedMapping;
use xtests::support::calls::{map_shared, open, refused};
use xtests::support::checks::{equal, holds};
use xtests::support::command::succeed;
use xtests::support::mount::{ALLOW_MMAP, NEVER, cache_mode};
use xtests::support::wait::wait_until;
use xtests::support::{
    Backing, Mount, Outcome, Scratch, case, missing, on_backing, on_daemon, on_mount, on_whole,
};

const PAGE: usize = 4096;
/// Largest WRITE of the tests in which one write(2) becomes several.
const MAX_WRITE: usize = 4 * PAGE;
/// The notification follows the reply, and may come after write(2) has returned.
const SOON: Duration = Duration::from_secs(10);

/// Content in which every page, and every byte next to its neighbours, differs.
fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at / PAGE * 7 + at % 251 + seed) as u8)
        .collect()
}

/// The result of one write(2), as pwrite(2) reports it.
fn write_once(file: &File, data: &[u8], offset: usize) -> std::result::Result<usize, i32> {
    file.write_at(data, offset as u64)
        .map_err(|error| error.raw_os_error().unwrap_or(0))
}

/// SOURCE has `expected`, and soon so do read(2), a reopened file, and `mapping`.
fn check_views(
    m: &Mount,
    file: &File,
    mapping: Option<&SharedMapping>,
    expected: &[u8],
) -> Outcome {
    holds(m.source("f"), expected).context("what was acknowledged")?;
    wait_until("read(2) to show the backing file", SOON, || {
        // Longer than the file: bytes beyond its end must not show either.
        let mut seen = vec![0; expected.len() + 4 * PAGE];
        let mut len = 0;
        while let count @ 1.. = file.read_at(&mut seen[len..], len as u64)? {
            len += count;
        }
        Ok(seen[..len] == *expected)
    })?;
    wait_until("a reopened file to show the backing file", SOON, || {
        Ok(std::fs::read(m.path("f"))? == expected)
    })?;
    if let Some(mapping) = mapping {
        let len = expected.len() / PAGE * PAGE;
        wait_until("the mapping to show the backing file", SOON, || {
            Ok(mapping.read(0..len)? == expected[..len])
        })?;
    }
    Ok(())
}

/// One write(2) of several WRITEs with a fault in one of them.
struct Shape {
    /// Where it starts, in a file of 32 pages.
    offset: usize,
    len: usize,
    /// The whole file is cached before.
    warm: bool,
    /// A shared mapping exists, with a store behind the range.
    mapped: bool,
}

/// Runs `shape` with `fault` in its `nth` WRITE, of which `done` bytes arrive.
fn run_shape(shape: &Shape, fault: &str, nth: usize, done: usize, errno: i32) -> Outcome {
    let fault = format!("--fault=write:nth={nth}:{fault}");
    let max_write = format!("--max-write={MAX_WRITE}");
    on_daemon(&[&fault, &max_write, ALLOW_MMAP], |m| {
        let mut expected = content(1, 32 * PAGE);
        std::fs::write(m.source("f"), &expected)?;
        let file = open(&m.path("f"), 0)?;
        let mapping = shape
            .mapped
            .then(|| map_shared(&file, 32 * PAGE))
            .transpose()?;
        if shape.warm {
            file.read_exact_at(&mut vec![0; 32 * PAGE], 0)?;
        }
        let new = content(100, shape.len);
        let count = write_once(&file, &new, shape.offset);
        let arrived = (nth - 1) * MAX_WRITE + done;
        let wanted = if arrived == 0 {
            Err(errno)
        } else {
            Ok(arrived)
        };
        equal("write(2)", count, wanted)?;
        expected.resize(expected.len().max(shape.offset + arrived), 0);
        expected[shape.offset..][..arrived].copy_from_slice(&new[..arrived]);
        check_views(m, &file, mapping.as_ref(), &expected)?;
        if let Some(mapping) = &mapping {
            // A store after the failure brings its own bytes to the file and no refused ones.
            let at = 10 * PAGE + 17;
            mapping.write(at, b"stored")?;
            mapping.sync()?;
            expected[at..at + 6].copy_from_slice(b"stored");
            check_views(m, &file, Some(mapping), &expected)?;
        }
        // The file stays writable: the rest can be written.
        let rest = &new[arrived..];
        let at = shape.offset + arrived;
        file.write_all_at(rest, at as u64)?;
        expected.resize(expected.len().max(at + rest.len()), 0);
        expected[at..at + rest.len()].copy_from_slice(rest);
        check_views(m, &file, mapping.as_ref(), &expected)
    })
}

/// In the first, a middle and the last of four WRITEs.
fn run_everywhere(shape: &Shape) -> Outcome {
    for nth in [1, 2, 4] {
        for (fault, done, errno) in [("EIO", 0, libc::EIO), ("ENOSPC", 0, libc::ENOSPC)] {
            run_shape(shape, fault, nth, done, errno)
                .with_context(|| format!("{fault} in WRITE {nth}"))?;
        }
        for done in [1000, PAGE, 2 * PAGE + 1] {
            run_shape(shape, &format!("short={done}"), nth, done, 0)
                .with_context(|| format!("{done} bytes of WRITE {nth}"))?;
        }
    }
    Ok(())
}

const FOUR: usize = 4 * MAX_WRITE;

#[test]
fn write_refused_inside_a_cold_file_shows_what_the_backing_file_holds() -> Outcome {
    run_everywhere(&Shape {
        offset: 0,
        len: FOUR,
        warm: false,
        mapped: false,
    })
}

#[test]
fn write_refused_inside_a_warm_file_shows_what_the_backing_file_holds() -> Outcome {
    run_everywhere(&Shape {
        offset: 2 * PAGE,
        len: FOUR,
        warm: true,
        mapped: false,
    })
}

#[test]
fn write_refused_under_a_shared_mapping_shows_what_the_backing_file_holds() -> Outcome {
    run_everywhere(&Shape {
        offset: 0,
        len: FOUR,
        warm: true,
        mapped: true,
    })
}

#[test]
fn write_refused_beyond_the_end_shows_what_the_backing_file_holds() -> Outcome {
    run_everywhere(&Shape {
        offset: 30 * PAGE,
        len: FOUR,
        warm: true,
        mapped: false,
    })
}

#[test]
fn write_refused_is_followed_by_one_notification_of_its_range() -> Outcome {
    let options = ["--fault=write:nth=2:EIO", "--log-level=debug"];
    on_daemon(&options, |m| {
        std::fs::write(m.source("f"), content(1, 32 * PAGE))?;
        let file = open(&m.path("f"), 0)?;
        file.write_all_at(&content(2, PAGE), 0)?;
        let told = m.log().contains("NOTIFY_INVAL_INODE");
        ensure!(!told, "nothing failed yet");
        let refused = write_once(&file, &content(3, PAGE), 8 * PAGE);
        equal("write(2)", refused, Err(libc::EIO))?;
        wait_until("the notification", SOON, || {
            let log = m.log();
            let line = log.lines().find(|line| line.contains("NOTIFY_INVAL_INODE"));
            Ok(line.is_some_and(|line| line.contains("32768") && line.contains("4096")))
        })
    })
}

/// The line had the nodeid alone, which no tool finds.
#[test]
fn write_refused_is_logged_with_the_path_below_source() -> Outcome {
    for place in [
        &["--sandbox=namespace"][..],
        &["--sandbox=none"],
        &["--sandbox=none", "--inode-file-handles=never"],
    ] {
        let options = ["--fault=write:nth=1:EIO", "--log-level=debug"];
        on_daemon(&[place, &options].concat(), |m| {
            std::fs::create_dir(m.source("directory"))?;
            std::fs::write(m.source("directory/f"), content(1, PAGE))?;
            let file = open(&m.path("directory/f"), 0)?;
            let refused = write_once(&file, &content(2, PAGE), 0);
            ensure!(refused == Err(libc::EIO), "{refused:?}");
            let backing = rustix::fs::stat(m.source("directory/f"))?;
            let named = format!(
                "inode=\"directory/f\" (device {}:{}, inode {})",
                rustix::fs::major(backing.st_dev),
                rustix::fs::minor(backing.st_dev),
                backing.st_ino
            );
            wait_until("the line of the failed WRITE", SOON, || {
                let log = m.log();
                let line = log.lines().find(|line| line.contains("opcode=\"WRITE\""));
                ensure!(line.is_none_or(|line| line.contains(&named)), "{line:?}");
                Ok(line.is_some())
            })
        })?;
    }
    Ok(())
}

/// A file of four pages, mapped, and its content.
fn mapped(m: &Mount) -> Result<(File, SharedMapping, Vec<u8>)> {
    let content = content(1, 4 * PAGE);
    std::fs::write(m.source("f"), &content)?;
    let file = open(&m.path("f"), 0)?;
    let mapping = map_shared(&file, 4 * PAGE)?;
    Ok((file, mapping, content))
}

#[test]
fn msync_refused_is_reported_and_the_mapping_shows_the_backing_file() -> Outcome {
    // The kernel keeps the pages of a failed writeback clean, with stores that no file has.
    on_daemon(&["--fault=write:nth=1:EIO", ALLOW_MMAP], |m| {
        let (file, mapping, expected) = mapped(m)?;
        mapping.write(PAGE + 5, b"refused")?;
        refused(mapping.sync(), libc::EIO)?;
        check_views(m, &file, Some(&mapping), &expected)
    })
}

#[test]
fn msync_cut_short_is_an_error_and_not_a_silent_loss() -> Outcome {
    // The kernel ignores the count in the answer to a WRITE of its own pages.
    let options = [
        "--fault=write:nth=1:short=10",
        "--fault=write:nth=2:ENOSPC",
        ALLOW_MMAP,
    ];
    on_daemon(&options, |m| {
        let (file, mapping, mut expected) = mapped(m)?;
        mapping.write(PAGE, &[0xee; 64])?;
        refused(mapping.sync(), libc::ENOSPC)?;
        expected[PAGE..PAGE + 10].fill(0xee);
        check_views(m, &file, Some(&mapping), &expected)
    })
}

/// Writes until `full` (ENOSPC or EDQUOT), and a bit on; then compares every byte, and again after
/// truncating to half. `make_room` is for a file system that cannot even truncate when it is full.
fn fill(m: &Mount, sync: i32, full: Errno, make_room: impl FnOnce() -> Outcome) -> Outcome {
    let file = open(&m.path("f"), sync)?;
    let mut expected = Vec::new();
    let mut refused = 0;
    // Sizes that end within pages, beyond a WRITE, and at pages.
    for (round, len) in [100_000, 70_001, 65_536, 4096, 1]
        .iter()
        .cycle()
        .enumerate()
    {
        let new = content(round, *len);
        match write_once(&file, &new, expected.len()) {
            Ok(count) => expected.extend_from_slice(&new[..count]),
            Err(errno) => {
                let said = Errno::from_raw_os_error(errno);
                ensure!(said == full, "write(2) said {said}");
                refused += 1;
            }
        }
        ensure!(expected.len() < 64 << 20, "the file system never filled up");
        if refused == 10 {
            break;
        }
    }
    check_views(m, &file, None, &expected)?;
    make_room()?;
    let space = expected.len() / 2;
    file.set_len(space as u64)?;
    expected.truncate(space);
    check_views(m, &file, None, &expected)
}

#[test]
fn write_on_a_full_ext4_is_enospc_and_loses_and_invents_nothing() -> Outcome {
    on_backing(Backing::Ext4(8), &[], |m| {
        fill(m, 0, Errno::NOSPC, || Ok(()))
    })
}

#[test]
fn write_with_o_dsync_on_a_full_ext4_is_enospc_and_loses_and_invents_nothing() -> Outcome {
    on_backing(Backing::Ext4(8), &[], |m| {
        fill(m, libc::O_DSYNC, Errno::NOSPC, || Ok(()))
    })
}

#[test]
fn write_on_a_full_tmpfs_is_enospc_and_loses_and_invents_nothing() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Here)?;
        let source = scratch.source();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=3m,mode=0755", "tmpfs"]);
        succeed(mount.arg(&source)).map_err(|error| missing(format!("a tmpfs: {error:#}")))?;
        scratch.adopt(&source);
        let mount = Mount::of(scratch, &[])?;
        fill(&mount, 0, Errno::NOSPC, || Ok(()))?;
        mount.unmount()
    })
}

/// Past the daemon, the thread that gave the file to the kernel is whose quota and rights count: it must not have
/// more than the server has.
#[test]
fn write_beyond_the_quota_is_edquot_and_loses_and_invents_nothing() -> Outcome {
    for passthrough in [NEVER, "--passthrough=auto"] {
        on_whole(Backing::Btrfs(512), &[passthrough], |m| {
            m.require_mount()?;
            let btrfs = |arguments: &[&str]| {
                let mut command = Command::new("btrfs");
                succeed(command.args(arguments).arg(m.source("")))
                    .map_err(|error| missing(format!("btrfs quotas: {error:#}")))
            };
            btrfs(&["quota", "enable"])?;
            btrfs(&["qgroup", "limit", "3M"])?;
            fill(m, 0, Errno::DQUOT, || {
                btrfs(&["qgroup", "limit", "none"]).map(drop)
            })?;
            let is_past_the_daemon = passthrough != NEVER && cache_mode() != "never";
            let writes = m.requests("WRITE")?;
            let how = &m.status()?["kernel_passthrough"];
            ensure!(
                (writes == 0) == is_past_the_daemon,
                "{writes} WRITEs, {how}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn write_beyond_the_daemons_rlimit_fsize_is_efbig_and_the_daemon_lives() -> Outcome {
    on_mount(&[NEVER], |m| {
        let pid = Pid::from_raw(m.server_pid()?.as_raw()).context("a process id")?;
        let file = open(&m.path("f"), 0)?;
        let limit = 3 * PAGE + 100;
        let limits = Rlimit {
            current: Some(limit as u64),
            maximum: None,
        };
        prlimit(Some(pid), Resource::Fsize, limits)?;
        let new = content(5, 8 * PAGE);
        let count = write_once(&file, &new, 0);
        ensure!(count == Ok(limit), "write(2) across the limit: {count:?}");
        let refused = write_once(&file, &new, limit);
        equal("write(2) beyond it", refused, Err(libc::EFBIG))?;
        check_views(m, &file, None, &new[..limit])
            .with_context(|| format!("--cache={}", cache_mode()))
    })
}
