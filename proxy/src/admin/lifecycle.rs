//! What changes the life of the process: `/healthcheck/*`, `/drain_listeners`, `/reopen_logs`, `/quitquitquit`.

use std::sync::atomic::Ordering::Relaxed;

use super::{Admin, DrainListeners, Request, Response};

pub(super) fn healthcheck_fail(admin: &Admin, _: &Request<'_>) -> Response {
    admin
        .source
        .server()
        .health_check_failed
        .store(true, Relaxed);
    Response::ok()
}

pub(super) fn healthcheck_ok(admin: &Admin, _: &Request<'_>) -> Response {
    admin
        .source
        .server()
        .health_check_failed
        .store(false, Relaxed);
    Response::ok()
}

pub(super) fn drain_listeners(admin: &Admin, request: &Request<'_>) -> Response {
    admin.source.drain_listeners(DrainListeners {
        inbound_only: request.query.has("inboundonly"),
        graceful: request.query.has("graceful"),
        skip_exit: request.query.has("skip_exit"),
    });
    Response::ok()
}

pub(super) fn reopen_logs(admin: &Admin, _: &Request<'_>) -> Response {
    admin.source.reopen_logs();
    Response::ok()
}

pub(super) fn quit(_: &Admin, _: &Request<'_>) -> Response {
    Response {
        quits: true,
        ..Response::ok()
    }
}
