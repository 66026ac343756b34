//! A virtiofs device: what a guest asks of files that are there, and what it is answered.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use anyhow::ensure;
use thrufs_wire::abi::{
    AttrOut, CopyFileRangeIn, FallocateIn, FileLock, GetxattrIn, InterruptIn, LkIn, OpenIn,
    OpenOut, SetattrIn, SetattrValid, SetxattrIn, StatfsOut, StatxIn, StatxOut, WriteIn, WriteOut,
};
use thrufs_wire::{InitFlags, Opcode};
use xtests::support::guest::calls::{
    MIB, ROOT, booted, close, getattr, large, lookup, lookup_in, open, open_node, pattern, read,
    read_in, write, write_in,
};
use xtests::support::guest::{Cut, Options};
use xtests::support::{Backing, Outcome, Scratch, case};
use zerocopy::IntoBytes;

/// An exclusive lock of the whole file, or its release.
fn lock_in(fh: u64, owner: u64, kind: i32) -> LkIn {
    LkIn {
        fh,
        owner,
        lk: FileLock {
            start: 0,
            end: i64::MAX.cast_unsigned(),
            r#type: kind.cast_unsigned(),
            pid: 1,
        },
        ..LkIn::default()
    }
}

#[test]
fn locks_on_the_host_hold_across_guests_and_waiting_blocks_no_queue() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&["--locks=host"], Options::default())?;
        std::fs::write(device.shared("f"), "")?;
        let same = format!("--shared-dir={}", device.shared("").display());
        let (_other, mut waiter) = booted(&["--locks=host", &same], Options::default())?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let (waiter_nodeid, waiter_fh) = open(&mut waiter, "f")?;
        let lock = lock_in(fh, 1, libc::F_WRLCK);
        let unlock = lock_in(fh, 1, libc::F_UNLCK);
        let answer = guest.call(1, Opcode::Setlk, nodeid, &[lock.as_bytes()], 0)?;
        ensure!(answer.error == 0, "{answer:?}");
        let theirs = lock_in(waiter_fh, 2, libc::F_WRLCK);
        let args = [theirs.as_bytes()];
        let answer = waiter.call(1, Opcode::Setlk, waiter_nodeid, &args, 0)?;
        ensure!(answer.error == libc::EAGAIN, "{answer:?}");
        let to = (1, Cut::Linux);
        let interrupted = waiter.send(to, Opcode::Setlkw, waiter_nodeid, &args, 0)?;
        ensure!(getattr(&mut waiter, 1, ROOT)? == 0);
        let unique = InterruptIn {
            unique: interrupted.unique(),
        };
        waiter.call(0, Opcode::Interrupt, 0, &[unique.as_bytes()], 0)?;
        ensure!(waiter.wait(interrupted)?.error == libc::EINTR);
        let waiting = waiter.send(to, Opcode::Setlkw, waiter_nodeid, &args, 0)?;
        ensure!(getattr(&mut waiter, 1, ROOT)? == 0);
        ensure!(waiter.poll(waiting)?.is_none(), "locked twice");
        guest.call(1, Opcode::Setlk, nodeid, &[unlock.as_bytes()], 0)?;
        ensure!(waiter.wait(waiting)?.error == 0);
        Ok(())
    })
}

/// O_DIRECT wants aligned memory, which a guest's buffers need not be.
#[test]
fn direct_io_takes_buffers_of_any_alignment() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&["--allow-direct-io"], large(1))?;
        std::fs::write(device.shared("f"), "")?;
        let nodeid = lookup(&mut guest, "f")?.nodeid;
        let arg = OpenIn {
            flags: (libc::O_RDWR | libc::O_DIRECT).cast_unsigned(),
            ..OpenIn::default()
        };
        let answer = guest.call(1, Opcode::Open, nodeid, &[arg.as_bytes()], 16)?;
        let fh = answer.value::<OpenOut>()?.fh;
        let data = pattern(64 << 10);
        for cut in [Cut::Whole, Cut::Linux, Cut::Every(1000)] {
            let arg = write_in(fh, 8192, data.len());
            let args = [arg.as_bytes(), &data];
            let sent = guest.send((1, cut), Opcode::Write, nodeid, &args, 8)?;
            let written = guest.wait(sent)?.value::<WriteOut>()?;
            ensure!(written.size as usize == data.len(), "{cut:?}");
            let arg = read_in(fh, 8192, data.len());
            let args = [arg.as_bytes()];
            let sent = guest.send((1, cut), Opcode::Read, nodeid, &args, data.len())?;
            ensure!(guest.wait(sent)?.data == data, "{cut:?}");
        }
        ensure!(std::fs::read(device.shared("f"))?[8192..] == data);
        Ok(())
    })
}

#[test]
fn failed_write_is_the_guest_s_error_and_a_short_one_its_count() -> Outcome {
    case(|| {
        let faults = ["--fault=write:nth=1:EIO", "--fault=write:nth=2:short=100"];
        let (device, mut guest) = booted(&faults, large(1))?;
        std::fs::write(device.shared("f"), "")?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let data = pattern(4096);
        let arg = write_in(fh, 0, data.len());
        let parts = [arg.as_bytes(), &data];
        let answer = guest.call(1, Opcode::Write, nodeid, &parts, 8)?;
        ensure!(answer.error == libc::EIO, "{answer:?}");
        let answer = guest.call(1, Opcode::Write, nodeid, &parts, 8)?;
        let size = answer.value::<WriteOut>()?.size as usize;
        ensure!(std::fs::read(device.shared("f"))? == data[..size], "{size}");
        ensure!(size == 100, "{size}");
        Ok(())
    })
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table: a row a request")]
fn read_only_share_refuses_every_change() -> Outcome {
    case(|| {
        let options = ["--readonly", "--xattr", "--posix-acl"];
        let (device, mut guest) = booted(&options, Options::default())?;
        std::fs::write(device.shared("f"), "content")?;
        let (root, nodeid) = (ROOT, lookup(&mut guest, "f")?.nodeid);
        let fh = open_node(&mut guest, nodeid, libc::O_RDONLY)?;
        let (g, f) = (b"g\0".as_slice(), b"f\0".as_slice());
        let new_parent = root.to_ne_bytes();
        let open = |flags: i32| OpenIn {
            flags: flags.cast_unsigned(),
            ..OpenIn::default()
        };
        let set = |valid| SetattrIn {
            valid,
            ..SetattrIn::default()
        };
        let (size, mode) = (set(SetattrValid::FATTR_SIZE), set(SetattrValid::FATTR_MODE));
        let owner = set(SetattrValid::FATTR_UID);
        let now = set(SetattrValid::FATTR_MTIME | SetattrValid::FATTR_MTIME_NOW);
        let attribute = SetxattrIn {
            size: 1,
            ..SetxattrIn::default()
        };
        let allocate = FallocateIn {
            fh,
            length: 10,
            ..FallocateIn::default()
        };
        let copy = CopyFileRangeIn {
            fh_in: fh,
            nodeid_out: nodeid,
            fh_out: fh,
            off_out: 100,
            len: 5,
            ..CopyFileRangeIn::default()
        };
        let data = write_in(fh, 0, 1);
        let rename2 = [&new_parent[..], &[0; 8]].concat();
        let (writing, truncating) = (open(libc::O_WRONLY), open(libc::O_RDONLY | libc::O_TRUNC));
        let both = open(libc::O_RDWR);
        let cases: &[(Opcode, u64, &[&[u8]], usize)] = &[
            (Opcode::Mkdir, root, &[&[0; 8], g], 128),
            (Opcode::Mknod, root, &[&[0; 16], g], 128),
            (Opcode::Symlink, root, &[g, g], 128),
            (Opcode::Unlink, root, &[f], 0),
            (Opcode::Rmdir, root, &[f], 0),
            (Opcode::Link, root, &[&nodeid.to_ne_bytes(), g], 128),
            (Opcode::Rename, root, &[&new_parent, f, g], 0),
            (Opcode::Rename2, root, &[&rename2, f, g], 0),
            (Opcode::Create, root, &[&[0; 16], g], 144),
            (Opcode::Tmpfile, root, &[&[0; 16], g], 144),
            (Opcode::Setattr, nodeid, &[size.as_bytes()], 104),
            (Opcode::Setattr, nodeid, &[mode.as_bytes()], 104),
            (Opcode::Setattr, nodeid, &[owner.as_bytes()], 104),
            (Opcode::Setattr, nodeid, &[now.as_bytes()], 104),
            (
                Opcode::Setxattr,
                nodeid,
                &[attribute.as_bytes(), b"user.x\0", b"v"],
                0,
            ),
            (Opcode::Removexattr, nodeid, &[b"user.x\0"], 0),
            (Opcode::Open, nodeid, &[writing.as_bytes()], 16),
            (Opcode::Open, nodeid, &[both.as_bytes()], 16),
            (Opcode::Write, nodeid, &[data.as_bytes(), b"x"], 8),
            (Opcode::Fallocate, nodeid, &[allocate.as_bytes()], 0),
            (Opcode::CopyFileRange, nodeid, &[copy.as_bytes()], 8),
            (Opcode::CopyFileRange64, nodeid, &[copy.as_bytes()], 8),
        ];
        for (opcode, nodeid, parts, room) in cases {
            let answer = guest.call(1, *opcode, *nodeid, parts, *room)?;
            ensure!(answer.error == libc::EROFS, "{opcode:?}: {answer:?}");
        }
        let answer = guest.call(1, Opcode::Getattr, nodeid, &[&[0; 16]], 104)?;
        answer.value::<AttrOut>()?;
        // A guest's kernel sends a SETATTR of the size instead.
        guest.call(1, Opcode::Open, nodeid, &[truncating.as_bytes()], 16)?;
        ensure!(std::fs::read(device.shared("f"))? == b"content");
        ensure!(std::fs::read_dir(device.shared(""))?.count() == 1);
        Ok(())
    })
}

/// Windows's driver wants queues of 1024 entries or indirect tables.
#[test]
fn largest_request_goes_by_a_long_chain_and_by_an_indirect_table_of_any_queue() -> Outcome {
    case(|| {
        let data = pattern(MIB);
        for size in [8, 16, 64, 128, 512, 1024] {
            let options = Options {
                size,
                ..Options::default()
            };
            let (device, mut guest) = booted(&[], options)?;
            std::fs::write(device.shared("f"), "")?;
            let file = open(&mut guest, "f")?;
            if size == 1024 {
                ensure!(write(&mut guest, file, 0, &data)? == MIB);
                ensure!(std::fs::read(device.shared("f"))? == data, "by a chain");
                std::fs::write(device.shared("f"), "")?;
            }
            // The request in pages of 2 KiB: a table of 514 entries.
            let answer = guest.call_by_table(Opcode::Write, file, &data)?;
            ensure!(answer.value::<WriteOut>()?.size as usize == MIB, "{size}");
            ensure!(
                std::fs::read(device.shared("f"))? == data,
                "queue of {size}"
            );
        }
        Ok(())
    })
}

#[test]
fn opcode_that_is_unknown_is_enosys() -> Outcome {
    case(|| {
        let (_device, mut guest) = booted(&[], Options::default())?;
        for opcode in [7, 54, 100, 4096, u32::MAX] {
            let header = thrufs_wire::abi::InHeader {
                len: 48,
                opcode,
                unique: 77,
                nodeid: ROOT,
                ..thrufs_wire::abi::InHeader::default()
            };
            let parts = [header.as_bytes(), &[0; 8]];
            let token = guest.send_raw((1, Cut::Linux), &parts, Some(16), 77)?;
            let answer = guest.wait(token)?;
            ensure!(answer.error == libc::ENOSYS, "{opcode}: {answer:?}");
        }
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        Ok(())
    })
}

#[test]
fn sizes_beyond_32_bits_are_exact() -> Outcome {
    case(|| {
        const TIB: u64 = 1 << 40;
        let scratch = Scratch::new(Backing::Tmpfs)?;
        let source = scratch.source();
        let shared = format!("--shared-dir={}", source.display());
        let (_device, mut guest) = booted(&[&shared], large(1))?;
        let answer = guest.call(1, Opcode::Statfs, ROOT, &[], 80)?;
        let told = answer.value::<StatfsOut>()?.st;
        let stat = rustix::fs::statvfs(&source)?;
        ensure!((told.blocks, told.files) == (stat.f_blocks, stat.f_files));
        ensure!(u64::from(told.frsize) == stat.f_frsize && u64::from(told.bsize) == stat.f_bsize);
        ensure!(told.bfree.abs_diff(stat.f_bfree) < 1000);
        let file = std::fs::File::create(source.join("f"))?;
        file.set_len(20 * TIB)?;
        let file = open(&mut guest, "f")?;
        ensure!(lookup(&mut guest, "f")?.attr.size == 20 * TIB);
        let data = pattern(4096);
        ensure!(write(&mut guest, file, 17 * TIB + 5, &data)? == 4096);
        let answer = read(&mut guest, file, 17 * TIB, 4101)?;
        ensure!(answer.data[..5] == [0; 5] && answer.data[5..] == data);
        ensure!(read(&mut guest, file, 20 * TIB - 3, 4096)?.data == [0; 3]);
        Ok(())
    })
}

#[test]
fn statx_has_the_time_of_birth_and_names_are_bytes() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Tmpfs)?;
        let shared = format!("--shared-dir={}", scratch.source().display());
        let (_device, mut guest) = booted(&[&shared], Options::default())?;
        let name = b"na\xffme\n\x01";
        let path = scratch.source().join(std::ffi::OsStr::from_bytes(name));
        std::fs::write(&path, "")?;
        let nodeid = lookup_in(&mut guest, ROOT, name)?
            .value::<thrufs_wire::abi::EntryOut>()?
            .nodeid;
        let arg = StatxIn {
            sx_mask: rustix::fs::StatxFlags::ALL.bits(),
            ..StatxIn::default()
        };
        let answer = guest.call(1, Opcode::Statx, nodeid, &[arg.as_bytes()], 288)?;
        let told = answer.value::<StatxOut>()?.stat;
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let mask = rustix::fs::StatxFlags::BASIC_STATS | rustix::fs::StatxFlags::BTIME;
        let stat = rustix::fs::statx(rustix::fs::CWD, &path, flags, mask)?;
        let birth = (told.btime.tv_sec, told.btime.tv_nsec);
        ensure!(
            birth == (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            "{told:?}"
        );
        ensure!(birth.0 > 0 && told.mask & rustix::fs::StatxFlags::BTIME.bits() != 0);
        Ok(())
    })
}

/// Handles of inodes cannot be opened once the last name is gone.
#[test]
fn file_that_is_removed_while_it_is_open_is_read_and_written() -> Outcome {
    case(|| {
        for handles in ["never", "prefer"] {
            let option = format!("--inode-file-handles={handles}");
            let (device, mut guest) = booted(&[&option], Options::default())?;
            for (name, by_guest) in [("f", true), ("g", false)] {
                std::fs::write(device.shared(name), "content")?;
                let file = open(&mut guest, name)?;
                match by_guest {
                    true => {
                        let name = format!("{name}\0");
                        let answer = guest.call(1, Opcode::Unlink, ROOT, &[name.as_bytes()], 0)?;
                        ensure!(answer.error == 0, "{answer:?}");
                    }
                    false => std::fs::remove_file(device.shared(name))?,
                }
                ensure!(lookup_in(&mut guest, ROOT, name.as_bytes())?.error == libc::ENOENT);
                ensure!(write(&mut guest, file, 7, b" and more")? == 9);
                let answer = read(&mut guest, file, 0, 100)?;
                ensure!(answer.data == b"content and more", "{handles}: {answer:?}");
                ensure!(getattr(&mut guest, 1, file.0)? == 0, "{handles}, {name}");
                ensure!(close(&mut guest, file.0, file.1)? == (0, 0));
            }
        }
        Ok(())
    })
}

/// Git replaces files by rename; a guest with the old one's nodeid got ESTALE for the path.
#[test]
fn file_that_the_host_replaces_is_found_by_its_name_and_the_old_one_by_its_handle() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&[], Options::default())?;
        std::fs::write(device.shared("f"), "before")?;
        let old = open(&mut guest, "f")?;
        for round in 0..50 {
            let content = format!("after {round}");
            std::fs::write(device.shared("new"), &content)?;
            std::fs::rename(device.shared("new"), device.shared("f"))?;
            let entry = lookup(&mut guest, "f")?;
            ensure!(entry.nodeid != old.0);
            // Names and attributes are asked for again within a second.
            ensure!(entry.entry_valid <= 1 && entry.attr_valid <= 1, "{entry:?}");
            let fh = open_node(&mut guest, entry.nodeid, libc::O_RDONLY)?;
            let answer = read(&mut guest, (entry.nodeid, fh), 0, 100)?;
            ensure!(answer.data == content.as_bytes(), "{answer:?}");
            ensure!(close(&mut guest, entry.nodeid, fh)? == (0, 0));
        }
        ensure!(read(&mut guest, old, 0, 100)?.data == b"before");
        Ok(())
    })
}

/// Set-uid, set-gid and file capabilities must not survive a change of the file.
#[test]
fn write_removes_set_uid_set_gid_and_capabilities() -> Outcome {
    case(|| {
        // cap_net_raw=ep.
        let capability = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        for options in [&["--xattr"][..], &[], &["--sandbox=none", "--xattr"]] {
            let (device, mut guest) = booted(options, Options::default())?;
            let path = device.shared("f");
            std::fs::write(&path, "content")?;
            let name = "security.capability";
            rustix::fs::setxattr(&path, name, &capability, rustix::fs::XattrFlags::empty())?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o6775))?;
            let file = open(&mut guest, "f")?;
            let arg = WriteIn {
                write_flags: thrufs_wire::abi::WriteFlags::FUSE_WRITE_KILL_SUIDGID,
                ..write_in(file.1, 0, 1)
            };
            guest.caller = 1001;
            let answer = guest.call(1, Opcode::Write, file.0, &[arg.as_bytes(), b"x"], 8)?;
            guest.caller = 0;
            answer.value::<WriteOut>()?;
            let mode = std::fs::metadata(&path)?.mode() & 0o7777;
            ensure!(mode == 0o775, "{options:?}: {mode:o}");
            let left = rustix::fs::getxattr(&path, name, &mut [0_u8; 64][..]);
            ensure!(
                left == Err(rustix::io::Errno::NODATA),
                "{options:?}: {left:?}"
            );
        }
        Ok(())
    })
}

/// Whether security.capability, under another name on SOURCE, would be one that no write removes.
#[test]
fn capability_under_a_mapped_name_is_refused() -> Outcome {
    case(|| {
        let map = "--xattrmap=:map::user.virtiofs.:";
        let (device, mut guest) = booted(&[map], Options::default())?;
        std::fs::write(device.shared("f"), "content")?;
        let nodeid = lookup(&mut guest, "f")?.nodeid;
        let arg = SetxattrIn {
            size: 20,
            ..SetxattrIn::default()
        };
        // Without FUSE_SETXATTR_EXT.
        let parts = [&arg.as_bytes()[..8], b"security.capability\0", &[0; 20]];
        let answer = guest.call(1, Opcode::Setxattr, nodeid, &parts, 0)?;
        ensure!(answer.error == libc::EOPNOTSUPP, "{answer:?}");
        let left = rustix::fs::listxattr(device.shared("f"), &mut [0_u8; 64][..])?;
        ensure!(left == 0, "{left}");
        let arg = GetxattrIn {
            size: 64,
            ..GetxattrIn::default()
        };
        let parts = [arg.as_bytes(), b"security.capability\0"];
        let answer = guest.call(1, Opcode::Getxattr, nodeid, &parts, 64)?;
        ensure!(answer.error == libc::EOPNOTSUPP, "{answer:?}");
        Ok(())
    })
}

/// An ACL costs a file its set-gid bit, or not, as the guest's kernel says (FUSE_SETXATTR_EXT).
#[test]
fn setxattr_of_an_acl_removes_set_gid_when_the_guest_says_so() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&["--posix-acl"], Options::default())?;
        ensure!(
            guest
                .init()?
                .capabilities()
                .contains(InitFlags::FUSE_SETXATTR_EXT)
        );
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for (tag, perm) in [(0x01_u16, 7_u16), (0x04, 5), (0x20, 5)] {
            acl.extend(tag.to_le_bytes());
            acl.extend(perm.to_le_bytes());
            acl.extend(u32::MAX.to_le_bytes());
        }
        for kills in [true, false] {
            let path = device.shared("f");
            std::fs::write(&path, "")?;
            std::os::unix::fs::chown(&path, Some(1001), Some(3000))?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o2775))?;
            let nodeid = lookup(&mut guest, "f")?.nodeid;
            let flag = thrufs_wire::abi::SetxattrExtFlags::FUSE_SETXATTR_ACL_KILL_SGID;
            let arg = SetxattrIn {
                size: acl.len() as u32,
                setxattr_flags: if kills { flag } else { Default::default() },
                ..SetxattrIn::default()
            };
            guest.caller = 1001;
            let parts = [arg.as_bytes(), b"system.posix_acl_access\0", &acl];
            let answer = guest.call(1, Opcode::Setxattr, nodeid, &parts, 0)?;
            guest.caller = 0;
            ensure!(answer.error == 0, "{answer:?}");
            let mode = std::fs::metadata(&path)?.mode() & 0o7777;
            ensure!(
                mode == if kills { 0o755 } else { 0o2755 },
                "{kills}: {mode:o}"
            );
            std::fs::remove_file(&path)?;
        }
        Ok(())
    })
}
