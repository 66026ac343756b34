//! The small languages of single options: --fault, --translate-uid (a rule a line), --xattrmap.
#![no_main]

use thrufs_fs::{Fault, IdMap, IdRule, XattrMap};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(error) = text.parse::<Fault>() {
        assert!(!error.to_string().is_empty());
    }
    if let Err(error) = text.parse::<XattrMap>() {
        assert!(!error.to_string().is_empty());
    }
    if let Ok(rules) = text.lines().map(str::parse).collect::<Result<Vec<IdRule>, _>>() {
        let _map = IdMap::new(&rules);
    }
});
