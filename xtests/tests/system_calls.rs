//! What the server asks the kernel, and its supervisor, for each request: counted, not timed.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use xtests::support::command::succeed;
use xtests::support::install::find;
use xtests::support::syscall_trace::{Served, SyscallTrace};
use xtests::support::{Mount, Outcome, User, missing, on_mount};

const USER: u32 = 4001;
const SETATTR: u32 = 4;

/// tar sets the times of each, as root owner and mode as well.
const ARCHIVED: usize = 350;

/// A question to the supervisor, by the server.
fn questions(served: &[Served]) -> usize {
    let calls = served.iter().flat_map(|request| &request.calls);
    calls.filter(|call| *call == "sendmsg").count()
}

fn count(served: &[Served], opcode: u32) -> usize {
    served.iter().filter(|one| one.opcode == opcode).count()
}

/// An archive in SOURCE of directories and files with modes, owners and times.
fn archive(m: &Mount, tar: &Path) -> Result<PathBuf> {
    let (tree, archive) = (m.scratch().path().join("tree"), m.source("archive.tar"));
    for index in 0..ARCHIVED {
        let directory = tree.join(format!("d{}", index / 50));
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(format!("f{index}")), b"content")?;
    }
    let mut create = Command::new(tar);
    create
        .arg("-C")
        .arg(&tree)
        .arg("-cf")
        .arg(&archive)
        .arg(".");
    succeed(&mut create)?;
    Ok(archive)
}

/// Unpacks it in the directory `name` of the mount, as `user`, and returns what the server did.
fn unpack(m: &Mount, name: &str, user: Option<&User>) -> Result<Vec<Served>> {
    let tar = find("tar").ok_or_else(|| missing("tar (tar)"))?;
    let archive = archive(m, &tar)?;
    std::fs::create_dir(m.path(name))?;
    chown(
        m.path(name),
        user.map(|user| user.uid),
        user.map(|user| user.gid),
    )?;
    let mut extract = Command::new(tar);
    extract.current_dir("/").arg("-xf").arg(archive).arg("-C");
    extract.arg(m.path(name));
    let trace = SyscallTrace::start(m)?;
    match user {
        Some(user) => user.act(|| succeed(&mut extract))?,
        None => succeed(&mut extract)?,
    };
    trace.requests()
}

/// Each chown(2), chmod(2) and utimes(2) of tar was a question about its groups and capabilities to the
/// supervisor, which took most of its time.
#[test]
fn setattr_of_what_tar_unpacks_asks_nothing_about_the_caller() -> Outcome {
    on_mount(&[], |m| {
        m.require_mount()?;
        for (name, user) in [("root", None), ("user", Some(User::new(USER, USER)))] {
            let served = unpack(m, name, user.as_ref())?;
            let setattrs = count(&served, SETATTR);
            ensure!(setattrs >= ARCHIVED, "{name}: {setattrs} SETATTRs");
            let asked = questions(&served);
            eprintln!("{name}: {asked} questions in {setattrs} SETATTRs");
            ensure!(
                asked == 0,
                "{name}: {asked} questions in {setattrs} SETATTRs"
            );
        }
        // Where the answer decides there is one, which shows that they are counted.
        let file = m.path("set-gid");
        std::fs::write(&file, b"content")?;
        std::fs::set_permissions(&file, Permissions::from_mode(0o2640))?;
        let trace = SyscallTrace::start(m)?;
        chown(&file, Some(USER), None)?;
        chown(&file, Some(USER), None)?;
        let asked = questions(&trace.requests()?);
        ensure!(asked > 0, "no question about a set-gid bit");
        Ok(())
    })
}
