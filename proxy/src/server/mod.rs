//! The process: what all of its parts share, its worker threads, its life from flags to exit.

mod admin_source;
mod admin_start;
mod bootstrap;
pub mod cli;
mod context;
mod dynamic;
mod extensions;
mod init;
mod lifecycle;
mod load;
pub mod log_control;
pub mod log_format;
mod main_jobs;
mod messages;
mod resources;
mod stats;
mod worker;
mod worker_thread;

pub use bootstrap::Bootstrap;
pub use context::{FactoryContext, LocalInfo, ServerContext};
pub use init::{InitManager, InitTarget};
pub use lifecycle::{Server, configuration, run, validate};
pub use main_jobs::MainJobs;
pub use messages::{WorkerMessage, WorkerSender};
pub use stats::{ServerFigures, ServerStats, ServerStatsGroup};
pub use worker::{Random, Worker};
