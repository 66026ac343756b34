//! The driver's side of one queue, for several threads: they offer chains under a lock, and one of those that wait
//! sleeps on the device's call and tells the others.
//!
//! Why not [`xtests::support::guest::Driver`]: that one is for tests, with one thread and an allocation for each
//! request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use anyhow::{Result, ensure};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;
use xtests::support::guest::{Driver, INDIRECT};

/// Where a ring is, and its descriptors.
pub(super) struct Lane {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    kick: EventFd,
    call: EventFd,
    state: Mutex<State>,
    /// Nothing is waited for any more.
    has_failed: AtomicBool,
}

struct State {
    next_available: u16,
    last_used: u16,
    /// A thread sleeps on the call.
    has_listener: bool,
    /// Jobs that wait for another's word.
    parked: Vec<usize>,
}

/// What a job is told.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Mailbox {
    /// A bit for each of its slots that is done.
    pub(super) done: AtomicU64,
    pub(super) thread: OnceLock<Thread>,
}

/// A lane as a thread sees it.
pub(super) struct View<'m> {
    descriptors: VolatileSlice<'m>,
    available: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
}

impl Lane {
    /// Goes on where `driver` is, whose requests are all answered; `call` is what the device calls by from now on.
    pub(super) fn new(driver: &Driver, call: EventFd, position: u16, size: u16) -> Result<Self> {
        Ok(Self {
            size,
            descriptors: driver.descriptors(),
            available: driver.available(),
            used: driver.used(),
            kick: driver.kick.try_clone()?,
            call,
            state: Mutex::new(State {
                next_available: position,
                last_used: position,
                has_listener: false,
                parked: Vec::new(),
            }),
            has_failed: AtomicBool::new(false),
        })
    }

    pub(super) fn view<'m>(&self, memory: &'m GuestMemoryMmap) -> Result<View<'m>> {
        let part = |at: u64, len: usize| memory.get_slice(GuestAddress(at), len);
        let size = usize::from(self.size);
        Ok(View {
            descriptors: part(self.descriptors, 16 * size)?,
            available: part(self.available, 6 + 2 * size)?,
            used: part(self.used, 6 + 8 * size)?,
        })
    }

    /// Has all that wait fail.
    pub(super) fn fail(&self, jobs: &[Mailbox]) {
        self.has_failed.store(true, Ordering::SeqCst);
        let _full = self.call.write(1);
        jobs.iter().for_each(Mailbox::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers the chain of `count` descriptors at `table` as number `slot`, and kicks if the device asks for it.
    pub(super) fn offer(
        &self,
        view: &View<'_>,
        slot: usize,
        table: u64,
        count: usize,
    ) -> Result<()> {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&table.to_le_bytes());
        descriptor[8..12].copy_from_slice(&(16 * count as u32).to_le_bytes());
        descriptor[12..14].copy_from_slice(&INDIRECT.to_le_bytes());
        let is_wanted = {
            let mut state = self.lock();
            view.descriptors.write_slice(&descriptor, 16 * slot)?;
            let index = state.next_available;
            let entry = 4 + 2 * usize::from(index % self.size);
            view.available
                .store(slot as u16, entry, Ordering::Relaxed)?;
            state.next_available = index.wrapping_add(1);
            view.available
                .store(state.next_available, 2, Ordering::Release)?;
            fence(Ordering::SeqCst);
            let event = 4 + 8 * usize::from(self.size);
            let event: u16 = view.used.load(event, Ordering::Relaxed)?;
            index == event
        };
        if is_wanted {
            self.kick.write(1)?;
        }
        Ok(())
    }

    /// Gives `deliver` each chain that came back, until there is none and the device is to call for the next.
    fn reap(
        &self,
        view: &View<'_>,
        state: &mut State,
        mut deliver: impl FnMut(usize),
    ) -> Result<()> {
        loop {
            while view.used.load::<u16>(2, Ordering::Acquire)? != state.last_used {
                let entry = 4 + 8 * usize::from(state.last_used % self.size);
                deliver(view.used.load::<u32>(entry, Ordering::Relaxed)? as usize);
                state.last_used = state.last_used.wrapping_add(1);
            }
            let event = 4 + 2 * usize::from(self.size);
            view.available
                .store(state.last_used, event, Ordering::Relaxed)?;
            fence(Ordering::SeqCst);
            if view.used.load::<u16>(2, Ordering::Acquire)? == state.last_used {
                return Ok(());
            }
        }
    }

    /// Waits until slots of `job` are done, of which each job has `depth`; their bits.
    pub(super) fn wait(
        &self,
        view: &View<'_>,
        jobs: &[Mailbox],
        job: usize,
        depth: usize,
    ) -> Result<u64> {
        let mine = &jobs[job].done;
        let mut state = self.lock();
        loop {
            let mut told = Vec::new();
            self.reap(view, &mut state, |slot| {
                let (owner, bit) = (slot / depth, slot % depth);
                jobs[owner].done.fetch_or(1 << bit, Ordering::SeqCst);
                if owner != job {
                    told.push(owner);
                }
            })?;
            state.parked.retain(|parked| !told.contains(parked));
            let done = mine.swap(0, Ordering::SeqCst);
            // Another must hear the next call when this one works.
            let next = match done != 0 && !state.has_listener {
                true => state.parked.pop(),
                false => None,
            };
            let must_listen = done == 0 && !state.has_listener;
            match done == 0 {
                true if must_listen => state.has_listener = true,
                true => state.parked.push(job),
                false => {}
            }
            drop(state);
            told.iter()
                .chain(&next)
                .for_each(|other| jobs[*other].wake());
            if done != 0 {
                return Ok(done);
            }
            if must_listen {
                self.call.read()?;
            } else {
                std::thread::park();
            }
            ensure!(!self.has_failed.load(Ordering::SeqCst), "no answer");
            state = self.lock();
            match must_listen {
                true => state.has_listener = false,
                // Woken for nothing, if it is still there.
                false => state.parked.retain(|parked| *parked != job),
            }
        }
    }
}

impl Mailbox {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
