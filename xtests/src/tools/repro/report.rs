//! A run's output: lines for people, or one JSON document, with the same content.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::case::CASES;
use super::known::{Known, Platform};
use super::watch::{Setting, Stuck, Verdict};

#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    case: String,
    about: String,
    #[serde(flatten)]
    verdict: Verdict,
    seconds: f64,
    /// The kernel's known defect in this case.
    known: Option<Defect>,
}

/// A defect of the kernel that a case should show.
#[derive(Debug, Serialize)]
struct Defect {
    reason: String,
    /// Whether the case has shown it, and nothing else.
    shown: bool,
}

impl Entry {
    pub(crate) fn new(case: &str, about: &str, verdict: Verdict, started: Instant) -> Self {
        let seconds = started.elapsed().as_secs_f64();
        Self {
            case: case.to_owned(),
            about: about.to_owned(),
            verdict,
            seconds,
            known: None,
        }
    }

    /// Compares with the kernel's known defects.
    pub(crate) fn compare(&mut self, known: &[Known], platform: &Platform<'_>) {
        let known = known
            .iter()
            .find(|known| known.applies(&self.case, platform));
        self.known = known.map(|known| Defect {
            reason: known.reason.clone(),
            shown: known.matches(&self.verdict),
        });
    }

    /// Whether the mount is gone: aborted, or a worker is still stuck in it.
    pub(crate) fn ended_mount(&self) -> bool {
        match &self.verdict {
            Verdict::Slow(stuck) | Verdict::Deadlock(stuck) => stuck.freed_by != Some("SIGKILL"),
            Verdict::Ok { .. }
            | Verdict::WrongData { .. }
            | Verdict::Lacks { .. }
            | Verdict::Error { .. } => false,
        }
    }
}

/// The exit code of a run: the worst case's; a lacking feature counts only if nothing ran. With
/// `expect_known` a known defect counts as passed if the case shows it, and not if it does not.
pub(crate) fn exit_code(entries: &[Entry], expect_known: bool) -> u8 {
    let shown = |entry: &Entry| entry.known.as_ref().is_some_and(|known| known.shown);
    let passed = |entry: &Entry| matches!(entry.verdict, Verdict::Ok { .. });
    let others = entries
        .iter()
        .filter(|entry| !(expect_known && shown(entry)));
    let worst = others.map(|entry| &entry.verdict);
    match worst.max_by_key(|verdict| verdict.rank()) {
        Some(Verdict::Ok { .. } | Verdict::Lacks { .. }) | None => {
            let unexpected = |entry: &Entry| entry.known.is_some() && passed(entry);
            if expect_known && entries.iter().any(unexpected) {
                4
            } else if entries.iter().any(|entry| passed(entry) || shown(entry)) {
                0
            } else {
                77
            }
        }
        Some(worst) => worst.exit_code(),
    }
}

pub(crate) fn detail(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Ok { detail }
        | Verdict::WrongData { detail }
        | Verdict::Lacks { detail }
        | Verdict::Error { detail } => detail.clone(),
        Verdict::Slow(stuck) => {
            format!(
                "no answer within deadline and grace; {}",
                outstanding(stuck)
            )
        }
        Verdict::Deadlock(stuck) => outstanding(stuck),
    }
}

fn outstanding(stuck: &Stuck) -> String {
    let waiting = match stuck.waiting {
        Some(0) => "no request is outstanding, the kernel waits for itself".to_owned(),
        Some(count) => format!("{count} requests outstanding"),
        None => "outstanding requests unknown (fusectl is not mounted, or no FUSE mount)".into(),
    };
    let freed = match stuck.freed_by {
        Some(by) => format!("freed by {by}"),
        None => "STILL STUCK; run again with --abort, or write 1 to the connection's `abort` \
                 under /sys/fs/fuse/connections"
            .into(),
    };
    format!("{waiting}; {freed}")
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Ok { .. } => "ok",
        Verdict::WrongData { .. } => "WRONG DATA",
        Verdict::Lacks { .. } => "skipped",
        Verdict::Error { .. } => "ERROR",
        Verdict::Slow(_) => "SLOW",
        Verdict::Deadlock(_) => "DEADLOCK",
    }
}

/// A progress bar on a terminal, nothing elsewhere.
pub(crate) fn bar(json: bool, length: u64) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")
        .unwrap_or_else(|_invalid| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// The cases, with a sentence each.
pub(crate) fn list(json: bool) -> anyhow::Result<()> {
    if json {
        let all: Vec<_> = CASES.iter().map(|case| (case.name, case.about)).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        for case in CASES {
            println!("{:<26} {}", case.name, case.about);
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Document<'a> {
    kernel: String,
    fstype: Option<&'a str>,
    seed: Option<u64>,
    exit_code: u8,
    cases: &'a [Entry],
}

/// Prints the whole run, which ends with this exit code.
pub(crate) fn print(
    json: bool,
    setting: &Setting,
    seed: Option<u64>,
    (entries, exit_code): (&[Entry], u8),
) -> anyhow::Result<()> {
    let kernel = nix::sys::utsname::uname()?
        .release()
        .to_string_lossy()
        .into_owned();
    let fstype = setting
        .connection
        .as_ref()
        .map(|connection| connection.fstype.as_str());
    if json {
        let document = Document {
            kernel,
            fstype,
            seed,
            exit_code,
            cases: entries,
        };
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    let seed = seed.map_or(String::new(), |seed| format!(", seed {seed}"));
    println!(
        "kernel {kernel}, file system {}{seed}",
        fstype.unwrap_or("unknown")
    );
    for entry in entries {
        let text = detail(&entry.verdict);
        println!(
            "{:<10} {:<26} {:>6.2} s  {text}",
            word(&entry.verdict),
            entry.case,
            entry.seconds
        );
        if let Verdict::Slow(stuck) | Verdict::Deadlock(stuck) = &entry.verdict {
            print_threads(stuck);
        }
        if let Some(Defect { reason, shown }) = &entry.known {
            let known = if *shown {
                "this kernel's"
            } else {
                "not seen, although known of this kernel"
            };
            println!("    {known}: {reason}");
        }
    }
    Ok(())
}

fn print_threads(stuck: &Stuck) {
    for thread in &stuck.threads {
        println!(
            "    {} {}/{} state {} wchan {}",
            thread.comm, thread.pid, thread.tid, thread.state, thread.wchan
        );
        for frame in &thread.stack {
            println!("        {frame}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(verdict: Verdict, shown: Option<bool>) -> Entry {
        let known = shown.map(|shown| Defect {
            reason: "R9".into(),
            shown,
        });
        Entry {
            known,
            ..Entry::new("case", "about", verdict, Instant::now())
        }
    }

    fn ok() -> Verdict {
        Verdict::Ok {
            detail: String::new(),
        }
    }

    fn wrong() -> Verdict {
        Verdict::WrongData {
            detail: String::new(),
        }
    }

    #[test]
    fn exit_code_of_a_known_loss_is_wrong_data_unless_it_is_expected() {
        let entries = [entry(ok(), None), entry(wrong(), Some(true))];
        assert_eq!(exit_code(&entries, false), 3);
        assert_eq!(exit_code(&entries, true), 0);
        assert_eq!(exit_code(&entries[1..], true), 0);
    }

    #[test]
    fn exit_code_of_another_loss_is_wrong_data_whatever_is_expected() {
        let entries = [entry(wrong(), Some(false)), entry(wrong(), Some(true))];
        assert_eq!(exit_code(&entries, true), 3);
        assert_eq!(exit_code(&[entry(wrong(), None)], true), 3);
    }

    #[test]
    fn exit_code_of_a_known_loss_that_does_not_come_is_its_own_if_it_is_expected() {
        let entries = [entry(ok(), Some(false)), entry(ok(), None)];
        assert_eq!(exit_code(&entries, false), 0);
        assert_eq!(exit_code(&entries, true), 4);
    }

    #[test]
    fn exit_code_of_lacking_cases_alone_is_that() {
        let lacks = || Verdict::Lacks {
            detail: String::new(),
        };
        assert_eq!(exit_code(&[entry(lacks(), None)], true), 77);
        assert_eq!(
            exit_code(&[entry(lacks(), None), entry(ok(), None)], true),
            0
        );
        assert_eq!(exit_code(&[], false), 77);
    }
}
