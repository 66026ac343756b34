//! From runs to cells: one job on one backing by one configuration.
//!
//! A ratio is taken within each round, and then the median of the ratios, never the ratio of
//! medians: a disturbance in a round affects both sides.

use std::collections::BTreeMap;

use super::jobs::Job;
use super::record::{Document, Measured, Run};
use super::stats::{Spread, geometric_mean};

pub(super) struct Cell<'a> {
    pub(super) backing: &'a str,
    pub(super) job: &'a Job,
    pub(super) config: &'a str,
    /// In the job's unit.
    pub(super) figure: Option<Spread>,
    /// To the baseline, round by round.
    pub(super) ratio: Option<Spread>,
    /// Percentile and median of its nanoseconds over the rounds.
    pub(super) latency: Vec<(f64, f64)>,
    /// CPU seconds of the daemon for each GB (or million operations).
    pub(super) daemon_cpu: Option<f64>,
    /// The same for the whole machine.
    pub(super) machine_cpu: Option<f64>,
    pub(super) writes_per_write: Option<f64>,
    pub(super) reads_per_read: Option<f64>,
    /// Median of the other load, as a part of one CPU.
    pub(super) other: f64,
    /// How many of its runs were disturbed.
    pub(super) disturbed: usize,
    /// The first failed run's error.
    pub(super) error: Option<&'a str>,
}

/// All cells in the order backing, job, configuration; cells without a run are left out.
pub(super) fn cells(document: &Document) -> Vec<Cell<'_>> {
    let mut cells = Vec::new();
    for backing in &document.backings {
        for job in &document.jobs {
            for config in &document.configs {
                cells.extend(cell(document, &backing.name, job, &config.name));
            }
        }
    }
    cells
}

fn runs<'a>(
    document: &'a Document,
    backing: &'a str,
    job: &'a str,
    config: &'a str,
) -> impl Iterator<Item = &'a Run> {
    document
        .runs
        .iter()
        .filter(move |run| run.backing == backing && run.job == job && run.config == config)
}

fn cell<'a>(
    document: &'a Document,
    backing: &'a str,
    job: &'a Job,
    config: &'a str,
) -> Option<Cell<'a>> {
    let runs: Vec<&Run> = runs(document, backing, &job.name, config).collect();
    let error = runs.iter().find_map(|run| run.error.as_deref());
    if runs.is_empty() {
        return None;
    }
    let measured: Vec<&Measured> = runs.iter().filter_map(|r| r.measured.as_ref()).collect();
    let median = |value: &dyn Fn(&Measured) -> Option<f64>| {
        Spread::of(measured.iter().filter_map(|m| value(m))).map(|spread| spread.median)
    };
    Some(Cell {
        backing,
        job,
        config,
        figure: Spread::of(measured.iter().map(|m| m.figure(job.figure))),
        ratio: ratio(document, backing, job, config, document.baseline_of(config)),
        latency: latency(&measured, job),
        daemon_cpu: median(&|m| Some(m.load.daemon_seconds? / m.volume(job.figure))),
        machine_cpu: median(&|m| Some(m.load.machine_seconds / m.volume(job.figure))),
        writes_per_write: median(&Measured::writes_per_write),
        reads_per_read: median(&Measured::reads_per_read),
        other: median(&|m| Some(m.load.other())).unwrap_or(0.0),
        disturbed: measured.iter().filter(|m| m.load.is_disturbed()).count(),
        error,
    })
}

fn latency(measured: &[&Measured], job: &Job) -> Vec<(f64, f64)> {
    // Whole percentiles and those with two decimals, as keys that compare.
    let mut by_percentile: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (percent, nanoseconds) in measured.iter().flat_map(|m| m.latency(job.figure)) {
        let key = (percent * 1000.0).round() as u64;
        by_percentile.entry(key).or_default().push(*nanoseconds);
    }
    let medians = by_percentile.into_iter();
    medians
        .filter_map(|(key, values)| Some((key as f64 / 1000.0, Spread::of(values)?.median)))
        .collect()
}

/// `config` to `to`, over the rounds that both have.
pub(super) fn ratio(
    document: &Document,
    backing: &str,
    job: &Job,
    config: &str,
    to: &str,
) -> Option<Spread> {
    let figure = |run: &Run| Some(run.measured.as_ref()?.figure(job.figure));
    let ratios = runs(document, backing, &job.name, config).filter_map(|run| {
        let mut others = runs(document, backing, &job.name, to);
        let other = others.find(|other| other.round == run.round)?;
        Some(figure(run)? / figure(other)?)
    });
    Spread::of(ratios)
}

/// One configuration against another, over all cells that both have on one backing.
pub(super) struct Duel {
    pub(super) mean: f64,
    /// The cell in which it does worst, and the ratio there.
    pub(super) worst: (String, f64),
    pub(super) cells: usize,
}

/// The geometric mean of the ratios, and the worst.
pub(super) fn duel(document: &Document, backing: &str, config: &str, to: &str) -> Option<Duel> {
    let ratios: Vec<(&str, f64)> = document
        .jobs
        .iter()
        .filter_map(|job| {
            let ratio = ratio(document, backing, job, config, to)?;
            Some((job.name.as_str(), ratio.median))
        })
        .collect();
    let worst = ratios.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(Duel {
        mean: geometric_mean(ratios.iter().map(|(_, ratio)| *ratio))?,
        worst: (worst.0.to_owned(), worst.1),
        cells: ratios.len(),
    })
}

/// READs and WRITEs through the daemon, as most peers have them.
const THROUGH_DAEMON: &str = "thrufs-through-daemon";

/// Whether this is one of thrufs's own columns.
pub(super) fn is_ours(config: &str) -> bool {
    config.starts_with("thrufs")
}

/// The peers that beat our best write-through column in this cell, with their lead.
///
/// Only like configurations are compared: kernel passthrough, which is thrufs's default, with kernel
/// passthrough, and the native directory with none, since it is the limit.
pub(super) fn ahead(document: &Document, backing: &str, job: &Job) -> Vec<(String, String, f64)> {
    let mut leads = Vec::new();
    for peer in document.configs.iter().map(|config| config.name.as_str()) {
        if is_ours(peer) || peer == "native" {
            continue;
        }
        let is_compared = |name: &str| document.configs.iter().any(|config| config.name == name);
        let ours = match peer.contains("kernel-passthrough") || !is_compared(THROUGH_DAEMON) {
            true => "thrufs",
            false => THROUGH_DAEMON,
        };
        let Some(ratio) = ratio(document, backing, job, peer, ours) else {
            continue;
        };
        if ratio.median > 1.0 {
            leads.push((peer.to_owned(), ours.to_owned(), ratio.median));
        }
    }
    leads
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::jobs::{Figure, Files};
    use super::super::load::Load;
    use super::super::output::{Moved, Traffic};
    use super::super::record::{Backing, Configuration, Machine};
    use super::*;

    fn run(config: &str, round: usize, megabytes: f64) -> Run {
        let written = Traffic {
            bytes: 1_000_000_000,
            operations: 1000,
            bytes_per_second: megabytes * 1e6,
            per_second: 1.0,
            latency: vec![(50.0, 1000.0), (99.0, 5000.0)],
        };
        Run {
            round,
            position: 0,
            backing: "tmpfs".to_owned(),
            job: "a:4k".to_owned(),
            config: config.to_owned(),
            command: "fio --directory=DIR".to_owned(),
            error: None,
            measured: Some(Measured {
                moved: Moved {
                    written,
                    read: Traffic::default(),
                },
                load: Load {
                    wall_seconds: 1.0,
                    daemon_seconds: Some(0.5),
                    machine_seconds: 1.5,
                    ..Load::default()
                },
                requests: None,
            }),
        }
    }

    /// A report with one job on tmpfs: configurations with their MB/s by round.
    pub(in super::super) fn document(configs: &[(&str, &[f64])]) -> Document {
        let job = Job {
            name: "a:4k".to_owned(),
            file: "a.fio".to_owned(),
            section: "4k".to_owned(),
            question: "how fast?".to_owned(),
            read: "MB/s".to_owned(),
            regression: "less".to_owned(),
            files: Files::Shared,
            figure: Figure::Written,
            engine: "psync".to_owned(),
        };
        let columns = configs.iter().map(|(name, _)| Configuration {
            name: (*name).to_owned(),
            command: None,
            version: None,
            baseline: None,
        });
        let runs = configs.iter().flat_map(|(name, values)| {
            values
                .iter()
                .enumerate()
                .map(|(round, v)| run(name, round, *v))
        });
        Document {
            format: Document::format(),
            started: "2026-01-31T23:59:59Z".to_owned(),
            finished: "2026-01-31T23:59:59Z".to_owned(),
            incomplete: false,
            rounds: 3,
            runtime_seconds: 1,
            cold: false,
            baseline: "native".to_owned(),
            machine: Machine {
                kernel: "6.18".to_owned(),
                distribution: "Debian".to_owned(),
                cpu: "a CPU".to_owned(),
                cpus: 2,
                memory_bytes: 1 << 30,
                fuse_max_pages_limit: None,
                fio: "fio-3.33".to_owned(),
            },
            backings: vec![Backing {
                name: "tmpfs".to_owned(),
            }],
            configs: columns.collect(),
            jobs: vec![job],
            skipped: Vec::new(),
            runs: runs.collect(),
            system_calls: Vec::new(),
        }
    }

    #[test]
    fn ratio_is_taken_round_by_round() {
        // A disturbance that halves both in one round leaves every ratio at a half.
        let report = document(&[
            ("native", &[100.0, 50.0, 100.0]),
            ("thrufs", &[50.0, 25.0, 50.0]),
        ]);
        let cells = cells(&report);
        let ratio = cells[1].ratio.expect("three rounds");
        assert_eq!((ratio.median, ratio.min, ratio.max), (0.5, 0.5, 0.5));
        assert_eq!(cells[1].daemon_cpu, Some(0.5));
    }

    #[test]
    fn ratio_of_a_configuration_with_a_baseline_of_its_own_is_to_that() {
        let mut report = document(&[("a/x", &[10.0]), ("a/y", &[40.0]), ("b/y", &[60.0])]);
        report.baseline = "a/x".to_owned();
        report.configs[2].baseline = Some("a/y".to_owned());
        let ratios: Vec<f64> = cells(&report)
            .iter()
            .filter_map(|cell| Some(cell.ratio?.median))
            .collect();
        assert_eq!(ratios, [1.0, 4.0, 1.5]);
    }

    #[test]
    fn cell_with_a_failed_run_keeps_the_others_and_the_reason() {
        let mut report = document(&[("native", &[100.0, 100.0])]);
        report.runs[0].measured = None;
        report.runs[0].error = Some("broken".to_owned());
        let cells = cells(&report);
        assert_eq!(cells[0].error, Some("broken"));
        assert_eq!(cells[0].figure.map(|figure| figure.n), Some(1));
    }

    #[test]
    fn ahead_names_a_peer_that_is_faster_and_never_the_limit() {
        let report = document(&[
            ("native", &[900.0]),
            ("thrufs", &[850.0]),
            ("thrufs-through-daemon", &[100.0]),
            ("bindfs", &[150.0]),
            ("passthrough_hp-kernel-passthrough", &[800.0]),
        ]);
        let leads = ahead(&report, "tmpfs", &report.jobs[0]);
        let led = ("bindfs".to_owned(), THROUGH_DAEMON.to_owned(), 1.5);
        assert_eq!(leads, [led]);
        // Where the daemon's way is not compared, the default is.
        let report = document(&[("thrufs", &[100.0]), ("bindfs", &[150.0])]);
        let leads = ahead(&report, "tmpfs", &report.jobs[0]);
        assert_eq!(leads, [("bindfs".to_owned(), "thrufs".to_owned(), 1.5)]);
    }

    #[test]
    fn duel_names_the_worst_cell() {
        let report = document(&[("native", &[100.0]), ("thrufs", &[50.0])]);
        let duel = duel(&report, "tmpfs", "thrufs", "native").expect("a cell");
        assert_eq!((duel.cells, duel.worst), (1, ("a:4k".to_owned(), 0.5)));
    }
}
