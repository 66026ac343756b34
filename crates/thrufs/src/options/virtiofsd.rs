//! virtiofsd's options that thrufs has under another name, needs not, or cannot have: what is typed out of
//! habit gets an answer. Those with virtiofsd's own names are in [`crate::options`].

/// Names as on virtiofsd's command line or in its old `-o`, with what to do.
const HINTS: &[(&[&str], &str)] = &[
    (
        &["shared-dir", "source"],
        "the directory is the first argument, SOURCE",
    ),
    (
        &[
            "socket-path",
            "vhost-user-socket",
            "socket-group",
            "fd",
            "tag",
        ],
        "it is for a virtual machine's device, and `thrufs mount` mounts on this machine, at \
         MOUNTPOINT: leave it out",
    ),
    (
        &[
            "migration-mode",
            "migration-on-error",
            "migration-verify-handles",
            "migration-confirm-paths",
        ],
        "it is for a virtual machine that migrates, and a mount does not: leave it out",
    ),
    (
        &["announce-submounts", "no-announce-submounts"],
        "file systems mounted below SOURCE always appear as directories of one: leave it out",
    ),
    (
        &["killpriv-v2", "no-killpriv-v2"],
        "the daemon always removes set-uid and set-gid bits on a write: leave it out",
    ),
    (
        &["preserve-noatime"],
        "O_NOATIME is always kept where the daemon may use it: leave it out",
    ),
    (
        &["security-label"],
        "a new file gets the label that SOURCE gives it: leave it out",
    ),
    (&["no-xattr"], "that is the default: leave it out"),
    (
        &["flock", "no-flock", "posix-lock", "no-posix-lock"],
        "use --locks=host or --locks=local",
    ),
    (
        &["timeout"],
        "use --attr-timeout and --entry-timeout, or --cache",
    ),
];

/// What to do instead of virtiofsd's option `name`, with or without dashes in front.
pub(crate) fn virtiofsd_hint(name: &str) -> Option<&'static str> {
    let name = name.trim_start_matches('-').replace('_', "-");
    let found = HINTS.iter().find(|(names, _)| names.contains(&&*name));
    found.map(|(_, hint)| *hint)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn hint_is_for_no_option_of_thrufs() {
        let command = crate::options::MountArgs::command();
        for argument in command.get_arguments() {
            for name in argument.get_long_and_visible_aliases().unwrap_or_default() {
                assert_eq!(virtiofsd_hint(name), None, "{name}");
            }
        }
    }

    #[test]
    fn hint_for_each_spelling_of_virtiofsd_s() {
        for spelled in ["--socket-path", "socket_path", "socket-path"] {
            assert!(
                virtiofsd_hint(spelled).unwrap().contains("MOUNTPOINT"),
                "{spelled}"
            );
        }
        assert_eq!(virtiofsd_hint("--nonsense"), None);
    }
}
