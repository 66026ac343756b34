//! What a mount has less of than was asked for, once INIT is answered.
//!
//! Invariant: each is told with the value asked for, what there is, and the remedy. What an option promises
//! only `auto` is not among it.

use std::fmt;

use thrufs_fs::Negotiated;

/// What there is less of, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// All of them.
pub(crate) fn of(negotiated: &Negotiated) -> Vec<Shortfall> {
    let mut told = Vec::new();
    let (asked, granted) = (negotiated.max_write_asked, negotiated.max_write);
    if granted < asked {
        told.push(Shortfall {
            what: format!(
                "--max-write={asked}: the kernel grants {granted}, by fs.fuse.max_pages_limit={}",
                negotiated.max_pages_limit
            ),
            remedy: "raise that sysctl (Linux 6.13), or mount as root with --raise-max-pages-limit"
                .to_owned(),
        });
    }
    // Asked for with --cache=never and metadata only.
    let mmap = "FUSE_DIRECT_IO_ALLOW_MMAP";
    if negotiated.refused.iter().any(|name| name == mmap) {
        told.push(Shortfall {
            what: "--allow-mmap: files under direct I/O cannot be mapped shared".to_owned(),
            remedy: "Linux 6.6 or later, or --cache=auto".to_owned(),
        });
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated() -> Negotiated {
        Negotiated {
            kernel_abi: (7, 45),
            max_write_asked: 1 << 20,
            max_write: 1 << 20,
            max_pages_limit: 256,
            max_readahead: 131_072,
            max_background: 64,
            granted: Vec::new(),
            refused: vec!["FUSE_PASSTHROUGH".to_owned()],
            left_out: Vec::new(),
        }
    }

    #[test]
    fn of_what_was_granted_is_nothing() {
        assert!(of(&negotiated()).is_empty());
    }

    #[test]
    fn of_a_smaller_max_write_names_both_numbers_and_the_remedy() {
        let told = of(&Negotiated {
            max_write_asked: 4 << 20,
            ..negotiated()
        });
        for wanted in [
            "4194304",
            "1048576",
            "max_pages_limit=256",
            "--raise-max-pages-limit",
        ] {
            assert!(told[0].to_string().contains(wanted), "{told:?}");
        }
    }

    #[test]
    fn of_mappings_that_the_kernel_refuses_says_since_when_there_are_some() {
        let told = of(&Negotiated {
            refused: vec!["FUSE_DIRECT_IO_ALLOW_MMAP".to_owned()],
            ..negotiated()
        });
        assert!(
            told[0].what.contains("--allow-mmap") && told[0].remedy.contains("6.6"),
            "{told:?}"
        );
    }
}
