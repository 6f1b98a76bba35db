//! The process: what all of its parts share, its worker threads, its life from flags to exit.

mod context;
mod messages;
mod worker;

pub use context::{FactoryContext, LocalInfo, ServerContext};
pub use messages::{WorkerMessage, WorkerSender};
pub use worker::{Random, Worker};
