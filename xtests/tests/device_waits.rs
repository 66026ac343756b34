//! A virtiofs device whose SOURCE holds requests, and an idle one: a held request delays no other, and a request
//! costs few system calls. Counted, never timed.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thrufs_wire::Opcode;
use thrufs_wire::abi::{EntryOut, ForgetIn, FsyncIn, GetattrIn, OpenIn, OpenOut, ReadIn};
use vhost::vhost_user::VhostUserFrontend;
use xtests::support::call_counts::Trace;
use xtests::support::guest::{Cut, Device, Guest, Options, Token};
use xtests::support::held_source::{FILE, HeldSource};
use xtests::support::install::find;
use xtests::support::process::children;
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, case, missing};
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
const PAGE: usize = 4096;
const STEP: Duration = Duration::from_secs(20);
/// Threads of the device for what waits.
const WORKERS: usize = 32;

fn large() -> Options {
    Options {
        size: 1024,
        ..Options::default()
    }
}

/// Pages that differ.
fn content(pages: usize) -> Vec<u8> {
    (0..pages * PAGE)
        .map(|at| (at / PAGE + at % 7) as u8)
        .collect()
}

/// A device of a SOURCE that holds requests, and a guest that has its file open.
fn held(pages: usize) -> Result<(HeldSource, Device, Guest, (u64, u64))> {
    let source = HeldSource::mount(content(pages))?;
    let shared = format!("--shared-dir={}", source.path().display());
    let device = Device::new(&[&shared])?;
    let mut guest = device.connect(large())?;
    guest.init()?;
    let opened = open(&mut guest, FILE)?;
    Ok((source, device, guest, opened))
}

/// Looks `name` up and opens it: nodeid and handle.
fn open(guest: &mut Guest, name: &str) -> Result<(u64, u64)> {
    let name = format!("{name}\0");
    let answer = guest.call(1, Opcode::Lookup, ROOT, &[name.as_bytes()], 128)?;
    let nodeid = answer.value::<EntryOut>()?.nodeid;
    let arg = OpenIn {
        flags: libc::O_RDWR.cast_unsigned(),
        ..OpenIn::default()
    };
    let answer = guest.call(1, Opcode::Open, nodeid, &[arg.as_bytes()], 16)?;
    Ok((nodeid, answer.value::<OpenOut>()?.fh))
}

/// Sends the READ of a page.
fn read(guest: &mut Guest, (nodeid, fh): (u64, u64), page: usize) -> Result<Token> {
    let arg = ReadIn {
        fh,
        offset: (page * PAGE) as u64,
        size: PAGE as u32,
        ..ReadIn::default()
    };
    guest.send(
        (1, Cut::Linux),
        Opcode::Read,
        nodeid,
        &[arg.as_bytes()],
        PAGE,
    )
}

fn getattr(guest: &mut Guest, nodeid: u64) -> Result<()> {
    let arg = GetattrIn::default();
    let answer = guest.call(1, Opcode::Getattr, nodeid, &[arg.as_bytes()], 104)?;
    ensure!(answer.error == 0, "{answer:?}");
    Ok(())
}

fn have_content(guest: &mut Guest, reads: Vec<Token>) -> Result<()> {
    let content = content(reads.len());
    for (token, page) in reads.into_iter().zip(content.chunks(PAGE)) {
        ensure!(guest.wait(token)?.data == page);
    }
    Ok(())
}

/// The queue's thread served one after the other, and the requests behind them last.
#[test]
fn reads_of_a_slow_source_by_one_queue_wait_together_and_nothing_else_with_them() -> Outcome {
    case(|| {
        let (source, _device, mut guest, file) = held(16)?;
        let _gate = source.gate();
        let reads = (0..16).map(|page| read(&mut guest, file, page));
        let reads: Vec<Token> = reads.collect::<Result<_>>()?;
        source.wait_for_held(16)?;
        getattr(&mut guest, file.0)?;
        let forget = ForgetIn { nlookup: 0 };
        let answer = guest.call(0, Opcode::Forget, file.0, &[forget.as_bytes()], 0)?;
        ensure!(answer.used == 0);
        for token in &reads {
            ensure!(guest.poll(*token)?.is_none(), "answered before SOURCE was");
        }
        source.open();
        have_content(&mut guest, reads)
    })
}

#[test]
fn more_slow_reads_than_there_are_threads_are_all_answered() -> Outcome {
    case(|| {
        let (source, _device, mut guest, file) = held(WORKERS + 10)?;
        let _gate = source.gate();
        let reads = (0..WORKERS + 10).map(|page| read(&mut guest, file, page));
        let reads: Vec<Token> = reads.collect::<Result<_>>()?;
        source.wait_for_held(WORKERS)?;
        // Served by the queue's thread, which took the READs first.
        getattr(&mut guest, file.0)?;
        ensure!(source.held() == WORKERS, "{} at once", source.held());
        source.open();
        have_content(&mut guest, reads)
    })
}

#[test]
fn fsync_that_waits_keeps_no_other_request_waiting() -> Outcome {
    case(|| {
        let (source, _device, mut guest, (nodeid, fh)) = held(1)?;
        let _gate = source.gate();
        let arg = FsyncIn {
            fh,
            ..FsyncIn::default()
        };
        let to = (1, Cut::Linux);
        let fsync = guest.send(to, Opcode::Fsync, nodeid, &[arg.as_bytes()], 0)?;
        source.wait_for_held(1)?;
        getattr(&mut guest, nodeid)?;
        ensure!(guest.poll(fsync)?.is_none(), "answered before SOURCE was");
        source.open();
        ensure!(guest.wait(fsync)?.error == 0);
        Ok(())
    })
}

/// What the front end does to the memory after GET_VRING_BASE must meet no answer.
#[test]
fn stopped_queue_answers_what_waits_for_source_first() -> Outcome {
    case(|| {
        let (source, _device, mut guest, file) = held(3)?;
        let gate = source.gate();
        let reads = (0..3).map(|page| read(&mut guest, file, page));
        let reads: Vec<Token> = reads.collect::<Result<_>>()?;
        source.wait_for_held(3)?;
        let stopping = std::thread::scope(|scope| {
            let stopping = scope.spawn(|| guest.stop_queue(1));
            ensure!(!stopping.is_finished(), "stopped with READs under way");
            drop(gate);
            stopping
                .join()
                .map_err(|_panic| anyhow::anyhow!("the front end panicked"))?
        });
        // LOOKUP and OPEN, INIT, and the READs.
        ensure!(stopping? == 6);
        for (token, page) in reads.into_iter().zip(content(3).chunks(PAGE)) {
            let answer = guest
                .poll(token)?
                .context("no answer when the queue had stopped")?;
            ensure!(answer.data == page);
        }
        Ok(())
    })
}

/// A thread of the serving processes, and the call that it is in: number and arguments.
fn calls(device: &Device) -> Result<Vec<(String, Vec<u64>)>> {
    let mut all = Vec::new();
    let mut processes = children(device.pid()?)?;
    processes.push(device.pid()?);
    for process in processes {
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?.path();
            let read = |file| fs::read_to_string(task.join(file));
            // Gone meanwhile, if not: a thread may end between the two.
            let (Ok(text), Ok(name)) = (read("syscall"), read("comm")) else {
                continue;
            };
            let number = |word: &str| match word.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => word.parse().ok(),
            };
            let name = name.trim().to_owned();
            all.push((name, text.split_whitespace().filter_map(number).collect()));
        }
    }
    Ok(all)
}

/// Whether the thread sleeps in this call until there is something to do, however long.
fn sleeps_for_good(call: &[u64]) -> bool {
    // `running` has no number.
    let (Some(number), Some(third)) = (call.first(), call.get(3)) else {
        return false;
    };
    let forever = |timeout: u64| timeout as u32 == u32::MAX;
    match i64::try_from(*number).unwrap_or(-1) {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => call.get(4).is_some_and(|t| forever(*t)),
        libc::SYS_epoll_pwait2 | libc::SYS_futex => call.get(4) == Some(&0),
        libc::SYS_poll => forever(*third),
        libc::SYS_ppoll => *third == 0,
        libc::SYS_read
        | libc::SYS_recvmsg
        | libc::SYS_recvfrom
        | libc::SYS_accept4
        | libc::SYS_wait4
        | libc::SYS_waitid => true,
        _works => false,
    }
}

/// Waits until all threads sleep for good; what they sleep in.
fn wait_for_sleep(device: &Device) -> Result<Vec<(String, Vec<u64>)>> {
    let mut last = Vec::new();
    let slept = wait_until("all threads to sleep for good", STEP, || {
        last = calls(device)?;
        Ok(last.iter().all(|(_name, call)| sleeps_for_good(call)))
    });
    slept.with_context(|| format!("{last:x?}"))?;
    Ok(last)
}

/// One that wakes up by itself costs its machine power all day.
#[test]
fn idle_device_makes_no_system_call() -> Outcome {
    case(|| {
        let device = Device::new(&["--num-request-queues=2", "--fault=read:nth=1:delay=1"])?;
        let mut guest = device.connect(Options {
            queues: 2,
            ..large()
        })?;
        guest.init()?;
        fs::write(device.shared("f"), content(1))?;
        let file = open(&mut guest, "f")?;
        for _ in 0..100 {
            getattr(&mut guest, file.0)?;
        }
        // By a worker, which ends.
        let token = read(&mut guest, file, 0)?;
        guest.wait(token)?;
        let last = wait_for_sleep(&device)?;
        ensure!(last.len() >= 4, "{} threads", last.len());
        Ok(())
    })
}

/// The kicks that came before are not read, and one that comes now is not lost.
#[test]
fn disabled_queue_sleeps_and_goes_on_when_it_is_enabled() -> Outcome {
    case(|| {
        let device = Device::new(&[])?;
        let mut guest = device.connect(large())?;
        guest.init()?;
        getattr(&mut guest, ROOT)?;
        guest.frontend().set_vring_enable(1, false)?;
        wait_for_sleep(&device)?;
        let arg = GetattrIn::default();
        let to = (1, Cut::Linux);
        let waiting = guest.send(to, Opcode::Getattr, ROOT, &[arg.as_bytes()], 104)?;
        wait_for_sleep(&device)?;
        ensure!(guest.poll(waiting)?.is_none(), "served while disabled");
        guest.frontend().set_vring_enable(1, true)?;
        ensure!(guest.wait(waiting)?.error == 0);
        Ok(())
    })
}

/// System calls for each of `requests` READs, so many under way at a time.
fn calls_a_read(requests: usize, depth: usize) -> Result<f64> {
    find("strace").ok_or_else(|| missing("strace (strace)"))?;
    let device = Device::new(&[])?;
    let mut guest = device.connect(large())?;
    guest.init()?;
    fs::write(device.shared("f"), content(64))?;
    let file = open(&mut guest, "f")?;
    let serving = children(device.pid()?)?;
    let serving = serving.first().copied().unwrap_or(device.pid()?);
    let trace = Trace::start(u32::try_from(serving.as_raw())?, device.dir())?;
    for _ in 0..requests / depth {
        let reads = (0..depth).map(|page| read(&mut guest, file, page));
        let reads: Vec<Token> = reads.collect::<Result<_>>()?;
        have_content(&mut guest, reads)?;
    }
    let calls = trace.stop()?;
    eprintln!("depth {depth}: {calls:?}");
    let all: u64 = calls.iter().map(|(_name, count)| count).sum();
    Ok(all as f64 / requests as f64)
}

/// The sleep, the bytes, and the call to the driver; fewer where the next request comes at once.
#[test]
fn read_costs_three_system_calls_at_most() -> Outcome {
    case(|| {
        for depth in [1, 16] {
            let calls = calls_a_read(640, depth)?;
            // A few of strace's attaching.
            ensure!(calls < 3.05, "{calls:.2} calls a READ at depth {depth}");
            ensure!(calls > 1.0, "{calls:.2} calls a READ: not counted");
        }
        Ok(())
    })
}

/// Requests that wait in the ring when the queue begins: of each eight small ones the last calls the guest.
#[test]
fn reads_in_a_row_share_a_call_to_the_guest() -> Outcome {
    const READS: usize = 16;
    case(|| {
        let device = Device::new(&[])?;
        // Without the event index a guest that looks by itself is called for each answer.
        let mut guest = device.connect(Options {
            event_index: false,
            ..large()
        })?;
        guest.init()?;
        fs::write(device.shared("f"), content(READS))?;
        let file = open(&mut guest, "f")?;
        // SOURCE's file system is known, and the counter is at 0, from here on.
        let first = read(&mut guest, file, 0)?;
        have_content(&mut guest, vec![first])?;
        guest.frontend().set_vring_enable(1, false)?;
        wait_for_sleep(&device)?;
        guest.calls(1);
        let reads = (0..READS).map(|page| read(&mut guest, file, page));
        let mut reads: Vec<Token> = reads.collect::<Result<_>>()?;
        guest.frontend().set_vring_enable(1, true)?;
        wait_until("an answer to each", STEP, || {
            let mut left = Vec::new();
            for token in reads.drain(..) {
                match guest.poll(token)? {
                    Some(answer) => ensure!(answer.error == 0),
                    None => left.push(token),
                }
            }
            reads = left;
            Ok(reads.is_empty())
        })?;
        wait_for_sleep(&device)?;
        let calls = guest.calls(1);
        ensure!((1..=4).contains(&calls), "{calls} calls for {READS} READs");
        Ok(())
    })
}
