//! Connection pools of one host on one worker, and the seam between the router and the codecs of upstream connections.

mod events;
pub mod http1;
pub mod http2;

pub use events::{ConnectError, PoolError, ResetReason, ResponseEvent};
