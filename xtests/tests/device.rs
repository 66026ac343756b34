//! A virtiofs device, by a front end that plays the guest: the checklist of the virtio specification, and how
//! the device starts and ends. What a hostile guest sends is in `device_hostile.rs`.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use thrufs_wire::abi::{
    AttrOut, BatchForgetIn, CreateIn, EntryOut, FileLock, ForgetIn, ForgetOne, GetattrIn,
    InterruptIn, LkIn, OpenIn, OpenOut, ReadIn, WriteIn, WriteOut,
};
use thrufs_wire::{InitFlags, Opcode};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use xtests::support::daemon_fixture::tied_to_us;
use xtests::support::guest::{Cut, Device, Guest, Options};
use xtests::support::mount::thrufs;
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, case};
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
/// Bytes of the largest request.
const MIB: usize = 1 << 20;
/// For what takes a moment.
const STEP: Duration = Duration::from_secs(10);

/// A device with these options and a guest after INIT.
fn booted(options: &[&str], guest: Options) -> Result<(Device, Guest)> {
    let device = Device::new(options)?;
    let mut guest = device.connect(guest)?;
    guest.init()?;
    Ok((device, guest))
}

/// Queues that take the largest request without an indirect table.
fn large(queues: usize) -> Options {
    Options {
        queues,
        size: 1024,
        ..Options::default()
    }
}

fn getattr(guest: &mut Guest, queue: usize, nodeid: u64) -> Result<i32> {
    let arg = GetattrIn::default();
    let answer = guest.call(queue, Opcode::Getattr, nodeid, &[arg.as_bytes()], 104)?;
    Ok(answer.error)
}

fn lookup(guest: &mut Guest, name: &str) -> Result<EntryOut> {
    let name = format!("{name}\0");
    let answer = guest.call(1, Opcode::Lookup, ROOT, &[name.as_bytes()], 128)?;
    answer.value()
}

/// Looks `name` up and opens it for reading and writing: nodeid and handle.
fn open(guest: &mut Guest, name: &str) -> Result<(u64, u64)> {
    let nodeid = lookup(guest, name)?.nodeid;
    let arg = OpenIn {
        flags: libc::O_RDWR.cast_unsigned(),
        ..OpenIn::default()
    };
    let answer = guest.call(1, Opcode::Open, nodeid, &[arg.as_bytes()], 16)?;
    Ok((nodeid, answer.value::<OpenOut>()?.fh))
}

fn read_in(fh: u64, offset: u64, size: usize) -> ReadIn {
    ReadIn {
        fh,
        offset,
        size: size as u32,
        ..ReadIn::default()
    }
}

fn write_in(fh: u64, offset: u64, size: usize) -> WriteIn {
    WriteIn {
        fh,
        offset,
        size: size as u32,
        ..WriteIn::default()
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 % 251) as u8).collect()
}

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
fn disconnect_ends_the_device_with_success() -> Outcome {
    case(|| {
        let (mut device, guest) = booted(&[], Options::default())?;
        drop(guest);
        device.ends_well()?;
        ensure!(!device.socket().exists(), "the socket is left");
        Ok(())
    })
}

#[test]
fn keep_serves_the_next_front_end_from_a_clean_start() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted(&["--keep"], Options::default())?;
        std::fs::write(device.shared("f"), "")?;
        let nodeid = lookup(&mut guest, "f")?.nodeid;
        for _ in 0..3 {
            drop(guest);
            guest = device.connect(Options::default())?;
            ensure!(getattr(&mut guest, 1, ROOT)? == libc::ENOTCONN);
            guest.init()?;
            ensure!(getattr(&mut guest, 1, nodeid)? == libc::ESTALE);
        }
        ensure!(device.is_alive()?);
        device.signal(Signal::SIGTERM)?;
        device.ends_well()
    })
}

#[test]
fn sigterm_answers_what_is_under_way_and_ends_with_success() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted(&["--fault=write:nth=1:delay=1500"], large(1))?;
        std::fs::write(device.shared("f"), "")?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let data = pattern(MIB);
        let arg = write_in(fh, 0, MIB);
        let parts = [arg.as_bytes(), &data];
        let sent = guest.send((1, Cut::Linux), Opcode::Write, nodeid, &parts, 8)?;
        wait_until("the WRITE to be taken", STEP, || device.is_delaying())?;
        device.signal(Signal::SIGTERM)?;
        device.ends_well()?;
        ensure!(guest.wait(sent)?.value::<WriteOut>()?.size as usize == MIB);
        ensure!(std::fs::read(device.shared("f"))? == data);
        Ok(())
    })
}

#[test]
fn sigterm_without_a_front_end_ends_with_success() -> Outcome {
    case(|| {
        let mut device = Device::new(&[])?;
        device.wait_for_pid_file()?;
        device.signal(Signal::SIGTERM)?;
        device.ends_well()?;
        ensure!(!device.socket().exists() && !device.pid_file().exists());
        Ok(())
    })
}

#[test]
fn socket_has_its_final_mode_and_a_pid_file_beside_it() -> Outcome {
    case(|| {
        for (options, mode) in [(&[][..], 0o700), (&["--socket-group=0"], 0o770)] {
            let device = Device::new(options)?;
            let permissions = std::fs::metadata(device.socket())?.permissions();
            ensure!(permissions.mode() & 0o7777 == mode, "{permissions:?}");
            device.wait_for_pid_file()?;
            let path = device.pid_file();
            ensure!(std::fs::read_to_string(&path)? == format!("{}\n", device.pid()?));
            ensure!(std::fs::metadata(&path)?.permissions().mode() & 0o7777 == 0o600);
        }
        Ok(())
    })
}

#[test]
fn socket_that_is_served_is_not_replaced_and_one_that_is_stale_is() -> Outcome {
    case(|| {
        let device = Device::new(&[])?;
        device.wait_for_pid_file()?;
        let mut second = tied_to_us(&thrufs()?);
        second
            .args(["device", "--shared-dir", "/", "--socket-path"])
            .arg(device.socket());
        let output = second.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{said}");
        ensure!(said.contains("served by another process"), "{said}");
        device.connect(Options::default())?.init()?;
        let stale = device.dir().join("stale");
        drop(UnixListener::bind(&stale)?);
        let mut third = tied_to_us(&thrufs()?);
        third.arg("device");
        let device = Device::at(third, &stale, &[])?;
        device.wait_for_pid_file()?;
        device.connect(Options::default())?.init()?;
        Ok(())
    })
}

/// The socket's address has 107 bytes; Incus has longer paths.
#[test]
fn socket_with_a_long_path_is_made() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let long = dir.path().join("x".repeat(100));
        std::fs::create_dir(&long)?;
        let mut command = tied_to_us(&thrufs()?);
        command.arg("device");
        let _device = Device::at(command, &long.join("y".repeat(60)), &[])?;
        let link = dir.path().join("s");
        std::os::unix::fs::symlink(long.join("y".repeat(60)), &link)?;
        Guest::connect(&link, Options::default())?.init()?;
        Ok(())
    })
}

#[test]
fn inherited_socket_is_served_as_libvirt_passes_it() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket)?;
        // Descriptors are inherited by number here.
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty())?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&listener);
        let mut command = tied_to_us(&thrufs()?);
        command
            .arg("device")
            .arg(format!("--fd={number}"))
            .args(["-o", "cache=always,no_flock,no_posix_lock"])
            .arg(format!("--shared-dir={}", dir.path().display()));
        let mut process = command.stderr(std::process::Stdio::null()).spawn()?;
        let mut guest = Guest::connect(&socket, Options::default())?;
        guest.init()?;
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        drop(guest);
        let status = xtests::support::command::wait_for_exit(&mut process, "the end", STEP)?;
        ensure!(status.success(), "{status}");
        Ok(())
    })
}

#[test]
fn called_as_virtiofsd_it_takes_its_options() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let virtiofsd = dir.path().join("virtiofsd");
        std::os::unix::fs::symlink(thrufs()?, &virtiofsd)?;
        let options = ["--sandbox=none", "--cache=auto", "--thread-pool-size=4"];
        let device = Device::start(tied_to_us(&virtiofsd), &options)?;
        let mut guest = device.connect(Options::default())?;
        guest.init()?;
        let asked = std::process::Command::new(&virtiofsd)
            .arg("--print-capabilities")
            .output()?;
        ensure!(asked.status.success());
        let said: serde_json::Value = serde_json::from_slice(&asked.stdout)?;
        ensure!(said["type"] == "fs" && said["features"].is_array());
        Ok(())
    })
}

#[test]
fn sandboxes_and_filters_of_each_kind_serve() -> Outcome {
    case(|| {
        for options in [
            &["--sandbox=namespace", "--seccomp=kill"][..],
            &["--sandbox=chroot", "--seccomp=kill"],
            &["--sandbox=none", "--seccomp=kill"],
            &["--sandbox=none", "--seccomp=none"],
        ] {
            let (mut device, mut guest) = booted(options, Options::default())?;
            std::fs::write(device.shared("f"), "content")?;
            let (nodeid, fh) = open(&mut guest, "f")?;
            let arg = read_in(fh, 0, 100);
            let answer = guest.call(1, Opcode::Read, nodeid, &[arg.as_bytes()], 100)?;
            ensure!(answer.data == b"content", "{options:?}: {answer:?}");
            drop(guest);
            device.ends_well()?;
        }
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

/// With a descriptor an inode, 700 are used up by 700 LOOKUPs.
#[test]
fn lookups_beyond_the_open_files_limit_do_not_end_the_device() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&["--rlimit-nofile=700"], Options::default())?;
        for at in 0..3000 {
            std::fs::write(device.shared(&format!("f{at}")), "")?;
        }
        for at in 0..3000 {
            // Where there are no file handles the limit is an error that says so, and not the end.
            if let Err(error) = lookup(&mut guest, &format!("f{at}")) {
                ensure!(error.to_string().contains("errno 23"), "{error}");
            }
        }
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        Ok(())
    })
}

#[test]
fn read_only_share_refuses_every_change() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&["--readonly"], Options::default())?;
        std::fs::write(device.shared("f"), "")?;
        let nodeid = lookup(&mut guest, "f")?.nodeid;
        let name = b"g\0".as_slice();
        let root = ROOT.to_ne_bytes();
        let cases: [(Opcode, &[&[u8]], usize); 8] = [
            (Opcode::Mkdir, &[&[0; 8], name], 128),
            (Opcode::Mknod, &[&[0; 16], name], 128),
            (Opcode::Symlink, &[name, name], 128),
            (Opcode::Unlink, &[b"f\0"], 0),
            (Opcode::Rmdir, &[b"f\0"], 0),
            (Opcode::Link, &[&nodeid.to_ne_bytes(), name], 128),
            (Opcode::Rename, &[&root, b"f\0", name], 0),
            (Opcode::Create, &[&[0; 16], name], 144),
        ];
        for (opcode, parts, room) in cases {
            let answer = guest.call(1, opcode, ROOT, parts, room)?;
            ensure!(answer.error == libc::EROFS, "{opcode:?}: {answer:?}");
        }
        let answer = guest.call(1, Opcode::Getattr, nodeid, &[&[0; 16]], 104)?;
        answer.value::<AttrOut>()?;
        Ok(())
    })
}

/// An exclusive lock of the whole file, or its release.
fn lock_in(fh: u64, owner: u64, kind: i32) -> LkIn {
    LkIn {
        fh,
        owner,
        lk: FileLock {
            start: 0,
            end: i64::MAX.cast_unsigned(),
            r#type: kind.cast_unsigned(),
            pid: 1,
        },
        ..LkIn::default()
    }
}

#[test]
fn locks_on_the_host_hold_across_guests_and_waiting_blocks_no_queue() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&["--locks=host"], Options::default())?;
        std::fs::write(device.shared("f"), "")?;
        let same = format!("--shared-dir={}", device.shared("").display());
        let (_other, mut waiter) = booted(&["--locks=host", &same], Options::default())?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let (waiter_nodeid, waiter_fh) = open(&mut waiter, "f")?;
        let lock = lock_in(fh, 1, libc::F_WRLCK);
        let unlock = lock_in(fh, 1, libc::F_UNLCK);
        let answer = guest.call(1, Opcode::Setlk, nodeid, &[lock.as_bytes()], 0)?;
        ensure!(answer.error == 0, "{answer:?}");
        let theirs = lock_in(waiter_fh, 2, libc::F_WRLCK);
        let args = [theirs.as_bytes()];
        let answer = waiter.call(1, Opcode::Setlk, waiter_nodeid, &args, 0)?;
        ensure!(answer.error == libc::EAGAIN, "{answer:?}");
        let to = (1, Cut::Linux);
        let interrupted = waiter.send(to, Opcode::Setlkw, waiter_nodeid, &args, 0)?;
        ensure!(getattr(&mut waiter, 1, ROOT)? == 0);
        let unique = InterruptIn {
            unique: interrupted.unique(),
        };
        waiter.call(0, Opcode::Interrupt, 0, &[unique.as_bytes()], 0)?;
        ensure!(waiter.wait(interrupted)?.error == libc::EINTR);
        let waiting = waiter.send(to, Opcode::Setlkw, waiter_nodeid, &args, 0)?;
        ensure!(getattr(&mut waiter, 1, ROOT)? == 0);
        ensure!(waiter.poll(waiting)?.is_none(), "locked twice");
        guest.call(1, Opcode::Setlk, nodeid, &[unlock.as_bytes()], 0)?;
        ensure!(waiter.wait(waiting)?.error == 0);
        Ok(())
    })
}

/// O_DIRECT wants aligned memory, which a guest's buffers need not be.
#[test]
fn direct_io_takes_buffers_of_any_alignment() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&["--allow-direct-io"], large(1))?;
        std::fs::write(device.shared("f"), "")?;
        let nodeid = lookup(&mut guest, "f")?.nodeid;
        let arg = OpenIn {
            flags: (libc::O_RDWR | libc::O_DIRECT).cast_unsigned(),
            ..OpenIn::default()
        };
        let answer = guest.call(1, Opcode::Open, nodeid, &[arg.as_bytes()], 16)?;
        let fh = answer.value::<OpenOut>()?.fh;
        let data = pattern(64 << 10);
        for cut in [Cut::Whole, Cut::Linux, Cut::Every(1000)] {
            let arg = write_in(fh, 8192, data.len());
            let args = [arg.as_bytes(), &data];
            let sent = guest.send((1, cut), Opcode::Write, nodeid, &args, 8)?;
            let written = guest.wait(sent)?.value::<WriteOut>()?;
            ensure!(written.size as usize == data.len(), "{cut:?}");
            let arg = read_in(fh, 8192, data.len());
            let args = [arg.as_bytes()];
            let sent = guest.send((1, cut), Opcode::Read, nodeid, &args, data.len())?;
            ensure!(guest.wait(sent)?.data == data, "{cut:?}");
        }
        ensure!(std::fs::read(device.shared("f"))?[8192..] == data);
        Ok(())
    })
}

#[test]
fn failed_write_is_the_guest_s_error_and_a_short_one_its_count() -> Outcome {
    case(|| {
        let faults = ["--fault=write:nth=1:EIO", "--fault=write:nth=2:short=100"];
        let (device, mut guest) = booted(&faults, large(1))?;
        std::fs::write(device.shared("f"), "")?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let data = pattern(4096);
        let arg = write_in(fh, 0, data.len());
        let parts = [arg.as_bytes(), &data];
        let answer = guest.call(1, Opcode::Write, nodeid, &parts, 8)?;
        ensure!(answer.error == libc::EIO, "{answer:?}");
        let answer = guest.call(1, Opcode::Write, nodeid, &parts, 8)?;
        let size = answer.value::<WriteOut>()?.size as usize;
        ensure!(std::fs::read(device.shared("f"))? == data[..size], "{size}");
        ensure!(size == 100, "{size}");
        Ok(())
    })
}

fn create(guest: &mut Guest, name: &str, caller: u32) -> Result<EntryOut> {
    guest.caller = caller;
    let arg = CreateIn {
        flags: libc::O_RDWR.cast_unsigned(),
        mode: 0o100_444,
        umask: 0o022,
        ..CreateIn::default()
    };
    let name = format!("{name}\0");
    let args = [arg.as_bytes(), name.as_bytes()];
    let answer = guest.call(1, Opcode::Create, ROOT, &args, 144)?;
    guest.caller = 0;
    answer.value()
}

#[test]
fn create_by_a_device_of_root_is_the_caller_s_and_writable_whatever_the_mode() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&[], Options::default())?;
        for caller in [0, 1001] {
            let name = format!("f{caller}");
            guest.caller = caller;
            let entry = create(&mut guest, &name, caller)?;
            ensure!(entry.attr.uid == caller && entry.attr.mode & 0o777 == 0o444);
            let stat = std::fs::metadata(device.shared(&name))?;
            ensure!((stat.uid(), stat.gid()) == (caller, caller), "{stat:?}");
        }
        Ok(())
    })
}

/// In a pod without capabilities, where unshare(2) is refused, every create failed with EINVAL.
#[test]
fn create_by_a_device_of_a_user_is_that_user_s_with_one_warning() -> Outcome {
    case(|| {
        let device = Device::new_as_user(65_000, &[])?;
        let mut guest = device.connect(Options::default())?;
        guest.init()?;
        for caller in [0, 1001] {
            let name = format!("f{caller}");
            create(&mut guest, &name, caller)?;
            let stat = std::fs::metadata(device.shared(&name))?;
            ensure!((stat.uid(), stat.gid()) == (65_000, 65_000), "{stat:?}");
        }
        let warning = "belong to the user of this process";
        let log = device.log_with(warning)?;
        ensure!(log.matches(warning).count() == 1, "{log}");
        Ok(())
    })
}
