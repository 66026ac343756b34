//! `xtests fio device`: `thrufs device` and virtiofsd under load by a front end that plays the guest, side by side,
//! without a virtual machine.
//!
//! Invariant: as for fio ([`super::plan`]), but that the devices live as long as the session, idle while another is
//! measured, and that within a round the order is drawn anew. The first of thrufs's columns comes twice, which shows
//! the machine's noise.
//!
//! Why not fio in a guest alone: a virtual machine has noise of its own, which hides what a request costs the device.

mod cell;
mod client;
mod configs;
mod costs;
mod lane;
mod place;
mod slot;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtests::support::call_counts::Trace;
use xtests::support::guest::Device;
use xtests::support::install;
use xtests::support::interrupt::Interrupt;
use xtests::support::random::Random;

use super::backing_dir::BackingDir;
use super::configs::Binary;
use super::jobs::Figure;
use super::load::Snapshot;
use super::output::{Moved, Traffic};
use super::record::{Backing, Configuration, Document, Machine, Measured, Run, SystemCalls};
use super::{machine, reports};
use cell::{Cell, FILE, FILE_SIZE, NAMES, name};
use client::{Client, Done};
use configs::Config;
use place::Place;

/// Operations while system calls are counted.
const COUNTED: Duration = Duration::from_millis(300);
const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// Arguments of `xtests fio device`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// What the guest does: WORK[:SIZE]:JOBS:DEPTH, with a WORK of read, write, randread, randwrite, lookup, getattr,
    /// open or create
    #[arg(value_name = "CELL", value_delimiter = ',', default_value = cell::DEFAULT)]
    cells: Vec<Cell>,
    /// What to compare: thrufs or virtiofsd, with -qN for N request queues and -poolN for virtiofsd's threads; the first
    /// is the base
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = configs::DEFAULT)]
    configs: Vec<String>,
    /// A build of thrufs to measure instead of this checkout's; several for a before and after
    #[arg(long, value_name = "[LABEL=]PATH")]
    binary: Vec<Binary>,
    /// Where guest and device run: on the same CPU, on others, or as the scheduler likes
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "free"
    )]
    place: Vec<Place>,
    /// tmpfs, or a directory on a disk
    #[arg(long, value_name = "tmpfs|DIR", default_value = "tmpfs")]
    backing: String,
    /// How often everything is run
    #[arg(long, value_name = "NUMBER", default_value = "7")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// How long the guest works each time
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    runtime: u32,
    /// Drop the file's pages before each run (on a disk)
    #[arg(long)]
    cold: bool,
    /// Count the system calls of each device in one more run, under strace
    #[arg(long)]
    calls: bool,
    /// Where the report goes; a directory below target/fio if left out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "xtests fio device starts devices with a sandbox: run it as root (sudo)"
    );
    if args.calls {
        install::apt(&[("strace", "strace")])?;
    }
    let interrupt = Interrupt::watch()?;
    let configs = configs::parse(&args.configs, &args.binary)?;
    let started = machine::now()?;
    let dir = match &args.out {
        Some(dir) => dir.clone(),
        None => {
            let name = format!("device-{}", started.replace(':', ""));
            install::target().join("fio").join(name)
        }
    };
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let backing = BackingDir::new(&args.backing)?;
    lay_out(backing.source())?;
    let document = document(args, started, &configs, &backing.name)?;
    let mut session = Session {
        args,
        interrupt,
        servers: Vec::new(),
        backing,
        document,
    };
    for config in configs {
        let server = Server::start(config, session.backing.source())?;
        session.servers.push(server);
    }
    session.measure()?;
    if args.calls {
        session.count_calls()?;
    }
    // The devices end before their directory goes.
    drop(session.servers);
    costs::write(&session.document, &dir)?;
    reports::write(session.document, &dir, "not complete: interrupted\n")
}

/// The files that the guest works on.
fn lay_out(source: &Path) -> Result<()> {
    let file = std::fs::File::create(source.join(FILE))?;
    let mut random = Random(1);
    let block: Vec<u8> = (0..1 << 20).map(|_| random.word() as u8).collect();
    for at in 0..FILE_SIZE >> 20 {
        file.write_all_at(&block, at << 20)?;
    }
    for index in 0..NAMES {
        std::fs::write(source.join(name(index)), "content")?;
    }
    Ok(())
}

fn document(args: &Args, started: String, configs: &[Config], backing: &str) -> Result<Document> {
    let places = args.place.iter();
    let names = places.map(|place| format!("{backing}, {}", place.name()));
    let described = configs.iter().map(|config| Configuration {
        name: config.name.clone(),
        command: Some(config.line.clone()),
        version: config.version(),
        baseline: None,
    });
    Ok(Document {
        format: Document::format(),
        started,
        finished: String::new(),
        incomplete: true,
        rounds: args.rounds.into(),
        runtime_seconds: args.runtime,
        cold: args.cold,
        baseline: configs[0].name.clone(),
        machine: Machine {
            fio: "a front end plays the guest".to_owned(),
            ..machine::describe()?
        },
        backings: names.map(|name| Backing { name }).collect(),
        configs: described.collect(),
        jobs: args.cells.iter().map(Cell::job).collect(),
        skipped: Vec::new(),
        runs: Vec::new(),
        system_calls: Vec::new(),
    })
}

/// A device with its guest.
struct Server {
    config: Config,
    client: Client,
    device: Device,
}

impl Server {
    fn start(config: Config, source: &Path) -> Result<Self> {
        let device = Device::of(config.command(), source)?;
        let client = Client::connect(&device.socket(), config.queues);
        let client = client.with_context(|| format!("{}: {}", config.name, device.log()))?;
        let checked = client.check_data(&source.join(FILE));
        checked.with_context(|| config.name.clone())?;
        Ok(Self {
            config,
            client,
            device,
        })
    }

    fn pid(&self) -> Result<u32> {
        Ok(u32::try_from(self.device.pid()?.as_raw())?)
    }
}

struct Session<'a> {
    args: &'a Args,
    interrupt: Interrupt,
    servers: Vec<Server>,
    backing: BackingDir,
    document: Document,
}

impl Session<'_> {
    fn measure(&mut self) -> Result<()> {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let mut random = Random(clock.map_or(1, |now| now.as_nanos() as u64));
        for round in 0..usize::from(self.args.rounds) {
            eprintln!("round {} of {}", round + 1, self.args.rounds);
            for (place, named) in self.args.place.iter().enumerate() {
                for cell in &self.args.cells {
                    for (position, at) in shuffled(self.servers.len(), &mut random)
                        .into_iter()
                        .enumerate()
                    {
                        if self.interrupt.is_set() {
                            return Ok(());
                        }
                        let server = &self.servers[at];
                        let (measured, error) = match self.run(server, cell, *named) {
                            Ok(measured) => (Some(measured), None),
                            Err(error) => (None, Some(format!("{error:#}"))),
                        };
                        self.document.runs.push(Run {
                            round,
                            position,
                            backing: self.document.backings[place].name.clone(),
                            job: cell.name.clone(),
                            config: server.config.name.clone(),
                            command: String::new(),
                            error,
                            measured,
                        });
                    }
                }
            }
        }
        self.document.incomplete = false;
        Ok(())
    }

    fn run(&self, server: &Server, cell: &Cell, place: Place) -> Result<Measured> {
        if self.args.cold {
            drop_pages(&self.backing.source().join(FILE))?;
        }
        let pid = server.pid()?;
        place.pin_device(pid)?;
        let time = Duration::from_secs(self.args.runtime.into());
        let before = Snapshot::take(Some(pid))?;
        let cpu = place::cpu_seconds(pid)?;
        let done = server.client.run(cell, time, || place.pin_guest())?;
        let cpu = place::cpu_seconds(pid)? - cpu;
        let mut load = before.until(&Snapshot::take(Some(pid))?);
        // The other one counts ticks.
        load.daemon_seconds = Some(cpu);
        Ok(Measured {
            moved: moved(cell, &done),
            load,
            requests: None,
        })
    }

    fn count_calls(&mut self) -> Result<()> {
        for server in &self.servers {
            for cell in &self.args.cells {
                let pid = place::serving(server.pid()?)?;
                let trace = Trace::start(pid, server.device.dir())?;
                let done = server.client.run(cell, COUNTED, || Ok(()));
                let calls = trace.stop()?;
                let operations = done?.latencies.len() as f64;
                let each = calls
                    .into_iter()
                    .map(|(name, count)| (name, count as f64 / operations));
                self.document.system_calls.push(SystemCalls {
                    job: cell.name.clone(),
                    config: server.config.name.clone(),
                    calls: each.filter(|(_, each)| *each >= 0.01).collect(),
                });
            }
        }
        Ok(())
    }
}

fn moved(cell: &Cell, done: &Done) -> Moved {
    let all = &done.latencies;
    let at = |percent: f64| {
        let index = (percent / 100.0 * all.len() as f64) as usize;
        (percent, f64::from(all[index.min(all.len() - 1)]))
    };
    let (operations, bytes) = (all.len() as u64, (all.len() * cell.size()) as u64);
    let traffic = Traffic {
        bytes,
        operations,
        bytes_per_second: bytes as f64 / done.seconds,
        per_second: operations as f64 / done.seconds,
        latency: PERCENTILES.map(at).to_vec(),
    };
    let nothing = Traffic::default();
    match cell.job().figure {
        Figure::Written => Moved {
            read: nothing,
            written: traffic,
        },
        Figure::Read | Figure::Both | Figure::Operations => Moved {
            read: traffic,
            written: nothing,
        },
    }
}

fn drop_pages(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path)?;
    file.sync_data()?;
    let all = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    Ok(nix::fcntl::posix_fadvise(&file, 0, 0, all)?)
}

/// 0 to before `count`, in an order that is drawn.
fn shuffled(count: usize, random: &mut Random) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        all.swap(at, random.below(at + 1));
    }
    all
}
