//! A virtiofs device: the tree that a guest sees: file systems mounted below DIR, listings that change under
//! way, and paths that lead out.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, ReplyAttr,
    ReplyDirectory, ReplyEntry, Request,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use thrufs_wire::abi::{AttrFlags, AttrOut, EntryOut};
use thrufs_wire::{InitFlags, Opcode};
use xtests::support::guest::calls::{
    ROOT, booted, close, lookup, lookup_in, open_node, opendir, read, readdir, readdirplus, write,
};
use xtests::support::guest::{Device, Guest, Options};
use xtests::support::held_source::plain_attr;
use xtests::support::{Outcome, case};
use zerocopy::IntoBytes;

/// File systems below a directory, unmounted when dropped.
struct Mounted(Vec<PathBuf>);

impl Mounted {
    fn tmpfs(&mut self, path: &Path) -> Outcome {
        std::fs::create_dir_all(path)?;
        let kind = Some("tmpfs");
        mount(kind, path, kind, MsFlags::empty(), None::<&str>).context("mount a tmpfs")?;
        self.0.push(path.to_owned());
        Ok(())
    }

    fn bind(&mut self, from: &Path, to: &Path) -> Outcome {
        std::fs::create_dir_all(to)?;
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("bind")?;
        self.0.push(to.to_owned());
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _left = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}

/// Two tmpfs, one in the other, and a bind mount of the first; each file system has the same numbers.
fn tree(dir: &Path) -> Result<Mounted> {
    let mut mounted = Mounted(Vec::new());
    let one = dir.join("one");
    mounted.tmpfs(&one)?;
    std::fs::create_dir_all(one.join("plain/below"))?;
    mounted.tmpfs(&one.join("two"))?;
    std::fs::create_dir_all(one.join("two/plain/below"))?;
    mounted.bind(&one, &dir.join("again"))?;
    std::fs::create_dir(dir.join("plain"))?;
    std::fs::write(dir.join("file"), "")?;
    Ok(mounted)
}

fn is_submount(entry: &EntryOut) -> bool {
    entry.attr.flags.contains(AttrFlags::FUSE_ATTR_SUBMOUNT)
}

fn find(guest: &mut Guest, path: &str) -> Result<EntryOut> {
    let mut entry = EntryOut {
        nodeid: ROOT,
        ..EntryOut::default()
    };
    for name in path.split('/') {
        entry = lookup_in(guest, entry.nodeid, name.as_bytes())?
            .value()
            .with_context(|| path.to_owned())?;
    }
    Ok(entry)
}

const PATHS: &[(&str, bool)] = &[
    ("one", true),
    ("one/plain", false),
    ("one/plain/below", false),
    ("one/two", true),
    ("one/two/plain", false),
    ("one/two/plain/below", false),
    ("again", true),
    ("again/plain", false),
    ("plain", false),
    ("file", false),
];

#[test]
fn announced_submount_is_marked_by_lookup_and_listing_alike() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let _mounted = tree(dir.path())?;
        let shared = format!("--shared-dir={}", dir.path().display());
        for sandbox in ["namespace", "chroot", "none"] {
            let sandbox = format!("--sandbox={sandbox}");
            let device = Device::new(&[&shared, &sandbox])?;
            let mut guest = device.connect(Options::default())?;
            let granted = guest.init()?.capabilities();
            ensure!(granted.contains(InitFlags::FUSE_SUBMOUNTS));
            for (path, wanted) in PATHS {
                // Known by the second.
                for _ in 0..2 {
                    let found = find(&mut guest, path)?;
                    ensure!(is_submount(&found) == *wanted, "{sandbox}, {path}");
                }
            }
            for (directory, mounts) in [("", &["one", "again"][..]), ("one", &["two"])] {
                let nodeid = match directory {
                    "" => ROOT,
                    below => find(&mut guest, below)?.nodeid,
                };
                let fh = opendir(&mut guest, nodeid)?;
                for _ in 0..2 {
                    let listed = readdirplus(&mut guest, (nodeid, fh), 0)?;
                    let marked: HashSet<_> = listed
                        .iter()
                        .filter(|record| is_submount(&record.entry))
                        .map(|record| String::from_utf8_lossy(&record.name).into_owned())
                        .collect();
                    let wanted = mounts.iter().map(|name| (*name).to_owned()).collect();
                    ensure!(marked == wanted, "{sandbox}, {directory}: {marked:?}");
                }
            }
        }
        Ok(())
    })
}

/// A guest that is told of no mounts must not find two files with one number, as two tmpfs have them.
#[test]
fn submount_that_is_not_announced_is_a_directory_with_numbers_of_its_own() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let _mounted = tree(dir.path())?;
        let shared = format!("--shared-dir={}", dir.path().display());
        for (options, offered) in [
            (&["--no-announce-submounts"][..], !0_u64 >> 1),
            // A guest without the capability.
            (&["--announce-submounts"], 0),
            (&[], 0),
        ] {
            let options = [options, &[&shared]].concat();
            let device = Device::new(&options)?;
            let mut guest = device.connect(Options::default())?;
            let offered = offered & !InitFlags::FUSE_INIT_RESERVED.bits();
            let answer = guest.init_offering(offered)?;
            let granted = answer.value::<thrufs_wire::abi::InitOut>()?.capabilities();
            ensure!(!granted.contains(InitFlags::FUSE_SUBMOUNTS));
            let mut seen = HashSet::new();
            for (path, _) in PATHS {
                let found = find(&mut guest, path)?;
                ensure!(!is_submount(&found), "{options:?}, {path}");
                ensure!(seen.insert(found.attr.ino), "{path}: a number twice");
                ensure!(found.attr.ino != ROOT);
            }
            let inside = find(&mut guest, "one/two")?.nodeid;
            let fh = opendir(&mut guest, inside)?;
            let listed = readdirplus(&mut guest, (inside, fh), 0)?;
            ensure!(listed.iter().any(|record| record.name == b"plain"));
        }
        Ok(())
    })
}

/// What the host mounts below DIR while it is served shows in the guest, and what it unmounts goes, where mounts are
/// shared (mount_namespaces(7)); with `--sandbox=chroot` they are copies of the start.
#[test]
fn what_the_host_mounts_later_shows_and_what_it_unmounts_goes() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let mut mounted = Mounted(Vec::new());
        let top = dir.path().join("top");
        mounted.tmpfs(&top)?;
        let shared = None::<&str>;
        mount(shared, &top, shared, MsFlags::MS_SHARED, shared).context("share the mount")?;
        for sandbox in ["namespace", "none"] {
            let source = top.join(sandbox);
            std::fs::create_dir_all(source.join("later"))?;
            let shared = format!("--shared-dir={}", source.display());
            let sandbox = format!("--sandbox={sandbox}");
            let device = Device::new(&[&shared, &sandbox])?;
            let mut guest = device.connect(Options::default())?;
            guest.init()?;
            ensure!(!is_submount(&find(&mut guest, "later")?));
            let mut later = Mounted(Vec::new());
            later.tmpfs(&source.join("later"))?;
            std::fs::write(source.join("later/inside"), "")?;
            ensure!(is_submount(&find(&mut guest, "later")?), "{sandbox}");
            let inside = find(&mut guest, "later/inside")?;
            ensure!(inside.attr.mode & libc::S_IFMT == libc::S_IFREG);
            // As a host does that takes the disk out by force.
            drop(later);
            ensure!(!is_submount(&find(&mut guest, "later")?), "{sandbox}");
            ensure!(find(&mut guest, "later/inside").is_err(), "{sandbox}");
        }
        Ok(())
    })
}

/// rm -rf removes what it has listed, goes on from the last cookie, and expects no name to be left out.
#[test]
fn listing_goes_on_while_its_names_are_removed() -> Outcome {
    case(|| {
        const FILES: usize = 5000;
        let (device, mut guest) = booted(&[], Options::default())?;
        for at in 0..FILES {
            std::fs::write(device.shared(&format!("file{at:05}")), "")?;
        }
        let fh = opendir(&mut guest, ROOT)?;
        let (mut offset, mut seen) = (0, HashSet::new());
        loop {
            let listed = readdir(&mut guest, (ROOT, fh), offset)?;
            let Some(last) = listed.last() else {
                break;
            };
            offset = last.next_offset;
            for record in listed.iter().filter(|record| record.name[0] != b'.') {
                ensure!(seen.insert(record.name.clone()), "listed twice");
                let name = [&record.name[..], b"\0"].concat();
                let answer = guest.call(1, Opcode::Unlink, ROOT, &[&name], 0)?;
                ensure!(answer.error == 0, "{answer:?}");
            }
        }
        ensure!(seen.len() == FILES, "{} of {FILES} names", seen.len());
        // From the start again: nothing is left.
        let left = readdir(&mut guest, (ROOT, fh), 0)?;
        ensure!(left.iter().all(|record| record.name[0] == b'.'), "{left:?}");
        ensure!(std::fs::read_dir(device.shared(""))?.count() == 0);
        Ok(())
    })
}

/// Without a sandbox nothing but the checks of names keeps a guest in the directory.
#[test]
fn path_never_leads_out_of_the_directory_in_any_sandbox() -> Outcome {
    case(|| {
        let outside = tempfile::tempdir()?;
        std::fs::write(outside.path().join("secret"), "secret")?;
        for sandbox in ["namespace", "chroot", "none"] {
            let sandbox = format!("--sandbox={sandbox}");
            let (device, mut guest) = booted(&[&sandbox], Options::default())?;
            std::os::unix::fs::symlink(outside.path(), device.shared("link"))?;
            std::os::unix::fs::symlink("..", device.shared("up"))?;
            std::fs::create_dir(device.shared("d"))?;
            for name in ["link", "up"] {
                let link = lookup(&mut guest, name)?;
                ensure!(link.attr.mode & libc::S_IFMT == libc::S_IFLNK, "{name}");
                let below = lookup_in(&mut guest, link.nodeid, b"secret")?;
                ensure!(below.error == libc::ENOTDIR, "{sandbox}, {name}: {below:?}");
                let arg = [0_u8; 8];
                let opened = guest.call(1, Opcode::Open, link.nodeid, &[&arg], 16)?;
                ensure!(opened.error == libc::ELOOP, "{sandbox}, {name}: {opened:?}");
            }
            let d = lookup(&mut guest, "d")?.nodeid;
            // What a kernel asks for that has a file handle of the mount stays inside.
            for (parent, name) in [(ROOT, &b"."[..]), (d, b"..")] {
                let answer = lookup_in(&mut guest, parent, name)?;
                let found = answer.value::<EntryOut>()?.nodeid;
                ensure!(found == ROOT, "{sandbox}: {answer:?}");
            }
            for (parent, name) in [
                (ROOT, &b".."[..]),
                (d, b"../.."),
                (ROOT, b"link/secret"),
                (ROOT, b"d/.."),
                (ROOT, b""),
                (ROOT, b"/"),
            ] {
                let answer = lookup_in(&mut guest, parent, name)?;
                let shown = String::from_utf8_lossy(name).into_owned();
                ensure!(
                    [libc::EINVAL, libc::ENOENT, libc::ESTALE].contains(&answer.error),
                    "{sandbox}, {shown}: {answer:?}"
                );
            }
        }
        Ok(())
    })
}

/// A file system of which the cookies are beyond `i64::MAX`, as some servers of NFS have them.
struct FarCookies;

const FAR_NAMES: u64 = 3000;

fn far_attr(ino: u64) -> FileAttr {
    let kind = match ino == INodeNo::ROOT.0 {
        true => FileType::Directory,
        false => FileType::RegularFile,
    };
    FileAttr {
        perm: 0o755,
        ..plain_attr(INodeNo(ino), kind)
    }
}

impl Filesystem for FarCookies {
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix('n')?.parse().ok());
        match number.filter(|number: &u64| *number < FAR_NAMES) {
            Some(number) => {
                let attr = far_attr(100 + number);
                reply.entry(&Duration::from_secs(60), &attr, Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::from_secs(60), &far_attr(ino.0));
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        const FIRST: u64 = 1 << 63;
        let from = if offset == 0 { 0 } else { offset - FIRST };
        for at in from..FAR_NAMES {
            let (ino, name) = (INodeNo(100 + at), format!("n{at}"));
            if reply.add(ino, FIRST + at + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}

/// lseek(2) does not take such a cookie, so that a listing ended after its first part with EINVAL.
#[test]
fn listing_with_cookies_that_lseek_does_not_take_is_whole() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let config = fuser::Config::default();
        let _served = fuser::spawn_mount(FarCookies, dir.path(), &config)?;
        // The device's server may have it open a moment longer, and fuser does not detach.
        let _mounted = Mounted(vec![dir.path().to_owned()]);
        let shared = format!("--shared-dir={}", dir.path().display());
        let (_device, mut guest) = booted(&["--sandbox=none", &shared], Options::default())?;
        for plus in [false, true] {
            let fh = opendir(&mut guest, ROOT)?;
            let (mut offset, mut next) = (0, 0);
            loop {
                let listed = match plus {
                    true => readdirplus(&mut guest, (ROOT, fh), offset)?,
                    false => readdir(&mut guest, (ROOT, fh), offset)?,
                };
                let Some(last) = listed.last() else { break };
                offset = last.next_offset;
                for record in &listed {
                    ensure!(record.name == format!("n{next}").as_bytes(), "{record:?}");
                    next += 1;
                }
            }
            ensure!(next == FAR_NAMES, "{next} names");
            // From the start again.
            let listed = readdir(&mut guest, (ROOT, fh), 0)?;
            ensure!(listed.first().is_some_and(|record| record.name == b"n0"));
        }
        Ok(())
    })
}

/// As virtiofsd 1.14 serves one; Linux mounts no root that is a file, other guests do.
#[test]
fn file_that_is_shared_alone_is_the_root() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        for options in [
            &[][..],
            &["--sandbox=none"],
            &["--sandbox=none", "--seccomp=none"],
        ] {
            std::fs::write(&path, "content")?;
            let shared = format!("--shared-dir={}", path.display());
            let options = [options, &[&shared]].concat();
            let (mut device, mut guest) = booted(&options, Options::default())?;
            let arg = thrufs_wire::abi::GetattrIn::default();
            let answer = guest.call(1, Opcode::Getattr, ROOT, &[arg.as_bytes()], 104)?;
            let attr = answer.value::<AttrOut>()?.attr;
            ensure!(
                attr.mode & libc::S_IFMT == libc::S_IFREG && attr.size == 7,
                "{attr:?}"
            );
            let fh = open_node(&mut guest, ROOT, libc::O_RDWR)?;
            ensure!(read(&mut guest, (ROOT, fh), 0, 100)?.data == b"content");
            ensure!(write(&mut guest, (ROOT, fh), 7, b" and more")? == 9);
            ensure!(std::fs::read(&path)? == b"content and more");
            ensure!(lookup_in(&mut guest, ROOT, b"x")?.error == libc::ENOTDIR);
            let opened = guest.call(1, Opcode::Opendir, ROOT, &[&[0; 8]], 16)?;
            ensure!(opened.error == libc::ENOTDIR, "{opened:?}");
            let made = guest.call(1, Opcode::Mkdir, ROOT, &[&[0; 8], b"d\0"], 128)?;
            ensure!(made.error == libc::ENOTDIR, "{made:?}");
            ensure!(close(&mut guest, ROOT, fh)? == (0, 0));
            drop(guest);
            device.ends_well()?;
        }
        Ok(())
    })
}
