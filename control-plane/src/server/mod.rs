//! The xDS server: ADS and one stream per type, each as delta and as state of the world.

mod body;
pub mod session;
mod stream;

pub use stream::{Discovery, Implied, Peer};
