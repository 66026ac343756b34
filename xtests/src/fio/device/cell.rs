//! What the guest does: one cell of the table, by its name `WORK[:SIZE]:JOBS:DEPTH`.

use std::str::FromStr;

use anyhow::{Context, Result, ensure};

use super::super::jobs::{Figure, Files, Job};

/// Requests under way at most, of all jobs.
pub(super) const SLOTS: usize = 64;
/// Bytes of the file that is read and written.
pub(super) const FILE_SIZE: u64 = 256 << 20;
/// Its name.
pub(super) const FILE: &str = "data";
/// Files that names are looked up of.
pub(super) const NAMES: usize = 64;
/// Bytes of a request at most.
pub(super) const LARGEST: usize = 1 << 20;

/// The default cells.
pub(super) const DEFAULT: &str = "randread:4k:1:1,randread:4k:4:1,randread:4k:2:2,randread:4k:4:4,\
    randread:4k:1:16,randwrite:4k:1:1,randwrite:4k:4:1,randwrite:4k:2:2,randwrite:4k:4:4,\
    randwrite:4k:1:16,read:64k:1:1,read:64k:4:1,read:64k:1:16,write:64k:1:1,write:64k:4:1,\
    write:64k:1:16,read:1m:1:1,read:1m:4:1,write:1m:1:1,write:1m:4:1,lookup:1:1,getattr:1:1,\
    open:1:1,create:1:1,lookup:4:4,getattr:4:4,open:4:4,create:4:4";

/// The name of a file, of [`NAMES`].
pub(super) fn name(index: usize) -> String {
    format!("name-{index}")
}

/// What one operation consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// READs or WRITEs of `size` bytes.
    Data {
        write: bool,
        random: bool,
        size: usize,
    },
    /// LOOKUP of one of many names.
    Lookup,
    Getattr,
    /// OPEN and RELEASE.
    Open,
    /// CREATE, RELEASE, UNLINK and FORGET.
    Create,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) name: String,
    pub(super) work: Work,
    /// Threads of the guest.
    pub(super) jobs: usize,
    /// Operations that each has under way.
    pub(super) depth: usize,
}

impl Cell {
    /// As a report has it.
    pub(super) fn job(&self) -> Job {
        let figure = match self.work {
            Work::Data { write: false, .. } => Figure::Read,
            Work::Data { write: true, .. } => Figure::Written,
            Work::Lookup | Work::Getattr | Work::Open | Work::Create => Figure::Operations,
        };
        Job {
            name: self.name.clone(),
            file: "device".to_owned(),
            section: self.name.clone(),
            question: "How fast does the device serve a guest, without a virtual machine?"
                .to_owned(),
            read: figure.unit().to_owned(),
            regression: "fewer than virtiofsd has in the same round".to_owned(),
            files: Files::Shared,
            figure,
            engine: "vhost-user".to_owned(),
        }
    }

    /// Bytes that one operation moves.
    pub(super) fn size(&self) -> usize {
        match self.work {
            Work::Data { size, .. } => size,
            Work::Lookup | Work::Getattr | Work::Open | Work::Create => 0,
        }
    }
}

impl FromStr for Cell {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let wrong = || {
            format!(
                "{name:?} is no cell: WORK[:SIZE]:JOBS:DEPTH, such as randread:4k:4:1 or create:1:1"
            )
        };
        let words: Vec<&str> = name.split(':').collect();
        let (work, numbers) = match words.as_slice() {
            [
                work @ ("read" | "write" | "randread" | "randwrite"),
                size,
                rest @ ..,
            ] => {
                let data = Work::Data {
                    write: work.ends_with("write"),
                    random: work.starts_with("rand"),
                    size: bytes(size).with_context(wrong)?,
                };
                (data, rest)
            }
            ["lookup", rest @ ..] => (Work::Lookup, rest),
            ["getattr", rest @ ..] => (Work::Getattr, rest),
            ["open", rest @ ..] => (Work::Open, rest),
            ["create", rest @ ..] => (Work::Create, rest),
            _other => anyhow::bail!(wrong()),
        };
        let [jobs, depth] = numbers else {
            anyhow::bail!(wrong());
        };
        let cell = Self {
            name: name.to_owned(),
            work,
            jobs: jobs.parse().with_context(wrong)?,
            depth: depth.parse().with_context(wrong)?,
        };
        let all = cell.jobs * cell.depth;
        ensure!(
            (1..=SLOTS).contains(&all),
            "{name}: 1 to {SLOTS} requests at a time"
        );
        ensure!(cell.size() <= LARGEST, "{name}: at most 1m");
        Ok(cell)
    }
}

fn bytes(text: &str) -> Result<usize> {
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix('m') {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    let bytes = digits.parse::<usize>()? * unit;
    ensure!(bytes > 0, "no bytes");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_the_default_are_cells() {
        for name in DEFAULT.split(',') {
            let cell: Cell = name.parse().expect(name);
            assert_eq!(cell.name, name);
        }
        let cell: Cell = "randwrite:64k:4:2".parse().expect("a cell");
        let (write, random, size) = (true, true, 64 << 10);
        assert_eq!(
            cell.work,
            Work::Data {
                write,
                random,
                size
            }
        );
        assert_eq!((cell.jobs, cell.depth), (4, 2));
    }

    #[test]
    fn parse_of_what_is_no_cell_says_what_one_is() {
        for name in [
            "",
            "read",
            "read:4k:1",
            "read:4k:0:1",
            "trim:4k:1:1",
            "read:2m:1:1",
            "open:9:9",
            "read:x:1:1",
        ] {
            assert!(name.parse::<Cell>().is_err(), "{name}");
        }
    }
}
