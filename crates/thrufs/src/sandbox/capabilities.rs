//! The capabilities that the serving process keeps, and that it gains no others.
//!
//! Invariant: effective, permitted and bounding set are the list below, changed by `--modcaps` and
//! by what the options need; inheritable and ambient set are empty; no_new_privs is on.

use std::str::FromStr;

use anyhow::Context;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What the file system needs of the privileges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// open_by_handle_at(2).
    pub(crate) file_handles: bool,
    /// fanotify_init(2), and the handles in its events.
    pub(crate) watch: bool,
}

impl Needs {
    /// What goes again before the first request is read.
    pub(super) fn for_the_start(self) -> CapabilitySet {
        match self.watch {
            true => CapabilitySet::SYS_ADMIN,
            false => CapabilitySet::empty(),
        }
    }
}

/// What serving files for all users takes, each with its reason.
const KEPT: &[(CapabilitySet, &str)] = &[
    (CapabilitySet::CHOWN, "SETATTR of an owner"),
    (
        CapabilitySet::DAC_OVERRIDE,
        "the client kernel has checked the permissions",
    ),
    (CapabilitySet::FOWNER, "SETATTR of other users' files"),
    (CapabilitySet::FSETID, "set-gid bits that a caller may set"),
    (
        CapabilitySet::SETGID,
        "new files belong to the caller's group",
    ),
    (CapabilitySet::SETUID, "new files belong to the caller"),
    (CapabilitySet::MKNOD, "MKNOD of devices, which stay closed"),
    (CapabilitySet::SETFCAP, "SETXATTR of security.capability"),
    (
        CapabilitySet::LINUX_IMMUTABLE,
        "chattr +i and +a, which the client kernel has permitted",
    ),
];

/// Capabilities are numbered from 0 on; the kernel says where they end.
const NUMBERS: std::ops::Range<u32> = 0..64;

/// `--modcaps`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModCaps(Vec<(bool, CapabilitySet)>);

impl FromStr for ModCaps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(':').map(one).collect::<Result<_, _>>().map(Self)
    }
}

fn one(item: &str) -> Result<(bool, CapabilitySet), String> {
    let (add, name) = match (item.strip_prefix('+'), item.strip_prefix('-')) {
        (Some(name), _) => (true, name),
        (_, Some(name)) => (false, name),
        _ => {
            return Err(format!(
                "'{item}' begins with neither + nor -: write +sys_admin or -mknod, joined by ':'"
            ));
        }
    };
    let plain = name.to_ascii_uppercase();
    let plain = plain.strip_prefix("CAP_").unwrap_or(&plain);
    match CapabilitySet::from_name(plain) {
        Some(capability) if !plain.is_empty() => Ok((add, capability)),
        _ => Err(format!(
            "'{name}' is no capability (see capabilities(7)): write it as in +sys_admin"
        )),
    }
}

impl ModCaps {
    /// Those to keep that this process does not hold: it was started without them.
    pub(super) fn missing(&self) -> anyhow::Result<Vec<String>> {
        let held = rustix::thread::capabilities(None).context("read the capabilities")?;
        let added = self.0.iter().filter(|(add, _)| *add);
        let missing = added.filter(|(_, capability)| !held.permitted.contains(*capability));
        let names = missing.flat_map(|(_, capability)| capability.iter_names());
        Ok(names.map(|(name, _)| name.to_lowercase()).collect())
    }
}

/// What is kept in all. `alone`: in a user namespace that has one user, who needs none.
pub(super) fn kept(modcaps: &ModCaps, needs: Needs, alone: bool) -> CapabilitySet {
    let mut kept = CapabilitySet::empty();
    if !alone {
        kept.extend(KEPT.iter().map(|(capability, _reason)| *capability));
        if needs.file_handles || needs.watch {
            kept |= CapabilitySet::DAC_READ_SEARCH;
        }
    }
    for (add, capability) in &modcaps.0 {
        kept.set(*capability, *add);
    }
    kept
}

/// Drops all capabilities but `kept`, for good, and those `for_now`, which [`reduce_to`] is to take.
pub(super) fn drop_all_but(kept: CapabilitySet, for_now: CapabilitySet) -> anyhow::Result<()> {
    for number in NUMBERS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // There is none of this number.
            Err(Errno::INVAL) => break,
            // An ordinary user, who has none to lose; no_new_privs keeps it so.
            Err(Errno::PERM) => break,
            Err(errno) => return Err(errno).context("drop a capability from the bounding set"),
        }
    }
    rustix::thread::clear_ambient_capability_set().context("clear the ambient capabilities")?;
    reduce_to(kept | for_now)?;
    rustix::thread::set_no_new_privs(true).context("no_new_privs")
}

/// Leaves of the capabilities that are held no more than `kept`.
pub(crate) fn reduce_to(kept: CapabilitySet) -> anyhow::Result<()> {
    let held = rustix::thread::capabilities(None).context("read the capabilities")?;
    let left = held.permitted & kept;
    let sets = CapabilitySets {
        effective: left,
        permitted: left,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).context("drop capabilities")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Needs = Needs {
        file_handles: false,
        watch: false,
    };

    #[test]
    fn kept_by_modcaps_and_needs() {
        let modcaps = |text: &str| text.parse::<ModCaps>().unwrap();
        let base = kept(&ModCaps::default(), NONE, false);
        assert!(base.contains(CapabilitySet::CHOWN | CapabilitySet::SETUID));
        assert!(!base.intersects(CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH));
        let changed = kept(&modcaps("+sys_admin:-mknod:+CAP_IPC_LOCK"), NONE, false);
        let gained = CapabilitySet::SYS_ADMIN | CapabilitySet::IPC_LOCK;
        assert_eq!(changed, (base | gained) - CapabilitySet::MKNOD);
        let needs = Needs {
            file_handles: true,
            watch: false,
        };
        let needed = CapabilitySet::DAC_READ_SEARCH;
        assert_eq!(kept(&ModCaps::default(), needs, false), base | needed);
        assert_eq!(
            kept(&ModCaps::default(), needs, true),
            CapabilitySet::empty()
        );
    }

    #[test]
    fn parse_of_wrong_modcaps_says_what_is_wrong() {
        for (text, wanted) in [
            ("sys_admin", "begins with neither + nor -"),
            ("+sys_amdin", "'sys_amdin' is no capability"),
            ("+", "'' is no capability"),
            ("-mknod:", "'' begins with neither"),
        ] {
            let error = text.parse::<ModCaps>().unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
