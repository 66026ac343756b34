//! What is still allowed by permissions that the kernel has cached after they were taken away under
//! SOURCE, and the options that end it: the table of contrib/doc/security.md ("What the kernel checks,
//! and when"), a test for each row. What is mended for good is in `rights.rs`.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, XattrFlags, getxattr, openat, setxattr};
use rustix::io::Errno;
use xtests::support::calls::chmod;
use xtests::support::command::succeed;
use xtests::support::mount::NEVER;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, User, missing, on_backing};

const ALICE: u32 = 23_001;
const BOB: u32 = 23_002;
const STAFF: u32 = 23_100;
const SOON: Duration = Duration::from_secs(10);

/// What ALICE may do until BOB takes it away.
struct Row {
    /// What it needs of `thrufs mount`.
    option: &'static str,
    /// Makes it, in SOURCE.
    prepare: fn(&Mount) -> Result<()>,
    /// Takes it away, in SOURCE.
    take_away: fn(&Mount) -> Result<()>,
    /// Does it, through the mount, as often as one likes.
    attempt: fn(&Mount) -> rustix::io::Result<()>,
    /// How it is refused.
    refused: Errno,
}

fn on(options: &[&str], row: &Row, body: impl Fn(&dyn Fn() -> Result<bool>) -> Outcome) -> Outcome {
    let all = [options, &[row.option]].concat();
    let tested = on_backing(Backing::Ext4(32), &all, |m| {
        m.require_mount()?;
        (row.prepare)(m)?;
        let attempt = || User::new(ALICE, STAFF).act(|| Ok((row.attempt)(m)));
        attempt()??;
        (row.take_away)(m)?;
        body(&|| match attempt()? {
            Ok(()) => Ok(true),
            Err(errno) if errno == row.refused => Ok(false),
            Err(errno) => Err(errno.into()),
        })
    });
    tested.with_context(|| options.join(" "))
}

fn is_allowed_for_the_attribute_timeout_alone(row: &Row) -> Outcome {
    // Not in the mode of this run: with --cache=never each LOOKUP of a name brings its attributes.
    // Nor with kernel passthrough: of a file that was open by it for reading and writing the kernel keeps none.
    let options = ["--cache=auto", "--attr-timeout=600", NEVER];
    on(&options, row, |is_allowed| {
        ensure!(is_allowed()?, "refused before the timeout");
        Ok(())
    })?;
    for option in ["--attr-timeout=0", "--cache=never"] {
        on(&[option], row, |is_allowed| {
            ensure!(!is_allowed()?, "allowed");
            Ok(())
        })?;
    }
    on(&["--cache=always", "--watch"], row, |is_allowed| {
        wait_until("it to be refused", SOON, || Ok(!is_allowed()?))
    })
}

fn of_bob(path: &Path, mode: u32) -> Result<()> {
    rustix::fs::chown(path, Some(Uid::from_raw(BOB)), Some(Gid::from_raw(STAFF)))?;
    Ok(chmod(path, mode)?)
}

fn directory(m: &Mount, mode: u32) -> Result<()> {
    std::fs::create_dir(m.source("d"))?;
    of_bob(&m.source("d"), mode)
}

fn file(m: &Mount, mode: u32) -> Result<()> {
    File::create(m.source("d/f"))?;
    of_bob(&m.source("d/f"), mode)
}

#[test]
fn search_of_a_directory_is_allowed_for_the_attribute_timeout_alone() -> Outcome {
    is_allowed_for_the_attribute_timeout_alone(&Row {
        option: "--entry-timeout=600",
        prepare: |m| directory(m, 0o755).and_then(|()| file(m, 0o644)),
        take_away: |m| Ok(chmod(m.source("d"), 0o700)?),
        attempt: |m| rustix::fs::stat(m.path("d/f")).map(drop),
        refused: Errno::ACCESS,
    })
}

#[test]
fn change_of_names_in_a_directory_is_allowed_for_the_attribute_timeout_alone() -> Outcome {
    is_allowed_for_the_attribute_timeout_alone(&Row {
        option: "--entry-timeout=600",
        prepare: |m| directory(m, 0o777).and_then(|()| file(m, 0o644)),
        take_away: |m| Ok(chmod(m.source("d"), 0o755)?),
        // One change alone: after it the kernel asks again for the directory's attributes.
        attempt: |m| {
            let (f, g) = (m.path("d/f"), m.path("d/g"));
            match rustix::fs::rename(&f, &g) {
                Err(Errno::NOENT) => rustix::fs::rename(&g, &f),
                done => done,
            }?;
            rustix::fs::stat(m.path("d")).map(drop)
        },
        refused: Errno::ACCESS,
    })
}

#[test]
fn link_of_anothers_file_is_allowed_for_the_attribute_timeout_alone() -> Outcome {
    let protected = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks")?;
    let row = Row {
        option: "--entry-timeout=600",
        prepare: |m| directory(m, 0o777).and_then(|()| file(m, 0o666)),
        take_away: |m| Ok(chmod(m.source("d/f"), 0o644)?),
        attempt: |m| {
            rustix::fs::link(m.path("d/f"), m.path("d/g"))?;
            rustix::fs::unlink(m.path("d/g"))
        },
        refused: Errno::PERM,
    };
    xtests::support::case(|| match protected.trim() {
        "1" => is_allowed_for_the_attribute_timeout_alone(&row),
        _off => Err(missing("fs.protected_hardlinks=1")),
    })
}

#[test]
fn extended_attribute_is_readable_for_the_attribute_timeout_alone() -> Outcome {
    is_allowed_for_the_attribute_timeout_alone(&Row {
        option: "--xattr",
        prepare: |m| {
            directory(m, 0o755)?;
            file(m, 0o644)?;
            Ok(setxattr(
                m.source("d/f"),
                "user.a",
                b"value",
                XattrFlags::empty(),
            )?)
        },
        take_away: |m| Ok(chmod(m.source("d/f"), 0o600)?),
        attempt: |m| getxattr(m.path("d/f"), "user.a", &mut [0_u8; 9][..]).map(drop),
        refused: Errno::ACCESS,
    })
}

/// The mode stays as it is: an entry of the ACL goes, and its mask stays.
#[test]
fn open_by_an_acl_is_allowed_for_the_attribute_timeout_alone() -> Outcome {
    is_allowed_for_the_attribute_timeout_alone(&Row {
        option: "--posix-acl",
        prepare: |m| {
            directory(m, 0o755)?;
            file(m, 0o600)?;
            acl(m, &["-m", "u:23001:rw"])
        },
        take_away: |m| acl(m, &["-n", "-m", "u:23001:---"]),
        attempt: |m| openat(CWD, m.path("d/f"), OFlags::RDWR, 0.into()).map(drop),
        refused: Errno::ACCESS,
    })
}

fn acl(m: &Mount, args: &[&str]) -> Result<()> {
    succeed(Command::new("setfacl").args(args).arg(m.source("d/f"))).map(drop)
}

/// Of a directory that it has cached the kernel asks for no READDIR, and with that for no OPENDIR.
#[test]
fn listing_of_a_directory_that_was_listed_before_is_allowed_for_the_attribute_timeout_alone()
-> Outcome {
    let row = Row {
        option: "--cache=always",
        prepare: |m| directory(m, 0o755).and_then(|()| file(m, 0o644)),
        take_away: |m| Ok(chmod(m.source("d"), 0o700)?),
        attempt: |m| {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            let mut opened = rustix::fs::Dir::new(openat(CWD, m.path("d"), flags, Mode::empty())?)?;
            opened.try_for_each(|entry| entry.map(drop))
        },
        refused: Errno::ACCESS,
    };
    on(&["--attr-timeout=600"], &row, |is_allowed| {
        ensure!(is_allowed()?, "refused before the timeout");
        Ok(())
    })?;
    let asking = ["--attr-timeout=600", "--without=FUSE_NO_OPENDIR_SUPPORT"];
    for options in [&["--attr-timeout=0"][..], &asking] {
        on(options, &row, |is_allowed| {
            ensure!(!is_allowed()?, "allowed");
            Ok(())
        })?;
    }
    on(&["--watch"], &row, |is_allowed| {
        wait_until("it to be refused", SOON, || Ok(!is_allowed()?))
    })
}
