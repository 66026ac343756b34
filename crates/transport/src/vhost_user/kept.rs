//! What a server leaves to the next one of a device when it dies: the connection to the front end, what that has set up,
//! how far its last message was handled, and which requests are under way in which queue.
//!
//! Invariants: a message's effect and the fact that it was handled are stored in one word, so a death leaves it handled
//! or not, never in between ([`super::relay`]). A request is under way here before it is served, and until the
//! used ring has it. The next server believes nothing: what is set up has a checksum, and goes through the handler
//! that a front end's messages go through.
//!
//! Why not the file of VHOST_USER_GET_INFLIGHT_FD: the front end would have to connect again, and few do. The rule by
//! which its entries are written is the same (`Inflight I/O tracking` in the vhost-user specification).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::net::{getsockname, sockopt};
use rustix::pipe::{PipeFlags, pipe_with};
use thrufs_sys::inherited;
use thrufs_sys::shared_words::SharedWords;

use super::ring::QUEUE_SIZE_MAX;
use super::setup::{Damaged, QUEUES_MAX, Setup, WORDS};

/// Words before the rest.
const HEADER: usize = 8;
/// The connection's descriptor, plus one.
const CONNECTION: usize = 0;
/// Front ends that have connected.
const FRONT_ENDS: usize = 1;
/// Which copy of what is set up holds, and whether the message that led to it is still to be taken from the socket.
const STATE: usize = 2;
/// What the guest holds is forgotten by the next server.
const ANEW: usize = 3;
/// The device ends when the requests under way are answered.
const ENDING: usize = 4;
const COPY: u64 = 1;
const HANDLED: u64 = 2;

/// Words of a queue before those of its requests.
const QUEUE_HEADER: usize = 4;
/// It has been started, and what is here holds.
const STARTED: usize = 0;
/// Index of the next entry of the used ring.
const USED: usize = 1;
/// The request that was given back last, or is just being given back.
const LAST: usize = 2;
/// Requests that have ever been taken.
const COUNTER: usize = 3;
const QUEUE: usize = QUEUE_HEADER + QUEUE_SIZE_MAX as usize;
const QUEUES: usize = HEADER + 2 * WORDS;

/// A front end is accepted before there is a session, so its number is one of the first.
const NUMBERS_LOOKED_AT: i32 = 1024;

/// See the module.
#[derive(Debug)]
pub struct Kept {
    words: SharedWords,
    /// The reply to the message that was handled last, until it is sent.
    reply: (OwnedFd, OwnedFd),
    /// For the messages of this process's front end, to their handler.
    near_and_far: Mutex<Option<(UnixStream, UnixStream)>>,
}

impl Kept {
    /// Nothing yet. To be made before any server.
    ///
    /// # Errors
    /// Of memfd_create(2), mmap(2) and pipe(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            words: SharedWords::new(QUEUES + QUEUES_MAX * QUEUE)?,
            reply: pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?,
            near_and_far: Mutex::default(),
        })
    }

    /// To be called in each server before it is shut in: it makes no socket afterwards.
    ///
    /// # Errors
    /// Of socketpair(2).
    pub fn begin(&self) -> io::Result<()> {
        *self.near_and_far.lock() = Some(UnixStream::pair()?);
        Ok(())
    }

    /// Two ends of a connection of this process with itself, for one front end.
    pub(super) fn near_and_far(&self) -> io::Result<(UnixStream, UnixStream)> {
        match self.near_and_far.lock().take() {
            Some(pair) => Ok(pair),
            None => UnixStream::pair(),
        }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words.words()[at]
    }

    /// The numbers of the descriptors that are the front end's.
    ///
    /// # Errors
    /// See [`Damaged`].
    pub fn descriptors(&self) -> Result<Vec<i32>, Damaged> {
        let mut all = self.setup()?.files();
        all.extend(self.connection()?);
        Ok(all)
    }

    /// The next server begins with nothing that the guest holds, and the requests under way come to it.
    pub fn begin_anew(&self) {
        self.word(ANEW).store(1, Ordering::Release);
    }

    /// Whether [`Self::begin_anew`] was asked for.
    pub fn is_anew(&self) -> bool {
        self.word(ANEW).load(Ordering::Acquire) != 0
    }

    /// It is done.
    pub fn has_begun_anew(&self) {
        self.word(ANEW).store(0, Ordering::Release);
    }

    /// The device is to end, whichever server is asked to.
    pub fn end(&self) {
        self.word(ENDING).store(1, Ordering::Release);
    }

    /// Whether it is to end.
    pub fn is_ending(&self) -> bool {
        self.word(ENDING).load(Ordering::Acquire) != 0
    }

    /// Whether there is a front end.
    pub fn has_front_end(&self) -> bool {
        self.word(CONNECTION).load(Ordering::Acquire) != 0
    }

    /// A server that died may have accepted a front end by `listener`, and not have noted it. To be called before its
    /// descriptors are closed.
    pub fn find_accepted(&self, listener: &UnixListener) {
        if !self.has_front_end()
            && let Some(number) = accepted_by(listener)
        {
            self.connected(number);
        }
    }

    /// How many front ends there have been.
    pub fn front_ends(&self) -> u64 {
        self.word(FRONT_ENDS).load(Ordering::Acquire)
    }

    /// The descriptor of the front end, if there is one.
    pub(super) fn connection(&self) -> Result<Option<i32>, Damaged> {
        match self.word(CONNECTION).load(Ordering::Acquire).checked_sub(1) {
            None => Ok(None),
            Some(number) => i32::try_from(number)
                .map(Some)
                .map_err(|_| Damaged("a descriptor has no number")),
        }
    }

    /// A front end has connected by this descriptor, and has set up nothing yet.
    pub(super) fn connected(&self, number: i32) {
        self.store(&Setup::default());
        self.handled();
        (0..QUEUES_MAX).for_each(|queue| self.queue(queue)[STARTED].store(0, Ordering::Release));
        self.word(FRONT_ENDS).fetch_add(1, Ordering::Relaxed);
        let number = u64::from(number.cast_unsigned()) + 1;
        self.word(CONNECTION).store(number, Ordering::Release);
    }

    /// It is gone, and its descriptor is closed.
    pub fn disconnected(&self) {
        let number = self.connection();
        self.word(CONNECTION).store(0, Ordering::Release);
        self.store(&Setup::default());
        self.handled();
        if let Ok(Some(number)) = number {
            // The relay has left it open.
            drop(inherited::adopt(number));
        }
    }

    fn copy(&self, which: u64) -> &[AtomicU64] {
        let start = HEADER + (which & COPY) as usize * WORDS;
        &self.words.words()[start..start + WORDS]
    }

    /// What is set up.
    ///
    /// # Errors
    /// See [`Damaged`].
    pub(super) fn setup(&self) -> Result<Setup, Damaged> {
        if self.connection()?.is_none() {
            return Ok(Setup::default());
        }
        let copy = self.copy(self.word(STATE).load(Ordering::Acquire));
        let words: Vec<u64> = copy
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .collect();
        Setup::from_words(&words)
    }

    /// A message was handled, which led to `setup`, and is next taken from the socket.
    pub(super) fn store(&self, setup: &Setup) {
        let next = !self.word(STATE).load(Ordering::Relaxed) & COPY;
        for (word, value) in self.copy(next).iter().zip(setup.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        self.word(STATE).store(next | HANDLED, Ordering::Release);
    }

    /// Whether the message that was handled last may be in the socket yet, or its reply in the pipe.
    pub(super) fn is_handled(&self) -> bool {
        self.word(STATE).load(Ordering::Acquire) & HANDLED != 0
    }

    /// Neither is.
    pub(super) fn handled(&self) {
        self.word(STATE).fetch_and(!HANDLED, Ordering::Release);
    }

    /// Where the reply to a message waits, and where it gets there.
    pub(super) fn reply(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.reply.0.as_fd(), self.reply.1.as_fd())
    }

    fn queue(&self, queue: usize) -> &[AtomicU64] {
        let start = QUEUES + queue.min(QUEUES_MAX - 1) * QUEUE;
        &self.words.words()[start..start + QUEUE]
    }

    /// How many requests are under way in all queues.
    pub(super) fn under_way(&self) -> usize {
        let is_started = |queue: &&[AtomicU64]| queue[STARTED].load(Ordering::Acquire) != 0;
        let queues = (0..QUEUES_MAX).map(|queue| self.queue(queue));
        queues.filter(is_started).map(under_way).sum()
    }
}

/// A connection with the address of `listener`.
fn accepted_by(listener: &UnixListener) -> Option<i32> {
    let address = getsockname(listener).ok()?;
    let is_it = |number: &i32| {
        let socket = inherited::take(*number);
        socket.is_ok_and(|socket| {
            getsockname(&socket).is_ok_and(|other| other == address)
                && sockopt::socket_acceptconn(&socket) == Ok(false)
        })
    };
    (3..NUMBERS_LOOKED_AT).find(is_it)
}

fn under_way(queue: &[AtomicU64]) -> usize {
    let heads = queue[QUEUE_HEADER..].iter();
    heads
        .filter(|head| head.load(Ordering::Relaxed) != 0)
        .count()
}

/// The requests of one queue.
#[derive(Clone, Debug)]
pub(super) struct KeptQueue {
    kept: Arc<Kept>,
    queue: usize,
}

/// Where a queue stood when its server died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stood {
    /// Index of the next entry of the used ring.
    pub(super) next_used: u16,
    /// Heads of the chains that are under way, in the order in which they were taken.
    pub(super) under_way: Vec<u16>,
}

impl Stood {
    /// Index of the next entry of the available ring: each chain that was taken is under way, or was given back.
    pub(super) fn next_available(&self) -> u16 {
        // At most QUEUE_SIZE_MAX.
        self.next_used.wrapping_add(self.under_way.len() as u16)
    }
}

impl KeptQueue {
    pub(super) fn new(kept: &Arc<Kept>, queue: usize) -> Self {
        Self {
            kept: Arc::clone(kept),
            queue,
        }
    }

    fn words(&self) -> &[AtomicU64] {
        self.kept.queue(self.queue)
    }

    /// The front end starts it afresh, or is about to.
    pub(super) fn forget(&self) {
        self.words()[STARTED].store(0, Ordering::Release);
    }

    /// It starts with nothing under way and this entry of the used ring.
    pub(super) fn start(&self, next_used: u16) {
        let words = self.words();
        words[STARTED].store(0, Ordering::Release);
        for head in &words[QUEUE_HEADER..] {
            // A page that was never written takes no memory.
            if head.load(Ordering::Relaxed) != 0 {
                head.store(0, Ordering::Relaxed);
            }
        }
        words[USED].store(next_used.into(), Ordering::Relaxed);
        words[STARTED].store(1, Ordering::Release);
    }

    /// Where it stood when the server before died; `ring_used` is the index in the used ring, if that can be read. None if
    /// it was not started.
    pub(super) fn stood(&self, ring_used: Option<u16>) -> Option<Stood> {
        let words = self.words();
        if words[STARTED].load(Ordering::Acquire) == 0 {
            return None;
        }
        // The lower half.
        let next_used = words[USED].load(Ordering::Acquire) as u16;
        if ring_used == Some(next_used.wrapping_add(1)) {
            // The used ring has what is still under way here.
            let last = words[LAST].load(Ordering::Acquire);
            self.given_back(usize::try_from(last).unwrap_or(usize::MAX), next_used);
        }
        let mut under_way: Vec<(u64, u16)> = (0..)
            .zip(&words[QUEUE_HEADER..])
            .map(|(head, word)| (word.load(Ordering::Acquire), head))
            .filter(|(count, _)| *count != 0)
            .collect();
        under_way.sort_unstable();
        Some(Stood {
            next_used: words[USED].load(Ordering::Acquire) as u16,
            under_way: under_way.into_iter().map(|(_, head)| head).collect(),
        })
    }

    /// The chain from `head` is taken. Returns its number, which no other chain of any queue ever has; even, and not 0.
    pub(super) fn take(&self, head: u16) -> u64 {
        let words = self.words();
        let count = words[COUNTER].load(Ordering::Relaxed) + 1;
        words[COUNTER].store(count, Ordering::Release);
        if let Some(word) = words.get(QUEUE_HEADER + usize::from(head)) {
            word.store(count, Ordering::Release);
        }
        self.number(count)
    }

    /// The number of the chain from `head`, which is under way.
    pub(super) fn number_of(&self, head: u16) -> u64 {
        let word = self.words().get(QUEUE_HEADER + usize::from(head));
        self.number(word.map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    fn number(&self, count: u64) -> u64 {
        // QUEUES_MAX fits 6 bits.
        (count << 6 | self.queue as u64) << 1
    }

    /// The chain from `head` is given back next, by the step that makes the used ring's index another.
    pub(super) fn gives_back(&self, head: u16) {
        self.words()[LAST].store(head.into(), Ordering::Release);
    }

    /// The chain from `head` was given back in the entry `used`.
    pub(super) fn given_back(&self, head: usize, used: u16) {
        let words = self.words();
        if let Some(word) = words[QUEUE_HEADER..].get(head) {
            word.store(0, Ordering::Release);
        }
        words[USED].store(used.wrapping_add(1).into(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Arc<Kept> {
        Arc::new(Kept::new().unwrap())
    }

    #[test]
    fn find_accepted_has_the_front_end_that_was_not_noted() {
        use std::os::fd::AsRawFd;

        let place = tempfile::tempdir().unwrap();
        let bind = |name: &str| UnixListener::bind(place.path().join(name)).unwrap();
        let (listener, other) = (bind("a"), bind("b"));
        let connect = |name: &str| UnixStream::connect(place.path().join(name)).unwrap();
        let _clients = (connect("a"), connect("b"));
        let _of_another = other.accept().unwrap();
        let kept = kept();
        kept.find_accepted(&listener);
        assert!(!kept.has_front_end());
        let (accepted, _) = listener.accept().unwrap();
        kept.find_accepted(&listener);
        assert_eq!(kept.connection(), Ok(Some(accepted.as_raw_fd())));
        assert_eq!(kept.front_ends(), 1);
    }

    #[test]
    fn stood_has_what_was_taken_and_not_given_back_in_order() {
        let queue = KeptQueue::new(&kept(), 2);
        assert_eq!(queue.stood(None), None);
        queue.start(65535);
        let numbers: Vec<u64> = [7, 3, 9].iter().map(|head| queue.take(*head)).collect();
        assert!(numbers.is_sorted() && numbers.iter().all(|number| number % 2 == 0 && *number > 0));
        assert_eq!(queue.number_of(3), numbers[1]);
        queue.gives_back(7);
        let all = Stood {
            next_used: 65535,
            under_way: vec![7, 3, 9],
        };
        assert_eq!(queue.stood(Some(65535)), Some(all.clone()));
        // Of a ring that cannot be read, or lies, nothing is concluded.
        assert_eq!(queue.stood(None), Some(all.clone()));
        assert_eq!(queue.stood(Some(40)), Some(all.clone()));
        // A death between the ring's index and what is said here.
        let two = Stood {
            next_used: 0,
            under_way: vec![3, 9],
        };
        assert_eq!(queue.stood(Some(0)), Some(two.clone()));
        assert_eq!((all.next_available(), two.next_available()), (2, 2));
        queue.gives_back(9);
        queue.given_back(9, 0);
        assert_eq!(queue.stood(Some(1)).unwrap().under_way, [3]);
        // The same head again has another number.
        assert!(queue.take(7) > numbers[2]);
        queue.start(5);
        let none = Stood {
            next_used: 5,
            under_way: vec![],
        };
        assert_eq!(queue.stood(Some(5)), Some(none));
        queue.forget();
        assert_eq!(queue.stood(Some(5)), None);
    }

    #[test]
    fn under_way_counts_those_of_queues_that_are_started() {
        let kept = kept();
        let queues = [0, 1, 62].map(|queue| KeptQueue::new(&kept, queue));
        for queue in &queues {
            queue.start(0);
            queue.take(1023);
            queue.take(0);
        }
        assert_eq!(kept.under_way(), 6);
        queues[2].forget();
        assert_eq!(kept.under_way(), 4);
    }

    #[test]
    fn setup_is_what_was_stored_last_and_damaged_with_another_word() {
        let kept = kept();
        assert_eq!(kept.descriptors().unwrap(), [0; 0]);
        // No descriptor of this process.
        let number = i32::MAX - 1;
        kept.connected(number);
        assert!(!kept.is_handled());
        assert_eq!(kept.descriptors().unwrap(), [number]);
        let mut setup = Setup::default();
        for number in 1..5_u64 {
            let body = number.to_ne_bytes().to_vec();
            setup.note(&super::super::message::Message::new(2, body), &[], &[]);
            kept.store(&setup);
            assert!(kept.is_handled());
            kept.handled();
            assert_eq!(kept.setup().unwrap(), setup);
        }
        kept.word(HEADER + 2).fetch_xor(8, Ordering::Relaxed);
        kept.word(HEADER + WORDS + 2)
            .fetch_xor(8, Ordering::Relaxed);
        assert!(kept.setup().is_err());
        kept.word(CONNECTION).store(u64::MAX, Ordering::Relaxed);
        assert!(kept.descriptors().is_err());
        kept.disconnected();
        assert_eq!(kept.descriptors().unwrap(), [0; 0]);
    }
}
