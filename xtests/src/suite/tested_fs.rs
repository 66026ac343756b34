//! Where a suite runs: a scratch mount of thrufs or of a peer, the native directory, or a directory
//! of any mount. Each scratch mount is made for one suite and unmounted after it; a clean unmount
//! is a test of its own, which notices a daemon that a suite has broken.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use super::options::Options;
use super::verdicts::Verdicts;
use crate::support::mount::Mount;
use crate::support::peers::{Kind, Peer};
use crate::support::scratch::{Backing, Scratch};

/// The file system that a suite runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestedFs {
    /// The file system that would hold SOURCE.
    Native,
    /// A scratch mount of thrufs.
    Thrufs,
    /// A scratch mount of a peer.
    Peer(Kind),
    /// A directory on an existing mount.
    Dir(PathBuf),
}

impl FromStr for TestedFs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, Kind::from_str(text, false)) {
            ("native", _) => Ok(Self::Native),
            ("thrufs", _) => Ok(Self::Thrufs),
            (_, Ok(kind)) => Ok(Self::Peer(kind)),
            (dir, Err(_)) if Path::new(dir).is_dir() => Ok(Self::Dir(dir.into())),
            (other, Err(_)) => Err(format!(
                "{other} is no directory, and no peer is called so: it can be native, thrufs, {}, \
                 or a directory of a mount",
                Kind::ALL.map(Kind::name).join(", ")
            )),
        }
    }
}

impl fmt::Display for TestedFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::Thrufs => f.write_str("thrufs"),
            Self::Peer(kind) => f.write_str(kind.name()),
            Self::Dir(dir) => write!(f, "{}", dir.display()),
        }
    }
}

impl TestedFs {
    /// Mounts if necessary, runs `body` in the directory, and unmounts.
    pub(super) fn visit(
        &self,
        backing: Backing,
        limit: Duration,
        options: &Options,
        body: impl FnOnce(&Path) -> Result<Verdicts>,
    ) -> Result<Verdicts> {
        let (mut verdicts, gone) = match self {
            Self::Native => (body(&Scratch::new(backing)?.source())?, None),
            Self::Thrufs => {
                let with: Vec<&str> = options.with.iter().map(String::as_str).collect();
                let mount = Mount::new(backing, &with)?.allow(limit);
                (body(mount.dir())?, Some(mount.unmount()))
            }
            Self::Peer(kind) => {
                let peer = Peer::new(*kind, backing)?.allow(limit);
                (body(&peer.dir())?, Some(peer.unmount()))
            }
            Self::Dir(dir) => {
                let room = tempfile::Builder::new()
                    .prefix("xtests-suite-")
                    .tempdir_in(dir)?;
                (body(room.path())?, None)
            }
        };
        if let Some(outcome) = gone {
            verdicts.insert("unmount".to_owned(), outcome.into());
        }
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_of_a_peers_name_is_that_peer() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(TestedFs::Peer(kind)));
        }
        assert_eq!("thrufs".parse(), Ok(TestedFs::Thrufs));
        assert_eq!("/".parse(), Ok(TestedFs::Dir("/".into())));
        let error = "no-such".parse::<TestedFs>().unwrap_err();
        assert!(error.contains("passthrough_ll, passthrough_hp,"), "{error}");
    }
}
