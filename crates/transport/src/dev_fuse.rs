//! /dev/fuse: one message a read(2), one answer a writev(2).

mod buffer;
mod connection;
mod pace;
mod readers;

pub use buffer::RequestBuffer;
pub use connection::DevFuse;
pub use readers::{Handler, ReaderCounts, serve};
