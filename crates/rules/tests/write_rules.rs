//! Properties of `plan` over random writes, caches, source buffers and limits.

use std::collections::BTreeSet;

use proptest::prelude::*;
use thrufs_rules::{
    CacheState, Folio, FolioState, Limits, PAGE_SIZE, Request, Source, Step, WriteRequest,
    WriteRule, apply, plan,
};

/// Writes stay below this, so that caches of a few dozen pages matter.
const REACH: u64 = 40 * PAGE_SIZE;

fn states() -> impl Strategy<Value = FolioState> {
    prop_oneof![
        4 => Just(FolioState::Absent),
        2 => Just(FolioState::Partial),
        2 => Just(FolioState::Uptodate),
        1 => Just(FolioState::Dirty),
        1 => Just(FolioState::DirtyPartial),
    ]
}

/// Folios of one page, or of up to eight in aligned places; what does not fit is left out.
fn caches() -> impl Strategy<Value = CacheState> {
    caches_of_order(4)
}

fn caches_of_order(below: u32) -> impl Strategy<Value = CacheState> {
    let folios = prop::collection::vec((0..40u64, 0..below, states()), 0..12);
    (0..2 * REACH, any::<bool>(), 0..below, folios).prop_map(|(size, warm, large, folios)| {
        let cache = if warm {
            CacheState::uptodate(size)
        } else {
            CacheState::cold(size)
        };
        let mut cache = cache.with_large_folios(1 << large);
        for (page, order, state) in folios {
            let pages = 1 << order;
            let _ = cache.insert(Folio {
                index: page / pages * pages,
                pages,
                state,
            });
        }
        cache
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    (4096..70_000u32, 1..20u16)
        .prop_map(|(write, pages)| Limits::new(write, pages).expect("in range"))
}

fn page_limits() -> impl Strategy<Value = Limits> {
    (1..18u32, 1..20u16)
        .prop_map(|(write, pages)| Limits::new(write * 4096, pages).expect("in range"))
}

/// E goes as D around such a folio, but not from the same place, so that the counts are not comparable.
fn has_dirty_partial(cache: &CacheState) -> bool {
    let state = |page| cache.folio_at(page).state;
    (0..=2 * REACH / PAGE_SIZE).any(|page| state(page) == FolioState::DirtyPartial)
}

/// E and B' send no more than D, D no more than one-page.
fn never_longer(request: &Request, cache: &CacheState, limits: &Limits) -> bool {
    let sent = |rule| plan(rule, request, cache, limits).len();
    let d = sent(WriteRule::D);
    sent(WriteRule::E) <= d && sent(WriteRule::BPrime) <= d && d <= sent(WriteRule::OnePage)
}

fn positions() -> impl Strategy<Value = (u64, u64)> {
    let pos = prop_oneof![0..REACH / 2, (0..20u64).prop_map(|page| page * PAGE_SIZE)];
    let len = prop_oneof![1..REACH / 2, (1..20u64).prop_map(|pages| pages * PAGE_SIZE)];
    (pos, len)
}

fn mapped() -> impl Strategy<Value = Request> {
    positions().prop_map(|(pos, len)| Request::new(pos, len).expect("in reach"))
}

fn requests() -> impl Strategy<Value = Request> {
    let absent = prop::collection::btree_set(0..24u64, 0..10);
    let offsets = prop_oneof![Just(0u16), 0..4096u16];
    (positions(), offsets, absent).prop_map(|((pos, len), offset_in_page, absent)| {
        Request::new(pos, len)
            .expect("in reach")
            .with_source(Source {
                offset_in_page,
                absent,
            })
    })
}

fn rules() -> impl Strategy<Value = WriteRule> {
    prop::sample::select(WriteRule::ALL.to_vec())
}

/// The fewest requests that any rule can reach: as much as both limits allow, each time.
fn fewest(request: &Request, limits: &Limits) -> usize {
    let (mut pos, end, mut sent) = (request.pos(), request.pos() + request.len(), 0);
    while pos < end {
        let by_pages = (pos / PAGE_SIZE + limits.max_pages()) * PAGE_SIZE - pos;
        pos += limits.max_write().min(by_pages);
        sent += 1;
    }
    sent
}

fn faults(sent: &[WriteRequest]) -> impl Iterator<Item = bool> {
    sent.iter()
        .flat_map(|write| &write.before)
        .filter_map(|step| match step {
            Step::FaultIn { held, .. } => Some(held.is_empty()),
            Step::Read { .. } => None,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_global_rejects: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plan_of_any_write_covers_each_byte_once_and_in_order(
        rule in rules(), request in requests(), cache in caches(), limits in limits()
    ) {
        let mut at = request.pos();
        for write in plan(rule, &request, &cache, &limits) {
            prop_assert_eq!(write.offset, at);
            prop_assert!(write.size > 0);
            at += write.size;
        }
        prop_assert_eq!(at, request.pos() + request.len());
    }

    #[test]
    fn plan_of_any_write_stays_within_the_limits(
        rule in rules(), request in requests(), cache in caches(), limits in limits()
    ) {
        for write in plan(rule, &request, &cache, &limits) {
            let pages = (write.offset + write.size - 1) / PAGE_SIZE - write.offset / PAGE_SIZE + 1;
            prop_assert!(write.size <= limits.max_write());
            prop_assert!(pages <= limits.max_pages());
        }
    }

    #[test]
    fn plan_under_e_and_b_prime_is_never_longer_than_d_nor_d_than_one_page(
        request in requests(), cache in caches_of_order(1), limits in page_limits()
    ) {
        prop_assume!(!has_dirty_partial(&cache));
        prop_assert!(never_longer(&request, &cache, &limits));
    }

    // A folio broken in the middle, by large folios or a max_write that is no multiple of the page size,
    // and a buffer that is not mapped: E may then meet its failed copy one request later than D and
    // lose the one it saved. From mapped memory it never does.
    #[test]
    fn plan_with_large_folios_or_odd_max_write_from_mapped_memory_keeps_the_order(
        request in mapped(), cache in caches(), limits in limits()
    ) {
        prop_assume!(!has_dirty_partial(&cache));
        prop_assert!(never_longer(&request, &cache, &limits));
    }

    #[test]
    fn plan_under_e_and_b_prime_from_mapped_memory_is_the_shortest_possible(
        request in mapped(), cache in caches(), limits in limits()
    ) {
        let fewest = fewest(&request, &limits);
        prop_assert_eq!(plan(WriteRule::BPrime, &request, &cache, &limits).len(), fewest);
        for rule in WriteRule::ALL {
            prop_assert!(plan(rule, &request, &cache, &limits).len() >= fewest);
        }
        if !has_dirty_partial(&cache) {
            prop_assert_eq!(plan(WriteRule::E, &request, &cache, &limits).len(), fewest);
        }
    }

    #[test]
    fn fault_in_under_any_rule_but_hold_all_holds_nothing(
        rule in rules(), request in requests(), cache in caches(), limits in limits()
    ) {
        let sent = plan(rule, &request, &cache, &limits);
        prop_assert!(rule == WriteRule::HoldAll || faults(&sent).all(|free| free));
    }

    #[test]
    fn locks_across_a_write_are_what_the_rule_allows(
        rule in rules(), request in requests(), cache in caches(), limits in limits()
    ) {
        for write in plan(rule, &request, &cache, &limits) {
            let folios = write.held.locked.len();
            let range = write.held.in_flight.is_some();
            prop_assert!(write.held.locked.is_sorted_by(|a, b| a.index < b.index));
            match rule {
                WriteRule::HoldAll => prop_assert!(folios >= 1 && !range),
                // A copy that came short leaves a partial page even under A.
                WriteRule::A => prop_assert!(folios <= usize::from(!request.source().absent.is_empty()) && !range),
                WriteRule::BPrime => prop_assert!(folios == 0 && range),
                WriteRule::OnePage | WriteRule::D => prop_assert!(folios <= 1 && !range),
                WriteRule::C | WriteRule::E => prop_assert!(folios <= 2 && !range),
            }
            if rule != WriteRule::HoldAll {
                prop_assert!(write.held.locked.iter().all(|folio| !folio.state.is_uptodate()));
            }
        }
    }

    #[test]
    fn reads_are_sent_by_a_and_c_only_and_within_the_file(
        rule in rules(), request in requests(), cache in caches(), limits in limits()
    ) {
        for write in plan(rule, &request, &cache, &limits) {
            for step in &write.before {
                if let Step::Read { offset, held, .. } = step {
                    prop_assert!(matches!(rule, WriteRule::A | WriteRule::C));
                    prop_assert!(*offset < cache.file_size.max(request.pos() + request.len()));
                    prop_assert!(!held.locked.is_empty());
                }
            }
        }
    }

    #[test]
    fn apply_leaves_whole_pages_uptodate_and_the_size_grown(
        rule in rules(), request in mapped(), cache in caches(), limits in limits()
    ) {
        let mut after = cache.clone();
        apply(rule, &request, &mut after, &limits);
        prop_assert_eq!(after.file_size, cache.file_size.max(request.pos() + request.len()));
        for page in 0..=2 * REACH / PAGE_SIZE {
            let was = cache.folio_at(page);
            if was.state.is_uptodate() && after.file_size == cache.file_size {
                prop_assert!(after.folio_at(page).state.is_uptodate());
            }
        }
    }
}

#[test]
fn plan_under_hold_all_faults_with_a_page_locked() {
    // The seed's program: the second chunk comes from a page that the first has just locked.
    let absent = BTreeSet::from([1]);
    let source = Source {
        offset_in_page: 0,
        absent,
    };
    let request = Request::new(0, 2 * PAGE_SIZE).unwrap().with_source(source);
    let cache = CacheState::cold(0);
    let sent = plan(WriteRule::HoldAll, &request, &cache, &Limits::default());
    assert_eq!(faults(&sent).collect::<Vec<_>>(), [false]);
    let sent = plan(WriteRule::D, &request, &cache, &Limits::default());
    assert_eq!(faults(&sent).collect::<Vec<_>>(), [true]);
}

#[test]
fn plan_under_e_with_failed_copy_sends_what_is_filled() {
    let source = Source {
        offset_in_page: 100,
        absent: BTreeSet::from([3]),
    };
    let request = Request::new(100, 8 * PAGE_SIZE)
        .unwrap()
        .with_source(source);
    let sent = plan(
        WriteRule::E,
        &request,
        &CacheState::cold(1 << 20),
        &Limits::default(),
    );
    let shapes: Vec<_> = sent
        .iter()
        .map(|write| (write.offset, write.size))
        .collect();
    assert_eq!(
        shapes,
        [
            (100, 3 * PAGE_SIZE - 100),
            (3 * PAGE_SIZE, 5 * PAGE_SIZE + 100)
        ]
    );
    assert!(sent[0].before.is_empty());
    assert!(matches!(sent[1].before[..], [Step::FaultIn { .. }]));
}

#[test]
fn plan_under_e_of_dirty_partial_folio_goes_as_d() {
    let mut cache = CacheState::cold(1 << 20);
    cache
        .insert(Folio {
            index: 0,
            pages: 1,
            state: FolioState::DirtyPartial,
        })
        .unwrap();
    let request = Request::new(100, 8 * PAGE_SIZE).unwrap();
    let sent = |rule| plan(rule, &request, &cache, &Limits::default()).len();
    assert_eq!((sent(WriteRule::E), sent(WriteRule::D)), (2, 2));
}

#[test]
fn plan_with_large_folio_treats_a_page_aligned_write_as_partial() {
    let mut cache = CacheState::cold(1 << 20);
    cache
        .insert(Folio {
            index: 0,
            pages: 8,
            state: FolioState::Absent,
        })
        .unwrap();
    let request = Request::new(PAGE_SIZE, 16 * PAGE_SIZE).unwrap();
    let sent = |rule| plan(rule, &request, &cache, &Limits::default()).len();
    assert_eq!((sent(WriteRule::D), sent(WriteRule::E)), (2, 1));
}

#[test]
fn plan_of_empty_write_sends_nothing() {
    let request = Request::new(5, 0).unwrap();
    for rule in WriteRule::ALL {
        assert!(plan(rule, &request, &CacheState::cold(100), &Limits::default()).is_empty());
    }
}
