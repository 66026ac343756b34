//! A distribution's kernel, taken out of its package, or any image that QEMU boots.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::{Archive, Wanted};
use crate::build::{Kernel, Kind, Lab};
use crate::error::{Error, Result, at};
use crate::package::Package;
use crate::process::run_logged;

impl Lab {
    /// The kernel of a `linux-image-*` package, downloaded unless it is there already. A meta package, such as
    /// `linux-image-cloud-amd64`, is that of the newest kernel in its suites, and looked up each time.
    pub fn distribution(&self, package: &Package, say: &dyn Fn(&str)) -> Result<Kernel> {
        if let Some(known) = self.unpacked(&package.name) {
            return Ok(known);
        }
        let archive = Archive::open(
            &self.dir().join("apt").join(&package.name),
            package,
            Wanted::Binary,
        )?;
        let version = archive.choose(package)?;
        if let Some(name) = archive.stands_for(&package.name, &version)? {
            let suites = package.suites.clone();
            let (pinned, only) = (String::new(), String::new());
            let real = Package {
                name,
                pinned,
                only,
                suites,
            };
            return self.distribution(&real, say);
        }
        let dir = self.unpacked_dir(&package.name);
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
        Ok(kernel(image_in(&dir.join("boot"))?, &package.name, dir))
    }

    fn unpacked_dir(&self, package: &str) -> PathBuf {
        self.dir().join("distribution").join(package)
    }

    fn unpacked(&self, package: &str) -> Option<Kernel> {
        let dir = self.unpacked_dir(package);
        let image = image_in(&dir.join("boot")).ok()?;
        Some(kernel(image, package, dir))
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

fn kernel(image: PathBuf, package: &str, unpacked: PathBuf) -> Kernel {
    Kernel {
        image,
        variant: package.to_owned(),
        source: package.to_owned(),
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
        source: std::io::Error::other("the package has no vmlinuz"),
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
                .contains("no vmlinuz")
        );
        std::fs::write(dir.path().join("vmlinuz-1"), "").unwrap();
        assert!(image_in(dir.path()).is_ok());
    }
}
