//! The descriptors of a server, for the process that takes its mount over, which asks for them by the numbers that they
//! have there.
//!
//! ```text
//! server that takes over ── [number, ...] ──────────────────────────────────────> server before, or the one after that
//!                        <── [how many, number, ...] and these (SCM_RIGHTS) ────
//! ```
//!
//! By one socket those of inodes are fetched while the server before serves; by another one the rest, from the server that
//! begins when that has stopped, which says so first ([`begin`]).
//!
//! Invariant: a descriptor that is sent stays open there, so that the other side can go on, and only those that the ledger
//! names are sent. A number may mean another file by the time that it is sent, while a server serves, or none. What is
//! received is believed nothing: each descriptor is looked at when it is taken in (`thrufs_fs::Ledger::take_in`).
//!
//! Why not by inheritance over execve(2): the process that has them is shut in with SOURCE as its root, where the loader
//! of a new binary would take its libraries from SOURCE. Why not pidfd_getfd(2): it takes the right to trace, and a
//! system call or two for each. Why questions: what changes while it is sent is then known on one side alone.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recv, recvmsg, sendmsg, socketpair,
};
use thrufs_sys::inherited::{self, is_open};

/// Descriptors in one message; the kernel takes 253 (SCM_MAX_FD).
pub(super) const BATCH: usize = 250;
/// In the place of how many: those of the server before can be asked for now.
const BEGIN: i32 = -1;
/// How often a message is sent of which a number is closed each time.
const ATTEMPTS: usize = 8;

/// Both ends.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    Ok(socketpair(AddressFamily::Unix, kind, None, flags)?)
}

/// Says that the server before serves no more.
///
/// # Errors
/// Of sendmsg(2).
pub(super) fn begin(socket: &OwnedFd) -> io::Result<()> {
    Ok(send(socket, &[BEGIN], &[])?)
}

/// Waits for [`begin`].
///
/// # Errors
/// The other side is gone; of recvmsg(2).
pub(super) fn wait_for_begin(socket: &OwnedFd) -> io::Result<()> {
    match receive(socket)? {
        (words, _none) if words == [BEGIN] => Ok(()),
        _other => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Answers one question: with those of the descriptors asked for that `is_sent` says, as far as they are open. False if
/// the other side is gone.
///
/// # Errors
/// Of recvmsg(2) and sendmsg(2).
pub(super) fn answer_one(socket: &OwnedFd, is_sent: impl Fn(i32) -> bool) -> io::Result<bool> {
    let mut bytes = [0; BATCH * size_of::<i32>()];
    let len = match retry(|| recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty())) {
        Ok(0) | Err(Errno::ECONNRESET) => return Ok(false),
        Ok(len) => len,
        Err(error) => return Err(error.into()),
    };
    let mut numbers = words_of(&bytes[..len]);
    for _attempt in 0..ATTEMPTS {
        numbers.retain(|number| is_sent(*number));
        let answer: Vec<i32> = [numbers.len() as i32]
            .iter()
            .chain(&numbers)
            .copied()
            .collect();
        match send(socket, &answer, &numbers) {
            // One was closed meanwhile: its owner is another thread.
            Err(Errno::EBADF) => numbers.retain(|number| is_open(*number)),
            Err(Errno::EPIPE) => return Ok(false),
            sent => return Ok(sent.map(|()| true)?),
        }
    }
    send(socket, &[0], &[])?;
    Ok(true)
}

/// Asks for the descriptors with these `numbers` there. Returns those that there are, with the numbers that they have
/// there.
///
/// # Errors
/// UnexpectedEof: the other side is gone. It sent what it should not, or this process may not have so many descriptors; of
/// recvmsg(2).
pub(super) fn fetch(socket: &OwnedFd, numbers: &[i32]) -> io::Result<Vec<(i32, OwnedFd)>> {
    let mut all = Vec::with_capacity(numbers.len());
    for batch in numbers.chunks(BATCH) {
        match send(socket, batch, &[]) {
            Err(Errno::EPIPE) => return Err(io::ErrorKind::UnexpectedEof.into()),
            sent => sent?,
        }
        let (words, descriptors) = receive(socket)?;
        match words.split_first() {
            Some((count, numbers)) if *count == numbers.len() as i32 => {
                if numbers.len() != descriptors.len() {
                    return Err(too_many());
                }
                all.extend(numbers.iter().copied().zip(descriptors));
            }
            _other => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(all)
}

fn too_many() -> io::Error {
    io::Error::other(
        "descriptors did not come along: more than this process may have (RLIMIT_NOFILE)?",
    )
}

/// By numbers and not as borrowed: in a server that serves, the owner of one may close it at any time.
fn send(socket: &OwnedFd, words: &[i32], with: &[RawFd]) -> nix::Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let rights = [ControlMessage::ScmRights(with)];
    let rights = if with.is_empty() { &[] } else { &rights[..] };
    let data = [IoSlice::new(&bytes)];
    let (socket, flags) = (socket.as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
    retry(|| sendmsg::<UnixAddr>(socket, &data, rights, flags, None)).map(drop)
}

fn receive(socket: &OwnedFd) -> io::Result<(Vec<i32>, Vec<OwnedFd>)> {
    let mut bytes = [0; (1 + BATCH) * size_of::<i32>()];
    let mut space = cmsg_space!([RawFd; BATCH]);
    let mut data = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut data, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            received => break received,
        }
    };
    let received = match received {
        Err(Errno::ECONNRESET) => return Err(io::ErrorKind::UnexpectedEof.into()),
        received => received?,
    };
    let len = received.bytes;
    if len == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in received.cmsgs().map_err(|_cut| too_many())? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            for number in numbers {
                descriptors.push(inherited::adopt(number)?);
            }
        }
    }
    Ok((words_of(&bytes[..len]), descriptors))
}

fn words_of(bytes: &[u8]) -> Vec<i32> {
    let words = bytes.as_chunks().0.iter();
    words.map(|word| i32::from_ne_bytes(*word)).collect()
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// Answers until the other side is gone; all of the sort that `is_sent` says.
    fn answering(
        socket: OwnedFd,
        is_sent: impl Fn(i32) -> bool + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || while answer_one(&socket, &is_sent).unwrap() {})
    }

    #[test]
    fn fetch_has_each_descriptor_by_the_number_that_it_had() {
        let scratch = tempfile::tempdir().unwrap();
        let files: Vec<File> = (0..2 * BATCH + 1)
            .map(|at| File::create(scratch.path().join(at.to_string())).unwrap())
            .collect();
        let numbers: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let (answers, asks) = pair().unwrap();
        let answering = answering(answers, |_all| true);
        let fetched = fetch(&asks, &numbers).unwrap();
        drop(asks);
        answering.join().unwrap();
        assert_eq!(fetched.len(), files.len());
        for (file, (number, fetched)) in files.iter().zip(fetched) {
            assert_eq!(number, file.as_raw_fd());
            let (sent, here) = (file.metadata().unwrap(), File::from(fetched));
            let here = here.metadata().unwrap();
            assert_eq!((sent.dev(), sent.ino()), (here.dev(), here.ino()));
        }
    }

    #[test]
    fn fetch_of_what_is_closed_or_is_not_sent_leaves_it_out() {
        let open = [File::open("/dev/null"), File::open("/dev/null")].map(Result::unwrap);
        let [sent, kept] = [0, 1].map(|at| open[at].as_raw_fd());
        let (answers, asks) = pair().unwrap();
        let answering = answering(answers, move |number| number != kept);
        let fetched = fetch(&asks, &[i32::MAX, kept, sent]).unwrap();
        let numbers: Vec<i32> = fetched.into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [sent]);
        assert!(fetch(&asks, &[i32::MAX]).unwrap().is_empty());
        drop(asks);
        answering.join().unwrap();
    }

    #[test]
    fn fetch_from_what_is_gone_or_sends_numbers_alone_is_an_error() {
        let (answers, asks) = pair().unwrap();
        drop(answers);
        let error = fetch(&asks, &[0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let (answers, asks) = pair().unwrap();
        send(&answers, &[2, 7, 8], &[]).unwrap();
        assert!(fetch(&asks, &[7, 8]).is_err());
        send(&answers, &[1, 7, 8], &[]).unwrap();
        assert!(fetch(&asks, &[7, 8]).is_err());
    }

    #[test]
    fn wait_for_begin_is_over_with_begin_and_an_error_at_the_end() {
        let (answers, asks) = pair().unwrap();
        begin(&answers).unwrap();
        wait_for_begin(&asks).unwrap();
        send(&answers, &[0], &[]).unwrap();
        assert!(wait_for_begin(&asks).is_err());
        drop(answers);
        assert!(wait_for_begin(&asks).is_err());
    }
}
