//! Structs, flags and numbers against the kernel's own header, as this machine's C compiler reads
//! it: linux/fuse.h of linux-libc-dev, or the file that THRUFS_FUSE_H names. What an older header
//! does not have yet is counted, and compared only with one of FUSE 7.46 or later.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use thrufs_wire::abi::{FUSE_KERNEL_MINOR_VERSION, Field, Layout, layouts};
use thrufs_wire::kernel_names::values;

/// Variable that names a newer header than the installed one.
const HEADER: &str = "THRUFS_FUSE_H";

/// What the header has and this crate has not, with the reason.
const LEFT_OUT: &[(&str, &str)] = &[
    ("fuse_uring_", "FUSE_OVER_IO_URING: no transport yet"),
    ("FUSE_URING_", "FUSE_OVER_IO_URING: no transport yet"),
    ("FUSE_IO_URING_CMD_", "FUSE_OVER_IO_URING: no transport yet"),
    ("cuse_", "character devices"),
    ("CUSE_INIT_INFO_MAX", "character devices"),
    ("CUSE_UNRESTRICTED_IOCTL", "character devices"),
    ("FUSE_COMPAT_ENTRY_OUT_SIZE", "before 7.9"),
    ("FUSE_COMPAT_ATTR_OUT_SIZE", "before 7.9"),
    ("FUSE_COMPAT_MKNOD_IN_SIZE", "before 7.12"),
    ("FUSE_COMPAT_WRITE_IN_SIZE", "before 7.9"),
    ("FUSE_COMPAT_STATFS_SIZE", "before 7.4"),
    ("FUSE_COMPAT_INIT_OUT_SIZE", "before 7.5"),
    ("FUSE_COMPAT_22_INIT_OUT_SIZE", "before 7.23"),
    (
        "FUSE_WRITE_KILL_PRIV",
        "older name of FUSE_WRITE_KILL_SUIDGID",
    ),
    (
        "FUSE_DIRECT_IO_RELAX",
        "older name of FUSE_DIRECT_IO_ALLOW_MMAP",
    ),
    ("FUSE_NOTIFY_CODE_MAX", "no code"),
    (
        "FUSE_NAME_OFFSET",
        "offset in fuse_dirent and fuse_direntplus",
    ),
    ("FUSE_REMOVEMAPPING_MAX_ENTRY", "depends on the page size"),
    ("FUSE_DEV_IOC_MAGIC", "in the numbers of the ioctls"),
];

/// The kernel's header as text and as the C compiler finds it.
struct Header {
    path: PathBuf,
    text: String,
    minor: u32,
}

/// Room that later versions fill: what is left of it differs between headers.
fn is_padding(field: &Field) -> bool {
    let prefixes = [
        "unused",
        "padding",
        "dummy",
        "spare",
        "__spare",
        "reserved",
        "__reserved",
    ];
    prefixes.iter().any(|prefix| field.name.starts_with(prefix))
}

fn name_of(field: &Field) -> &'static str {
    field.name.trim_start_matches("r#")
}

/// Where the C compiler finds linux/fuse.h.
fn installed() -> Result<PathBuf, String> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("path.c");
    std::fs::write(&source, "#include <linux/fuse.h>\n").unwrap();
    let listed = Command::new("cc").arg("-M").arg(&source).output();
    let listed = listed.map_err(|error| format!("cc: {error}"))?;
    let rule = String::from_utf8(listed.stdout).unwrap();
    let path = rule
        .split_whitespace()
        .find(|word| word.ends_with("/linux/fuse.h"));
    path.map(PathBuf::from)
        .ok_or_else(|| "linux/fuse.h (linux-libc-dev)".to_owned())
}

impl Header {
    fn open() -> Result<Self, String> {
        let path = match std::env::var_os(HEADER) {
            Some(path) => PathBuf::from(path),
            None => installed()?,
        };
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{}: {error}", path.display());
        });
        let version = text
            .lines()
            .find_map(|line| line.strip_prefix("#define FUSE_KERNEL_MINOR_VERSION "))
            .unwrap();
        let minor = version.trim().parse().unwrap();
        Ok(Self { path, text, minor })
    }

    fn is_complete(&self) -> bool {
        self.minor >= FUSE_KERNEL_MINOR_VERSION
    }

    /// Names of structs.
    fn structs(&self) -> BTreeSet<&str> {
        let lines = self.text.lines();
        lines
            .filter_map(|line| line.strip_prefix("struct ")?.strip_suffix(" {"))
            .collect()
    }

    /// Names of macros without arguments and of enumerators.
    fn names(&self) -> BTreeSet<&str> {
        let is_name = |word: &&str| {
            word.chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        };
        let mut names = BTreeSet::new();
        for line in self.text.lines() {
            let name = match line.strip_prefix("#define ") {
                Some(rest) => rest.split([' ', '\t']).next(),
                None => line
                    .strip_prefix('\t')
                    .and_then(|rest| rest.split_once('='))
                    .map(|(name, _value)| name.trim()),
            };
            names.extend(name.filter(is_name).filter(|name| *name != "_LINUX_FUSE_H"));
        }
        names
    }

    /// The text between the braces of a struct.
    fn body(&self, name: &str) -> Option<&str> {
        let start = self.text.find(&format!("\nstruct {name} {{\n"))?;
        let (body, _rest) = self.text[start..].split_once("\n};")?;
        Some(body)
    }

    fn has_field(&self, layout: &Layout, field: &Field) -> bool {
        let body = self.body(layout.name).unwrap_or_default();
        let words = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let comparable = self.is_complete() || !is_padding(field);
        comparable && body.split(words).any(|word| word == name_of(field))
    }

    /// What the compiler says of these C expressions, by the name before each.
    fn ask(&self, expressions: &[(String, String)]) -> BTreeMap<String, u64> {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("ask.c"), folder.path().join("ask"));
        let mut text = format!(
            "#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n#include \"{}\"\n\
             int main(void) {{\n",
            self.path.display()
        );
        for (name, expression) in expressions {
            writeln!(
                text,
                "printf(\"{name} %llu\\n\", (unsigned long long)({expression}));"
            )
            .unwrap();
        }
        text.push_str("return 0; }\n");
        std::fs::write(&source, text).unwrap();
        let mut compile = Command::new("cc");
        // -w: FUSE_INIT_RESERVED is 1 << 31 in the header, which overflows an int.
        compile.args(["-w", "-o"]).arg(&program).arg(&source);
        let compiled = compile.output().unwrap();
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        let said = Command::new(&program).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let pairs = said.lines().map(|line| line.split_once(' ').unwrap());
        pairs
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }
}

/// The header, if there is one and, where `complete` is asked for, one with all of FUSE 7.46.
/// Without it the test is recorded as skipped, in the file that `xtests check` reads.
fn header_or_skip(complete: bool) -> Option<Header> {
    let missing = match Header::open() {
        Ok(header) if header.is_complete() || !complete => return Some(header),
        Ok(Header { path, minor, .. }) => {
            let (path, wanted) = (path.display(), FUSE_KERNEL_MINOR_VERSION);
            format!("linux/fuse.h of FUSE 7.{wanted}: {path} has 7.{minor}; name one by {HEADER}")
        }
        Err(missing) => missing,
    };
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed test");
    eprintln!("skipped: {test}: {missing}");
    if let Some(log) = std::env::var_os("THRUFS_SKIP_LOG") {
        let mut options = std::fs::File::options();
        let mut log = options.append(true).create(true).open(log).unwrap();
        let line = format!("{test}\t{missing}\n");
        log.write_all(line.as_bytes()).unwrap();
    }
    None
}

/// Compares what the header has; gives the numbers of what was compared and what it lacks.
fn compare_layouts(header: &Header) -> (usize, Vec<String>) {
    let structs = header.structs();
    let (mut questions, mut expected, mut lacking) = (Vec::new(), Vec::new(), Vec::new());
    for layout in layouts() {
        let name = layout.name;
        if !structs.contains(name) {
            lacking.push(name.to_owned());
            continue;
        }
        let mut whole = true;
        for field in layout.fields {
            let full = format!("{name}.{}", name_of(field));
            if !header.has_field(layout, field) {
                whole &= is_padding(field);
                lacking.push(full);
                continue;
            }
            let c = name_of(field);
            questions.push((format!("{full}@"), format!("offsetof(struct {name}, {c})")));
            questions.push((full, format!("sizeof(((struct {name} *)0)->{c})")));
            expected.extend([field.offset as u64, field.size as u64]);
        }
        if whole {
            questions.push((name.to_owned(), format!("sizeof(struct {name})")));
            expected.push(layout.size as u64);
        }
    }
    let said = header.ask(&questions);
    assert_eq!(said.len(), questions.len());
    for ((name, question), expected) in questions.iter().zip(&expected) {
        assert_eq!(
            said[name],
            *expected,
            "{question} in {}",
            header.path.display()
        );
    }
    (questions.len(), lacking)
}

fn compare_values(header: &Header) -> (usize, Vec<String>) {
    let names = header.names();
    let (known, lacking): (Vec<_>, Vec<_>) = values()
        // The version is ours: the header has its own.
        .filter(|(name, _)| {
            *name != "FUSE_KERNEL_MINOR_VERSION" || header.minor == FUSE_KERNEL_MINOR_VERSION
        })
        .partition(|(name, _)| names.contains(name));
    let questions: Vec<_> = known
        .iter()
        .map(|(name, _)| ((*name).to_owned(), (*name).to_owned()))
        .collect();
    let said = header.ask(&questions);
    for (name, expected) in &known {
        // `1 << 31` is an int in C.
        let value = if *name == "FUSE_INIT_RESERVED" {
            said[*name] & 0xffff_ffff
        } else {
            said[*name]
        };
        assert_eq!(value, *expected, "{name} in {}", header.path.display());
    }
    (
        known.len(),
        lacking.iter().map(|(name, _)| (*name).to_owned()).collect(),
    )
}

#[test]
fn struct_and_number_of_the_header_here_are_ours() {
    let Some(header) = header_or_skip(false) else {
        return;
    };
    let (fields, no_fields) = compare_layouts(&header);
    let (numbers, no_numbers) = compare_values(&header);
    println!(
        "{} (7.{}): {fields} sizes and offsets and {numbers} numbers are equal; \
         it lacks {} fields and {} numbers",
        header.path.display(),
        header.minor,
        no_fields.len(),
        no_numbers.len()
    );
    // Linux 5.10 (7.32) has 443 and 123.
    assert!(fields >= 443 && numbers >= 123);
}

#[test]
fn struct_and_number_of_fuse_7_46_are_all_ours() {
    let Some(header) = header_or_skip(true) else {
        return;
    };
    let lacking = [compare_layouts(&header).1, compare_values(&header).1].concat();
    assert!(
        lacking.is_empty(),
        "not in {}: {lacking:?}",
        header.path.display()
    );
    let all: Vec<&str> = header.structs().into_iter().chain(header.names()).collect();
    for (prefix, why) in LEFT_OUT {
        // Removed from the header before 7.46.
        let gone = *prefix == "FUSE_NOTIFY_CODE_MAX";
        let is_there = all.iter().any(|name| name.starts_with(prefix));
        assert!(
            is_there != gone,
            "{prefix} ({why}) is left out, and not there"
        );
    }
}

#[test]
fn header_here_has_nothing_that_is_not_ours() {
    let Some(header) = header_or_skip(false) else {
        return;
    };
    let is_left_out = |name: &str| LEFT_OUT.iter().any(|(prefix, _)| name.starts_with(prefix));
    let structs: BTreeSet<&str> = layouts().map(|layout| layout.name).collect();
    let numbers: BTreeSet<&str> = values().map(|(name, _)| name).collect();
    let all = [(header.structs(), structs), (header.names(), numbers)];
    let unknown: Vec<&str> = all
        .iter()
        .flat_map(|(theirs, ours)| theirs.difference(ours).copied())
        .filter(|name| !is_left_out(name))
        .collect();
    // A header newer than this crate may have more.
    let newer = header.minor > FUSE_KERNEL_MINOR_VERSION;
    assert!(
        newer || unknown.is_empty(),
        "{}: {unknown:?}",
        header.path.display()
    );
}
