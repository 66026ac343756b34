//! RENAME, LINK, SYMLINK, READLINK, MKNOD, UNLINK and RMDIR.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::ensure;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::io::Errno;
use xtests::support::calls::{errno, open_append, open_wronly, refused};
use xtests::support::{Mount, Outcome, ino, on_mount};

fn rename(m: &Mount, from: &str, to: &str, flags: RenameFlags) -> rustix::io::Result<()> {
    renameat_with(CWD, m.path(from), CWD, m.path(to), flags)
}

fn names(m: &Mount, dir: &str) -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(m.path(dir))?;
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[test]
fn rename_replaces_an_existing_file_and_keeps_the_inode() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("a"), "new")?;
        std::fs::write(m.path("b"), "old")?;
        let number = ino(&m.path("a"))?;
        let open = File::open(m.path("b"))?;
        std::fs::rename(m.path("a"), m.path("b"))?;
        ensure!(std::fs::read(m.path("b"))? == b"new" && ino(&m.path("b"))? == number);
        let mut old = String::new();
        (&open).read_to_string(&mut old)?;
        ensure!(old == "old", "the replaced open file reads {old:?}");
        ensure!(open.metadata()?.nlink() == 0);
        ensure!(names(m, "")? == ["b"]);
        Ok(())
    })
}

#[test]
fn rename_of_an_open_file_keeps_its_descriptor_working() -> Outcome {
    on_mount(&[], |m| {
        std::fs::create_dir(m.path("d"))?;
        let file = File::create_new(m.path("f"))?;
        file.write_all_at(b"before", 0)?;
        std::fs::rename(m.path("f"), m.path("d/g"))?;
        file.write_all_at(b" after", 6)?;
        file.set_len(12)?;
        ensure!(std::fs::read(m.path("d/g"))? == b"before after");
        ensure!(std::fs::read(m.source("d/g"))? == b"before after");
        ensure!(file.metadata()?.ino() == ino(&m.path("d/g"))?);
        Ok(())
    })
}

#[test]
fn rename_noreplace_of_an_existing_name_is_eexist() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("a"), "a")?;
        std::fs::write(m.path("b"), "b")?;
        ensure!(rename(m, "a", "b", RenameFlags::NOREPLACE) == Err(Errno::EXIST));
        ensure!(rename(m, "a", "c", RenameFlags::NOREPLACE) == Ok(()));
        ensure!(names(m, "")? == ["b", "c"] && std::fs::read(m.source("c"))? == b"a");
        Ok(())
    })
}

#[test]
fn rename_exchange_swaps_a_file_and_a_directory() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), "file")?;
        std::fs::create_dir(m.path("d"))?;
        std::fs::write(m.path("d/inner"), "inner")?;
        let (file, dir) = (ino(&m.path("f"))?, ino(&m.path("d"))?);
        rename(m, "f", "d", RenameFlags::EXCHANGE)?;
        ensure!((ino(&m.path("d"))?, ino(&m.path("f"))?) == (file, dir));
        ensure!(std::fs::read(m.path("f/inner"))? == b"inner" && m.source("d").is_file());
        ensure!(rename(m, "f", "none", RenameFlags::EXCHANGE) == Err(Errno::NOENT));
        Ok(())
    })
}

#[test]
fn rename_whiteout_leaves_a_character_device_behind() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.source("native"), "x")?;
        let flags = RenameFlags::WHITEOUT;
        let native = renameat_with(CWD, m.source("native"), CWD, m.source("native2"), flags);
        std::fs::write(m.path("a"), "x")?;
        let got = rename(m, "a", "b", flags);
        ensure!(got == native, "{got:?}, natively {native:?}");
        if got.is_ok() {
            let left = m.path("a").symlink_metadata()?;
            ensure!(left.file_type().is_char_device() && left.rdev() == 0);
        }
        Ok(())
    })
}

#[test]
fn rename_of_directories_follows_the_rules() -> Outcome {
    on_mount(&[], |m| {
        for dir in ["a", "a/sub", "empty", "full", "full/x"] {
            std::fs::create_dir(m.path(dir))?;
        }
        File::create(m.path("file"))?;
        let plain = RenameFlags::empty();
        ensure!(rename(m, "a", "full", plain) == Err(Errno::NOTEMPTY));
        ensure!(rename(m, "a", "file", plain) == Err(Errno::NOTDIR));
        ensure!(rename(m, "file", "a", plain) == Err(Errno::ISDIR));
        ensure!(rename(m, "a", "a/sub/below", plain) == Err(Errno::INVAL));
        ensure!(rename(m, "a", "empty", plain) == Ok(()));
        ensure!(m.source("empty/sub").is_dir() && !m.source("a").exists());
        std::fs::rename(m.path("empty/sub"), m.path("full/x/sub"))?;
        ensure!(
            std::fs::canonicalize(m.path("full/x/sub/.."))? == m.path("full/x").canonicalize()?
        );
        Ok(())
    })
}

#[test]
fn unlink_of_an_open_file_keeps_its_content() -> Outcome {
    on_mount(&[], |m| {
        let file = File::create_new(m.path("f"))?;
        file.write_all_at(b"one", 0)?;
        std::fs::remove_file(m.path("f"))?;
        ensure!(names(m, "")?.is_empty(), "silly names: {:?}", names(m, "")?);
        file.write_all_at(b"two", 3)?;
        m.drop_caches()?;
        let mut content = [0; 6];
        file.read_exact_at(&mut content, 0)?;
        ensure!(&content == b"onetwo");
        ensure!(file.metadata()?.nlink() == 0 && file.metadata()?.len() == 6);
        ensure!(
            std::fs::read_dir(m.source(""))?.count() == 0,
            "something is left on SOURCE"
        );
        Ok(())
    })
}

#[test]
fn unlink_and_rmdir_of_the_wrong_type_fail_as_natively() -> Outcome {
    on_mount(&[], |m| {
        std::fs::create_dir_all(m.path("d/sub"))?;
        File::create(m.path("f"))?;
        ensure!(errno(std::fs::remove_file(m.path("d"))) == Some(libc::EISDIR));
        ensure!(errno(std::fs::remove_dir(m.path("f"))) == Some(libc::ENOTDIR));
        ensure!(errno(std::fs::remove_dir(m.path("d"))) == Some(libc::ENOTEMPTY));
        ensure!(errno(std::fs::remove_dir(m.path("none"))) == Some(libc::ENOENT));
        std::fs::remove_dir(m.path("d/sub"))?;
        std::fs::remove_dir(m.path("d"))?;
        ensure!(!m.source("d").exists());
        Ok(())
    })
}

#[test]
fn link_gives_one_inode_two_names() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("a"), "x")?;
        std::fs::create_dir(m.path("d"))?;
        std::fs::hard_link(m.path("a"), m.path("d/b"))?;
        ensure!(ino(&m.path("a"))? == ino(&m.path("d/b"))?);
        open_append(m.path("d/b"))?.write_all(b"y")?;
        ensure!(std::fs::read(m.path("a"))? == b"xy");
        symlink("a", m.path("l"))?;
        std::fs::hard_link(m.path("l"), m.path("l2"))?;
        ensure!(
            m.source("l2").symlink_metadata()?.is_symlink(),
            "link(2) followed a symlink"
        );
        refused(std::fs::hard_link(m.path("d"), m.path("e")), libc::EPERM)?;
        Ok(())
    })
}

#[test]
fn symlink_of_any_text_reads_back_exactly() -> Outcome {
    on_mount(&[], |m| {
        let long = "x/".repeat(2000);
        for (index, target) in ["a", "../../..", "/etc/passwd", "no such", &long]
            .iter()
            .enumerate()
        {
            let name = format!("l{index}");
            symlink(target, m.path(&name))?;
            ensure!(std::fs::read_link(m.path(&name))?.to_str() == Some(*target));
            ensure!(std::fs::read_link(m.source(&name))?.to_str() == Some(*target));
            ensure!(m.path(&name).symlink_metadata()?.len() == target.len() as u64);
        }
        Ok(())
    })
}

#[test]
fn mknod_of_devices_and_fifos_never_opens_them_in_the_daemon() -> Outcome {
    on_mount(&[], |m| {
        let mode = Mode::from_raw_mode(0o600);
        // A FIFO without a writer would block its opener; device 0:0 gives ENXIO.
        mknodat(CWD, m.path("fifo"), FileType::Fifo, mode, 0)?;
        mknodat(CWD, m.path("char"), FileType::CharacterDevice, mode, 0)?;
        mknodat(
            CWD,
            m.path("block"),
            FileType::BlockDevice,
            mode,
            rustix::fs::makedev(250, 9),
        )?;
        for name in ["fifo", "char", "block"] {
            rustix::fs::chmod(m.path(name), Mode::from_raw_mode(0o640))?;
            let times = rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                },
                last_modification: rustix::fs::Timespec {
                    tv_sec: 2,
                    tv_nsec: 0,
                },
            };
            rustix::fs::utimensat(CWD, m.path(name), &times, rustix::fs::AtFlags::empty())?;
            let (got, host) = (
                m.path(name).symlink_metadata()?,
                m.source(name).symlink_metadata()?,
            );
            ensure!(
                (got.mode(), got.rdev(), got.mtime()) == (host.mode(), host.rdev(), 2),
                "{name}"
            );
            std::fs::hard_link(m.path(name), m.path(&format!("{name}2")))?;
            std::fs::rename(m.path(name), m.path(&format!("{name}3")))?;
        }
        Ok(())
    })
}

#[test]
fn fifo_carries_bytes_between_two_clients() -> Outcome {
    on_mount(&[], |m| {
        mknodat(
            CWD,
            m.path("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )?;
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| std::fs::read(m.path("fifo")));
            open_wronly(m.path("fifo"))?.write_all(b"through")?;
            ensure!(reader.join().expect("no panic")? == b"through");
            Ok(())
        })
    })
}

#[test]
fn socket_accepts_a_client_by_its_name() -> Outcome {
    on_mount(&[], |m| {
        // sun_path holds 107 bytes; the scratch path is far shorter.
        let listener = UnixListener::bind(m.path("socket"))?;
        ensure!(
            m.source("socket")
                .symlink_metadata()?
                .file_type()
                .is_socket()
        );
        std::thread::scope(|scope| {
            let client = scope.spawn(|| UnixStream::connect(m.path("socket"))?.write_all(b"hi"));
            let mut text = String::new();
            listener.accept()?.0.read_to_string(&mut text)?;
            client.join().expect("no panic")?;
            ensure!(text == "hi");
            Ok(())
        })
    })
}

#[test]
fn lookup_of_names_that_are_odd_works_and_too_long_is_enametoolong() -> Outcome {
    on_mount(&[], |m| {
        use std::os::unix::ffi::OsStrExt;
        let longest = "n".repeat(255);
        let odd: [&[u8]; 6] = [
            b" ",
            b"new\nline",
            b"\xff\xfe",
            b"-rf",
            b"...",
            longest.as_bytes(),
        ];
        for name in odd {
            let name = std::ffi::OsStr::from_bytes(name);
            std::fs::write(m.dir().join(name), "x")?;
            ensure!(m.source("").join(name).is_file(), "{name:?}");
        }
        refused(
            std::fs::write(m.path(&"n".repeat(256)), "x"),
            libc::ENAMETOOLONG,
        )?;
        Ok(())
    })
}

#[test]
fn open_of_a_symlink_without_following_is_eloop() -> Outcome {
    on_mount(&[], |m| {
        symlink("/etc/passwd", m.path("l"))?;
        let mut options = File::options();
        refused(
            options
                .read(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(m.path("l")),
            libc::ELOOP,
        )?;
        Ok(())
    })
}
