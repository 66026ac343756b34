//! How many WRITE requests the kernel makes of one write(2), counted by the file system itself.
//!
//! Every shape gets a file of its own, made in SOURCE, so that nothing of it is cached ("cold")
//! unless it is read through the mount first ("warm").

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, ensure};
use thrufs_fs::{Opcode, Passthrough};

use super::report::say;
use super::scratch::Scratch;

/// Longer than every shape reaches.
const FILE_SIZE: usize = 3 << 20;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// One write(2).
struct Shape {
    name: &'static str,
    offset: usize,
    size: usize,
    warm: bool,
    /// What the shape shows.
    remark: &'static str,
}

const fn shape(name: &'static str, offset: usize, size: usize, remark: &'static str) -> Shape {
    Shape {
        name,
        offset,
        size,
        warm: false,
        remark,
    }
}

const SHAPES: &[Shape] = &[
    shape("64 KiB at 0", 0, 64 * KIB, "whole pages"),
    shape(
        "64 KiB at 100",
        100,
        64 * KIB,
        "partial first and last page",
    ),
    Shape {
        name: "64 KiB at 100",
        offset: 100,
        size: 64 * KIB,
        warm: true,
        remark: "the same, pages in the cache",
    },
    shape("4 KiB at 2048", 2048, 4 * KIB, "two partial pages"),
    shape("100 B at 10", 10, 100, "inside a page"),
    shape("1 MiB at 0", 0, MIB, "as much as one WRITE can hold"),
    shape("1 MiB at 1", 1, MIB, "a page more than that"),
];

/// Prints the table.
pub(super) fn table(fs: &Passthrough, scratch: &Scratch) -> anyhow::Result<()> {
    say(&format!(
        "  {:<14} {:<5} {:>5}",
        "write(2)", "cache", "WRITE"
    ))?;
    for (number, shape) in SHAPES.iter().enumerate() {
        let requests =
            measure(fs, scratch, number, shape).with_context(|| format!("write {}", shape.name))?;
        let cache = if shape.warm { "warm" } else { "cold" };
        say(&format!(
            "  {:<14} {cache:<5} {requests:>5}  {}",
            shape.name, shape.remark
        ))?;
    }
    Ok(())
}

fn measure(
    fs: &Passthrough,
    scratch: &Scratch,
    number: usize,
    shape: &Shape,
) -> anyhow::Result<u64> {
    let name = format!("shape-{number}");
    let native = scratch.source.join(&name);
    std::fs::write(&native, vec![b'.'; FILE_SIZE]).context("make the file in SOURCE")?;
    let file = File::options()
        .read(shape.warm)
        .write(true)
        .open(scratch.mountpoint.join(&name))
        .context("open it through the mount")?;
    let offset = shape.offset as u64;
    if shape.warm {
        // Whole pages, so that the partial ones at both ends are in the cache.
        let mut data = vec![0; shape.offset + shape.size + 2 * 4096];
        file.read_exact_at(&mut data, 0)
            .context("read it through the mount")?;
    }
    let data = vec![b'w'; shape.size];
    let before = fs.stats().requests(Opcode::Write);
    let written = file.write_at(&data, offset).context("write(2)")?;
    let requests = fs.stats().requests(Opcode::Write) - before;
    ensure!(
        written == shape.size,
        "write(2) took {written} of {} bytes",
        shape.size
    );
    let content = std::fs::read(&native).context("read SOURCE")?;
    let range = shape.offset..shape.offset + shape.size;
    let mut expected = vec![b'.'; FILE_SIZE];
    expected[range].fill(b'w');
    ensure!(
        content == expected,
        "SOURCE does not hold what write(2) wrote"
    );
    Ok(requests)
}
