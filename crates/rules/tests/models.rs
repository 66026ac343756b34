//! Every variant of every model has the verdict that its header claims, over its whole state space.

#![cfg(feature = "models")]

use thrufs_rules::models::{MODELS, Variant, Verdict};
use thrufs_rules::{Exploration, Trace};

fn variant(id: &str, name: &str) -> &'static Variant {
    let model = MODELS
        .iter()
        .find(|model| model.id == id)
        .expect("a model of that number");
    model
        .variants
        .iter()
        .find(|variant| variant.name == name)
        .expect("a variant of that name")
}

fn counterexample(id: &str, name: &str) -> Trace {
    variant(id, name)
        .explore()
        .counterexample
        .expect("a counterexample")
}

fn steps(trace: &Trace) -> String {
    let lines = trace
        .lines
        .iter()
        .map(|line| format!("{}: {}\n", line.thread, line.does));
    lines.collect()
}

fn check(id: &str) {
    let model = MODELS
        .iter()
        .find(|model| model.id == id)
        .expect("a model of that number");
    let verdicts: Vec<_> = model
        .variants
        .iter()
        .map(|variant| variant.expected)
        .collect();
    assert!(verdicts.contains(&Verdict::Fails) && verdicts.contains(&Verdict::Passes));
    for variant in model.variants {
        let Exploration {
            visited,
            counterexample,
            ..
        } = variant.explore();
        let shown = counterexample
            .as_ref()
            .map_or(String::new(), Trace::to_string);
        match variant.expected {
            Verdict::Fails => assert!(counterexample.is_some(), "{id} {} passes", variant.name),
            Verdict::Passes => assert!(shown.is_empty(), "{id} {} fails:\n{shown}", variant.name),
        }
        assert!(visited > 1, "{id} {} explored nothing", variant.name);
    }
}

#[test]
fn m1_write_path_variants_have_their_verdicts() {
    check("M1");
}

#[test]
fn m2_page_reuse_variants_have_their_verdicts() {
    check("M2");
}

#[test]
fn m3_stale_wake_variants_have_their_verdicts() {
    check("M3");
}

#[test]
fn m4_bookmarks_variants_have_their_verdicts() {
    check("M4");
}

#[test]
fn m5_handoff_variants_have_their_verdicts() {
    check("M5");
}

#[test]
fn m6_map_pages_variants_have_their_verdicts() {
    check("M6");
}

#[test]
fn m7_private_fault_variants_have_their_verdicts() {
    check("M7");
}

#[test]
fn m8_write_order_variants_have_their_verdicts() {
    check("M8");
}

#[test]
fn m9_ghost_variants_have_their_verdicts() {
    check("M9");
}

#[test]
fn m10_append_variants_have_their_verdicts() {
    check("M10");
}

/// Patch 2 of the first series: the writer waits for the tail's folio with the head locked, and the READ that
/// has locked the tail waits, in its handler, for the head.
#[test]
fn m1_notification_from_a_read_handler_deadlocks_with_a_writer_that_waits_under_its_head() {
    for (name, what) in [
        ("E-notify-in-read", "NOTIFY_INVAL_INODE"),
        ("E-store-in-read", "NOTIFY_STORE"),
    ] {
        let wrong = counterexample("M1", name).wrong;
        let waits = format!("the READ handler's {what} waits for A0");
        assert!(wrong.contains("W1 waits for the lock of A1"), "{wrong}");
        assert!(wrong.contains(&waits), "{wrong}");
    }
}

/// R9: the bytes are lost at the server when the page is zeroed before the WRITE is taken, and in the cache
/// when it is zeroed after that.
#[test]
fn m10_counterexamples_zero_before_and_after_the_server_takes_the_append() {
    let order = |name| {
        let steps = steps(&counterexample("M10", name));
        let at = |step: &str| {
            let found = steps.find(step);
            found.unwrap_or_else(|| panic!("no `{step}` in\n{steps}"))
        };
        (at("zeroes beyond i_size"), at("takes W's WRITE"))
    };
    let (zeroes, takes) = order("stock-server");
    assert!(zeroes < takes);
    let (zeroes, takes) = order("stock-cache");
    assert!(takes < zeroes);
}

#[test]
fn m1_hold_all_counterexample_is_the_deadlock_of_the_thread() {
    let trace = counterexample("M1", "hold-all-self");
    let steps = steps(&trace);
    assert!(steps.contains("W1: copies into A0"), "{steps}");
    assert!(
        steps.ends_with("W1: iov_iter_fault_in_readable, earlier pages locked\n"),
        "{steps}"
    );
    assert!(trace.wrong.contains("deadlock"));
}

#[test]
fn m3_if_counterexample_wakes_the_waiter_of_the_second_writeback() {
    let steps = steps(&counterexample("M3", "if"));
    let at = |step: &str| {
        steps
            .find(step)
            .unwrap_or_else(|| panic!("no `{step}` in\n{steps}"))
    };
    assert!(at("clear PG_writeback") < at("S: set_page_writeback"));
    assert!(at("S: set_page_writeback") < at("E: wake_up_page"));
    assert!(
        steps.ends_with("V: BUG_ON(PageWriteback(page))\n"),
        "{steps}"
    );
}

#[test]
fn m4_bookmark_counterexample_repeats_with_every_waiter_requeued() {
    let trace = counterexample("M4", "bookmark");
    let from = trace.repeats_from.expect("a cycle");
    let cycle: Vec<_> = trace.lines[from..]
        .iter()
        .map(|line| line.thread.as_str())
        .collect();
    assert!(cycle.contains(&"E") && cycle.contains(&"V1"), "{trace}");
    let before = from
        .checked_sub(1)
        .map_or(&trace.start, |line| &trace.lines[line].state);
    assert_eq!(before, &trace.lines.last().expect("a step").state);
}

#[test]
fn m6_acquire_only_counterexample_rests_on_a_stale_load() {
    let steps = steps(&counterexample("M6", "acquire-only"));
    assert!(steps.contains("(stale)"), "{steps}");
}

#[test]
fn m6_missing_checks_fail_by_interleaving_alone() {
    for name in ["no-second-check", "no-mapping-check"] {
        let steps = steps(&counterexample("M6", name));
        assert!(!steps.contains("(stale)"), "{name}:\n{steps}");
    }
}

#[test]
fn m5_lost_wake_up_counterexamples_end_with_the_sleeper() {
    for name in ["try-before-set-waiters", "august-2020-late-clear"] {
        let trace = counterexample("M5", name);
        assert!(trace.wrong.contains("lost wake-up"), "{trace}");
        assert!(trace.lines.len() < 12, "{trace}");
    }
}

#[test]
fn m8_lost_store_counterexample_has_the_newer_write_overtaken() {
    let steps = steps(&counterexample("M8", "unlocked"));
    let newer = steps.find("applies P's B").expect("the newer one applied");
    let older = steps.find("applies W's A").expect("the older one applied");
    assert!(newer < older, "{steps}");
}

#[test]
fn explore_of_failing_variant_is_the_same_each_time() {
    let first = variant("M5", "try-before-set-waiters").explore();
    assert_eq!(first, variant("M5", "try-before-set-waiters").explore());
}

#[test]
fn m1_relock_counterexample_writes_what_a_reader_brought_back() {
    let steps = steps(&counterexample("M1", "relock"));
    assert!(steps.contains("uptodate with the old bytes"), "{steps}");
}
