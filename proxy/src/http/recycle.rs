//! Buffers of finished heads, kept for the next ones: a worker at its steady pace allocates none.

use std::cell::RefCell;

use super::fields::Field;

const KEPT: usize = 64;
const LARGEST_KEPT: usize = 16 * 1024;

/// The storage of one head: its bytes and the index over them.
#[derive(Debug, Default)]
pub(super) struct Storage {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<Field>,
}

thread_local! {
    static FREE: RefCell<Vec<Storage>> = const { RefCell::new(Vec::new()) };
}

impl Storage {
    /// Empty storage, with the capacity of a head that went before if there is one.
    pub(super) fn take() -> Self {
        FREE.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    /// Gives the capacity back.
    pub(super) fn put(mut self) {
        if self.bytes.capacity() > LARGEST_KEPT || self.bytes.capacity() == 0 {
            return;
        }
        self.bytes.clear();
        self.entries.clear();
        // During the destruction of the thread the list is gone, and the buffer goes with it.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
            {
                free.push(self);
            }
        });
    }
}
