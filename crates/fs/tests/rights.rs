//! What OPEN checks once more: the mode that a file has now, where the kernel may go by an older one.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{ROOT, Served, at};
use thrufs_fs::{Caller, Errno, SetAttr, SetTime};

/// A user that owns nothing here and has no capability.
const ALICE: Caller = Caller {
    uid: 23_001,
    gid: 23_001,
    pid: 0,
};

/// ALICE as a process that can be seen, whose capabilities are over no user's files but its own.
fn seen_alice() -> Caller {
    Caller {
        pid: std::process::id(),
        ..ALICE
    }
}

struct Known {
    served: Served,
    ino: u64,
}

impl Known {
    /// The kernel has been told of `f`, which has this mode.
    fn file(mode: u32) -> Self {
        let served = Served::new();
        std::fs::write(served.source.path().join("f"), "content").unwrap();
        let mut known = Self { served, ino: 0 };
        known.set_mode_on_source(mode);
        known.ino = known.served.lookup(ROOT, "f").unwrap().ino;
        known
    }

    fn set_mode_on_source(&self, mode: u32) {
        let path = self.served.source.path().join("f");
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn open(&self, caller: &Caller) -> Result<(), Errno> {
        let opened = self.served.fs.open(self.ino, libc::O_RDONLY, caller)?;
        self.served.fs.release(self.ino, opened.fh);
        Ok(())
    }

    fn tell(&self) {
        self.served.fs.getattr(self.ino, None).unwrap();
    }
}

/// A reply that tells of the new mode may be on its way, or be ignored by the kernel because it applied
/// another meanwhile; the caller can ask for such replies as fast as it likes (AT_STATX_FORCE_SYNC). So
/// that it was told once does not say that the kernel has checked by it.
#[test]
fn open_of_what_was_told_twice_is_checked_by_its_mode() {
    let known = Known::file(0o666);
    assert_eq!(known.open(&seen_alice()), Ok(()));
    known.set_mode_on_source(0o600);
    assert_eq!(known.open(&seen_alice()), Err(Errno::EACCES));
    known.tell();
    assert_eq!(known.open(&seen_alice()), Err(Errno::EACCES));
    known.set_mode_on_source(0o604);
    assert_eq!(known.open(&seen_alice()), Ok(()));
}

/// The kernel may open for reasons that do not show here: nfsd lets an owner write to what has mode 0444.
#[test]
fn open_of_what_was_told_once_is_as_the_kernel_found() {
    let known = Known::file(0o600);
    assert_eq!(known.open(&seen_alice()), Ok(()));
    assert_eq!(known.open(&ALICE), Ok(()));
}

/// Of a caller in another process namespace, or on another machine, only the kernel knows groups and
/// capabilities: it is sent to look again, and then goes by what it found.
#[test]
fn open_by_a_caller_that_cannot_be_seen_is_stale_until_the_kernel_is_told() {
    let known = Known::file(0o666);
    known.set_mode_on_source(0o660);
    assert_eq!(known.open(&ALICE), Err(Errno::ESTALE));
    known.served.lookup(ROOT, "f").unwrap();
    assert_eq!(known.open(&ALICE), Ok(()));
}

/// With FUSE_ALLOW_IDMAP, of a request that makes no inode: what the kernel has checked is all there is.
const UNTOLD: Caller = Caller {
    uid: u32::MAX,
    gid: u32::MAX,
    pid: 0,
};

#[test]
fn open_by_a_caller_that_is_not_told_is_stale_until_the_kernel_is_told() {
    for mode in [0o660, 0o600, 0] {
        let known = Known::file(0o666);
        assert_eq!(known.open(&UNTOLD), Ok(()));
        known.set_mode_on_source(mode);
        assert_eq!(known.open(&UNTOLD), Err(Errno::ESTALE), "{mode:o}");
        known.served.lookup(ROOT, "f").unwrap();
        // Refused by the server's own rights at most.
        assert_ne!(known.open(&UNTOLD), Err(Errno::ESTALE), "{mode:o}");
    }
}

/// By its number the caller would be a user that there is not.
#[test]
fn change_by_a_caller_that_is_not_told_is_as_the_kernel_found() {
    let known = Known::file(0o644);
    let set = SetAttr {
        mode: Some(0o600),
        mtime: Some(SetTime::At(std::time::UNIX_EPOCH)),
        caller: Some(UNTOLD),
        ..SetAttr::default()
    };
    known.served.fs.setattr(known.ino, &set).unwrap();
    // The kernel's own time comes with a size.
    let set = SetAttr {
        mode: None,
        size: Some(3),
        ..set
    };
    let attr = known.served.fs.setattr(known.ino, &set).unwrap();
    let stat = attr.stat;
    let changed = (stat.stx_mode & 0o777, stat.stx_mtime.tv_sec, stat.stx_size);
    assert_eq!(changed, (0o600, 0, 3));
    let sticky = PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(known.served.source.path(), sticky).unwrap();
    known.served.fs.unlink(at(ROOT, "f"), &UNTOLD).unwrap();
}

/// No name leads to the root, so that ESTALE would reach the caller until the attributes expire.
#[test]
fn opendir_of_the_root_by_a_caller_that_cannot_be_seen_is_never_stale() {
    let served = Served::new();
    served.fs.getattr(ROOT, None).unwrap();
    let mode = PermissionsExt::from_mode(0o750);
    std::fs::set_permissions(served.source.path(), mode).unwrap();
    served.fs.opendir(ROOT, &ALICE).unwrap();
    let seen = served.fs.opendir(ROOT, &seen_alice());
    assert_eq!(seen.unwrap_err(), Errno::EACCES);
}

#[test]
fn open_after_a_change_of_mode_by_the_client_is_as_the_kernel_found() {
    let known = Known::file(0o666);
    let set = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    known.served.fs.setattr(known.ino, &set).unwrap();
    assert_eq!(known.open(&seen_alice()), Ok(()));
}

/// A SETATTR that is refused must not make the server forget what it has told.
#[test]
fn open_after_a_refused_change_is_checked_by_its_mode() {
    let known = Known::file(0o666);
    known.set_mode_on_source(0o600);
    let set = SetAttr {
        uid: Some(ALICE.uid),
        caller: Some(seen_alice()),
        ..SetAttr::default()
    };
    let refused = known.served.fs.setattr(known.ino, &set);
    assert_eq!(refused.unwrap_err(), Errno::EPERM);
    known.tell();
    assert_eq!(known.open(&seen_alice()), Err(Errno::EACCES));
}
