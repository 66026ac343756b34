//! The registrar without a kernel that registers: what a server, also a taken-over one, gets of it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::*;

/// Counts what is registered, and waits before each answer for as long as the test holds it.
#[derive(Clone, Default)]
struct Fake {
    next: Arc<AtomicI32>,
    open: Arc<AtomicUsize>,
    held: Arc<Mutex<()>>,
}

impl Kernel for Fake {
    fn open(&self, _file: BorrowedFd<'_>) -> io::Result<i32> {
        let _held = self.held.lock();
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(self.next.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn close(&self, _id: i32) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Fixture {
    kernel: Fake,
    scratch: tempfile::TempDir,
    thread: JoinHandle<io::Result<()>>,
}

/// A registrar for files of a scratch directory, `most` at a time, and the server's end of the socket.
fn registrar(most: usize) -> (Fixture, OwnedFd) {
    let (ours, theirs) = pair().unwrap();
    let (kernel, scratch) = (Fake::default(), tempfile::tempdir_in("/dev/shm").unwrap());
    let devices = Devices::from([scratch.path().metadata().unwrap().dev()]);
    let registrar = Registrar {
        most,
        ..Registrar::new(ours, kernel.clone(), devices)
    };
    let thread = std::thread::spawn(move || registrar.serve());
    let fixture = Fixture {
        kernel,
        scratch,
        thread,
    };
    (fixture, theirs)
}

impl Fixture {
    fn file(&self, name: &str) -> File {
        File::create(self.scratch.path().join(name)).unwrap()
    }

    /// Ends it, and returns how many files the kernel holds then.
    fn end(self, server: impl Sized) -> usize {
        drop(server);
        self.thread.join().unwrap().unwrap();
        self.kernel.open.load(Ordering::SeqCst)
    }

    /// The registrar serves in order: what it was sent before has been done when it answers.
    fn wait_until_served(&self, server: &Registering) {
        server.settle();
    }
}

fn errno(result: io::Result<i32>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn open_and_close_of_a_file_of_source_gives_an_id_and_ends_it() {
    let (fixture, socket) = registrar(10);
    let server = Registering::new(socket).unwrap();
    let (a, b) = (fixture.file("a"), fixture.file("b"));
    let first = server.open(a.as_fd()).unwrap();
    let second = server.open(b.as_fd()).unwrap();
    assert_ne!(first, second);
    server.close(first);
    fixture.wait_until_served(&server);
    server.close(second);
    assert_eq!(fixture.end(server), 0);
}

#[test]
fn open_of_what_is_no_regular_file_of_source_is_refused() {
    let (fixture, socket) = registrar(10);
    let server = Registering::new(socket).unwrap();
    let outside = File::open("/proc/self/status").unwrap();
    assert_eq!(errno(server.open(outside.as_fd())), Some(libc::EXDEV));
    let memory = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()).unwrap();
    assert_eq!(errno(server.open(memory.as_fd())), Some(libc::EXDEV));
    let device = File::open("/dev/null").unwrap();
    assert_eq!(errno(server.open(device.as_fd())), Some(libc::EXDEV));
    let directory = File::open(fixture.scratch.path()).unwrap();
    assert_eq!(
        errno(server.open(directory.as_fd())),
        Some(libc::EOPNOTSUPP)
    );
    let fifo = fixture.scratch.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = File::options().read(true).write(true).open(fifo).unwrap();
    assert_eq!(errno(server.open(fifo.as_fd())), Some(libc::EOPNOTSUPP));
    assert_eq!(fixture.kernel.next.load(Ordering::SeqCst), 0);
    assert_eq!(fixture.end(server), 0);
}

#[test]
fn open_beyond_the_number_of_descriptors_is_refused_until_one_is_closed() {
    let (fixture, socket) = registrar(3);
    let server = Registering::new(socket).unwrap();
    let file = fixture.file("f");
    let ids: Vec<_> = (0..3).map(|_| server.open(file.as_fd()).unwrap()).collect();
    assert_eq!(errno(server.open(file.as_fd())), Some(libc::EMFILE));
    server.close(ids[1]);
    assert!(server.open(file.as_fd()).is_ok());
    assert_eq!(errno(server.open(file.as_fd())), Some(libc::EMFILE));
    // The ids of a server that is gone end with it.
    assert_eq!(fixture.end(server), 0);
}

#[test]
fn close_of_an_id_that_was_not_given_out_ends_none() {
    let (fixture, socket) = registrar(10);
    let server = Registering::new(socket).unwrap();
    let id = server.open(fixture.file("f").as_fd()).unwrap();
    for other in [id + 1, 0, -1, i32::MAX, i32::MIN] {
        server.close(other);
    }
    fixture.wait_until_served(&server);
    assert_eq!(fixture.kernel.open.load(Ordering::SeqCst), 1);
    assert_eq!(fixture.end(server), 0);
}

/// What a server says that was taken over: too short, too long, unknown, without and with too many descriptors.
#[test]
fn message_of_another_form_is_refused_and_takes_no_memory() {
    let (fixture, socket) = registrar(10);
    let file = fixture.file("f");
    let say = |bytes: &[u8], files: &[BorrowedFd<'_>]| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(files)));
        }
        let data = [IoSlice::new(bytes)];
        sendmsg(&socket, &data, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    };
    let answer = || {
        let mut answer = [0; ANSWER_LEN];
        rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).unwrap();
        answer_of(answer).1
    };
    for bytes in [&[1][..], &[1; 11], &[1; 13], &[0xff; 4096]] {
        say(bytes, &[file.as_fd()]);
        assert_eq!(answer(), -libc::EINVAL, "{} bytes", bytes.len());
    }
    say(&to_bytes([7, 1, 0]), &[file.as_fd()]);
    assert_eq!(answer(), -libc::EINVAL);
    say(&to_bytes([OPEN, 1, 0]), &[]);
    assert_eq!(answer(), -libc::EBADF);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for number in 0..64 {
        say(&to_bytes([OPEN, number, 0]), &[file.as_fd(); 8]);
        let id = answer();
        assert!(id > 0, "{id}");
        say(
            &to_bytes([CLOSE, 0, id.cast_unsigned()]),
            &[file.as_fd(); 8],
        );
    }
    // Other tests of this process open some of their own.
    assert!(descriptors() < before + 64, "descriptors are left behind");
    assert_eq!(fixture.end(socket), 0);
}

#[test]
fn open_without_an_answer_in_time_fails_and_the_late_id_is_given_back() {
    let (fixture, socket) = registrar(10);
    let server = Registering::new(socket).unwrap();
    let file = fixture.file("f");
    let held = fixture.kernel.held.lock();
    assert_eq!(errno(server.open(file.as_fd())), Some(libc::ETIMEDOUT));
    // The next one does not wait.
    let began = Instant::now();
    assert_eq!(errno(server.open(file.as_fd())), Some(libc::ETIMEDOUT));
    assert!(server.asking.lock().not_before.is_some_and(|at| at > began));
    drop(held);
    server.asking.lock().not_before = None;
    let id = server.open(file.as_fd()).unwrap();
    fixture.wait_until_served(&server);
    assert_eq!(id, 2, "the answer to another question");
    assert_eq!(fixture.kernel.open.load(Ordering::SeqCst), 1);
    assert_eq!(fixture.end(server), 0);
}

/// net.unix.max_dgram_qlen is 10 by default.
#[test]
fn close_of_more_than_the_socket_takes_loses_none() {
    let (fixture, socket) = registrar(1000);
    let server = Registering::new(socket).unwrap();
    let file = fixture.file("f");
    let ids: Vec<_> = (0..500)
        .map(|_| server.open(file.as_fd()).unwrap())
        .collect();
    ids.into_iter().for_each(|id| server.close(id));
    fixture.wait_until_served(&server);
    assert_eq!(fixture.kernel.open.load(Ordering::SeqCst), 0);
    assert_eq!(fixture.end(server), 0);
}

/// An id that made room for another cost a message of its own, and a wake-up of the registrar.
#[test]
fn close_soon_goes_with_the_next_question_or_with_those_that_are_closed_now() {
    let (fixture, socket) = registrar(3);
    let server = Registering::new(socket).unwrap();
    let file = fixture.file("f");
    let open = || server.open(file.as_fd());
    let ids: Vec<_> = (0..3).map(|_| open().unwrap()).collect();
    server.close_soon(ids[0]);
    assert_eq!(server.closing.lock().ids, [ids[0]]);
    // There would be no room for it otherwise.
    let fourth = open().unwrap();
    server.close_soon(ids[1]);
    server.close(ids[2]);
    fixture.wait_until_served(&server);
    assert_eq!(fixture.kernel.open.load(Ordering::SeqCst), 1);
    server.close_soon(fourth);
    fixture.wait_until_served(&server);
    assert_eq!(fixture.kernel.open.load(Ordering::SeqCst), 0);
    assert_eq!(fixture.end(server), 0);
}

/// A server that died may have been answered, and have noted nothing; the kernel held those files for ever.
#[test]
fn keep_after_a_death_ends_the_ids_that_are_not_in_use() {
    let (fixture, socket) = registrar(10);
    let server = Registering::new(socket.try_clone().unwrap()).unwrap();
    let files = ["a", "b", "c"].map(|name| fixture.file(name));
    let ids = files
        .each_ref()
        .map(|file| server.open(file.as_fd()).unwrap());
    // It has asked, and died before the answer.
    let question = to_bytes([OPEN, 4, 0]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let with = [files[0].as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&with)));
    let data = [IoSlice::new(&question)];
    sendmsg(&socket, &data, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    drop(server);
    let server = Registering::new(socket).unwrap().after(1);
    let in_use = [(ids[0], files[0].as_fd()), (ids[2], files[2].as_fd())];
    server.keep(&in_use).unwrap();
    assert_eq!(fixture.kernel.open.load(Ordering::SeqCst), 2);
    // Of another file, or none of the registrar's.
    for wrong in [(ids[0], files[2].as_fd()), (77, files[0].as_fd())] {
        let refused = server.keep(&[in_use[1], wrong]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        assert_eq!(fixture.kernel.open.load(Ordering::SeqCst), 1);
    }
    server.keep(&[]).unwrap();
    assert_eq!(fixture.kernel.open.load(Ordering::SeqCst), 0);
    assert_eq!(fixture.end(server), 0);
}
