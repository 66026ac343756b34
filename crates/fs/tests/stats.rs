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
    assert!(process.virtual_bytes > process.resident_bytes);
    let work = std::time::Instant::now();
    while served.fs.snapshot().unwrap().process.cpu_time == process.cpu_time {
        assert!(work.elapsed().as_secs() < 10, "{process:?}");
    }
    // By the boot's time in whole seconds, which is another way than that of the snapshot.
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "));
    let own = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = own
        .rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .nth(19)
        .unwrap()
        .parse()
        .unwrap();
    let started =
        boot.unwrap().parse::<u64>().unwrap() + ticks / rustix::param::clock_ticks_per_second();
    let said = process.started / 1_000_000_000;
    assert!(said.abs_diff(started) <= 2, "{said}, not {started}");
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
