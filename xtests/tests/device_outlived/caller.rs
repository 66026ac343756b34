//! A caller in the guest, that asks for all that may not be done twice, one request after the other.

use anyhow::{Context, Result, ensure};
use thrufs_wire::Opcode;
use thrufs_wire::abi::{
    CreateIn, EntryOut, FileLock, ForgetIn, LinkIn, LkIn, MkdirIn, OpenOut, ReadIn, ReleaseIn,
    RenameIn, WriteIn, WriteOut,
};
use xtests::support::checks::equal;
use xtests::support::guest::calls::ROOT;
use xtests::support::guest::{Answer, Cut, Guest, Token};
use zerocopy::{FromBytes, IntoBytes};

/// What one caller does in one round: request after request.
pub(super) struct Caller {
    pub(super) number: usize,
    pub(super) queue: usize,
    pub(super) round: u64,
    /// The file of this round, its handle, and what the guest holds of it.
    pub(super) file: u64,
    pub(super) fh: u64,
    pub(super) nlookup: u64,
    /// A file that is only ever appended to.
    pub(super) log: (u64, u64),
    pub(super) logged: Vec<u8>,
}

/// What a caller asks for next, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Append,
    Write,
    Link,
    Rename,
    Mkdir,
    Lookup,
    Rmdir,
    Lock,
    UnlinkLink,
    Unlink,
    Read,
    Release,
    Forget,
}

pub(super) const STEPS: [Step; 14] = [
    Step::Create,
    Step::Append,
    Step::Write,
    Step::Link,
    Step::Rename,
    Step::Mkdir,
    Step::Lookup,
    Step::Rmdir,
    Step::Lock,
    Step::UnlinkLink,
    Step::Unlink,
    Step::Read,
    Step::Release,
    Step::Forget,
];

impl Caller {
    fn name(&self, what: &str) -> Vec<u8> {
        format!("{}-{}-{what}\0", self.number, self.round).into_bytes()
    }

    fn data(&self) -> Vec<u8> {
        let byte = |at: usize| (at as u64 * 31 + self.round * 7 + self.number as u64) as u8;
        (0..5000).map(byte).collect()
    }

    fn line(&self) -> Vec<u8> {
        format!("caller {} round {}\n", self.number, self.round).into_bytes()
    }

    #[allow(clippy::too_many_lines, reason = "a table: a request a step")]
    pub(super) fn send(&self, guest: &mut Guest, step: Step) -> Result<Token> {
        let at = (self.queue, Cut::Linux);
        let entry = size_of::<EntryOut>();
        let mut send =
            |opcode, nodeid, args: &[&[u8]], room| guest.send(at, opcode, nodeid, args, room);
        match step {
            Step::Create => {
                let arg = CreateIn {
                    flags: (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).cast_unsigned(),
                    mode: 0o100_644,
                    ..CreateIn::default()
                };
                send(
                    Opcode::Create,
                    ROOT,
                    &[arg.as_bytes(), &self.name("new")],
                    entry + 16,
                )
            }
            Step::Append => {
                let line = self.line();
                let arg = WriteIn {
                    fh: self.log.1,
                    size: line.len() as u32,
                    flags: (libc::O_WRONLY | libc::O_APPEND).cast_unsigned(),
                    ..WriteIn::default()
                };
                send(Opcode::Write, self.log.0, &[arg.as_bytes(), &line], 8)
            }
            Step::Write => {
                let data = self.data();
                let arg = WriteIn {
                    fh: self.fh,
                    offset: 100,
                    size: data.len() as u32,
                    ..WriteIn::default()
                };
                send(Opcode::Write, self.file, &[arg.as_bytes(), &data], 8)
            }
            Step::Link => {
                let arg = LinkIn {
                    oldnodeid: self.file,
                };
                send(
                    Opcode::Link,
                    ROOT,
                    &[arg.as_bytes(), &self.name("link")],
                    entry,
                )
            }
            Step::Rename => {
                let arg = RenameIn { newdir: ROOT };
                let names = (self.name("new"), self.name("old"));
                send(
                    Opcode::Rename,
                    ROOT,
                    &[arg.as_bytes(), &names.0, &names.1],
                    0,
                )
            }
            Step::Mkdir => {
                let arg = MkdirIn {
                    mode: 0o755,
                    umask: 0,
                };
                send(
                    Opcode::Mkdir,
                    ROOT,
                    &[arg.as_bytes(), &self.name("dir")],
                    entry,
                )
            }
            Step::Lookup => send(Opcode::Lookup, ROOT, &[&self.name("old")], entry),
            Step::Rmdir => send(Opcode::Rmdir, ROOT, &[&self.name("dir")], 0),
            Step::Lock => {
                let arg = LkIn {
                    fh: self.fh,
                    owner: 7 + self.number as u64,
                    lk: FileLock {
                        start: 0,
                        end: 99,
                        r#type: libc::F_WRLCK as u32,
                        pid: 100,
                    },
                    ..LkIn::default()
                };
                send(Opcode::Setlk, self.file, &[arg.as_bytes()], 0)
            }
            Step::UnlinkLink => send(Opcode::Unlink, ROOT, &[&self.name("link")], 0),
            Step::Unlink => send(Opcode::Unlink, ROOT, &[&self.name("old")], 0),
            Step::Read => {
                let arg = ReadIn {
                    fh: self.fh,
                    size: 8192,
                    ..ReadIn::default()
                };
                send(Opcode::Read, self.file, &[arg.as_bytes()], 8192)
            }
            Step::Release => {
                let arg = ReleaseIn {
                    fh: self.fh,
                    ..ReleaseIn::default()
                };
                send(Opcode::Release, self.file, &[arg.as_bytes()], 0)
            }
            Step::Forget => {
                let arg = ForgetIn {
                    nlookup: self.nlookup,
                };
                guest.send(
                    (0, Cut::Linux),
                    Opcode::Forget,
                    self.file,
                    &[arg.as_bytes()],
                    0,
                )
            }
        }
    }

    /// Returns a directory that the guest holds by a lookup.
    pub(super) fn check(&mut self, step: Step, answer: &Answer) -> Result<Option<u64>> {
        ensure!(answer.error == 0, "errno {}", answer.error);
        match step {
            Step::Create => {
                let (entry, rest) = EntryOut::read_from_prefix(&answer.data)
                    .ok()
                    .context("an entry")?;
                let (opened, _) = OpenOut::read_from_prefix(rest).ok().context("a handle")?;
                (self.file, self.fh, self.nlookup) = (entry.nodeid, opened.fh, 1);
            }
            Step::Link | Step::Lookup => {
                equal("the inode", answer.value::<EntryOut>()?.nodeid, self.file)?;
                self.nlookup += 1;
            }
            Step::Mkdir => return Ok(Some(answer.value::<EntryOut>()?.nodeid)),
            Step::Append => {
                let line = self.line();
                equal(
                    "appended",
                    answer.value::<WriteOut>()?.size as usize,
                    line.len(),
                )?;
                self.logged.extend(line);
            }
            Step::Write => equal("written", answer.value::<WriteOut>()?.size, 5000)?,
            Step::Read => {
                let all = [vec![0; 100], self.data()].concat();
                ensure!(answer.data == all, "{} bytes are others", answer.data.len());
            }
            _empty => {}
        }
        Ok(None)
    }
}
