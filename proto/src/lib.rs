//! The xDS types Outrigger reads, their JSON and YAML forms, and the rules they must keep.
//!
//! From a text to a message: [`yaml::load`]; from a message to a text: [`json::to_json`]; out of an `Any`:
//! [`any::unpack`]; what has to hold of an encoded message: [`validate::check`]. All of them work on encoded messages
//! and the tables of [`schema`], which the build writes from the descriptors of `envoy-types` and from `protos/`.
//! Nothing is parsed when a program starts, and nothing of it stays on the heap.
//!
//! # What `envoy-types` lacks
//!
//! A message that is missing gets a file in `protos/` under its own package. A field that is missing in a message
//! gets declared in a message of the same name in a package `outrigger.patch.<package>` under `protos/patch`, with
//! its rules; the text then loads and is checked. The Rust type still lacks the field, so [`validate::check`] reports
//! it as [`validate::Problem::Patched`] until somebody decodes the type of [`ours`] from the same bytes. The test
//! `envoy_descriptors` compares all this with an Envoy binary.

pub mod any;
mod base64;
pub mod difference;
mod fields;
pub mod json;
pub mod rate_limit;
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
