//! One [`Status`] in the OpenMetrics text format, which Prometheus scrapes.
//!
//! Names and base units (seconds, bytes) are as Prometheus recommends. There is no label for the
//! mount but on `thrufs_info`: a daemon serves one mount, and Prometheus labels what it scrapes.
//!
//! <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use thrufs_fs::{Histogram, OpcodeCounts};

use crate::status::Status;

/// Upper limits of the latency buckets as powers of two in nanoseconds: 4 us, 16 us, ... 17 s. The
/// histograms' own, finer buckets end at these limits too, so nothing is counted into a wrong one.
const LATENCY_LIMITS: std::ops::RangeInclusive<u32> = 12..=34;
/// Of WRITE sizes, as powers of two in bytes: 512 to 16 MiB.
const SIZE_LIMITS: std::ops::RangeInclusive<u32> = 9..=24;

/// The text.
pub(super) fn of(status: &Status) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(status.clone())));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        // A String takes everything, and the collector has no errors of its own.
        Err(fmt::Error) => unreachable!("writing to a String does not fail"),
    }
}

#[derive(Debug)]
struct Scrape(Status);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.mount(encoder)?;
        self.guest(encoder)?;
        self.requests(encoder)?;
        self.writes(encoder)?;
        self.passed_through(encoder)?;
        self.holdings(encoder)?;
        self.process(encoder)
    }
}

impl Scrape {
    fn mount(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self(status) = self;
        let (text, none) = (String::as_str, "");
        let mut labels = vec![
            ("version", text(&status.version)),
            ("source", text(&status.source)),
        ];
        match &status.guest {
            None => labels.push(("mountpoint", text(&status.mountpoint))),
            Some(guest) => labels.extend([
                ("socket", guest.socket.as_ref().map_or(none, text)),
                ("tag", guest.tag.as_ref().map_or(none, text)),
            ]),
        }
        encoder
            .encode_descriptor("thrufs", "The mount or device", None, MetricType::Info)?
            .encode_info(&labels)?;
        let uptime = "Time since the mount";
        encoder
            .encode_descriptor(
                "thrufs_uptime",
                uptime,
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?
            .encode_gauge(&status.uptime_seconds)?;
        if let Some(negotiated) = &status.snapshot.negotiated {
            let granted = u64::from(negotiated.max_write);
            gauge(
                encoder,
                "thrufs_max_write",
                "Largest WRITE",
                Some(&Unit::Bytes),
                granted,
            )?;
        }
        Ok(())
    }

    fn guest(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(guest) = &self.0.guest else {
            return Ok(());
        };
        let help = "Whether a virtual machine monitor is connected";
        let name = "thrufs_front_end_connected";
        gauge(encoder, name, help, None, guest.is_connected.into())?;
        let (name, help) = ("thrufs_guest_mounted", "Whether the guest has mounted it");
        gauge(encoder, name, help, None, guest.is_mounted.into())?;
        let (name, help) = ("thrufs_request_queues", "Queues beside the priority queue");
        gauge(encoder, name, help, None, guest.request_queues as u64)?;
        let (name, help) = ("thrufs_front_ends", "Monitors that have connected");
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&guest.front_ends, None)
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let opcodes = &self.0.snapshot.opcodes;
        let by_opcode = |mut metric: MetricEncoder<'_>, value: fn(&OpcodeCounts) -> u64| {
            opcodes.iter().try_for_each(|counts| {
                metric
                    .encode_family(&[("opcode", counts.opcode.as_str())])?
                    .encode_counter::<NoLabelSet, _, f64>(&value(counts), None)
            })
        };
        let (name, kind) = ("thrufs_requests", MetricType::Counter);
        let help = "FUSE requests that came";
        by_opcode(
            encoder.encode_descriptor(name, help, None, kind)?,
            |counts| counts.requests,
        )?;
        let (name, kind) = ("thrufs_request_errors", MetricType::Counter);
        let help = "FUSE requests that were answered with an error";
        by_opcode(
            encoder.encode_descriptor(name, help, None, kind)?,
            |counts| counts.errors,
        )?;
        let (name, kind) = ("thrufs_request_duration", MetricType::Histogram);
        let help = "Time in the daemon and the file system below";
        let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
        for counts in opcodes {
            let labels = [("opcode", counts.opcode.as_str())];
            let metric = metric.encode_family(&labels)?;
            histogram(metric, &counts.latency, LATENCY_LIMITS.step_by(2), 1e-9)?;
        }
        gauge(
            encoder,
            "thrufs_requests_in_flight",
            "FUSE requests that are being served",
            None,
            self.0.snapshot.in_flight,
        )
    }

    fn writes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (writes, bytes) = (&self.0.snapshot.writes, Some(&Unit::Bytes));
        let mut counter = |name, help, unit, value: u64| {
            encoder
                .encode_descriptor(name, help, unit, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&value, None)
        };
        let help = "Bytes that WRITEs brought into backing files";
        counter("thrufs_written", help, bytes, writes.bytes)?;
        let help = "Bytes that READs returned";
        counter("thrufs_read", help, bytes, self.0.snapshot.bytes_read)?;
        let help = "pwritev2(2) calls that were made for WRITEs";
        counter("thrufs_pwritev2_calls", help, None, writes.pwritev2_calls)?;
        let help = "WRITEs that shared a pwritev2(2) with another";
        counter("thrufs_joined_writes", help, None, writes.joined)?;
        let help = "Flushes that made WRITEs durable (--durability=dsync)";
        counter("thrufs_write_flushes", help, None, writes.flushes)?;
        let help = "GETXATTRs of security.capability, the kernel's question before a write(2)";
        let asked = writes.capability_getxattrs;
        counter("thrufs_capability_getxattrs", help, None, asked)?;
        let (name, help) = ("thrufs_write_size", "Sizes of WRITEs");
        let metric = encoder.encode_descriptor(name, help, bytes, MetricType::Histogram)?;
        histogram(metric, &writes.sizes, SIZE_LIMITS, 1.0)
    }

    fn passed_through(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let passed = &self.0.snapshot.kernel_passthrough;
        let help = "Files that the kernel reads and writes past the daemon";
        let name = "thrufs_passed_through_files";
        gauge(encoder, name, help, None, passed.files as u64)?;
        let help = "OPENs of which the READs and WRITEs go past the daemon";
        encoder
            .encode_descriptor(
                "thrufs_passed_through_opens",
                help,
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, f64>(&passed.opens, None)?;
        let help = "Other OPENs of regular files, where the mount passes files through";
        let name = "thrufs_opens_through_daemon";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        passed.through_daemon.iter().try_for_each(|counted| {
            metric
                .encode_family(&[("reason", counted.reason.as_str())])?
                .encode_counter::<NoLabelSet, _, f64>(&counted.opens, None)
        })
    }

    fn holdings(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = &self.0.snapshot;
        let (inodes, handles) = (snapshot.inodes as u64, snapshot.handles as u64);
        let help = "Inodes that the kernel holds";
        gauge(encoder, "thrufs_inodes", help, None, inodes)?;
        let help = "Open files and directories";
        gauge(encoder, "thrufs_handles", help, None, handles)?;
        let Some(deaths) = snapshot.deaths else {
            return Ok(());
        };
        let help = "Serving processes that died, and that the mount has outlived (--survive)";
        encoder
            .encode_descriptor("thrufs_server_deaths", help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&deaths, None)?;
        let help = "Times that another version has taken the mount over (--survive)";
        encoder
            .encode_descriptor("thrufs_server_upgrades", help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&snapshot.upgrades.unwrap_or_default(), None)
    }

    /// Under the names that all Prometheus clients use. Of the process that serves, not of its
    /// supervisor, which does next to nothing.
    ///
    /// <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>
    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let process = &self.0.snapshot.process;
        let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
        let help = "CPU time of the serving process";
        encoder
            .encode_descriptor("process_cpu", help, seconds, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&(process.cpu_time as f64 * 1e-9), None)?;
        let help = "Start of the serving process since the Unix epoch";
        encoder
            .encode_descriptor("process_start_time", help, seconds, MetricType::Gauge)?
            .encode_gauge(&(process.started as f64 * 1e-9))?;
        let help = "Open descriptors of the serving process";
        gauge(encoder, "process_open_fds", help, None, process.descriptors)?;
        let help = "Descriptors that the serving process may have (RLIMIT_NOFILE)";
        let limit = process.descriptors_limit;
        gauge(encoder, "process_max_fds", help, None, limit)?;
        let (name, help) = ("process_resident_memory", "Memory of the serving process");
        gauge(encoder, name, help, bytes, process.resident_bytes)?;
        let (name, help) = (
            "process_virtual_memory",
            "Address space of the serving process",
        );
        gauge(encoder, name, help, bytes, process.virtual_bytes)
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, unit, MetricType::Gauge)?
        // The library has no gauge of u64. Beyond 2^53 the last digits do not matter.
        .encode_gauge(&(value as f64))
}

/// Adds the fine buckets up to each of `limits` (powers of two of the histogram's unit, of which
/// one is `scale` of the metric's).
fn histogram(
    mut metric: MetricEncoder<'_>,
    values: &Histogram,
    limits: impl Iterator<Item = u32>,
    scale: f64,
) -> fmt::Result {
    let mut fine = values.buckets.iter().peekable();
    let mut buckets = Vec::new();
    for limit in limits.map(|power| 1_u64 << power) {
        let mut count = 0;
        while let Some(bucket) = fine.next_if(|bucket| bucket.up_to <= limit) {
            count += bucket.count;
        }
        buckets.push((limit as f64 * scale, count));
    }
    // Written as +Inf.
    buckets.push((f64::INFINITY, fine.map(|bucket| bucket.count).sum()));
    let sum = values.sum as f64 * scale;
    metric.encode_histogram::<NoLabelSet>(sum, values.count(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use thrufs_fs::{Bucket, PassedThrough, Process, Reason, Snapshot, Writes};

    use super::*;
    use crate::daemon::source_space::SourceAnswer;
    use crate::daemon::source_state::SourceState;
    use crate::status::Carrier;

    fn buckets(of: &[(u64, u64)]) -> Vec<Bucket> {
        of.iter()
            .map(|&(up_to, count)| Bucket { up_to, count })
            .collect()
    }

    #[allow(clippy::too_many_lines, reason = "a value of each field")]
    fn status() -> Status {
        let histogram = |of: &[(u64, u64)], sum, max| Histogram {
            buckets: buckets(of),
            sum,
            max,
        };
        // 4096 ns is a limit; one request is beyond the last, 2^34 ns.
        let latency = [(4095, 2), (4607, 3), (u64::MAX, 1)];
        let latency = histogram(&latency, 20_000_015_000, 20_000_000_000);
        let sizes = histogram(&[(64, 5), (65_536, 1)], 66_000, 65_536);
        let (reason, opens) = ("small".to_owned(), 4);
        let small = Reason {
            reason,
            opens,
            is_choice: true,
        };
        Status {
            format: 1,
            version: "0.1.0".to_owned(),
            server_pid: 0,
            pid: 1,
            source: "/a \"quoted\" \\ one".to_owned(),
            mountpoint: "/m".to_owned(),
            device: "0:1".to_owned(),
            uptime_seconds: 1.5,
            guest: None,
            transport: Carrier::default(),
            readers: None,
            source_state: SourceState::default(),
            source_answer: SourceAnswer::default(),
            listener: None,
            snapshot: Snapshot {
                opcodes: vec![OpcodeCounts {
                    opcode: "WRITE".to_owned(),
                    requests: 6,
                    errors: 1,
                    latency,
                }],
                writes: Writes {
                    requests: 6,
                    bytes: 66_000,
                    sizes,
                    pwritev2_calls: 6,
                    joined: 0,
                    flushes: 3,
                    capability_getxattrs: 0,
                },
                bytes_read: 7,
                in_flight: 0,
                inodes: 2,
                handles: 1,
                deaths: Some(4),
                removed_in_use: 0,
                inode_limit: None,
                caches_data: None,
                callers: Vec::new(),
                upgrades: Some(2),
                kernel_passthrough: PassedThrough {
                    off: None,
                    files: 3,
                    opens: 9,
                    through_daemon: vec![small],
                },
                process: Process {
                    descriptors: 17,
                    descriptors_limit: u64::MAX,
                    resident_bytes: 4 << 20,
                    virtual_bytes: 1 << 30,
                    cpu_time: 1_500_000_000,
                    started: 1_700_000_000_250_000_000,
                },
                negotiated: None,
            },
        }
    }

    #[test]
    fn text_has_every_count_with_its_name_and_label() {
        let text = of(&status());
        for line in [
            "thrufs_requests_total{opcode=\"WRITE\"} 6",
            "thrufs_request_errors_total{opcode=\"WRITE\"} 1",
            "thrufs_written_bytes_total 66000",
            "thrufs_read_bytes_total 7",
            "thrufs_pwritev2_calls_total 6",
            "thrufs_write_flushes_total 3",
            "thrufs_passed_through_files 3.0",
            "thrufs_passed_through_opens_total 9",
            "thrufs_opens_through_daemon_total{reason=\"small\"} 4",
            "thrufs_inodes 2.0",
            "thrufs_server_deaths_total 4",
            "thrufs_server_upgrades_total 2",
            "thrufs_uptime_seconds 1.5",
            "process_cpu_seconds_total 1.5",
            "process_start_time_seconds 1700000000.25",
            "process_open_fds 17.0",
            "process_resident_memory_bytes 4194304.0",
            "process_virtual_memory_bytes 1073741824.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn metrics_that_manual_and_alerts_name_are_served() {
        let contrib = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib");
        let read = |name: &str| {
            std::fs::read_to_string(format!("{contrib}/{name}")).expect("a file of contrib")
        };
        let manual = read("doc/operations.md") + &read("grafana/alerts.yml");
        let is_name = |word: &&str| word.starts_with("thrufs_") || word.starts_with("process_");
        let named = manual
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(is_name)
            .filter(|word| *word != "process_")
            .collect::<Vec<_>>();
        assert!(named.len() > 4, "{named:?}");
        let text = of(&status());
        for name in named {
            let is_served = text.lines().any(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert!(is_served, "{name} in\n{text}");
        }
    }

    #[test]
    fn text_escapes_names_of_files() {
        let text = of(&status());
        let source = r#"source="/a \"quoted\" \\ one""#;
        assert!(text.contains(source), "{source} in\n{text}");
    }

    #[test]
    fn text_of_histograms_is_cumulative_and_ends_with_all() {
        let text = of(&status());
        let buckets = |name: &str| -> Vec<u64> {
            text.lines()
                .filter(|line| line.starts_with(&format!("{name}_bucket")))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
                .collect()
        };
        let latency = buckets("thrufs_request_duration_seconds");
        assert_eq!(latency.len(), 13, "{text}");
        assert_eq!((latency[0], latency[1]), (2, 5), "{text}");
        assert_eq!((latency[11], latency[12]), (5, 6), "{text}");
        let sizes = buckets("thrufs_write_size_bytes");
        assert_eq!((sizes[0], sizes[16]), (5, 6), "{text}");
        let sum = "thrufs_request_duration_seconds_sum{opcode=\"WRITE\"} 20.000015";
        assert!(text.contains(sum), "{text}");
    }

    /// Without a bucket `+Inf` Prometheus 3 refuses the scrape, and quantiles are wrong before.
    #[test]
    fn text_of_histograms_has_an_infinite_bucket_that_is_the_count() {
        let text = of(&status());
        let value = |start: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(start));
            line.unwrap_or_else(|| panic!("{start} in\n{text}")).trim()
        };
        let latency = "thrufs_request_duration_seconds";
        let opcode = "opcode=\"WRITE\"";
        for (name, labels) in [(latency, opcode), ("thrufs_write_size_bytes", "")] {
            let alone = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{labels}}}")
            };
            let first = if labels.is_empty() { "" } else { "," };
            // The library puts `le` first.
            let infinite = format!("{name}_bucket{{le=\"+Inf\"{first}{labels}}}");
            assert_eq!(value(&infinite), "6");
            assert_eq!(value(&format!("{name}_count{alone}")), "6");
        }
        assert!(!text.contains("e308"), "{text}");
    }
}
