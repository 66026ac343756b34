//! Ordinary work through the mount: each step checks what SOURCE shows right after it, because that
//! is what write-through promises.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use anyhow::{Context, bail, ensure};
use thrufs_sys::mapping::SharedMapping;

use super::report::done;
use super::scratch::Scratch;

const FILES: usize = 100;
const MAPPED: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// Every step.
pub(super) fn work(scratch: &Scratch) -> anyhow::Result<()> {
    many_files(scratch).context("make files and directories")?;
    rename_open_file(scratch).context("rename an open file")?;
    mapping(scratch).context("map a file shared")?;
    links_and_modes(scratch).context("links and modes")?;
    remove(scratch).context("remove a tree")
}

fn many_files(scratch: &Scratch) -> anyhow::Result<()> {
    let through = scratch.mountpoint.join("tree/a/b");
    let native = scratch.source.join("tree/a/b");
    fs::create_dir_all(&through)?;
    for number in 0..FILES {
        let content = format!("file {number}\n").repeat(number + 1);
        let name = format!("{number:03}");
        File::create(through.join(&name))?.write_all(content.as_bytes())?;
        ensure!(
            fs::read_to_string(native.join(&name))? == content,
            "SOURCE differs in {name}"
        );
        ensure!(
            fs::read_to_string(through.join(&name))? == content,
            "the mount differs in {name}"
        );
    }
    let listed = fs::read_dir(&through)?.count();
    ensure!(listed == FILES, "{listed} of {FILES} files are listed");
    done(&format!(
        "{FILES} files in nested directories, each in SOURCE as soon as written"
    ))
}

fn rename_open_file(scratch: &Scratch) -> anyhow::Result<()> {
    let directory = scratch.mountpoint.join("tree");
    let file = File::create_new(directory.join("old"))?;
    file.write_all_at(b"before ", 0)?;
    fs::rename(directory.join("old"), directory.join("new"))?;
    file.write_all_at(b"after", 7)?;
    let content = fs::read(scratch.source.join("tree/new"))?;
    ensure!(
        content == b"before after",
        "the renamed file has {} bytes",
        content.len()
    );
    ensure!(
        !directory.join("old").exists(),
        "the old name is still there"
    );
    fs::remove_file(directory.join("new"))?;
    file.write_all_at(b"unlinked", 0)?;
    let mut data = [0; 8];
    file.read_exact_at(&mut data, 0)?;
    ensure!(&data == b"unlinked", "an unlinked open file lost its data");
    done("an open file written after its rename, and after its unlink")
}

fn mapping(scratch: &Scratch) -> anyhow::Result<()> {
    let path = scratch.mountpoint.join("mapped");
    let file = File::create_new(&path)?;
    file.set_len(MAPPED.get() as u64)?;
    let mapping = SharedMapping::new(&file, MAPPED)?;
    file.write_all_at(b"by write(2)", 0)?;
    ensure!(
        mapping.read(0..11)? == b"by write(2)",
        "a write does not show in the mapping"
    );
    mapping.write(4094, b"by a store")?;
    let mut data = [0; 10];
    file.read_exact_at(&mut data, 4094)?;
    ensure!(&data == b"by a store", "a store does not show in read(2)");
    file.sync_all()?;
    let native = fs::read(scratch.source.join("mapped"))?;
    ensure!(
        native.get(4094..4104) == Some(b"by a store"),
        "SOURCE lacks the store after fsync"
    );
    done("a shared mapping: coherent with read(2) and write(2), in SOURCE after fsync")
}

fn links_and_modes(scratch: &Scratch) -> anyhow::Result<()> {
    let path = scratch.mountpoint.join("mapped");
    let second = scratch.mountpoint.join("second-name");
    fs::hard_link(&path, &second)?;
    std::os::unix::fs::symlink("second-name", scratch.mountpoint.join("symlink"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    let native = fs::metadata(scratch.source.join("second-name"))?;
    let through = fs::metadata(scratch.mountpoint.join("symlink"))?;
    ensure!(
        native.nlink() == 2,
        "SOURCE has {} links, not 2",
        native.nlink()
    );
    ensure!(
        through.mode() & 0o777 == 0o640,
        "mode {:o} instead of 640",
        through.mode() & 0o777
    );
    ensure!(
        through.ino() == native.ino(),
        "the inode number is not the one of SOURCE"
    );
    done("hard link, symbolic link, mode, and the inode number of SOURCE")
}

fn remove(scratch: &Scratch) -> anyhow::Result<()> {
    fs::remove_dir_all(scratch.mountpoint.join("tree"))?;
    if scratch.source.join("tree").exists() {
        bail!("the removed tree is still in SOURCE");
    }
    done("the tree removed")
}
