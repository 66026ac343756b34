//! Every option's way from the command line into the request, and the contradictions.

use std::time::Duration;

use thrufs_fs::{
    CachePolicy, InodeFileHandles, KernelPassthrough, LONG_TIMEOUT, Locks, WriteJoining,
};

use super::*;

fn try_request(options: &[&str], is_root: bool) -> Result<MountPlan, String> {
    let line = ["/srv/source", "/mnt/point"].iter().chain(options);
    let arguments: Vec<OsString> = line.map(OsString::from).collect();
    parse("thrufs mount", &arguments, is_root).map_err(|error| error.to_string())
}

fn plan(options: &[&str]) -> MountPlan {
    try_request(options, true).unwrap_or_else(|error| panic!("{options:?}: {error}"))
}

/// Apart from kernel passthrough, virtiofsd's.
fn roots_default() -> Config {
    Config {
        passthrough: KernelPassthrough::Auto,
        ..Config::default()
    }
}

fn refusal(options: &[&str]) -> String {
    match try_request(options, true) {
        Ok(_) => panic!("{options:?} is accepted"),
        Err(error) => error,
    }
}

#[test]
fn parse_without_options_has_virtiofsd_s_defaults() {
    let plan = plan(&[]);
    assert_eq!(plan.config, roots_default());
    assert_eq!(plan.kernel.flags, MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
    assert_eq!(plan.kernel.fsname, "/srv/source");
    assert_eq!(plan.kernel.subtype, "thrufs");
    assert_eq!(plan.kernel.access, Access::AllUsers);
    assert_eq!(plan.kernel.max_read, None);
    assert!(!plan.foreground && !plan.log.syslog && !plan.session.clone_fd);
    assert_eq!(plan.log.level, LevelFilter::INFO);
    assert_eq!(plan.session.threads, 8);
}

#[test]
fn parse_of_thread_pool_size_wins_over_the_default_of_durability() {
    let threads = |words: &[&str]| plan(words).session.threads;
    assert_eq!(threads(&["--durability=dsync"]), 16);
    assert_eq!(threads(&["--durability=dsync", "--thread-pool-size=3"]), 3);
}

#[test]
fn parse_by_a_user_lets_only_the_owner_in() {
    assert_eq!(
        try_request(&[], false).unwrap().kernel.access,
        Access::Owner
    );
    let asked = try_request(&["-o", "allow_other"], false).unwrap();
    assert_eq!(asked.kernel.access, Access::AllUsers);
    assert_eq!(
        plan(&["-o", "allow_root"]).session.access,
        Access::OwnerAndRoot
    );
}

/// A change to the default configuration.
type Change = fn(&mut Config);

/// Each option of the file system, and what it does to the defaults.
const FILE_OPTIONS: &[(&str, Change)] = &[
    ("cache=auto", |_| {}),
    ("cache=metadata", |config| {
        config.cache = CachePolicy::Metadata;
        config.timeouts = CachePolicy::Metadata.timeouts();
        config.passthrough = KernelPassthrough::Never;
    }),
    ("attr-timeout=2.5", |config| {
        config.timeouts.attr = Duration::from_millis(2500);
    }),
    ("entry-timeout=3", |config| {
        config.timeouts.entry = Duration::from_secs(3);
        config.timeouts.dir = Duration::from_secs(3);
    }),
    ("negative-timeout=4", |config| {
        config.timeouts.negative = Duration::from_secs(4);
    }),
    ("dir-timeout=5", |config| {
        config.timeouts.dir = Duration::from_secs(5);
    }),
    ("xattr", |config| {
        config.xattr = true;
    }),
    ("posix-acl", |config| {
        (config.posix_acl, config.xattr) = (PosixAcl::Always, true);
    }),
    ("posix-acl=auto", |config| {
        (config.posix_acl, config.xattr) = (PosixAcl::Auto, true);
    }),
    ("posix-acl=never", |_| {}),
    ("no-readdirplus", |config| {
        config.readdirplus = false;
    }),
    ("allow-direct-io", |config| {
        config.allow_direct_io = true;
    }),
    ("allow-mmap=yes", |config| {
        config.allow_mmap = true;
    }),
    ("allow-mmap", |config| {
        config.allow_mmap = true;
    }),
    ("allow-mmap=no", |_| {}),
    ("inode-file-handles=never", |config| {
        config.inode_file_handles = InodeFileHandles::Never;
    }),
    ("locks=host", |config| {
        config.locks = Locks::Host;
    }),
    ("max-write=64K", |config| {
        config.max_write = 65536;
    }),
    ("readonly", |config| {
        config.readonly = true;
    }),
];

#[test]
fn parse_of_each_file_option_changes_its_field_only() {
    for (option, change) in FILE_OPTIONS {
        let mut expected = roots_default();
        change(&mut expected);
        assert_eq!(
            plan(&[&format!("--{option}")]).config,
            expected,
            "--{option}"
        );
        assert_eq!(plan(&["-o", option]).config, expected, "-o {option}");
        let underscored = option.replace('-', "_");
        assert_eq!(
            plan(&["-o", &underscored]).config,
            expected,
            "-o {underscored}"
        );
    }
}

#[test]
fn parse_of_each_cache_policy_brings_its_timeouts() {
    for (name, attr) in [
        ("never", Duration::ZERO),
        ("auto", Duration::from_secs(1)),
        ("always", LONG_TIMEOUT),
        ("metadata", LONG_TIMEOUT),
    ] {
        let timeouts = plan(&["--cache", name]).config.timeouts;
        assert_eq!(
            (timeouts.attr, timeouts.entry, timeouts.dir),
            (attr, attr, attr),
            "{name}"
        );
    }
    let mixed = plan(&["--attr-timeout=7", "--cache=always"])
        .config
        .timeouts;
    assert_eq!(
        (mixed.attr, mixed.entry),
        (Duration::from_secs(7), LONG_TIMEOUT)
    );
}

#[test]
fn parse_of_a_transport_is_fuser_unless_said_and_excludes_clone_fd() {
    assert_eq!(plan(&[]).session.transport, Transport::Fuser);
    let device = plan(&["--transport=device"]);
    assert_eq!(device.session.transport, Transport::Device);
    let refused = refusal(&["--transport=device", "--clone-fd"]);
    assert!(refused.contains("leave --clone-fd out"), "{refused}");
}

#[test]
fn parse_of_idmap_needs_the_device_and_ids_that_nothing_else_judges() {
    let device = ["--idmap", "--transport=device"];
    assert!(plan(&device).config.idmap && !plan(&[]).config.idmap);
    let refused = refusal(&["--idmap"]);
    assert!(refused.contains("--transport=device"), "{refused}");
    for other in [
        "--allow-root",
        "--translate-uid=map:1:2:3",
        "--translate-gid=map:1:2:3",
    ] {
        let refused = refusal(&[&device[..], &[other]].concat());
        assert!(refused.contains("--idmap"), "{other}: {refused}");
    }
}

#[test]
fn parse_of_each_other_option_reaches_the_request() {
    assert!(plan(&["-o", "nonempty"]).nonempty && !plan(&[]).nonempty);
    assert_eq!(plan(&["--thread-pool-size=7"]).session.threads, 7);
    assert_eq!(plan(&["-o", "max_threads=3"]).session.threads, 3);
    assert!(plan(&["-o", "clone_fd"]).session.clone_fd);
    assert_eq!(
        plan(&["-o", "max_read=128K"]).kernel.max_read,
        Some(131_072)
    );
    assert_eq!(plan(&["--rlimit-nofile", "0"]).rlimit_nofile, Some(0));
    assert_eq!(plan(&["--subtype=mine"]).kernel.subtype, "mine");
    assert_eq!(plan(&["-o", r"fsname=a\,b"]).kernel.fsname, "a,b");
    assert!(plan(&["--syslog"]).log.syslog);
    assert!(plan(&["-f"]).foreground);
    assert_eq!(plan(&["--log-level=trace"]).log.level, LevelFilter::TRACE);
    let debug = plan(&["-d"]);
    assert!(debug.foreground && debug.log.level == LevelFilter::DEBUG);
}

#[test]
fn parse_of_an_option_given_twice_takes_the_last_and_the_typed_one() {
    assert_eq!(
        plan(&["--cache=never", "--cache=always"]).config.cache,
        CachePolicy::Always
    );
    assert_eq!(
        plan(&["-o", "cache=never,cache=auto"]).config.cache,
        CachePolicy::Auto
    );
    let both = plan(&["--cache=never", "-o", "cache=always"]);
    assert_eq!(both.config.cache, CachePolicy::Never);
}

#[test]
fn parse_of_mount8_s_flags_honours_r_and_w() {
    assert!(
        plan(&["-n", "-s", "-v", "-r"])
            .kernel
            .flags
            .contains(MsFlags::MS_RDONLY)
    );
    assert!(
        !plan(&["-o", "ro", "-w"])
            .kernel
            .flags
            .contains(MsFlags::MS_RDONLY)
    );
    plan(&["-t", "fuse.thrufs"]);
}

#[test]
fn parse_of_readonly_mounts_read_only_and_ro_leaves_the_daemon_alone() {
    let readonly = plan(&["--readonly"]);
    assert!(readonly.config.readonly && readonly.kernel.flags.contains(MsFlags::MS_RDONLY));
    let ro = plan(&["-o", "ro"]);
    assert!(!ro.config.readonly && ro.kernel.flags.contains(MsFlags::MS_RDONLY));
}

#[test]
fn parse_of_bad_values_and_contradictions_is_refused_by_name() {
    let table: &[(&[&str], &str)] = &[
        (
            &["--cache=sometimes"],
            "possible values: never, auto, always, metadata",
        ),
        (&["-o", "cache=sometimes"], "'--cache <POLICY>'"),
        (&["--attr-timeout=-1"], "expected seconds from 0"),
        (&["--attr-timeout=inf"], "expected seconds from 0"),
        (&["--entry-timeout=1e300"], "expected seconds from 0"),
        (&["--max-write=5000"], "multiple of 4096 from 4K to 16M"),
        (&["--max-write=32M"], "multiple of 4096 from 4K to 16M"),
        (&["--max-write=99999999999999999999"], "expected bytes"),
        (&["--max-write=18446744073709551615M"], "too large"),
        (&["-o", "max_read=100"], "from 4K to 4095M"),
        (&["--thread-pool-size=0"], "from 1 to 256"),
        (&["--thread-pool-size=257"], "from 1 to 256"),
        (&["--rlimit-nofile=many"], "invalid digit"),
        (&["--subtype=a,b"], "letters, digits"),
        (&["-o", "allow_other,allow_root"], "cannot be used with"),
        (&["-d", "--log-level=warn"], "cannot be used with"),
        (&["--readonly", "-o", "rw"], "contradict"),
        (&["--passthrough=maybe"], "never, auto, always"),
        (&["--writeback", "--cache=metadata"], "needs a cache"),
        (&["--durability=never"], "fsync, dsync"),
        (&["--write-joining=maybe"], "never, auto, always"),
        (
            &["-o", "durability=dsync,writeback"],
            "--durability=dsync and --writeback exclude each other",
        ),
        (
            &["--one-page-writes", "--max-write=64K"],
            "cannot be used with",
        ),
        (&["--cahce=never"], "similar argument exists: '--cache'"),
        (&["-o", "xattr=yes"], "unexpected value 'yes' for '--xattr'"),
        (&["-o", "rw=1"], "takes no value"),
    ];
    for (options, wanted) in table {
        let text = refusal(options);
        assert!(
            text.contains(wanted),
            "{options:?}: expected `{wanted}` in: {text}"
        );
    }
}

#[test]
fn parse_with_options_before_the_positionals_reads_both() {
    let line = [
        "-o", "ro", "--cache", "never", "/a", "-n", "/b", "-o", "nodev",
    ];
    let arguments: Vec<OsString> = line.iter().map(OsString::from).collect();
    let plan = parse("mount.thrufs", &arguments, true).unwrap();
    assert_eq!((plan.source, plan.mountpoint), ("/a".into(), "/b".into()));
    assert!(plan.kernel.flags.contains(MsFlags::MS_RDONLY));
}

#[test]
fn parse_of_the_data_modes_fills_the_config() {
    let parse = |options: &[&str], is_root| {
        let words = options.iter().chain(&["/a", "/b"]);
        let arguments: Vec<OsString> = words.map(OsString::from).collect();
        parse("mount.thrufs", &arguments, is_root)
    };
    let plain = parse(&[], false).unwrap();
    assert_eq!(plain.config.passthrough, KernelPassthrough::Never);
    assert!(!plain.config.writeback && !plain.raise_max_pages_limit);
    let one_page = parse(&["-o", "one_page_writes,passthrough=auto"], false).unwrap();
    assert_eq!(one_page.config.max_write, 4096);
    assert_eq!(one_page.config.passthrough, KernelPassthrough::Never);
    assert!(parse(&["-o", "writeback"], false).unwrap().config.writeback);
    assert_eq!(plain.config.durability, Durability::Fsync);
    let durable = parse(&["-o", "durability=dsync,write_joining=never"], false).unwrap();
    assert_eq!(durable.config.durability, Durability::Dsync);
    assert_eq!(durable.config.write_joining, WriteJoining::Never);
    for root_only in ["--raise-max-pages-limit", "--request-timeout=60"] {
        assert!(parse(&[root_only], true).is_ok());
        let text = parse(&[root_only], false).unwrap_err().to_string();
        assert!(text.contains("needs root"), "{text}");
    }
}

#[test]
fn parse_of_maps_reaches_the_file_system() {
    let plan = plan(&[
        "--translate-uid=map:1:2:1",
        "--translate-uid=forbid-guest:5:1",
        "-o",
        "translate_gid=host:7:8:1,xattrmap=:map::user.v.:",
    ]);
    let ids = &plan.config.ids;
    assert_eq!((ids.uid.to_host(1), ids.uid.to_host(5)), (Some(2), None));
    assert_eq!((ids.uid.to_guest(2), ids.gid.to_guest(7)), (1, 8));
    assert!(plan.config.xattr && plan.config.xattr_map.is_some());
}

#[test]
fn parse_of_wrong_maps_names_the_option_and_the_remedy() {
    for (options, wanted) in [
        (
            &["--translate-uid=map:1:2"][..],
            "write map:GUEST:HOST:COUNT",
        ),
        (
            &["--translate-gid=map:1:2:3", "--translate-gid=guest:3:9:1"],
            "--translate-gid: 'map:1:2:3' and 'guest:3:9:1' are both for id 3",
        ),
        (&["--xattrmap=:ok:client:::"], "such as :ok:all:::"),
        (
            &["--translate-uid=map:1:2:1", "--posix-acl"],
            "exclude --posix-acl",
        ),
        (
            &["--xattrmap=:map::user.v.:", "--posix-acl=auto"],
            "--posix-acl needs ACLs under their own names",
        ),
    ] {
        let error = refusal(options);
        assert!(error.contains(wanted), "{options:?}: {error}");
    }
}

#[test]
fn parse_of_confinement_by_user_and_option() {
    use crate::sandbox::seccomp::Seccomp;
    let candidates = |options: &[&str], is_root| {
        let plan = try_request(options, is_root).unwrap();
        plan.sandbox.candidates.to_vec()
    };
    let all = [Sandbox::Namespace, Sandbox::Chroot, Sandbox::None];
    assert_eq!(candidates(&[], true), all);
    assert_eq!(candidates(&[], false), [Sandbox::None]);
    assert_eq!(candidates(&["--clone-fd"], true), [Sandbox::None]);
    assert_eq!(candidates(&["--sandbox=chroot"], true), [Sandbox::Chroot]);
    let map = ["-o", "uid_map=:0:100000:65536:"];
    assert_eq!(candidates(&map, false), [Sandbox::Namespace]);
    assert_eq!(plan(&[]).sandbox.seccomp, Seccomp::Kill);
    assert!(plan(&["--sandbox=none"]).sandbox.splits());
    assert!(!plan(&["--sandbox=none", "--seccomp=none"]).sandbox.splits());
}

#[test]
fn parse_of_a_request_timeout_that_cannot_be_names_the_remedy() {
    for (options, is_root, wanted) in [
        (&["--request-timeout=14"][..], true, "15..=65535"),
        (
            &["-o", "request_timeout=60,locks=host"],
            true,
            "use --locks=local",
        ),
        (
            &["--request-timeout=60"],
            false,
            "fs.fuse.default_request_timeout",
        ),
    ] {
        let error = try_request(options, is_root).unwrap_err();
        assert!(error.contains(wanted), "{options:?}: {error}");
    }
}

#[test]
fn parse_of_a_request_timeout_by_the_device_needs_no_root_and_changes_no_sysctl() {
    let options = ["--request-timeout=60", "--transport=device"];
    let plan = try_request(&options, false).unwrap();
    assert_eq!(plan.config.request_timeout, Some(60));
    assert_eq!(plan.sysctl_timeout(), None);
}

#[test]
fn parse_of_a_capability_to_leave_out_takes_those_that_a_mount_can_do_without() {
    let options = ["--without=FUSE_PASSTHROUGH", "-o", "without=FUSE_DONT_MASK"];
    assert_eq!(
        plan(&options).config.without,
        ["FUSE_DONT_MASK", "FUSE_PASSTHROUGH"]
    );
    for unknown in ["FUSE_NONESUCH", "FUSE_BIG_WRITES", ""] {
        let error = refusal(&["--without", unknown]);
        assert!(error.contains("FUSE_DO_READDIRPLUS"), "{error}");
    }
}

#[test]
fn parse_of_confinement_that_cannot_be_names_the_remedy() {
    for (options, is_root, wanted) in [
        (
            &["--sandbox=chroot"][..],
            false,
            "needs root: use --sandbox=namespace or none",
        ),
        (
            &["--sandbox=none", "--uid-map=:0:1:1:"],
            true,
            "use --sandbox=namespace",
        ),
        (
            &["--sandbox=namespace", "--clone-fd"],
            true,
            "use --sandbox=none",
        ),
        (
            &["--allow-root", "--gid-map=:0:1:1:"],
            true,
            "or use --allow-other",
        ),
        (&["--modcaps=mknod"], true, "write +sys_admin or -mknod"),
        (
            &["--modcaps=+sys_admin"],
            false,
            "--modcaps needs root, or --sandbox=namespace",
        ),
        (
            &["--uid-map=0:1:2"],
            true,
            "expected :INSIDE:OUTSIDE:COUNT:",
        ),
    ] {
        let error = try_request(options, is_root).unwrap_err();
        assert!(error.contains(wanted), "{options:?}: {error}");
    }
}

/// An option that is accepted and does nothing is told of, with the reason.
#[test]
fn parse_of_what_will_be_otherwise_than_asked_warns() {
    let warnings = |options: &[&str], is_root| try_request(options, is_root).unwrap().warnings;
    for (options, is_root, wanted) in [
        (&["-o", "lazytime"][..], false, "-o lazytime is ignored"),
        (&["-o", "dev,ro"], false, "-o dev is ignored: only root"),
        (&["--clone-fd"], true, "is not shut in"),
        (&["--log-level=debug"], true, "use -f or --syslog"),
        (&["-s", "-o", "xyzzy"], true, "'xyzzy'"),
    ] {
        let told = warnings(options, is_root);
        assert_eq!(told.len(), 1, "{options:?}: {told:?}");
        assert!(told[0].contains(wanted), "{told:?}");
    }
    for (options, is_root) in [
        (&["-o", "lazytime,dev,suid"][..], true),
        (&["-o", "nodev,noatime,relatime,rw,async,nofail"], false),
        (&["--clone-fd", "--sandbox=none"], true),
        (&["-d"], true),
        (&["--log-level=trace", "--syslog"], true),
        (&["--sandbox=namespace", "--modcaps=+chown"], false),
    ] {
        assert_eq!(
            warnings(options, is_root),
            Vec::<String>::new(),
            "{options:?}"
        );
    }
}

#[test]
fn with_safe_file_handles_of_a_part_of_a_file_system_has_none_in_a_sandbox() {
    let handles = |options: &[&str], whole: bool| {
        let plan = plan(options).with_safe_file_handles(|| whole);
        plan.config.inode_file_handles
    };
    assert_eq!(handles(&[], true), InodeFileHandles::Prefer);
    assert_eq!(handles(&[], false), InodeFileHandles::Never);
    assert_eq!(
        handles(&["--sandbox=none"], false),
        InodeFileHandles::Prefer
    );
    let asked = ["--inode-file-handles=mandatory"];
    assert_eq!(handles(&asked, false), InodeFileHandles::Mandatory);
}

#[test]
fn parse_passes_files_through_unless_an_option_asks_to_see_each_write() {
    let parse = |options: &[&str], is_root| {
        let words = options.iter().chain(&["/a", "/b"]);
        let arguments: Vec<OsString> = words.map(OsString::from).collect();
        parse("mount.thrufs", &arguments, is_root)
    };
    for on in [
        &[][..],
        &["--passthrough=auto"],
        &["--passthrough=auto", "--cache=always"],
    ] {
        let plan = parse(on, true).unwrap();
        assert_eq!(plan.config.passthrough, KernelPassthrough::Auto, "{on:?}");
        assert_eq!(plan.no_passthrough, None);
    }
    for (off, wanted) in [
        ("--passthrough=never", "--passthrough=never"),
        ("--durability=dsync", "--durability=dsync"),
        ("--watch", "--watch"),
        ("--writeback", "--writeback"),
        ("--write-joining=always", "--write-joining=always"),
        ("--cache=never", "--cache=never"),
        ("--cache=metadata", "--cache=metadata"),
        ("--request-timeout=60", "--request-timeout"),
    ] {
        for options in [&[off][..], &["--passthrough=auto", off]] {
            let plan = parse(options, true).unwrap();
            assert_eq!(plan.config.passthrough, KernelPassthrough::Never, "{off}");
            let reason = plan.no_passthrough.unwrap();
            assert!(reason.contains(wanted), "{off}: {reason}");
        }
        if off != "--passthrough=never" {
            let text = refusal(&["--passthrough=always", off]);
            let told = text.split_once("--passthrough=always cannot be: with ");
            assert!(
                told.is_some_and(|(_, why)| why.contains(wanted)),
                "{off}: {text}"
            );
        }
    }
    let users = parse(&["--passthrough=auto"], false).unwrap();
    assert_eq!(users.config.passthrough, KernelPassthrough::Never);
    assert!(users.no_passthrough.unwrap().contains("only root"));
    let refused = parse(&["--passthrough=always"], false).unwrap_err();
    assert!(refused.to_string().contains("only root"), "{refused}");
}
