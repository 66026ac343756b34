//! What came between two answers of the same daemon, as rates: pure functions from counts to numbers.
//!
//! Invariant: counts that go back, since another server goes on (`--survive`) or a caller's place was taken meanwhile, are
//! no negative rates: what there is now came since.

use std::collections::BTreeMap;

use serde::Serialize;
use thrufs_fs::{CallerCounts, Histogram, OpcodeCounts};

use super::callers::Names;
use crate::status::{Status, Which};

/// One daemon's answer.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    name: String,
    answer: Result<Box<Status>, String>,
}

impl Sample {
    /// What `which` says now.
    pub(super) async fn of(which: &Which) -> Self {
        let answer = which.ask().await.map(Box::new);
        Self {
            name: which.name(),
            answer: answer.map_err(|error| format!("{error:#}")),
        }
    }
}

/// What came in one interval.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Rates {
    pub(super) mounts: Vec<Row>,
    pub(super) opcodes: Vec<Row>,
    pub(super) processes: Vec<Row>,
    /// Mounts that did not answer, and why.
    pub(super) failed: Vec<Failed>,
}

/// A mount that did not answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failed {
    pub(super) mount: String,
    pub(super) error: String,
}

/// A line of a table: a mount, an opcode of one, or a process that uses one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) mount: String,
    /// The opcode, or what the process is called; none where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    /// A second.
    pub(super) requests: f64,
    /// A second; not known by process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) errors: Option<f64>,
    /// Bytes a second.
    pub(super) read: f64,
    pub(super) written: f64,
    /// Mean in nanoseconds, of the time in the daemon and below; none without a request.
    pub(super) latency: Option<u64>,
    /// In nanoseconds; not known by process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p99: Option<u64>,
    /// Only of a mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) in_flight: Option<u64>,
}

impl Row {
    pub(super) fn bytes(&self) -> f64 {
        self.read + self.written
    }
}

impl Rates {
    /// What came from `before` to `now`; of a mount that is not in both, nothing.
    pub(super) fn between(before: &[Sample], now: &[Sample], names: &mut Names) -> Self {
        let mut rates = Self::default();
        let mut tids = Vec::new();
        for sample in now {
            let status = match &sample.answer {
                Ok(status) => status,
                Err(error) => {
                    let (mount, error) = (sample.name.clone(), error.clone());
                    rates.failed.push(Failed { mount, error });
                    continue;
                }
            };
            let old = before.iter().find(|old| old.name == sample.name);
            let old = old.and_then(|old| old.answer.as_deref().ok());
            // One that was mounted meanwhile has all its counts from this interval.
            let of = Interval {
                mount: &sample.name,
                before: old.filter(|old| old.pid == status.pid),
                now: status,
            };
            rates.add(&of, names);
            tids.extend(status.snapshot.callers.iter().map(|caller| caller.tid));
        }
        names.keep(tids.into_iter());
        rates
    }

    fn add(&mut self, of: &Interval<'_>, names: &mut Names) {
        self.mounts.push(of.whole());
        self.opcodes.extend(of.opcodes());
        self.processes.extend(of.processes(names));
    }
}

/// Two answers of one daemon.
struct Interval<'a> {
    mount: &'a str,
    before: Option<&'a Status>,
    now: &'a Status,
}

/// What came since; all of it where the count goes back.
fn since(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

impl Interval<'_> {
    fn seconds(&self) -> f64 {
        let began = self.before.map_or(0.0, |before| before.uptime_seconds);
        (self.now.uptime_seconds - began).max(1e-3)
    }

    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.seconds()
    }

    /// The rate of a number of the status.
    fn rate_of(&self, number: impl Fn(&Status) -> u64) -> f64 {
        let before = self.before.map_or(0, &number);
        self.rate(since(number(self.now), before))
    }

    fn whole(&self) -> Row {
        let opcodes = self.opcodes();
        let mut latency = Histogram::default();
        for (_, of) in self.latencies() {
            latency.sum += of.sum;
            latency.buckets.extend(of.buckets);
        }
        latency.buckets.sort_by_key(|bucket| bucket.up_to);
        Row {
            mount: self.mount.to_owned(),
            requests: opcodes.iter().map(|row| row.requests).sum(),
            errors: Some(opcodes.iter().filter_map(|row| row.errors).sum()),
            read: self.rate_of(|status| status.snapshot.bytes_read),
            written: self.rate_of(|status| status.snapshot.writes.bytes),
            latency: latency.sum.checked_div(latency.count()),
            in_flight: Some(self.now.snapshot.in_flight),
            ..Row::default()
        }
    }

    fn old(&self, opcode: &str) -> Option<&OpcodeCounts> {
        let old = &self.before?.snapshot.opcodes;
        old.iter().find(|old| old.opcode == opcode)
    }

    /// How long the requests took that ended, by opcode.
    fn latencies(&self) -> Vec<(&OpcodeCounts, Histogram)> {
        let opcodes = self.now.snapshot.opcodes.iter();
        opcodes
            .map(|counts| {
                let latency = match self.old(&counts.opcode) {
                    Some(old) if old.requests <= counts.requests => {
                        counts.latency.since(&old.latency)
                    }
                    _ => counts.latency.clone(),
                };
                (counts, latency)
            })
            .collect()
    }

    fn opcodes(&self) -> Vec<Row> {
        let rows = self.latencies().into_iter().map(|(counts, latency)| {
            let old = self.old(&counts.opcode);
            let (requests, errors) = old.map_or((0, 0), |old| (old.requests, old.errors));
            let bytes = |opcode: &str, number: fn(&Status) -> u64| match counts.opcode == opcode {
                true => self.rate_of(number),
                false => 0.0,
            };
            Row {
                mount: self.mount.to_owned(),
                name: Some(counts.opcode.clone()),
                requests: self.rate(since(counts.requests, requests)),
                errors: Some(self.rate(since(counts.errors, errors))),
                read: bytes("READ", |status| status.snapshot.bytes_read),
                written: bytes("WRITE", |status| status.snapshot.writes.bytes),
                latency: latency.sum.checked_div(latency.count()),
                p99: latency.percentile(0.99),
                ..Row::default()
            }
        });
        rows.filter(|row| row.requests > 0.0).collect()
    }

    /// Threads of one process are one.
    fn processes(&self, names: &mut Names) -> Vec<Row> {
        // A virtual machine's processes are not told of.
        if self.now.guest.is_some() {
            return Vec::new();
        }
        let mut by_pid: BTreeMap<u32, (Option<String>, CallerCounts)> = BTreeMap::new();
        for caller in &self.now.snapshot.callers {
            let came = self.caller_since(caller);
            if came.requests == 0 {
                continue;
            }
            let process = names.process(caller.tid, self.now.is_of_this_namespace());
            let (name, sum) = by_pid.entry(process.pid).or_default();
            *name = name.take().or(process.name);
            sum.requests += came.requests;
            sum.bytes_read += came.bytes_read;
            sum.bytes_written += came.bytes_written;
            sum.busy += came.busy;
        }
        let rows = by_pid.into_iter().map(|(pid, (name, sum))| Row {
            mount: self.mount.to_owned(),
            name,
            pid: Some(pid),
            requests: self.rate(sum.requests),
            read: self.rate(sum.bytes_read),
            written: self.rate(sum.bytes_written),
            latency: sum.busy.checked_div(sum.requests),
            ..Row::default()
        });
        rows.collect()
    }

    fn caller_since(&self, now: &CallerCounts) -> CallerCounts {
        let old = self.before.and_then(|before| {
            let mut old = before.snapshot.callers.iter();
            old.find(|old| old.tid == now.tid)
        });
        match old {
            Some(old) if old.requests <= now.requests => CallerCounts {
                tid: now.tid,
                requests: now.requests - old.requests,
                bytes_read: since(now.bytes_read, old.bytes_read),
                bytes_written: since(now.bytes_written, old.bytes_written),
                busy: since(now.busy, old.busy),
            },
            _ => *now,
        }
    }
}

#[cfg(test)]
mod tests {
    use thrufs_fs::Bucket;

    use super::*;
    use crate::findings::mount::tests::status;

    fn caller(tid: u32, requests: u64, bytes_written: u64, busy: u64) -> CallerCounts {
        CallerCounts {
            tid,
            requests,
            bytes_read: 0,
            bytes_written,
            busy,
        }
    }

    fn sample(uptime: f64, writes: u64, callers: &[CallerCounts]) -> Sample {
        let mut status = status();
        status.uptime_seconds = uptime;
        status.snapshot.writes.bytes = writes * 1000;
        let buckets = vec![Bucket {
            up_to: 2000,
            count: writes,
        }];
        status.snapshot.opcodes = vec![OpcodeCounts {
            opcode: "WRITE".to_owned(),
            requests: writes,
            errors: 0,
            latency: Histogram {
                buckets,
                sum: writes * 1500,
                max: 2000,
            },
        }];
        status.snapshot.callers = callers.to_vec();
        Sample {
            name: "/mnt".to_owned(),
            answer: Ok(Box::new(status)),
        }
    }

    #[test]
    fn between_two_answers_are_rates_of_the_daemon_s_clock() {
        let before = sample(10.0, 100, &[caller(7, 100, 0, 0)]);
        let now = sample(
            12.0,
            300,
            &[caller(7, 200, 50, 1000), caller(8, 100, 150, 500)],
        );
        let rates = Rates::between(&[before], &[now], &mut Names::default());
        let mount = &rates.mounts[0];
        assert_eq!((mount.requests, mount.written), (100.0, 100_000.0));
        assert_eq!(mount.latency, Some(1500));
        let opcode = &rates.opcodes[0];
        assert_eq!(opcode.name.as_deref(), Some("WRITE"));
        assert_eq!((opcode.requests, opcode.written), (100.0, 100_000.0));
        // Numbers of another namespace: two threads are two processes.
        let [one, other] = &rates.processes[..] else {
            panic!("{:?}", rates.processes);
        };
        assert_eq!(
            (one.pid, one.requests, one.latency),
            (Some(7), 50.0, Some(10))
        );
        assert_eq!((other.pid, other.written), (Some(8), 75.0));
    }

    #[test]
    fn between_answers_with_counts_that_go_back_is_what_there_is_now() {
        let before = sample(10.0, 100, &[caller(7, 100, 100, 100)]);
        let now = sample(11.0, 30, &[caller(7, 20, 10, 100)]);
        let rates = Rates::between(&[before], &[now], &mut Names::default());
        assert_eq!(rates.opcodes[0].requests, 30.0);
        assert_eq!(rates.opcodes[0].latency, Some(1500));
        assert_eq!(rates.processes[0].requests, 20.0);
    }

    #[test]
    fn between_of_idle_mounts_has_no_opcodes_and_no_processes() {
        let idle = sample(10.0, 100, &[caller(7, 100, 100, 100)]);
        let later = sample(11.0, 100, &[caller(7, 100, 100, 100)]);
        let rates = Rates::between(&[idle], &[later], &mut Names::default());
        assert_eq!(rates.mounts[0].requests, 0.0);
        assert_eq!(rates.mounts[0].latency, None);
        assert!(rates.opcodes.is_empty() && rates.processes.is_empty());
    }

    #[test]
    fn between_with_a_mount_that_fails_names_it() {
        let failed = Sample {
            name: "/dead".to_owned(),
            answer: Err("its daemon is dead".to_owned()),
        };
        let rates = Rates::between(&[], &[failed], &mut Names::default());
        assert!(rates.mounts.is_empty());
        assert_eq!(rates.failed[0].mount, "/dead");
    }
}
