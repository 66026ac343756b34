//! What the documents say of options: each that they name exists, and each that exists is in the table.

use std::collections::BTreeSet;

use clap::CommandFactory;

use super::{cli, contrib};
use crate::options::MountArgs;

/// Documents that name no options but those of `thrufs`.
const DOCUMENTS: &[&str] = &[
    "../../README.md",
    "options.md",
    "semantics.md",
    "security.md",
    "operations.md",
];

fn document(name: &str) -> String {
    let path = contrib().join("doc").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The long options in code spans that are options or command lines of `thrufs`, without values:
/// `--cache=never|auto` is `--cache`.
fn named(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| span.starts_with("--") || span.starts_with("thrufs "))
        .flat_map(str::split_whitespace)
        .filter_map(|word| word.strip_prefix("--"))
        .map(|word| {
            let end = word.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
            word[..end.unwrap_or(word.len())].to_owned()
        })
        .filter(|word| !word.is_empty())
        .collect()
}

/// Long options of all subcommands, hidden ones too.
fn known() -> BTreeSet<String> {
    let cli = cli();
    let commands = std::iter::once(&cli).chain(cli.get_subcommands());
    commands
        .flat_map(clap::Command::get_arguments)
        .filter_map(clap::Arg::get_long)
        .map(str::to_owned)
        .collect()
}

#[test]
fn options_that_the_manual_names_exist() {
    let known = known();
    for name in DOCUMENTS {
        let prose = prose(&document(name));
        // A family that virtiofsd has, and thrufs refuses by name.
        let unknown: Vec<String> = named(&prose)
            .into_iter()
            .filter(|option| !known.contains(option) && option != "migration-")
            .collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

#[test]
fn options_for_users_of_bindfs_exist() {
    let text = document("from-bindfs.md");
    let second: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|row| row.split(" | ").nth(1))
        .collect();
    let named = named(&second.join(" "));
    assert!(named.len() > 5, "{named:?}");
    let known = known();
    let unknown: Vec<&String> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn table_of_options_has_every_option_of_a_mount() {
    let named = named(&document("options.md"));
    let command = MountArgs::command();
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    for option in shown.filter_map(clap::Arg::get_long) {
        assert!(named.contains(option), "options.md has no --{option}");
    }
}

/// Lines outside of code blocks, where backquotes come in pairs.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let kept = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    kept.collect::<Vec<_>>().join("\n")
}
