//! What becomes of SOURCE outside while it is served: removed, renamed, unmounted, covered by another
//! mount; and which mounts below it the sandbox holds on to although they are gone outside.
//!
//! Invariant: nothing is asked of a file system. SOURCE's path may lead through the mount itself, or
//! through a file system that hangs, so it is not walked: what the kernel says of a descriptor that is held
//! (/proc/self/fd) and of the mounts (/proc/PID/mountinfo) is compared.

use std::borrow::Cow;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thrufs_sys::mountinfo::{self, MountEntry};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// How SOURCE is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceState {
    /// What is wrong with it, as a phrase that follows `SOURCE`.
    pub(crate) trouble: Option<String>,
    /// What is unmounted below SOURCE outside stays mounted in the sandbox.
    #[serde(default)]
    pub(crate) is_private: bool,
    /// Paths from SOURCE of such mounts.
    #[serde(default)]
    pub(crate) held: Vec<String>,
}

/// Where [`Reporter`](crate::status::Reporter) has it from.
#[derive(Clone)]
pub(crate) struct SourceView(Arc<dyn Fn() -> SourceState + Send + Sync>);

impl SourceView {
    pub(crate) fn new(look: impl Fn() -> SourceState + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    pub(crate) fn now(&self) -> SourceState {
        (self.0)()
    }
}

impl fmt::Debug for SourceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceView")
    }
}

/// Looks at `held` now and then, and warns when it is in trouble, once for each.
pub(crate) async fn watch(held: Arc<HeldSource>) {
    let mut told = None;
    loop {
        let trouble = held.state().trouble;
        if let Some(trouble) = trouble.as_ref().filter(|_| trouble != told) {
            tracing::warn!("SOURCE {} {trouble}", held.path.display());
        }
        told = trouble;
        tokio::time::sleep(LOOK).await;
    }
}

/// SOURCE, held by this process.
#[derive(Debug)]
pub(crate) struct HeldSource {
    source: OwnedFd,
    path: PathBuf,
    mount_id: Option<u64>,
    /// The device of thrufs's own mount, which may cover SOURCE.
    own_device: String,
    copies: Copies,
}

/// The copies of the mounts of SOURCE that a sandbox has.
#[derive(Debug)]
pub(crate) enum Copies {
    /// There is no sandbox.
    None,
    /// In the mount namespace of this process, where they follow those outside if these are shared.
    Namespace(Arc<AtomicI32>),
    /// In no namespace, where nothing shows and nothing follows: as they were at the start.
    Chroot(Vec<MountEntry>),
}

impl Copies {
    /// Those in a detached tree. To be called when it has been made.
    pub(crate) fn of_now() -> Self {
        Self::Chroot(mountinfo::all().unwrap_or_default())
    }
}

impl HeldSource {
    /// `source` is O_PATH on it.
    pub(crate) fn new(source: OwnedFd, own_device: String, copies: Copies) -> Self {
        let path = path_of(&source).unwrap_or_default();
        let mount_id = mountinfo::mount_id(&source).ok();
        Self {
            source,
            path,
            mount_id,
            own_device,
            copies,
        }
    }

    /// How it is now.
    pub(crate) fn state(&self) -> SourceState {
        let Ok(mounts) = mountinfo::all() else {
            return SourceState::default();
        };
        SourceState {
            trouble: self.trouble(&mounts),
            is_private: self.is_private(&mounts),
            held: self.held(&mounts),
        }
    }

    fn trouble(&self, mounts: &[MountEntry]) -> Option<String> {
        let is_own = |mount: &&MountEntry| Some(mount.mount_id) == self.mount_id;
        if !mounts.iter().any(|mount| is_own(&mount)) {
            return Some("was unmounted: what is served is no longer mounted there".to_owned());
        }
        let now = path_of(&self.source)?;
        if now != self.path {
            return Some(match now.as_os_str().as_bytes().ends_with(b" (deleted)") {
                true => "was removed".to_owned(),
                false => format!("was renamed: what is served is now {}", now.display()),
            });
        }
        let covers = at(mounts, &self.path).filter(|mount| !is_own(mount))?;
        (covers.device != self.own_device).then(|| {
            format!(
                "is covered by the {} mount at {}: what lies below that is served",
                covers.fs_type,
                covers.mount_point.display()
            )
        })
    }

    /// Whether the sandbox is told nothing of what is mounted and unmounted below SOURCE.
    fn is_private(&self, mounts: &[MountEntry]) -> bool {
        let own = |mount: &&MountEntry| Some(mount.mount_id) == self.mount_id;
        match self.copies {
            Copies::None => false,
            Copies::Namespace(_) => mounts.iter().find(own).is_some_and(|own| !own.is_shared),
            Copies::Chroot(_) => true,
        }
    }

    fn held(&self, mounts: &[MountEntry]) -> Vec<String> {
        // Paths inside begin at SOURCE.
        let (inside, top) = match &self.copies {
            Copies::None => return Vec::new(),
            Copies::Namespace(pid) => {
                let pid = pid.load(Ordering::Relaxed);
                let inside = mountinfo::of_process(pid).unwrap_or_default();
                (Cow::Owned(inside), Path::new("/"))
            }
            Copies::Chroot(inside) => (Cow::Borrowed(inside), &*self.path),
        };
        let is_outside = |held: &MountEntry, place: &Path| {
            let mut there = mounts.iter().filter(|mount| mount.mount_point == place);
            there.any(|mount| mount.device == held.device)
        };
        inside
            .iter()
            .filter_map(|held| {
                let below = held.mount_point.strip_prefix(top).ok()?;
                let is_top = below.as_os_str().is_empty();
                let gone = !is_top && !is_outside(held, &self.path.join(below));
                gone.then(|| below.display().to_string())
            })
            .collect()
    }
}

/// Where an open file is, as the kernel says.
fn path_of(file: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// The mount that a walk of `path` would end in: from the root on, whatever is mounted on the way.
fn at<'a>(mounts: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let is_root =
        |mount: &&MountEntry| !mounts.iter().any(|other| other.mount_id == mount.parent_id);
    let mut on = mounts
        .iter()
        .find(|mount| is_root(mount) && path.starts_with(&mount.mount_point))?;
    // Each step goes to a mount on the one before, so the number of mounts bounds the walk.
    for _ in mounts {
        let next = mounts
            .iter()
            .filter(|mount| mount.parent_id == on.mount_id && mount.mount_id != on.mount_id)
            .filter(|mount| path.starts_with(&mount.mount_point))
            .min_by_key(|mount| mount.mount_point.as_os_str().len());
        match next {
            Some(mount) => on = mount,
            None => break,
        }
    }
    Some(on)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(mount_id: u64, parent_id: u64, mount_point: &str) -> MountEntry {
        MountEntry {
            mount_id,
            parent_id,
            device: format!("0:{mount_id}"),
            root: "/".into(),
            mount_point: mount_point.into(),
            is_shared: false,
            is_read_only: false,
            fs_type: "tmpfs".to_owned(),
            source: "none".into(),
            owner: None,
        }
    }

    #[test]
    fn at_follows_what_is_mounted_on_the_way() {
        let mut mounts = vec![
            mount(1, 0, "/"),
            mount(2, 1, "/srv/data"),
            mount(3, 1, "/s"),
        ];
        let there =
            |mounts: &[MountEntry], path: &str| at(mounts, Path::new(path)).unwrap().mount_id;
        assert_eq!(there(&mounts, "/srv"), 1);
        assert_eq!(there(&mounts, "/srv/data/x"), 2);
        // On top of it, and then over the directory around both.
        mounts.push(mount(4, 2, "/srv/data"));
        assert_eq!(there(&mounts, "/srv/data"), 4);
        mounts.push(mount(5, 1, "/srv"));
        assert_eq!(there(&mounts, "/srv/data"), 5);
        assert_eq!(there(&mounts, "/"), 1);
    }

    #[test]
    fn state_of_a_directory_that_is_there_has_no_trouble_and_then_has() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().canonicalize().unwrap().join("a (deleted)");
        std::fs::create_dir(&place).unwrap();
        let open = || OwnedFd::from(std::fs::File::open(&place).unwrap());
        let held = HeldSource::new(open(), "0:0".to_owned(), Copies::None);
        assert_eq!(held.state(), SourceState::default());
        let other = scratch.path().join("b");
        std::fs::rename(&place, &other).unwrap();
        std::fs::create_dir(&place).unwrap();
        let trouble = held.state().trouble.unwrap();
        assert!(
            trouble.contains("renamed") && trouble.ends_with("/b"),
            "{trouble}"
        );
        std::fs::rename(&other, scratch.path().join("c")).unwrap();
        std::fs::remove_dir(scratch.path().join("c")).unwrap();
        assert_eq!(held.state().trouble.unwrap(), "was removed");
    }
}
