//! `-o a,b=c`: splits it, and sorts each item into a kernel mount flag, a long option, or what
//! mount(8) leaves in although it is meant for others.
//!
//! Invariant: an item is either honoured, or on the list of those that mean nothing to a mount
//! helper, or an error that names it (a warning with `mount -s`). The long options are not listed here: they are read from the
//! command line's own definition ([`crate::options`]), so that none can be missing.

use std::fmt;

use clap::CommandFactory;
use nix::mount::MsFlags;

use super::MountArgs;
use super::virtiofsd::virtiofsd_hint;

/// Options without a value that set (`true`) or clear (`false`) a flag of mount(2).
const FLAGS: &[(&str, MsFlags, bool)] = &[
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("lazytime", MsFlags::MS_LAZYTIME, true),
    ("nolazytime", MsFlags::MS_LAZYTIME, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("remount", MsFlags::MS_REMOUNT, true),
];

/// Items for mount(8), systemd and fstab, which a mount helper is to accept and leave alone.
const IGNORED: &[&str] = &[
    "defaults", "nofail", "_netdev", "auto", "noauto", "user", "nouser", "users", "nousers",
    "owner", "noowner", "group", "nogroup", "comment", "",
];

/// What mountinfo shows of a FUSE mount and mount(8) therefore passes back with `remount`.
const FROM_MOUNTINFO: &[&str] = &["user_id", "group_id", "blksize", "rootmode", "fd"];

/// Long options that have no meaning in `-o`.
const NOT_IN_O: &[&str] = &["help", "version"];

/// The items of all `-o` together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OptionList {
    /// Flags of mount(2) that are set.
    pub(crate) flags: MsFlags,
    /// Flags of mount(2) that were set or cleared.
    pub(crate) mentioned: MsFlags,
    /// The rest, as long options.
    pub(crate) arguments: Vec<String>,
    /// What was left out since it is unknown.
    pub(crate) ignored: Vec<OptionError>,
}

/// An item of `-o` that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OptionError {
    Unknown {
        item: String,
        near: Vec<String>,
    },
    /// `ro=1`.
    TakesNoValue {
        item: String,
    },
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { item, near } => {
                write!(f, "unknown mount option '{item}'")?;
                if let Some(hint) = virtiofsd_hint(key_and_value(item).0) {
                    return write!(f, ", which is virtiofsd's: {hint}");
                }
                if !near.is_empty() {
                    write!(f, "; did you mean {}?", near.join(", "))?;
                }
                f.write_str(" (`thrufs mount --help` lists all)")
            }
            Self::TakesNoValue { item } => {
                write!(f, "mount option '{item}': this option takes no value")
            }
        }
    }
}

impl std::error::Error for OptionError {}

impl OptionList {
    /// Sorts the items of every `-o`, in their order: of two that contradict, the later one holds.
    /// `sloppy` leaves out what is unknown, as `mount -s` wants it.
    pub(crate) fn parse(values: &[String], sloppy: bool) -> Result<Self, OptionError> {
        let long = LongOptions::new();
        let none = MsFlags::empty();
        let mut parsed = Self {
            flags: none,
            mentioned: none,
            arguments: Vec::new(),
            ignored: Vec::new(),
        };
        for item in values.iter().flat_map(|value| split(value)) {
            match parsed.add(&item, &long) {
                Err(error @ OptionError::Unknown { .. }) if sloppy => parsed.ignored.push(error),
                added => added?,
            }
        }
        Ok(parsed)
    }

    fn add(&mut self, item: &str, long: &LongOptions) -> Result<(), OptionError> {
        let (key, value) = key_and_value(item);
        if let Some(&(_, flag, on)) = FLAGS.iter().find(|(name, ..)| *name == key) {
            if value.is_some() {
                return Err(OptionError::TakesNoValue {
                    item: item.to_owned(),
                });
            }
            self.set_flag(flag, on);
        } else if let Some(name) = long.find(key) {
            self.arguments.push(match value {
                Some(value) => format!("--{name}={value}"),
                None => format!("--{name}"),
            });
        } else if !is_ignored(key) {
            return Err(OptionError::Unknown {
                item: item.to_owned(),
                near: long.near(key),
            });
        }
        Ok(())
    }

    /// Sets or clears one flag, and remembers that an option named it.
    pub(crate) fn set_flag(&mut self, flag: MsFlags, on: bool) {
        self.flags.set(flag, on);
        self.mentioned |= flag;
    }

    /// The flags, with `defaults` for those that no option named.
    pub(crate) fn flags_over(&self, defaults: MsFlags) -> MsFlags {
        (defaults - self.mentioned) | self.flags
    }
}

fn key_and_value(item: &str) -> (&str, Option<&str>) {
    match item.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (item, None),
    }
}

/// The flags that fusermount3 understands.
const FUSERMOUNT_KNOWS: &[&str] = &[
    "ro", "nodev", "nosuid", "noexec", "noatime", "sync", "dirsync",
];

/// What `-o` takes without a value beside long options.
#[cfg(test)]
pub(crate) fn flag_names() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|&(name, ..)| name)
}

/// The names in `-o` for the flags that are set in `flags`, of those fusermount3 understands.
pub(crate) fn fusermount_names(flags: MsFlags) -> impl Iterator<Item = &'static str> {
    let is_set = move |&&(name, flag, on): &&(&'static str, MsFlags, bool)| {
        on && flags.contains(flag) && FUSERMOUNT_KNOWS.contains(&name)
    };
    FLAGS.iter().filter(is_set).map(|&(name, ..)| name)
}

impl OptionList {
    /// The flags that were asked for and that fusermount3 does not set for a user: it knows few, and
    /// always sets nodev and nosuid.
    pub(crate) fn not_for_users(&self) -> Vec<&'static str> {
        // What the kernel does without being told.
        const DEFAULT: MsFlags = MsFlags::MS_RELATIME;
        let forced = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        let is_lost = |&&(name, flag, on): &&(&'static str, MsFlags, bool)| {
            let is_asked = self.mentioned.contains(flag) && self.flags.contains(flag) == on;
            is_asked
                && match on {
                    true => !FUSERMOUNT_KNOWS.contains(&name) && flag != DEFAULT,
                    false => forced.contains(flag),
                }
        };
        FLAGS
            .iter()
            .filter(is_lost)
            .map(|&(name, ..)| name)
            .collect()
    }
}

fn is_ignored(key: &str) -> bool {
    IGNORED.contains(&key)
        || FROM_MOUNTINFO.contains(&key)
        || key.starts_with("x-")
        || key.starts_with("X-")
}

/// Splits at commas; `\,` is a comma and `\\` a backslash inside a value.
fn split(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        let last = items
            .last_mut()
            .expect("starts with one item and only grows");
        match c {
            ',' => items.push(String::new()),
            '\\' => match chars.next_if(|next| matches!(next, ',' | '\\')) {
                Some(escaped) => last.push(escaped),
                None => last.push('\\'),
            },
            other => last.push(other),
        }
    }
    items
}

/// The names of the command line's long options.
struct LongOptions(Vec<String>);

impl LongOptions {
    fn new() -> Self {
        let command = MountArgs::command();
        let names = command.get_arguments().flat_map(|argument| {
            let aliases = argument.get_all_aliases().unwrap_or_default();
            argument
                .get_long()
                .into_iter()
                .chain(aliases)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        Self(
            names
                .filter(|name| !NOT_IN_O.contains(&name.as_str()))
                .collect(),
        )
    }

    /// The long option that `key` means; libfuse's options have `_` where ours have `-`.
    fn find(&self, key: &str) -> Option<&str> {
        let wanted = key.replace('_', "-");
        self.0
            .iter()
            .find(|name| **name == wanted)
            .map(String::as_str)
    }

    /// Up to three options that look like `key`, the nearest first.
    fn near(&self, key: &str) -> Vec<String> {
        let wanted = key.replace('_', "-").to_lowercase();
        let flags = FLAGS.iter().map(|&(name, ..)| name);
        let mut scored: Vec<(f64, &str)> = self
            .0
            .iter()
            .map(String::as_str)
            .chain(flags)
            .map(|name| (strsim::jaro_winkler(&wanted, name), name))
            .filter(|(score, _)| *score > 0.85)
            .collect();
        scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        scored
            .into_iter()
            .take(3)
            .map(|(_, name)| name.replace('-', "_"))
            .collect()
    }
}

#[cfg(test)]
mod tests;
