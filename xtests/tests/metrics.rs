//! `--metrics`: what a Prometheus server would be told of a mount.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtests::support::command::output;
use xtests::support::mount::{is_mounted, thrufs};
use xtests::support::wait::wait_for;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, on_mount};

const SOON: Duration = Duration::from_secs(10);

/// Where the daemon says that they are.
fn address(m: &Mount) -> Result<SocketAddr> {
    wait_for("the daemon to name the address", SOON, || {
        let log = m.log();
        let after = log.split_once("metrics at http://").map(|(_, rest)| rest);
        let address = after.and_then(|rest| rest.split_once("/metrics"));
        address.map(|(address, _)| Ok(address.parse()?)).transpose()
    })
}

/// Status line, headers and body.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn value(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.with_context(|| format!("no {name} in {text}"))?;
    Ok(value.trim().parse()?)
}

#[test]
fn metrics_of_a_mount_count_what_was_done() -> Outcome {
    on_mount(&["--metrics=0"], |m| {
        m.require_mount()?;
        let address = address(m)?;
        ensure!(address.ip().is_loopback(), "{address}");
        std::fs::write(m.path("f"), vec![7; 65_536])?;
        let text = get(address, "/metrics")?;
        ensure!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        ensure!(
            text.contains("content-type: application/openmetrics-text"),
            "{text}"
        );
        ensure!(
            value(&text, "thrufs_requests_total{opcode=\"WRITE\"}")? == 1.0,
            "{text}"
        );
        ensure!(
            value(&text, "thrufs_written_bytes_total")? == 65_536.0,
            "{text}"
        );
        ensure!(text.ends_with("# EOF\n"), "{text}");
        ensure!(get(address, "/")?.starts_with("HTTP/1.1 404 "));
        Ok(())
    })
}

#[test]
fn metrics_clients_that_say_nothing_leave_the_mount_alone() -> Outcome {
    on_mount(&["--metrics=0"], |m| {
        m.require_mount()?;
        let address = address(m)?;
        let before = m.daemon_descriptors()?;
        let clients: Result<Vec<_>, _> = (0..100)
            .map(|_| TcpStream::connect_timeout(&address, SOON))
            .collect();
        let clients = clients?;
        std::fs::write(m.path("f"), "served")?;
        let more = m.daemon_descriptors()?.saturating_sub(before);
        ensure!(
            more <= 16,
            "{more} descriptors for {} clients",
            clients.len()
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
