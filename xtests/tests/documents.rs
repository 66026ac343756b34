//! The documents, as a whole: a fact stands in one of them, links lead somewhere, and the README is for the
//! first ten minutes.
//!
//! Invariant: no twelve words in a row stand in two documents. Code blocks are not counted: a command is typed
//! where it is needed. What documents promise is tested beside what they promise it of (options and metrics: in
//! `crates/thrufs`).
//!
//! Not by git's list of files: a source archive has none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xtests::support::install;

/// Words in a row that are no coincidence.
const SAME_WORDS: usize = 12;
/// What is read in ten minutes, with a demo run in between.
const README_LINES: usize = 130;

/// Every document's text by its path from the top directory.
fn documents() -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    add_below(&install::root(), Path::new(""), &mut found)?;
    ensure!(
        found.contains_key(Path::new("contrib/doc/semantics.md")),
        "the manual is missing: {:?}",
        found.keys()
    );
    Ok(found)
}

fn add_below(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let directory = root.join(below);
    for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let path = below.join(&name);
        let shown = name.to_string_lossy();
        let is_foreign = shown.starts_with('.') || shown.starts_with("target");
        if entry.file_type()?.is_dir() {
            if !is_foreign {
                add_below(root, &path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.insert(path, std::fs::read_to_string(entry.path())?);
        }
    }
    Ok(())
}

/// The lines outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

fn words(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| line.split(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// The stretches of `SAME_WORDS` words or more that stand in two of the texts, with their places.
fn repeated(texts: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let words: BTreeMap<&PathBuf, Vec<String>> = texts
        .iter()
        .map(|(path, text)| (path, words(text)))
        .collect();
    let mut places: HashMap<&[String], &PathBuf> = HashMap::new();
    let mut repeats = Vec::new();
    for (&path, words) in &words {
        let mut end_of_last = 0;
        for (start, window) in words.windows(SAME_WORDS).enumerate() {
            let first = *places.entry(window).or_insert(path);
            if first != path {
                // One sentence is one repeat, however long it is.
                if start >= end_of_last {
                    repeats.push(format!(
                        "{} and {}: {}",
                        first.display(),
                        path.display(),
                        window.join(" ")
                    ));
                }
                end_of_last = start + SAME_WORDS;
            }
        }
    }
    repeats
}

/// The name of a heading in links, as forges make it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c })
        .flat_map(char::to_lowercase)
        .collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

/// The targets of `[text](target)`, also where the text is broken over two lines.
fn links(text: &str) -> Vec<String> {
    let joined = prose(text).collect::<Vec<_>>().join(" ");
    joined
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// Why a link of the document at `from` leads nowhere.
fn dead_link(
    from: &Path,
    target: &str,
    texts: &BTreeMap<PathBuf, String>,
) -> Result<Option<String>> {
    if target.contains("://") {
        return Ok(None);
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let root = install::root().canonicalize()?;
    let path = match file {
        "" => from.to_owned(),
        file => {
            let directory = from.parent().context("a document is in a directory")?;
            let Ok(path) = root.join(directory).join(file).canonicalize() else {
                return Ok(Some("there is no such file".to_owned()));
            };
            let Ok(path) = path.strip_prefix(&root) else {
                return Ok(Some("it leads out of the repository".to_owned()));
            };
            path.to_owned()
        }
    };
    if heading.is_empty() {
        return Ok(None);
    }
    let known = texts
        .get(&path)
        .map(|text| anchors(text))
        .unwrap_or_default();
    Ok((!known.contains(heading)).then(|| format!("it has no heading of that name: {known:?}")))
}

#[test]
fn fact_stands_in_one_document() -> Result<()> {
    let repeats = repeated(&documents()?);
    ensure!(repeats.is_empty(), "{}", repeats.join("\n"));
    Ok(())
}

#[test]
fn readme_has_at_most_130_lines() -> Result<()> {
    let texts = documents()?;
    let readme = texts.get(Path::new("README.md")).context("README.md")?;
    let lines = readme.lines().count();
    ensure!(lines <= README_LINES, "README.md has {lines} lines");
    Ok(())
}

#[test]
fn links_lead_to_files_and_headings() -> Result<()> {
    let texts = documents()?;
    let mut dead = Vec::new();
    for (from, text) in &texts {
        for target in links(text) {
            if let Some(reason) = dead_link(from, &target, &texts)? {
                dead.push(format!("{}: {target}: {reason}", from.display()));
            }
        }
    }
    ensure!(dead.is_empty(), "{}", dead.join("\n"));
    Ok(())
}

/// Sources send the reader to a heading by the path of the document and the heading in quotation marks.
#[test]
fn headings_that_sources_name_exist() -> Result<()> {
    let texts = documents()?;
    let mut named = 0;
    for directory in ["crates", "xtests"] {
        for (path, text) in sources(&install::root().join(directory))? {
            let comments = text.lines().map(|line| {
                line.trim_start()
                    .trim_start_matches(['/', '!', '#'])
                    .trim_start()
            });
            let joined = comments.collect::<Vec<_>>().join(" ");
            for (document, heading) in named_headings(&joined) {
                let target = texts.get(Path::new(&document));
                let target = target.with_context(|| format!("{}: {document}", path.display()))?;
                ensure!(
                    anchors(target).contains(&anchor(&heading)),
                    "{}: {document} has no heading {heading}",
                    path.display()
                );
                named += 1;
            }
        }
    }
    ensure!(named > 4, "only {named} headings are named");
    Ok(())
}

/// Rust files below `directory`.
fn sources(directory: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), std::fs::read_to_string(&path)?));
        }
    }
    Ok(found)
}

fn named_headings(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(".md") {
        let after = text[at + 3..].trim_start_matches([',', ' ', '(']);
        let separated = after.len() < text.len() - at - 3;
        let Some((heading, _)) = after
            .strip_prefix('"')
            .and_then(|rest| rest.split_once('"'))
        else {
            continue;
        };
        let start = text[..at]
            .rfind(|c: char| !(c.is_alphanumeric() || "/-_.".contains(c)))
            .map_or(0, |before| before + 1);
        if separated && heading.starts_with(char::is_uppercase) {
            found.push((text[start..at + 3].to_owned(), heading.to_owned()));
        }
    }
    found
}

#[test]
fn repeat_is_found_across_lines_and_punctuation_but_not_in_code() {
    let sentence = "One, two three\nfour five six: seven eight nine (ten) eleven twelve.";
    let quoted = "Else. one two three four five six seven eight\nnine ten eleven twelve";
    let texts = |second: &str| {
        BTreeMap::from([
            (PathBuf::from("a.md"), sentence.to_owned()),
            (PathBuf::from("b.md"), second.to_owned()),
        ])
    };
    assert_eq!(repeated(&texts(quoted)).len(), 1);
    assert_eq!(repeated(&texts(&format!("```\n{quoted}\n```"))).len(), 0);
    assert_eq!(repeated(&texts("one two three four five")).len(), 0);
}

#[test]
fn anchor_is_what_a_forge_makes_of_a_heading() {
    assert_eq!(anchor(" Other people's suites"), "other-peoples-suites");
    assert_eq!(anchor(" With `--watch`"), "with---watch");
    assert_eq!(
        links("[a\nb](c.md#d) and [e](f)"),
        ["c.md#d", "f"].map(str::to_owned)
    );
}
