//! The result as Markdown, for the terminal and for RESULTS.md.

use std::fmt::Write;

use super::jobs::Job;
use super::load::DISTURBED_ABOVE;
use super::record::Document;
use super::stats::Spread;
use super::summary::{Cell, Duel, ahead, cells, duel, is_ours};

pub(super) fn render(document: &Document) -> String {
    let mut text = conditions(document) + "\n";
    for backing in &document.backings {
        let _ = write!(text, "\n### {}\n\n", backing.name);
        text += &table(document, &backing.name);
        text += &requests(document, &backing.name);
        text += &duels(document, &backing.name);
        text += &leads(document, &backing.name);
    }
    text += &disturbances(document);
    text += &failures(document);
    text
}

/// One sentence on what was measured, and where.
pub(super) fn conditions(document: &Document) -> String {
    let machine = &document.machine;
    let caches = if document.cold {
        "all caches dropped before each run"
    } else {
        "the backing's cache warm"
    };
    format!(
        "{}, {}, Linux {}, {} CPUs ({}), {:.0} GB; {}. Medians of {} rounds of {} s in turns, {}; \
         ± is half the distance from least to most, in brackets the median ratio to {} of the \
         same round.",
        document.started,
        machine.distribution,
        machine.kernel,
        machine.cpus,
        machine.cpu,
        machine.memory_bytes as f64 / 1e9,
        machine.fio,
        document.rounds,
        document.runtime_seconds,
        caches,
        document.baseline
    )
}

fn table(document: &Document, backing: &str) -> String {
    let cells = cells(document);
    let mut text = String::from("| job | |");
    for config in &document.configs {
        let _ = write!(text, " {} |", config.name);
    }
    text += "\n|---|---|";
    text += &"---:|".repeat(document.configs.len());
    text.push('\n');
    for job in &document.jobs {
        let _ = write!(text, "| `{}` | {} |", job.name, job.figure.unit());
        let leads = ahead(document, backing, job);
        for config in &document.configs {
            let cell = cells.iter().find(|cell| {
                (cell.backing, &cell.job.name, cell.config) == (backing, &job.name, &config.name)
            });
            let leads = leads.iter().any(|(peer, ..)| *peer == config.name);
            let _ = write!(
                text,
                " {} |",
                cell.map_or_else(String::new, |c| figure(c, leads))
            );
        }
        text.push('\n');
    }
    text
}

/// `951 ±3% (0.27)`, bold if it leads, with a star if it was disturbed.
fn figure(cell: &Cell<'_>, leads: bool) -> String {
    let Some(figure) = cell.figure else {
        return "failed".to_owned();
    };
    let mut text = number(figure.median);
    if leads {
        text = format!("**{text}**");
    }
    if figure.n > 1 {
        let _ = write!(text, " ±{:.0}%", figure.relative() * 100.0);
    }
    if let Some(ratio) = cell.ratio {
        let _ = write!(text, " ({:.2})", ratio.median);
    }
    if cell.disturbed > 0 {
        text.push('*');
    }
    if cell.error.is_some() {
        text.push('!');
    }
    text
}

/// As many digits as are significant.
pub(super) fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// `least..most`.
pub(super) fn range(spread: &Spread) -> String {
    format!("{}..{}", number(spread.min), number(spread.max))
}

/// WRITEs for each write(2), of the jobs and configurations whose server counts them.
fn requests(document: &Document, backing: &str) -> String {
    let cells = cells(document);
    let counted = |job: &str, config: &str| {
        let cell = cells.iter().find(|cell| {
            (cell.backing, cell.job.name.as_str(), cell.config) == (backing, job, config)
        });
        let writes = cell.and_then(|cell| cell.writes_per_write);
        // With kernel passthrough there are none.
        writes.filter(|writes| *writes > 0.0)
    };
    let names: Vec<&str> = document.configs.iter().map(|c| c.name.as_str()).collect();
    let jobs: Vec<&str> = document.jobs.iter().map(|job| job.name.as_str()).collect();
    let columns: Vec<&str> = names
        .into_iter()
        .filter(|config| jobs.iter().any(|job| counted(job, config).is_some()))
        .collect();
    if columns.is_empty() {
        return String::new();
    }
    let mut text = format!("\n| WRITEs a write | {} |\n|---|", columns.join(" | "));
    text += &"---:|".repeat(columns.len());
    text.push('\n');
    for job in jobs {
        let row: Vec<Option<f64>> = columns.iter().map(|config| counted(job, config)).collect();
        if row.iter().all(Option::is_none) {
            continue;
        }
        let row = row.into_iter();
        let row: Vec<String> = row
            .map(|value| value.map_or_else(String::new, number))
            .collect();
        let _ = writeln!(text, "| `{job}` | {} |", row.join(" | "));
    }
    text
}

fn duels(document: &Document, backing: &str) -> String {
    let names = || document.configs.iter().map(|config| config.name.as_str());
    let mut text = String::new();
    for ours in names().filter(|name| is_ours(name)) {
        for other in names().filter(|name| *name != ours) {
            if let Some(duel) = duel(document, backing, ours, other) {
                let _ = writeln!(text, "| {ours} | {other} | {} |", duel_cells(&duel));
            }
        }
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "\n| this | against | geometric mean | worst cell | cells |\n\
         |---|---|---:|---|---:|\n{text}"
    )
}

fn duel_cells(duel: &Duel) -> String {
    let (job, ratio) = &duel.worst;
    format!("{:.2} | {ratio:.2} in `{job}` | {}", duel.mean, duel.cells)
}

/// Cells in which a peer is ahead of our configuration that does the same.
fn leads(document: &Document, backing: &str) -> String {
    let mut text = String::new();
    for job in &document.jobs {
        for (peer, ours, ratio) in ahead(document, backing, job) {
            let Job { name, .. } = job;
            let _ = writeln!(text, "- `{name}`: {peer} is {ratio:.2} times {ours}");
        }
    }
    if text.is_empty() {
        return text;
    }
    format!("\nAhead of thrufs (bold above):\n\n{text}")
}

/// The load of other processes meanwhile.
pub(super) fn disturbances(document: &Document) -> String {
    let loads = document.runs.iter().filter_map(|run| run.measured.as_ref());
    let loads: Vec<_> = loads.map(|measured| measured.load).collect();
    let disturbed = loads.iter().filter(|load| load.is_disturbed()).count();
    let Some(other) = Spread::of(loads.iter().map(|load| load.other() * 100.0)) else {
        return String::new();
    };
    let mut text = format!(
        "\nOther load on the machine: {:.1}% of one CPU (median of all runs), at most {:.0}%.",
        other.median, other.max
    );
    if disturbed > 0 {
        let _ = write!(
            text,
            " {disturbed} of {} runs were disturbed (more than {:.0}%); their cells have a star.",
            loads.len(),
            DISTURBED_ABOVE * 100.0
        );
    }
    if document.incomplete {
        text += " The session was interrupted: some cells have fewer rounds.";
    }
    text + "\n"
}

/// Failed runs and skipped configurations.
fn failures(document: &Document) -> String {
    let mut text = String::new();
    for cell in cells(document) {
        if let Some(error) = cell.error {
            let first = error.lines().next().unwrap_or_default();
            let _ = writeln!(
                text,
                "- failed: `{}` on {} by {}: {first}",
                cell.job.name, cell.backing, cell.config
            );
        }
    }
    for skipped in &document.skipped {
        let first = skipped.why.lines().next().unwrap_or_default();
        let _ = writeln!(text, "- skipped: {}: {first}", skipped.what);
    }
    if text.is_empty() {
        text
    } else {
        format!("\n{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Requests, Skipped};
    use super::super::summary::tests::document;
    use super::*;

    #[test]
    fn render_shows_median_spread_ratio_and_who_leads() {
        let report = document(&[
            ("native", &[1000.0, 1010.0, 990.0]),
            ("thrufs", &[250.0, 260.0, 240.0]),
            ("bindfs", &[500.0, 500.0, 500.0]),
        ]);
        let text = render(&report);
        assert!(
            text.contains("| `a:4k` | MB/s | 1000 ±1% (1.00) | 250 ±4% (0.25) |"),
            "{text}"
        );
        assert!(text.contains("**500** ±0%"), "{text}");
        assert!(
            text.contains("| thrufs | bindfs | 0.50 | 0.48 in")
                || text.contains("| thrufs | bindfs | 0.50 | 0.50 in `a:4k` | 1 |"),
            "{text}"
        );
        assert!(
            text.contains("- `a:4k`: bindfs is 2.00 times thrufs"),
            "{text}"
        );
    }

    #[test]
    fn render_marks_a_disturbed_cell_and_says_how_much() {
        let mut report = document(&[("native", &[1000.0])]);
        let measured = report.runs[0].measured.as_mut().expect("a run");
        measured.load.other_seconds = 0.5;
        let text = render(&report);
        assert!(text.contains("1000 (1.00)* |"), "{text}");
        assert!(
            text.contains("1 of 1 runs were disturbed (more than 10%)"),
            "{text}"
        );
    }

    #[test]
    fn render_shows_the_requests_of_those_that_count_and_of_no_others() {
        let mut report = document(&[("native", &[1000.0]), ("thrufs", &[250.0])]);
        assert!(!render(&report).contains("WRITEs a write"));
        let measured = report.runs[1].measured.as_mut().expect("a run");
        measured.requests = Some(Requests {
            write: 1880,
            read: 0,
            all: 1900,
        });
        let text = render(&report);
        let rows = "| WRITEs a write | thrufs |\n|---|---:|\n| `a:4k` | 1.88 |\n";
        assert!(text.contains(rows), "{text}");
    }

    #[test]
    fn render_names_what_failed_and_what_was_skipped() {
        let mut report = document(&[("native", &[1000.0])]);
        report.runs[0].measured = None;
        report.runs[0].error = Some("no space\nand more".to_owned());
        report.skipped.push(Skipped {
            what: "bindfs".to_owned(),
            why: "not there".to_owned(),
        });
        let text = render(&report);
        assert!(
            text.contains("- failed: `a:4k` on tmpfs by native: no space\n"),
            "{text}"
        );
        assert!(text.contains("- skipped: bindfs: not there"), "{text}");
    }
}
