//! The terminal of `thrufs top`: drawn over, read from by the key, and left as it was.
//!
//! Invariant: the terminal has its modes, its cursor and its old content again however the program ends: at the end, by an
//! error, by SIGTERM, by ^C (a key here), by a panic, and while it is suspended (^Z). Only SIGKILL leaves it: `reset`.
//! Keys are waited for without a thread, since [`crate::status`] forks.

use std::collections::VecDeque;
use std::io::Stdin;

use anyhow::Context;
use nix::sys::signal::{Signal, raise};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::table::{By, Sort};
use crate::stdout::draw;

/// Another screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
/// The first screen, with its cursor.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Where the terminal does not tell.
const SIZE: (usize, usize) = (24, 80);

/// The terminal, while it is ours.
pub(super) struct Screen {
    before: Termios,
}

impl Screen {
    pub(super) fn open() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("the terminal's modes")?;
        let for_hook = before.clone();
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // The message would go with the other screen.
            leave(&for_hook);
            shown(panic);
        }));
        let screen = Self { before };
        screen.enter()?;
        Ok(screen)
    }

    fn enter(&self) -> anyhow::Result<()> {
        let mut modes = self.before.clone();
        // ^C and ^Z come as keys, so that the screen is left first.
        modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(std::io::stdin(), OptionalActions::Now, &modes)
            .context("set the terminal's modes")?;
        draw(ENTER)
    }

    /// Stops this process until it goes on in the foreground.
    pub(super) fn suspend(&mut self) -> anyhow::Result<()> {
        leave(&self.before);
        raise(Signal::SIGTSTP).context("stop")?;
        self.enter()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave(&self.before);
    }
}

fn leave(before: &Termios) {
    // A terminal that is gone has no modes.
    let _gone = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
    let _gone = draw(LEAVE);
}

/// As much as fits, drawn over what was there.
pub(super) fn frame(lines: &[String]) -> String {
    let (rows, columns) = match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            (usize::from(size.ws_row), usize::from(size.ws_col))
        }
        _unknown => SIZE,
    };
    fitted(lines, rows, columns)
}

fn fitted(lines: &[String], rows: usize, columns: usize) -> String {
    let fitting = lines.iter().take(rows.saturating_sub(1).max(1));
    let drawn: String = fitting
        .map(|line| {
            let line: String = line.chars().take(columns).collect();
            format!("{line}\x1b[K\r\n")
        })
        .collect();
    format!("\x1b[H{drawn}\x1b[J")
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Suspend,
    Sort(Sort),
    By(By),
    Other,
}

impl Key {
    fn of(byte: u8) -> Self {
        match byte {
            // ^C and ^D as well.
            b'q' | b'Q' | 3 | 4 => Self::Quit,
            // ^Z
            26 => Self::Suspend,
            b'r' => Self::Sort(Sort::Requests),
            b'b' => Self::Sort(Sort::Bytes),
            b'l' => Self::Sort(Sort::Latency),
            b'n' => Self::Sort(Sort::Name),
            b'p' => Self::By(By::Process),
            b'o' => Self::By(By::Opcode),
            _ => Self::Other,
        }
    }
}

/// Keys that are typed.
pub(super) struct Keys {
    stdin: AsyncFd<Stdin>,
    typed: VecDeque<u8>,
}

impl Keys {
    /// Needs a tokio runtime, and a terminal as standard input.
    #[allow(
        deprecated,
        reason = "the one that is not is unsafe; standard input stays open and the same"
    )]
    pub(super) fn open() -> anyhow::Result<Self> {
        let stdin = AsyncFd::with_interest(std::io::stdin(), Interest::READABLE);
        Ok(Self {
            stdin: stdin.context("wait for keys")?,
            typed: VecDeque::new(),
        })
    }

    /// Waits for the next one. A terminal that is gone quits.
    pub(super) async fn next(&mut self) -> anyhow::Result<Key> {
        loop {
            if let Some(byte) = self.typed.pop_front() {
                return Ok(Key::of(byte));
            }
            let mut ready = self.stdin.readable().await.context("wait for keys")?;
            let mut bytes = [0; 64];
            let read = read_at_once(ready.get_inner(), &mut bytes);
            // Readiness is told once for all that is there.
            if !matches!(read, Ok(Some(64))) {
                ready.clear_ready();
            }
            match read {
                Ok(Some(0)) | Err(Errno::IO) => return Ok(Key::Quit),
                Ok(Some(count)) => self.typed.extend(&bytes[..count]),
                Ok(None) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("read from the terminal"),
            }
        }
    }
}

/// None if there is nothing. The descriptor is shared with the shell, and therefore not made one that does not block.
fn read_at_once(stdin: &Stdin, bytes: &mut [u8]) -> rustix::io::Result<Option<usize>> {
    let mut fds = [PollFd::new(stdin, PollFlags::IN)];
    let now = Timespec::default();
    match rustix::event::poll(&mut fds, Some(&now))? {
        0 => Ok(None),
        _ => rustix::io::read(stdin, bytes).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitted_lines_are_no_wider_and_no_more_than_the_terminal() {
        let lines = vec!["µ".repeat(100); 50];
        let drawn = fitted(&lines, 10, 20);
        assert_eq!(drawn.matches("\r\n").count(), 9);
        assert!(drawn.contains(&format!("{}\x1b[K", "µ".repeat(20))));
        assert!(!drawn.contains(&"µ".repeat(21)));
        assert_eq!(fitted(&lines, 0, 0).matches("\r\n").count(), 1);
    }

    #[test]
    fn key_of_a_byte_that_means_nothing_does_nothing() {
        assert_eq!(Key::of(b'q'), Key::Quit);
        assert_eq!(Key::of(3), Key::Quit);
        assert_eq!(Key::of(b'b'), Key::Sort(Sort::Bytes));
        assert_eq!(Key::of(0x1b), Key::Other);
    }
}
