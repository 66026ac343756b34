//! The inside of a machine: what the first process does to run tests and to be understood.
//!
//! Invariant: nothing here touches the host's files. The root is read-only, and everything that can be
//! written is a tmpfs of the guest's. A first process that returns would be a kernel panic, so
//! [`power_off`] does not return.

use std::io::Write;

use nix::mount::{MsFlags, mount};

use crate::outcome::{END, Mark, START, VERDICT};

/// What a first process has to mount: type, place, and whether it may be there already.
const MOUNTS: &[(&str, &str, bool)] = &[
    ("proc", "/proc", false),
    ("sysfs", "/sys", false),
    ("devtmpfs", "/dev", true),
    ("tmpfs", "/tmp", false),
    ("tmpfs", "/run", false),
];

/// Prepares the guest. Only for the first process of one: on a host it would mount over its directories.
pub fn enter() -> std::io::Result<()> {
    if std::process::id() != 1 {
        return Err(std::io::Error::other(
            "this is not the first process of a guest; `Machine::boot` starts it there",
        ));
    }
    for &(kind, place, may_be_there) in MOUNTS {
        match mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        ) {
            Ok(()) => (),
            Err(nix::errno::Errno::EBUSY) if may_be_there => (),
            Err(errno) => return Err(std::io::Error::other(format!("mounting {place}: {errno}"))),
        }
    }
    Ok(())
}

/// Says that a test begins.
pub fn start(test: &str) {
    say(&format!("{START}{test}"));
}

/// Says how a test ended; `detail` is cut to one line.
pub fn verdict(test: &str, mark: Mark, detail: &str) {
    let detail = detail.replace('\n', "; ");
    say(&format!("{VERDICT}{test} {} {detail}", mark.word()));
}

/// Makes the kernel show the stacks of all blocked tasks, which the host keeps as a report. The kernel's
/// own detector does not see a task whose wait can be ended by a fatal signal.
pub fn show_blocked() -> std::io::Result<()> {
    std::fs::write("/proc/sysrq-trigger", "w")
}

/// Says that all is done, and ends the machine.
pub fn power_off() -> ! {
    say(END);
    if let Err(error) = std::fs::write("/proc/sysrq-trigger", "o") {
        say(&format!("cannot power off ({error}); the deadline will"));
    }
    loop {
        std::thread::park();
    }
}

/// A line to the console. Where that fails there is nobody to tell; the machine takes it for silence.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    #[test]
    fn enter_outside_of_a_guest_is_refused() {
        assert!(
            super::enter()
                .unwrap_err()
                .to_string()
                .contains("not the first process")
        );
    }
}
