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
        "qemu",
        "
            apt-get install -y -qq --no-install-recommends qemu-system-x86 busybox-static cpio kmod xz-utils
            mkdir /root/guest
            cd /root/guest
            # The package itself, unpacked: its installation would build an initramfs of Debian's.
            apt-get download $(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \\(linux-image-6\\)/\\1/p')
            dpkg -x linux-image-*.deb .
            test -d lib || ln -s usr/lib lib",
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
            # Warnings, such as of a disk that is nearly full, are the machine's.
            thrufs doctor /mnt || test $? -eq 3
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
    // By QEMU's translator, with the release's kernel for the cloud and a busybox for its first process.
    Step::on_all(
        "guest",
        "
            cd /root/guest
            mkdir -p image/bin image/mnt
            cp /bin/busybox image/bin
            # Debian 13's kernel has them built in.
            touch image/modules
            kernel=$(ls lib/modules)
            depmod -b . $kernel
            modprobe -d . -S $kernel -a --show-depends virtio_pci virtiofs | sed -n 's/^insmod //p' >modules
            while read -r module; do
                name=$(basename $module .xz)
                case $module in
                    *.xz) xz -dc $module >image/$name ;;
                    *) cp $module image/$name ;;
                esac
                echo busybox insmod /$name >>image/modules
            done <modules
            cat >image/init <<'END'
#!/bin/busybox sh
. /modules
busybox mount -t virtiofs data /mnt
busybox grep -x content /mnt/f && echo of the guest >/mnt/g
busybox umount /mnt
busybox reboot -f
END
            chmod +x image/init
            (cd image; find . | cpio -o -H newc) >initrd
            thrufs device --socket-path /run/fs.sock --shared-dir /srv/data &
            timeout 60 sh -c 'until test -S /run/fs.sock; do sleep 0.1; done'
            timeout 300 qemu-system-x86_64 -m 2G -object memory-backend-memfd,id=mem,size=2G,share=on \\
                -machine memory-backend=mem -chardev socket,id=fs,path=/run/fs.sock \\
                -device vhost-user-fs-pci,chardev=fs,tag=data,queue-size=1024 -accel tcg -nographic -no-reboot \\
                -kernel boot/vmlinuz-$kernel -initrd initrd -append 'console=ttyS0 panic=-1'
            grep -x 'of the guest' /srv/data/g
            wait $!",
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
            "thrufs doctor",
            "thrufs umount /mnt",
            "thrufs device --socket-path /run/fs.sock --shared-dir /srv/data",
            "qemu-system-x86_64 -m 2G -object memory-backend-memfd,id=mem,size=2G,share=on",
            "-device vhost-user-fs-pci,chardev=fs,tag=data,queue-size=1024",
        ] {
            assert!(readme.contains(command), "README.md: {command}");
            let is_done = STEPS.iter().any(|step| step.script.contains(command));
            assert!(is_done, "no step: {command}");
        }
    }
}
