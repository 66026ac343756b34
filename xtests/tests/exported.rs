//! Who has a file handle of the mount, as an NFS server has, finds the file again when the kernel has forgotten
//! it (FUSE_EXPORT_SUPPORT), and never another file.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thrufs_sys::file_handle::FileHandle;
use xtests::support::calls::refused;
use xtests::support::checks::equal;
use xtests::support::mount::is_native;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, on_backing};

const SOON: Duration = Duration::from_secs(20);

/// SOURCE on file systems that have file handles.
fn in_each_way(body: impl Fn(&Mount) -> Outcome) -> Outcome {
    [Backing::Tmpfs, Backing::Ext4(32)]
        .iter()
        .try_for_each(|backing| on_backing(*backing, &["--inode-file-handles=prefer"], &body))
}

fn handle(path: &Path) -> Result<FileHandle> {
    let file = File::open(path)?;
    FileHandle::of(&file).with_context(|| format!("a file handle of {}", path.display()))
}

fn open(m: &Mount, handle: &FileHandle) -> std::io::Result<File> {
    let top = File::open(m.dir())?;
    handle.open(top.as_fd(), libc::O_RDONLY).map(File::from)
}

/// Until the kernel knows no inode of the mount but the root.
fn evict(m: &Mount) -> Outcome {
    if is_native() {
        return m.drop_caches();
    }
    wait_until("the FORGETs", SOON, || {
        m.drop_caches()?;
        let status = m.status()?;
        Ok(status["inodes"].as_u64().context("inodes in the status")? == 1)
    })
}

#[test]
fn open_by_handle_after_eviction_finds_the_file_and_its_directories() -> Outcome {
    in_each_way(|m| {
        std::fs::create_dir_all(m.path("a/b/c"))?;
        std::fs::write(m.path("a/b/c/f"), "content")?;
        let file = handle(&m.path("a/b/c/f"))?;
        let dir = handle(&m.path("a/b/c"))?;
        evict(m)?;
        let mut content = String::new();
        open(m, &file)?.read_to_string(&mut content)?;
        equal("the file", content.as_str(), "content")?;
        evict(m)?;
        // The kernel asks for each directory above, and for its name in there.
        let found = open(m, &dir)?;
        let link = format!("/proc/self/fd/{}", found.as_raw_fd());
        equal("the directory", std::fs::read_link(link)?, m.path("a/b/c"))?;
        std::fs::rename(m.path("a/b"), m.path("moved"))?;
        drop(found);
        evict(m)?;
        open(m, &dir)
            .map(drop)
            .context("a directory that was moved")
    })
}

#[test]
fn open_by_handle_of_a_file_that_is_gone_is_estale_also_when_its_number_is_used_again() -> Outcome {
    in_each_way(|m| {
        for round in 0..20 {
            std::fs::write(m.path("f"), "before")?;
            let before = handle(&m.path("f"))?;
            if round % 2 == 0 {
                evict(m)?;
            }
            std::fs::remove_file(m.path("f"))?;
            std::fs::write(m.path("g"), "after")?;
            let after = handle(&m.path("g"))?;
            ensure!(before != after, "two files have one handle");
            refused(open(m, &before), libc::ESTALE)?;
            if round % 4 > 1 {
                evict(m)?;
                refused(open(m, &before), libc::ESTALE)?;
            }
            let mut content = String::new();
            open(m, &after)?.read_to_string(&mut content)?;
            equal("the new file", content.as_str(), "after")?;
            std::fs::remove_file(m.path("g"))?;
        }
        Ok(())
    })
}

/// As an export that is used while others change the tree.
#[test]
fn open_by_handle_of_what_source_replaced_is_estale() -> Outcome {
    in_each_way(|m| {
        std::fs::write(m.path("f"), "before")?;
        let before = handle(&m.path("f"))?;
        evict(m)?;
        std::fs::write(m.source("new"), "after")?;
        std::fs::rename(m.source("new"), m.source("f"))?;
        refused(open(m, &before), libc::ESTALE)
    })
}

/// The control: what is found is found by the capability.
#[test]
fn open_by_handle_after_eviction_without_the_capability_is_estale() -> Outcome {
    let options = [
        "--inode-file-handles=prefer",
        "--without=FUSE_EXPORT_SUPPORT",
    ];
    on_backing(Backing::Tmpfs, &options, |m| {
        m.require_mount()?;
        std::fs::write(m.path("f"), "content")?;
        let file = handle(&m.path("f"))?;
        open(m, &file)?;
        evict(m)?;
        refused(open(m, &file), libc::ESTALE)
    })
}
