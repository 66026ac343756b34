//! The specification of `--fault`.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(error) = text.parse::<thrufs_fs::Fault>() {
        assert!(!error.to_string().is_empty());
    }
});
