//! Answers and notifications as bytes: what the kernel reads out of them is what was meant.
//!
//! Sizes and layout are taken from fs/fuse (`out_args` of each caller, `parse_dirfile`,
//! `fuse_notify_*`), not from the encoder.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::ffi::{CStr, CString};
use std::time::Duration;

use nix::errno::Errno;
use proptest::collection::vec;
use proptest::prelude::*;
use thrufs_wire::abi::{
    Abi, Attr, AttrOut, BmapOut, CopyFileRangeOut, Direntplus, EntryOut, GetxattrOut, InitOut,
    InvalEntryFlags, IoctlFlags, IoctlIovec, IoctlOut, LkOut, LseekOut, OpenOut, OutHeader,
    PollOut, StatfsOut, StatxOut, WriteOut,
};
use thrufs_wire::reply::{DirBuffer, NotAnEntry, Pushed, payload_header};
use thrufs_wire::{Dialect, Encoded, InitFlags, Notification, Opcode, Reply};
use zerocopy::{FromBytes, IntoBytes};

const UNIQUE: u64 = 1 << 63 | 42;

/// All pieces in order, as writev(2) joins them.
fn joined(encoded: &Encoded<'_>) -> Vec<u8> {
    let slices = encoded.io_slices();
    let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
    assert!(slices.iter().all(|slice| !slice.is_empty()));
    assert_eq!(bytes.len(), encoded.len());
    bytes
}

/// The header, compared with the message, and what follows.
fn opened(bytes: &[u8]) -> (OutHeader, &[u8]) {
    let (header, body) = OutHeader::read_from_prefix(bytes).unwrap();
    assert_eq!(header.len as usize, bytes.len());
    (header, body)
}

/// An answer that succeeds: its body.
fn body(reply: &Reply<'_>) -> Vec<u8> {
    let bytes = joined(&reply.encode(UNIQUE));
    let (header, body) = opened(&bytes);
    assert_eq!((header.error, header.unique), (0, UNIQUE));
    body.to_vec()
}

/// A struct of any bytes.
fn any_of<T: Abi + std::fmt::Debug>() -> impl Strategy<Value = T> {
    vec(any::<u8>(), size_of::<T>()).prop_map(|bytes| T::read_from_bytes(&bytes).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reply_of_one_struct_is_the_struct_behind_a_header(
        entry in any_of::<EntryOut>(), attr in any_of::<AttrOut>(), statx in any_of::<StatxOut>(),
        open in any_of::<OpenOut>(), statfs in any_of::<StatfsOut>(), lock in any_of::<LkOut>(),
        init in any_of::<InitOut>(), write in any_of::<WriteOut>(),
        numbers in any_of::<CopyFileRangeOut>(), size in any_of::<GetxattrOut>(),
        poll in any_of::<PollOut>(), ioctl in any_of::<IoctlOut>(),
    ) {
        prop_assert_eq!(body(&Reply::Entry(entry)), entry.as_bytes());
        prop_assert_eq!(body(&Reply::Attr(attr)), attr.as_bytes());
        prop_assert_eq!(body(&Reply::Statx(statx)), statx.as_bytes());
        prop_assert_eq!(body(&Reply::Open(open)), open.as_bytes());
        let both = [entry.as_bytes(), open.as_bytes()].concat();
        prop_assert_eq!(body(&Reply::Create(entry, open)), both);
        prop_assert_eq!(body(&Reply::Statfs(statfs)), statfs.as_bytes());
        prop_assert_eq!(body(&Reply::Lock(lock)), lock.as_bytes());
        prop_assert_eq!(body(&Reply::Init(init)), init.as_bytes());
        prop_assert_eq!(body(&Reply::Write(write)), write.as_bytes());
        prop_assert_eq!(body(&Reply::CopyFileRange(numbers)), numbers.as_bytes());
        prop_assert_eq!(body(&Reply::XattrSize(size)), size.as_bytes());
        prop_assert_eq!(body(&Reply::Poll(poll)), poll.as_bytes());
        let (bmap, lseek) = (BmapOut { block: numbers.bytes_copied }, LseekOut { offset: numbers.bytes_copied });
        prop_assert_eq!(body(&Reply::Bmap(bmap)), bmap.as_bytes());
        prop_assert_eq!(body(&Reply::Lseek(lseek)), lseek.as_bytes());
        prop_assert_eq!(body(&Reply::Ioctl(ioctl, b"out")), [ioctl.as_bytes(), b"out"].concat());
    }

    #[test]
    fn reply_of_data_is_the_data_behind_a_header(data in vec(any::<u8>(), 0..5000)) {
        prop_assert_eq!(&body(&Reply::Data(&data)), &data);
        let header = payload_header(UNIQUE, data.len()).unwrap();
        let whole = joined(&Reply::Data(&data).encode(UNIQUE));
        prop_assert_eq!(header.as_bytes(), &whole[..16]);
    }

    #[test]
    fn listing_of_any_names_is_what_the_kernel_parses(
        entries in vec((any::<u64>(), any::<u64>(), any::<u32>(), vec(1_u8.., 1..300)), 0..40),
        size in 0_u32..6000,
        plus in any::<bool>(),
    ) {
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(ino, off, kind, mut name)| {
                name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
                (ino, off, kind, CString::new(name).unwrap())
            })
            .collect();
        let mut buffer = vec![0xee; 5000];
        let mut listing = DirBuffer::new(&mut buffer, size);
        let (mut added, mut used) = (Vec::new(), 0);
        for (ino, off, kind, name) in &entries {
            let head = if plus { 152 } else { 24 };
            let record = (head + name.count_bytes()).next_multiple_of(8);
            let pushed = if plus {
                let attr = Attr { ino: *ino, ..Attr::default() };
                let entry = EntryOut { nodeid: !*ino, attr, ..EntryOut::default() };
                listing.push_plus(entry, *off, *kind, name)
            } else {
                listing.push(*ino, *off, *kind, name)
            };
            let fits = used + record <= 5000.min(size as usize);
            prop_assert_eq!(pushed, Ok(if fits { Pushed::Added } else { Pushed::Full }));
            if fits {
                used += record;
                added.push((*ino, *off, *kind, name.clone()));
            }
        }
        prop_assert_eq!(listing.is_empty(), added.is_empty());
        prop_assert_eq!(parsed(listing.filled(), plus), added);
        let filled = listing.filled().to_vec();
        prop_assert_eq!(filled.len(), used);
        prop_assert_eq!(body(&listing.into_reply()), filled);
        prop_assert!(buffer[used..].iter().all(|byte| *byte == 0xee));
    }
}

/// As `parse_dirfile` and `parse_dirplusfile` of fs/fuse/readdir.c read it.
fn parsed(mut bytes: &[u8], plus: bool) -> Vec<(u64, u64, u32, CString)> {
    let mut all = Vec::new();
    let entry = if plus { size_of::<EntryOut>() } else { 0 };
    while bytes.len() >= entry + 24 {
        let word = |at: usize| u64::from_ne_bytes(bytes[entry + at..][..8].try_into().unwrap());
        let half = |at: usize| u32::from_ne_bytes(bytes[entry + at..][..4].try_into().unwrap());
        let len = half(16) as usize;
        let record = (entry + 24 + len).next_multiple_of(8);
        let name = CString::new(&bytes[entry + 24..][..len]).unwrap();
        if plus {
            let nodeid = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
            assert_eq!(nodeid, !word(0));
        }
        all.push((word(0), word(8), half(20), name));
        let padding = &bytes[entry + 24 + len..record];
        assert!(padding.iter().all(|byte| *byte == 0));
        bytes = &bytes[record..];
    }
    assert!(bytes.is_empty());
    all
}

#[test]
fn listing_refuses_names_that_the_kernel_refuses() {
    let mut buffer = [0; 4096];
    let mut listing = DirBuffer::new(&mut buffer, 4096);
    assert_eq!(listing.push(1, 1, 0, c""), Err(NotAnEntry::Empty));
    assert_eq!(listing.push(1, 1, 0, c"a/b"), Err(NotAnEntry::Slash));
    let long = CString::new(vec![b'n'; 1025]).unwrap();
    let plus = listing.push_plus(EntryOut::default(), 1, 0, &long);
    assert_eq!(plus, Err(NotAnEntry::TooLong { len: 1025 }));
    assert!(listing.is_empty());
    assert_eq!(size_of::<Direntplus>(), 152);
}

#[test]
fn error_is_negative_and_never_success() {
    for errno in [Errno::ENOENT, Errno::EINTR, Errno::ENOSYS, Errno::EHWPOISON] {
        let bytes = joined(&Reply::Error(errno).encode(UNIQUE));
        assert_eq!(bytes.len(), 16);
        assert_eq!(opened(&bytes).0.error, -(errno as i32));
    }
    // An errno that nix does not know is its 0: the kernel would take that for success.
    let bytes = joined(&Reply::Error(Errno::UnknownErrno).encode(UNIQUE));
    assert_eq!(opened(&bytes).0.error, -libc::EIO);
    assert_eq!(joined(&Reply::Empty.encode(UNIQUE)).len(), 16);
}

#[test]
fn data_that_no_length_can_say_become_an_error() {
    // Zeroed memory that is never touched.
    let data = vec![0_u8; 1 << 32];
    let encoded = Reply::Data(&data).encode(UNIQUE);
    assert_eq!(opened(encoded.head()).0.error, -libc::EIO);
    let most = u32::MAX as usize - 16;
    assert_eq!(payload_header(UNIQUE, most).unwrap().len, u32::MAX);
    assert_eq!(payload_header(UNIQUE, most + 1), None);
    let store = Notification::Store {
        nodeid: 1,
        offset: 0,
        data: &data,
    };
    assert!(store.encode().is_err());
}

#[test]
fn ioctl_retry_lists_in_before_out() {
    let iovec = |base| IoctlIovec { base, len: 8 };
    let reply = Reply::IoctlRetry(&[iovec(1), iovec(2)], &[iovec(3)]);
    let body = body(&reply);
    let (out, iovecs) = IoctlOut::read_from_prefix(&body).unwrap();
    assert_eq!(out.flags, IoctlFlags::FUSE_IOCTL_RETRY);
    assert_eq!((out.in_iovs, out.out_iovs), (2, 1));
    let bases: Vec<u8> = iovecs.chunks(16).map(|chunk| chunk[0]).collect();
    assert_eq!(bases, [1, 2, 3]);
}

/// Each operation that is answered has the answers that fs/fuse makes room for.
#[test]
fn every_operation_has_its_answers() {
    let all = [
        Reply::Error(Errno::EIO),
        Reply::Empty,
        Reply::Entry(EntryOut::default()),
        Reply::Attr(AttrOut::default()),
        Reply::Statx(StatxOut::default()),
        Reply::Open(OpenOut::default()),
        Reply::Create(EntryOut::default(), OpenOut::default()),
        Reply::Write(WriteOut::default()),
        Reply::CopyFileRange(CopyFileRangeOut::default()),
        Reply::Statfs(StatfsOut::default()),
        Reply::Lock(LkOut::default()),
        Reply::XattrSize(GetxattrOut::default()),
        Reply::Data(&[]),
        Reply::Ioctl(IoctlOut::default(), &[]),
        Reply::IoctlRetry(&[], &[]),
        Reply::Poll(PollOut::default()),
        Reply::Bmap(BmapOut::default()),
        Reply::Lseek(LseekOut::default()),
        Reply::Init(InitOut::default()),
    ];
    for opcode in Opcode::ALL {
        let answers = all.iter().filter(|reply| reply.answers(*opcode)).count();
        let waits = match opcode {
            Opcode::Forget | Opcode::BatchForget | Opcode::NotifyReply => 0..=0,
            // Only ENOSYS and EAGAIN.
            Opcode::Interrupt => 1..=1,
            _answered => 2..=4,
        };
        assert!(waits.contains(&answers), "{opcode:?}: {answers}");
    }
}

#[test]
fn timeouts_are_seconds_and_nanoseconds() {
    let (entry, attr) = (Duration::from_millis(1500), Duration::from_nanos(7));
    let out = EntryOut::new(5, 6, Attr::default(), entry, attr);
    assert_eq!((out.entry_valid, out.entry_valid_nsec), (1, 500_000_000));
    assert_eq!((out.attr_valid, out.attr_valid_nsec), (0, 7));
    assert_eq!(EntryOut::negative(entry).nodeid, 0);
    let out = AttrOut::new(Attr::default(), entry);
    assert_eq!(out.attr_valid_nsec, 500_000_000);
}

fn notified(notification: &Notification<'_>, code: i32) -> Vec<u8> {
    let bytes = joined(&notification.encode().unwrap());
    let (header, body) = opened(&bytes);
    assert_eq!((header.error, header.unique), (code, 0));
    body.to_vec()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8);
    words
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
        .collect()
}

#[test]
fn notification_of_every_kind_is_what_the_kernel_reads() {
    let name: &CStr = c"name";
    let inval = Notification::InvalInode {
        nodeid: 5,
        offset: -1,
        len: 0,
    };
    let entry = |flags| Notification::InvalEntry {
        parent: 5,
        name,
        flags,
    };
    let store = Notification::Store {
        nodeid: 5,
        offset: 6,
        data: b"data",
    };
    let retrieve = Notification::Retrieve {
        unique: 4,
        nodeid: 5,
        offset: 6,
        size: 7,
    };
    let delete = Notification::Delete {
        parent: 5,
        child: 6,
        name,
    };
    let prune = Notification::Prune { nodeids: &[7, 8] };
    let expire = entry(InvalEntryFlags::FUSE_EXPIRE_ONLY);
    let rows = [
        (Notification::Poll { kh: 9 }, 1, vec![9], ""),
        (inval, 2, vec![5, u64::MAX, 0], ""),
        (entry(InvalEntryFlags::empty()), 3, vec![5, 4], "name\0"),
        (expire, 3, vec![5, 4 | 1 << 32], "name\0"),
        (store, 4, vec![5, 6, 4], "data"),
        (retrieve, 5, vec![4, 5, 6, 7], ""),
        (delete, 6, vec![5, 6, 4], "name\0"),
        (Notification::Resend, 7, vec![], ""),
        (Notification::IncEpoch, 8, vec![], ""),
        (prune, 9, vec![2, 0, 7, 8], ""),
    ];
    for (notification, code, numbers, rest) in rows {
        let body = notified(&notification, code);
        let (head, tail) = body.split_at(8 * numbers.len());
        assert_eq!(
            (words(head), tail),
            (numbers, rest.as_bytes()),
            "{notification:?}"
        );
    }
}

#[test]
fn notification_is_known_where_init_or_the_version_says_so() {
    let name: &CStr = c"name";
    let drop = Notification::InvalEntry {
        parent: 1,
        name,
        flags: InvalEntryFlags::empty(),
    };
    let expire = Notification::InvalEntry {
        parent: 1,
        name,
        flags: InvalEntryFlags::FUSE_EXPIRE_ONLY,
    };
    let prune = Notification::Prune { nodeids: &[] };
    let old = Dialect::new(32, InitFlags::empty());
    let granted = InitFlags::FUSE_HAS_EXPIRE_ONLY | InitFlags::FUSE_HAS_RESEND;
    for (dialect, known) in [
        (old, [true, false, false, false, false]),
        (Dialect::new(44, granted), [true, true, true, true, false]),
        (Dialect::new(46, granted), [true; 5]),
    ] {
        let all = [
            drop,
            expire,
            Notification::Resend,
            Notification::IncEpoch,
            prune,
        ];
        let got = all.map(|notification| notification.is_known(dialect));
        assert_eq!(got, known);
    }
}
