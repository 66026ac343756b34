//! OPENDIR, READDIR, READDIRPLUS and their positions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::{Dir, FileType, OFlags};
use xtests::support::calls::refused;
use xtests::support::{Mount, Outcome, on_mount};

fn open(path: &Path) -> Result<Dir> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(Dir::new(rustix::fs::open(
        path,
        flags,
        rustix::fs::Mode::empty(),
    )?)?)
}

/// The next name and the position after it.
fn next(dir: &mut Dir) -> Result<Option<(String, i64)>> {
    let Some(entry) = dir.read() else {
        return Ok(None);
    };
    let entry = entry?;
    Ok(Some((
        entry.file_name().to_string_lossy().into_owned(),
        entry.offset(),
    )))
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

#[test]
fn readdir_of_ten_thousand_entries_gives_each_once() -> Outcome {
    for options in [&[][..], &["--no-readdirplus"]] {
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
    on_mount(&[], |m| {
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
            ensure!(
                after.as_ref() == Some(&told[index + 1].0),
                "after {}: {after:?}",
                told[index].0
            );
        }
        dir.seek(told[1001].1)?;
        ensure!(
            next(&mut dir)?.is_none(),
            "something comes after the last entry"
        );
        Ok(())
    })
}

#[test]
fn rewinddir_after_changes_shows_them() -> Outcome {
    on_mount(&[], |m| {
        fill(m, 100)?;
        let mut dir = open(m.dir())?;
        rest(&mut dir)?;
        File::create(m.path("added"))?;
        std::fs::remove_file(m.path("entry-number-000050"))?;
        dir.rewind();
        let names = rest(&mut dir)?;
        ensure!(
            names.contains(&"added".to_owned()),
            "the new entry is not there"
        );
        ensure!(
            !names.contains(&"entry-number-000050".to_owned()),
            "the removed entry is there"
        );
        ensure!(names.len() == 102);
        Ok(())
    })
}

#[test]
fn readdir_while_entries_go_still_gives_every_other_once() -> Outcome {
    on_mount(&[], |m| {
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
    on_mount(&[], |m| {
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
    on_mount(&[], |m| {
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
    on_mount(&[], |m| {
        File::create(m.path("f"))?;
        let dir = File::open(m.dir())?;
        dir.sync_all()?;
        dir.sync_data()?;
        rustix::fs::syncfs(&dir)?;
        Ok(())
    })
}
