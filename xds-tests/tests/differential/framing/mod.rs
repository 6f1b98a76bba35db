//! Where HTTP/1 messages end: what could be read in two ways, and what becomes of it.

mod lines;
mod requests;
mod responses;

use crate::case::{Case, case};

use lines::{connections, http10, lines};
use requests::{chunks, codings, lengths, trailers};
use responses::responses;

pub fn cases() -> Vec<Case> {
    [
        lengths(),
        codings(),
        chunks(),
        trailers(),
        connections(),
        lines(),
        http10(),
        responses(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const CHUNKS: &str = "2\r\nhi\r\n0\r\n\r\n";

/// A POST with these fields and this after its head.
fn post(fields: &str, rest: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n{rest}")
}

/// Every one of these is refused so, each on a connection of its own, before the upstream sees anything.
fn all_refused(
    title: &'static str,
    requests: impl IntoIterator<Item = String>,
    status: u16,
    details: &str,
) -> Case {
    let case = case(title).lacks(["> *", "< 200"]);
    let case = requests
        .into_iter()
        .enumerate()
        .fold(case, |case, (number, bytes)| case.on(number).raw(&bytes));
    let (status, details) = (format!("< {status}"), format!("log details={details}"));
    case.shows([&status, &details, "log flags=DPE"])
}
