//! What can go wrong in the lab. Each message names the thing and what to do about it.

use std::path::{Path, PathBuf};

/// The lab's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What the lab could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the lab or of the caller could not be used.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program that the lab needs is not there.
    #[error("cannot run {program} ({source}): {remedy}")]
    Program {
        /// Its name.
        program: String,
        /// Why it did not start.
        source: std::io::Error,
        /// What provides it.
        remedy: &'static str,
    },
    /// A program ran and failed.
    #[error("{what} failed; its output is in {}:\n{tail}", log.display())]
    Step {
        /// The step.
        what: String,
        /// The log with its whole output.
        log: PathBuf,
        /// The end of its output.
        tail: String,
    },
    /// apt has no source that could have kernel source packages.
    #[error(
        "none of apt's package sources is a Debian archive, so {package} cannot be fetched: \
         use a Debian system, or for a kernel a tree with --tree"
    )]
    NoArchive {
        /// The package that was wanted.
        package: String,
    },
    /// The kernel has a required feature neither built in nor as a module.
    #[error("the kernel in {} has no {name}, neither built in nor as a module", package.display())]
    Module {
        /// The module.
        name: String,
        /// The unpacked package.
        package: PathBuf,
    },
    /// The archive has no version of the package.
    #[error(
        "the archive has no {package} in {suites}: has it left, or could the lists not be fetched ({})? \
         For a kernel a tree can be given with --tree", log.display()
    )]
    NoPackage {
        /// Why the lists could not be fetched.
        log: PathBuf,
        /// The package that was wanted.
        package: String,
        /// The suites asked for.
        suites: String,
    },
    /// A patch does not fit.
    #[error(
        "{} does not apply to {onto} (the series was made for {base}): rebase it, or use that \
         version\n{reason}", patch.display()
    )]
    Patch {
        /// The patch.
        patch: PathBuf,
        /// What it was applied to.
        onto: String,
        /// What it was made for.
        base: String,
        /// What git said.
        reason: String,
    },
    /// The kernel's configuration ended up without a requested value.
    #[error(
        "the kernel's configuration has {got} where {fragment} asks for {asked}: \
         a dependency is missing in the fragment, or this version has no such option"
    )]
    Config {
        /// The fragment's name.
        fragment: String,
        /// The line in it.
        asked: String,
        /// What the configuration says.
        got: String,
    },
    /// The machine cannot give this kernel the requested files.
    #[error("{} cannot see the host's files: give it the files that it needs", image.display())]
    Root {
        /// The kernel's image.
        image: PathBuf,
    },
    /// The machine cannot count this kernel's instructions.
    #[error("{} is a program, and only QEMU counts instructions: build it as a bootable image", image.display())]
    Counted {
        /// The kernel's image.
        image: PathBuf,
    },
    /// The given tree has no kernel in it.
    #[error("{} is no kernel source tree: it has no {missing}", tree.display())]
    NotATree {
        /// The tree.
        tree: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// The directory to remove has something else in it.
    #[error("{} is not removed, since no lab has made {}: move that away, or name the lab's directory with --lab", dir.display(), foreign.display())]
    NotALab {
        /// The directory.
        dir: PathBuf,
        /// What is not the lab's.
        foreign: PathBuf,
    },
    /// Patches were requested on a tree of the caller's.
    #[error(
        "a series cannot be laid over {}, which is not the lab's: apply it there with `git am`, and \
         build the tree as it is", tree.display()
    )]
    ForeignTree {
        /// The tree.
        tree: PathBuf,
    },
}

impl Error {
    /// Whether the archive lacks the kernel, rather than something having gone wrong.
    pub fn is_lacking(&self) -> bool {
        matches!(self, Self::NoArchive { .. } | Self::NoPackage { .. })
    }
}

/// Names the path in an I/O error.
pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::File {
        path: path.to_owned(),
        source,
    }
}
