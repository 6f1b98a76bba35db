//! Which route a request takes, and what the route does to it.

mod actions;
mod choice;

use crate::case::Case;

use actions::{actions, mutations, rewrites};
use choice::{headers, hosts, matching, scopes};

pub fn cases() -> Vec<Case> {
    [
        matching(),
        headers(),
        actions(),
        rewrites(),
        mutations(),
        hosts(),
        scopes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
