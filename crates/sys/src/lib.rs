//! Safe wrappers, one file per system call family that nix, rustix or libc leave open.
