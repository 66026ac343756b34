//! What is compared: `thrufs` and `virtiofsd`, with suffixes.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use xtests::support::command::output;
use xtests::support::daemon_fixture::tied_to_us;
use xtests::support::{install, mount};

use super::super::configs::Binary;

/// Compared when `--configs` is left out.
pub(super) const DEFAULT: &str = "virtiofsd,virtiofsd-pool4,thrufs-q1,thrufs-q2";

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) name: String,
    pub(super) queues: usize,
    program: PathBuf,
    options: Vec<String>,
    /// The command, as a report shows it.
    pub(super) line: String,
}

impl Config {
    /// The device, without its socket and directory.
    pub(super) fn command(&self) -> Command {
        let mut command = tied_to_us(&self.program);
        command.args(&self.options);
        command
    }

    /// The program's version, in its own words.
    pub(super) fn version(&self) -> Option<String> {
        let said = output(Command::new(&self.program).arg("--version")).ok()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        Some(text.lines().next()?.trim().to_owned())
    }
}

/// The configurations in the list, those of thrufs for each of `binaries`; and the first of thrufs's again.
pub(super) fn parse(list: &[String], binaries: &[Binary]) -> Result<Vec<Config>> {
    let mut configs = Vec::new();
    for name in list.iter().map(|name| name.trim()) {
        let wanted = Wanted::parse(name)?;
        if wanted.is_thrufs && !binaries.is_empty() {
            for Binary { label, path } in binaries {
                configs.push(wanted.config(format!("{name}@{label}"), path.clone())?);
            }
            continue;
        }
        let program = match wanted.is_thrufs {
            true => match std::env::var_os(mount::BIN) {
                Some(program) => program.into(),
                None => install::thrufs()?,
            },
            false => install::virtiofsd()?,
        };
        configs.push(wanted.config(name.to_owned(), program)?);
    }
    let first = configs
        .iter()
        .find(|config| config.name.starts_with("thrufs"));
    let again = first.map(|first| Config {
        name: format!("{} again", first.name),
        ..first.clone()
    });
    configs.extend(again);
    ensure!(!configs.is_empty(), "no configuration is selected");
    for (at, config) in configs.iter().enumerate() {
        let twice = configs[..at].iter().any(|other| other.name == config.name);
        ensure!(!twice, "{} stands in the list twice", config.name);
    }
    Ok(configs)
}

/// A name, taken apart.
struct Wanted {
    is_thrufs: bool,
    queues: usize,
    pool: Option<usize>,
}

impl Wanted {
    fn parse(name: &str) -> Result<Self> {
        let mut words = name.split('-');
        let program = words.next().unwrap_or_default();
        let mut wanted = Self {
            is_thrufs: match program {
                "thrufs" => true,
                "virtiofsd" => false,
                other => bail!("{other:?} is not measured: thrufs and virtiofsd are"),
            },
            queues: 1,
            pool: None,
        };
        for word in words {
            let number = |text: &str| {
                let number = text.parse::<usize>();
                number.with_context(|| format!("{name}: {text:?} is no number"))
            };
            if let Some(text) = word.strip_prefix("pool").filter(|_| !wanted.is_thrufs) {
                wanted.pool = Some(number(text)?);
            } else if let Some(text) = word.strip_prefix('q').filter(|_| wanted.is_thrufs) {
                wanted.queues = number(text)?;
            } else {
                bail!("{name}: -{word} is not known: thrufs-qN, virtiofsd-poolN");
            }
        }
        Ok(wanted)
    }

    fn config(&self, name: String, program: PathBuf) -> Result<Config> {
        let mut options: Vec<String> = Vec::new();
        if self.is_thrufs {
            options.extend([
                "device".to_owned(),
                format!("--num-request-queues={}", self.queues),
            ]);
        }
        if let Some(threads) = self.pool {
            options.push(format!("--thread-pool-size={threads}"));
        }
        let program_name = program.file_name().context("a program")?.to_string_lossy();
        let words = std::iter::once(program_name.into_owned()).chain(options.iter().cloned());
        Ok(Config {
            line: words.collect::<Vec<_>>().join(" "),
            name,
            queues: self.queues,
            program,
            options,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_names_takes_their_suffixes_apart() {
        let wanted = Wanted::parse("thrufs-q4").expect("a name");
        assert_eq!((wanted.is_thrufs, wanted.queues), (true, 4));
        let wanted = Wanted::parse("virtiofsd-pool2").expect("a name");
        assert_eq!((wanted.is_thrufs, wanted.pool), (false, Some(2)));
        for name in ["bindfs", "virtiofsd-q2", "thrufs-pool2", "thrufs-qx"] {
            assert!(Wanted::parse(name).is_err(), "{name}");
        }
    }
}
