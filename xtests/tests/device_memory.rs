//! A virtiofs device whose front end takes memory away that it has shared.

use std::time::Duration;

use anyhow::{Context, ensure};
use thrufs_wire::Opcode;
use thrufs_wire::abi::InHeader;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use xtests::support::guest::calls::{ROOT, booted, getattr, large, open, write_in};
use xtests::support::guest::{Descriptor, Device, Guest};
use xtests::support::{Outcome, case};
use zerocopy::IntoBytes;

const STEP: Duration = Duration::from_secs(10);
/// Rings and buffers lie below.
const LEFT: u64 = 384 << 20;

/// Cuts the file of the guest's memory to so many bytes.
fn cut(guest: &Guest, len: u64) -> Outcome {
    let region = guest.memory().iter().next().context("no memory")?;
    let file = region.file_offset().context("no file")?.file();
    Ok(file.set_len(len)?)
}

/// Ends with a line that says why: loading from a file that is cut is a SIGBUS, and going on without the guest's
/// memory makes no sense.
fn ends_with_the_reason(device: &mut Device) -> Outcome {
    let status = device.wait()?;
    let log = device.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains("the guest's memory is gone"), "{log}");
    ensure!(!device.socket().exists(), "the socket is left");
    Ok(())
}

#[test]
fn request_in_memory_that_was_cut_off_ends_the_device_with_the_reason() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted(&[], large(1))?;
        cut(&guest, LEFT)?;
        let beyond = LEFT + (1 << 20);
        let message = Descriptor::readable(beyond, 56);
        let chain = [message, Descriptor::writable(beyond + 4096, 120)];
        let memory = guest.memory().clone();
        guest.drivers[1].submit(&memory, &chain)?;
        ends_with_the_reason(&mut device)
    })
}

#[test]
fn ring_in_memory_that_was_cut_off_ends_the_device_with_the_reason() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted(&["--num-request-queues=2"], large(2))?;
        guest.stop_queue(2)?;
        let ring = guest.place_queue(2, 64, LEFT + (1 << 20))?;
        cut(&guest, LEFT)?;
        ring.kick.write(1)?;
        ends_with_the_reason(&mut device)
    })
}

/// READ and WRITE are the kernel's to move: there the loss is an error.
#[test]
fn data_in_memory_that_was_cut_off_is_an_error_and_the_device_lives() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted(&[], large(1))?;
        std::fs::write(device.shared("f"), vec![7; 4096])?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        cut(&guest, LEFT)?;
        let arg = write_in(fh, 0, 4096);
        let header = InHeader {
            len: 80 + 4096,
            opcode: Opcode::Write.as_raw(),
            unique: 99,
            nodeid,
            ..InHeader::default()
        };
        let near = GuestAddress(LEFT - (1 << 20));
        let memory = guest.memory().clone();
        memory.write_slice(&[header.as_bytes(), arg.as_bytes()].concat(), near)?;
        let chain = [
            Descriptor::readable(near.0, 80),
            Descriptor::readable(LEFT + (1 << 20), 4096),
            Descriptor::writable(near.0 + 4096, 24),
        ];
        let driver = &mut guest.drivers[1];
        let head = driver.submit(&memory, &chain)?;
        ensure!(driver.wait(&memory, head, STEP)? == 16);
        let mut error = [0; 4];
        memory.read_slice(&mut error, GuestAddress(near.0 + 4096 + 4))?;
        ensure!(i32::from_ne_bytes(error) == -libc::EFAULT, "{error:?}");
        ensure!(std::fs::read(device.shared("f"))? == [7; 4096]);
        ensure!(getattr(&mut guest, 1, ROOT)? == 0 && device.is_alive()?);
        Ok(())
    })
}
