//! `/stats`, `/stats/prometheus`, `/stats/recentlookups` and `/reset_counters`.

use super::query::Query;
use super::{Admin, Answer, HTML, JSON, Request, Response, TEXT, index};
use crate::matchers::Regex;
use crate::stats::render::{self, BucketMode, Format, Types, render};

/// So many registered prefixes take the main thread more than a few milliseconds.
const MUCH: usize = 1_000;

pub(super) fn show(admin: &Admin, request: &Request<'_>) -> Answer {
    let format = match request.query.value("format") {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some("prometheus") => Format::Prometheus,
        Some("html" | "active-html") => Format::Html,
        Some(_) => {
            return Answer::Ready(Response::error(
                400,
                "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n",
            ));
        }
    };
    page(admin, request, format)
}

pub(super) fn prometheus(admin: &Admin, request: &Request<'_>) -> Answer {
    page(admin, request, Format::Prometheus)
}

pub(super) fn reset_counters(admin: &Admin, _: &Request<'_>) -> Response {
    admin.source.server().stats.reset_counters();
    Response::ok()
}

pub(super) fn recent_lookups(_: &Admin, _: &Request<'_>) -> Response {
    Response::text(
        "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n",
    )
}

pub(super) fn recent_lookups_changed(_: &Admin, _: &Request<'_>) -> Response {
    Response::ok()
}

fn page(admin: &Admin, request: &Request<'_>, format: Format) -> Answer {
    let request = match parse(&request.query, format) {
        Ok(request) => request,
        Err(error) => return Answer::Ready(Response::error(400, error)),
    };
    let store = admin.source.server().stats.clone();
    let much = store.registered() > MUCH;
    let work = move || match (render(&store, &request), format) {
        (Err(error), _) => Response::error(400, error),
        (Ok(page), Format::Html) => {
            let head = index::head("Stats");
            Response::new(
                HTML,
                format!("{head}<pre>\n{page}</pre>\n</body>\n</html>\n"),
            )
        }
        (Ok(page), Format::Json) => Response::new(JSON, page),
        (Ok(page), Format::Text | Format::Prometheus) => Response::new(TEXT, page),
    };
    if much {
        Answer::Work(Box::new(work))
    } else {
        Answer::Ready(work())
    }
}

fn parse(query: &Query, format: Format) -> Result<render::Request, String> {
    let filter = query
        .value("filter")
        .map(Regex::new)
        .transpose()
        .map_err(|error| format!("Invalid re2 regex: {error}"))?;
    let types = match query.value("type") {
        None | Some("All") => Types::All,
        Some("Counters") => Types::Counters,
        Some("Gauges") => Types::Gauges,
        Some("Histograms") => Types::Histograms,
        Some("TextReadouts") => Types::TextReadouts,
        Some(_) => return Err("invalid &type= param".to_owned()),
    };
    let buckets = match query.value("histogram_buckets") {
        None => None,
        Some("none" | "summary") => Some(BucketMode::Summary),
        Some("cumulative") => Some(BucketMode::Cumulative),
        Some("disjoint") => Some(BucketMode::Disjoint),
        Some("detailed") => Some(BucketMode::Detailed),
        Some("prometheusnative") if format == Format::Prometheus => {
            return Err(
                "unsupported prometheusnative histogram type when not using protobuf exposition format"
                    .to_owned(),
            );
        }
        Some("prometheusnative") => {
            return Err("Invalid histogram_buckets type for non prometheus stats type".to_owned());
        }
        Some(_) => {
            return Err(
                "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n"
                    .to_owned(),
            );
        }
    };
    Ok(render::Request {
        used_only: query.has("usedonly"),
        filter,
        invert_filter: query.has("invert_filter"),
        types,
        format,
        buckets,
        text_readouts: query.has("text_readouts"),
    })
}
