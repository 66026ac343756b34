//! What the log calls an inode.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use common::{ROOT, Served, at, caller};
use thrufs_fs::{Config, HostBacking, InodeFileHandles};

/// Held by descriptor, and by file handle where there are any.
fn each_way() -> [Served; 2] {
    [InodeFileHandles::Never, InodeFileHandles::Prefer].map(|inode_file_handles| {
        let config = Config {
            inode_file_handles,
            ..Config::default()
        };
        Served::with(config, Arc::new(HostBacking))
    })
}

#[test]
fn identify_gives_the_path_of_now_and_device_and_number() {
    for served in each_way() {
        let identify = |ino| served.fs.identify(ino).to_string();
        let path = served.source.path().join("d/old\nname");
        std::fs::create_dir(served.source.path().join("d")).unwrap();
        std::fs::write(&path, "").unwrap();
        let backing = std::fs::metadata(&path).unwrap();
        let (major, minor) = (
            rustix::fs::major(backing.dev()),
            rustix::fs::minor(backing.dev()),
        );
        let numbers = format!("(device {major}:{minor}, inode {})", backing.ino());
        let directory = served.lookup(ROOT, "d").unwrap().ino;
        let ino = served.lookup(directory, "old\nname").unwrap().ino;
        assert_eq!(
            identify(ino),
            format!("\"d/old\\nname\" {numbers}"),
            "one line"
        );
        let (from, to) = (at(directory, "old\nname"), at(ROOT, "new"));
        served.fs.rename(from, to, 0, &caller()).unwrap();
        assert_eq!(identify(ino), format!("\"new\" {numbers}"));
        assert!(
            identify(ROOT).starts_with("\".\" (device "),
            "{}",
            identify(ROOT)
        );
        served.unlink(at(ROOT, "new")).unwrap();
        assert!(identify(ino).ends_with(&numbers), "{}", identify(ino));
        served.fs.forget(ino, 1);
        assert_eq!(
            identify(ino),
            format!("nodeid {ino}, which the kernel does not hold")
        );
    }
}

/// A path that is not below SOURCE would be another file's.
#[test]
fn identify_of_what_was_moved_out_of_source_gives_no_path() {
    for served in each_way() {
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(served.source.path().join("f"), "").unwrap();
        let ino = served.lookup(ROOT, "f").unwrap().ino;
        std::fs::rename(served.source.path().join("f"), elsewhere.path().join("f")).unwrap();
        let identified = served.fs.identify(ino).to_string();
        assert!(
            identified.starts_with("no known path (device "),
            "{identified}"
        );
    }
}
