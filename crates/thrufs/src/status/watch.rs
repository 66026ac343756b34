//! `thrufs status --watch`: a table that is drawn again at each interval, until ^C.
//!
//! Plain ANSI: the cursor goes home and each line is overwritten, so nothing flickers and the
//! last table stays on the screen. Where standard output is no terminal the tables follow one
//! another.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Which;
use super::report::Status;
use super::table;
use crate::signals::Signals;
use crate::stdout::{draw, print};

const CLEAR: &str = "\x1b[2J";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
/// Where the terminal does not tell its height.
const ROWS: usize = 24;

/// Puts the cursor back, however the watching ends.
struct Screen;

impl Screen {
    fn open() -> anyhow::Result<Self> {
        draw(&format!("{CLEAR}{HIDE_CURSOR}"))?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no cursor.
        let _ = draw(&format!("{SHOW_CURSOR}\n"));
    }
}

/// Shows `which` until ^C (which is success), or until its daemon is gone (which is not).
pub(super) async fn run(which: &Which, every: Duration, json: bool) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let mut before = which.ask().await?;
    let is_terminal = std::io::stdout().is_terminal() && !json;
    let _screen = is_terminal.then(Screen::open).transpose()?;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once.
    ticks.tick().await;
    loop {
        let now = tokio::select! {
            _ = signals.stop() => return Ok(()),
            now = async { ticks.tick().await; which.ask().await } => now?,
        };
        if json {
            print(&serde_json::to_string(&which.shown(now.clone()))?)?;
        } else {
            show(&before, &now, is_terminal)?;
        }
        before = now;
    }
}

fn show(before: &Status, now: &Status, is_terminal: bool) -> anyhow::Result<()> {
    let lines = table::of_interval(before, now);
    if is_terminal {
        draw(&frame(&lines, rows()))
    } else {
        print(&(lines.join("\n") + "\n"))
    }
}

/// As many lines as fit, so that the terminal does not scroll.
fn frame(lines: &[String], rows: usize) -> String {
    let fitting = lines.iter().take(rows.saturating_sub(1).max(1));
    let drawn: String = fitting.map(|line| format!("{line}\x1b[K\r\n")).collect();
    format!("\x1b[H{drawn}\x1b[J")
}

fn rows() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map_or(ROWS, |size| match size.ws_row {
        0 => ROWS,
        rows => usize::from(rows),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_no_longer_than_the_terminal() {
        let lines: Vec<String> = (0..50).map(|line| line.to_string()).collect();
        let drawn = frame(&lines, 10);
        assert_eq!(drawn.matches("\r\n").count(), 9);
        assert!(drawn.starts_with("\x1b[H0\x1b[K") && drawn.ends_with("\x1b[J"));
    }
}
