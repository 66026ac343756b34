//! A distribution's kernel, taken out of its package, or any image that QEMU boots.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::{Archive, Wanted};
use crate::build::{Kernel, Kind, Lab};
use crate::error::{Error, Result, at};
use crate::package::Package;
use crate::process::run_logged;

impl Lab {
    /// The kernel of a `linux-image-*` package, downloaded unless it is there already.
    pub fn distribution(&self, package: &Package, say: &dyn Fn(&str)) -> Result<Kernel> {
        let dir = self.dir().join("distribution").join(&package.name);
        if let Ok(image) = image_in(&dir.join("boot")) {
            return Ok(kernel(image, package, dir));
        }
        let archive = Archive::open(
            &self.dir().join("apt").join(&package.name),
            package,
            Wanted::Binary,
        )?;
        let version = archive.choose(package)?;
        say(&format!("kernel: {} {version}", package.name));
        let downloads = self.dir().join("download").join(&package.name);
        let deb = archive.download(&package.name, &version, &downloads)?;
        std::fs::create_dir_all(&dir).map_err(at(&dir))?;
        run_logged(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&deb)
                .arg(&dir),
            "unpacking the kernel's package",
            &self.dir().join("unpack.log"),
        )?;
        std::fs::remove_file(&deb).map_err(at(&deb))?;
        Ok(kernel(image_in(&dir.join("boot"))?, package, dir))
    }

    /// A prebuilt image.
    pub fn image(path: &Path) -> Result<Kernel> {
        let image = std::fs::canonicalize(path).map_err(at(path))?;
        let source = image.display().to_string();
        Ok(Kernel {
            image,
            variant: "image".into(),
            source,
            kind: Kind::Bootable,
            package: None,
        })
    }
}

fn kernel(image: PathBuf, package: &Package, unpacked: PathBuf) -> Kernel {
    Kernel {
        image,
        variant: package.name.clone(),
        source: package.name.clone(),
        kind: Kind::Bootable,
        package: Some(unpacked),
    }
}

fn image_in(boot: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(boot).map_err(at(boot))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let image = paths.find(|path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("vmlinuz")
    });
    image.ok_or_else(|| Error::File {
        path: boot.to_owned(),
        source: std::io::Error::other(
            "the package has no vmlinuz; a meta package names the real one",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_in_a_package_without_one_says_so() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config-1"), "").unwrap();
        assert!(
            image_in(dir.path())
                .unwrap_err()
                .to_string()
                .contains("meta package")
        );
        std::fs::write(dir.path().join("vmlinuz-1"), "").unwrap();
        assert!(image_in(dir.path()).is_ok());
    }
}
