//! The built program's answers that need no mount: help, questions, errors and exit codes.

use std::path::Path;
use std::process::{Command, Output};

fn thrufs(arguments: &[&str]) -> Output {
    run(Path::new(env!("CARGO_BIN_EXE_thrufs")), arguments)
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the program prints UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("the program prints UTF-8")
}

#[track_caller]
fn assert_refused(output: &Output, code: i32, wanted: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(wanted), "expected `{wanted}` in: {text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn version_is_the_package_s() {
    let output = thrufs(&["-V"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        concat!("thrufs ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn print_capabilities_names_the_type_as_libvirt_expects() {
    let output = thrufs(&["--print-capabilities"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains(r#""type": "fs""#));
}

#[test]
fn help_of_mount_lists_every_documented_option() {
    let output = thrufs(&["mount", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    for option in [
        "--cache",
        "--attr-timeout",
        "--entry-timeout",
        "--negative-timeout",
        "--dir-timeout",
        "--watch",
        "--replace-dead",
        "--xattr",
        "--posix-acl",
        "--readonly",
        "--no-readdirplus",
        "--allow-direct-io",
        "--inode-file-handles",
        "--rlimit-nofile",
        "--thread-pool-size",
        "--log-level",
        "--syslog",
        "--locks",
        "--clone-fd",
        "--max-write",
        "--durability",
        "--write-joining",
        "-f,",
        "-d,",
        "-V,",
        "-o ",
    ] {
        assert!(help.contains(option), "{option} is not in the help");
    }
}

#[test]
fn no_arguments_explain_the_program() {
    let output = thrufs(&[]);
    assert_refused(&output, 2, "Usage: thrufs");
}

#[test]
fn subcommand_with_a_typing_error_is_corrected() {
    assert_refused(
        &thrufs(&["monut", "a", "b"]),
        2,
        "similar subcommands exist: 'umount', 'mount'",
    );
}

#[test]
fn mount_without_mountpoint_is_a_usage_error() {
    assert_refused(&thrufs(&["mount", "/tmp"]), 2, "<MOUNTPOINT>");
}

#[test]
fn mount_with_an_unknown_o_option_names_near_ones() {
    let output = thrufs(&["mount", "/tmp", "/mnt", "-o", "ro,entry_timout=1"]);
    assert_refused(
        &output,
        2,
        "unknown mount option 'entry_timout=1'; did you mean entry_timeout",
    );
}

#[test]
fn mount_with_dsync_and_a_mode_without_writes_names_both() {
    for (other, wanted) in [
        (
            "--passthrough=always",
            "--passthrough=always cannot be: with --durability=dsync",
        ),
        (
            "--writeback",
            "--durability=dsync and --writeback exclude each other",
        ),
    ] {
        let output = thrufs(&["mount", "/tmp", "/mnt", "--durability=dsync", other]);
        assert_refused(&output, 2, wanted);
    }
}

#[test]
fn mount_of_a_missing_source_names_it() {
    let scratch = tempfile::tempdir().unwrap();
    let mountpoint = scratch.path().to_str().unwrap();
    let output = thrufs(&["mount", "/nonexistent/source", mountpoint]);
    assert_refused(
        &output,
        2,
        "SOURCE /nonexistent/source does not exist: create it",
    );
}

#[test]
fn mount_of_a_file_as_source_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mountpoint = scratch.path().to_str().unwrap();
    let output = thrufs(&["mount", file.to_str().unwrap(), mountpoint]);
    assert_refused(&output, 2, "is not a directory");
    let output = thrufs(&["mount", &format!("{}/below", file.display()), mountpoint]);
    assert_refused(&output, 2, "something on the way is not a directory");
}

#[test]
fn mount_on_a_missing_mountpoint_names_it() {
    let scratch = tempfile::tempdir().unwrap();
    let output = thrufs(&[
        "mount",
        scratch.path().to_str().unwrap(),
        "/nonexistent/point",
    ]);
    assert_refused(&output, 2, "MOUNTPOINT /nonexistent/point does not exist");
}

#[test]
fn mount_form_without_subcommand_is_checked_alike() {
    assert_refused(
        &thrufs(&["/nonexistent/a", "/tmp", "-o", "ro"]),
        2,
        "SOURCE /nonexistent/a",
    );
    assert_refused(
        &thrufs(&["-o", "ro", "/nonexistent/a", "/tmp"]),
        2,
        "SOURCE /nonexistent/a",
    );
    assert_refused(
        &thrufs(&["/srv", "/mnt", "-o", "xyzzy"]),
        2,
        "unknown mount option 'xyzzy'",
    );
}

#[test]
fn mount_helper_has_mount8_s_exit_codes() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["mount.thrufs", "mount.fuse.thrufs"] {
        let helper = scratch.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_thrufs"), &helper).unwrap();
        let point = scratch.path().to_str().unwrap();
        let failed = run(
            &helper,
            &["/nonexistent/a", point, "-n", "-v", "-o", "defaults,nofail"],
        );
        assert_refused(&failed, 32, "SOURCE /nonexistent/a");
        assert_refused(&run(&helper, &[point, point, "-o", "xyzzy"]), 1, "'xyzzy'");
    }
}

#[test]
fn umount_of_what_is_not_ours_names_its_type() {
    assert_refused(
        &thrufs(&["umount", "/proc"]),
        1,
        "/proc is a mount of type proc, not fuse.thrufs",
    );
    assert_refused(
        &thrufs(&["umount", "/nonexistent"]),
        1,
        "/nonexistent does not exist",
    );
    let scratch = tempfile::tempdir().unwrap();
    let output = thrufs(&["umount", scratch.path().to_str().unwrap()]);
    assert_refused(&output, 1, "is not a mount point");
}

#[test]
fn status_of_what_is_no_thrufs_mount_names_the_mount_it_is_in() {
    let refused = "/proc is not a thrufs mount: it is in the proc mount at /proc";
    assert_refused(&thrufs(&["status", "/proc"]), 1, refused);
    assert_refused(&thrufs(&["status", "/proc", "--json"]), 1, refused);
    assert_refused(&thrufs(&["status", "/proc", "--watch"]), 1, refused);
    assert_refused(
        &thrufs(&["status", "/nonexistent"]),
        1,
        "/nonexistent does not exist",
    );
    assert_refused(
        &thrufs(&["status", "/proc", "--watch=0"]),
        2,
        "expected seconds from 0.1 to 3600",
    );
}

#[test]
fn mount_with_more_open_files_than_nr_open_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let point = scratch.path().to_str().unwrap();
    let output = thrufs(&[
        "mount",
        point,
        point,
        "--rlimit-nofile",
        "18446744073709551615",
    ]);
    // Where neither /dev/fuse nor fusermount3 is usable, that is said first.
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let reasons = [
        "the hard limit is",
        "/dev/fuse",
        "fusermount3 is not installed",
    ];
    assert!(reasons.iter().any(|reason| text.contains(reason)), "{text}");
}

#[test]
fn mount_with_an_option_of_virtiofsd_s_says_what_there_is_instead() {
    for (option, wanted) in [
        (
            "--socket-path=/tmp/s",
            "'--socket-path' is virtiofsd's: it is for a virtual machine",
        ),
        ("--fd=3", "'--fd' is virtiofsd's"),
        ("--shared-dir=/srv", "the first argument, SOURCE"),
        ("--announce-submounts", "below SOURCE always appear"),
        ("--killpriv-v2", "always removes set-uid"),
        ("--preserve-noatime", "O_NOATIME is always kept"),
        (
            "--migration-mode=find-paths",
            "a virtual machine that migrates",
        ),
        ("-otag=x", "'tag=x', which is virtiofsd's"),
    ] {
        assert_refused(&thrufs(&["mount", "/tmp", "/mnt", option]), 2, wanted);
    }
}

/// mount(8) passes `-s` on: an option that this version does not know must not keep a machine from
/// starting.
#[test]
fn mount_helper_with_sloppy_ignores_unknown_options_with_a_warning() {
    let scratch = tempfile::tempdir().unwrap();
    let helper = scratch.path().join("mount.fuse.thrufs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_thrufs"), &helper).unwrap();
    let point = scratch.path().to_str().unwrap();
    let words = ["/nonexistent/a", point, "-o", "xyzzy=1,cache=never"];
    let output = run(&helper, &[&["-s"], &words[..]].concat());
    assert_refused(&output, 32, "warning: unknown mount option 'xyzzy=1'");
    assert_refused(&output, 32, "SOURCE /nonexistent/a");
    assert_refused(&run(&helper, &words), 1, "'xyzzy=1'");
    // A value that is wrong is no unknown option.
    let wrong = ["-s", "/nonexistent/a", point, "-o", "cache=sometimes"];
    assert_refused(&run(&helper, &wrong), 1, "sometimes");
}

/// `thrufs status | head -1` was a failure now and then.
#[test]
fn print_to_a_reader_that_is_gone_is_no_failure() {
    for arguments in [
        &["status"][..],
        &["--print-capabilities"],
        &["status", "--json"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_thrufs"))
            .args(arguments)
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_thrufs"))
        .arg("--print-capabilities")
        .stdout(full)
        .output()
        .unwrap();
    assert_refused(&output, 1, "write to standard output");
}

#[test]
fn error_names_its_level_only_where_standard_error_is_the_journal() {
    use std::os::unix::fs::MetadataExt;

    let error = |stream: &dyn Fn(u64, u64) -> String| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        let found = writer.metadata().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_thrufs"));
        command
            .args(["umount", "/nonexistent\u{1b}[2J"])
            .env("JOURNAL_STREAM", stream(found.dev(), found.ino()))
            .stderr(writer);
        command.status().unwrap();
        drop(command);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        text
    };
    let plain = "thrufs: /nonexistent\\x1b[2J does not exist\n";
    assert_eq!(
        error(&|dev, ino| format!("{dev}:{ino}")),
        format!("<3>{plain}")
    );
    // Of the program that started this one with another standard error.
    assert_eq!(error(&|dev, ino| format!("{dev}:{}", ino + 1)), plain);
}
