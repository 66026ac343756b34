//! A session: all remaining runs of a plan, then the reports.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use xtests::support::interrupt::{Interrupt, Interrupted};
use xtests::support::skip::Missing;

use super::backing_dir::{BackingDir, in_directory};
use super::configs::{self, Config, Kind};
use super::jobs::{self, Job};
use super::one_run::Bench;
use super::plan::{Size, Step, steps};
use super::record::{Backing, Configuration, Document, Run, Skipped};
use super::state::{Plan, State};
use super::{machine, reports, server, sets};

pub(super) struct Session {
    plan: Plan,
    state: State,
    jobs: Vec<Job>,
    configs: Vec<Config>,
    document: Document,
}

impl Session {
    /// Provides what the plan needs beside fio, which has these `engines`; what is unavailable is
    /// left out and named.
    pub(super) fn new(
        plan: Plan,
        state: State,
        runs: Vec<Run>,
        engines: &[String],
    ) -> Result<Self> {
        let mut skipped = Vec::new();
        let all = jobs::load(&jobs::directory())?;
        let (jobs, without): (Vec<Job>, Vec<Job>) = sets::select(&all, &plan.jobs, &[])?
            .into_iter()
            .partition(|job| engines.contains(&job.engine));
        skipped.extend(without.into_iter().map(|job| Skipped {
            why: format!("this fio lacks the engine {}", job.engine),
            what: job.name,
        }));
        let configs = configs::parse(&plan.configs, &plan.binaries, &plan.against)?;
        let configs = available(configs, &mut skipped);
        for Skipped { what, why } in &skipped {
            eprintln!("skipped {what}: {why}");
        }
        ensure!(
            !jobs.is_empty() && !configs.is_empty(),
            "nothing is left to run"
        );
        let columns = configs.iter().map(|config| Configuration {
            name: config.name.clone(),
            command: None,
            version: server::version(config),
            baseline: None,
        });
        let mut document = Document {
            format: Document::format(),
            started: plan.started.clone(),
            finished: String::new(),
            incomplete: true,
            rounds: plan.rounds,
            runtime_seconds: plan.runtime_seconds,
            cold: plan.cold,
            baseline: plan.baseline.clone(),
            machine: machine::describe()?,
            backings: Vec::new(),
            configs: columns.collect(),
            jobs: jobs.clone(),
            skipped,
            runs,
            system_calls: Vec::new(),
        };
        // Of a session that is resumed: runs alone know these, and those that are done are not done again.
        if let Ok(before) = Document::read(&state.dir.join("report.json")) {
            document.take_from(before);
        }
        Ok(Self {
            plan,
            state,
            jobs,
            configs,
            document,
        })
    }

    /// Runs the rest of the plan, until the end or an interrupt.
    pub(super) fn run(&mut self, interrupt: &Interrupt) -> Result<()> {
        let backings = BackingDir::all(&self.plan.backings)?;
        let names = backings.iter().map(|backing| backing.name.clone());
        self.document.backings = names.map(|name| Backing { name }).collect();
        let work = in_directory(&std::env::temp_dir(), "xtests-fio-")?;
        let mut bench = Bench {
            runtime_seconds: self.plan.runtime_seconds,
            cold: self.plan.cold,
            interrupt,
            work: work.path(),
            laid_out: HashSet::new(),
        };
        let left = self.left(&backings);
        let progress = Progress::new(left.len());
        for step in &left {
            let backing = &backings[step.backing];
            progress.begin(self, backing, step);
            let Some(run) = self.step(&mut bench, backing, step)? else {
                break;
            };
            self.state.append(&run)?;
            self.document.runs.push(run);
            progress.end(self);
        }
        progress.bar.finish_and_clear();
        self.document.incomplete = !self.left(&backings).is_empty();
        Ok(())
    }

    /// The steps that have no run yet.
    fn left(&self, backings: &[BackingDir]) -> Vec<Step> {
        let size = Size {
            rounds: self.plan.rounds,
            backings: backings.len(),
            jobs: self.jobs.len(),
            configs: self.configs.len(),
        };
        let done: HashSet<(usize, &str, &str, &str)> = self
            .document
            .runs
            .iter()
            .map(|run| (run.round, &*run.backing, &*run.job, &*run.config))
            .collect();
        let mut steps = steps(size);
        steps.retain(|step| {
            let (job, config) = (&self.jobs[step.job], &self.configs[step.config]);
            let backing = &backings[step.backing];
            !done.contains(&(step.round, &*backing.name, &*job.name, &*config.name))
        });
        steps
    }

    /// One run; none if it was interrupted.
    fn step(
        &mut self,
        bench: &mut Bench<'_>,
        backing: &BackingDir,
        step: &Step,
    ) -> Result<Option<Run>> {
        if bench.interrupt.is_set() {
            return Ok(None);
        }
        let (job, config) = (&self.jobs[step.job], &self.configs[step.config]);
        let mut run = Run {
            round: step.round,
            position: step.position,
            backing: backing.name.clone(),
            job: job.name.clone(),
            config: config.name.clone(),
            command: String::new(),
            error: None,
            measured: None,
        };
        match bench.run(backing, job, config) {
            Ok(done) => {
                run.command = done.fio;
                run.measured = Some(done.measured);
                self.document.machine.fio = done.fio_version;
                if done.server.is_some() {
                    self.document.configs[step.config].command = done.server;
                }
            }
            Err(error) if error.is::<Interrupted>() || bench.interrupt.is_set() => {
                return Ok(None);
            }
            Err(error) => run.error = Some(format!("{error:#}")),
        }
        Ok(Some(run))
    }

    /// Writes and prints the result; fails if a run failed.
    pub(super) fn write_reports(self) -> Result<ExitCode> {
        let dir = self.state.dir.display();
        let remedy = format!("not complete: `xtests fio --resume {dir}` goes on\n");
        reports::write(self.document, &self.state.dir, &remedy)
    }
}

/// The configurations that are available.
fn available(mut configs: Vec<Config>, skipped: &mut Vec<Skipped>) -> Vec<Config> {
    configs.retain(|config| match provide(config) {
        Ok(()) => true,
        Err(error) => {
            skipped.push(Skipped {
                what: config.name.clone(),
                why: format!("{error:#}"),
            });
            false
        }
    });
    configs
}

/// Whether the configuration is available; building a peer is part of the check.
fn provide(config: &Config) -> Result<()> {
    match &config.kind {
        Kind::Native | Kind::Thrufs { .. } | Kind::Against(_) | Kind::Counted(_) => Ok(()),
        Kind::Peer(kind) => match kind.provide() {
            Ok(_) => Ok(()),
            Err(error) if error.is::<Missing>() => Err(error),
            Err(error) => Err(error.context("it does not build")),
        },
    }
}

/// A bar with the time left; plain lines without a terminal.
struct Progress {
    bar: ProgressBar,
    start: Instant,
    total: usize,
}

impl Progress {
    fn new(total: usize) -> Self {
        let style = "{bar:30} {pos}/{len}, {eta} left  {msg}";
        let style = ProgressStyle::with_template(style).expect("a constant template is right");
        let bar = ProgressBar::new(total as u64).with_style(style);
        Self {
            bar,
            start: Instant::now(),
            total,
        }
    }

    fn begin(&self, session: &Session, backing: &BackingDir, step: &Step) {
        let (job, config) = (&session.jobs[step.job], &session.configs[step.config]);
        self.bar.set_message(format!(
            "round {}: {} on {} by {}",
            step.round + 1,
            job.name,
            backing.name,
            config.name
        ));
        // Drawn once for each run: a ticking bar would use the CPU during it.
        self.bar.tick();
    }

    fn end(&self, session: &Session) {
        self.bar.inc(1);
        let Some(run) = session.document.runs.last() else {
            return;
        };
        if let Some(error) = &run.error {
            let name = format!("{} on {} by {}", run.job, run.backing, run.config);
            self.bar.suspend(|| eprintln!("{name}: {error}"));
        }
        if std::io::stderr().is_terminal() {
            return;
        }
        let done = self.bar.position().max(1);
        let per_run = self.start.elapsed().div_f64(done as f64);
        let left = per_run * u32::try_from(self.total as u64 - done).unwrap_or(u32::MAX);
        let job = session.jobs.iter().find(|job| job.name == run.job);
        let result = match (&run.measured, job) {
            (Some(m), Some(job)) => format!("{:.0} {}", m.figure(job.figure), job.figure.unit()),
            _ => "failed".to_owned(),
        };
        let minutes = left.as_secs_f64() / Duration::from_secs(60).as_secs_f64();
        eprintln!(
            "{done}/{}, {minutes:.1} min left: round {} {} {} {}: {result}",
            self.total,
            run.round + 1,
            run.backing,
            run.job,
            run.config
        );
    }
}
