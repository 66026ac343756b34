//! What bash offers, by the script and by bash itself.

use std::process::Command as Program;

use super::*;
use crate::contrib::contrib;

/// What bash offers at the end of `line`, one a line.
fn bash_offers(line: &str) -> Vec<String> {
    // As readline splits it.
    let script = format!(
        r#"source {}
        COMP_LINE={line:?} COMP_POINT={}
        COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
        COMP_WORDS=() rest="$COMP_LINE|"
        while [[ "$rest" =~ ^[[:space:]]*([=:]|[^=:[:space:]]+) ]]; do
            COMP_WORDS+=("${{BASH_REMATCH[1]%|}}")
            rest="${{rest:${{#BASH_REMATCH[0]}}}}"
        done
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _thrufs_complete thrufs "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
        printf '%s\n' "${{COMPREPLY[@]}}""#,
        contrib().join("completions/thrufs.bash").display(),
        line.len(),
    );
    let output = Program::new("bash")
        .args(["--norc", "-c", &script])
        .output()
        .expect("bash");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{line}: {output:?}"
    );
    let offered = String::from_utf8(output.stdout).unwrap();
    let offered = offered.lines().filter(|line| !line.is_empty());
    offered.map(str::to_owned).collect()
}

#[test]
fn completion_in_bash_offers_subcommands_and_options_and_none_that_is_hidden() {
    assert_eq!(bash_offers("thrufs st"), ["status"]);
    let all = bash_offers("thrufs ");
    assert!(all.iter().any(|offered| offered == "doctor"), "{all:?}");
    assert!(!all.iter().any(|offered| offered == "reproduce"), "{all:?}");
    assert_eq!(bash_offers("thrufs mount --ca"), ["--cache"]);
    assert!(bash_offers("thrufs mount --fau").is_empty());
    let options = bash_offers("thrufs mount -");
    assert!(
        !options.iter().any(|offered| offered == "-n"),
        "{options:?}"
    );
}

#[test]
fn completion_in_bash_offers_values_of_options_in_both_forms() {
    let all = ["never", "auto", "always", "metadata"];
    assert_eq!(bash_offers("thrufs mount --cache "), all);
    // What follows the = is what bash replaces.
    assert_eq!(bash_offers("thrufs mount --cache="), all);
    assert_eq!(bash_offers("thrufs mount --cache=a"), ["auto", "always"]);
    assert_eq!(bash_offers("thrufs top --sort=b"), ["bytes"]);
}

#[test]
fn completion_in_bash_offers_items_of_a_list_and_their_values() {
    let all = bash_offers("thrufs mount -o ");
    for wanted in [
        "ro",
        "nodev",
        "cache=",
        "attr_timeout=",
        "watch",
        "allow_mmap",
        "allow_mmap=",
    ] {
        assert!(
            all.iter().any(|offered| offered == wanted),
            "{wanted} in {all:?}"
        );
    }
    for hidden in ["fault=", "help", "version"] {
        assert!(
            !all.iter().any(|offered| offered == hidden),
            "{hidden} in {all:?}"
        );
    }
    assert_eq!(bash_offers("thrufs mount -o ro,cac"), ["ro,cache="]);
    assert_eq!(bash_offers("thrufs mount -o ro,cache=m"), ["metadata"]);
    assert_eq!(
        bash_offers("thrufs mount -o cache=auto,rela"),
        ["auto,relatime"]
    );
    let dashed = bash_offers("thrufs mount -o attr-");
    assert_eq!(dashed, ["attr-timeout="]);
}

#[test]
fn completion_in_bash_of_a_mount_point_offers_mounts_of_thrufs_alone() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = mounts
        .lines()
        .filter(|line| line.split(' ').nth(2) == Some("fuse.thrufs"))
        .count();
    for subcommand in ["umount", "status", "top", "doctor"] {
        let offered = bash_offers(&format!("thrufs {subcommand} "));
        let offered = offered
            .iter()
            .filter(|mount| mount.starts_with('/'))
            .count();
        // Other tests may mount and unmount meanwhile.
        assert!(ours > 0 || offered == 0, "{subcommand}: {offered}");
        let options = bash_offers(&format!("thrufs {subcommand} --he"));
        assert_eq!(options, ["--help"], "{subcommand}");
    }
}

#[test]
fn scripts_of_all_shells_offer_what_there_is_and_nothing_that_is_hidden() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let text = of(shell);
        for wanted in [
            "_mount_options",
            "_mountpoints",
            "cache=",
            "attr_timeout",
            "doctor",
        ] {
            // In zsh a value follows by _values.
            let is_there = text.contains(wanted) || (shell == Shell::Zsh && wanted == "cache=");
            assert!(is_there, "{shell}: {wanted}");
        }
        for hidden in ["reproduce", "--fault", "-l fault", "@KEYS@", "@VALUES@"] {
            assert!(!text.contains(hidden), "{shell}: {hidden}");
        }
    }
}

#[test]
fn scripts_are_taken_by_their_shells_where_these_are_installed() {
    for (shell, name) in [
        ("bash", "thrufs.bash"),
        ("zsh", "_thrufs"),
        ("fish", "thrufs.fish"),
    ] {
        let script = contrib().join("completions").join(name);
        // Without them nothing is shown; the stage of completions has all three.
        let Ok(output) = Program::new(shell).arg("-n").arg(&script).output() else {
            continue;
        };
        assert!(output.status.success(), "{shell}: {output:?}");
    }
}
