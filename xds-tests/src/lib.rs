//! End-to-end stories: the pieces that they are told with.
//!
//! - [`binaries`] finds (or builds, or installs) the programs under test.
//! - [`proxy`] runs one of them on a bootstrap and kills it on drop.
//! - [`message`] is what a client or a backend saw, down to order and case of the headers.
//! - [`http1`] reads raw HTTP/1.1 into such messages, without an opinion on what is legal.
//! - [`check`] reads what authorizers are asked.
//! - [`observation`] puts what was seen into lines, and compares them.
//! - [`plane`] is a scripted control plane.
//! - [`ports`] gives ports to programs that cannot choose one.
//! - [`chaos`] is many upstreams in trouble, and a load.
//! - [`client`] and [`backend`] are scripted peers for HTTP/1.1, HTTP/2 and TCP.
//!
//! Everything is on the loopback interface, on ports that the kernel chose, and bounded in time.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a broken harness must stop the story loudly"
)]

pub mod backend;
pub mod binaries;
pub mod chaos;
pub mod check;
pub mod client;
pub mod example;
pub mod http1;
pub mod message;
pub mod observation;
pub mod plane;
pub mod ports;
pub mod proxy;

use std::time::Duration;

/// The error of a harness piece: a sentence for the person who reads the failed story.
pub type Error = Box<dyn std::error::Error>;

/// The longest time that any single read, connect or start-up step may take.
pub const PATIENCE: Duration = Duration::from_secs(6);
