//! Sets of jobs with a name, for `--set`, and the choice of jobs by set and by name.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::jobs::Job;
use super::names::unknown;

/// A set: name, what it is for, and which jobs belong to it.
struct Set {
    name: &'static str,
    about: &'static str,
    holds: fn(&Job) -> bool,
}

const SETS: &[Set] = &[
    Set {
        name: "seeds",
        about: "64 KiB psync writes, sequential and random: one page against many in a WRITE",
        holds: |job| ["seqwrite-psync:64k", "randwrite-psync:64k"].contains(&job.name.as_str()),
    },
    Set {
        name: "quick",
        about: "six jobs that show most of a change",
        holds: |job| QUICK.contains(&job.name.as_str()),
    },
    Set {
        name: "matrix",
        about: "24 cells: read, write x seq, rand x 4k, 64k, 1m x 1, 4 processes (psync)",
        holds: |job| is_matrix(&job.file),
    },
    Set {
        name: "engines",
        about: "seq, rand x read, write, and randrw x psync, mmap, libaio x 1, 4 x 4k, 64k",
        holds: |job| is_engines(&job.file) && job.section != "1m",
    },
    Set {
        name: "metadata",
        about: "create, stat, unlink, small files",
        holds: |job| job.file.starts_with("file") || job.file.contains("-small"),
    },
    Set {
        name: "special",
        about: "what is in no matrix: unaligned, queued, durable, verified, metadata",
        holds: |job| !is_engines(&job.file),
    },
    Set {
        name: "all",
        about: "every job",
        holds: |_| true,
    },
];

const QUICK: &[&str] = &[
    "seqwrite-psync:64k",
    "randwrite-psync:64k",
    "randwrite-psync:4k",
    "seqread-psync:64k",
    "randread-psync:4k",
    "seqwrite-psync-append:4000",
];

fn stem(file: &str) -> &str {
    let stem = file.trim_end_matches(".fio");
    stem.strip_suffix("-multi").unwrap_or(stem)
}

fn is_matrix(file: &str) -> bool {
    ["seqread", "seqwrite", "randread", "randwrite"]
        .iter()
        .any(|pattern| stem(file).strip_prefix(pattern) == Some("-psync"))
}

fn is_engines(file: &str) -> bool {
    let pattern = stem(file).split_once('-').map(|(pattern, _)| pattern);
    let known = ["seqread", "seqwrite", "randread", "randwrite", "randrw"];
    pattern.is_some_and(|pattern| known.contains(&pattern))
        && ["-psync", "-mmap", "-libaio"]
            .iter()
            .any(|engine| stem(file).ends_with(engine))
}

/// The names of the jobs in `set`.
pub(super) fn jobs<'a>(set: &str, all: &'a [Job]) -> Result<Vec<&'a str>> {
    let found = SETS.iter().find(|known| known.name == set).ok_or_else(|| {
        let known = SETS.iter().map(|set| set.name);
        unknown("set", set, known, "`xtests fio --list` names all")
    })?;
    let members = all.iter().filter(|job| (found.holds)(job));
    Ok(members.map(|job| job.name.as_str()).collect())
}

/// The jobs that `words` (FILE or FILE:SECTION) and `sets` name, each once, in their order.
pub(super) fn select(all: &[Job], words: &[String], chosen: &[String]) -> Result<Vec<Job>> {
    let mut names: Vec<&str> = Vec::new();
    for set in chosen {
        names.extend(jobs(set, all)?);
    }
    for word in words {
        let word = word.trim_end_matches(".fio");
        let found: Vec<&str> = all
            .iter()
            .filter(|job| job.name == word || job.file.trim_end_matches(".fio") == word)
            .map(|job| job.name.as_str())
            .collect();
        if found.is_empty() {
            let files = all.iter().map(|job| job.file.trim_end_matches(".fio"));
            let known = all.iter().map(|job| job.name.as_str()).chain(files);
            let known: BTreeSet<&str> = known.collect();
            return Err(unknown("job", word, known, "`xtests fio --list` names all"));
        }
        names.extend(found);
    }
    let mut selected: Vec<Job> = Vec::new();
    for name in names {
        if !selected.iter().any(|job| job.name == name) {
            let job = all.iter().find(|job| job.name == name);
            selected.push(job.with_context(|| format!("no job {name}"))?.clone());
        }
    }
    ensure!(!selected.is_empty(), "no job is selected");
    Ok(selected)
}

/// `name: what it is for (how many jobs)`, a line each.
pub(super) fn list(all: &[Job]) -> String {
    SETS.iter()
        .map(|set| {
            let count = all.iter().filter(|job| (set.holds)(job)).count();
            format!("  {:<10} {count:>3} jobs: {}\n", set.name, set.about)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::jobs::{directory, load};
    use super::*;

    #[test]
    fn sets_have_as_many_jobs_as_their_names_promise() {
        let all = load(&directory()).expect("the repository's jobs");
        let count = |set: &str| jobs(set, &all).expect("a set").len();
        assert_eq!(count("seeds"), 2);
        assert_eq!(count("quick"), QUICK.len());
        assert_eq!(count("matrix"), 24);
        assert_eq!(count("engines"), 60);
        assert_eq!(count("all"), all.len());
    }

    #[test]
    fn set_that_does_not_exist_names_the_nearest() {
        let error = jobs("matrx", &[]).expect_err("misspelt");
        assert!(
            error.to_string().contains("did you mean matrix?"),
            "{error}"
        );
    }

    #[test]
    fn select_of_an_unknown_job_names_the_nearest() {
        let all = load(&directory()).expect("the repository's jobs");
        let error = select(&all, &["seqwrite-psink".to_owned()], &[]).expect_err("misspelt");
        assert!(
            error.to_string().contains("did you mean seqwrite-psync"),
            "{error}"
        );
    }

    #[test]
    fn select_of_a_file_and_one_of_its_sections_takes_each_once() {
        let all = load(&directory()).expect("the repository's jobs");
        let words = [
            "seqwrite-psync:64k".to_owned(),
            "seqwrite-psync.fio".to_owned(),
        ];
        let selected = select(&all, &words, &[]).expect("known");
        assert_eq!(selected[0].name, words[0]);
        let sections = all.iter().filter(|job| job.file == words[1]);
        assert_eq!(selected.len(), sections.count());
    }
}
