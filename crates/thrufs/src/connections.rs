//! Connections to the control plane, at the status socket and at `--metrics`.
//!
//! Invariant: a new connection is always taken. At most [`Limits::open`] are open: for a new one the
//! oldest that has asked nothing goes, or else the oldest of all. And when clients of the mount have
//! used up the process's descriptors, one is left that was kept in reserve for this.
//!
//! Not a semaphore in front of accept(2): connections that say nothing would keep out all others. Not
//! a lower limit for the rest of the process: RLIMIT_NOFILE knows no threads.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;

/// Before the next try when no connection can be taken.
const RETRY: Duration = Duration::from_millis(200);
/// Descriptors that are kept for each listener. Answers are short: one connection at a time is enough,
/// and the other is for a slow reader.
const RESERVE: usize = 2;

/// What a listener grants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) open: usize,
    /// How long one may last.
    pub(crate) patience: Duration,
}

/// TCP and unix sockets, which tokio knows as two.
pub(crate) trait Listener: Send + 'static {
    /// A connection.
    type Stream: Send + 'static;
    /// accept(2).
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        Self::poll_accept(self, context).map_ok(|(stream, _peer)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        Self::poll_accept(self, context).map_ok(|(stream, _peer)| stream)
    }
}

/// Set by a connection that has asked something: those that have not go first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<AtomicBool>);

impl Asked {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes connections for as long as the runtime lives, and has `converse` answer each. `name` is for
/// the log.
pub(crate) async fn serve<L, F>(
    name: &'static str,
    listener: L,
    limits: Limits,
    converse: impl Fn(L::Stream, Asked) -> F,
) where
    L: Listener,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let reserve = Reserve::default();
    reserve.refill();
    let mut open = Open(VecDeque::new());
    loop {
        match std::future::poll_fn(|context| listener.poll_accept(context)).await {
            Ok(stream) => {
                open.make_room(limits.open);
                let asked = Asked::default();
                let conversation = converse(stream, asked.clone());
                let refill = Refill(reserve.clone());
                let task = tokio::spawn(async move {
                    // Dropped after the conversation, also when the task is aborted.
                    let _refill = refill;
                    match tokio::time::timeout(limits.patience, conversation).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!("{name}: {error:#}"),
                        Err(_late) => tracing::debug!("{name}: not over in time"),
                    }
                });
                open.0.push_back((task.abort_handle(), asked));
                // Its request is there already, as a rule: one that asks does not go for the next.
                tokio::task::yield_now().await;
                reserve.refill();
            }
            Err(error) if lacks_descriptors(&error) && (reserve.give_up() || open.drop_one()) => {
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::debug!("{name}: accept: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn lacks_descriptors(error: &io::Error) -> bool {
    let of_process_or_system = [Errno::MFILE, Errno::NFILE];
    Errno::from_io_error(error).is_some_and(|errno| of_process_or_system.contains(&errno))
}

/// The connections, oldest first.
struct Open(VecDeque<(AbortHandle, Asked)>);

impl Open {
    /// Makes room for one more where at most `most` may be open.
    fn make_room(&mut self, most: usize) {
        self.0.retain(|(task, _)| !task.is_finished());
        while self.0.len() >= most.max(1) {
            self.drop_one();
        }
    }

    /// Drops the one that matters least; false if there is none.
    fn drop_one(&mut self) -> bool {
        self.0.retain(|(task, _)| !task.is_finished());
        let silent = |(_, asked): &(_, Asked)| !asked.0.load(Ordering::Relaxed);
        let least = self.0.iter().position(silent).unwrap_or(0);
        let dropped = self.0.remove(least);
        dropped.inspect(|(task, _)| task.abort()).is_some()
    }
}

/// Descriptors of nothing, which make room for a connection when they are closed.
#[derive(Clone, Debug, Default)]
struct Reserve(Arc<Mutex<Vec<OwnedFd>>>);

impl Reserve {
    /// Takes as much as there is of what is lacking: a session thread may be faster for a moment.
    fn refill(&self) {
        let mut held = self.0.lock().expect("no holder of this lock panics");
        while held.len() < RESERVE {
            match rustix::event::eventfd(0, EventfdFlags::CLOEXEC) {
                Ok(descriptor) => held.push(descriptor),
                Err(_full) => return,
            }
        }
    }

    /// Closes one; false if none is left.
    fn give_up(&self) -> bool {
        let mut held = self.0.lock().expect("no holder of this lock panics");
        held.pop().is_some()
    }
}

/// Refills the reserve when a connection is closed.
struct Refill(Reserve);

impl Drop for Refill {
    fn drop(&mut self) {
        self.0.refill();
    }
}
