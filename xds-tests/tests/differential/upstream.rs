//! Clusters: limits, hosts, health, priorities, load balancing, connection options.

use crate::case::{
    Act, Case, Kind, Step, With, acts, case, get, http1, late, ok, reply, request, with_fields,
};

pub fn cases() -> Vec<Case> {
    [limits(), hosts(), options()]
        .into_iter()
        .flatten()
        .collect()
}

/// Routes to a cluster of this YAML, in which `lb_endpoints` are written in short.
fn custom(title: &'static str, yaml: &str) -> Case {
    case(title)
        .routes(
            "
            - match: { prefix: / }
              route: { cluster: custom_@stat }",
        )
        .clusters(&format!(
            "- name: custom_@stat\n  connect_timeout: 1s\n{}",
            crate::case::indent(yaml, 2)
        ))
        .and_backend("other", http1(reply(ok("other"))))
}

const A: &str = "{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:backend } } } }";
const B: &str = "{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:other } } } }";
const A_SICK: &str = "{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:backend } } }, health_status: UNHEALTHY }";

fn limits() -> Vec<Case> {
    let breaker = |title, limit: &str| {
        case(title).cluster(&format!(
            "circuit_breakers: {{ thresholds: [{{ {limit} }}] }}"
        ))
    };
    vec![
        breaker("max_requests overflows with 503, UO and x-envoy-overloaded", "max_requests: 0")
            .get("/")
            .shows([
                "< 503",
                "< x-envoy-overloaded: true",
                "log flags=UO",
                "log details=upstream_reset_before_response_started{overflow}",
                "< body upstream connect error or disconnect/reset before headers. reset reason: overflow",
            ])
            .both(),
        breaker("max_pending_requests overflows when its queue is full", "max_connections: 1, max_pending_requests: 1")
            .reply(late(800, "slow"))
            .bytes("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(150)
            .on(1)
            .bytes("GET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(150)
            .on(2)
            .get("/3")
            .on(0)
            .read()
            .on(1)
            .read()
            .stats(["cluster.@backend.upstream_rq_pending_overflow"])
            .shows([
                "< 503",
                "< x-envoy-overloaded: true",
                "< body slow",
                "< body slow",
                "stat cluster.@backend.upstream_rq_pending_overflow: 1",
            ]),
        breaker("max_connections queues requests on the only connection", "max_connections: 1")
            .replies([late(300, "one"), reply(ok("two"))])
            .bytes("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(100)
            .on(1)
            .get("/2")
            .on(0)
            .read()
            .shows(["< body one", "< body two", "> connection 1: GET /1 HTTP/1.1", "> connection 1: GET /2 HTTP/1.1"]),
        breaker("max_retries limits retries at the same time", "max_retries: 0")
            .route("retry_policy: { retry_on: 5xx }", "")
            .reply(reply(crate::case::status(503, "no")))
            .get("/")
            .stats(["cluster.@backend.upstream_rq_retry_overflow"])
            .shows(["< 503", "log attempts=1", "stat cluster.@backend.upstream_rq_retry_overflow: 1", "log flags=UO"]),
        breaker("limits of the other priority do not count", "priority: HIGH, max_requests: 0").get("/").shows(["< 200"]),
        case("a route with high priority meets the limits of high priority")
            .cluster("circuit_breakers: { thresholds: [{ priority: HIGH, max_requests: 0 }] }")
            .route("priority: HIGH", "")
            .get("/")
            .shows(["< 503", "log flags=UO"]),
        case("track_remaining shows what is left")
            .cluster("circuit_breakers: { thresholds: [{ max_requests: 7, track_remaining: true }] }")
            .get("/")
            .stats(["cluster.@backend.circuit_breakers.default.remaining_rq"])
            .shows(["stat cluster.@backend.circuit_breakers.default.remaining_rq: 7"]),
    ]
}

fn hosts() -> Vec<Case> {
    vec![
        custom("a cluster without hosts is 503 with UH", "load_assignment: { cluster_name: c, endpoints: [] }")
            .get("/")
            .both()
            .shows(["< 503", "< body no healthy upstream", "log flags=UH", "log details=no_healthy_upstream"]),
        custom(
            "an unhealthy host is not used while there is a healthy one",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{A_SICK}, {B}] }}] }}\ncommon_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}"),
        )
        .get("/")
        .get("/")
        .shows(["< body other", "< body other"])
        .lacks(["> connection*"])
        .shows(["> other connection 1: GET / HTTP/1.1"]),
        custom(
            "with a panic threshold of zero only unhealthy hosts are none",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{A_SICK}] }}] }}\ncommon_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}"),
        )
        .get("/")
        .shows(["< 503", "log flags=UH"]),
        custom(
            "in panic unhealthy hosts are used",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{A_SICK}] }}] }}"),
        )
        .get("/")
        .stats(["cluster.custom_@stat.lb_healthy_panic"])
        .shows(["< body hello", "stat cluster.custom_@stat.lb_healthy_panic: 1"]),
        custom(
            "in panic with fail_traffic_on_panic requests are 503",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{A_SICK}] }}] }}\ncommon_lb_config: {{ zone_aware_lb_config: {{ fail_traffic_on_panic: true }} }}"),
        )
        .get("/")
        .shows(["< 503", "log flags=UH"]),
        custom(
            "the next priority serves when the first is unhealthy",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ priority: 0, lb_endpoints: [{A_SICK}] }}, {{ priority: 1, lb_endpoints: [{B}] }}] }}"),
        )
        .get("/")
        .shows(["< body other"]),
        custom(
            "the first priority serves while it is healthy",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ priority: 1, lb_endpoints: [{B}] }}, {{ priority: 0, lb_endpoints: [{A}] }}] }}"),
        )
        .get("/")
        .get("/")
        .shows(["< body hello", "< body hello"]),
        custom(
            "ROUND_ROBIN takes hosts in turn",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{A}, {B}] }}] }}"),
        )
        .get("/")
        .get("/")
        .get("/")
        .get("/")
        .any_order()
        .shows(["< body hello", "< body hello", "< body other", "< body other"]),
        custom(
            "weights of hosts share the requests",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{}, {B}] }}] }}", A.replacen('{', "{ load_balancing_weight: 3, ", 1)),
        )
        .get("/")
        .get("/")
        .get("/")
        .get("/")
        .any_order()
        .shows(["< body hello", "< body hello", "< body hello", "< body other"]),
        custom(
            "LEAST_REQUEST takes the only host",
            &format!("lb_policy: LEAST_REQUEST\nload_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{A}] }}] }}"),
        )
        .get("/")
        .shows(["< body hello"]),
        custom(
            "RANDOM leaves out what is unhealthy",
            &format!("lb_policy: RANDOM\nload_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{A}, {A_SICK}] }}] }}"),
        )
        .get("/")
        .shows(["< body hello"]),
        custom(
            "the cluster type envoy.cluster.dns resolves a name",
            "cluster_type: { name: envoy.cluster.dns, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, dns_lookup_family: V4_ONLY } }\nload_assignment: { cluster_name: c, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: localhost, port_value: @port:backend } } } }] }] }",
        )
        .get("/")
        .shows(["< 200", "log host=127.0.0.1:@port:backend"]),
        custom(
            "hosts that start slowly together share requests evenly",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{A}, {B}] }}] }}\nround_robin_lb_config: {{ slow_start_config: {{ slow_start_window: 60s, min_weight_percent: {{ value: 50 }} }} }}"),
        )
        .get("/")
        .get("/")
        .any_order()
        .shows(["< body hello", "< body other"]),
        custom(
            "locality_weighted_lb_config leaves out localities without weight",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ locality: {{ zone: a }}, load_balancing_weight: 1, lb_endpoints: [{A}] }}, {{ locality: {{ zone: b }}, lb_endpoints: [{B}] }}] }}\ncommon_lb_config: {{ locality_weighted_lb_config: {{}} }}"),
        )
        .get("/")
        .get("/")
        .shows(["< body hello", "< body hello"]),
        custom(
            "a typed load balancing policy is taken before lb_policy",
            &format!("load_balancing_policy: {{ policies: [{{ typed_extension_config: {{ name: rr, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin }} }} }}] }}\nload_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{A}, {B}] }}] }}"),
        )
        .get("/")
        .get("/")
        .any_order()
        .shows(["< body hello", "< body other"]),
        custom(
            "STRICT_DNS resolves a name",
            "type: STRICT_DNS\ndns_lookup_family: V4_ONLY\nload_assignment: { cluster_name: c, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: localhost, port_value: @port:backend } } } }] }] }",
        )
        .get("/")
        .shows(["< 200", "log host=127.0.0.1:@port:backend"]),
        custom(
            "LOGICAL_DNS resolves a name",
            "type: LOGICAL_DNS\ndns_lookup_family: V4_ONLY\nload_assignment: { cluster_name: c, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: localhost, port_value: @port:backend } } } }] }] }",
        )
        .get("/")
        .shows(["< 200", "log host=127.0.0.1:@port:backend"]),
        custom(
            "STRICT_DNS of a name that does not exist has no hosts",
            "type: STRICT_DNS\ndns_lookup_family: V4_ONLY\nload_assignment: { cluster_name: c, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: does-not-exist.invalid, port_value: 1 } } } }] }] }",
        )
        .get("/")
        .shows(["< 503", "log flags=UH"]),
    ]
}

fn options() -> Vec<Case> {
    vec![
        case("max_requests_per_connection of the cluster opens a new connection after its number")
            .protocol_options("common_http_protocol_options: { max_requests_per_connection: 1 }\nexplicit_http_config: { http_protocol_options: {} }")
            .get("/1")
            .get("/2")
            .shows(["> connection 1: GET /1 HTTP/1.1", "> connection 2: GET /2 HTTP/1.1"]),
        case("idle_timeout of the cluster closes a pooled connection")
            .protocol_options("common_http_protocol_options: { idle_timeout: 0.2s }\nexplicit_http_config: { http_protocol_options: {} }")
            .get("/1")
            .wait(700)
            .get("/2")
            .shows(["> connection 2: GET /2 HTTP/1.1"]),
        case("max_stream_duration of the cluster is 504")
            .protocol_options("common_http_protocol_options: { max_stream_duration: 0.3s }\nexplicit_http_config: { http_protocol_options: {} }")
            .reply(late(3000, "late"))
            .get("/")
            .shows(["< 504", "log flags=UMSDR", "log details=upstream_max_stream_duration_reached"]),
        case("header_key_format of the cluster capitalises the request")
            .protocol_options("explicit_http_config: { http_protocol_options: { header_key_format: { proper_case_words: {} } } }")
            .send(get("/").field("x-some-name", "1"))
            .shows(["> X-Some-Name: 1", "> Host: example.com"]),
        case("send_fully_qualified_url sends the whole URL upstream")
            .protocol_options("explicit_http_config: { http_protocol_options: { send_fully_qualified_url: true } }")
            .get("/x")
            .shows(["> connection 1: GET http://example.com/x HTTP/1.1"]),
        case("max_response_headers_kb of the cluster limits the response")
            .protocol_options("common_http_protocol_options: { max_response_headers_kb: 1 }\nexplicit_http_config: { http_protocol_options: {} }")
            .reply(reply(with_fields(ok(""), &format!("x-large: {}", "x".repeat(2000)))))
            .get("/")
            .shows(["< 502", "log flags=UPE"]),
        case("allow_chunked_length of the cluster takes a response with both")
            .protocol_options("explicit_http_config: { http_protocol_options: { allow_chunked_length: true } }")
            .reply(crate::case::raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
            .get("/")
            .shows(["< 200", "< body ok"]),
        case("use_downstream_protocol_config follows the client")
            .backend(http1(reply(ok("one"))))
            .protocol_options("use_downstream_protocol_config: { http_protocol_options: {} }")
            .get("/")
            .shows(["< 200", "> connection 1: GET / HTTP/1.1"]),
        case("two clients at once use two upstream connections")
            .reply(late(400, "slow"))
            .bytes("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(100)
            .on(1)
            .get("/2")
            .on(0)
            .read()
            .shows(["> connection 1: GET /1 HTTP/1.1", "> connection 2: GET /2 HTTP/1.1"]),
        case("the pool takes a connection of another client")
            .get("/1")
            .on(1)
            .get("/2")
            .stats(["cluster.@backend.upstream_cx_total", "cluster.@backend.upstream_rq_total", "cluster.@backend.upstream_rq_200"])
            .shows([
                "> connection 1: GET /1 HTTP/1.1",
                "> connection 1: GET /2 HTTP/1.1",
                "stat cluster.@backend.upstream_cx_total: 1",
                "stat cluster.@backend.upstream_rq_200: 2",
            ]),
        case("upstream_bind_config sets the source address")
            .cluster("upstream_bind_config: { source_address: { address: 127.0.0.2, port_value: 0 } }")
            .log_format("%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "")
            .get("/")
            .shows(["log 127.0.0.2"]),
        case("preserve_case keeps the case of headers")
            .hcm("http_protocol_options: { header_key_format: { stateful_formatter: { name: preserve_case, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig } } } }")
            .protocol_options("explicit_http_config: { http_protocol_options: { header_key_format: { stateful_formatter: { name: preserve_case, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig } } } } }")
            .send(get("/").field("X-MixEd", "1"))
            .reply(reply(with_fields(ok(""), "X-RePly: 2")))
            .shows(["> X-MixEd: 1", "< X-RePly: 2"]),
        case("per-host upstream stats count a reset")
            .reply(acts([Act::Close]))
            .get("/")
            .stats([
                "cluster.@backend.upstream_cx_destroy_remote_with_active_rq",
                "cluster.@backend.upstream_rq_503",
                "cluster.@backend.upstream_rq_5xx",
            ])
            .shows(["stat cluster.@backend.upstream_cx_destroy_remote_with_active_rq: 1", "stat cluster.@backend.upstream_rq_5xx: 1"]),
        case("a failed connect counts in the stats")
            .backend(Kind::Refuse)
            .send(request("GET", "/"))
            .step(Step::Wait(std::time::Duration::from_millis(50)))
            .stats(["cluster.@backend.upstream_cx_connect_fail", "cluster.@backend.upstream_rq_pending_failure_eject"])
            .shows(["stat cluster.@backend.upstream_cx_connect_fail: 1"]),
    ]
}
