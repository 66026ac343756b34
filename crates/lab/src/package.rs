//! Which package of the archive holds a source: its name, the version that results were recorded with, and where
//! it may be found.

/// A Debian package with source in it: a binary one of the kind `linux-source-*`, or a source package.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name, such as `linux-source-7.3`.
    pub name: String,
    /// The version that results were recorded with. Taken while the archive has it, or else the newest.
    pub pinned: String,
    /// How every version to take begins: `6.18.` of a source package that has all kernels. Empty for any.
    pub only: String,
    /// The suites that may have it.
    pub suites: Vec<String>,
}
