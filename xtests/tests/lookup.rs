//! LOOKUP and FORGET: every inode is known exactly as long as the kernel holds it, and has the
//! number that SOURCE gives it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use thrufs_sys::mountinfo::MountPath;
use xtests::support::calls::refused;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, ino, on_backing, on_mount};

/// Concurrent LOOKUP, READDIRPLUS, RENAME, CREATE and UNLINK over few names, with evictions.
fn storm(m: &Mount) -> Outcome {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4usize)
            .map(|worker| {
                scope.spawn(move || -> Outcome {
                    for round in 0..300 {
                        let own = m.path(&format!("d{}/w{worker}-{}", round % 3, round % 20));
                        std::fs::write(&own, "x")?;
                        let moved = m.path(&format!("d{}/m{worker}", (round + 1) % 3));
                        std::fs::rename(&own, &moved)?;
                        ensure!(std::fs::read(&moved)? == b"x");
                        std::fs::hard_link(&moved, &own)?;
                        std::fs::remove_file(&own)?;
                        std::fs::remove_file(&moved)?;
                    }
                    Ok(())
                })
            })
            .collect();
        let walker = scope.spawn(|| -> Outcome {
            while !stop.load(Ordering::Relaxed) {
                for dir in ["d0", "d1", "d2"] {
                    for entry in std::fs::read_dir(m.path(dir))? {
                        // The name may be gone by now; any other error is a failure.
                        match entry?.path().symlink_metadata() {
                            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                                Err(error)?;
                            }
                            _ => {}
                        }
                    }
                }
                std::fs::write("/proc/sys/vm/drop_caches", "2")?;
            }
            Ok(())
        });
        let done = workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no panic"));
        stop.store(true, Ordering::Relaxed);
        walker.join().expect("no panic")?;
        done
    })
}

#[test]
fn forget_after_a_storm_of_lookups_leaves_no_inode_behind() -> Outcome {
    on_mount(&["--inode-file-handles=never"], |m| {
        for dir in ["d0", "d1", "d2"] {
            std::fs::create_dir(m.path(dir))?;
        }
        storm(m)?;
        if xtests::support::mount::is_native() {
            return Ok(());
        }
        // With these options each known inode costs a descriptor, which makes them countable.
        m.drop_caches()?;
        let names = ["a", "b", "c"];
        // While held, the kernel forgets none, even when the caches are dropped; and there is no OPEN.
        let mut held = Vec::new();
        for name in names {
            std::fs::write(m.path(name), "x")?;
            held.push(MountPath::open(&m.path(name))?);
        }
        let known = m.daemon_descriptors()?;
        drop(held);
        for name in names {
            std::fs::remove_file(m.path(name))?;
        }
        wait_until(
            "the descriptors of three removed files to close",
            Duration::from_secs(5),
            || {
                m.drop_caches()?;
                Ok(m.daemon_descriptors()? + 3 <= known)
            },
        )?;
        let after_first = m.daemon_descriptors()?;
        storm(m)?;
        wait_until(
            "as few descriptors as before the second storm",
            Duration::from_secs(5),
            || {
                m.drop_caches()?;
                Ok(m.daemon_descriptors()? <= after_first)
            },
        )
    })
}

#[test]
fn lookup_of_an_inode_number_in_use_again_is_the_new_file() -> Outcome {
    // ext4 gives the number of a removed file to the next new one.
    on_backing(Backing::Ext4(30), &[], |m| {
        let mut reused = 0;
        for round in 0..100 {
            let old = File::create_new(m.path("old"))?;
            old.write_all_at(format!("old {round}").as_bytes(), 0)?;
            let number = old.metadata()?.ino();
            drop(old);
            std::fs::remove_file(m.path("old"))?;
            std::fs::write(m.path("new"), format!("new {round}"))?;
            reused += usize::from(ino(&m.path("new"))? == number);
            ensure!(std::fs::read(m.path("new"))? == format!("new {round}").as_bytes());
            ensure!(m.path("new").metadata()?.nlink() == 1);
            std::fs::remove_file(m.path("new"))?;
        }
        ensure!(
            reused > 0 || !cfg!(target_os = "linux"),
            "ext4 reused no number: test is void"
        );
        Ok(())
    })
}

#[test]
fn lookup_after_source_replaced_a_file_finds_the_new_one() -> Outcome {
    on_backing(
        Backing::Ext4(30),
        &["--attr-timeout=0", "--entry-timeout=0"],
        |m| {
            for round in 0..50 {
                let content = format!("round {round}");
                std::fs::write(m.source("f"), &content)?;
                ensure!(
                    std::fs::read(m.path("f"))? == content.as_bytes(),
                    "{content}"
                );
                std::fs::remove_file(m.source("f"))?;
                ensure!(!m.path("f").exists(), "{content}: still there");
                std::fs::create_dir(m.source("f"))?;
                ensure!(m.path("f").is_dir(), "{content}: not a directory");
                std::fs::remove_dir(m.source("f"))?;
            }
            Ok(())
        },
    )
}

#[test]
fn stat_gives_the_backing_inode_number() -> Outcome {
    on_mount(&[], |m| {
        std::fs::create_dir(m.path("d"))?;
        std::fs::write(m.path("d/f"), "")?;
        std::os::unix::fs::symlink("x", m.path("d/l"))?;
        for name in ["d", "d/f", "d/l"] {
            ensure!(ino(&m.path(name))? == ino(&m.source(name))?, "{name}");
        }
        Ok(())
    })
}

#[test]
fn stat_over_several_devices_gives_unique_and_stable_numbers() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Ext4(30))?;
        for name in ["one", "two"] {
            std::fs::create_dir(scratch.source().join(name))?;
            scratch.mount_tmpfs(&scratch.source().join(name))?;
        }
        let m = Mount::of(scratch, &[])?;
        m.require_mount()?;
        let mut names = Vec::new();
        for dir in ["", "one/", "two/"] {
            for index in 0..20 {
                let name = format!("{dir}f{index}");
                std::fs::write(m.path(&name), &name)?;
                names.push(name);
            }
        }
        let numbers = |m: &Mount| -> Result<BTreeMap<u64, String>> {
            names
                .iter()
                .map(|name| Ok((ino(&m.path(name))?, name.clone())))
                .collect()
        };
        let first = numbers(&m)?;
        ensure!(
            first.len() == names.len(),
            "{} numbers for {} files",
            first.len(),
            names.len()
        );
        for name in names.iter().filter(|name| !name.contains('/')) {
            ensure!(
                ino(&m.path(name))? == ino(&m.source(name))?,
                "{name}: unique, but renumbered"
            );
        }
        m.drop_caches()?;
        ensure!(
            numbers(&m)? == first,
            "other numbers after the inodes were forgotten"
        );
        for name in &names {
            ensure!(
                std::fs::read(m.path(name))? == name.as_bytes(),
                "{name}: another file"
            );
        }
        m.unmount()
    })
}

#[test]
fn rename_across_devices_is_exdev() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Here)?;
        std::fs::create_dir(scratch.source().join("other"))?;
        scratch.mount_tmpfs(&scratch.source().join("other"))?;
        let m = Mount::of(scratch, &[])?;
        std::fs::write(m.path("f"), "x")?;
        refused(std::fs::rename(m.path("f"), m.path("other/f")), libc::EXDEV)?;
        refused(
            std::fs::hard_link(m.path("f"), m.path("other/f")),
            libc::EXDEV,
        )?;
        m.unmount()
    })
}
