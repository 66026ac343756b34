//! The jobs: the files of `fio-jobs`, each section of which is one job `FILE:SECTION`.
//!
//! Invariant: every file opens with its question, the figure to read and what would be a
//! regression; a file without one of them is refused, so that every number has a meaning. Only what
//! the runner must know is parsed; the rest is fio's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Where a job's files come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Files {
    /// Laid out once, natively, and used by every run.
    Shared,
    /// Laid out natively before each run, in a directory of the run's own.
    Made,
    /// None: an empty directory for each run.
    Fresh,
}

/// What the job's figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Figure {
    /// Megabytes (10^6) read in a second.
    Read,
    /// Megabytes written in a second.
    Written,
    /// Megabytes in both directions in a second.
    Both,
    /// Operations in a second (metadata engines).
    Operations,
}

impl Figure {
    /// The unit, as printed.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Read | Self::Written | Self::Both => "MB/s",
            Self::Operations => "ops/s",
        }
    }

    /// What CPU seconds are divided by, as printed.
    pub(super) fn volume(self) -> &'static str {
        match self {
            Self::Read | Self::Written | Self::Both => "GB",
            Self::Operations => "million operations",
        }
    }
}

/// One section of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    /// `FILE:SECTION`, without `.fio`.
    pub(super) name: String,
    pub(super) file: String,
    pub(super) section: String,
    pub(super) question: String,
    /// The figure to read.
    pub(super) read: String,
    pub(super) regression: String,
    pub(super) files: Files,
    pub(super) figure: Figure,
    /// fio's I/O engine.
    pub(super) engine: String,
}

/// The directory with the jobs.
pub(super) fn directory() -> PathBuf {
    xtests::support::install::root().join("fio-jobs")
}

/// All jobs, by file and in the order of their sections.
pub(super) fn load(directory: &Path) -> Result<Vec<Job>> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("{}: no fio jobs there", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "fio"));
    paths.sort();
    ensure!(!paths.is_empty(), "{}: no *.fio", directory.display());
    let mut jobs = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let file = path.file_name().and_then(|name| name.to_str());
        let file = file.with_context(|| format!("{}: not a UTF-8 name", path.display()))?;
        jobs.extend(parse(file, &text).with_context(|| path.display().to_string())?);
    }
    Ok(jobs)
}

/// `key=value` lines of a section.
type Options = BTreeMap<String, String>;

/// The comments at the top, `[global]`, and the other sections in order.
struct Parts {
    head: BTreeMap<String, String>,
    global: Options,
    sections: Vec<(String, Options)>,
}

fn split(text: &str) -> Parts {
    let mut parts = Parts {
        head: BTreeMap::new(),
        global: Options::new(),
        sections: Vec::new(),
    };
    let mut in_section = false;
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix('#') {
            if let (false, Some((key, value))) = (in_section, comment.split_once(':')) {
                parts.head.insert(key.trim().into(), value.trim().into());
            }
        } else if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            in_section = true;
            if name != "global" {
                parts.sections.push((name.to_owned(), Options::new()));
            }
        } else if !line.is_empty() {
            let (key, value) = line.split_once('=').unwrap_or((line, "1"));
            let options = match parts.sections.last_mut() {
                Some((_, options)) => options,
                None => &mut parts.global,
            };
            options.insert(key.trim().into(), value.trim().into());
        }
    }
    parts
}

fn parse(file: &str, text: &str) -> Result<Vec<Job>> {
    let Parts {
        head,
        global,
        sections,
    } = split(text);
    let line = |key: &str| {
        let value = head.get(key).filter(|value| !value.is_empty()).cloned();
        value.with_context(|| format!("it does not open with a line `# {key}: ...`"))
    };
    let files = match head.get("Files").map(String::as_str) {
        None => Files::Shared,
        Some("made") => Files::Made,
        Some("fresh") => Files::Fresh,
        Some(other) => bail!("`# Files: {other}`: it is made or fresh, or left out"),
    };
    ensure!(!sections.is_empty(), "no section beside [global]");
    let stem = file.trim_end_matches(".fio");
    let mut jobs = Vec::new();
    for (section, options) in sections {
        let option = |key: &str| options.get(key).or_else(|| global.get(key));
        let engine = option("ioengine").context("no ioengine")?.clone();
        let name = format!("{stem}:{section}");
        let rw = option("rw").map(String::as_str);
        let figure = figure(&engine, rw).with_context(|| format!("[{section}]"))?;
        jobs.push(Job {
            name,
            file: file.to_owned(),
            section,
            question: line("Question")?,
            read: line("Read")?,
            regression: line("Regression")?,
            files,
            figure,
            engine,
        });
    }
    Ok(jobs)
}

fn figure(engine: &str, rw: Option<&str>) -> Result<Figure> {
    if ["filecreate", "filestat", "filedelete"].contains(&engine) {
        return Ok(Figure::Operations);
    }
    match rw {
        Some("read" | "randread") => Ok(Figure::Read),
        Some("write" | "randwrite") => Ok(Figure::Written),
        Some("rw" | "readwrite" | "randrw") => Ok(Figure::Both),
        Some(other) => bail!("rw={other}: the runner knows read, write, rw and their rand forms"),
        None => bail!("no rw"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# Question: how fast?\n# Read: MB/s.\n# Regression: less.\n\n[global]\n\
        ioengine=psync\nrw=randwrite\n\n[4k]\nstonewall\nbs=4k\n[64k]\nbs=64k\n";

    #[test]
    fn parse_of_two_sections_gives_two_jobs() {
        let jobs = parse("a-psync.fio", FILE).expect("a good file");
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        assert_eq!(names, ["a-psync:4k", "a-psync:64k"]);
        assert_eq!(jobs[1].question, "how fast?");
        assert_eq!(
            (jobs[0].figure, jobs[0].files),
            (Figure::Written, Files::Shared)
        );
    }

    #[test]
    fn parse_without_a_question_is_refused() {
        let text = FILE.replace("# Question: how fast?\n", "");
        let error = parse("a.fio", &text).expect_err("no question");
        assert!(error.to_string().contains("# Question:"), "{error}");
    }

    #[test]
    fn parse_with_an_unknown_rw_is_refused() {
        let text = FILE.replace("randwrite", "trim");
        let error = parse("a.fio", &text).expect_err("trim");
        assert!(format!("{error:#}").contains("rw=trim"), "{error:#}");
    }

    #[test]
    fn every_job_of_the_repository_parses_and_stands_in_the_readme() {
        let jobs = load(&directory()).expect("the repository's jobs");
        let readme = std::fs::read_to_string(directory().join("README.md")).expect("README.md");
        for job in &jobs {
            let row = format!("| `{}` |", job.file);
            assert!(readme.contains(&row), "README.md has no row {row}");
        }
        assert!(jobs.len() > 80, "{} jobs", jobs.len());
    }
}
