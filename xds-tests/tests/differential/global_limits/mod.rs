//! `ratelimit` over HTTP and on connections: what a service is asked, and what becomes of its answers.

mod answers;
mod connections;
mod questions;

use outrigger_proto::pb::envoy::config::core::v3::HeaderValue;
use outrigger_proto::pb::envoy::service::ratelimit::v3::rate_limit_response as pb;
use outrigger_proto::pb::google::protobuf as wkt;
use outrigger_proto::rate_limit::{DescriptorStatus, RateLimit, RateLimitResponse};
use prost::Message;

use crate::case::{Act, Case, Kind, Response, Script, acts, case, indent};

use answers::{answers, failures, headers};
use connections::connections;
use questions::{late, questions, routes};

pub fn cases() -> Vec<Case> {
    [
        questions(),
        answers(),
        headers(),
        failures(),
        routes(),
        late(),
        connections(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A cluster `@stat-service` over the backend `limiter`.
const SERVICE: &str = "- name: \"@stat-service\"
  connect_timeout: 1s
  typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }
  load_assignment: { cluster_name: s, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:limiter } } } }] }] }
";

const ASKS: &str = "rate_limit_service: { transport_api_version: V3, grpc_service: { envoy_grpc: { cluster_name: \"@stat-service\" } } }";

const RULE: &str = "rate_limits: [{ actions: [{ generic_key: { descriptor_value: v } }] }]";

const STATS: [&str; 4] = [
    "cluster.@backend.ratelimit.ok",
    "cluster.@backend.ratelimit.error",
    "cluster.@backend.ratelimit.over_limit",
    "cluster.@backend.ratelimit.failure_mode_allowed",
];

fn filter(fields: &str) -> String {
    let timeout = match fields.contains("timeout:") {
        true => "",
        false => "timeout: 5s\n",
    };
    format!(
        "- name: global\n  typed_config:\n    \"@type\": \"@http/ratelimit.v3.RateLimit\"\n    domain: apis\n    {ASKS}\n{}",
        indent(&format!("{timeout}{fields}"), 4)
    )
}

/// A filter with these fields, a route with one rule, and a service with these scripts.
fn limited(title: &'static str, fields: &str, scripts: impl IntoIterator<Item = Script>) -> Case {
    with_service(title, scripts)
        .filters(&filter(fields))
        .route(RULE, "")
}

fn with_service(title: &'static str, scripts: impl IntoIterator<Item = Script>) -> Case {
    case(title)
        .and_backend("limiter", Kind::Http2(scripts.into_iter().collect()))
        .clusters(SERVICE)
}

fn grpc(message: &RateLimitResponse) -> Act {
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    Act::Respond(Response {
        status: 200,
        fields: vec![("content-type".into(), "application/grpc".into())],
        body,
        trailers: vec![("grpc-status".into(), "0".into())],
        chunked: false,
    })
}

fn answer(code: pb::Code, change: impl FnOnce(&mut RateLimitResponse)) -> Script {
    let mut message = RateLimitResponse {
        overall_code: code.into(),
        ..Default::default()
    };
    change(&mut message);
    acts([grpc(&message)])
}

fn ok() -> Script {
    answer(pb::Code::Ok, |_| {})
}

fn over() -> Script {
    answer(pb::Code::OverLimit, |_| {})
}

fn field(key: &str, value: &str) -> HeaderValue {
    HeaderValue {
        key: key.into(),
        value: value.into(),
        raw_value: Vec::new(),
    }
}

fn status(
    code: pb::Code,
    (requests, unit, name): (u32, pb::rate_limit::Unit, &str),
    remaining: u32,
    reset: (i64, i32),
) -> DescriptorStatus {
    DescriptorStatus {
        code: code.into(),
        current_limit: Some(RateLimit {
            name: name.into(),
            requests_per_unit: requests,
            unit: unit.into(),
            unit_multiplier: None,
        }),
        limit_remaining: remaining,
        duration_until_reset: Some(wkt::Duration {
            seconds: reset.0,
            nanos: reset.1,
        }),
    }
}
