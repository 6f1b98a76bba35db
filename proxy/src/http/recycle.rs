//! Buffers of finished heads, kept for the next ones: a worker at its steady pace allocates none.

#![allow(
    clippy::expect_used,
    reason = "storage is there until it is dropped; each expectation says so"
)]

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::fields::{Field, OriginalNames};
use super::known::Known;

const KEPT: usize = 64;
const LARGEST_KEPT: usize = 16 * 1024;
/// What a new buffer has room for: most heads fit.
const BYTES: usize = 1024;
const FIELDS: usize = 24;

/// The storage of one head: a pointer, so that heads are small where they are moved.
#[derive(Debug)]
pub(super) struct Storage(Option<Box<Parts>>);

/// What a head consists of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) bytes: Vec<u8>,
    /// The index over the bytes.
    pub(super) entries: Vec<Field>,
    /// For each known name the index of its first field plus one; 0 where there is none, 255 for "look for it".
    pub(super) known: [u8; Known::COUNT],
    /// Fields that were not removed.
    pub(super) live: usize,
    /// How the sender wrote the names, where somebody wants to know.
    pub(super) original: Option<Box<OriginalNames>>,
}

thread_local! {
    #[allow(
        clippy::vec_box,
        reason = "the boxes are what is kept: heads hold them"
    )]
    static FREE: RefCell<Vec<Box<Parts>>> = const { RefCell::new(Vec::new()) };
}

impl Storage {
    /// Empty storage, with the capacity of a head that went before if there is one.
    pub(super) fn take() -> Self {
        let kept = FREE.with_borrow_mut(Vec::pop);
        Self(Some(kept.unwrap_or_else(|| {
            Box::new(Parts {
                bytes: Vec::with_capacity(BYTES),
                entries: Vec::with_capacity(FIELDS),
                known: [0; Known::COUNT],
                live: 0,
                original: None,
            })
        })))
    }
}

impl Parts {
    /// Takes everything out and keeps the capacity.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.known = [0; Known::COUNT];
        self.live = 0;
        self.original = None;
    }
}

impl Deref for Storage {
    type Target = Parts;

    #[inline]
    fn deref(&self) -> &Parts {
        self.0.as_deref().expect("only the drop takes it")
    }
}

impl DerefMut for Storage {
    #[inline]
    fn deref_mut(&mut self) -> &mut Parts {
        self.0.as_deref_mut().expect("only the drop takes it")
    }
}

impl Clone for Storage {
    fn clone(&self) -> Self {
        let mut copy = Self::take();
        copy.bytes.extend_from_slice(&self.bytes);
        copy.entries.extend_from_slice(&self.entries);
        copy.known = self.known;
        copy.live = self.live;
        copy.original.clone_from(&self.original);
        copy
    }
}

impl Drop for Storage {
    /// Keeps the capacity for the next head.
    fn drop(&mut self) {
        let Some(mut parts) = self.0.take() else {
            return;
        };
        if parts.bytes.capacity() > LARGEST_KEPT {
            return;
        }
        parts.clear();
        // During the destruction of the thread the list is gone, and the buffer goes with it.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
            {
                free.push(parts);
            }
        });
    }
}
