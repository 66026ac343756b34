//! `mount -o remount`: the flags of a mount change, the options of its daemon cannot.
//!
//! Invariant: an option is not passed over in silence. Either the daemon has it already, since mount(8)
//! repeats the options of fstab and systemd those of the unit; or it is an error that names it. Whether the
//! daemon has it is found out by its own command line: an option that changes nothing there is had.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};

use crate::cli::{self, Form};
use crate::mount::direct;
use crate::mount_plan::{self, CommandLine, MountPlan};
use crate::options::MountArgs;
use crate::status;
use crate::stderr::warn;

/// Options that say how this program runs, not what is mounted.
const OF_THIS_PROGRAM: &[&str] = &["foreground", "nonempty", "replace-dead"];
/// What the mount table shows, and mount(8) takes from there.
const IN_THE_MOUNT_TABLE: &[&str] = &["allow-other", "default-permissions", "max-read"];

/// Does what `line`, the whole command line that `plan` was made of, asks for.
pub(crate) fn run(plan: &MountPlan, line: &[OsString]) -> anyhow::Result<()> {
    let asked = Line::read(line)?;
    if !asked.options.is_empty() {
        let shown = plan.mountpoint.display();
        match daemon_line(&plan.mountpoint) {
            Ok(daemon) => {
                let missing = asked.missing_in(&daemon);
                ensure!(
                    missing.is_empty(),
                    "remount of {shown}: only mount flags (ro, nodev, ...) can be changed, not what \
                     the daemon was started with: leave out {}, or unmount and mount anew",
                    missing.join(" ")
                );
            }
            Err(error) => {
                let unknown = asked.not_in_the_mount_table();
                if !unknown.is_empty() {
                    warn(&format!(
                        "remount of {shown}: {} cannot be changed, and cannot be compared with \
                         what the daemon was started with: {error:#}",
                        unknown.join(" ")
                    ));
                }
            }
        }
    }
    direct::remount(&plan.mountpoint, &plan.kernel)
}

/// A command line that mounts.
#[derive(Debug)]
struct Line {
    program: String,
    arguments: Vec<OsString>,
    options: Vec<Given>,
}

/// A long option that was given, on the command line or in `-o`.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    name: String,
    values: Vec<OsString>,
}

impl Given {
    fn as_arguments(&self) -> impl Iterator<Item = OsString> {
        self.values.iter().map(|value| {
            let mut argument = OsString::from(format!("--{}", self.name));
            // What clap stores for an option without a value.
            if value != "true" {
                argument.push("=");
                argument.push(value);
            }
            argument
        })
    }
}

impl Line {
    fn read(line: &[OsString]) -> anyhow::Result<Self> {
        let Form::Mount {
            program, arguments, ..
        } = cli::form(line)
        else {
            bail!("not a command line that mounts");
        };
        let (matches, _flags) = mount_plan::matches(&program, &arguments)?;
        Ok(Self {
            options: given(&matches),
            program,
            arguments,
        })
    }

    fn not_in_the_mount_table(&self) -> Vec<String> {
        let names = self.options.iter().map(|given| given.name.as_str());
        names
            .filter(|name| !IN_THE_MOUNT_TABLE.contains(name))
            .map(|name| format!("--{name}"))
            .collect()
    }

    /// The options that are not those of the daemon with the command line `daemon`.
    fn missing_in(&self, daemon: &Self) -> Vec<String> {
        // A remount is root's, whose mounts are served by root.
        let parse = |arguments: &[OsString]| {
            let plan = mount_plan::parse(&daemon.program, arguments, true).ok()?;
            // By what is meant, not by the words.
            let line = CommandLine::default();
            Some(MountPlan { line, ..plan })
        };
        let before = parse(&daemon.arguments);
        let is_had = |given: &Given| {
            // Last, so that it wins.
            let mut arguments = daemon.arguments.clone();
            arguments.extend(given.as_arguments());
            let after = parse(&arguments);
            daemon.options.contains(given) || after.is_some() && after == before
        };
        let missing = self.options.iter().filter(|given| !is_had(given));
        missing.map(|given| format!("--{}", given.name)).collect()
    }
}

fn given(matches: &ArgMatches) -> Vec<Given> {
    let command = MountArgs::command();
    let long = command.get_arguments().filter_map(|argument| {
        let name = argument.get_long()?;
        let id = argument.get_id().as_str();
        // `help` and `version` are no arguments of a command line that was parsed.
        let source = matches
            .try_contains_id(id)
            .ok()
            .and(matches.value_source(id));
        let is_given = source == Some(ValueSource::CommandLine) && !OF_THIS_PROGRAM.contains(&name);
        is_given.then(|| Given {
            name: name.to_owned(),
            values: matches
                .get_raw(id)
                .into_iter()
                .flatten()
                .map(OsString::from)
                .collect(),
        })
    });
    long.collect()
}

/// The command line of the daemon that serves `mountpoint`.
fn daemon_line(mountpoint: &Path) -> anyhow::Result<Line> {
    let pid = status::daemon_pid(mountpoint)?;
    let path = format!("/proc/{pid}/cmdline");
    let text = std::fs::read(&path).with_context(|| path.clone())?;
    let words = text
        .strip_suffix(b"\0")
        .unwrap_or(&text)
        .split(|byte| *byte == 0);
    let words: Vec<OsString> = words
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    // In another pid namespace the number is another program's.
    Line::read(&words).with_context(|| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Line {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Line::read(&words).unwrap()
    }

    fn missing(daemon: &[&str], remount: &[&str]) -> Vec<String> {
        let start = ["mount.fuse.thrufs", "/srv", "/mnt"];
        let daemon = line(&[&start, daemon].concat());
        line(&[&start, remount].concat()).missing_in(&daemon)
    }

    #[test]
    fn missing_in_of_what_fstab_and_mountinfo_repeat_is_nothing() {
        let options = "rw,cache=never,attr_timeout=0.5,translate_uid=map:0:1:2,xattr";
        let repeated = format!("remount,ro,{options},default_permissions,user_id=0");
        assert!(missing(&["-o", options], &["-o", &repeated]).is_empty());
        // The same in other words.
        let daemon = ["--max-write", "1048576", "--posix-acl"];
        let remount = ["-o", "remount,max_write=1M,posix_acl=always,nonempty"];
        assert!(missing(&daemon, &remount).is_empty());
        assert!(missing(&[], &["-o", "remount,ro,cache=auto"]).is_empty());
    }

    #[test]
    fn missing_in_of_options_that_the_daemon_has_otherwise_names_them() {
        let remount = ["-o", "remount,ro,cache=never,xattr", "--max-write=64K"];
        let missing = missing(&["-o", "cache=always,nodev", "--max-write=64K"], &remount);
        assert_eq!(missing, ["--cache", "--xattr"]);
    }

    #[test]
    fn not_in_the_mount_table_leaves_out_what_mount8_takes_from_it() {
        let words = ["mount.fuse.thrufs", "/srv", "/mnt", "-o"];
        let line = |options: &str| line(&[&words[..], &[options]].concat());
        let taken = line("remount,ro,user_id=0,group_id=0,default_permissions,allow_other");
        assert!(taken.not_in_the_mount_table().is_empty());
        let typed = line("remount,allow_other,cache=never");
        assert_eq!(typed.not_in_the_mount_table(), ["--cache"]);
    }

    #[test]
    fn missing_in_of_an_option_that_contradicts_the_daemon_s_names_it() {
        let missing = missing(&["--writeback"], &["-o", "remount,passthrough=always"]);
        assert_eq!(missing, ["--passthrough"]);
    }
}
