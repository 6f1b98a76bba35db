//! HTTP filters, and what belongs to all of them: per-route configuration, `disabled`, local replies.

use crate::case::{
    Act, Case, Kind, Step, With, acts, case, early, get, http1, late, ok, pause, reply, request,
    status, with_fields, with_trailers,
};

pub fn cases() -> Vec<Case> {
    [
        cors(),
        fault(),
        buffer(),
        header_mutation(),
        local_ratelimit(),
        health_check(),
        grpc(),
        per_route(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const CORS: &str = "- name: cors\n  typed_config: { \"@type\": \"@http/cors.v3.Cors\" }";

fn with_cors(title: &'static str, policy: &str) -> Case {
    case(title).filters(CORS).route(
        "",
        &format!("typed_per_filter_config: {{ cors: {{ \"@type\": \"@http/cors.v3.CorsPolicy\", {policy} }} }}"),
    )
}

fn preflight(origin: &str) -> crate::case::Request {
    request("OPTIONS", "/")
        .field("origin", origin)
        .field("access-control-request-method", "PUT")
}

fn cors() -> Vec<Case> {
    let origin = "allow_origin_string_match: [{ exact: \"http://a.example\" }]";
    let full = format!(
        "{origin}, allow_methods: \"GET, PUT\", allow_headers: x-h, expose_headers: x-e, max_age: \"60\", allow_credentials: true"
    );
    vec![
        with_cors("a preflight from a listed origin is answered by cors", &full)
            .send(preflight("http://a.example"))
            .both()
            .shows([
                "< 200",
                "< access-control-allow-origin: http://a.example",
                "< access-control-allow-methods: GET, PUT",
                "< access-control-allow-headers: x-h",
                "< access-control-allow-credentials: true",
                "< access-control-max-age: 60",
                "log details=cors_response",
            ])
            .lacks(["> *"]),
        with_cors("a preflight from another origin goes upstream", &full)
            .send(preflight("http://b.example"))
            .shows(["< body hello", "> connection 1: OPTIONS / HTTP/1.1"])
            .lacks(["< access-control*"]),
        with_cors(
            "forward_not_matching_preflights false answers every preflight",
            &format!("{origin}, forward_not_matching_preflights: false"),
        )
        .send(preflight("http://b.example"))
        .shows(["< 200", "log details=cors_response"])
        .lacks(["> *", "< access-control*"]),
        with_cors("a response to a listed origin is marked", &full)
            .send(get("/").field("origin", "http://a.example"))
            .both()
            .shows([
                "< body hello",
                "< access-control-allow-origin: http://a.example",
                "< access-control-expose-headers: x-e",
                "< access-control-allow-credentials: true",
            ]),
        with_cors("a response to another origin is not marked", &full)
            .send(get("/").field("origin", "http://b.example"))
            .stats(["http.@stat.cors.origin_invalid", "http.@stat.cors.origin_valid"])
            .shows(["< body hello", "stat http.@stat.cors.origin_invalid: 1"])
            .lacks(["< access-control*"]),
        with_cors(
            "a preflight to a private network is allowed where the policy says so",
            &format!("{origin}, allow_private_network_access: true"),
        )
        .send(preflight("http://a.example").field("access-control-request-private-network", "true"))
        .shows(["< access-control-allow-private-network: true"]),
        with_cors("cors that is off by filter_enabled does nothing", &format!("{origin}, filter_enabled: {{ default_value: {{ numerator: 0 }} }}"))
            .send(preflight("http://a.example"))
            .shows(["< body hello"]),
        with_cors(
            "cors in shadow only counts",
            &format!("{origin}, filter_enabled: {{ default_value: {{ numerator: 0 }} }}, shadow_enabled: {{ default_value: {{ numerator: 100 }} }}"),
        )
        .send(preflight("http://a.example"))
        .stats(["http.@stat.cors.origin_valid"])
        .shows(["< body hello", "stat http.@stat.cors.origin_valid: 1"]),
    ]
}

fn with_fault(title: &'static str, fields: &str) -> Case {
    case(title).filters(&format!(
        "- name: fault\n  typed_config: {{ \"@type\": \"@http/fault.v3.HTTPFault\", {fields} }}"
    ))
}

fn fault() -> Vec<Case> {
    let always = "percentage: { numerator: 100 }";
    vec![
        with_fault("fault aborts with its status", &format!("abort: {{ http_status: 503, {always} }}"))
            .get("/")
            .both()
            .shows(["< 503", "< body fault filter abort", "log flags=FI", "log details=fault_filter_abort"])
            .lacks(["> *"]),
        with_fault("fault aborts by header", &format!("abort: {{ header_abort: {{}}, {always} }}"))
            .send(get("/").field("x-envoy-fault-abort-request", "418"))
            .get("/")
            .shows(["< 418", "< 200"]),
        with_fault("fault aborts gRPC with its status", &format!("abort: {{ grpc_status: 7, {always} }}"))
            .send(request("POST", "/").field("content-type", "application/grpc"))
            .http2()
            .shows(["< 200", "< grpc-status: 7", "log flags=FI"]),
        with_fault("a percentage of zero aborts nothing", "abort: { http_status: 503, percentage: { numerator: 0 } }")
            .get("/")
            .shows(["< 200"]),
        with_fault("fault delays a request", &format!("delay: {{ fixed_delay: 0.3s, {always} }}"))
            .get("/")
            .both()
            .shows(["< 200", "log flags=DI"]),
        with_fault("fault delays by header", &format!("delay: {{ header_delay: {{}}, {always} }}"))
            .send(get("/").field("x-envoy-fault-delay-request", "200"))
            .get("/")
            .shows(["log flags=DI", "log flags=-"]),
        with_fault(
            "fault takes no notice of headers that are no number",
            &format!("delay: {{ header_delay: {{}}, {always} }}, abort: {{ header_abort: {{}}, {always} }}"),
        )
        .send(get("/").field("x-envoy-fault-abort-request", "x").field("x-envoy-fault-delay-request", "1s"))
        .send(get("/").field("x-envoy-fault-abort-request", "-503").field("x-envoy-fault-delay-request", "-1"))
        .send(get("/").field("x-envoy-fault-abort-request", "99"))
        .send(get("/").field("x-envoy-fault-abort-request", "600"))
        .shows(["< 200", "log flags=-"]),
        with_fault(
            "fault delays and then aborts",
            &format!("delay: {{ fixed_delay: 0.2s, {always} }}, abort: {{ http_status: 500, {always} }}"),
        )
        .get("/")
        .shows(["< 500", "log flags=DI,FI"]),
        with_fault(
            "fault takes only requests with its headers",
            &format!("headers: [{{ name: x-f, string_match: {{ exact: \"1\" }} }}], abort: {{ http_status: 500, {always} }}"),
        )
        .get("/")
        .send(get("/").field("x-f", "1"))
        .shows(["< 200", "< 500"]),
        with_fault("fault takes only requests to its upstream cluster", &format!("upstream_cluster: other, abort: {{ http_status: 500, {always} }}"))
            .get("/")
            .shows(["< 200"]),
        with_fault("max_active_faults of zero injects nothing", &format!("max_active_faults: 0, abort: {{ http_status: 500, {always} }}"))
            .get("/")
            .shows(["< 200"]),
        with_fault("fault limits the rate of the response", &format!("response_rate_limit: {{ fixed_limit: {{ limit_kbps: 1000 }}, {always} }}"))
            .reply(reply(ok(&"x".repeat(20_000))))
            .get("/")
            .shows(["< 200", "log sent=20000", "log flags=-"]),
        with_fault("fault of the route replaces that of the chain", &format!("abort: {{ http_status: 500, {always} }}"))
            .route("", "typed_per_filter_config: { fault: { \"@type\": \"@http/fault.v3.HTTPFault\", abort: { http_status: 418, percentage: { numerator: 100 } } } }")
            .get("/")
            .shows(["< 418"]),
    ]
}

fn buffer() -> Vec<Case> {
    let buffer = |title| {
        case(title).filters("- name: buffer\n  typed_config: { \"@type\": \"@http/buffer.v3.Buffer\", max_request_bytes: 10 }")
    };
    vec![
        buffer("buffer gives a chunked request its length")
            .send(request("POST", "/").body("12345").chunked())
            .shows(["> content-length: 5", "> body 12345"])
            .lacks(["> transfer-encoding*"]),
        buffer("buffer refuses a larger body with 413")
            .send(request("POST", "/").body(&"x".repeat(300)))
            .shows(["< 413", "< body Payload Too Large", "log details=request_payload_too_large"])
            .lacks(["> *"]),
        buffer("buffer refuses a body of several frames over HTTP/2 with 413")
            .send(request("POST", "/").body(&"x".repeat(40_000)))
            .http2()
            .shows(["< 413", "< body Payload Too Large", "log details=request_payload_too_large"])
            .lacks(["> *"]),
        buffer("a route can turn buffer off")
            .route("", "typed_per_filter_config: { buffer: { \"@type\": \"@http/buffer.v3.BufferPerRoute\", disabled: true } }")
            .send(request("POST", "/").body("12345678901"))
            .shows(["< 200", "> body 12345678901"]),
        buffer("a route can raise the limit of buffer")
            .route("", "typed_per_filter_config: { buffer: { \"@type\": \"@http/buffer.v3.BufferPerRoute\", buffer: { max_request_bytes: 100 } } }")
            .send(request("POST", "/").body("12345678901"))
            .shows(["< 200"]),
        buffer("buffer waits for the end of the body")
            .bytes("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
            .wait(150)
            .bytes("2\r\ncd\r\n0\r\n\r\n")
            .read()
            .shows(["> content-length: 4", "> body abcd"]),
    ]
}

fn header_mutation() -> Vec<Case> {
    let mutation = |title, mutations: &str| {
        case(title).filters(&format!(
            "- name: mutation\n  typed_config: {{ \"@type\": \"@http/header_mutation.v3.HeaderMutation\", mutations: {{ {mutations} }} }}"
        ))
    };
    vec![
        mutation(
            "header_mutation appends and removes on the request in order",
            "request_mutations: [{ remove: x-a }, { append: { header: { key: x-a, value: new } } }, { append: { header: { key: x-b, value: \"%REQ(:path)%\" } } }]",
        )
        .send(get("/p").field("x-a", "old"))
        .both()
        .shows(["> x-a: new", "> x-b: /p"])
        .lacks(["> x-a: old"]),
        mutation(
            "header_mutation changes the response",
            "response_mutations: [{ remove: x-up }, { append: { header: { key: x-down, value: v }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } }]",
        )
        .reply(reply(with_fields(ok(""), "x-up: 1\nx-down: theirs")))
        .get("/")
        .shows(["< x-down: v"])
        .lacks(["< x-up*", "< x-down: theirs"]),
        mutation("header_mutation of the route adds to that of the chain", "request_mutations: [{ append: { header: { key: x-a, value: chain } } }]")
            .route("", "typed_per_filter_config: { mutation: { \"@type\": \"@http/header_mutation.v3.HeaderMutationPerRoute\", mutations: { request_mutations: [{ append: { header: { key: x-a, value: route } } }] } } }")
            .get("/")
            .in_order()
            .shows(["> x-a: chain", "> x-a: route"]),
        mutation("header_mutation changes query parameters", "query_parameter_mutations: [{ append: { record: { key: a, value: \"1\" }, action: APPEND_IF_EXISTS_OR_ADD } }, { remove: b }]")
            .get("/p?b=2&c=3")
            .shows(["> connection 1: GET /p?a=1&c=3 HTTP/1.1"]),
        mutation("header_mutation changes trailers", "request_trailers_mutations: [{ append: { header: { key: x-t, value: added } } }], response_trailers_mutations: [{ remove: x-r }]")
            .upstream_http2()
            .reply(reply(with_trailers(ok("y"), "x-r: 1\nx-s: 2")))
            .send(request("POST", "/").body("x").trailer("x-o", "1"))
            .http2()
            .shows(["> trailer x-t: added", "> trailer x-o: 1", "< trailer x-s: 2"])
            .lacks(["< trailer x-r*"]),
    ]
}

fn local_ratelimit() -> Vec<Case> {
    let limit = |title, fields: &str| {
        case(title).filters(&format!(
            "- name: limit\n  typed_config:\n    \"@type\": \"@http/local_ratelimit.v3.LocalRateLimit\"\n    stat_prefix: \"@stat\"\n    \
             token_bucket: {{ max_tokens: 1, tokens_per_fill: 1, fill_interval: 3600s }}\n    filter_enabled: {{ default_value: {{ numerator: 100 }} }}\n{}",
            crate::case::indent(fields, 4)
        ))
    };
    let enforced = "filter_enforced: { default_value: { numerator: 100 } }\n";
    vec![
        limit("local_ratelimit answers 429 when its tokens are used up", enforced)
            .get("/")
            .get("/")
            .stats(["@stat.http_local_rate_limit.rate_limited", "@stat.http_local_rate_limit.enforced"])
            .both()
            .shows(["< 200", "< 429", "< body local_rate_limited", "log flags=RL", "log details=local_rate_limited"]),
        limit("local_ratelimit that is not enforced only counts", "")
            .get("/")
            .get("/")
            .stats(["@stat.http_local_rate_limit.rate_limited", "@stat.http_local_rate_limit.enforced"])
            .shows([
                "< 200",
                "< 200",
                "stat @stat.http_local_rate_limit.rate_limited: 1",
                "stat @stat.http_local_rate_limit.enforced: 0",
            ]),
        limit("local_ratelimit has the status of its configuration", &format!("{enforced}status: {{ code: ServiceUnavailable }}"))
            .get("/")
            .get("/")
            .shows(["< 503", "log flags=RL"]),
        limit(
            "local_ratelimit adds headers to what it refuses",
            &format!("{enforced}response_headers_to_add: [{{ header: {{ key: x-limited, value: \"yes\" }} }}]"),
        )
        .get("/")
        .get("/")
        .shows(["< 429", "< x-limited: yes"]),
        limit("local_ratelimit gives x-ratelimit headers", &format!("{enforced}enable_x_ratelimit_headers: DRAFT_VERSION_03"))
            .get("/")
            .get("/")
            .shows(["< x-ratelimit-limit: 1", "< x-ratelimit-remaining: 0", "< 429"]),
        limit(
            "local_ratelimit has a bucket for each descriptor",
            &format!("{enforced}descriptors: [{{ entries: [{{ key: who, value: a }}], token_bucket: {{ max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s }} }}]\nalways_consume_default_token_bucket: false"),
        )
        .route("rate_limits: [{ actions: [{ request_headers: { header_name: x-who, descriptor_key: who } }] }]", "")
        .send(get("/").field("x-who", "a"))
        .send(get("/").field("x-who", "a"))
        .send(get("/").field("x-who", "a"))
        .send(get("/").field("x-who", "b"))
        .shows(["< 200", "< 200", "< 200", "< 429"]),
        limit(
            "local_ratelimit describes requests by a generic key",
            &format!("{enforced}descriptors: [{{ entries: [{{ key: g, value: \"v\" }}], token_bucket: {{ max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s }} }}]\nalways_consume_default_token_bucket: false"),
        )
        .route("rate_limits: [{ actions: [{ generic_key: { descriptor_value: v, descriptor_key: g } }] }]", "")
        .send(get("/"))
        .send(get("/"))
        .send(get("/"))
        .shows(["< 200", "< 200", "< 429"]),
        limit(
            "local_ratelimit describes requests by the client's address",
            &format!("{enforced}descriptors: [{{ entries: [{{ key: remote_address, value: \"203.0.113.7\" }}], token_bucket: {{ max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s }} }}]\nalways_consume_default_token_bucket: false"),
        )
        .route("rate_limits: [{ actions: [{ remote_address: {} }] }]", "")
        .send(get("/").field("x-forwarded-for", "203.0.113.7"))
        .send(get("/").field("x-forwarded-for", "203.0.113.7"))
        .send(get("/").field("x-forwarded-for", "203.0.113.7"))
        .shows(["< 200", "< 200", "< 429"]),
        limit(
            "local_ratelimit describes requests by headers that match",
            &format!("{enforced}descriptors: [{{ entries: [{{ key: header_match, value: \"vip\" }}], token_bucket: {{ max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s }} }}]\nalways_consume_default_token_bucket: false"),
        )
        .route("rate_limits: [{ actions: [{ header_value_match: { descriptor_value: vip, headers: [{ name: x-m, present_match: true }] } }] }]", "")
        .send(get("/").field("x-m", "1"))
        .send(get("/").field("x-m", "1"))
        .send(get("/").field("x-m", "1"))
        .shows(["< 200", "< 200", "< 429"]),
        limit(
            "local_ratelimit describes requests by the cluster",
            &format!("{enforced}descriptors: [{{ entries: [{{ key: destination_cluster, value: \"@backend\" }}], token_bucket: {{ max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s }} }}]\nalways_consume_default_token_bucket: false"),
        )
        .route("rate_limits: [{ actions: [{ destination_cluster: {} }] }]", "")
        .send(get("/"))
        .send(get("/"))
        .send(get("/"))
        .shows(["< 200", "< 200", "< 429"]),
        limit(
            "local_ratelimit describes requests by a query parameter",
            &format!("{enforced}descriptors: [{{ entries: [{{ key: q, value: \"1\" }}], token_bucket: {{ max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s }} }}]\nalways_consume_default_token_bucket: false"),
        )
        .route("rate_limits: [{ actions: [{ query_parameters: { query_parameter_name: q, descriptor_key: q } }] }]", "")
        .send(get("/?q=1"))
        .send(get("/?q=1"))
        .send(get("/?q=1"))
        .shows(["< 200", "< 200", "< 429"]),
        limit("local_ratelimit of the route has its own bucket", enforced)
            .routes("
                - match: { path: /own }
                  route: { cluster: @backend }
                  typed_per_filter_config:
                    limit:
                      \"@type\": \"@http/local_ratelimit.v3.LocalRateLimit\"
                      stat_prefix: own
                      token_bucket: { max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s }
                      filter_enabled: { default_value: { numerator: 100 } }
                      filter_enforced: { default_value: { numerator: 100 } }
                - match: { prefix: / }
                  route: { cluster: @backend }")
            .get("/own")
            .get("/own")
            .get("/own")
            .get("/")
            .shows(["< 200", "< 200", "< 200", "< 429"]),
        limit("local_ratelimit answers gRPC with its status", enforced)
            .send(request("POST", "/").field("content-type", "application/grpc"))
            .send(request("POST", "/").field("content-type", "application/grpc"))
            .http2()
            .shows(["< grpc-status: 14"]),
        limit(
            "local_ratelimit answers gRPC with RESOURCE_EXHAUSTED where it is told to",
            &format!("{enforced}rate_limited_as_resource_exhausted: true"),
        )
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .http2()
        .shows(["< grpc-status: 8"]),
    ]
}

fn health_check() -> Vec<Case> {
    let check = |title, fields: &str| {
        case(title).filters(&format!(
            "- name: health\n  typed_config: {{ \"@type\": \"@http/health_check.v3.HealthCheck\", headers: [{{ name: \":path\", string_match: {{ exact: /healthz }} }}], {fields} }}"
        ))
    };
    vec![
        check("health_check without pass-through answers by itself", "pass_through_mode: false")
            .get("/healthz")
            .get("/other")
            .both()
            .shows(["< 200", "log details=health_check_ok", "> connection 1: GET /other HTTP/1.1"])
            .lacks(["> connection 1: GET /healthz HTTP/1.1"]),
        check("health_check in pass-through asks the upstream", "pass_through_mode: true")
            .get("/healthz")
            .shows(["> connection 1: GET /healthz HTTP/1.1", "< body hello"]),
        check("health_check with a cache asks the upstream once", "pass_through_mode: true, cache_time: 60s")
            .reply(reply(status(200, "fine")))
            .get("/healthz")
            .get("/healthz")
            .shows(["> connection 1: GET /healthz HTTP/1.1", "< body fine", "log details=health_check_cached"]),
        check("health_check with a cache repeats the failure of the upstream", "pass_through_mode: true, cache_time: 60s")
            .reply(reply(status(503, "sick")))
            .get("/healthz")
            .get("/healthz")
            .shows(["< 503", "< 503", "log details=health_check_cached"]),
        check(
            "health_check by cluster health fails when too few hosts are healthy",
            "pass_through_mode: false, cluster_min_healthy_percentages: { sick_@stat: { value: 50 } }",
        )
        .get("/healthz")
        .clusters("
            - name: sick_@stat
              connect_timeout: 1s
              load_assignment:
                cluster_name: c
                endpoints: [{ lb_endpoints: [{ health_status: UNHEALTHY, endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }] }]")
        .shows(["< 503", "log details=health_check_failed*"]),
    ]
}

fn grpc() -> Vec<Case> {
    let call = || {
        request("POST", "/pkg.Service/Method")
            .field("content-type", "application/grpc")
            .field("te", "trailers")
    };
    let stats = "- name: grpc_stats\n  typed_config: { \"@type\": \"@http/grpc_stats.v3.FilterConfig\", emit_filter_state: true, stats_for_all_methods: true }";
    let frame = "\0\0\0\0\u{3}abc";
    vec![
        case("a gRPC call passes with its trailers")
            .upstream_http2()
            .reply(reply(with_trailers(
                with_fields(ok(frame), "content-type: application/grpc"),
                "grpc-status: 0",
            )))
            .send(call().body(frame))
            .http2()
            .shows(["< trailer grpc-status: 0", "> te: trailers", "< 200"]),
        case("grpc_stats counts calls and messages by method")
            .filters(stats)
            .upstream_http2()
            .reply(reply(with_trailers(
                with_fields(ok(frame), "content-type: application/grpc"),
                "grpc-status: 5",
            )))
            .send(call().body(frame))
            .http2()
            .stats([
                "cluster.@backend.grpc.pkg.Service.Method.5",
                "cluster.@backend.grpc.pkg.Service.Method.failure",
                "cluster.@backend.grpc.pkg.Service.Method.total",
                "cluster.@backend.grpc.pkg.Service.Method.request_message_count",
                "cluster.@backend.grpc.pkg.Service.Method.response_message_count",
            ])
            .shows([
                "stat cluster.@backend.grpc.pkg.Service.Method.5: 1",
                "stat cluster.@backend.grpc.pkg.Service.Method.request_message_count: 1",
            ]),
        case("a local reply to gRPC is trailers only with 200")
            .backend(Kind::Refuse)
            .send(call())
            .http2()
            .shows([
                "< 200",
                "< grpc-status: 14",
                "< content-type: application/grpc",
                "log code=200",
                "log flags=UF",
            ])
            .lacks(["< body*", "< trailer*"]),
        case("a route that is not there is UNIMPLEMENTED for gRPC")
            .routes("- { match: { path: /other }, @say(a) }")
            .send(call())
            .http2()
            .shows(["< 200", "< grpc-status: 12", "log details=route_not_found"]),
        case("a gRPC call over HTTP/1 gets a gRPC local reply too")
            .backend(Kind::Refuse)
            .send(call())
            .shows(["< 200", "< grpc-status: 14"]),
        case("the gRPC status is logged")
            .upstream_http2()
            .reply(reply(with_trailers(
                with_fields(ok(frame), "content-type: application/grpc"),
                "grpc-status: 5",
            )))
            .log_format("%GRPC_STATUS% %GRPC_STATUS_NUMBER%", "")
            .send(call().body(frame))
            .http2()
            .shows(["log NotFound 5"]),
        case("a timeout of a gRPC call is UNAVAILABLE")
            .route("timeout: 0.3s", "")
            .upstream_http2()
            .reply(late(3000, ""))
            .send(call())
            .http2()
            .shows(["< grpc-status: 14", "log flags=UT"]),
        case("retry on a gRPC status reads it from the headers")
            .route("retry_policy: { retry_on: unavailable }", "")
            .upstream_http2()
            .replies([
                reply(with_fields(
                    ok(""),
                    "content-type: application/grpc\ngrpc-status: 14",
                )),
                reply(with_fields(
                    ok(""),
                    "content-type: application/grpc\ngrpc-status: 0",
                )),
            ])
            .send(call())
            .http2()
            .shows(["< grpc-status: 0", "log attempts=2"]),
    ]
}

fn per_route() -> Vec<Case> {
    let aborting = "- name: fault\n  typed_config: { \"@type\": \"@http/fault.v3.HTTPFault\", abort: { http_status: 500, percentage: { numerator: 100 } } }";
    let disabled_filter = format!("{aborting}\n  disabled: true");
    vec![
        case("a filter can be disabled on a route")
            .filters(aborting)
            .route("", "typed_per_filter_config: { fault: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true } }")
            .get("/")
            .shows(["< 200"]),
        case("a filter that is disabled in the chain can be enabled on a route")
            .filters(&disabled_filter)
            .routes("
                - match: { path: /on }
                  route: { cluster: @backend }
                  typed_per_filter_config: { fault: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {} } }
                - match: { prefix: / }
                  route: { cluster: @backend }")
            .get("/on")
            .get("/off")
            .shows(["< 500", "< 200"]),
        case("per-route configuration of a filter that is not in the chain is ignored")
            .route("", "typed_per_filter_config: { nowhere: { \"@type\": \"@http/buffer.v3.BufferPerRoute\", disabled: true } }")
            .get("/")
            .shows(["< 200"]),
        case("per-route configuration of the virtual host serves all its routes")
            .filters(aborting)
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  typed_per_filter_config: { fault: { \"@type\": \"@http/fault.v3.HTTPFault\", abort: { http_status: 418, percentage: { numerator: 100 } } } }
                  routes:
                  - match: { path: /own }
                    route: { cluster: @backend }
                    typed_per_filter_config: { fault: { \"@type\": \"@http/fault.v3.HTTPFault\", abort: { http_status: 410, percentage: { numerator: 100 } } } }
                  - match: { prefix: / }
                    route: { cluster: @backend }")
            .get("/own")
            .get("/")
            .shows(["< 410", "< 418"]),
        case("the weighted cluster's per-route configuration is the most specific")
            .filters(aborting)
            .routes("
                - match: { prefix: / }
                  route:
                    weighted_clusters:
                      clusters:
                      - name: @backend
                        weight: 1
                        typed_per_filter_config: { fault: { \"@type\": \"@http/fault.v3.HTTPFault\", abort: { http_status: 411, percentage: { numerator: 100 } } } }
                  typed_per_filter_config: { fault: { \"@type\": \"@http/fault.v3.HTTPFault\", abort: { http_status: 418, percentage: { numerator: 100 } } } }")
            .get("/")
            .shows(["< 411"]),
        case("filters run in their order on the way in and in reverse on the way out")
            .filters("
                - name: one
                  typed_config: { \"@type\": \"@http/header_mutation.v3.HeaderMutation\", mutations: { request_mutations: [{ append: { header: { key: x-in, value: one } } }], response_mutations: [{ append: { header: { key: x-out, value: one } } }] } }
                - name: two
                  typed_config: { \"@type\": \"@http/header_mutation.v3.HeaderMutation\", mutations: { request_mutations: [{ append: { header: { key: x-in, value: two } } }], response_mutations: [{ append: { header: { key: x-out, value: two } } }] } }")
            .get("/")
            .in_order()
            .both()
            .shows(["> x-in: one", "> x-in: two", "< x-out: two", "< x-out: one"]),
        case("a local reply of a filter passes the filters before it")
            .filters("
                - name: one
                  typed_config: { \"@type\": \"@http/header_mutation.v3.HeaderMutation\", mutations: { response_mutations: [{ append: { header: { key: x-out, value: one } } }] } }")
            .filters(aborting)
            .get("/")
            .shows(["< 500", "< x-out: one"]),
        case("a filter that waits does not keep the client's close from being seen")
            .filters("- name: fault\n  typed_config: { \"@type\": \"@http/fault.v3.HTTPFault\", delay: { fixed_delay: 2s, percentage: { numerator: 100 } } }")
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(150)
            .step(Step::Close)
            .logs(1)
            .shows(["log flags=DI,DC"])
            .lacks(["> *"]),
        case("an upstream filter changes what the upstream sees")
            .backend(http1(early([pause(10), Act::Respond(ok("x"))])))
            .protocol_options("
                explicit_http_config: { http_protocol_options: {} }
                http_filters:
                - name: mutation
                  typed_config: { \"@type\": \"@http/header_mutation.v3.HeaderMutation\", mutations: { request_mutations: [{ append: { header: { key: x-upstream, value: filter } } }] } }
                - name: codec
                  typed_config: { \"@type\": \"@http/upstream_codec.v3.UpstreamCodec\" }")
            .get("/")
            .shows(["> x-upstream: filter"]),
        case("buffer may hold more than the limit of the connection")
            .listener("per_connection_buffer_limit_bytes: 1024")
            .filters("- name: buffer\n  typed_config: { \"@type\": \"@http/buffer.v3.Buffer\", max_request_bytes: 100000 }")
            .replies([acts([Act::Respond(ok("x"))])])
            .send(request("POST", "/").body(&"x".repeat(5000)))
            .shows(["< 200"]),
    ]
}
