//! thrufs-wire against the kernel itself: it alone serves a small file system. Every operation is
//! decoded as the kernel sends it, and the kernel accepts every answer and notification.
//!
//! With THRUFS_RECORD=FOLDER the messages become files there: the corpus of crates/wire.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags,
    SeekFrom, Timespec, Timestamps, XattrFlags,
};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, kill_process};
use thrufs_wire::{InitFlags, Opcode};
use xtests::support::calls::{chmod, open_rdwr, open_wronly};
use xtests::support::checks::{equal, mentions, same_bytes};
use xtests::support::command::{succeed, wait_for_exit};
use xtests::support::wait::{wait_for, wait_until};
use xtests::support::{Backing, Outcome, Scratch, User, case, missing};

#[path = "wire/locks.rs"]
mod locks;
#[path = "wire/server.rs"]
mod server;

use server::{ROOT_GROUP, Server, Shared, record};

const DEADLINE: Duration = Duration::from_secs(20);

/// A mount of the server. Dropping it unmounts.
struct DaemonFixture {
    scratch: Scratch,
    dialect: &'static str,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

impl DaemonFixture {
    /// Mounts a file system of `kind`, on `device` if the kind needs one.
    fn new(dialect: &'static str, granted: InitFlags, kind: &str, device: &str) -> Result<Self> {
        let scratch = Scratch::new(Backing::Here)?;
        let fuse = open_rdwr("/dev/fuse");
        let fuse = fuse.map_err(|error| missing(format!("/dev/fuse: {error}")))?;
        let mut data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            fuse.as_raw_fd()
        );
        if kind == "fuseblk" {
            data += ",blksize=4096";
        }
        let (point, flags) = (scratch.mountpoint(), MountFlags::empty());
        mount(device, &point, kind, flags, &*CString::new(data)?)
            .map_err(|error| missing(format!("mount(2) of {kind}: {error}")))?;
        scratch.adopt(&point);
        let shared = Arc::new(Mutex::new(Shared {
            wanted: Some(Opcode::Init),
            ..Shared::default()
        }));
        let server = Server::new(fuse, granted, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name(format!("server of {dialect}"));
        let thread = Some(thread.spawn(move || server.run())?);
        let served = Self {
            scratch,
            dialect,
            shared,
            thread,
        };
        served.kept("init", Opcode::Init)?;
        Ok(served)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.mountpoint().join(name)
    }

    /// Makes the kernel send `opcode`, and stores the message under `name`.
    fn step<T>(&self, name: &str, opcode: Opcode, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut shared = self.shared.lock();
        (shared.wanted, shared.kept) = (Some(opcode), None);
        drop(shared);
        let outcome = action().with_context(|| name.to_owned());
        let outcome = outcome.with_context(|| format!("{:?}", self.shared.lock().faults))?;
        self.kept(name, opcode)?;
        Ok(outcome)
    }

    fn kept(&self, name: &str, opcode: Opcode) -> Result<()> {
        let what = format!("{} ({name})", opcode.name());
        let message = wait_for(&what, DEADLINE, || Ok(self.shared.lock().kept.take()))?;
        record(self.dialect, name, &message)
    }

    /// Makes the server send a notification about `path`, after the answer to this call, and waits until it is
    /// sent: the kernel may want a lock for it that the next call on the mount holds while it waits for an answer.
    fn notify(&self, path: &Path, what: &str) -> Result<()> {
        let before = self.shared.lock().notified;
        let mut value = [0; 16];
        let name = format!("user.notify.{what}");
        let len = rustix::fs::getxattr(path, &*name, &mut value)?;
        ensure!(&value[..len] == b"done");
        wait_until("the notification", DEADLINE, || {
            Ok(self.shared.lock().notified > before)
        })
    }

    /// Unmounts, ends the server, and returns the faults.
    fn finish(mut self) -> Result<Arc<Mutex<Shared>>> {
        self.scratch.unmount_last()?;
        let thread = self.thread.take().context("runs")?;
        thread.join().map_err(|_| anyhow!("the server panicked"))?;
        let faults = std::mem::take(&mut self.shared.lock().faults);
        ensure!(faults.is_empty(), "{faults:#?}");
        Ok(Arc::clone(&self.shared))
    }
}

impl Drop for DaemonFixture {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Whatever still waits for an answer gets an error.
            xtests::support::mount_table::abort(&self.scratch.mountpoint());
        }
    }
}

fn plain() -> InitFlags {
    InitFlags::empty()
}

fn extended() -> InitFlags {
    InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_POSIX_LOCKS
        | InitFlags::FUSE_FLOCK_LOCKS
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_MAX_PAGES
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_SETXATTR_EXT
        | InitFlags::FUSE_INIT_EXT
        | InitFlags::FUSE_SECURITY_CTX
        | InitFlags::FUSE_CREATE_SUPP_GROUP
        | InitFlags::FUSE_HAS_EXPIRE_ONLY
        | InitFlags::FUSE_HAS_RESEND
}

fn names(at: &DaemonFixture) -> Outcome {
    let (dir, file) = (at.path("dir"), at.path("file"));
    // The kernel does not know the root's group before.
    ensure!(std::fs::metadata(at.path(""))?.gid() == ROOT_GROUP);
    // In the group of the root directory, but not by its own group.
    let member = User::new(1000, 1000).in_groups(&[ROOT_GROUP]);
    at.step("mkdir", Opcode::Mkdir, || {
        member.act(|| Ok(std::fs::create_dir(&dir)?))
    })?;
    at.step("lookup", Opcode::Lookup, || Ok(std::fs::metadata(&dir)?))?;
    let extended = at.dialect == "extended";
    let gid = if extended { ROOT_GROUP } else { 0 };
    ensure!(std::fs::metadata(&dir)?.gid() == gid);
    at.step("symlink", Opcode::Symlink, || {
        Ok(std::os::unix::fs::symlink("a/target", at.path("link"))?)
    })?;
    let target = at.step("readlink", Opcode::Readlink, || {
        Ok(std::fs::read_link(at.path("link"))?)
    })?;
    ensure!(target == Path::new("a/target"), "{target:?}");
    at.step("mknod", Opcode::Mknod, || {
        let (kind, mode) = (FileType::Fifo, Mode::from_raw_mode(0o640));
        Ok(rustix::fs::mknodat(CWD, at.path("fifo"), kind, mode, 0)?)
    })?;
    at.step("create", Opcode::Create, || {
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o640);
        Ok(options.open(&file)?)
    })?;
    at.step("link", Opcode::Link, || {
        Ok(std::fs::hard_link(&file, at.path("hard"))?)
    })?;
    at.step("rename2", Opcode::Rename2, || {
        let (old, new) = (at.path("hard"), at.path("noreplace"));
        let flags = RenameFlags::NOREPLACE;
        Ok(rustix::fs::renameat_with(CWD, &old, CWD, &new, flags)?)
    })?;
    at.step("rename", Opcode::Rename, || {
        Ok(std::fs::rename(at.path("noreplace"), dir.join("moved"))?)
    })?;
    at.step("unlink", Opcode::Unlink, || {
        Ok(std::fs::remove_file(dir.join("moved"))?)
    })?;
    at.step("rmdir", Opcode::Rmdir, || Ok(std::fs::remove_dir(&dir)?))?;
    at.step("tmpfile", Opcode::Tmpfile, || {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let mode = Mode::from_raw_mode(0o600);
        Ok(rustix::fs::open(at.path(""), flags, mode)?)
    })?;
    Ok(())
}

fn attributes(at: &DaemonFixture) -> Outcome {
    let file = at.path("file");
    at.step("setattr-mode", Opcode::Setattr, || Ok(chmod(&file, 0o604)?))?;
    at.step("setattr-owner", Opcode::Setattr, || {
        Ok(std::os::unix::fs::chown(&file, Some(12), Some(34))?)
    })?;
    at.step("setattr-size", Opcode::Setattr, || {
        Ok(open_wronly(&file)?.set_len(10_000)?)
    })?;
    at.step("setattr-times", Opcode::Setattr, || {
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let (last_access, last_modification) = (time(-5, 123_456_789), time(1 << 33, 7));
        let times = Timestamps {
            last_access,
            last_modification,
        };
        Ok(rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty())?)
    })?;
    at.step("setattr-now", Opcode::Setattr, || {
        let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps {
            last_access: time(rustix::fs::UTIME_NOW),
            last_modification: time(rustix::fs::UTIME_OMIT),
        };
        Ok(rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty())?)
    })?;
    // std asks for the birth time, so the kernel tries STATX first.
    let stat = || Ok(std::fs::metadata(&file)?);
    let stat = if at.dialect == "extended" {
        let stat = at.step("statx", Opcode::Statx, stat)?;
        let birth = stat.created()?.duration_since(std::time::UNIX_EPOCH)?;
        ensure!(birth == Duration::new(86_400, 5), "{birth:?}");
        stat
    } else {
        at.step("getattr", Opcode::Getattr, stat)?
    };
    let got = (stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.size());
    ensure!(got == (0o604, 12, 34, 10_000), "{got:?}");
    let times = (
        stat.atime(),
        stat.atime_nsec(),
        stat.mtime(),
        stat.mtime_nsec(),
    );
    ensure!(times == (-5, 123_456_789, 1 << 33, 7), "{times:?}");
    // fstat(2) does not name the open file; looking for the end of it does.
    at.step("getattr-of-handle", Opcode::Getattr, || {
        let opened = File::open(&file)?;
        let end = rustix::fs::seek(&opened, SeekFrom::End(0))?;
        ensure!(end == 10_000, "{end}");
        Ok(())
    })?;
    access_and_sizes(at, &file)?;
    xattrs(at, &file)
}

fn access_and_sizes(at: &DaemonFixture, file: &Path) -> Outcome {
    at.step("access", Opcode::Access, || {
        let access = Access::READ_OK | Access::WRITE_OK;
        Ok(rustix::fs::accessat(CWD, file, access, AtFlags::empty())?)
    })?;
    let sizes = at.step("statfs", Opcode::Statfs, || Ok(rustix::fs::statvfs(file)?))?;
    let got = (
        sizes.f_blocks,
        sizes.f_bfree,
        sizes.f_bavail,
        sizes.f_files,
        sizes.f_frsize,
    );
    ensure!(got == (1000, 900, 800, 70, 512), "{got:?}");
    Ok(())
}

fn xattrs(at: &DaemonFixture, file: &Path) -> Outcome {
    at.step("setxattr", Opcode::Setxattr, || {
        let flags = XattrFlags::CREATE;
        Ok(rustix::fs::setxattr(file, "user.name", b"value", flags)?)
    })?;
    let size = at.step("getxattr-size", Opcode::Getxattr, || {
        Ok(rustix::fs::getxattr_query(file, "user.name")?)
    })?;
    let mut value = [0; 40];
    let len = at.step("getxattr", Opcode::Getxattr, || {
        Ok(rustix::fs::getxattr(file, "user.name", &mut value)?)
    })?;
    ensure!((size, &value[..len]) == (5, &b"value"[..]), "{size}, {len}");
    let size = at.step("listxattr-size", Opcode::Listxattr, || {
        Ok(rustix::fs::listxattr_query(file)?)
    })?;
    let len = at.step("listxattr", Opcode::Listxattr, || {
        Ok(rustix::fs::listxattr(file, &mut value)?)
    })?;
    equal("size", size, 10)?;
    same_bytes("names", &value[..len], b"user.name\0")?;
    at.step("removexattr", Opcode::Removexattr, || {
        Ok(rustix::fs::removexattr(file, "user.name")?)
    })
}

fn data(at: &DaemonFixture) -> Outcome {
    let path = at.path("data");
    std::fs::write(&path, b"")?;
    let file = at.step("open", Opcode::Open, || Ok(open_rdwr(&path)?))?;
    let content: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
    at.step("write", Opcode::Write, || {
        Ok(file.write_all_at(&content, 0)?)
    })?;
    at.step("write-one", Opcode::Write, || {
        Ok(file.write_all_at(b"x", 4_999)?)
    })?;
    at.step("fsync", Opcode::Fsync, || Ok(file.sync_all()?))?;
    at.step("fdatasync", Opcode::Fsync, || Ok(file.sync_data()?))?;
    // A second open drops the cache.
    drop(File::open(&path)?);
    let mut read = vec![0; 5000];
    at.step("read", Opcode::Read, || {
        Ok(file.read_exact_at(&mut read, 0)?)
    })?;
    ensure!(read[..4999] == content[..4999] && read[4999] == b'x');
    at.step("fallocate", Opcode::Fallocate, || {
        let flags = FallocateFlags::empty();
        Ok(rustix::fs::fallocate(&file, flags, 5000, 3192)?)
    })?;
    ensure!(file.metadata()?.size() == 8192);
    let found = at.step("lseek", Opcode::Lseek, || {
        Ok(rustix::fs::seek(&file, SeekFrom::Data(100))?)
    })?;
    ensure!(found == 111);
    let copy = at.path("copy");
    let to = File::create(&copy)?;
    let opcode = if at.minor() >= 45 {
        Opcode::CopyFileRange64
    } else {
        Opcode::CopyFileRange
    };
    let (mut from, mut into) = (10, 0);
    let copied = at.step("copy_file_range", opcode, || {
        let (from, into) = (Some(&mut from), Some(&mut into));
        Ok(rustix::fs::copy_file_range(&file, from, &to, into, 900)?)
    })?;
    drop(to);
    ensure!(copied == 900 && std::fs::read(&copy)? == content[10..910]);
    ioctl_and_poll(at, &file, &path)?;
    let duplicate = file.try_clone()?;
    at.step("flush", Opcode::Flush, || {
        drop(duplicate);
        Ok(())
    })?;
    at.step("release", Opcode::Release, || {
        drop(file);
        Ok(())
    })
}

fn ioctl_and_poll(at: &DaemonFixture, file: &File, path: &Path) -> Outcome {
    let flags = at.step("ioctl", Opcode::Ioctl, || {
        succeed(Command::new("lsattr").arg("-d").arg(path))
    })?;
    mentions(flags.split(' ').next().unwrap_or_default(), "A")?;
    let mut fds = [PollFd::new(&file, PollFlags::IN)];
    at.step("poll", Opcode::Poll, || {
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        Ok(poll(&mut fds, Some(&moment))?)
    })?;
    // An empty file has nothing to read until the notification comes.
    let empty = at.path("empty");
    let file = File::create_new(&empty)?;
    let waiter = std::thread::spawn(move || {
        let mut fds = [PollFd::new(&file, PollFlags::IN)];
        poll(&mut fds, Some(&DEADLINE.try_into()?)).context("poll(2)")
    });
    wait_until("POLL that waits", DEADLINE, || {
        Ok(at.shared.lock().waiting_polls > 0)
    })?;
    at.notify(&empty, "poll")?;
    let ready = waiter.join().map_err(|_| anyhow!("poll(2) panicked"))??;
    ensure!(ready == 1, "poll(2) was not woken");
    Ok(())
}

fn directories(at: &DaemonFixture) -> Outcome {
    let root = at.path("");
    let (name, opcode) = if at.dialect == "extended" {
        ("readdirplus", Opcode::Readdirplus)
    } else {
        ("readdir", Opcode::Readdir)
    };
    let all = at.step(name, opcode, || {
        let names = std::fs::read_dir(&root)?.map(|entry| Ok(entry?.file_name()));
        names.collect::<Result<Vec<_>>>()
    })?;
    for expected in ["copy", "data", "empty", "fifo", "file", "link"] {
        let is_there = all.iter().any(|name| name == expected);
        ensure!(is_there, "{expected} of {all:?}");
    }
    let opened = at.step("opendir", Opcode::Opendir, || Ok(File::open(&root)?))?;
    at.step("fsyncdir", Opcode::Fsyncdir, || Ok(opened.sync_all()?))?;
    at.step("releasedir", Opcode::Releasedir, || {
        drop(opened);
        Ok(())
    })
}

fn locks(at: &DaemonFixture) -> Outcome {
    let file = open_rdwr(at.path("file"))?;
    locks::of_a_range(at, &file)?;
    at.step("setlk-flock", Opcode::Setlk, || {
        let operation = FlockOperation::NonBlockingLockShared;
        Ok(rustix::fs::flock(&file, operation)?)
    })?;
    at.step("release-of-flock", Opcode::Release, || {
        drop(file);
        Ok(())
    })
}

fn notifications(at: &DaemonFixture) -> Outcome {
    let path = at.path("data");
    let file = File::open(&path)?;
    let read = |len: usize| -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let before = read(10)?;
    at.notify(&path, "store")?;
    wait_until("STORE", DEADLINE, || Ok(read(10)?.starts_with(b"STORED")))?;
    at.step("notify-reply", Opcode::NotifyReply, || {
        at.notify(&path, "retrieve")
    })?;
    let got = || at.shared.lock().retrieved.starts_with(b"STORED");
    wait_until("NOTIFY_REPLY", DEADLINE, || Ok(got()))?;
    at.step("read-again", Opcode::Read, || {
        at.notify(&path, "inval")?;
        wait_until("INVAL_INODE", DEADLINE, || Ok(read(10)? == before))
    })?;
    drop(file);
    if at.minor() >= 45 {
        at.notify(&path, "epoch")?;
        at.notify(&path, "prune")?;
    }
    // Again where the kernel had forgotten them already.
    at.step("batch-forget", Opcode::BatchForget, || {
        wait_until("names to be forgotten together", DEADLINE, || {
            for name in ["copy", "data", "empty", "fifo", "file"] {
                std::fs::symlink_metadata(at.path(name))?;
            }
            at.notify(&path, "names")?;
            Ok(at.shared.lock().kept.is_some())
        })
    })?;
    let one = at.path("one");
    std::fs::write(&one, b"")?;
    at.step("forget", Opcode::Forget, || Ok(std::fs::remove_file(&one)?))
}

/// A signal to a process that waits for a READ.
fn interrupts(at: &DaemonFixture) -> Outcome {
    let slow = at.path("slow");
    std::fs::write(&slow, b"never seen")?;
    let mut cat = at.step("read-slow", Opcode::Read, || {
        let mut cat = Command::new("cat");
        Ok(cat.arg(&slow).stdout(Stdio::null()).spawn()?)
    })?;
    at.step("interrupt", Opcode::Interrupt, || {
        Ok(kill_process(Pid::from_child(&cat), Signal::INT)?)
    })?;
    wait_for_exit(&mut cat, "cat after SIGINT", DEADLINE)?;
    Ok(std::fs::remove_file(&slow)?)
}

/// A LOOKUP that the server drops once.
fn resends(at: &DaemonFixture) -> Outcome {
    let looked_up = at.step("lookup-resent", Opcode::Lookup, || {
        Ok(std::fs::metadata(at.path("again")))
    })?;
    let kind = looked_up.map_err(|error| error.kind()).map(|_| ());
    ensure!(kind == Err(std::io::ErrorKind::NotFound), "{kind:?}");
    Ok(())
}

impl DaemonFixture {
    /// The agreed minor version.
    fn minor(&self) -> u32 {
        self.shared.lock().init.map_or(0, |init| init.minor.min(46))
    }
}

#[test]
fn wire_with_nothing_granted_serves_the_kernel() -> Outcome {
    case(|| {
        let at = DaemonFixture::new("plain", plain(), "fuse.xtests-wire", "wire")?;
        names(&at)?;
        attributes(&at)?;
        data(&at)?;
        directories(&at)?;
        interrupts(&at)?;
        notifications(&at)?;
        at.finish()?;
        Ok(())
    })
}

#[test]
fn wire_with_everything_granted_serves_the_kernel() -> Outcome {
    case(|| {
        let at = DaemonFixture::new("extended", extended(), "fuse.xtests-wire", "wire")?;
        names(&at)?;
        attributes(&at)?;
        data(&at)?;
        directories(&at)?;
        locks(&at)?;
        interrupts(&at)?;
        notifications(&at)?;
        resends(&at)?;
        at.finish()?;
        Ok(())
    })
}

/// BMAP and DESTROY are sent only to file systems on a block device (and DESTROY to virtiofs).
#[test]
fn wire_on_a_block_device_serves_the_kernel() -> Outcome {
    case(|| {
        let image = tempfile::NamedTempFile::new()?;
        image.as_file().set_len(1 << 20)?;
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).arg(image.path());
        let device =
            succeed(&mut losetup).map_err(|error| missing(format!("a loop device: {error:#}")))?;
        let device = device.trim();
        let outcome = on_block_device(device);
        succeed(Command::new("losetup").args(["--detach", device]))?;
        outcome
    })
}

fn on_block_device(device: &str) -> Outcome {
    let at = DaemonFixture::new("block", extended(), "fuseblk", device)?;
    let path = at.path("file");
    std::fs::write(&path, vec![1; 5000])?;
    at.step("bmap", Opcode::Bmap, || {
        succeed(Command::new("filefrag").arg("-Bv").arg(&path))
    })?;
    let seen = at.finish()?;
    ensure!(seen.lock().seen.contains(&Opcode::Destroy));
    Ok(())
}
