//! A session whose runs are made in guests: the same jobs on several kernels, by several servers.
//!
//! A configuration is KERNEL/SERVER, and its ratios are to the same server on the baseline's
//! kernel. The caller boots ([`Boot`]); here are the tasks of each guest, the collection of the
//! answers, and, in the guest, the run itself ([`measure`]).
//!
//! Invariants: a round boots every kernel once and gives it the same tasks, in a random order; the
//! baseline's kernel boots twice, so that every table shows how far equal kernels differ; and the
//! load of a run is the host's during the whole boot, since a guest does not see it.

mod order;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use xtests::support::install;
use xtests::support::interrupt::Interrupt;
use xtests::support::random::Random;

use super::backing_dir::{BackingDir, in_directory};
use super::configs::{self, Config, Kind};
use super::jobs::{self, Files, Job};
use super::load::{Load, Snapshot};
use super::one_run::{Bench, Done};
use super::record::{Backing, Configuration, Document, Run};
use super::{machine, names, program, reports, server, sets};

pub(crate) use order::Task;
use order::{Guest, guests};

/// The peer that serves a virtiofs device, a process of the host's.
pub(crate) const VIRTIOFSD: &str = "virtiofsd";
/// `thrufs device`, likewise; with `-qN` for N request queues. Every other server is a mode of thrufs in the guest.
pub(crate) const THRUFS_DEVICE: &str = "thrufs-device";

/// Whether the server is a process of the host's, which serves a virtiofs device.
pub(crate) fn serves_device(server: &str) -> bool {
    server == VIRTIOFSD
        || server
            .strip_prefix(THRUFS_DEVICE)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}
/// The backing of the guest's own files, too.
const TMPFS: &str = "tmpfs";

/// What to measure.
pub(crate) struct Wanted<'a> {
    pub(crate) jobs: &'a [String],
    /// Their names in the report.
    pub(crate) kernels: &'a [String],
    pub(crate) servers: &'a [String],
    /// What a virtiofs device has: tmpfs, or a directory on a disk.
    pub(crate) backings: &'a [String],
    pub(crate) rounds: usize,
    pub(crate) runtime_seconds: u32,
    /// A kernel, for each server by itself, or KERNEL/SERVER for all; the first kernel if none.
    pub(crate) baseline: Option<&'a str>,
    pub(crate) out: Option<&'a Path>,
}

/// Facts about the configurations that are known once everything is built.
pub(crate) struct Built {
    /// The kernels' sources, in their order.
    pub(crate) sources: Vec<String>,
    pub(crate) devices: Vec<DeviceServer>,
}

/// The server of a virtiofs device.
pub(crate) struct DeviceServer {
    /// As in the list of servers.
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) version: String,
}

/// One guest.
pub(crate) struct Boot<'a> {
    /// The kernel's index in the list.
    pub(crate) kernel: usize,
    /// What a virtiofs device has.
    pub(crate) source: &'a Path,
    pub(crate) tasks: &'a [Task],
    /// Set to stop the guest.
    pub(crate) stop: Arc<AtomicBool>,
}

/// The line of [`measure`] in the guest, or why there is none.
pub(crate) type Answer = std::result::Result<String, String>;

pub(crate) struct Session {
    jobs: Vec<Job>,
    /// Their names in the report; the last one is the baseline again.
    kernels: Vec<String>,
    /// The index in the list of the baseline's kernel.
    baseline: usize,
    /// The server that all are compared with; each with itself if none.
    compared_with: Option<String>,
    servers: Vec<String>,
    backings: Vec<String>,
    dir: PathBuf,
    document: Document,
}

impl Session {
    /// Checks the request, and that fio is there.
    pub(crate) fn new(wanted: &Wanted<'_>) -> Result<Self> {
        let engines = program::provide()?;
        let all = jobs::load(&jobs::directory())?;
        let jobs = sets::select(&all, wanted.jobs, &[])?;
        if let Some(job) = jobs.iter().find(|job| !engines.contains(&job.engine)) {
            anyhow::bail!("{}: this fio lacks the engine {}", job.name, job.engine);
        }
        check_servers(wanted)?;
        let (at, baseline, compared_with) = baseline(wanted)?;
        let started = machine::now()?;
        let dir = match wanted.out {
            Some(dir) => dir.to_owned(),
            None => {
                let name = format!("guests-{}", started.replace(':', ""));
                install::target().join("fio").join(name)
            }
        };
        let report = dir.join("report.json");
        ensure!(
            !report.exists(),
            "{} is there already: name another directory with --out",
            report.display()
        );
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let document = Document {
            format: Document::format(),
            started,
            finished: String::new(),
            incomplete: true,
            rounds: wanted.rounds,
            runtime_seconds: wanted.runtime_seconds,
            cold: false,
            baseline: format!(
                "{baseline}/{}",
                compared_with.as_deref().unwrap_or("SERVER")
            ),
            machine: machine::describe()?,
            backings: Vec::new(),
            configs: Vec::new(),
            jobs: jobs.clone(),
            skipped: Vec::new(),
            runs: Vec::new(),
            system_calls: Vec::new(),
        };
        let mut kernels = wanted.kernels.to_vec();
        kernels.push(format!("{baseline}-again"));
        Ok(Self {
            jobs,
            kernels,
            baseline: at,
            compared_with,
            servers: wanted.servers.to_vec(),
            backings: wanted.backings.to_vec(),
            dir,
            document,
        })
    }

    /// Lets `boot` boot all guests; it answers each task in its order.
    pub(crate) fn run(
        &mut self,
        built: &Built,
        mut boot: impl FnMut(&Boot<'_>) -> Result<Vec<Answer>>,
    ) -> Result<()> {
        self.describe(built)?;
        let backings = BackingDir::all(&self.backings)?;
        let names = backings.iter().map(|backing| backing.name.clone());
        self.document.backings = names.map(|name| Backing { name }).collect();
        let work = in_directory(&std::env::temp_dir(), "xtests-fio-")?;
        // Not before everything is built: an interrupt ends building at once.
        let interrupt = Interrupt::watch()?;
        // The host lays out the files that the guests would otherwise lay out, and runs nothing.
        let mut bench = Bench {
            runtime_seconds: self.document.runtime_seconds,
            cold: false,
            interrupt: &interrupt,
            work: work.path(),
            laid_out: HashSet::new(),
        };
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        // Not 0; the report has the drawn order, as the place of each run.
        let seed = clock.map_or(1, |now| now.as_nanos() as u64 | 1);
        let rounds = self.rounds(&backings, &mut Random(seed));
        let all = rounds.len();
        for (at, guest) in rounds.iter().enumerate() {
            if interrupt.is_set() {
                return Ok(());
            }
            let backing = &backings[guest.backing];
            let shared = self.jobs.iter().filter(|job| job.files == Files::Shared);
            for job in shared {
                bench.prepare(backing.source(), job)?;
            }
            let before = Snapshot::take(None)?;
            let answers = boot(&Boot {
                kernel: self.built(guest.kernel),
                source: backing.source(),
                tasks: &guest.tasks,
                stop: interrupt.flag(),
            });
            if interrupt.is_set() {
                // A guest that was stopped has no result.
                return Ok(());
            }
            let load = before.until(&Snapshot::take(None)?);
            eprintln!(
                "{}/{all}: round {} on {} by {}: other load {:.0}% of one CPU",
                at + 1,
                guest.round + 1,
                backing.name,
                self.kernels[guest.kernel],
                load.other() * 100.0
            );
            self.keep(guest, &backing.name, answers, &load);
        }
        self.document.incomplete = false;
        Ok(())
    }

    /// Writes and prints the result; fails if a run failed.
    pub(crate) fn write_reports(self) -> Result<ExitCode> {
        let remedy = "not complete: there are fewer rounds of some than of others\n";
        reports::write(self.document, &self.dir, remedy)
    }

    /// The configurations, server by server, so that compared ones stand side by side.
    fn describe(&mut self, built: &Built) -> Result<()> {
        let machine = &mut self.document.machine;
        machine.kernel = format!("{}, guests of User Mode Linux on it", machine.kernel);
        let baseline = &self.kernels[self.baseline];
        for server in &self.servers {
            let device = built.devices.iter().find(|device| device.name == *server);
            let (command, version) = match device {
                Some(device) => (Some(device.command.clone()), Some(device.version.clone())),
                None => (None, server::version(&thrufs(server)?)),
            };
            let compared_with = self.compared_with.as_ref().unwrap_or(server);
            for (at, kernel) in self.kernels.iter().enumerate() {
                let source = &built.sources[self.built(at)];
                let words = version.iter().chain([source]).map(String::as_str);
                self.document.configs.push(Configuration {
                    name: format!("{kernel}/{server}"),
                    command: command.clone(),
                    version: Some(words.collect::<Vec<_>>().join(" on ")),
                    baseline: Some(format!("{baseline}/{compared_with}")),
                });
            }
        }
        Ok(())
    }

    /// The built kernel of this index.
    fn built(&self, kernel: usize) -> usize {
        if kernel + 1 == self.kernels.len() {
            self.baseline
        } else {
            kernel
        }
    }

    fn rounds(&self, backings: &[BackingDir], random: &mut Random) -> Vec<Guest> {
        let is_tmpfs: Vec<bool> = backings
            .iter()
            .map(|backing| backing.name == TMPFS)
            .collect();
        let jobs: Vec<&str> = self.jobs.iter().map(|job| job.name.as_str()).collect();
        let rounds = self.document.rounds;
        let kernels = self.kernels.len();
        guests(rounds, &is_tmpfs, kernels, &jobs, &self.servers, random)
    }

    /// The runs of one guest.
    fn keep(&mut self, guest: &Guest, backing: &str, answers: Result<Vec<Answer>>, load: &Load) {
        let mut answers = match answers {
            Ok(answers) => answers.into_iter(),
            Err(error) => vec![Err(format!("{error:#}")); guest.tasks.len()].into_iter(),
        };
        for task in &guest.tasks {
            let answer = answers.next();
            let answer = answer.unwrap_or_else(|| Err("the guest was not asked".to_owned()));
            let config = format!("{}/{}", self.kernels[guest.kernel], task.server);
            let mut run = Run {
                round: guest.round,
                position: task.position,
                backing: backing.to_owned(),
                job: task.job.clone(),
                config,
                command: String::new(),
                error: None,
                measured: None,
            };
            match answer.and_then(|line| parse(&line)) {
                Ok(done) => self.take(&mut run, done, load),
                Err(error) => {
                    eprintln!("{} by {}: {error}", run.job, run.config);
                    run.error = Some(error);
                }
            }
            self.document.runs.push(run);
        }
    }

    fn take(&mut self, run: &mut Run, done: Done, load: &Load) {
        let mut measured = done.measured;
        let part = measured.load.wall_seconds / load.wall_seconds.max(f64::MIN_POSITIVE);
        measured.load.other_seconds = load.other_seconds * part;
        measured.load.stolen_seconds = load.stolen_seconds * part;
        run.command = done.fio;
        run.measured = Some(measured);
        self.document.machine.fio = done.fio_version;
        let mut configs = self.document.configs.iter_mut();
        let config = configs.find(|config| config.name == run.config);
        if let (Some(config), Some(server)) = (config, done.server) {
            config.command = Some(server);
        }
    }
}

fn parse(line: &str) -> std::result::Result<Done, String> {
    serde_json::from_str(line).map_err(|error| format!("the guest said {line:?}: {error}"))
}

/// A mode of thrufs by its name.
fn thrufs(name: &str) -> Result<Config> {
    let mut found = configs::parse(&[name.to_owned()], &[], &[])?;
    let config = found.remove(0);
    ensure!(
        matches!(config.kind, Kind::Thrufs { .. }),
        "{name} is not measured in a guest: a server is {VIRTIOFSD}, {THRUFS_DEVICE}, or thrufs with suffixes \
         as in `xtests fio --list`"
    );
    Ok(config)
}

fn check_servers(wanted: &Wanted<'_>) -> Result<()> {
    for (what, words) in [("server", wanted.servers), ("kernel", wanted.kernels)] {
        ensure!(!words.is_empty(), "no {what} is named");
        for (at, word) in words.iter().enumerate() {
            let twice = words[..at].contains(word);
            ensure!(!twice, "the {what} {word} stands in the list twice");
        }
    }
    for server in wanted.servers.iter().filter(|name| !serves_device(name)) {
        thrufs(server)?;
    }
    let is_there = wanted.servers.iter().any(|server| serves_device(server));
    let disk = wanted.backings.iter().find(|backing| *backing != TMPFS);
    match disk {
        Some(disk) if !is_there => anyhow::bail!(
            "--backing {disk} is for {VIRTIOFSD} and {THRUFS_DEVICE}, neither of which is among the servers: thrufs \
             has the guest's tmpfs"
        ),
        _ => Ok(()),
    }
}

/// The kernel that ratios are to, with its index, and the server if it is one for all.
fn baseline(wanted: &Wanted<'_>) -> Result<(usize, String, Option<String>)> {
    let kernels = wanted.kernels.iter().map(String::as_str);
    let Some(typed) = wanted.baseline else {
        return Ok((0, wanted.kernels[0].clone(), None));
    };
    // A kernel of another base than the rest has a slash in its name, too.
    let (kernel, server) = match typed.rsplit_once('/') {
        Some((kernel, server)) if wanted.servers.iter().any(|one| one == server) => {
            (kernel, Some(server.to_owned()))
        }
        _no_server => (typed, None),
    };
    if let Some(at) = kernels.clone().position(|one| one == kernel) {
        return Ok((at, kernel.to_owned(), server));
    }
    let remedy = "--baseline is one of --variant, or KERNEL/SERVER";
    Err(names::unknown("kernel", typed, kernels, remedy))
}

/// Where the job works, in a guest.
pub(crate) enum On<'a> {
    /// The virtiofs device of this server, mounted here.
    Virtiofs(&'a str, &'a Path),
    /// A mount of this mode of thrufs over a tmpfs.
    Thrufs(&'a str),
}

/// Measures, and prints the result in one line; in a guest.
pub(crate) fn measure(job: &str, on: &On<'_>, runtime_seconds: u32) -> Result<String> {
    let all = jobs::load(&jobs::directory())?;
    let jobs = sets::select(&all, &[job.to_owned()], &[])?;
    ensure!(jobs.len() == 1, "{job} is {} jobs", jobs.len());
    let config = match on {
        On::Thrufs(name) => thrufs(name)?,
        On::Virtiofs(server, dir) => Config {
            name: (*server).to_owned(),
            kind: Kind::Counted((*dir).to_owned()),
        },
    };
    let backing = BackingDir::new(TMPFS)?;
    let work = in_directory(&std::env::temp_dir(), "xtests-fio-")?;
    let mut bench = Bench {
        runtime_seconds,
        cold: false,
        interrupt: &Interrupt::default(),
        work: work.path(),
        laid_out: HashSet::new(),
    };
    let done = bench.run(&backing, &jobs[0], &config)?;
    serde_json::to_string(&done).context("writing the result down")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn checked(
        servers: &[&str],
        backing: &str,
        baseline_is: Option<&str>,
    ) -> Result<(usize, String, Option<String>)> {
        let (servers, kernels) = (words(servers), words(&["stock", "patched"]));
        let wanted = Wanted {
            jobs: &[],
            kernels: &kernels,
            servers: &servers,
            backings: &words(&[backing]),
            rounds: 1,
            runtime_seconds: 1,
            baseline: baseline_is,
            out: None,
        };
        check_servers(&wanted)?;
        baseline(&wanted)
    }

    #[test]
    fn baseline_is_the_first_kernel_or_the_one_that_is_typed() {
        let servers = &["virtiofsd", "thrufs-one-page"];
        let first = checked(servers, "tmpfs", None).expect("good");
        assert_eq!(first, (0, "stock".to_owned(), None));
        let typed = checked(servers, "tmpfs", Some("patched")).expect("good");
        assert_eq!(typed, (1, "patched".to_owned(), None));
        let of_all = checked(servers, "tmpfs", Some("patched/virtiofsd")).expect("good");
        assert_eq!(
            of_all,
            (1, "patched".to_owned(), Some("virtiofsd".to_owned()))
        );
        let error = checked(servers, "tmpfs", Some("patchd")).expect_err("misspelt");
        assert!(
            error.to_string().contains("did you mean patched"),
            "{error}"
        );
    }

    #[test]
    fn server_that_no_guest_has_is_refused() {
        for name in ["native", "bindfs", "virtiofs", "thrufs-devices"] {
            assert!(checked(&[name], "tmpfs", None).is_err(), "{name}");
        }
        assert!(checked(&["thrufs", "thrufs"], "tmpfs", None).is_err());
    }

    #[test]
    fn backing_on_a_disk_without_virtiofsd_is_refused() {
        let error = checked(&["thrufs"], "/var/tmp", None).expect_err("no server for it");
        assert!(error.to_string().contains("--backing /var/tmp"), "{error}");
        assert!(checked(&["thrufs", "virtiofsd"], "/var/tmp", None).is_ok());
        assert!(checked(&["thrufs-device-q2"], "/var/tmp", None).is_ok());
    }

    #[test]
    fn parse_of_what_is_no_result_shows_it() {
        let error = parse("Kernel panic").err().expect("no JSON");
        assert!(error.contains("Kernel panic"), "{error}");
    }
}
