//! The heap of the process: jemalloc's figures, and giving memory back.

use std::ptr::null_mut;

use tikv_jemalloc_ctl::{epoch, stats};

/// What is known of the heap.
pub trait Heap {
    /// Its size in bytes; nothing if the allocator does not say.
    fn usage(&self) -> Option<HeapUsage>;

    /// Gives free memory back to the system.
    fn shrink(&self);
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeapUsage {
    /// What the program holds.
    pub allocated: u64,
    /// What the allocator took from the system for it.
    pub heap_size: u64,
    /// What of that is in physical memory.
    pub resident: u64,
    /// What the allocator keeps for later use.
    pub retained: u64,
}

/// The allocator of the binary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Jemalloc;

impl Heap for Jemalloc {
    fn usage(&self) -> Option<HeapUsage> {
        epoch::advance().ok()?;
        let bytes = |size: usize| u64::try_from(size).ok();
        Some(HeapUsage {
            allocated: bytes(stats::allocated::read().ok()?)?,
            heap_size: bytes(stats::mapped::read().ok()?)?,
            resident: bytes(stats::resident::read().ok()?)?,
            retained: bytes(stats::retained::read().ok()?)?,
        })
    }

    #[allow(
        unsafe_code,
        reason = "jemalloc offers the purge only through its C interface"
    )]
    fn shrink(&self) {
        // SAFETY: the name is a C string (4096 stands for all arenas), and this control neither reads nor writes a value,
        // for which null pointers and a length of zero are right.
        let result = unsafe {
            tikv_jemalloc_sys::mallctl(
                c"arena.4096.purge".as_ptr(),
                null_mut(),
                null_mut(),
                null_mut(),
                0,
            )
        };
        if result != 0 {
            tracing::warn!(error = result, "Giving memory back failed.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocator_answers_and_can_be_purged() {
        let heap = Jemalloc;
        heap.shrink();
        let usage = heap.usage().unwrap();
        assert!(usage.heap_size > 0 && usage.allocated <= usage.heap_size);
    }
}
