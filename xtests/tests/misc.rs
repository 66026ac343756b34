//! STATFS, ACCESS, FLUSH, FSYNC and IOCTL, and a read-only mount.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::fs::{Access, AtFlags, CWD, IFlags, accessat, ioctl_getflags, ioctl_setflags, statvfs};
use rustix::io::Errno;
use xtests::support::calls::{close, errno, open_append, open_wronly};
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
        ensure!(
            pick(&got) == pick(&host),
            "{:?}\nSOURCE {:?}",
            pick(&got),
            pick(&host)
        );
        ensure!(
            got.f_frsize == host.f_frsize && got.f_namemax == 255,
            "{}",
            got.f_namemax
        );
        std::fs::write(m.path("f"), vec![1; 1 << 20])?;
        File::open(m.path("f"))?.sync_all()?;
        let after = statvfs(m.dir())?;
        ensure!(
            after.f_bfree + 200 <= got.f_bfree,
            "{} {}",
            got.f_bfree,
            after.f_bfree
        );
        Ok(())
    })
}

#[test]
fn access_follows_the_mode_bits() -> Outcome {
    on_mount(&[], |m| {
        File::create(m.path("f"))?;
        rustix::fs::chmod(m.path("f"), rustix::fs::Mode::from_raw_mode(0o640))?;
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
        ensure!(std::fs::read(m.source("f"))? == b"datamore");
        Ok(())
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
        let project = succeed(Command::new("lsattr").args(["-p"]).arg(m.path("f")))?;
        ensure!(
            project
                == succeed(Command::new("lsattr").args(["-p"]).arg(m.source("f")))?
                    .replace("/source/", "/mnt/")
                || xtests::support::mount::is_native(),
            "{project}"
        );
        Ok(())
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
        let refused = open_wronly(m.path("f")).err();
        ensure!(refused.and_then(|e| e.raw_os_error()) == Some(libc::EPERM));
        open_append(m.path("f"))?.write_all(b"y")?;
        ensure!(std::fs::read(m.path("f"))? == b"xy");
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
        let attempts: [(&str, std::io::Result<()>); 8] = [
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
            let errno = errno(result);
            ensure!(errno == Some(libc::EROFS), "{what}: {errno:?}");
        }
        let chmod = rustix::fs::chmod(path("f"), rustix::fs::Mode::from_raw_mode(0o600));
        ensure!(chmod == Err(Errno::ROFS), "{chmod:?}");
        ensure!(std::fs::read(path("f"))? == b"x" && path("f").metadata()?.nlink() == 1);
        Ok(())
    })
}
