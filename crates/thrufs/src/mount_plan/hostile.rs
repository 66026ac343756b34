//! Hostile command lines: a corpus, that of the fuzz target `specs`, and seeded mutations of both. Each
//! line becomes a plan or an error with a message; none panics.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use thrufs_fs::{Fault, IdMap, IdRule, XattrMap};

use super::*;

#[path = "../../../session/tests/common/mutate.rs"]
mod mutate;
use mutate::{Random, mutated};

/// clap takes milliseconds for a command line in a test build.
const LINES: u64 = 500;
const SPECS: u64 = 20_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let top = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../xtests/fuzz/corpus");
    let files = std::fs::read_dir(top.join(target)).expect("the corpus is in the repository");
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// A command line, one argument a line.
fn check_line(line: &[u8]) {
    let arguments = line.split(|byte| *byte == b'\n');
    let arguments: Vec<OsString> = arguments
        .map(|argument| OsString::from_vec(argument.to_vec()))
        .collect();
    for is_root in [true, false] {
        if let Err(error) = parse("thrufs mount", &arguments, is_root) {
            assert!(!error.to_string().trim().is_empty(), "{arguments:?}");
        }
    }
}

/// A specification of a fault, of ids (a rule a line), or of names: each reads any text.
fn check_spec(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    if let Err(error) = text.parse::<Fault>() {
        assert!(error.to_string().contains("expected OPERATION"), "{error}");
    }
    if let Err(error) = text.parse::<XattrMap>() {
        assert!(!error.to_string().is_empty(), "{text}");
    }
    let rules: Result<Vec<IdRule>, _> = text.lines().map(str::parse).collect();
    match rules.map(|rules| IdMap::new(&rules)) {
        Ok(Ok(_map)) => {}
        Ok(Err(error)) | Err(error) => assert!(!error.to_string().is_empty(), "{text}"),
    }
}

#[test]
fn parse_of_mutated_lines_is_a_request_or_an_error_with_words() {
    let seeds = corpus("options");
    seeds.iter().for_each(|line| check_line(line));
    for seed in 1..=LINES {
        check_line(&mutated(&seeds, &mut Random::new(seed)));
    }
}

#[test]
fn parse_of_mutated_specifications_is_one_or_an_error_with_words() {
    let seeds = corpus("specs");
    seeds.iter().for_each(|text| check_spec(text));
    for seed in 1..=SPECS {
        check_spec(&mutated(&seeds, &mut Random::new(seed)));
    }
}

/// A list of any length takes time and memory by its length, and says which item is wrong.
#[test]
fn parse_of_a_very_long_o_names_the_first_wrong_item() {
    let long = format!("{},nonsense", "x-a,".repeat(200_000));
    let arguments = ["/srv", "/mnt", "-o", &long].map(OsString::from);
    let error = parse("thrufs mount", &arguments, true)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("'nonsense'") && error.len() < 1000,
        "{error}"
    );
}
