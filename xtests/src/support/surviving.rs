//! A mount that outlives its server.

use anyhow::Result;

use super::mount::{Mount, is_default_run};
use super::scratch::{Backing, Scratch};
use super::skip::missing;

/// What makes it one, where data go through the server, which may die as often as it does.
pub const SURVIVE: [&str; 4] = [
    "--transport=device",
    "--passthrough=never",
    "--survive=always",
    "--survive-deaths=1000000",
];

/// One with these options as well. Once in a run of the tier: what its other runs set makes no difference, and deaths and
/// hand-overs take their time.
///
/// # Errors
/// It cannot be made here, or this is another run.
pub fn mounted(backing: Backing, options: &[&str]) -> Result<Mount> {
    if !is_default_run() {
        return Err(missing(
            "nothing: a mount that outlives its server is tested once, with the defaults",
        ));
    }
    let options: Vec<&str> = SURVIVE.iter().chain(options).copied().collect();
    let m = Mount::of(Scratch::new(backing)?, &options)?;
    m.require_mount()?;
    Ok(m)
}
