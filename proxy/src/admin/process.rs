//! The process: `/server_info`, `/ready`, `/memory`, `/certs`, `/hot_restart_version`, `/init_dump`.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::google::protobuf::Duration;
use outrigger_proto::pb::google::protobuf::Timestamp;
use pb::server_info::State;

use super::{Admin, Request, Response, json};
use crate::overload::{Heap, Jemalloc};
use crate::secrets::{OcspResponse, days_until};
use crate::x509::{Certificate, SubjectAltName};

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

pub(super) fn certs(admin: &Admin, _: &Request<'_>) -> Response {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let contexts = admin.source.server().certificates.all();
    let certificates = contexts.iter().map(|used| pb::Certificate {
        ca_cert: used
            .authorities
            .iter()
            .map(|ca| details(ca, &used.ca_path, None, now))
            .collect(),
        cert_chain: used
            .chains
            .iter()
            .map(|chain| details(&chain.leaf, &chain.path, chain.ocsp.as_ref(), now))
            .collect(),
    });
    json::message_with_defaults(&pb::Certificates {
        certificates: certificates.collect(),
    })
}

fn details(
    certificate: &Certificate,
    path: &str,
    ocsp: Option<&OcspResponse>,
    now: i64,
) -> pb::CertificateDetails {
    use pb::certificate_details::OcspDetails;
    use pb::subject_alternate_name::Name;
    let kinds = [SubjectAltName::as_dns, SubjectAltName::as_uri];
    let mut names: Vec<Name> = certificate
        .names(kinds[0])
        .map(|name| Name::Dns(name.to_owned()))
        .chain(
            certificate
                .names(kinds[1])
                .map(|name| Name::Uri(name.to_owned())),
        )
        .collect();
    names.extend(
        certificate
            .subject_alt_names
            .iter()
            .filter_map(|name| match name {
                SubjectAltName::Ip(address) => Some(Name::IpAddress(address.to_string())),
                _ => None,
            }),
    );
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    pb::CertificateDetails {
        path: path.to_owned(),
        serial_number: certificate.serial.to_string(),
        subject_alt_names: names
            .into_iter()
            .map(|name| pb::SubjectAlternateName { name: Some(name) })
            .collect(),
        days_until_expiration: u64::from(days_until(certificate.not_after, now)),
        valid_from: time(certificate.not_before),
        expiration_time: time(certificate.not_after),
        ocsp_details: ocsp.map(|response| {
            let (from, until) = response.validity();
            OcspDetails {
                valid_from: time(from),
                expiration: until.and_then(time),
            }
        }),
    }
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
