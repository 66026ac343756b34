//! GETATTR and SETATTR: modes, owners, times before 1970 and to the nanosecond, sizes.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::fs::{chown, utimensat};
use xtests::support::calls::{chmod, open_rdwr, open_wronly, refused, truncate};
use xtests::support::{Mount, Outcome, User, on_mount};

/// What stat(2) gives must be the same on both sides.
fn same_attributes(m: &Mount, name: &str) -> Outcome {
    let (a, b) = (
        m.path(name).symlink_metadata()?,
        m.source(name).symlink_metadata()?,
    );
    let pick = |s: &std::fs::Metadata| {
        let times = [
            s.atime(),
            s.atime_nsec(),
            s.mtime(),
            s.mtime_nsec(),
            s.ctime(),
            s.ctime_nsec(),
        ];
        (
            s.mode(),
            s.uid(),
            s.gid(),
            s.size(),
            s.blocks(),
            s.nlink(),
            times,
            s.rdev(),
            s.ino(),
        )
    };
    ensure!(
        pick(&a) == pick(&b),
        "{name}: {:?}\non SOURCE {:?}",
        pick(&a),
        pick(&b)
    );
    Ok(())
}

#[test]
fn getattr_of_every_type_equals_the_backing() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("file"), vec![1; 10_000])?;
        std::fs::create_dir(m.path("dir"))?;
        std::os::unix::fs::symlink("a/b/c", m.path("link"))?;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, m.path("fifo"), rustix::fs::FileType::Fifo, mode, 0)?;
        rustix::fs::mknodat(
            CWD,
            m.path("null"),
            rustix::fs::FileType::CharacterDevice,
            mode,
            device,
        )?;
        for name in ["file", "dir", "link", "fifo", "null"] {
            same_attributes(m, name)?;
        }
        Ok(())
    })
}

#[test]
fn chmod_of_every_bit_is_on_source() -> Outcome {
    on_mount(&[], |m| {
        File::create(m.path("f"))?;
        for mode in [0, 0o777, 0o4755, 0o2755, 0o1644, 0o7777, 0o640] {
            chmod(m.path("f"), mode)?;
            let got = m.source("f").metadata()?.mode() & 0o7777;
            ensure!(got == mode, "{mode:o}: {got:o}");
            same_attributes(m, "f")?;
        }
        Ok(())
    })
}

#[test]
fn chmod_of_an_unlinked_open_file_works() -> Outcome {
    on_mount(&[], |m| {
        let file = File::create(m.path("f"))?;
        std::fs::remove_file(m.path("f"))?;
        file.set_permissions(PermissionsExt::from_mode(0o640))?;
        ensure!(file.metadata()?.mode() & 0o7777 == 0o640);
        rustix::fs::fchown(&file, Some(Uid::from_raw(7)), Some(Gid::from_raw(8)))?;
        ensure!((file.metadata()?.uid(), file.metadata()?.gid()) == (7, 8));
        file.set_len(77)?;
        ensure!(file.metadata()?.len() == 77);
        Ok(())
    })
}

#[test]
fn chown_of_either_or_both_changes_just_that() -> Outcome {
    on_mount(&[], |m| {
        File::create(m.path("f"))?;
        std::os::unix::fs::symlink("f", m.path("l"))?;
        let owner = |name: &str| -> Result<(u32, u32)> {
            let stat = m.source(name).symlink_metadata()?;
            Ok((stat.uid(), stat.gid()))
        };
        chown(
            m.path("f"),
            Some(Uid::from_raw(11)),
            Some(Gid::from_raw(12)),
        )?;
        ensure!(owner("f")? == (11, 12));
        chown(m.path("f"), Some(Uid::from_raw(13)), None)?;
        ensure!(owner("f")? == (13, 12));
        chown(m.path("f"), None, Some(Gid::from_raw(14)))?;
        ensure!(owner("f")? == (13, 14));
        let (uid, gid) = (Some(Uid::from_raw(21)), Some(Gid::from_raw(22)));
        rustix::fs::chownat(CWD, m.path("l"), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        ensure!(
            owner("l")? == (21, 22) && owner("f")? == (13, 14),
            "lchown followed the link"
        );
        same_attributes(m, "f")
    })
}

#[test]
fn chown_by_a_user_clears_setuid_as_natively() -> Outcome {
    on_mount(&[], |m| {
        for path in [m.path("f"), m.source("native")] {
            File::create(&path)?;
            chown(&path, Some(Uid::from_raw(500)), Some(Gid::from_raw(500)))?;
            chmod(&path, 0o6755)?;
            User::new(500, 500)
                .in_groups(&[600])
                .act(|| Ok(chown(&path, None, Some(Gid::from_raw(600)))?))?;
        }
        let (got, native) = (m.source("f").metadata()?, m.source("native").metadata()?);
        ensure!(
            got.gid() == 600 && got.mode() == native.mode(),
            "{:o} {:o}",
            got.mode(),
            native.mode()
        );
        Ok(())
    })
}

#[test]
fn write_by_a_user_clears_setuid_and_setgid() -> Outcome {
    on_mount(&[], |m| {
        for (name, size) in [("small", 10), ("large", 300_000)] {
            let path = m.path(name);
            File::create(&path)?;
            chown(&path, Some(Uid::from_raw(500)), Some(Gid::from_raw(500)))?;
            chmod(&path, 0o6777)?;
            User::new(501, 501).act(|| {
                open_wronly(&path)?.write_all_at(&vec![1; size], 0)?;
                Ok(())
            })?;
            let mode = m.source(name).metadata()?.mode() & 0o7777;
            ensure!(mode == 0o777, "{name}: {mode:o} on SOURCE");
            let mode = path.metadata()?.mode() & 0o7777;
            ensure!(mode == 0o777, "{name}: {mode:o} through the mount");
        }
        Ok(())
    })
}

#[test]
fn truncate_by_a_user_clears_setuid_and_setgid() -> Outcome {
    on_mount(&[], |m| {
        let path = m.path("f");
        std::fs::write(&path, "0123456789")?;
        chown(&path, Some(Uid::from_raw(500)), Some(Gid::from_raw(500)))?;
        chmod(&path, 0o6777)?;
        User::new(501, 501).act(|| Ok(open_wronly(&path)?.set_len(5)?))?;
        let mode = m.source("f").metadata()?.mode() & 0o7777;
        ensure!(mode == 0o777, "{mode:o}");
        Ok(())
    })
}

fn set_times(path: &Path, atime: (i64, i64), mtime: (i64, i64)) -> Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: atime.0,
            tv_nsec: atime.1,
        },
        last_modification: Timespec {
            tv_sec: mtime.0,
            tv_nsec: mtime.1,
        },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(path: &Path) -> Result<((i64, i64), (i64, i64))> {
    let stat = path.symlink_metadata()?;
    Ok((
        (stat.atime(), stat.atime_nsec()),
        (stat.mtime(), stat.mtime_nsec()),
    ))
}

#[test]
fn utimens_to_the_nanosecond_and_before_1970_is_kept() -> Outcome {
    on_mount(&[], |m| {
        let (path, source) = (m.path("f"), m.source("f"));
        File::create(&path)?;
        let cases = [
            ((1, 999_999_999), (2, 1)),
            ((0, 0), (1_700_000_000, 123_456_789)),
            ((-1, 0), (-1, 500_000_000)),
            ((-2, 999_999_999), (-1_000_000_000, 1)),
            ((4_000_000_000, 7), (8_000_000_000, 8)),
        ];
        for (atime, mtime) in cases {
            set_times(&path, atime, mtime)?;
            ensure!(
                times(&source)? == (atime, mtime),
                "on SOURCE: {:?}",
                times(&source)?
            );
            ensure!(
                times(&path)? == (atime, mtime),
                "through the mount: {:?}",
                times(&path)?
            );
        }
        Ok(())
    })
}

#[test]
fn utimens_omit_and_now_change_just_that() -> Outcome {
    on_mount(&[], |m| {
        let (path, source) = (m.path("f"), m.source("f"));
        File::create(&path)?;
        set_times(&path, (100, 1), (200, 2))?;
        set_times(&path, (0, UTIME_OMIT), (300, 3))?;
        ensure!(
            times(&source)? == ((100, 1), (300, 3)),
            "{:?}",
            times(&source)?
        );
        set_times(&path, (400, 4), (0, UTIME_OMIT))?;
        ensure!(
            times(&source)? == ((400, 4), (300, 3)),
            "{:?}",
            times(&source)?
        );
        set_times(&path, (0, UTIME_NOW), (0, UTIME_OMIT))?;
        let (atime, mtime) = times(&source)?;
        ensure!(
            atime.0 > 1_000_000_000 && mtime == (300, 3),
            "{atime:?} {mtime:?}"
        );
        Ok(())
    })
}

#[test]
fn utimens_on_a_symlink_does_not_follow_it() -> Outcome {
    on_mount(&[], |m| {
        File::create(m.path("f"))?;
        set_times(&m.path("f"), (10, 0), (20, 0))?;
        std::os::unix::fs::symlink("f", m.path("l"))?;
        set_times(&m.path("l"), (30, 0), (40, 0))?;
        ensure!(times(&m.source("l"))? == ((30, 0), (40, 0)));
        ensure!(times(&m.source("f"))? == ((10, 0), (20, 0)));
        Ok(())
    })
}

#[test]
fn truncate_down_and_up_zeroes_the_gap() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), vec![7; 10_000])?;
        ensure!(std::fs::read(m.path("f"))?.len() == 10_000);
        let file = open_rdwr(m.path("f"))?;
        file.set_len(5000)?;
        ensure!(m.source("f").metadata()?.len() == 5000);
        file.set_len(20_000)?;
        for content in [std::fs::read(m.path("f"))?, std::fs::read(m.source("f"))?] {
            ensure!(content.len() == 20_000);
            ensure!(content[..5000].iter().all(|b| *b == 7), "the head changed");
            ensure!(
                content[5000..].iter().all(|b| *b == 0),
                "old bytes came back"
            );
        }
        same_attributes(m, "f")
    })
}

#[test]
fn truncate_by_path_needs_no_open_file() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), "0123456789")?;
        truncate(&m.path("f"), 4)?;
        ensure!(std::fs::read(m.source("f"))? == b"0123");
        refused(truncate(m.dir(), 4), libc::EISDIR)?;
        Ok(())
    })
}

#[test]
fn write_moves_mtime_and_ctime_forward() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), "x")?;
        set_times(&m.path("f"), (10, 0), (20, 0))?;
        let before = m.path("f").metadata()?;
        let file = open_wronly(m.path("f"))?;
        file.write_all_at(b"y", 0)?;
        let after = file.metadata()?;
        ensure!(after.mtime() > 20, "mtime {}", after.mtime());
        ensure!((after.ctime(), after.ctime_nsec()) >= (before.ctime(), before.ctime_nsec()));
        same_attributes(m, "f")
    })
}

#[test]
fn link_count_follows_link_unlink_mkdir_and_rmdir() -> Outcome {
    on_mount(&[], |m| {
        std::fs::create_dir(m.path("d"))?;
        File::create(m.path("f"))?;
        let nlink = |name: &str| -> Result<u64> { Ok(m.path(name).metadata()?.nlink()) };
        let fresh = nlink("d")?;
        std::fs::hard_link(m.path("f"), m.path("g"))?;
        ensure!(nlink("f")? == 2 && nlink("g")? == 2);
        std::fs::remove_file(m.path("f"))?;
        ensure!(nlink("g")? == 1);
        std::fs::create_dir(m.path("d/sub"))?;
        ensure!(nlink("d")? == m.source("d").metadata()?.nlink());
        std::fs::remove_dir(m.path("d/sub"))?;
        ensure!(nlink("d")? == fresh);
        Ok(())
    })
}
