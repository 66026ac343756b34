//! fio's verifying jobs (`xtests/suites/fio-verify`): write with one I/O engine, read back, compare
//! checksums. Each job file is a test.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::options::Options;
use super::verdicts::{Verdict, Verdicts};
use crate::support::command::{output, said, said_on_stderr, tail};
use crate::support::install;
use crate::support::skip::missing;

/// Makes sure of fio.
pub(super) fn provide() -> Result<()> {
    install::apt(&[("fio", "fio")])
}

/// Runs every job in `dir`.
pub fn run(dir: &Path, _options: &Options) -> Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    for job in jobs()? {
        let name = job.file_stem().unwrap_or_default().to_string_lossy();
        let room = dir.join(&*name);
        std::fs::create_dir(&room).with_context(|| room.display().to_string())?;
        verdicts.insert(name.into_owned(), Verdict::from(verify(&job, &room)));
        std::fs::remove_dir_all(&room).with_context(|| room.display().to_string())?;
    }
    Ok(verdicts)
}

fn jobs() -> Result<Vec<PathBuf>> {
    let place = install::root().join("xtests/suites/fio-verify");
    let entries = std::fs::read_dir(&place).with_context(|| place.display().to_string())?;
    let mut jobs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "fio") {
            jobs.push(path);
        }
    }
    ensure!(!jobs.is_empty(), "{} has no .fio file", place.display());
    jobs.sort();
    Ok(jobs)
}

fn verify(job: &Path, room: &Path) -> Result<()> {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "180", "fio", "--output-format=json"]);
    command.arg(format!("--directory={}", room.display()));
    // fio's state file of a failed verification belongs beside the job's output, not here.
    let elsewhere = tempfile::tempdir()?;
    let done = output(command.arg(job).current_dir(elsewhere.path()))?;
    let text = String::from_utf8_lossy(&done.stdout);
    let errors = said_on_stderr(&done);
    if text.contains("engine") && text.contains("not loadable") {
        return Err(missing(format!("an I/O engine of fio: {}", tail(&errors))));
    }
    let status = done.status;
    ensure!(status.success(), "fio: {status}\n{}", tail(&said(&done)));
    ensure_all_was_read(&text)
}

/// A job that verified nothing has proved nothing: it must have read as many bytes as it wrote.
fn ensure_all_was_read(output: &str) -> Result<()> {
    // fio prints notes before the document.
    let start = output.find("\n{").map_or(0, |at| at + 1);
    let document: serde_json::Value =
        serde_json::from_str(&output[start..]).context("fio prints no JSON document")?;
    let jobs = document["jobs"].as_array().context("fio names no job")?;
    // A job that only verifies counts the bytes that it would have written.
    let bytes = |direction: &str| {
        let each = jobs
            .iter()
            .filter(|job| job["job options"]["verify_only"].is_null() || direction == "read");
        each.filter_map(|job| job[direction]["io_bytes"].as_u64())
            .sum::<u64>()
    };
    let (written, read) = (bytes("write"), bytes("read"));
    ensure!(
        written > 0 && read >= written,
        "{written} bytes written, {read} read back"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ensure_all_was_read_of_a_job_without_reads_fails() {
        let job = |read| {
            format!(
                "fio: a note\n{{\"jobs\": [{{\"jobname\": \"a\", \"error\": 0, \
                 \"read\": {{\"io_bytes\": {read}}}, \"write\": {{\"io_bytes\": 10}}}}]}}"
            )
        };
        assert!(ensure_all_was_read(&job(10)).is_ok());
        let error = ensure_all_was_read(&job(0)).unwrap_err().to_string();
        assert!(error.contains("10 bytes written, 0 read back"), "{error}");
    }
}
