//! The descriptors of a server, handed to the process that takes its mount over: in messages of so many, with the numbers
//! that they have here.
//!
//! ```text
//! server that stops ── [number, ...] and the descriptors (SCM_RIGHTS), again and again ──> server that takes over
//!                   ── [END] ──>
//! ```
//!
//! Invariant: a descriptor that is sent stays open here, so that this side can go on. What is received is believed
//! nothing: each descriptor is looked at when it is taken in (`thrufs_fs::Ledger::take_in`).
//!
//! Why not by inheritance over execve(2): the process that has them is shut in with SOURCE as its root, where the loader
//! of a new binary would take its libraries from SOURCE. Why not pidfd_getfd(2): it takes the right to trace, and a
//! system call or two for each.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use thrufs_sys::inherited;

/// Descriptors in one message; the kernel takes 253 (SCM_MAX_FD).
const BATCH: usize = 250;
/// In the place of a number: that was all.
const END: i32 = -1;

/// Both ends.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

/// Sends the descriptors with these `numbers`, of which no object of this process owns one, and that they are all.
///
/// # Errors
/// EBADF: one is not open; of sendmsg(2).
pub(super) fn send(socket: impl AsFd, numbers: &[i32]) -> io::Result<()> {
    for batch in numbers.chunks(BATCH) {
        let adopted = batch.iter().map(|number| inherited::adopt(*number));
        // They stay open.
        let adopted = adopted.map(|adopted| adopted.map(ManuallyDrop::new));
        let adopted = adopted.collect::<io::Result<Vec<ManuallyDrop<OwnedFd>>>>()?;
        let borrowed: Vec<BorrowedFd<'_>> = adopted.iter().map(|fd| fd.as_fd()).collect();
        send_one(&socket, batch, &borrowed)?;
    }
    send_one(&socket, &[END], &[])
}

fn send_one(socket: impl AsFd, numbers: &[i32], with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    rustix::io::retry_on_intr(|| {
        let data = [IoSlice::new(&bytes)];
        sendmsg(&socket, &data, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives all, which are then open in this process, owned by no object. By the number that each had there, the one that
/// it has here.
///
/// # Errors
/// The other side is gone, sent what it should not, or this process may not have so many descriptors; of recvmsg(2).
pub(super) fn receive(socket: impl AsFd) -> io::Result<HashMap<i32, i32>> {
    let mut all = HashMap::new();
    loop {
        let (numbers, descriptors) = receive_one(&socket)?;
        match (&numbers[..], descriptors.len()) {
            ([], _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            ([END], 0) => return Ok(all),
            (numbers, count) if numbers.len() == count => {}
            _fewer => {
                return Err(io::Error::other(
                    "descriptors did not come along: more than this process may have (RLIMIT_NOFILE)?",
                ));
            }
        }
        let here = descriptors.into_iter().map(IntoRawFd::into_raw_fd);
        all.extend(numbers.into_iter().zip(here));
    }
}

fn receive_one(socket: impl AsFd) -> io::Result<(Vec<i32>, Vec<OwnedFd>)> {
    let mut bytes = [0; BATCH * size_of::<i32>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut data = [IoSliceMut::new(&mut bytes)];
        recvmsg(&socket, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    let numbers = bytes[..received.bytes].as_chunks().0.iter();
    let numbers = numbers.map(|number| i32::from_ne_bytes(*number)).collect();
    Ok((numbers, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn receive_has_each_descriptor_by_the_number_that_it_had() {
        let scratch = tempfile::tempdir().unwrap();
        let files: Vec<File> = (0..2 * BATCH + 1)
            .map(|at| File::create(scratch.path().join(at.to_string())).unwrap())
            .collect();
        let numbers: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let (sender, receiver) = pair().unwrap();
        let sending = std::thread::spawn(move || send(sender, &numbers));
        let moved = receive(receiver).unwrap();
        sending.join().unwrap().unwrap();
        assert_eq!(moved.len(), files.len());
        for file in &files {
            let there = File::from(inherited::adopt(moved[&file.as_raw_fd()]).unwrap());
            let (sent, here) = (file.metadata().unwrap(), there.metadata().unwrap());
            assert_eq!((sent.dev(), sent.ino()), (here.dev(), here.ino()));
        }
    }

    #[test]
    fn receive_from_what_ends_too_early_or_sends_numbers_alone_is_an_error() {
        let (sender, receiver) = pair().unwrap();
        drop(sender);
        assert!(receive(receiver).is_err());
        let (sender, receiver) = pair().unwrap();
        send_one(&sender, &[7, 8], &[]).unwrap();
        assert!(receive(receiver).is_err());
        let (sender, _receiver) = pair().unwrap();
        assert!(send(sender, &[i32::MAX]).is_err(), "it is not open");
    }
}
