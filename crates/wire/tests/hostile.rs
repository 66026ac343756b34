//! Messages that no kernel sends: each is refused, or is a message after all; none makes the
//! decoder panic or read what is not there.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/exercise.rs"]
mod exercise;
#[path = "../../session/tests/common/mutate.rs"]
mod mutate;
#[path = "common/parts.rs"]
mod parts;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use exercise::{FIX_LENGTH, HEAD_ONLY, OLD, SECURITY_CTX, SETXATTR_EXT, SUPP_GROUP, exercise};
use mutate::{Random, mutated};
use nix::errno::Errno;
use parts::{Parts, SHAPES, Shape, Tail, everything};
use thrufs_wire::abi::InHeader;
use thrufs_wire::request::Malformed;
use thrufs_wire::{Dialect, Opcode, decode, head_len};
use zerocopy::IntoBytes;

/// Mutations in a run of the tests; `THRUFS_MUTATIONS` asks for more.
const MUTATIONS: u64 = 100_000;
const ALL: u8 = SETXATTR_EXT | SECURITY_CTX | SUPP_GROUP;

fn folder(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn header(opcode: Opcode) -> InHeader {
    InHeader {
        opcode: opcode.as_raw(),
        unique: 0x1234,
        nodeid: 1,
        ..InHeader::default()
    }
}

/// A message of each operation, with everything in it that it can have.
fn full(shape: &Shape) -> Vec<u8> {
    let name = |of: usize| CString::new(format!("name{of}")).unwrap();
    let mut parts = Parts {
        arg: vec![0; shape.arg],
        names: (0..shape.names).map(name).collect(),
        ..Parts::default()
    };
    let mut payload = Vec::new();
    match shape.tail {
        Tail::Nothing => {}
        Tail::Extensions => {
            parts.labels = vec![(name(8), b"label".to_vec()), (name(9), Vec::new())];
            parts.groups = vec![7, 8, 9];
        }
        Tail::Items { count_at, unit } => {
            parts.arg[count_at..count_at + 4].copy_from_slice(&3_u32.to_ne_bytes());
            parts.tail = vec![7; 3 * unit];
        }
        Tail::Payload { size_at } => {
            parts.arg[size_at..size_at + 4].copy_from_slice(&9_u32.to_ne_bytes());
            (payload, parts.payload) = (vec![7; 9], 9);
        }
    }
    if shape.opcode == Opcode::Init {
        parts.arg[..4].copy_from_slice(&7_u32.to_ne_bytes());
    }
    parts.message(header(shape.opcode), &payload)
}

/// A message of the operation behind the byte of its circumstances.
fn input(shape: &Shape) -> Vec<u8> {
    [&[FIX_LENGTH | ALL][..], &full(shape)].concat()
}

/// All valid messages that there are, made and recorded.
fn seeds() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = SHAPES.iter().map(input).collect();
    let recorded = ["plain", "extended", "block"];
    for (choice, from) in [0, ALL, ALL].into_iter().zip(recorded) {
        let from = format!("tests/corpus/{from}");
        for message in files(&folder(&from)) {
            all.push([&[FIX_LENGTH | choice][..], &message].concat());
        }
    }
    all
}

fn refused(opcode: Opcode, body: &[u8], why: Malformed) {
    let parts = Parts {
        arg: body.to_vec(),
        ..Parts::default()
    };
    let message = parts.message(header(opcode), &[]);
    let refused = decode(everything(), &message, message.len()).unwrap_err();
    assert_eq!(refused.errno(), Errno::EINVAL, "{refused}");
    assert_eq!(refused.cause, why);
}

/// The fuzz target `wire` starts from these.
#[test]
fn fuzz_corpus_has_every_operation_as_it_is() {
    let corpus = folder("../../xtests/fuzz/corpus/wire");
    for shape in SHAPES {
        let path = corpus.join(shape.opcode.name());
        if std::env::var_os("THRUFS_WRITE_CORPUS").is_some() {
            std::fs::create_dir_all(&corpus).unwrap();
            std::fs::write(&path, input(shape)).unwrap();
        }
        assert!(
            std::fs::read(&path).unwrap_or_default() == input(shape),
            "{} is not up to date: THRUFS_WRITE_CORPUS=1 cargo test -p thrufs-wire --test hostile",
            path.display()
        );
    }
}

#[test]
fn seed_of_every_operation_is_a_message() {
    for seed in seeds() {
        assert!(exercise(&seed), "{seed:x?}");
    }
}

#[test]
fn message_truncated_anywhere_is_refused() {
    for seed in seeds() {
        for len in 1..seed.len() {
            // As it is, the header's length is wrong; then everything but the end is right.
            let mut cut = seed[..len].to_vec();
            cut[0] &= !FIX_LENGTH;
            assert!(!exercise(&cut), "{cut:x?}");
            cut[0] |= FIX_LENGTH;
            let opcode = seed
                .get(5..9)
                .map(|raw| u32::from_ne_bytes(raw.try_into().unwrap()));
            // INIT has an older form; a list of extensions may end earlier only where all its
            // lengths say so, but the header still counts what is missing.
            let shorter_form = opcode == Some(Opcode::Init.as_raw()) && len == 1 + 40 + 16;
            assert_eq!(exercise(&cut), shorter_form, "{cut:x?}");
        }
    }
}

#[test]
fn message_with_any_bit_flipped_is_refused_or_another_message() {
    for mut seed in seeds() {
        // What follows that much is data, which nothing looks at.
        for bit in 8..seed.len().min(300) * 8 {
            for choice in [
                ALL,
                FIX_LENGTH | ALL,
                HEAD_ONLY | FIX_LENGTH | ALL,
                FIX_LENGTH | OLD,
            ] {
                seed[0] = choice;
                seed[bit / 8] ^= 1 << (bit % 8);
                exercise(&seed);
                seed[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

#[test]
fn message_after_mutation_is_refused_or_another_message() {
    let seeds = seeds();
    let count = std::env::var("THRUFS_MUTATIONS").map_or(MUTATIONS, |text| text.parse().unwrap());
    let mut messages = 0_u64;
    for seed in 1..=count {
        let mut input = mutated(&seeds, &mut Random::new(seed));
        // Half of them with the right length, so that they get beyond the header.
        if let Some(choice) = input.first_mut() {
            *choice |= if seed % 2 == 0 { FIX_LENGTH } else { 0 };
        }
        let outcome = std::panic::catch_unwind(|| exercise(&input));
        let was_message = outcome.unwrap_or_else(|_| panic!("mutation {seed}: {input:x?}"));
        messages += u64::from(was_message);
    }
    println!("{count} mutations, {messages} of them messages");
    assert!(
        (count / 50..count).contains(&messages),
        "{messages} of {count} mutations are messages: the mutations test little"
    );
}

/// The messages by which the session's tests found faults in fuser's parser.
#[test]
fn message_of_the_sessions_corpus_is_refused_or_a_message() {
    let mut count = 0;
    for script in files(&folder("../../xtests/fuzz/corpus/session")) {
        let mut rest = &script[1..];
        while let Some((&[kind, low, high], tail)) = rest.split_first_chunk::<3>() {
            let len = usize::from(u16::from_le_bytes([low, high])).min(tail.len());
            let choice = if kind & 1 != 0 { FIX_LENGTH } else { 0 };
            exercise(&[&[choice], &tail[..len]].concat());
            exercise(&[&[choice | ALL], &tail[..len]].concat());
            rest = &tail[len..];
            count += 1;
        }
    }
    assert!(count > 50, "{count} messages");
}

#[test]
fn opcode_unknown_is_enosys_and_answered() {
    for opcode in [0, 7, 19, 54, 4096, 1_048_576, u32::MAX] {
        let header = InHeader {
            len: 1 << 30,
            opcode,
            unique: 9,
            ..InHeader::default()
        };
        // However long it is, nothing but the header is looked at.
        assert_eq!(head_len(&header, 1 << 30), 40);
        let refused = decode(everything(), header.as_bytes(), 1 << 30).unwrap_err();
        assert_eq!(refused.cause, Malformed::UnknownOpcode);
        assert_eq!(refused.errno(), Errno::ENOSYS);
        assert_eq!(refused.unanswered(), Some(9));
    }
}

#[test]
fn message_shorter_than_its_header_is_refused() {
    let header = InHeader {
        len: 39,
        opcode: Opcode::Getattr.as_raw(),
        ..InHeader::default()
    };
    let refused = decode(everything(), &header.as_bytes()[..39], 39).unwrap_err();
    assert_eq!(refused.cause, Malformed::NoHeader { have: 39 });
    assert_eq!((refused.header, refused.unanswered()), (None, None));
    let refused = decode(everything(), header.as_bytes(), 39).unwrap_err();
    assert_eq!(refused.cause, Malformed::Length { said: 39, have: 39 });
}

#[test]
fn init_of_the_other_byte_order_is_not_answered() {
    let mut message = full(&SHAPES[23]);
    for word in message.chunks_mut(4) {
        word.reverse();
    }
    let refused = decode(everything(), &message, message.len()).unwrap_err();
    assert_eq!(refused.cause, Malformed::ByteOrder);
    assert_eq!(refused.unanswered(), None);
}

#[test]
fn refusal_of_what_waits_for_no_answer_is_not_answered() {
    for opcode in [
        Opcode::Forget,
        Opcode::BatchForget,
        Opcode::Interrupt,
        Opcode::NotifyReply,
    ] {
        let message = Parts::default().message(header(opcode), &[]);
        let refused = decode(everything(), &message, message.len()).unwrap_err();
        assert_eq!(refused.unanswered(), None, "{refused}");
    }
    let message = Parts::default().message(header(Opcode::Getattr), &[]);
    let refused = decode(everything(), &message, message.len()).unwrap_err();
    assert_eq!(refused.unanswered(), Some(0x1234));
    let said = "fuse_getattr_in needs 16 bytes, 0 are left (FUSE_GETATTR 3, unique 0x1234)";
    assert_eq!(refused.to_string(), said);
}

#[test]
fn name_without_an_end_or_with_more_after_it_is_refused() {
    let endless = |part| Malformed::Unterminated { part };
    refused(Opcode::Lookup, b"name", endless("name"));
    refused(Opcode::Lookup, b"", endless("name"));
    // NUL within the name ends it; what follows is none of the operation's.
    let trailing = Malformed::Trailing { count: 3 };
    refused(Opcode::Unlink, b"na\0me\0", trailing);
    let rename = [&[0; 8][..], b"a\0b"].concat();
    refused(Opcode::Rename, &rename, endless("new name"));
}

#[test]
fn count_that_contradicts_the_message_is_refused() {
    let count = |part, said, have| Malformed::Count { part, said, have };
    let mut body = u32::MAX.to_ne_bytes().to_vec();
    body.resize(8 + 16, 0);
    let expected = count("fuse_batch_forget_in.count", u64::from(u32::MAX), 1);
    refused(Opcode::BatchForget, &body, expected);

    // fuser 0.18 panics on this one: a WRITE of 100 bytes that has 50.
    let mut body = vec![0; 40 + 50];
    body[16..20].copy_from_slice(&100_u32.to_ne_bytes());
    refused(Opcode::Write, &body, count("fuse_write_in.size", 100, 50));

    let mut body = vec![0; 16];
    body[..4].copy_from_slice(&9_u32.to_ne_bytes());
    body.extend(b"user.x\0value");
    refused(
        Opcode::Setxattr,
        &body,
        count("fuse_setxattr_in.size", 9, 5),
    );
}

/// fuser 0.18 panics on a time that no clock has; utimensat(2) takes 0x3ffffffe nanoseconds for
/// UTIME_OMIT.
#[test]
fn setattr_with_nanoseconds_beyond_a_second_is_refused() {
    let mut body = vec![0; 88];
    body[..4].copy_from_slice(&(1_u32 << 5).to_ne_bytes());
    body[40..48].copy_from_slice(&(u64::MAX >> 1).to_ne_bytes());
    body[60..64].copy_from_slice(&0x3fff_fffe_u32.to_ne_bytes());
    let (part, value) = ("fuse_setattr_in.mtimensec", 0x3fff_fffe);
    refused(Opcode::Setattr, &body, Malformed::Value { part, value });
}

#[test]
fn head_shorter_than_asked_for_is_refused() {
    let message = full(&SHAPES[14]);
    assert!(decode(everything(), &message[..80], message.len()).is_ok());
    for (shape, have, need) in [(14, 79, 80), (3, 80, 128)] {
        let message = full(&SHAPES[shape]);
        let refused = decode(everything(), &message[..have], message.len()).unwrap_err();
        assert_eq!(refused.cause, Malformed::Head { have, need });
    }
}

#[test]
fn extensions_that_init_did_not_grant_are_refused() {
    let mkdir = full(&SHAPES[7]);
    let none = Dialect::new(46, thrufs_wire::InitFlags::empty());
    let refused = decode(none, &mkdir, mkdir.len()).unwrap_err();
    let is_cause = matches!(refused.cause, Malformed::UnexpectedExtensions { .. });
    assert!(is_cause, "{refused}");

    let mut getattr = full(&SHAPES[2]);
    getattr[36..38].copy_from_slice(&1_u16.to_ne_bytes());
    let refused = decode(everything(), &getattr, getattr.len()).unwrap_err();
    assert_eq!(refused.cause, Malformed::UnexpectedExtensions { len: 8 });
}

#[test]
fn extension_twice_or_of_unknown_type_is_refused() {
    let group = |kind: u32| {
        let words = [16, kind, 1, 7_u32];
        words
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect::<Vec<u8>>()
    };
    let mkdir = |extensions: &[u8]| {
        let body = [&[0; 8][..], b"d\0", extensions].concat();
        let parts = Parts {
            arg: body,
            ..Parts::default()
        };
        let mut message = parts.message(header(Opcode::Mkdir), &[]);
        let units = u16::try_from(extensions.len() / 8).unwrap();
        message[36..38].copy_from_slice(&units.to_ne_bytes());
        message
    };
    let once = mkdir(&group(32));
    assert!(decode(everything(), &once, once.len()).is_ok());
    for (extensions, value) in [([group(32), group(32)].concat(), 32), (group(33), 33)] {
        let message = mkdir(&extensions);
        let refused = decode(everything(), &message, message.len()).unwrap_err();
        let part = "fuse_ext_header.type";
        assert_eq!(refused.cause, Malformed::Value { part, value });
    }
}
