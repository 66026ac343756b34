//! Places fuser's request buffers so that the data of a WRITE begins at a page.
//!
//! A session thread reads each request into one buffer, which fuser allocates as a `Vec` of
//! [`FUSER_BUFFER`] bytes; the data follows the headers. If it does not begin at a page, each page of
//! the client's lies across two of the buffer's, and the kernel looks up and copies both parts, in
//! read(2) and again in pwritev2(2): 1 MiB writes are a fifth slower
//! (fio-jobs/RESULTS.md, "What a WRITE costs").
//!
//! fuser has no say in where its buffer is, but the allocator has: this one moves that size, and
//! passes on everything else. Should fuser come to allocate another size, nothing is moved and
//! nothing breaks; `payload.rs` among the tests of `crates/fs` tells.

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes of a request buffer (fuser 0.18, `read_buf.rs`): the largest WRITE, and a page.
pub const FUSER_BUFFER: usize = (16 << 20) + PAGE;
/// Bytes before the data of a WRITE: `struct fuse_in_header` and `struct fuse_write_in` of
/// linux/fuse.h, 40 each.
const HEADERS: usize = 80;
/// Of x86-64, and the smallest elsewhere.
const PAGE: usize = 4096;
/// Before a moved buffer stands where its memory begins.
const NOTE: usize = size_of::<*mut u8>();
/// What a moved buffer is allocated as. Not aligned to pages, which would have the allocator clear
/// all of it: so it is fresh memory of the kernel's, of which only what is used becomes resident.
const ROOMY: Layout = match Layout::from_size_align(FUSER_BUFFER + PAGE + 2 * NOTE, NOTE) {
    Ok(layout) => layout,
    Err(_) => panic!("a small power of two as the alignment, and no overflow"),
};

/// The allocator; see the module.
#[derive(Clone, Copy, Debug)]
pub struct PayloadAligning;

fn is_moved(layout: Layout) -> bool {
    layout.size() == FUSER_BUFFER && layout.align() == 1
}

/// How far from `address` a buffer begins: at least [`NOTE`], at most a page more, and so that what
/// follows the headers is at a page. A multiple of [`NOTE`], as the headers are.
fn distance(address: usize) -> usize {
    let after = address + NOTE + HEADERS;
    NOTE + (after.next_multiple_of(PAGE) - after)
}

// SAFETY: every block comes from `System` and goes back to it by the pointer and layout that it was
// allocated with. A moved one lies within its block: `distance` plus its size is no more than the
// block's. Whether one is moved depends on its layout alone, so all four make the same choice.
unsafe impl GlobalAlloc for PayloadAligning {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_moved(layout) {
            // SAFETY: the caller's promise, which is ours.
            return unsafe { self.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise, which is ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !is_moved(layout) {
            // SAFETY: the caller's promise, which is ours.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the layout's size is not 0.
        let block = unsafe { System.alloc_zeroed(ROOMY) };
        if block.is_null() {
            return block;
        }
        let distance = distance(block.addr());
        // SAFETY: less than the block's size.
        let buffer = unsafe { block.add(distance) };
        // SAFETY: `distance` is at least the note's size.
        let note = unsafe { buffer.sub(NOTE) }.cast::<*mut u8>();
        // SAFETY: within the block, in front of the buffer; aligned, since block, distance and
        // note are multiples of its size.
        unsafe { note.write(block) };
        buffer
    }

    unsafe fn dealloc(&self, buffer: *mut u8, layout: Layout) {
        if !is_moved(layout) {
            // SAFETY: the caller's promise, which is ours.
            return unsafe { System.dealloc(buffer, layout) };
        }
        // SAFETY: `alloc_zeroed` has left its note there.
        let note = unsafe { buffer.sub(NOTE) }.cast::<*mut u8>();
        // SAFETY: it was written there, and no other code knows the address.
        let block = unsafe { note.read() };
        // SAFETY: by this pointer and layout it was allocated.
        unsafe { System.dealloc(block, ROOMY) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(grown) = Layout::from_size_align(size, layout.align()) else {
            return std::ptr::null_mut();
        };
        if !is_moved(layout) && !is_moved(grown) {
            // SAFETY: the caller's promise, which is ours.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller promises a size that is not 0.
        let moved = unsafe { self.alloc(grown) };
        if !moved.is_null() {
            let kept = layout.size().min(size);
            // SAFETY: two blocks, each of at least so many bytes.
            unsafe { std::ptr::copy_nonoverlapping(block, moved, kept) };
            // SAFETY: the caller's promise, which is ours.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_leaves_room_for_the_note_and_ends_before_a_page() {
        for address in (0..2 * PAGE).step_by(NOTE) {
            let distance = distance(address);
            assert!((NOTE..NOTE + PAGE).contains(&distance), "{distance}");
            assert_eq!((address + distance + HEADERS) % PAGE, 0, "{address}");
        }
    }

    #[test]
    fn alloc_of_a_request_buffer_is_zeroed_usable_and_aligned() {
        let layout = Layout::from_size_align(FUSER_BUFFER, 1).expect("a layout");
        // SAFETY: the size is not 0.
        let buffer = unsafe { PayloadAligning.alloc(layout) };
        assert!(!buffer.is_null());
        assert_eq!((buffer.addr() + HEADERS) % PAGE, 0);
        // SAFETY: so many bytes were allocated, and are zeroed.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, FUSER_BUFFER) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(7);
        // SAFETY: as it was allocated.
        unsafe { PayloadAligning.dealloc(buffer, layout) };
    }

    #[test]
    fn realloc_to_and_from_that_size_keeps_the_content() {
        let small = Layout::from_size_align(100, 1).expect("a layout");
        let large = Layout::from_size_align(FUSER_BUFFER, 1).expect("a layout");
        // SAFETY: the size is not 0.
        let block = unsafe { PayloadAligning.alloc(small) };
        // SAFETY: within the block.
        unsafe { block.write_bytes(3, 100) };
        // SAFETY: as it was allocated; the new size is not 0.
        let block = unsafe { PayloadAligning.realloc(block, small, FUSER_BUFFER) };
        assert_eq!((block.addr() + HEADERS) % PAGE, 0);
        // SAFETY: as it was allocated; the new size is not 0.
        let block = unsafe { PayloadAligning.realloc(block, large, 100) };
        // SAFETY: within the block, all of it written.
        assert_eq!(unsafe { std::slice::from_raw_parts(block, 100) }, [3; 100]);
        // SAFETY: as it was allocated.
        unsafe { PayloadAligning.dealloc(block, small) };
    }
}
