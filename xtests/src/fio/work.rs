//! `xtests work`: what people do with many small files (tar, git, cp, a build) on thrufs, its peers and the
//! native directory, side by side.
//!
//! Invariant: as for fio ([`super::plan`]): within a round every configuration does each program once, right after the
//! others, on a mount of its own and on the same files, and the first configuration of thrufs comes twice, which
//! shows the machine's noise.
//!
//! Why no fio job: fio opens its files once, and what costs here is LOOKUP, OPEN, CREATE, SETATTR and their answers.

mod programs;
mod record;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use xtests::support::call_counts::Trace;
use xtests::support::command::wait_for_exit;
use xtests::support::install;
use xtests::support::stdout::print;
use xtests::support::trees;

use super::backing_dir::{BackingDir, default_backings, in_directory};
use super::configs::{self, Binary, Config};
use super::load::{Load, Snapshot};
use super::server::Server;
use super::{machine, plan};
use programs::{Program, Scene};
use record::{Counted, Run};

/// For one program on one tree.
const LIMIT: Duration = Duration::from_secs(1800);

/// Compared when `--configs` is left out.
const DEFAULT: &str = "native,thrufs,passthrough_ll,passthrough_hp-kernel-passthrough,bindfs";

/// Arguments of `xtests work`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Programs (see --list); all if left out
    #[arg(value_name = "PROGRAM")]
    programs: Vec<String>,
    /// What to compare, separated by commas (see `xtests fio --list`)
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = DEFAULT)]
    configs: Vec<String>,
    /// A build of thrufs to measure instead of this checkout's; several for a before and after
    #[arg(long, value_name = "[LABEL=]PATH")]
    binary: Vec<Binary>,
    /// tmpfs, or a directory on a disk; both tmpfs and the disk of target/ if left out
    #[arg(long, value_name = "tmpfs|DIR")]
    backing: Vec<String>,
    /// Small files in a tree
    #[arg(long, value_name = "NUMBER", default_value = "2000")]
    #[arg(value_parser = clap::value_parser!(u32).range(20..=1_000_000))]
    files: u32,
    /// How many of a program run at once, each in a directory of its own
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    at_once: u32,
    /// How often everything is run
    #[arg(long, value_name = "NUMBER", default_value = "5")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Drop all caches before each run
    #[arg(long)]
    cold: bool,
    /// Count the system calls of each server in one more run, under strace
    #[arg(long)]
    calls: bool,
    /// Where the report goes; a directory below target/work if left out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// List the programs
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        print(&programs::list())?;
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "xtests work mounts file systems: run it as root (sudo)"
    );
    let chosen = programs::select(&args.programs)?;
    install::apt(&programs::packages(&chosen))?;
    if args.calls {
        install::apt(&[("strace", "strace")])?;
    }
    let configs = with_one_again(configs::parse(&args.configs, &args.binary, &[])?);
    if std::env::var_os(xtests::support::mount::BIN).is_none() && args.binary.is_empty() {
        install::thrufs()?;
    }
    let backings = match args.backing.as_slice() {
        [] => BackingDir::all(&default_backings()?)?,
        named => BackingDir::all(named)?,
    };
    let material = Material::make(args.files)?;
    let mut session = Session {
        args,
        configs,
        material,
        runs: Vec::new(),
        calls: Vec::new(),
    };
    let started = machine::now()?;
    session.measure(&chosen, &backings)?;
    session.write(&started, &chosen, &backings)
}

/// The first of thrufs's columns once more at the end: A against A.
fn with_one_again(mut configs: Vec<Config>) -> Vec<Config> {
    if let Some(first) = configs
        .iter()
        .find(|config| config.name.starts_with("thrufs"))
    {
        let name = format!("{} again", first.name);
        let again = Config {
            name,
            ..first.clone()
        };
        configs.push(again);
    }
    configs
}

/// What programs copy in: a tree, and what is packed of it. Natively on a tmpfs, so that reading it costs the same
/// for all.
struct Material {
    dir: BackingDir,
}

impl Material {
    fn make(files: u32) -> Result<Self> {
        let dir = BackingDir::new("tmpfs")?;
        let tree = dir.source().join("tree");
        std::fs::create_dir(&tree)?;
        trees::make_plain(&tree, files as usize)?;
        programs::pack(dir.source(), files)?;
        Ok(Self { dir })
    }

    fn path(&self) -> &Path {
        self.dir.source()
    }
}

struct Session<'a> {
    args: &'a Args,
    configs: Vec<Config>,
    material: Material,
    runs: Vec<Run>,
    calls: Vec<Counted>,
}

impl Session<'_> {
    fn measure(&mut self, chosen: &[&Program], backings: &[BackingDir]) -> Result<()> {
        for round in 0..usize::from(self.args.rounds) {
            for backing in backings {
                for (at, program) in chosen.iter().enumerate() {
                    eprintln!("round {}: {} on {}", round + 1, program.name, backing.name);
                    for config in plan::order(round + at, self.configs.len()) {
                        let run = self.run_once(round, backing, program, config);
                        self.runs.push(run);
                    }
                }
            }
        }
        if self.args.calls {
            for program in chosen {
                for config in 0..self.configs.len() {
                    let counted = self.count_calls(&backings[0], program, config);
                    self.calls.extend(counted?);
                }
            }
        }
        Ok(())
    }

    fn run_once(
        &self,
        round: usize,
        backing: &BackingDir,
        program: &Program,
        config: usize,
    ) -> Run {
        let done = self.on_mount(backing, program, config, |_server, _dir, run| run());
        let config = self.configs[config].name.clone();
        let (load, requests, error) = match done {
            Ok((load, requests)) => (Some(load), requests, None),
            Err(error) => {
                eprintln!("{}: {config}: {error:#}", program.name);
                (None, Vec::new(), Some(format!("{error:#}")))
            }
        };
        Run {
            round,
            backing: backing.name.clone(),
            program: program.name.to_owned(),
            config,
            load,
            requests,
            error,
        }
    }

    fn count_calls(
        &self,
        backing: &BackingDir,
        program: &Program,
        config: usize,
    ) -> Result<Option<Counted>> {
        let mut counted = None;
        self.on_mount(backing, program, config, |server, dir, run| {
            let Some(pid) = server.pid()? else {
                return run();
            };
            let trace = Trace::start(pid, dir)?;
            run()?;
            counted = Some(trace.stop()?);
            Ok(())
        })?;
        Ok(counted.map(|calls| Counted {
            program: program.name.to_owned(),
            config: self.configs[config].name.clone(),
            calls,
        }))
    }

    /// Mounts, prepares, lets `around` run the program, and removes what it made.
    fn on_mount(
        &self,
        backing: &BackingDir,
        program: &Program,
        config: usize,
        around: impl FnOnce(&Server, &Path, &mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<(Load, Vec<(String, u64)>)> {
        let source = in_directory(backing.source(), "work-")?;
        let scratch = in_directory(self.material.path(), "out-")?;
        let count = self.args.at_once as usize;
        let natively = scenes(source.path(), self.material.path(), scratch.path(), count)?;
        for scene in &natively {
            (program.prepare)(scene).context("prepare")?;
        }
        let top = std::fs::File::open(source.path())?;
        rustix::fs::syncfs(&top).context("syncfs")?;
        if self.args.cold {
            std::fs::write("/proc/sys/vm/drop_caches", "3").context("/proc/sys/vm/drop_caches")?;
        }
        let server = Server::start(&self.configs[config], source.path(), LIMIT)?;
        let scenes = scenes(server.dir(), self.material.path(), scratch.path(), count)?;
        if program.is_warm {
            at_once(program, &scenes)?;
        }
        let mut measured = None;
        let mut run = || {
            let before = Snapshot::take(server.pid()?)?;
            let requests = server.opcodes()?;
            at_once(program, &scenes)?;
            let load = before.until(&Snapshot::take(server.pid()?)?);
            measured = Some((load, since(&requests, server.opcodes()?)));
            Ok(())
        };
        let done = around(&server, scratch.path(), &mut run);
        let stopped = server.stop();
        done?;
        stopped?;
        remove(source)?;
        remove(scratch)?;
        measured.context("the program was not run")
    }

    fn write(
        &self,
        started: &str,
        chosen: &[&Program],
        backings: &[BackingDir],
    ) -> Result<ExitCode> {
        let out = match &self.args.out {
            Some(out) => out.clone(),
            None => install::target()
                .join("work")
                .join(started.replace(':', "")),
        };
        std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
        let text = report::render(&report::Session {
            started,
            machine: &machine::describe()?,
            files: self.args.files,
            at_once: self.args.at_once,
            rounds: self.args.rounds,
            cold: self.args.cold,
            programs: &chosen
                .iter()
                .map(|program| program.name)
                .collect::<Vec<_>>(),
            backings: &backings
                .iter()
                .map(|dir| dir.name.as_str())
                .collect::<Vec<_>>(),
            configs: &self
                .configs
                .iter()
                .map(|config| config.name.as_str())
                .collect::<Vec<_>>(),
            runs: &self.runs,
            calls: &self.calls,
        });
        print(&text)?;
        std::fs::write(out.join("report.md"), &text)?;
        let runs = serde_json::to_string_pretty(&self.runs)?;
        std::fs::write(out.join("report.json"), runs)?;
        eprintln!("report: {}", out.display());
        let failed = self.runs.iter().any(|run| run.error.is_some());
        Ok(ExitCode::from(u8::from(failed)))
    }
}

/// A directory each.
fn scenes(dir: &Path, material: &Path, scratch: &Path, count: usize) -> Result<Vec<Scene>> {
    (0..count)
        .map(|at| {
            let scene = Scene {
                dir: dir.join(format!("at-{at}")),
                material: material.to_owned(),
                scratch: scratch.join(format!("at-{at}")),
            };
            for made in [&scene.dir, &scene.scratch] {
                if !made.exists() {
                    std::fs::create_dir(made).with_context(|| made.display().to_string())?;
                }
            }
            Ok(scene)
        })
        .collect()
}

/// Runs the program in each scene, all at the same time.
fn at_once(program: &Program, scenes: &[Scene]) -> Result<()> {
    let start = |scene: &Scene| -> Result<Child> {
        let mut command: Command = (program.command)(scene);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().with_context(|| program.name.to_owned())
    };
    let children: Vec<Child> = scenes.iter().map(start).collect::<Result<_>>()?;
    let mut failed = None;
    for mut child in children {
        let ended = wait_for_exit(&mut child, program.name, LIMIT)?;
        if !(program.succeeds)(ended.code()) {
            failed = Some(ended);
        }
    }
    match failed {
        Some(ended) => anyhow::bail!("{}: {ended}", program.name),
        None => Ok(()),
    }
}

fn since(before: &[(String, u64)], after: Vec<(String, u64)>) -> Vec<(String, u64)> {
    let old = |name: &str| before.iter().find(|(known, _)| known == name);
    let counted = after.into_iter().map(|(name, count)| {
        let old = old(&name).map_or(0, |(_, count)| *count);
        (name, count - old)
    });
    counted.filter(|(_, count)| *count > 0).collect()
}

/// Not on drop alone: what is left would be in the next run's way.
fn remove(dir: TempDir) -> Result<()> {
    let path = dir.path().to_owned();
    dir.close()
        .with_context(|| format!("remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_one_again_repeats_the_first_of_ours_at_the_end() {
        let list = ["native", "thrufs", "thrufs-t1", "bindfs"].map(str::to_owned);
        let configs = configs::parse(&list, &[], &[]).expect("known names");
        let names: Vec<String> = with_one_again(configs)
            .into_iter()
            .map(|c| c.name)
            .collect();
        assert_eq!(
            names,
            ["native", "thrufs", "thrufs-t1", "bindfs", "thrufs again"]
        );
    }

    #[test]
    fn since_counts_what_came_between() {
        let counts = |all: &[(&str, u64)]| -> Vec<(String, u64)> {
            all.iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        let before = counts(&[("LOOKUP", 3), ("OPEN", 1)]);
        let after = counts(&[("LOOKUP", 5), ("OPEN", 1), ("READ", 2)]);
        assert_eq!(since(&before, after), counts(&[("LOOKUP", 2), ("READ", 2)]));
    }
}
