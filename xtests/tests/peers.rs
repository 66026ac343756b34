//! The peers that thrufs is compared with: each mounts, writes through, and ends.

use std::fs;

use anyhow::{Result, ensure};
use xtests::support::mount::is_default_run;
use xtests::support::mount_table::{is_mounted, mount_line};
use xtests::support::peers::{Kind, Peer};
use xtests::support::skip::{Outcome, case, missing};
use xtests::support::{Backing, Scratch};

fn write_is_in_the_source_and_unmount_leaves_nothing(kind: Kind) -> Outcome {
    case(|| {
        // Not a question of the settings: one run of the tier is enough.
        if !is_default_run() {
            return Err(missing("nothing: peers are tested once, with the defaults"));
        }
        let scratch = Scratch::new(Backing::Tmpfs)?;
        let peer = Peer::mount(kind, &scratch.source())?;
        let line = mount_line(&peer.dir()).unwrap_or_default();
        ensure!(line.contains(" fuse"), "no FUSE mount: {line}");
        let content = vec![7; 300_000];
        fs::write(peer.dir().join("file"), &content)?;
        ensure!(fs::read(scratch.source().join("file"))? == content);
        ensure!(fs::read(peer.dir().join("file"))? == content);
        let dir = peer.dir();
        peer.unmount()?;
        ensure!(!is_mounted(&dir));
        Ok(())
    })
}

#[test]
fn passthrough_ll_write_is_in_the_source() -> Result<()> {
    write_is_in_the_source_and_unmount_leaves_nothing(Kind::PassthroughLl)
}

#[test]
fn passthrough_hp_write_is_in_the_source() -> Result<()> {
    write_is_in_the_source_and_unmount_leaves_nothing(Kind::PassthroughHp)
}

#[test]
fn passthrough_hp_kernel_passthrough_write_is_in_the_source() -> Result<()> {
    write_is_in_the_source_and_unmount_leaves_nothing(Kind::PassthroughHpKernel)
}

#[test]
fn passthrough_hp_io_uring_write_is_in_the_source() -> Result<()> {
    write_is_in_the_source_and_unmount_leaves_nothing(Kind::PassthroughHpUring)
}

#[test]
fn bindfs_write_is_in_the_source() -> Result<()> {
    write_is_in_the_source_and_unmount_leaves_nothing(Kind::Bindfs)
}
