//! What is tried again: every reason, the headers that ask for it, how it is counted, and what becomes of the body.

mod bodies;
mod hosts;
mod limits;
mod reasons;

use crate::case::{Case, Script, case, ok, reply, status};

pub fn cases() -> Vec<Case> {
    [
        reasons::reasons(),
        reasons::grpc_reasons(),
        reasons::asked_for(),
        limits::limits(),
        hosts::hosts(),
        limits::back_off(),
        bodies::bodies(),
        bodies::headers(),
        limits::of_clusters(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A route with a retry policy of these fields.
fn policy(title: &'static str, fields: &str) -> Case {
    case(title).route(&format!("retry_policy: {{ {fields} }}"), "")
}

fn unavailable() -> Script {
    reply(status(503, "no"))
}

fn second() -> Script {
    reply(ok("second"))
}
