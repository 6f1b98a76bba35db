//! What comes in from outside the mesh, with real proxies: Ingresses, TLS of processes, names, calls of gRPC, streams of
//! one type, and who asks for what is not theirs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a story stops at what it did not expect"
)]

mod balancing;
mod calls;
mod claims;
mod guards;
mod ingress;
mod names;
mod policies;
mod rate_limits;
mod redis;
mod rotation;
mod scene;
mod shared_limits;
mod streams;
mod theft;
mod tracing;
#[allow(dead_code, reason = "the mesh's story uses the rest of it")]
#[path = "../mesh/world.rs"]
mod world;
