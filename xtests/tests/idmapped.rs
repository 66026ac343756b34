//! Idmapped mounts of a mount (`--idmap`), compared with those of SOURCE itself: what each caller may do, to whom
//! what it makes belongs, and what becomes of set-uid and set-gid bits, ACLs and extended attributes.
//!
//! The same is done without an idmapped mount, where the option must change nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, OFlags, XattrFlags, mknodat,
};
use xtests::support::calls::{chmod, open_rdwr, open_wronly, refused, set_times, truncate};
use xtests::support::idmapped::{IdmappedMount, Shift};
use xtests::support::{Backing, Mount, Outcome, User, on_backing, on_daemon};

const DEVICE: &str = "--transport=device";
const OPTIONS: [&str; 3] = [DEVICE, "--idmap", "--posix-acl"];
const SHIFT: Shift = Shift {
    first: 0,
    shown: 10_000,
    count: 5_000,
};
const ACL_ACCESS: &str = "system.posix_acl_access";
const ACL_DEFAULT: &str = "system.posix_acl_default";

/// On SOURCE.
const OWNER: u32 = 1001;
const GROUP: u32 = 1003;

/// A directory of SOURCE, as it is natively and by the mount; each side has a folder of its own in it.
struct Sides {
    source: PathBuf,
    native: PathBuf,
    tested: PathBuf,
    /// What is added to an id of SOURCE by both.
    base: u32,
    /// Names so far.
    count: AtomicUsize,
    differences: Mutex<Vec<String>>,
}

impl Sides {
    /// Has `make`, which is root on SOURCE, make something for both sides, `caller` do `act` with it, and compares
    /// what that gives and leaves behind.
    fn compare(
        &self,
        what: &str,
        caller: &User,
        make: impl Fn(&Path) -> Result<()>,
        act: impl Fn(&Path) -> io::Result<Vec<u8>> + Sync,
    ) -> Outcome {
        let name = format!("f{}", self.count.fetch_add(1, Ordering::Relaxed));
        let side = |root: &Path, folder: &str| -> Result<_> {
            let below = self.source.join(folder).join(&name);
            make(&below)?;
            let path = root.join(folder).join(&name);
            let done = caller.act(|| Ok(act(&path)))?;
            let done = done.map_err(|error| error.raw_os_error());
            let look = |path: &Path| look(path, self.base == 0);
            Ok((done, look(&below)?, look(&below.join("new"))?))
        };
        let real = side(&self.native, "native").context("natively")?;
        let shown = side(&self.tested, "tested").context("by the mount")?;
        if shown != real {
            let difference = format!("{what} by {caller:?}: {shown:?}\nnatively {real:?}");
            self.differences.lock().push(difference);
        }
        Ok(())
    }

    /// Those that the files know, those that they do not, and those that only have the numbers of users that the
    /// files know.
    fn callers(&self) -> Vec<User> {
        let base = self.base;
        let mut all = vec![
            User::new(0, 0),
            User::new(base, base),
            User::new(base + OWNER, base + OWNER),
            User::new(base + 1002, base + 1002).in_groups(&[base + GROUP]),
            User::new(base + 1004, base + 1004).with_umask(0),
        ];
        if base != 0 {
            all.push(User::new(OWNER, OWNER).in_groups(&[GROUP]));
            all.push(User::new(base + 1004, 1004).in_groups(&[GROUP, base + 1005]));
        }
        all
    }
}

/// Everything that may differ of a file on SOURCE; none where there is none. Set-gid without group execution is not
/// `exact` by an idmapped mount: it stays for a member of the group, and whether a caller is one only the kernel can tell.
fn look(path: &Path, exact: bool) -> Result<Option<String>> {
    let stat = match std::fs::symlink_metadata(path) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Below a file.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let xattr = |name| {
        let mut value = [0; 256];
        let got = rustix::fs::lgetxattr(path, name, &mut value[..]);
        got.map(|len| value[..len].to_vec())
    };
    let is_given = stat.mtime() < 1_000_000;
    let is_plain = stat.mode() & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID;
    let mode = match is_plain && !exact {
        true => stat.mode() & !libc::S_ISGID,
        false => stat.mode(),
    };
    Ok(Some(format!(
        "mode {:o} owner {}:{} size {} links {} times {:?} xattrs {:?} {:?} {:?}",
        mode,
        stat.uid(),
        stat.gid(),
        stat.size(),
        stat.nlink(),
        is_given.then(|| stat.mtime()),
        xattr(ACL_ACCESS),
        xattr(ACL_DEFAULT),
        xattr("user.a"),
    )))
}

/// `struct posix_acl_xattr_header` and entries of it: what the owner, a user, a group, the mask and others may.
fn acl(user: u32, group: u32) -> Vec<u8> {
    let nobody = u32::MAX;
    let entries: [(u16, u16, u32); 6] = [
        (0x01, 6, nobody),
        (0x02, 6, user),
        (0x04, 4, nobody),
        (0x08, 6, group),
        (0x10, 6, nobody),
        (0x20, 0, nobody),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(may.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<Vec<u8>> {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())?;
    Ok(Vec::new())
}

fn get_xattr(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = rustix::fs::getxattr(path, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

fn nothing<T>(done: io::Result<T>) -> io::Result<Vec<u8>> {
    done.map(|_done| Vec::new())
}

/// What makes `new` in a directory.
type Make = (&'static str, fn(&Path) -> io::Result<Vec<u8>>);

const MAKES: [Make; 9] = [
    ("open(O_CREAT)", |dir| create(dir, 0o666)),
    ("open(O_CREAT), set-gid", |dir| create(dir, 0o2777)),
    ("open(O_CREAT), plain set-gid", |dir| create(dir, 0o6666)),
    ("open(O_TMPFILE)", |dir| without_a_name(dir, 0o2775)),
    ("mkdir", |dir| nothing(std::fs::create_dir(dir.join("new")))),
    ("symlink", |dir| {
        nothing(std::os::unix::fs::symlink("target", dir.join("new")))
    }),
    ("mknod of a FIFO", |dir| node(dir, FileType::Fifo, 0o2777)),
    ("mknod of a file", |dir| {
        node(dir, FileType::RegularFile, 0o2711)
    }),
    ("rename", |dir| {
        nothing(std::fs::rename(dir.join("old"), dir.join("new")))
    }),
];

fn create(dir: &Path, mode: u32) -> io::Result<Vec<u8>> {
    let mut options = File::options();
    nothing(
        options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(dir.join("new")),
    )
}

fn node(dir: &Path, kind: FileType, mode: u32) -> io::Result<Vec<u8>> {
    mknodat(CWD, dir.join("new"), kind, Mode::from_raw_mode(mode), 0)?;
    Ok(Vec::new())
}

fn without_a_name(dir: &Path, mode: u32) -> io::Result<Vec<u8>> {
    let (flags, mode) = (OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(mode));
    let file = File::from(rustix::fs::open(dir, flags, mode)?);
    let stat = file.metadata()?;
    Ok(format!("{:o} {}:{}", stat.mode(), stat.uid(), stat.gid()).into_bytes())
}

/// Directories of every sort, for every caller.
fn creations(sides: &Sides) -> Outcome {
    let owners = [(0, 0), (OWNER, GROUP), (1004, GROUP)];
    for (uid, gid) in owners {
        for mode in [0o777, 0o2777, 0o3777, 0o2775, 0o755] {
            for has_default in [false, true] {
                let make = |path: &Path| {
                    std::fs::create_dir(path)?;
                    std::fs::write(path.join("old"), "")?;
                    chown(path.join("old"), Some(OWNER), Some(GROUP))?;
                    chown(path, Some(uid), Some(gid))?;
                    chmod(path, mode)?;
                    if has_default {
                        set_xattr(path, ACL_DEFAULT, &acl(1004, GROUP))?;
                    }
                    Ok(())
                };
                for caller in sides.callers() {
                    for (name, act) in MAKES {
                        let what =
                            format!("{name} in {uid}:{gid} {mode:o}, default ACL {has_default},");
                        sides.compare(&what, &caller, make, act)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// What is done with a file; the number is what is added to ids. Not chown(2) of nothing, which the kernel sends as it
/// does a write past the server, and which therefore differs in any mount.
type Use = (&'static str, fn(&Path, u32) -> io::Result<Vec<u8>>);

const USES: [Use; 19] = [
    ("read", |path, _| {
        let mut content = Vec::new();
        File::open(path)?.read_to_end(&mut content)?;
        Ok(content)
    }),
    ("stat", |path, _| {
        let stat = path.metadata()?;
        Ok(format!("{}:{}", stat.uid(), stat.gid()).into_bytes())
    }),
    ("write", |path, _| {
        nothing(open_wronly(path)?.write_all_at(b"other", 0))
    }),
    ("truncate", |path, _| nothing(truncate(path, 3))),
    ("ftruncate", |path, _| {
        nothing(open_wronly(path)?.set_len(3))
    }),
    ("open(O_TRUNC)", |path, _| {
        nothing(File::options().write(true).truncate(true).open(path))
    }),
    ("fallocate", |path, _| {
        let file = open_wronly(path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 10_000)?;
        Ok(Vec::new())
    }),
    ("copy_file_range", |path, _| {
        let file = open_rdwr(path)?;
        let (mut from, mut to) = (0, 4096);
        rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 4)?;
        Ok(Vec::new())
    }),
    ("chmod", |path, _| nothing(chmod(path, 0o2751))),
    ("chmod, set-uid", |path, _| nothing(chmod(path, 0o6711))),
    ("chown", |path, base| {
        nothing(chown(path, Some(base + 1004), Some(base + 1005)))
    }),
    ("chown of the group", |path, base| {
        nothing(chown(path, None, Some(base + GROUP)))
    }),
    ("utimes", |path, _| {
        nothing(set_times(path, (7, 8), (9, 10)))
    }),
    ("utimes of now", |path, _| {
        let now = (0, rustix::fs::UTIME_NOW);
        nothing(set_times(path, now, now))
    }),
    ("setxattr", |path, _| set_xattr(path, "user.a", b"value")),
    ("setfacl", |path, base| {
        set_xattr(path, ACL_ACCESS, &acl(base + 1004, base + 1005))
    }),
    ("getfacl", |path, _| get_xattr(path, ACL_ACCESS)),
    ("chattr", |path, _| {
        let file = File::open(path)?;
        let before = rustix::fs::ioctl_getflags(&file)?;
        rustix::fs::ioctl_setflags(&file, before | IFlags::NODUMP)?;
        Ok(Vec::new())
    }),
    ("unlink", |path, _| nothing(std::fs::remove_file(path))),
];

/// Files of every sort, for every caller.
fn uses(sides: &Sides) -> Outcome {
    let modes = [0o664, 0o666, 0o4775, 0o2664, 0o6666];
    for (uid, gid) in [(0, 0), (OWNER, GROUP)] {
        for mode in modes {
            for has_acl in [false, true] {
                let make = |path: &Path| {
                    std::fs::write(path, "content")?;
                    chown(path, Some(uid), Some(gid))?;
                    if has_acl {
                        set_xattr(path, ACL_ACCESS, &acl(1004, GROUP))?;
                    }
                    Ok(chmod(path, mode)?)
                };
                for caller in sides.callers() {
                    for (name, act) in USES {
                        let what = format!("{name} of {uid}:{gid} {mode:o}, ACL {has_acl},");
                        let act = |path: &Path| act(path, sides.base);
                        sides.compare(&what, &caller, make, act)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Runs `body` by an idmapped mount, or by none.
fn on_both(mapped: bool, backing: Backing, body: fn(&Sides) -> Outcome) -> Outcome {
    for passthrough in ["--passthrough=never", "--passthrough=auto"] {
        let options = [&OPTIONS[..], &[passthrough]].concat();
        on_backing(backing, &options, |m| {
            m.require_mount()?;
            for folder in ["native", "tested"] {
                std::fs::create_dir(m.source(folder))?;
                // Where each user may remove its own alone.
                chmod(m.source(folder), 0o1777)?;
            }
            let mounts = match mapped {
                true => Some(idmapped(m)?),
                false => None,
            };
            let (native, tested) = match &mounts {
                Some([native, tested]) => (native.path().to_owned(), tested.path().to_owned()),
                None => (m.source(""), m.dir().to_owned()),
            };
            let sides = Sides {
                source: m.source(""),
                native,
                tested,
                base: if mapped { SHIFT.shown } else { 0 },
                count: AtomicUsize::new(0),
                differences: Mutex::default(),
            };
            body(&sides)?;
            let differences = sides.differences.into_inner();
            ensure!(differences.is_empty(), "{}", differences.join("\n"));
            Ok(())
        })?;
    }
    Ok(())
}

/// Of SOURCE and of the mount.
fn idmapped(m: &Mount) -> Result<[IdmappedMount; 2]> {
    let at = |name: &str| m.scratch().path().join(name);
    Ok([
        IdmappedMount::new(&m.source(""), at("native"), SHIFT).context("of SOURCE")?,
        IdmappedMount::new(m.dir(), at("idmapped"), SHIFT).context("of the mount")?,
    ])
}

#[test]
fn create_by_an_idmapped_mount_is_as_by_one_of_source() -> Outcome {
    on_both(true, Backing::Ext4(256), creations)?;
    on_both(true, Backing::Tmpfs, creations)
}

#[test]
fn use_by_an_idmapped_mount_is_as_by_one_of_source() -> Outcome {
    on_both(true, Backing::Ext4(256), uses)
}

#[test]
fn create_without_an_idmapped_mount_is_as_natively_with_the_option() -> Outcome {
    on_both(false, Backing::Ext4(256), creations)
}

#[test]
fn use_without_an_idmapped_mount_is_as_natively_with_the_option() -> Outcome {
    on_both(false, Backing::Ext4(256), uses)
}

/// Nothing but the option makes a mount one that can be idmapped.
#[test]
fn idmapped_mount_without_the_option_is_refused() -> Outcome {
    on_daemon(&[DEVICE], |m| {
        let at = m.scratch().path().join("idmapped");
        let refusal = IdmappedMount::new(m.dir(), at, SHIFT);
        let error = refusal.err().context("it is idmapped")?;
        refused(Err::<(), _>(error.downcast::<io::Error>()?), libc::EINVAL)
    })
}

/// The kernel cannot be told whose check failed: it looks again.
#[test]
fn open_of_what_was_taken_away_under_source_is_refused_at_once() -> Outcome {
    let options = [&OPTIONS[..], &["--cache=always"]].concat();
    on_backing(Backing::Tmpfs, &options, |m| {
        let mounts = idmapped(m)?;
        for (index, mode) in [0o600, 0o640, 0].into_iter().enumerate() {
            let name = format!("f{index}");
            std::fs::write(m.source(&name), "content")?;
            chmod(m.source(&name), 0o644)?;
            let path = mounts[1].path().join(&name);
            let stranger = User::new(11_004, 11_004);
            stranger.act(|| Ok(std::fs::read(&path)?))?;
            chmod(m.source(&name), mode)?;
            let after = stranger.act(|| Ok(std::fs::read(&path)))?;
            refused(after, libc::EACCES).with_context(|| format!("{mode:o}"))?;
        }
        Ok(())
    })
}

/// A name by which a file is linked, of whatever user, through both.
#[test]
fn link_by_an_idmapped_mount_keeps_the_owner() -> Outcome {
    on_backing(Backing::Tmpfs, &OPTIONS, |m| {
        let mounts = idmapped(m)?;
        std::fs::write(m.source("f"), "content")?;
        chown(m.source("f"), Some(OWNER), Some(GROUP))?;
        chmod(m.source("."), 0o777)?;
        let dir = mounts[1].path();
        let owner = User::new(11_001, 11_001);
        owner.act(|| Ok(std::fs::hard_link(dir.join("f"), dir.join("g"))?))?;
        let stat = m.source("g").metadata()?;
        ensure!((stat.uid(), stat.gid(), stat.nlink()) == (OWNER, GROUP, 2));
        let file = File::open(dir.join("g"))?;
        let shown = rustix::fs::statx(
            file.as_fd(),
            c"",
            AtFlags::EMPTY_PATH,
            rustix::fs::StatxFlags::ALL,
        )?;
        ensure!((shown.stx_uid, shown.stx_gid) == (11_001, 11_003));
        Ok(())
    })
}
