//! Profilers and tracers, which this build does not have: the answers are those of an Envoy built without them.

use super::{Admin, Request, Response};

pub(super) fn contention(_: &Admin, _: &Request<'_>) -> Response {
    Response::text(
        "Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.",
    )
}

pub(super) fn cpu(_: &Admin, request: &Request<'_>) -> Response {
    match request.query.value("enable") {
        Some("y") => Response::error(500, "failure to start the profiler"),
        Some("n") => Response::ok(),
        _ => Response::error(400, "?enable=<y|n>\n"),
    }
}

pub(super) fn heap(_: &Admin, _: &Request<'_>) -> Response {
    Response::error(501, "The current build does not support heap profiler")
}

pub(super) fn allocations(_: &Admin, _: &Request<'_>) -> Response {
    Response::error(
        501,
        "The current build does not support allocation profiler",
    )
}

pub(super) fn heap_dump(_: &Admin, _: &Request<'_>) -> Response {
    Response::error(501, "The current build does not support heap dump")
}

pub(super) fn tcmalloc(_: &Admin, _: &Request<'_>) -> Response {
    Response::error(501, "The allocator of this build is jemalloc: see /memory")
}
