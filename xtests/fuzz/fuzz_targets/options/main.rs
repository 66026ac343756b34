//! A whole command line of `thrufs mount`, one argument a line. The modules are the program's own, by
//! symbolic links, since a program cannot be a dependency.
#![no_main]
#![allow(dead_code)]

mod mount_options;
mod options;
mod request;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    let arguments = line.split(|byte| *byte == b'\n');
    let arguments: Vec<OsString> =
        arguments.map(|argument| OsString::from_vec(argument.to_vec())).collect();
    if let Err(error) = request::parse("thrufs mount", &arguments, true) {
        assert!(!error.to_string().trim().is_empty());
    }
});
