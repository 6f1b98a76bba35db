//! What a connection needs while it has streams. The worker lends it, so that one whose streams come one after another does not
//! ask the allocator for each, and one that rests keeps nothing.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use super::connection::{Accepted, IdHasher};
use super::stream::Stream;

/// Containers with nothing in them.
#[derive(Default)]
pub(super) struct Room {
    pub(super) streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    pub(super) accepted: VecDeque<Accepted>,
    pub(super) sendable: VecDeque<u32>,
    pub(super) unsent: VecDeque<(u64, bool)>,
    pub(super) buffers: [Vec<u8>; 2],
}

/// Rooms that a worker keeps, and for how many streams and octets each may be.
const ROOMS_KEPT: usize = 16;
const STREAMS_KEPT: usize = 64;
const OCTETS_KEPT: usize = 1024;

thread_local! {
    static FREE: RefCell<Vec<Room>> = const { RefCell::new(Vec::new()) };
}

impl Room {
    /// One that a connection has given back.
    pub(super) fn take() -> Option<Self> {
        FREE.with_borrow_mut(Vec::pop)
    }

    /// Gives it back to the worker.
    pub(super) fn put(self) {
        if !self.is_small() {
            return;
        }
        // During the destruction of the thread the list is gone, and the room goes with it.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < ROOMS_KEPT
            {
                free.push(self);
            }
        });
    }

    fn is_small(&self) -> bool {
        self.streams.capacity() < STREAMS_KEPT
            && self.accepted.capacity() <= STREAMS_KEPT
            && self.sendable.capacity() <= STREAMS_KEPT
            && self.unsent.capacity() <= STREAMS_KEPT
            && self.buffers.iter().all(|b| b.capacity() <= OCTETS_KEPT)
    }
}

/// Rooms that nobody uses.
#[cfg(test)]
pub(super) fn rooms() -> usize {
    FREE.with_borrow(Vec::len)
}
