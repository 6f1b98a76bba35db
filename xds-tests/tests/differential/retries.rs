//! What is tried again: every reason, the headers that ask for it, how it is counted, and what becomes of the body.

use crate::case::{
    Act, Case, Kind, Request, Response, Script, With, acts, case, early, get, http1, late, ok,
    pause, raw, reply, request, send, status, with_fields, with_trailers,
};

pub fn cases() -> Vec<Case> {
    [
        reasons(),
        grpc_reasons(),
        asked_for(),
        limits(),
        hosts(),
        back_off(),
        bodies(),
        headers(),
        of_clusters(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A route with a retry policy of these fields.
fn policy(title: &'static str, fields: &str) -> Case {
    case(title).route(&format!("retry_policy: {{ {fields} }}"), "")
}

fn unavailable() -> Script {
    reply(status(503, "no"))
}

fn second() -> Script {
    reply(ok("second"))
}

/// Policies of the cluster, which go before those of the route.
fn of_clusters() -> Vec<Case> {
    let cluster = |title, fields: &str, action: &str| {
        case(title)
            .protocol_options(&format!(
                "explicit_http_config: {{ http_protocol_options: {{}} }}\nretry_policy: {{ {fields} }}"
            ))
            .route(action, "")
    };
    vec![
        cluster("a cluster may have a retry policy", "retry_on: 5xx", "")
            .replies([unavailable(), second()])
            .get("/")
            .both()
            .shows(["< body second", "log attempts=2"]),
        cluster(
            "the retry policy of a cluster goes before that of the route",
            "retry_on: retriable-4xx",
            "retry_policy: { retry_on: 5xx }",
        )
        .replies([unavailable(), second()])
        .get("/")
        .shows(["< 503", "log attempts=1"]),
        cluster(
            "the number of retries is that of the cluster's policy",
            "retry_on: 5xx, num_retries: 2",
            "retry_policy: { retry_on: 5xx, num_retries: 5 }",
        )
        .reply(unavailable())
        .get("/")
        .shows(["< 503", "log attempts=3"]),
        cluster(
            "headers ask for retries beside the policy of the cluster",
            "retry_on: retriable-4xx",
            "",
        )
        .internal()
        .replies([unavailable(), second()])
        .send(get("/").field("x-envoy-retry-on", "5xx"))
        .shows(["< body second"]),
        cluster(
            "the codes of a cluster's policy are retried",
            "retry_on: retriable-status-codes, retriable_status_codes: [418]",
            "",
        )
        .replies([reply(status(418, "teapot")), second()])
        .get("/")
        .shows(["< body second"]),
        cluster(
            "explore w per-try timeout of a cluster's policy",
            "retry_on: 5xx, per_try_timeout: 0.3s",
            "",
        )
        .replies([late(1500, "late"), second()])
        .get("/")
        .shows(["< body second"]),
        cluster(
            "explore x per-try idle timeout of a cluster's policy",
            "retry_on: 5xx, per_try_idle_timeout: 0.3s",
            "",
        )
        .replies([late(1500, "late"), second()])
        .get("/")
        .shows(["< body second"]),
        cluster(
            "explore y per-try timeout of the route beside a cluster's policy",
            "retry_on: 5xx",
            "retry_policy: { retry_on: 5xx, per_try_timeout: 0.3s }",
        )
        .replies([late(1500, "late"), second()])
        .get("/")
        .shows(["< body second"]),
    ]
}

fn reasons() -> Vec<Case> {
    let limited = || with_fields(status(503, "limited"), "x-envoy-ratelimited: true");
    let too_early = || reply(status(425, "early"));
    vec![
        policy("gateway-error means 502, 503 and 504", "retry_on: gateway-error, num_retries: 3")
            .replies([reply(status(502, "a")), unavailable(), reply(status(504, "c")), second()])
            .get("/")
            .shows(["< body second", "log attempts=4"]),
        policy("gateway-error means a reset as well", "retry_on: gateway-error")
            .replies([acts([Act::Close]), second()])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        policy("5xx means a per-try timeout as well", "retry_on: 5xx, per_try_timeout: 0.3s")
            .replies([late(3000, "late"), second()])
            .get("/")
            .both()
            .shows(["< body second", "log attempts=2"]),
        policy("retriable-4xx does not mean 404", "retry_on: retriable-4xx")
            .replies([reply(status(404, "first")), second()])
            .get("/")
            .shows(["< 404", "log attempts=1"]),
        policy("envoy-ratelimited means responses that say they are limited", "retry_on: envoy-ratelimited")
            .replies([reply(limited()), second()])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        policy("a response that says it is limited is no 5xx", "retry_on: \"5xx,retriable-headers\", retriable_headers: [{ name: x-envoy-ratelimited }]")
            .replies([reply(limited()), second()])
            .get("/")
            .shows(["< 503", "< body limited", "log attempts=1", "log flags=-"]),
        policy("refused-stream means a stream that was refused", "retry_on: refused-stream")
            .upstream_http2()
            .replies([acts([Act::Reset]), second()])
            .get("/")
            .both()
            .shows(["< body second", "log attempts=2"]),
        policy("refused-stream does not mean a connection that ends", "retry_on: refused-stream")
            .replies([acts([Act::Close]), second()])
            .get("/")
            .shows(["< 503", "log flags=UC", "log attempts=1"]),
        case("a refused stream without retries is 503 with UR")
            .upstream_http2()
            .reply(acts([Act::Reset]))
            .get("/")
            .both()
            .shows(["< 503", "log flags=UR", "log details=upstream_reset_before_response_started{remote_refused_stream_reset}"]),
        policy("reset-before-request means a refused connect", "retry_on: reset-before-request, num_retries: 2")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["< 503", "log flags=URX,UF", "log attempts=3"]),
        policy("reset-before-request does not mean a reset after the request", "retry_on: reset-before-request")
            .replies([acts([Act::Close]), second()])
            .get("/")
            .shows(["< 503", "log flags=UC", "log attempts=1"]),
        policy("reset means a refused connect as well", "retry_on: reset")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["< 503", "log flags=URX,UF", "log attempts=2"]),
        policy("connect-failure means a connect that hangs", "retry_on: connect-failure")
            .backend(Kind::Deaf)
            .get("/")
            .shows(["< 503", "log flags=URX,UF", "log attempts=2"]),
        policy("connect-failure does not mean a per-try timeout", "retry_on: connect-failure, per_try_timeout: 0.3s")
            .replies([late(3000, "late"), second()])
            .get("/")
            .shows(["< 504", "log flags=UT", "log attempts=1"]),
        policy("http3-post-connect-failure changes nothing over TCP", "retry_on: http3-post-connect-failure")
            .replies([acts([Act::Close]), second()])
            .get("/")
            .shows(["< 503", "log flags=UC", "log attempts=1"]),
        policy("425 is tried again at once", "retry_on: retriable-status-codes, retriable_status_codes: [425], retry_back_off: { base_interval: 1s }")
            .replies([too_early(), second()])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_retry", "cluster.@backend.upstream_rq_retry_backoff_exponential"])
            .shows(["< body second", "stat cluster.@backend.upstream_rq_retry: 1", "stat cluster.@backend.upstream_rq_retry_backoff_exponential: 0"]),
        policy("425 to what came as early data is for its client", "retry_on: retriable-status-codes, retriable_status_codes: [425]")
            .replies([too_early(), second()])
            .send(get("/").field("early-data", "1"))
            .shows(["< 425", "log attempts=1"]),
        policy("retriable_headers look at values, and at what is not there", "retry_on: retriable-headers, num_retries: 5, retriable_headers: [{ name: x-a, string_match: { exact: again } }, { name: x-b, present_match: true, invert_match: true }]")
            .replies([
                reply(with_fields(ok("1"), "x-a: again\nx-b: 1")),
                reply(with_fields(ok("2"), "x-a: no")),
                reply(with_fields(ok("3"), "x-a: no\nx-b: 1")),
            ])
            .get("/")
            .shows(["< body 3", "log attempts=3"]),
        policy("a response that has begun is not tried again", "retry_on: reset")
            .replies([acts([send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), pause(50), Act::Close]), second()])
            .get("/")
            .both()
            .shows(["< 200", "< body ab", "log attempts=1"]),
        policy("an attempt behind a 100 is not tried again", "retry_on: \"reset,5xx\"")
            .hcm("proxy_100_continue: true")
            .replies([acts([send("HTTP/1.1 100 Continue\r\n\r\n"), pause(100), Act::Close]), second()])
            .send(request("POST", "/").field("expect", "100-continue").body("x"))
            .read()
            .shows(["< 503", "log attempts=1", "log details=upstream_reset_after_response_started{connection_termination}"]),
        policy("x-envoy-immediate-health-check-fail keeps no response from being tried again", "retry_on: 5xx")
            .replies([reply(with_fields(status(503, "no"), "x-envoy-immediate-health-check-fail: 1")), second()])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
    ]
}

/// A gRPC call.
fn call() -> Request {
    request("POST", "/s/m")
        .field("content-type", "application/grpc")
        .body("x")
}

/// A gRPC response that is nothing but a status.
fn grpc_status(code: u32) -> Script {
    let fields = format!("content-type: application/grpc\ngrpc-status: {code}");
    reply(with_fields(ok(""), &fields))
}

fn grpc_reasons() -> Vec<Case> {
    let token = |title, token: &str, code| {
        policy(title, &format!("retry_on: {token}"))
            .upstream_http2()
            .replies([grpc_status(code), grpc_status(0)])
            .send(call())
            .http2()
            .shows(["< 200", "< grpc-status: 0", "log attempts=2"])
    };
    vec![
        token("cancelled means grpc-status 1", "cancelled", 1),
        token(
            "deadline-exceeded means grpc-status 4",
            "deadline-exceeded",
            4,
        ),
        token(
            "resource-exhausted means grpc-status 8",
            "resource-exhausted",
            8,
        ),
        token("internal means grpc-status 13", "internal", 13),
        token("unavailable means grpc-status 14", "unavailable", 14),
        policy(
            "a gRPC reason does not mean another status",
            "retry_on: \"cancelled,unavailable\"",
        )
        .upstream_http2()
        .replies([grpc_status(13), grpc_status(0)])
        .send(call())
        .http2()
        .shows(["< grpc-status: 13", "log attempts=1"]),
        policy(
            "a grpc-status in trailers is not tried again",
            "retry_on: unavailable",
        )
        .upstream_http2()
        .replies([
            reply(with_trailers(
                with_fields(ok("m"), "content-type: application/grpc"),
                "grpc-status: 14",
            )),
            grpc_status(0),
        ])
        .send(call())
        .http2()
        .shows(["< trailer grpc-status: 14", "log attempts=1"]),
        policy(
            "a gRPC reason holds for requests that are no gRPC as well",
            "retry_on: unavailable",
        )
        .replies([reply(with_fields(ok("first"), "grpc-status: 14")), second()])
        .get("/")
        .shows(["< body second", "log attempts=2"]),
        policy("unavailable does not mean 503", "retry_on: unavailable")
            .replies([unavailable(), second()])
            .get("/")
            .shows(["< 503", "log attempts=1"]),
    ]
}

fn asked_for() -> Vec<Case> {
    let inside = |title| case(title).internal();
    vec![
        inside("x-envoy-retry-grpc-on asks for gRPC reasons")
            .replies([reply(with_fields(ok("first"), "grpc-status: 14")), second()])
            .send(get("/").field("x-envoy-retry-grpc-on", "unavailable"))
            .shows(["< body second", "log attempts=2"])
            .lacks(["> x-envoy-retry-grpc-on*"]),
        inside("x-envoy-retry-on does not take gRPC reasons")
            .replies([reply(with_fields(ok("first"), "grpc-status: 14")), second()])
            .send(get("/").field("x-envoy-retry-on", "unavailable"))
            .shows(["< body first", "log attempts=1"]),
        inside("x-envoy-retriable-status-codes adds to the codes of the route")
            .route("retry_policy: { retry_on: retriable-status-codes, num_retries: 5, retriable_status_codes: [418] }", "")
            .replies([reply(status(419, "a")), reply(status(418, "b")), second()])
            .send(get("/").field("x-envoy-retriable-status-codes", "419, 420"))
            .shows(["< body second", "log attempts=3"])
            .lacks(["> x-envoy-retriable-status-codes*"]),
        inside("x-envoy-retriable-header-names adds to the headers of the route")
            .route("retry_policy: { retry_on: retriable-headers, num_retries: 5, retriable_headers: [{ name: x-b }] }", "")
            .replies([reply(with_fields(ok("1"), "x-a: 1")), reply(with_fields(ok("2"), "x-b: 1")), second()])
            .send(get("/").field("x-envoy-retriable-header-names", "X-A, x-c"))
            .shows(["< body second", "log attempts=3"])
            .lacks(["> x-envoy-retriable-header-names*"]),
        inside("x-envoy-max-retries takes the place of the route's number")
            .route("retry_policy: { retry_on: 5xx, num_retries: 1 }", "")
            .reply(unavailable())
            .send(get("/").field("x-envoy-max-retries", "3"))
            .shows(["< 503", "log attempts=4", "log flags=URX"]),
        inside("x-envoy-max-retries of zero is no retry")
            .route("retry_policy: { retry_on: 5xx, num_retries: 3 }", "")
            .reply(unavailable())
            .send(get("/").field("x-envoy-max-retries", "0"))
            .shows(["< 503", "log attempts=1", "log flags=URX"]),
        inside("x-envoy-max-retries that is no number does not count")
            .route("retry_policy: { retry_on: 5xx, num_retries: 2 }", "")
            .reply(unavailable())
            .send(get("/").field("x-envoy-max-retries", "many"))
            .shows(["log attempts=3"])
            .lacks(["> x-envoy-max-retries*"]),
        inside("x-envoy-retry-on of nonsense asks for nothing")
            .replies([unavailable(), second()])
            .send(get("/").field("x-envoy-retry-on", "sometimes"))
            .shows(["< 503", "log attempts=1"])
            .lacks(["> x-envoy-retry-on*"]),
        inside("x-envoy-retry-on adds to the reasons of the route")
            .route("retry_policy: { retry_on: retriable-4xx, num_retries: 2 }", "")
            .replies([unavailable(), reply(status(409, "b")), second()])
            .send(get("/").field("x-envoy-retry-on", "5xx"))
            .shows(["< body second", "log attempts=3"]),
        case("x-envoy-retry-on of an external client does not count")
            .external()
            .replies([unavailable(), second()])
            .send(get("/").field("x-envoy-retry-on", "5xx").field("x-envoy-max-retries", "3"))
            .shows(["< 503", "log attempts=1"])
            .lacks(["> x-envoy-retry-on*", "> x-envoy-max-retries*"]),
        inside("x-envoy-upstream-rq-per-try-timeout-ms takes the place of the route's")
            .route("retry_policy: { retry_on: 5xx, per_try_timeout: 5s }", "")
            .replies([late(3000, "late"), second()])
            .send(get("/").field("x-envoy-upstream-rq-per-try-timeout-ms", "300"))
            .shows(["< body second", "log attempts=2", "> x-envoy-expected-rq-timeout-ms: 300"])
            .lacks(["> x-envoy-upstream-rq-per-try-timeout-ms*"]),
    ]
}

fn limits() -> Vec<Case> {
    let breakers = |title, thresholds: &str| {
        policy(title, "retry_on: 5xx")
            .cluster(&format!(
                "circuit_breakers: {{ thresholds: [{{ {thresholds} }}] }}"
            ))
            .replies([unavailable(), second()])
            .get("/")
    };
    vec![
        policy("a number of retries of zero is URX with the first response", "retry_on: 5xx, num_retries: 0")
            .replies([unavailable(), second()])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_retry_limit_exceeded", "cluster.@backend.upstream_rq_retry"])
            .shows(["< 503", "log flags=URX", "log attempts=1", "stat cluster.@backend.upstream_rq_retry_limit_exceeded: 1"]),
        breakers("max_retries of the cluster keeps a retry back with UO", "max_retries: 0")
            .stats(["cluster.@backend.upstream_rq_retry_overflow", "cluster.@backend.upstream_rq_retry"])
            .shows(["< 503", "< body no", "log flags=UO", "log attempts=1", "stat cluster.@backend.upstream_rq_retry_overflow: 1", "stat cluster.@backend.upstream_rq_retry: 0"]),
        breakers("a retry budget of nothing keeps a retry back", "retry_budget: { budget_percent: { value: 0 }, min_retry_concurrency: 0 }")
            .stats(["cluster.@backend.upstream_rq_retry_overflow"])
            .shows(["< 503", "log flags=UO", "log attempts=1", "stat cluster.@backend.upstream_rq_retry_overflow: 1"]),
        (0..11)
            .fold(
                breakers(
                    "a retry budget with an interval counts requests that have ended",
                    "retry_budget: { budget_percent: { value: 10 }, budget_interval: 60s, min_retry_concurrency: 0 }",
                ),
                |case, _| case.get("/"),
            )
            .replies([unavailable()])
            .stats(["cluster.@backend.upstream_rq_retry", "cluster.@backend.upstream_rq_retry_overflow"])
            .shows([
                "log attempts=1",
                "log attempts=2",
                "stat cluster.@backend.upstream_rq_retry: 3",
                "stat cluster.@backend.upstream_rq_retry_overflow: 9",
            ]),
        (0..3)
            .fold(
                breakers(
                    "a retry budget forgets requests when its interval is over",
                    "retry_budget: { budget_percent: { value: 25 }, budget_interval: 0.5s, min_retry_concurrency: 0 }",
                ),
                |case, _| case.get("/"),
            )
            .wait(900)
            .get("/late")
            .replies([unavailable()])
            .stats(["cluster.@backend.upstream_rq_retry", "cluster.@backend.upstream_rq_retry_overflow"])
            .shows([
                "stat cluster.@backend.upstream_rq_retry: 1",
                "stat cluster.@backend.upstream_rq_retry_overflow: 4",
            ]),
        breakers("a retry budget takes the place of max_retries", "max_retries: 0, retry_budget: { min_retry_concurrency: 1 }")
            .shows(["< body second", "log attempts=2"]),
        policy("a request that the cluster has no room for is not tried again", "retry_on: \"5xx,reset,connect-failure\"")
            .cluster("circuit_breakers: { thresholds: [{ max_requests: 0, max_pending_requests: 0, max_connections: 0 }] }")
            .get("/")
            .stats(["cluster.@backend.upstream_rq_retry"])
            .shows(["< 503", "< x-envoy-overloaded: true", "log flags=UO", "log attempts=1", "log details=upstream_reset_before_response_started{overflow}", "stat cluster.@backend.upstream_rq_retry: 0"]),
        policy("a retried response counts below retry", "retry_on: 5xx")
            .replies([unavailable(), second()])
            .get("/")
            .page("/stats", "cluster.@backend.retry.")
            .page("/stats", "cluster.@backend.upstream_rq_5xx")
            .page("/stats", "cluster.@backend.upstream_rq_completed")
            .shows(["page cluster.@backend.retry.upstream_rq_503: 1", "page cluster.@backend.retry.upstream_rq_completed: 1", "page cluster.@backend.upstream_rq_completed: 1"])
            .lacks(["page cluster.@backend.upstream_rq_5xx*"]),
        policy("a retry that fails as well is no success", "retry_on: 5xx")
            .reply(unavailable())
            .get("/")
            .page("/stats", "cluster.@backend.upstream_rq_retry")
            .shows(["page cluster.@backend.upstream_rq_retry_success: 0", "page cluster.@backend.upstream_rq_retry_limit_exceeded: 1"]),
        policy("an attempt that was tried again is an error of its host", "retry_on: 5xx")
            .replies([unavailable(), second()])
            .get("/")
            .page("/clusters", "@backend::127.0.0.1")
            .shows(["page @backend::127.0.0.1:@port:backend::rq_error::1", "page @backend::127.0.0.1:@port:backend::rq_success::1"]),
        policy("per-try timeouts count for host and cluster", "retry_on: 5xx, per_try_timeout: 0.3s")
            .replies([late(2000, "late"), second()])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_per_try_timeout", "cluster.@backend.upstream_rq_timeout"])
            .page("/clusters", "@backend::127.0.0.1")
            .shows(["stat cluster.@backend.upstream_rq_per_try_timeout: 1", "stat cluster.@backend.upstream_rq_timeout: 0", "page @backend::127.0.0.1:@port:backend::rq_timeout::1"]),
        policy("per-try idle timeouts have a counter of their own, and are tried again", "retry_on: 5xx, per_try_idle_timeout: 0.3s")
            .replies([late(2000, "late"), second()])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_per_try_timeout", "cluster.@backend.upstream_rq_per_try_idle_timeout"])
            .shows(["< body second", "stat cluster.@backend.upstream_rq_per_try_timeout: 0", "stat cluster.@backend.upstream_rq_per_try_idle_timeout: 1"]),
    ]
}

/// A cluster with both backends, each given by its place in the list of endpoints and its further fields.
fn two_hosts(title: &'static str, fields: &str, localities: &str) -> Case {
    case(title)
        .routes(&format!(
            "- match: {{ prefix: / }}\n  route: {{ cluster: \"pair_@stat\", retry_policy: {{ retry_on: 5xx, {fields} }} }}"
        ))
        .and_backend("other", http1(reply(status(503, "other"))))
        .clusters(&format!(
            "- name: \"pair_@stat\"\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: x\n    endpoints:\n{}",
            crate::case::indent(localities, 4)
        ))
        .reply(unavailable())
}

fn host(name: &str) -> String {
    format!(
        "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{name} }} }} }} }}"
    )
}

fn hosts() -> Vec<Case> {
    let previous_hosts = "retry_host_predicate: [{ name: p, typed_config: { '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } }], host_selection_retry_max_attempts: 30";
    let priorities = |frequency: u32| {
        format!(
            "retry_priority: {{ name: p, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: {frequency} }} }}"
        )
    };
    let both = format!("- lb_endpoints: [{}, {}]", host("backend"), host("other"));
    // Five hosts where nobody listens, and a good one: a retry that may go to the five again fails sooner or later.
    let omitting = |title, predicate: &str, label: &str| {
        let dead = (2..7).map(|number| {
            format!(
                "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.{number}, port_value: 1 }} }} }}, metadata: {{ filter_metadata: {{ envoy.lb: {{ {label} }} }} }} }}"
            )
        });
        let dead = dead.collect::<Vec<_>>().join(", ");
        let case = two_hosts(
            title,
            &format!(
                "retry_host_predicate: [{{ name: p, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.retry.host.{predicate} }} }}], host_selection_retry_max_attempts: 30"
            ),
            &format!("- lb_endpoints: [{dead}, {}]", host("backend")),
        )
        .router("suppress_envoy_headers: true")
        .reply(reply(ok("")))
        .log_format("%RESPONSE_CODE%", "");
        (0..8)
            .fold(case, |case, _| case.get("/"))
            .shows(["< 200"])
            .lacks(["< 503"])
    };
    let by_priority = format!(
        "- {{ priority: 0, lb_endpoints: [{}] }}\n- {{ priority: 1, lb_endpoints: [{}] }}",
        host("backend"),
        host("other")
    );
    vec![
        two_hosts(
            "previous_hosts sends a retry elsewhere",
            previous_hosts,
            &both,
        )
        .log_format("%RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "")
        .reply(reply(status(503, "other")))
        .get("/")
        .any_order()
        .shows([
            "< 503",
            "> connection 1: GET / HTTP/1.1",
            "> other connection 1: GET / HTTP/1.1",
        ])
        .lacks(["> connection 2*", "> other connection 2*"]),
        two_hosts(
            "previous_hosts takes a host again where there is no other",
            &format!("num_retries: 2, {previous_hosts}"),
            &format!("- lb_endpoints: [{}]", host("backend")),
        )
        .get("/")
        .shows(["< 503", "log attempts=3"]),
        omitting(
            "omit_canary_hosts keeps retries off canaries",
            "omit_canary_hosts.v3.OmitCanaryHostsPredicate",
            "canary: true",
        ),
        omitting(
            "omit_host_metadata keeps retries off hosts with those labels",
            "omit_host_metadata.v3.OmitHostMetadataConfig, metadata_match: { filter_metadata: { envoy.lb: { tier: old } } }",
            "tier: old, other: label",
        ),
        two_hosts(
            "previous_priorities sends a retry to the next priority",
            &priorities(1),
            &by_priority,
        )
        .get("/")
        .shows([
            "< 503",
            "< body other",
            "log attempts=2",
            "> connection 1: GET / HTTP/1.1",
            "> other connection 1: GET / HTTP/1.1",
        ]),
        two_hosts(
            "previous_priorities waits for its frequency",
            &format!("num_retries: 2, {}", priorities(2)),
            &by_priority,
        )
        .get("/")
        .shows([
            "< body other",
            "log attempts=3",
            "> connection 1: GET / HTTP/1.1",
        ]),
        two_hosts(
            "previous_priorities begins anew when all were tried",
            &format!("num_retries: 2, {}", priorities(1)),
            &by_priority,
        )
        .get("/")
        .shows(["< body no", "log attempts=3"]),
        two_hosts(
            "of the hosts that were tried the last one is logged",
            &priorities(1),
            &by_priority,
        )
        .log_format("%UPSTREAM_HOSTS_ATTEMPTED% %UPSTREAM_HOST%", "")
        .get("/")
        .shows(["log 127.0.0.1:@port:other 127.0.0.1:@port:other"]),
    ]
}

fn back_off() -> Vec<Case> {
    let limited = |title, response: &str, max: &str| {
        policy(
            title,
            &format!("retry_on: 5xx, rate_limited_retry_back_off: {{ {max} reset_headers: [{{ name: Retry-After, format: SECONDS }}, {{ name: X-RateLimit-Reset, format: UNIX_TIMESTAMP }}] }}"),
        )
        .replies([reply(with_fields(status(503, "no"), response)), second()])
        .get("/")
        .stats(["cluster.@backend.upstream_rq_retry_backoff_ratelimited", "cluster.@backend.upstream_rq_retry_backoff_exponential"])
    };
    let by_response = "stat cluster.@backend.upstream_rq_retry_backoff_ratelimited: 1";
    let exponential = "stat cluster.@backend.upstream_rq_retry_backoff_exponential: 1";
    vec![
        limited("a retry waits as long as Retry-After says", "retry-after: 1", "").shows(["< body second", by_response]),
        limited("a Retry-After above max_interval does not count", "retry-after: 100", "max_interval: 2s,")
            .shows(["< body second", exponential]),
        limited("a Retry-After of zero does not count", "retry-after: 0", "").shows(["< body second", exponential]),
        limited("a reset that lies in the past does not count", "x-ratelimit-reset: 1000000000", "")
            .shows(["< body second", exponential]),
        limited("a reset that cannot be read does not count", "retry-after: soon", "").shows(["< body second", exponential]),
        policy("the timeout of the route ends a back-off", "retry_on: 5xx, rate_limited_retry_back_off: { reset_headers: [{ name: retry-after }] }")
            .route("timeout: 0.4s\nretry_policy: { retry_on: 5xx, rate_limited_retry_back_off: { reset_headers: [{ name: retry-after }] } }", "")
            .reply(reply(with_fields(status(503, "no"), "retry-after: 5")))
            .get("/")
            .page("/stats", "cluster.@backend.upstream_rq_timeout")
            .page("/stats", "cluster.@backend.upstream_rq_5")
            .both()
            .shows(["< 504", "log flags=UT", "log attempts=1", "log details=response_timeout", "page cluster.@backend.upstream_rq_timeout: 0"]),
    ]
}

fn bodies() -> Vec<Case> {
    let limited = |title, route: &str, around: &str| {
        case(title).route(
            &format!("retry_policy: {{ retry_on: 5xx, {route} }}"),
            around,
        )
    };
    let later = "rate_limited_retry_back_off: { reset_headers: [{ name: retry-after }] }";
    let in_an_instant = || {
        early([Act::Respond(with_fields(
            status(503, "no"),
            "retry-after: 2",
        ))])
    };
    vec![
        limited(
            "a body beyond per_request_buffer_limit_bytes is not sent again",
            "num_retries: 1",
            "per_request_buffer_limit_bytes: 4",
        )
        .replies([unavailable(), second()])
        .send(request("POST", "/").body("12345"))
        .stats([
            "cluster.@backend.retry_or_shadow_abandoned",
            "cluster.@backend.upstream_rq_retry",
        ])
        .both()
        .shows([
            "< 503",
            "log attempts=1",
            "log flags=-",
            "stat cluster.@backend.upstream_rq_retry: 0",
        ]),
        limited(
            "a body of just per_request_buffer_limit_bytes is sent again",
            "num_retries: 1",
            "per_request_buffer_limit_bytes: 5",
        )
        .replies([unavailable(), second()])
        .send(request("POST", "/").body("12345"))
        .stats(["cluster.@backend.retry_or_shadow_abandoned"])
        .shows([
            "< body second",
            "log attempts=2",
            "stat cluster.@backend.retry_or_shadow_abandoned: 0",
        ]),
        limited(
            "request_body_buffer_limit may be above the buffer of the connection",
            "num_retries: 1",
            "request_body_buffer_limit: 100000",
        )
        .listener("per_connection_buffer_limit_bytes: 1024")
        .replies([unavailable(), second()])
        .send(request("POST", "/").body(&"x".repeat(5000)))
        .stats(["cluster.@backend.retry_or_shadow_abandoned"])
        .shows([
            "< body second",
            "log attempts=2",
            "stat cluster.@backend.retry_or_shadow_abandoned: 0",
        ]),
        limited(
            "a body beyond the buffer of the connection is not sent again",
            "num_retries: 1",
            "",
        )
        .listener("per_connection_buffer_limit_bytes: 1024")
        .replies([unavailable(), second()])
        .send(request("POST", "/").body(&"x".repeat(5000)))
        .stats(["cluster.@backend.retry_or_shadow_abandoned"])
        .shows([
            "< 503",
            "log attempts=1",
            "stat cluster.@backend.retry_or_shadow_abandoned: 1",
        ]),
        case("request_body_buffer_limit of the virtual host holds for its routes")
            .vhosts(
                "
                - name: vhost
                  domains: [\"*\"]
                  request_body_buffer_limit: 4
                  retry_policy: { retry_on: 5xx }
                  routes: [{ match: { prefix: / }, route: { cluster: @backend } }]",
            )
            .replies([unavailable(), second()])
            .send(request("POST", "/").body("12345"))
            .stats(["cluster.@backend.retry_or_shadow_abandoned"])
            .shows([
                "< 503",
                "log attempts=1",
                "stat cluster.@backend.retry_or_shadow_abandoned: 1",
            ]),
        limited(
            "a retry begins before the request has ended",
            "num_retries: 1",
            "",
        )
        .replies([early([Act::Respond(status(503, "no"))]), second()])
        .bytes("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab")
        .wait(500)
        .bytes("cd")
        .read()
        .shows(["< body second", "log attempts=2", "> body abcd"]),
        limited(
            "a body that outgrows the limit while a retry waits is 507",
            &format!("num_retries: 1, {later}"),
            "per_request_buffer_limit_bytes: 4",
        )
        .replies([in_an_instant(), second()])
        .bytes("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\nab")
        .wait(400)
        .bytes("cdefgh")
        .read()
        .shows([
            "< 507",
            "< body exceeded request buffer limit while retrying upstream",
            "log details=request_payload_exceeded_retry_buffer_limit",
            "log attempts=1",
        ]),
        limited("trailers are sent again as well", "num_retries: 1", "")
            .upstream_http2()
            .replies([unavailable(), second()])
            .send(request("POST", "/").body("x").trailer("x-end", "1"))
            .http2()
            .shows(["< body second", "> trailer x-end: 1", "> trailer x-end: 1"]),
        limited(
            "a body of several pieces is sent again in its order",
            "num_retries: 1",
            "",
        )
        .replies([unavailable(), second()])
        .send(request("POST", "/").body(&"0123456789".repeat(3000)))
        .both()
        .shows(["< body second", "log attempts=2"]),
    ]
}

fn headers() -> Vec<Case> {
    let vhost = |title, fields: &str, action: &str| {
        case(title).vhosts(&format!(
            "- name: vhost\n  domains: [\"*\"]\n  {fields}\n  routes: [{{ match: {{ prefix: / }}, route: {{ cluster: @backend, {action} }} }}]"
        ))
    };
    vec![
        vhost(
            "include_is_timeout_retry_header says whether the last attempt took too long",
            "include_is_timeout_retry_header: true",
            "retry_policy: { retry_on: 5xx, num_retries: 2, per_try_timeout: 0.3s }",
        )
        .replies([unavailable(), late(2000, "late"), second()])
        .get("/")
        .shows(["< body second", "> x-envoy-is-timeout-retry: false", "> x-envoy-is-timeout-retry: true"]),
        vhost("a reply of our own says how many attempts there were", "include_attempt_count_in_response: true", "retry_policy: { retry_on: connect-failure, num_retries: 2 }")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["< 503", "< x-envoy-attempt-count: 3", "< body upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure"]),
        vhost("a response to the first attempt says so", "include_attempt_count_in_response: true", "timeout: 5s")
            .reply(reply(with_fields(ok(""), "x-envoy-attempt-count: 77")))
            .get("/")
            .both()
            .shows(["< x-envoy-attempt-count: 1"]),
        vhost("the upstream is told the attempt whatever the client says", "include_request_attempt_count: true", "timeout: 5s")
            .internal()
            .send(get("/").field("x-envoy-attempt-count", "77"))
            .shows(["> x-envoy-attempt-count: 1"]),
        policy("retriable_request_headers may look at the method", "retry_on: 5xx, retriable_request_headers: [{ name: ':method', string_match: { exact: GET } }]")
            .replies([unavailable(), unavailable(), second()])
            .send(request("POST", "/"))
            .get("/")
            .shows(["< 503", "< body second"]),
        policy("a retry is told what is left of the timeout", "retry_on: 5xx")
            .route("timeout: 5.9s\nretry_policy: { retry_on: 5xx, rate_limited_retry_back_off: { reset_headers: [{ name: retry-after }] } }", "")
            .replies([reply(with_fields(status(503, "no"), "retry-after: 1")), second()])
            .get("/")
            .shows(["> x-envoy-expected-rq-timeout-ms: 6000", "> x-envoy-expected-rq-timeout-ms: 5000"]),
        case("a retry policy of the route takes the place of its virtual host's")
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  retry_policy: { retry_on: 5xx, num_retries: 4 }
                  routes: [{ match: { prefix: / }, route: { cluster: @backend, retry_policy: { retry_on: retriable-4xx } } }]")
            .replies([unavailable(), second()])
            .get("/")
            .shows(["< 503", "log attempts=1"]),
        policy("a response of many bytes is tried again without its body", "retry_on: 5xx")
            .replies([reply(Response { chunked: true, ..status(503, &"x".repeat(100_000)) }), second()])
            .get("/")
            .both()
            .shows(["< body second", "log attempts=2"]),
        policy("a head that cannot be read is tried again", "retry_on: reset")
            .replies([raw("what is this\r\n\r\n"), second()])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
    ]
}
