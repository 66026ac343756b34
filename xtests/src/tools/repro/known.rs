//! Known defects of kernels that the cases show, as data ([`Known::all`], from `known.toml`), so
//! that a loss is reported with its reason and, with --expect-known, fails nothing. Invariant: an
//! unlisted defect is never excused, nor is a case that fails in another way than the listed one.

use anyhow::Context;
use serde::Deserialize;

use super::watch::Verdict;

/// The kernel and the mount that a case ran on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Platform<'a> {
    /// uname(2)'s release.
    pub(crate) kernel: &'a str,
    pub(crate) is_fuse: bool,
    /// Whether read(2) fills the page cache.
    pub(crate) page_cache: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Known {
    case: String,
    since: String,
    until: Option<String>,
    page_cache: bool,
    detail: String,
    pub(crate) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    known: Vec<Known>,
}

impl Known {
    pub(crate) fn all() -> anyhow::Result<Vec<Self>> {
        let document: Document =
            toml::from_str(include_str!("known.toml")).context("known.toml")?;
        Ok(document.known)
    }

    /// Whether the entry is about this case on this platform.
    pub(crate) fn applies(&self, case: &str, platform: &Platform<'_>) -> bool {
        let kernel = release(platform.kernel);
        let is_before = |until: &String| kernel < release(until);
        self.case == case
            && platform.is_fuse
            && self.page_cache == platform.page_cache
            && kernel >= release(&self.since)
            && self.until.as_ref().is_none_or(is_before)
    }

    /// Whether the case has failed in the way listed.
    pub(crate) fn matches(&self, verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::WrongData { detail } if detail.contains(&self.detail))
    }
}

/// The first two numbers of a release; an unreadable one is older than every kernel.
fn release(text: &str) -> (u32, u32) {
    let mut numbers = text
        .split(|byte: char| !byte.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::case;
    use super::*;

    fn platform(kernel: &str) -> Platform<'_> {
        Platform {
            kernel,
            is_fuse: true,
            page_cache: true,
        }
    }

    fn known(case: &str) -> Known {
        let all = Known::all().unwrap();
        all.into_iter().find(|known| known.case == case).unwrap()
    }

    #[test]
    fn all_entries_name_a_case_and_a_release() {
        for known in Known::all().unwrap() {
            assert!(
                known.case == "random" || case::find(&known.case).is_some(),
                "{known:?}"
            );
            assert!(release(&known.since) > (0, 0), "{known:?}");
            assert!(!known.reason.is_empty(), "{known:?}");
        }
    }

    #[test]
    fn applies_of_kernels_before_the_defect_and_of_other_file_systems_is_false() {
        let known = known("append-beside-store");
        let applies = |platform: &Platform<'_>| known.applies("append-beside-store", platform);
        for kernel in ["6.17.0", "6.18.44", "7.3.4-arch", "7.0-rc1", "6.100"] {
            assert!(applies(&platform(kernel)), "{kernel}");
        }
        for kernel in ["6.16.3", "5.10.0-9-amd64", "", "nonsense"] {
            assert!(!applies(&platform(kernel)), "{kernel}");
        }
        let native = Platform {
            is_fuse: false,
            ..platform("6.18.44")
        };
        assert!(!applies(&native));
        let direct = Platform {
            page_cache: false,
            ..platform("6.18.44")
        };
        assert!(!applies(&direct));
        assert!(!known.applies("seed", &platform("6.18.44")));
    }

    #[test]
    fn applies_of_a_kernel_that_has_it_mended_is_false() {
        let known = Known {
            until: Some("7.5".into()),
            ..known("append-beside-store")
        };
        assert!(known.applies("append-beside-store", &platform("7.4.9")));
        assert!(!known.applies("append-beside-store", &platform("7.5.0")));
    }

    #[test]
    fn matches_of_another_failure_is_false() {
        let known = known("random");
        let wrong = |detail: &str| Verdict::WrongData {
            detail: detail.into(),
        };
        assert!(known.matches(&wrong("process 8 (appender), round 1")));
        assert!(!known.matches(&wrong("process 3, operation 7")));
        let passed = Verdict::Ok {
            detail: "appender".into(),
        };
        assert!(!known.matches(&passed));
    }
}
