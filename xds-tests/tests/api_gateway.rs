//! The API gateway of `examples/api-gateway` does what its page says, with Outrigger and with Envoy as the gateway.
#![allow(
    clippy::unwrap_used,
    reason = "a story stops at what it did not expect"
)]

#[path = "common/tour.rs"]
#[allow(unreachable_pub, reason = "a program exports nothing")]
mod tour;

use outrigger_xds_tests::binaries;
use tour::tour;

const PROMISES: &[&str] = &[
    "for first",
    "a good token: 200",
    "no token: 401",
    "an expired token: 401",
    "ann once more: 429",
    "bob: 200",
    "a preflight of https://shop.example: 200",
    "20 times 200",
    "requests went to orders-next",
    "Done.",
];

#[test]
fn an_api_gateway_starts_with_one_command() {
    tour(env!("CARGO_BIN_EXE_api-gateway"), &[], PROMISES);
}

#[test]
fn an_envoy_is_an_api_gateway_from_the_same_file() {
    tour(env!("CARGO_BIN_EXE_api-gateway"), &["--envoy"], PROMISES);
}

#[test]
fn the_file_is_short() {
    let file = binaries::workspace().join("examples/api-gateway/gateway.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.lines().count() < 60, "{}", text.lines().count());
    assert!(text.lines().all(|line| line.len() <= 120));
}
