//! Which route a request takes.

use crate::case::{Case, With, case, get, request};

pub(super) fn matching() -> Vec<Case> {
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

pub(super) fn headers() -> Vec<Case> {
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

pub(super) fn hosts() -> Vec<Case> {
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

/// `scoped_routes` with two scopes, whose route configurations say their names. `fragments` make the key of a request.
fn scoped(title: &'static str, fragments: &str, keys: [&str; 2]) -> Case {
    let scope = |name: &str, key: &str| {
        format!(
            "    - name: {name}\n      key: {{ fragments: [{key}] }}\n      route_configuration:\n        name: {name}\n        \
             virtual_hosts: [{{ name: v, domains: [\"*\"], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: {name} }} }} }}] }}]\n"
        )
    };
    case(title).vhosts("").hcm(&format!(
        "scoped_routes:\n  name: scopes\n  scope_key_builder: {{ fragments: [{fragments}] }}\n  \
         scoped_route_configurations_list:\n    scoped_route_configurations:\n{}{}",
        scope("first", keys[0]),
        scope("second", keys[1])
    ))
}

pub(super) fn scopes() -> Vec<Case> {
    let with = |value: &str| get("/").field("x-scope", value);
    let of_header = "{ header_value_extractor: { name: x-scope, index: 0 } }";
    vec![
        scoped(
            "a header chooses among scopes, and without a scope there is no route",
            of_header,
            ["{ string_key: a }", "{ string_key: b }"],
        )
        .send(with("b"))
        .send(with("a"))
        .send(with("c"))
        .get("/")
        .both()
        .shows(["< body first", "< body second", "< 404", "log details=route_not_found"]),
        scoped(
            "an element of a header chooses among scopes by its key",
            "{ header_value_extractor: { name: x-scope, element_separator: \";\", element: { separator: \"=\", key: k } } }",
            ["{ string_key: a }", "{ string_key: b=c }"],
        )
        .send(with("x=a;k=b=c;k=a"))
        .send(with("k=a"))
        .send(with("k"))
        .shows(["< body second", "< body first", "< 404"]),
        scoped(
            "all fragments of a key must be there",
            "{ header_value_extractor: { name: x-scope, element_separator: \",\", index: 1 } }, { header_value_extractor: { name: \":authority\", index: 0 } }",
            [
                "{ string_key: a }, { string_key: example.com }",
                "{ string_key: b }, { string_key: example.com }",
            ],
        )
        .send(with("a,b"))
        .send(with("b,a"))
        .send(with("b"))
        .shows(["< body second", "< body first", "< 404"]),
    ]
}
