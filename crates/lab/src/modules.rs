//! The modules that a distribution's kernel needs for its tests: found in its package, with their
//! dependencies, so that the first process can load them one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result, at};
use crate::process::missing;

/// Where a package has its modules, before and after /usr was merged.
const PLACES: [&str; 2] = ["lib/modules", "usr/lib/modules"];
/// Begins the names of a module's dependencies, in the section that modinfo(8) shows.
const DEPENDS: &[u8] = b"\0depends=";

/// Unpacks the modules `names` and all their dependencies from `package`, an unpacked package, into
/// `to`. Returns the files in the order of loading; a module that is built in has no file.
pub(crate) fn gather(package: &Path, names: &[String], to: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::remove_dir_all(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at(to)(error)),
        _ => std::fs::create_dir_all(to).map_err(at(to))?,
    }
    let mut gathering = Gathering {
        package,
        to,
        known: BTreeMap::new(),
        built_in: BTreeSet::new(),
        done: BTreeSet::new(),
        files: Vec::new(),
    };
    for place in PLACES {
        gathering.look_into(&package.join(place))?;
    }
    for name in names {
        gathering.add(name)?;
    }
    Ok(gathering.files)
}

struct Gathering<'a> {
    package: &'a Path,
    to: &'a Path,
    known: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    done: BTreeSet<String>,
    files: Vec<PathBuf>,
}

impl Gathering<'_> {
    fn look_into(&mut self, dir: &Path) -> Result<()> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(at(dir))?,
        };
        for entry in entries {
            let entry = entry.map_err(at(dir))?;
            let path = entry.path();
            if entry.file_type().map_err(at(&path))?.is_dir() {
                self.look_into(&path)?;
            } else if entry.file_name() == "modules.builtin" {
                let list = std::fs::read_to_string(&path).map_err(at(&path))?;
                let names = list.lines().filter_map(|line| name(Path::new(line)));
                self.built_in.extend(names);
            } else if let Some(name) = name(&path) {
                self.known.insert(name, path);
            }
        }
        Ok(())
    }

    fn add(&mut self, wanted: &str) -> Result<()> {
        let wanted = wanted.replace('-', "_");
        if self.built_in.contains(&wanted) || !self.done.insert(wanted.clone()) {
            return Ok(());
        }
        let Some(packed) = self.known.get(&wanted) else {
            return Err(Error::Module {
                name: wanted,
                package: self.package.to_owned(),
            });
        };
        let unpacked = self.to.join(format!("{wanted}.ko"));
        unpack(packed, &unpacked)?;
        let content = std::fs::read(&unpacked).map_err(at(&unpacked))?;
        for dependency in depends(&content) {
            self.add(&dependency)?;
        }
        // The number tells the first process the order.
        let numbered = format!("{:02}-{wanted}.ko", self.files.len());
        let numbered = self.to.join(numbered);
        std::fs::rename(&unpacked, &numbered).map_err(at(&unpacked))?;
        self.files.push(numbered);
        Ok(())
    }
}

/// A module's name: its file's, where `-` is as good as `_`, compressed or not.
fn name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, compression) = file.split_once(".ko")?;
    matches!(compression, "" | ".xz" | ".zst").then(|| name.replace('-', "_"))
}

fn unpack(packed: &Path, to: &Path) -> Result<()> {
    let program = match packed.extension().and_then(|word| word.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return std::fs::copy(packed, to).map(drop).map_err(at(packed)),
    };
    let output = File::create(to).map_err(at(to))?;
    let mut command = Command::new(program);
    command.args(["-d", "-c"]).arg(packed).stdout(output);
    let status = command
        .status()
        .map_err(|source| missing(&command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(at(packed)(std::io::Error::other(format!(
        "{program} cannot unpack it ({status})"
    ))))
}

/// A module's own list of its dependencies.
fn depends(module: &[u8]) -> Vec<String> {
    let Some(start) = module
        .windows(DEPENDS.len())
        .position(|window| window == DEPENDS)
    else {
        return Vec::new();
    };
    let rest = &module[start + DEPENDS.len()..];
    let end = rest.iter().position(|&byte| byte == 0);
    let names = String::from_utf8_lossy(&rest[..end.unwrap_or(rest.len())]).into_owned();
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> tempfile::TempDir {
        let package = tempfile::tempdir().unwrap();
        let modules = package.path().join("lib/modules/6.1");
        std::fs::create_dir_all(modules.join("kernel")).unwrap();
        let write = |name: &str, content: &str| {
            std::fs::write(modules.join(name), content).unwrap();
        };
        write("modules.builtin", "kernel/drivers/built-in.ko\n");
        write("kernel/leaf.ko", "ELF\0license=GPL\0depends=\0x");
        write("kernel/a-branch.ko", "\0depends=leaf,built_in\0");
        write("kernel/root.ko", "\0depends=a_branch,leaf\0");
        package
    }

    #[test]
    fn gather_of_a_module_brings_what_it_depends_on_first() {
        let (package, to) = (package(), tempfile::tempdir().unwrap());
        let files = gather(
            package.path(),
            &["built-in".into(), "root".into()],
            to.path(),
        );
        let files = files.unwrap();
        let names: Vec<_> = files
            .iter()
            .map(|file| file.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["00-leaf.ko", "01-a_branch.ko", "02-root.ko"]);
        assert!(files.iter().all(|file| file.is_file()));
    }

    #[test]
    fn gather_of_a_module_that_is_nowhere_names_it() {
        let (package, to) = (package(), tempfile::tempdir().unwrap());
        let error = gather(package.path(), &["fuse".into()], to.path());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("fuse"), "{error}");
    }
}
