//! Messages that no kernel sends: every one is answered with an error or ends the session; none makes
//! an operation panic, hangs, or costs memory or descriptors beyond the session's own.
//!
//! One process and one thread at a time: what is open and how much memory is used is the process's.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/mutate.rs"]
mod mutate;
#[path = "common/script.rs"]
mod script;
#[path = "common/seeds.rs"]
mod seeds;

use std::path::PathBuf;

use mutate::{Random, mutated};
use parking_lot::{Mutex, MutexGuard};
use script::wire::words;
use script::{BY_DEVICE, BY_GUEST, FIX_LENGTH, Played, message, play, record};
use seeds::{
    BATCH_FORGET, CREATE, FORGET, GETATTR, LOOKUP, OPEN, READ, SETATTR, Script, WRITE, longs,
    range, setattr, setattr_owner,
};

/// Mutations in a run of the tests; `THRUFS_MUTATIONS` asks for more.
const MUTATIONS: u64 = 900;
/// Beside what one session needs.
const MEMORY_BOUND_KIB: u64 = 64 << 10;

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock()
}

/// Scripts of the repository: the seeds as files, and what once failed.
fn corpus() -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(corpus_dir()).expect("the corpus is in the repository");
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn corpus_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../xtests/fuzz/corpus/session")
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The same script by another transport.
fn by(transport: u8, script: &[u8]) -> Vec<u8> {
    let mut script = script.to_owned();
    if let Some(choice) = script.first_mut() {
        *choice = *choice & !(BY_DEVICE | BY_GUEST) | transport;
    }
    script
}

/// Those beside fuser.
const OTHERS: [u8; 2] = [BY_DEVICE, BY_GUEST];

/// Plays a script that must leave the session able to serve to the end, by all transports.
fn served(script: &Script) -> Played {
    let _alone = alone();
    let played = play(&script.0);
    assert!(!played.lost_a_thread, "{played:?}");
    for transport in OTHERS {
        let other = play(&by(transport, &script.0));
        assert_eq!(other.messages, played.messages, "{transport}: {other:?}");
    }
    played
}

#[test]
fn corpus_has_every_seed_as_it_is() {
    for (name, script) in seeds::all() {
        let path = corpus_dir().join(name);
        if std::env::var_os("THRUFS_WRITE_CORPUS").is_some() {
            std::fs::write(&path, &script).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(
            kept == script,
            "{name} is not up to date: THRUFS_WRITE_CORPUS=1 cargo test -p thrufs-session --test hostile"
        );
    }
}

#[test]
fn message_of_the_corpus_is_answered_or_ends_the_session() {
    let _alone = alone();
    for script in corpus() {
        play(&script);
        for transport in OTHERS {
            play(&by(transport, &script));
        }
    }
}

#[test]
fn message_after_mutation_is_answered_or_ends_the_session() {
    let _alone = alone();
    let seeds = corpus();
    play(&seeds[0]);
    let (open, mut memory) = (descriptors(), 0);
    let count = std::env::var("THRUFS_MUTATIONS").map_or(MUTATIONS, |text| text.parse().unwrap());
    let (mut messages, mut lost) = (0, 0);
    for seed in 1..=count {
        // Until then malloc keeps of each session's buffer of 16 MiB what it likes to keep.
        if seed == count / 3 {
            memory = resident_kib();
        }
        let mut script = mutated(&seeds, &mut Random::new(seed));
        match seed % 4 {
            0 => script = by(BY_DEVICE, &script),
            1 | 2 => script = by(BY_GUEST, &script),
            _as_mutated => {}
        }
        let played = std::panic::catch_unwind(|| play(&script));
        let played = played.unwrap_or_else(|_| panic!("mutation {seed}: {script:x?}"));
        messages += played.messages;
        lost += usize::from(played.lost_a_thread);
    }
    println!("{messages} messages, {lost} sessions lost to fuser's parser");
    assert!(
        messages as u64 > count,
        "the mutations end too soon: {messages} messages"
    );
    let now = resident_kib();
    assert!(
        now < memory + MEMORY_BOUND_KIB,
        "{memory} KiB became {now} KiB"
    );
    // A waiter for a lock may still hold its file for the time between two looks.
    assert!(
        descriptors() <= open + 8,
        "{open} descriptors became {}",
        descriptors()
    );
}

#[test]
fn request_with_an_unknown_opcode_is_refused_and_the_next_served() {
    let script = Script::new(0)
        .root(7, b"x")
        .root(9999, &[])
        .root(LOOKUP, b"f\0");
    assert_eq!(served(&script).answers, [libc::ENOSYS, libc::ENOSYS, 0]);
}

#[test]
fn request_that_is_cut_short_is_refused_and_the_next_served() {
    let script = Script::new(0)
        .root(SETATTR, &[0; 87])
        .root(LOOKUP, b"no end")
        .root(READ, &[0; 39])
        .root(BATCH_FORGET, &words(&[u32::MAX, 0]))
        .root(LOOKUP, b"f\0");
    let answers = served(&script).answers;
    assert_eq!(
        answers,
        [libc::ENOSYS, libc::ENOSYS, libc::ENOSYS, libc::ENOSYS, 0]
    );
}

#[test]
fn request_on_a_reserved_inode_or_handle_is_refused() {
    let mut script = Script::new(0);
    for nodeid in [0, 2, 1 << 63, u64::MAX] {
        let getattr = message(GETATTR, nodeid, 50, &[0; 16]);
        script.0.extend(record(FIX_LENGTH, &getattr));
    }
    for handle in [0, 1, u64::MAX] {
        let mut body = range(0, 1);
        body[..8].copy_from_slice(&longs(&[handle]));
        script = script.root(READ, &body);
    }
    let expected = [[libc::ESTALE; 4].as_slice(), &[libc::EBADF; 3]].concat();
    assert_eq!(served(&script).answers, expected);
}

#[test]
fn forget_replayed_is_harmless() {
    let script = Script::new(0)
        .root(LOOKUP, b"f\0")
        .node(FORGET, &longs(&[1]))
        .node(FORGET, &longs(&[1]))
        .node(FORGET, &longs(&[u64::MAX]))
        .root(FORGET, &longs(&[u64::MAX]))
        .node(GETATTR, &[0; 16])
        .root(LOOKUP, b"f\0");
    assert_eq!(served(&script).answers, [0, libc::ESTALE, 0]);
}

#[test]
fn read_of_more_than_init_allows_is_refused_and_takes_no_memory() {
    let script = Script::new(0)
        .create(b"g")
        .open(READ, &range(0, 200 << 20))
        .root(LOOKUP, b"f\0");
    let before = resident_kib();
    assert_eq!(served(&script).answers, [0, libc::EINVAL, 0]);
    assert!(resident_kib() < before + MEMORY_BOUND_KIB);
}

#[test]
fn setattr_to_an_owner_that_is_none_is_refused() {
    let (uid, gid) = (
        setattr_owner(1 << 1, u32::MAX, 0),
        setattr_owner(1 << 2, 0, u32::MAX),
    );
    let script = Script::new(0).root(SETATTR, &uid).root(SETATTR, &gid);
    assert_eq!(served(&script).answers, [libc::EINVAL; 2]);
}

#[test]
fn open_of_what_is_no_file_is_refused_at_once() {
    let fifo = [&words(&[0o010_644, 0, 0o022, 0])[..], b"fifo\0"].concat();
    let script = Script::new(0).root(8, &fifo).node(OPEN, &words(&[0, 0]));
    assert_eq!(served(&script).answers, [0, libc::ENXIO]);
}

#[test]
fn name_that_leads_elsewhere_is_refused() {
    let create = |name: &[u8]| [&words(&[0o102, 0o100_644, 0o022, 0])[..], name, b"\0"].concat();
    let script = Script::new(0)
        .root(LOOKUP, b"..\0")
        .root(LOOKUP, b"../f\0")
        .root(CREATE, &create(b"/tmp/thrufs-hostile"))
        .root(CREATE, &create(b".."));
    // The first is the kernel's for a directory that it found by a file handle; nothing is above SOURCE.
    let refused = [libc::ESTALE, libc::EINVAL, libc::EINVAL, libc::EINVAL];
    assert_eq!(served(&script).answers, refused);
}

/// fuser 0.18 panics on these before any operation of ours is called. The thread is gone and the
/// caller would wait for ever: the session's owner must be notified.
#[test]
fn message_that_contradicts_itself_is_told_to_who_runs_the_session() {
    let _alone = alone();
    let write = [&range(0, 100)[..], &[7; 50]].concat();
    let time = setattr(0x30, 0, [u64::MAX >> 1, 0, 0], [u32::MAX, 0, 0]);
    for script in [
        Script::new(0).create(b"g").open(WRITE, &write),
        Script::new(0).root(SETATTR, &time),
    ] {
        let played = play(&script.0);
        assert!(played.lost_a_thread, "{played:?}");
    }
}
