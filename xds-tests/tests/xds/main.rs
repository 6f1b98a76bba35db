//! How a proxy takes its configuration from a control plane: each story is played with Envoy and with Outrigger on the
//! same stage, and what both did is compared.
//!
//! A story asserts what it promises, of either proxy, and notes what else can be seen; the notes must be the same. While
//! working on one, `XDS_SIDE=envoy` or `XDS_SIDE=outrigger` plays only that side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test stops at what it did not expect, and tells what it plays"
)]
#![allow(
    unreachable_pub,
    reason = "a program exports nothing; `pub` marks what other files use"
)]

mod absence;
mod aggregates;
mod client;
mod conversation;
mod draining;
mod dumps;
mod keeping;
mod kinds;
mod logs;
mod misbehaviour;
mod on_demand;
mod resources;
mod secrets;
mod services;
mod stage;
mod status;
mod subscriptions;
mod traffic;
mod transports;
mod warming;
