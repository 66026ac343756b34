//! The queue with a recording sender instead of a kernel.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::mpsc;
use std::time::Duration;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

type Sent = (u64, i64, i64);

fn stale(start: u64, end: u64) -> InvalRange {
    let end = Some(end);
    InvalRange { start, end }
}

/// A running queue whose sender waits for a permit before each notification.
fn gated(all: Vec<u64>) -> (Arc<Invalidations>, mpsc::Sender<()>, mpsc::Receiver<Sent>) {
    let (permit, permits) = mpsc::channel::<()>();
    let (sender, sent) = mpsc::channel();
    let queue = Arc::new(Invalidations::default());
    let send = move |ino, offset, len| {
        sender.send((ino, offset, len)).unwrap();
        permits.recv_timeout(DEADLINE).unwrap();
        Ok(())
    };
    queue.start(Box::new(send), move || all.clone()).unwrap();
    (queue, permit, sent)
}

#[test]
fn push_while_the_thread_waits_for_the_kernel_joins_the_ranges_of_an_inode() {
    let (queue, permit, sent) = gated(Vec::new());
    queue.push(7, stale(0, 10));
    assert_eq!(sent.recv_timeout(DEADLINE), Ok((7, 0, 10)));
    // The thread is inside the notification now; nothing here waits for it.
    queue.push(7, stale(8192, 8200));
    queue.push(9, stale(5, 6));
    queue.push(7, stale(100, 200));
    for _ in 0..3 {
        permit.send(()).unwrap();
    }
    assert_eq!(sent.recv_timeout(DEADLINE), Ok((7, 100, 8100)));
    assert_eq!(sent.recv_timeout(DEADLINE), Ok((9, 5, 1)));
    queue.stop();
}

#[test]
fn push_to_the_end_stays_to_the_end_when_joined() {
    let to_the_end = InvalRange {
        start: 4096,
        end: None,
    };
    assert_eq!(to_the_end.hull(stale(10, 20)).offset_and_len(), (10, 0));
    let beyond = InvalRange {
        start: u64::MAX,
        end: None,
    };
    assert_eq!(
        beyond.offset_and_len(),
        (0, 0),
        "never an attributes-only one"
    );
}

#[test]
fn push_of_attributes_names_no_byte_and_joins_with_any_range() {
    assert_eq!(InvalRange::ATTRIBUTES.offset_and_len(), (-1, 0));
    let range = stale(10, 20);
    assert_eq!(InvalRange::ATTRIBUTES.hull(range), range);
    assert_eq!(range.hull(InvalRange::ATTRIBUTES), range);
}

#[test]
fn push_of_too_many_inodes_invalidates_all_of_them() {
    let (queue, permit, sent) = gated(vec![1, 2, 3]);
    queue.push(7, stale(0, 10));
    sent.recv_timeout(DEADLINE).unwrap();
    for ino in 0..=MAX_PENDING as u64 {
        queue.push(100 + ino, stale(0, 1));
    }
    for _ in 0..4 {
        permit.send(()).unwrap();
    }
    for ino in 1..=3 {
        assert_eq!(sent.recv_timeout(DEADLINE), Ok((ino, 0, 0)));
    }
    queue.stop();
    let gone = sent.recv_timeout(DEADLINE);
    assert_eq!(gone, Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn stop_ends_the_thread_and_forgets_what_was_pending() {
    let (queue, permit, sent) = gated(Vec::new());
    queue.push(7, stale(0, 10));
    sent.recv_timeout(DEADLINE).unwrap();
    queue.push(8, stale(0, 10));
    queue.stop();
    permit.send(()).unwrap();
    let gone = sent.recv_timeout(DEADLINE);
    assert_eq!(gone, Err(mpsc::RecvTimeoutError::Disconnected));
    queue.push(9, stale(0, 10));
    assert!(
        queue.state.lock().pending.is_empty(),
        "no thread would send it"
    );
}

#[test]
fn push_then_calls_when_the_notification_was_sent_and_not_before() {
    let (queue, permit, sent) = gated(Vec::new());
    let (caller, called) = mpsc::channel();
    let then = |name: &'static str| -> Then {
        let caller = caller.clone();
        Box::new(move || caller.send(name).unwrap())
    };
    queue.push(7, stale(0, 10));
    sent.recv_timeout(DEADLINE).unwrap();
    // While it is being sent: one more is needed, and one is enough for both.
    queue.push_then(7, InvalRange::WHOLE, then("first"));
    queue.push_then(7, InvalRange::WHOLE, then("second"));
    permit.send(()).unwrap();
    assert_eq!(sent.recv_timeout(DEADLINE), Ok((7, 0, 0)));
    assert_eq!(called.try_recv(), Err(mpsc::TryRecvError::Empty));
    permit.send(()).unwrap();
    assert_eq!(called.recv_timeout(DEADLINE), Ok("first"));
    assert_eq!(called.recv_timeout(DEADLINE), Ok("second"));
    queue.stop();
    queue.push_then(7, InvalRange::WHOLE, then("no sender"));
    assert_eq!(called.try_recv(), Ok("no sender"));
}

#[test]
fn push_then_of_too_many_inodes_or_before_the_end_is_called_all_the_same() {
    let (queue, permit, sent) = gated(vec![1]);
    let (caller, called) = mpsc::channel();
    let push = |ino: u64| {
        let caller = caller.clone();
        queue.push_then(
            ino,
            InvalRange::WHOLE,
            Box::new(move || caller.send(ino).unwrap()),
        );
    };
    queue.push(7, stale(0, 10));
    sent.recv_timeout(DEADLINE).unwrap();
    (0..=MAX_PENDING as u64).for_each(|ino| push(100 + ino));
    push(1000);
    permit.send(()).unwrap();
    sent.recv_timeout(DEADLINE).unwrap();
    // Waits for its own notification, which never comes.
    push(2000);
    permit.send(()).unwrap();
    sent.recv_timeout(DEADLINE).unwrap();
    queue.stop();
    permit.send(()).unwrap();
    let all: Vec<u64> = (0..MAX_PENDING + 2)
        .map(|_| called.recv_timeout(DEADLINE).unwrap())
        .collect();
    assert_eq!(all[0], 100);
    assert!(all.contains(&1000));
    assert_eq!(called.recv_timeout(DEADLINE), Ok(2000));
}
