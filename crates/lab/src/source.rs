//! Where a kernel's source comes from: a package of the archive, or any tree.
//!
//! A package is unpacked once per version into the lab; that tree is the lab's, and a series may be laid
//! over it. A caller's tree is only read: it is built as it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::archive::{Archive, Wanted};
use crate::error::{Error, Result, at};
use crate::package::Package;
use crate::process::{missing, run_logged};

/// A kernel's source.
#[derive(Debug, Clone)]
pub enum Source {
    /// A package of the kind `linux-source-*`, with the distribution's patches.
    Package(Package),
    /// What the authors released, out of a source package: for kernels that have no package of the other kind.
    Release(Package),
    /// A tree of the caller's.
    Tree(PathBuf),
}

/// A source on the disk.
pub(crate) struct Tree {
    pub(crate) dir: PathBuf,
    /// What it is, for people and for the cache: package and version, or the path.
    pub(crate) name: String,
    /// Whether the lab may change it.
    pub(crate) ours: bool,
}

impl Source {
    /// Makes the source available; a package that is already unpacked is not requested again.
    pub(crate) fn provide(&self, lab: &Path, say: &dyn Fn(&str)) -> Result<Tree> {
        match self {
            Self::Tree(dir) => {
                for missing in ["Makefile", "Kconfig", "arch/um"] {
                    if !dir.join(missing).exists() {
                        return Err(Error::NotATree {
                            tree: dir.clone(),
                            missing,
                        });
                    }
                }
                let dir = std::fs::canonicalize(dir).map_err(at(dir))?;
                let name = dir.display().to_string();
                Ok(Tree {
                    dir,
                    name,
                    ours: false,
                })
            }
            Self::Package(package) => provide_package(package, lab, say),
            Self::Release(package) => {
                let (dir, version) = unpack_release(package, lab, say)?;
                Ok(Tree {
                    dir,
                    name: format!("{} {version}", package.name),
                    ours: true,
                })
            }
        }
    }
}

fn provide_package(package: &Package, lab: &Path, say: &dyn Fn(&str)) -> Result<Tree> {
    let sources = lab.join("source");
    let pinned = sources.join(format!("{}_{}", package.name, package.pinned));
    if pinned.is_dir() {
        let name = format!("{} {}", package.name, package.pinned);
        return Ok(Tree {
            dir: pinned,
            name,
            ours: true,
        });
    }
    let archive = Archive::open(
        &lab.join("apt").join(&package.name),
        package,
        Wanted::Binary,
    )?;
    let version = choose(&archive, package, say)?;
    let dir = sources.join(format!("{}_{version}", package.name));
    if !dir.is_dir() {
        let downloads = lab.join("download").join(&package.name);
        let deb = archive.download(&package.name, &version, &downloads)?;
        say("unpacking");
        unpack(&deb, &package.name, &dir)?;
        std::fs::remove_file(&deb).map_err(at(&deb))?;
    }
    Ok(Tree {
        dir,
        name: format!("{} {version}", package.name),
        ours: true,
    })
}

/// Chooses the version and reports it to `say`.
fn choose(archive: &Archive, package: &Package, say: &dyn Fn(&str)) -> Result<String> {
    let version = archive.choose(package)?;
    let (name, pinned) = (&package.name, &package.pinned);
    say(&if version == *pinned {
        format!("source: {name} {version}, the pinned version")
    } else {
        format!("source: {name} {version}; the pinned {pinned} has left the archive")
    });
    Ok(version)
}

/// Unpacks what the authors of a Debian source package released, without Debian's patches; once. The directory and
/// the version.
pub(crate) fn unpack_release(
    package: &Package,
    lab: &Path,
    say: &dyn Fn(&str),
) -> Result<(PathBuf, String)> {
    let releases = lab.join("release");
    let pinned = releases.join(format!("{}_{}", package.name, package.pinned));
    if pinned.is_dir() {
        return Ok((pinned, package.pinned.clone()));
    }
    let state = lab.join("apt").join(&package.name);
    let archive = Archive::open(&state, package, Wanted::Source)?;
    let version = choose(&archive, package, say)?;
    let dir = releases.join(format!("{}_{version}", package.name));
    if dir.is_dir() {
        return Ok((dir, version));
    }
    let downloads = lab.join("download").join(&package.name);
    let tarball = archive.download_source(&package.name, &version, &downloads)?;
    let scratch = empty_scratch(&dir)?;
    run_logged(
        Command::new("tar")
            .args(["--extract", "--strip-components=1", "--file"])
            .arg(&tarball)
            .current_dir(&scratch),
        &format!("unpacking {}", tarball.display()),
        &state.join("unpack.log"),
    )?;
    std::fs::rename(&scratch, &dir).map_err(at(&dir))?;
    std::fs::remove_dir_all(&downloads).map_err(at(&downloads))?;
    Ok((dir, version))
}

/// An empty directory beside `dir`, which gets its name when it is complete.
fn empty_scratch(dir: &Path) -> Result<PathBuf> {
    // Not with_extension: a version has dots too.
    let mut scratch = dir.as_os_str().to_owned();
    scratch.push(".unpacking");
    let scratch = PathBuf::from(scratch);
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).map_err(at(&scratch))?;
    }
    std::fs::create_dir_all(&scratch).map_err(at(&scratch))?;
    Ok(scratch)
}

/// Unpacks the tarball inside the package to `dir`, which appears complete or not at all.
fn unpack(deb: &Path, package: &str, dir: &Path) -> Result<()> {
    let scratch = empty_scratch(dir)?;
    let what = format!("unpacking {}", deb.display());
    let member = format!("./usr/src/{package}.tar.xz");
    let deb_arg = deb.as_os_str().to_owned();
    let mut outer = Command::new("dpkg-deb");
    outer.arg("--fsys-tarfile").arg(deb_arg);
    let mut middle = Command::new("tar");
    middle.args(["--extract", "--to-stdout", &member]);
    let mut inner = Command::new("tar");
    inner
        .args(["--extract", "--xz", "--strip-components=1"])
        .current_dir(&scratch);
    pipe(&mut [outer, middle, inner], &what, &scratch)?;
    std::fs::rename(&scratch, dir).map_err(at(dir))
}

/// Runs the commands as a pipeline; each has to succeed.
fn pipe(commands: &mut [Command], what: &str, scratch: &Path) -> Result<()> {
    let mut input = Stdio::null();
    let mut children = Vec::new();
    let last = commands.len() - 1;
    for (i, command) in commands.iter_mut().enumerate() {
        command.stdin(std::mem::replace(&mut input, Stdio::null()));
        if i != last {
            command.stdout(Stdio::piped());
        }
        let mut child = command.spawn().map_err(|source| missing(command, source))?;
        if let Some(output) = child.stdout.take() {
            input = Stdio::from(output);
        }
        children.push(child);
    }
    let mut failed = Vec::new();
    for (child, command) in children.iter_mut().zip(commands) {
        let status = child.wait().map_err(|source| missing(command, source))?;
        if !status.success() {
            failed.push(format!(
                "{}: {status}",
                command.get_program().to_string_lossy()
            ));
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let log = scratch.to_owned();
    Err(Error::Step {
        what: what.to_owned(),
        log,
        tail: failed.join("\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provide_of_a_directory_without_a_kernel_names_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let error = Source::Tree(dir.path().to_owned())
            .provide(dir.path(), &|_| ())
            .err()
            .unwrap();
        assert!(error.to_string().ends_with("it has no Makefile"), "{error}");
    }

    #[test]
    fn pipe_with_a_failing_member_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut commands = [Command::new("false"), Command::new("cat")];
        let error = pipe(&mut commands, "the step", dir.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("false: exit status: 1"), "{error}");
    }
}
