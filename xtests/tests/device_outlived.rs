//! `thrufs device --survive`: the guest outlives the device's server, without an error and without a wrong byte.
//!
//! The server is killed while requests of several queues are under way: by `--fault` between what a request did and its
//! answer, and at any moment of a mix of all that may not be repeated. Nothing depends on how long anything takes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[path = "device_outlived/caller.rs"]
mod caller;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thrufs_wire::Opcode;
use thrufs_wire::abi::{ReadIn, WriteIn, WriteOut};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use xtests::support::asked::{ROUNDS, number};
use xtests::support::checks::equal;
use xtests::support::guest::calls::{forget_all, open, read, write_in};
use xtests::support::guest::{Answer, Device, Guest, Options, Token};
use xtests::support::operator;
use xtests::support::process::children;
use xtests::support::random::Random;
use xtests::support::wait::{wait_for, wait_until};
use xtests::support::{Outcome, case};
use zerocopy::IntoBytes;

use caller::{Caller, STEPS, Step};

const SURVIVE: [&str; 3] = [
    "--survive=always",
    "--survive-deaths=2000",
    "--num-request-queues=3",
];
/// For a server to come, on a machine however busy.
const SOON: Duration = Duration::from_secs(60);
/// Deaths that a device is to outlive, unless another number is asked for.
const DEATHS: u64 = 25;
/// Callers in the guest, each with one request under way.
const CALLERS: usize = 12;

fn device(options: &[&str]) -> Result<Device> {
    let options: Vec<&str> = SURVIVE.iter().chain(options).copied().collect();
    Device::new(&options)
}

fn connected(options: &[&str]) -> Result<(Device, Guest)> {
    let device = device(options)?;
    let guest = device.connect(three_queues());
    let mut guest = guest.with_context(|| device.log())?;
    guest.init()?;
    Ok((device, guest))
}

fn three_queues() -> Options {
    Options {
        queues: 3,
        ..Options::default()
    }
}

/// The process that serves now: the child of the one that starts servers.
fn server(device: &Device) -> Result<Pid> {
    wait_for("a server", SOON, || {
        let Some(zygote) = children(device.pid()?)?.first().copied() else {
            bail!("the device has ended:\n{}", device.log());
        };
        Ok(children(zygote)?.first().copied())
    })
}

/// Kills the server, and waits for the next one.
fn kill_server(device: &Device) -> Outcome {
    let killed = server(device)?;
    kill(killed, Signal::SIGKILL)?;
    wait_until("the next server", SOON, || Ok(server(device)? != killed))
}

fn status(device: &Device) -> Result<serde_json::Value> {
    operator::status(&device.socket())
}

fn done(answer: &Answer) -> Outcome {
    ensure!(answer.error == 0, "errno {}", answer.error);
    Ok(())
}

/// Each with a file to append to.
fn callers(guest: &mut Guest, device: &Device) -> Result<Vec<Caller>> {
    let caller = |number: usize| {
        let log = format!("log-{number}");
        std::fs::write(device.shared(&log), "")?;
        Ok(Caller {
            number,
            queue: 1 + number % 3,
            round: 0,
            file: 0,
            fh: 0,
            nlookup: 0,
            log: open(guest, &log)?,
            logged: Vec::new(),
        })
    };
    (0..CALLERS).map(caller).collect()
}

/// All callers' requests of one kind at a time, and deaths whenever some of them are answered.
fn mix(device: &Device, guest: &mut Guest, all: &mut [Caller], wanted: u64) -> Result<u64> {
    let mut random = Random(7);
    let (mut deaths, mut checks) = (0, 0);
    while deaths < wanted {
        let mut directories = Vec::new();
        for step in STEPS {
            let mut waiting = HashMap::new();
            for caller in all.iter() {
                waiting.insert(caller.number, caller.send(guest, step)?);
            }
            // None where nothing is killed.
            let mut dies_at = (random.below(2) == 0).then(|| random.below(CALLERS + 1));
            let answered = |waiting: &HashMap<usize, Token>| CALLERS - waiting.len();
            wait_until("the answers", SOON, || {
                for caller in all.iter_mut() {
                    if dies_at.is_some_and(|at| answered(&waiting) >= at) {
                        dies_at = None;
                        deaths += 1;
                        kill_server(device)?;
                    }
                    let Some(token) = waiting.get(&caller.number).copied() else {
                        continue;
                    };
                    if let Some(answer) = guest.poll(token)? {
                        waiting.remove(&caller.number);
                        checks += 1;
                        let directory = caller.check(step, &answer).with_context(|| {
                            format!(
                                "{step:?} of caller {} round {}",
                                caller.number, caller.round
                            )
                        })?;
                        directories.extend(directory);
                    }
                }
                Ok(waiting.is_empty())
            })
            .with_context(|| format!("{step:?}: {waiting:?}"))?;
        }
        forget_all(guest, &directories)?;
        all.iter_mut().for_each(|caller| caller.round += 1);
    }
    Ok(checks)
}

#[test]
fn server_killed_at_any_moment_is_noticed_by_no_guest() -> Outcome {
    case(|| {
        for options in [&["--locks=host"][..], &["--locks=host", "--sandbox=none"]] {
            let (device, mut guest) = connected(options)?;
            let mut all = callers(&mut guest, &device)?;
            let wanted = number(ROUNDS, DEATHS)?;
            let checks = mix(&device, &mut guest, &mut all, wanted)
                .with_context(|| format!("{options:?}\n{}", device.log()))?;
            eprintln!("{options:?}: {wanted} deaths, {checks} checks");
            for caller in &all {
                let log = std::fs::read(device.shared(&format!("log-{}", caller.number)))?;
                ensure!(log == caller.logged, "log {} is another", caller.number);
            }
            let left = std::fs::read_dir(device.shared(""))?.count();
            equal("files", left, CALLERS)?;
            // The root and the logs; a death between two stores leaves a lookup.
            let status = status(&device)?;
            eprintln!("{} inodes, {} handles", status["inodes"], status["handles"]);
            equal("handles", status["handles"].as_u64(), Some(CALLERS as u64))?;
            let inodes = status["inodes"].as_u64().context("no inodes")?;
            ensure!(
                inodes <= 1 + CALLERS as u64 + wanted / 20,
                "{inodes} inodes"
            );
            ensure!(
                status["deaths"].as_u64() >= Some(wanted),
                "{}",
                status["deaths"]
            );
        }
        Ok(())
    })
}

/// Appends once by a server that dies of `faults`. Returns what is in the file.
fn append(faults: &[&str]) -> Result<Vec<u8>> {
    let (device, mut guest) = connected(faults)?;
    std::fs::write(device.shared("f"), "")?;
    let (nodeid, fh) = open(&mut guest, "f")?;
    let arg = WriteIn {
        fh,
        size: 4,
        flags: (libc::O_WRONLY | libc::O_APPEND).cast_unsigned(),
        ..WriteIn::default()
    };
    let answer = guest.call(2, Opcode::Write, nodeid, &[arg.as_bytes(), b"once"], 8)?;
    equal("written", answer.value::<WriteOut>()?.size, 4)?;
    equal("deaths", status(&device)?["deaths"].as_u64(), Some(1))?;
    Ok(std::fs::read(device.shared("f"))?)
}

#[test]
fn append_whose_server_dies_before_the_answer_is_done_once() -> Outcome {
    case(|| {
        equal(
            "the file",
            append(&["--fault=write:kill"])?,
            b"once".to_vec(),
        )
    })
}

/// The control.
#[test]
fn append_whose_server_dies_before_the_answer_is_done_twice_without_the_journal() -> Outcome {
    case(|| {
        let twice = append(&["--fault=write:kill", "--fault=journal:off"])?;
        equal("the file", twice, b"onceonce".to_vec())
    })
}

#[test]
fn requests_whose_server_dies_before_the_answer_succeed() -> Outcome {
    case(|| {
        for (fault, step) in [
            ("make", Step::Create),
            ("link", Step::Link),
            ("rename", Step::Rename),
            ("make:nth=2", Step::Mkdir),
            ("remove", Step::Rmdir),
            ("remove:nth=2", Step::UnlinkLink),
            ("remove:nth=3", Step::Unlink),
        ] {
            let fault = format!("--fault={fault}:kill");
            let (device, mut guest) = connected(&["--locks=host", &fault])?;
            let mut caller = callers(&mut guest, &device)?.swap_remove(1);
            for step in STEPS {
                let token = caller.send(&mut guest, step)?;
                let answer = guest.wait(token)?;
                caller
                    .check(step, &answer)
                    .with_context(|| format!("{fault}: {step:?}\n{}", device.log()))?;
            }
            equal(
                format!("{step:?}"),
                status(&device)?["deaths"].as_u64(),
                Some(1),
            )?;
        }
        Ok(())
    })
}

#[test]
fn set_up_after_a_death_goes_on_where_it_was() -> Outcome {
    case(|| {
        let (device, mut guest) = connected(&["--tag=shared"])?;
        std::fs::write(device.shared("f"), "content")?;
        let opened = open(&mut guest, "f")?;
        for round in 0..4_u64 {
            kill_server(&device)?;
            let more = guest.add_memory((1 << 40) + (round << 30))?;
            kill_server(&device)?;
            let flags = VhostUserConfigFlags::empty();
            let (_, config) = guest.frontend().get_config(0, 6, flags, &[0; 6])?;
            equal("the tag", config, b"shared".to_vec())?;
            kill_server(&device)?;
            let base = guest.stop_queue(2)?;
            kill_server(&device)?;
            equal("the base again", guest.frontend().get_vring_base(2)?, base)?;
            guest.start_queue(2, 64)?;
            kill_server(&device)?;
            guest.remove_memory(&more)?;
            ensure!(guest.frontend().get_features()? != 0, "no features");
            for queue in 1..4 {
                let arg = ReadIn {
                    fh: opened.1,
                    size: 7,
                    ..ReadIn::default()
                };
                let answer = guest.call(queue, Opcode::Read, opened.0, &[arg.as_bytes()], 7)?;
                equal("the content", answer.data, b"content".to_vec())?;
            }
        }
        equal("deaths", status(&device)?["deaths"].as_u64(), Some(20))
    })
}

/// A message of which the server has seen a part, or all, when it dies.
#[test]
fn message_in_two_parts_with_a_death_between_is_answered_once() -> Outcome {
    case(|| {
        let device = device(&["--tag=shared"])?;
        let mut front = UnixStream::connect(device.socket())?;
        front.set_read_timeout(Some(SOON))?;
        let message = |request: u32, body: &[u8]| {
            let words = [request, 1, body.len() as u32];
            let header: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            [header, body.to_vec()].concat()
        };
        let mut ask = |request: u32, cut: usize| -> Result<u64> {
            let bytes = message(request, &[]);
            front.write_all(&bytes[..cut])?;
            kill_server(&device)?;
            front.write_all(&bytes[cut..])?;
            kill_server(&device)?;
            let mut reply = [0; 20];
            front.read_exact(&mut reply)?;
            equal(
                "reply",
                u32::from_ne_bytes(*reply.first_chunk().context("a request")?),
                request,
            )?;
            Ok(u64::from_ne_bytes(*reply.last_chunk().context("a value")?))
        };
        for cut in [0, 1, 4, 11, 12] {
            let features = ask(1, cut)?;
            ensure!(features & 1 << 32 != 0, "features {features:#x}");
            let protocol = ask(15, cut)?;
            ensure!(protocol & 1 != 0, "protocol features {protocol:#x}");
        }
        front.set_read_timeout(Some(Duration::from_millis(1)))?;
        ensure!(front.read(&mut [0]).is_err(), "a second reply");
        Ok(())
    })
}

#[test]
fn sessions_one_after_another_leave_nothing_to_each_other() -> Outcome {
    case(|| {
        let (device, mut guest) = connected(&["--keep"])?;
        std::fs::write(device.shared("f"), "content")?;
        let left = |what: &str| -> Outcome {
            let status = status(&device)?;
            let now = (status["inodes"].as_u64(), status["handles"].as_u64());
            equal(what, now, (Some(1), Some(0)))
        };
        for round in 0..3 {
            open(&mut guest, "f")?;
            kill_server(&device)?;
            // The guest has rebooted, or mounted anew.
            guest.init()?;
            left("another INIT")?;
            open(&mut guest, "f")?;
            let destroyed = guest.call(1, Opcode::Destroy, 0, &[], 0)?;
            done(&destroyed)?;
            guest.init()?;
            left("INIT after DESTROY")?;
            open(&mut guest, "f")?;
            drop(guest);
            guest = device.connect(three_queues())?;
            guest.init()?;
            left(&format!("another front end, round {round}"))?;
        }
        equal("deaths", status(&device)?["deaths"].as_u64(), Some(3))
    })
}

#[test]
fn end_is_as_without_deaths() -> Outcome {
    case(|| {
        let (mut device, guest) = connected(&[])?;
        kill_server(&device)?;
        device.signal(Signal::SIGTERM)?;
        device.ends_well()?;
        drop(guest);
        let (mut device, guest) = connected(&[])?;
        kill_server(&device)?;
        drop(guest);
        device.ends_well()?;
        let mut device = Device::new(&["--survive=always", "--survive-deaths=1"])?;
        let mut guest = device.connect(Options::default())?;
        guest.init()?;
        kill_server(&device)?;
        kill(server(&device)?, Signal::SIGKILL)?;
        ensure!(!device.wait()?.success(), "too many deaths are no failure");
        let log = device.log();
        ensure!(log.contains("more than --survive-deaths"), "{log}");
        Ok(())
    })
}

#[test]
fn request_that_two_servers_died_of_fails_and_others_succeed() -> Outcome {
    case(|| {
        let (device, mut guest) = connected(&["--fault=write:abort"])?;
        std::fs::write(device.shared("f"), "content")?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let arg = write_in(fh, 0, 1);
        let answer = guest.call(1, Opcode::Write, nodeid, &[arg.as_bytes(), b"C"], 8)?;
        equal("the error", answer.error, libc::EIO)?;
        device.log_with("two servers died of it")?;
        equal(
            "the rest",
            read(&mut guest, (nodeid, fh), 1, 7)?.data,
            b"ontent".to_vec(),
        )?;
        equal("deaths", status(&device)?["deaths"].as_u64(), Some(2))
    })
}
