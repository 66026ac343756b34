//! What an operation costs the device, beside the report that all of `xtests fio` has: its CPU time, its system
//! calls, and how long the guest waits.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use xtests::support::stdout::print;

use super::super::markdown::number;
use super::super::record::{Document, Measured};
use super::super::stats::Spread;

/// Writes `costs.md` and prints it.
pub(super) fn write(document: &Document, dir: &Path) -> Result<()> {
    let path = dir.join("costs.md");
    let text = render(document);
    std::fs::write(&path, &text).with_context(|| path.display().to_string())?;
    print(&text)
}

fn render(document: &Document) -> String {
    let mut text = String::new();
    for backing in document
        .backings
        .iter()
        .map(|backing| backing.name.as_str())
    {
        let _ = write!(
            text,
            "\n### {backing}: us of CPU an operation (ratio), p50/p99 us\n\n"
        );
        text += &table(document, |job, config| cell(document, backing, job, config));
    }
    if !document.system_calls.is_empty() {
        text += "\n### System calls an operation\n\n";
        text += &table(document, |job, config| {
            let mut all = document.system_calls.iter();
            let counted = all.find(|of| of.job == job && of.config == config)?;
            let sum: f64 = counted.calls.iter().map(|(_, each)| each).sum();
            Some(format!("{sum:.2}"))
        });
    }
    text + "\n"
}

fn table(document: &Document, cell: impl Fn(&str, &str) -> Option<String>) -> String {
    let configs = || document.configs.iter().map(|config| config.name.as_str());
    let mut text = format!(
        "| cell | {} |\n|---|",
        configs().collect::<Vec<_>>().join(" | ")
    );
    text += &"---:|".repeat(document.configs.len());
    for job in &document.jobs {
        let _ = write!(text, "\n| `{}` |", job.name);
        for config in configs() {
            let _ = write!(text, " {} |", cell(&job.name, config).unwrap_or_default());
        }
    }
    text + "\n"
}

fn runs<'a>(
    document: &'a Document,
    (backing, job, config): (&'a str, &'a str, &'a str),
) -> impl Iterator<Item = (usize, &'a Measured)> {
    let of_cell = document
        .runs
        .iter()
        .filter(move |run| run.backing == backing && run.job == job && run.config == config);
    of_cell.filter_map(|run| Some((run.round, run.measured.as_ref()?)))
}

/// Microseconds of the device for an operation.
fn cost(measured: &Measured) -> Option<f64> {
    let moved = &measured.moved;
    let operations = moved.read.operations + moved.written.operations;
    Some(measured.load.daemon_seconds? * 1e6 / operations as f64)
}

fn cell(document: &Document, backing: &str, job: &str, config: &str) -> Option<String> {
    let of = |config| runs(document, (backing, job, config));
    let own = Spread::of(of(config).filter_map(|(_, measured)| cost(measured)))?;
    let ratios = of(config).filter_map(|(round, measured)| {
        let (_, base) = of(&document.baseline).find(|(other, _)| *other == round)?;
        Some(cost(measured)? / cost(base)?)
    });
    let ratio =
        Spread::of(ratios).map_or_else(String::new, |ratio| format!(" ({:.2})", ratio.median));
    let latency = |percent: f64| {
        let all = of(config).filter_map(|(_, measured)| {
            let moved = &measured.moved;
            let mut known = moved.read.latency.iter().chain(&moved.written.latency);
            Some(known.find(|(known, _)| *known == percent)?.1 / 1e3)
        });
        Spread::of(all).map_or_else(String::new, |spread| number(spread.median))
    };
    Some(format!(
        "{}{ratio} {}/{}",
        number(own.median),
        latency(50.0),
        latency(99.0)
    ))
}
