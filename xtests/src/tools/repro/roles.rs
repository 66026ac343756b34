//! The processes of the random mode, by role, and the appenders' files.

use std::path::PathBuf;

/// Number of copying processes.
pub(crate) const PROCESSES: usize = 8;
/// Number of appenders; their roles follow those of the [`PROCESSES`] that copy.
pub(crate) const APPENDERS: usize = 2;
/// The file of an appender.
pub(crate) fn appender_file(files: &[PathBuf; 2], role: usize) -> PathBuf {
    let mut name = files[0].clone().into_os_string();
    name.push(format!(".xtests-append-{role}"));
    name.into()
}

/// The files of all appenders.
pub(crate) fn appender_files(files: &[PathBuf; 2]) -> impl Iterator<Item = PathBuf> + '_ {
    (PROCESSES..PROCESSES + APPENDERS).map(|role| appender_file(files, role))
}
