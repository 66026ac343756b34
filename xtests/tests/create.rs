//! Creation happens as the caller: owner, group, setgid directories, umask and default ACLs are as
//! on the native file system, for every way to make a name.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use rustix::fs::{CWD, FileType, Mode, chown, mkdirat, mknodat, openat};
use rustix::fs::{Gid, OFlags, Uid};
use xtests::support::calls::chmod;
use xtests::support::command::succeed;
use xtests::support::{Mount, Outcome, User, on_mount};

const ALICE: u32 = 23_001;
const STAFF: u32 = 23_100;
const EXTRA: u32 = 23_200;

/// A directory with this owner and mode.
fn directory(m: &Mount, name: &str, owner: (u32, u32), mode: u32) -> Result<std::path::PathBuf> {
    let path = m.path(name);
    std::fs::create_dir(&path)?;
    chown(
        &path,
        Some(Uid::from_raw(owner.0)),
        Some(Gid::from_raw(owner.1)),
    )?;
    chmod(&path, mode)?;
    Ok(path)
}

/// Makes one of each kind in `dir`.
fn make_all(dir: &Path, mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode);
    openat(
        CWD,
        dir.join("file"),
        OFlags::CREATE | OFlags::EXCL | OFlags::RDWR,
        mode,
    )?;
    mkdirat(CWD, dir.join("dir"), mode)?;
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0)?;
    mknodat(CWD, dir.join("node"), FileType::RegularFile, mode, 0)?;
    std::os::unix::fs::symlink("target", dir.join("link"))?;
    Ok(())
}

/// `(name, uid, gid, mode)` of each, on SOURCE.
fn made(m: &Mount, dir: &str) -> Result<Vec<(String, u32, u32, u32)>> {
    let mut all = Vec::new();
    for name in ["file", "dir", "fifo", "node", "link"] {
        let through = m.path(dir).join(name).symlink_metadata()?;
        let host = m.source(dir).join(name).symlink_metadata()?;
        ensure!(
            (through.uid(), through.gid(), through.mode()) == (host.uid(), host.gid(), host.mode()),
            "{name}: the mount and SOURCE disagree"
        );
        all.push((
            name.to_owned(),
            host.uid(),
            host.gid(),
            host.mode() & 0o7777,
        ));
    }
    Ok(all)
}

#[test]
fn create_by_a_user_belongs_to_the_caller() -> Outcome {
    on_mount(&[], |m| {
        let dir = directory(m, "d", (ALICE, STAFF), 0o755)?;
        User::new(ALICE, STAFF).act(|| make_all(&dir, 0o666))?;
        for (name, uid, gid, mode) in made(m, "d")? {
            ensure!((uid, gid) == (ALICE, STAFF), "{name}: {uid}:{gid}");
            ensure!(name == "link" || mode == 0o644, "{name}: {mode:o}");
        }
        Ok(())
    })
}

#[test]
fn create_with_umask_clears_those_bits() -> Outcome {
    on_mount(&[], |m| {
        for umask in [0, 0o002, 0o027, 0o077] {
            let name = format!("d{umask}");
            let dir = directory(m, &name, (ALICE, STAFF), 0o755)?;
            User::new(ALICE, STAFF)
                .with_umask(umask)
                .act(|| make_all(&dir, 0o777))?;
            for (name, _, _, mode) in made(m, &name)? {
                ensure!(
                    name == "link" || mode == 0o777 & !umask,
                    "umask {umask:o} {name}: {mode:o}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn create_where_only_a_supplementary_group_may_write_succeeds() -> Outcome {
    on_mount(&[], |m| {
        let dir = directory(m, "d", (0, EXTRA), 0o770)?;
        let refused = User::new(ALICE, STAFF).act(|| Ok(make_all(&dir, 0o666).is_err()))?;
        ensure!(refused, "a stranger may write");
        User::new(ALICE, STAFF)
            .in_groups(&[EXTRA])
            .act(|| make_all(&dir, 0o666))?;
        for (name, uid, gid, _) in made(m, "d")? {
            ensure!((uid, gid) == (ALICE, STAFF), "{name}: {uid}:{gid}");
        }
        Ok(())
    })
}

#[test]
fn create_in_a_setgid_directory_takes_its_group() -> Outcome {
    on_mount(&[], |m| {
        let dir = directory(m, "d", (ALICE, EXTRA), 0o2775)?;
        User::new(ALICE, STAFF).act(|| make_all(&dir, 0o755))?;
        for (name, uid, gid, mode) in made(m, "d")? {
            ensure!((uid, gid) == (ALICE, EXTRA), "{name}: {uid}:{gid}");
            if name == "dir" {
                ensure!(
                    mode == 0o2755,
                    "a directory inherits the setgid bit: {mode:o}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn create_of_a_setgid_file_by_a_stranger_to_the_group_drops_the_bit() -> Outcome {
    on_mount(&[], |m| {
        let dir = directory(m, "d", (ALICE, EXTRA), 0o2777)?;
        let native = m.source("native");
        std::fs::create_dir(&native)?;
        chown(
            &native,
            Some(Uid::from_raw(ALICE)),
            Some(Gid::from_raw(EXTRA)),
        )?;
        chmod(&native, 0o2777)?;
        let user = User::new(ALICE, STAFF).with_umask(0);
        for dir in [&dir, &native] {
            user.act(|| {
                openat(
                    CWD,
                    dir.join("f"),
                    OFlags::CREATE | OFlags::RDWR,
                    Mode::from_raw_mode(0o2775),
                )?;
                Ok(())
            })?;
        }
        let (got, expected) = (
            m.source("d/f").metadata()?.mode(),
            native.join("f").metadata()?.mode(),
        );
        ensure!(got == expected, "{got:o}, natively {expected:o}");
        Ok(())
    })
}

#[test]
fn create_with_a_read_only_mode_gives_a_writable_descriptor() -> Outcome {
    on_mount(&[], |m| {
        let dir = directory(m, "d", (ALICE, STAFF), 0o755)?;
        User::new(ALICE, STAFF).act(|| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            let file = openat(CWD, dir.join("f"), flags, Mode::from_raw_mode(0o444))?;
            rustix::io::write(&file, b"data")?;
            Ok(())
        })?;
        ensure!(std::fs::read(m.source("d/f"))? == b"data");
        Ok(())
    })
}

#[test]
fn create_exclusive_of_an_existing_name_is_eexist() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), "keep")?;
        std::os::unix::fs::symlink("nowhere", m.path("l"))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        for name in ["f", "l"] {
            let got = openat(CWD, m.path(name), flags, Mode::from_raw_mode(0o600));
            ensure!(got.err() == Some(rustix::io::Errno::EXIST), "{name}");
        }
        ensure!(std::fs::read(m.source("f"))? == b"keep");
        Ok(())
    })
}

#[test]
fn create_through_a_dangling_symlink_makes_its_target_inside_the_mount() -> Outcome {
    on_mount(&[], |m| {
        std::os::unix::fs::symlink("target", m.path("l"))?;
        std::fs::write(m.path("l"), "x")?;
        ensure!(std::fs::read(m.source("target"))? == b"x");
        Ok(())
    })
}

#[test]
fn create_on_a_directory_that_source_refuses_is_eacces_for_a_user() -> Outcome {
    on_mount(&[], |m| {
        let dir = directory(m, "d", (0, 0), 0o755)?;
        let got = User::new(ALICE, STAFF).act(|| Ok(std::fs::write(dir.join("f"), "x").err()))?;
        ensure!(got.and_then(|e| e.raw_os_error()) == Some(libc::EACCES));
        ensure!(!m.source("d/f").exists());
        Ok(())
    })
}

/// The ACL of `name` as getfacl prints it, on SOURCE.
fn acl(m: &Mount, name: &str) -> Result<String> {
    succeed(Command::new("getfacl").args(["-cnp"]).arg(m.source(name)))
}

#[test]
fn create_under_a_default_acl_inherits_it_as_natively() -> Outcome {
    on_mount(&["--posix-acl"], |m| {
        let entries = "u::rwx,g::r-x,o::---,u:23001:rwx,g:23200:r-x,m::rwx,\
                       d:u::rwx,d:g::r-x,d:o::---,d:u:23001:rwx,d:g:23200:r-x,d:m::rwx";
        std::fs::create_dir(m.path("d"))?;
        std::fs::create_dir(m.source("native"))?;
        succeed(
            Command::new("setfacl")
                .args(["-m", entries])
                .arg(m.path("d")),
        )?;
        succeed(
            Command::new("setfacl")
                .args(["-m", entries])
                .arg(m.source("native")),
        )?;
        ensure!(
            acl(m, "d")? == acl(m, "native")?,
            "setfacl through the mount"
        );
        // With a default ACL the umask must not count.
        let user = User::new(ALICE, STAFF).with_umask(0o077);
        user.act(|| make_all(&m.path("d"), 0o666))?;
        user.act(|| make_all(&m.source("native"), 0o666))?;
        for name in ["file", "dir", "fifo", "node"] {
            let (got, native) = (
                acl(m, &format!("d/{name}"))?,
                acl(m, &format!("native/{name}"))?,
            );
            ensure!(got == native, "{name}:\n{got}natively:\n{native}");
        }
        Ok(())
    })
}

#[test]
fn access_granted_by_an_acl_alone_succeeds() -> Outcome {
    on_mount(&["--posix-acl"], |m| {
        let dir = directory(m, "d", (0, 0), 0o700)?;
        succeed(
            Command::new("setfacl")
                .args(["-m", "u:23001:rwx"])
                .arg(&dir),
        )?;
        User::new(ALICE, STAFF).act(|| Ok(std::fs::write(dir.join("f"), "x")?))?;
        ensure!(m.source("d/f").metadata()?.uid() == ALICE);
        let refused =
            User::new(ALICE + 1, STAFF).act(|| Ok(std::fs::read(dir.join("f")).is_err()))?;
        ensure!(refused, "the ACL lets a stranger in");
        Ok(())
    })
}
