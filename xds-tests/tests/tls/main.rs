//! TLS on both sides, with Envoy and Outrigger on the same configuration and OpenSSL as the peer.
//!
//! Certificates are made at run time. A case is a listener (or cluster), a peer and what it shows; both proxies must give the
//! same answer to the peer and the same line in the log: version, subject of the peer, and why it was refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test stops at what it did not expect"
)]
#![allow(
    unreachable_pub,
    reason = "a program exports nothing; `pub` marks what other files use"
)]

mod certificates;
mod downstream;
mod feature;
mod features;
mod handshakes;
mod health_checks;
mod identity;
mod others;
mod passthrough;
mod peers;
mod pki;
mod rotation;
mod server_names;
mod upstream;
