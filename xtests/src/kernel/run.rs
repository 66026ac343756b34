//! Boots the kernels one after the other and compares what came of it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use thrufs_lab::{Kind, Lab, Machine, Outcome, Root};
use xtests::install;

use super::case::Case;
use super::expect::Expectations;
use super::plan::{self, Built};
use super::suites::{self, Extent, Transport};
use super::virtiofs::Server;
use super::{RunArgs, say, table};

/// How much of a console is shown when something is not as expected.
const CONSOLE_LINES: usize = 60;
/// Directories that the guest has of its own, so that it does not see the host's.
const HIDDEN: &[&str] = &["/tmp", "/run", "/dev", "/proc", "/sys"];

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let expectations = Expectations::load()?;
    let lab = Lab::new(&args.build.lab, args.build.jobs)?;
    let kernels = match &args.distro {
        Some(image) => {
            install::apt(&[("qemu-system-x86_64", "qemu-system-x86")])?;
            vec![plan::distribution(&lab, image)?]
        }
        None => plan::build(&args.build)?,
    };
    visible(lab.dir())?;
    visible(&std::env::current_exe().context("finding the path of this program")?)?;
    let extent = Extent {
        seconds: args.seconds,
        operations: args.operations,
    };
    let portable = suites::PORTABLE.map(str::to_owned).to_vec();
    let wanted = if args.distro.is_some() && args.tests.is_empty() {
        &portable
    } else {
        &args.tests
    };
    let cases = suites::cases(&lab, args.transport, extent, wanted)?;
    let tests: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let mut compared = Vec::new();
    let mut all_well = true;
    for built in &kernels {
        let name = column(built, args.transport);
        let mut here = cases.clone();
        here.retain(|case| expectations.left_out(&name, &case.name).is_none());
        say(&format!("{name}: booting, {} tests", here.len()));
        let outcome = boot(built, &name, &here, args, &lab)?;
        say(&format!(
            "{name}: ended after {:.1} s",
            outcome.took.as_secs_f32()
        ));
        let comparison = expectations.compare(&name, &tests, &outcome);
        if table::is_wrong(&comparison) {
            all_well = false;
            show_console(&outcome)?;
        }
        compared.push((name, comparison));
    }
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

/// The kernel's name in tables and expectations.
fn column(built: &Built, transport: Transport) -> String {
    match transport {
        Transport::Fuse => built.name.clone(),
        Transport::Virtiofs => format!("{}/virtiofs", built.name),
    }
}

/// The guest sees the host's files, except where it mounts something itself.
fn visible(path: &Path) -> anyhow::Result<()> {
    let hidden = HIDDEN.iter().find(|dir| path.starts_with(dir));
    ensure!(
        hidden.is_none(),
        "{} cannot be seen by the guest, which has a {} of its own: build elsewhere, or use --lab",
        path.display(),
        hidden.unwrap_or(&"")
    );
    Ok(())
}

fn boot(
    built: &Built,
    name: &str,
    cases: &[Case],
    args: &RunArgs,
    lab: &Lab,
) -> anyhow::Result<Outcome> {
    let dir = lab.dir().join("run").join(name.replace('/', "-"));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let list = dir.join("cases.json");
    let text = serde_json::to_vec_pretty(cases).context("writing the cases down")?;
    std::fs::write(&list, text).with_context(|| list.display().to_string())?;
    let own = std::env::current_exe().context("finding the path of this program")?;
    let init = [
        own.as_path(),
        "kernel".as_ref(),
        "guest".as_ref(),
        list.as_path(),
    ];
    let server = match args.transport {
        Transport::Fuse => None,
        Transport::Virtiofs => Some(Server::start(&dir)?),
    };
    let root = match built.kernel.kind {
        Kind::UserMode => Root::Host,
        Kind::Bootable => Root::Files(suites::files(cases, &list)?),
    };
    let machine = Machine {
        memory: 1024,
        cpus: built.cpus,
        root,
        init: init.iter().map(|part| part.display().to_string()).collect(),
        kernel_arguments: server.iter().map(Server::device).collect(),
    };
    Ok(machine.boot(
        &built.kernel,
        &dir,
        Duration::from_secs(args.deadline + args.seconds),
    )?)
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

    #[test]
    fn visible_of_a_path_below_tmp_names_the_remedy() {
        let error = visible(Path::new("/tmp/lab")).unwrap_err().to_string();
        assert!(error.contains("--lab"), "{error}");
        assert!(visible(Path::new("/tmpfiles/lab")).is_ok());
    }
}
