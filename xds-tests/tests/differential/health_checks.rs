//! Active health checks: what is asked, what is made of the answer, and who feels it.
//!
//! A proxy is ready when each host has been checked once, so that a case begins with what the first check found. Cases in which
//! more follow say by their intervals how many those are.

use crate::case::{
    Act, Case, Kind, Response, Script, acts, case, http1, late, ok, pause, raw, reply, send,
    status, with_fields, with_trailers,
};

pub fn cases() -> Vec<Case> {
    [
        requests(),
        answers(),
        thresholds(),
        endpoints(),
        tcp(),
        grpc(),
        traffic(),
        logs(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const FLAGS: &str = "@backend::127.0.0.1:@port:backend::health_flags";

/// A cluster whose hosts are checked, by default no more than once.
fn checked(title: &'static str, check: &str) -> Case {
    checked_at(
        title,
        "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 3",
        check,
    )
}

/// The same with other times and thresholds.
fn checked_at(title: &'static str, times: &str, check: &str) -> Case {
    case(title)
        .cluster(&format!("health_checks: [{{ {times}, {check} }}]"))
        .page("/clusters", FLAGS)
        .stats([
            "cluster.@backend.health_check.attempt",
            "cluster.@backend.health_check.success",
            "cluster.@backend.health_check.failure",
            "cluster.@backend.health_check.network_failure",
            "cluster.@backend.health_check.passive_failure",
            "cluster.@backend.health_check.healthy",
            "cluster.@backend.health_check.degraded",
            "cluster.@backend.health_check.verify_cluster",
            "cluster.@backend.membership_healthy",
            "cluster.@backend.membership_degraded",
            "cluster.@backend.membership_excluded",
            "cluster.@backend.membership_total",
            "cluster.@backend.membership_change",
            "cluster.@backend.lb_healthy_panic",
        ])
        .logs(0)
}

const HTTP: &str = "http_health_check: { path: /hc }";

fn healthy(case: Case) -> Case {
    case.shows([
        "stat cluster.@backend.health_check.success: 1",
        "stat cluster.@backend.membership_healthy: 1",
        "page @backend::127.0.0.1:@port:backend::health_flags::healthy",
    ])
}

fn failed(case: Case, flags: &str) -> Case {
    let mut case = case.shows([
        "stat cluster.@backend.health_check.failure: 1",
        "stat cluster.@backend.membership_healthy: 0",
    ]);
    case.shows.push(format!("page {FLAGS}::{flags}"));
    case
}

fn requests() -> Vec<Case> {
    let http = |title, fields: &str| {
        checked(
            title,
            &format!("http_health_check: {{ path: /hc, {fields} }}"),
        )
    };
    vec![
        healthy(checked("a host that answers 200 is healthy", HTTP)).shows([
            "> connection 1: GET /hc HTTP/1.1",
            "> host: @backend",
            "> user-agent: Envoy/HC",
        ]),
        healthy(http(
            "a check names the host that it is told",
            "host: checks.example",
        ))
        .shows(["> host: checks.example"]),
        healthy(http("a check has the method that it is told", "method: OPTIONS"))
            .shows(["> connection 1: OPTIONS /hc HTTP/1.1"]),
        healthy(http("a check by HEAD waits for no body", "method: HEAD"))
            .reply(raw("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"))
            .shows(["> connection 1: HEAD /hc HTTP/1.1"]),
        healthy(http(
            "a check has the headers that it is told",
            "request_headers_to_add: [{ header: { key: x-check, value: \"%PROTOCOL%\" } }, { header: { key: x-host, value: \"%UPSTREAM_HOST%\" } }], request_headers_to_remove: [user-agent]",
        ))
        .shows(["> x-check: HTTP/1.1", "> x-host: 127.0.0.1:@port:backend"])
        .lacks(["> user-agent*"]),
        healthy(http(
            "a check by POST sends what it is told in hexadecimal",
            "method: POST, send: { text: 70696e67 }",
        ))
        .shows(["> body ping", "> content-length: 4"]),
        healthy(http(
            "a check sends bytes as they are",
            "method: PUT, send: { binary: cGluZw== }",
        ))
        .shows(["> body ping"]),
        healthy(http("a check speaks HTTP/2", "codec_client_type: HTTP2"))
            .backend(Kind::Http2(vec![reply(ok(""))]))
            .shows(["> connection 1: HTTP/2", "> :authority: @backend"]),
    ]
}

fn answers() -> Vec<Case> {
    let http = |title, fields: &str| {
        checked(
            title,
            &format!("http_health_check: {{ path: /hc, {fields} }}"),
        )
    };
    let text = |body: &str| reply(ok(body));
    vec![
        failed(
            checked("a host that answers 503 is not healthy", HTTP).reply(reply(status(503, ""))),
            "/failed_active_hc",
        ),
        failed(
            checked("an answer other than 200 is not expected", HTTP).reply(reply(status(204, ""))),
            "/failed_active_hc",
        ),
        healthy(
            http(
                "expected_statuses say what is healthy",
                "expected_statuses: [{ start: 404, end: 405 }]",
            )
            .reply(reply(status(404, ""))),
        ),
        failed(
            http(
                "the end of a range of statuses is not expected",
                "expected_statuses: [{ start: 200, end: 204 }]",
            )
            .reply(reply(status(204, ""))),
            "/failed_active_hc",
        ),
        healthy(
            http(
                "pieces of the body are found in their order",
                "receive: [{ text: 6f6e65 }, { binary: dHdv }]",
            )
            .reply(text("xx one, two")),
        ),
        failed(
            http(
                "pieces of the body in another order do not count",
                "receive: [{ text: 6f6e65 }, { binary: dHdv }]",
            )
            .reply(text("two, one")),
            "/failed_active_hc",
        ),
        failed(
            http(
                "no more of the body is looked at than response_buffer_size",
                "receive: [{ text: 6f6e65 }], response_buffer_size: 5",
            )
            .reply(text("xxxxone")),
            "/failed_active_hc",
        ),
        healthy(
            http(
                "without a response_buffer_size all of the body is looked at",
                "receive: [{ text: 6f6e65 }], response_buffer_size: 0",
            )
            .reply(text(&format!("{}one", "x".repeat(3000)))),
        ),
        healthy(
            http(
                "service_name_matcher takes the service that the host says it is",
                "service_name_matcher: { prefix: orders }",
            )
            .reply(reply(with_fields(
                ok(""),
                "x-envoy-upstream-healthchecked-cluster: orders-v2",
            ))),
        )
        .shows(["stat cluster.@backend.health_check.verify_cluster: 1"]),
        failed(
            http(
                "service_name_matcher refuses another service",
                "service_name_matcher: { prefix: orders }",
            )
            .reply(reply(with_fields(
                ok(""),
                "x-envoy-upstream-healthchecked-cluster: carts",
            ))),
            "/failed_active_hc",
        ),
        failed(
            http(
                "service_name_matcher refuses a host that does not say what it is",
                "service_name_matcher: { prefix: orders }",
            ),
            "/failed_active_hc",
        ),
        checked("a host that calls itself degraded is", HTTP)
            .reply(reply(with_fields(ok(""), "x-envoy-degraded: true")))
            .shows([
                "stat cluster.@backend.membership_degraded: 1",
                "stat cluster.@backend.membership_healthy: 0",
                "stat cluster.@backend.health_check.degraded: 1",
                "page @backend::127.0.0.1:@port:backend::health_flags::/degraded_active_hc",
            ]),
        failed(
            checked("a host that asks to be excluded counts nowhere", HTTP).reply(reply(
                with_fields(status(503, ""), "x-envoy-immediate-health-check-fail: true"),
            )),
            "/failed_active_hc/excluded_via_immediate_hc_fail",
        )
        .shows(["stat cluster.@backend.membership_excluded: 1"]),
        failed(
            checked("a host that refuses connections is not healthy", HTTP).backend(Kind::Refuse),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.health_check.network_failure: 1"]),
        failed(
            checked(
                "a host that closes instead of answering is not healthy",
                HTTP,
            )
            .reply(acts([Act::Close])),
            "/failed_active_hc",
        ),
        failed(
            checked("a host that answers rubbish is not healthy", HTTP)
                .reply(acts([send("rubbish\r\n\r\n"), Act::Close])),
            "/failed_active_hc",
        ),
        failed(
            checked_at(
                "a host that does not answer in time is not healthy",
                "timeout: 0.2s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
                HTTP,
            )
            .reply(late(600, "late")),
            "/failed_active_hc/active_hc_timeout",
        ),
        failed(
            checked_at(
                "a host whose backlog is full is not healthy",
                "timeout: 0.2s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
                HTTP,
            )
            .backend(Kind::Deaf),
            "/failed_active_hc/active_hc_timeout",
        ),
        healthy(
            checked("an answer without a length ends with its connection", HTTP)
                .reply(acts([send("HTTP/1.1 200 OK\r\n\r\nhello"), Act::Close])),
        ),
        healthy(
            checked("an informational answer is not the answer", HTTP).reply(raw(
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            )),
        ),
    ]
}

/// What follows on the first check: without traffic a healthy host is asked after `no_traffic_healthy_interval`, any other after
/// `no_traffic_interval`.
fn thresholds() -> Vec<Case> {
    let again_if_healthy = "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 2, no_traffic_interval: 60s, no_traffic_healthy_interval: 0.1s";
    let again_if_not = "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 2, no_traffic_interval: 0.1s, no_traffic_healthy_interval: 60s";
    let retriable =
        "http_health_check: { path: /hc, retriable_statuses: [{ start: 500, end: 504 }] }";
    let turns = |second: Script| [reply(ok("")), second];
    vec![
        checked_at("one bad answer fails a host whatever the threshold", again_if_healthy, HTTP)
            .replies(turns(reply(status(503, ""))))
            .wait(700)
            .shows([
                "stat cluster.@backend.health_check.attempt: 2",
                "stat cluster.@backend.membership_healthy: 0",
                "page @backend::127.0.0.1:@port:backend::health_flags::/failed_active_hc",
            ]),
        checked_at("one retriable answer fails no host below the threshold", again_if_healthy, retriable)
            .replies(turns(reply(status(503, ""))))
            .wait(700)
            .shows([
                "stat cluster.@backend.health_check.failure: 1",
                "stat cluster.@backend.membership_healthy: 1",
                "page @backend::127.0.0.1:@port:backend::health_flags::healthy",
            ]),
        checked_at("an answer beside the retriable ones fails a host at once", again_if_healthy, retriable)
            .replies(turns(reply(status(404, ""))))
            .wait(700)
            .shows(["stat cluster.@backend.membership_healthy: 0"]),
        checked_at("one lost connection fails no host below the threshold", again_if_healthy, HTTP)
            .replies(turns(acts([Act::Close])))
            .wait(700)
            .shows([
                "stat cluster.@backend.health_check.network_failure: 1",
                "stat cluster.@backend.membership_healthy: 1",
            ]),
        checked_at(
            "as many lost connections as the threshold fail a host",
            "timeout: 1s, interval: 60s, unhealthy_threshold: 2, healthy_threshold: 2, no_traffic_interval: 0.5s, no_traffic_healthy_interval: 0.1s",
            HTTP,
        )
        .replies([reply(ok("")), acts([Act::Close]), acts([Act::Close]), acts([pause(9000)])])
        .wait(1200)
        .shows([
            "stat cluster.@backend.health_check.network_failure: 2",
            "stat cluster.@backend.membership_healthy: 0",
        ]),
        checked_at("a failed host needs as many good answers as the threshold", again_if_not, HTTP)
            .replies([reply(status(503, "")), reply(ok(""))])
            .wait(900)
            .shows([
                "stat cluster.@backend.health_check.attempt: 3",
                "stat cluster.@backend.health_check.success: 2",
                "stat cluster.@backend.membership_healthy: 1",
                "page @backend::127.0.0.1:@port:backend::health_flags::healthy",
            ]),
        checked_at("a connection is used again", again_if_healthy, HTTP)
            .replies(turns(reply(status(503, ""))))
            .wait(700)
            .shows(["> connection 1: GET /hc HTTP/1.1", "> connection 1: GET /hc HTTP/1.1"])
            .lacks(["> connection 2*"]),
        checked_at(
            "a connection is used once if it says so",
            &format!("{again_if_healthy}, reuse_connection: false"),
            HTTP,
        )
        .replies(turns(reply(status(503, ""))))
        .wait(700)
        .shows(["> connection 2: GET /hc HTTP/1.1"]),
        checked_at("a connection that the host closes is not used again", again_if_healthy, HTTP)
            .replies([
                reply(with_fields(ok(""), "connection: close")),
                reply(status(503, "")),
            ])
            .wait(700)
            .shows(["> connection 2: GET /hc HTTP/1.1", "stat cluster.@backend.health_check.network_failure: 0"]),
        checked_at("the flag of a timeout goes with the next answer", again_if_not.replace("timeout: 1s", "timeout: 0.2s").as_str(), HTTP)
            .replies([late(500, ""), reply(status(503, "")), acts([pause(9000)])])
            .wait(100)
            .shows(["stat cluster.@backend.membership_healthy: 0"]),
    ]
}

/// A route to a cluster of this YAML.
fn custom(title: &'static str, yaml: &str) -> Case {
    case(title)
        .routes("- match: { prefix: / }\n  route: { cluster: custom_@stat }")
        .clusters(&format!(
            "- name: custom_@stat\n  connect_timeout: 1s\n  health_checks: [{{ timeout: 1s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{ path: /hc }} }}]\n{}",
            crate::case::indent(yaml, 2)
        ))
        .and_backend("other", http1(reply(ok("other"))))
        .page("/clusters", "custom_@stat::127.0.0.1:@port:backend::health_flags")
        .page("/clusters", "custom_@stat::127.0.0.1:@port:other::health_flags")
        .stats([
            "cluster.custom_@stat.health_check.attempt",
            "cluster.custom_@stat.health_check.healthy",
            "cluster.custom_@stat.membership_healthy",
            "cluster.custom_@stat.membership_total",
            "cluster.custom_@stat.lb_healthy_panic",
        ])
}

const A: &str =
    "endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:backend } } }";
const B: &str =
    "endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:other } } }";

/// The first endpoint with its own health checks.
fn with_config(config: &str) -> String {
    format!(
        "load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:backend }} }}, health_check_config: {{ {config} }} }} }}] }}] }}"
    )
}

fn endpoints() -> Vec<Case> {
    vec![
        custom(
            "an endpoint is checked at another port",
            &with_config("port_value: @port:other"),
        )
        .logs(0)
        .shows([
            "stat cluster.custom_@stat.membership_healthy: 1",
            "> other connection 1: GET /hc HTTP/1.1",
        ])
        .lacks(["> connection 1*"]),
        custom(
            "an endpoint is checked at another address",
            &with_config(
                "address: { socket_address: { address: 127.0.0.1, port_value: @port:other } }",
            ),
        )
        .logs(0)
        .shows(["> other connection 1: GET /hc HTTP/1.1"]),
        custom(
            "the checks of an endpoint name its own host",
            &with_config("hostname: endpoint.example"),
        )
        .logs(0)
        .shows(["> host: endpoint.example"]),
        custom(
            "an endpoint that is not checked is healthy",
            &with_config("disable_active_health_check: true"),
        )
        .logs(0)
        .shows([
            "stat cluster.custom_@stat.health_check.attempt: 0",
            "stat cluster.custom_@stat.membership_healthy: 1",
        ]),
    ]
}

fn tcp() -> Vec<Case> {
    let spoken = |title, fields: &str, acts: Vec<Act>| {
        checked_at(
            title,
            "timeout: 0.5s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
            &format!("tcp_health_check: {{ {fields} }}"),
        )
        .backend(Kind::Tcp(vec![acts]))
    };
    let ping = "send: { text: 70696e67 }, receive: [{ text: 706f6e67 }]";
    vec![
        healthy(checked(
            "a host that takes connections is healthy",
            "tcp_health_check: {}",
        )),
        failed(
            checked(
                "a host that takes no connections is not healthy",
                "tcp_health_check: {}",
            )
            .backend(Kind::Refuse),
            "/failed_active_hc",
        ),
        healthy(spoken(
            "a host that gives the right answer is healthy",
            ping,
            vec![Act::Read(4), send("xpong"), pause(3000)],
        )),
        failed(
            spoken(
                "a host that gives another answer is not healthy",
                ping,
                vec![Act::Read(4), send("wrong"), pause(3000)],
            ),
            "/failed_active_hc/active_hc_timeout",
        ),
        failed(
            spoken(
                "a host that closes before its answer is not healthy",
                ping,
                vec![Act::Read(4), Act::Close],
            ),
            "/failed_active_hc",
        ),
        healthy(spoken(
            "a host that speaks first is listened to",
            "receive: [{ text: 706f6e67 }]",
            vec![send("pong"), pause(3000)],
        )),
        healthy(spoken(
            "a check begins with a PROXY header of version 2",
            &format!("{ping}, proxy_protocol_config: {{ version: V2 }}"),
            vec![Act::Read(20), send("pong"), pause(3000)],
        )),
        spoken(
            "a check that has failed by its connection fails again when that ends",
            ping,
            vec![Act::Read(4), send("pong"), pause(100), Act::Close],
        )
        .wait(600)
        .shows([
            "stat cluster.@backend.health_check.success: 1",
            "stat cluster.@backend.health_check.network_failure: 1",
            "stat cluster.@backend.membership_healthy: 0",
        ]),
    ]
}

/// A message `grpc.health.v1.HealthCheckResponse` with this status.
fn health(status: u8) -> Response {
    let mut response = with_fields(ok(""), "content-type: application/grpc");
    response.body = vec![0, 0, 0, 0, 2, 8, status];
    with_trailers(response, "grpc-status: 0")
}

fn grpc() -> Vec<Case> {
    let call = |title, fields: &str, response: Script| {
        checked(title, &format!("grpc_health_check: {{ {fields} }}"))
            .upstream_http2()
            .backend(Kind::Http2(vec![response]))
    };
    let trailers_only =
        |status: u16, fields: &str| reply(with_fields(self::status(status, ""), fields));
    vec![
        healthy(call("a service that serves is healthy", "", reply(health(1)))).shows([
            "> :path: /grpc.health.v1.Health/Check",
            "> content-type: application/grpc",
            "> te: trailers",
            "> grpc-timeout: 1000m",
            "> user-agent: Envoy/HC",
        ]),
        healthy(call(
            "a check names its service and authority and has metadata",
            "service_name: orders, authority: grpc.example, initial_metadata: [{ header: { key: x-check, value: one } }]",
            reply(health(1)),
        ))
        .shows(["> x-check: one"]),
        failed(
            call("a service that does not serve is not healthy", "", reply(health(2))),
            "/failed_active_hc",
        ),
        failed(
            call(
                "a service that is not known is not healthy",
                "",
                trailers_only(200, "content-type: application/grpc\ngrpc-status: 5"),
            ),
            "/failed_active_hc",
        ),
        failed(
            call("an answer that is no call's is not healthy", "", reply(ok("hello"))),
            "/failed_active_hc",
        ),
        failed(
            call("a call that HTTP answers with 503 is not healthy", "", trailers_only(503, "")),
            "/failed_active_hc",
        ),
        failed(
            call("a call that is reset is not healthy", "", acts([Act::Reset])),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.health_check.network_failure: 1"]),
        failed(
            call(
                "a call without a message is not healthy",
                "",
                reply(with_trailers(
                    with_fields(ok(""), "content-type: application/grpc"),
                    "grpc-status: 0",
                )),
            ),
            "/failed_active_hc",
        ),
    ]
}

fn traffic() -> Vec<Case> {
    let two = |health: &str| {
        format!(
            "load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ {A} }}, {{ {B} }}] }}] }}\n{health}"
        )
    };
    let no_panic = "common_lb_config: { healthy_panic_threshold: { value: 0 } }";
    let sick = |case: Case| case.reply(reply(status(503, "sick")));
    vec![
        checked("in panic a host that is not healthy gets requests", HTTP)
            .replies([reply(status(503, "")), reply(ok("hello"))])
            .get("/")
            .logs(1)
            .shows(["< 200", "stat cluster.@backend.lb_healthy_panic: 1"]),
        checked("without panic a host that is not healthy gets no requests", HTTP)
            .cluster(no_panic)
            .reply(reply(status(503, "")))
            .get("/")
            .logs(1)
            .shows(["< 503", "log flags=UH", "log details=no_healthy_upstream"]),
        sick(custom("only healthy hosts get requests", &two(no_panic)))
            .get("/")
            .get("/")
            .get("/")
            .shows([
                "< body other",
                "stat cluster.custom_@stat.membership_healthy: 1",
                "page custom_@stat::127.0.0.1:@port:backend::health_flags::/failed_active_hc",
                "page custom_@stat::127.0.0.1:@port:other::health_flags::healthy",
            ])
            .lacks(["< body sick"]),
        sick(custom(
            "the next priority takes over from hosts that are not healthy",
            &format!(
                "load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ {A} }}] }}, {{ priority: 1, lb_endpoints: [{{ {B} }}] }}] }}"
            ),
        ))
        .get("/")
        .shows(["< body other"]),
        custom("a degraded host gets requests if no healthy one is left", &two(no_panic))
            .reply(reply(with_fields(ok("degraded"), "x-envoy-degraded: 1")))
            .get("/")
            .get("/")
            .shows(["< body other"])
            .lacks(["< body degraded"]),
        custom(
            "a hashing policy leaves hosts out that are not healthy",
            &two(&format!("lb_policy: RING_HASH\n{no_panic}")),
        )
        .reply(reply(status(503, "sick")))
        .get("/1")
        .get("/2")
        .get("/3")
        .get("/4")
        .shows(["< body other"])
        .lacks(["< body sick"]),
        checked("a response that asks for it fails its host", HTTP)
            .replies([
                reply(ok("")),
                reply(with_fields(
                    ok("hello"),
                    "x-envoy-immediate-health-check-fail: true",
                )),
            ])
            .get("/")
            .wait(300)
            .logs(1)
            .shows([
                "stat cluster.@backend.health_check.passive_failure: 1",
                "stat cluster.@backend.membership_healthy: 0",
                "stat cluster.@backend.membership_excluded: 1",
                "page @backend::127.0.0.1:@port:backend::health_flags::/failed_active_hc/excluded_via_immediate_hc_fail",
            ]),
        case("a response that asks to fail its host changes nothing where hosts are not checked")
            .reply(reply(with_fields(
                ok("hello"),
                "x-envoy-immediate-health-check-fail: true",
            )))
            .get("/")
            .page("/clusters", FLAGS)
            .stats(["cluster.@backend.membership_healthy"])
            .shows([
                "stat cluster.@backend.membership_healthy: 1",
                "< x-envoy-immediate-health-check-fail: true",
            ]),
        checked("after traffic a host is checked by the shorter intervals", "http_health_check: { path: /hc }, no_traffic_interval: 1s")
            .reply(reply(ok("hello")))
            .get("/")
            .logs(1)
            .shows(["< 200"]),
        checked("a health check of the proxy itself counts hosts that are healthy", HTTP)
            .replies([reply(status(503, ""))])
            .filters(
                "
                - name: health
                  typed_config:
                    \"@type\": \"@http/health_check.v3.HealthCheck\"
                    pass_through_mode: false
                    headers: [{ name: \":path\", string_match: { exact: /ready } }]
                    cluster_min_healthy_percentages: { @backend: { value: 50.0 } }",
            )
            .get("/ready")
            .logs(1)
            .shows(["< 503"]),
    ]
}

fn logs() -> Vec<Case> {
    let log = "event_logger: [{ name: file, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink, event_log_path: @log } }]";
    let again = "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 2, no_traffic_interval: 60s, no_traffic_healthy_interval: 0.1s";
    let logged = |title, more: &str, lines: usize| {
        checked_at(title, &format!("{again}{more}"), &format!("{HTTP}, {log}"))
            .access_log("[]")
            .digits_aside()
            .logs(lines)
    };
    let one = |title: &'static str, more: &str, replies: Vec<Script>, lines: usize| {
        logged(title, more, lines).replies(replies).wait(700)
    };
    vec![
        one(
            "the event log tells that a host becomes healthy and fails",
            "",
            vec![reply(ok("")), reply(status(503, ""))],
            2,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
        one(
            "the event log tells that the first check fails",
            "",
            vec![reply(status(503, ""))],
            1,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
        one(
            "the event log tells of all failures if it is to",
            ", always_log_health_check_failures: true",
            vec![reply(ok("")), acts([Act::Close])],
            2,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
        one(
            "the event log tells of all successes if it is to",
            ", always_log_health_check_success: true",
            vec![reply(ok("")), reply(ok("")), reply(status(503, ""))],
            3,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
        one(
            "the event log tells that a host becomes degraded",
            "",
            vec![
                reply(with_fields(ok(""), "x-envoy-degraded: 1")),
                reply(status(503, "")),
            ],
            3,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
    ]
}
