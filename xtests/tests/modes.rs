//! How data travels in each mode: WRITEs per write(2), kernel passthrough, the writeback cache.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use xtests::support::calls::{open_append, open_rdwr, open_wronly, refused};
use xtests::support::checks::{equal, holds, same_bytes};
use xtests::support::command::succeed;
use xtests::support::mount::{NEVER, is_native};
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, missing, on_daemon, on_mount};

const PAGE: usize = 4096;
const MAX_PAGES_LIMIT: &str = "/proc/sys/fs/fuse/max_pages_limit";

/// Page-aligned bytes: an unaligned buffer takes one page more in a direct write.
struct Aligned {
    room: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize, byte: u8) -> Self {
        let room = vec![byte; len + PAGE];
        let start = room.as_ptr().align_offset(PAGE);
        Self { room, start, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.start + self.len]
    }
}

/// WRITEs that one write(2) sends.
fn requests_of(m: &Mount, file: &File, data: &[u8], offset: u64) -> Result<u64> {
    let before = m.requests("WRITE")?;
    file.write_all_at(data, offset)?;
    Ok(m.requests("WRITE")? - before)
}

fn sized(m: &Mount, name: &str, size: u64) -> Result<File> {
    let file = File::create(m.source(name))?;
    file.set_len(size)?;
    Ok(open_rdwr(m.path(name))?)
}

#[test]
fn write_of_a_mebibyte_without_cache_is_one_request_at_any_offset() -> Outcome {
    on_daemon(&["--cache=never"], |m| {
        let file = sized(m, "f", 4 << 20)?;
        let data = Aligned::new(1 << 20, 5);
        for offset in [0, 1, 100, 2048, 4095, 4096, (1 << 20) + 3] {
            let count = requests_of(m, &file, data.bytes(), offset)?;
            ensure!(count == 1, "1 MiB at {offset}: {count} WRITEs");
            let there = std::fs::read(m.source("f"))?;
            let written = &there[offset as usize..][..data.len];
            same_bytes(format!("1 MiB at {offset}"), written, data.bytes())?;
        }
        Ok(())
    })
}

#[test]
fn write_with_one_page_writes_is_a_request_a_page() -> Outcome {
    on_daemon(&["--one-page-writes", "--cache=auto"], |m| {
        let file = sized(m, "f", 1 << 20)?;
        // Not a constant: while its pages are not in memory the kernel copies up to the next page
        // of the buffer, sends that, and continues: 31 WRITEs.
        let count = requests_of(m, &file, &vec![6; 65536], 0)?;
        ensure!(count == 16, "64 KiB: {count} WRITEs");
        Ok(())
    })
}

#[test]
fn write_of_4_mib_under_a_raised_limit_is_one_request_and_the_limit_is_put_back() -> Outcome {
    case(|| {
        let Ok(before) = std::fs::read_to_string(MAX_PAGES_LIMIT) else {
            return Err(missing(format!("{MAX_PAGES_LIMIT} (Linux 6.13)")));
        };
        let options = [
            "--max-write=4M",
            "--raise-max-pages-limit",
            "--cache=auto",
            NEVER,
        ];
        let m = Mount::new(Backing::Tmpfs, &options)?;
        m.require_mount()?;
        wait_until("the limit to be put back", Duration::from_secs(10), || {
            Ok(std::fs::read_to_string(MAX_PAGES_LIMIT)? == before)
        })?;
        let file = sized(&m, "f", 8 << 20)?;
        let count = requests_of(&m, &file, &vec![7; 4 << 20], 0)?;
        ensure!(count == 1, "4 MiB: {count} WRITEs");
        drop(file);
        m.unmount()
    })
}

#[test]
fn write_under_kernel_passthrough_reaches_source_past_the_daemon() -> Outcome {
    // With --cache=always once open(2) failed: the kernel takes no FOPEN_KEEP_CACHE here.
    for cache in ["--cache=auto", "--cache=always"] {
        on_daemon(&["--passthrough=always", cache], |m| {
            let mut file = File::create(m.path("f"))?;
            equal("WRITEs", requests_of(m, &file, &vec![1; 100_000], 0)?, 0)?;
            // A second handle while the first is open, and one after it was closed.
            let second = File::options().read(true).append(true).open(m.path("f"))?;
            (&second).write_all(b"end")?;
            file.flush()?;
            drop(file);
            let expected = [&vec![1; 100_000], &b"end"[..]].concat();
            holds(m.path("f"), &expected)?;
            holds(m.source("f"), &expected)?;
            equal("size", second.metadata()?.len(), 100_003)
        })?;
    }
    Ok(())
}

/// A SOURCE that does not support kernel passthrough: overlayfs, which is stacked already.
fn on_overlay(option: &str) -> Result<Mount> {
    let scratch = Scratch::new(Backing::Tmpfs)?;
    let layers = scratch.path().join("layers");
    std::fs::create_dir(&layers)?;
    scratch.mount_tmpfs(&layers)?;
    for layer in ["lower", "upper", "work"] {
        std::fs::create_dir(layers.join(layer))?;
    }
    let shown = layers.display();
    let mut mount = Command::new("mount");
    let dirs = format!("lowerdir={shown}/lower,upperdir={shown}/upper,workdir={shown}/work");
    mount.args(["-t", "overlay", "-o", &dirs, "overlay"]);
    succeed(mount.arg(scratch.source()))
        .map_err(|error| missing(format!("overlayfs: {error:#}")))?;
    scratch.adopt(&scratch.source());
    Mount::of(scratch, &[option, "--cache=auto"])
}

#[test]
fn open_that_cannot_be_passed_through_falls_back_under_auto() -> Outcome {
    case(|| {
        let m = on_overlay("--passthrough=auto")?;
        std::fs::write(m.path("f"), "through the daemon")?;
        holds(m.source("f"), b"through the daemon")?;
        m.unmount()
    })
}

#[test]
fn open_that_cannot_be_passed_through_fails_under_always() -> Outcome {
    case(|| {
        if is_native() {
            return Err(missing("a mount (this is a native run)"));
        }
        let m = on_overlay("--passthrough=always")?;
        std::fs::write(m.source("f"), "x")?;
        refused(File::open(m.path("f")), libc::ELOOP)?;
        refused(File::create(m.path("new")), libc::ELOOP)?;
        m.unmount()
    })
}

#[test]
fn write_under_writeback_is_on_source_after_fsync() -> Outcome {
    on_mount(&["--writeback", "--cache=auto"], |m| {
        std::fs::write(m.source("f"), [1; 10_000])?;
        // Write-only, inside a page: the kernel reads the page through this handle.
        let file = open_wronly(m.path("f"))?;
        file.write_all_at(b"inside", 5000)?;
        let mut first = open_append(m.path("f"))?;
        let mut second = open_append(m.path("f"))?;
        for _ in 0..100 {
            first.write_all(&[2; 100])?;
            second.write_all(&[3; 100])?;
        }
        file.sync_all()?;
        let mut expected = vec![1; 10_000];
        expected[5000..5006].copy_from_slice(b"inside");
        for _ in 0..100 {
            expected.extend([2; 100]);
            expected.extend([3; 100]);
        }
        holds(m.source("f"), &expected)?;
        holds(m.path("f"), &expected)
    })
}
