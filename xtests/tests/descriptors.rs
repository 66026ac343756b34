//! Memory and descriptors are bounded by configuration, not by the size of the tree.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, ensure};
use xtests::support::{Mount, Outcome, on_mount};

/// Descriptors of a daemon that serves a tree of any size: threads, devices, mount descriptors.
const FEW: usize = 200;

fn make(source: &Path, files: usize) -> Result<()> {
    for index in 0..files {
        let dir = source.join(format!("d{}", index / 1000));
        if index % 1000 == 0 {
            std::fs::create_dir(&dir)?;
        }
        File::create(dir.join(format!("f{index}")))?;
    }
    Ok(())
}

fn walk(dir: &Path) -> Result<usize> {
    let mut seen = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let stat = path.symlink_metadata()?;
        ensure!(stat.ino() != 0);
        seen += if stat.is_dir() { walk(&path)? } else { 1 };
    }
    Ok(seen)
}

fn walked(m: &Mount, files: usize) -> Outcome {
    make(&m.source(""), files)?;
    let seen = walk(m.dir())?;
    ensure!(seen == files, "{seen} of {files} files");
    let open = m.daemon_descriptors()?;
    ensure!(open < FEW, "{open} descriptors for {files} known files");
    // All of them can still be used.
    for index in (0..files).step_by(files / 100) {
        std::fs::write(m.path(&format!("d{}/f{index}", index / 1000)), "x")?;
    }
    Ok(())
}

#[test]
fn walk_of_a_hundred_thousand_files_needs_few_descriptors() -> Outcome {
    on_mount(&["--inode-file-handles=prefer"], |m| {
        m.require_mount()?;
        walked(m, 100_000)
    })
}

#[test]
#[ignore = "long: cargo test --release -p xtests --test descriptors -- --ignored"]
fn walk_of_a_million_files_needs_few_descriptors() -> Outcome {
    on_mount(&["--inode-file-handles=prefer"], |m| {
        m.require_mount()?;
        walked(m, 1_000_000)
    })
}

#[test]
fn create_beyond_the_descriptor_limit_succeeds() -> Outcome {
    on_mount(&["--rlimit-nofile=1024"], |m| {
        for index in 0..3000 {
            std::fs::write(m.path(&format!("f{index}")), "x")?;
        }
        ensure!(walk(m.dir())? == 3000);
        Ok(())
    })
}

#[test]
fn close_of_many_files_closes_them_on_source() -> Outcome {
    on_mount(&[], |m| {
        m.require_mount()?;
        let before = m.daemon_descriptors()?;
        let files: Vec<File> = (0..500)
            .map(|index| File::create(m.path(&format!("f{index}"))))
            .collect::<Result<_, _>>()?;
        ensure!(
            m.daemon_descriptors()? >= before + 500,
            "open files without descriptors"
        );
        drop(files);
        let deadline = std::time::Duration::from_secs(5);
        xtests::support::wait::wait_until("the files to be released", deadline, || {
            Ok(m.daemon_descriptors()? <= before + 5)
        })
    })
}
