//! The xDS types Outrigger reads.
pub use envoy_types::pb;
