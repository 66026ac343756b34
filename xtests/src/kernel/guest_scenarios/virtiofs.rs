//! The virtiofs devices of the machine, and the questions that a server of others can answer.
//!
//! The server fails every write to the file `refused` and serves all others (the host arranges
//! that). It can neither hold one WRITE while it serves another nor send notifications, so R1 and
//! R4 are asked of /dev/fuse only.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use nix::fcntl::copy_file_range;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use thrufs_rules::Limits;
use thrufs_sys::mapped_io::{Mapping, pwritev};

use super::fresh;
use crate::kernel::devices::{QUEUE_SIZE, REFUSED};

const PAGE: usize = 4096;

/// Pages of a request: the kernel keeps 4 descriptors of the queue for headers.
const MAX_PAGES: u16 = QUEUE_SIZE - 4;
const MAX_WRITE: u32 = 1 << 20;

pub(super) struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// The device of this name.
    pub(super) fn new(tag: &str) -> anyhow::Result<Self> {
        let path = PathBuf::from("/tmp/virtiofs");
        std::fs::create_dir_all(&path)?;
        mount(
            Some(tag),
            &path,
            Some("virtiofs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mounting the machine's virtiofs device {tag}"))?;
        Ok(Self { path })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.path
    }

    /// The limits of a WRITE on it.
    pub(super) fn limits() -> anyhow::Result<Limits> {
        Ok(Limits::new(MAX_WRITE, MAX_PAGES)?)
    }

    pub(super) fn leave(self) -> anyhow::Result<()> {
        umount2(&self.path, MntFlags::empty()).context("unmounting virtiofs")
    }
}

/// A write of `len` bytes `B` at `offset`, which the server must refuse.
fn refuse(file: &File, offset: u64, len: usize) -> anyhow::Result<()> {
    match file.write_at(&vec![b'B'; len], offset) {
        Ok(count) => bail!("the server took {count} bytes that it should have refused"),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
        Err(error) => Err(error).context("writing to the refused file"),
    }
}

/// Content of `refused` that the server accepts: by copy_file_range, which is no write to it.
fn fill(dir: &Path, len: usize) -> anyhow::Result<File> {
    let (_, original) = fresh(dir, "original")?;
    original.write_all_at(&vec![b'A'; len], 0)?;
    let (_, file) = fresh(dir, REFUSED)?;
    copy(&original, &file, 0, len)?;
    Ok(file)
}

fn copy(from: &File, to: &File, offset: i64, len: usize) -> anyhow::Result<()> {
    let (mut start, mut at) = (0, offset);
    let copied = copy_file_range(from, Some(&mut start), to, Some(&mut at), len)?;
    ensure!(copied == len, "copy_file_range copied {copied} of {len}");
    Ok(())
}

/// R3: refused bytes inside of the file must not be readable.
pub(super) fn refused(dir: &Path) -> anyhow::Result<String> {
    let file = fill(dir, 2 * PAGE)?;
    let mut seen = vec![0; 2 * PAGE];
    file.read_exact_at(&mut seen, 0)?;
    ensure!(
        seen == vec![b'A'; 2 * PAGE],
        "the file does not hold what was copied to it"
    );
    refuse(&file, 100, 100)?;
    file.read_exact_at(&mut seen, 0)?;
    match seen.iter().position(|&byte| byte != b'A') {
        Some(at) => bail!("STALE: offset {at}: read {:#x}, expected 0x41", seen[at]),
        None => Ok("ok".into()),
    }
}

/// R2: refused bytes beyond the end must not appear when the file grows.
pub(super) fn ghost(dir: &Path) -> anyhow::Result<String> {
    let file = fill(dir, 100)?;
    let mut first = vec![0; 100];
    file.read_exact_at(&mut first, 0)?;
    refuse(&file, 100, 1000)?;
    let original = File::open(dir.join("original"))?;
    // To another page: the target pages are dropped, and would hide the bytes.
    copy(&original, &file, 8 * PAGE as i64, 100)?;
    // Not by read(2), which notices the new mtime and drops the page.
    let gap = Mapping::of_file(&file, PAGE, true, false)?
        .span(200..1000)?
        .load()?;
    match gap.iter().position(|&byte| byte != 0) {
        Some(at) => bail!(
            "GHOST: offset {}: read {:#x}, expected 0",
            200 + at,
            gap[at]
        ),
        None => Ok("ok".into()),
    }
}

/// R5: the readable part of a buffer is written.
pub(super) fn partly_readable(dir: &Path) -> anyhow::Result<String> {
    let (_, file) = fresh(dir, "partly")?;
    let buffer = Mapping::anonymous(2 * PAGE)?;
    // Neither page has been touched: the kernel must fault, and User Mode Linux would read a
    // present page whatever its protection.
    buffer.forbid_from(PAGE)?;
    let half = PAGE / 2;
    match pwritev(&file, &[buffer.span(half..half + PAGE)?], 0) {
        Ok(count) if count == half => Ok("a short write of half a page".into()),
        Ok(count) => bail!("a write of {count}"),
        Err(error) => bail!("{error}, although a part can be read"),
    }
}
