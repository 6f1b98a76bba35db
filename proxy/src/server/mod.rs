//! The process: what all of its parts share, its worker threads, its life from flags to exit.

mod context;
mod worker;

pub use context::{FactoryContext, LocalInfo, ServerContext};
pub use worker::{Random, Worker};
