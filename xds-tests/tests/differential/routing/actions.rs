//! What a route does to a request and its response.

use crate::case::{Case, With, case, get, http1, ok, raw, reply, request, with_fields};

pub(super) fn actions() -> Vec<Case> {
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

pub(super) fn rewrites() -> Vec<Case> {
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

pub(super) fn mutations() -> Vec<Case> {
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
