//! What INIT agreed on, as the file system and its operators see it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What INIT agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// Protocol version of the kernel.
    pub kernel_abi: (u32, u32),
    /// Largest WRITE asked for, in bytes.
    pub max_write_asked: u32,
    /// Largest WRITE that comes: what was asked for, within the kernel's pages limit.
    pub max_write: u32,
    /// Pages that the kernel allows in one request (fs.fuse.max_pages_limit).
    pub max_pages_limit: u64,
    /// Bytes that the kernel reads ahead at most.
    pub max_readahead: u32,
    /// Requests in the background at most.
    pub max_background: u16,
    /// Names of the capabilities that are on.
    pub granted: Vec<String>,
    /// Names of those that were wanted and that this kernel does not have.
    pub refused: Vec<String>,
    /// Names of those that `--without` leaves out.
    #[serde(default)]
    pub left_out: Vec<String>,
}

impl Negotiated {
    /// Whether the capability of this name (`FUSE_...`) is on.
    pub fn has(&self, name: &str) -> bool {
        self.granted.iter().any(|granted| granted == name)
    }
}

impl fmt::Display for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "protocol        {}.{}",
            self.kernel_abi.0, self.kernel_abi.1
        )?;
        writeln!(
            f,
            "max_write       {} (asked for {}; the kernel's limit is {} pages)",
            self.max_write, self.max_write_asked, self.max_pages_limit
        )?;
        writeln!(f, "max_readahead   {}", self.max_readahead)?;
        writeln!(f, "max_background  {}", self.max_background)?;
        write!(f, "capabilities    {}", self.granted.join(" "))?;
        for (what, names) in [
            ("not offered", &self.refused),
            ("--without", &self.left_out),
        ] {
            if !names.is_empty() {
                write!(f, "\n{what:<15} {}", names.join(" "))?;
            }
        }
        Ok(())
    }
}
