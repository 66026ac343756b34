//! How a queue's thread sleeps: one epoll_wait(2) for the driver's kick and for what this process tells it.
//!
//! Invariant: one system call a sleep, and none while the queue is idle. Neither descriptor is read: with
//! EPOLLET each write to an eventfd is an event of its own, whatever its counter says.
//!
//! Why not read(2) of the kick: where the front end has made it non-blocking (QEMU, cloud-hypervisor) that
//! does not sleep, and the flag is the front end's as well.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::ring::RingError;

const KICK: u64 = 0;
const WAKE: u64 = 1;

/// See the module.
pub(super) struct Kick {
    epoll: OwnedFd,
    /// Held, so that a front end that sends another does not close this one.
    kick: Option<Arc<File>>,
}

impl Kick {
    /// Sleeps for `kick`, if there is one, and for `wake`. What was written to them before counts.
    ///
    /// # Errors
    /// There is no descriptor for it, or `kick` is none that can be waited for.
    pub(super) fn new(kick: Option<Arc<File>>, wake: &OwnedFd) -> Result<Self, RingError> {
        let access = |error: Errno| RingError::Access(format!("the kick descriptor: {error}"));
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(access)?;
        let flags = EventFlags::IN | EventFlags::ET;
        if let Some(kick) = &kick {
            epoll::add(&epoll, kick, EventData::new_u64(KICK), flags).map_err(access)?;
        }
        epoll::add(&epoll, wake, EventData::new_u64(WAKE), flags).map_err(access)?;
        Ok(Self { epoll, kick })
    }

    /// The one in `known`, which is made for `kick` if it is for another: a ring that goes on in other memory needs no
    /// descriptor more.
    ///
    /// # Errors
    /// As [`Kick::new`].
    pub(super) fn of<'k>(
        known: &'k mut Option<Self>,
        kick: Option<Arc<File>>,
        wake: &OwnedFd,
    ) -> Result<&'k mut Self, RingError> {
        let is_it =
            |known: &Self| known.kick.as_ref().map(Arc::as_ptr) == kick.as_ref().map(Arc::as_ptr);
        let made = match known.take().filter(is_it) {
            Some(known) => known,
            None => Self::new(kick, wake)?,
        };
        Ok(known.insert(made))
    }

    /// Returns when either was written to since the last return, or at a signal.
    ///
    /// # Errors
    /// The kick's other end is closed, or waiting fails.
    pub(super) fn wait(&mut self) -> Result<(), RingError> {
        let mut room = [MaybeUninit::<Event>::uninit(); 2];
        let events = match epoll::wait(&self.epoll, &mut room, None) {
            Ok((events, _rest)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(RingError::Access(error.to_string())),
        };
        let closed = EventFlags::HUP | EventFlags::ERR;
        // Packed: its fields are copied.
        let is_closed =
            |&Event { flags, data }: &Event| data.u64() == KICK && flags.intersects(closed);
        match events.iter().any(is_closed) {
            true => {
                let closed = "the kick descriptor is closed".to_owned();
                Err(RingError::Access(closed))
            }
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, Timespec, eventfd};

    use super::*;

    const NOW: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };

    fn event(flags: EventfdFlags) -> OwnedFd {
        eventfd(0, flags | EventfdFlags::CLOEXEC).unwrap()
    }

    fn write(to: &OwnedFd) {
        rustix::io::write(to, &1_u64.to_ne_bytes()).unwrap();
    }

    /// A wake-up that got lost would let this test hang.
    #[test]
    fn wait_returns_once_for_each_write_whether_or_not_the_kick_blocks() {
        for flags in [EventfdFlags::empty(), EventfdFlags::NONBLOCK] {
            let (driver, wake) = (event(flags), event(EventfdFlags::NONBLOCK));
            let ours = File::from(driver.try_clone().unwrap());
            let mut kick = Kick::new(Some(Arc::new(ours)), &wake).unwrap();
            for _ in 0..3 {
                write(&driver);
                kick.wait().unwrap();
                write(&wake);
                kick.wait().unwrap();
            }
            let mut room = [MaybeUninit::<Event>::uninit(); 2];
            let (events, _rest) = epoll::wait(&kick.epoll, &mut room, Some(&NOW)).unwrap();
            assert!(events.is_empty(), "an old write counts twice");
        }
    }

    #[test]
    fn new_hears_of_what_was_written_before() {
        let (driver, wake) = (event(EventfdFlags::NONBLOCK), event(EventfdFlags::NONBLOCK));
        write(&driver);
        let kick = Some(Arc::new(File::from(driver)));
        Kick::new(kick, &wake).unwrap().wait().unwrap();
    }

    #[test]
    fn wait_for_a_kick_whose_other_end_is_closed_is_an_error() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let wake = event(EventfdFlags::NONBLOCK);
        let mut kick = Kick::new(Some(Arc::new(File::from(reader))), &wake).unwrap();
        drop(writer);
        assert!(kick.wait().is_err());
    }

    #[test]
    fn new_with_a_kick_that_cannot_be_waited_for_is_an_error() {
        let wake = event(EventfdFlags::NONBLOCK);
        let file = Arc::new(File::open("/dev/null").unwrap());
        assert!(Kick::new(Some(file), &wake).is_err());
    }
}
