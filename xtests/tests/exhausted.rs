//! A daemon whose descriptors clients have used up: the operator can still find out why nothing works.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, OFlags};
use xtests::support::wait::wait_for;
use xtests::support::{Mount, Outcome, on_daemon};

const SOON: Duration = Duration::from_secs(30);
/// More than the daemon has descriptors.
const FILES: usize = 600;

/// Takes everything that a client can get: open files, and referenced inodes.
fn take_all(m: &Mount) -> Result<(Vec<File>, Vec<OwnedFd>)> {
    for index in 0..FILES {
        File::create(m.source(&format!("f{index}")))?;
    }
    let (mut files, mut inodes) = (Vec::new(), Vec::new());
    while files.len() < FILES {
        match File::open(m.path("f0")) {
            Ok(file) => files.push(file),
            Err(_full) => break,
        }
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    for index in 0..FILES {
        let path = m.path(&format!("f{index}"));
        if let Ok(inode) = rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            inodes.push(inode);
        }
    }
    ensure!(files.len() < FILES, "more files than descriptors");
    Ok((files, inodes))
}

fn scrape(m: &Mount) -> Result<String> {
    let log = m.log();
    let address = log
        .split_once("metrics at http://")
        .and_then(|(_, rest)| rest.split_once('/'));
    let mut stream = TcpStream::connect(address.context("no address")?.0)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("no answer to a scrape")?;
    Ok(answer)
}

/// Twice each, since the reserve must be there again.
fn answers(options: &[&str]) -> Outcome {
    let options = [&["--rlimit-nofile=256", "--metrics=0"], options].concat();
    on_daemon(&options, |m| {
        m.status()?;
        wait_for("the address of the metrics", SOON, || {
            Ok(m.log().contains("metrics at ").then_some(()))
        })?;
        let held = take_all(m)?;
        println!("{} files, {} inodes", held.0.len(), held.1.len());
        for _ in 0..2 {
            let status = m.status()?;
            let limit = &status["process"]["descriptors_limit"];
            ensure!(limit == 256, "{limit}");
            let answer = scrape(m)?;
            ensure!(answer.contains("\nprocess_max_fds 256"), "{answer}");
        }
        drop(held);
        Ok(())
    })
}

#[test]
fn status_and_scrape_with_all_descriptors_held_by_open_files_are_answered() -> Outcome {
    answers(&["--inode-file-handles=prefer"])
}

#[test]
fn status_and_scrape_with_all_descriptors_held_by_inodes_are_answered() -> Outcome {
    answers(&["--inode-file-handles=never"])
}

#[test]
fn status_and_scrape_with_all_descriptors_held_are_answered_without_a_sandbox() -> Outcome {
    answers(&["--inode-file-handles=never", "--sandbox=none"])
}
