//! The process: what all of its parts share, its worker threads, its life from flags to exit.

mod context;
mod stats;
mod worker;

pub use context::{FactoryContext, LocalInfo, ServerContext};
pub use stats::{ServerFigures, ServerStats, ServerStatsGroup};
pub use worker::{Random, Worker};
