//! From a base version and variants to kernels: which source, which patches, which configuration. And
//! from a package's name, or an image, to a distribution's kernel.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use thrufs_lab::{Fragment, Kernel, Kind, Lab, Package, Recipe, Series, Source};
use xtests::support::install;

use super::build_args::{BuildArgs, say};

/// A kernel with the name it has in tables and in the expectations, such as `7.3/stock`.
pub(super) struct Built {
    pub(super) name: String,
    pub(super) kernel: Kernel,
    /// The base whose tests it runs.
    pub(super) base: Base,
    pub(super) cpus: u32,
}

/// What a kernel is built for, which decides its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To run tests as a program.
    UserMode,
    /// To run tests under QEMU, with huge pages: User Mode Linux has none, and without them no file
    /// has large folios.
    Machine,
    /// To count instructions; with huge pages if a kernel of the table uses large folios.
    Counted { huge_pages: bool },
}

impl Purpose {
    fn kind(self) -> Kind {
        match self {
            Self::UserMode => Kind::UserMode,
            Self::Machine | Self::Counted { .. } => Kind::Bootable,
        }
    }

    /// The directory of the objects. A copy of an x86_64 kernel's is of little use, since its
    /// objtool and everything after it is built anew: there all variants of a configuration share one directory.
    fn objects(self, variant: &str) -> &str {
        match self {
            Self::UserMode => variant,
            Self::Machine => "machine",
            Self::Counted { huge_pages: false } => "counted",
            Self::Counted { huge_pages: true } => "counted-huge",
        }
    }
}

/// The variant that keeps folios locked during a WRITE instead of what the series does.
const LOCKED: &str = "locked";

/// The variant with large folios in write-through.
pub(super) const LARGE_FOLIOS: &str = "rfc-folios";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bases {
    base: Vec<Base>,
    distribution: Distribution,
}

/// Where the kernels of the distribution are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Distribution {
    suites: Vec<String>,
}

fn bases() -> anyhow::Result<Bases> {
    toml::from_str(include_str!("bases.toml")).context("bases.toml")
}

/// A kernel version that can be built.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct Base {
    pub(super) name: String,
    package: String,
    pinned: String,
    /// Whether that is a source package, of which the authors' release is taken.
    #[serde(default)]
    release: bool,
    suites: Vec<String>,
    fragments: Vec<String>,
    /// How many CPUs the kernel can use.
    cpus: u32,
    /// How many of them tests get on User Mode Linux.
    test_cpus: u32,
    /// About how many lines make prints when User Mode Linux is built from nothing.
    steps: Option<usize>,
}

impl Base {
    /// The version whose tests and test headers are used, and whose configuration a foreign tree gets.
    pub(super) const NEWEST: &str = "7.3";

    pub(super) fn find(name: &str) -> anyhow::Result<Self> {
        let bases = bases()?;
        let names: Vec<&str> = bases.base.iter().map(|base| base.name.as_str()).collect();
        let known = names.join(", ");
        match bases.base.iter().find(|base| base.name == name) {
            Some(base) => Ok(base.clone()),
            None => {
                bail!("there is no base {name}; known are {known} (or give a tree with --tree)")
            }
        }
    }

    /// How many CPUs a machine has that runs tests. Not all on User Mode Linux, where a store through a mapping may go
    /// unseen by the kernel while another CPU writes the page back (bases.toml).
    pub(super) fn test_cpus(&self, kind: Kind) -> u32 {
        match kind {
            Kind::UserMode => self.test_cpus,
            Kind::Bootable => self.cpus,
        }
    }

    pub(super) fn source(&self) -> Source {
        let package = Package {
            name: self.package.clone(),
            pinned: self.pinned.clone(),
            only: format!("{}.", self.name),
            suites: self.suites.clone(),
        };
        if self.release {
            Source::Release(package)
        } else {
            Source::Package(package)
        }
    }

    /// The patches of a variant; `patched@2` are the first two of `patched`.
    pub(super) fn series(&self, variant: &str) -> anyhow::Result<Series> {
        let Some((whole, count)) = variant.split_once('@') else {
            return self.whole_series(variant);
        };
        let series = self.whole_series(whole)?;
        let has = series.len();
        match count.parse() {
            Ok(count) if (1..=has).contains(&count) => Ok(series.first(count)),
            _ => bail!("there is no variant {variant}: {whole} has the patches 1 to {has}"),
        }
    }

    fn whole_series(&self, variant: &str) -> anyhow::Result<Series> {
        let contrib = install::root().join("contrib/kernel");
        let dir = match variant {
            "stock" => return Ok(Series::none()),
            "patched" => contrib.join(&self.name),
            "rfc" | LOCKED | LARGE_FOLIOS => contrib.join(format!("{}-{variant}", self.name)),
            control => contrib
                .join("negative-controls")
                .join(&self.name)
                .join(control),
        };
        if !dir.is_dir() {
            bail!(
                "there is no variant {variant} of {}: {} does not exist; there are always `stock` and `patched`",
                self.name,
                dir.display()
            );
        }
        let own = Series::from_dir(&dir, &format!("{} {}", self.package, self.pinned))?;
        Ok(match variant {
            "rfc" | LOCKED => self.series("patched")?.then(own),
            LARGE_FOLIOS => self.series("rfc")?.then(own),
            _ => own,
        })
    }

    /// The patches that bring the tests: all of them, so that each kernel runs the same tests.
    pub(super) fn tests(&self) -> anyhow::Result<Series> {
        let is_there = |variant: &str| {
            let dir = install::root().join(format!("contrib/kernel/{}-{variant}", self.name));
            dir.is_dir()
        };
        let most = [LARGE_FOLIOS, "rfc"].into_iter().find(|v| is_there(v));
        self.series(most.unwrap_or("patched"))
    }

    fn fragments(&self, purpose: Purpose) -> anyhow::Result<Vec<Fragment>> {
        let known = [
            ("common", include_str!("config/common.config")),
            ("modern", include_str!("config/modern.config")),
            ("since-6.9", include_str!("config/since-6.9.config")),
            ("counted", include_str!("config/counted.config")),
            ("huge-pages", include_str!("config/huge-pages.config")),
            ("machine", include_str!("config/machine.config")),
            ("before-5.18", include_str!("config/before-5.18.config")),
            (
                "memory-cgroups",
                include_str!("config/memory-cgroups.config"),
            ),
        ];
        let mut fragments = Vec::new();
        let wanted: Vec<&str> = match purpose {
            Purpose::UserMode => self.fragments.iter().map(String::as_str).collect(),
            Purpose::Machine => vec!["counted", "huge-pages", "machine"],
            Purpose::Counted { huge_pages: true } => vec!["counted", "huge-pages"],
            Purpose::Counted { huge_pages: false } => vec!["counted"],
        };
        for name in wanted {
            let found = known.iter().find(|(known, _)| *known == name);
            let (_, text) = found.with_context(|| format!("bases.toml: no fragment {name}"))?;
            fragments.push(Fragment {
                name: format!("{name}.config"),
                text: (*text).to_owned(),
            });
        }
        Ok(fragments)
    }
}

/// Builds all kernels of `args`.
pub(super) fn build(args: &BuildArgs, purpose: Purpose) -> anyhow::Result<Vec<Built>> {
    let lab = Lab::new(&args.lab, args.jobs)?;
    let mut kernels = Vec::new();
    for word in &args.variant {
        // `6.12/stock` names its base.
        let (base, variant) = word.split_once('/').unwrap_or((&args.base, word));
        let base = Base::find(if args.tree.is_some() {
            Base::NEWEST
        } else {
            base
        })?;
        let (prefix, source) = match &args.tree {
            Some(tree) => ("tree", Source::Tree(tree.clone())),
            None => (base.name.as_str(), base.source()),
        };
        let recipe = Recipe {
            variant: purpose.objects(variant).to_owned(),
            kind: purpose.kind(),
            source,
            series: base.series(variant)?,
            fragments: base.fragments(purpose)?,
            steps: base.steps.filter(|_| purpose == Purpose::UserMode),
        };
        let kernel = lab.build(&recipe, &say)?;
        let place = match purpose {
            Purpose::Machine => "/qemu",
            Purpose::UserMode | Purpose::Counted { .. } => "",
        };
        kernels.push(Built {
            name: format!("{prefix}/{variant}{place}"),
            kernel,
            cpus: base.cpus,
            base,
        });
    }
    Ok(kernels)
}

/// A distribution's kernel: a file, or the name of a package. `name/suite`, as apt writes it, limits the search to
/// that suite.
pub(super) fn distribution(lab: &Lab, image: &str) -> anyhow::Result<Built> {
    let kernel = if Path::new(image).is_file() {
        Lab::image(Path::new(image))?
    } else {
        let (name, suites) = match image.split_once('/') {
            Some((name, suite)) => (name, vec![suite.to_owned()]),
            None => (image, bases()?.distribution.suites),
        };
        let package = Package {
            name: name.to_owned(),
            // The package's name has the version in it.
            pinned: String::new(),
            only: String::new(),
            suites,
        };
        lab.distribution(&package, &say)?
    };
    // A package of its own, whichever stands for it.
    let name = kernel.image.file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let name = name.trim_start_matches("vmlinuz-");
    Ok(Built {
        name: format!("distro/{name}"),
        kernel,
        base: Base::find(Base::NEWEST)?,
        cpus: 2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn find_of_an_unknown_base_names_the_known() {
        let error = Base::find("2.4").err().unwrap().to_string();
        assert!(error.contains("7.3"), "{error}");
    }

    /// The random mode once lost a store on patched, and the series was suspected: User Mode Linux with two CPUs had
    /// lost it, as it does on ext4.
    #[test]
    fn test_cpus_are_one_on_user_mode_linux_and_all_under_qemu() {
        for base in bases().unwrap().base {
            assert_eq!(base.test_cpus(Kind::UserMode), 1, "{}", base.name);
        }
        let newest = Base::find(Base::NEWEST).unwrap();
        assert_eq!(newest.test_cpus(Kind::Bootable), 2);
    }

    #[test]
    fn series_up_to_a_patch_that_is_not_there_names_those_that_are() {
        let newest = Base::find(Base::NEWEST).unwrap();
        assert_eq!(newest.series("patched@2").unwrap().len(), 2);
        for word in ["patched@11", "patched@0", "patched@x"] {
            let error = newest.series(word).err().unwrap().to_string();
            assert!(
                error.ends_with("patched has the patches 1 to 10"),
                "{error}"
            );
        }
    }

    #[test]
    fn series_of_the_newest_base_and_fragments_of_all_are_there() {
        for base in bases().unwrap().base {
            assert!(base.series("stock").unwrap().is_empty());
            for purpose in [
                Purpose::UserMode,
                Purpose::Machine,
                Purpose::Counted { huge_pages: true },
            ] {
                base.fragments(purpose).unwrap();
            }
        }
        let newest = Base::find(Base::NEWEST).unwrap();
        assert!(!newest.series("patched").unwrap().is_empty());
        let (rfc, folios) = (
            newest.series("rfc").unwrap(),
            newest.series(LARGE_FOLIOS).unwrap(),
        );
        assert!(folios.len() > rfc.len(), "it is on top of the other");
        assert!(!newest.series("hold-all").unwrap().is_empty());
    }
}
