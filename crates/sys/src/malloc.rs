//! The C library's allocator, as far as it looks at files.

/// Bounds the arenas of glibc's allocator to `most`.
///
/// Without a bound glibc counts the CPUs when the ninth thread allocates (`arena_get2`), by opening
/// /sys/devices/system/cpu/online. In a server whose root is SOURCE that path leads into SOURCE, and a thread that is
/// to end the waiting of others waits for a SOURCE that hangs.
pub fn bound_arenas(most: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers are passed; it changes a parameter of the allocator, under the allocator's lock.
    let _is_known = unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
    #[cfg(not(target_env = "gnu"))]
    let _other_allocators_have_no_arenas = most;
}
