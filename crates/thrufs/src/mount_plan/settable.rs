//! The options that can be changed while a mount is served (`thrufs set`): those that only its server obeys.
//!
//! Invariant: none of them is part of what the kernel was told by mount(2) or INIT, which lasts as long as the mount.

use anyhow::bail;

/// Those options, without their dashes.
pub(crate) const KEYS: &[&str] = &[
    "attr-timeout",
    "dir-timeout",
    "entry-timeout",
    "negative-timeout",
    "log-level",
    "max-inodes",
    "read-ahead",
    "survive-deaths",
    "thread-pool-size",
];

/// Whether `item` is KEY=VALUE, with a key that can be set.
///
/// # Errors
/// What can be.
pub(crate) fn check(item: &str) -> anyhow::Result<()> {
    let keys = KEYS.join(", ");
    let Some((key, _value)) = item.split_once('=') else {
        bail!("'{item}' is not KEY=VALUE; what can be set is {keys}");
    };
    if !KEYS.contains(&key) {
        bail!("'{key}' cannot be set while the mount is there; what can be is {keys}");
    }
    Ok(())
}

/// As `thrufs set` takes it: a key may be written with underscores, as in `-o`.
pub(crate) fn parse(item: &str) -> Result<String, String> {
    let item = match item.split_once('=') {
        Some((key, value)) => format!("{}={value}", key.replace('_', "-")),
        None => item.to_owned(),
    };
    check(&item)
        .map(|()| item)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::mount_plan::{CommandLine, parse_again};

    fn line(arguments: &[&str], set: &[&str]) -> CommandLine {
        CommandLine {
            program: "thrufs mount".to_owned(),
            arguments: arguments.iter().map(OsString::from).collect(),
            set: set.iter().map(|&item| item.to_owned()).collect(),
        }
    }

    #[test]
    fn parse_again_with_each_key_changes_the_plan_and_the_last_value_counts() {
        let arguments = ["-oattr_timeout=7", "--log-level=warn", "--", "/srv", "/mnt"];
        let before = parse_again(&line(&arguments, &[]), true).unwrap();
        for (key, value) in [
            ("attr-timeout", "3"),
            ("dir-timeout", "3"),
            ("entry-timeout", "3"),
            ("negative-timeout", "3"),
            ("log-level", "debug"),
            ("max-inodes", "100000"),
            ("read-ahead", "65536"),
            ("thread-pool-size", "3"),
        ] {
            let set = [format!("{key}={value}")];
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            let after = parse_again(&line(&arguments, &set), true).unwrap();
            let line = before.line.clone();
            assert_ne!(
                crate::mount_plan::MountPlan { line, ..after },
                before,
                "{key}"
            );
        }
        let set = ["attr-timeout=1", "attr-timeout=2"];
        let after = parse_again(&line(&arguments, &set), true).unwrap();
        assert_eq!(after.config.timeouts.attr.as_secs(), 2);
    }

    #[test]
    fn check_of_what_cannot_be_set_names_what_can() {
        for item in ["cache=never", "attr-timeout", "no-such=1", "=", ""] {
            let error = check(item).unwrap_err().to_string();
            assert!(
                error.contains("attr-timeout, dir-timeout"),
                "{item}: {error}"
            );
        }
        let error = parse_again(&line(&["/srv", "/mnt"], &["attr-timeout=x"]), true).unwrap_err();
        assert!(error.to_string().contains("attr-timeout"), "{error}");
        assert_eq!(parse("log_level=warn"), Ok("log-level=warn".to_owned()));
    }
}
