//! The configuration: what somebody sets who wants a service to be there, with times that fit into a minute.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use super::Protocol;
use crate::plane::{Kind, Resource};

/// What of the cluster's stats is worth a column, and its name there.
const COUNTS: [(&str, &str); 8] = [
    ("upstream_rq_retry", "retries"),
    ("upstream_rq_retry_overflow", "retry ovf"),
    ("upstream_rq_per_try_timeout", "try t/o"),
    ("upstream_rq_timeout", "route t/o"),
    ("upstream_cx_connect_fail", "cx fail"),
    ("health_check.failure", "hc fail"),
    ("outlier_detection.ejections_enforced_total", "ejected"),
    ("lb_healthy_panic", "panic"),
];

/// The endpoints at these addresses.
pub(super) fn endpoints(members: Vec<SocketAddr>) -> Resource {
    let mut yaml = String::from("cluster_name: services\nendpoints:\n- lb_endpoints:\n");
    for at in members {
        let (ip, port) = (at.ip(), at.port());
        writeln!(
            yaml,
            "  - endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }}"
        )
        .expect("a string takes all");
    }
    Resource::yaml(Kind::Eds, &yaml)
}

/// The bootstrap. Even seeds balance by least request, odd ones in turn.
/// Whoever fails a client says so in `log`.
pub(super) fn bootstrap(seed: u64, protocol: Protocol, plane: SocketAddr, log: &Path) -> String {
    let policy = match seed.is_multiple_of(2) {
        true => "LEAST_REQUEST",
        false => "ROUND_ROBIN",
    };
    let (upstream, codec) = match protocol {
        Protocol::Http1 => ("http_protocol_options", "HTTP1"),
        Protocol::Http2 => ("http2_protocol_options", "HTTP2"),
    };
    let log = log.display();
    format!(
        "node: {{ id: chaos, cluster: chaos }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources:
  ads_config: {{ api_type: DELTA_GRPC, set_node_on_first_message_only: true, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: plane }} }}] }}
static_resources:
  listeners:
  - name: ingress
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          access_log:
          - name: failures
            filter: {{ or_filter: {{ filters: [{{ status_code_filter: {{ comparison: {{ op: GE, value: {{ default_value: 400, runtime_key: none }} }} }} }}, {{ response_flag_filter: {{}} }}] }} }}
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
              log_format: {{ text_format_source: {{ inline_string: \"%REQ(X-ID)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% after %DURATION% ms, %UPSTREAM_REQUEST_ATTEMPT_COUNT% attempts, the last at %UPSTREAM_HOST%\\n\" }} }}
          http_filters: [{{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
          route_config:
            virtual_hosts:
            - name: services
              domains: ['*']
              include_request_attempt_count: true
              routes:
              - match: {{ prefix: / }}
                route:
                  cluster: services
                  timeout: 5s
                  retry_policy:
                    retry_on: 5xx,reset,connect-failure,refused-stream
                    num_retries: 5
                    per_try_timeout: 0.8s
                    retry_back_off: {{ base_interval: 0.025s, max_interval: 0.25s }}
                    retry_host_predicate:
                    - name: previous_hosts
                      typed_config: {{ '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate }}
                    host_selection_retry_max_attempts: 5
  clusters:
  - name: services
    type: EDS
    lb_policy: {policy}
    connect_timeout: 0.25s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ {upstream}: {{}} }}
    eds_cluster_config: {{ eds_config: {{ ads: {{}}, resource_api_version: V3 }} }}
    circuit_breakers: {{ thresholds: [{{ max_connections: 1000, max_pending_requests: 500, max_requests: 1000, retry_budget: {{ budget_percent: {{ value: 25 }}, min_retry_concurrency: 100 }} }}] }}
    health_checks: [{{ timeout: 0.5s, interval: 1s, interval_jitter: 0.1s, no_traffic_interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: {{ path: /health, codec_client_type: {codec} }} }}]
    outlier_detection: {{ consecutive_5xx: 5, consecutive_gateway_failure: 4, enforcing_consecutive_gateway_failure: 100, interval: 1s, base_ejection_time: 2s, max_ejection_time: 8s, max_ejection_percent: 40 }}
  - name: plane
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment: {{ cluster_name: plane, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}] }}
",
        plane.ip(),
        plane.port()
    )
}

/// A stat of the cluster, of a page of `/stats`.
pub(super) fn value(page: &str, name: &str) -> u64 {
    let wanted = format!("cluster.services.{name}");
    let mut lines = page.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find_map(|(name, value)| (name == wanted).then(|| value.parse().ok()));
    found.flatten().unwrap_or(0)
}

/// The stats of the cluster that are shown, of a page of `/stats`.
pub(super) fn counts(page: &str) -> Vec<(&'static str, u64)> {
    let columns = COUNTS.iter();
    columns
        .map(|(name, title)| (*title, value(page, name)))
        .collect()
}
