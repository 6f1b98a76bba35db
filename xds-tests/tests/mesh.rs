//! The mesh of `examples/mesh` does what its page says, with Outrigger and with Envoy as every proxy.
#![allow(
    clippy::unwrap_used,
    reason = "a story stops at what it did not expect"
)]

use std::process::Command;

fn tour(more: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["--tour", "--once", "--any-port"])
        .args(more)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    for promise in [
        "c was called by spiffe://mesh.local/ns/default/sa/b",
        "/c: 403",
        "rbac_access_denied",
        "c-v2 was called by spiffe://mesh.local/ns/default/sa/b",
        "20 times 200",
        "/: 429",
        "/: 418",
        "it is not trusted any more",
        "Done.",
    ] {
        assert!(shown.contains(promise), "{promise}: {shown}");
    }
}

#[test]
fn a_mesh_of_outriggers_starts_with_one_command() {
    tour(&[]);
}

#[test]
fn a_mesh_of_envoys_starts_from_the_same_files() {
    tour(&["--envoy"]);
}
