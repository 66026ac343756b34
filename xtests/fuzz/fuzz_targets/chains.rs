//! What a hostile guest writes into its rings and memory, to a virtiofs device.
#![no_main]

#[path = "../../../crates/transport/tests/common/chains.rs"]
mod chains;

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    let _played = chains::play(script);
});
