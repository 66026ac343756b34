//! What a snapshot says after known work, and that it survives JSON.

mod common;

use std::process::Command;

use common::{ROOT, Served};
use thrufs_fs::Snapshot;

#[test]
fn snapshot_after_writes_has_sizes_calls_and_bytes() {
    let served = Served::new();
    let (entry, opened) = served.create(ROOT, "f").unwrap();
    served.write(entry.ino, opened.fh, 0, &[1; 4096]).unwrap();
    served.write(entry.ino, opened.fh, 4096, &[2; 100]).unwrap();
    served.write(entry.ino, 999, 0, &[3; 8]).unwrap_err();
    let snapshot = served.fs.snapshot().unwrap();
    let writes = &snapshot.writes;
    assert_eq!((writes.bytes, writes.pwritev2_calls), (4196, 2));
    assert_eq!((writes.sizes.count(), writes.sizes.sum), (3, 4204));
    assert_eq!(writes.average_size(), Some(1401));
    let limits: Vec<u64> = writes.sizes.buckets.iter().map(|b| b.up_to).collect();
    assert_eq!(limits, [8, 128, 4096]);
    assert_eq!((snapshot.inodes, snapshot.handles), (2, 1));
    assert_eq!(snapshot.negotiated, None);
}

#[test]
fn snapshot_of_the_process_agrees_with_proc() {
    let served = Served::new();
    let process = served.fs.snapshot().unwrap().process;
    let limit = Command::new("sh")
        .args(["-c", "ulimit -n"])
        .output()
        .unwrap();
    let limit = String::from_utf8(limit.stdout).unwrap();
    assert_eq!(process.descriptors_limit.to_string(), limit.trim());
    assert!((3..process.descriptors_limit).contains(&process.descriptors));
    assert!(process.resident_bytes > 1 << 20);
}

#[test]
fn snapshot_through_json_is_the_same() {
    let served = Served::new();
    let (entry, opened) = served.create(ROOT, "f").unwrap();
    served.write(entry.ino, opened.fh, 0, &[1; 70_000]).unwrap();
    let snapshot = served.fs.snapshot().unwrap();
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
}
