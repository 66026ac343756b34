//! STATFS, ACCESS, FLUSH, FSYNC and IOCTL, and a read-only mount.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Access, AtFlags, CWD, IFlags, accessat, ioctl_getflags, ioctl_setflags, statvfs};
use rustix::io::Errno;
use thrufs_sys::verity;
use xtests::support::calls::{chmod, close, open_append, open_wronly, refused};
use xtests::support::checks::{equal, holds};
use xtests::support::command::succeed;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Outcome, User, on_backing, on_daemon, on_mount};

/// Deadline of asynchronous effects.
const TICK: Duration = Duration::from_secs(10);

#[test]
fn statfs_gives_the_backing_numbers() -> Outcome {
    on_backing(Backing::Ext4(30), &[], |m| {
        let (got, host) = (statvfs(m.dir())?, statvfs(m.source(""))?);
        let pick =
            |s: &rustix::fs::StatVfs| (s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree);
        equal("blocks and files", pick(&got), pick(&host))?;
        equal("block size", got.f_frsize, host.f_frsize)?;
        equal("longest name", got.f_namemax, 255)?;
        std::fs::write(m.path("f"), vec![1; 1 << 20])?;
        File::open(m.path("f"))?.sync_all()?;
        let (before, after) = (got.f_bfree, statvfs(m.dir())?.f_bfree);
        ensure!(after + 200 <= before, "{before} {after}");
        Ok(())
    })
}

#[test]
fn access_follows_the_mode_bits() -> Outcome {
    on_mount(&[], |m| {
        File::create(m.path("f"))?;
        chmod(m.path("f"), 0o640)?;
        let path = m.path("f");
        let check = |user: &User, access: Access| {
            user.act(|| Ok(accessat(CWD, &path, access, AtFlags::empty())))
        };
        let (stranger, member) = (User::new(501, 501), User::new(501, 501).in_groups(&[0]));
        ensure!(check(&stranger, Access::EXISTS)? == Ok(()));
        ensure!(check(&stranger, Access::READ_OK)? == Err(Errno::ACCESS));
        ensure!(check(&member, Access::READ_OK)? == Ok(()));
        ensure!(check(&member, Access::WRITE_OK)? == Err(Errno::ACCESS));
        ensure!(accessat(CWD, &path, Access::EXEC_OK, AtFlags::empty()) == Err(Errno::ACCESS));
        Ok(())
    })
}

#[test]
fn fsync_and_close_report_success_and_data_is_there() -> Outcome {
    on_mount(&[], |m| {
        let mut file = File::create(m.path("f"))?;
        file.write_all(b"data")?;
        file.sync_data()?;
        file.sync_all()?;
        let second = file.try_clone()?;
        close(file)?;
        second.write_all_at(b"more", 4)?;
        close(second)?;
        holds(m.source("f"), b"datamore")
    })
}

#[test]
fn ioctl_getflags_and_setflags_reach_source() -> Outcome {
    on_backing(Backing::Ext4(30), &[], |m| {
        std::fs::write(m.path("f"), "x")?;
        let file = File::open(m.path("f"))?;
        let before = ioctl_getflags(&file)?;
        ioctl_setflags(&file, before | IFlags::NODUMP | IFlags::NOATIME)?;
        let host = ioctl_getflags(File::open(m.source("f"))?)?;
        ensure!(host.contains(IFlags::NODUMP | IFlags::NOATIME), "{host:?}");
        ensure!(ioctl_getflags(&file)? == host);
        ioctl_setflags(&file, before)?;
        succeed(Command::new("chattr").arg("+A").arg(m.path("f")))?;
        let flags = |path: PathBuf| {
            let listed = succeed(Command::new("lsattr").arg("-p").arg(&path))?;
            anyhow::Ok(listed.replace(&path.display().to_string(), ""))
        };
        equal("lsattr", flags(m.path("f"))?, flags(m.source("f"))?)
    })
}

/// xfstests generic/277: the kernel does not expect an IOCTL to change attributes, and showed the
/// old change time for as long as it was allowed to cache attributes.
#[test]
fn ioctl_setflags_change_time_is_seen_before_the_attribute_timeout() -> Outcome {
    on_mount(&["--cache=always", "--attr-timeout=1000"], |m| {
        let file = File::create(m.path("f"))?;
        let before = changed(&m.path("f"))?;
        wait_until("the clock to tick", TICK, || {
            ioctl_setflags(&file, ioctl_getflags(&file)? ^ IFlags::NODUMP)?;
            Ok(changed(&m.source("f"))? != before)
        })?;
        // The notification is sent after the reply, so it may come a little later.
        wait_until("the new change time", TICK, || {
            Ok(changed(&m.path("f"))? == changed(&m.source("f"))?)
        })
    })
}

fn changed(path: &Path) -> Result<(i64, i64)> {
    let found = std::fs::metadata(path)?;
    Ok((found.ctime(), found.ctime_nsec()))
}

#[test]
fn ioctl_setflags_append_only_holds_through_the_mount() -> Outcome {
    on_backing(Backing::Ext4(30), &[], |m| {
        std::fs::write(m.path("f"), "x")?;
        let file = File::open(m.path("f"))?;
        ioctl_setflags(&file, ioctl_getflags(&file)? | IFlags::APPEND)?;
        refused(open_wronly(m.path("f")), libc::EPERM)?;
        open_append(m.path("f"))?.write_all(b"y")?;
        holds(m.path("f"), b"xy")?;
        ioctl_setflags(&file, ioctl_getflags(&file)? - IFlags::APPEND)?;
        Ok(())
    })
}

#[test]
fn ioctl_unknown_is_enotty() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), "x")?;
        let file = File::open(m.path("f"))?;
        ensure!(rustix::fs::ioctl_blksszget(&file) == Err(Errno::NOTTY));
        Ok(())
    })
}

/// `struct fsverity_enable_arg` with a salt behind it, and `struct fsverity_digest`: the numbers count the structures.
#[test]
fn ioctl_of_verity_says_what_source_says() -> Outcome {
    for backing in [Backing::Ext4(30), Backing::Btrfs(128), Backing::Tmpfs] {
        on_backing(backing, &[], |m| {
            std::fs::write(m.path("f"), "x")?;
            let asked = |path: PathBuf| {
                let file = File::open(path)?;
                let measured = verity::measure(&file, &[0, 0, 32, 0]);
                // SHA-256, by pages.
                let mut arg = [0; 128];
                for (at, byte) in [(0, 1), (4, 1), (9, 16)] {
                    arg[at] = byte;
                }
                let enabled = verity::enable(&file, &arg);
                let measured = [measured, enabled.map(|()| Vec::new())]
                    .map(|done| done.map_err(|error| error.raw_os_error()));
                anyhow::Ok(measured)
            };
            equal("verity", asked(m.path("f"))?, asked(m.source("f"))?)
        })?;
    }
    Ok(())
}

#[test]
fn ioctl_ficlone_does_as_the_backing_does() -> Outcome {
    on_backing(Backing::Btrfs(128), &[], |m| {
        std::fs::write(m.path("from"), vec![5; 1 << 20])?;
        let (from, to) = (File::open(m.path("from"))?, File::create(m.path("to"))?);
        match rustix::fs::ioctl_ficlone(&to, &from) {
            Ok(()) => ensure!(std::fs::read(m.source("to"))? == vec![5; 1 << 20]),
            // The kernel's FUSE has no remap_file_range: it never reaches the daemon.
            Err(error) => ensure!(error == Errno::OPNOTSUPP, "{error}"),
        }
        Ok(())
    })
}

#[test]
fn readonly_mount_refuses_every_change_with_erofs() -> Outcome {
    on_daemon(&["--readonly"], |m| {
        std::fs::write(m.source("f"), "x")?;
        std::fs::create_dir(m.source("d"))?;
        let path = |name: &str| m.path(name);
        let attempts = [
            ("chmod", chmod(path("f"), 0o600)),
            ("write", open_wronly(path("f")).map(|_| ())),
            ("create", File::create(path("g")).map(|_| ())),
            ("mkdir", std::fs::create_dir(path("e"))),
            ("unlink", std::fs::remove_file(path("f"))),
            ("rmdir", std::fs::remove_dir(path("d"))),
            ("rename", std::fs::rename(path("f"), path("h"))),
            ("symlink", std::os::unix::fs::symlink("x", path("l"))),
            ("link", std::fs::hard_link(path("f"), path("h"))),
        ];
        for (what, result) in attempts {
            refused(result, libc::EROFS).context(what)?;
        }
        ensure!(std::fs::read(path("f"))? == b"x" && path("f").metadata()?.nlink() == 1);
        Ok(())
    })
}
