//! Readers of a kernel that is a socket, whose messages are numbers.

use std::fs::File;
use std::io::Write;
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, channel};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);

/// Serves with `most` threads until the kernel's end is dropped.
struct Serving {
    kernel: File,
    readers: Arc<Readers>,
    session: JoinHandle<io::Result<Ended>>,
}

impl Serving {
    fn new(most: usize, handle: Handler) -> Self {
        // Longer than any test.
        Self::with_idle(most, handle, 100 * DEADLINE)
    }

    fn with_idle(most: usize, handle: Handler, idle: Duration) -> Self {
        let kind = SockType::SeqPacket;
        let (kernel, server) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let device = Arc::new(DevFuse::new(server));
        let (sender, receiver) = channel();
        let session = std::thread::spawn(move || {
            let readers = Readers {
                idle,
                ..Readers::new(&device, Buffers::AsUsed(4096), most, handle)
            };
            let readers = Arc::new(readers);
            sender.send(Arc::clone(&readers)).unwrap();
            readers.serve()
        });
        Self {
            kernel: kernel.into(),
            readers: receiver.recv_timeout(DEADLINE).unwrap(),
            session,
        }
    }

    fn send(&mut self, number: u8) {
        self.kernel.write_all(&[number; 40]).unwrap();
    }

    fn wait_for_quiet(&self) {
        let until = Instant::now() + DEADLINE;
        while self.readers.is_watched.load(Ordering::SeqCst) {
            assert!(Instant::now() < until, "the watcher never rests");
            std::thread::yield_now();
        }
    }

    fn end(self) {
        drop(self.kernel);
        let until = Instant::now() + DEADLINE;
        while !self.session.is_finished() {
            assert!(Instant::now() < until, "the session never ends");
            std::thread::yield_now();
        }
        self.session.join().unwrap().unwrap();
    }
}

/// A handler that reports each message's first byte.
fn reporting() -> (Handler, Receiver<u8>) {
    let (sender, receiver) = channel();
    let handle = move |message: &[u8]| sender.send(message[0]).unwrap();
    (Arc::new(handle), receiver)
}

#[test]
fn serve_of_one_after_another_takes_one_thread() {
    let threads = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let seen = Arc::clone(&threads);
    let (report, served) = reporting();
    let handle = move |message: &[u8]| {
        seen.lock().insert(std::thread::current().id());
        report(message);
    };
    let mut session = Serving::new(1, Arc::new(handle));
    for number in 0..100 {
        session.send(number);
        assert_eq!(served.recv_timeout(DEADLINE), Ok(number));
    }
    session.end();
    assert_eq!(threads.lock().len(), 1);
}

/// As many requests at a time as there are threads, each of which ends only when all have begun: also
/// what a request does that waits for a FORGET.
#[test]
fn serve_of_requests_that_wait_for_each_other_takes_all_threads() {
    const THREADS: u8 = 4;
    let (report, served) = reporting();
    let all = Barrier::new(usize::from(THREADS));
    let handle = move |message: &[u8]| {
        all.wait();
        report(message);
    };
    let mut session = Serving::new(usize::from(THREADS), Arc::new(handle));
    for _round in 0..3 {
        for number in 0..THREADS {
            session.send(number);
        }
        for _each in 0..THREADS {
            served.recv_timeout(DEADLINE).expect("all are served");
        }
    }
    session.end();
}

/// After a pause nothing looks at the readers, until the next request.
#[test]
fn serve_after_a_pause_still_adds_a_reader() {
    let (report, served) = reporting();
    let (release, wait) = channel();
    let wait = Mutex::new(wait);
    let handle = move |message: &[u8]| {
        if message[0] == 1 {
            wait.lock().recv_timeout(DEADLINE).unwrap();
        }
        report(message);
    };
    let mut session = Serving::new(2, Arc::new(handle));
    for _round in 0..3 {
        session.wait_for_quiet();
        session.send(1);
        session.send(2);
        assert_eq!(served.recv_timeout(DEADLINE), Ok(2));
        release.send(()).unwrap();
        assert_eq!(served.recv_timeout(DEADLINE), Ok(1));
    }
    session.end();
}

/// All of them work, and then nothing comes.
#[test]
fn serve_when_nothing_comes_for_long_keeps_one_thread_and_the_next_message_is_served() {
    let (report, served) = reporting();
    let both = Arc::new(Barrier::new(2));
    let handle = move |message: &[u8]| {
        if message[0] == 0 {
            both.wait();
        }
        report(message);
    };
    let mut session = Serving::with_idle(2, Arc::new(handle), Duration::from_millis(1));
    for _round in 0..3 {
        for number in [0, 0] {
            session.send(number);
        }
        for _each in 0..2 {
            served.recv_timeout(DEADLINE).unwrap();
        }
        let until = Instant::now() + DEADLINE;
        while session.readers.counts.threads() > 1 {
            assert!(Instant::now() < until, "both stay");
            std::thread::yield_now();
        }
        session.send(1);
        assert_eq!(served.recv_timeout(DEADLINE), Ok(1));
    }
    session.end();
}

#[test]
fn serve_of_many_takes_all_threads() {
    let (report, served) = reporting();
    let mut session = Serving::new(3, report);
    for number in 0..200 {
        session.send(number);
        assert_eq!(served.recv_timeout(DEADLINE), Ok(number));
    }
    assert_eq!(session.readers.counts.threads(), 3);
    session.end();
}

#[test]
fn serve_after_a_drain_leaves_what_is_read_unserved() {
    let (report, served) = reporting();
    let mut session = Serving::new(2, report);
    session.send(1);
    assert_eq!(served.recv_timeout(DEADLINE), Ok(1));
    session.readers.drain.ask();
    session.send(2);
    assert_eq!(session.session.join().unwrap().unwrap(), Ended::Drained);
    drop(session.kernel);
    assert!(served.try_recv().is_err(), "served after the drain");
}

#[test]
fn serve_after_a_drain_has_served_what_was_under_way() {
    let (report, served) = reporting();
    let (begin, begun) = channel();
    let handle = move |message: &[u8]| {
        begin.send(()).unwrap();
        // Long for the drain to meet it, and far less than what it has.
        std::thread::yield_now();
        report(message);
    };
    let mut session = Serving::new(2, Arc::new(handle));
    session.send(1);
    begun.recv_timeout(DEADLINE).unwrap();
    session.readers.drain.ask();
    assert_eq!(session.session.join().unwrap().unwrap(), Ended::Drained);
    assert_eq!(served.recv_timeout(DEADLINE), Ok(1));
}
