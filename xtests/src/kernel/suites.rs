//! What is run in a guest: the suites, as lists of cases, with everything built that they need.
//!
//! The guest sees the host's files, so a program of the host's is a program of the guest's, too. A
//! test of the mount tier runs there unchanged, one process for each test.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use thrufs_lab::Lab;
use xtests::suite::{fsx, pjdfstest};
use xtests::support::command::succeed;
use xtests::support::install;
use xtests::support::mount::BIN;

use super::case::{Case, LONGEST_CASE, Language, Transport, is_called};
use super::guest_scenarios::{self, RANDOM};
use super::plan::Base;
use super::program::Program;

/// Files of `xtests/tests` that run again on each kernel: what the kernel and the daemon do together.
const TESTS: &[&str] = &["failed_write", "coherence", "mapped"];

/// Questions of the probe that every kernel can answer, and how a healthy answer begins.
const QUESTIONS: &[(&str, &[&str])] = &[
    ("write-rule", &["B' or E", "E;", "hold-all or B' or E"]),
    ("R1", &["ok"]),
    ("R2", &["ok"]),
    ("R3", &["ok"]),
    ("R4", &["ok"]),
    ("R5", &["a short write"]),
    ("R7", &["ok"]),
    ("R8", &["ok", "not possible"]),
    ("R9", &["ok"]),
    ("R10", &["ok", "not possible"]),
    ("T8", &["ok"]),
];

/// Suites that need only the files of [`files`].
pub(super) const PORTABLE: [&str; 4] = ["selftest", "probe", "thrufs", "repro"];

/// A task without output for so long hangs. The selftests' harness gives up after 30 seconds.
const SUSPICIOUS: u64 = 15;

/// The extent of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent<'a> {
    /// Seconds of the random mode.
    pub(super) seconds: u64,
    /// The cache mode of the random mode's mount.
    pub(super) cache: &'a str,
    /// Operations of fsx.
    pub(super) operations: u64,
}

/// All cases of a transport for kernels of `base`, or the selected ones.
pub(super) fn cases(
    lab: &Lab,
    base: &Base,
    transport: Transport,
    extent: Extent<'_>,
    wanted: &[String],
) -> anyhow::Result<Vec<Case>> {
    let own = std::env::current_exe().context("finding the path of this program")?;
    let asks =
        |suite: &str| wanted.is_empty() || wanted.iter().any(|name| Case::suite(name) == suite);
    let mut all = Vec::new();
    if transport == Transport::Fuse && asks("selftest") {
        all.extend(selftests(&Program::build(lab, base)?));
    }
    all.extend(scenarios(&own, transport, extent));
    if asks("thrufs") || asks("virtiofs") {
        install_suites(&all, wanted)?;
    }
    if transport == Transport::Fuse {
        let tests: Vec<&str> = TESTS.iter().copied().filter(|suite| asks(suite)).collect();
        all.extend(mount_tests(&tests)?);
        // The selftests and the probe bring servers of their own.
        if asks("thrufs") || asks("repro") || !tests.is_empty() {
            let thrufs = install::thrufs()?;
            for case in &mut all {
                case.environment
                    .push((BIN.to_owned(), thrufs.display().to_string()));
            }
        }
    }
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !all.iter().any(|case| is_called(&case.name, name)))
    {
        let mut names: Vec<&str> = all.iter().map(|case| case.name.as_str()).collect();
        names.extend(["selftest"].iter().chain(TESTS));
        bail!(
            "there is no test or suite {unknown}; there are: {}",
            names.join(", ")
        );
    }
    all.retain(|case| wanted.is_empty() || wanted.iter().any(|name| is_called(&case.name, name)));
    Ok(all)
}

/// Installs the programs of other suites that the wanted cases run.
fn install_suites(cases: &[Case], wanted: &[String]) -> anyhow::Result<()> {
    let is_wanted =
        |case: &&Case| wanted.is_empty() || wanted.iter().any(|name| is_called(&case.name, name));
    for case in cases.iter().filter(is_wanted) {
        suite_files(case)?;
    }
    Ok(())
}

/// What a case needs that runs another suite's program.
fn suite_files(case: &Case) -> anyhow::Result<Vec<PathBuf>> {
    let name = case.name.rsplit('/').next().unwrap_or_default();
    let program = match name {
        "pjdfstest" => pjdfstest::files()?,
        _ if name.starts_with("fsx") => fsx::files()?,
        _ => return Ok(Vec::new()),
    };
    Ok(program.to_vec())
}

/// The files of a guest that does not see the host's.
pub(super) fn files(cases: &[Case], list: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = vec![list.to_owned()];
    files.extend(cases.iter().map(|case| PathBuf::from(&case.program)));
    files.push(std::env::current_exe().context("finding the path of this program")?);
    files.push(install::target().join("release/thrufs"));
    for case in cases {
        files.extend(suite_files(case)?);
    }
    // Programs that scenarios start, and the names of users and groups.
    let programs = ["setpriv", "mount", "md5sum", "timeout"];
    files.extend(programs.into_iter().filter_map(install::find));
    files.extend(["/etc/passwd", "/etc/group"].map(PathBuf::from));
    Ok(files)
}

fn selftests(program: &Program) -> Vec<Case> {
    let case = |test: &String| Case {
        name: format!("selftest/{test}"),
        program: program.path.display().to_string(),
        arguments: vec!["-t".into(), test.clone()],
        environment: Vec::new(),
        language: Language::Tap,
        suspicious_after: Some(SUSPICIOUS),
        limit: 60,
    };
    program.tests.iter().map(case).collect()
}

/// A case that a hidden subcommand of this program runs.
pub(super) fn own(name: &str, words: &[&str]) -> anyhow::Result<Case> {
    let own = std::env::current_exe().context("finding the path of this program")?;
    Ok(own_case(&own, name, words, LONGEST_CASE.as_secs()))
}

/// Writes the list of cases into `dir`; its path, and the first process that runs them.
pub(super) fn first_process(cases: &[Case], dir: &Path) -> anyhow::Result<(PathBuf, Vec<String>)> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let list = dir.join("cases.json");
    let text = serde_json::to_vec_pretty(cases).context("writing the cases down")?;
    std::fs::write(&list, text).with_context(|| list.display().to_string())?;
    let own = std::env::current_exe().context("finding the path of this program")?;
    let words = [own.as_path(), "kernel".as_ref(), "guest".as_ref(), &list];
    let words = words.map(|word| word.display().to_string()).to_vec();
    Ok((list, words))
}

/// A hidden subcommand of this program.
fn own_case(own: &Path, name: &str, words: &[&str], limit: u64) -> Case {
    let mut arguments = vec!["kernel".to_owned()];
    arguments.extend(words.iter().map(|&word| word.to_owned()));
    Case {
        name: name.to_owned(),
        program: own.display().to_string(),
        arguments,
        environment: Vec::new(),
        language: Language::Rust,
        suspicious_after: None,
        limit,
    }
}

fn scenarios(own: &Path, transport: Transport, extent: Extent<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    if transport == Transport::Fuse {
        for (question, healthy) in QUESTIONS {
            let mut words = vec!["ask", question];
            healthy
                .iter()
                .for_each(|start| words.extend(["--healthy", start]));
            cases.push(own_case(own, &format!("probe/{question}"), &words, 120));
        }
    }
    let seconds = format!("--seconds={}", extent.seconds);
    let operations = format!("--operations={}", extent.operations);
    // fsx does ten times as many operations a second where the host is not busy.
    let limit = LONGEST_CASE.as_secs() + extent.seconds + extent.operations / 50;
    let on = match transport {
        Transport::Fuse => "fuse",
        Transport::Virtiofs => "virtiofs",
    };
    for name in guest_scenarios::names(transport) {
        let mut words = vec!["scenario", name, "--on", on, &seconds, &operations];
        if name == RANDOM {
            words.extend(["--cache", extent.cache]);
        }
        cases.push(own_case(own, name, &words, limit));
    }
    cases
}

/// Each test of these files, by its own name.
fn mount_tests(files: &[&str]) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for file in files {
        let program = test_program(file)?;
        let list = succeed(Command::new(&program).args(["--list", "--format", "terse"]))?;
        let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
        for test in tests {
            cases.push(Case {
                name: format!("{file}/{test}"),
                program: program.display().to_string(),
                arguments: ["--exact", test, "--test-threads=1"]
                    .map(str::to_owned)
                    .to_vec(),
                environment: Vec::new(),
                language: Language::Rust,
                suspicious_after: None,
                // One that mounts fifteen times took 98 seconds on a host with a load of 15.
                limit: LONGEST_CASE.as_secs(),
            });
        }
    }
    Ok(cases)
}

/// Builds a file of `xtests/tests`; cargo's messages name the program.
fn test_program(file: &str) -> anyhow::Result<PathBuf> {
    let said = install::patiently(&mut install::cargo(&[
        "test",
        "--release",
        "--package",
        "xtests",
        "--test",
        file,
        "--no-run",
        "--message-format=json",
    ]))?;
    let found = said
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == file)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    found.with_context(|| format!("cargo does not say where the tests of {file} are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_of_both_transports_are_known_to_the_command_line() {
        use clap::Parser;
        let extent = Extent {
            seconds: 1,
            cache: "always",
            operations: 1,
        };
        for transport in [Transport::Fuse, Transport::Virtiofs] {
            for case in scenarios(Path::new("xtests"), transport, extent) {
                let words = case.arguments.iter().map(String::as_str);
                let words = std::iter::once("xtests").chain(words);
                assert!(
                    super::super::Args::try_parse_from(words.skip(1)).is_ok(),
                    "{case:?}"
                );
                assert!(!case.name.contains(' '), "{case:?}");
            }
        }
    }

    #[test]
    fn questions_are_those_of_the_probe() {
        for (question, _) in QUESTIONS {
            assert!(crate::tools::probe::is_question(question), "{question}");
        }
    }
}
