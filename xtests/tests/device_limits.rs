//! A virtiofs device: what it takes of the machine: descriptors and memory, also where it has next to no
//! rights, as in a pod.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Resource, getrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use thrufs_wire::Opcode;
use thrufs_wire::abi::{CreateIn, EntryOut};
use xtests::support::asked::{ROUNDS, number};
use xtests::support::guest::calls::{
    ROOT, booted, close, forget_all, getattr, lookup, lookup_in, open, opendir, readdir,
    readdirplus,
};
use xtests::support::guest::{Device, Guest, Options};
use xtests::support::mount::is_default_run;
use xtests::support::{Outcome, case, missing};
use zerocopy::IntoBytes;

/// A device has nothing of the settings that the mount tier is run with, and these take long.
fn once(body: impl FnOnce() -> Outcome) -> Outcome {
    case(|| match is_default_run() {
        true => body(),
        false => Err(missing(
            "nothing: what a device takes is tested once, with the defaults",
        )),
    })
}

/// Makes so many files in the shared directory.
fn fill(device: &Device, files: usize) -> Outcome {
    for at in 0..files {
        std::fs::File::create(device.shared(&format!("f{at}")))?;
    }
    Ok(())
}

/// Looks up so many of them, until there is no descriptor: the nodeids.
fn look_up(guest: &mut Guest, files: usize) -> Result<Vec<u64>> {
    let mut nodeids = Vec::new();
    for at in 0..files {
        let answer = lookup_in(guest, ROOT, format!("f{at}").as_bytes())?;
        match answer.error {
            0 => nodeids.push(answer.value::<EntryOut>()?.nodeid),
            libc::ENFILE => break,
            other => return Err(anyhow!("LOOKUP {at}: errno {other}")),
        }
    }
    Ok(nodeids)
}

/// With a descriptor an inode, 700 are used up by 700 LOOKUPs: the guest was bricked.
#[test]
fn hundred_thousand_lookups_without_a_forget_fit_into_700_descriptors() -> Outcome {
    once(|| {
        const FILES: usize = 100_000;
        let options = ["--rlimit-nofile=700", "--inode-file-handles=prefer"];
        let (device, mut guest) = booted(&options, Options::default())?;
        fill(&device, FILES)?;
        let before = device.resident()?;
        let nodeids = look_up(&mut guest, FILES)?;
        if nodeids.len() < FILES {
            let why = device.log();
            ensure!(
                why.contains("no file handles"),
                "{} LOOKUPs: {why}",
                nodeids.len()
            );
            return Err(missing("file handles on the temporary directory"));
        }
        let grown = device.resident()?.saturating_sub(before);
        ensure!(grown < 80 << 20, "{grown} bytes for {FILES} inodes");
        ensure!(device.descriptors()? < 700);
        let (nodeid, fh) = open(&mut guest, "f99999")?;
        ensure!(close(&mut guest, nodeid, fh)? == (0, 0));
        forget_all(&mut guest, &nodeids)?;
        ensure!(getattr(&mut guest, 1, nodeids[0])? == libc::ESTALE);
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        Ok(())
    })
}

/// At the limit names vanished from listings, and what was open could not be closed.
#[test]
fn at_the_limit_names_still_list_files_still_close_and_forget_gives_all_back() -> Outcome {
    once(|| {
        let options = ["--rlimit-nofile=700", "--inode-file-handles=never"];
        let (device, mut guest) = booted(&options, Options::default())?;
        fill(&device, 1000)?;
        let (nodeid, fh) = open(&mut guest, "f0")?;
        let dir = opendir(&mut guest, ROOT)?;
        let base = device.descriptors()?;
        let nodeids = look_up(&mut guest, 1000)?;
        ensure!(
            (200..1000).contains(&nodeids.len()),
            "{} LOOKUPs",
            nodeids.len()
        );
        let (mut offset, mut names, mut without) = (0, 0, 0);
        loop {
            let listed = readdirplus(&mut guest, (ROOT, dir), offset)?;
            let Some(last) = listed.last() else { break };
            offset = last.next_offset;
            for record in listed.iter().filter(|record| record.name[0] == b'f') {
                names += 1;
                match record.entry.nodeid {
                    0 => without += 1,
                    nodeid => forget_all(&mut guest, &[nodeid])?,
                }
            }
        }
        ensure!(names == 1000, "{names} names");
        ensure!(without > 0, "none without a nodeid");
        ensure!(close(&mut guest, nodeid, fh)? == (0, 0));
        forget_all(&mut guest, &nodeids)?;
        let left = device.descriptors()?;
        ensure!(left <= base, "{left} descriptors, {base} before");
        lookup(&mut guest, "f999")?;
        Ok(())
    })
}

#[test]
fn memory_does_not_grow_while_directories_are_listed() -> Outcome {
    once(|| {
        let (device, mut guest) = booted(&[], Options::default())?;
        fill(&device, 20)?;
        let rounds = |guest: &mut Guest, count: usize| -> Outcome {
            for _ in 0..count {
                let fh = opendir(guest, ROOT)?;
                for _ in 0..5 {
                    ensure!(readdir(guest, (ROOT, fh), 0)?.len() == 22);
                }
                let arg = thrufs_wire::abi::ReleaseIn {
                    fh,
                    ..thrufs_wire::abi::ReleaseIn::default()
                };
                guest.call(1, Opcode::Releasedir, ROOT, &[arg.as_bytes()], 0)?;
            }
            Ok(())
        };
        rounds(&mut guest, 1000)?;
        let before = device.resident()?;
        // Five READDIRs each.
        rounds(&mut guest, number(ROUNDS, 4000)?)?;
        let grown = device.resident()?.saturating_sub(before);
        // Pages of the program come in late.
        ensure!(grown < 2 << 20, "{grown} bytes");
        Ok(())
    })
}

/// What a container's filter does to unshare(2).
fn refuse_unshare() -> Outcome {
    let rules = BTreeMap::from([(libc::SYS_unshare, Vec::new())]);
    let (other, refused) = (
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
    );
    let arch = std::env::consts::ARCH.try_into()?;
    let filter: BpfProgram = SeccompFilter::new(rules, other, refused, arch)?.try_into()?;
    seccompiler::apply_filter(&filter)?;
    Ok(())
}

/// KubeVirt: no capabilities, no user namespace, 80 MB. Every create failed, as the umask of a thread takes
/// unshare(2).
#[test]
fn user_without_rights_where_unshare_is_refused_is_served_within_80_mb() -> Outcome {
    once(|| {
        const FILES: usize = 100_000;
        // Each takes a descriptor, of which some machines have fewer: then what it takes for all is reckoned.
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let files = FILES.min(usize::try_from(limit / 2)?);
        // The filter and the process's life are bound to the thread that starts it.
        let body = move || -> Outcome {
            refuse_unshare()?;
            let device = Device::new_as_user(65_000, &["--sandbox=none", "--cache=auto"])?;
            let mut guest = device.connect(Options::default())?;
            guest.init()?;
            for (name, umask, wanted) in [("a", 0o022, 0o644), ("b", 0o077, 0o600), ("c", 0, 0o666)]
            {
                let arg = CreateIn {
                    flags: libc::O_RDWR.cast_unsigned(),
                    mode: 0o100_666,
                    umask,
                    ..CreateIn::default()
                };
                let name = format!("{name}\0");
                let args = [arg.as_bytes(), name.as_bytes()];
                let answer = guest.call(1, Opcode::Create, ROOT, &args, 144)?;
                let mode = answer.value::<EntryOut>()?.attr.mode & 0o777;
                ensure!(mode == wanted, "umask {umask:o}: {mode:o}");
            }
            fill(&device, files)?;
            let before = device.resident()?;
            let nodeids = look_up(&mut guest, files)?;
            ensure!(nodeids.len() == files, "{} LOOKUPs", nodeids.len());
            let grown = device.resident()?.saturating_sub(before);
            let all = before + grown * FILES as u64 / files as u64;
            eprintln!("{before} bytes, {grown} more for {files} inodes, {all} for {FILES}");
            ensure!(all < 80 << 20, "{all} bytes for {FILES} inodes");
            Ok(())
        };
        let thread = std::thread::Builder::new()
            .spawn(body)
            .context("a thread")?;
        thread.join().map_err(|_| anyhow!("the thread panicked"))?
    })
}
