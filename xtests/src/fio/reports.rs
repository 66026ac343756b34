//! The result of a session: a file for tools and one for a browser, and Markdown on stdout.
//!
//! Not a third file with the Markdown: the page has all of it, and `--resume` of a session that is complete prints it
//! again.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use xtests::support::stdout::print;

use super::record::Document;
use super::{html, machine, markdown, pictures};

/// Writes them into `dir` and prints the result, with `remedy` if it is not complete; fails if a run failed.
pub(super) fn write(mut document: Document, dir: &Path, remedy: &str) -> Result<ExitCode> {
    document.finished = machine::now()?;
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    write("report.json", &serde_json::to_string_pretty(&document)?)?;
    let text = markdown::render(&document);
    let drawn = pictures::draw(&document)?;
    write("report.html", &html::render(&document, &drawn))?;
    let mut said = format!("{text}\n{}\n", dir.join("report.html").display());
    if document.incomplete {
        said += remedy;
    }
    let failed = document.runs.iter().filter(|run| run.error.is_some());
    let failed = failed.count();
    let passed = document.runs.len() - failed;
    let skipped = document.skipped.len();
    said += &format!("{passed} passed, {failed} failed, {skipped} skipped\n");
    print(&said)?;
    Ok(if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
