//! A guest's files where the host's are out of reach: an initramfs made of programs of the host's.
//!
//! Each program comes with the shared libraries that the host's dynamic linker finds for it, at the same
//! paths, so that nothing has to be built twice.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cpio::newc::{self, Builder};

use crate::error::{Result, at};
use crate::process::run_captured;

/// Directories that a first process mounts something on.
const PLACES: &[&str] = &["dev", "proc", "sys", "tmp", "run"];
const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

/// Writes an archive with `files`, at the paths that they have on the host.
pub(crate) fn write(files: &[PathBuf], to: &Path) -> Result<()> {
    let log = to.with_extension("log");
    let mut all: BTreeSet<PathBuf> = BTreeSet::new();
    for file in files {
        let file = std::path::absolute(file).map_err(at(file))?;
        all.extend(libraries(&file, &log)?);
        all.insert(file);
    }
    let mut directories: BTreeSet<PathBuf> = PLACES.iter().map(PathBuf::from).collect();
    for file in &all {
        let parents = relative(file).ancestors().skip(1);
        directories.extend(
            parents
                .filter(|dir| dir.components().next().is_some())
                .map(Path::to_owned),
        );
    }
    let output = File::create(to).map_err(at(to))?;
    let mut output = BufWriter::new(output);
    // Sorted, so a directory comes before what is in it.
    for directory in &directories {
        let entry = Builder::new(&directory.to_string_lossy()).mode(DIRECTORY);
        output = entry.write(output, 0).finish().map_err(at(to))?;
    }
    for file in &all {
        let mut input = File::open(file).map_err(at(file))?;
        let about = input.metadata().map_err(at(file))?;
        let mode = REGULAR | (about.permissions().mode() & 0o777);
        let size = u32::try_from(about.len()).map_err(|_| {
            at(file)(std::io::Error::other(
                "too large for an initramfs, whose files end at 4 GiB",
            ))
        })?;
        let mut entry = Builder::new(&relative(file).to_string_lossy())
            .mode(mode)
            .write(output, size);
        std::io::copy(&mut input, &mut entry).map_err(at(file))?;
        output = entry.finish().map_err(at(to))?;
    }
    newc::trailer(output)
        .and_then(|mut output| output.flush())
        .map_err(at(to))
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// What the dynamic linker loads for a program; nothing for any other file, and for a static program.
fn libraries(program: &Path, log: &Path) -> Result<Vec<PathBuf>> {
    let mut start = [0; 4];
    let is_elf = File::open(program)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start))
        .is_ok_and(|()| start == *b"\x7fELF");
    if !is_elf {
        return Ok(Vec::new());
    }
    let mut ldd = Command::new("ldd");
    // ldd fails for a static program, which needs nothing.
    let said =
        run_captured(ldd.arg(program), "asking for shared libraries", log).unwrap_or_default();
    Ok(parse(&said))
}

/// `libc.so.6 => /lib/libc.so.6 (0x7f)` and `/lib64/ld-linux-x86-64.so.2 (0x7f)`.
fn parse(ldd: &str) -> Vec<PathBuf> {
    let word = |line: &str| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        path.split_whitespace().next().map(PathBuf::from)
    };
    ldd.lines()
        .filter_map(word)
        .filter(|path| path.is_absolute())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_ldd_gives_libraries_and_linker() {
        let ldd = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld.so.2 (0x7f)\n";
        let expected = ["/lib/x/libc.so.6", "/lib64/ld.so.2"].map(PathBuf::from);
        assert_eq!(parse(ldd), expected);
    }

    #[test]
    fn write_of_a_program_brings_its_libraries_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("initramfs");
        write(&[std::env::current_exe().unwrap()], &archive).unwrap();
        let mut input = File::open(&archive).unwrap();
        let mut names = Vec::new();
        loop {
            let entry = newc::Reader::new(input).unwrap();
            if entry.entry().is_trailer() {
                break;
            }
            names.push(entry.entry().name().to_owned());
            input = entry.finish().unwrap();
        }
        assert!(names.iter().any(|name| name == "proc"), "{names:?}");
        assert!(
            names.iter().any(|name| name.contains("libc.so")),
            "{names:?}"
        );
        let position = |wanted: &str| names.iter().position(|name| name == wanted);
        assert!(
            position("lib64") < position("lib64/ld-linux-x86-64.so.2"),
            "{names:?}"
        );
    }
}
