use thrufs_fs::{CachePolicy, Locks, PosixAcl, SecurityLabel};

use super::*;

fn parse_line(line: &[&str]) -> Result<DevicePlan, String> {
    let arguments: Vec<OsString> = line.iter().map(OsString::from).collect();
    match parse("virtiofsd", &arguments, true) {
        Ok(Asked::Device(plan)) => Ok(*plan),
        Ok(Asked::Capabilities) => Err("capabilities".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn plan(line: &[&str]) -> DevicePlan {
    parse_line(line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

/// Who starts a virtiofsd, and with which arguments: each starts thrufs unchanged.
const STARTED_BY: &[(&str, &[&str])] = &[
    (
        "old libvirt",
        &[
            "--fd=33",
            "-o",
            "source=/srv/share,cache=always,sandbox=chroot,xattr,flock,posix_lock",
            "--thread-pool-size=4",
            "-d",
        ],
    ),
    (
        "old libvirt, all off",
        &[
            "--fd=33",
            "-o",
            "source=/srv,sandbox=none,no_xattr,no_flock,no_posix_lock",
        ],
    ),
    (
        "new libvirt",
        &[
            "--fd=33",
            "--shared-dir=/srv",
            "--cache=auto",
            "--sandbox=namespace",
            "--uid-map=:0:100000:65536:",
            "--gid-map=:0:100000:65536:",
            "--rlimit-nofile=10000",
            "--readonly",
        ],
    ),
    (
        "kata",
        &[
            "--syslog",
            "--cache=auto",
            "--shared-dir=/run/kata",
            "--fd=3",
            "--inode-file-handles=mandatory",
            "--thread-pool-size=1",
            "--announce-submounts",
        ],
    ),
    (
        "Proxmox",
        &[
            "--fd=3",
            "--shared-dir=/srv",
            "--xattr",
            "--posix-acl",
            "--announce-submounts",
            "--allow-direct-io",
            "--cache=auto",
            "--writeback",
            "--syslog",
        ],
    ),
    (
        "KubeVirt",
        &[
            "--socket-path=/s",
            "--shared-dir=/srv",
            "--sandbox=none",
            "--cache=auto",
        ],
    ),
    (
        "microvm.nix",
        &[
            "--socket-path=/run/vm/s",
            "--socket-group=kvm",
            "--shared-dir=/srv",
            "--rlimit-nofile",
            "1048576",
            "--thread-pool-size",
            "8",
            "--posix-acl",
            "--xattr",
            "--cache=auto",
            "--inode-file-handles=prefer",
            "--tag=store",
            "--readonly",
        ],
    ),
    (
        "Incus",
        &[
            "--fd=3",
            "--cache=never",
            "--shared-dir=/srv",
            "--translate-uid=map:0:1000000:65536",
            "--translate-uid=forbid-guest:65536:10",
            "--translate-uid=forbid-guest:0:0",
            "--translate-gid=map:0:1000000:65536",
        ],
    ),
    (
        "Incus with ACLs",
        &[
            "--fd=3",
            "--cache=never",
            "--shared-dir=/srv",
            "--posix-acl=auto",
        ],
    ),
    (
        "vmspawn",
        &[
            "--shared-dir",
            "/srv",
            "--xattr",
            "--fd",
            "3",
            "--no-announce-submounts",
        ],
    ),
    (
        "mkosi",
        &[
            "--socket-path",
            "/s",
            "--shared-dir",
            "/srv",
            "--sandbox=chroot",
            "--inode-file-handles=never",
            "--log-level=error",
            "--modcaps=-mknod",
            "--security-label",
        ],
    ),
    (
        "virtme-ng",
        &[
            "--syslog",
            "--no-announce-submounts",
            "--posix-acl",
            "--readonly",
            "--socket-path",
            "/s",
            "--shared-dir",
            "/",
            "--sandbox",
            "none",
            "--cache",
            "always",
        ],
    ),
    (
        "cloud-hypervisor",
        &[
            "--log-level",
            "error",
            "--socket-path=/s",
            "--shared-dir=/srv",
            "--cache=never",
            "--thread-pool-size=4",
        ],
    ),
];

#[test]
fn parse_of_what_starts_virtiofsd_is_a_plan() {
    for (by, line) in STARTED_BY {
        let plan = parse_line(line).unwrap_or_else(|error| panic!("{by}: {error}"));
        assert!(plan.source.is_absolute(), "{by}");
        assert_ne!(plan.socket, SocketPlan::Systemd, "{by}");
    }
}

#[test]
fn parse_of_old_options_means_the_same_as_the_long_ones() {
    let old = plan(STARTED_BY[0].1);
    assert_eq!(old.source, std::path::Path::new("/srv/share"));
    assert_eq!(old.config.cache, CachePolicy::Always);
    assert_eq!(old.config.locks, Locks::Host);
    assert!(old.config.xattr);
    assert_eq!(old.log.level, LevelFilter::DEBUG);
    let off = plan(STARTED_BY[1].1);
    assert!(!off.config.xattr && off.config.locks == Locks::Local);
}

#[test]
fn parse_lets_the_last_of_a_repeated_option_and_the_typed_one_win() {
    let line = [
        "--fd=3",
        "--shared-dir=/a",
        "--cache=never",
        "--cache=always",
    ];
    assert_eq!(plan(&line).config.cache, CachePolicy::Always);
    let line = ["--fd=3", "--cache=always", "-o", "source=/a,cache=never"];
    assert_eq!(plan(&line).config.cache, CachePolicy::Always);
}

#[test]
fn parse_of_a_mode_needs_an_equals_sign() {
    let acl = |option| {
        plan(&["--fd=3", "--shared-dir=/a", option])
            .config
            .posix_acl
    };
    assert_eq!(acl("--posix-acl"), PosixAcl::Always);
    assert_eq!(acl("--posix-acl=auto"), PosixAcl::Auto);
    assert!(parse_line(&["--fd=3", "--shared-dir=/a", "--posix-acl", "auto"]).is_err());
}

#[test]
fn parse_of_what_cannot_work_says_why() {
    for (options, wanted) in [
        (&["--watch"][..], "notifications"),
        (&["--passthrough=auto"], "--passthrough cannot work"),
        (&["--max-inodes=5000"], "--max-inodes cannot work"),
        (&["--request-timeout=60"], "guest's kernel"),
        (&["--raise-max-pages-limit"], "guest's kernel"),
        (&["--migration-mode=find-paths"], "migration"),
        (&["--tag="], "1 to 36 bytes"),
        (
            &["--tag=0123456789012345678901234567890123456"],
            "1 to 36 bytes",
        ),
        (&["--num-request-queues=0"], "from 1 to"),
        (&["--num-request-queues=63"], "from 1 to"),
        (&["--socket-path=/s"], "cannot be used with"),
        (&["-o", "nonsense"], "'nonsense'"),
        (
            &["--posix-acl", "--translate-uid=map:0:1:1"],
            "exclude --posix-acl",
        ),
    ] {
        let mut line = vec!["--fd=3", "--shared-dir=/srv"];
        line.extend(options);
        let error = parse_line(&line).expect_err(options[0]);
        assert!(error.contains(wanted), "{options:?}: {error}");
    }
    let error = parse_line(&["--fd=3"]).unwrap_err();
    assert!(error.contains("--shared-dir"), "{error}");
}

#[test]
fn parse_of_survival_says_what_excludes_it() {
    let line = |options: &[&'static str]| {
        [
            &["--fd=3", "--shared-dir=/srv", "--survive=always"],
            options,
        ]
        .concat()
    };
    let survives = plan(&line(&["--survive-deaths=7", "--keep"]));
    assert_eq!(
        (survives.survive, survives.sandbox.restarts),
        (Some(7), true)
    );
    assert_eq!(survives.config.inode_file_handles, InodeFileHandles::Never);
    assert_eq!(plan(&["--fd=3", "--shared-dir=/srv"]).survive, None);
    for (options, named) in [
        (&["--inode-file-handles=prefer"][..], "--inode-file-handles"),
        (&["--uid-map=:0:100000:65536:"], "a user namespace"),
        (
            &["--sandbox=none", "--seccomp=none"],
            "--sandbox=none with --seccomp=none",
        ),
    ] {
        let error = parse_line(&line(options)).unwrap_err();
        assert!(
            error.contains("--survive=always") && error.contains(named),
            "{error}"
        );
    }
}

#[test]
fn parse_of_tags_takes_1_to_36_bytes() {
    for tag in ["a", "012345678901234567890123456789012345"] {
        let tag = format!("--tag={tag}");
        assert!(plan(&["--fd=3", "--shared-dir=/srv", &tag]).tag.is_some());
    }
}

#[test]
fn parse_of_the_question_for_capabilities_needs_nothing_else() {
    let asked = parse("virtiofsd", &["--print-capabilities".into()], false);
    assert_eq!(asked.unwrap(), Asked::Capabilities);
}

#[test]
fn parse_of_submounts_and_labels_lets_the_last_win() {
    let config = |options: &[&str]| {
        let mut line = vec!["--fd=3", "--shared-dir=/srv"];
        line.extend(options);
        plan(&line).config
    };
    let announced = ["--no-announce-submounts", "--announce-submounts"];
    assert!(config(&announced).announce_submounts);
    let flat = ["--announce-submounts", "--no-announce-submounts"];
    assert!(!config(&flat).announce_submounts);
    assert!(config(&[]).announce_submounts);
    for (option, wanted) in [
        ("--security-label", SecurityLabel::Always),
        ("--security-label=auto", SecurityLabel::Auto),
        ("--security-label=never", SecurityLabel::Never),
    ] {
        let config = config(&[option]);
        assert_eq!(config.security_label, wanted, "{option}");
        assert_eq!(config.xattr, wanted != SecurityLabel::Never, "{option}");
    }
    let old = plan(&[
        "--fd=3",
        "-o",
        "source=/srv,security_label,announce_submounts",
    ]);
    assert!(old.config.announce_submounts);
    assert_eq!(old.config.security_label, SecurityLabel::Always);
}

#[test]
fn parse_by_a_user_warns_of_the_owner_of_new_files() {
    let arguments: Vec<OsString> = ["--fd=3", "--shared-dir=/srv"].map(OsString::from).to_vec();
    let Ok(Asked::Device(plan)) = parse("virtiofsd", &arguments, false) else {
        panic!("no plan");
    };
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.warnings[0].contains("user of this process"));
}
