//! `--read-ahead`: how far the kernel reads ahead in the files of a mount, and so how large a READ is.
//!
//! The mount has a value of its own, which begins with 128 KiB and goes with it: nothing is put back. INIT can only
//! lower it, and does when it is answered (`process_init_reply`), so it is set after that. A file that is open by then
//! keeps the former one (`file_ra_state_init`).

use anyhow::Context;

/// Sets the value of the mount on `device`, which is `major:minor`, to `bytes`.
pub(crate) fn set(device: &str, bytes: u32) -> anyhow::Result<()> {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let written = std::fs::write(&path, (bytes / 1024).to_string());
    written.with_context(|| format!("--read-ahead={bytes}: {path}: leave it out"))
}
