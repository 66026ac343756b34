//! `xtests kernel instructions`: the cost of a write(2) to thrufs on each kernel, in instructions.
//!
//! Times in a guest mean nothing, but QEMU's translator has a clock that counts instructions. The
//! kernels for it are built small and without detectors. Invariant: all kernels of a table differ
//! in their series alone.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use thrufs_lab::{Lab, Machine, Mark, Root};
use xtests::support::install;
use xtests::support::mount::BIN;

use super::build_args::{BuildArgs, say};
use super::guest_scenarios::INSTRUCTIONS;
use super::plan::{self, Built, LARGE_FOLIOS, Purpose};
use super::suites;

/// Booting takes some ten seconds, and measuring less.
const DEADLINE: Duration = Duration::from_secs(300);

type Row = (String, u64);

pub(super) fn run(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    install::apt(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("/usr/include/libelf.h", "libelf-dev"),
    ])?;
    let lab = Lab::new(&args.lab, args.jobs)?;
    let huge_pages = args.variant.iter().any(|name| name.ends_with(LARGE_FOLIOS));
    let kernels = plan::build(args, Purpose::Counted { huge_pages })?;
    let mut columns = Vec::new();
    for built in &kernels {
        columns.push((built.name.as_str(), measure(built, &lab)?));
    }
    print!("{}", render(&columns));
    Ok(ExitCode::SUCCESS)
}

fn measure(built: &Built, lab: &Lab) -> anyhow::Result<Vec<Row>> {
    say(&format!("{}: counting", built.name));
    let dir = lab
        .dir()
        .join("run")
        .join(built.name.replace('/', "-"))
        .join(INSTRUCTIONS);
    let mut case = suites::own(INSTRUCTIONS, &["scenario", INSTRUCTIONS, "--cache=always"])?;
    let thrufs = install::thrufs()?;
    case.environment
        .push((BIN.to_owned(), thrufs.display().to_string()));
    let (list, init) = suites::first_process(&[case.clone()], &dir)?;
    let machine = Machine {
        counted: true,
        root: Root::Files(suites::files(&[case], &list)?),
        init,
        // Otherwise reading the clock takes many instructions.
        kernel_arguments: vec!["tsc=reliable".to_owned()],
        ..Machine::default()
    };
    let outcome = machine.boot(&built.kernel, &dir, DEADLINE)?;
    let verdict = outcome
        .verdicts
        .iter()
        .find(|verdict| verdict.test == INSTRUCTIONS);
    match verdict {
        Some(verdict) if verdict.mark == Mark::Pass => serde_json::from_str(&verdict.detail)
            .with_context(|| format!("{} said {}", built.name, verdict.detail)),
        other => {
            let said = other.map_or("nothing", |verdict| &verdict.detail);
            bail!(
                "{} said {said}; its console is {}",
                built.name,
                outcome.console.display()
            )
        }
    }
}

/// A line for each kind of write, a column for each kernel.
fn render(columns: &[(&str, Vec<Row>)]) -> String {
    let mut out = format!("{:28}", "instructions per write(2)");
    columns
        .iter()
        .for_each(|(name, _)| out.push_str(&format!("{name:>16}")));
    let names = columns.first().map_or(&[][..], |(_, rows)| rows);
    for (index, (name, _)) in names.iter().enumerate() {
        out.push_str(&format!("\n{name:28}"));
        for (_, rows) in columns {
            out.push_str(&format!("{:>16}", rows[index].1));
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_of_two_kernels_has_a_column_for_each() {
        let rows = |count| vec![("4000 @0".to_owned(), count)];
        let table = render(&[("stock", rows(20)), ("patched", rows(10))]);
        let words: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(words[0][2..], ["write(2)", "stock", "patched"]);
        assert_eq!(words[1], ["4000", "@0", "20", "10"]);
    }
}
