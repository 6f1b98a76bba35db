//! Filters that translate between kinds of messages: gRPC-Web, gRPC over HTTP/1, JSON into metadata.

use crate::case::{
    Case, Kind, Response, With, case, ok, reply, request, status, with_fields, with_trailers,
};
use crate::names::base64;

pub fn cases() -> Vec<Case> {
    [grpc_web(), bridge(), json_to_metadata()]
        .into_iter()
        .flatten()
        .collect()
}

const FRAME: &str = "\0\0\0\0\u{3}abc";

fn answer(trailers: &str) -> Response {
    with_trailers(
        with_fields(ok(FRAME), "content-type: application/grpc"),
        trailers,
    )
}

fn grpc_web() -> Vec<Case> {
    let web = |title| {
        case(title)
            .filters("- name: web\n  typed_config: { \"@type\": \"@http/grpc_web.v3.GrpcWeb\" }")
            .upstream_http2()
            .reply(reply(answer("grpc-status: 0")))
            .digits_aside()
    };
    let call = |content_type: &str| {
        request("POST", "/pkg.Svc/Do")
            .field("content-type", content_type)
            .body(FRAME)
    };
    let frame = "\\x00\\x00\\x00\\x00\\x03abc";
    vec![
        web("a call of gRPC-Web becomes one of gRPC")
            .send(call("application/grpc-web"))
            .both()
            .stats([
                "cluster.@backend.grpc-web.pkg.Svc.Do.success",
                "cluster.@backend.grpc-web.pkg.Svc.Do.0",
                "cluster.@backend.grpc-web.pkg.Svc.Do.total",
            ])
            .shows([
                "> content-type: application/grpc",
                "> te: trailers",
                "> grpc-accept-encoding: identity",
                "< content-type: application/grpc-web+proto",
            ])
            .shows([&format!(
                "< body {frame}\\x80\\x00\\x00\\x00\\x0fgrpc-status:0\\r\\n"
            )]),
        web("a call with its codec in the type")
            .send(call("application/grpc-web+proto"))
            .shows(["> content-type: application/grpc"]),
        web("a content type with parameters is none of gRPC-Web")
            .send(call("application/grpc-web; charset=utf-8"))
            .shows(["> content-type: application/grpc-web; charset=utf-8"]),
        web("a call in base64 is unpacked, and its answer packed")
            .send(
                request("POST", "/pkg.Svc/Do")
                    .field("content-type", "application/grpc-web-text")
                    .field("accept", "application/grpc-web-text")
                    .body(&base64(FRAME.as_bytes())),
            )
            .both()
            .shows(["< content-type: application/grpc-web-text+proto"])
            .shows([&format!("> body {frame}")]),
        web("an answer in base64 to a call that is not")
            .send(call("application/grpc-web").field("accept", "application/grpc-web-text+proto"))
            .shows(["< content-type: application/grpc-web-text+proto"]),
        web("base64 of a wrong length is refused")
            .send(
                request("POST", "/pkg.Svc/Do")
                    .field("content-type", "application/grpc-web-text")
                    .body("AAAAA"),
            )
            .both()
            .shows(["log details=grpc_base_N_decode_failed_bad_size", "< 400"]),
        web("what is no base64 is refused")
            .send(
                request("POST", "/pkg.Svc/Do")
                    .field("content-type", "application/grpc-web-text")
                    .body("AAA$"),
            )
            .shows(["log details=grpc_base_N_decode_failed", "< 400"]),
        web("an answer without a body has its status in the head")
            .reply(reply(with_fields(
                ok(""),
                "content-type: application/grpc\ngrpc-status: 5\ngrpc-message: no such thing",
            )))
            .send(call("application/grpc-web"))
            .both()
            .stats(["cluster.@backend.grpc-web.pkg.Svc.Do.failure"])
            .shows([
                "< grpc-status: 5",
                "< content-type: application/grpc-web+proto",
            ]),
        web("an answer that is not gRPC's becomes a status with a message")
            .reply(reply(with_fields(
                status(503, "busy: 100%"),
                "content-type: text/plain",
            )))
            .send(call("application/grpc-web"))
            .both()
            .shows([
                "< 503",
                "< grpc-status: 14",
                "< grpc-message: busy: 100%25",
                "< content-length: 0",
            ])
            .lacks(["< body*"]),
        web("a local reply is told to a browser too")
            .backend(Kind::Refuse)
            .send(call("application/grpc-web"))
            .both()
            .shows(["< 503", "< grpc-status: 14"]),
        web("several trailers stand in one frame")
            .reply(reply(answer("grpc-status: 7\ngrpc-message: no\nx-more: 1")))
            .send(call("application/grpc-web"))
            .shows(["< 200"]),
        web("a route may do without gRPC-Web")
            .route("", "typed_per_filter_config: { web: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true } }")
            .send(call("application/grpc-web"))
            .shows(["> content-type: application/grpc-web"]),
        web("a request that is not gRPC-Web passes")
            .reply(reply(ok("hello")))
            .send(
                request("POST", "/")
                    .field("content-type", "application/grpc")
                    .body(FRAME),
            )
            .http2()
            .shows(["> content-type: application/grpc", "< body hello"]),
    ]
}

fn bridge() -> Vec<Case> {
    let bridged = |title, fields: &str| {
        case(title)
            .filters(&format!("- name: bridge\n  typed_config: {{ \"@type\": \"@http/grpc_http1_bridge.v3.Config\", {fields} }}"))
            .upstream_http2()
            .reply(reply(answer("grpc-status: 0\ngrpc-message: fine")))
    };
    let call = || {
        request("POST", "/pkg.Svc/Do?a=b")
            .field("content-type", "application/grpc")
            .body(FRAME)
    };
    vec![
        bridged("a call over HTTP/1 has its status in the head", "")
            .send(call())
            .shows([
                "< 200",
                "< grpc-status: 0",
                "< grpc-message: fine",
                "< content-length: 8",
            ]),
        bridged("a status that is not OK becomes 503", "")
            .reply(reply(answer("grpc-status: 5\ngrpc-message: no such thing")))
            .send(call())
            .shows(["< 503", "< grpc-status: 5"]),
        bridged("a call over HTTP/2 keeps its trailers", "")
            .send(call())
            .http2()
            .shows(["< trailer grpc-status: 0"]),
        bridged(
            "ignore_query_parameters hides the query from the upstream",
            "ignore_query_parameters: true",
        )
        .send(call())
        .shows(["> :path: /pkg.Svc/Do"]),
        bridged("a request that is not gRPC is not bridged", "")
            .reply(reply(ok("hello")))
            .send(request("POST", "/").body("x"))
            .shows(["< body hello"]),
        bridged("a protobuf over HTTP/1 becomes a call", "upgrade_protobuf_to_grpc: true")
            .send(request("POST", "/pkg.Svc/Do").field("content-type", "application/x-protobuf").body("abc"))
            .shows(["> content-type: application/grpc", "< 200"]),
        bridged("a protobuf in pieces becomes a call", "upgrade_protobuf_to_grpc: true, ignore_query_parameters: true")
            .send(request("POST", "/pkg.Svc/Do?a=b").field("content-type", "application/x-protobuf").body("abc").chunked())
            .shows(["> content-type: application/grpc", "> :path: /pkg.Svc/Do"]),
        bridged("a protobuf over HTTP/2 becomes a call", "upgrade_protobuf_to_grpc: true")
            .send(request("POST", "/pkg.Svc/Do").field("content-type", "application/x-protobuf").body("abc"))
            .http2()
            .shows(["> content-type: application/grpc"]),
        bridged("a protobuf stays one where it is not wanted", "")
            .send(request("POST", "/pkg.Svc/Do").field("content-type", "application/x-protobuf").body("abc"))
            .shows(["> content-type: application/x-protobuf"]),
        bridged("a call whose status is no number", "")
            .reply(reply(answer("grpc-status: much\ngrpc-message: fine")))
            .send(call())
            .shows(["< 503", "< grpc-status: much"]),
        bridged("a call that is answered by a page", "")
            .reply(reply(with_fields(status(502, "bad gateway"), "content-type: text/html")))
            .send(call())
            .shows(["< 502"]),
        bridged("a call whose answer has its status in the head", "")
            .reply(reply(with_fields(ok(""), "content-type: application/grpc\ngrpc-status: 7\ngrpc-message: no")))
            .send(call())
            .shows(["< grpc-status: 7"]),
        bridged("a route may do without the bridge", "")
            .route("", "typed_per_filter_config: { bridge: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true } }")
            .send(call())
            .shows(["< 200"])
            .lacks(["< grpc-status: 0"]),
        bridged("an answer without trailers", "")
            .reply(reply(with_fields(
                ok(FRAME),
                "content-type: application/grpc",
            )))
            .send(call())
            .shows(["< 200"]),
    ]
}

fn json_to_metadata() -> Vec<Case> {
    let read = |title, rules: &str| {
        case(title)
            .filters(&format!("- name: json\n  typed_config: {{ \"@type\": \"@http/json_to_metadata.v3.JsonToMetadata\", {rules} }}"))
            .log_format("%DYNAMIC_METADATA(envoy.filters.http.json_to_metadata)% %DYNAMIC_METADATA(other)%", "")
    };
    let post = |body: &str| {
        request("POST", "/")
            .field("content-type", "application/json")
            .body(body)
    };
    let rule = |keys: &str, more: &str| {
        let keys: Vec<_> = keys
            .split('.')
            .map(|key| format!("{{ key: {key} }}"))
            .collect();
        format!("{{ selectors: [ {} ], {more} }}", keys.join(", "))
    };
    let rules = |rules: &[String]| format!("request_rules: {{ rules: [ {} ] }}", rules.join(", "));
    let full = rules(&[rule(
        "a.b",
        "on_present: { key: k }, on_missing: { key: k, value: missing }, on_error: { key: k, value: bad }",
    )]);
    let typed = rules(&[
        rule(
            "v",
            "on_present: { key: pp, type: PROTOBUF_VALUE }, on_missing: { key: pp, value: none }",
        ),
        rule(
            "v",
            "on_present: { key: ss, type: STRING }, on_missing: { key: ss, value: none }",
        ),
        rule(
            "v",
            "on_present: { key: nn, type: NUMBER }, on_missing: { key: nn, value: none }",
        ),
    ]);
    let mut cases = vec![
        read("a value of the body becomes metadata", &full)
            .send(post("{\"a\": {\"b\": \"x\"}}"))
            .both()
            .shows(["log {\"k\":\"x\"} -", "> body {\"a\": {\"b\": \"x\"}}"]),
        read("a value that is missing has a value of the configuration", &full)
            .send(post("{\"a\": 1}"))
            .send(post("{}"))
            .send(post("[]"))
            .shows(["log {\"k\":\"missing\"} -"]),
        read("a body that nests a thousand times", &full)
            .send(post(&format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000))))
            .shows(["< 200"]),
        read("a body that is no JSON is an error", &full)
            .send(post("{\"a\""))
            .send(post("{} x"))
            .both()
            .shows(["log {\"k\":\"bad\"} -"]),
        read("a request without body has nothing in it", &full)
            .send(request("GET", "/").field("content-type", "application/json"))
            .shows(["log {\"k\":\"missing\"} -"]),
        read("a body of another content type is an error", &full)
            .send(request("POST", "/").field("content-type", "text/plain").body("{}"))
            .send(request("POST", "/").body("{}"))
            .shows(["log {\"k\":\"bad\"} -", "log {\"k\":\"bad\"} -"]),
        read("parameters of the content type", &full)
            .send(request("POST", "/").field("content-type", "application/json; charset=utf-8").body("{}"))
            .send(request("POST", "/").field("content-type", "Application/JSON").body("{}"))
            .shows(["log *"]),
        read("allow_content_types and allow_empty_content_type", "request_rules: { rules: [ { selectors: [ { key: a } ], on_present: { key: k } } ], allow_content_types: [ text/json ], allow_empty_content_type: true, allow_content_types_regex: { regex: \"app/.*\" } }")
            .send(request("POST", "/").field("content-type", "text/json").body("{\"a\": \"1\"}"))
            .send(request("POST", "/").body("{\"a\": \"2\"}"))
            .send(request("POST", "/").field("content-type", "app/x").body("{\"a\": \"3\"}"))
            .send(post("{\"a\": \"4\"}"))
            .shows(["log {\"k\":\"1\"} -", "log {\"k\":\"2\"} -", "log {\"k\":\"3\"} -"]),
        read("metadata of a namespace of their own", &rules(&[rule("a", "on_present: { metadata_namespace: other, key: k, value: fixed }")]))
            .send(post("{\"a\": 1}"))
            .shows(["log - {\"k\":\"fixed\"}"]),
        read("an earlier value is preserved", &rules(&[
            rule("a", "on_present: { key: k }"),
            rule("b", "on_present: { key: k, preserve_existing_metadata_value: true }"),
        ]))
            .send(post("{\"a\": \"first\", \"b\": \"second\"}"))
            .shows(["log *"]),
        read("a value of a response becomes metadata", "response_rules: { rules: [ { selectors: [ { key: a } ], on_present: { key: k }, on_missing: { key: k, value: none } } ] }")
            .replies([
                reply(with_fields(ok("{\"a\": \"up\"}"), "content-type: application/json")),
                reply(with_fields(ok("{}"), "content-type: application/json")),
                reply(with_fields(status(204, ""), "content-type: application/json")),
            ])
            .get("/")
            .get("/")
            .get("/")
            .shows(["log {\"k\":\"up\"} -", "log {\"k\":\"none\"} -"]),
        read("a route has rules of its own", &full)
            .route("", "typed_per_filter_config: { json: { \"@type\": \"@http/json_to_metadata.v3.JsonToMetadata\", request_rules: { rules: [ { selectors: [ { key: z } ], on_present: { key: of_route } } ] } } }")
            .send(post("{\"z\": \"1\", \"a\": {\"b\": \"2\"}}"))
            .shows(["log {\"of_route\":\"1\"} -"]),
        read(
            "without a value to write nobody looks for the last key",
            &rules(&[
                rule("a.b", "on_missing: { key: k, value: none }"),
                rule("c.d", "on_missing: { key: l, value: none }"),
            ]),
        )
            .send(post("{\"a\": {}}"))
            .shows(["log {\"l\":\"none\"} -"]),
        read(
            "a value of the configuration is written whether the last key is there or not",
            &rules(&[
                rule("a.b", "on_present: { key: k, value: own }"),
                rule("c.d", "on_present: { key: l, value: own }"),
            ]),
        )
            .send(post("{\"a\": {}}"))
            .shows(["log {\"k\":\"own\"} -"]),
        read(
            "in a body that is neither object nor list everything is missing",
            &rules(&[rule("b", "on_missing: { key: k, value: none }")]),
        )
            .send(post("\"x\""))
            .send(post("5"))
            .send(post("[1]"))
            .shows(["log {\"k\":\"none\"} -", "log - -"]),
        read("a byte order mark before JSON is passed over", &full)
            .send(post("\u{feff}{\"a\": {\"b\": \"x\"}}"))
            .shows(["log {\"k\":\"x\"} -"]),
        read("a whole number that does not fit makes a body no JSON", &full)
            .send(post("{\"a\": {\"b\": \"x\"}, \"z\": [9223372036854775808]}"))
            .send(post("{\"a\": {\"b\": \"x\"}, \"z\": [9223372036854775807, 18446744073709551616]}"))
            .stats(["http.@stat.json_to_metadata.rq.invalid_json_body"])
            .shows(["log {\"k\":\"x\"} -"]),
        read("a body in chunks with trailers is read", &full)
            .hcm("http_protocol_options: { enable_trailers: true }")
            .send(post("{\"a\": {\"b\": \"x\"}}").chunked().trailer("t", "1"))
            .shows(["log {\"k\":\"x\"} -"]),
    ];
    for (title, value) in [
        ("a text in metadata of each type", "\"7.5\""),
        ("a word in metadata of each type", "\"word\""),
        ("an empty text in metadata of each type", "\"\""),
        ("a whole number in metadata of each type", "12"),
        ("a broken number in metadata of each type", "1.25"),
        ("a truth in metadata of each type", "true"),
        ("a null in metadata of each type", "null"),
        ("an object in metadata of each type", "{\"x\": 1}"),
        ("a list in metadata of each type", "[1]"),
    ] {
        cases.push(
            read(title, &typed)
                .send(post(&format!("{{\"v\": {value}}}")))
                .shows(["log {*"]),
        );
    }
    cases
}
