//! The package archive, reached through the machine's own apt configuration.
//!
//! Kernel sources are in suites that the machine usually has not configured. The same mirror has them, so
//! its address and keys are taken from apt (`apt-get indextargets`), and the other suites are looked at
//! with lists, cache and source list of the lab's own. Invariant: the system's package lists and sources
//! are never touched, and no archive is named here.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result, at};
use crate::process::{run_captured, run_logged};
use crate::source::Package;

/// A private apt state for the suites that a package may be in.
pub(crate) struct Archive {
    state: PathBuf,
}

/// A mirror that the machine uses, and the line that says so.
#[derive(Debug, PartialEq, Eq)]
struct Site {
    address: String,
    signed_by: Option<String>,
}

impl Archive {
    /// Fetches the lists of `package`'s suites into `state`.
    pub(crate) fn open(state: &Path, package: &Package) -> Result<Self> {
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
        std::fs::write(&list, source_list(&sites, &package.suites)).map_err(at(&list))?;
        let archive = Self {
            state: state.to_owned(),
        };
        run_logged(
            archive.apt("apt-get").arg("update"),
            "fetching the package lists of other suites",
            &state.join("update.log"),
        )?;
        Ok(archive)
    }

    /// The version to take: the pinned one if it is still there, or else the newest.
    pub(crate) fn choose(&self, package: &Package) -> Result<String> {
        let policy = run_captured(
            self.apt("apt-cache").args(["madison", &package.name]),
            "looking a package up",
            &self.state.join("madison.log"),
        )?;
        let versions = versions(&policy, &package.name);
        if versions.contains(&package.pinned) {
            return Ok(package.pinned.clone());
        }
        // apt lists the newest first
        versions.first().cloned().ok_or_else(|| Error::NoPackage {
            package: package.name.clone(),
            suites: package.suites.join(", "),
        })
    }

    /// Downloads one version (apt checks signature and checksum) and returns the file.
    pub(crate) fn download(&self, name: &str, version: &str, into: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(into).map_err(at(into))?;
        run_logged(
            // The sandbox user of apt cannot write below a private directory.
            self.apt("apt-get")
                .args(["-o", "APT::Sandbox::User=root", "download"])
                .arg(format!("{name}={version}"))
                .current_dir(into),
            &format!("downloading {name} {version}"),
            &self.state.join("download.log"),
        )?;
        let start = format!("{name}_");
        let entries = std::fs::read_dir(into).map_err(at(into))?;
        let files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files
            .into_iter()
            .find(|path| {
                path.file_name()
                    .is_some_and(|f| f.to_string_lossy().starts_with(&start))
            })
            .ok_or_else(|| Error::NoPackage {
                package: name.to_owned(),
                suites: version.to_owned(),
            })
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

/// The mirrors in what `apt-get indextargets` printed; those for security updates have no other suites.
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
            signed_by: field("Signed-By: "),
        };
        if !suite.ends_with("-security") && !sites.contains(&site) {
            sites.push(site);
        }
    }
    sites
}

fn source_list(sites: &[Site], suites: &[String]) -> String {
    let mut list = String::new();
    for site in sites {
        let signed_by = match &site.signed_by {
            Some(key) => format!("[signed-by={key}] "),
            None => String::new(),
        };
        for suite in suites {
            list.push_str(&format!("deb {signed_by}{} {suite} main\n", site.address));
        }
    }
    list
}

/// The versions of exactly this package in the output of `apt-cache madison`.
fn versions(madison: &str, name: &str) -> Vec<String> {
    madison
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('|').map(str::trim);
            (columns.next()? == name).then_some(())?;
            columns.next().map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "MetaKey: main/binary-amd64/Packages\nRelease: stable\n\
        Signed-By: /keys/archive.gpg\nSite: http://mirror.example/debian\n\n\
        Release: stable-updates\nSigned-By: /keys/archive.gpg\nSite: http://mirror.example/debian\n\n\
        Release: stable-security\nSite: http://mirror.example/security\n";

    #[test]
    fn sites_of_several_suites_on_one_mirror_is_one_without_security() {
        let expected = Site {
            address: "http://mirror.example/debian".into(),
            signed_by: Some("/keys/archive.gpg".into()),
        };
        assert_eq!(sites(TARGETS), [expected]);
    }

    #[test]
    fn source_list_of_two_suites_keeps_the_key() {
        assert_eq!(
            source_list(&sites(TARGETS), &["a".into(), "b".into()]),
            "deb [signed-by=/keys/archive.gpg] http://mirror.example/debian a main\n\
             deb [signed-by=/keys/archive.gpg] http://mirror.example/debian b main\n"
        );
    }

    #[test]
    fn versions_of_other_packages_are_left_out() {
        let madison = " linux-source | 9 | x\n linux-source-7.3 | 7.3.4-1 | x\n linux-source-7.3 | 7.3.2-1 | x\n";
        assert_eq!(
            versions(madison, "linux-source-7.3"),
            ["7.3.4-1", "7.3.2-1"]
        );
    }
}
