//! What the connection manager finds out about clients, and what it says of itself.

use crate::case::{
    Act, Case, Kind, With, acts, case, get, late, ok, raw, reply, request, status, with_fields,
};

pub fn cases() -> Vec<Case> {
    [
        original_ip(),
        early_mutations(),
        proxy_status(),
        requests(),
        informational(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A case with this way to find out who asks.
fn detecting(title: &'static str, kind: &str, config: &str) -> Case {
    case(title).hcm(&format!(
        "
        original_ip_detection_extensions:
        - name: detection
          typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.http.original_ip_detection.{kind}, {config} }}"
    ))
}

fn original_ip() -> Vec<Case> {
    const HEADER: &str = "custom_header.v3.CustomHeaderConfig";
    const XFF: &str = "xff.v3.XffConfig";
    let trusted = "xff_trusted_cidrs: { cidrs: [{ address_prefix: 127.0.0.0, prefix_len: 8 }, { address_prefix: 2.0.0.0, prefix_len: 8 }] }";
    let forwarded = |value: &str| get("/").field("x-forwarded-for", value);
    vec![
        detecting("the client may be named by a header", HEADER, "header_name: x-ip")
            .send(get("/").field("x-ip", "9.9.9.9").field("x-forwarded-for", "1.1.1.1"))
            .both()
            .shows(["log remote=9.9.9.9", "> x-forwarded-for: 1.1.1.1"])
            .lacks(["> x-envoy-internal*"]),
        detecting("a header that is no address names nobody", HEADER, "header_name: x-ip")
            .send(get("/").field("x-ip", "9.9.9.9:80"))
            .get("/")
            .shows(["log remote=127.0.0.1", "log remote=127.0.0.1", "< 200"]),
        detecting("reject_with_status refuses a request whose client nobody names", HEADER, "header_name: x-ip, reject_with_status: { code: 401 }")
            .get("/")
            .both()
            .shows(["< 401", "log details=rejecting_because_detection_failed", "log flags=-"])
            .lacks(["> *"]),
        detecting("reject_with_status that is no error is 403", HEADER, "header_name: x-ip, reject_with_status: { code: 302 }")
            .get("/")
            .shows(["< 403"]),
        detecting("an address of a header may be that of an internal client", HEADER, "header_name: x-ip, allow_extension_to_set_address_as_trusted: true")
            .hcm("internal_address_config: { cidr_ranges: [{ address_prefix: 9.0.0.0, prefix_len: 8 }] }")
            .send(get("/").field("x-ip", "9.9.9.9"))
            .shows(["> x-envoy-internal: true"]),
        detecting("an address of a header is not trusted by itself", HEADER, "header_name: x-ip")
            .hcm("internal_address_config: { cidr_ranges: [{ address_prefix: 9.0.0.0, prefix_len: 8 }] }")
            .send(get("/").field("x-ip", "9.9.9.9"))
            .shows(["log remote=9.9.9.9"])
            .lacks(["> x-envoy-internal*"]),
        detecting("the xff extension counts trusted hops", XFF, "xff_num_trusted_hops: 1")
            .send(forwarded("1.1.1.1, 3.3.3.3"))
            .both()
            .shows(["log remote=1.1.1.1"]),
        detecting("trusted proxies are passed over", XFF, trusted)
            .send(forwarded("1.1.1.1, 2.2.2.2"))
            .shows(["log remote=1.1.1.1", "> x-forwarded-for: 1.1.1.1, 2.2.2.2"]),
        detecting("where all are trusted proxies the first is the client", XFF, trusted)
            .send(forwarded("2.1.1.1, 2.2.2.2"))
            .shows(["log remote=2.1.1.1"]),
        detecting("x-forwarded-for of a peer that is no trusted proxy counts for nothing", XFF, "xff_trusted_cidrs: { cidrs: [{ address_prefix: 10.0.0.0, prefix_len: 8 }] }")
            .send(forwarded("1.1.1.1"))
            .shows(["log remote=127.0.0.1"]),
        detecting("skip_xff_append false adds the peer", XFF, "skip_xff_append: false")
            .send(forwarded("1.1.1.1"))
            .shows(["> x-forwarded-for: 1.1.1.1,*", "log remote=1.1.1.1"]),
        detecting("the next extension is asked where one finds nothing", HEADER, "header_name: x-ip")
            .hcm(&format!("- name: second\n  typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.http.original_ip_detection.{XFF} }}"))
            .send(forwarded("1.1.1.1"))
            .send(forwarded("1.1.1.1").field("x-ip", "9.9.9.9"))
            .shows(["log remote=1.1.1.1", "log remote=9.9.9.9"]),
        case("a client that says nothing is no internal one")
            .hcm("internal_address_config: { cidr_ranges: [{ address_prefix: 127.0.0.0, prefix_len: 8 }] }")
            .get("/")
            .send(forwarded("127.0.0.1"))
            .shows(["< 200", "> x-envoy-internal: true"]),
    ]
}

/// A case with these mutations before anything else.
fn mutating(title: &'static str, mutations: &str) -> Case {
    case(title).hcm(&format!(
        "
        early_header_mutation_extensions:
        - name: early
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
            mutations: {mutations}"
    ))
}

fn early_mutations() -> Vec<Case> {
    vec![
        mutating("early mutations come before the client is found out", "[{ append: { header: { key: x-forwarded-for, value: 7.7.7.7 }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } }]")
            .send(get("/").field("x-forwarded-for", "1.1.1.1"))
            .both()
            .shows(["> x-forwarded-for: 7.7.7.7", "log remote=7.7.7.7"]),
        mutating("early mutations come before the route is chosen", "[{ append: { header: { key: x-route, value: b } } }]")
            .routes("
                - match: { prefix: /, headers: [{ name: x-route, string_match: { exact: b } }] }
                  @say(b)
                - match: { prefix: / }
                  @say(a)")
            .get("/")
            .shows(["< body b"]),
        mutating("early mutations see the normal path and no id yet", "[{ append: { header: { key: x-seen, value: \"%REQ(:path)%|%REQ(x-request-id)%|%REQ(x-forwarded-proto)%\" } } }, { remove: x-gone }]")
            .hcm("normalize_path: true")
            .send(get("/a/../b").field("x-gone", "1"))
            .shows(["> x-seen: /b||"])
            .lacks(["> x-gone*"]),
        mutating("an early mutation may take an id away", "[{ remove: x-request-id }]")
            .send(get("/").field("x-request-id", "mine"))
            .shows(["> x-request-id: (uuid)"]),
    ]
}

fn proxy_status() -> Vec<Case> {
    let refused = |title, config: &str| {
        case(title)
            .hcm(&format!("proxy_status_config: {config}"))
            .backend(Kind::Refuse)
            .get("/")
    };
    vec![
        refused("proxy_status_config says what failed", "{}")
            .both()
            .shows(["< 503", "< proxy-status: envoy; error=connection_refused; details=\"upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}; UF\""]),
        refused("proxy-status may be without details", "{ literal_proxy_name: me, remove_details: true }")
            .shows(["< proxy-status: me; error=connection_refused"]),
        refused("proxy-status may be without flags", "{ literal_proxy_name: me, remove_response_flags: true }")
            .lacks(["< proxy-status: *UF*"])
            .shows(["< proxy-status: me; error=connection_refused; details=*"]),
        refused("proxy-status may name the node", "{ use_node_id: true, remove_details: true }")
            .shows(["< proxy-status: *"]),
        refused("set_recommended_response_code changes the status", "{ set_recommended_response_code: true }")
            .shows(["< 502", "log code=502"]),
        case("proxy-status tells of a timeout")
            .hcm("proxy_status_config: { set_recommended_response_code: true, remove_details: true }")
            .route("timeout: 0.2s", "")
            .reply(late(1500, "late"))
            .get("/")
            .shows(["< 504", "< proxy-status: envoy; error=http_response_timeout"]),
        case("proxy-status tells of a missing route")
            .hcm("proxy_status_config: { set_recommended_response_code: true }")
            .routes("
                - match: { path: /a }
                  @say(a)")
            .get("/x")
            .shows(["< proxy-status: envoy; error=destination_not_found*"]),
        case("proxy-status tells of a bad upstream")
            .hcm("proxy_status_config: { set_recommended_response_code: true, remove_details: true }")
            .reply(raw("garbage\r\n\r\n"))
            .get("/")
            .shows(["< 502", "< proxy-status: envoy; error=http_protocol_error"]),
        case("proxy-status is silent where nothing failed")
            .hcm("proxy_status_config: {}")
            .reply(reply(with_fields(status(500, "theirs"), "proxy-status: theirs; error=dns_error")))
            .get("/")
            .shows(["< proxy-status: theirs; error=dns_error"]),
    ]
}

fn requests() -> Vec<Case> {
    vec![
        case("generate_request_id false leaves the id of an edge client")
            .external()
            .hcm("generate_request_id: false")
            .send(get("/").field("x-request-id", "mine"))
            .shows(["> x-request-id: mine"]),
        case("an empty request id is replaced")
            .send(get("/").field("x-request-id", ""))
            .both()
            .shows(["> x-request-id: (uuid)"]),
        case("a referer with credentials is taken away")
            .send(get("/").field("referer", "http://u:p@a/b"))
            .both()
            .shows(["< 200"])
            .lacks(["> referer*"]),
        case("a referer with a fragment is taken away")
            .send(get("/").field("referer", "http://a/b#c"))
            .shows(["< 200"])
            .lacks(["> referer*"]),
        case("a referer that is no absolute URL is left alone")
            .send(get("/").field("referer", "/a@b"))
            .shows(["> referer: /a@b"]),
        case("ALWAYS_FORWARD_ONLY passes x-forwarded-client-cert on without TLS")
            .hcm("forward_client_cert_details: ALWAYS_FORWARD_ONLY")
            .send(get("/").field("x-forwarded-client-cert", "By=a"))
            .shows(["> x-forwarded-client-cert: By=a"]),
        case("APPEND_FORWARD has nothing to add without TLS and strips the header")
            .hcm("forward_client_cert_details: APPEND_FORWARD\nset_current_client_cert_details: { subject: true, uri: true, dns: true, cert: true }")
            .send(get("/").field("x-forwarded-client-cert", "By=a"))
            .shows(["< 200"])
            .lacks(["> x-forwarded-client-cert*"]),
        case("QUERY without a content type is refused")
            .raw("QUERY / HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["< 400", "log details=query_missing_content_type"])
            .lacks(["> *"]),
        case("QUERY with a content type is passed on")
            .raw("QUERY / HTTP/1.1\r\nhost: a\r\ncontent-type: x\r\ncontent-length: 2\r\n\r\nhi")
            .shows(["> connection 1: QUERY / HTTP/1.1", "> body hi"]),
        case("a route that answers 400 ends an HTTP/1 connection")
            .routes("
                - match: { prefix: / }
                  direct_response: { status: 400 }")
            .get("/")
            .shows(["< 400", "< connection: close"]),
        case("a route that answers 400 leaves an HTTP/2 connection")
            .routes("
                - match: { prefix: / }
                  direct_response: { status: 400 }")
            .get("/")
            .get("/")
            .http2()
            .shows(["< 400", "< 400", "= connection 0: open"]),
        case("an upstream that answers 400 leaves the connection")
            .reply(reply(status(400, "theirs")))
            .get("/")
            .shows(["< 400", "= connection 0: open"]),
        case("strip_matching_host_port takes the listener's own port")
            .hcm("strip_matching_host_port: true")
            .send(get("/").host("example.com:@port"))
            .shows(["< 200"]),
        case("strip_trailing_host_dot keeps the port")
            .hcm("strip_trailing_host_dot: true")
            .send(get("/").host("example.com.:81"))
            .shows(["> host: example.com:81"]),
        case("a host of IPv6 loses its port and keeps its brackets")
            .hcm("strip_any_host_port: true")
            .send(get("/").host("[::1]:81"))
            .shows(["> host: [::1]"]),
        case("gRPC clients get local replies as trailers")
            .routes("
                - match: { path: /a }
                  @say(a)")
            .send(request("POST", "/x").field("content-type", "application/grpc"))
            .both()
            .shows(["< 200", "< content-type: application/grpc", "< grpc-status: 12"]),
        case("allow_chunked_length of the upstream takes chunked and drops the length")
            .protocol_options("explicit_http_config: { http_protocol_options: { allow_chunked_length: true } }")
            .reply(raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
            .get("/")
            .shows(["< 200", "< body ok"])
            .lacks(["< content-length*"]),
        case("send_fully_qualified_url writes the whole URL")
            .protocol_options("explicit_http_config: { http_protocol_options: { send_fully_qualified_url: true } }")
            .get("/x?y")
            .shows(["> connection 1: GET http://example.com/x?y HTTP/1.1"]),
        case("proper_case_words write names of either direction like this")
            .hcm("http_protocol_options: { header_key_format: { proper_case_words: {} } }")
            .protocol_options("explicit_http_config: { http_protocol_options: { header_key_format: { proper_case_words: {} } } }")
            .reply(reply(with_fields(ok("x"), "x-some_thing: 1")))
            .send(get("/").field("x-other-thing", "1"))
            .shows(["< 200"]),
    ]
}

fn informational() -> Vec<Case> {
    let interim = |status: u16| {
        raw(&format!(
            "HTTP/1.1 {status} Interim\r\nx-a: 1\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        ))
    };
    vec![
        case("103 is dropped without proxy_100_continue")
            .reply(interim(103))
            .get("/")
            .shows(["< 200", "< body ok"])
            .lacks(["< 103"]),
        case("102 is passed on with proxy_100_continue")
            .hcm("proxy_100_continue: true")
            .reply(interim(102))
            .get("/")
            .shows(["< 102", "< x-a: 1", "< 200"]),
        case("a 1xx without a meaning is dropped")
            .hcm("proxy_100_continue: true")
            .reply(interim(150))
            .get("/")
            .shows(["< 200", "< body ok"])
            .lacks(["< 150"]),
        case("an upstream that hangs up after 100 is 503")
            .reply(acts([
                crate::case::send("HTTP/1.1 100 Continue\r\n\r\n"),
                Act::Close,
            ]))
            .get("/")
            .shows([
                "< 503",
                "log flags=UC",
                "log details=upstream_reset_after_response_started{connection_termination}",
            ]),
    ]
}
