//! `--raise-max-pages-limit` and `--request-timeout`: sysctls of fs.fuse that the kernel copies into a
//! connection when INIT is answered, changed while a mount is made.
//!
//! Invariant: each has its former value again as soon as INIT is done, also after an error; mounts that
//! are made at the same time take turns by a lock on the sysctl's file. Why not for the life of the mount: a
//! longer change would serve no purpose, reach mounts of others, and be left behind by a killed daemon.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::fcntl::{Flock, FlockArg};

const DIR: &str = "/proc/sys/fs/fuse";
const PAGE: u64 = 4096;

/// What an option is for.
struct Wish {
    option: &'static str,
    sysctl: &'static str,
    /// Where the kernel lacks it.
    missing: &'static str,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// A larger one is left alone.
    AtLeast(u64),
    Exactly(u64),
}

/// A sysctl has another value while this lives.
#[derive(Debug)]
pub(crate) struct Changed {
    path: PathBuf,
    before: u64,
    /// The sysctl's file; its lock protects the value.
    _lock: Flock<File>,
}

/// Changes what two options ask for: `raise_for` is the max_write in bytes that `--raise-max-pages-limit`
/// makes possible, `request_timeout` in seconds. What is returned puts the values back when it is dropped,
/// for which the time is the end of INIT.
pub(crate) fn change_as_asked(
    raise_for: Option<u32>,
    request_timeout: Option<u16>,
) -> anyhow::Result<Vec<Changed>> {
    let limit = raise_for.map(|max_write| Wish {
        option: "--raise-max-pages-limit",
        sysctl: "max_pages_limit",
        missing: "needs Linux 6.13; before it the limit is 256",
        value: Value::AtLeast(u64::from(max_write).div_ceil(PAGE)),
    });
    let timeout = request_timeout.map(|seconds| Wish {
        option: "--request-timeout",
        sysctl: "default_request_timeout",
        missing: "needs Linux 6.15",
        value: Value::Exactly(seconds.into()),
    });
    let mut changed = Vec::new();
    for wish in limit.iter().chain(&timeout) {
        changed.extend(change(Path::new(DIR), wish)?);
    }
    Ok(changed)
}

fn change(dir: &Path, wish: &Wish) -> anyhow::Result<Option<Changed>> {
    let path = dir.join(wish.sysctl);
    let shown = path.display();
    let file =
        File::open(&path).with_context(|| format!("{}: {shown}: {}", wish.option, wish.missing))?;
    let lock = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_file, errno)| errno)
        .with_context(|| format!("lock {shown}"))?;
    let before = read(&path)?;
    let wanted = match wish.value {
        Value::AtLeast(value) => value.max(before),
        Value::Exactly(value) => value,
    };
    if wanted == before {
        return Ok(None);
    }
    write(&path, wanted).with_context(|| format!("{}: set {shown} to {wanted}", wish.option))?;
    let changed = Changed {
        path: path.clone(),
        before,
        _lock: lock,
    };
    let now = read(&path)?;
    ensure!(now == wanted, "{shown} stays at {now}, not {wanted}");
    tracing::debug!(before, now, "changed fs.fuse.{}", wish.sysctl);
    Ok(Some(changed))
}

impl Drop for Changed {
    fn drop(&mut self) {
        if let Err(error) = write(&self.path, self.before) {
            tracing::error!("{error:#}: set it back to {}", self.before);
        }
    }
}

fn read(sysctl: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(sysctl).with_context(|| sysctl.display().to_string())?;
    let number = text.trim().parse();
    number.with_context(|| format!("{}: no number: {text}", sysctl.display()))
}

fn write(sysctl: &Path, value: u64) -> anyhow::Result<()> {
    std::fs::write(sysctl, value.to_string()).with_context(|| sysctl.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(value: Value) -> Wish {
        Wish {
            option: "--an-option",
            sysctl: "a_sysctl",
            missing: "needs Linux 99",
            value,
        }
    }

    #[test]
    fn change_puts_the_value_back_and_leaves_one_that_is_right_alone() {
        let dir = tempfile::tempdir().unwrap();
        let sysctl = dir.path().join("a_sysctl");
        write(&sysctl, 256).unwrap();
        for (value, during) in [
            (Value::AtLeast(1024), Some(1024)),
            (Value::AtLeast(16), None),
            (Value::Exactly(16), Some(16)),
            (Value::Exactly(256), None),
        ] {
            let changed = change(dir.path(), &wish(value)).unwrap();
            assert_eq!(changed.is_some(), during.is_some(), "{value:?}");
            assert_eq!(read(&sysctl).unwrap(), during.unwrap_or(256), "{value:?}");
            drop(changed);
            assert_eq!(read(&sysctl).unwrap(), 256, "{value:?}");
        }
    }

    #[test]
    fn change_where_the_kernel_lacks_it_says_since_when() {
        let error = change(Path::new("/nonexistent"), &wish(Value::Exactly(1))).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("--an-option"), "{text}");
        assert!(text.contains("needs Linux 99"), "{text}");
    }
}
