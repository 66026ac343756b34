//! The options that say how far the serving process is shut in. Names and values are virtiofsd's.

use super::values::{Choices, choice};
#[cfg(feature = "break-out")]
use crate::sandbox::breakout::BreakOut;
use crate::sandbox::capabilities::ModCaps;
use crate::sandbox::id_range::IdRange;
use crate::sandbox::plan::{Sandbox, SandboxPlan};
use crate::sandbox::seccomp::Seccomp;

/// What a compromised daemon could still reach.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct SandboxOptions {
    /// Where the serving process is shut in: namespace = namespaces of its own with SOURCE as root,
    /// chroot = SOURCE as root, none [default: for root namespace, or what the machine allows of it;
    /// for a user none]
    #[arg(long, value_name = "HOW", value_parser = choice(SANDBOX))]
    pub(crate) sandbox: Option<Sandbox>,
    /// What happens to it at a system call that serving needs not: kill = it ends, trap = SIGSYS,
    /// log = the kernel's log, none = nothing is filtered
    #[arg(long, value_name = "WHAT", default_value = "kill", value_parser = choice(SECCOMP))]
    pub(crate) seccomp: Seccomp,
    /// Capabilities to keep (+) or drop (-) beside those that serving needs, such as +sys_admin:-mknod
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub(crate) modcaps: Option<ModCaps>,
    /// Serve in a user namespace with these users, :INSIDE:OUTSIDE:COUNT: (needs
    /// --sandbox=namespace) [default for a user: itself]
    #[arg(long, value_name = "MAP")]
    pub(crate) uid_map: Option<IdRange>,
    /// The same for groups
    #[arg(long, value_name = "MAP")]
    pub(crate) gid_map: Option<IdRange>,
    #[cfg(feature = "break-out")]
    /// For tests: try to get out of the sandbox, in place of serving
    #[arg(long, value_name = "ATTEMPT", hide = true)]
    pub(crate) break_out: Option<BreakOut>,
}

const SANDBOX: Choices<Sandbox> = &[
    ("namespace", Sandbox::Namespace),
    ("chroot", Sandbox::Chroot),
    ("none", Sandbox::None),
];
const SECCOMP: Choices<Seccomp> = &[
    ("kill", Seccomp::Kill),
    ("log", Seccomp::Log),
    ("trap", Seccomp::Trap),
    ("none", Seccomp::None),
];

impl SandboxOptions {
    /// One validated whole.
    pub(crate) fn plan(
        self,
        is_root: bool,
        allow_root: bool,
        clone_fd: bool,
    ) -> Result<SandboxPlan, String> {
        let has_map = self.uid_map.is_some() || self.gid_map.is_some();
        if has_map && allow_root {
            return Err(
                "--allow-root excludes --uid-map and --gid-map, since the daemon cannot tell who \
                 is root: leave one out, or use --allow-other"
                    .to_owned(),
            );
        }
        if has_map && matches!(self.sandbox, Some(Sandbox::Chroot | Sandbox::None)) {
            return Err(
                "--uid-map and --gid-map need a user namespace: use --sandbox=namespace".to_owned(),
            );
        }
        if self.sandbox == Some(Sandbox::Chroot) && !is_root {
            return Err("--sandbox=chroot needs root: use --sandbox=namespace or none".to_owned());
        }
        if clone_fd && (has_map || !matches!(self.sandbox, None | Some(Sandbox::None))) {
            return Err(
                "--clone-fd opens /dev/fuse again, which cannot be reached in a sandbox: use \
                 --sandbox=none, or leave --clone-fd out"
                    .to_owned(),
            );
        }
        let is_user_unconfined = !is_root && !has_map && self.sandbox != Some(Sandbox::Namespace);
        if self.modcaps.is_some() && is_user_unconfined {
            return Err(
                "--modcaps needs root, or --sandbox=namespace: a user's daemon has no capabilities \
                 to keep or drop"
                    .to_owned(),
            );
        }
        let candidates: &[Sandbox] = match self.sandbox {
            Some(Sandbox::Namespace) => &[Sandbox::Namespace],
            Some(Sandbox::Chroot) => &[Sandbox::Chroot],
            Some(Sandbox::None) => &[Sandbox::None],
            None if has_map => &[Sandbox::Namespace],
            None if is_root && !clone_fd => &[Sandbox::Namespace, Sandbox::Chroot, Sandbox::None],
            // In a user namespace the files of other users have no owner (the overflow id).
            None => &[Sandbox::None],
        };
        Ok(SandboxPlan {
            candidates,
            seccomp: self.seccomp,
            modcaps: self.modcaps.unwrap_or_default(),
            uid_map: self.uid_map,
            gid_map: self.gid_map,
            restarts: false,
            #[cfg(feature = "break-out")]
            break_out: self.break_out,
        })
    }
}
