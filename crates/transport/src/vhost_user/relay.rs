//! The front end's messages on their way to their handler, where another server may have to go on with them.
//!
//! ```text
//! look at it in the socket ─> have it handled ─> its reply into a pipe ─> note it as handled ─┐
//!                         (one word: what is set up by it, too)                               │
//!                             next message <─ reply from the pipe to the socket <─ take it ───┘
//! ```
//!
//! Invariant: a message is handled, and its reply sent, once as far as the front end can tell, wherever a server dies. Until
//! it is noted as handled it is in the socket, and the next server handles it again, which leads to the same. Then
//! the kernel knows what is left to do: how much of what was looked at is still to be taken (SO_PEEK_OFF), and whether
//! the reply is still in the pipe, from which splice(2) moves it to the socket in one step.
//!
//! Why not send the reply by write(2) and note that: a death between the two leaves a front end that waits for ever, or
//! one that takes a second reply for that to its next message.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::pipe::{SpliceFlags, splice};
use thrufs_sys::inherited;
use thrufs_sys::peek::{peek_from_start, peek_offset};
use vhost::vhost_user::BackendReqHandler;

use super::handler::{Again, Serial, told};
use super::kept::Kept;
use super::message::{BODY_MAX, HEADER, Message};
use super::setup::{FILES_MAX, Setup, files_of};

/// See the module.
pub(super) struct Relay {
    front: UnixStream,
    /// To the handler, and from it.
    near: UnixStream,
    handler: BackendReqHandler<Serial>,
    kept: Arc<Kept>,
    setup: Setup,
}

impl Relay {
    /// Between `front` and `handler`, which is told what is set up already.
    ///
    /// # Errors
    /// There can be no descriptor; what is set up is damaged, or refused now.
    pub(super) fn new(
        front: UnixStream,
        handler: &Arc<Serial>,
        kept: Arc<Kept>,
    ) -> io::Result<Self> {
        let (near, far) = kept.near_and_far()?;
        near.set_nonblocking(true)?;
        let setup = kept.setup()?;
        let again = Again::new(handler);
        let mut relay = Self {
            front,
            near,
            handler: BackendReqHandler::from_stream(far, Arc::clone(handler)),
            kept,
            setup,
        };
        for (message, files) in relay.setup.messages() {
            let files = files.iter().map(|number| inherited::take(*number));
            let files = files.collect::<io::Result<Vec<_>>>()?;
            // What is replied was replied before.
            relay.handle(&message, &files)?;
        }
        drop(again);
        Ok(relay)
    }

    /// Hands on what comes, until the front end is gone. Its descriptor stays open, since it is noted: until
    /// [`Kept::disconnected`].
    ///
    /// # Errors
    /// The front end violates the protocol.
    pub(super) fn run(mut self) -> io::Result<()> {
        let ended = self.hand_on_all();
        let _noted = self.front.into_raw_fd();
        ended
    }

    fn hand_on_all(&mut self) -> io::Result<()> {
        match self.kept.is_handled() {
            true => self.finish()?,
            false => self.discard_reply()?,
        }
        while self.hand_on()? {}
        Ok(())
    }

    /// One message; false if there is none any more.
    fn hand_on(&mut self) -> io::Result<bool> {
        peek_from_start(&self.front)?;
        let Some((message, files)) = self.look()? else {
            return Ok(false);
        };
        let reply = self.handle(&message, &files)?;
        let numbers: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let before = self.setup.files();
        self.setup.note(&message, &numbers, &reply);
        let after = self.setup.files();
        if !reply.is_empty() {
            retry_on_intr(|| rustix::io::write(self.kept.reply().1, &reply))?;
        }
        self.kept.store(&self.setup);
        // Those that are noted stay open, whatever becomes of this process.
        let (noted, rest): (Vec<OwnedFd>, _) = files
            .into_iter()
            .partition(|file| after.contains(&file.as_raw_fd()));
        noted.into_iter().for_each(|file| {
            let _noted = file.into_raw_fd();
        });
        drop(rest);
        let gone = before.iter().filter(|number| !after.contains(number));
        gone.for_each(|number| drop(inherited::adopt(*number)));
        self.finish()?;
        Ok(true)
    }

    /// What the front end has sent, which stays where it is.
    fn look(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let (mut header, mut files) = ([0; HEADER], Vec::new());
        if !self.look_at(&mut header, &mut files)? {
            return Ok(None);
        }
        let (mut message, len) = Message::with_header(header);
        if len > BODY_MAX {
            let text = format!("vhost-user: a message of {len} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // Each look at a part of what was sent at once gives all the descriptors that were sent with it.
        files.clear();
        peek_from_start(&self.front)?;
        let mut bytes = vec![0; HEADER + len];
        let is_there = self.look_at(&mut bytes, &mut files)?;
        message.body = bytes.split_off(HEADER);
        // A look gives those of the next message as well, where this one has none (unix_stream_read_generic).
        files.truncate(files_of(&message));
        Ok(is_there.then_some((message, files)))
    }

    /// The next bytes after those that were looked at; false if the front end is gone before.
    fn look_at(&self, bytes: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<bool> {
        let mut done = 0;
        while done < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
            let received = retry_on_intr(|| {
                let mut data = [IoSliceMut::new(&mut bytes[done..])];
                recvmsg(&self.front, &mut data, &mut ancillary, flags)
            });
            let received = match received {
                Ok(received) => received,
                Err(Errno::CONNRESET) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    files.extend(more);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                let text = "vhost-user: the descriptors of a message do not fit: is there room for more \
                            open files?";
                return Err(io::Error::other(text));
            }
            if received.bytes == 0 {
                return Ok(false);
            }
            done += received.bytes;
        }
        Ok(true)
    }

    /// Has `message` handled, and returns the reply, if there is one.
    fn handle(&mut self, message: &Message, files: &[OwnedFd]) -> io::Result<Vec<u8>> {
        send(&self.near, &message.bytes(), files)?;
        let handled = self.handler.handle_request();
        let mut reply = Vec::new();
        let mut part = [0; BODY_MAX];
        loop {
            match (&self.near).read(&mut part) {
                Ok(count @ 1..) => reply.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _no_more => break,
            }
        }
        if let Err(error) = handled {
            // The front end may learn by it what it did.
            let _gone = send(&self.front, &reply, &[]);
            return Err(told(&error));
        }
        Ok(reply)
    }

    /// What is left to do of a message that was handled.
    fn finish(&self) -> io::Result<()> {
        let mut left = peek_offset(&self.front)?.unwrap_or(0);
        let mut bytes = [0; HEADER + BODY_MAX];
        while left > 0 {
            let room = left.min(bytes.len());
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let taken = retry_on_intr(|| {
                let mut data = [IoSliceMut::new(&mut bytes[..room])];
                recvmsg(
                    &self.front,
                    &mut data,
                    &mut ancillary,
                    RecvFlags::CMSG_CLOEXEC,
                )
            });
            // The descriptors were received before, when it was looked at.
            drop(ancillary);
            match taken {
                Ok(taken) if taken.bytes > 0 => left = left.saturating_sub(taken.bytes),
                Ok(_) | Err(Errno::CONNRESET) => break,
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            let (reply, flags) = (self.kept.reply().0, SpliceFlags::empty());
            let moved =
                retry_on_intr(|| splice(reply, None, &self.front, None, HEADER + BODY_MAX, flags));
            match moved {
                Ok(1..) => {}
                // A front end that is gone reads no reply.
                Ok(0) | Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.kept.handled();
        Ok(())
    }

    /// That of a message which comes again.
    fn discard_reply(&self) -> io::Result<()> {
        let mut bytes = [0; HEADER + BODY_MAX];
        loop {
            match retry_on_intr(|| rustix::io::read(self.kept.reply().0, &mut bytes)) {
                Ok(1..) => {}
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn send(to: &UnixStream, bytes: &[u8], files: &[OwnedFd]) -> io::Result<()> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other(
            "vhost-user: a message with too many descriptors",
        ));
    }
    let mut sent = 0;
    while sent < bytes.len() {
        let data = [IoSlice::new(&bytes[sent..])];
        sent += match sent {
            0 => retry_on_intr(|| sendmsg(to, &data, &mut ancillary, SendFlags::NOSIGNAL))?,
            _rest => retry_on_intr(|| {
                sendmsg(
                    to,
                    &data,
                    &mut SendAncillaryBuffer::default(),
                    SendFlags::NOSIGNAL,
                )
            })?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
