//! A virtiofs device, by a front end that plays the guest: the checklist of the virtio specification. Beside it:
//! `device_start.rs` (sockets, start and end), `device_requests.rs` (what a guest asks), `device_create.rs` and
//! `device_labels.rs` (what it makes), `device_tree.rs` (what it sees), `device_memory.rs`, `device_limits.rs`
//! (descriptors and memory), `device_status.rs`, and `device_hostile.rs`.

use anyhow::{Context, Result, ensure};
use thrufs_wire::abi::{BatchForgetIn, ForgetIn, ForgetOne, WriteOut};
use thrufs_wire::{InitFlags, Opcode};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use xtests::support::guest::calls::{
    MIB, ROOT, booted, getattr, large, lookup, open, pattern, read_in, write_in,
};
use xtests::support::guest::{Cut, Device, Guest, Options};
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, case};
use zerocopy::IntoBytes;

/// For what takes a moment.
const STEP: std::time::Duration = std::time::Duration::from_secs(10);

#[test]
fn init_on_any_request_queue_serves_all() -> Outcome {
    case(|| {
        let device = Device::new(&["--num-request-queues=2"])?;
        let mut guest = device.connect(large(2))?;
        ensure!(getattr(&mut guest, 1, ROOT)? == libc::ENOTCONN);
        guest.init()?;
        for queue in [1, 2] {
            ensure!(getattr(&mut guest, queue, ROOT)? == 0, "queue {queue}");
        }
        Ok(())
    })
}

#[test]
fn init_grants_what_a_guest_can_use_and_nothing_else() -> Outcome {
    case(|| {
        let device = Device::new(&[])?;
        let mut guest = device.connect(Options::default())?;
        let granted = guest.init()?;
        ensure!(granted.max_write as usize == MIB && granted.max_pages == 256);
        let flags = granted.capabilities();
        ensure!(flags.contains(InitFlags::FUSE_AUTO_INVAL_DATA));
        let never = InitFlags::FUSE_PASSTHROUGH | InitFlags::FUSE_WRITEBACK_CACHE;
        ensure!(!flags.intersects(never | InitFlags::FUSE_OVER_IO_URING));
        ensure!(granted.map_alignment == 0);
        Ok(())
    })
}

#[test]
fn init_again_ends_the_session_with_its_nodeids_and_handles() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&[], Options::default())?;
        std::fs::write(device.shared("f"), "content")?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        ensure!(getattr(&mut guest, 1, nodeid)? == 0);
        guest.init()?;
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        ensure!(getattr(&mut guest, 1, nodeid)? == libc::ESTALE);
        let arg = read_in(fh, 0, 7);
        let answer = guest.call(1, Opcode::Read, nodeid, &[arg.as_bytes()], 7)?;
        ensure!(answer.error == libc::EBADF, "{answer:?}");
        Ok(())
    })
}

#[test]
fn destroy_ends_the_session_until_the_next_init() -> Outcome {
    case(|| {
        let (_device, mut guest) = booted(&[], Options::default())?;
        ensure!(guest.call(1, Opcode::Destroy, 0, &[], 0)?.error == 0);
        ensure!(getattr(&mut guest, 1, ROOT)? == libc::ENOTCONN);
        guest.init()?;
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        Ok(())
    })
}

#[test]
fn message_in_any_cut_is_the_same_message() -> Outcome {
    case(|| {
        for event_index in [true, false] {
            let options = Options {
                event_index,
                ..large(1)
            };
            let (device, mut guest) = booted(&[], options)?;
            std::fs::write(device.shared("f"), "")?;
            let (nodeid, fh) = open(&mut guest, "f")?;
            let data = pattern(300);
            for cut in [Cut::Linux, Cut::Whole, Cut::Every(1), Cut::Every(7)] {
                std::fs::write(device.shared("f"), "")?;
                let arg = write_in(fh, 5, data.len());
                let parts = [arg.as_bytes(), &data];
                let sent = guest.send((1, cut), Opcode::Write, nodeid, &parts, 8)?;
                let written: WriteOut = guest.wait(sent)?.value()?;
                ensure!(written.size as usize == data.len(), "{cut:?}");
                let arg = read_in(fh, 5, data.len());
                let args = [arg.as_bytes()];
                let sent = guest.send((1, cut), Opcode::Read, nodeid, &args, data.len())?;
                let answer = guest.wait(sent)?;
                ensure!(answer.error == 0 && answer.data == data, "{cut:?}");
            }
            ensure!(std::fs::read(device.shared("f"))?[5..] == data);
        }
        Ok(())
    })
}

#[test]
fn largest_requests_move_their_bytes_and_short_ones_end_with_the_file() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&[], large(1))?;
        std::fs::write(device.shared("f"), "")?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let data = pattern(MIB);
        let arg = write_in(fh, 1000, MIB);
        let parts = [arg.as_bytes(), &data];
        let answer = guest.call(1, Opcode::Write, nodeid, &parts, 8)?;
        ensure!(answer.value::<WriteOut>()?.size as usize == MIB);
        ensure!(std::fs::read(device.shared("f"))?[1000..] == data);
        let arg = read_in(fh, 1000, MIB);
        let answer = guest.call(1, Opcode::Read, nodeid, &[arg.as_bytes()], MIB)?;
        ensure!(answer.error == 0 && answer.data == data);
        let arg = read_in(fh, (MIB + 900) as u64, 4096);
        let answer = guest.call(1, Opcode::Read, nodeid, &[arg.as_bytes()], 4096)?;
        ensure!(
            answer.data == data[MIB - 100..],
            "{} bytes",
            answer.data.len()
        );
        Ok(())
    })
}

#[test]
fn many_requests_under_way_are_each_answered_once() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&["--num-request-queues=2"], large(2))?;
        let content = pattern(MIB);
        std::fs::write(device.shared("f"), &content)?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        for round in 0..20_u64 {
            let mut sent = Vec::new();
            for at in 0..32_u64 {
                let offset = (at * 7919 + round * 104_729) % (MIB as u64 - 512);
                let arg = read_in(fh, offset, 512);
                let to = (1 + (at % 2) as usize, Cut::Linux);
                let token = guest.send(to, Opcode::Read, nodeid, &[arg.as_bytes()], 512)?;
                sent.push((token, offset as usize));
            }
            for (token, offset) in sent.into_iter().rev() {
                let answer = guest.wait(token)?;
                ensure!(answer.data == content[offset..offset + 512], "{offset}");
            }
        }
        Ok(())
    })
}

#[test]
fn forget_comes_back_with_no_bytes_and_the_inode_is_gone() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&[], Options::default())?;
        for name in ["a", "b", "c"] {
            std::fs::write(device.shared(name), "")?;
        }
        let a = lookup(&mut guest, "a")?.nodeid;
        let forget = ForgetIn { nlookup: 1 };
        let answer = guest.call(0, Opcode::Forget, a, &[forget.as_bytes()], 0)?;
        ensure!(answer.used == 0);
        ensure!(getattr(&mut guest, 1, a)? == libc::ESTALE);
        let both = [
            lookup(&mut guest, "b")?.nodeid,
            lookup(&mut guest, "c")?.nodeid,
        ];
        let count = BatchForgetIn {
            count: 2,
            ..BatchForgetIn::default()
        };
        let all = both.map(|nodeid| ForgetOne { nodeid, nlookup: 1 });
        let parts = [count.as_bytes(), all.as_bytes()];
        ensure!(guest.call(0, Opcode::BatchForget, 0, &parts, 0)?.used == 0);
        for nodeid in both {
            ensure!(getattr(&mut guest, 1, nodeid)? == libc::ESTALE);
        }
        Ok(())
    })
}

/// On one worker for all queues, a FORGET waited for the READ before it.
#[test]
fn forget_goes_on_while_a_read_is_blocked() -> Outcome {
    case(|| {
        let options = ["--num-request-queues=2", "--fault=read:nth=1:delay=3000"];
        let (device, mut guest) = booted(&options, large(2))?;
        std::fs::write(device.shared("f"), "content")?;
        std::fs::write(device.shared("g"), "")?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let g = lookup(&mut guest, "g")?.nodeid;
        let arg = read_in(fh, 0, 7);
        let to = (1, Cut::Linux);
        let slow = guest.send(to, Opcode::Read, nodeid, &[arg.as_bytes()], 7)?;
        let forget = ForgetIn { nlookup: 1 };
        guest.call(0, Opcode::Forget, g, &[forget.as_bytes()], 0)?;
        ensure!(getattr(&mut guest, 2, g)? == libc::ESTALE);
        ensure!(guest.poll(slow)?.is_none(), "the READ was not blocked");
        ensure!(guest.wait(slow)?.data == b"content");
        Ok(())
    })
}

#[test]
fn priority_queue_takes_what_belongs_there_alone() -> Outcome {
    case(|| {
        let (_device, mut guest) = booted(&[], Options::default())?;
        ensure!(getattr(&mut guest, 0, ROOT)? == libc::EINVAL);
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        Ok(())
    })
}

#[test]
fn operations_that_a_device_lacks_are_enosys_and_syncfs_is_not() -> Outcome {
    case(|| {
        let (_device, mut guest) = booted(&[], Options::default())?;
        let mapping = [0_u8; 40];
        let answer = guest.call(1, Opcode::Setupmapping, ROOT, &[&mapping], 0)?;
        ensure!(answer.error == libc::ENOSYS);
        let answer = guest.call(1, Opcode::Syncfs, ROOT, &[&[0; 8]], 0)?;
        ensure!(answer.error == 0, "{answer:?}");
        Ok(())
    })
}

fn config(guest: &mut Guest, offset: u32, len: usize) -> Result<Vec<u8>> {
    let flags = VhostUserConfigFlags::WRITABLE;
    let blank = vec![0; len];
    let got = guest
        .frontend()
        .get_config(offset, len as u32, flags, &blank)?;
    Ok(got.1)
}

#[test]
fn configuration_is_there_with_a_tag_alone_and_in_parts() -> Outcome {
    case(|| {
        let device = Device::new(&["--tag=gr\u{fc}n", "--num-request-queues=3"])?;
        let mut guest = device.connect(Options::default())?;
        let all = config(&mut guest, 0, 40)?;
        ensure!(all[..5] == *"gr\u{fc}n".as_bytes() && all[5..36].iter().all(|byte| *byte == 0));
        ensure!(all[36..40] == 3_u32.to_le_bytes());
        ensure!(config(&mut guest, 36, 4)? == 3_u32.to_le_bytes());
        ensure!(config(&mut guest, 2, 3)? == all[2..5]);
        drop(guest);
        let device = Device::new(&[])?;
        let mut guest = device.connect(Options::default())?;
        ensure!(config(&mut guest, 0, 40).is_err());
        guest.init()?;
        Ok(())
    })
}

#[test]
fn stopped_queue_answers_first_and_goes_on_where_it_was() -> Outcome {
    case(|| {
        let options = ["--num-request-queues=2", "--fault=read:nth=1:delay=700"];
        let (device, mut guest) = booted(&options, large(2))?;
        std::fs::write(device.shared("f"), "content")?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let arg = read_in(fh, 0, 7);
        let to = (2, Cut::Linux);
        let slow = guest.send(to, Opcode::Read, nodeid, &[arg.as_bytes()], 7)?;
        wait_until("the READ to be taken", STEP, || device.is_delaying())?;
        ensure!(guest.stop_queue(2)? == 1);
        let answer = guest.poll(slow)?.context("stopped before the answer")?;
        ensure!(answer.data == b"content");
        guest.start_queue(2, 64)?;
        ensure!(getattr(&mut guest, 2, ROOT)? == 0);
        Ok(())
    })
}

#[test]
fn memory_that_is_shared_anew_is_used_from_then_on() -> Outcome {
    case(|| {
        let (_device, mut guest) = booted(&[], Options::default())?;
        for _ in 0..20 {
            ensure!(getattr(&mut guest, 1, ROOT)? == 0);
            guest.share_memory()?;
        }
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        Ok(())
    })
}

#[test]
fn tag_of_1_and_of_36_bytes_is_in_the_configuration() -> Outcome {
    case(|| {
        for tag in ["a", "012345678901234567890123456789012345"] {
            let device = Device::new(&[&format!("--tag={tag}")])?;
            let mut guest = device.connect(Options::default())?;
            let all = config(&mut guest, 0, 40)?;
            let told = &all[..tag.len()];
            ensure!(told == tag.as_bytes() && all[tag.len()..36].iter().all(|byte| *byte == 0));
            // By default as many as the machine has CPUs.
            let cpus = std::thread::available_parallelism()?.get().min(16);
            ensure!(all[36..40] == u32::try_from(cpus)?.to_le_bytes());
        }
        Ok(())
    })
}
