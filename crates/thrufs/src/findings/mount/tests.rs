//! Findings over mounts that were made up.

use thrufs_fs::{
    Bucket, Histogram, Negotiated, OpcodeCounts, PassedThrough, Process, Reason, Writes,
};

use super::*;
use crate::daemon::source_state::SourceState;
use crate::status::report::Carrier;

/// A mount without findings.
pub(crate) fn status() -> Status {
    Status {
        format: 1,
        version: "0.1.0".to_owned(),
        server_pid: 2,
        pid: 1,
        source: "/srv".to_owned(),
        mountpoint: "/mnt".to_owned(),
        device: "0:50".to_owned(),
        uptime_seconds: 10.0,
        guest: None,
        transport: Carrier::default(),
        readers: None,
        source_state: SourceState::default(),
        source_answer: SourceAnswer::Space(SourceSpace {
            bytes: 100 << 30,
            free_bytes: 50 << 30,
            inodes: 1000,
            free_inodes: 500,
            is_read_only: false,
        }),
        listener: None,
        snapshot: Snapshot {
            opcodes: Vec::new(),
            writes: Writes::default(),
            bytes_read: 0,
            in_flight: 0,
            inodes: 1,
            handles: 0,
            deaths: None,
            upgrades: None,
            removed_in_use: 0,
            inode_limit: None,
            caches_data: Some(true),
            callers: Vec::new(),
            kernel_passthrough: PassedThrough::default(),
            process: Process {
                descriptors: 20,
                descriptors_limit: 1000,
                ..Process::default()
            },
            negotiated: Some(Negotiated {
                kernel_abi: (7, 45),
                max_write_asked: 1 << 20,
                max_write: 1 << 20,
                max_pages_limit: 256,
                max_readahead: 131_072,
                max_background: 64,
                granted: Vec::new(),
                refused: Vec::new(),
                left_out: Vec::new(),
            }),
        },
    }
}

/// Names and severities of what is found.
fn found(status: &Status) -> Vec<(&'static str, Severity)> {
    let found = of(status, Seen::default()).into_iter();
    found.map(|found| (found.check, found.severity)).collect()
}

#[test]
fn of_a_mount_that_is_well_is_nothing() {
    assert!(found(&status()).is_empty());
    assert!(in_detail(&status(), Seen::default()).is_empty());
}

/// What is wrong, the check that tells, and how much it matters.
type Trouble = (fn(&mut Status), &'static str, Severity);

const TROUBLES: &[Trouble] = &[
    (
        |status| status.source_state.trouble = Some("was removed".to_owned()),
        "source",
        Severity::Error,
    ),
    (
        |status| status.source_state.is_private = true,
        "source-private",
        Severity::Note,
    ),
    (
        |status| status.source_state.held.push("disk".to_owned()),
        "source-held",
        Severity::Warning,
    ),
    (
        |status| status.source_answer = SourceAnswer::Silent { seconds: 7.0 },
        "source-silent",
        Severity::Error,
    ),
    (
        |status| status.source_answer = SourceAnswer::Failed("ESTALE".to_owned()),
        "source-fails",
        Severity::Error,
    ),
    (
        |status| status.snapshot.process.descriptors = 900,
        "descriptors",
        Severity::Warning,
    ),
    (
        |status| {
            status.snapshot.inode_limit = Some(80);
            status.snapshot.inodes = 91;
        },
        "inodes",
        Severity::Warning,
    ),
    (
        |status| status.snapshot.removed_in_use = 3,
        "removed-in-use",
        Severity::Note,
    ),
    (
        |status| status.snapshot.deaths = Some(2),
        "server-deaths",
        Severity::Warning,
    ),
    (
        |status| status.snapshot.negotiated.as_mut().unwrap().max_write = 4096,
        "granted-less",
        Severity::Warning,
    ),
    (
        |status| space_of(status).is_read_only = true,
        "source-read-only",
        Severity::Warning,
    ),
];

#[test]
fn of_each_trouble_has_its_name_and_tells_why_and_what_to_do() {
    for (change, check, severity) in TROUBLES {
        let mut status = status();
        change(&mut status);
        assert_eq!(found(&status), [(*check, *severity)]);
        let told = of(&status, Seen::default());
        let (why, remedy) = (told[0].why.as_deref(), told[0].remedy.as_deref());
        assert!(why.is_some_and(|why| !why.is_empty()), "{check}");
        assert!(remedy.is_some_and(|remedy| !remedy.is_empty()), "{check}");
    }
}

fn space_of(status: &mut Status) -> &mut SourceSpace {
    match &mut status.source_answer {
        SourceAnswer::Space(space) => space,
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_a_server_that_has_not_died_is_nothing() {
    let mut status = status();
    status.snapshot.deaths = Some(0);
    assert!(found(&status).is_empty());
}

#[test]
fn of_inodes_within_what_the_limit_allows_for_a_moment_is_nothing() {
    let mut status = status();
    status.snapshot.inode_limit = Some(80);
    status.snapshot.inodes = 90;
    assert!(found(&status).is_empty());
}

#[test]
fn of_space_goes_by_share_and_by_what_is_plenty() {
    let told = |bytes, free_bytes, inodes, free_inodes| {
        let mut status = status();
        *space_of(&mut status) = SourceSpace {
            bytes,
            free_bytes,
            inodes,
            free_inodes,
            is_read_only: false,
        };
        found(&status)
    };
    let full = ("source-space", Severity::Error);
    let nearly = ("source-space", Severity::Warning);
    assert_eq!(told(1 << 30, 0, 10, 5), [full]);
    assert_eq!(told(1 << 30, 1 << 20, 10, 5), [nearly]);
    assert!(told(1 << 30, 1 << 29, 10, 5).is_empty());
    // 20 GiB of 10 TiB.
    assert!(told(10 << 40, 20 << 30, 10, 5).is_empty());
    assert_eq!(told(1 << 30, 1 << 29, 100, 0), [full]);
    assert_eq!(told(1 << 30, 1 << 29, 100, 4), [nearly]);
    // Btrfs does not count inodes, and a file system of the kernel's has no size.
    assert!(told(1 << 30, 1 << 29, 0, 0).is_empty());
    assert!(told(0, 0, 0, 0).is_empty());
}

#[test]
fn of_a_read_only_mount_nothing_is_said_of_space() {
    let mut status = status();
    space_of(&mut status).free_bytes = 0;
    let seen = Seen {
        is_read_only: true,
        ..Seen::default()
    };
    assert!(of(&status, seen).is_empty());
}

#[test]
fn in_detail_says_what_is_not_offered_and_why_nothing_is_passed_through() {
    let mut status = status();
    let negotiated = status.snapshot.negotiated.as_mut().unwrap();
    negotiated.refused = vec!["FUSE_PASSTHROUGH".to_owned()];
    status.snapshot.kernel_passthrough.off = Some("only root may".to_owned());
    let told = in_detail(&status, Seen::default());
    let checks: Vec<_> = told.iter().map(|found| found.check).collect();
    assert_eq!(checks, ["not-offered", "passthrough"]);
    assert!(told[0].what.ends_with("FUSE_PASSTHROUGH"));
    assert!(told[1].what.ends_with("only root may"));
    assert!(found(&status).is_empty());
}

#[test]
fn in_detail_tells_odd_reasons_of_files_that_go_through_the_daemon() {
    let mut status = status();
    let reason = |reason: &str, opens, is_choice| Reason {
        reason: reason.to_owned(),
        opens,
        is_choice,
    };
    let passed = &mut status.snapshot.kernel_passthrough;
    passed.through_daemon = vec![reason("small, and not written much", 9, true)];
    assert!(in_detail(&status, Seen::default()).is_empty());
    let passed = &mut status.snapshot.kernel_passthrough;
    passed
        .through_daemon
        .push(reason("refused by the kernel", 2, false));
    let told = in_detail(&status, Seen::default());
    assert!(
        told[0].what.ends_with(": 2 refused by the kernel"),
        "{told:?}"
    );
}

#[test]
fn stuck_is_what_waits_while_nothing_ends() {
    let waiting = |in_flight, ended| {
        let mut status = status();
        status.snapshot.in_flight = in_flight;
        let buckets = vec![Bucket {
            up_to: 1000,
            count: ended,
        }];
        status.snapshot.opcodes = vec![OpcodeCounts {
            opcode: "READ".to_owned(),
            requests: ended + in_flight,
            errors: 0,
            latency: Histogram {
                buckets,
                ..Histogram::default()
            },
        }];
        status
    };
    let told = stuck(&waiting(2, 5), &waiting(3, 5)).unwrap();
    assert!(told.what.starts_with("2 requests"), "{}", told.what);
    assert_eq!(stuck(&waiting(2, 5), &waiting(2, 6)), None);
    assert_eq!(stuck(&waiting(0, 5), &waiting(1, 5)), None);
    assert_eq!(stuck(&waiting(1, 5), &waiting(0, 5)), None);
}
