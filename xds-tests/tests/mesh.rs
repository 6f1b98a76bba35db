//! The mesh of `examples/mesh` does what its page says, with Outrigger and with Envoy as every proxy.
#![allow(
    clippy::unwrap_used,
    reason = "a story stops at what it did not expect"
)]

#[path = "common/tour.rs"]
#[allow(unreachable_pub, reason = "a program exports nothing")]
mod tour;

use tour::tour;

const PROMISES: &[&str] = &[
    "c was called by spiffe://mesh.local/ns/default/sa/b",
    "/c: 403",
    "rbac_access_denied",
    "c-v2 was called by spiffe://mesh.local/ns/default/sa/b",
    "20 times 200",
    "/: 429",
    "/: 418",
    "it is not trusted any more",
    "Done.",
];

#[test]
fn a_mesh_of_outriggers_starts_with_one_command() {
    tour(env!("CARGO_BIN_EXE_mesh"), &[], PROMISES);
}

#[test]
fn a_mesh_of_envoys_starts_from_the_same_files() {
    tour(env!("CARGO_BIN_EXE_mesh"), &["--envoy"], PROMISES);
}
