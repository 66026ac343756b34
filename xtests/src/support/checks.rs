//! What tests make sure of again and again, with what was found instead in the error.

use std::fmt::{Debug, Display};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};

use super::skip::Outcome;

/// A value is the wanted one.
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers compare what calls return"
)]
pub fn equal<T: Debug + PartialEq>(what: impl Display, got: T, wanted: T) -> Outcome {
    ensure!(got == wanted, "{what}: {got:?} and not {wanted:?}");
    Ok(())
}

/// A text contains another.
pub fn mentions(text: &str, wanted: &str) -> Outcome {
    ensure!(text.contains(wanted), "no {wanted} in: {text}");
    Ok(())
}

/// Bytes are the wanted ones.
pub fn same_bytes(what: impl Display, got: impl AsRef<[u8]>, wanted: impl AsRef<[u8]>) -> Outcome {
    let (got, wanted) = (got.as_ref(), wanted.as_ref());
    let differs = got
        .iter()
        .zip(wanted)
        .position(|(got, wanted)| got != wanted);
    if let Some(at) = differs {
        let (got, wanted) = (got[at], wanted[at]);
        anyhow::bail!("{what}: byte {at} is {got} and not {wanted}");
    }
    equal(format!("{what}: its length"), got.len(), wanted.len())
}

/// A file has these bytes and no others.
pub fn holds(path: impl AsRef<Path>, wanted: impl AsRef<[u8]>) -> Outcome {
    let name = path.as_ref().display();
    let got = std::fs::read(path.as_ref()).with_context(|| format!("read {name}"))?;
    same_bytes(name, got, wanted)
}

/// A file has these permissions, set-uid, set-gid and sticky included.
pub fn has_mode(path: impl AsRef<Path>, wanted: u32) -> Outcome {
    let name = path.as_ref().display();
    let got = path.as_ref().metadata()?.mode() & 0o7777;
    ensure!(got == wanted, "{name}: mode {got:o} and not {wanted:o}");
    Ok(())
}
