//! Findings of one mount or device, by its status.

use std::time::Duration;

use thrufs_fs::Snapshot;

use super::kernel::{self, Version};
use super::{Finding, Severity};
use crate::daemon::shortfall;
use crate::daemon::source_space::{SourceAnswer, SourceSpace};
use crate::status::report::Status;
use crate::units;

/// A file system with less than one in so many bytes or inodes free is nearly full, if it is also less than [`FEW`].
const SHARE: u64 = 20;
/// Bytes that are plenty, however large the file system is.
const FEW: u64 = 10 << 30;

/// Within which one of the requests in flight should end.
pub(crate) const STUCK: Duration = Duration::from_secs(1);

/// What is known of the mount beside what its daemon tells.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// None where it cannot be known.
    pub(crate) kernel: Option<Version>,
    /// The mount is read-only, so nothing is written to SOURCE.
    pub(crate) is_read_only: bool,
}

/// What an operator should know; nothing if all is well.
pub(crate) fn of(status: &Status, seen: Seen) -> Vec<Finding> {
    let mut found = source(status);
    found.extend(space(&status.source_answer, seen.is_read_only));
    found.extend(granted_less(&status.snapshot));
    found.extend(held(&status.snapshot));
    found.extend(deaths(&status.snapshot));
    let defects = seen.kernel.map(|kernel| kernel::of_mount(kernel, status));
    let matters = |finding: &Finding| finding.severity >= Severity::Warning;
    found.extend(defects.into_iter().flatten().filter(matters));
    found
}

/// The same with what is only worth a look.
pub(crate) fn in_detail(status: &Status, seen: Seen) -> Vec<Finding> {
    let mut found = of(status, seen);
    found.extend(not_offered(&status.snapshot));
    found.extend(not_passed_through(status));
    let defects = seen.kernel.map(|kernel| kernel::of_mount(kernel, status));
    let is_note = |finding: &Finding| finding.severity == Severity::Note;
    found.extend(defects.into_iter().flatten().filter(is_note));
    found
}

/// Whether requests wait: of two answers of one daemon, with [`STUCK`] between them.
pub(crate) fn stuck(before: &Status, now: &Status) -> Option<Finding> {
    let ended = |status: &Status| -> u64 {
        let opcodes = status.snapshot.opcodes.iter();
        opcodes.map(|counts| counts.latency.count()).sum()
    };
    let waiting = before.snapshot.in_flight.min(now.snapshot.in_flight);
    if waiting == 0 || ended(before) != ended(now) {
        return None;
    }
    Some(Finding::new(
        Severity::Warning,
        "stuck",
        (
            format!("{waiting} requests are in flight, and none has ended within {STUCK:?}"),
            "their callers wait: for SOURCE, as a rule",
            "`thrufs top` names processes and requests; see what SOURCE's file system waits for",
        ),
    ))
}

fn source(status: &Status) -> Vec<Finding> {
    let state = &status.source_state;
    let mut found = Vec::new();
    if let Some(trouble) = &state.trouble {
        let why = "the daemon serves what it holds, which is not what the path leads to now";
        let remedy = "put SOURCE back, or unmount and mount again";
        found.push(Finding::new(
            Severity::Error,
            "source",
            (format!("SOURCE {trouble}"), why, remedy),
        ));
    }
    if state.is_private {
        let what =
            "mounts are private here: what is unmounted below SOURCE stays mounted for the daemon";
        let why = "a disk that is unmounted is not free before the mount is";
        let remedy = "`mount --make-rshared` of the mount that SOURCE is on, before thrufs mounts";
        found.push(Finding::new(
            Severity::Note,
            "source-private",
            (what, why, remedy),
        ));
    }
    for path in &state.held {
        let what = format!("/{path} is unmounted outside, and held by the daemon");
        let why = "what was mounted there is in use until the mount is unmounted";
        let remedy = "unmount and mount again";
        found.push(Finding::new(
            Severity::Warning,
            "source-held",
            (what, why, remedy),
        ));
    }
    found
}

fn space(answer: &SourceAnswer, is_read_only: bool) -> Vec<Finding> {
    let found = |severity, check, said| vec![Finding::new(severity, check, said)];
    match answer {
        SourceAnswer::Unknown => Vec::new(),
        SourceAnswer::Silent { seconds } => {
            let what = format!("SOURCE has not answered statfs(2) for {seconds:.0} s");
            let why = "calls on the mount wait for SOURCE";
            let remedy = "see what SOURCE's file system waits for; `echo 1 > /sys/fs/fuse/connections/N/abort` frees \
                the callers and ends the mount, N being the minor number of the mount's device";
            found(
                Severity::Error,
                "source-silent",
                (what, why.to_owned(), remedy.to_owned()),
            )
        }
        SourceAnswer::Failed(error) => {
            let what = format!("SOURCE's file system answers statfs(2) with {error}");
            let why = "calls on the mount fail alike".to_owned();
            let remedy = "see the system log for what happened to the file system below SOURCE";
            found(
                Severity::Error,
                "source-fails",
                (what, why, remedy.to_owned()),
            )
        }
        SourceAnswer::Space(space) => of_space(space, is_read_only),
    }
}

fn of_space(space: &SourceSpace, is_read_only: bool) -> Vec<Finding> {
    if is_read_only {
        return Vec::new();
    }
    if space.is_read_only {
        let what = "SOURCE's file system is read-only";
        let why = "writes through the mount fail with EROFS";
        let remedy = "`mount -o remount,rw` it, after a look into the system log; or mount with -o ro where that is meant";
        return vec![Finding::new(
            Severity::Warning,
            "source-read-only",
            (what, why, remedy),
        )];
    }
    let remedy = "free some of it, or enlarge the file system below SOURCE";
    let bytes = (space.free_bytes, space.bytes, FEW);
    let inodes = (space.free_inodes, space.inodes, u64::MAX);
    let mut found = Vec::new();
    for (what, (free, all, few), shown) in [
        (
            "space",
            bytes,
            format!(
                "{} of {} free",
                units::bytes(space.free_bytes),
                units::bytes(space.bytes)
            ),
        ),
        (
            "inodes",
            inodes,
            format!("{} of {} free", space.free_inodes, space.inodes),
        ),
    ] {
        let (severity, how, why) = match (free, all) {
            // A file system that does not count them.
            (_, 0) => continue,
            (0, _) => (Severity::Error, "is full", "writes fail with ENOSPC"),
            (free, all) if free < all / SHARE && free < few => (
                Severity::Warning,
                "is nearly full",
                "writes will fail with ENOSPC",
            ),
            _plenty => continue,
        };
        let said = (format!("SOURCE {how}: {what}, {shown}"), why, remedy);
        found.push(Finding::new(severity, "source-space", said));
    }
    found
}

fn granted_less(snapshot: &Snapshot) -> Vec<Finding> {
    let negotiated = snapshot.negotiated.iter();
    let told = negotiated.flat_map(shortfall::of);
    let why = "an option was granted less than was asked for";
    told.map(|told| {
        Finding::new(
            Severity::Warning,
            "granted-less",
            (told.what, why, told.remedy),
        )
    })
    .collect()
}

/// What is held, and how near that is to a limit.
fn held(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |severity, check, said: (String, &str, &str)| {
        found.push(Finding::new(severity, check, said));
    };
    let process = &snapshot.process;
    let (used, limit) = (process.descriptors, process.descriptors_limit);
    if used >= limit - limit / 10 {
        add(
            Severity::Warning,
            "descriptors",
            (
                format!("{used} of {limit} descriptors are in use"),
                "open(2) is about to fail with ENFILE",
                "a higher --rlimit-nofile; or end programs that hold many files of the mount open",
            ),
        );
    }
    if let Some(limit) = snapshot.inode_limit
        && snapshot.inodes > limit + limit / 8
    {
        add(
            Severity::Warning,
            "inodes",
            (
                format!(
                    "the kernel uses {} inodes, of {limit} that it should know at most",
                    snapshot.inodes
                ),
                "more than it can forget are in use: each look-up of another name waits a moment",
                "a higher --max-inodes, or a higher --rlimit-nofile where inodes are held by descriptors",
            ),
        );
    }
    if snapshot.removed_in_use > 0 {
        add(
            Severity::Note,
            "removed-in-use",
            (
                format!("{} removed files are still in use", snapshot.removed_in_use),
                "they occupy space on SOURCE, and a descriptor each, until they are closed",
                "`lsof +L1` names the processes that have them open",
            ),
        );
    }
    found
}

fn deaths(snapshot: &Snapshot) -> Option<Finding> {
    let deaths = snapshot.deaths.filter(|deaths| *deaths > 0)?;
    let times = if deaths == 1 { "once" } else { "several times" };
    Some(Finding::new(
        Severity::Warning,
        "server-deaths",
        (
            format!("the serving process has died {times} ({deaths}), and the mount goes on"),
            "more deaths within a minute than --survive-deaths end the mount",
            "the log names the signal of each; a crash is a bug, and SIGKILL may be the OOM killer's",
        ),
    ))
}

fn not_offered(snapshot: &Snapshot) -> Option<Finding> {
    let negotiated = snapshot.negotiated.as_ref()?;
    (!negotiated.refused.is_empty()).then(|| {
        Finding::new(
            Severity::Note,
            "not-offered",
            (
                format!("the kernel does not offer {}", negotiated.refused.join(" ")),
                "what they are for is done in another way, or is left out",
                "a newer kernel",
            ),
        )
    })
}

/// Why READs and WRITEs come to the daemon although the kernel could do them.
fn not_passed_through(status: &Status) -> Option<Finding> {
    let passed = &status.snapshot.kernel_passthrough;
    // A device has none.
    if status.guest.is_some() {
        return None;
    }
    let what = match &passed.off {
        Some(reason) => format!("no file is passed through: {reason}"),
        None => {
            let odd = passed.through_daemon.iter();
            let odd = odd.filter(|counted| !counted.is_choice);
            let odd: Vec<_> = odd
                .map(|counted| format!("{} {}", counted.opens, counted.reason))
                .collect();
            if odd.is_empty() {
                return None;
            }
            format!("files are not passed through: {}", odd.join(", "))
        }
    };
    Some(Finding::new(
        Severity::Note,
        "passthrough",
        (
            what,
            "their READs and WRITEs are as fast as the daemon, not as SOURCE",
            "nothing where that is meant; else see --passthrough in thrufs-mount(8)",
        ),
    ))
}

#[cfg(test)]
pub(crate) mod tests;
