//! What a virtiofs device costs a host while its guest knows many inodes, and after the guest has forgotten them.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use thrufs_wire::Opcode;
use thrufs_wire::abi::{BatchForgetIn, EntryOut, ForgetOne, GetattrIn};
use xtests::support::guest::{Cut, Device, Guest, Options};
use xtests::support::process::children;
use xtests::support::scratch::{Backing, Layout, Scratch};
use xtests::support::{Outcome, case};
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
/// Bytes of its own that a device has in memory without any inode known, both processes together.
const BASE: u64 = 40 << 20;
/// Bytes for each inode known: measured 300.
const PER_INODE: u64 = 400;
/// Descriptors of both processes of a device, whatever the guest knows.
const FEW: usize = 300;
/// LOOKUPs under way at a time, and inodes that one BATCH_FORGET names.
const AT_ONCE: usize = 32;
const FORGOTTEN_AT_ONCE: usize = 10_000;
const FILES_PER_DIRECTORY: usize = 10_000;

#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Bytes that are not the guest's memory.
    memory: u64,
    descriptors: usize,
}

fn cost(device: &Device) -> Result<Cost> {
    let mut processes = children(device.pid()?)?;
    processes.push(device.pid()?);
    let mut cost = Cost {
        memory: 0,
        descriptors: 0,
    };
    for process in processes {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        cost.memory += kib.context("no RssAnon")?.parse::<u64>()? << 10;
        cost.descriptors += std::fs::read_dir(format!("/proc/{process}/fd"))?.count();
    }
    Ok(cost)
}

fn make(source: &Path, files: usize) -> Outcome {
    for index in 0..files {
        let dir = source.join(format!("d{}", index / FILES_PER_DIRECTORY));
        if index % FILES_PER_DIRECTORY == 0 {
            std::fs::create_dir(&dir)?;
        }
        File::create(dir.join(format!("f{index}")))?;
    }
    Ok(())
}

fn lookup(guest: &mut Guest, parent: u64, names: &[String]) -> Result<Vec<u64>> {
    let mut nodeids = Vec::new();
    for names in names.chunks(AT_ONCE) {
        let mut tokens = Vec::new();
        for name in names {
            let name = format!("{name}\0");
            let how = (1, Cut::Linux);
            tokens.push(guest.send(how, Opcode::Lookup, parent, &[name.as_bytes()], 128)?);
        }
        for token in tokens {
            nodeids.push(guest.wait(token)?.value::<EntryOut>()?.nodeid);
        }
    }
    Ok(nodeids)
}

fn forget(guest: &mut Guest, nodeids: &[u64]) -> Outcome {
    for nodeids in nodeids.chunks(FORGOTTEN_AT_ONCE) {
        let head = BatchForgetIn {
            count: nodeids.len() as u32,
            dummy: 0,
        };
        let one = |&nodeid| ForgetOne { nodeid, nlookup: 1 };
        let list: Vec<ForgetOne> = nodeids.iter().map(one).collect();
        let args = [head.as_bytes(), list.as_bytes()];
        guest.call(0, Opcode::BatchForget, 0, &args, 0)?;
    }
    Ok(())
}

fn getattr(guest: &mut Guest, nodeid: u64) -> Result<i32> {
    let arg = GetattrIn::default();
    let answer = guest.call(1, Opcode::Getattr, nodeid, &[arg.as_bytes()], 104)?;
    Ok(answer.error)
}

/// A guest that looks up so many files, and forgets them.
fn known(files: usize) -> Outcome {
    let scratch = Scratch::with(Backing::Tmpfs, Layout::AsBacked)?;
    make(&scratch.source(), files)?;
    let shared = format!("--shared-dir={}", scratch.source().display());
    let device = Device::new(&["--inode-file-handles=prefer", &shared])?;
    let mut guest = device.connect(Options::default())?;
    guest.init()?;
    let before = cost(&device)?;
    let mut nodeids = Vec::new();
    for (at, directory) in (0..files).step_by(FILES_PER_DIRECTORY).enumerate() {
        let parent = lookup(&mut guest, ROOT, &[format!("d{at}")])?[0];
        let last = (directory + FILES_PER_DIRECTORY).min(files);
        let names: Vec<String> = (directory..last).map(|at| format!("f{at}")).collect();
        nodeids.extend(lookup(&mut guest, parent, &names)?);
        nodeids.push(parent);
    }
    let during = cost(&device)?;
    ensure!(getattr(&mut guest, nodeids[files / 2])? == 0);
    forget(&mut guest, &nodeids)?;
    let after = cost(&device)?;
    println!("{files} inodes: before {before:?}, known {during:?}, forgotten {after:?}");
    ensure!(getattr(&mut guest, nodeids[files / 2])? == libc::ESTALE);
    let bound = BASE + PER_INODE * files as u64;
    ensure!(during.memory < bound, "{during:?}, not {bound}");
    ensure!(during.descriptors < FEW, "{during:?}");
    ensure!(after.descriptors <= before.descriptors + 4, "{after:?}");
    Ok(())
}

#[test]
fn front_ends_one_after_the_other_leave_no_descriptor_behind() -> Outcome {
    case(|| {
        let device = Device::new(&["--keep", "--num-request-queues=3"])?;
        let options = Options {
            queues: 3,
            ..Options::default()
        };
        let mut before = None;
        for round in 0..20 {
            // The next one connects when the last one is gone.
            let mut guest = device.connect(options)?;
            guest.init()?;
            let now = cost(&device)?.descriptors;
            // The first round has what starts with the first session.
            let bound = *before.get_or_insert(now + 2);
            ensure!(
                now <= bound,
                "round {round}: {now} descriptors, not {bound}"
            );
        }
        Ok(())
    })
}

#[test]
fn lookups_of_many_files_need_few_descriptors_and_bounded_memory() -> Outcome {
    case(|| known(30_000))
}

#[test]
#[ignore = "long: cargo test --release -p xtests --test device_inodes -- --ignored --nocapture"]
fn lookups_of_a_million_files_need_few_descriptors_and_bounded_memory() -> Outcome {
    case(|| known(1_000_000))
}
