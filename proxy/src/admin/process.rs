//! The process: `/server_info`, `/ready`, `/memory`, `/certs`, `/hot_restart_version`, `/init_dump`.

use std::sync::atomic::Ordering::Relaxed;

use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::google::protobuf::Duration;
use pb::server_info::State;

use super::{Admin, Request, Response, json};
use crate::overload::{Heap, Jemalloc};

/// What a build without hot restart answers.
const HOT_RESTART_VERSION: &str = "disabled";

pub(super) fn server_info(admin: &Admin, _: &Request<'_>) -> Response {
    let seconds = admin.source.started_at().elapsed().as_secs();
    let uptime = Duration {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: 0,
    };
    json::message_with_defaults(&pb::ServerInfo {
        version: version(),
        state: state(admin).into(),
        uptime_current_epoch: Some(uptime),
        uptime_all_epochs: Some(uptime),
        hot_restart_version: HOT_RESTART_VERSION.to_owned(),
        command_line_options: Some(admin.source.command_line_options()),
        node: Some(admin.source.node()),
        hot_restart_initializing: false,
    })
}

/// As Envoy builds it: revision, version, state of the sources, kind of build, TLS library.
fn version() -> String {
    let build = if cfg!(debug_assertions) {
        "DEBUG"
    } else {
        "RELEASE"
    };
    format!("outrigger/{}/Clean/{build}/none", env!("CARGO_PKG_VERSION"))
}

/// How far the server has come, with what health checks were told.
fn state(admin: &Admin) -> State {
    let failed = admin.source.server().health_check_failed.load(Relaxed);
    match admin.source.init_state() {
        State::Live if failed => State::Draining,
        state => state,
    }
}

pub(super) fn ready(admin: &Admin, _: &Request<'_>) -> Response {
    let state = state(admin);
    let body = format!("{}\n", state.as_str_name());
    if state == State::Live {
        Response::text(body)
    } else {
        Response::error(503, body)
    }
}

pub(super) fn memory(_: &Admin, _: &Request<'_>) -> Response {
    let usage = Jemalloc.usage().unwrap_or_default();
    json::message_with_defaults(&pb::Memory {
        allocated: usage.allocated,
        heap_size: usage.heap_size,
        pageheap_unmapped: usage.retained,
        pageheap_free: usage.heap_size.saturating_sub(usage.allocated),
        total_thread_cache: 0,
        total_physical_bytes: usage.resident,
    })
}

pub(super) fn certs(_: &Admin, _: &Request<'_>) -> Response {
    json::message_with_defaults(&pb::Certificates::default())
}

pub(super) fn hot_restart_version(_: &Admin, _: &Request<'_>) -> Response {
    Response::text(HOT_RESTART_VERSION)
}

pub(super) fn init_dump(admin: &Admin, request: &Request<'_>) -> Response {
    // The listeners are the only component whose targets are known, in Envoy, too.
    let shown = request
        .query
        .value("mask")
        .is_none_or(|mask| mask == "listener");
    json::message(&pb::UnreadyTargetsDumps {
        unready_targets_dumps: if shown {
            admin.source.unready_targets()
        } else {
            Vec::new()
        },
    })
}
