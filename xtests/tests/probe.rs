//! The probe answers every question on the running kernel, whichever it is, and leaves no mount.
//! Needs root and /dev/fuse.

use std::process::Command;

use serde_json::Value;
use xtests::support::mount_table::mount_table;

#[test]
fn probe_running_kernel_answers_every_question_and_cleans_up() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let output = Command::new(env!("CARGO_BIN_EXE_xtests"))
        .args(["probe", "--json", "--deadline", "3", "--scratch"])
        .arg(scratch.path())
        .output()
        .expect("xtests runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let rows = json["rows"].as_array().expect("rows");
    let answer = |id: &str| {
        let row = rows.iter().find(|row| row["id"] == id);
        row.and_then(|row| row["answer"].as_str())
            .unwrap_or_else(|| panic!("{id}: {json:#}"))
    };
    // Common to the measured kernels from 6.1 to 7.2.
    let kernel = json["kernel"].as_str().expect("a release");
    if kernel.starts_with("6.") {
        let expected = [
            ("write-rule", "D;"),
            ("R1", "LOST"),
            ("R2", "ok"),
            ("R3", "ok"),
            ("R4", "DEADLOCK"),
            ("R5", "-EFAULT"),
            ("T8", "LOST"),
        ];
        for (id, start) in expected {
            assert!(answer(id).starts_with(start), "{id}: {}", answer(id));
        }
    }
    if kernel.starts_with("6.18.") {
        let expected = [("R7", "STALE"), ("R9", "LOST"), ("R10", "LOST")];
        for (id, start) in expected {
            assert!(answer(id).starts_with(start), "{id}: {}", answer(id));
        }
    }
    let mounts = mount_table("/proc/self/mountinfo").expect("mountinfo");
    assert!(
        !mounts.contains(&*scratch.path().to_string_lossy()),
        "{mounts}"
    );
}
