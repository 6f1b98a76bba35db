//! The rarer ways to choose a route: templates, cookies, metadata, filter state, generic matchers, and clusters of chance.

use crate::case::{Case, With, case, get, http1, indent, ok, reply, request};

pub fn cases() -> Vec<Case> {
    [
        paths(),
        queries(),
        headers(),
        state(),
        trees(),
        clusters(),
        answers(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A route by this template, and one for the rest.
fn template(title: &'static str, template: &str) -> Case {
    case(title).routes(&format!(
        "
        - match:
            path_match_policy:
              name: template
              typed_config:
                \"@type\": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig
                path_template: \"{template}\"
          @say(template)
        - match: {{ prefix: / }}
          @say(other)"
    ))
}

fn paths() -> Vec<Case> {
    vec![
        template(
            "a variable of a template stands for one segment",
            "/a/{x}/b",
        )
        .get("/a/1/b?q")
        .get("/a/1/2/b")
        .get("/a//b")
        .get("/a/1/b/")
        .both()
        .shows(["< body template", "< body other"]),
        template(
            "a star of a template stands for one segment, two stars for any number",
            "/*/of/**",
        )
        .get("/one/of/two/three")
        .get("/one/of/")
        .get("/one/more/of/two")
        .shows(["< body template", "< body other"]),
        template(
            "a variable of a template may have a pattern of its own",
            "/{who=users/*}/{rest=**}.html",
        )
        .get("/users/eve/a/b.html")
        .get("/users/eve/a/b.htm")
        .get("/groups/eve/a.html")
        .shows(["< body template", "< body other"]),
        template("a template takes no octet that no path has", "/{x}")
            .get("/a%20b")
            .get("/a~b!$&'()*+,;:@=")
            .get("/a\"b")
            .shows(["< body template", "< body other"]),
        template(
            "a variable of a template may have text around it",
            "/pre{x}post/{y}.json",
        )
        .get("/pre-1-post/2.json")
        .get("/prepost/2.json")
        .shows(["< body template", "< body other"]),
        template(
            "a star within a segment repeats the letter before it",
            "/ab*c",
        )
        .get("/abbbc")
        .get("/abxc")
        .get("/ac")
        .shows(["< body template", "< body other"]),
        template("two stars within a segment match nothing", "/a**b")
            .get("/a/b")
            .get("/ab")
            .get("/a**b")
            .lacks(["< body template"])
            .shows(["< body other"]),
        case("ignore_path_parameters_in_path_matching leaves out what follows a semicolon")
            .route_config("ignore_path_parameters_in_path_matching: true")
            .routes(
                "
                - match: { path: /a }
                  @say(path)
                - match: { path_separated_prefix: /b }
                  @say(separated)
                - match: { prefix: / }
                  @say(other)",
            )
            .get("/a;x=1?q")
            .get("/b;x=1/c")
            .get("/b/c;x=1")
            .shows(["< body path"]),
        case("path parameters are part of the path")
            .routes(
                "
                - match: { path: /a }
                  @say(path)
                - match: { prefix: / }
                  @say(other)",
            )
            .get("/a;x=1")
            .shows(["< body other"]),
        case("a prefix does not reach into the query")
            .routes(
                "
                - match: { prefix: \"/a?b\" }
                  @say(query)
                - match: { prefix: / }
                  @say(other)",
            )
            .get("/a?b")
            .shows(["< body other"]),
        case("path_separated_prefix may ignore case")
            .routes(
                "
                - match: { path_separated_prefix: /Api, case_sensitive: false }
                  @say(api)
                - match: { prefix: / }
                  @say(other)",
            )
            .get("/aPI/x")
            .get("/apis")
            .shows(["< body api", "< body other"]),
        case("case_sensitive means nothing to a regex")
            .routes(
                "
                - match: { safe_regex: { regex: /Abc }, case_sensitive: false }
                  @say(regex)
                - match: { prefix: / }
                  @say(other)",
            )
            .get("/abc")
            .get("/Abc")
            .shows(["< body other", "< body regex"]),
    ]
}

fn queries() -> Vec<Case> {
    let by_query = |title, matcher: &str| {
        case(title).routes(&format!(
            "- match: {{ prefix: /, query_parameters: [{{ name: q, {matcher} }}] }}\n  @say(yes)\n- match: {{ prefix: / }}\n  @say(no)"
        ))
    };
    let by_cookie = |title, matchers: &str| {
        case(title).routes(&format!(
            "- match: {{ prefix: /, cookies: [{matchers}] }}\n  @say(yes)\n- match: {{ prefix: / }}\n  @say(no)"
        ))
    };
    let with = |value: &str| get("/").field("cookie", value);
    vec![
        by_query("a query parameter matches by regex", "string_match: { safe_regex: { regex: \"[0-9]+\" } }")
            .get("/?q=12")
            .get("/?q=12x")
            .get("/?q=")
            .shows(["< body yes", "< body no"]),
        by_query("a query parameter may ignore case", "string_match: { prefix: Ab, ignore_case: true }")
            .get("/?q=aBc")
            .get("/?Q=abc")
            .shows(["< body yes", "< body no"]),
        by_query("what a query parameter escapes", "string_match: { exact: \"a b\" }")
            .get("/?q=a%20b")
            .get("/?q=a+b")
            .shows(["< 200"]),
        by_query("an empty query parameter has an empty value", "string_match: { exact: \"\" }")
            .get("/?q")
            .get("/?q=")
            .get("/?p")
            .shows(["< body yes", "< body no"]),
        by_query("present_match false wants the query parameter absent", "present_match: false")
            .get("/")
            .get("/?q=1")
            .shows(["< body yes", "< body no"]),
        by_cookie("a cookie matches by its value", "{ name: who, string_match: { exact: eve } }")
            .send(with("a=b; who=eve; c=d"))
            .send(with("who=eva"))
            .get("/")
            .both()
            .shows(["< body yes", "< body no"]),
        by_cookie("a cookie that is not there meets no matcher but an inverted one", "{ name: who, string_match: { exact: eve }, invert_match: true }")
            .get("/")
            .send(with("who=eve"))
            .send(with("who=adam"))
            .shows(["< body yes", "< body no"]),
        by_cookie("of a cookie given twice the first counts", "{ name: who, string_match: { exact: eve } }")
            .send(with("who=eve; who=adam"))
            .send(with("who=adam; who=eve"))
            .shows(["< body yes", "< body no"]),
        by_cookie("a cookie loses its quotes", "{ name: who, string_match: { exact: eve } }")
            .send(with("who=\"eve\""))
            .shows(["< 200"]),
        by_cookie("all cookies must match", "{ name: a, string_match: { exact: \"1\" } }, { name: b, string_match: { exact: \"2\" } }")
            .send(with("a=1; b=2"))
            .send(with("a=1"))
            .send(with("a=1").field("cookie", "b=2"))
            .shows(["< body yes", "< body no"]),
    ]
}

fn headers() -> Vec<Case> {
    let by_header = |title, name: &str, matcher: &str| {
        case(title).routes(&format!(
            "- match: {{ prefix: /, headers: [{{ name: \"{name}\", {matcher} }}] }}\n  @say(yes)\n- match: {{ prefix: / }}\n  @say(no)"
        ))
    };
    let with = |value: &str| get("/").field("x-h", value);
    vec![
        by_header(
            "a route can match the authority",
            ":authority",
            "string_match: { suffix: .com }",
        )
        .get("/")
        .send(get("/").host("example.org"))
        .both()
        .shows(["< body yes", "< body no"]),
        by_header(
            "a route can match the path with its query",
            ":path",
            "string_match: { contains: \"?x\" }",
        )
        .get("/?x")
        .get("/x")
        .shows(["< body yes", "< body no"]),
        by_header(
            "a route can match the scheme",
            ":scheme",
            "string_match: { exact: http }",
        )
        .get("/")
        .both()
        .shows(["< body yes"]),
        by_header(
            "host is another name of the authority",
            "host",
            "string_match: { exact: example.com }",
        )
        .get("/")
        .both()
        .shows(["< body yes"]),
        by_header(
            "an inverted range holds outside it",
            "x-h",
            "range_match: { start: -5, end: 5 }, invert_match: true",
        )
        .send(with("-6"))
        .send(with("-5"))
        .send(with("+7"))
        .send(with("x"))
        .get("/")
        .shows(["< body yes", "< body no"]),
        by_header(
            "an inverted presence is an absence",
            "x-h",
            "present_match: true, invert_match: true",
        )
        .get("/")
        .send(with("1"))
        .shows(["< body yes", "< body no"]),
        by_header(
            "an absent header that counts as empty can meet an inverted match",
            "x-h",
            "string_match: { exact: a }, invert_match: true, treat_missing_header_as_empty: true",
        )
        .get("/")
        .send(with("a"))
        .shows(["< body yes", "< body no"]),
        by_header(
            "a matcher without condition asks for presence",
            "x-h",
            "name: x-h",
        )
        .get("/")
        .send(with("a"))
        .shows(["< 200"]),
        by_header(
            "exact_match is string_match by another name",
            "x-h",
            "exact_match: a",
        )
        .send(with("a"))
        .send(with("b"))
        .shows(["< body yes", "< body no"]),
        by_header(
            "an exact value may ignore case",
            "x-h",
            "string_match: { exact: AbC, ignore_case: true }",
        )
        .send(with("aBc"))
        .send(with("ab"))
        .shows(["< body yes", "< body no"]),
    ]
}

/// A filter that has no other use than to clear the route.
const CLEAR: &str = "
- name: clear
  typed_config:
    \"@type\": \"@http/set_filter_state.v3.Config\"
    clear_route_cache: true
    on_request_headers: [{ object_key: state, factory_key: envoy.string, format_string: { text_format_source: { inline_string: \"%REQ(x-state)%\" } } }]";

fn state() -> Vec<Case> {
    let from_headers = |rules: &str| {
        format!(
            "- name: metadata\n  typed_config:\n    \"@type\": \"@http/header_to_metadata.v3.Config\"\n    request_rules:\n{}{}",
            indent(rules, 4),
            crate::case::dedent(CLEAR)
        )
    };
    let rule = |kind: &str| {
        from_headers(&format!(
            "- {{ header: x-m, on_header_present: {{ metadata_namespace: ns, key: k, type: {kind} }} }}"
        ))
    };
    let by_metadata = |title, filters: &str, matcher: &str| {
        case(title).filters(filters).routes(&format!(
            "- match: {{ prefix: /, dynamic_metadata: [{{ filter: ns, path: [{{ key: k }}], {matcher} }}] }}\n  @say(yes)\n- match: {{ prefix: / }}\n  @say(no)"
        ))
    };
    let by_state = |title, factory: &str, matcher: &str| {
        case(title).filters(&CLEAR.replace("envoy.string", factory)).routes(&format!(
            "- match: {{ prefix: /, filter_state: [{{ key: state, {matcher} }}] }}\n  @say(yes)\n- match: {{ prefix: / }}\n  @say(no)"
        ))
    };
    let with = |value: &str| get("/").field("x-m", value);
    vec![
        by_metadata("dynamic metadata choose a route once it is cleared", &rule("STRING"), "value: { string_match: { exact: a } }")
            .send(with("a"))
            .send(with("b"))
            .get("/")
            .both()
            .shows(["< body yes", "< body no"]),
        case("header_to_metadata counts what its rules found and what they could not use")
            .filters(&crate::case::dedent("
                - name: metadata
                  typed_config:
                    \"@type\": \"@http/header_to_metadata.v3.Config\"
                    stat_prefix: \"@stat\"
                    request_rules:
                    - { header: x-m, on_header_present: { key: a } }
                    - { header: x-m, on_header_present: { key: n, type: NUMBER } }
                    - { header: x-m, on_header_present: { key: b, encode: BASE64 } }
                    - { header: x-m, on_header_present: { key: r, regex_value_rewrite: { pattern: { regex: \".*\" } } } }
                    - { header: x-none, on_header_present: { key: o } }
                    - { header: x-none, on_header_missing: { key: o, value: nobody } }
                    - { header: x-long, on_header_present: { key: l } }
                    response_rules:
                    - { header: \":status\", on_header_present: { key: s } }
                    - { header: x-none, on_header_missing: { key: z, value: nobody } }
            "))
            .send(with("$"))
            .send(with("$").field("x-long", &"x".repeat(8192)))
            .stats([
                "http_filter_name.@stat.request_rules_processed",
                "http_filter_name.@stat.request_metadata_added",
                "http_filter_name.@stat.request_header_not_found",
                "http_filter_name.@stat.response_rules_processed",
                "http_filter_name.@stat.response_metadata_added",
                "http_filter_name.@stat.response_header_not_found",
                "http_filter_name.@stat.base64_decode_failed",
                "http_filter_name.@stat.header_value_too_long",
                "http_filter_name.@stat.regex_substitution_failed",
            ])
            .shows([
                "stat http_filter_name.@stat.request_rules_processed: 14",
                "stat http_filter_name.@stat.request_metadata_added: 4",
                "stat http_filter_name.@stat.request_header_not_found: 2",
                "stat http_filter_name.@stat.response_rules_processed: 4",
                "stat http_filter_name.@stat.response_metadata_added: 4",
                "stat http_filter_name.@stat.response_header_not_found: 2",
                "stat http_filter_name.@stat.base64_decode_failed: 2",
                "stat http_filter_name.@stat.header_value_too_long: 1",
                "stat http_filter_name.@stat.regex_substitution_failed: 2",
            ]),
        case("header_to_metadata of a route counts for itself")
            .filters("- name: metadata\n  typed_config: { \"@type\": \"@http/header_to_metadata.v3.Config\", stat_prefix: \"@stat\", request_rules: [{ header: x-m, on_header_present: { key: a } }] }")
            .routes("
                - match: { prefix: / }
                  route: { cluster: @backend }
                  typed_per_filter_config: { metadata: { \"@type\": \"@http/header_to_metadata.v3.Config\", stat_prefix: \"@stat_r\", request_rules: [{ header: x-m, on_header_present: { key: a } }] } }")
            .send(with("a"))
            .stats(["http_filter_name.@stat.request_rules_processed", "http_filter_name.@stat_r.request_rules_processed"])
            .shows(["stat http_filter_name.@stat.request_rules_processed: 0", "stat http_filter_name.@stat_r.request_rules_processed: 1"]),
        by_metadata("a number of the metadata is no text", &rule("NUMBER"), "value: { double_match: { range: { start: 1, end: 3 } } }")
            .send(with("2.5"))
            .send(with("3"))
            .send(with("x"))
            .shows(["< body yes", "< body no"]),
        by_metadata("metadata may be asked for presence alone", &rule("STRING"), "value: { present_match: true }")
            .send(with("a"))
            .get("/")
            .shows(["< body yes", "< body no"]),
        by_metadata("metadata that must not match", &rule("STRING"), "value: { string_match: { exact: a } }, invert: true")
            .send(with("a"))
            .send(with("b"))
            .get("/")
            .shows(["< body yes", "< body no"]),
        by_metadata(
            "set_metadata says what a route asks for",
            &format!(
                "- name: metadata\n  typed_config:\n    \"@type\": \"@http/set_metadata.v3.Config\"\n    metadata: [{{ metadata_namespace: ns, value: {{ k: [1, two] }} }}]\n{}",
                crate::case::dedent(CLEAR)
            ),
            "value: { list_match: { one_of: { string_match: { exact: two } } } }",
        )
        .get("/")
        .shows(["< body yes"]),
        by_metadata(
            "a header that is missing may set metadata too",
            &from_headers("- { header: x-m, on_header_missing: { metadata_namespace: ns, key: k, value: none } }"),
            "value: { string_match: { exact: none } }",
        )
        .get("/")
        .send(with("a"))
        .shows(["< body yes", "< body no"]),
        by_metadata(
            "metadata are taken from a header by regex, and the header may go",
            &from_headers(
                "- { header: x-m, on_header_present: { metadata_namespace: ns, key: k, regex_value_rewrite: { pattern: { regex: \"^v=(.*)$\" }, substitution: \"\\\\1\" } }, remove: true }",
            ),
            "value: { string_match: { exact: a } }",
        )
        .send(with("v=a"))
        .send(with("a=v"))
        .shows(["< body yes", "< body no"]),
        by_metadata(
            "metadata are taken from a cookie",
            &from_headers("- { cookie: sid, on_header_present: { metadata_namespace: ns, key: k } }"),
            "value: { string_match: { exact: a } }",
        )
        .send(get("/").field("cookie", "x=y; sid=a"))
        .send(get("/").field("cookie", "sid=b"))
        .shows(["< body yes", "< body no"]),
        case("metadata that filters set change no route that is not cleared")
            .filters("
                - name: metadata
                  typed_config: { \"@type\": \"@http/set_metadata.v3.Config\", metadata: [{ metadata_namespace: ns, value: { k: a } }] }")
            .routes("
                - match: { prefix: /, dynamic_metadata: [{ filter: ns, path: [{ key: k }], value: { string_match: { exact: a } } }] }
                  @say(yes)
                - match: { prefix: / }
                  @say(no)")
            .get("/")
            .shows(["< body no"]),
        by_state("an object of the filter state chooses a route", "envoy.string", "string_match: { prefix: a }")
            .send(get("/").field("x-state", "ab"))
            .send(get("/").field("x-state", "b"))
            .both()
            .shows(["< body yes", "< body no"]),
        by_state("a text of the filter state is no address", "envoy.string", "address_match: { ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }] }")
            .send(get("/").field("x-state", "10.1.2.3"))
            .send(get("/").field("x-state", "11.1.2.3"))
            .shows(["< body no"])
            .lacks(["< body yes"]),
        by_state("an address of the filter state chooses a route", "envoy.network.ip", "address_match: { ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }] }")
            .send(get("/").field("x-state", "10.1.2.3"))
            .send(get("/").field("x-state", "11.1.2.3"))
            .send(get("/").field("x-state", "10.1.2.3:80"))
            .get("/")
            .shows(["< body yes", "< body no"]),
        by_state("an address that may not be in a range must be one", "envoy.network.ip", "address_match: { ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }], invert_match: true }")
            .send(get("/").field("x-state", "10.1.2.3"))
            .send(get("/").field("x-state", "2001:db8::1"))
            .send(get("/").field("x-state", "nobody"))
            .log_format("%FILTER_STATE(state:PLAIN)% %FILTER_STATE(state)%", "")
            .logs(3)
            .shows(["< body yes", "< body no", "log 10.1.2.3:0 -", "log [2001:db8::1]:0 -", "log - -"]),
    ]
}

const INPUT: &str = "name: in, typed_config: { \"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-h }";

/// The action of a matcher: a route with these fields.
fn route(fields: &str) -> String {
    format!(
        "{{ action: {{ name: route, typed_config: {{ \"@type\": type.googleapis.com/envoy.config.route.v3.Route, {fields} }} }} }}"
    )
}

fn tree(title: &'static str, matcher: &str) -> Case {
    case(title).vhosts(&format!(
        "- name: vhost\n  domains: [\"*\"]\n  matcher:\n{}",
        indent(matcher, 4)
    ))
}

fn trees() -> Vec<Case> {
    let any = |word: &str| route(&format!("match: {{ prefix: / }}, @say({word})"));
    let single = |value: &str| {
        format!("{{ single_predicate: {{ input: {{ {INPUT} }}, value_match: {{ {value} }} }} }}")
    };
    let with = |value: &str| get("/").field("x-h", value);
    vec![
        tree(
            "the first predicate of a matcher list that holds gives the route",
            &format!(
                "matcher_list:\n  matchers:\n  - {{ predicate: {}, on_match: {} }}\n  - {{ predicate: {}, on_match: {} }}",
                single("exact: a"),
                any("first"),
                single("prefix: a"),
                any("second")
            ),
        )
        .send(with("a"))
        .send(with("ab"))
        .send(with("b"))
        .get("/")
        .both()
        .shows(["< body first", "< body second", "< 404", "log details=route_not_found"]),
        tree(
            "predicates of a matcher are joined and turned round",
            &format!(
                "matcher_list:\n  matchers:\n  - predicate: {{ and_matcher: {{ predicate: [{}, {{ not_matcher: {} }}] }} }}\n    on_match: {}\n  \
                 - predicate: {{ or_matcher: {{ predicate: [{}, {}] }} }}\n    on_match: {}",
                single("prefix: a"),
                single("suffix: z"),
                any("joined"),
                single("exact: az"),
                single("contains: q"),
                any("either")
            ),
        )
        .send(with("ab"))
        .send(with("az"))
        .send(with("xqx"))
        .send(with("b"))
        .shows(["< body joined", "< body either", "< 404"]),
        tree(
            "a matcher tree by exact value leads to routes",
            &format!(
                "matcher_tree:\n  input: {{ {INPUT} }}\n  exact_match_map:\n    map:\n      a: {}\n      b: {}\non_no_match: {}",
                any("a"),
                any("b"),
                any("none")
            ),
        )
        .send(with("a"))
        .send(with("b"))
        .send(with("c"))
        .get("/")
        .shows(["< body a", "< body b", "< body none"]),
        tree(
            "a matcher tree by prefix takes the longest",
            &format!(
                "matcher_tree:\n  input: {{ {INPUT} }}\n  prefix_match_map:\n    map:\n      a: {}\n      abc: {}",
                any("short"),
                any("long")
            ),
        )
        .send(with("abcd"))
        .send(with("abd"))
        .send(with("b"))
        .shows(["< body long", "< body short", "< 404"]),
        tree(
            "a matcher may lead to another matcher",
            &format!(
                "matcher_tree:\n  input: {{ {INPUT} }}\n  exact_match_map:\n    map:\n      a:\n        matcher:\n          matcher_list:\n            matchers:\n            \
                 - predicate: {{ single_predicate: {{ input: {{ name: in, typed_config: {{ \"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-g }} }}, value_match: {{ exact: g }} }} }}\n              \
                 on_match: {}\non_no_match: {}",
                any("inner"),
                any("outer")
            ),
        )
        .send(with("a").field("x-g", "g"))
        .send(with("a").field("x-g", "h"))
        .send(with("b"))
        .shows(["< body inner", "< body outer"]),
        tree(
            "a route at the end of a matcher must match by itself",
            &format!(
                "matcher_list:\n  matchers:\n  - {{ predicate: {}, on_match: {} }}\n  - {{ predicate: {}, on_match: {} }}",
                single("exact: a"),
                route("match: { path: /a }, @say(first)"),
                single("prefix: a"),
                any("second")
            ),
        )
        .send(with("a"))
        .send(get("/a").field("x-h", "a"))
        .shows(["< 404", "< body first"]),
        tree(
            "a list of routes at the end of a matcher is tried in turn",
            &format!(
                "matcher_list:\n  matchers:\n  - predicate: {}\n    on_match: {{ action: {{ name: routes, typed_config: {{ \
                 \"@type\": type.googleapis.com/envoy.config.route.v3.RouteList, routes: [\
                 {{ match: {{ path: /a }}, @say(path) }}, {{ match: {{ prefix: /b }}, @say(prefix) }}] }} }} }}",
                single("exact: a")
            ),
        )
        .send(get("/b/c").field("x-h", "a"))
        .send(get("/a").field("x-h", "a"))
        .send(get("/c").field("x-h", "a"))
        .shows(["< body path", "< body prefix", "< 404"]),
        tree(
            "a route of a matcher forwards and changes headers like any other",
            &format!(
                "on_no_match: {}\nmatcher_list: {{ matchers: [{{ predicate: {}, on_match: {} }}] }}",
                route("name: of-tree, match: { prefix: /p }, route: { cluster: @backend, prefix_rewrite: /q }, request_headers_to_add: [{ header: { key: x-a, value: b } }]"),
                single("exact: other"),
                any("other")
            ),
        )
        .get("/p/x")
        .shows(["> connection 1: GET /q/x HTTP/1.1", "> x-a: b", "log route=of-tree"]),
    ]
}

/// The connection manager gives requests this header unless they have one, before the route is chosen.
fn early(name: &str, value: &str) -> String {
    format!(
        "early_header_mutation_extensions:\n- name: early\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation\n    \
         mutations: [{{ append: {{ header: {{ key: \"{name}\", value: \"{value}\" }}, append_action: ADD_IF_ABSENT }} }}]"
    )
}

fn clusters() -> Vec<Case> {
    let weighted = |title, fields: &str, entries: &str| {
        case(title)
            .routes(&format!(
                "- match: {{ prefix: / }}\n  route:\n    weighted_clusters:\n{}      clusters:\n{}",
                indent(fields, 6),
                indent(entries, 6)
            ))
            .and_backend("other", http1(reply(ok("other"))))
    };
    let halves = "- { name: @backend, weight: 50 }\n- { name: @other, weight: 50 }";
    vec![
        weighted("a header may choose among weighted clusters", "header_name: x-random", halves)
            .send(get("/").field("x-random", "0"))
            .send(get("/").field("x-random", "49"))
            .send(get("/").field("x-random", "50"))
            .send(get("/").field("x-random", "199"))
            .both()
            .shows(["< body hello", "< body other"]),
        weighted("the first weighted cluster changes headers of its own", "", "
            - name: @backend
              weight: 1
              request_headers_to_add: [{ header: { key: x-w, value: w } }]
              request_headers_to_remove: [x-gone]
              response_headers_to_add: [{ header: { key: x-r, value: r } }]
              response_headers_to_remove: [x-up]
              host_rewrite_literal: of.weight")
            .send(get("/").field("x-gone", "1"))
            .reply(reply(crate::case::with_fields(ok(""), "x-up: 1")))
            .shows(["> x-w: w", "< x-r: r", "> host: of.weight"])
            .lacks(["> x-gone*", "< x-up*"]),
        weighted("a weighted cluster may be named by a header", "", "- { cluster_header: x-c, weight: 1 }")
            .hcm(&early("x-c", "@other"))
            .send(get("/").field("x-c", "nowhere"))
            .get("/")
            .shows(["< body other", "< 503", "log flags=NC"]),
        weighted("a hash policy may choose among weighted clusters", "use_hash_policy: true", halves)
            .routes("
                - match: { prefix: / }
                  route:
                    hash_policy: [{ header: { header_name: x-k } }]
                    weighted_clusters:
                      use_hash_policy: true
                      clusters: [{ name: @backend, weight: 50 }, { name: @other, weight: 50 }]")
            .send(get("/").field("x-k", "a"))
            .send(get("/").field("x-k", "b"))
            .send(get("/").field("x-k", "c"))
            .send(get("/").field("x-k", "d"))
            .send(get("/").field("x-k", "e"))
            .shows(["< body hello", "< body other"]),
        case("cluster_header takes the cluster that the request names")
            .routes("
                - match: { prefix: / }
                  route: { cluster_header: x-c }")
            .hcm(&early("x-c", "@backend"))
            .send(get("/").field("x-c", "nowhere"))
            .get("/")
            .both()
            .shows(["< 200", "< 503", "log flags=NC", "log details=cluster_not_found"]),
        case("cluster_not_found_response_code holds for a cluster_header as well")
            .routes("
                - match: { prefix: / }
                  route: { cluster_header: x-c, cluster_not_found_response_code: NOT_FOUND }")
            .get("/")
            .shows(["< 404", "log flags=NC"]),
        case("cluster_header goes by what earlier filters have set")
            .filters("
                - name: m
                  typed_config:
                    \"@type\": \"@http/header_mutation.v3.HeaderMutation\"
                    mutations: { request_mutations: [{ append: { header: { key: x-c, value: \"@backend\" } } }] }")
            .routes("
                - match: { prefix: / }
                  route: { cluster_header: x-c }")
            .get("/")
            .shows(["< 503"]),
    ]
}

fn answers() -> Vec<Case> {
    let answer = |title, fields: &str| {
        case(title).routes(&format!(
            "- match: {{ prefix: / }}\n  direct_response:\n{}",
            indent(fields, 4)
        ))
    };
    vec![
        answer(
            "direct_response takes its body from a file",
            concat!("status: 201\nbody: { filename: \"", env!("CARGO_MANIFEST_DIR"), "/tests/differential/body.txt\" }"),
        )
        .get("/")
        .both()
        .shows(["< 201", "< body from a file", "< content-type: text/plain"]),
        answer("a direct response of 3xx says where the request has come", "status: 302")
            .send(get("/old?q").host("example.com:80"))
            .both()
            .shows(["< 302", "< location: http://example.com:80/old?q"]),
        answer("direct_response takes its body from bytes", "status: 200\nbody: { inline_bytes: aGk= }")
            .get("/")
            .shows(["< body hi"]),
        answer("direct_response without body has no content type", "status: 204")
            .get("/")
            .both()
            .shows(["< 204"])
            .lacks(["< content-type*"]),
        answer(
            "body_format of direct_response formats its body",
            "status: 200\nbody: { inline_string: inner }\nbody_format: { text_format_source: { inline_string: \"%LOCAL_REPLY_BODY% %REQ(x-a)% %RESPONSE_CODE%\" }, content_type: text/html }",
        )
        .send(get("/").field("x-a", "1"))
        .get("/")
        .both()
        .shows(["< content-type: text/html*"]),
        answer(
            "body_format of direct_response may be JSON",
            "status: 200\nbody_format: { json_format: { path: \"%REQ(:path)%\" } }",
        )
        .get("/x")
        .shows(["< content-type: application/json", "< body {\"path\":\"/x\"}\\n"]),
        answer("a direct response reads no body of the request", "status: 200\nbody: { inline_string: early }")
            .send(request("POST", "/").body("unread"))
            .both()
            .shows(["< body early"]),
        case("non_forwarding_action forwards nothing")
            .routes("
                - match: { prefix: / }
                  non_forwarding_action: {}")
            .get("/")
            .both()
            .shows(["< 503", "log flags=NC", "log details=cluster_not_found"]),
    ]
}
