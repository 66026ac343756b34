//! The package archive, reached through the machine's own apt configuration.
//!
//! Sources are in suites that the machine usually has not configured. The same mirror has them: its
//! address and keys come from apt (`apt-get indextargets`), and the other suites are read with
//! lists, cache and source list of the lab's own. Invariant: the system's package lists and sources
//! are never touched, and no archive is named here.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result, at};
use crate::package::Package;
use crate::process::{run_captured, run_logged};

/// What is asked of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Binary packages (kernel sources come as such).
    Binary,
    /// Source packages.
    Source,
}

/// A private apt state for the suites that a package may be in.
pub(crate) struct Archive {
    state: PathBuf,
}

/// A mirror that the machine uses, and the line that says so.
#[derive(Debug, PartialEq, Eq)]
struct Site {
    address: String,
    /// Has the suites for security updates, and no others.
    security: bool,
    signed_by: Option<String>,
}

impl Archive {
    /// Fetches the lists of `package`'s suites into `state`.
    pub(crate) fn open(state: &Path, package: &Package, wanted: Wanted) -> Result<Self> {
        for dir in [
            "lists/partial",
            "cache/archives/partial",
            "sources",
            "preferences",
        ] {
            let dir = state.join(dir);
            std::fs::create_dir_all(&dir).map_err(at(&dir))?;
        }
        let targets = run_captured(
            Command::new("apt-get").args([
                "indextargets",
                "Created-By: Packages",
                "Origin: Debian",
            ]),
            "listing apt's package sources",
            &state.join("indextargets.log"),
        )?;
        let sites = sites(&targets);
        if sites.is_empty() {
            return Err(Error::NoArchive {
                package: package.name.clone(),
            });
        }
        let list = state.join("sources.list");
        std::fs::write(&list, source_list(&sites, &package.suites, wanted)).map_err(at(&list))?;
        let archive = Self {
            state: state.to_owned(),
        };
        let fetched = run_logged(
            archive.apt("apt-get").arg("update"),
            "fetching the package lists of other suites",
            &archive.update_log(),
        );
        match fetched {
            // A mirror need not have all suites; what counts is whether one of them has the package.
            Ok(()) | Err(Error::Step { .. }) => Ok(archive),
            Err(error) => Err(error),
        }
    }

    fn update_log(&self) -> PathBuf {
        self.state.join("update.log")
    }

    /// The version to take: the pinned one if it is still there, or else the newest.
    pub(crate) fn choose(&self, package: &Package) -> Result<String> {
        let policy = run_captured(
            self.apt("apt-cache").args(["madison", &package.name]),
            "looking a package up",
            &self.state.join("madison.log"),
        )?;
        let versions = versions(&policy, package);
        if versions.contains(&package.pinned) {
            return Ok(package.pinned.clone());
        }
        // apt lists the newest first
        versions.first().cloned().ok_or_else(|| Error::NoPackage {
            package: package.name.clone(),
            suites: package.suites.join(", "),
            log: self.update_log(),
        })
    }

    /// The kernel's own package, of which this version of a meta package is the newest; none if `name` is no
    /// meta package.
    pub(crate) fn stands_for(&self, name: &str, version: &str) -> Result<Option<String>> {
        let stanza = run_captured(
            self.apt("apt-cache")
                .args(["show", &format!("{name}={version}")]),
            "looking a package's dependencies up",
            &self.state.join("show.log"),
        )?;
        Ok(kernel_package(&stanza))
    }

    /// Downloads one version of a binary package and returns the file.
    pub(crate) fn download(&self, name: &str, version: &str, into: &Path) -> Result<PathBuf> {
        self.fetch(&["download"], name, version, into)?;
        find(into, name, version, |_| true)
    }

    /// Downloads one version of a source package and returns the tarball of its authors.
    pub(crate) fn download_source(
        &self,
        name: &str,
        version: &str,
        into: &Path,
    ) -> Result<PathBuf> {
        // The tarball alone: the distribution's own parts may have left a mirror that still lists them.
        self.fetch(
            &["source", "--download-only", "--tar-only"],
            name,
            version,
            into,
        )?;
        find(into, name, version, |file| {
            file.contains(".orig.tar.") && !file.ends_with(".asc")
        })
    }

    /// apt checks signature and checksum.
    fn fetch(&self, verb: &[&str], name: &str, version: &str, into: &Path) -> Result<()> {
        std::fs::create_dir_all(into).map_err(at(into))?;
        run_logged(
            // The sandbox user of apt cannot write below a private directory.
            self.apt("apt-get")
                .args(["-o", "APT::Sandbox::User=root"])
                .args(verb)
                .arg(format!("{name}={version}"))
                .current_dir(into),
            &format!("downloading {name} {version}"),
            &self.state.join("download.log"),
        )
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (key, value) in [
            ("Dir::State", ""),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "sources"),
            ("Dir::Etc::preferencesparts", "preferences"),
        ] {
            command
                .arg("-o")
                .arg(format!("{key}={}", self.state.join(value).display()));
        }
        command
    }
}

/// The file of package `name` in `dir` that `is_it` picks.
fn find(dir: &Path, name: &str, version: &str, is_it: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let start = format!("{name}_");
    let entries = std::fs::read_dir(dir).map_err(at(dir))?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&start) && is_it(&file)
        })
        .ok_or_else(|| Error::NoPackage {
            package: name.to_owned(),
            suites: version.to_owned(),
            log: dir.to_owned(),
        })
}

/// Ends the names of suites for security updates.
const SECURITY: &str = "-security";

/// The mirrors in what `apt-get indextargets` printed.
fn sites(targets: &str) -> Vec<Site> {
    let mut sites = Vec::new();
    for stanza in targets.split("\n\n") {
        let field = |name: &str| {
            let value = stanza.lines().find_map(|line| line.strip_prefix(name))?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let (Some(address), Some(suite)) = (field("Site: "), field("Release: ")) else {
            continue;
        };
        let site = Site {
            address,
            security: suite.ends_with(SECURITY),
            signed_by: field("Signed-By: "),
        };
        if !sites.contains(&site) {
            sites.push(site);
        }
    }
    sites
}

fn source_list(sites: &[Site], suites: &[String], wanted: Wanted) -> String {
    let kind = match wanted {
        Wanted::Binary => "deb",
        Wanted::Source => "deb-src",
    };
    let mut list = String::new();
    for site in sites {
        let signed_by = match &site.signed_by {
            Some(key) => format!("[signed-by={key}] "),
            None => String::new(),
        };
        let has = |suite: &&String| suite.ends_with(SECURITY) == site.security;
        for suite in suites.iter().filter(has) {
            list.push_str(&format!(
                "{kind} {signed_by}{} {suite} main\n",
                site.address
            ));
        }
    }
    list
}

/// The versions to choose from, of exactly this package, in the output of `apt-cache madison`.
fn versions(madison: &str, package: &Package) -> Vec<String> {
    madison
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('|').map(str::trim);
            (columns.next()? == package.name).then_some(())?;
            let version = columns.next()?;
            version
                .starts_with(&package.only)
                .then(|| version.to_owned())
        })
        .collect()
}

/// The package of a kernel that a stanza depends on.
fn kernel_package(stanza: &str) -> Option<String> {
    let depends = stanza
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))?;
    let mut names = depends
        .split([',', '|'])
        .filter_map(|one| one.split_whitespace().next());
    names
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "MetaKey: main/binary-amd64/Packages\nRelease: stable\n\
        Signed-By: /keys/archive.gpg\nSite: http://one.example/a\n\n\
        Release: stable-updates\nSigned-By: /keys/archive.gpg\nSite: http://one.example/a\n\n\
        Release: stable-security\nSite: http://two.example/b\n";

    #[test]
    fn sites_of_several_suites_on_one_mirror_is_one_and_that_for_security() {
        let mirror = Site {
            address: "http://one.example/a".into(),
            security: false,
            signed_by: Some("/keys/archive.gpg".into()),
        };
        let security = Site {
            address: "http://two.example/b".into(),
            security: true,
            signed_by: None,
        };
        assert_eq!(sites(TARGETS), [mirror, security]);
    }

    #[test]
    fn source_list_of_several_suites_keeps_the_key_and_asks_each_mirror_for_its_own() {
        let suites = ["a", "b", "a-security"].map(str::to_owned);
        assert_eq!(
            source_list(&sites(TARGETS), &suites, Wanted::Binary),
            "deb [signed-by=/keys/archive.gpg] http://one.example/a a main\n\
             deb [signed-by=/keys/archive.gpg] http://one.example/a b main\n\
             deb http://two.example/b a-security main\n"
        );
    }

    #[test]
    fn source_list_of_source_packages_says_deb_src() {
        let list = source_list(&sites(TARGETS), &["a".into()], Wanted::Source);
        assert!(list.starts_with("deb-src [signed-by="), "{list}");
    }

    #[test]
    fn find_of_an_absent_tarball_names_package_and_version() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["fuse3_1.orig.tar.gz.asc", "fuse3_1-1.dsc"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let error = find(dir.path(), "fuse3", "1-1", |file| file.ends_with(".tar.gz"));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("fuse3 in 1-1"), "{error}");
    }

    #[test]
    fn kernel_package_is_what_a_meta_package_depends_on() {
        let meta = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.12.9-cloud-amd64 (= 6.12.9-1)\n";
        let real = "Package: linux-image-6.12.9-cloud-amd64\nDepends: kmod, linux-base (>= 4.3~)\n";
        let name = kernel_package(meta);
        assert_eq!(name.as_deref(), Some("linux-image-6.12.9-cloud-amd64"));
        assert_eq!(kernel_package(real), None);
    }

    fn package(name: &str, only: &str) -> Package {
        Package {
            name: name.into(),
            pinned: String::new(),
            only: only.into(),
            suites: Vec::new(),
        }
    }

    #[test]
    fn versions_of_other_packages_are_left_out() {
        let madison = " linux-source | 9 | x\n linux-source-7.3 | 7.3.4-1 | x\n linux-source-7.3 | 7.3.2-1 | x\n";
        assert_eq!(
            versions(madison, &package("linux-source-7.3", "")),
            ["7.3.4-1", "7.3.2-1"]
        );
    }

    /// Without this, the newest kernel would be taken for 6.18 when the pinned version has left the archive.
    #[test]
    fn versions_of_a_package_of_all_kernels_are_those_of_one() {
        let madison = " linux | 7.3.4-1 | x\n linux | 6.18.15-1 | x\n linux | 6.1.99-1 | x\n";
        assert_eq!(versions(madison, &package("linux", "6.18.")), ["6.18.15-1"]);
    }
}
