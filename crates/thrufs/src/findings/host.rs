//! What this machine has that mounts need, and what it lacks.
//!
//! Invariant: [`Facts::probe`] tries what a mount would do (opens /dev/fuse, makes a user namespace in a child) instead of
//! guessing by versions or packages, changes nothing, and waits for no file system. What cannot be found out is none.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use thrufs_sys::fork::{Side, fork};

use super::kernel::{self, Version};
use super::limits::{Limits, field};
use super::{Finding, Severity};
use crate::mount::fusermount;
use crate::units::bytes;
use crate::user;

/// The helper of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Helper {
    path: PathBuf,
    /// The helper runs as root, whichever user starts it.
    is_set_uid_root: bool,
    /// The file system that it is on takes set-uid bits for nothing.
    is_on_nosuid: bool,
}

/// What was found out.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    is_root: bool,
    /// open(2) of /dev/fuse.
    fuse_device: Result<(), Errno>,
    helper: Option<Helper>,
    /// This process and its children gain nothing from set-uid bits (prctl(2), PR_SET_NO_NEW_PRIVS).
    no_new_privs: bool,
    /// The content of /etc/fuse.conf.
    fuse_conf: Option<String>,
    kernel: Option<Version>,
    /// /sys/fs/fuse/connections is there.
    has_connections: bool,
    max_pages_limit: Option<u64>,
    /// The fuse module's parameter enable_uring.
    uring: Option<bool>,
    /// unshare(2), first of users and then of mounts.
    user_namespace: Option<Result<(), Errno>>,
    limits: Limits,
}

impl Facts {
    /// Looks at this machine, for this user. This process must have one thread.
    pub(crate) fn probe() -> Self {
        Self {
            is_root: user::is_root(),
            fuse_device: open_fuse_device(),
            helper: helper(),
            no_new_privs: field("/proc/self/status", "NoNewPrivs:").is_some_and(|set| set == "1"),
            fuse_conf: std::fs::read_to_string("/etc/fuse.conf").ok(),
            kernel: Version::running(),
            // Empty where fusectl is not mounted: it is a directory of sysfs then.
            has_connections: thrufs_sys::mountinfo::all()
                .is_ok_and(|all| all.iter().any(|mount| mount.fs_type == "fusectl")),
            max_pages_limit: thrufs_fs::max_pages_limit(),
            uring: std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring")
                .ok()
                .map(|value| value.trim() == "Y"),
            user_namespace: try_user_namespace(),
            limits: Limits::read(),
        }
    }

    /// All findings of this machine.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut found = vec![self.device()];
        found.extend(self.helper_findings());
        found.push(self.allow_other());
        found.extend(self.kernel_findings());
        found.push(self.connections());
        found.push(self.namespaces());
        found.extend(self.limits.findings(self.is_root));
        found
    }

    fn device(&self) -> Finding {
        let check = "fuse-device";
        let errno = match self.fuse_device {
            Ok(()) => return Finding::ok(check, "/dev/fuse can be opened"),
            Err(errno) => errno,
        };
        let remedy = match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => {
                "load the kernel module (`modprobe fuse`), or give the container /dev/fuse (`--device /dev/fuse`)"
            }
            Errno::ACCESS => "`chmod 0666 /dev/fuse` as root (udev's default)",
            Errno::PERM => {
                "allow the container the device 10:229 (`--device /dev/fuse`, DeviceAllow=/dev/fuse)"
            }
            _other => "see the system log",
        };
        let what = format!("/dev/fuse cannot be opened: {errno}");
        let why = "nothing can be mounted";
        Finding::new(Severity::Error, check, (what, why, remedy))
    }

    fn helper_findings(&self) -> Vec<Finding> {
        let check = "fusermount3";
        // Root mounts without.
        let severity = match self.is_root {
            true => Severity::Note,
            false => Severity::Error,
        };
        let why = "users other than root cannot mount";
        let problem = |what: String, remedy: &str| {
            vec![Finding::new(
                severity,
                check,
                (what, why, remedy.to_owned()),
            )]
        };
        let Some(helper) = &self.helper else {
            let remedy =
                "install it (Debian, Ubuntu: `apt-get install fuse3`; Fedora: `dnf install fuse3`)";
            return problem("fusermount3 is not installed".to_owned(), remedy);
        };
        let path = helper.path.display();
        if !helper.is_set_uid_root {
            let remedy = format!("`chown root {path}; chmod u+s {path}`");
            return problem(format!("{path} is not set-uid root"), &remedy);
        }
        if helper.is_on_nosuid {
            let remedy =
                "mount that file system without nosuid, or install fusermount3 on another one";
            return problem(format!("{path} is on a file system with nosuid"), remedy);
        }
        if self.no_new_privs && !self.is_root {
            let remedy = "start it without no_new_privs (NoNewPrivileges=no in a unit, no \
                `--security-opt=no-new-privileges` of a container)";
            return problem(
                format!("{path} gains no privilege here: no_new_privs is set"),
                remedy,
            );
        }
        vec![Finding::ok(check, format!("{path} is set-uid root"))]
    }

    fn allow_other(&self) -> Finding {
        let check = "user-allow-other";
        let conf = self.fuse_conf.as_deref().unwrap_or_default();
        let is_set = conf.lines().any(|line| line.trim() == "user_allow_other");
        if is_set {
            let what = "/etc/fuse.conf has user_allow_other";
            return Finding::ok(check, what);
        }
        let what = "/etc/fuse.conf has no line user_allow_other";
        let why = "mounts of users other than root cannot have --allow-other or --allow-root";
        let remedy = "add the line, where users should be able to show their mounts to others";
        Finding::new(Severity::Note, check, (what, why, remedy))
    }

    fn kernel_findings(&self) -> Vec<Finding> {
        let Some(version) = self.kernel else {
            let what = "the kernel does not tell its version";
            let why = "what it has and lacks is not known";
            let remedy = "mount /proc";
            return vec![Finding::new(
                Severity::Warning,
                "kernel-features",
                (what, why, remedy),
            )];
        };
        let mut found = vec![kernel::features(version)];
        found.extend(kernel::of_machine(version));
        if let Some(limit) = self.max_pages_limit {
            let what = format!(
                "fs.fuse.max_pages_limit is {limit}: requests of up to {}",
                bytes(limit.saturating_mul(4096))
            );
            found.push(Finding::ok("max-pages-limit", what));
        }
        if let Some(is_on) = self.uring {
            let state = if is_on { "on" } else { "off" };
            let what =
                format!("FUSE over io_uring is {state} (enable_uring); thrufs does not use it");
            found.push(Finding::ok("fuse-uring", what));
        }
        found
    }

    fn connections(&self) -> Finding {
        let check = "fuse-connections";
        if self.has_connections {
            return Finding::ok(check, "/sys/fs/fuse/connections is mounted");
        }
        let what = "/sys/fs/fuse/connections is not mounted";
        let why =
            "a mount that hangs cannot be aborted by `echo 1 > /sys/fs/fuse/connections/N/abort`";
        let remedy = "`mount -t fusectl none /sys/fs/fuse/connections` as root";
        Finding::new(Severity::Note, check, (what, why, remedy))
    }

    fn namespaces(&self) -> Finding {
        let check = "user-namespaces";
        let errno = match self.user_namespace {
            Some(Ok(())) => return Finding::ok(check, "user namespaces can be made"),
            None => return Finding::ok(check, "user namespaces were not tried"),
            Some(Err(errno)) => errno,
        };
        // Root's servers are shut in without one.
        let severity = match self.is_root {
            true => Severity::Note,
            false => Severity::Warning,
        };
        let what = format!("user namespaces cannot be made: {errno}");
        let why = "the server of a user's mount, and one with --uid-map, cannot be shut in by --sandbox=namespace";
        let remedy = "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, \
            kernel.apparmor_restrict_unprivileged_userns=0; or --sandbox=none";
        Finding::new(severity, check, (what, why, remedy))
    }
}

fn open_fuse_device() -> Result<(), Errno> {
    // Nothing is mounted by it: what is opened is not connected.
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(drop)
}

fn helper() -> Option<Helper> {
    let path = fusermount::find().ok()?;
    let meta = path.metadata().ok()?;
    let is_on_nosuid = rustix::fs::statvfs(&path)
        .is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::NOSUID));
    Some(Helper {
        is_set_uid_root: meta.uid() == 0 && meta.mode() & 0o4000 != 0,
        is_on_nosuid,
        path,
    })
}

/// Tries it in a child, with a mount namespace as well: Ubuntu lets a user make the first, without the rights in it.
fn try_user_namespace() -> Option<Result<(), Errno>> {
    let child = match fork().ok()? {
        Side::Child => {
            let tried = nix::sched::unshare(CloneFlags::CLONE_NEWUSER)
                .and_then(|()| nix::sched::unshare(CloneFlags::CLONE_NEWNS));
            std::process::exit(tried.map_or_else(|errno| errno as i32, |()| 0))
        }
        Side::Parent(child) => child,
    };
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, 0)) => Some(Ok(())),
        Ok(WaitStatus::Exited(_, errno)) => Some(Err(Errno::from_raw_os_error(errno))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            is_root: false,
            fuse_device: Ok(()),
            helper: Some(Helper {
                path: "/usr/bin/fusermount3".into(),
                is_set_uid_root: true,
                is_on_nosuid: false,
            }),
            no_new_privs: false,
            fuse_conf: Some("# a comment\nuser_allow_other\n".to_owned()),
            kernel: Some(Version(6, 16)),
            has_connections: true,
            max_pages_limit: Some(256),
            uring: Some(false),
            user_namespace: Some(Ok(())),
            limits: Limits::default(),
        }
    }

    /// Those that are not `ok`.
    fn found(facts: &Facts) -> Vec<(&'static str, Severity)> {
        let found = facts.findings().into_iter();
        found
            .filter(|found| found.severity > Severity::Ok)
            .map(|found| (found.check, found.severity))
            .collect()
    }

    #[test]
    fn findings_of_a_machine_that_has_all_are_ok() {
        assert!(found(&facts()).is_empty());
        let checks = facts().findings().len();
        assert!(checks >= 8, "{checks}");
    }

    /// What a machine lacks, the check that tells, and how much it matters to a user and to root.
    type Lack = (fn(&mut Facts), &'static str, Severity, Option<Severity>);

    const LACKS: &[Lack] = {
        use Severity::{Error, Note, Warning};
        &[
            (
                |facts| facts.fuse_device = Err(Errno::NOENT),
                "fuse-device",
                Error,
                Some(Error),
            ),
            (
                |facts| facts.helper = None,
                "fusermount3",
                Error,
                Some(Note),
            ),
            (
                |facts| facts.helper.as_mut().unwrap().is_set_uid_root = false,
                "fusermount3",
                Error,
                Some(Note),
            ),
            (
                |facts| facts.helper.as_mut().unwrap().is_on_nosuid = true,
                "fusermount3",
                Error,
                Some(Note),
            ),
            (
                |facts| facts.no_new_privs = true,
                "fusermount3",
                Error,
                None,
            ),
            (
                |facts| facts.fuse_conf = Some("#user_allow_other".to_owned()),
                "user-allow-other",
                Note,
                Some(Note),
            ),
            (
                |facts| facts.has_connections = false,
                "fuse-connections",
                Note,
                Some(Note),
            ),
            (
                |facts| facts.user_namespace = Some(Err(Errno::PERM)),
                "user-namespaces",
                Warning,
                Some(Note),
            ),
            (
                |facts| facts.kernel = None,
                "kernel-features",
                Warning,
                Some(Warning),
            ),
        ]
    };

    #[test]
    fn findings_of_a_machine_that_lacks_something_name_it_for_users_and_for_root() {
        for &(change, check, for_user, for_root) in LACKS {
            let mut facts = facts();
            change(&mut facts);
            assert_eq!(found(&facts), [(check, for_user)]);
            facts.is_root = true;
            let wanted = for_root.map(|severity| (check, severity));
            let wanted: Vec<_> = wanted.into_iter().collect();
            assert_eq!(found(&facts), wanted, "{check} for root");
        }
    }

    #[test]
    fn device_that_cannot_be_opened_has_the_remedy_of_its_errno() {
        let remedy = |errno| {
            let facts = Facts {
                fuse_device: Err(errno),
                ..facts()
            };
            facts.device().remedy.unwrap()
        };
        assert!(remedy(Errno::NOENT).contains("modprobe"));
        assert!(remedy(Errno::ACCESS).contains("chmod"));
        assert!(remedy(Errno::PERM).contains("DeviceAllow"));
    }
}
