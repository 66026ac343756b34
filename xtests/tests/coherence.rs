//! Two mounts of one SOURCE with `--cache=never` agree with each other after every operation.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::ensure;
use xtests::support::{Backing, Mount, Outcome, Scratch, case};

/// A small generator: the same sequence every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn write_on_one_mount_is_read_on_the_other_at_once() -> Outcome {
    case(|| {
        let first = Mount::new(Backing::Here, &["--cache=never"])?;
        let second = Mount::of(Scratch::sharing(first.source(""))?, &["--cache=never"])?;
        let files = [
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(first.path("f"))?,
            File::options()
                .read(true)
                .write(true)
                .open(second.path("f"))?,
        ];
        let (mut model, mut random) = (Vec::new(), Random(42));
        for step in 0..3000_u32 {
            let (writer, reader) = (random.below(2), random.below(2));
            let (offset, len) = (random.below(200_000), 1 + random.below(20_000));
            if random.below(10) == 0 {
                files[writer].set_len(offset as u64)?;
                model.resize(offset, 0);
            } else {
                let data = vec![(step % 250) as u8 + 1; len];
                files[writer].write_all_at(&data, offset as u64)?;
                model.resize(model.len().max(offset + len), 0);
                model[offset..offset + len].copy_from_slice(&data);
            }
            let seen = files[reader].metadata()?.len();
            ensure!(
                seen == model.len() as u64,
                "step {step}: size {seen}, {}",
                model.len()
            );
            let (at, len) = (random.below(model.len() + 1), random.below(50_000));
            let mut buffer = vec![0; len];
            let read = files[reader].read_at(&mut buffer, at as u64)?;
            ensure!(
                buffer[..read] == model[at..at + read],
                "step {step}: stale bytes at {at}"
            );
        }
        drop(files);
        second.unmount()?;
        first.unmount()
    })
}

#[test]
fn names_made_on_one_mount_exist_on_the_other_at_once() -> Outcome {
    case(|| {
        let first = Mount::new(Backing::Here, &["--cache=never"])?;
        let second = Mount::of(Scratch::sharing(first.source(""))?, &["--cache=never"])?;
        for round in 0..200 {
            let (name, moved) = (format!("n{round}"), format!("m{round}"));
            ensure!(!second.path(&name).exists());
            std::fs::write(first.path(&name), "x")?;
            ensure!(second.path(&name).exists(), "{name} is not there");
            std::fs::rename(second.path(&name), second.path(&moved))?;
            ensure!(
                !first.path(&name).exists() && first.path(&moved).exists(),
                "{name} not moved"
            );
            std::fs::remove_file(first.path(&moved))?;
            ensure!(!second.path(&moved).exists(), "{moved} is still there");
        }
        second.unmount()?;
        first.unmount()
    })
}
