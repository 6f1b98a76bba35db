//! The xDS types Outrigger reads, their JSON and YAML forms, and the rules they must keep.

pub mod any;
mod base64;
mod fields;
pub mod json;
pub mod schema;
pub mod validate;
mod wire;
pub mod yaml;

pub use envoy_types::pb;

/// Messages of Envoy 1.40 that `envoy-types` lacks, and under `outrigger::patch` the fields that its messages lack.
#[allow(
    missing_docs,
    clippy::doc_markdown,
    reason = "made from the proto files, which document it"
)]
pub mod ours {
    include!(concat!(env!("OUT_DIR"), "/ours.rs"));
}
