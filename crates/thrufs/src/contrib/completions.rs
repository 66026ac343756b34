//! Completions: what clap generates, and what it cannot know: the items of `-o`, values after `--name=` in bash, and
//! mount points of thrufs.
//!
//! Invariant: all names and values come from the command line's definition, and what is hidden there is offered nowhere.
//! The shell that completes asks no file system of a mount, which may hang: mount points come from /proc/self/mounts, and
//! are not looked at. Static text, as all of `contrib`: the program carries no completer.

use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::options::option_list::flag_names;

/// The completion script of `shell`.
pub(super) fn of(shell: Shell) -> String {
    let mut text = Vec::new();
    let cli = cli();
    clap_complete::generate(shell, &mut cli.clone(), "thrufs", &mut text);
    let text = String::from_utf8(text).expect("scripts are text");
    match shell {
        Shell::Bash => bash(&text, &cli),
        Shell::Zsh => zsh(&text, &cli),
        Shell::Fish => text + &fish(&cli),
        other => panic!("no completions for {other}"),
    }
}

/// The command line without what is hidden.
fn cli() -> Command {
    visible(&Cli::command())
}

fn visible(command: &Command) -> Command {
    // clap keeps names for ever.
    let name: &'static str = command.get_name().to_owned().leak();
    let mut shown = Command::new(name)
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()))
        .disable_help_subcommand(command.is_disable_help_subcommand_set());
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if command.get_version().is_some() {
        shown = shown.version(env!("CARGO_PKG_VERSION"));
    }
    let subcommands = command.get_subcommands();
    shown.subcommands(subcommands.filter(|sub| !sub.is_hide_set()).map(visible))
}

/// An option with its values.
struct Item {
    long: String,
    values: Vec<String>,
    takes: Takes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// `--name` and `--name=VALUE`.
    Optional,
    Value,
}

impl Item {
    fn of(arg: &Arg) -> Option<Self> {
        let takes = match arg.get_num_args() {
            None if arg.get_action().takes_values() => Takes::Value,
            Some(range) if range.takes_values() && range.min_values() == 0 => Takes::Optional,
            Some(range) if range.takes_values() => Takes::Value,
            _none => Takes::Nothing,
        };
        Some(Self {
            long: arg.get_long()?.to_owned(),
            values: arg
                .get_possible_values()
                .iter()
                .map(|value| value.get_name().to_owned())
                .collect(),
            takes,
        })
    }

    /// As a key of `-o`.
    fn key(&self) -> String {
        self.long.replace('-', "_")
    }
}

fn items(command: &Command) -> Vec<Item> {
    let all = command.get_arguments().filter_map(Item::of);
    // They mean nothing in `-o`, and have no value elsewhere.
    all.filter(|item| item.long != "help" && item.long != "version")
        .collect()
}

fn mount_items(cli: &Command) -> Vec<Item> {
    items(cli.find_subcommand("mount").expect("there is `mount`"))
}

/// Subcommands that are about a mount that there is.
fn about_mounts(cli: &Command) -> Vec<&str> {
    let takes = |command: &&Command| {
        let is_mountpoint = |arg: &Arg| arg.get_id() == "mountpoint";
        command.get_name() != "mount" && command.get_positionals().any(is_mountpoint)
    };
    let all = cli.get_subcommands().filter(takes);
    all.map(Command::get_name).collect()
}

fn bash(generated: &str, cli: &Command) -> String {
    let mut keys: Vec<String> = flag_names().map(str::to_owned).collect();
    for item in mount_items(cli) {
        if item.takes != Takes::Value {
            keys.push(item.key());
        }
        if item.takes != Takes::Nothing {
            keys.push(item.key() + "=");
        }
    }
    let mut values = String::new();
    for command in cli.get_subcommands() {
        for item in items(command).iter().filter(|item| !item.values.is_empty()) {
            let (name, all) = (command.get_name(), item.values.join(" "));
            values += &format!("        \"{name} {}\") echo \"{all}\" ;;\n", item.long);
        }
    }
    let functions = include_str!("completions/thrufs.bash")
        .replace("@KEYS@", &keys.join(" "))
        .replace("@VALUES@\n", &values)
        .replace("@ABOUT_MOUNTS@", &about_mounts(cli).join("|"));
    let (definition, registration) = generated
        .split_once("\nif [[ \"${BASH_VERSINFO[0]}\"")
        .expect("clap registers the function by the version of bash");
    let registration =
        registration.replace("complete -F _thrufs ", "complete -F _thrufs_complete ");
    format!("{definition}\n{functions}\nif [[ \"${{BASH_VERSINFO[0]}}\"{registration}")
}

fn zsh(generated: &str, cli: &Command) -> String {
    let mut keys: Vec<String> = flag_names().map(|flag| format!("'{flag}'")).collect();
    for item in mount_items(cli) {
        let (key, values) = (item.key(), item.values.join(" "));
        let action = match values.is_empty() {
            true => ":value: ".to_owned(),
            false => format!(":value:({values})"),
        };
        keys.push(match item.takes {
            Takes::Nothing => format!("'{key}'"),
            Takes::Optional => format!("'{key}:{action}'"),
            Takes::Value => format!("'{key}{action}'"),
        });
    }
    let functions =
        include_str!("completions/thrufs.zsh").replace("@KEYS@", &keys.join(" \\\n        "));
    let mut text = String::new();
    let mut section = "";
    let about_mounts = about_mounts(cli);
    for line in generated.lines() {
        if let Some(name) = line
            .trim()
            .strip_prefix('(')
            .and_then(|line| line.strip_suffix(')'))
        {
            section = name;
        }
        let is_o = section == "mount" && line.starts_with("'*-o+[");
        let is_mountpoint = about_mounts.contains(&section) && line.contains(":mountpoint -- ");
        let line = match (is_o, is_mountpoint) {
            (true, _) => line.replace(":_default'", ":_thrufs_mount_options'"),
            (_, true) => line.replace(":_files'", ":_thrufs_mountpoints'"),
            _other => line.to_owned(),
        };
        if line.starts_with("if [ \"$funcstack[1]\"") {
            text += &functions;
            text.push('\n');
        }
        text += &line;
        text.push('\n');
    }
    text
}

/// What comes after what is generated.
fn fish(cli: &Command) -> String {
    let mut keys: Vec<String> = flag_names().map(str::to_owned).collect();
    let mut values = String::new();
    for item in mount_items(cli) {
        let key = item.key();
        if item.takes != Takes::Value {
            keys.push(key.clone());
        }
        if item.takes != Takes::Nothing {
            keys.push(format!("{key}="));
        }
        if !item.values.is_empty() {
            values += &format!(
                "        case '{key}=*'\n            set all {key}={}\n",
                item.values.join(&format!(" {key}="))
            );
        }
    }
    let mut text = include_str!("completions/thrufs.fish")
        .replace("@KEYS@", &keys.join(" "))
        .replace("@VALUES@\n", &values);
    for name in about_mounts(cli) {
        // What else is a file to `thrufs status`, is a device's socket.
        let files = if name == "umount" { " -f" } else { "" };
        text += &format!(
            "complete -c thrufs -n \"__fish_thrufs_using_subcommand {name}\"{files} -a '(__fish_thrufs_mountpoints)'\n"
        );
    }
    text
}

#[cfg(test)]
mod tests;
