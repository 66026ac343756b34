//! Boots the kernels one after the other and compares what came of it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use thrufs_lab::{Lab, Machine, Outcome};

use super::expect::Expectations;
use super::plan::{self, Built};
use super::program::Program;
use super::{RunArgs, say, table};

/// How much of a console is shown when something is not as expected.
const CONSOLE_LINES: usize = 60;

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let expectations = Expectations::load()?;
    let kernels = plan::build(&args.build)?;
    let lab = Lab::new(&args.build.lab, args.build.jobs)?;
    let program = Program::build(&lab)?;
    let tests = chosen(&program.tests, &args.tests)?;
    let mut compared = Vec::new();
    let mut all_well = true;
    for built in &kernels {
        say(&format!("{}: booting", built.name));
        let outcome = boot(built, &program, &tests, args, &lab)?;
        say(&format!(
            "{}: ended after {:.1} s",
            built.name,
            outcome.took.as_secs_f32()
        ));
        let comparison = expectations.compare(&built.name, &tests, &outcome);
        if table::is_wrong(&comparison) {
            all_well = false;
            show_console(&outcome)?;
        }
        compared.push((built.name.clone(), comparison));
    }
    print!("{}", table::render(&tests, &compared));
    Ok(if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The tests asked for, or all.
fn chosen(all: &[String], wanted: &[String]) -> anyhow::Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|test| !all.contains(test)) {
        bail!("there is no test {unknown}; there are: {}", all.join(", "));
    }
    Ok(all
        .iter()
        .filter(|test| wanted.is_empty() || wanted.contains(test))
        .cloned()
        .collect())
}

fn boot(
    built: &Built,
    program: &Program,
    tests: &[String],
    args: &RunArgs,
    lab: &Lab,
) -> anyhow::Result<Outcome> {
    let own = std::env::current_exe().context("finding the path of this program")?;
    let mut init: Vec<String> = [
        own.as_path(),
        "kernel".as_ref(),
        "guest".as_ref(),
        program.path.as_path(),
    ]
    .iter()
    .map(|part| part.display().to_string())
    .collect();
    // The kernel's command line is short, so all tests are better not named.
    if !args.tests.is_empty() {
        init.extend(tests.iter().cloned());
    }
    let machine = Machine {
        memory: 512,
        cpus: built.cpus,
        init,
        kernel_arguments: Vec::new(),
    };
    let dir = lab.dir().join("run").join(built.name.replace('/', "-"));
    Ok(machine.boot(&built.kernel, &dir, Duration::from_secs(args.deadline))?)
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
    fn chosen_of_an_unknown_test_names_the_known() {
        let error = chosen(&["a".into(), "b".into()], &["c".into()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("a, b"), "{error}");
    }

    #[test]
    fn chosen_of_nothing_is_all() {
        assert_eq!(chosen(&["a".into(), "b".into()], &[]).unwrap(), ["a", "b"]);
    }
}
