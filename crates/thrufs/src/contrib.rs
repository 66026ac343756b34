//! The manual pages and completions under `contrib/`, made from the command line's own definitions, and
//! the test that they are what is kept there.
//!
//! `THRUFS_WRITE_CONTRIB=1 cargo test -p thrufs contrib` writes them. In a test and not in a build
//! script: a distribution takes the files as they are, and the program carries no generator.

mod completions;
mod documents;
mod man;

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;

use crate::cli::Cli;

fn contrib() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib")
}

/// The same on every terminal.
fn cli() -> Command {
    let mut command = Cli::command().term_width(100);
    command.build();
    command
}

/// Each file below `contrib`, as it should be.
fn generated() -> Vec<(PathBuf, Vec<u8>)> {
    let cli = cli();
    let mut files = vec![
        (
            "man/thrufs.8".into(),
            man::page(&cli, "thrufs").into_bytes(),
        ),
        (
            format!("man/{}.8", man::HELPER).into(),
            man::helper_page().into_bytes(),
        ),
    ];
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in cli.get_subcommands().filter(shown) {
        let name = format!("thrufs-{}", command.get_name());
        let page = man::page(command, &name);
        files.push((format!("man/{name}.8").into(), page.into_bytes()));
    }
    for (shell, name) in [
        (Shell::Bash, "thrufs.bash"),
        (Shell::Zsh, "_thrufs"),
        (Shell::Fish, "thrufs.fish"),
    ] {
        let text = completions::of(shell);
        files.push((Path::new("completions").join(name), text.into_bytes()));
    }
    files
}

#[test]
#[cfg_attr(feature = "break-out", ignore = "what is installed has no such option")]
fn contrib_is_what_the_command_line_says() {
    for (name, text) in generated() {
        let path = contrib().join(&name);
        if std::env::var_os("THRUFS_WRITE_CONTRIB").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(
            kept == text,
            "contrib/{} is not up to date: THRUFS_WRITE_CONTRIB=1 cargo test -p thrufs contrib",
            name.display()
        );
    }
}

#[test]
fn contrib_has_no_page_of_a_subcommand_that_is_gone() {
    let expected: Vec<PathBuf> = generated()
        .into_iter()
        .map(|(name, _)| contrib().join(name))
        .collect();
    for directory in ["man", "completions"] {
        for file in std::fs::read_dir(contrib().join(directory)).unwrap() {
            let path = file.unwrap().path();
            assert!(
                expected.contains(&path),
                "{} belongs to nothing",
                path.display()
            );
        }
    }
}

#[test]
fn man_page_of_mount_names_every_option() {
    let page = man::page(cli().find_subcommand("mount").unwrap(), "thrufs-mount");
    let command = crate::options::MountArgs::command();
    let options = command
        .get_arguments()
        .filter(|option| !option.is_hide_set());
    for long in options.filter_map(clap::Arg::get_long) {
        let shown = format!("\\-\\-{}", long.replace('-', "\\-"));
        assert!(page.contains(&shown), "{long}");
    }
}

#[test]
fn man_pages_refer_to_pages_that_exist() {
    let pages: Vec<PathBuf> = generated().into_iter().map(|(name, _)| name).collect();
    for other in man::referred() {
        let file = PathBuf::from(format!("man/{other}.8"));
        assert!(pages.contains(&file), "{other}(8)");
    }
}

#[test]
fn examples_of_man_pages_are_command_lines() {
    let examples = man::example_lines();
    assert!(examples.len() > 10, "{examples:?}");
    for line in examples {
        let parsed = Cli::try_parse_from(line.split(' '));
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}

/// libvirt reads the file, and asks the program that it names.
#[test]
fn description_for_libvirt_says_what_print_capabilities_does() {
    let text = std::fs::read_to_string(contrib().join("qemu/50-thrufs.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let said: serde_json::Value = serde_json::from_str(crate::cli::DEVICE_CAPABILITIES).unwrap();
    assert_eq!(file["type"], said["type"]);
    assert_eq!(file["features"], said["features"]);
    assert_eq!(file["binary"], "/usr/libexec/thrufs/virtiofsd");
}

/// The unit restarted a daemon whose configuration was wrong until systemd gave up.
#[test]
fn unit_does_not_start_again_what_ends_for_its_configuration() {
    let path = contrib().join("systemd/thrufs@.service");
    let unit = std::fs::read_to_string(path).unwrap();
    let line = format!("RestartPreventExitStatus={}", crate::CONFIGURATION);
    assert!(unit.lines().any(|has| has == line), "{line} is missing");
}
