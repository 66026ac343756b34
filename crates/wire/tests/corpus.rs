//! Messages that Linux itself sent, with what they are known to say: tests/corpus/README.md.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/parts.rs"]
mod parts;

use std::collections::BTreeMap;
use std::path::Path;

use parts::everything;
use thrufs_wire::abi::{FsyncFlags, InHeader, OpenInFlags, WriteFlags};
use thrufs_wire::request::{LockKind, SetTime, Timestamp};
use thrufs_wire::{Dialect, InitFlags, Request, decode};

type Expected = fn(&InHeader, &Request<'_>) -> bool;

const REGULAR: u32 = libc::S_IFREG;

/// What the scenario of xtests/tests/wire.rs did, by the name of the file.
#[rustfmt::skip]
const BOTH: &[(&str, Expected)] = &[
    ("lookup", |h, r| h.nodeid == 1 && matches!(r, Request::Lookup { name } if *name == c"dir")),
    ("symlink", |_, r| matches!(r, Request::Symlink { name, target, .. } if *name == c"link" && *target == c"a/target")),
    ("readlink", |_, r| matches!(r, Request::Readlink)),
    ("mknod", |_, r| matches!(r, Request::Mknod { arg, name, .. }
        if arg.mode == libc::S_IFIFO | 0o640 && arg.rdev == 0 && arg.umask == 0o022 && *name == c"fifo")),
    ("mkdir", |h, r| (h.uid, h.gid) == (1000, 1000) && matches!(r, Request::Mkdir { arg, name, .. }
        if arg.mode == 0o755 && arg.umask == 0o022 && *name == c"dir")),
    ("create", |_, r| matches!(r, Request::Create { arg, name, .. }
        if arg.mode == REGULAR | 0o640 && arg.flags as i32 & (libc::O_ACCMODE | libc::O_EXCL) == libc::O_WRONLY | libc::O_EXCL
        && arg.open_flags == OpenInFlags::empty() && *name == c"file")),
    ("tmpfile", |_, r| matches!(r, Request::Tmpfile { arg, name, .. }
        if arg.mode == REGULAR | 0o600 && arg.flags as i32 & libc::O_TMPFILE == libc::O_TMPFILE && *name == c"/")),
    ("link", |_, r| matches!(r, Request::Link { arg, name } if arg.oldnodeid == 5 && *name == c"hard")),
    ("rename2", |_, r| matches!(r, Request::Rename2 { arg, name, new_name }
        if arg.newdir == 1 && arg.flags == 1 && *name == c"hard" && *new_name == c"noreplace")),
    ("rename", |_, r| matches!(r, Request::Rename { arg, name, new_name }
        if arg.newdir == 2 && *name == c"noreplace" && *new_name == c"moved")),
    ("unlink", |h, r| h.nodeid == 2 && matches!(r, Request::Unlink { name } if *name == c"moved")),
    ("rmdir", |_, r| matches!(r, Request::Rmdir { name } if *name == c"dir")),

    ("setattr-mode", |_, r| matches!(r, Request::Setattr(arg) if arg.mode() == Some(REGULAR | 0o604) && arg.uid().is_none())),
    ("setattr-owner", |_, r| matches!(r, Request::Setattr(arg) if arg.uid() == Some(12) && arg.gid() == Some(34))),
    ("setattr-size", |_, r| matches!(r, Request::Setattr(arg) if arg.size() == Some(10_000) && arg.handle() == Some(5))),
    ("setattr-times", |_, r| matches!(r, Request::Setattr(arg)
        if arg.atime() == at(-5, 123_456_789) && arg.mtime() == at(1 << 33, 7) && arg.ctime().is_none())),
    ("setattr-now", |_, r| matches!(r, Request::Setattr(arg) if arg.atime() == Some(SetTime::Now) && arg.mtime().is_none())),
    ("getattr-of-handle", |_, r| matches!(r, Request::Getattr(arg) if arg.handle() == Some(5))),
    ("access", |_, r| matches!(r, Request::Access(arg) if arg.mask == 6)),
    ("statfs", |_, r| matches!(r, Request::Statfs)),
    ("setxattr", |_, r| matches!(r, Request::Setxattr { arg, name, value }
        if arg.flags as i32 == libc::XATTR_CREATE && *name == c"user.name" && *value == b"value")),
    ("getxattr-size", |_, r| matches!(r, Request::Getxattr { arg, name } if arg.size == 0 && *name == c"user.name")),
    ("getxattr", |_, r| matches!(r, Request::Getxattr { arg, name } if arg.size == 40 && *name == c"user.name")),
    ("listxattr-size", |_, r| matches!(r, Request::Listxattr(arg) if arg.size == 0)),
    ("listxattr", |_, r| matches!(r, Request::Listxattr(arg) if arg.size == 40)),
    ("removexattr", |_, r| matches!(r, Request::Removexattr { name } if *name == c"user.name")),

    ("open", |h, r| matches!(r, Request::Open(arg) if arg.flags as i32 & libc::O_ACCMODE == libc::O_RDWR) && h.nodeid > 5),
    ("write", |_, r| matches!(r, Request::Write { arg, data } if (arg.offset, arg.size) == (0, 4096.max(arg.size)) && data.start == 80)),
    ("write-one", |_, r| matches!(r, Request::Write { arg, data }
        if (arg.offset, arg.size, data.len) == (4999, 1, 1) && !arg.write_flags.contains(WriteFlags::FUSE_WRITE_CACHE))),
    ("read", |_, r| matches!(r, Request::Read(arg) if arg.offset == 0 && arg.size >= 4096)),
    ("read-again", |_, r| matches!(r, Request::Read(arg) if arg.offset == 0)),
    ("read-slow", |_, r| matches!(r, Request::Read(arg) if arg.offset == 0)),
    ("fsync", |_, r| matches!(r, Request::Fsync(arg) if arg.fsync_flags == FsyncFlags::empty())),
    ("fdatasync", |_, r| matches!(r, Request::Fsync(arg) if arg.fsync_flags == FsyncFlags::FUSE_FSYNC_FDATASYNC)),
    ("fallocate", |_, r| matches!(r, Request::Fallocate(arg) if (arg.offset, arg.length, arg.mode) == (5000, 3192, 0))),
    ("lseek", |_, r| matches!(r, Request::Lseek(arg) if arg.offset == 100 && arg.whence as i32 == libc::SEEK_DATA)),
    ("copy_file_range", |h, r| matches!(r, Request::CopyFileRange64(arg)
        if (arg.off_in, arg.off_out, arg.len, arg.flags) == (10, 0, 900, 0) && arg.nodeid_out == arg.fh_out && arg.fh_in == h.nodeid)),
    ("ioctl", |_, r| matches!(r, Request::Ioctl { arg, data } if arg.cmd == 0x8008_6601 && data.is_empty() && arg.out_size == 4)),
    ("poll", |_, r| matches!(r, Request::Poll(arg) if arg.events as i16 & libc::POLLIN != 0)),
    ("flush", |h, r| matches!(r, Request::Flush(arg) if arg.fh == h.nodeid && arg.lock_owner != 0)),
    ("release", |h, r| matches!(r, Request::Release(arg) if arg.fh == h.nodeid && arg.flock_owner().is_none())),

    ("opendir", |h, r| h.nodeid == 1 && matches!(r, Request::Opendir(_))),
    ("fsyncdir", |_, r| matches!(r, Request::Fsyncdir(arg) if arg.fh == 1)),
    ("releasedir", |_, r| matches!(r, Request::Releasedir(arg) if arg.fh == 1)),

    ("notify-reply", |h, r| h.unique == 0x7261 && matches!(r, Request::NotifyReply { arg, data }
        if arg.offset == 0 && arg.size == 4096 && data.len == 4096)),
    ("interrupt", |h, r| matches!(r, Request::Interrupt(arg) if arg.unique == h.unique & !1)),
    ("forget", |_, r| matches!(r, Request::Forget(arg) if arg.nlookup >= 1)),
    ("batch-forget", |_, r| matches!(r, Request::BatchForget(all) if all.len() > 1 && all.clone().all(|one| one.nodeid > 1 && one.nlookup > 0))),
];

/// Where nothing was granted.
#[rustfmt::skip]
const PLAIN: &[(&str, Expected)] = &[
    ("init", |h, r| h.nodeid == 0 && matches!(r, Request::Init(arg) if (arg.major, arg.minor) == (7, 45))),
    ("getattr", |_, r| matches!(r, Request::Getattr(arg) if arg.handle().is_none())),
    ("readdir", |_, r| matches!(r, Request::Readdir(arg) if arg.fh == 1 && arg.offset == 0)),
];

/// Where everything was.
#[rustfmt::skip]
const EXTENDED: &[(&str, Expected)] = &[
    ("init", |_, r| matches!(r, Request::Init(arg) if arg.capabilities().contains(
        InitFlags::FUSE_SETXATTR_EXT | InitFlags::FUSE_HAS_RESEND | InitFlags::FUSE_PASSTHROUGH | InitFlags::FUSE_REQUEST_TIMEOUT)
        && arg.capabilities().unnamed() == 0)),
    ("statx", |_, r| matches!(r, Request::Statx(arg) if arg.sx_mask & libc::STATX_BTIME != 0 && arg.handle().is_none())),
    ("readdirplus", |_, r| matches!(r, Request::Readdirplus(arg) if arg.fh == 1 && arg.offset == 0)),
    ("setlk", |_, r| matches!(r, Request::Setlk(arg) if arg.kind() == LockKind::Posix
        && (arg.lk.start, arg.lk.end, arg.lk.r#type as i32) == (10, 29, libc::F_WRLCK))),
    ("setlkw", |_, r| matches!(r, Request::Setlkw(arg) if arg.kind() == LockKind::Posix)),
    ("setlk-flock", |_, r| matches!(r, Request::Setlk(arg) if arg.kind() == LockKind::Flock)),
    ("getlk", |_, r| matches!(r, Request::Getlk(arg) if (arg.lk.start, arg.lk.r#type as i32) == (10, libc::F_RDLCK))),
    ("release-of-flock", |_, r| matches!(r, Request::Release(arg) if arg.flock_owner().is_some())),
    ("lookup-resent", |h, r| h.is_resent() && matches!(r, Request::Lookup { name } if *name == c"again")),
];

/// File systems on a block device.
#[rustfmt::skip]
const BLOCK: &[(&str, Expected)] = &[
    ("init", |_, r| matches!(r, Request::Init(arg) if arg.minor == 45)),
    ("bmap", |_, r| matches!(r, Request::Bmap(arg) if arg.block == 0 && arg.blocksize == 4096)),
];

fn at(seconds: i64, nanoseconds: u32) -> Option<SetTime> {
    Some(SetTime::At(Timestamp {
        seconds,
        nanoseconds,
    }))
}

fn corpus(of: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(of);
    let files = std::fs::read_dir(folder).unwrap();
    files
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect()
}

fn compare(of: &str, dialect: Dialect, tables: &[&[(&str, Expected)]]) {
    let mut messages = corpus(of);
    for (name, expected) in tables.iter().copied().flatten() {
        let message = messages
            .remove(*name)
            .unwrap_or_else(|| panic!("no {of}/{name}"));
        let decoded = decode(dialect, &message, message.len());
        let decoded = decoded.unwrap_or_else(|refused| panic!("{of}/{name}: {refused}"));
        assert!(
            expected(&decoded.header, &decoded.request),
            "{of}/{name}: {decoded:#?}"
        );
    }
    assert!(
        messages.is_empty(),
        "nothing is known of {:?}",
        messages.keys()
    );
}

#[test]
fn recorded_message_with_nothing_granted_says_what_was_done() {
    compare(
        "plain",
        Dialect::new(45, InitFlags::empty()),
        &[BOTH, PLAIN],
    );
}

#[test]
fn recorded_message_with_everything_granted_says_what_was_done() {
    compare("extended", everything(), &[BOTH, EXTENDED]);
}

#[test]
fn recorded_message_of_a_block_device_says_what_was_done() {
    compare("block", everything(), &[BLOCK]);
}

/// The group of the parent directory, of which the caller is a member.
#[test]
fn recorded_creation_has_the_extensions_that_init_granted() {
    let messages = corpus("extended");
    let mkdir = &messages["mkdir"];
    let decoded = decode(everything(), mkdir, mkdir.len()).unwrap();
    let Request::Mkdir { extensions, .. } = decoded.request else {
        panic!("{decoded:?}");
    };
    assert_eq!(extensions.groups().collect::<Vec<_>>(), [4242]);
    // No security module on the machine that recorded it: a list without labels.
    assert_eq!(extensions.security_contexts().count(), 0);
    assert_eq!(decoded.header.total_extlen, 3);
}
