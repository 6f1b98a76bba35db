//! Faults that the simulation puts into the code on purpose, to see that it finds them.
//!
//! The switch is there only in builds with debug assertions, and only for the thread that sets it. In a release build
//! `is_planted` is the constant `false`, and nothing is left of what depends on it.

/// A fault, named after what goes wrong. Each is at one place of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The router sends a request again at once when its connection ends before there is an answer, as if nobody could have
    /// seen it.
    DoubleSend,
    /// The stream of an attempt whose client has gone is forgotten, with every count that it holds.
    LeakedCounter,
    /// Outlier detection asks whether the hosts that are ejected exceed their share, before it ejects one more.
    CapBreach,
}

#[cfg(debug_assertions)]
pub use switch::{Planted, plant};

/// Whether this thread is to behave as badly as that.
#[inline]
pub(crate) fn is_planted(fault: Fault) -> bool {
    #[cfg(debug_assertions)]
    return switch::is_on(fault);
    #[cfg(not(debug_assertions))]
    return {
        let _ = fault;
        false
    };
}

#[cfg(debug_assertions)]
mod switch {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// While it lives, there is a fault in what its thread does.
    #[derive(Debug)]
    pub struct Planted(());

    /// Puts a fault into what this thread does, in place of any other.
    #[must_use]
    pub fn plant(fault: Fault) -> Planted {
        PLANTED.set(Some(fault));
        Planted(())
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }

    pub(super) fn is_on(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }
}
