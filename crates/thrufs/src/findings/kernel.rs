//! What a kernel has and loses, by its version.
//!
//! Invariant: only what no probe can tell goes by the version; what the kernel answered at INIT comes from there
//! ([`super::mount`]). A version says what mainline has: a distribution may have brought a fix to an older one, so a
//! defect is said to be that of the version, with the command that finds it in the kernel itself.
//!
//! Each defect is described in contrib/doc/semantics.md, "What kernels lose".

use std::fmt;
use std::sync::OnceLock;

use super::{Finding, Severity};
use crate::status::report::Status;

/// Major and minor number. Distributions count the rest by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32);

impl Version {
    /// The running kernel's. In a sandbox, where /proc is not there, only if a process that this one was forked from
    /// has asked before.
    pub(crate) fn running() -> Option<Self> {
        static RUNNING: OnceLock<Option<Version>> = OnceLock::new();
        *RUNNING.get_or_init(|| {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
            Self::parse(release.trim())
        })
    }

    /// Reads a release as uname(2) has it, for instance `6.12.95+deb12-cloud-amd64`.
    pub(crate) fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.splitn(3, '.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?;
        let end = minor.find(|c: char| !c.is_ascii_digit());
        let minor = minor[..end.unwrap_or(minor.len())].parse().ok()?;
        Some(Self(major, minor))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}.{}", self.0, self.1)
    }
}

/// What thrufs makes use of, and since when it is there.
const FEATURES: &[(Version, &str)] = &[
    (Version(5, 4), "serving at all (FUSE 7.31)"),
    (
        Version(6, 6),
        "shared mappings under direct I/O (--allow-mmap)",
    ),
    (
        Version(6, 9),
        "kernel passthrough (--passthrough) and resent requests (--survive)",
    ),
    (Version(6, 12), "idmapped mounts (--idmap)"),
    (
        Version(6, 13),
        "requests of more than 256 pages (fs.fuse.max_pages_limit)",
    ),
    (Version(6, 15), "a timeout of requests (--request-timeout)"),
    (
        Version(6, 16),
        "dropping all names at once (NOTIFY_INC_EPOCH, --watch)",
    ),
];

/// What this kernel has of what thrufs makes use of.
pub(crate) fn features(version: Version) -> Finding {
    let missing: Vec<String> = FEATURES
        .iter()
        .filter(|(since, _)| version < *since)
        .map(|(since, what)| format!("{what} since {}.{}", since.0, since.1))
        .collect();
    if missing.is_empty() {
        let what = format!("{version} has all that thrufs makes use of");
        return Finding::ok("kernel-features", what);
    }
    let severity = match version < Version(5, 4) {
        true => Severity::Error,
        false => Severity::Note,
    };
    Finding::new(
        severity,
        "kernel-features",
        (
            format!("{version} lacks {}", missing.join("; ")),
            "what an option asks of a kernel that lacks it is an error, or is left out by `auto`",
            "a newer kernel, where one of these is wanted",
        ),
    )
}

/// Something that a kernel does to any FUSE file system.
struct Defect {
    check: &'static str,
    since: Version,
    /// The first version without it.
    until: Option<Version>,
    what: &'static str,
    why: &'static str,
    remedy: &'static str,
    /// How much it matters to a mount; none if it does not.
    applies: fn(&Status) -> Option<Severity>,
}

const DEFECTS: &[Defect] = &[
    Defect {
        check: "kernel-deadlock",
        since: Version(2, 6),
        until: Some(Version(5, 13)),
        what: "can deadlock in a write(2) of several pages from a mapping (mended in 5.13, and by 5.10.36)",
        why: "the writing process hangs and cannot be killed",
        remedy: "a newer kernel; --one-page-writes does without such requests",
        applies: |_any| Some(Severity::Warning),
    },
    Defect {
        check: "kernel-append-loss",
        since: Version(6, 17),
        until: None,
        what: "loses bytes that are appended while the file's last page is stored to through a shared mapping (R9)",
        why: "the appended bytes become zeros, silently; only programs that map what they append to are affected",
        remedy: "--passthrough=auto as root, --writeback, or --cache=never; `cargo xtests repro --case \
            append-beside-store` finds whether this kernel does it",
        applies: |status| {
            let has = |name| has(status, name);
            let cached = status.snapshot.caches_data == Some(true);
            let passed = status.snapshot.kernel_passthrough.off.is_none();
            match (cached && !has("FUSE_WRITEBACK_CACHE"), passed) {
                (false, _) => None,
                // Those that go through the daemon nevertheless are small.
                (true, true) => Some(Severity::Note),
                (true, false) => Some(Severity::Warning),
            }
        },
    },
    Defect {
        check: "kernel-direct-store",
        since: Version(6, 6),
        until: None,
        what: "undoes a write(2) under direct I/O when a page of it is stored to through a shared mapping (R10)",
        why: "what was written is read back as it was before, silently",
        remedy: "--allow-mmap=no, or --cache=auto; `cargo xtests repro --case write-beside-store` finds whether this \
            kernel does it",
        applies: |status| has(status, "FUSE_DIRECT_IO_ALLOW_MMAP").then_some(Severity::Warning),
    },
    Defect {
        check: "kernel-auto-inval",
        since: Version(2, 6),
        until: None,
        what: "drops a page that a WRITE has just filled, so that a mapping shows old bytes (R7)",
        why: "a load through a mapping gets the bytes of before a write(2)",
        remedy: "--attr-timeout of 0.1 or more, with which the kernel is not asked to invalidate by itself",
        applies: |status| has(status, "FUSE_AUTO_INVAL_DATA").then_some(Severity::Note),
    },
];

fn has(status: &Status, capability: &str) -> bool {
    let negotiated = status.snapshot.negotiated.as_ref();
    negotiated.is_some_and(|negotiated| negotiated.has(capability))
}

/// What the kernel `version` does to a mount. Nothing of a device: its guest's kernel is another one.
pub(crate) fn of_mount(version: Version, status: &Status) -> Vec<Finding> {
    if status.guest.is_some() {
        return Vec::new();
    }
    let of = |defect: &Defect| Some((defect_finding(defect, version), (defect.applies)(status)?));
    in_version(version)
        .filter_map(of)
        .map(|(finding, severity)| Finding {
            severity,
            ..finding
        })
        .collect()
}

/// What the kernel `version` does to mounts of some sort.
pub(crate) fn of_machine(version: Version) -> Vec<Finding> {
    // The others are those of an option, and are told of the mount that has it.
    let of_any = ["kernel-deadlock", "kernel-append-loss"];
    in_version(version)
        .filter(|defect| of_any.contains(&defect.check))
        .map(|defect| defect_finding(defect, version))
        .collect()
}

fn in_version(version: Version) -> impl Iterator<Item = &'static Defect> {
    let is_in = move |defect: &&Defect| {
        defect.since <= version && defect.until.is_none_or(|until| version < until)
    };
    DEFECTS.iter().filter(is_in)
}

fn defect_finding(defect: &Defect, version: Version) -> Finding {
    Finding::new(
        Severity::Note,
        defect.check,
        (
            format!("{version} {}", defect.what),
            defect.why,
            defect.remedy,
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::mount::tests::status;

    #[test]
    fn parse_of_releases_of_distributions_has_two_numbers() {
        for (release, version) in [
            ("6.18.44-fc-v857", Some(Version(6, 18))),
            ("6.1.0-56-cloud-amd64", Some(Version(6, 1))),
            ("7.3-rc1", Some(Version(7, 3))),
            ("6.12", Some(Version(6, 12))),
            ("6", None),
            ("six.1", None),
            ("", None),
            ("6.", None),
        ] {
            assert_eq!(Version::parse(release), version, "{release}");
        }
    }

    #[test]
    fn features_of_an_old_kernel_name_what_is_missing_and_since_when_it_is_there() {
        let old = features(Version(6, 1));
        assert_eq!(old.severity, Severity::Note);
        assert!(old.what.contains("kernel passthrough (--passthrough) and"));
        assert!(old.what.contains("since 6.9"), "{}", old.what);
        assert!(!old.what.contains("FUSE 7.31"), "{}", old.what);
        assert_eq!(features(Version(7, 3)).severity, Severity::Ok);
        assert_eq!(features(Version(4, 19)).severity, Severity::Error);
    }

    fn checks(version: Version, status: &Status) -> Vec<(&'static str, Severity)> {
        let found = of_mount(version, status).into_iter();
        found.map(|found| (found.check, found.severity)).collect()
    }

    #[test]
    fn of_mount_with_cached_data_appends_are_lost_since_6_17() {
        let mut status = status();
        status.snapshot.kernel_passthrough.off = Some("only root".to_owned());
        let lost = [("kernel-append-loss", Severity::Warning)];
        assert_eq!(checks(Version(6, 17), &status), lost);
        assert!(checks(Version(6, 16), &status).is_empty());
        status.snapshot.kernel_passthrough.off = None;
        let seldom = [("kernel-append-loss", Severity::Note)];
        assert_eq!(checks(Version(7, 3), &status), seldom);
        status.snapshot.caches_data = Some(false);
        assert!(checks(Version(7, 3), &status).is_empty());
    }

    #[test]
    fn of_mount_goes_by_what_was_negotiated() {
        let mut status = status();
        let negotiated = status.snapshot.negotiated.as_mut().unwrap();
        negotiated.granted = vec!["FUSE_WRITEBACK_CACHE".to_owned()];
        assert!(checks(Version(6, 18), &status).is_empty());
        let negotiated = status.snapshot.negotiated.as_mut().unwrap();
        negotiated.granted = vec!["FUSE_DIRECT_IO_ALLOW_MMAP".to_owned()];
        status.snapshot.caches_data = Some(false);
        let undone = [("kernel-direct-store", Severity::Warning)];
        assert_eq!(checks(Version(6, 6), &status), undone);
        assert_eq!(
            checks(Version(5, 12), &status),
            [("kernel-deadlock", Severity::Warning)]
        );
    }

    #[test]
    fn of_machine_tells_of_defects_that_need_no_option() {
        let named = |version| -> Vec<_> {
            let found = of_machine(version).into_iter();
            found.map(|found| found.check).collect()
        };
        assert_eq!(named(Version(6, 18)), ["kernel-append-loss"]);
        assert_eq!(named(Version(5, 12)), ["kernel-deadlock"]);
        assert!(named(Version(6, 12)).is_empty());
    }
}
