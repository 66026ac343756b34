//! What is done on each release, in order: a script of sh(1) each, in which every command must succeed.

/// A row of the table.
pub(super) struct Step {
    /// In the report.
    pub(super) name: &'static str,
    /// The one release that takes it.
    only: Option<&'static str>,
    pub(super) script: &'static str,
}

impl Step {
    pub(super) fn is_for(&self, release: &str) -> bool {
        self.only.is_none_or(|only| only == release)
    }

    const fn on_all(name: &'static str, script: &'static str) -> Self {
        let only = None;
        Self { name, only, script }
    }
}

pub(super) const STEPS: &[Step] = &[
    Step::on_all("clone", "git clone --quiet /root/thrufs.bundle /root/thrufs"),
    Step::on_all("demo", "cd /root/thrufs; cargo run --release -- demo"),
    Step {
        name: "package",
        only: Some("12"),
        script: "
            cd /root/thrufs
            cargo install --locked cargo-deb@3.7.0
            cargo deb -p thrufs
            cp target/debian/thrufs_*.deb /root/thrufs.deb",
    },
    Step::on_all(
        "lintian",
        "
            apt-get update -qq
            apt-get install -y -qq --no-install-recommends lintian
            lintian --fail-on=error,warning /root/thrufs.deb",
    ),
    Step::on_all(
        "install",
        "
            touch /etc/fstab
            mkdir -p /srv/data
            echo content >/srv/data/f
            # All files but what steps write themselves, and what dpkg and apt keep of each package.
            cat >/root/list <<'END'
            cd /
            find . -xdev '(' -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/cache -o -path ./var/log \\
                -o -path ./tmp -o -path ./root -o -path ./srv -o -path ./mnt ')' -prune -o -print | sort
END
            sh /root/list >/root/before
            dpkg -i /root/thrufs.deb
            thrufs -V
            dpkg --verify thrufs",
    ),
    Step::on_all(
        "files",
        "
            for page in thrufs thrufs-mount thrufs-status mount.fuse.thrufs; do
                man 8 $page | grep -q SYNOPSIS
            done
            bash -c '. /usr/share/bash-completion/completions/thrufs; complete -p thrufs'
            test -s /usr/share/zsh/vendor-completions/_thrufs
            test -s /usr/share/fish/vendor_completions.d/thrufs.fish",
    ),
    Step::on_all(
        "mount",
        "
            thrufs mount /srv/data /mnt
            cmp /mnt/f /srv/data/f
            echo more >>/mnt/f
            tail -n 1 /srv/data/f | grep more
            thrufs status /mnt | grep '/srv/data at /mnt'
            thrufs umount /mnt
            test ! -e /mnt/f",
    ),
    Step::on_all(
        "fstab",
        "
            echo '/srv/data /mnt fuse.thrufs cache=auto,nofail 0 0' >>/etc/fstab
            mount /mnt
            findmnt -n -o FSTYPE /mnt | grep -x fuse.thrufs
            cmp /mnt/f /srv/data/f
            umount /mnt
            test ! -e /mnt/f",
    ),
    Step::on_all(
        "unit",
        "
            mkdir /root/units
            cp /usr/share/doc/thrufs/examples/mnt-data.mount /root/units
            said=$(systemd-analyze verify thrufs@data.service /root/units/mnt-data.mount 2>&1)
            test -z \"$said\"",
    ),
    Step::on_all(
        "purge",
        "
            dpkg --purge thrufs
            sh /root/list >/root/after
            diff /root/before /root/after
            if dpkg -s thrufs; then exit 1; fi",
    ),
    // The README's second command, as far as it runs anywhere; each of its other stages is one of CI.
    Step::on_all(
        "check",
        "cd /root/thrufs; CI=true cargo xtests check --stage man --stage library",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::install;

    #[test]
    fn commands_of_the_stranger_are_those_of_the_readme() {
        let readme = std::fs::read_to_string(install::root().join("README.md")).unwrap();
        for command in [
            "cargo run --release -- demo",
            "cargo xtests check",
            "cargo install --locked cargo-deb@3.7.0",
            "cargo deb -p thrufs",
            "cache=auto,nofail 0 0",
            "thrufs umount /mnt",
        ] {
            assert!(readme.contains(command), "README.md: {command}");
            let is_done = STEPS.iter().any(|step| step.script.contains(command));
            assert!(is_done, "no step: {command}");
        }
    }
}
