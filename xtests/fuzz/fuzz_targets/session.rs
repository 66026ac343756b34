//! Raw FUSE messages to the adapter.
#![no_main]

#[path = "../../../crates/session/tests/common/script.rs"]
mod script;

libfuzzer_sys::fuzz_target!(
    init: let_fuser_panic(),
    |script: &[u8]| {
        let _played = script::play(script);
    }
);

/// libFuzzer's hook aborts at any panic. Those of fuser's parser are known: they end the session, and are
/// no finding.
fn let_fuser_panic() {
    let aborts = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or("", |at| at.file());
        if !place.contains("/fuser-") {
            aborts(panic);
        }
    }));
}
