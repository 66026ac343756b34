//! Boots the kernels and compares the outcomes with the expectations.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use thrufs_lab::{Kind, Lab, Machine, Outcome, Root};
use xtests::support::install;
use xtests::support::interrupt::{Interrupt, Interrupted};

use super::build_args::{BuildArgs, say};
use super::case::{Case, Transport};
use super::expect::{Comparison, Expectations};
use super::guest_scenarios;
use super::plan::{self, Built, Purpose};
use super::suites::{self, Extent};
use super::table;
use super::virtiofs::{Program, Servers};

/// How much of a console is printed when something is not as expected.
const CONSOLE_LINES: usize = 60;
/// The guest's own directories, which hide the host's. Of /tmp and /run it sees the directories
/// that hold the lab and this program.
const HIDDEN: &[&str] = &["/dev", "/proc", "/sys"];

/// Which kernels, and what to do with them.
#[derive(Parser)]
pub(super) struct Args {
    #[command(flatten)]
    build: BuildArgs,
    /// Boot this kernel of a distribution under QEMU instead: a package such as
    /// linux-image-6.12.95+deb12-cloud-amd64, one in a suite such as linux-image-cloud-amd64/trixie, or an image
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["base", "tree", "variant"])]
    distro: Option<String>,
    /// Build the kernels for a machine with huge pages and boot them under QEMU: User Mode Linux has no huge
    /// pages, and files have no large folios without
    #[arg(long, conflicts_with_all = ["tree", "distro"])]
    qemu: bool,
    /// How requests get to the server
    #[arg(long, value_enum, default_value = "fuse")]
    transport: Transport,
    /// What serves the virtiofs device
    #[arg(long, value_enum, default_value = "virtiofsd")]
    server: Program,
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Machines at a time. Most of the time a test waits, for a deadlock that is expected above all; but two that
    /// do not wait may take all of two CPUs
    #[arg(long, default_value_t = 1)]
    guests: usize,
    /// Stop a machine that has not ended after so many seconds
    #[arg(long, default_value_t = 900)]
    deadline: u64,
    /// How long the random reproducer runs
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The --cache of the mount that the random reproducer works on, or of the device that it and others mount. With `auto` the kernel
    /// drops pages of a file whose mtime it did not expect, also those of a WRITE in flight
    #[arg(long, default_value = "always")]
    cache: String,
    /// How many operations fsx does
    #[arg(long, default_value_t = 2000)]
    operations: u64,
    /// Only these tests (`selftest/deadlock_self`) or suites (`selftest`)
    #[arg(value_name = "TEST")]
    tests: Vec<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let expectations = Expectations::load()?;
    let lab = Lab::new(&args.build.lab, args.build.jobs)?;
    let kernels = kernels(args, &lab)?;
    visible(lab.dir())?;
    visible(&std::env::current_exe().context("finding the path of this program")?)?;
    let extent = Extent {
        seconds: args.seconds,
        cache: &args.cache,
        operations: args.operations,
    };
    let wanted = wanted(args);
    let mut columns: Vec<Column> = Vec::new();
    // A machine ends with us anyway; what is mounted for its devices does not.
    let interrupt = Interrupt::watch()?;
    for built in &kernels {
        let known = columns
            .iter()
            .find(|c| c.built.base.name == built.base.name);
        let cases = match known {
            Some(column) => column.cases.clone(),
            None => suites::cases(&lab, &built.base, args.transport, extent, &wanted)?,
        };
        columns.push(Column {
            built,
            cases,
            stop: interrupt.flag(),
        });
    }
    let mut tests = Vec::new();
    columns
        .iter()
        .for_each(|column| column.name_tests(&mut tests));
    let compared = at_a_time(args.guests, &columns, |column| {
        ensure!(!interrupt.is_set(), Interrupted);
        let (name, comparison) = column.run(&expectations, args, &lab)?;
        let own: Vec<String> = column.cases.iter().map(|case| case.name.clone()).collect();
        Ok((name, comparison.widened(&own, &tests)))
    })?;
    let all_well = !compared
        .iter()
        .any(|(_, comparison)| table::is_wrong(comparison));
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&table::document(&tests, &compared))?
        );
    } else {
        print!("{}", table::render(&tests, &compared));
    }
    Ok(if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Calls `work` for each of `items`, for `limit` of them at a time; the results are in the order of the items. Each
/// thread lasts until its items are done, since what it has started ends with it.
fn at_a_time<T: Sync, R: Send>(
    limit: usize,
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for _ in 0..limit.clamp(1, items.len().max(1)) {
            threads.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    let mut done = done.lock().expect("no thread panics with it");
                    done.push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread panics with it");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn kernels(args: &Args, lab: &Lab) -> anyhow::Result<Vec<Built>> {
    const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
    if let Some(image) = &args.distro {
        install::apt(&[QEMU])?;
        return Ok(vec![plan::distribution(lab, image)?]);
    }
    if args.qemu {
        install::apt(&[QEMU, ("/usr/include/libelf.h", "libelf-dev")])?;
        return plan::build(&args.build, Purpose::Machine);
    }
    plan::build(&args.build, Purpose::UserMode)
}

/// The requested tests or suites; else all (none is named), or all that run where the guest does
/// not see every file of the host's.
fn wanted(args: &Args) -> Vec<String> {
    let sees_files = args.distro.is_none() && !args.qemu;
    let can_run_all = sees_files || args.transport == Transport::Virtiofs;
    if can_run_all || !args.tests.is_empty() {
        return args.tests.clone();
    }
    suites::PORTABLE.map(str::to_owned).to_vec()
}

/// A kernel and its cases.
struct Column<'a> {
    built: &'a Built,
    cases: Vec<Case>,
    /// Set when a signal has come.
    stop: Arc<AtomicBool>,
}

impl Column<'_> {
    /// The kernel's name in tables and expectations.
    fn name(&self, args: &Args) -> String {
        match args.transport {
            Transport::Fuse => self.built.name.clone(),
            Transport::Virtiofs => format!("{}/{}", self.built.name, args.server.transport()),
        }
    }

    /// Boots it; a cell for each of its own cases.
    fn run(
        &self,
        expectations: &Expectations,
        args: &Args,
        lab: &Lab,
    ) -> anyhow::Result<(String, Comparison)> {
        let name = self.name(args);
        let mut here = self.cases.clone();
        here.retain(|case| expectations.left_out(&name, &case.name).is_none());
        say(&format!("{name}: booting, {} tests", here.len()));
        let outcome = self.boot(&name, &here, args, lab)?;
        let seconds = outcome.took.as_secs_f32();
        say(&format!("{name}: ended after {seconds:.1} s"));
        let own: Vec<String> = self.cases.iter().map(|case| case.name.clone()).collect();
        let comparison = expectations.compare(&name, &own, &outcome);
        if table::is_wrong(&comparison) {
            show_console(&outcome)?;
        }
        Ok((name, comparison))
    }

    /// Boots it, with the servers of its devices.
    fn boot(&self, name: &str, cases: &[Case], args: &Args, lab: &Lab) -> anyhow::Result<Outcome> {
        let built = self.built;
        let dir = lab.dir().join("run").join(name.replace('/', "-"));
        let (list, init) = suites::first_process(cases, &dir)?;
        let names = cases.iter().map(|case| case.name.as_str());
        let wanted = names.map(guest_scenarios::device_of).collect();
        let servers = match args.transport {
            Transport::Fuse => None,
            Transport::Virtiofs => Some(Servers::start(args.server, &dir, &args.cache, &wanted)?),
        };
        let root = match built.kernel.kind {
            Kind::UserMode => Root::Host,
            Kind::Bootable => Root::Files(suites::files(cases, &list)?),
        };
        let machine = Machine {
            cpus: built.base.test_cpus(built.kernel.kind),
            root,
            devices: servers.as_ref().map(Servers::devices).unwrap_or_default(),
            modules: args.transport.modules(),
            init,
            stop: Arc::clone(&self.stop),
            ..Machine::default()
        };
        let deadline = Duration::from_secs(args.deadline + args.seconds);
        let mut outcome = machine.boot(&built.kernel, &dir, deadline)?;
        if let Some(servers) = &servers {
            servers.compare(&mut outcome);
        }
        Ok(outcome)
    }

    /// Adds its tests that `all` lacks, each to the end of its suite.
    fn name_tests(&self, all: &mut Vec<String>) {
        for case in &self.cases {
            if all.contains(&case.name) {
                continue;
            }
            let suite = Case::suite(&case.name);
            let last = all.iter().rposition(|test| Case::suite(test) == suite);
            all.insert(last.map_or(all.len(), |at| at + 1), case.name.clone());
        }
    }
}

/// The guest sees the host's files, except below its own mounts.
pub(super) fn visible(path: &Path) -> anyhow::Result<()> {
    let hidden = HIDDEN.iter().find(|dir| path.starts_with(dir));
    ensure!(
        hidden.is_none(),
        "{} cannot be seen by the guest, which has a {} of its own: build elsewhere, or use --lab",
        path.display(),
        hidden.unwrap_or(&"")
    );
    Ok(())
}

fn show_console(outcome: &Outcome) -> anyhow::Result<()> {
    let path = &outcome.console;
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    say(&format!("the end of the console ({}):", path.display()));
    lines[lines.len().saturating_sub(CONSOLE_LINES)..]
        .iter()
        .for_each(|line| say(line));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    /// Each of the two waits for the other, so that one at a time would not end.
    #[test]
    fn at_a_time_of_two_works_on_two_and_keeps_their_order() {
        let barrier = Barrier::new(2);
        let work = |item: &u32| {
            barrier.wait();
            Ok(item * 10)
        };
        assert_eq!(at_a_time(2, &[1, 2, 3, 4], work).unwrap(), [10, 20, 30, 40]);
    }

    #[test]
    fn at_a_time_of_none_works_on_one() {
        let none: &[u32] = &[];
        assert!(at_a_time(3, none, |_| Ok(())).unwrap().is_empty());
        assert_eq!(at_a_time(0, &[7], |item| Ok(*item)).unwrap(), [7]);
    }

    #[test]
    fn at_a_time_with_a_failing_item_is_its_error() {
        let work = |item: &u32| match item {
            2 => anyhow::bail!("item 2"),
            _ => Ok(()),
        };
        let error = at_a_time(1, &[1, 2, 3], work).unwrap_err();
        assert_eq!(error.to_string(), "item 2");
    }

    #[test]
    fn visible_of_a_path_below_dev_names_the_remedy() {
        let error = visible(Path::new("/dev/shm/lab")).unwrap_err().to_string();
        assert!(error.contains("--lab"), "{error}");
        assert!(visible(Path::new("/tmp/lab")).is_ok());
    }
}
