//! How a status is shown to a person: pure functions from numbers to text.
//!
//! Everything that comes from outside goes through [`plain`], so that a name with control
//! characters cannot act on the terminal.

use std::time::Duration;

use thrufs_fs::{Histogram, OpcodeCounts, PassedThrough, Writes};

use super::report::{Guest, Status};
use crate::findings::Finding;
use crate::units::{bytes, rate, time};

/// Widest bar of a histogram.
const BAR: u64 = 30;

/// `text` without control characters.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn uptime(seconds: f64) -> String {
    let all = Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    let (days, hours, minutes) = (all / 86_400, all / 3600 % 24, all / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {} s", all % 60),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// One line of `thrufs status`.
pub(super) fn line_of_list(status: &Status) -> String {
    let snapshot = &status.snapshot;
    let errors: u64 = snapshot.opcodes.iter().map(|counts| counts.errors).sum();
    let requests: u64 = snapshot.opcodes.iter().map(|counts| counts.requests).sum();
    let place = match &status.guest {
        Some(guest) => of_device(guest),
        None => plain(&status.mountpoint),
    };
    format!(
        "{place}: {}, pid {}, up {}, {requests} requests, {errors} errors, {} in {} WRITEs",
        plain(&status.source),
        status.pid,
        uptime(status.uptime_seconds),
        bytes(snapshot.writes.bytes),
        snapshot.writes.requests,
    )
}

/// How a device is named: by what its virtual machine monitor connects to, and by what the guest calls it.
fn of_device(guest: &Guest) -> String {
    let socket = guest.socket.as_deref().unwrap_or("an inherited socket");
    match &guest.tag {
        Some(tag) => format!("{} ({})", plain(socket), plain(tag)),
        None => plain(socket),
    }
}

/// What `thrufs status MOUNTPOINT` prints.
pub(super) fn of_mount(status: &Status, warnings: &[Finding]) -> String {
    let mut lines = head(status);
    lines.extend(lines_of(warnings));
    if status.guest.is_none() {
        lines.extend(wrapped(&of_passthrough(
            &status.snapshot.kernel_passthrough,
        )));
    }
    if let Some(negotiated) = &status.snapshot.negotiated {
        lines.extend(negotiated.to_string().lines().flat_map(wrapped));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<16}{:>10}{:>9}{LATENCIES}",
        "request", "total", "errors"
    ));
    for counts in &status.snapshot.opcodes {
        lines.push(format!(
            "{:<16}{:>10}{:>9}{}",
            plain(&counts.opcode),
            counts.requests,
            counts.errors,
            latencies(&counts.latency)
        ));
    }
    lines.push(String::new());
    lines.extend(of_writes(&status.snapshot.writes));
    lines.extend(sizes(&status.snapshot.writes.sizes));
    lines.join("\n")
}

/// How many files go past the daemon, and why others do not.
fn of_passthrough(passed: &PassedThrough) -> String {
    let name = "passthrough     ";
    if let Some(reason) = &passed.off {
        return format!("{name}off: {reason}");
    }
    let mut line = format!("{name}{} files, {} opens", passed.files, passed.opens);
    for (at, counted) in passed.through_daemon.iter().enumerate() {
        let before = if at == 0 {
            "; through the daemon:"
        } else {
            ","
        };
        line += &format!("{before} {} {}", counted.opens, counted.reason);
    }
    line
}

/// What an operator should know: what is so, and below it what to do.
fn lines_of(warnings: &[Finding]) -> Vec<String> {
    let lines = warnings.iter().flat_map(|finding| {
        let what = format!("{:<16}{}", finding.severity, plain(&finding.what));
        let remedy = finding.remedy.iter();
        let remedy = remedy.map(|remedy| format!("{:16}> {}", "", plain(remedy)));
        std::iter::once(what).chain(remedy)
    });
    lines.collect()
}

const LATENCIES: &str = "       p50       p90       p99       max";

fn latencies(latency: &Histogram) -> String {
    let shares = [0.5, 0.9, 0.99, 1.0];
    let columns = shares.map(|share| {
        let found = latency.percentile(share);
        format!("{:>10}", found.map_or("-".to_owned(), time))
    });
    columns.concat()
}

fn head(status: &Status) -> Vec<String> {
    let snapshot = &status.snapshot;
    let process = &snapshot.process;
    vec![
        format!(
            "{} at {}, up {}",
            plain(&status.source),
            match &status.guest {
                Some(guest) => of_device(guest),
                None => plain(&status.mountpoint),
            },
            uptime(status.uptime_seconds)
        ),
        format!(
            "daemon          thrufs {}, pid {}, {} resident, {} of {} descriptors",
            plain(&status.version),
            status.pid,
            bytes(process.resident_bytes),
            process.descriptors,
            process.descriptors_limit
        ),
        format!(
            "kernel holds    {} inodes, {} open handles; {} requests in flight{}",
            snapshot.inodes,
            snapshot.handles,
            snapshot.in_flight,
            match snapshot.deaths {
                Some(deaths) => format!(
                    "; outlived {deaths} deaths and {} upgrades of the server",
                    snapshot.upgrades.unwrap_or_default()
                ),
                None => String::new(),
            }
        ),
        match (&status.readers, &status.guest) {
            (_, Some(guest)) => format!(
                "transport       {}: {} request queues; {}, {} front ends so far",
                status.transport,
                guest.request_queues,
                match (guest.is_connected, guest.is_mounted) {
                    (false, _) => "no front end is connected",
                    (true, false) => "a front end is connected",
                    (true, true) => "the guest has mounted it",
                },
                guest.front_ends
            ),
            (None, None) => format!("transport       {}", status.transport),
            (Some(readers), None) => format!(
                "transport       {}: {} threads, {} started so far",
                status.transport, readers.threads, readers.started
            ),
        },
    ]
}

/// A name and its values, over as many lines as it takes.
fn wrapped(line: &str) -> Vec<String> {
    const WIDTH: usize = 79;
    const INDENT: usize = 16;
    let mut lines = vec![String::new()];
    for word in plain(line).split(' ') {
        let current = lines.last_mut().expect("begins with one");
        if current.len() > INDENT && current.len() + 1 + word.len() > WIDTH {
            lines.push(format!("{:INDENT$}{word}", ""));
        } else {
            if !current.is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
    }
    lines
}

/// The daemon sees WRITEs and not write(2), and that is what is named.
fn of_writes(writes: &Writes) -> Vec<String> {
    let each = |count: u64| match writes.requests {
        0 => String::new(),
        requests => format!(" ({:.2} a WRITE)", count as f64 / requests as f64),
    };
    let average = writes.average_size().map_or("-".to_owned(), bytes);
    let mut lines = vec![
        format!(
            "writes          {} in {} WRITE requests, {average} a WRITE",
            bytes(writes.bytes),
            writes.requests
        ),
        format!(
            "pwritev2 calls  {}{}; {} WRITEs joined",
            writes.pwritev2_calls,
            each(writes.pwritev2_calls),
            writes.joined
        ),
        format!(
            "GETXATTR of security.capability: {}{}",
            writes.capability_getxattrs,
            each(writes.capability_getxattrs)
        ),
    ];
    if writes.flushes > 0 {
        let shared = writes.requests as f64 / writes.flushes as f64;
        lines.insert(
            2,
            format!(
                "flushes         {} ({shared:.2} WRITEs a flush)",
                writes.flushes
            ),
        );
    }
    lines
}

fn sizes(sizes: &Histogram) -> Vec<String> {
    let most = sizes.buckets.iter().map(|b| b.count).max().unwrap_or(0);
    let lines = sizes.buckets.iter().map(|bucket| {
        let bar = "#".repeat(((bucket.count * BAR).div_ceil(most.max(1))) as usize);
        let size = bytes(bucket.up_to.min(16 << 20));
        format!("  up to {size:<10}{:>10}  {bar}", bucket.count)
    });
    lines.collect()
}

/// One frame of `--watch`: what came between two answers of the same daemon.
pub(super) fn of_interval(before: &Status, now: &Status) -> Vec<String> {
    let seconds = (now.uptime_seconds - before.uptime_seconds).max(1e-3);
    let mut lines = head(now);
    lines.push(String::new());
    let title = format!("in {seconds:.1} s");
    lines.push(format!(
        "{title:<16}{:>10}{:>9}{LATENCIES}",
        "a second", "errors"
    ));
    for counts in &now.snapshot.opcodes {
        let old = before
            .snapshot
            .opcodes
            .iter()
            .find(|old| old.opcode == counts.opcode);
        lines.push(interval_line(counts, old, seconds));
    }
    lines.push(String::new());
    lines.extend(of_writes(&writes_since(
        &before.snapshot.writes,
        &now.snapshot.writes,
    )));
    let read = now
        .snapshot
        .bytes_read
        .saturating_sub(before.snapshot.bytes_read);
    let written = now
        .snapshot
        .writes
        .bytes
        .saturating_sub(before.snapshot.writes.bytes);
    let each_second = |count: u64| bytes((count as f64 / seconds) as u64);
    lines.push(format!(
        "throughput      {} a second written, {} read",
        each_second(written),
        each_second(read)
    ));
    lines
}

fn interval_line(counts: &OpcodeCounts, old: Option<&OpcodeCounts>, seconds: f64) -> String {
    let none = OpcodeCounts {
        opcode: String::new(),
        requests: 0,
        errors: 0,
        latency: Histogram::default(),
    };
    let old = old.unwrap_or(&none);
    let requests = counts.requests.saturating_sub(old.requests);
    format!(
        "{:<16}{:>10}{:>9}{}",
        plain(&counts.opcode),
        rate(requests as f64 / seconds),
        counts.errors.saturating_sub(old.errors),
        latencies(&counts.latency.since(&old.latency))
    )
}

fn writes_since(before: &Writes, now: &Writes) -> Writes {
    let between = |now: u64, before: u64| now.saturating_sub(before);
    Writes {
        requests: between(now.requests, before.requests),
        bytes: between(now.bytes, before.bytes),
        sizes: now.sizes.since(&before.sizes),
        pwritev2_calls: between(now.pwritev2_calls, before.pwritev2_calls),
        flushes: between(now.flushes, before.flushes),
        joined: between(now.joined, before.joined),
        capability_getxattrs: between(now.capability_getxattrs, before.capability_getxattrs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_passthrough_says_how_many_and_why_not() {
        let reason = |reason: &str, opens| thrufs_fs::Reason {
            reason: reason.to_owned(),
            opens,
            is_choice: false,
        };
        let passed = PassedThrough {
            off: None,
            files: 2,
            opens: 7,
            through_daemon: vec![reason("small", 3), reason("refused", 1)],
        };
        let shown = of_passthrough(&passed);
        assert!(shown.ends_with("2 files, 7 opens; through the daemon: 3 small, 1 refused"));
        let off = PassedThrough {
            off: Some("--watch".to_owned()),
            ..PassedThrough::default()
        };
        assert!(of_passthrough(&off).ends_with("off: --watch"));
    }

    #[test]
    fn plain_leaves_nothing_that_acts_on_a_terminal() {
        assert_eq!(plain("/mnt/\u{1b}[2J\n\u{9b}x ä"), "/mnt/?[2J??x ä");
    }

    #[test]
    fn uptime_has_two_units() {
        let shown = [59.9, 3_599.0, 7_260.0, 90_000.0].map(uptime);
        assert_eq!(shown, ["0 min 59 s", "59 min 59 s", "2 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn wrapped_lines_fit_a_terminal() {
        let long = format!("capabilities    {}", "FUSE_SOMETHING ".repeat(20));
        let lines = wrapped(&long);
        assert!(lines.len() > 3);
        assert!(lines.iter().all(|line| line.len() <= 79), "{lines:?}");
        assert!(lines[0].starts_with("capabilities    FUSE_"), "{lines:?}");
    }
}
