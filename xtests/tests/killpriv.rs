//! Set-uid, set-gid and security.capability are removed exactly when SOURCE's file system removes
//! them, and the kernel asks for security.capability once in a while, not before every write.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::{FallocateFlags, XattrFlags, getxattr, setxattr};
use rustix::thread::{CapabilitySet, CapabilitySets};
use xtests::support::calls::{chmod, open_append, open_rdwr, open_wronly, truncate};
use xtests::support::checks::{equal, has_mode};
use xtests::support::mount::NEVER;
use xtests::support::{Mount, Outcome, User, on_daemon, on_mount};

const OWNER: u32 = 4001;
const GROUP: u32 = 5001;
const CAPABILITY: &str = "security.capability";
/// VFS_CAP_REVISION_2, effective, CAP_NET_BIND_SERVICE.
const NET_BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Mode, and whether the file has a capability.
const FILES: [(u32, bool); 7] = [
    (0o4777, false),
    (0o2777, false),
    (0o2767, false),
    (0o6777, false),
    (0o6767, false),
    (0o777, true),
    (0o4777, true),
];

/// No user is root here.
fn callers() -> [Option<User>; 6] {
    [
        None,
        Some(User::new(OWNER, GROUP)),
        Some(User::new(OWNER, OWNER).in_groups(&[GROUP])),
        Some(User::new(OWNER, OWNER)),
        Some(User::new(4002, 4002)),
        Some(User::new(4002, 4002).in_groups(&[GROUP])),
    ]
}

type Operation = (&'static str, fn(&Path) -> Result<()>);

const OPERATIONS: &[Operation] = &[
    ("write", |path| {
        Ok(open_wronly(path)?.write_all_at(&[1; 5000], 10)?)
    }),
    ("append", |path| {
        let mut file = open_append(path)?;
        Ok(file.write_all(b"more")?)
    }),
    ("direct write", |path| {
        let file = File::options()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)?;
        let room = vec![2; 2 * 4096];
        let start = room.as_ptr().align_offset(4096);
        Ok(file.write_all_at(&room[start..start + 4096], 0)?)
    }),
    ("truncate", |path| Ok(open_wronly(path)?.set_len(100)?)),
    ("O_TRUNC", |path| {
        File::create(path)?;
        Ok(())
    }),
    ("fallocate", |path| {
        let flags = FallocateFlags::empty();
        Ok(rustix::fs::fallocate(open_wronly(path)?, flags, 0, 20_000)?)
    }),
    ("copy_file_range", |path| {
        let file = open_rdwr(path)?;
        let (mut from, mut to) = (4096, 0);
        rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 4096)?;
        Ok(())
    }),
    ("chown to the same", |path| {
        Ok(chown(path, None, Some(GROUP))?)
    }),
    ("chown to the caller's group", |path| {
        let gid = rustix::process::getegid().as_raw();
        Ok(chown(path, None, Some(gid))?)
    }),
];

/// The caller's view: success, and the remaining privileges.
fn outcome(
    (path, source): (&Path, &Path),
    (mode, has_capability): (u32, bool),
    caller: Option<&User>,
    operation: fn(&Path) -> Result<()>,
) -> Result<String> {
    std::fs::write(path, [0; 8192])?;
    chown(path, Some(OWNER), Some(GROUP))?;
    chmod(path, mode)?;
    if has_capability {
        setxattr(path, CAPABILITY, &NET_BIND, XattrFlags::empty())?;
    }
    let errno = |result: Result<()>| {
        let error = result.err()?;
        let io = error.downcast_ref::<std::io::Error>();
        Some(io.map_or_else(|| format!("{error}"), |io| format!("{}", io.kind())))
    };
    let error = match caller {
        None => errno(operation(path)),
        Some(user) => errno(user.act(|| operation(path))),
    };
    let left = |path: &Path| -> Result<(u32, bool)> {
        let mode = path.metadata()?.permissions().mode() & 0o7777;
        let has = getxattr(path, CAPABILITY, &mut [0; 64][..]).is_ok();
        Ok((mode, has))
    };
    let (here, there) = (left(path)?, left(source)?);
    equal("mode and capability", here, there)?;
    std::fs::remove_file(path)?;
    Ok(format!("{error:?} {:o} capability: {}", here.0, here.1))
}

fn compare_all(m: &Mount) -> Outcome {
    let mut differences = Vec::new();
    for (name, operation) in OPERATIONS {
        for file in FILES {
            for caller in callers() {
                let caller = caller.as_ref();
                let native = m.source("native");
                let expected = outcome((&native, &native), file, caller, *operation)?;
                let (here, there) = (m.path("file"), m.source("file"));
                let got = match outcome((&here, &there), file, caller, *operation) {
                    Ok(got) => got,
                    Err(error) => format!("{error:#}"),
                };
                if got != expected {
                    differences.push(format!(
                        "{name} {:o} {} by {caller:?}: {got}, natively {expected}",
                        file.0, file.1
                    ));
                }
            }
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

#[test]
fn change_of_a_privileged_file_leaves_what_it_leaves_natively() -> Outcome {
    on_mount(&["--xattr"], compare_all)
}

#[test]
fn change_of_a_privileged_file_under_kernel_passthrough_leaves_what_it_leaves_natively() -> Outcome
{
    on_mount(&["--xattr", "--passthrough=auto"], compare_all)
}

/// The capability counts, whatever user has it: with fuser, which drops FATTR_KILL_SUIDGID, only root's did.
#[test]
fn truncate_by_a_user_with_cap_fsetid_leaves_the_bits_as_natively() -> Outcome {
    on_mount(&["--transport=device"], |m| {
        let paths = [m.path("file"), m.source("native")];
        for path in &paths {
            std::fs::write(path, "content")?;
            chown(path, Some(OWNER), Some(GROUP))?;
            chmod(path, 0o6777)?;
        }
        let done = std::thread::scope(|scope| {
            let by_user = scope.spawn(|| -> Result<()> {
                let user = rustix::fs::Uid::from_raw(4002);
                rustix::thread::set_keep_capabilities(true)?;
                rustix::thread::set_thread_res_uid(user, user, user)?;
                let kept = CapabilitySet::FSETID;
                let sets = CapabilitySets {
                    effective: kept,
                    permitted: kept,
                    inheritable: CapabilitySet::empty(),
                };
                rustix::thread::set_capabilities(None, sets)?;
                paths.iter().try_for_each(|path| Ok(truncate(path, 3)?))
            });
            by_user.join()
        });
        done.map_err(|_panic| anyhow::anyhow!("the user's thread panicked"))??;
        has_mode(m.source("native"), 0o6777)?;
        has_mode(m.source("file"), 0o6777)
    })
}

/// chown(-1, -1) reaches a FUSE server as a request that sets nothing, so it must not become a way
/// to remove the bits from a file that the caller may neither write nor owns.
#[test]
fn chown_to_nobody_by_a_stranger_leaves_the_bits() -> Outcome {
    on_mount(&["--xattr"], |m| {
        std::fs::write(m.path("f"), "x")?;
        chmod(m.path("f"), 0o6755)?;
        let path = m.path("f");
        let _either_way = User::new(4002, 4002).act(|| Ok(chown(&path, None, None)?));
        has_mode(m.source("f"), 0o6755)
    })
}

/// The kernel once asked before each write(2) when extended attributes were served: 4 KiB writes
/// took twice as long.
#[test]
fn write_with_xattr_on_sends_no_getxattr() -> Outcome {
    on_daemon(&["--xattr", "--attr-timeout=60", NEVER], |m| {
        let file = File::create(m.path("f"))?;
        for index in 0..200 {
            file.write_all_at(&[3; 4096], index * 4096)?;
        }
        let (writes, asked) = (m.requests("WRITE")?, m.requests("GETXATTR")?);
        ensure!(writes == 200, "{writes} WRITEs for 200 writes");
        ensure!(asked <= 1, "{asked} GETXATTRs for 200 writes");
        Ok(())
    })
}
