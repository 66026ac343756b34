//! Chains of descriptors and rings that no guest's driver makes: each chain comes back, a ring that lies stops its
//! queue alone, and nothing costs memory or descriptors.
//!
//! One process and one test at a time: what is open and how much memory is used is the process's.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/chains.rs"]
mod chains;
#[path = "../../session/tests/common/mutate.rs"]
mod mutate;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use chains::front_end::{INDIRECT, NEXT, WRITE};
use chains::{EVENT_INDEX, Op, Played, play};
use mutate::{Random, mutated};
use thrufs_wire::abi::InHeader;
use zerocopy::IntoBytes;

/// Mutations in a run of the tests; `THRUFS_MUTATIONS` asks for more, and `THRUFS_FIRST_MUTATION` for others.
const MUTATIONS: u64 = 10_000;
/// Beside what the devices need.
const MEMORY_BOUND_KIB: u64 = 16 << 10;

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The length 56, and 120, in [`chains`]'s list.
const MESSAGE: u8 = 6;
const ROOM: u8 = 7;
/// The address of scratch memory, and one that is nowhere, in its list.
const HERE: u8 = 0;
const NOWHERE: u8 = 3;

/// Of a script: a base and an offset, a length in the list, flags, and a successor.
#[derive(Clone, Copy)]
struct Descriptor(u8, u16, u8, u16, u16);

impl Descriptor {
    fn operands(self) -> Vec<u8> {
        let Self(base, offset, len, flags, next) = self;
        let (offset, next) = (offset.to_le_bytes(), next.to_le_bytes());
        [&[base][..], &offset, &[len, flags as u8], &next].concat()
    }
}

struct Script(Vec<u8>);

impl Script {
    fn new(choice: u8) -> Self {
        Self(vec![choice])
    }

    fn op(mut self, op: Op, operands: &[&[u8]]) -> Self {
        self.0.push(op as u8);
        self.0.extend(operands.concat());
        self
    }

    fn descriptor(self, index: u8, is: Descriptor) -> Self {
        self.op(Op::Descriptor, &[&[index], &is.operands()])
    }

    fn in_table(self, page: u8, index: u8, is: Descriptor) -> Self {
        self.op(Op::Indirect, &[&[page, index], &is.operands()])
    }

    /// A message at the start of scratch memory.
    fn message(self, opcode: u32) -> Self {
        let header = InHeader {
            len: 56,
            opcode,
            unique: 9,
            nodeid: 1,
            ..InHeader::default()
        };
        let bytes = header.as_bytes();
        self.op(Op::Memory, &[&[0, 0, bytes.len() as u8], bytes])
    }

    /// A request, and room for its answer.
    fn request(self, head: u8) -> Self {
        let next = u16::from(head) + 1;
        self.descriptor(head, Descriptor(HERE, 0, MESSAGE, NEXT, next))
            .descriptor(head + 1, Descriptor(HERE, 0x800, ROOM, WRITE, 0))
    }

    fn offer(self, head: u16) -> Self {
        self.op(Op::Offer, &[&head.to_le_bytes()])
    }

    fn kick(self) -> Self {
        self.op(Op::Kick, &[])
    }

    fn restart(self, size: u8, base: u16) -> Self {
        self.op(Op::Restart, &[&[size], &base.to_le_bytes()])
    }
}

/// One script a theme: what mutations begin with.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let answered = |choice| {
        (1..=4).fold(Script::new(choice), |script, opcode| {
            script.message(opcode).request(0).offer(0).kick()
        })
    };
    let indirect = Script::new(0)
        .message(3)
        .in_table(2, 0, Descriptor(HERE, 0, MESSAGE, NEXT, 1))
        .in_table(2, 1, Descriptor(HERE, 0x800, ROOM, WRITE, 0))
        .descriptor(0, Descriptor(HERE, 0x2000, 9, INDIRECT, 0))
        .offer(0)
        .kick()
        .in_table(3, 0, Descriptor(HERE, 0x2000, 9, INDIRECT, 0))
        .descriptor(1, Descriptor(HERE, 0x3000, 3, INDIRECT, 0))
        .offer(1)
        .in_table(4, 0, Descriptor(HERE, 0, MESSAGE, NEXT, 0))
        .descriptor(2, Descriptor(HERE, 0x4000, 9, INDIRECT, 0))
        .offer(2);
    let shapes = Script::new(EVENT_INDEX)
        .message(2)
        .request(0)
        .offer(0)
        .descriptor(2, Descriptor(HERE, 0, MESSAGE, NEXT, 2))
        .offer(2)
        .descriptor(3, Descriptor(HERE, 0x800, ROOM, NEXT | WRITE, 4))
        .descriptor(4, Descriptor(HERE, 0, MESSAGE, 0, 0))
        .offer(3)
        .kick()
        .descriptor(5, Descriptor(NOWHERE, 0, MESSAGE, NEXT, 1))
        .offer(5)
        .descriptor(6, Descriptor(2, 0, 13, NEXT, 1))
        .offer(6)
        .descriptor(7, Descriptor(4, 0xfff0, MESSAGE, NEXT, 1))
        .offer(7)
        .descriptor(8, Descriptor(HERE, 0, 0, NEXT, 9))
        .descriptor(9, Descriptor(HERE, 0, MESSAGE, NEXT, 5000))
        .offer(8);
    let rings = Script::new(0)
        .message(1)
        .restart(1, 65_535)
        .request(0)
        .offer(0)
        .offer(0)
        .kick()
        .offer(9999)
        .kick()
        .op(Op::Index, &[&20_000_u16.to_le_bytes()])
        .kick()
        .restart(3, 3)
        .op(Op::Ring, &[&[0, 0x20, 8], &[0xff; 8]])
        .request(0)
        .offer(0);
    vec![
        ("answered", answered(0).0),
        ("answered-by-event-index", answered(EVENT_INDEX).0),
        ("indirect", indirect.0),
        ("shapes", shapes.0),
        ("rings", rings.0),
    ]
}

fn corpus_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../xtests/fuzz/corpus/chains")
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

#[test]
fn corpus_has_every_seed_as_it_is() {
    for (name, script) in seeds() {
        let path = corpus_dir().join(name);
        if std::env::var_os("THRUFS_WRITE_CORPUS").is_some() {
            std::fs::write(&path, &script).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(
            kept == script,
            "{name} is not up to date: THRUFS_WRITE_CORPUS=1 cargo test -p thrufs-transport --test chains"
        );
    }
}

#[test]
fn request_in_a_chain_or_a_table_is_served_and_what_makes_no_sense_comes_back() {
    let _alone = alone();
    let played = |wanted: &str| {
        let all = seeds();
        let (_, script) = all.iter().find(|(name, _)| *name == wanted).unwrap();
        play(script)
    };
    let of = |chains, requests, stopped| Played {
        chains,
        requests,
        stopped,
    };
    assert_eq!(played("answered"), of(4, 4, 0));
    assert_eq!(played("answered-by-event-index"), of(4, 4, 0));
    assert_eq!(played("indirect"), of(3, 1, 0));
    assert_eq!(played("shapes"), of(7, 1, 0));
    assert_eq!(played("rings"), of(3, 3, 2));
}

#[test]
fn script_of_the_corpus_leaves_the_device_serving() {
    let _alone = alone();
    for script in corpus() {
        play(&script);
    }
}

#[test]
fn script_after_mutation_leaves_the_device_serving() {
    let _alone = alone();
    let seeds = corpus();
    for choice in [0, EVENT_INDEX] {
        play(&[choice]);
    }
    let (open, mut memory) = (descriptors(), 0);
    let number =
        |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let count = number("THRUFS_MUTATIONS", MUTATIONS);
    let first = number("THRUFS_FIRST_MUTATION", 1);
    let mut all = Played::default();
    for seed in first..first + count {
        if seed == first + count / 3 {
            memory = resident_kib();
        }
        let script = mutated(&seeds, &mut Random::new(seed));
        let played = std::panic::catch_unwind(|| play(&script));
        let played = played.unwrap_or_else(|_| panic!("mutation {seed}: {script:x?}"));
        all.chains += played.chains;
        all.requests += played.requests;
        all.stopped += played.stopped;
    }
    println!("{count} scripts: {all:?}");
    assert!(
        all.requests > count / 2 && all.chains > all.requests && all.stopped > count / 100,
        "the mutations are too wild or too tame: {all:?}"
    );
    let now = resident_kib();
    assert!(
        now < memory + MEMORY_BOUND_KIB,
        "{memory} KiB became {now} KiB"
    );
    assert!(
        descriptors() <= open,
        "{open} descriptors became {}",
        descriptors()
    );
}
