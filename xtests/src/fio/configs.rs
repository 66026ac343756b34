//! What is compared: a directory, thrufs in its modes, its peers, anything mounted.
//!
//! A configuration is a name and what the name says how to start; the names of thrufs's modes are
//! `thrufs` and suffixes that combine (`thrufs-passthrough-t1`), so that a mode never needs a new
//! entry in a table to be measured together with another.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use xtests::support::peers;

use super::names::unknown;

/// Compared when `--configs` is left out.
pub(super) const DEFAULT: &str = "native,thrufs,thrufs-through-daemon,thrufs-one-page,passthrough_ll,\
    passthrough_hp,passthrough_hp-kernel-passthrough,bindfs";

/// Suffixes of `thrufs`, and the option each stands for.
const MODES: &[(&str, &str)] = &[
    ("-one-page", "--one-page-writes"),
    ("-passthrough", "--passthrough=always"),
    ("-through-daemon", "--passthrough=never"),
    ("-writeback", "--writeback"),
    // Some jobs read and write through a shared mapping.
    ("-direct", "-ocache=never,allow_mmap"),
    ("-always", "--cache=always"),
    ("-xattr", "--xattr"),
    ("-clone-fd", "--clone-fd"),
    ("-dsync", "--durability=dsync"),
    ("-no-seccomp", "--seccomp=none"),
    ("-no-sandbox", "--sandbox=none"),
];

/// How a configuration is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The backing directory itself.
    Native,
    /// `thrufs mount OPTIONS`; the usual build if `binary` is none.
    Thrufs {
        binary: Option<PathBuf>,
        options: Vec<String>,
    },
    /// A peer's passthrough.
    Peer(peers::Kind),
    /// A directory on a mount that is not ours.
    Against(PathBuf),
    /// The same on the only FUSE mount of a machine, with its requests counted by the kernel. It has no name
    /// on the command line.
    Counted(PathBuf),
}

/// One column of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// `[LABEL=]PATH` of `--binary`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binary {
    pub(super) label: String,
    pub(super) path: PathBuf,
}

impl std::str::FromStr for Binary {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (label, path) = match text.split_once('=') {
            Some((label, path)) => (label.to_owned(), PathBuf::from(path)),
            None => {
                let path = PathBuf::from(text);
                let name = path.file_name().context("a path to a program")?;
                (name.to_string_lossy().into_owned(), path)
            }
        };
        ensure!(!label.is_empty(), "{text:?}: the label before `=` is empty");
        let path = std::path::absolute(&path)?;
        ensure!(path.is_file(), "{}: no such program", path.display());
        Ok(Self { label, path })
    }
}

/// The configurations that `--configs`, `--binary` and `--against` name, each once.
pub(super) fn parse(
    list: &[String],
    binaries: &[Binary],
    against: &[PathBuf],
) -> Result<Vec<Config>> {
    let mut configs = Vec::new();
    for name in list.iter().map(|name| name.trim()) {
        match kind(name)? {
            Kind::Thrufs { options, .. } if !binaries.is_empty() => {
                for Binary { label, path } in binaries {
                    let kind = Kind::Thrufs {
                        binary: Some(path.clone()),
                        options: options.clone(),
                    };
                    let name = format!("{name}@{label}");
                    configs.push(Config { name, kind });
                }
            }
            kind => configs.push(Config {
                name: name.to_owned(),
                kind,
            }),
        }
    }
    for path in against {
        ensure!(
            path.is_dir(),
            "--against {}: no such directory",
            path.display()
        );
        configs.push(Config {
            name: format!("against:{}", path.display()),
            kind: Kind::Against(path.clone()),
        });
    }
    for (at, config) in configs.iter().enumerate() {
        let twice = configs[..at].iter().any(|other| other.name == config.name);
        ensure!(!twice, "{} stands in the list twice", config.name);
    }
    ensure!(!configs.is_empty(), "no configuration is selected");
    Ok(configs)
}

fn kind(name: &str) -> Result<Kind> {
    if name == "native" {
        return Ok(Kind::Native);
    }
    if let Some(peer) = peers::Kind::ALL.iter().find(|peer| peer.name() == name) {
        return Ok(Kind::Peer(*peer));
    }
    let (base, typed) = match name.split_once(':') {
        Some((base, typed)) => (base, Some(typed)),
        None => (name, None),
    };
    let known = || {
        let modes = MODES.iter().map(|(suffix, _)| format!("thrufs{suffix}"));
        let peers = peers::Kind::ALL.iter().map(|peer| peer.name().to_owned());
        let fixed = ["native", "thrufs", "thrufs-t1"].map(str::to_owned);
        fixed.into_iter().chain(modes).chain(peers)
    };
    let Some(mut options) = base.strip_prefix("thrufs").and_then(modes) else {
        let known: Vec<String> = known().collect();
        let known = known.iter().map(String::as_str);
        let remedy = "`xtests fio --list` names all";
        return Err(unknown("configuration", name, known, remedy));
    };
    if let Some(typed) = typed {
        if typed.is_empty() {
            bail!("{name:?}: mount options are missing after `:`, as in thrufs:cache=never+xattr");
        }
        options.push("-o".to_owned());
        options.push(typed.replace('+', ","));
    }
    Ok(Kind::Thrufs {
        binary: None,
        options,
    })
}

/// The options that a chain of suffixes stands for, `None` if there is another.
fn modes(mut rest: &str) -> Option<Vec<String>> {
    let mut options = Vec::new();
    while !rest.is_empty() {
        let mode = MODES
            .iter()
            .find_map(|(suffix, option)| Some((rest.strip_prefix(suffix)?, *option)));
        if let Some((after, option)) = mode {
            options.push(option.to_owned());
            rest = after;
            continue;
        }
        let digits = rest.strip_prefix("-t")?;
        let end = digits.find('-').unwrap_or(digits.len());
        let threads: u16 = digits[..end].parse().ok()?;
        options.push(format!("--thread-pool-size={threads}"));
        rest = &digits[end..];
    }
    Some(options)
}

/// For `--list`.
pub(super) fn list() -> String {
    let mut text = String::from("  native: the backing directory itself\n  thrufs, with suffixes:");
    for (suffix, option) in MODES {
        text += &format!(" {suffix} ({option})");
    }
    text += " -tN (--thread-pool-size=N)\n  thrufs:OPTIONS: mount options joined by +, as in \
        thrufs:cache=never+max_write=64K\n";
    let peers = peers::Kind::ALL.map(peers::Kind::name);
    text + &format!("  peers: {}\n", peers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str) -> Vec<String> {
        match kind(name) {
            Ok(Kind::Thrufs { options, .. }) => options,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn modes_in_a_chain_give_all_their_options() {
        assert_eq!(options("thrufs"), Vec::<String>::new());
        assert_eq!(
            options("thrufs-passthrough-t1-xattr"),
            ["--passthrough=always", "--thread-pool-size=1", "--xattr"]
        );
        assert_eq!(
            options("thrufs-no-sandbox-no-seccomp"),
            ["--sandbox=none", "--seccomp=none"]
        );
    }

    #[test]
    fn options_after_a_colon_become_mount_options() {
        assert_eq!(
            options("thrufs-t2:cache=never+xattr"),
            ["--thread-pool-size=2", "-o", "cache=never,xattr"]
        );
    }

    #[test]
    fn configuration_that_does_not_exist_names_the_nearest() {
        let error = kind("thrufs-onepage").expect_err("misspelt");
        assert!(
            error.to_string().contains("did you mean thrufs-one-page"),
            "{error}"
        );
        assert!(kind("thrufs-tx").is_err());
        assert!(kind("thrufs:").is_err());
    }

    #[test]
    fn binaries_multiply_the_modes_of_thrufs_only() {
        let binary = |label: &str| Binary {
            label: label.to_owned(),
            path: "/bin/true".into(),
        };
        let list = ["native".to_owned(), "thrufs-t1".to_owned()];
        let configs = parse(&list, &[binary("old"), binary("new")], &[]).expect("good");
        let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
        assert_eq!(names, ["native", "thrufs-t1@old", "thrufs-t1@new"]);
    }

    #[test]
    fn configuration_named_twice_is_refused() {
        let list = ["native".to_owned(), "native".to_owned()];
        assert!(parse(&list, &[], &[]).is_err());
    }

    #[test]
    fn binary_that_is_not_there_is_refused() {
        let error = "old=/nonexistent/thrufs"
            .parse::<Binary>()
            .expect_err("not there");
        assert!(error.to_string().contains("/nonexistent/thrufs"), "{error}");
    }
}
