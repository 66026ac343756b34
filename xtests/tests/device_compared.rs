//! The options that `contrib/doc/from-virtiofsd.md` calls "the same", each tried: a device of thrufs and one of
//! virtiofsd 1.14 are started alike and asked the same by a front end that plays the guest.
//!
//! Invariant: what the two answer differently is in [`DIFFERENCES`], with the reason, and nothing else is; a
//! difference that is gone fails too.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use thrufs_wire::abi::{
    CreateIn, EntryOut, InitOut, MkdirIn, OpenIn, OpenOut, OpenOutFlags, SetxattrIn,
};
use thrufs_wire::{InitFlags, Opcode};
use xtests::support::daemon_fixture::tied_to_us;
use xtests::support::guest::calls::{ROOT, lookup, open_node, write};
use xtests::support::guest::{Device, Guest, Options};
use xtests::support::mount::thrufs;
use xtests::support::{Outcome, case, install, missing};
use zerocopy::{FromBytes, IntoBytes};

/// Each is one start.
const STARTS: &[&[&str]] = &[
    &[],
    &["--cache=auto"],
    &["--cache=always"],
    &["--cache=never"],
    &["--cache=metadata"],
    &["--cache=auto", "--writeback"],
    &["--cache=always", "--writeback"],
    &["--allow-direct-io"],
    &["--no-readdirplus"],
    &["--xattr"],
    &["--xattrmap=:map::user.virtiofs.:"],
    &["--xattrmap=:prefix:all:user.:user.v.::bad:all:::"],
    &["--xattr", "--posix-acl"],
    &["--xattr", "--posix-acl=never"],
    &["--readonly"],
    &["--inode-file-handles=never"],
    &["--inode-file-handles=prefer"],
    &["--inode-file-handles=mandatory"],
    &[
        "--translate-uid=map:0:1000:65536",
        "--translate-gid=map:0:1000:65536",
    ],
    &["--translate-uid=squash-host:1000:77:1"],
    &["--translate-uid=squash-guest:0:1000:4000000000"],
    &["--translate-uid=forbid-guest:0:1"],
    &["--sandbox=none"],
    &["--sandbox=chroot"],
    &["--sandbox=namespace"],
    &["--seccomp=none"],
    &["--seccomp=kill"],
    &["--seccomp=trap"],
    &["--seccomp=log"],
    &["--modcaps=-mknod"],
    &["--rlimit-nofile=4096"],
    &["--log-level=off"],
    &["--tag=share"],
    &["--announce-submounts"],
    &["--no-announce-submounts"],
    &["--killpriv-v2"],
    &["--no-killpriv-v2"],
    &["--preserve-noatime"],
    &["--thread-pool-size=4"],
    &["--thread-pool-size=0"],
    &["--security-label=never"],
];

const WITHOUT_OPENDIR: &str =
    "the kernel, which may keep what a directory contains, lists it without a handle";

/// `(options, questions, why the answers differ)`; no options: whatever the options are.
const DIFFERENCES: &[(&[&str], &[&str], &str)] = &[
    (
        &[],
        &["ATOMIC_O_TRUNC"],
        "not asked for: the kernel truncates by a SETATTR of its own",
    ),
    (
        &[],
        &["DONT_MASK"],
        "the server applies the umask, which a default ACL replaces",
    ),
    (
        &["--no-announce-submounts"],
        &["SUBMOUNTS"],
        "virtiofsd asks for it and marks none",
    ),
    (
        &["--cache=never"],
        &["DO_READDIRPLUS", "READDIRPLUS_AUTO"],
        "the kernel finds out by itself that it does not pay",
    ),
    (
        &["--cache=never"],
        &["OPEN", "OPEN O_DIRECT"],
        "writes to one file need not wait for each other",
    ),
    (
        &["--cache=metadata"],
        &["OPEN", "OPEN O_DIRECT"],
        "writes to one file need not wait for each other",
    ),
    (&["--cache=always"], &["OPENDIR"], WITHOUT_OPENDIR),
    (&["--cache=metadata"], &["OPENDIR"], WITHOUT_OPENDIR),
    (
        &["--cache=always", "--writeback"],
        &["OPENDIR"],
        WITHOUT_OPENDIR,
    ),
    (
        &["--translate-uid=forbid-guest:0:1"],
        &[
            "CREATE",
            "MKDIR",
            "OPEN",
            "OPEN O_DIRECT",
            "OPENDIR",
            "SETXATTR user",
            "SETXATTR trusted",
            "SETXATTR security",
            "UNLINK",
            "WRITE",
        ],
        "a user that is forbidden is refused with EPERM; virtiofsd refuses what creates, with EIO",
    ),
];

/// Capabilities of which both say whether they have them.
const GRANTS: &[(InitFlags, &str)] = &[
    (InitFlags::FUSE_WRITEBACK_CACHE, "WRITEBACK_CACHE"),
    (InitFlags::FUSE_DO_READDIRPLUS, "DO_READDIRPLUS"),
    (InitFlags::FUSE_READDIRPLUS_AUTO, "READDIRPLUS_AUTO"),
    (InitFlags::FUSE_POSIX_ACL, "POSIX_ACL"),
    (InitFlags::FUSE_SUBMOUNTS, "SUBMOUNTS"),
    (InitFlags::FUSE_SECURITY_CTX, "SECURITY_CTX"),
    (InitFlags::FUSE_BIG_WRITES, "BIG_WRITES"),
    (InitFlags::FUSE_ASYNC_READ, "ASYNC_READ"),
    (InitFlags::FUSE_ATOMIC_O_TRUNC, "ATOMIC_O_TRUNC"),
    (InitFlags::FUSE_PARALLEL_DIROPS, "PARALLEL_DIROPS"),
    (InitFlags::FUSE_CREATE_SUPP_GROUP, "CREATE_SUPP_GROUP"),
    (InitFlags::FUSE_DONT_MASK, "DONT_MASK"),
];

/// Answers by question.
type Answers = BTreeMap<&'static str, String>;

fn granted(init: InitOut) -> InitFlags {
    InitFlags::from_bits_retain(u64::from(init.flags) | u64::from(init.flags2) << 32)
}

/// The value, or the error as a word.
fn said<T>(answer: &xtests::support::guest::Answer, show: impl FnOnce(T) -> String) -> String
where
    T: FromBytes,
{
    match answer.value::<T>() {
        Ok(value) => show(value),
        Err(_) => format!("{:?}", nix::errno::Errno::from_raw(answer.error)),
    }
}

fn owner_and_mode(path: &Path) -> String {
    match std::fs::symlink_metadata(path) {
        Ok(found) => format!("{}:{} {:o}", found.uid(), found.gid(), found.mode()),
        Err(error) => error.kind().to_string(),
    }
}

fn names_of_attributes(path: &Path) -> String {
    let mut names = [0_u8; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut names: Vec<_> = names[..len]
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .filter(|name| !name.is_empty())
        .collect();
    names.sort();
    names.join(" ")
}

fn entry(found: EntryOut) -> String {
    format!(
        "names {}.{:09} s, attributes {}.{:09} s, {}:{} {:o}",
        found.entry_valid,
        found.entry_valid_nsec,
        found.attr_valid,
        found.attr_valid_nsec,
        found.attr.uid,
        found.attr.gid,
        found.attr.mode
    )
}

fn opened(guest: &mut Guest, opcode: Opcode, nodeid: u64, flags: i32) -> Result<String> {
    let arg = OpenIn {
        flags: flags.cast_unsigned(),
        ..OpenIn::default()
    };
    let answer = guest.call(1, opcode, nodeid, &[arg.as_bytes()], 16)?;
    Ok(said(&answer, |out: OpenOut| {
        // A close without FLUSH is no difference to see.
        format!("{:?}", out.open_flags - OpenOutFlags::FOPEN_NOFLUSH)
    }))
}

fn set_attribute(guest: &mut Guest, nodeid: u64, extended: bool, name: &str) -> Result<String> {
    let arg = SetxattrIn {
        size: 1,
        ..SetxattrIn::default()
    };
    // Without FUSE_SETXATTR_EXT it has the first two fields alone.
    let len = if extended { size_of_val(&arg) } else { 8 };
    let name = format!("{name}\0");
    let args = [&arg.as_bytes()[..len], name.as_bytes(), b"v"];
    let answer = guest.call(1, Opcode::Setxattr, nodeid, &args, 0)?;
    Ok(format!("{:?}", nix::errno::Errno::from_raw(answer.error)))
}

/// What a guest finds, with callers 0 and 5000.
fn ask(device: &Device, guest: &mut Guest) -> Result<Answers> {
    let mut answers = Answers::new();
    for (name, owner) in [("f", 0), ("theirs", 1500)] {
        let path = device.shared(name);
        std::fs::write(&path, "content")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        chown(&path, Some(owner), Some(owner))?;
    }
    std::fs::create_dir(device.shared("d"))?;
    let flags = granted(guest.init()?);
    ask_of_files(device, guest, flags, &mut answers)?;
    ask_of_changes(device, guest, &mut answers)?;
    Ok(answers)
}

/// What there is, and what is done to an open file.
fn ask_of_files(
    device: &Device,
    guest: &mut Guest,
    flags: InitFlags,
    answers: &mut Answers,
) -> Outcome {
    for (flag, question) in GRANTS {
        answers.insert(question, flags.contains(*flag).to_string());
    }
    for (question, name) in [("LOOKUP", "f"), ("LOOKUP of theirs", "theirs")] {
        answers.insert(question, entry(lookup(guest, name)?));
    }
    let nodeid = lookup(guest, "f")?.nodeid;
    let directory = lookup(guest, "d")?.nodeid;
    answers.insert("OPEN", opened(guest, Opcode::Open, nodeid, libc::O_RDONLY)?);
    let direct = libc::O_RDONLY | libc::O_DIRECT;
    answers.insert(
        "OPEN O_DIRECT",
        opened(guest, Opcode::Open, nodeid, direct)?,
    );
    answers.insert("OPENDIR", opened(guest, Opcode::Opendir, directory, 0)?);
    let extended = flags.contains(InitFlags::FUSE_SETXATTR_EXT);
    for (question, name) in [
        ("SETXATTR user", "user.a"),
        ("SETXATTR trusted", "trusted.a"),
        ("SETXATTR security", "security.a"),
    ] {
        answers.insert(question, set_attribute(guest, nodeid, extended, name)?);
    }
    answers.insert(
        "attributes on the host",
        names_of_attributes(&device.shared("f")),
    );
    let write_only = open_node(guest, nodeid, libc::O_RDWR);
    let written = match write_only {
        Ok(fh) => {
            write(guest, (nodeid, fh), 0, b"C").map_or("refused".to_owned(), |n| n.to_string())
        }
        Err(_) => "no OPEN for writing".to_owned(),
    };
    answers.insert("WRITE", written);
    Ok(())
}

/// New names, and one that goes.
fn ask_of_changes(device: &Device, guest: &mut Guest, answers: &mut Answers) -> Outcome {
    for (question, name, caller) in [
        ("CREATE", "made", 0),
        ("CREATE of a user", "made by a user", 5000),
    ] {
        guest.caller = caller;
        answers.insert(question, create(guest, name)?);
    }
    guest.caller = 0;
    for (question, name) in [
        ("made on the host", "made"),
        ("made on the host for a user", "made by a user"),
    ] {
        answers.insert(question, owner_and_mode(&device.shared(name)));
    }
    let arg = MkdirIn {
        mode: 0o755,
        umask: 0,
    };
    let answer = guest.call(1, Opcode::Mkdir, ROOT, &[arg.as_bytes(), b"made d\0"], 128)?;
    answers.insert("MKDIR", said(&answer, entry));
    let answer = guest.call(1, Opcode::Unlink, ROOT, &[b"theirs\0"], 0)?;
    let errno = nix::errno::Errno::from_raw(answer.error);
    answers.insert("UNLINK", format!("{errno:?}"));
    Ok(())
}

fn create(guest: &mut Guest, name: &str) -> Result<String> {
    let arg = CreateIn {
        flags: libc::O_RDWR.cast_unsigned(),
        mode: 0o100_644,
        ..CreateIn::default()
    };
    let name = format!("{name}\0");
    let args = [arg.as_bytes(), name.as_bytes()];
    let answer = guest.call(1, Opcode::Create, ROOT, &args, 144)?;
    Ok(said(&answer, entry))
}

fn ask_each(program: &Path, is_thrufs: bool, options: &[&str]) -> Result<Answers> {
    let mut command = tied_to_us(program);
    if is_thrufs {
        command.arg("device");
    }
    let device = Device::start(command, options)?;
    let mut guest = device.connect(Options::default())?;
    ask(&device, &mut guest).with_context(|| format!("it said:\n{}", device.log()))
}

fn why(options: &[&str], question: &str) -> Option<&'static str> {
    let row = |(of, questions, _): &&(&[&str], &[&str], &str)| {
        questions.contains(&question) && (of.is_empty() || *of == options)
    };
    DIFFERENCES.iter().find(row).map(|(_, _, why)| *why)
}

#[test]
fn options_that_are_the_same_do_the_same_to_a_guest() -> Outcome {
    case(|| {
        if !nix::unistd::geteuid().is_root() {
            return Err(missing("root"));
        }
        let (thrufs, virtiofsd) = (thrufs()?, install::virtiofsd()?);
        let (mut wrong, mut seen) = (Vec::new(), Vec::new());
        for options in STARTS {
            let ours = ask_each(&thrufs, true, options).with_context(|| format!("{options:?}"))?;
            let theirs = ask_each(&virtiofsd, false, options)
                .with_context(|| format!("virtiofsd {options:?}"))?;
            for (question, ours) in &ours {
                let theirs = &theirs[question];
                if ours == theirs {
                    continue;
                }
                match why(options, question) {
                    Some(why) => seen.push(why),
                    None => wrong.push(format!(
                        "{options:?}, {question}: {ours}, virtiofsd {theirs}"
                    )),
                }
            }
        }
        ensure!(wrong.is_empty(), "not the same:\n{}", wrong.join("\n"));
        for (options, questions, why) in DIFFERENCES {
            ensure!(
                seen.contains(why),
                "no difference any more: {options:?}, {questions:?}"
            );
        }
        Ok(())
    })
}
