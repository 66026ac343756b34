//! `--translate-uid`, `--translate-gid` and `--xattrmap`: what the client sees and what is on SOURCE.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;
use xtests::support::calls::{chmod, refused};
use xtests::support::{Outcome, User, on_daemon};

const TRANSLATED: &[&str] = &[
    "--translate-uid=map:2000:5000:2",
    "--translate-gid=map:2000:6000:2",
    "--translate-uid=forbid-guest:3000:10",
    "--translate-gid=forbid-guest:3000:10",
];

fn owner(path: &Path) -> Result<(u32, u32)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.uid(), meta.gid()))
}

#[test]
fn create_with_translated_ids_belongs_to_the_other_user_on_source() -> Outcome {
    on_daemon(TRANSLATED, |m| {
        chmod(m.dir(), 0o777)?;
        let dir = m.dir().to_owned();
        User::new(2000, 2001).act(|| {
            File::create(dir.join("f"))?;
            std::fs::create_dir(dir.join("d"))?;
            std::os::unix::fs::symlink("f", dir.join("l"))?;
            // Its own file, in its own words: the kernel checks by what the mount shows.
            chmod(dir.join("f"), 0o600)?;
            std::fs::write(dir.join("f"), "mine")?;
            Ok(())
        })?;
        for name in ["f", "d", "l"] {
            ensure!(owner(&m.path(name))? == (2000, 2001), "{name} on the mount");
            ensure!(owner(&m.source(name))? == (5000, 6001), "{name} on SOURCE");
        }
        Ok(())
    })
}

#[test]
fn chown_with_translated_ids_is_translated() -> Outcome {
    on_daemon(TRANSLATED, |m| {
        File::create(m.path("f"))?;
        chown(m.path("f"), Some(2001), Some(2000))?;
        ensure!(owner(&m.source("f"))? == (5001, 6000), "on SOURCE");
        ensure!(owner(&m.path("f"))? == (2001, 2000), "on the mount");
        // An id without a rule stays.
        chown(m.path("f"), Some(7), None)?;
        ensure!(owner(&m.source("f"))? == (7, 6000), "7 on SOURCE");
        refused(chown(m.path("f"), Some(3009), None), libc::EPERM)?;
        refused(chown(m.path("f"), None, Some(3000)), libc::EPERM)?;
        ensure!(owner(&m.source("f"))? == (7, 6000), "after a refusal");
        Ok(())
    })
}

#[test]
fn create_with_a_forbidden_id_gives_eperm_and_makes_nothing() -> Outcome {
    on_daemon(TRANSLATED, |m| {
        chmod(m.dir(), 0o777)?;
        let dir = m.dir().to_owned();
        for (uid, gid) in [(3000, 1), (1, 3009)] {
            let error = User::new(uid, gid).act(|| Ok(File::create(dir.join("f")).unwrap_err()))?;
            ensure!(
                error.raw_os_error() == Some(libc::EPERM),
                "{uid}:{gid}: {error}"
            );
            ensure!(!m.source("f").exists(), "{uid}:{gid} made a file");
        }
        Ok(())
    })
}

#[test]
fn create_with_squashed_ids_belongs_to_one_user() -> Outcome {
    let options = [
        "--translate-uid=squash-guest:0:1234:4294967295",
        "--translate-gid=squash-guest:0:1234:4294967295",
        "--translate-uid=host:1234:0:1",
        "--translate-gid=squash-host:1234:0:1",
    ];
    on_daemon(&options, |m| {
        chown(m.source("."), Some(1234), Some(1234))?;
        File::create(m.path("f"))?;
        ensure!(owner(&m.source("f"))? == (1234, 1234), "on SOURCE");
        ensure!(owner(&m.path("f"))? == (0, 0), "on the mount");
        chown(m.path("f"), Some(77), Some(78))?;
        ensure!(owner(&m.source("f"))? == (1234, 1234), "after chown");
        Ok(())
    })
}

/// A file that is set-gid stays so for a member of its group: the group of the caller is one of
/// the client, that of the file one of SOURCE.
#[test]
fn chmod_and_write_by_a_member_of_a_translated_group_keeps_plain_set_gid() -> Outcome {
    on_daemon(TRANSLATED, |m| {
        std::fs::write(m.source("f"), "content")?;
        chown(m.source("f"), Some(5000), Some(6001))?;
        chmod(m.source("f"), 0o2664)?;
        let path = m.path("f");
        let member = User::new(2001, 2000).in_groups(&[2001]);
        member.act(|| Ok(std::fs::write(&path, "other")?))?;
        let mode = m.source("f").metadata()?.mode() & 0o7777;
        ensure!(mode == 0o2664, "{mode:o} after a member");
        chmod(m.source("f"), 0o2666)?;
        // In a group of that number on SOURCE, which the client's 6001 is as well, but not 2002.
        let stranger = User::new(2001, 2000).in_groups(&[2002]);
        stranger.act(|| Ok(std::fs::write(&path, "other")?))?;
        let mode = m.source("f").metadata()?.mode() & 0o7777;
        ensure!(mode == 0o666, "{mode:o} after a stranger");
        Ok(())
    })
}

fn names(path: &Path) -> Result<Vec<String>> {
    let mut list = vec![0; 4096];
    let len = listxattr(path, &mut list[..])?;
    let text = String::from_utf8(list[..len].to_vec())?;
    let mut names: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

#[test]
fn setxattr_with_xattrmap_has_another_name_on_source() -> Outcome {
    on_daemon(&["--xattrmap=:map:trusted.:user.virtiofs.:"], |m| {
        let (path, source) = (m.path("f"), m.source("f"));
        File::create(&path)?;
        setxattr(&path, "trusted.a", b"1", XattrFlags::CREATE)?;
        setxattr(&path, "user.b", b"2", XattrFlags::CREATE)?;
        ensure!(names(&path)? == ["trusted.a", "user.b"]);
        ensure!(names(&source)? == ["user.b", "user.virtiofs.trusted.a"]);
        let mut value = [0; 8];
        ensure!(getxattr(&path, "trusted.a", &mut value[..])? == 1 && value[0] == b'1');
        let set = |name| setxattr(&path, name, b"x", XattrFlags::empty());
        ensure!(set("user.virtiofs.trusted.a") == Err(Errno::PERM));
        setxattr(&source, "trusted.host", b"3", XattrFlags::empty())?;
        ensure!(names(&path)? == ["trusted.a", "user.b"], "the host's shows");
        removexattr(&path, "trusted.a")?;
        ensure!(names(&source)? == ["trusted.host", "user.b"]);
        Ok(())
    })
}

#[test]
fn setxattr_of_a_capability_that_would_be_renamed_is_refused() -> Outcome {
    on_daemon(&["--xattrmap=:map::user.virtiofs.:"], |m| {
        let path = m.path("f");
        File::create(&path)?;
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let set = setxattr(
            &path,
            "security.capability",
            &capability,
            XattrFlags::empty(),
        );
        ensure!(set == Err(Errno::OPNOTSUPP), "{set:?}");
        setxattr(&path, "user.a", b"1", XattrFlags::empty())?;
        ensure!(names(&path)? == ["user.a"]);
        ensure!(names(&m.source("f"))? == ["user.virtiofs.user.a"]);
        Ok(())
    })
}
