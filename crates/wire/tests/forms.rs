//! Forms of messages that depend on the version and on what INIT granted, and what fields mean.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/parts.rs"]
mod parts;

use parts::{Parts, everything};
use thrufs_wire::abi::{
    GetattrFlags, GetattrIn, InHeader, InitIn, InitOut, LkIn, LockFlags, ReleaseFlags, ReleaseIn,
    SetattrIn, SetattrValid, SetxattrExtFlags, WriteFlags, WriteIn,
};
use thrufs_wire::request::{LockKind, Malformed, SetTime, Timestamp};
use thrufs_wire::{Dialect, InitFlags, Opcode, Request, decode};

fn message(opcode: Opcode, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        opcode: opcode.as_raw(),
        ..InHeader::default()
    };
    let parts = Parts {
        arg: body.to_vec(),
        ..Parts::default()
    };
    parts.message(header, &[])
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn init(body: &[u32]) -> Result<InitIn, Malformed> {
    let message = message(Opcode::Init, &words(body));
    match decode(Dialect::BEFORE_INIT, &message, message.len()) {
        Ok(got) => match got.request {
            Request::Init(arg) => Ok(arg),
            other => panic!("{other:?}"),
        },
        Err(refused) => Err(refused.cause),
    }
}

#[test]
fn init_before_7_36_has_no_second_flags() {
    let arg = init(&[7, 32, 1 << 17, u32::MAX]).unwrap();
    assert_eq!((arg.minor, arg.max_readahead, arg.flags2), (32, 1 << 17, 0));
    assert_eq!(arg.capabilities().bits(), u64::from(u32::MAX));
}

#[test]
fn init_of_a_newer_minor_may_be_longer() {
    let mut body = vec![7, 99, 0, InitFlags::FUSE_INIT_EXT.bits() as u32, 1 << 5];
    body.resize(16, 0);
    let newer = [&body[..], &[1, 2, 3]].concat();
    assert_eq!(init(&newer), init(&body));
    let capabilities = init(&newer).unwrap().capabilities();
    let expected = InitFlags::FUSE_INIT_EXT | InitFlags::FUSE_PASSTHROUGH;
    assert_eq!(capabilities, expected);
}

#[test]
fn init_of_another_length_is_refused_and_of_another_major_read() {
    for len in [0, 1, 3, 5, 15] {
        let mut body = vec![7, 36, 0, 0];
        body.resize(len, 0);
        assert!(init(&body).is_err(), "{len} words");
    }
    for rest in 0..20 {
        let body = [&[8, 1][..], &vec![9; rest]].concat();
        let arg = init(&body).unwrap();
        assert_eq!((arg.major, arg.minor, arg.flags), (8, 1, 0));
    }
}

#[test]
fn second_flags_count_only_with_init_ext() {
    let flags = InitFlags::FUSE_PASSTHROUGH | InitFlags::FUSE_ASYNC_READ;
    let out = InitOut::default().with_capabilities(flags);
    assert_eq!(out.capabilities(), InitFlags::FUSE_ASYNC_READ);
    let flags = flags | InitFlags::FUSE_INIT_EXT;
    let out = InitOut::default().with_capabilities(flags);
    assert_eq!((out.flags, out.flags2), (1 | 1 << 30, 1 << 5));
    assert_eq!(out.capabilities(), flags);
}

#[test]
fn init_flags_have_the_kernels_names() {
    let unknown = 1 << 50;
    let flags = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_HAS_RESEND
        | InitFlags::from_bits_retain(unknown);
    let names: Vec<&str> = flags.names().collect();
    assert_eq!(names, ["FUSE_ASYNC_READ", "FUSE_HAS_RESEND"]);
    assert_eq!(flags.unnamed(), unknown);
    let named = InitFlags::named("FUSE_HAS_RESEND");
    assert_eq!(named, Some(InitFlags::FUSE_HAS_RESEND));
    assert_eq!(InitFlags::named("HAS_RESEND"), None);
    let second = flags.intersection(InitFlags::of_flags2());
    assert_eq!(second.names().collect::<Vec<_>>(), ["FUSE_HAS_RESEND"]);
    let text = "InitFlags(FUSE_ASYNC_READ | FUSE_HAS_RESEND | 0x4000000000000)";
    assert_eq!(format!("{flags:?}"), text);
}

#[test]
fn setxattr_has_eight_bytes_more_where_init_granted_them() {
    let plain = [&words(&[5, 1])[..], b"user.x\0value"].concat();
    let extended = [&words(&[5, 1, 1, 0])[..], b"user.x\0value"].concat();
    let none = Dialect::new(46, InitFlags::empty());
    for (dialect, body, flags) in [
        (none, &plain, SetxattrExtFlags::empty()),
        (
            everything(),
            &extended,
            SetxattrExtFlags::FUSE_SETXATTR_ACL_KILL_SGID,
        ),
    ] {
        let message = message(Opcode::Setxattr, body);
        let got = decode(dialect, &message, message.len()).unwrap();
        let Request::Setxattr { arg, name, value } = got.request else {
            panic!("{got:?}");
        };
        assert_eq!((arg.size, arg.flags, arg.setxattr_flags), (5, 1, flags));
        assert_eq!((name, value), (c"user.x", &b"value"[..]));
    }
    for (dialect, body) in [(none, &extended), (everything(), &plain)] {
        let message = message(Opcode::Setxattr, body);
        assert!(decode(dialect, &message, message.len()).is_err());
    }
}

/// Linux 5.17 to 6.2 send security contexts that the header does not count.
#[test]
fn security_context_before_7_39_need_not_be_counted() {
    let parts = Parts {
        arg: words(&[0o755, 0]),
        names: vec![c"d".to_owned()],
        labels: vec![(c"security.selinux".to_owned(), b"label".to_vec())],
        ..Parts::default()
    };
    let header = InHeader {
        opcode: Opcode::Mkdir.as_raw(),
        ..InHeader::default()
    };
    let mut uncounted = parts.message(header, &[]);
    uncounted[36..38].fill(0);
    let security = InitFlags::FUSE_SECURITY_CTX;
    let group = InitFlags::FUSE_CREATE_SUPP_GROUP;
    for (dialect, taken) in [
        (Dialect::new(37, security), true),
        (Dialect::new(38, security), true),
        (Dialect::new(39, security), false),
        (Dialect::new(38, group), false),
    ] {
        let got = decode(dialect, &uncounted, uncounted.len());
        assert_eq!(got.is_ok(), taken, "{dialect:?}: {got:?}");
        if let Ok(got) = got {
            assert_eq!(parts::parts(&got.request), parts);
        }
    }
    let counted = parts.message(header, &[]);
    assert!(decode(Dialect::new(38, security), &counted, counted.len()).is_ok());
    // No label: the client has no security module that gives one.
    let empty = [&words(&[0o755, 0])[..], b"d\0", &words(&[8, 0])].concat();
    let mut message = message(Opcode::Mkdir, &empty);
    message[36..38].copy_from_slice(&1_u16.to_ne_bytes());
    assert!(decode(everything(), &message, message.len()).is_ok());
}

#[test]
fn fields_count_only_with_their_flags() {
    let mut getattr = GetattrIn {
        fh: 5,
        ..GetattrIn::default()
    };
    assert_eq!(getattr.handle(), None);
    getattr.getattr_flags = GetattrFlags::FUSE_GETATTR_FH;
    assert_eq!(getattr.handle(), Some(5));

    let mut write = WriteIn {
        lock_owner: 6,
        ..WriteIn::default()
    };
    let read = |write: &WriteIn| {
        (
            write.lock_owner(),
            write.is_writeback(),
            write.kills_suidgid(),
        )
    };
    assert_eq!(read(&write), (None, false, false));
    write.write_flags = WriteFlags::FUSE_WRITE_LOCKOWNER
        | WriteFlags::FUSE_WRITE_CACHE
        | WriteFlags::FUSE_WRITE_KILL_SUIDGID;
    assert_eq!(read(&write), (Some(6), true, true));

    let mut release = ReleaseIn {
        lock_owner: 7,
        ..ReleaseIn::default()
    };
    assert_eq!(release.flock_owner(), None);
    release.release_flags = ReleaseFlags::FUSE_RELEASE_FLOCK_UNLOCK;
    assert_eq!(release.flock_owner(), Some(7));

    let mut lock = LkIn::default();
    assert_eq!(lock.kind(), LockKind::Posix);
    lock.lk_flags = LockFlags::FUSE_LK_FLOCK;
    assert_eq!(lock.kind(), LockKind::Flock);

    let header = InHeader {
        unique: 1 << 63 | 8,
        ..InHeader::default()
    };
    assert!(header.is_resent());
    assert_eq!(header.first_unique(), 8);
}

/// A SETATTR with a value in every field, of which `valid` count.
fn setattr(valid: SetattrValid) -> SetattrIn {
    SetattrIn {
        valid,
        fh: 1,
        size: 2,
        lock_owner: 3,
        atime: -4_i64 as u64,
        atimensec: 5,
        mtime: 6,
        mtimensec: 7,
        ctime: 8,
        ctimensec: 9,
        mode: 10,
        uid: 11,
        gid: 12,
        ..SetattrIn::default()
    }
}

#[test]
fn setattr_gives_the_fields_that_are_valid() {
    let fields = |arg: SetattrIn| {
        let numbers = [arg.handle(), arg.size(), arg.lock_owner()];
        (numbers, [arg.mode(), arg.uid(), arg.gid()])
    };
    let none = setattr(SetattrValid::empty());
    assert_eq!(fields(none), ([None; 3], [None; 3]));
    assert!(!none.kills_suidgid());
    let all = setattr(SetattrValid::from_bits_retain(!0));
    let (numbers, words) = ([1, 2, 3], [10, 11, 12]);
    assert_eq!(fields(all), (numbers.map(Some), words.map(Some)));
    assert!(all.kills_suidgid());
}

#[test]
fn setattr_gives_the_times_that_are_valid() {
    let none = setattr(SetattrValid::empty());
    let times = (none.atime(), none.mtime(), none.ctime());
    assert_eq!(times, (None, None, None));
    let at = |seconds, nanoseconds| Timestamp {
        seconds,
        nanoseconds,
    };
    let valid = SetattrValid::FATTR_ATIME | SetattrValid::FATTR_MTIME | SetattrValid::FATTR_CTIME;
    let given = setattr(valid);
    let (atime, mtime) = (SetTime::At(at(-4, 5)), SetTime::At(at(6, 7)));
    assert_eq!((given.atime(), given.mtime()), (Some(atime), Some(mtime)));
    assert_eq!(given.ctime(), Some(at(8, 9)));
    let now = SetattrValid::FATTR_ATIME_NOW | SetattrValid::FATTR_MTIME_NOW;
    let now = setattr(valid | now);
    let both = (now.atime(), now.mtime());
    assert_eq!(both, (Some(SetTime::Now), Some(SetTime::Now)));
}
