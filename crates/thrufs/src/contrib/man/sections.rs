//! What manual pages say beside what the command line's definition knows: exit status, files, examples, other pages.
//!
//! Invariant: each page has a row, and each example that begins with `thrufs` is a command line that clap takes (a
//! test parses them). Not in the help texts of clap: `--help` would be as long as the page.

/// A term and what is said of it.
pub(super) type Entry = (&'static str, &'static str);

/// What a page says that the command line's definition does not.
pub(super) struct Sections {
    pub(super) page: &'static str,
    pub(super) exit_status: &'static [Entry],
    pub(super) files: &'static [Entry],
    /// What is done, and the lines that do it.
    pub(super) examples: &'static [Entry],
    pub(super) see_also: &'static [&'static str],
}

const EXIT: &[Entry] = &[
    ("0", "Success."),
    ("1", "Failure; standard error says why."),
    USAGE,
];
const USAGE: Entry = ("2", "The command line is wrong.");
const EXIT_OF_SERVERS: &[Entry] = &[
    (
        "0",
        "Success: in the background as soon as the mount answers, in the foreground when it has been unmounted; of a \
        device when its front end has disconnected, or at SIGTERM.",
    ),
    (
        "1",
        "Any failure that trying again may mend, among them the end of the server.",
    ),
    (
        "2",
        "The command line, SOURCE, MOUNTPOINT or the directory of a device is wrong.",
    ),
];
const EXIT_OF_CHANGES: &[Entry] = &[
    ("0", "The new server serves."),
    (
        "1",
        "It does not, and the former one goes on; standard error says why.",
    ),
    USAGE,
];
const RUNTIME: Entry = (
    "/run/thrufs, $XDG_RUNTIME_DIR/thrufs, /tmp/thrufs-UID",
    "Sockets of the daemons of root and of a user, for thrufs-status(8).",
);
const FUSE_CONF: Entry = (
    "/etc/fuse.conf",
    "user_allow_other, without which a user's mount cannot have --allow-other or --allow-root.",
);

pub(super) const SECTIONS: &[Sections] = &[
    Sections {
        page: "thrufs",
        exit_status: EXIT,
        files: &[RUNTIME, FUSE_CONF],
        examples: &[
            ("See what it does:", "thrufs demo"),
            (
                "Mount, look, unmount:",
                "thrufs mount /srv/data /mnt\nthrufs status /mnt\nthrufs umount /mnt",
            ),
        ],
        see_also: &[
            "thrufs-mount(8)",
            "thrufs-device(8)",
            "thrufs-umount(8)",
            "thrufs-status(8)",
            "thrufs-top(8)",
            "thrufs-doctor(8)",
            "thrufs-upgrade(8)",
            "thrufs-set(8)",
            "thrufs-demo(8)",
            "mount.fuse.thrufs(8)",
            "fuse(4)",
        ],
    },
    Sections {
        page: "thrufs-mount",
        exit_status: EXIT_OF_SERVERS,
        files: &[
            (
                "/etc/thrufs/NAME.conf",
                "SOURCE=, MOUNTPOINT= and OPTIONS= of the unit thrufs@NAME.service.",
            ),
            RUNTIME,
            FUSE_CONF,
        ],
        examples: &[
            (
                "Mount, and unmount:",
                "thrufs mount /srv/data /mnt\nthrufs umount /mnt",
            ),
            (
                "Show at once what others change under SOURCE, and cache all the same:",
                "thrufs mount --cache=always --watch /srv/data /mnt",
            ),
            (
                "Each write on stable storage before it returns:",
                "thrufs mount --durability=dsync /srv/data /mnt",
            ),
            (
                "The files of user 100000 and up are those of 0 and up, as in a container:",
                "thrufs mount --translate-uid=map:0:100000:65536 --translate-gid=map:0:100000:65536 /srv/data /mnt",
            ),
            ("By systemd:", "systemctl enable --now thrufs@NAME"),
        ],
        see_also: &[
            "thrufs(8)",
            "thrufs-umount(8)",
            "thrufs-status(8)",
            "mount.fuse.thrufs(8)",
            "fusermount3(1)",
            "fuse(4)",
        ],
    },
    Sections {
        page: "thrufs-device",
        exit_status: EXIT_OF_SERVERS,
        files: &[
            (
                "SOCKET, SOCKET.pid",
                "What a virtual machine monitor connects to, and the number of the process.",
            ),
            (
                "/usr/share/qemu/vhost-user/50-thrufs.json",
                "By which libvirt finds /usr/libexec/thrufs/virtiofsd, a link to thrufs.",
            ),
            RUNTIME,
        ],
        examples: &[
            (
                "A device for QEMU:",
                "thrufs device --socket-path /run/fs.sock --shared-dir /srv/data\n\
                qemu-system-x86_64 -m 2G \\\n    -object memory-backend-memfd,id=mem,size=2G,share=on -machine memory-backend=mem \\\n    \
                -chardev socket,id=fs,path=/run/fs.sock \\\n    \
                -device vhost-user-fs-pci,chardev=fs,tag=data,queue-size=1024",
            ),
            ("In the guest:", "mount -t virtiofs data /mnt"),
            ("What it is doing:", "thrufs status /run/fs.sock"),
        ],
        see_also: &["thrufs(8)", "thrufs-status(8)", "qemu(1)"],
    },
    Sections {
        page: "thrufs-umount",
        exit_status: EXIT,
        files: &[],
        examples: &[
            ("Unmount:", "thrufs umount /mnt"),
            ("A mount that is in use:", "thrufs umount --lazy /mnt"),
        ],
        see_also: &["thrufs(8)", "thrufs-mount(8)", "umount(8)"],
    },
    Sections {
        page: "thrufs-status",
        exit_status: EXIT,
        files: &[RUNTIME],
        examples: &[
            ("All mounts and devices:", "thrufs status"),
            (
                "One of them, with rates every two seconds:",
                "thrufs status --watch=2 /mnt",
            ),
            ("For a program:", "thrufs status --json /mnt"),
        ],
        see_also: &[
            "thrufs(8)",
            "thrufs-mount(8)",
            "thrufs-device(8)",
            "thrufs-top(8)",
            "thrufs-doctor(8)",
        ],
    },
    Sections {
        page: "thrufs-top",
        exit_status: EXIT,
        files: &[RUNTIME],
        examples: &[
            ("Live, until q is typed:", "thrufs top"),
            (
                "Two tables of one mount, five seconds apart, the most bytes first:",
                "thrufs top -b -n 2 -d 5 --sort=bytes /mnt",
            ),
            ("For a program, a line each second:", "thrufs top --json"),
        ],
        see_also: &["thrufs(8)", "thrufs-status(8)", "top(1)"],
    },
    Sections {
        page: "thrufs-doctor",
        exit_status: &[
            (
                "0",
                "Nothing needs to be done: all findings are ok or notes.",
            ),
            ("1", "Failure; standard error says why."),
            USAGE,
            ("3", "There are warnings, and no errors."),
            ("4", "There are errors: something does not work."),
        ],
        files: &[
            ("/dev/fuse", "Is opened, and closed again."),
            FUSE_CONF,
            RUNTIME,
        ],
        examples: &[
            ("The machine and all mounts:", "thrufs doctor"),
            ("One mount:", "thrufs doctor /mnt"),
            ("For a program:", "thrufs doctor --json"),
        ],
        see_also: &[
            "thrufs(8)",
            "thrufs-status(8)",
            "thrufs-umount(8)",
            "fusermount3(1)",
        ],
    },
    Sections {
        page: "thrufs-upgrade",
        exit_status: EXIT_OF_CHANGES,
        files: &[RUNTIME],
        examples: &[
            ("After a new version was installed:", "thrufs upgrade /mnt"),
            (
                "To another binary, or back:",
                "thrufs upgrade --binary=/opt/thrufs/bin/thrufs /mnt",
            ),
        ],
        see_also: &["thrufs(8)", "thrufs-mount(8)", "thrufs-set(8)"],
    },
    Sections {
        page: "thrufs-set",
        exit_status: EXIT_OF_CHANGES,
        files: &[RUNTIME],
        examples: &[
            (
                "To see what a mount does:",
                "thrufs set /mnt log-level=debug",
            ),
            (
                "Shorter timeouts, and more threads:",
                "thrufs set /mnt attr-timeout=0.1 entry-timeout=0.1 thread-pool-size=16",
            ),
        ],
        see_also: &["thrufs(8)", "thrufs-mount(8)", "thrufs-upgrade(8)"],
    },
    Sections {
        page: "thrufs-demo",
        exit_status: EXIT,
        files: &[],
        examples: &[("As root:", "thrufs demo")],
        see_also: &["thrufs(8)", "thrufs-mount(8)"],
    },
    Sections {
        page: HELPER,
        exit_status: &[
            ("0", "Success: the mount answers."),
            ("1", "The command line is wrong."),
            (
                "32",
                "Any other failure; standard error says why. See mount(8).",
            ),
        ],
        files: &[("/etc/fstab", "Mounts with type fuse.thrufs."), FUSE_CONF],
        examples: &[
            (
                "By hand:",
                "mount -t fuse.thrufs /srv/data /mnt -o cache=auto",
            ),
            (
                "In /etc/fstab:",
                "/srv/data /mnt fuse.thrufs cache=auto,nofail 0 0",
            ),
            (
                "When it is first used:",
                "/srv/data /mnt fuse.thrufs noauto,x-systemd.automount 0 0",
            ),
        ],
        see_also: &["thrufs(8)", "thrufs-mount(8)", "mount(8)", "fstab(5)"],
    },
];

/// The page of what mount(8) calls.
pub(in crate::contrib) const HELPER: &str = "mount.fuse.thrufs";

/// Pages of this program that some page refers to.
pub(in crate::contrib) fn referred() -> Vec<&'static str> {
    let all = SECTIONS.iter().flat_map(|sections| sections.see_also);
    all.filter_map(|other| other.strip_suffix("(8)"))
        .filter(|page| page.contains("thrufs"))
        .collect()
}

/// Command lines of `thrufs` in the examples.
pub(in crate::contrib) fn example_lines() -> Vec<&'static str> {
    let all = SECTIONS.iter().flat_map(|sections| sections.examples);
    all.flat_map(|(_, lines)| lines.lines())
        .filter(|line| line.starts_with("thrufs "))
        .collect()
}
