//! OPENDIR, READDIR, READDIRPLUS and their positions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::{Dir, FileType, OFlags};
use xtests::support::calls::refused;
use xtests::support::checks::equal;
use xtests::support::{Mount, Outcome, on_mount};

fn open(path: &Path) -> Result<Dir> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    Ok(Dir::new(opened)?)
}

/// The next name and the position after it.
fn next(dir: &mut Dir) -> Result<Option<(String, i64)>> {
    let Some(entry) = dir.read() else {
        return Ok(None);
    };
    let entry = entry?;
    let name = entry.file_name().to_string_lossy().into_owned();
    Ok(Some((name, entry.offset())))
}

fn rest(dir: &mut Dir) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while let Some((name, _)) = next(dir)? {
        names.push(name);
    }
    Ok(names)
}

fn fill(m: &Mount, count: usize) -> Result<BTreeSet<String>> {
    let names: BTreeSet<String> = (0..count).map(|i| format!("entry-number-{i:06}")).collect();
    for name in &names {
        File::create(m.source(name))?;
    }
    Ok(names)
}

/// A mount whose directories the kernel may keep sends no OPENDIR but the first.
fn with_and_without_opendir(test: impl Fn(&Mount) -> Result<()>) -> Outcome {
    for options in [&[][..], &["--cache=always"]] {
        on_mount(options, &test)?;
    }
    Ok(())
}

#[test]
fn readdir_of_ten_thousand_entries_gives_each_once() -> Outcome {
    for options in [&[][..], &["--no-readdirplus"], &["--cache=always"]] {
        on_mount(options, |m| {
            let mut expected = fill(m, 10_000)?;
            expected.extend([".".to_owned(), "..".to_owned()]);
            let names = rest(&mut open(m.dir())?)?;
            ensure!(names.len() == expected.len(), "{} entries", names.len());
            ensure!(names.into_iter().collect::<BTreeSet<_>>() == expected);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn readdir_gives_the_inode_number_and_type_that_stat_gives() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("file"), "")?;
        std::fs::create_dir(m.path("dir"))?;
        std::os::unix::fs::symlink("x", m.path("link"))?;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, m.path("fifo"), FileType::Fifo, mode, 0)?;
        let mut seen = BTreeMap::new();
        let mut dir = open(m.dir())?;
        while let Some(entry) = dir.read() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            seen.insert(name, (entry.ino(), entry.file_type()));
        }
        let kinds = [
            ("file", FileType::RegularFile),
            ("dir", FileType::Directory),
            ("link", FileType::Symlink),
            ("fifo", FileType::Fifo),
            (".", FileType::Directory),
            ("..", FileType::Directory),
        ];
        for (name, kind) in kinds {
            let (number, got) = seen[name];
            ensure!(got == kind, "{name}: {got:?}");
            if !name.starts_with('.') {
                let stat = m.path(name).symlink_metadata()?.ino();
                ensure!(number == stat, "{name}: d_ino {number}, st_ino {stat}");
            }
        }
        Ok(())
    })
}

#[test]
fn seekdir_to_every_told_position_continues_there() -> Outcome {
    with_and_without_opendir(|m| {
        fill(m, 1000)?;
        let mut dir = open(m.dir())?;
        let mut told = Vec::new();
        while let Some(entry) = next(&mut dir)? {
            told.push(entry);
        }
        ensure!(told.len() == 1002);
        for index in (0..told.len() - 1).rev().step_by(37) {
            dir.seek(told[index].1)?;
            let after = next(&mut dir)?.map(|(name, _)| name);
            equal(&told[index].0, after.as_ref(), Some(&told[index + 1].0))?;
        }
        dir.seek(told[1001].1)?;
        equal("after the last entry", next(&mut dir)?, None)
    })
}

#[test]
fn rewinddir_after_changes_shows_them() -> Outcome {
    with_and_without_opendir(|m| {
        fill(m, 100)?;
        let mut dir = open(m.dir())?;
        rest(&mut dir)?;
        File::create(m.path("added"))?;
        std::fs::remove_file(m.path("entry-number-000050"))?;
        dir.rewind();
        let names = rest(&mut dir)?;
        let has = |wanted| names.iter().any(|name| name == wanted);
        ensure!(has("added"), "the new entry is not there");
        ensure!(!has("entry-number-000050"), "the removed entry is there");
        equal("names", names.len(), 102)
    })
}

#[test]
fn readdir_while_entries_go_still_gives_every_other_once() -> Outcome {
    with_and_without_opendir(|m| {
        let all = fill(m, 3000)?;
        let mut dir = open(m.dir())?;
        let mut seen = Vec::new();
        while let Some((name, _)) = next(&mut dir)? {
            if seen.len() == 100 {
                for victim in all.iter().step_by(3) {
                    std::fs::remove_file(m.path(victim))?;
                }
            }
            seen.push(name);
        }
        let unique: BTreeSet<&String> = seen.iter().collect();
        ensure!(unique.len() == seen.len(), "an entry came twice");
        for (index, name) in all.iter().enumerate() {
            ensure!(index % 3 == 0 || unique.contains(name), "{name} is missing");
        }
        Ok(())
    })
}

#[test]
fn rm_of_a_directory_while_reading_it_empties_it() -> Outcome {
    with_and_without_opendir(|m| {
        std::fs::create_dir(m.path("d"))?;
        for index in 0..5000 {
            File::create(m.source(&format!("d/{index}")))?;
        }
        std::fs::remove_dir_all(m.path("d"))?;
        ensure!(!m.source("d").exists());
        Ok(())
    })
}

#[test]
fn readdir_of_a_removed_open_directory_is_empty_or_enoent() -> Outcome {
    with_and_without_opendir(|m| {
        std::fs::create_dir(m.path("d"))?;
        let mut dir = open(&m.path("d"))?;
        std::fs::remove_dir(m.path("d"))?;
        match rest(&mut dir) {
            Ok(names) => ensure!(names.iter().all(|n| n == "." || n == ".."), "{names:?}"),
            Err(error) => ensure!(error.to_string().contains("No such file"), "{error}"),
        }
        refused(std::fs::write(m.path("d/new"), ""), libc::ENOENT)?;
        Ok(())
    })
}

#[test]
fn fsync_of_a_directory_succeeds() -> Outcome {
    with_and_without_opendir(|m| {
        File::create(m.path("f"))?;
        let dir = File::open(m.dir())?;
        dir.sync_all()?;
        dir.sync_data()?;
        rustix::fs::syncfs(&dir)?;
        Ok(())
    })
}

#[test]
fn directory_that_may_be_cached_is_listed_without_opendir() -> Outcome {
    on_mount(&["--cache=always"], |m| {
        m.require_mount()?;
        std::fs::create_dir(m.source("other"))?;
        let all = fill(m, 3000)?;
        equal("names", rest(&mut open(m.dir())?)?.len(), all.len() + 3)?;
        let asked =
            |m: &Mount| -> Result<u64> { Ok(m.requests("READDIR")? + m.requests("READDIRPLUS")?) };
        let before = asked(m)?;
        equal("names", rest(&mut open(m.dir())?)?.len(), all.len() + 3)?;
        equal("READDIRs of what is cached", asked(m)?, before)?;
        equal("names", rest(&mut open(&m.path("other"))?)?.len(), 2)?;
        equal("OPENDIRs", m.requests("OPENDIR")?, 1)?;
        equal("RELEASEDIRs", m.requests("RELEASEDIR")?, 0)
    })
}

#[test]
fn listings_of_one_directory_in_turn_give_each_every_name() -> Outcome {
    with_and_without_opendir(|m| {
        let all = fill(m, 2000)?;
        // More than the server keeps.
        let mut dirs = (0..20).map(|_| open(m.dir())).collect::<Result<Vec<_>>>()?;
        let mut seen = vec![BTreeSet::new(); dirs.len()];
        // Changes keep what is listed from being cached.
        for round in 0..all.len() + 20 {
            if round % 500 == 0 {
                File::create(m.path(&format!("new-{round}")))?;
            }
            for (dir, seen) in dirs.iter_mut().zip(&mut seen) {
                seen.extend(next(dir)?.map(|(name, _)| name));
            }
        }
        for seen in &seen {
            let missed = all.difference(seen).count();
            equal("names that a listing missed", missed, 0)?;
        }
        Ok(())
    })
}
