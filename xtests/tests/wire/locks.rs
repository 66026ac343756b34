//! Locks of a range: POSIX, and of an open file description, which nix alone has.

use std::fs::File;

use anyhow::ensure;
use nix::fcntl::{FcntlArg, fcntl};
use thrufs_wire::Opcode;
use xtests::support::Outcome;

use super::DaemonFixture;

/// Takes one, waits for one, and asks which one is in the way.
pub(super) fn of_a_range(at: &DaemonFixture, file: &File) -> Outcome {
    let range = |kind: i32| libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 10,
        l_len: 20,
        l_pid: 0,
    };
    at.step("setlk", Opcode::Setlk, || {
        Ok(fcntl(file, FcntlArg::F_SETLK(&range(libc::F_WRLCK)))?)
    })?;
    at.step("setlkw", Opcode::Setlkw, || {
        Ok(fcntl(file, FcntlArg::F_SETLKW(&range(libc::F_WRLCK)))?)
    })?;
    at.step("getlk", Opcode::Getlk, || {
        let mut asked = range(libc::F_RDLCK);
        // With an owner of its own: that of an open file description.
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked))?;
        ensure!((asked.l_start, asked.l_len) == (10, 20), "{asked:?}");
        Ok(())
    })?;
    Ok(())
}
