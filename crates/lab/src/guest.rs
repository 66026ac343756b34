//! The inside of a machine: what the first process does to run tests and to report them.
//!
//! Invariant: nothing here touches the host's files. The root is read-only, and every writable
//! directory is a tmpfs of the guest's. A first process that returns would be a kernel panic, so
//! [`power_off`] does not return.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};

use crate::outcome::{END, Mark, START, VERDICT};

/// Names the directory of the modules to load, in the order of their names.
pub(crate) const MODULES: &str = "LAB_MODULES";

/// What a first process has to mount: type, place, and whether it may be there already.
const MOUNTS: &[(&str, &str, bool)] = &[
    ("proc", "/proc", false),
    ("sysfs", "/sys", false),
    ("devtmpfs", "/dev", true),
    ("tmpfs", "/tmp", false),
    ("tmpfs", "/run", false),
];

/// Prepares the guest. Only for the first process of one: on a host it would mount over its directories.
///
/// The guest gets its own /tmp and /run, except for the directories there in which this program and
/// `keep` are (/tmp/clone for /tmp/clone/target/lab): these stay what they are on the host.
pub fn enter(keep: &[&Path]) -> std::io::Result<()> {
    if std::process::id() != 1 {
        return Err(std::io::Error::other(
            "this is not the first process of a guest; `Machine::boot` starts it there",
        ));
    }
    if let Some(modules) = std::env::var_os(MODULES) {
        load(Path::new(&modules))?;
    }
    for &(kind, place, may_be_there) in MOUNTS {
        // /proc comes first: it tells which file this program is.
        let kept = match kind {
            "tmpfs" => {
                let own = std::env::current_exe()?;
                let keep = keep.iter().copied().chain([own.as_path()]);
                Kept::below(Path::new(place), keep)?
            }
            _ => Vec::new(),
        };
        match mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        ) {
            Ok(()) => (),
            Err(nix::errno::Errno::EBUSY) if may_be_there => (),
            Err(errno) => return Err(std::io::Error::other(format!("mounting {place}: {errno}"))),
        }
        kept.iter().try_for_each(Kept::put_back)?;
    }
    Ok(())
}

fn load(modules: &Path) -> std::io::Result<()> {
    let entries = std::fs::read_dir(modules).map_err(|error| about("loading", modules, &error))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths {
        let file = File::open(&path).map_err(|error| about("loading", &path, &error))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => (),
            Err(errno) => return Err(about("loading", &path, &errno.into())),
        }
    }
    Ok(())
}

/// A directory of the host's that is about to be mounted over.
struct Kept {
    path: PathBuf,
    held: File,
}

impl Kept {
    /// The directories in `place` that hold any of `paths`.
    fn below<'a>(
        place: &Path,
        paths: impl Iterator<Item = &'a Path>,
    ) -> std::io::Result<Vec<Self>> {
        let inside = paths.filter_map(|path| path.strip_prefix(place).ok());
        let names: BTreeSet<_> = inside.filter_map(|path| path.components().next()).collect();
        let kept = names.into_iter().map(|name| {
            let path = place.join(name);
            let held = File::open(&path).map_err(|error| about("keeping", &path, &error))?;
            Ok(Self { path, held })
        });
        kept.collect()
    }

    fn put_back(&self) -> std::io::Result<()> {
        std::fs::create_dir(&self.path).map_err(|error| about("keeping", &self.path, &error))?;
        let held = format!("/proc/self/fd/{}", self.held.as_raw_fd());
        let none = None::<&str>;
        mount(
            Some(held.as_str()),
            &self.path,
            none,
            MsFlags::MS_BIND,
            none,
        )
        .map_err(|errno| about("keeping", &self.path, &errno.into()))
    }
}

/// `error`, with the operation and the path.
fn about(doing: &str, path: &Path, error: &std::io::Error) -> std::io::Error {
    std::io::Error::other(format!("{doing} {}: {error}", path.display()))
}

/// Reports that a test begins.
pub fn start(test: &str) {
    say(&format!("{START}{test}"));
}

/// Reports how a test ended; `detail` is cut to one line.
pub fn verdict(test: &str, mark: Mark, detail: &str) {
    let detail = detail.replace('\n', "; ");
    say(&format!("{VERDICT}{test} {} {detail}", mark.word()));
}

/// Makes the kernel show the stacks of all blocked tasks, which the host keeps as a report. The kernel's
/// own detector does not see a task whose wait can be ended by a fatal signal.
pub fn show_blocked() -> std::io::Result<()> {
    std::fs::write("/proc/sysrq-trigger", "w")
}

/// Reports that all tests are done, and ends the machine.
pub fn power_off() -> ! {
    say(END);
    if let Err(error) = std::fs::write("/proc/sysrq-trigger", "o") {
        say(&format!("cannot power off ({error}); the deadline will"));
    }
    loop {
        std::thread::park();
    }
}

/// Writes a line to the console. A failure cannot be reported; the machine reads it as silence.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::Kept;

    #[test]
    fn below_of_a_place_is_each_directory_in_it_once() {
        let place = tempfile::tempdir().unwrap();
        for name in ["clone", "other"] {
            std::fs::create_dir(place.path().join(name)).unwrap();
        }
        let paths = ["clone/target/lab", "clone/target/release/xtests", "other"];
        let paths = paths.map(|path| place.path().join(path));
        let paths = paths.iter().map(PathBuf::as_path);
        let kept = Kept::below(place.path(), paths.chain([Path::new("/usr/bin/x")])).unwrap();
        let kept: Vec<_> = kept
            .iter()
            .map(|kept| kept.path.file_name().unwrap())
            .collect();
        assert_eq!(kept, ["clone", "other"]);
    }

    #[test]
    fn enter_outside_of_a_guest_is_refused() {
        assert!(
            super::enter(&[])
                .unwrap_err()
                .to_string()
                .contains("not the first process")
        );
    }
}
