//! What the HTTP connection manager does to every request and response.

mod connections;
mod messages;
mod requests;

use crate::case::Case;

use connections::{connections, limits, timeouts};
use messages::{local_replies, messages, server};
use requests::{addresses, envoy_headers, paths};

pub fn cases() -> Vec<Case> {
    [
        server(),
        addresses(),
        envoy_headers(),
        paths(),
        limits(),
        timeouts(),
        connections(),
        messages(),
        local_replies(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
