//! The four extended attribute operations, with `--xattr` and without.

use std::fs::File;
use std::process::Command;

use anyhow::ensure;
use rustix::fs::{XattrFlags, getxattr, lgetxattr, listxattr, lsetxattr, removexattr, setxattr};
use rustix::io::Errno;
use xtests::support::calls::open_wronly;
use xtests::support::command::succeed;
use xtests::support::{Outcome, User, missing, on_daemon, on_mount};

fn value_of(path: &std::path::Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 70_000];
    let len = getxattr(path, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

#[test]
fn setxattr_is_on_source_and_reads_back() -> Outcome {
    on_mount(&["--xattr"], |m| {
        File::create(m.path("f"))?;
        std::fs::create_dir(m.path("d"))?;
        for name in ["f", "d"] {
            for value in [&b""[..], b"short", &[0, 1, 255, 0], &[7; 1000]] {
                setxattr(m.path(name), "user.thrufs", value, XattrFlags::empty())?;
                ensure!(
                    value_of(&m.path(name), "user.thrufs")? == value,
                    "{name} mount"
                );
                ensure!(
                    value_of(&m.source(name), "user.thrufs")? == value,
                    "{name} SOURCE"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn setxattr_create_and_replace_check_existence() -> Outcome {
    on_mount(&["--xattr"], |m| {
        let path = m.path("f");
        File::create(&path)?;
        ensure!(setxattr(&path, "user.a", b"1", XattrFlags::REPLACE) == Err(Errno::NODATA));
        setxattr(&path, "user.a", b"1", XattrFlags::CREATE)?;
        ensure!(setxattr(&path, "user.a", b"2", XattrFlags::CREATE) == Err(Errno::EXIST));
        setxattr(&path, "user.a", b"3", XattrFlags::REPLACE)?;
        ensure!(value_of(&path, "user.a")? == b"3");
        removexattr(&path, "user.a")?;
        ensure!(removexattr(&path, "user.a") == Err(Errno::NODATA));
        ensure!(value_of(&path, "user.a") == Err(Errno::NODATA));
        Ok(())
    })
}

#[test]
fn getxattr_and_listxattr_tell_the_size_and_erange() -> Outcome {
    on_mount(&["--xattr"], |m| {
        let path = m.path("f");
        File::create(&path)?;
        setxattr(&path, "user.a", &[5; 100], XattrFlags::empty())?;
        setxattr(&path, "user.bb", b"", XattrFlags::empty())?;
        ensure!(rustix::fs::getxattr_query(&path, "user.a") == Ok(100));
        ensure!(getxattr(&path, "user.a", &mut [0_u8; 99][..]) == Err(Errno::RANGE));
        ensure!(getxattr(&path, "user.a", &mut [0_u8; 100][..]) == Ok(100));
        let size = rustix::fs::listxattr_query(&path)?;
        let mut list = vec![0; size];
        ensure!(listxattr(&path, &mut list[..])? == size);
        let text = String::from_utf8(list)?;
        ensure!(
            text.split('\0').any(|name| name == "user.a") && text.contains("user.bb\0"),
            "{text}"
        );
        ensure!(listxattr(&path, &mut vec![0_u8; size - 1][..]) == Err(Errno::RANGE));
        Ok(())
    })
}

#[test]
fn setxattr_too_large_fails_as_natively() -> Outcome {
    on_mount(&["--xattr"], |m| {
        File::create(m.path("f"))?;
        let sizes = [65_537, 65_536, 40_000];
        for size in sizes {
            let value = vec![1; size];
            let native = setxattr(m.source("f"), "user.native", &value, XattrFlags::empty());
            let got = setxattr(m.path("f"), "user.a", &value, XattrFlags::empty());
            ensure!(got == native, "{size}: {got:?}, natively {native:?}");
        }
        let long = format!("user.{}", "n".repeat(251));
        ensure!(setxattr(m.path("f"), &long, b"", XattrFlags::empty()) == Err(Errno::RANGE));
        Ok(())
    })
}

#[test]
fn xattr_of_a_symlink_is_its_own() -> Outcome {
    on_mount(&["--xattr", "--modcaps=+sys_admin"], |m| {
        File::create(m.path("f"))?;
        std::os::unix::fs::symlink("f", m.path("l"))?;
        lsetxattr(m.path("l"), "trusted.t", b"link", XattrFlags::empty())?;
        let mut value = [0; 10];
        ensure!(lgetxattr(m.source("l"), "trusted.t", &mut value[..])? == 4);
        ensure!(value_of(&m.path("f"), "trusted.t") == Err(Errno::NODATA));
        ensure!(lsetxattr(m.path("l"), "user.u", b"", XattrFlags::empty()) == Err(Errno::PERM));
        Ok(())
    })
}

#[test]
fn xattr_without_the_option_is_enotsup() -> Outcome {
    on_daemon(&[], |m| {
        File::create(m.path("f"))?;
        setxattr(m.source("f"), "user.a", b"1", XattrFlags::empty())?;
        ensure!(value_of(&m.path("f"), "user.a") == Err(Errno::OPNOTSUPP));
        let set = setxattr(m.path("f"), "user.b", b"1", XattrFlags::empty());
        ensure!(set == Err(Errno::OPNOTSUPP), "{set:?}");
        ensure!(removexattr(m.path("f"), "user.a") == Err(Errno::OPNOTSUPP));
        let list = listxattr(m.path("f"), &mut [0_u8; 100][..]);
        ensure!(matches!(list, Ok(0) | Err(Errno::OPNOTSUPP)), "{list:?}");
        Ok(())
    })
}

#[test]
fn write_to_a_file_with_capabilities_drops_them() -> Outcome {
    on_mount(&["--xattr"], |m| {
        for path in [m.path("f"), m.source("native")] {
            std::fs::copy("/bin/true", &path)?;
            succeed(Command::new("setcap").arg("cap_net_raw+ep").arg(&path))
                .map_err(|error| missing(format!("setcap (libcap2-bin): {error:#}")))?;
        }
        ensure!(!value_of(&m.source("f"), "security.capability")?.is_empty());
        ensure!(!value_of(&m.path("f"), "security.capability")?.is_empty());
        rustix::fs::chmod(m.path("f"), rustix::fs::Mode::from_raw_mode(0o777))?;
        let path = m.path("f");
        User::new(501, 501).act(|| {
            use std::os::unix::fs::FileExt;
            Ok(open_wronly(&path)?.write_all_at(b"x", 0)?)
        })?;
        let left = value_of(&m.source("f"), "security.capability");
        ensure!(
            left == Err(Errno::NODATA),
            "capabilities survive a write: {left:?}"
        );
        Ok(())
    })
}

#[test]
fn setxattr_trusted_by_a_user_is_refused() -> Outcome {
    on_mount(&["--xattr"], |m| {
        File::create(m.path("f"))?;
        rustix::fs::chmod(m.path("f"), rustix::fs::Mode::from_raw_mode(0o666))?;
        let path = m.path("f");
        let got = User::new(501, 501)
            .act(|| Ok(setxattr(&path, "trusted.x", b"1", XattrFlags::empty())))?;
        ensure!(got == Err(Errno::PERM), "{got:?}");
        Ok(())
    })
}
