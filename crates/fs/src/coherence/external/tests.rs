//! A file that is changed through this mount and outside it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{File, FileTimes};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::coherence::open_files::Watches;

struct Watched {
    file: File,
    watch: Arc<ChangeTracker>,
}

impl Watched {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let watch = Arc::new(ChangeTracker::new(&statx(&file).unwrap()));
        Self { file, watch }
    }

    /// A WRITE of ours.
    fn write(&self, byte: u8) -> Option<ExternalChange> {
        let (own, external) = self.watch.begin(&self.file, Sets::Now);
        self.file.write_all_at(&[byte], 0).unwrap();
        drop(own);
        external
    }

    /// From outside.
    fn change(&self, byte: u8) {
        self.file.write_all_at(&[byte], 5).unwrap();
    }

    fn look(&self) -> Option<ExternalChange> {
        self.watch.look(&self.file)
    }
}

/// Until files get a later time than now.
fn wait_for_next_tick() {
    let (now, began) = (Time::now(), Instant::now());
    while Time::tick() <= now {
        assert!(began.elapsed() < Duration::from_secs(10), "no tick comes");
        std::thread::yield_now();
    }
}

#[test]
fn look_after_our_own_writes_finds_nothing() {
    let it = Watched::new();
    for byte in 0..200 {
        assert!(it.write(byte).is_none(), "write {byte}");
        if byte % 3 == 0 {
            assert!(it.look().is_none(), "look {byte}");
        }
        if byte % 20 == 0 {
            wait_for_next_tick();
        }
    }
}

#[test]
fn look_after_a_foreign_change_finds_it_until_the_kernel_has_dropped_the_file() {
    let it = Watched::new();
    it.write(1);
    wait_for_next_tick();
    it.change(2);
    let external = it.look().unwrap();
    assert!(it.look().is_some(), "who comes next has to wait as well");
    wait_for_next_tick();
    it.change(3);
    assert!(it.look().is_some());
    external.dropped();
    let second = it.look();
    second
        .expect("the first drop may have been before it")
        .dropped();
    assert!(it.look().is_none());
}

#[test]
fn begin_after_a_foreign_change_finds_what_the_write_would_hide() {
    let it = Watched::new();
    it.write(1);
    wait_for_next_tick();
    it.change(2);
    wait_for_next_tick();
    it.write(3).unwrap().dropped();
    assert!(it.look().is_none());
}

#[test]
fn look_while_we_write_does_not_judge_and_later_finds_a_foreign_change_that_came_after() {
    let it = Watched::new();
    let (own, _) = it.watch.begin(&it.file, Sets::Now);
    it.file.write_all_at(b"x", 0).unwrap();
    assert!(it.look().is_none());
    drop(own);
    wait_for_next_tick();
    it.change(2);
    assert!(it.look().is_some());
}

#[test]
fn judge_of_what_was_seen_before_our_write_ended_says_nothing() {
    let it = Watched::new();
    let (own, _) = it.watch.begin(&it.file, Sets::Now);
    let asked = Time::now();
    it.file.write_all_at(b"x", 0).unwrap();
    let seen = statx(&it.file).unwrap();
    wait_for_next_tick();
    it.file.write_all_at(b"y", 0).unwrap();
    drop(own);
    assert!(it.watch.judge(asked, &seen).is_none());
    assert!(it.look().is_none(), "the second write is ours as well");
}

#[test]
fn look_after_setattr_of_ours_takes_any_time_once() {
    let it = Watched::new();
    let (own, _) = it.watch.begin(&it.file, Sets::Any);
    let day = Duration::from_secs(86_400);
    let set = |time| it.file.set_times(FileTimes::new().set_modified(time));
    set(SystemTime::now() - day).unwrap();
    drop(own);
    assert!(it.look().is_none());
    set(SystemTime::now() - 2 * day).unwrap();
    assert!(it.look().is_some(), "that came from outside");
}

#[test]
fn look_after_a_foreign_truncation_in_the_same_tick_finds_the_size() {
    let it = Watched::new();
    let mtime = it.file.metadata().unwrap().modified().unwrap();
    it.file.set_len(3).unwrap();
    it.file
        .set_times(FileTimes::new().set_modified(mtime))
        .unwrap();
    assert!(it.look().is_some());
}

#[test]
fn rounded_as_a_coarse_file_systems_time_is_no_later_than_what_it_keeps() {
    let time = |seconds, nanoseconds| Time {
        seconds,
        nanoseconds,
    };
    let at = time(101, 999_999_999);
    assert!(at.rounded_as(time(100, 0)) <= time(100, 0), "FAT");
    assert!(
        at.rounded_as(time(101, 990_000_000)) <= time(101, 990_000_000),
        "exFAT"
    );
    assert!(
        at.rounded_as(time(101, 999_999_000)) <= time(101, 999_999_000),
        "CIFS"
    );
    assert!(at.rounded_as(time(101, 999_000_001)) > time(101, 999_000_001));
    assert_eq!(time(5, 0).rounded_as(time(4, 1)), time(4, 999_999_000));
}

#[test]
fn enter_by_a_second_handle_keeps_the_cache_unless_somebody_else_changed_the_file() {
    let it = Watched::new();
    let watches = Watches::default();
    let enter = || watches.enter(7, Time::now(), &statx(&it.file).unwrap());
    let first = enter();
    assert!(
        !first.keep,
        "the file was not tracked since it was last open"
    );
    assert!(enter().keep);
    wait_for_next_tick();
    it.change(1);
    let third = enter();
    assert!(!third.keep && Arc::ptr_eq(&first.watch, &third.watch));
    third.external.unwrap().dropped();
    assert!(enter().keep);
    (0..4).for_each(|_| watches.release(7));
    assert!(watches.get(7).is_none());
    assert!(!enter().keep);
}

#[test]
fn serve_looks_while_files_are_open_and_ends_when_it_is_told() {
    let it = Watched::new();
    let watches = Watches::default();
    watches.start();
    let (sender, rounds) = std::sync::mpsc::channel();
    let limit = Duration::from_secs(10);
    std::thread::scope(|s| {
        s.spawn(|| watches.serve(Duration::from_millis(1), || sender.send(()).unwrap()));
        assert!(
            rounds.recv_timeout(Duration::from_millis(50)).is_err(),
            "nothing is open"
        );
        watches.enter(7, Time::now(), &statx(&it.file).unwrap());
        rounds.recv_timeout(limit).unwrap();
        rounds.recv_timeout(limit).unwrap();
        watches.stop();
    });
}
