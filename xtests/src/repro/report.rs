//! What a run shows: lines for people, or one JSON document, with the same content.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::case::CASES;
use super::watch::{Setting, Stuck, Verdict};

/// One case of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    case: String,
    about: String,
    #[serde(flatten)]
    verdict: Verdict,
    seconds: f64,
}

impl Entry {
    pub(crate) fn new(case: &str, about: &str, verdict: Verdict, started: Instant) -> Self {
        let seconds = started.elapsed().as_secs_f64();
        Self {
            case: case.to_owned(),
            about: about.to_owned(),
            verdict,
            seconds,
        }
    }

    /// Whether there is no mount to go on with: aborted, or a worker is still stuck in it.
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

/// The exit code of a run: the worst case's; what is lacking counts only if nothing ran.
pub(crate) fn exit_code(entries: &[Entry]) -> u8 {
    let worst = entries
        .iter()
        .map(|entry| &entry.verdict)
        .max_by_key(|verdict| verdict.rank());
    match worst {
        None => 77,
        Some(Verdict::Lacks { .. }) => {
            let ran = entries
                .iter()
                .any(|entry| matches!(entry.verdict, Verdict::Ok { .. }));
            if ran { 0 } else { 77 }
        }
        Some(verdict) => verdict.exit_code(),
    }
}

/// A verdict's text.
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

/// Prints the whole run.
pub(crate) fn print(
    json: bool,
    setting: &Setting,
    seed: Option<u64>,
    entries: &[Entry],
) -> anyhow::Result<()> {
    let kernel = nix::sys::utsname::uname()?
        .release()
        .to_string_lossy()
        .into_owned();
    let fstype = setting
        .connection
        .as_ref()
        .map(|connection| connection.fstype.as_str());
    let exit_code = exit_code(entries);
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
