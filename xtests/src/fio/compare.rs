//! `xtests fio compare BEFORE AFTER`: what changed beyond the noise from one report to another.
//!
//! A cell has changed when no value of one report lies among those of the other. Not a test of
//! significance: with a handful of rounds that would promise more than it knows, and the noise of
//! two sessions is more than that within one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use xtests::support::stdout::print;

use super::record::Document;
use super::stats::{Change, Spread, change};
use super::summary::{Cell, cells};

/// Arguments of `xtests fio compare`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// report.json of the earlier session
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// report.json of the later one
    #[arg(value_name = "AFTER")]
    after: PathBuf,
    /// Show the cells that did not change as well
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (before, after) = (Document::read(&args.before)?, Document::read(&args.after)?);
    print(&render(&before, &after, args.all))?;
    Ok(ExitCode::SUCCESS)
}

/// A cell of both reports.
struct Pair<'a> {
    before: Cell<'a>,
    after: Cell<'a>,
    change: Change,
    ratio: f64,
}

fn render(before: &Document, after: &Document, all: bool) -> String {
    let mut text = differences(before, after);
    let mut pairs = pairs(before, after);
    pairs.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    let count = |wanted: Change| pairs.iter().filter(|pair| pair.change == wanted).count();
    let (real, few) = (count(Change::Real), count(Change::TooFew));
    for pair in &pairs {
        if all || pair.change == Change::Real {
            text += &line(pair);
        }
    }
    let worse = pairs
        .iter()
        .filter(|p| p.change == Change::Real && p.ratio < 1.0);
    text += &format!(
        "{} cells in both: {real} changed ({} worse), {} within the noise",
        pairs.len(),
        worse.count(),
        count(Change::None)
    );
    if few > 0 {
        text += &format!(", {few} with too few rounds to tell");
    }
    text + "\n"
}

/// Differences that make the two reports hard to compare.
fn differences(before: &Document, after: &Document) -> String {
    let mut text = String::new();
    let (a, b) = (&before.machine, &after.machine);
    let mut note = |what: &str, a: &str, b: &str| {
        if a != b {
            text += &format!("note: {what} differs: {a:?}, then {b:?}\n");
        }
    };
    note("the kernel", &a.kernel, &b.kernel);
    note("the CPU", &a.cpu, &b.cpu);
    note(
        "the number of CPUs",
        &a.cpus.to_string(),
        &b.cpus.to_string(),
    );
    note("fio", &a.fio, &b.fio);
    let seconds = [before, after].map(|document| document.runtime_seconds.to_string());
    note("the runtime in seconds", &seconds[0], &seconds[1]);
    let caches = [before, after].map(|d| if d.cold { "cold" } else { "warm" });
    note("the state of the caches", caches[0], caches[1]);
    text
}

fn pairs<'a>(before: &'a Document, after: &'a Document) -> Vec<Pair<'a>> {
    let mut later = cells(after);
    let mut pairs = Vec::new();
    for before in cells(before) {
        let found = later.iter().position(|cell| {
            (cell.backing, &cell.job.name, cell.config)
                == (before.backing, &before.job.name, before.config)
        });
        let Some(found) = found else { continue };
        let after = later.swap_remove(found);
        let (Some(a), Some(b)) = (before.figure, after.figure) else {
            continue;
        };
        pairs.push(Pair {
            change: change(&a, &b),
            ratio: b.median / a.median,
            before,
            after,
        });
    }
    pairs
}

fn line(pair: &Pair<'_>) -> String {
    let cell = &pair.after;
    let name = format!("{} {} {}", cell.backing, cell.job.name, cell.config);
    let spread = |spread: Option<Spread>| {
        spread.map_or_else(String::new, |s| {
            format!("{:.0} ({:.0}..{:.0})", s.median, s.min, s.max)
        })
    };
    let mut text = format!(
        "{name:<56} {:>22} > {:>22} {}  x{:.2}",
        spread(pair.before.figure),
        spread(cell.figure),
        cell.job.figure.unit(),
        pair.ratio
    );
    if pair.change != Change::Real {
        text += "  within the noise";
    }
    let disturbed = pair.before.disturbed + cell.disturbed;
    if disturbed > 0 {
        text += &format!("  ({disturbed} runs disturbed)");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::document;
    use super::*;

    #[test]
    fn compare_of_a_report_with_itself_finds_no_change() {
        let report = document(&[("native", &[100.0, 101.0, 99.0])]);
        let text = render(&report, &report, false);
        assert_eq!(
            text,
            "1 cells in both: 0 changed (0 worse), 1 within the noise\n"
        );
    }

    #[test]
    fn compare_shows_what_moved_beyond_the_noise_and_only_that() {
        let before = document(&[
            ("native", &[100.0, 101.0, 99.0]),
            ("thrufs", &[50.0, 51.0, 52.0]),
        ]);
        let after = document(&[
            ("native", &[101.0, 98.0, 103.0]),
            ("thrufs", &[30.0, 31.0, 29.0]),
        ]);
        let text = render(&before, &after, false);
        assert!(text.contains("tmpfs a:4k thrufs"), "{text}");
        assert!(text.contains("x0.59"), "{text}");
        assert!(!text.contains("native"), "{text}");
        assert!(text.contains("1 changed (1 worse)"), "{text}");
    }

    #[test]
    fn compare_of_two_machines_says_so() {
        let before = document(&[("native", &[100.0])]);
        let mut after = before.clone();
        after.machine.kernel = "9.9".to_owned();
        let text = render(&before, &after, false);
        assert!(text.contains("note: the kernel differs"), "{text}");
        assert!(text.contains("too few rounds"), "{text}");
    }
}
