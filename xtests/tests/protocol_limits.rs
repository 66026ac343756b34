//! What FUSE has no message for: a test for each line of contrib/doc/semantics.md, "Limits of the protocol".
//!
//! Invariant: each shows the limit itself, so that the manual does not go on to name one that a later kernel has
//! lifted. On SOURCE there is none of them: native runs are skipped.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result, ensure};
use rustix::fs::inotify;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use xtests::support::calls::{map_shared, open, open_append, refused, set_times};
use xtests::support::checks::{equal, holds, same_bytes};
use xtests::support::skip::missing;
use xtests::support::{Mount, Outcome, on_daemon};

/// Not known to rustix (Linux 6.9).
const RWF_NOAPPEND: u32 = 0x20;

#[test]
fn unix_socket_is_reached_from_the_side_that_it_was_bound_on_alone() -> Outcome {
    on_daemon(&[], |m| {
        let below = UnixListener::bind(m.source("below"))?;
        refused(UnixStream::connect(m.path("below")), libc::ECONNREFUSED)?;
        UnixStream::connect(m.source("below")).context("SOURCE, bound there")?;
        let on_mount = UnixListener::bind(m.path("on-mount"))?;
        refused(
            UnixStream::connect(m.source("on-mount")),
            libc::ECONNREFUSED,
        )?;
        UnixStream::connect(m.path("on-mount")).context("the mount, bound there")?;
        drop((below, on_mount));
        Ok(())
    })
}

/// The first name that an event of the mount's top directory has.
fn first_event(watch: impl std::os::fd::AsFd) -> Result<String> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let event = reader.next()?;
    let name = event.file_name().context("an event without a name")?;
    Ok(name.to_str()?.to_owned())
}

#[test]
fn inotify_on_the_mount_shows_what_is_done_through_it_alone() -> Outcome {
    on_daemon(&[], |m| {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, m.path(""), inotify::WatchFlags::CREATE)?;
        std::fs::write(m.source("below"), "")?;
        m.path("below").symlink_metadata().context("it shows")?;
        std::fs::write(m.path("on-mount"), "")?;
        equal(
            "the first event",
            first_event(watch)?,
            "on-mount".to_owned(),
        )
    })
}

#[test]
fn utimes_after_a_store_through_a_mapping_is_overwritten_at_close() -> Outcome {
    on_daemon(&["--cache=auto", "--passthrough=never"], |m| {
        let path = m.path("f");
        std::fs::write(&path, vec![1; 4096])?;
        let file = open(&path, 0)?;
        let mapping = map_shared(&file, 4096)?;
        mapping.write(0, b"stored")?;
        set_times(&path, (1000, 0), (1000, 0))?;
        equal("mtime before close(2)", modified(m)?, 1000)?;
        drop((mapping, file));
        same_bytes("SOURCE", &std::fs::read(m.source("f"))?[..6], b"stored")?;
        let after = modified(m)?;
        ensure!(after > 1000, "the mtime is still {after}");
        Ok(())
    })
}

/// The mtime on SOURCE, in seconds.
fn modified(m: &Mount) -> Result<i64> {
    use std::os::unix::fs::MetadataExt;
    Ok(m.source("f").metadata()?.mtime())
}

/// Overwrites the beginning of a file that is open with O_APPEND, and says what it holds then.
fn overwritten_under_append(path: &std::path::Path) -> Result<Vec<u8>> {
    std::fs::write(path, "hello world")?;
    let flags = ReadWriteFlags::from_bits_retain(RWF_NOAPPEND);
    match pwritev2(open_append(path)?, &[IoSlice::new(b"HE")], 0, flags) {
        Err(Errno::OPNOTSUPP) => Err(missing("RWF_NOAPPEND (Linux 6.9)")),
        written => {
            equal("bytes written", written?, 2)?;
            Ok(std::fs::read(path)?)
        }
    }
}

#[test]
fn write_with_rwf_noappend_appends_all_the_same() -> Outcome {
    on_daemon(&[], |m| {
        let native = overwritten_under_append(&m.source("native"))?;
        same_bytes("SOURCE", native, b"HEllo world")?;
        overwritten_under_append(&m.path("f"))?;
        holds(m.source("f"), b"hello worldHE")
    })
}
