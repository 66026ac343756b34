//! What a question works with: a mount of its own, and a client with a deadline.

use std::path::Path;
use std::time::Duration;

use super::client::Client;
use super::server::{Mounted, Options};

/// What a question works with.
pub(crate) struct Context<'a> {
    pub(crate) scratch: &'a Path,
    pub(crate) limit: Duration,
}

impl Context<'_> {
    /// A fresh mount.
    pub(crate) fn mount(&self, options: Options) -> anyhow::Result<Mounted> {
        Mounted::new(
            &self
                .scratch
                .join(format!("xtests-probe-{}", std::process::id())),
            options,
        )
    }

    /// A client with the file open.
    pub(crate) fn client(&self, mounted: &Mounted, name: &str) -> anyhow::Result<Client> {
        Client::open(&mounted.path.join(name), self.limit)
    }
}
