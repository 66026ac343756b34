//! From a recipe to a kernel image.
//!
//! Invariant: an image below `kernel/` is named by the hash of everything that it was made of (source,
//! series, configuration, compiler), so it is either exactly what was asked for or absent. Beside the
//! images, one build directory per variant keeps its objects: a changed file costs its own compilation
//! and the link. A new variant begins with a copy of a sibling's objects.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::clean;
use crate::config::Fragment;
use crate::error::{Error, Result, at};
use crate::package::Package;
use crate::process::{missing, run_captured, run_logged, tied};
use crate::progress::Progress;
use crate::series::Series;
use crate::source::{Source, Tree, unpack_release};

/// Lines of make's output per progress note.
const LINES_PER_NOTE: usize = 100;
/// In a build directory: the fragments that it was configured by.
const STAMP: &str = ".lab-config";

/// What to build.
pub struct Recipe {
    /// Names the build directory, and the kernel in tables.
    pub variant: String,
    /// What it is built for.
    pub kind: Kind,
    /// Where the source comes from.
    pub source: Source,
    /// What is laid over it.
    pub series: Series,
    /// The configuration beyond the defaults: the architecture's for [`Kind::UserMode`], nothing at all
    /// for [`Kind::Bootable`].
    pub fragments: Vec<Fragment>,
    /// About how many lines make prints for a build from nothing; for progress.
    pub steps: Option<usize>,
}

/// What a kernel is run by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A program: User Mode Linux.
    UserMode,
    /// An image for a machine, which QEMU is.
    Bootable,
}

impl Kind {
    fn architecture(self) -> &'static str {
        match self {
            Self::UserMode => "um",
            Self::Bootable => "x86_64",
        }
    }

    /// The configuration to begin with. With tinyconfig User Mode Linux does not come up.
    fn defaults(self) -> &'static str {
        match self {
            Self::UserMode => "defconfig",
            Self::Bootable => "tinyconfig",
        }
    }

    /// The target of make, and where make leaves the product.
    fn product(self) -> (&'static str, &'static str) {
        match self {
            Self::UserMode => ("linux", "linux"),
            Self::Bootable => ("bzImage", "arch/x86/boot/bzImage"),
        }
    }
}

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The executable or image.
    pub image: PathBuf,
    /// Program or image.
    pub kind: Kind,
    /// The recipe's variant.
    pub variant: String,
    /// The source it was built from, with its version.
    pub source: String,
    /// The unpacked package of a kernel with modules.
    pub package: Option<PathBuf>,
}

/// A directory in which kernels are built.
pub struct Lab {
    dir: PathBuf,
    jobs: usize,
}

impl Lab {
    /// Uses `dir`, created if need be, with `jobs` compilers at a time.
    pub fn new(dir: &Path, jobs: usize) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        Ok(Self {
            dir: std::fs::canonicalize(dir).map_err(at(dir))?,
            jobs,
        })
    }

    /// The lab's directory, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The unpacked source, for headers that a test program needs.
    pub fn source_dir(&self, source: &Source, say: &dyn Fn(&str)) -> Result<PathBuf> {
        let _alone = self.lock(say)?;
        Ok(source.provide(&self.dir, say)?.dir)
    }

    /// The sources that a Debian source package was made from, unpacked: for peers that the archive
    /// has as source only.
    pub fn release(&self, package: &Package, say: &dyn Fn(&str)) -> Result<PathBuf> {
        let _alone = self.lock(say)?;
        Ok(unpack_release(package, &self.dir, say)?.0)
    }

    /// Builds what `recipe` asks for, or finds it built. `say` gets a line about each step that takes time.
    pub fn build(&self, recipe: &Recipe, say: &dyn Fn(&str)) -> Result<Kernel> {
        let _alone = self.lock(say)?;
        let tree = recipe.source.provide(&self.dir, say)?;
        if !tree.ours && !recipe.series.is_empty() {
            return Err(Error::ForeignTree { tree: tree.dir });
        }
        let image = self
            .dir
            .join("kernel")
            .join(self.key(recipe, &tree)?)
            .join("linux");
        let kernel = Kernel {
            image,
            kind: recipe.kind,
            variant: recipe.variant.clone(),
            source: tree.name.clone(),
            package: None,
        };
        // The state of a caller's tree is unknown; make finds out quickly enough.
        if tree.ours && kernel.image.is_file() {
            return Ok(kernel);
        }
        if tree.ours {
            recipe.series.lay_over(&tree.dir, &tree.name)?;
        }
        let objects = self.objects(recipe, &tree, say)?;
        // Objects of another configuration are compiled again.
        let is_reused = was_made_for(&objects, &wanted(&recipe.fragments));
        let reused = is_reused.then_some(objects.as_path());
        let progress = Progress::new(&recipe.variant, recipe.steps, reused)?;
        self.configure(recipe, &tree, &objects)?;
        self.make(recipe, &tree, &objects, (progress, say))?;
        let (_, product) = recipe.kind.product();
        publish(&objects.join(product), &kernel.image)?;
        Ok(kernel)
    }

    /// Removes what builds and guests have left here; returns the number of bytes.
    ///
    /// # Errors
    /// The directory has something in it that no lab makes, or cannot be removed.
    pub fn remove(self, say: &dyn Fn(&str)) -> Result<u64> {
        // Before the lock file is made in a directory that is no lab.
        clean::contents(&self.dir)?;
        let _alone = self.lock(say)?;
        clean::remove(&self.dir)
    }

    /// One build at a time: all variants of a base share the source tree.
    fn lock(&self, say: &dyn Fn(&str)) -> Result<Flock<File>> {
        let path = self.dir.join("lock");
        let file = File::create(&path).map_err(at(&path))?;
        let failed = |errno: Errno| Error::File {
            path: path.clone(),
            source: errno.into(),
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => Ok(locked),
            Err((file, Errno::EWOULDBLOCK)) => {
                let dir = self.dir.display();
                say(&format!("waiting for another program that uses {dir}"));
                Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno))
            }
            Err((_, errno)) => Err(failed(errno)),
        }
    }

    /// The hash of all that the image depends on.
    fn key(&self, recipe: &Recipe, tree: &Tree) -> Result<String> {
        let log = self.dir.join("compiler.log");
        let compiler = run_captured(Command::new("gcc").arg("--version"), "asking gcc", &log)?;
        let mut hash = Sha256::new();
        for part in [
            tree.name.as_str(),
            compiler.as_str(),
            recipe.kind.architecture(),
            &wanted(&recipe.fragments),
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        recipe.series.hash(&mut hash)?;
        let mut key = String::new();
        for byte in &hash.finalize()[..16] {
            write!(key, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Ok(key)
    }

    /// The build directory, begun with the objects of another variant if there are any.
    fn objects(&self, recipe: &Recipe, tree: &Tree, say: &dyn Fn(&str)) -> Result<PathBuf> {
        let name = tree.name.replace(['/', ' '], "_");
        let name = format!("{name}_{}", recipe.kind.architecture());
        let all = self.dir.join("build").join(name);
        let objects = all.join(&recipe.variant);
        if objects.is_dir() {
            return Ok(objects);
        }
        std::fs::create_dir_all(&all).map_err(at(&all))?;
        let (_, product) = recipe.kind.product();
        let siblings = std::fs::read_dir(&all).map_err(at(&all))?;
        let siblings = siblings.filter_map(|entry| Some(entry.ok()?.path()));
        let built = siblings.filter(|dir| dir.join(product).is_file());
        // Few objects of another configuration can be reused.
        let wanted = wanted(&recipe.fragments);
        let Some(sibling) = built.max_by_key(|dir| was_made_for(dir, &wanted)) else {
            std::fs::create_dir(&objects).map_err(at(&objects))?;
            return Ok(objects);
        };
        say(&format!(
            "{}: starting from the objects of {}",
            recipe.variant,
            sibling.display()
        ));
        let scratch = all.join("copying");
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch).map_err(at(&scratch))?;
        }
        run_logged(
            Command::new("cp")
                .args(["--archive", "--reflink=auto"])
                .arg(&sibling)
                .arg(&scratch),
            "copying objects",
            &self.dir.join("copy.log"),
        )?;
        std::fs::rename(&scratch, &objects).map_err(at(&objects))?;
        Ok(objects)
    }

    /// Writes `.config`, unless it was made for the same fragments already.
    fn configure(&self, recipe: &Recipe, tree: &Tree, objects: &Path) -> Result<()> {
        let (config, stamp) = (objects.join(".config"), objects.join(STAMP));
        let wanted = wanted(&recipe.fragments);
        if was_made_for(objects, &wanted) {
            return Ok(());
        }
        let log = objects.join("lab-config.log");
        run_logged(
            self.make_command(recipe, tree, objects)
                .arg(recipe.kind.defaults()),
            "making the default configuration",
            &log,
        )?;
        // kconfig takes the later of two values for an option.
        let mut file = OpenOptions::new()
            .append(true)
            .open(&config)
            .map_err(at(&config))?;
        file.write_all(wanted.as_bytes()).map_err(at(&config))?;
        drop(file);
        run_logged(
            self.make_command(recipe, tree, objects).arg("olddefconfig"),
            "make olddefconfig",
            &log,
        )?;
        let result = std::fs::read_to_string(&config).map_err(at(&config))?;
        for fragment in &recipe.fragments {
            fragment.check(&result)?;
        }
        std::fs::write(&stamp, wanted).map_err(at(&stamp))
    }

    fn make(
        &self,
        recipe: &Recipe,
        tree: &Tree,
        objects: &Path,
        (progress, say): (Progress, &dyn Fn(&str)),
    ) -> Result<()> {
        let log = objects.join("lab-build.log");
        say(&format!(
            "{}: building {} (log: {})",
            recipe.variant,
            tree.name,
            log.display()
        ));
        let mut file = File::create(&log).map_err(at(&log))?;
        let errors = file.try_clone().map_err(at(&log))?;
        let mut make = self.make_command(recipe, tree, objects);
        let (target, _) = recipe.kind.product();
        make.arg(format!("-j{}", self.jobs)).arg(target);
        // SIGTERM, which make passes on to its compilers.
        let mut make = tied(&make, "TERM")?;
        make.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(errors));
        let mut child = make.spawn().map_err(|source| missing(&make, source))?;
        let output = child.stdout.take().expect("it was asked to be piped");
        for (number, line) in BufReader::new(output).split(b'\n').enumerate() {
            let mut line = line.map_err(at(&log))?;
            line.push(b'\n');
            file.write_all(&line).map_err(at(&log))?;
            if number > 0 && number % LINES_PER_NOTE == 0 {
                say(&progress.note(number));
            }
        }
        let status = child.wait().map_err(at(&log))?;
        if status.success() {
            return Ok(());
        }
        let what = format!("building {} ({})", recipe.variant, tree.name);
        let output = std::fs::read(&log).map_err(at(&log))?;
        let output = String::from_utf8_lossy(&output).into_owned();
        let interesting = output
            .lines()
            .filter(|line| line.contains("error") || line.contains("***"));
        let tail = interesting.take(20).collect::<Vec<_>>().join("\n");
        Err(Error::Step { what, log, tail })
    }

    fn make_command(&self, recipe: &Recipe, tree: &Tree, objects: &Path) -> Command {
        let mut make = Command::new("make");
        make.arg(format!("ARCH={}", recipe.kind.architecture()))
            .arg("-C")
            .arg(&tree.dir);
        make.arg(format!("O={}", objects.display()));
        // Variables of cargo or of an outer make are not meant for the kernel.
        make.env_remove("MAKEFLAGS")
            .env_remove("CFLAGS")
            .env_remove("LDFLAGS");
        make
    }
}

/// Whether the objects in `dir` were configured by the fragments `wanted`.
fn was_made_for(dir: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(dir.join(STAMP)).is_ok_and(|made_for| made_for == wanted)
}

fn wanted(fragments: &[Fragment]) -> String {
    let mut all = String::new();
    for fragment in fragments {
        all.push_str(&fragment.text);
        all.push('\n');
    }
    all
}

/// Copies the image to its final name, where it appears complete or not at all.
fn publish(built: &Path, image: &Path) -> Result<()> {
    let dir = image
        .parent()
        .expect("an image lies in a directory of the lab");
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    let scratch = dir.join("copying");
    std::fs::copy(built, &scratch).map_err(at(built))?;
    std::fs::rename(&scratch, image).map_err(at(image))
}
