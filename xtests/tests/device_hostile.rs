//! What a hostile guest sends to a virtiofs device: chains of descriptors that make no sense, rings that lie,
//! messages that contradict themselves. The guest gets an error, or its queue stops; the device lives, its
//! other queues too, and says why in its log.

use anyhow::{Result, ensure};
use thrufs_wire::Opcode;
use thrufs_wire::abi::{GetattrIn, InHeader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use xtests::support::guest::{Cut, Descriptor, Device, Guest, INDIRECT, NEXT, Options, STEP};
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, case};
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
/// Guest memory that nothing else uses.
const SCRATCH: u64 = 32 << 20;
/// Beyond the guest's memory.
const NOWHERE: u64 = 1 << 40;

fn booted() -> Result<(Device, Guest)> {
    let device = Device::new(&["--num-request-queues=2"])?;
    let mut guest = device.connect(Options {
        queues: 2,
        ..Options::default()
    })?;
    guest.init()?;
    Ok((device, guest))
}

fn lives(guest: &mut Guest, queue: usize) -> Outcome {
    let arg = GetattrIn::default();
    let answer = guest.call(queue, Opcode::Getattr, ROOT, &[arg.as_bytes()], 104)?;
    ensure!(answer.error == 0, "queue {queue}: {answer:?}");
    Ok(())
}

fn message() -> Descriptor {
    Descriptor::readable(SCRATCH, 56)
}

fn room() -> Descriptor {
    Descriptor::writable(SCRATCH + 2048, 120)
}

fn followed_by(descriptor: Descriptor, next: u16) -> Descriptor {
    Descriptor {
        flags: descriptor.flags | NEXT,
        next,
        ..descriptor
    }
}

/// Writes a GETATTR of the root, where [`message`] is.
fn put_message(memory: &GuestMemoryMmap) -> Outcome {
    let header = InHeader {
        len: 56,
        opcode: Opcode::Getattr.as_raw(),
        unique: 99,
        nodeid: ROOT,
        ..InHeader::default()
    };
    let message = [header.as_bytes(), &[0; 16]].concat();
    Ok(memory.write_slice(&message, GuestAddress(SCRATCH))?)
}

/// Writes a table of these descriptors. Returns the descriptor that names it.
fn put_table(memory: &GuestMemoryMmap, page: u64, table: &[Descriptor]) -> Result<Descriptor> {
    let at = SCRATCH + page * 4096;
    for (index, descriptor) in table.iter().enumerate() {
        let place = GuestAddress(at + 16 * index as u64);
        memory.write_slice(&descriptor.bytes(), place)?;
    }
    Ok(Descriptor {
        address: at,
        len: 16 * table.len() as u32,
        flags: INDIRECT,
        next: 0,
    })
}

/// The bytes written into a chain on queue 1.
fn used(guest: &mut Guest, memory: &GuestMemoryMmap, chain: &[Descriptor]) -> Result<u32> {
    let head = guest.drivers[1].submit(memory, chain)?;
    guest.drivers[1].wait(memory, head, STEP)
}

#[test]
fn chain_that_makes_no_sense_comes_back_empty_and_the_queue_goes_on() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted()?;
        let memory = guest.memory().clone();
        put_message(&memory)?;
        ensure!(used(&mut guest, &memory, &[message(), room()])? == 120);
        let looped = put_table(&memory, 1, &[followed_by(message(), 0)])?;
        let at = |address, len| Descriptor::readable(address, len);
        let cases: [(&str, &[Descriptor]); 10] = [
            ("memory that is not there", &[at(NOWHERE, 56), room()]),
            (
                "an end that is not there",
                &[at((512 << 20) - 8, 56), room()],
            ),
            ("the last address", &[at(u64::MAX - 3, 56), room()]),
            ("all of memory and more", &[at(0, u32::MAX), room()]),
            (
                "room that is not there",
                &[message(), Descriptor::writable(NOWHERE, 120)],
            ),
            ("readable after writable", &[room(), message()]),
            ("a table that is a loop", &[looped]),
            ("a table of no bytes", &[Descriptor { len: 0, ..looped }]),
            (
                "a table of half a descriptor",
                &[Descriptor { len: 24, ..looped }],
            ),
            (
                "a table that is not there",
                &[Descriptor {
                    address: NOWHERE,
                    ..looped
                }],
            ),
        ];
        for (what, chain) in cases {
            let used = used(&mut guest, &memory, chain)?;
            ensure!(used == 0, "{what}: {used} bytes");
            lives(&mut guest, 1)?;
            lives(&mut guest, 2)?;
        }
        make_chains_in_the_ring(&mut guest, &memory, looped)?;
        ensure!(
            guest.is_in_error(1)?,
            "the error descriptor is not signalled"
        );
        ensure!(!guest.is_in_error(2)?);
        ensure!(device.is_alive()?);
        let log = device.log_with("a request that is none")?;
        ensure!(log.lines().count() < 40, "a line for each:\n{log}");
        Ok(())
    })
}

/// In the ring's own table, where the successor is chosen here.
fn make_chains_in_the_ring(
    guest: &mut Guest,
    memory: &GuestMemoryMmap,
    looped: Descriptor,
) -> Outcome {
    for (what, first) in [
        ("a chain that is a loop", followed_by(message(), 100)),
        ("a successor beyond the table", followed_by(message(), 5000)),
        (
            "an indirect descriptor with a successor",
            followed_by(looped, 100),
        ),
    ] {
        guest.drivers[1].write_descriptor(memory, 100, first)?;
        guest.drivers[1].offer(memory, 100)?;
        let used = guest.drivers[1].wait(memory, 100, STEP)?;
        ensure!(used == 0, "{what}: {used} bytes");
        lives(guest, 1)?;
    }
    Ok(())
}

#[test]
fn nested_indirect_table_is_refused_and_a_plain_one_is_served() -> Outcome {
    case(|| {
        let (_device, mut guest) = booted()?;
        let memory = guest.memory().clone();
        put_message(&memory)?;
        let plain = put_table(&memory, 1, &[followed_by(message(), 1), room()])?;
        ensure!(used(&mut guest, &memory, &[plain])? == 120);
        let nested = put_table(&memory, 2, &[plain])?;
        ensure!(used(&mut guest, &memory, &[nested])? == 0);
        lives(&mut guest, 1)
    })
}

/// Windows' driver has tables of hundreds of descriptors, whatever the queue's size.
#[test]
fn indirect_table_of_more_entries_than_the_queue_is_served() -> Outcome {
    case(|| {
        let (_device, mut guest) = booted()?;
        let memory = guest.memory().clone();
        put_message(&memory)?;
        // A byte each of the message, and of its answer.
        let bytes = (0..56).map(|at| Descriptor::readable(SCRATCH + at, 1));
        let places = (0..600).map(|at| Descriptor::writable(SCRATCH + 2048 + at, 1));
        let all: Vec<Descriptor> = bytes.chain(places).collect();
        let last = all.len() - 1;
        let linked = all.iter().enumerate();
        let table: Vec<Descriptor> = linked
            .map(|(at, one)| match at == last {
                true => *one,
                false => followed_by(*one, at as u16 + 1),
            })
            .collect();
        let table = put_table(&memory, 4, &table)?;
        ensure!(used(&mut guest, &memory, &[table])? == 120);
        lives(&mut guest, 1)
    })
}

#[test]
fn request_without_room_for_its_answer_is_done_without() -> Outcome {
    case(|| {
        let (_device, mut guest) = booted()?;
        let arg = GetattrIn::default();
        // Room for a header: the guest is told that there was an error.
        let answer = guest.call(1, Opcode::Getattr, ROOT, &[arg.as_bytes()], 50)?;
        ensure!(
            answer.error == libc::EIO && answer.data.is_empty(),
            "{answer:?}"
        );
        let memory = guest.memory().clone();
        put_message(&memory)?;
        for len in [0, 1, 15] {
            let room = Descriptor::writable(SCRATCH + 2048, len);
            let used = used(&mut guest, &memory, &[message(), room])?;
            ensure!(used == 0, "{len} bytes of room, {used} used");
        }
        ensure!(used(&mut guest, &memory, &[message()])? == 0);
        ensure!(used(&mut guest, &memory, &[room()])? == 0);
        lives(&mut guest, 1)
    })
}

#[test]
fn message_that_contradicts_itself_is_an_error_to_the_guest() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted()?;
        let header = |opcode: u32, len: u32| InHeader {
            len,
            opcode,
            unique: 1001,
            nodeid: ROOT,
            ..InHeader::default()
        };
        let (getattr, write) = (Opcode::Getattr.as_raw(), Opcode::Write.as_raw());
        let cases: [(&str, InHeader, &[u8], i32); 6] = [
            ("no such opcode", header(4000, 40), &[], libc::ENOSYS),
            (
                "a length beyond the message",
                header(getattr, 1000),
                &[0; 16],
                libc::EINVAL,
            ),
            (
                "a length before its end",
                header(getattr, 50),
                &[0; 16],
                libc::EINVAL,
            ),
            (
                "an argument that is cut",
                header(getattr, 44),
                &[0; 4],
                libc::EINVAL,
            ),
            ("a name without an end", header(1, 42), b"ab", libc::EINVAL),
            (
                "a WRITE of another size",
                header(write, 90),
                &[0x11; 50],
                libc::EINVAL,
            ),
        ];
        for (what, header, rest, errno) in cases {
            let parts = [header.as_bytes(), rest];
            let token = guest.send_raw((1, Cut::Whole), &parts, Some(200), 1001)?;
            let answer = guest.wait(token)?;
            ensure!(answer.error == errno, "{what}: {answer:?}");
        }
        // Less than a header has nothing to be answered to.
        let token = guest.send_raw((1, Cut::Whole), &[&[1; 39]], Some(200), 0)?;
        ensure!(guest.wait(token)?.used == 0);
        // INIT in the other byte order.
        let swapped = header(Opcode::Init.as_raw().swap_bytes(), 104_u32.swap_bytes());
        let parts = [swapped.as_bytes(), &[0; 64]];
        let token = guest.send_raw((1, Cut::Whole), &parts, Some(200), 0)?;
        ensure!(guest.wait(token)?.used == 0);
        lives(&mut guest, 1)?;
        ensure!(device.is_alive()?);
        Ok(())
    })
}

#[test]
fn ring_that_lies_stops_its_queue_alone_until_it_is_set_up_again() -> Outcome {
    case(|| {
        for lie in ["index", "head"] {
            let (mut device, mut guest) = booted()?;
            let memory = guest.memory().clone();
            match lie {
                "index" => guest.drivers[1].set_available_index(&memory, 20_000)?,
                _head => guest.drivers[1].offer(&memory, 9999)?,
            }
            wait_until("the error descriptor", STEP, || guest.is_in_error(1))?;
            lives(&mut guest, 2)?;
            ensure!(device.is_alive()?);
            device.log_with("request queue 0 is not served any more")?;
            guest.stop_queue(1)?;
            guest.start_queue(1, 128)?;
            lives(&mut guest, 1)?;
        }
        Ok(())
    })
}

/// The front end has mapped the ring itself, so this is a front end's mistake, and not a guest's.
#[test]
fn ring_outside_of_memory_ends_the_connection_with_the_reason() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted()?;
        guest.stop_queue(1)?;
        ensure!(guest.place_queue(1, 128, NOWHERE).is_err());
        let status = device.wait()?;
        ensure!(status.code() == Some(1), "{status}");
        let log = device.log();
        ensure!(
            log.contains("Missing memory mapping") && !log.contains("panicked"),
            "{log}"
        );
        Ok(())
    })
}

#[test]
fn memory_that_is_added_is_reached_and_what_is_removed_is_not() -> Outcome {
    case(|| {
        const MORE: u64 = 1 << 32;
        let (mut device, mut guest) = booted()?;
        let memory = guest.memory().clone();
        put_message(&memory)?;
        let mut message_bytes = [0; 56];
        memory.read_slice(&mut message_bytes, GuestAddress(SCRATCH))?;
        let there = [Descriptor::readable(MORE, 56), room()];
        for _ in 0..5 {
            ensure!(used(&mut guest, &memory, &there)? == 0);
            let added = guest.add_memory(MORE)?;
            added.write_slice(&message_bytes, GuestAddress(MORE))?;
            ensure!(used(&mut guest, &memory, &there)? == 120);
            guest.remove_memory(&added)?;
        }
        ensure!(used(&mut guest, &memory, &there)? == 0);
        lives(&mut guest, 1)?;
        ensure!(device.is_alive()?);
        Ok(())
    })
}

#[test]
fn used_ring_that_the_guest_overwrites_is_the_guest_s_own_loss() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted()?;
        let memory = guest.memory().clone();
        put_message(&memory)?;
        // Nothing is waited for: what comes back is not to be believed.
        for _ in 0..20 {
            let used = guest.drivers[2].used();
            memory.write_slice(&[0xff; 64], GuestAddress(used))?;
            guest.drivers[2].submit(&memory, &[message(), room()])?;
        }
        lives(&mut guest, 1)?;
        ensure!(device.is_alive()?);
        Ok(())
    })
}

/// Pseudo-random chains, out of all flags, addresses and lengths.
#[test]
fn random_chains_never_end_the_device() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted()?;
        let memory = guest.memory().clone();
        put_message(&memory)?;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let addresses = [
            SCRATCH,
            SCRATCH + 2048,
            SCRATCH + 4096,
            NOWHERE,
            64 << 20,
            1 << 29,
            u64::MAX,
        ];
        let lengths = [0, 1, 16, 40, 56, 120, 4096, 1 << 20, u32::MAX];
        for round in 0..3000 {
            let head = random(100) as u16;
            for index in 0..random(6) as u16 {
                let descriptor = Descriptor {
                    address: addresses[random(addresses.len())],
                    len: lengths[random(lengths.len())],
                    flags: random(8) as u16,
                    next: head + 1 + index + random(2) as u16,
                };
                guest.drivers[1].write_descriptor(&memory, head + index, descriptor)?;
            }
            guest.drivers[1].offer(&memory, head)?;
            let used = guest.drivers[1].wait(&memory, head, STEP)?;
            ensure!(used <= 16 << 20, "round {round}: {used} bytes");
        }
        lives(&mut guest, 2)?;
        ensure!(device.is_alive()?);
        drop(guest);
        device.ends_well()
    })
}
