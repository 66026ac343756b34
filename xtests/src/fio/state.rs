//! A session's state on disk, so that it can be interrupted and resumed: the plan, and a line for
//! each run, appended as soon as the run is done.
//!
//! Invariant: a directory holds one plan for ever; resuming follows that plan and not the command
//! line, so that old and new runs measure the same.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use xtests::support::install;

use super::configs::Binary;
use super::record::Run;

const PLAN: &str = "plan.json";
const RUNS: &str = "runs.jsonl";

/// Everything that decides what is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Names of jobs.
    pub(super) jobs: Vec<String>,
    /// As on the command line.
    pub(super) configs: Vec<String>,
    pub(super) binaries: Vec<Binary>,
    pub(super) against: Vec<PathBuf>,
    pub(super) backings: Vec<String>,
    pub(super) rounds: usize,
    pub(super) runtime_seconds: u32,
    pub(super) cold: bool,
    pub(super) baseline: String,
    /// UTC.
    pub(super) started: String,
}

/// A session's directory.
pub(super) struct State {
    pub(super) dir: PathBuf,
    runs: File,
}

impl State {
    /// A new session in `dir`, or in a directory of its own below `target/fio`.
    pub(super) fn create(plan: &Plan, dir: Option<&Path>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => sessions().join(plan.started.replace(':', "")),
        };
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let path = dir.join(PLAN);
        ensure!(
            !path.exists(),
            "{} has a session already: `xtests fio --resume {}` goes on with it, `xtests fio \
             --out DIR` names another directory",
            dir.display(),
            dir.display()
        );
        std::fs::write(&path, serde_json::to_string_pretty(plan)?)?;
        Self::open(dir)
    }

    /// The session in `dir`, with its plan and its runs.
    pub(super) fn resume(dir: &Path) -> Result<(Self, Plan, Vec<Run>)> {
        let path = dir.join(PLAN);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "{}: no session to resume; start one without --resume",
                path.display()
            )
        })?;
        let plan = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let path = dir.join(RUNS);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let runs = parse_runs(&text).with_context(|| path.display().to_string())?;
        // A cut-off line is run again, and must not swallow the next one.
        let whole: String = runs.iter().map(line).collect::<Result<_>>()?;
        std::fs::write(&path, whole)?;
        Ok((Self::open(dir.to_owned())?, plan, runs))
    }

    fn open(dir: PathBuf) -> Result<Self> {
        let path = dir.join(RUNS);
        let runs = File::options().create(true).append(true).open(&path);
        let runs = runs.with_context(|| path.display().to_string())?;
        Ok(Self { dir, runs })
    }

    /// Stores a run.
    pub(super) fn append(&mut self, run: &Run) -> Result<()> {
        self.runs.write_all(line(run)?.as_bytes())?;
        Ok(())
    }
}

fn line(run: &Run) -> Result<String> {
    Ok(serde_json::to_string(run)? + "\n")
}

/// All lines; the last one may be cut off.
fn parse_runs(text: &str) -> Result<Vec<Run>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut runs = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(run) => runs.push(run),
            Err(_) if at + 1 == lines.len() && !text.ends_with('\n') => {}
            Err(error) => return Err(error).with_context(|| format!("line {}", at + 1)),
        }
    }
    Ok(runs)
}

fn sessions() -> PathBuf {
    install::target().join("fio")
}

/// The newest session.
pub(super) fn newest() -> Result<PathBuf> {
    let dir = sessions();
    let entries = std::fs::read_dir(&dir).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    // Directories are named by their date.
    let newest = paths.filter(|path| path.join(PLAN).is_file()).max();
    newest.with_context(|| format!("{}: no session to resume", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            jobs: vec!["a:4k".to_owned()],
            configs: vec!["native".to_owned()],
            binaries: Vec::new(),
            against: Vec::new(),
            backings: vec!["tmpfs".to_owned()],
            rounds: 2,
            runtime_seconds: 1,
            cold: false,
            baseline: "native".to_owned(),
            started: "2026-01-31T23:59:59Z".to_owned(),
        }
    }

    fn run(round: usize) -> Run {
        Run {
            round,
            position: 0,
            backing: "tmpfs".to_owned(),
            job: "a:4k".to_owned(),
            config: "native".to_owned(),
            command: "fio".to_owned(),
            error: Some("none".to_owned()),
            measured: None,
        }
    }

    #[test]
    fn resume_after_an_append_gives_plan_and_runs_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = State::create(&plan(), Some(dir.path())).expect("a new session");
        state.append(&run(0)).expect("kept");
        let (_, found, runs) = State::resume(dir.path()).expect("resumed");
        assert_eq!((found, runs), (plan(), vec![run(0)]));
    }

    #[test]
    fn resume_after_a_cut_line_drops_it_and_keeps_the_file_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = State::create(&plan(), Some(dir.path())).expect("a new session");
        state.append(&run(0)).expect("kept");
        let path = dir.path().join(RUNS);
        let text = std::fs::read_to_string(&path).expect("runs") + "{\"round\":";
        std::fs::write(&path, text).expect("written");
        let (mut state, _, runs) = State::resume(dir.path()).expect("resumed");
        assert_eq!(runs, [run(0)]);
        state.append(&run(1)).expect("kept");
        let (_, _, runs) = State::resume(dir.path()).expect("resumed again");
        assert_eq!(runs, [run(0), run(1)]);
    }

    #[test]
    fn create_where_a_session_is_refuses_and_names_the_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        State::create(&plan(), Some(dir.path())).expect("a new session");
        let error = State::create(&plan(), Some(dir.path()))
            .err()
            .expect("the second");
        assert!(error.to_string().contains("--resume"), "{error}");
    }

    #[test]
    fn resume_without_a_session_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = State::resume(dir.path()).err().expect("nothing there");
        assert!(error.to_string().contains("no session"), "{error}");
    }
}
