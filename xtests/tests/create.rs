//! Creation happens as the caller: owner, group, setgid directories, umask and default ACLs are as
//! on the native file system, for every way to make a name.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
use xtests::support::calls::{chmod, refused};
use xtests::support::checks::{equal, has_mode, holds};
use xtests::support::command::succeed;
use xtests::support::{Mount, Outcome, User, on_daemon, on_mount};

const ALICE: u32 = 23_001;
const STAFF: u32 = 23_100;
const EXTRA: u32 = 23_200;

/// A directory with this owner and mode.
fn directory(m: &Mount, name: impl AsRef<Path>, owner: (u32, u32), mode: u32) -> Result<PathBuf> {
    let path = m.dir().join(name);
    std::fs::create_dir(&path)?;
    chown(&path, Some(owner.0), Some(owner.1))?;
    chmod(&path, mode)?;
    Ok(path)
}

/// Makes one of each kind in `dir`.
fn make_all(dir: &Path, mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
    openat(CWD, dir.join("file"), flags, mode)?;
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
        let rights = |dir: PathBuf| -> Result<(u32, u32, u32)> {
            let stat = dir.join(name).symlink_metadata()?;
            Ok((stat.uid(), stat.gid(), stat.mode()))
        };
        let (uid, gid, mode) = rights(m.source(dir))?;
        equal(name, rights(m.path(dir))?, (uid, gid, mode))?;
        all.push((name.to_owned(), uid, gid, mode & 0o7777));
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
            let alice = User::new(ALICE, STAFF).with_umask(umask);
            alice.act(|| make_all(&dir, 0o777))?;
            for (name, _, _, mode) in made(m, &name)? {
                let wanted = name == "link" || mode == 0o777 & !umask;
                ensure!(wanted, "umask {umask:o} {name}: {mode:o}");
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
        let member = User::new(ALICE, STAFF).in_groups(&[EXTRA]);
        member.act(|| make_all(&dir, 0o666))?;
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
            ensure!(
                name != "dir" || mode == 0o2755,
                "it inherits the bit: {mode:o}"
            );
        }
        Ok(())
    })
}

#[test]
fn create_of_a_setgid_file_by_a_stranger_to_the_group_drops_the_bit() -> Outcome {
    on_mount(&[], |m| {
        let dir = directory(m, "d", (ALICE, EXTRA), 0o2777)?;
        let native = directory(m, m.source("native"), (ALICE, EXTRA), 0o2777)?;
        let user = User::new(ALICE, STAFF).with_umask(0);
        let (flags, mode) = (OFlags::CREATE | OFlags::RDWR, Mode::from_raw_mode(0o2775));
        for dir in [&dir, &native] {
            user.act(|| Ok(openat(CWD, dir.join("f"), flags, mode).map(drop)?))?;
        }
        has_mode(
            m.source("d/f"),
            native.join("f").metadata()?.mode() & 0o7777,
        )
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
        holds(m.source("d/f"), b"data")
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
        holds(m.source("f"), b"keep")
    })
}

#[test]
fn create_through_a_dangling_symlink_makes_its_target_inside_the_mount() -> Outcome {
    on_mount(&[], |m| {
        std::os::unix::fs::symlink("target", m.path("l"))?;
        std::fs::write(m.path("l"), "x")?;
        holds(m.source("target"), b"x")
    })
}

#[test]
fn create_on_a_directory_that_source_refuses_is_eacces_for_a_user() -> Outcome {
    on_mount(&[], |m| {
        let dir = directory(m, "d", (0, 0), 0o755)?;
        let got = User::new(ALICE, STAFF).act(|| Ok(std::fs::write(dir.join("f"), "x")))?;
        refused(got, libc::EACCES)?;
        ensure!(!m.source("d/f").exists());
        Ok(())
    })
}

fn set_acl(path: &Path, entries: &str) -> Outcome {
    succeed(Command::new("setfacl").args(["-m", entries]).arg(path)).map(drop)
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
        set_acl(&m.path("d"), entries)?;
        set_acl(&m.source("native"), entries)?;
        equal("setfacl through the mount", acl(m, "d")?, acl(m, "native")?)?;
        // With a default ACL the umask must not count.
        let user = User::new(ALICE, STAFF).with_umask(0o077);
        user.act(|| make_all(&m.path("d"), 0o666))?;
        user.act(|| make_all(&m.source("native"), 0o666))?;
        for name in ["file", "dir", "fifo", "node"] {
            let native = acl(m, &format!("native/{name}"))?;
            equal(name, acl(m, &format!("d/{name}"))?, native)?;
        }
        Ok(())
    })
}

#[test]
fn access_granted_by_an_acl_alone_succeeds() -> Outcome {
    on_mount(&["--posix-acl"], |m| {
        let dir = directory(m, "d", (0, 0), 0o700)?;
        set_acl(&dir, "u:23001:rwx")?;
        User::new(ALICE, STAFF).act(|| Ok(std::fs::write(dir.join("f"), "x")?))?;
        ensure!(m.source("d/f").metadata()?.uid() == ALICE);
        let refused =
            User::new(ALICE + 1, STAFF).act(|| Ok(std::fs::read(dir.join("f")).is_err()))?;
        ensure!(refused, "the ACL lets a stranger in");
        Ok(())
    })
}

/// The kernel takes the set-gid bit from a new file whose creator is not in the directory's group, by what it has
/// cached of the directory: the file was a program that ran as a group that its creator was never in.
#[test]
fn create_in_a_directory_that_has_become_set_gid_on_source_keeps_no_set_gid_bit() -> Outcome {
    on_daemon(&["--cache=always"], |m| {
        for (name, gid, wanted) in [("foreign", 3000, 0o755), ("own", 2000, 0o2755)] {
            std::fs::create_dir(m.source(name))?;
            chmod(m.source(name), 0o777)?;
            ensure!(std::fs::metadata(m.path(name))?.gid() == 0);
            // Behind the kernel's back.
            chown(m.source(name), None, Some(gid))?;
            chmod(m.source(name), 0o2777)?;
            let user = User::new(1001, 1001).in_groups(&[2000]).with_umask(0);
            user.act(|| {
                let path = m.path(name).join("f");
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o2755))?)
            })?;
            let stat = std::fs::metadata(m.source(name).join("f"))?;
            let mode = stat.mode() & 0o7777;
            ensure!(
                stat.gid() == gid && mode == wanted,
                "{name}: {mode:o} {stat:?}"
            );
        }
        Ok(())
    })
}
