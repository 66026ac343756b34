//! The result as Markdown.

use std::fmt::Write;

use super::super::record::Machine;
use super::super::stats::{Spread, geometric_mean};
use super::record::{Counted, Run};

/// Kinds of requests or calls that a row names.
const NAMED: usize = 8;

/// What is reported.
pub(super) struct Session<'a> {
    pub(super) started: &'a str,
    pub(super) machine: &'a Machine,
    pub(super) files: u32,
    pub(super) at_once: u32,
    pub(super) rounds: u16,
    pub(super) cold: bool,
    pub(super) programs: &'a [&'a str],
    pub(super) backings: &'a [&'a str],
    pub(super) configs: &'a [&'a str],
    pub(super) runs: &'a [Run],
    pub(super) calls: &'a [Counted],
}

impl Session<'_> {
    fn runs(&self, backing: &str, program: &str, config: &str) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| {
            run.backing == backing && run.program == program && run.config == config
        })
    }

    fn seconds(&self, backing: &str, program: &str, config: &str) -> Option<Spread> {
        let runs = self.runs(backing, program, config);
        Spread::of(runs.filter_map(|run| Some(run.load?.wall_seconds)))
    }

    /// How many times as fast as `config` thrufs is, round by round.
    fn lead(&self, backing: &str, program: &str, ours: &str, config: &str) -> Option<Spread> {
        let ratios = self.runs(backing, program, ours).filter_map(|our| {
            let mut theirs = self.runs(backing, program, config);
            let their = theirs.find(|run| run.round == our.round)?;
            Some(their.load?.wall_seconds / our.load?.wall_seconds)
        });
        Spread::of(ratios)
    }

    fn ours(&self) -> Option<&str> {
        self.configs
            .iter()
            .find(|name| name.starts_with("thrufs"))
            .copied()
    }
}

pub(super) fn render(session: &Session<'_>) -> String {
    let mut text = conditions(session);
    for backing in session.backings {
        let _ = write!(text, "\n### {backing}\n\n");
        text += &table(session, backing);
        text += &leads(session, backing);
        text += &requests(session, backing);
    }
    text += &calls(session);
    text += &failures(session);
    text
}

fn conditions(session: &Session<'_>) -> String {
    let machine = session.machine;
    let caches = match session.cold {
        true => "all caches dropped before each run",
        false => "the backing's cache as the preparation left it",
    };
    format!(
        "{}, {}, Linux {}, {} CPUs ({}). {} files, {} at once, {caches}. Medians in seconds of {} rounds in turns; ± is \
         half the distance from least to most, in brackets the CPU seconds of the server.\n",
        session.started,
        machine.distribution,
        machine.kernel,
        machine.cpus,
        machine.cpu,
        session.files,
        session.at_once,
        session.rounds,
    )
}

fn table(session: &Session<'_>, backing: &str) -> String {
    let mut text = String::from("| program |");
    for config in session.configs {
        let _ = write!(text, " {config} |");
    }
    text += "\n|---|";
    text += &"---:|".repeat(session.configs.len());
    text.push('\n');
    for program in session.programs {
        let _ = write!(text, "| {program} |");
        for config in session.configs {
            let cpu = session.runs(backing, program, config);
            let cpu = Spread::of(cpu.filter_map(|run| run.load?.daemon_seconds));
            let cpu = cpu.map_or(String::new(), |cpu| format!(" ({:.2})", cpu.median));
            let _ = match session.seconds(backing, program, config) {
                Some(s) => write!(
                    text,
                    " {:.3} ±{:.0}%{cpu} |",
                    s.median,
                    100.0 * s.relative()
                ),
                None => write!(text, " - |"),
            };
        }
        text.push('\n');
    }
    text
}

/// thrufs against each other configuration: the median of the rounds' ratios, and their geometric mean.
fn leads(session: &Session<'_>, backing: &str) -> String {
    let Some(ours) = session.ours() else {
        return String::new();
    };
    let others: Vec<&str> = session
        .configs
        .iter()
        .copied()
        .filter(|name| *name != ours)
        .collect();
    let mut text = format!("\n{ours} is so many times as fast as\n\n| program |");
    for config in &others {
        let _ = write!(text, " {config} |");
    }
    text += "\n|---|";
    text += &"---:|".repeat(others.len());
    text.push('\n');
    for program in session.programs {
        let _ = write!(text, "| {program} |");
        for config in &others {
            let _ = match session.lead(backing, program, ours, config) {
                // One lies among the ratios of the rounds.
                Some(lead) if lead.min <= 1.0 && lead.max >= 1.0 => {
                    write!(text, " {:.2} (level) |", lead.median)
                }
                Some(lead) => write!(text, " {:.2} |", lead.median),
                None => write!(text, " - |"),
            };
        }
        text.push('\n');
    }
    text += "| geometric mean |";
    for config in &others {
        let leads = session
            .programs
            .iter()
            .filter_map(|program| Some(session.lead(backing, program, ours, config)?.median));
        let _ = match geometric_mean(leads) {
            Some(mean) => write!(text, " {mean:.2} |"),
            None => write!(text, " - |"),
        };
    }
    text + "\n"
}

/// Of the first round; what thrufs counts does not depend on the machine's load.
fn requests(session: &Session<'_>, backing: &str) -> String {
    let Some(ours) = session.ours() else {
        return String::new();
    };
    let mut text =
        format!("\nRequests to {ours}\n\n| program | all | of which |\n|---|---:|---|\n");
    for program in session.programs {
        let Some(run) = session.runs(backing, program, ours).next() else {
            continue;
        };
        let _ = writeln!(text, "| {program} | {} |", named(&run.requests));
    }
    text
}

fn calls(session: &Session<'_>) -> String {
    if session.calls.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n### System calls of the server\n\n| program | | all | of which |\n|---|---|---:|---|\n",
    );
    for Counted {
        program,
        config,
        calls,
    } in session.calls
    {
        let _ = writeln!(text, "| {program} | {config} | {} |", named(calls));
    }
    text
}

/// The sum, and the largest of them.
fn named(counts: &[(String, u64)]) -> String {
    let sum: u64 = counts.iter().map(|(_, count)| count).sum();
    let mut counts = counts.to_vec();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let largest = counts.iter().take(NAMED);
    let largest: Vec<String> = largest
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    format!("{sum} | {}", largest.join(", "))
}

fn failures(session: &Session<'_>) -> String {
    let mut text = String::new();
    for run in session.runs {
        if let Some(error) = &run.error {
            let (program, config) = (&run.program, &run.config);
            let _ = writeln!(text, "\n{program} on {config}, {}: {error}", run.backing);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::load::Load;
    use super::*;

    fn run(config: &str, round: usize, seconds: f64) -> Run {
        Run {
            round,
            backing: "tmpfs".to_owned(),
            program: "tar-x".to_owned(),
            config: config.to_owned(),
            load: Some(Load {
                wall_seconds: seconds,
                ..Load::default()
            }),
            requests: vec![("LOOKUP".to_owned(), 3), ("CREATE".to_owned(), 7)],
            error: None,
        }
    }

    #[test]
    fn render_says_who_is_ahead_and_what_is_within_the_noise() {
        let runs = [
            run("thrufs", 0, 1.0),
            run("bindfs", 0, 2.0),
            run("thrufs again", 0, 0.9),
            run("thrufs", 1, 1.0),
            run("bindfs", 1, 3.0),
            run("thrufs again", 1, 1.2),
        ];
        let machine = Machine {
            kernel: "6.18".to_owned(),
            distribution: "Debian".to_owned(),
            cpu: "a CPU".to_owned(),
            cpus: 2,
            memory_bytes: 1,
            fuse_max_pages_limit: None,
            fio: String::new(),
        };
        let text = render(&Session {
            started: "now",
            machine: &machine,
            files: 20,
            at_once: 1,
            rounds: 2,
            cold: false,
            programs: &["tar-x"],
            backings: &["tmpfs"],
            configs: &["thrufs", "bindfs", "thrufs again"],
            runs: &runs,
            calls: &[],
        });
        assert!(text.contains("| tar-x | 2.50 | 1.05 (level) |"), "{text}");
        assert!(
            text.contains("| tar-x | 10 | CREATE 7, LOOKUP 3 |"),
            "{text}"
        );
    }
}
