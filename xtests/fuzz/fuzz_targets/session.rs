//! Raw FUSE messages to the adapter.
#![no_main]

#[path = "../../../crates/fs/tests/common/script.rs"]
mod script;

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    // Panics of fuser's parser are known and end the session; they would end the fuzzer as well.
    let _played = script::play(script);
});
