//! /dev/fuse: one message a read(2), one answer a writev(2).

mod buffer;
mod connection;
mod readers;

pub use buffer::{
    Buffers, RequestBuffer, SHARED_BUFFER_START, current_shared_buffer, shared_buffer_size,
};
pub use connection::{DevFuse, Received};
pub use readers::{Drain, Ended, Handler, ReaderCounts, serve};
