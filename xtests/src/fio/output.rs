//! fio's report of a run (`--output-format=json`), reduced to what is compared.
//!
//! The jobs of a file are reported as one group, so that there is exactly one entry. Metadata
//! engines have latencies only under `clat_ns`; for everything else the whole latency counts, submission included.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// One direction of a run, or both added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Traffic {
    /// Bytes that the application moved.
    pub(super) bytes: u64,
    /// read(2)s or write(2)s, or the engine's equivalent.
    pub(super) operations: u64,
    /// Bytes in a second.
    pub(super) bytes_per_second: f64,
    /// Operations in a second.
    pub(super) per_second: f64,
    /// Nanoseconds by percentile, ascending: `[50.0, 11200.0]`.
    pub(super) latency: Vec<(f64, f64)>,
}

/// Both directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moved {
    pub(super) read: Traffic,
    pub(super) written: Traffic,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "fio version")]
    version: String,
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i32,
    read: Direction,
    write: Direction,
}

#[derive(Deserialize)]
struct Direction {
    io_bytes: u64,
    total_ios: u64,
    bw_bytes: f64,
    iops: f64,
    lat_ns: Latency,
    clat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

/// Parses fio's document; `(what moved, fio's version)`.
pub(super) fn parse(text: &str) -> Result<(Moved, String)> {
    // Warnings come before the document.
    let start = text.find('{').context("fio printed no JSON")?;
    let document: Document =
        serde_json::from_str(&text[start..]).context("fio's JSON is not as expected")?;
    ensure!(
        document.jobs.len() == 1,
        "fio reported {} groups instead of one: the job lacks group_reporting",
        document.jobs.len()
    );
    let job = &document.jobs[0];
    ensure!(
        job.error == 0,
        "fio ended with {}",
        std::io::Error::from_raw_os_error(job.error)
    );
    let moved = Moved {
        read: traffic(&job.read)?,
        written: traffic(&job.write)?,
    };
    ensure!(
        moved.read.operations + moved.written.operations > 0,
        "fio did nothing in the time that it had"
    );
    Ok((moved, document.version))
}

fn traffic(direction: &Direction) -> Result<Traffic> {
    let percentiles = if direction.lat_ns.percentile.is_empty() {
        &direction.clat_ns.percentile
    } else {
        &direction.lat_ns.percentile
    };
    let mut latency = Vec::new();
    if direction.total_ios > 0 {
        for (percent, nanoseconds) in percentiles {
            let percent: f64 = percent.parse().context("a percentile of fio's")?;
            latency.push((percent, *nanoseconds));
        }
    }
    latency.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(Traffic {
        bytes: direction.io_bytes,
        operations: direction.total_ios,
        bytes_per_second: direction.bw_bytes,
        per_second: direction.iops,
        latency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str = r#"{"io_bytes": 0, "total_ios": 0, "bw_bytes": 0, "iops": 0.0,
        "lat_ns": {"mean": 0.0}, "clat_ns": {"percentile": {"50.000000": 0}}}"#;

    fn document(error: i32, jobs: usize) -> String {
        let write = r#"{"io_bytes": 65536, "total_ios": 16, "bw_bytes": 1000, "iops": 0.25,
            "lat_ns": {"percentile": {"99.000000": 70, "5.000000": 3, "50.000000": 10}},
            "clat_ns": {}}"#;
        let job = format!(r#"{{"error": {error}, "read": {NOTHING}, "write": {write}}}"#);
        let jobs = vec![job; jobs].join(",");
        format!("fio: a warning\n{{\"fio version\": \"fio-3.33\", \"jobs\": [{jobs}]}}")
    }

    #[test]
    fn parse_after_a_warning_finds_bytes_and_latencies_in_order() {
        let (moved, version) = parse(&document(0, 1)).expect("a good document");
        assert_eq!(version, "fio-3.33");
        assert_eq!(
            (moved.written.bytes, moved.written.operations),
            (65_536, 16)
        );
        assert_eq!(
            moved.written.latency,
            [(5.0, 3.0), (50.0, 10.0), (99.0, 70.0)]
        );
        assert_eq!(moved.read, Traffic::default());
    }

    #[test]
    fn parse_of_a_metadata_job_takes_the_completion_latency() {
        let text = document(0, 1).replace(r#""lat_ns": {"percentile""#, r#""x": {"percentile""#);
        let text = text.replace(
            r#""clat_ns": {}"#,
            r#""lat_ns": {}, "clat_ns": {"percentile": {"50.000000": 42}}"#,
        );
        let (moved, _) = parse(&text).expect("a good document");
        assert_eq!(moved.written.latency, [(50.0, 42.0)]);
    }

    #[test]
    fn parse_of_a_failed_job_names_the_error() {
        let error = parse(&document(28, 1)).expect_err("ENOSPC");
        assert!(error.to_string().contains("No space left"), "{error}");
    }

    #[test]
    fn parse_of_two_groups_or_no_json_is_refused() {
        assert!(parse(&document(0, 2)).is_err());
        assert!(parse("fio: cannot open").is_err());
        assert!(parse("{\"fio version\": \"x\"}").is_err());
    }
}
