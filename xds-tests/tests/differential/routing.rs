//! Which route a request takes, and what the route does to it.

use crate::case::{Case, With, case, get, http1, ok, raw, reply, request, with_fields};

pub fn cases() -> Vec<Case> {
    [
        matching(),
        headers(),
        actions(),
        rewrites(),
        mutations(),
        hosts(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn matching() -> Vec<Case> {
    vec![
        case("the first route that matches is taken, not the longest")
            .routes("
                - match: { prefix: /a }
                  @say(first)
                - match: { prefix: /a/b }
                  @say(second)")
            .get("/a/b")
            .both()
            .shows(["< 200", "< body first", "log details=direct_response", "log cluster=-"]),
        case("a path matches whole, without the query")
            .routes("
                - match: { path: /a }
                  @say(path)
                - match: { prefix: / }
                  @say(other)")
            .get("/a?x=1")
            .get("/a/")
            .both()
            .shows(["< body path", "< body other"]),
        case("case_sensitive false ignores case in prefix and path")
            .routes("
                - match: { path: /Path, case_sensitive: false }
                  @say(path)
                - match: { prefix: /Prefix, case_sensitive: false }
                  @say(prefix)")
            .get("/pATH")
            .get("/pREFIX/x")
            .get("/pat")
            .shows(["< body path", "< body prefix", "< 404"]),
        case("safe_regex must match the whole path without the query")
            .routes("
                - match: { safe_regex: { regex: \"/a[0-9]+\" } }
                  @say(regex)
                - match: { prefix: / }
                  @say(other)")
            .get("/a12?b")
            .get("/a12b")
            .shows(["< body regex", "< body other"]),
        case("path_separated_prefix ends at a slash or at the end")
            .routes("
                - match: { path_separated_prefix: /api }
                  @say(api)
                - match: { prefix: / }
                  @say(other)")
            .get("/api")
            .get("/api/x")
            .get("/api?x")
            .get("/apix")
            .shows(["< body api", "< body api", "< body api", "< body other"]),
        case("no route is 404 with route_not_found")
            .routes("
                - match: { path: /a }
                  @say(a)")
            .get("/b")
            .both()
            .shows(["< 404", "log flags=NR", "log details=route_not_found", "log route=-", "log sent=0"])
            .lacks(["< content-type*", "< body*"]),
        case("a query parameter matches by value and by presence")
            .routes("
                - match: { prefix: /, query_parameters: [{ name: a, string_match: { exact: \"1\" } }] }
                  @say(value)
                - match: { prefix: /, query_parameters: [{ name: b, present_match: true }] }
                  @say(presence)")
            .get("/?x&a=1")
            .get("/?b")
            .get("/?a=2")
            .shows(["< body value", "< body presence", "< 404"]),
        case("of a query parameter given twice the first counts")
            .routes("
                - match: { prefix: /, query_parameters: [{ name: a, string_match: { exact: \"1\" } }] }
                  @say(first)")
            .get("/?a=1&a=2")
            .get("/?a=2&a=1")
            .shows(["< body first", "< 404"]),
        case("grpc matches by content type")
            .routes("
                - match: { prefix: /, grpc: {} }
                  @say(grpc)
                - match: { prefix: / }
                  @say(other)")
            .send(request("POST", "/").field("content-type", "application/json"))
            .send(request("POST", "/").field("content-type", "application/grpc+proto"))
            .http2()
            .shows(["< body other", "< content-type: application/grpc", "< grpc-status: 2", "< grpc-message: grpc"]),
        case("a runtime fraction of zero never matches")
            .routes("
                - match: { prefix: /, runtime_fraction: { default_value: { numerator: 0 } } }
                  @say(never)
                - match: { prefix: /, runtime_fraction: { default_value: { numerator: 100 } } }
                  @say(always)")
            .get("/")
            .shows(["< body always"]),
    ]
}

fn headers() -> Vec<Case> {
    let by_header = |title, matcher: &str| {
        case(title).routes(&format!(
            "- match: {{ prefix: /, headers: [{{ name: x-h, {matcher} }}] }}\n  @say(yes)\n- match: {{ prefix: / }}\n  @say(no)"
        ))
    };
    let with = |value: &str| get("/").field("x-h", value);
    vec![
        by_header("a header matches by its exact value", "string_match: { exact: one }")
            .send(with("one"))
            .send(with("One"))
            .both()
            .shows(["< body yes", "< body no"]),
        by_header("a header matches by prefix without case", "string_match: { prefix: Ab, ignore_case: true }")
            .send(with("aBc"))
            .send(with("cab"))
            .shows(["< body yes", "< body no"]),
        by_header("a header matches by suffix", "string_match: { suffix: end }")
            .send(with("the end"))
            .send(with("end of"))
            .shows(["< body yes", "< body no"]),
        by_header("a header matches by what it contains", "string_match: { contains: mid }")
            .send(with("amidst"))
            .send(with("mi d"))
            .shows(["< body yes", "< body no"]),
        by_header("a header regex must match the whole value", "string_match: { safe_regex: { regex: \"a+\" } }")
            .send(with("aaa"))
            .send(with("aab"))
            .shows(["< body yes", "< body no"]),
        by_header("a range takes its start and not its end", "range_match: { start: 5, end: 7 }")
            .send(with("5"))
            .send(with("7"))
            .send(with("six"))
            .shows(["< body yes", "< body no", "< body no"]),
        by_header("present_match false wants the header absent", "present_match: false")
            .get("/")
            .send(with("x"))
            .shows(["< body yes", "< body no"]),
        by_header("invert_match of a value does not hold for an absent header", "invert_match: true, string_match: { exact: a }")
            .get("/")
            .send(with("a"))
            .send(with("b"))
            .shows(["< body no", "< body no", "< body yes"]),
        by_header(
            "an absent header can be treated as empty",
            "treat_missing_header_as_empty: true, string_match: { exact: \"\" }",
        )
        .get("/")
        .send(with("a"))
        .shows(["< body yes", "< body no"]),
        by_header("each value of a repeated header is matched by itself", "string_match: { exact: b }")
            .send(get("/").field("x-h", "a").field("x-h", "b"))
            .both()
            .shows(["< body yes"]),
        case("a route can match the method by pseudo header")
            .routes("
                - match: { prefix: /, headers: [{ name: \":method\", string_match: { exact: POST } }] }
                  @say(post)
                - match: { prefix: / }
                  @say(other)")
            .send(request("POST", "/"))
            .get("/")
            .both()
            .shows(["< body post", "< body other"]),
        case("all header matchers of a route must hold")
            .routes("
                - match: { prefix: /, headers: [{ name: a, present_match: true }, { name: b, present_match: true }] }
                  @say(both)
                - match: { prefix: / }
                  @say(other)")
            .send(get("/").field("a", "1").field("b", "1"))
            .send(get("/").field("a", "1"))
            .shows(["< body both", "< body other"]),
    ]
}

fn actions() -> Vec<Case> {
    let redirect = |title, fields: &str| {
        case(title).routes(&format!(
            "- match: {{ prefix: /old }}\n  redirect: {{ {fields} }}"
        ))
    };
    vec![
        case("weighted clusters with all weight on one go there")
            .routes("
                - match: { prefix: / }
                  route:
                    weighted_clusters:
                      clusters:
                      - { name: @other, weight: 0 }
                      - { name: @backend, weight: 100, request_headers_to_add: [{ header: { key: x-w, value: w } }] }")
            .and_backend("other", http1(reply(ok("other"))))
            .get("/")
            .both()
            .shows(["< body hello", "> x-w: w", "log cluster=@backend"]),
        redirect("path_redirect replaces the path and keeps the query", "path_redirect: /new")
            .get("/old?q=1")
            .both()
            .shows(["< 301", "< location: http://example.com/new?q=1", "log details=direct_response"]),
        redirect("host_redirect keeps path and scheme", "host_redirect: other.example")
            .get("/old/x")
            .shows(["< location: http://other.example/old/x"]),
        redirect("https_redirect drops the port 80", "https_redirect: true")
            .send(get("/old").host("example.com:80"))
            .shows(["< location: https://example.com/old"]),
        redirect("scheme_redirect takes any scheme", "scheme_redirect: foo")
            .get("/old")
            .shows(["< location: foo://example.com/old"]),
        redirect("port_redirect sets the port", "port_redirect: 8443")
            .send(get("/old").host("example.com:99"))
            .shows(["< location: http://example.com:8443/old"]),
        redirect("a redirect has the response code of its configuration", "response_code: PERMANENT_REDIRECT, path_redirect: /x")
            .get("/old")
            .shows(["< 308"]),
        redirect("a redirect can rewrite the prefix", "prefix_rewrite: /new")
            .get("/old/a?b")
            .shows(["< location: http://example.com/new/a?b"]),
        redirect("strip_query drops the query of a redirect", "strip_query: true, host_redirect: h")
            .get("/old?x")
            .shows(["< location: http://h/old"]),
        redirect(
            "a redirect can rewrite by regex",
            "regex_rewrite: { pattern: { regex: \"/old/(.*)\" }, substitution: '/new/\\1' }",
        )
        .get("/old/a")
        .shows(["< location: http://example.com/new/a"]),
        redirect("a path_redirect with a query of its own replaces the query", "path_redirect: \"/new?own\"")
            .get("/old?q")
            .shows(["< location: http://example.com/new?own"]),
        case("direct_response has status, body and the headers of the route")
            .routes("
                - match: { prefix: / }
                  direct_response: { status: 418, body: { inline_string: \"short and stout\" } }
                  response_headers_to_add: [{ header: { key: x-a, value: b } }]")
            .get("/")
            .both()
            .shows(["< 418", "< body short and stout", "< x-a: b", "< content-type: text/plain", "< content-length: 15"]),
        case("direct_response to HEAD has no body")
            .routes("
                - match: { prefix: / }
                  @say(body)")
            .send(request("HEAD", "/"))
            .both()
            .shows(["< 200", "< content-length: 4", "log sent=0"]),
        case("a cluster that does not exist is 503 with cluster_not_found")
            .route_config("validate_clusters: false")
            .routes("
                - match: { prefix: / }
                  route: { cluster: nowhere }")
            .get("/")
            .shows(["< 503", "log flags=NC", "log details=cluster_not_found"]),
        case("cluster_not_found_response_code changes the status")
            .route_config("validate_clusters: false")
            .routes("
                - match: { prefix: / }
                  route: { cluster: nowhere, cluster_not_found_response_code: INTERNAL_SERVER_ERROR }")
            .get("/")
            .shows(["< 500", "log flags=NC"]),
        case("the name of the route is logged")
            .routes("
                - match: { prefix: / }
                  name: the-name
                  route: { cluster: @backend }")
            .get("/")
            .shows(["log route=the-name"]),
    ]
}

fn rewrites() -> Vec<Case> {
    vec![
        case("prefix_rewrite changes the path and keeps it in x-envoy-original-path")
            .routes("
                - match: { prefix: /old }
                  route: { cluster: @backend, prefix_rewrite: /new }")
            .get("/old/x?y=1")
            .both()
            .shows(["> connection 1: GET /new/x?y=1 HTTP/1.1", "> x-envoy-original-path: /old/x?y=1", "log path=/old/x?y=1"]),
        case("prefix_rewrite on a path match replaces all but the query")
            .routes("
                - match: { path: /old }
                  route: { cluster: @backend, prefix_rewrite: /new }")
            .get("/old?y")
            .shows(["> connection 1: GET /new?y HTTP/1.1"]),
        case("regex_rewrite rewrites the path with groups")
            .route("regex_rewrite: { pattern: { regex: \"^/a/([^/]+)/(.*)$\" }, substitution: '/\\2/of/\\1' }", "")
            .get("/a/x/y?q=/a/b/c")
            .shows(["> connection 1: GET /y/of/x?q=/a/b/c HTTP/1.1"]),
        case("host_rewrite_literal changes the host only for the upstream")
            .route("host_rewrite_literal: inner.example", "")
            .get("/")
            .both()
            .shows(["> host: inner.example", "log authority=inner.example"])
            .lacks(["> x-forwarded-host*"]),
        case("append_x_forwarded_host keeps the host that was rewritten")
            .route("host_rewrite_literal: inner.example\nappend_x_forwarded_host: true", "")
            .get("/")
            .shows(["> host: inner.example", "> x-forwarded-host: example.com"]),
        case("host_rewrite_header takes the host from a header")
            .route("host_rewrite_header: x-host", "")
            .send(get("/").field("x-host", "from.header"))
            .get("/")
            .shows(["> host: from.header", "> host: example.com"]),
        case("host_rewrite_path_regex makes the host from the path")
            .route("host_rewrite_path_regex: { pattern: { regex: \"^/([^/]+)/.*$\" }, substitution: '\\1.example' }", "")
            .get("/a/b?c")
            .shows(["> host: a.example"]),
        case("auto_host_rewrite takes the host name of the endpoint")
            .routes("
                - match: { prefix: / }
                  route: { cluster: dns_@stat, auto_host_rewrite: true }")
            .clusters("
                - name: dns_@stat
                  type: STRICT_DNS
                  load_assignment:
                    cluster_name: dns_@stat
                    endpoints:
                    - lb_endpoints:
                      - endpoint:
                          hostname: named.example
                          address: { socket_address: { address: localhost, port_value: @port:backend } }
                  dns_lookup_family: V4_ONLY")
            .get("/")
            .shows(["> host: named.example", "< 200"]),
    ]
}

fn mutations() -> Vec<Case> {
    let appending = |title, action: &str| {
        case(title).route(
            "",
            &format!("request_headers_to_add: [{{ header: {{ key: x-a, value: new }}, append_action: {action} }}]"),
        )
    };
    let levels = |field: &str| {
        format!(
            "- name: vhost
  domains: [\"*\"]
  {field}: [{{ header: {{ key: x-level, value: vhost }} }}]
  routes:
  - match: {{ prefix: / }}
    route: {{ cluster: @backend }}
    {field}: [{{ header: {{ key: x-level, value: route }} }}]"
        )
    };
    let config =
        |field: &str| format!("{field}: [{{ header: {{ key: x-level, value: config }} }}]");
    vec![
        appending("a header is appended by default", "APPEND_IF_EXISTS_OR_ADD")
            .send(get("/").field("x-a", "old"))
            .both()
            .shows(["> x-a: old", "> x-a: new"]),
        appending("ADD_IF_ABSENT leaves a header alone", "ADD_IF_ABSENT")
            .send(get("/").field("x-a", "old"))
            .get("/")
            .shows(["> x-a: old", "> x-a: new"]),
        appending("OVERWRITE_IF_EXISTS_OR_ADD replaces all values", "OVERWRITE_IF_EXISTS_OR_ADD")
            .send(get("/").field("x-a", "old").field("x-a", "older"))
            .get("/")
            .shows(["> x-a: new", "> x-a: new"])
            .lacks(["> x-a: old*"]),
        appending("OVERWRITE_IF_EXISTS adds nothing", "OVERWRITE_IF_EXISTS")
            .send(get("/").field("x-a", "old"))
            .get("/")
            .shows(["> x-a: new"]),
        case("request headers are added by route, virtual host and configuration in this order")
            .route_config(&config("request_headers_to_add"))
            .vhosts(&levels("request_headers_to_add"))
            .get("/")
            .in_order()
            .shows(["> x-level: route", "> x-level: vhost", "> x-level: config"]),
        case("most_specific_header_mutations_wins turns the order of levels")
            .route_config(&config("request_headers_to_add"))
            .route_config("most_specific_header_mutations_wins: true")
            .vhosts(&levels("request_headers_to_add"))
            .get("/")
            .in_order()
            .shows(["> x-level: config", "> x-level: vhost", "> x-level: route"]),
        case("response headers are added on each level")
            .route_config(&config("response_headers_to_add"))
            .vhosts(&levels("response_headers_to_add"))
            .get("/")
            .both()
            .shows(["< x-level: route", "< x-level: vhost", "< x-level: config"]),
        case("headers are removed on the way in and on the way out")
            .route("", "request_headers_to_remove: [x-in, user-agent]\nresponse_headers_to_remove: [x-out, server]")
            .send(get("/").field("x-in", "1").field("user-agent", "me").field("x-kept", "1"))
            .reply(reply(with_fields(ok(""), "x-out: 1\nx-kept: 2")))
            .both()
            .shows(["> x-kept: 1", "< x-kept: 2", "< server: envoy"])
            .lacks(["> x-in*", "< x-out*", "> user-agent*"]),
        case("a header value is formatted from the request")
            .route(
                "",
                "request_headers_to_add:
- { header: { key: x-f, value: \"%PROTOCOL% %REQ(x-in)% %REQ(:path):2% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% 100%%\" } }",
            )
            .send(get("/path").field("x-in", "v"))
            .shows(["> x-f: HTTP/1.1 v /p 127.0.0.1 100%"]),
        case("a header whose formatted value is empty is not added")
            .route(
                "",
                "request_headers_to_add:
- { header: { key: x-empty, value: \"\" } }
- { header: { key: x-kept, value: \"\" }, keep_empty_value: true }",
            )
            .get("/")
            .shows(["> x-kept: "])
            .lacks(["> x-empty*"]),
        case("a response header value is formatted from the response")
            .route(
                "",
                "response_headers_to_add:
- { header: { key: x-f, value: \"%RESPONSE_CODE% %RESP(x-up)% %UPSTREAM_CLUSTER% %ROUTE_NAME%\" } }",
            )
            .reply(reply(with_fields(ok(""), "x-up: u")))
            .get("/")
            .shows(["< x-f: 200 u @backend"]),
        case("response headers of the route are on local replies of the router too")
            .route("", "response_headers_to_add: [{ header: { key: x-a, value: b } }]")
            .backend(crate::case::Kind::Refuse)
            .get("/")
            .shows(["< 503", "< x-a: b"]),
        case("fields keep their order on both ways")
            .send(get("/").field("x-c", "1").field("x-a", "2").field("x-c", "3").field("x-b", "4"))
            .reply(raw("HTTP/1.1 200 OK\r\nx-z: 1\r\nx-y: 2\r\nx-z: 3\r\ncontent-length: 0\r\n\r\n"))
            .in_order()
            .shows(["> x-c: 1", "> x-c: 3", "< x-z: 1", "< x-z: 3"]),
        case("header names are lower-cased on both ways")
            .raw("GET / HTTP/1.1\r\nHost: a\r\nX-UPPER: 1\r\n\r\n")
            .reply(raw("HTTP/1.1 200 OK\r\nX-Reply: 1\r\nContent-Length: 0\r\n\r\n"))
            .shows(["> x-upper: 1", "< x-reply: 1", "> host: a"]),
    ]
}

fn hosts() -> Vec<Case> {
    let domains = "
        - { name: a, domains: [\"*\"], routes: [{ match: { prefix: / }, @say(any) }] }
        - { name: b, domains: [\"*.example.com\"], routes: [{ match: { prefix: / }, @say(suffix) }] }
        - { name: c, domains: [\"*.a.example.com\"], routes: [{ match: { prefix: / }, @say(long) }] }
        - { name: d, domains: [\"www.*\"], routes: [{ match: { prefix: / }, @say(prefix) }] }
        - { name: e, domains: [\"x.example.com\"], routes: [{ match: { prefix: / }, @say(exact) }] }";
    let one = "- { name: a, domains: [a.example], routes: [{ match: { prefix: / }, @say(a) }] }";
    vec![
        case("an exact domain wins over a suffix, a suffix over a prefix, anything over a star")
            .vhosts(domains)
            .send(get("/").host("x.example.com"))
            .send(get("/").host("www.example.com"))
            .send(get("/").host("www.elsewhere"))
            .send(get("/").host("elsewhere"))
            .both()
            .shows([
                "< body exact",
                "< body suffix",
                "< body prefix",
                "< body any",
            ]),
        case("the longest suffix domain wins")
            .vhosts(domains)
            .send(get("/").host("x.a.example.com"))
            .shows(["< body long"]),
        case("a domain ignores case")
            .vhosts(one)
            .send(get("/").host("A.Example"))
            .shows(["< body a"]),
        case("no virtual host is 404 with route_not_found")
            .vhosts(one)
            .send(get("/").host("b.example"))
            .shows(["< 404", "log details=route_not_found", "log flags=NR"]),
        case("a port in the host must be in the domain")
            .vhosts(one)
            .send(get("/").host("a.example:80"))
            .shows(["< 404"]),
        case("ignore_port_in_host_matching ignores the port")
            .vhosts(one)
            .route_config("ignore_port_in_host_matching: true")
            .send(get("/").host("a.example:80"))
            .shows(["< body a", "log authority=a.example:80"]),
        case("require_tls redirects to https")
            .vhosts(
                "
                - name: a
                  domains: [\"*\"]
                  require_tls: ALL
                  routes: [{ match: { prefix: / }, @say(a) }]",
            )
            .get("/x?y")
            .shows(["< 301", "< location: https://example.com/x?y"]),
        case("x-forwarded-proto of a trusted client satisfies require_tls")
            .vhosts(
                "
                - name: a
                  domains: [\"*\"]
                  require_tls: ALL
                  routes: [{ match: { prefix: / }, @say(a) }]",
            )
            .send(get("/x").field("x-forwarded-proto", "https"))
            .shows(["< body a"]),
        case("require_tls asks x-forwarded-proto, not the scheme")
            .vhosts(
                "
                - name: a
                  domains: [\"*\"]
                  require_tls: ALL
                  routes: [{ match: { prefix: / }, @say(a) }]",
            )
            .raw("GET https://example.com/x HTTP/1.1\r\nhost: example.com\r\n\r\n")
            .shows(["< 301"]),
        case("EXTERNAL_ONLY lets internal requests stay without TLS")
            .internal()
            .vhosts(
                "
                - name: a
                  domains: [\"*\"]
                  require_tls: EXTERNAL_ONLY
                  routes: [{ match: { prefix: / }, @say(a) }]",
            )
            .get("/x")
            .send(get("/x").field("x-forwarded-for", "8.8.8.8"))
            .shows(["< body a", "< 301"]),
        case("without x-forwarded-proto there is no route")
            .filters(
                "
                - name: m
                  typed_config:
                    \"@type\": \"@http/header_mutation.v3.HeaderMutation\"
                    mutations: { request_mutations: [{ remove: x-forwarded-proto }] }
                - name: s
                  typed_config:
                    \"@type\": \"@http/set_filter_state.v3.Config\"
                    clear_route_cache: true
                    on_request_headers: [{ object_key: k, factory_key: envoy.string, format_string: { text_format_source: { inline_string: v } } }]",
            )
            .get("/")
            .both()
            .shows(["< 404", "log flags=NR"]),
        case("tls_context without TLS is met by no certificate alone")
            .routes(
                "
                - match: { prefix: /, tls_context: { presented: true } }
                  @say(presented)
                - match: { prefix: /, tls_context: { validated: true } }
                  @say(validated)
                - match: { prefix: /, tls_context: { presented: false, validated: false } }
                  @say(none)",
            )
            .get("/")
            .shows(["< body none"]),
        case("an empty tls_context asks for nothing")
            .routes(
                "
                - match: { prefix: /, tls_context: {} }
                  @say(any)",
            )
            .get("/")
            .shows(["< body any"]),
    ]
}
