//! `--metrics`: a mount's metrics, as a Prometheus server reads them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtests::support::checks::equal;
use xtests::support::command::{output, said};
use xtests::support::mount::{NEVER, thrufs};
use xtests::support::mount_table::is_mounted;
use xtests::support::wait::wait_for;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, missing, on_daemon, on_mount};

#[path = "metrics/prometheus.rs"]
mod prometheus;

const SOON: Duration = Duration::from_secs(10);

/// The address that the daemon logs.
fn address(m: &Mount) -> Result<SocketAddr> {
    wait_for("the daemon to name the address", SOON, || {
        let log = m.log();
        let after = log.split_once("metrics at http://").map(|(_, rest)| rest);
        let address = after.and_then(|rest| rest.split_once("/metrics"));
        address.map(|(address, _)| Ok(address.parse()?)).transpose()
    })
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";
const PROMETHEUS: &str = "text/plain; version=0.0.4";

/// Status line, headers and body.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    get_as(address, path, OPENMETRICS)
}

fn get_as(address: SocketAddr, path: &str, accept: &str) -> Result<String> {
    ask("1.1", address, path, accept)
}

/// By this version of HTTP; an answer by 1.0 is in one piece.
fn ask(version: &str, address: SocketAddr, path: &str, accept: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let header = format!("Host: x\r\nAccept: {accept}\r\nConnection: close\r\n");
    write!(stream, "GET {path} HTTP/{version}\r\n{header}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the answer")?;
    Ok(answer)
}

/// The body in this format.
fn scrape(address: SocketAddr, accept: &str) -> Result<String> {
    let answer = get_as(address, "/metrics", accept)?;
    let (header, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let wanted = format!("content-type: {accept}");
    ensure!(header.contains(&wanted), "{header}");
    Ok(body.to_owned())
}

fn value(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.with_context(|| format!("no {name} in {text}"))?;
    Ok(value.trim().parse()?)
}

#[test]
fn metrics_of_a_mount_count_what_was_done() -> Outcome {
    on_daemon(&["--metrics=0", NEVER], |m| {
        let address = address(m)?;
        ensure!(address.ip().is_loopback(), "{address}");
        std::fs::write(m.path("f"), vec![7; 65_536])?;
        let text = get(address, "/metrics")?;
        ensure!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        ensure!(text.contains("content-type: application/openmetrics-text"));
        equal(
            "WRITEs",
            value(&text, "thrufs_requests_total{opcode=\"WRITE\"}")?,
            1.0,
        )?;
        equal(
            "bytes",
            value(&text, "thrufs_written_bytes_total")?,
            65_536.0,
        )?;
        ensure!(text.ends_with("# EOF\n"), "{text}");
        ensure!(get(address, "/other")?.starts_with("HTTP/1.1 404 "));
        let page = get(address, "/")?;
        for wanted in [
            "HTTP/1.1 200 OK\r\n",
            "content-security-policy: default-src 'none'",
            "<a href=\"/metrics\">",
            "64.0 KiB in 1 WRITE requests",
        ] {
            ensure!(page.contains(wanted), "{wanted} in {page}");
        }
        Ok(())
    })
}

#[test]
fn metrics_clients_that_say_nothing_leave_the_mount_and_scrapers_alone() -> Outcome {
    on_daemon(&["--metrics=0"], |m| {
        let address = address(m)?;
        let before = m.daemon_descriptors()?;
        let connect = |_| TcpStream::connect_timeout(&address, SOON);
        let _clients = (0..100).map(connect).collect::<Result<Vec<_>, _>>()?;
        std::fs::write(m.path("f"), "served")?;
        let more = m.daemon_descriptors()?.saturating_sub(before);
        ensure!(more <= 16, "{more} descriptors for 100 clients");
        ensure!(get(address, "/metrics")?.starts_with("HTTP/1.1 200 OK\r\n"));
        Ok(())
    })
}

/// Parses standard input with the reference implementations, which are strict about histograms,
/// units and the end, and prints the parsed metrics.
const PARSE: &str = "
import sys
format, text = sys.argv[1], sys.stdin.read()
if format == 'openmetrics':
    from prometheus_client.openmetrics.parser import text_string_to_metric_families
else:
    from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(text):
    for sample in family.samples:
        print(family.type, sample.name, dict(sample.labels), sample.value)
";

/// Runs a program with `input`, and returns its output.
fn feed(program: &mut Command, input: &str) -> Result<String> {
    program.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = program.stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let done = child.wait_with_output()?;
    let text = said(&done);
    ensure!(done.status.success(), "{program:?}: {text}\nof\n{input}");
    Ok(text)
}

/// Prometheus 3 refused the scrape: histograms had no bucket `+Inf`.
#[test]
fn metrics_are_taken_by_strict_parsers_of_both_formats() -> Outcome {
    const PYTHON: &str = "/usr/bin/python3";
    on_daemon(&["--metrics=0", NEVER], |m| {
        let import = Command::new(PYTHON)
            .args(["-c", "import prometheus_client"])
            .output();
        if !import.is_ok_and(|said| said.status.success()) {
            return Err(missing("python3-prometheus-client"));
        }
        std::fs::write(m.path("f"), vec![7; 65_536])?;
        let address = address(m)?;
        for (name, accept) in [("openmetrics", OPENMETRICS), ("text", PROMETHEUS)] {
            let text = scrape(address, accept)?;
            let understood = feed(Command::new(PYTHON).args(["-c", PARSE, name]), &text)?;
            for wanted in [
                "histogram thrufs_write_size_bytes_bucket {'le': '+Inf'} 1",
                "histogram thrufs_write_size_bytes_count {} 1",
                "counter thrufs_requests_total {'opcode': 'WRITE'} 1",
                "gauge process_max_fds {} ",
            ] {
                let found = understood.lines().any(|line| line.starts_with(wanted));
                ensure!(found, "{name}: no {wanted} in\n{understood}");
            }
        }
        // Also checks that names and units are as Prometheus recommends.
        if let Some(promtool) = xtests::support::install::find("promtool") {
            let text = scrape(address, PROMETHEUS)?;
            let lint = feed(Command::new(promtool).args(["check", "metrics"]), &text)?;
            ensure!(lint.trim().is_empty(), "{lint}");
        }
        Ok(())
    })
}

#[test]
fn metrics_of_the_process_are_those_of_the_server() -> Outcome {
    on_mount(&["--metrics=0"], |m| {
        let pid = m.server_pid()?;
        let text = get(address(m)?, "/metrics")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit_once(") ").context("stat")?.1;
        let ticks: u64 = fields.split(' ').nth(19).context("starttime")?.parse()?;
        let boot = std::fs::read_to_string("/proc/stat")?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "));
        let started = boot.context("btime")?.parse::<f64>()?
            + ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        // The boot time has a resolution of one second.
        let said = value(&text, "process_start_time_seconds")?;
        ensure!((said - started).abs() <= 2.0, "{said}, not {started}");
        let open = m.daemon_descriptors()? as f64;
        let said = value(&text, "process_open_fds")?;
        ensure!((said - open).abs() <= 4.0, "{said}, not {open}");
        ensure!(value(&text, "process_cpu_seconds_total")? > 0.0, "{text}");
        ensure!(
            value(&text, "process_resident_memory_bytes")? > 1e6,
            "{text}"
        );
        Ok(())
    })
}

#[test]
fn metrics_address_in_use_is_an_error_and_mounts_nothing() -> Outcome {
    case(|| {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let scratch = Scratch::new(Backing::Here)?;
        let (source, target) = (scratch.path().join("source"), scratch.path().join("target"));
        std::fs::create_dir_all(&source)?;
        std::fs::create_dir_all(&target)?;
        let asked = format!("--metrics={}", taken.local_addr()?);
        let mut command = Command::new(thrufs()?);
        let said = output(command.arg("mount").arg(&asked).args([&source, &target]))?;
        let text = String::from_utf8_lossy(&said.stderr);
        ensure!(!said.status.success(), "it succeeds");
        ensure!(text.contains(&asked), "{text}");
        ensure!(!is_mounted(&target), "it is mounted");
        Ok(())
    })
}
