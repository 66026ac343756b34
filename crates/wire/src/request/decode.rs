//! From bytes to [`Message`]: the table of each operation's content.

use super::body::Body;
use super::{DecodeError, Extensions, Malformed, Message, PayloadRange, Request};
use crate::abi::{
    BatchForgetIn, FUSE_COMPAT_SETXATTR_IN_SIZE, FUSE_INIT_BSWAP_RESERVED, FUSE_KERNEL_VERSION,
    GetxattrIn, InHeader, InitIn, IoctlIn, NotifyRetrieveIn, RemovemappingIn, SetattrIn,
    SetxattrIn, WriteIn,
};
use crate::dialect::Dialect;
use crate::opcode::Opcode;

const HEADER: usize = size_of::<InHeader>();
/// Bytes in one piece that a message with payload needs: the header and the argument.
const PAYLOAD_AT: usize = HEADER + size_of::<WriteIn>();
/// `fuse_init_in` before 7.36.
const INIT_BEFORE_EXT: usize = 16;

const _: () = assert!(size_of::<WriteIn>() == size_of::<NotifyRetrieveIn>());

/// The header at the beginning of `bytes`, whose `len` is not yet compared with anything.
///
/// # Errors
/// `bytes` has less than the 40 of a header, or a header in the other byte order.
pub fn header(bytes: &[u8]) -> Result<InHeader, DecodeError> {
    let refused = |header, cause| Err(DecodeError { header, cause });
    let Ok(header) = Body::new(bytes).arg::<InHeader>() else {
        let have = bytes.len();
        return refused(None, Malformed::NoHeader { have });
    };
    if header.opcode == FUSE_INIT_BSWAP_RESERVED {
        // An answer would be in the wrong order as well.
        return refused(None, Malformed::ByteOrder);
    }
    Ok(header)
}

/// How many bytes at the beginning of a message of `total` bytes [`decode`] needs in one piece:
/// all of them, but for WRITE and NOTIFY_REPLY only header and argument, and for an unknown opcode only the header.
pub fn head_len(header: &InHeader, total: usize) -> usize {
    match Opcode::from_raw(header.opcode) {
        Some(opcode) if opcode.has_payload() => total.min(PAYLOAD_AT),
        Some(_all_of_it) => total,
        None => total.min(HEADER),
    }
}

/// Reads a message of `total` bytes that begins with `head`. Only the first [`head_len`] bytes
/// need be there; where all of them are, `total` is `head.len()`.
///
/// # Errors
/// The message is not what FUSE 7.46 says ([`Malformed`]), or its opcode is not known.
/// [`DecodeError::unanswered`] and [`DecodeError::errno`] are the answer for the kernel.
pub fn decode(dialect: Dialect, head: &[u8], total: usize) -> Result<Message<'_>, DecodeError> {
    let header = header(head)?;
    let refuse = |cause| DecodeError {
        header: Some(header),
        cause,
    };
    if usize::try_from(header.len) != Ok(total) || total < HEADER {
        let (said, have) = (header.len, total);
        return Err(refuse(Malformed::Length { said, have }));
    }
    let need = head_len(&header, total);
    let Some(arguments) = head.get(HEADER..need) else {
        let have = head.len();
        return Err(refuse(Malformed::Head { have, need }));
    };
    let frame = Frame {
        dialect,
        extensions: usize::from(header.total_extlen) * 8,
        payload: total - need,
    };
    let opcode = Opcode::from_raw(header.opcode).ok_or(Malformed::UnknownOpcode);
    let request = opcode.and_then(|opcode| frame.request(opcode, Body::new(arguments)));
    let request = request.map_err(refuse)?;
    Ok(Message { header, request })
}

/// The circumstances, beside its arguments, that decide how a message is read.
struct Frame {
    dialect: Dialect,
    /// Length of extensions by the header.
    extensions: usize,
    /// Bytes after the head.
    payload: usize,
}

type Decoded<'a> = Result<Request<'a>, Malformed>;

impl Frame {
    fn request<'a>(&self, opcode: Opcode, mut body: Body<'a>) -> Decoded<'a> {
        let request = self.arguments(opcode, &mut body)?;
        body.end()?;
        match request {
            Request::Symlink { .. }
            | Request::Mknod { .. }
            | Request::Mkdir { .. }
            | Request::Create { .. }
            | Request::Tmpfile { .. } => {}
            _without_extensions if self.extensions == 0 => {}
            _without_extensions => {
                let len = self.extensions;
                return Err(Malformed::UnexpectedExtensions { len });
            }
        }
        Ok(request)
    }

    /// The table. Fields are read in the order in which they are written here.
    #[rustfmt::skip]
    #[allow(clippy::too_many_lines, reason = "a table: a row an operation")]
    fn arguments<'a>(&self, opcode: Opcode, body: &mut Body<'a>) -> Decoded<'a> {
        Ok(match opcode {
            Opcode::Init => Request::Init(init(body)?),
            Opcode::Destroy => Request::Destroy,
            Opcode::Interrupt => Request::Interrupt(body.arg()?),
            Opcode::NotifyReply => self.notify_reply(body)?,
            Opcode::Statfs => Request::Statfs,
            Opcode::Syncfs => Request::Syncfs(body.arg()?),

            Opcode::Lookup => Request::Lookup { name: body.name("name")? },
            Opcode::Forget => Request::Forget(body.arg()?),
            Opcode::BatchForget => batch_forget(body)?,
            Opcode::Symlink => Request::Symlink {
                name: body.name("name")?, target: body.name("target")?,
                extensions: self.extensions(body)?,
            },
            Opcode::Mknod => Request::Mknod {
                arg: body.arg()?, name: body.name("name")?, extensions: self.extensions(body)?,
            },
            Opcode::Mkdir => Request::Mkdir {
                arg: body.arg()?, name: body.name("name")?, extensions: self.extensions(body)?,
            },
            Opcode::Create => Request::Create {
                arg: body.arg()?, name: body.name("name")?, extensions: self.extensions(body)?,
            },
            Opcode::Tmpfile => Request::Tmpfile {
                arg: body.arg()?, name: body.name("name")?, extensions: self.extensions(body)?,
            },
            Opcode::Link => Request::Link { arg: body.arg()?, name: body.name("name")? },
            Opcode::Unlink => Request::Unlink { name: body.name("name")? },
            Opcode::Rmdir => Request::Rmdir { name: body.name("name")? },
            Opcode::Rename => Request::Rename {
                arg: body.arg()?, name: body.name("name")?, new_name: body.name("new name")?,
            },
            Opcode::Rename2 => Request::Rename2 {
                arg: body.arg()?, name: body.name("name")?, new_name: body.name("new name")?,
            },

            Opcode::Getattr => Request::Getattr(body.arg()?),
            Opcode::Statx => Request::Statx(body.arg()?),
            Opcode::Setattr => Request::Setattr(setattr(body)?),
            Opcode::Access => Request::Access(body.arg()?),
            Opcode::Readlink => Request::Readlink,
            Opcode::Bmap => Request::Bmap(body.arg()?),
            Opcode::Setxattr => self.setxattr(body)?,
            Opcode::Getxattr => Request::Getxattr { arg: body.arg()?, name: body.name("name")? },
            Opcode::Listxattr => Request::Listxattr(body.arg::<GetxattrIn>()?),
            Opcode::Removexattr => Request::Removexattr { name: body.name("name")? },

            Opcode::Open => Request::Open(body.arg()?),
            Opcode::Read => Request::Read(body.arg()?),
            Opcode::Write => self.write(body)?,
            Opcode::Flush => Request::Flush(body.arg()?),
            Opcode::Release => Request::Release(body.arg()?),
            Opcode::Fsync => Request::Fsync(body.arg()?),
            Opcode::Fallocate => Request::Fallocate(body.arg()?),
            Opcode::Lseek => Request::Lseek(body.arg()?),
            Opcode::CopyFileRange => Request::CopyFileRange(body.arg()?),
            Opcode::CopyFileRange64 => Request::CopyFileRange64(body.arg()?),
            Opcode::Getlk => Request::Getlk(body.arg()?),
            Opcode::Setlk => Request::Setlk(body.arg()?),
            Opcode::Setlkw => Request::Setlkw(body.arg()?),
            Opcode::Ioctl => ioctl(body)?,
            Opcode::Poll => Request::Poll(body.arg()?),
            Opcode::Setupmapping => Request::Setupmapping(body.arg()?),
            Opcode::Removemapping => removemapping(body)?,

            Opcode::Opendir => Request::Opendir(body.arg()?),
            Opcode::Readdir => Request::Readdir(body.arg()?),
            Opcode::Readdirplus => Request::Readdirplus(body.arg()?),
            Opcode::Releasedir => Request::Releasedir(body.arg()?),
            Opcode::Fsyncdir => Request::Fsyncdir(body.arg()?),
        })
    }

    fn write<'a>(&self, body: &mut Body<'a>) -> Decoded<'a> {
        let arg: WriteIn = body.arg()?;
        let data = self.payload("fuse_write_in.size", arg.size)?;
        Ok(Request::Write { arg, data })
    }

    fn notify_reply<'a>(&self, body: &mut Body<'a>) -> Decoded<'a> {
        let arg: NotifyRetrieveIn = body.arg()?;
        let data = self.payload("fuse_notify_retrieve_in.size", arg.size)?;
        Ok(Request::NotifyReply { arg, data })
    }

    /// The data that follow the head, which must be as long as the argument says.
    fn payload(&self, part: &'static str, said: u32) -> Result<PayloadRange, Malformed> {
        let (len, said) = (self.payload, u64::from(said));
        if said != len as u64 {
            let have = len as u64;
            return Err(Malformed::Count { part, said, have });
        }
        let start = PAYLOAD_AT;
        Ok(PayloadRange { start, len })
    }

    fn setxattr<'a>(&self, body: &mut Body<'a>) -> Decoded<'a> {
        let arg: SetxattrIn = if self.dialect.setxattr_ext() {
            body.arg()?
        } else {
            body.prefix(FUSE_COMPAT_SETXATTR_IN_SIZE)?
        };
        let name = body.name("name")?;
        let (said, have) = (u64::from(arg.size), body.len() as u64);
        if said != have {
            let part = "fuse_setxattr_in.size";
            return Err(Malformed::Count { part, said, have });
        }
        let value = body.rest();
        Ok(Request::Setxattr { arg, name, value })
    }

    /// The whole rest, as extensions.
    fn extensions<'a>(&self, body: &mut Body<'a>) -> Result<Extensions<'a>, Malformed> {
        let (said, have) = (self.extensions, body.len());
        if said == 0 && have == 0 {
            return Ok(Extensions::NONE);
        }
        if !self.dialect.extensions() {
            let len = said.max(have);
            return Err(Malformed::UnexpectedExtensions { len });
        }
        let uncounted = said == 0 && self.dialect.uncounted_extensions();
        if said != have && !uncounted {
            return Err(Malformed::Count {
                part: "fuse_in_header.total_extlen",
                said: said as u64,
                have: have as u64,
            });
        }
        Extensions::parse(body.rest())
    }
}

/// A kernel of another major version may send anything after its version; one of 7.36 or later
/// sends all of `fuse_init_in`, and may have made it longer since.
fn init(body: &mut Body<'_>) -> Result<InitIn, Malformed> {
    let version: InitIn = { *body }.prefix(8)?;
    let all = size_of::<InitIn>();
    let arg = match body.len() {
        _any if version.major != FUSE_KERNEL_VERSION => version,
        len if len >= all => body.arg()?,
        _older => return body.prefix(INIT_BEFORE_EXT),
    };
    body.rest();
    Ok(arg)
}

/// Nanoseconds are below a second: utimensat(2) reads some larger values as commands (UTIME_OMIT).
fn setattr(body: &mut Body<'_>) -> Result<SetattrIn, Malformed> {
    let arg: SetattrIn = body.arg()?;
    let nanoseconds = [
        (
            "fuse_setattr_in.atimensec",
            arg.atime().and_then(|time| time.nanoseconds()),
        ),
        (
            "fuse_setattr_in.mtimensec",
            arg.mtime().and_then(|time| time.nanoseconds()),
        ),
        (
            "fuse_setattr_in.ctimensec",
            arg.ctime().map(|time| time.nanoseconds),
        ),
    ];
    for (part, nanoseconds) in nanoseconds {
        if let Some(value) = nanoseconds.filter(|value| *value >= 1_000_000_000) {
            let value = u64::from(value);
            return Err(Malformed::Value { part, value });
        }
    }
    Ok(arg)
}

fn batch_forget<'a>(body: &mut Body<'a>) -> Decoded<'a> {
    let arg: BatchForgetIn = body.arg()?;
    let all = body.array("fuse_batch_forget_in.count", arg.count)?;
    Ok(Request::BatchForget(all))
}

fn removemapping<'a>(body: &mut Body<'a>) -> Decoded<'a> {
    let arg: RemovemappingIn = body.arg()?;
    let all = body.array("fuse_removemapping_in.count", arg.count)?;
    Ok(Request::Removemapping(all))
}

fn ioctl<'a>(body: &mut Body<'a>) -> Decoded<'a> {
    let arg: IoctlIn = body.arg()?;
    let (said, have) = (u64::from(arg.in_size), body.len() as u64);
    if said != have {
        let part = "fuse_ioctl_in.in_size";
        return Err(Malformed::Count { part, said, have });
    }
    let data = body.rest();
    Ok(Request::Ioctl { arg, data })
}
