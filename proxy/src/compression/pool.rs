//! Encoders that wait for their next stream, on one worker.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::{CompressorLibrary, Encoder};

/// Encoders of one library on one worker. Keeps a few of those that are not in use.
pub struct Pool {
    library: CompressorLibrary,
    idle: RefCell<Vec<Box<dyn Encoder>>>,
}

/// An encoder of a pool, which takes it back when this is dropped.
pub struct Pooled {
    encoder: Option<Box<dyn Encoder>>,
    pool: Rc<Pool>,
}

/// How many encoders wait at most. One of gzip has 300 KiB, one of zstd at its default level 1.3 MiB.
const MOST_IDLE: usize = 4;

impl Pool {
    /// A pool that has no encoder yet.
    pub fn new(library: CompressorLibrary) -> Rc<Self> {
        Rc::new(Self {
            library,
            idle: RefCell::default(),
        })
    }

    /// The library of its encoders.
    pub fn library(&self) -> &CompressorLibrary {
        &self.library
    }

    /// An encoder for one body; none where there is no memory for another.
    pub fn take(self: &Rc<Self>) -> Option<Pooled> {
        let idle = self.idle.borrow_mut().pop();
        Some(Pooled {
            encoder: Some(match idle {
                Some(encoder) => encoder,
                None => self.library.encoder()?,
            }),
            pool: self.clone(),
        })
    }

    /// How many encoders wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.idle.borrow().len()
    }
}

impl Deref for Pooled {
    type Target = dyn Encoder;

    #[allow(clippy::expect_used, reason = "stated by the expectation")]
    fn deref(&self) -> &Self::Target {
        let encoder = self.encoder.as_deref();
        encoder.expect("only a drop takes the encoder")
    }
}

impl DerefMut for Pooled {
    #[allow(clippy::expect_used, reason = "stated by the expectation")]
    fn deref_mut(&mut self) -> &mut Self::Target {
        let encoder = self.encoder.as_deref_mut();
        encoder.expect("only a drop takes the encoder")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(mut encoder) = self.encoder.take()
            && self.pool.idle.borrow().len() < MOST_IDLE
            && encoder.reset()
        {
            self.pool.idle.borrow_mut().push(encoder);
        }
    }
}
