//! What a request tells the upstream, and what of it is made plain: addresses, headers, paths.

use crate::case::{Case, With, case, get, ok, reply, with_fields};

pub(super) fn addresses() -> Vec<Case> {
    let forwarded = |value: &str| get("/").field("x-forwarded-for", value);
    vec![
        case("without use_remote_address x-forwarded-for is passed on and trusted")
            .send(forwarded("203.0.113.7"))
            .both()
            .shows([
                "> x-forwarded-for: 203.0.113.7",
                "log remote=203.0.113.7",
                "log direct=127.0.0.1",
            ]),
        case("use_remote_address appends the peer and trusts only it")
            .hcm("use_remote_address: true")
            .send(forwarded("203.0.113.7"))
            .get("/")
            .both()
            .shows([
                "> x-forwarded-for: 203.0.113.7,*",
                "log remote=127.0.0.1",
                "log remote=127.0.0.1",
            ]),
        case("skip_xff_append appends nothing")
            .hcm("use_remote_address: true\nskip_xff_append: true")
            .send(forwarded("203.0.113.7"))
            .shows(["> x-forwarded-for: 203.0.113.7", "log remote=127.0.0.1"]),
        case("xff_num_trusted_hops with use_remote_address counts from the right")
            .hcm("use_remote_address: true\nxff_num_trusted_hops: 1")
            .send(forwarded("203.0.113.9, 203.0.113.7"))
            .shows([
                "log remote=203.0.113.7",
                "> x-envoy-external-address: 203.0.113.7",
            ]),
        case("xff_num_trusted_hops without use_remote_address skips addresses")
            .hcm("xff_num_trusted_hops: 1")
            .send(forwarded("203.0.113.9, 203.0.113.7, 203.0.113.8"))
            .shows(["log remote=203.0.113.7"]),
        case("x-forwarded-for that is no address leaves the peer's")
            .send(forwarded("unknown"))
            .shows(["log remote=127.0.0.1", "> x-forwarded-for: unknown"]),
        case("an external client's x-envoy headers are taken away")
            .external()
            .send(
                get("/")
                    .field("x-envoy-upstream-rq-timeout-ms", "100")
                    .field("x-envoy-retry-on", "5xx")
                    .field("x-envoy-max-retries", "3")
                    .field("x-envoy-internal", "true")
                    .field("x-envoy-decorator-operation", "op"),
            )
            .shows([
                "> x-envoy-external-address: 127.0.0.1",
                "> x-envoy-expected-rq-timeout-ms: 15000",
            ])
            .lacks([
                "> x-envoy-retry-on*",
                "> x-envoy-internal*",
                "> x-envoy-max-retries*",
            ]),
        case("an internal client is marked with x-envoy-internal")
            .internal()
            .send(get("/").field("x-envoy-upstream-rq-timeout-ms", "100"))
            .shows([
                "> x-envoy-internal: true",
                "> x-envoy-expected-rq-timeout-ms: 100",
            ])
            .lacks([
                "> x-envoy-external-address*",
                "> x-envoy-upstream-rq-timeout-ms*",
            ]),
        case("internal_only_headers of an external client are removed")
            .external()
            .route_config("internal_only_headers: [x-inner]")
            .send(get("/").field("x-inner", "1"))
            .shows(["< 200"])
            .lacks(["> x-inner*"]),
        case("x-forwarded-client-cert is stripped without TLS")
            .send(get("/").field("x-forwarded-client-cert", "By=a"))
            .shows(["< 200"])
            .lacks(["> x-forwarded-client-cert*"]),
    ]
}

pub(super) fn envoy_headers() -> Vec<Case> {
    vec![
        case("x-forwarded-proto is set from the connection")
            .get("/")
            .both()
            .shows(["> x-forwarded-proto: http"]),
        case("x-forwarded-proto of an untrusted client is overwritten")
            .hcm("use_remote_address: true")
            .send(get("/").field("x-forwarded-proto", "https"))
            .shows(["> x-forwarded-proto: http"]),
        case("scheme_header_transformation overwrites the scheme")
            .hcm("scheme_header_transformation: { scheme_to_overwrite: https }")
            .upstream_http2()
            .get("/")
            .both()
            .shows(["> :scheme: https", "> x-forwarded-proto: https"]),
        case("match_upstream gives the request the scheme of the connection to the upstream")
            .hcm("scheme_header_transformation: { match_upstream: true }")
            .upstream_http2()
            .send(get("/").field("x-forwarded-proto", "https"))
            .both()
            .shows(["> :scheme: http", "> x-forwarded-proto: https"]),
        case("a request id is made")
            .get("/")
            .shows(["> x-request-id: (uuid)"])
            .lacks(["< x-request-id*"]),
        case("a request id of an internal client is kept")
            .send(get("/").field("x-request-id", "my-own-id"))
            .shows(["> x-request-id: my-own-id"]),
        case("a request id of an edge client is replaced")
            .external()
            .send(get("/").field("x-request-id", "my-own-id"))
            .shows(["> x-request-id: (uuid)"]),
        case("preserve_external_request_id keeps the id of an edge client")
            .external()
            .hcm("preserve_external_request_id: true")
            .send(get("/").field("x-request-id", "my-own-id"))
            .shows(["> x-request-id: my-own-id"]),
        case("generate_request_id false makes no id")
            .hcm("generate_request_id: false")
            .get("/")
            .shows(["< 200"])
            .lacks(["> x-request-id*"]),
        case("always_set_request_id_in_response gives the id back")
            .hcm("always_set_request_id_in_response: true")
            .send(get("/").field("x-request-id", "my-own-id"))
            .shows(["< x-request-id: my-own-id"]),
        case("add_user_agent names the service cluster")
            .hcm("add_user_agent: true")
            .get("/")
            .shows([
                "> user-agent: stories",
                "> x-envoy-downstream-service-cluster: stories",
            ]),
        case("append_x_forwarded_port names the port of the listener")
            .hcm("append_x_forwarded_port: true")
            .get("/")
            .shows(["> x-forwarded-port: @port"]),
        case("x-envoy-upstream-service-time of the upstream is overwritten")
            .reply(reply(with_fields(
                ok(""),
                "x-envoy-upstream-service-time: 99999999",
            )))
            .get("/")
            .shows(["< x-envoy-upstream-service-time: (volatile)"])
            .lacks(["< x-envoy-upstream-service-time: 99999999"]),
    ]
}

pub(super) fn paths() -> Vec<Case> {
    let slashes = |title, action: &str| {
        case(title)
            .hcm(&format!("path_with_escaped_slashes_action: {action}\nnormalize_path: true\nmerge_slashes: true"))
            .get("/a%2Fb%5cc")
    };
    vec![
        case("without normalize_path the path is passed on as it is")
            .get("/a/../b//c/%7e/.")
            .both()
            .shows(["> connection 1: GET /a/../b//c/%7e/. HTTP/1.1"]),
        case("normalize_path resolves dots and decodes unreserved octets")
            .hcm("normalize_path: true")
            .get("/a/./x/../b/%7Euser/%2e%2e/z?q=/../")
            .both()
            .shows(["> connection 1: GET /a/b/z?q=/../ HTTP/1.1"])
            .lacks(["> x-envoy-original-path*"]),
        case("decoding a path makes no new escapes")
            .hcm("normalize_path: true")
            .raw("GET /a/%%32e%%32e/%2%35%36 HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["> connection 1: GET /a/%252e%252e/%25256 HTTP/1.1"]),
        case("normalize_path turns backslashes")
            .hcm("normalize_path: true")
            .raw("GET /a\\b\\..\\c HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["> connection 1: GET /a/c HTTP/1.1"]),
        case("normalize_path never climbs above the root")
            .hcm("normalize_path: true")
            .get("/../../a")
            .shows(["> connection 1: GET /a HTTP/1.1"]),
        case("conditions that come twice are joined, what only a response says is not")
            .send(
                get("/")
                    .field("if-none-match", "\"a\"")
                    .field("if-none-match", "\"b\"")
                    .field("pragma", "x")
                    .field("pragma", "y")
                    .field("etag", "1")
                    .field("etag", "2"),
            )
            .both()
            .shows([
                "> if-none-match: \"a\",\"b\"",
                "> pragma: x,y",
                "> etag: 1",
                "> etag: 2",
            ]),
        case("what caches go by is joined in a response, what only a request says is not")
            .reply(reply(with_fields(
                ok("x"),
                "vary: a
                vary: b
                etag: \"1\"
                etag: \"2\"
                access-control-allow-methods: GET
                access-control-allow-methods: PUT
                pragma: x
                pragma: y",
            )))
            .get("/")
            .both()
            .shows([
                "< vary: a,b",
                "< etag: \"1\",\"2\"",
                "< access-control-allow-methods: GET,PUT",
                "< pragma: x",
                "< pragma: y",
            ]),
        case("merge_slashes merges slashes in the path and not in the query")
            .hcm("merge_slashes: true")
            .get("//a///b//?x=//")
            .both()
            .shows(["> connection 1: GET /a/b/?x=// HTTP/1.1"]),
        slashes("KEEP_UNCHANGED keeps escaped slashes", "KEEP_UNCHANGED")
            .shows(["> connection 1: GET /a%2Fb%5cc HTTP/1.1"]),
        slashes(
            "REJECT_REQUEST answers escaped slashes with 400",
            "REJECT_REQUEST",
        )
        .shows(["< 400", "log details=path_normalization_failed"]),
        slashes(
            "UNESCAPE_AND_REDIRECT redirects to the clean path",
            "UNESCAPE_AND_REDIRECT",
        )
        .shows([
            "< 307",
            "< location: /a/b/c",
            "log details=path_normalization_failed",
        ])
        .lacks(["> connection*"]),
        slashes(
            "UNESCAPE_AND_FORWARD forwards the clean path",
            "UNESCAPE_AND_FORWARD",
        )
        .shows(["> connection 1: GET /a/b/c HTTP/1.1"]),
        case("a path with a fragment is refused")
            .raw("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["< 400", "log details=path_normalization_failed"]),
        case("strip_any_host_port takes the port from the host")
            .hcm("strip_any_host_port: true")
            .send(get("/").host("example.com:8080"))
            .both()
            .shows(["> host: example.com"]),
        case("strip_matching_host_port leaves another port")
            .hcm("strip_matching_host_port: true")
            .send(get("/").host("example.com:1"))
            .shows(["> host: example.com:1"]),
        case("strip_trailing_host_dot takes the dot from the host")
            .hcm("strip_trailing_host_dot: true")
            .send(get("/").host("example.com."))
            .shows(["> host: example.com"]),
    ]
}
