//! A rate limit service: `envoy.service.ratelimit.v3.RateLimitService`, with the limits of the kind `RateLimit`.
//!
//! A proxy names a domain and what a request is counted under: keys and values. A limit matches keys in their order, and
//! values where it has some; each combination of values that it leaves open has a counter of its own, so that a limit by
//! the key `user` is one per user. Of several limits that match the one with the most values counts.
//!
//! Counters are sliding windows ([`Counter`]): what was counted in the window before fades out while the present one goes
//! on. A request that is refused by one of its limits is counted by none. Counters are in memory; a file may keep them
//! over a restart ([`Counters::save`]). Or they are in Redis, for several control planes ([`Shared`]).

mod kind;
mod limiter;
mod service;
mod shared;
mod store;
mod window;

pub(crate) use kind::window;
pub use kind::{LimitSpec, MatchSpec, RateLimitSpec};
pub use limiter::{Asked, Counts, Entry, Limiter, Verdict};
pub use service::{Limits, serve};
pub use shared::{Access, Shared, Unavailable};
pub use store::Counters;
pub use window::Counter;
