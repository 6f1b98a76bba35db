//! Futures that stay on their worker.

use std::future::Future;
use std::pin::Pin;

/// A future of one worker. It owns what it uses and borrows nothing of a stream.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
