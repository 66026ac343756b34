//! Raw FUSE messages to the decoder: a byte for what INIT granted, and a message.
#![no_main]

#[path = "../../../crates/wire/tests/common/exercise.rs"]
mod exercise;
#[path = "../../../crates/wire/tests/common/parts.rs"]
mod parts;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _is_message = exercise::exercise(input);
});
