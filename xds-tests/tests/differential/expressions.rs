//! CEL: what expressions say in logs, in filters of logs, in policies and in rate limits.

use crate::case::{Case, With, case, get, indent, ok, reply, request, status, with_fields};

pub fn cases() -> Vec<Case> {
    [
        attributes(),
        language(),
        allowed(),
        filters(),
        conditions(),
        matchers(),
        descriptors(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// An access log of these expressions, as JSON, each under its number.
fn logged<const N: usize>(title: &'static str, expressions: [&str; N]) -> Case {
    typed(title, "CEL", "", expressions)
}

fn typed<const N: usize>(
    title: &'static str,
    operator: &str,
    fields: &str,
    expressions: [&str; N],
) -> Case {
    let lines = expressions.iter().enumerate().map(|(number, text)| {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{number:02}\": \"%{operator}({text})%\"")
    });
    let lines: Vec<_> = lines.collect();
    let format = format!(
        "log_format:\n  json_format: {{ {} }}\n{}",
        lines.join(", "),
        indent(fields, 2)
    );
    case(title).access_log(&format!(
        "- name: file\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: @log\n{}",
        indent(&format, 4)
    ))
}

fn attributes() -> Vec<Case> {
    vec![
        logged(
            "the head of a request is seen",
            [
                "request.method",
                "request.path",
                "request.url_path",
                "request.query",
                "request.host",
                "request.scheme",
                "request.protocol",
                "request.useragent",
                "request.referer",
                "request.headers['x-a']",
                "request.headers['X-A']",
                "request.headers['x-none']",
                "request['method']",
                "'x-a' in request.headers",
                "has(request.headers.host)",
                "has(request.nothing)",
                "request.nothing",
                "request",
            ],
        )
        .send(
            get("/a/b?q=1&r=2")
                .field("x-a", "one")
                .field("x-a", "two")
                .field("user-agent", "ua")
                .field("referer", "rf"),
        )
        .both()
        .shows(["log {\"00\":\"GET\",\"01\":\"/a/b?q=1&r=2\",*"]),
        logged(
            "sizes and times of a request are seen",
            [
                "request.size",
                "request.headers_bytes > 100",
                "request.total_size == request.size + request.headers_bytes",
                "request.duration < duration('10s')",
                "request.time > timestamp('2020-01-01T00:00:00Z')",
                "request.id == request.headers['x-request-id']",
            ],
        )
        .send(request("POST", "/").body("abc"))
        .both()
        .shows(["log {\"00\":\"3\",\"01\":\"true\",\"02\":\"true\",\"03\":\"true\",\"04\":\"true\",\"05\":\"true\"}"]),
        logged(
            "a response is seen",
            [
                "response.code",
                "response.code_details",
                "response.size",
                "response.flags",
                "response.headers['x-r']",
                "response.headers[':status']",
                "response.headers['x-none']",
                "response.grpc_status",
                "response.trailers",
                "response.backend_latency < duration('10s')",
            ],
        )
        .reply(reply(with_fields(ok("hello"), "x-r: v")))
        .get("/")
        .both()
        .shows(["log {\"00\":\"200\",\"01\":\"via_upstream\",\"02\":\"5\",\"03\":\"0\",*"]),
        logged("flags of a response are bits", ["response.flags", "response.code"])
            .routes("- match: { prefix: /there }\n  route: { cluster: \"@backend\" }")
            .get("/else")
            .shows(["log {\"00\":\"256\",\"01\":\"404\"}"]),
        logged(
            "a connection is seen",
            [
                "connection.mtls",
                "connection.requested_server_name",
                "connection.id > 0u",
                "connection.tls_version",
                "connection.termination_details",
                "source.address.startsWith('127.0.0.1:')",
                "source.port > 0",
                "destination.address.endsWith(string_of_nothing)",
                "has(destination.port)",
            ],
        )
        .get("/")
        .shows(["log {\"00\":\"false\",\"01\":\"\",\"02\":\"true\",*"]),
        logged(
            "an upstream is seen",
            [
                "upstream.address == '127.0.0.1:@port:backend'",
                "upstream.port == @port:backend",
                "upstream.local_address.startsWith('127.0.0.1')",
                "upstream.transport_failure_reason",
                "upstream.request_attempt_count",
                "upstream.num_endpoints",
                "upstream.cx_pool_ready_duration < duration('10s')",
                "upstream.tls_version",
            ],
        )
        .get("/")
        .shows(["log {\"00\":\"true\",\"01\":\"true\",\"02\":\"true\",*"]),
        logged("without an upstream there is nothing of it", ["upstream.address", "upstream.num_endpoints", "upstream.request_attempt_count"])
            .routes("- { match: { prefix: / }, @say(a) }")
            .get("/")
            .shows(["log {\"00\":null,*"]),
        logged(
            "configuration is seen",
            [
                "xds.route_name",
                "xds.virtual_host_name",
                "xds.route_metadata.filter_metadata['r']['q']",
                "xds.route_metadata.filter_metadata.none",
                "xds.node.id.size() > 0",
                "xds.node.nothing",
                "xds.upstream_host_locality_metadata",
                "xds.listener_direction",
                "xds.nothing",
            ],
        )
        .routes("- name: rt\n  match: { prefix: / }\n  metadata: { filter_metadata: { r: { q: z } } }\n  route: { cluster: \"@backend\" }")
        .get("/")
        .shows(["log {\"00\":\"rt\",\"01\":\"vhost\",\"02\":\"z\",*"]),
        logged(
            "metadata of other filters are seen",
            [
                "metadata.filter_metadata['ns']['tier']",
                "metadata.filter_metadata.ns.tier == 'gold'",
                "metadata.filter_metadata['none']",
                "'ns' in metadata.filter_metadata",
                "metadata.filter_metadata.ns",
                "has(metadata.filter_metadata)",
            ],
        )
        .filters("
            - name: metadata
              typed_config: { \"@type\": \"@http/header_to_metadata.v3.Config\", request_rules: [{ header: x-tier, on_header_present: { metadata_namespace: ns, key: tier } }] }")
        .send(get("/").field("x-tier", "gold"))
        .shows(["log {\"00\":\"gold\",\"01\":\"true\",*"]),
        logged(
            "filter state is seen",
            ["filter_state['my.key']", "filter_state['none']", "filter_state['my.key'] == b'value'", "filter_state"],
        )
        .filters("
            - name: state
              typed_config: { \"@type\": \"@http/set_filter_state.v3.Config\", on_request_headers: [{ object_key: my.key, factory_key: envoy.string, format_string: { text_format_source: { inline_string: value } } }] }")
        .get("/")
        .shows(["log {\"00\":\"value\",*"]),
    ]
}

fn language() -> Vec<Case> {
    vec![
        logged(
            "numbers print with six digits",
            [
                "1", "-1", "1u", "1.5", "1e20", "1234567.0", "0.1 + 0.2", "0x1F", "1.0 / 0.0",
                "-9223372036854775808",
            ],
        )
        .get("/")
        .shows(["log {\"00\":\"1\",\"01\":\"-1\",*"]),
        logged(
            "operands must be of one type",
            [
                "7 / 2", "-7 % 3", "1 + 1.0", "1u + 1", "1 / 0", "9223372036854775807 + 1", "'a' + 'b'", "[1] + [2]",
                "1 < 2.5", "1 == 1u", "1 == 'a'", "1 != 'a'", "[1] == [1.0]", "{'a': 1} == {'a': 1}", "'a' in 'abc'", "!1",
            ],
        )
        .get("/")
        .shows(["log {\"00\":\"3\",\"01\":\"-1\",\"02\":null,*"]),
        logged(
            "one side of a decision is enough",
            [
                "false && 1", "1 && false", "true && 1", "nothing && false", "nothing || true", "nothing && true",
                "true ? 1 : 2", "1 ? 1 : 2", "nothing ? 1 : 2",
            ],
        )
        .get("/")
        .shows(["log {\"00\":\"false\",\"01\":\"false\",\"02\":null,\"03\":\"false\",\"04\":\"true\",*"]),
        logged(
            "lists and maps are looked into",
            ["[1, 2][1]", "[1, 2][5]", "{'a': 1}['a']", "{'a': 1}.a", "{'a': 1}.b", "1 in [1, 2]", "'a' in {'a': 1}", "size([1])", "[1, 2]", "{'a': 1}"],
        )
        .get("/")
        .shows(["log {\"00\":\"2\",\"01\":null,*"]),
        logged(
            "functions of strings",
            [
                "size('é')", "'abc'.startsWith('a')", "'abc'.contains('b')", "'abc'.matches('^a.c$')",
                "request.path.matches('/[0-9]+')", "re.extract('hello', 'h(.)l', '\\\\1')", "re.capture('hello', 'h(.)l.*')",
                "int(request.headers['x-n']) + 1", "int('x')", "uint(-1)", "double('1.5')", "type(1) == int", "bool('true')",
            ],
        )
        .send(get("/42").field("x-n", "12"))
        .shows(["log {\"00\":\"1\",\"01\":\"true\",*"]),
        logged(
            "functions of times",
            [
                "duration('1h30m')", "duration('90s')", "duration('x')", "timestamp('2020-01-02T03:04:05.678Z')",
                "timestamp('2020-01-02T03:04:05Z').getMonth()", "timestamp('2020-01-02T03:04:05Z').getDayOfWeek()",
                "timestamp('2020-01-02T03:04:05Z').getHours('+02:00')", "timestamp('2020-01-02T03:04:05Z') + duration('1s')",
                "duration('90s').getSeconds()", "duration('1.5s').getMilliseconds()", "int(timestamp('2020-01-02T03:04:05Z'))",
            ],
        )
        .get("/")
        .shows(["log {\"00\":\"1h30m\",\"01\":\"1m30s\",*"]),
        typed(
            "TYPED_CEL keeps types in JSON",
            "TYPED_CEL",
            "",
            ["1", "1.5", "'a'", "b'a'", "true", "null", "[1, 'a']", "{'a': 1}", "duration('1.5s')", "timestamp('2020-01-02T03:04:05Z')", "type(1)", "request", "nothing"],
        )
        .get("/")
        .shows(["log {\"00\":1,\"01\":1.5,\"02\":\"a\",\"03\":\"YQ==\",*"]),
        case("CEL in text has a length")
            .log_format("%CEL(request.path):3%|%CEL(nothing)%|%TYPED_CEL('abcdef'):2%|%TYPED_CEL([1])%", "")
            .get("/abcdef")
            .shows(["log /ab|-|ab|CelList value"]),
        case("CEL makes the value of a header")
            .route("", "request_headers_to_add: [{ header: { key: x-cel, value: \"%CEL(request.headers['x-a'] == 'b' ? 'yes' : 'no')%\" } }]")
            .send(get("/").field("x-a", "b"))
            .send(get("/").field("x-a", "c"))
            .get("/")
            .shows(["> x-cel: yes", "> x-cel: no"]),
    ]
}

fn allowed() -> Vec<Case> {
    let formatter = "formatters: [{ name: cel, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.formatter.cel.v3.Cel, cel_config: { enable_string_conversion: true, enable_string_concat: true, enable_string_functions: true } } }]";
    vec![
        typed(
            "cel_config allows strings to be made",
            "CEL",
            formatter,
            [
                "string(1)",
                "string(duration('1.5s'))",
                "string(timestamp('2020-01-02T03:04:05.5Z'))",
                "'a' + 'b'",
                "b'a' + b'b'",
                "'A'.lowerAscii()",
                "'a'.upperAscii()",
                "'aba'.replace('a', 'b')",
                "'aba'.replace('a', 'b', 1)",
                "'a,b'.split(',')[1]",
                "'a,b,c'.split(',', 2)[1]",
                "['a', 'b'].join('-')",
                "'abc'.substring(1)",
                "'abc'.substring(1, 2)",
                "' a '.trim()",
                "'abc'.charAt(1)",
                "'abcb'.indexOf('b')",
                "'abcb'.lastIndexOf('b')",
                "'abc'.indexOf('z')",
                "'abc'.substring(9)",
            ],
        )
        .get("/")
        .shows(["log {\"00\":\"1\",\"01\":\"1.500s\",*"]),
        typed(
            "format shows values in a template",
            "CEL",
            formatter,
            [
                "'%s %s'.format(['a', 1])",
                "'%s'.format([[1, 'a', 2.5, true, null, b'b']])",
                "'%s'.format([{'b': 1, 'a': [duration('1.5s')], 3: 2u}])",
                "'%s %s %s'.format([1.0, 1e20, 1.0 / 0.0])",
                "'%s %s'.format([timestamp('2020-01-02T03:04:05.678Z'), type(1)])",
                "'%d %d %d'.format([-5, 5u, 1.5])",
                "'%f %.2f %.0f %f'.format([1.5, 1.567, 2.5, 'NaN'])",
                "'%e %.2e %e'.format([1234.5678, 1234.5678, 1e-100])",
                "'%b %b %o %x %X %x'.format([-5, true, 8, -255, 255u, 'abc'])",
                "'100%%'.format([])",
                "'%s'.format(['a', 'b'])",
                "'%d'.format(['1'])",
                "'%x'.format([true])",
                "'%s %s'.format(['a'])",
                "'%'.format([])",
                "'%q'.format(['a'])",
                "'%.1001f'.format([1.5])",
                "'%s'.format([metadata])",
                "'a'.format('b')",
            ],
        )
        .get("/")
        .shows(["log {\"00\":\"a 1\",\"01\":\"[1, a, 2.5, true, null, b]\",*"]),
        typed(
            "strings.quote makes a text of an expression",
            "CEL",
            formatter,
            ["strings.quote('a')", "strings.quote('a\"b\\\\c\\n\\t\\r\\a\\b\\f\\v')", "strings.quote('é')", "strings.quote(1)", "strings.split('a,b', ',')"],
        )
        .get("/")
        .shows(["log {\"00\":\"\\\"a\\\"\",*"]),
        typed(
            "messages of google.protobuf are made",
            "TYPED_CEL",
            "",
            [
                "google.protobuf.Duration{seconds: 1, nanos: 500000000}",
                ".google.protobuf.Timestamp{seconds: 1}",
                "google.protobuf.Duration{seconds: 1, seconds: 2} + duration('1s')",
                "google.protobuf.Int64Value{value: 3} + 1",
                "google.protobuf.StringValue{value: request.method}",
                "google.protobuf.BytesValue{value: b'a'}",
                "google.protobuf.BoolValue{}",
                "google.protobuf.UInt32Value{value: 1u}",
                "google.protobuf.DoubleValue{value: 0.5}",
                "google.protobuf.Struct{fields: {'a': 'x', 'b': [true, null]}}",
                "google.protobuf.Struct{fields: {'a': {'b': 'c'}}}.a.b",
                "google.protobuf.ListValue{values: [1.5, 'a']}",
                "google.protobuf.Value{string_value: 'a'}",
                "google.protobuf.Value{}",
                "google.protobuf.Duration{seconds: 1} == duration('1s')",
            ],
        )
        .get("/")
        .shows(["log {\"00\":\"1.500s\",\"01\":\"1970-01-01T00:00:01Z\",\"02\":\"3s\",\"03\":4,\"04\":\"GET\",*"]),
        typed(
            "a message with a field of another type is none",
            "TYPED_CEL",
            "",
            [
                "google.protobuf.Duration{seconds: 'a'}",
                "google.protobuf.Duration{seconds: 1u}",
                "google.protobuf.Duration{seconds: 999999999999999}",
                "google.protobuf.Int32Value{value: 2147483648}",
                "google.protobuf.UInt32Value{value: 1}",
                "google.protobuf.DoubleValue{value: 1}",
                "google.protobuf.Value{null_value: null}",
                "google.protobuf.StringValue{value: 'a'}.value",
                "google.protobuf.Duration{seconds: request.headers['x-none']}",
            ],
        )
        .get("/")
        .shows(["log {\"00\":null,\"01\":null,\"02\":null,*"]),
    ]
}

fn filters() -> Vec<Case> {
    let filtered = |title, expression: &str| {
        case(title).log_format(
            "%RESPONSE_CODE%",
            &format!("{{ extension_filter: {{ name: cel, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter, expression: \"{expression}\" }} }} }}"),
        )
    };
    vec![
        filtered(
            "an expression chooses what is logged",
            "response.code >= 400",
        )
        .replies([reply(ok("a")), reply(status(500, "b"))])
        .get("/")
        .get("/")
        .logs(1)
        .shows(["log 500"])
        .lacks(["log 200"]),
        filtered(
            "an expression over the request chooses what is logged",
            "request.headers['x-log'] == 'yes' && request.method == 'GET'",
        )
        .get("/")
        .send(get("/").field("x-log", "yes"))
        .logs(1)
        .shows(["log 200"]),
        filtered("an expression without a truth logs nothing", "request.path")
            .get("/")
            .logs(0)
            .shows(["< 200"])
            .lacks(["log *"]),
    ]
}

/// `request.method == 'GET'`, say, as a tree.
fn equals(root: &str, field: &str, value: &str) -> String {
    format!(
        "call_expr: {{ function: _==_, args: [{{ select_expr: {{ operand: {{ ident_expr: {{ name: {root} }} }}, field: {field} }} }}, {{ const_expr: {{ string_value: \"{value}\" }} }}] }}"
    )
}

fn conditions() -> Vec<Case> {
    let rbac = |title, action: &str, condition: &str| {
        case(title)
            .filters(&format!("- name: rbac\n  typed_config: {{ \"@type\": \"@http/rbac.v3.RBAC\", rules: {{ action: {action}, policies: {{ p: {{ permissions: [{{ any: true }}], principals: [{{ any: true }}], condition: {{ {condition} }} }} }} }} }}"))
            .stats(["http.@stat.rbac.allowed", "http.@stat.rbac.denied"])
    };
    let header = "call_expr: { function: \"_[_]\", args: [{ select_expr: { operand: { ident_expr: { name: request } }, field: headers } }, { const_expr: { string_value: x-role } }] }";
    vec![
        rbac("a condition must hold for a policy", "ALLOW", &equals("request", "method", "GET"))
            .get("/")
            .send(request("DELETE", "/"))
            .both()
            .shows(["< 200", "< 403"]),
        rbac("a condition that cannot be said does not hold", "DENY", &format!("call_expr: {{ function: _!=_, args: [{{ {header} }}, {{ const_expr: {{ string_value: admin }} }}] }}"))
            .get("/")
            .send(get("/").field("x-role", "admin"))
            .send(get("/").field("x-role", "guest"))
            .shows(["< 200", "< 403"]),
        rbac("a condition that is no truth does not hold", "ALLOW", "const_expr: { int64_value: 1 }")
            .get("/")
            .shows(["< 403"]),
        rbac("a condition may ask whether something is there", "ALLOW", "select_expr: { operand: { select_expr: { operand: { ident_expr: { name: request } }, field: headers } }, field: x-role, test_only: true }")
            .get("/")
            .send(get("/").field("x-role", ""))
            .shows(["< 200", "< 403"]),
        rbac("a condition may be made of several", "ALLOW", &format!("call_expr: {{ function: _&&_, args: [{{ {} }}, {{ {} }}] }}", equals("request", "method", "GET"), equals("request", "host", "example.com")))
            .get("/")
            .send(get("/").host("other.com"))
            .shows(["< 200", "< 403"]),
        rbac("a condition does not know the node", "ALLOW", "select_expr: { operand: { ident_expr: { name: xds } }, field: node, test_only: true }")
            .get("/")
            .shows(["< 403"]),
    ]
}

fn matchers() -> Vec<Case> {
    let rbac = |title, kind: &str, input: &str| {
        let expr = equals("request", "method", "GET");
        case(title)
            .filters(&format!("- name: rbac\n  typed_config: {{ \"@type\": \"@http/rbac.v3.RBAC\", matcher: {{ matcher_list: {{ matchers: [{{ predicate: {{ single_predicate: {{ input: {{ name: i, typed_config: {{ \"@type\": type.googleapis.com/{input} }} }}, custom_match: {{ name: m, typed_config: {{ \"@type\": type.googleapis.com/xds.type.matcher.v3.CelMatcher, expr_match: {{ {kind}: {{ expr: {{ {expr} }} }} }} }} }} }} }}, on_match: {{ action: {{ name: a, typed_config: {{ \"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: allowed, action: ALLOW }} }} }} }}] }} }} }}"))
            .get("/")
            .send(request("POST", "/").body("x"))
    };
    let attributes = "xds.type.matcher.v3.HttpAttributesCelMatchInput";
    vec![
        rbac(
            "an expression decides in a matcher",
            "cel_expr_parsed",
            attributes,
        )
        .both()
        .shows(["< 200", "< 403"]),
        rbac(
            "an expression of the older kind decides in a matcher",
            "parsed_expr",
            attributes,
        )
        .shows(["< 200", "< 403"]),
        rbac(
            "a checked expression decides in a matcher",
            "cel_expr_checked",
            attributes,
        )
        .shows(["< 200", "< 403"]),
    ]
}

/// A bucket of one token for this entry, with an action of this expression.
fn limited(title: &'static str, entry: &str, descriptor: &str) -> Case {
    case(title)
        .filters(&format!(
            "- name: limit\n  typed_config:\n    \"@type\": \"@http/local_ratelimit.v3.LocalRateLimit\"\n    stat_prefix: \"@stat\"\n    token_bucket: {{ max_tokens: 100, tokens_per_fill: 100, fill_interval: 3600s }}\n    filter_enabled: {{ default_value: {{ numerator: 100 }} }}\n    filter_enforced: {{ default_value: {{ numerator: 100 }} }}\n    descriptors: [{{ entries: [{entry}], token_bucket: {{ max_tokens: 1, tokens_per_fill: 1, fill_interval: 3600s }} }}]\n"
        ))
        .route(&format!("rate_limits: [{{ actions: [{{ generic_key: {{ descriptor_value: a }} }}, {{ extension: {{ name: expr, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor, {descriptor} }} }} }}] }}]"), "")
}

fn descriptors() -> Vec<Case> {
    let both = |value: &str| {
        format!("{{ key: generic_key, value: a }}, {{ key: what, value: \"{value}\" }}")
    };
    vec![
        limited(
            "an expression of text counts requests",
            &both("GET"),
            "descriptor_key: what, text: request.method",
        )
        .get("/")
        .get("/")
        .send(request("POST", "/"))
        .shows(["< 200", "< 429"]),
        limited(
            "an expression as a tree counts requests",
            &both("true"),
            &format!(
                "descriptor_key: what, parsed: {{ {} }}",
                equals("request", "method", "GET")
            ),
        )
        .get("/")
        .get("/")
        .send(request("POST", "/"))
        .shows(["< 200", "< 429"]),
        limited(
            "an expression that cannot be said ends the descriptor",
            &both("x"),
            "descriptor_key: what, text: \"request.headers['x-user']\"",
        )
        .get("/")
        .get("/")
        .send(get("/").field("x-user", "x"))
        .send(get("/").field("x-user", "x"))
        .shows(["< 200", "< 429"]),
        limited(
            "skip_if_error leaves the expression out",
            "{ key: generic_key, value: a }",
            "descriptor_key: what, skip_if_error: true, text: \"request.headers['x-user']\"",
        )
        .get("/")
        .get("/")
        .send(get("/").field("x-user", "x"))
        .shows(["< 200", "< 429"]),
        limited(
            "an expression without text counts as nothing",
            &both(""),
            "descriptor_key: what, text: request.query",
        )
        .get("/")
        .get("/")
        .shows(["< 200"]),
        limited(
            "numbers count as they print",
            &both("7"),
            "descriptor_key: what, text: \"int(request.headers['x-n']) + 1\"",
        )
        .send(get("/").field("x-n", "6"))
        .send(get("/").field("x-n", "6"))
        .shows(["< 200", "< 429"]),
    ]
}
