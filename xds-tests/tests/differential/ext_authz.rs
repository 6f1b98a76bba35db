//! `ext_authz`: what an authorizer is asked, and what becomes of its answers and of its silence.

use outrigger_proto::pb::envoy::service::auth::v3::CheckResponse;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use prost::Message;

use crate::case::{
    Act, Case, Kind, Response, Script, With, acts, case, get, http1, late, ok, pause, raw, reply,
    request, status, with_fields, with_trailers,
};

pub fn cases() -> Vec<Case> {
    [
        outcomes(),
        limits(),
        silence(),
        changes(),
        rules(),
        questions(),
        bodies(),
        switches(),
        routes(),
        metadata(),
        by_http(),
        http_answers(),
        connections(),
        connection_logs(),
        grpc_calls(),
        broken(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const GRPC: &str = "grpc_service: { timeout: 2s, envoy_grpc: { cluster_name: \"@authz\" } }";

/// An answer by gRPC, in YAML.
fn says(yaml: &str) -> Script {
    let source = Source {
        name: "answer",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let message: CheckResponse = load(&[source], UnknownFields::Refuse).unwrap();
    framed(&message.encode_to_vec())
}

/// These bytes as one message of a call that went well.
fn framed(message: &[u8]) -> Script {
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    reply(grpc(Response { body, ..ok("") }, "grpc-status: 0"))
}

fn grpc(response: Response, trailers: &str) -> Response {
    let response = with_fields(response, "content-type: application/grpc");
    with_trailers(response, trailers)
}

/// A filter, called `authz`, with these fields, and who answers it.
fn asked(title: &'static str, fields: &str, kind: Kind) -> Case {
    let counters = [
        "ok",
        "denied",
        "error",
        "disabled",
        "failure_mode_allowed",
        "invalid",
    ];
    let mut case = case(title)
        .filters(&format!(
            "- name: authz\n  typed_config: {{ \"@type\": \"@http/ext_authz.v3.ExtAuthz\", transport_api_version: V3, {fields} }}"
        ))
        .and_backend("authz", kind);
    for counter in counters {
        case.stats.push(format!("http.@stat.ext_authz.{counter}"));
    }
    case
}

/// A filter that asks by gRPC, and the answer.
fn with(title: &'static str, fields: &str, answer: &str) -> Case {
    with_script(title, fields, says(answer))
}

fn with_script(title: &'static str, fields: &str, script: Script) -> Case {
    asked(
        title,
        &format!("{GRPC}, {fields}"),
        Kind::Http2(vec![script]),
    )
}

const YES: &str = "status: {}";
const NO: &str = "status: { code: 7 }";

fn outcomes() -> Vec<Case> {
    vec![
        with("a request that the authorizer allows passes", "", YES)
            .get("/a?b=c")
            .both()
            .shows(["< 200", "stat http.@stat.ext_authz.ok: 1", "> check GET http example.com /a?b=c*"]),
        with("an empty answer allows", "", "{}").get("/").shows(["< 200"]),
        with("a request that the authorizer denies is answered with 403", "", NO)
            .get("/")
            .both()
            .shows(["< 403", "log details=ext_authz_denied", "log flags=UAEX", "stat http.@stat.ext_authz.denied: 1"])
            .lacks(["> connection*"]),
        with(
            "a denial has the status, the body and the fields that the authorizer wants",
            "",
            "{ status: { code: 16 }, denied_response: { status: { code: 401 }, body: \"who are you?\", headers: [{ header: { key: x-h, value: \"1\" } }, \
             { header: { key: x-h, value: \"2\" } }, { header: { key: Content-Type, value: text/x } }, { header: { key: set-cookie, value: a }, append: true }] } }",
        )
        .get("/")
        .both()
        .shows(["< 401", "< x-h: 1", "< x-h: 2", "< content-type: text/x", "< body who are you?"])
        .lacks(["< set-cookie*"]),
        with("a denial may be a redirect", "", "{ status: { code: 7 }, denied_response: { status: { code: 302 }, headers: [{ header: { key: location, value: /in } }] } }")
            .get("/")
            .shows(["< 302", "< location: /in"]),
        with("a denial may look like success", "", "{ status: { code: 7 }, denied_response: { status: { code: 200 }, body: fine } }")
            .get("/")
            .shows(["< 200", "< body fine", "log details=ext_authz_denied"]),
        with("a denial is a status for a gRPC client", "", NO)
            .send(request("POST", "/").field("content-type", "application/grpc"))
            .shows(["< grpc-status: 7"]),
        with("a denial that comes with the status OK does not count", "", "{ denied_response: { status: { code: 401 } } }")
            .get("/")
            .shows(["< 200"]),
        with("what a denial says about success does not count", "", "{ status: { code: 7 }, ok_response: { headers: [{ header: { key: x-h, value: a } }] } }")
            .get("/")
            .shows(["< 403"]),
        with("the body of a denial is cut", "max_denied_response_body_bytes: 3", "{ status: { code: 7 }, denied_response: { body: abcdef } }")
            .get("/")
            .shows(["< body abc"]),
        with("an authorizer may say that it failed", "", "{ status: { code: 7 }, error_response: { status: { code: 503 }, body: oh, headers: [{ header: { key: x-h, value: a } }] } }")
            .get("/")
            .shows(["< 503", "< body oh", "< x-h: a", "log details=ext_authz_error", "stat http.@stat.ext_authz.error: 1"]),
        with("outcomes are counted for the cluster of the request", "", NO)
            .get("/")
            .stats(["cluster.@backend.ext_authz.denied", "cluster.@backend.upstream_rq_403", "cluster.@backend.internal.upstream_rq_403", "cluster.@backend.upstream_rq_completed"])
            .shows(["stat cluster.@backend.ext_authz.denied: 1", "stat cluster.@backend.internal.upstream_rq_403: 1"]),
        with("a denial need not be charged to the cluster", "charge_cluster_response_stats: false", NO)
            .get("/")
            .stats(["cluster.@backend.ext_authz.denied", "cluster.@backend.upstream_rq_completed"])
            .shows(["stat cluster.@backend.ext_authz.denied: 1", "stat cluster.@backend.upstream_rq_completed: 0"]),
        with("two filters are counted apart", "stat_prefix: waf", YES)
            .get("/")
            .stats(["http.@stat.ext_authz.waf.ok", "cluster.@backend.ext_authz.waf.ok"])
            .shows(["stat http.@stat.ext_authz.waf.ok: 1", "stat cluster.@backend.ext_authz.waf.ok: 1"]),
    ]
}

/// Authorizers that do not answer as they should.
/// Fields of an answer, so many.
fn many(count: usize) -> String {
    let field = |number| format!("{{ header: {{ key: x-{number}, value: v }} }}");
    (0..count).map(field).collect::<Vec<_>>().join(", ")
}

fn limits() -> Vec<Case> {
    let limited = |title, fields: &str, answer: &str| {
        let mut case = with(title, fields, answer);
        for counter in [
            "request_header_limits_reached",
            "response_header_limits_reached",
            "omitted_response_headers",
        ] {
            case.stats.push(format!("http.@stat.ext_authz.{counter}"));
        }
        case
    };
    let long = "x".repeat(2000);
    let few = "common_http_protocol_options: { max_headers_count: 12 }";
    let kib = "max_request_headers_kb: 1";
    let http1 =
        "explicit_http_config: { http_protocol_options: {} }\ncommon_http_protocol_options: ";
    let small = format!("{http1}{{ max_headers_count: 8 }}");
    let little = format!("{http1}{{ max_response_headers_kb: 1 }}");
    let enforced = "enforce_response_header_limits: true";
    let set = |fields: &str| format!("{{ ok_response: {{ headers: [{fields}] }} }}");
    let of_response =
        |fields: &str| format!("{{ ok_response: {{ response_headers_to_add: [{fields}] }} }}");
    let action = |count: usize, action: &str| {
        many(count).replace(" } }", &format!(" }}, append_action: {action} }}"))
    };
    let one = |name: &str, value: &str, more: &str| {
        format!("{{ header: {{ key: {name}, value: {value} }}{more} }}")
    };
    let refused = [
        "< 500",
        "log details=ext_authz_invalid",
        "log flags=UAEX",
        "stat http.@stat.ext_authz.invalid: 1",
        "stat http.@stat.ext_authz.request_header_limits_reached: 1",
    ];
    let replaced = [
        "< 500",
        "log details=ext_authz_invalid",
        "log flags=UAEX",
        "stat http.@stat.ext_authz.ok: 1",
        "stat http.@stat.ext_authz.invalid: 0",
        "stat http.@stat.ext_authz.response_header_limits_reached: 1",
    ];
    vec![
        limited("a request may get as many fields as a head may have", "", &set(&many(6)))
            .hcm(few)
            .get("/")
            .both()
            .shows(["< 200", "> x-5: v"]),
        limited("a request may not get more fields than a head may have", "", &set(&many(7)))
            .hcm(few)
            .get("/")
            .both()
            .shows(refused)
            .lacks(["> connection 1: GET / HTTP/1.1"]),
        limited("a request may not get longer fields than a head may have", "", &set(&one("x-a", &long, "")))
            .hcm(kib)
            .get("/")
            .shows(refused),
        limited("what is appended to a request is held against its limits", "", &set(&one("x-a", &long, ", append: true")))
            .hcm(kib)
            .send(get("/").field("x-a", "b"))
            .shows(refused),
        limited("a longer query is held against the limits of the head", "", &format!("{{ ok_response: {{ query_parameters_to_set: [{{ key: a, value: {long} }}] }} }}"))
            .hcm(kib)
            .get("/")
            .shows(refused),
        limited("a request that is too large already passes if it is not changed", "", YES)
            .hcm("common_http_protocol_options: { max_headers_count: 5 }")
            .get("/")
            .shows(["< 200"]),
        limited("a request may not get too many fields even if others are removed", "", "{ ok_response: { headers: [{ header: { key: x-0, value: a } }, { header: { key: x-1, value: a } }], headers_to_remove: [a, b, c, d, e] } }")
            .hcm(few)
            .send(get("/").field("a", "1").field("b", "1").field("c", "1").field("d", "1").field("e", "1"))
            .shows(refused),
        limited("a response gets more fields than its upstream may send", "", &of_response(&many(20)))
            .protocol_options(&small)
            .get("/")
            .shows(["< 200", "< x-19: v", "stat http.@stat.ext_authz.response_header_limits_reached: 0"]),
        limited("with enforce_response_header_limits a response may be full", enforced, &of_response(&many(5)))
            .protocol_options(&small)
            .get("/")
            .both()
            .shows(["< 200", "< x-4: v"]),
        limited("with enforce_response_header_limits too many fields replace the response", enforced, &of_response(&many(6)))
            .protocol_options(&small)
            .get("/")
            .both()
            .shows(replaced)
            .lacks(["< x-0: v", "< body hello"]),
        limited("fields that are set are held against the limits of a response", enforced, &of_response(&action(6, "OVERWRITE_IF_EXISTS_OR_ADD")))
            .protocol_options(&small)
            .get("/")
            .shows(replaced),
        limited("fields that are set only if they are absent are held against the limits of a response", enforced, &of_response(&action(6, "ADD_IF_ABSENT")))
            .protocol_options(&small)
            .get("/")
            .shows(replaced),
        limited("long fields replace the response", enforced, &of_response(&one("x-a", &long, "")))
            .protocol_options(&little)
            .get("/")
            .shows(replaced),
        limited("a field that becomes longer is held against the limits of a response", enforced, &of_response(&one("x-a", &long, ", append_action: OVERWRITE_IF_EXISTS")))
            .protocol_options(&little)
            .reply(reply(with_fields(ok("hello"), "x-a: b")))
            .get("/")
            .shows(replaced),
        limited("a field that is set again is held against the limits of a response", enforced, &of_response(&one("x-a", &long, ", append_action: OVERWRITE_IF_EXISTS_OR_ADD")))
            .protocol_options(&little)
            .reply(reply(with_fields(ok("hello"), "x-a: b")))
            .get("/")
            .shows(replaced),
        limited("answers of the proxy's own have no limit", enforced, &of_response(&many(120)))
            .routes("- match: { prefix: / }\n  @say(hi)")
            .get("/")
            .shows(["< 200", "< x-119: v"]),
        limited("denials have no limit", enforced, &format!("{{ status: {{ code: 7 }}, denied_response: {{ headers: [{}] }} }}", many(120)))
            .get("/")
            .shows(["< 403", "< x-119: v"]),
        limited("the limits of a response over HTTP/2 are those of its cluster", enforced, &of_response(&many(7)))
            .backend(Kind::Http2(vec![reply(ok("hello"))]))
            .protocol_options("explicit_http_config: { http2_protocol_options: {} }\ncommon_http_protocol_options: { max_headers_count: 8 }")
            .get("/")
            .shows(replaced),
    ]
}

fn silence() -> Vec<Case> {
    let failed = |case: Case| {
        case.get("/")
            .shows([
                "< 403",
                "log details=ext_authz_error",
                "log flags=UAEX",
                "stat http.@stat.ext_authz.error: 1",
            ])
            .lacks(["> connection*"])
    };
    let quick = "grpc_service: { timeout: 0.3s, envoy_grpc: { cluster_name: \"@authz\" } }";
    let refuse = |title, fields: &str| asked(title, &format!("{GRPC}, {fields}"), Kind::Refuse);
    vec![
        failed(with_script(
            "an error status of the call is an error",
            "",
            reply(grpc(ok(""), "grpc-status: 14")),
        )),
        failed(with_script(
            "permission denied as the status of the call is an error",
            "",
            reply(grpc(ok(""), "grpc-status: 7")),
        )),
        failed(asked(
            "an authorizer that hangs is an error",
            quick,
            Kind::Http2(vec![acts([pause(3000), Act::Respond(ok(""))])]),
        )),
        failed(asked(
            "an authorizer that stops in the middle is an error",
            quick,
            Kind::Http2(vec![acts([
                Act::Respond(with_fields(
                    ok("\0\0\0\0\x09ab"),
                    "content-type: application/grpc",
                )),
                pause(3000),
            ])]),
        )),
        failed(with_script(
            "an authorizer that resets the call is an error",
            "",
            acts([Act::Reset]),
        )),
        failed(refuse("an authorizer that is not there is an error", "")),
        failed(with_script(
            "an answer that is no message is an error",
            "",
            framed(b"\xff\xff\xff\xff"),
        )),
        failed(with_script(
            "an answer without a message is an error",
            "",
            reply(grpc(ok(""), "grpc-status: 0")),
        )),
        failed(with_script(
            "an answer that is a page is an error",
            "",
            reply(with_fields(ok("<html>"), "content-type: text/html")),
        )),
        failed(with_script(
            "an HTTP error of the authorizer is an error",
            "",
            reply(status(503, "")),
        )),
        refuse(
            "the status of errors may be another",
            "status_on_error: { code: ServiceUnavailable }",
        )
        .get("/")
        .shows(["< 503", "log details=ext_authz_error"]),
        refuse("errors may let pass", "failure_mode_allow: true")
            .get("/")
            .both()
            .stats([
                "cluster.@backend.ext_authz.error",
                "cluster.@backend.ext_authz.failure_mode_allowed",
            ])
            .shows([
                "< 200",
                "stat http.@stat.ext_authz.error: 1",
                "stat http.@stat.ext_authz.failure_mode_allowed: 1",
            ])
            .lacks(["> x-envoy-auth-failure*"]),
        refuse(
            "the upstream is told that nobody was asked",
            "failure_mode_allow: true, failure_mode_allow_header_add: true",
        )
        .get("/")
        .shows(["> x-envoy-auth-failure-mode-allowed: true"]),
        with("a denial is no failure", "failure_mode_allow: true", NO)
            .get("/")
            .shows(["< 403"]),
        with(
            "an authorizer that says it failed lets pass as well",
            "failure_mode_allow: true",
            "{ status: { code: 7 }, error_response: { status: { code: 503 } } }",
        )
        .get("/")
        .shows(["< 200"]),
        asked(
            "a client that leaves takes its question back",
            GRPC,
            Kind::Http2(vec![acts([pause(2000), Act::Respond(ok(""))])]),
        )
        .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .wait(300)
        .step(crate::case::Step::Close)
        .wait(300)
        .logs(1)
        .shows(["log flags=DC"]),
    ]
}

/// What an answer changes.
fn changes() -> Vec<Case> {
    let headers = |title, list: &str| {
        with(
            title,
            "",
            &format!("{{ ok_response: {{ headers: [{list}] }} }}"),
        )
    };
    let old = || get("/a?x=1&y=2").field("x-h", "old").field("x-h", "older");
    vec![
        headers("a field is replaced", "{ header: { key: X-H, value: new } }").send(old()).both().shows(["> x-h: new"]).lacks(["> x-h: old*"]),
        headers("a field is appended to one that is there", "{ header: { key: x-h, value: new }, append: true }").send(get("/").field("x-h", "old")).shows(["> x-h: old,new"]),
        headers("nothing is appended to what is not there", "{ header: { key: x-g, value: new }, append: true }").send(old()).shows(["< 200"]).lacks(["> x-g*"]),
        headers("an action that says add if absent replaces all the same", "{ header: { key: x-h, value: new }, append_action: ADD_IF_ABSENT }").send(old()).shows(["> x-h: new"]),
        headers("an action that says append replaces all the same", "{ header: { key: x-h, value: new }, append_action: APPEND_IF_EXISTS_OR_ADD }").send(old()).shows(["> x-h: new"]),
        headers("the value is text only", "{ header: { key: x-h, raw_value: bmV3 } }").send(old()).shows(["> x-h: "]),
        headers("set goes before append", "{ header: { key: x-h, value: b }, append: true }, { header: { key: x-h, value: a } }").send(old()).shows(["> x-h: a,b"]),
        headers("path, authority and method may be replaced", "{ header: { key: \":path\", value: /new } }, { header: { key: host, value: h } }, { header: { key: \":method\", value: PUT } }")
            .send(old())
            .shows(["> connection 1: PUT /new HTTP/1.1", "> host: h"]),
        with("fields are removed, but not what makes a request", "", "{ ok_response: { headers_to_remove: [X-H, \":path\", host, \":authority\"] } }")
            .send(old())
            .both()
            .shows(["> connection 1: GET /a?x=1&y=2 HTTP/1.1", "> host: example.com"])
            .lacks(["> x-h*"]),
        with("what is set is removed again", "", "{ ok_response: { headers: [{ header: { key: x-h, value: new } }], headers_to_remove: [x-h] } }").send(old()).shows(["< 200"]).lacks(["> x-h*"]),
        with("parameters of the query are set and removed", "", "{ ok_response: { query_parameters_to_set: [{ key: x, value: \"9%20\" }, { key: a, value: \"1\" }], query_parameters_to_remove: [\"y\"] } }")
            .send(old())
            .both()
            .shows(["> connection 1: GET /a?a=1&x=9%20 HTTP/1.1"]),
        with("the last parameter takes the question mark with it", "", "{ ok_response: { query_parameters_to_remove: [x, \"y\"] } }")
            .send(old())
            .shows(["> connection 1: GET /a HTTP/1.1"]),
        with(
            "fields of the response are added, set, added if absent and overwritten if there",
            "",
            "{ ok_response: { response_headers_to_add: [{ header: { key: x-a, value: \"1\" } }, { header: { key: x-b, value: \"2\" }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }, \
             { header: { key: x-a, value: \"3\" }, append_action: ADD_IF_ABSENT }, { header: { key: x-c, value: \"4\" }, append_action: ADD_IF_ABSENT }, \
             { header: { key: x-d, value: \"5\" }, append_action: OVERWRITE_IF_EXISTS }, { header: { key: x-e, value: \"6\" }, append_action: OVERWRITE_IF_EXISTS }, \
             { header: { key: x-f, value: \"7\" }, append: true }, { header: { key: x-g, value: \"8\" }, append: false }] } }",
        )
        .reply(reply(with_fields(ok("hello"), "x-a: 0\nx-b: 0\nx-d: 0\nx-f: 0\nx-g: 0")))
        .get("/")
        .both()
        .shows(["< x-a: 0", "< x-a: 1", "< x-b: 2", "< x-c: 4", "< x-d: 5", "< x-f: 0", "< x-f: 7", "< x-g: 8"])
        .lacks(["< x-e:*", "< x-a: 3"]),
        with("the response of a later filter is changed too", "", "{ ok_response: { response_headers_to_add: [{ header: { key: x-a, value: \"1\" } }] } }")
            .routes("- match: { prefix: / }\n  direct_response: { status: 204 }")
            .get("/")
            .shows(["< 204", "< x-a: 1"]),
        with("the route is chosen again if that is wanted", "clear_route_cache: true", "{ ok_response: { headers: [{ header: { key: x-to, value: b } }] } }")
            .routes("- match: { prefix: /, headers: [{ name: x-to, string_match: { exact: b } }] }\n  @say(b)\n- match: { prefix: / }\n  @say(a)")
            .get("/")
            .shows(["< body b"]),
        with("the route stays if nobody wants another", "", "{ ok_response: { headers: [{ header: { key: x-to, value: b } }] } }")
            .routes("- match: { prefix: /, headers: [{ name: x-to, string_match: { exact: b } }] }\n  @say(b)\n- match: { prefix: / }\n  @say(a)")
            .get("/")
            .shows(["< body a"]),
        with("only listed fields choose the route again", "clear_route_cache: true, clear_route_cache_headers: [x-other]", "{ ok_response: { headers: [{ header: { key: x-to, value: b } }] } }")
            .routes("- match: { prefix: /, headers: [{ name: x-to, string_match: { exact: b } }] }\n  @say(b)\n- match: { prefix: / }\n  @say(a)")
            .get("/")
            .shows(["< body a"]),
        with("a change behind a body chooses the route again", "clear_route_cache: true, with_request_body: { max_request_bytes: 100 }", "{ ok_response: { headers: [{ header: { key: x-to, value: b } }] } }")
            .routes("- match: { prefix: /, headers: [{ name: x-to, string_match: { exact: b } }] }\n  @say(b)\n- match: { prefix: / }\n  @say(a)")
            .send(request("POST", "/").body("hello"))
            .both()
            .shows(["< body b"]),
    ]
}

/// Which changes are let through.
fn rules() -> Vec<Case> {
    let invalid = |title, answer| {
        with(title, "validate_mutations: true", answer)
            .get("/")
            .stats(["cluster.@backend.ext_authz.invalid"])
            .shows([
                "< 500",
                "log details=ext_authz_invalid",
                "log flags=UAEX",
                "stat http.@stat.ext_authz.invalid: 1",
            ])
            .lacks(["> connection*"])
    };
    vec![
        invalid("a name that is none makes an answer invalid", "{ ok_response: { headers: [{ header: { key: \"x h\", value: a } }] } }"),
        invalid("a value of two lines makes an answer invalid", "{ ok_response: { headers: [{ header: { key: x-h, value: \"a\\nb\" } }] } }"),
        invalid("a bad field of the response makes an answer invalid", "{ ok_response: { response_headers_to_add: [{ header: { key: \"x h\", value: a } }] } }"),
        invalid("a bad parameter makes an answer invalid", "{ ok_response: { query_parameters_to_set: [{ key: \"a b\", value: c }] } }"),
        invalid("a bad field makes a denial invalid", "{ status: { code: 7 }, denied_response: { headers: [{ header: { key: x-h, value: \"a\\nb\" } }] } }"),
        with("a bad name may be removed", "validate_mutations: true", "{ ok_response: { headers_to_remove: [\"x h\"] } }").get("/").shows(["< 200"]),
        with(
            "rules leave out what is not allowed",
            "decoder_header_mutation_rules: { disallow_expression: { regex: \"x-no.*\" } }",
            "{ ok_response: { headers: [{ header: { key: x-no, value: a } }, { header: { key: x-yes, value: a } }, { header: { key: \":path\", value: /z } }, \
             { header: { key: x-envoy-a, value: a } }, { header: { key: host, value: a } }], headers_to_remove: [x-not] } }",
        )
        .send(get("/").field("x-not", "1"))
        .shows(["> x-yes: a", "> x-not: 1", "> connection 1: GET /z HTTP/1.1", "> host: example.com"])
        .lacks(["> x-no:*", "> x-envoy-a*"]),
        with("rules may make what is not allowed an error", "decoder_header_mutation_rules: { disallow_all: true, disallow_is_error: true }", "{ ok_response: { headers: [{ header: { key: x-no, value: a } }] } }")
            .get("/")
            .shows(["< 500", "log details=ext_authz_invalid"]),
        with("rules hold for what is removed", "decoder_header_mutation_rules: { disallow_all: true, disallow_is_error: true }", "{ ok_response: { headers_to_remove: [x-no] } }")
            .get("/")
            .shows(["< 500"]),
        with("rules let through what they name", "decoder_header_mutation_rules: { disallow_all: true, allow_expression: { regex: x-yes } }", "{ ok_response: { headers: [{ header: { key: x-yes, value: a } }, { header: { key: x-no, value: a } }] } }")
            .get("/")
            .shows(["> x-yes: a"])
            .lacks(["> x-no*"]),
    ]
}

/// What the authorizer is told.
fn questions() -> Vec<Case> {
    let many = || {
        get("/a?b=c")
            .field("x-a", "1")
            .field("x-a", "2")
            .field("x-b", "3")
            .field("authorization", "z")
            .field("x-envoy-downstream-service-cluster", "svc")
    };
    vec![
        with("fields that are repeated are told as one", "", YES).send(many()).both().shows(["> check headers x-a: 1,2", "> check source.service svc"]),
        with("only allowed fields are told", "allowed_headers: { patterns: [{ prefix: x- }, { exact: \":path\" }] }, disallowed_headers: { patterns: [{ exact: x-b }] }", YES)
            .send(many())
            .shows(["> check headers x-a: 1,2", "> check headers :path: /a?b=c"])
            .lacks(["> check headers x-b*", "> check headers authorization*", "> check headers :method*"]),
        with("fields are told as they came", "encode_raw_headers: true", YES)
            .send(many())
            .shows(["> check header_map x-a: \"\" raw 1", "> check header_map x-a: \"\" raw 2"]),
        with("a client cannot say that its body is a part", "", YES)
            .send(get("/").field("x-envoy-auth-partial-body", "true"))
            .shows(["< 200"])
            .lacks(["> check headers x-envoy-auth-partial-body*"]),
        with("who asks for TLS sessions gets one without TLS too", "include_tls_session: true, include_peer_certificate: true", YES)
            .get("/")
            .shows(["> check tls_session \"\""]),
        with("the client is told by its connection, not by what it forwards", "", YES)
            .hcm("use_remote_address: true\nxff_num_trusted_hops: 1")
            .send(get("/").field("x-forwarded-for", "10.1.2.3, 10.4.5.6"))
            .shows(["> check source 127.0.0.1"]),
        asked(
            "the authority and fields of the call are those of the service",
            "grpc_service: { timeout: 2s, envoy_grpc: { cluster_name: \"@authz\", authority: auth.example }, initial_metadata: [{ key: x-key, value: secret }] }",
            Kind::Http2(vec![says(YES)]),
        )
        .get("/")
        .shows(["> :authority: auth.example", "> x-key: secret"]),
    ]
}

fn bodies() -> Vec<Case> {
    let body =
        |title, settings: &str| with(title, &format!("with_request_body: {{ {settings} }}"), YES);
    let post = |body: &str| request("POST", "/").body(body);
    vec![
        body("a body is shown", "max_request_bytes: 5")
            .send(post("hello"))
            .both()
            .shows([
                "> check body hello",
                "> check headers x-envoy-auth-partial-body: false",
                "> body hello",
            ]),
        body(
            "a body may be shown as bytes",
            "max_request_bytes: 5, pack_as_bytes: true",
        )
        .send(post("hello"))
        .shows(["> check raw_body hello"]),
        body(
            "a body that is too long is refused before anybody is asked",
            "max_request_bytes: 5",
        )
        .send(post("hello!"))
        .shows(["< 413", "log details=request_payload_too_large"])
        .lacks(["> *"]),
        body(
            "a body that is too long is shown in part",
            "max_request_bytes: 5, allow_partial_message: true",
        )
        .send(post("hello world"))
        .both()
        .shows([
            "> check body hello",
            "> check headers x-envoy-auth-partial-body: true",
            "> body hello world",
        ]),
        body(
            "a request without body is asked about at once",
            "max_request_bytes: 5",
        )
        .get("/")
        .shows(["< 200"])
        .lacks(["> check headers x-envoy-auth-partial-body*"]),
        body(
            "a body that ends with trailers is shown",
            "max_request_bytes: 50",
        )
        .send(post("hello").chunked().trailer("x-t", "1"))
        .http2()
        .shows(["> check body hello", "> body hello"]),
        body("a body in chunks is shown whole", "max_request_bytes: 50")
            .send(post("hello").chunked())
            .shows(["> check body hello"]),
        with(
            "a denial of a request with body",
            "with_request_body: { max_request_bytes: 50 }",
            NO,
        )
        .send(post("hello"))
        .both()
        .shows(["< 403"])
        .lacks(["> connection*"]),
        with(
            "an upgrade has no body to show",
            "with_request_body: { max_request_bytes: 50 }",
            NO,
        )
        .hcm("upgrade_configs: [{ upgrade_type: websocket }]")
        .send(
            get("/")
                .field("connection", "upgrade")
                .field("upgrade", "websocket"),
        )
        .shows(["< 403"]),
    ]
}

fn switches() -> Vec<Case> {
    let off = "filter_enabled: { default_value: { numerator: 0 } }";
    let by_metadata = "filter_enabled_metadata: { filter: ns, path: [{ key: k }], value: { string_match: { exact: v } } }";
    let set = "- name: set\n  typed_config: { \"@type\": \"@http/set_metadata.v3.Config\", metadata: [{ metadata_namespace: ns, value: { k: v } }] }";
    let mut matched = with("metadata switches the filter on", by_metadata, NO)
        .get("/")
        .shows(["< 403"]);
    matched.filters = format!("{}{}", crate::case::dedent(set), matched.filters);
    vec![
        with("a filter that is off asks nobody", off, NO).get("/").shows(["< 200", "stat http.@stat.ext_authz.disabled: 1"]).lacks(["> authz*"]),
        with("a filter that is off may deny", &format!("{off}, deny_at_disable: {{ default_value: true, runtime_key: k }}, status_on_error: {{ code: ServiceUnavailable }}"), YES)
            .get("/")
            .shows(["< 503", "log details=ext_authz_error", "log flags=UAEX", "stat http.@stat.ext_authz.disabled: 1"]),
        with("a shadow notes that a filter that is off would deny", &format!("{off}, shadow_mode: true, deny_at_disable: {{ default_value: true, runtime_key: k }}, status_on_error: {{ code: ServiceUnavailable }}"), YES)
            .log_format("%RESPONSE_CODE% %RESPONSE_FLAGS% %FILTER_STATE(authz.shadow)%", "")
            .get("/")
            .stats(["http.@stat.ext_authz.shadow_denied"])
            .shows(["< 200", "stat http.@stat.ext_authz.disabled: 1", "stat http.@stat.ext_authz.shadow_denied: 1", "log 200 UAEX {\"checkResult\":\"DENIED\"*"]),
        with("what a shadow notes has fields", "shadow_mode: true", NO)
            .log_format("%FILTER_STATE(authz.shadow:FIELD:check_result)% %FILTER_STATE(authz.shadow:FIELD:status_code)% %FILTER_STATE(authz.shadow:PLAIN)%", "")
            .get("/")
            .shows(["log DENIED 403 {\"check_result\":\"DENIED\",\"status_code\":403}"]),
        with("without its metadata the filter is off", by_metadata, NO).get("/").shows(["< 200", "stat http.@stat.ext_authz.disabled: 1"]),
        matched,
        with("a shadow notes what it would have denied", "shadow_mode: true", "{ status: { code: 7 }, denied_response: { status: { code: 401 }, headers: [{ header: { key: x-h, value: a } }] } }")
            .log_format("%FILTER_STATE(authz.shadow)% %RESPONSE_FLAGS%", "")
            .deviates("the keys of an object are printed in the order of their names")
            .get("/")
            .stats(["http.@stat.ext_authz.shadow_denied"])
            .shows(["< 200", "stat http.@stat.ext_authz.shadow_denied: 1", "log {\"checkResult\":\"DENIED\"*"]),
        with("a shadow notes what it allows", "shadow_mode: true", "{ ok_response: { headers: [{ header: { key: x-h, value: a } }] } }")
            .log_format("%FILTER_STATE(authz.shadow)%", "")
            .get("/")
            .shows(["> x-h: a", "log {\"checkResult\":\"OK\",\"statusCode\":200}"]),
        with_script("a shadow notes errors", "shadow_mode: true, status_on_error: { code: ServiceUnavailable }", reply(grpc(ok(""), "grpc-status: 14")))
            .log_format("%FILTER_STATE(authz.shadow)%", "")
            .get("/")
            .stats(["http.@stat.ext_authz.shadow_error"])
            .shows(["< 200", "stat http.@stat.ext_authz.shadow_error: 1"]),
        with_script("a shadow that lets failures pass notes them", "shadow_mode: true, failure_mode_allow: true", reply(grpc(ok(""), "grpc-status: 14")))
            .log_format("%FILTER_STATE(authz.shadow)%", "")
            .get("/")
            .stats(["http.@stat.ext_authz.shadow_error"])
            .shows(["< 200"]),
    ]
}

/// With this configuration of the route, and perhaps of its virtual host.
fn routed(case: Case, route: &str, vhost: &str) -> Case {
    let per = |settings: &str| match settings {
        "" => String::new(),
        settings => format!(
            "typed_per_filter_config: {{ authz: {{ \"@type\": \"@http/ext_authz.v3.ExtAuthzPerRoute\", {settings} }} }}"
        ),
    };
    case.vhosts(&format!(
        "- name: v\n  domains: [\"*\"]\n  routes:\n  - match: {{ prefix: / }}\n    route: {{ cluster: @backend }}\n    {}\n  {}",
        per(route),
        per(vhost)
    ))
}

fn routes() -> Vec<Case> {
    let other = "check_settings: { grpc_service: { timeout: 2s, envoy_grpc: { cluster_name: \"@other\" } } }";
    let buffered = "with_request_body: { max_request_bytes: 5 }";
    let post = || request("POST", "/").body("hello world");
    vec![
        routed(with("a route may ask nobody", "deny_at_disable: { default_value: true, runtime_key: k }", NO), "disabled: true", "")
            .get("/")
            .shows(["< 200", "stat http.@stat.ext_authz.disabled: 0"]),
        routed(with("a route may ask where its virtual host does not", "", NO), "check_settings: {}", "disabled: true").get("/").shows(["< 403"]),
        routed(
            with("what routes and virtual hosts say is told together", "", YES),
            "check_settings: { context_extensions: { a: route, b: route } }",
            "check_settings: { context_extensions: { a: host, c: host } }",
        )
        .get("/")
        .shows(["> check context_extensions a: route", "> check context_extensions b: route", "> check context_extensions c: host"]),
        routed(with("a route may show no body", buffered, YES), "check_settings: { disable_request_body_buffering: true }", "")
            .send(post())
            .shows(["< 200"])
            .lacks(["> check body*"]),
        routed(with("a route may show more of a body", buffered, YES), "check_settings: { with_request_body: { max_request_bytes: 8, allow_partial_message: true } }", "")
            .send(post())
            .shows(["> check body hello wo"]),
        routed(with("a route may show a body where the filter does not", "", YES), "check_settings: { with_request_body: { max_request_bytes: 50 } }", "")
            .send(post())
            .shows(["> check body hello world"]),
        routed(with("a route may ask another authorizer", "", NO), other, "")
            .and_backend("other", Kind::Http2(vec![says(YES)]))
            .get("/")
            .shows(["< 200"])
            .lacks(["> authz*"]),
        routed(
            with("a route may ask by HTTP", "", NO),
            "check_settings: { http_service: { path_prefix: /auth, server_uri: { uri: \"http://a\", cluster: \"@other\", timeout: 2s } } }",
            "",
        )
        .and_backend("other", http1(reply(ok(""))))
        .get("/p")
        .shows(["< 200", "> other connection 1: GET /auth/p HTTP/1.1"]),
        routed(with("an authorizer of the virtual host is not that of its route", "", NO), "check_settings: {}", other)
            .and_backend("other", Kind::Http2(vec![says(YES)]))
            .get("/")
            .shows(["< 403"]),
        with("a request without route is not asked about", "", NO)
            .routes("- match: { prefix: /a }\n  route: { cluster: @backend }")
            .get("/")
            .shows(["< 404"])
            .lacks(["> authz*"]),
    ]
}

fn metadata() -> Vec<Case> {
    let answer = "{ dynamic_metadata: { k: v } }";
    let log = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:k)%";
    let set = "- name: set\n  typed_config: { \"@type\": \"@http/set_metadata.v3.Config\", metadata: [{ metadata_namespace: ns, value: { k: v, n: 1 } }, { metadata_namespace: other, value: { k: v } }] }";
    let mut told = with(
        "metadata of a namespace is told",
        "metadata_context_namespaces: [ns, missing]",
        YES,
    )
    .get("/");
    told.filters = format!("{}{}", crate::case::dedent(set), told.filters);
    vec![
        with("what the authorizer says becomes metadata", "", answer)
            .log_format(log, "")
            .get("/")
            .shows(["log v"]),
        with(
            "what the authorizer says of a denial becomes metadata",
            "",
            "{ status: { code: 7 }, dynamic_metadata: { k: v } }",
        )
        .log_format(
            &format!("{log} %DYNAMIC_METADATA(envoy.filters.http.ext_authz:ext_authz_duration)%"),
            "",
        )
        .get("/")
        .shows(["log v -"]),
        with("how long it took becomes metadata", "", answer)
            .log_format(
                "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:ext_authz_duration)%",
                "",
            )
            .digits_aside()
            .get("/")
            .shows(["log N"]),
        with(
            "metadata of the older field becomes metadata",
            "",
            "{ ok_response: { dynamic_metadata: { k: w } } }",
        )
        .log_format(log, "")
        .get("/")
        .shows(["log w"]),
        with(
            "metadata of the authorizer may be ignored",
            "enable_dynamic_metadata_ingestion: false",
            answer,
        )
        .log_format(log, "")
        .get("/")
        .stats(["http.@stat.ext_authz.ignored_dynamic_metadata"])
        .shows([
            "log -",
            "stat http.@stat.ext_authz.ignored_dynamic_metadata: 1",
        ]),
        told.shows(["> check metadata_context ns*"])
            .lacks(["> check metadata_context other*"]),
        with(
            "metadata of the route is told",
            "route_metadata_context_namespaces: [rm]",
            YES,
        )
        .route(
            "",
            "metadata: { filter_metadata: { rm: { z: 1 }, other: { z: 2 } } }",
        )
        .get("/")
        .shows(["> check route_metadata_context rm*"])
        .lacks(["> check route_metadata_context other*"]),
        with(
            "how long it took stands in the filter state",
            "emit_filter_state_stats: true",
            YES,
        )
        .log_format("%FILTER_STATE(authz:FIELD:latency_us)%", "")
        .digits_aside()
        .get("/")
        .shows(["log N"]),
    ]
}

/// A filter that asks by HTTP.
fn http(title: &'static str, service: &str, fields: &str, script: Script) -> Case {
    let service = format!(
        "http_service: {{ server_uri: {{ uri: \"http://auth.example/ignored\", cluster: \"@authz\", timeout: 2s }}, {service} }}, {fields}"
    );
    asked(title, &service, http1(script))
}

fn by_http() -> Vec<Case> {
    let yes = || reply(ok(""));
    let many = || {
        get("/a?b=c")
            .field("x-a", "1")
            .field("x-a", "2")
            .field("other", "3")
            .field("authorization", "z")
    };
    let allowed = "allowed_headers: { patterns: [{ prefix: x- }] }";
    vec![
        http("by HTTP the authorizer sees the target and the credentials", "", "", yes())
            .send(many())
            .both()
            .shows(["< 200", "> authz connection 1: GET /a?b=c HTTP/1.1", "> host: example.com", "> authorization: z", "> content-length: 0"]),
        http("by HTTP allowed fields are seen", "", allowed, yes()).send(many()).shows(["> x-a: 1,2"]),
        http("by HTTP the older list of allowed fields counts too", "authorization_request: { allowed_headers: { patterns: [{ exact: other }] } }", "", yes())
            .send(many())
            .shows(["> other: 3"]),
        http("by HTTP fields are seen as they came", "", &format!("{allowed}, encode_raw_headers: true"), yes())
            .send(many())
            .shows(["> x-a: 1", "> x-a: 2"]),
        http("by HTTP the path gets a prefix", "path_prefix: /auth", "", yes()).send(many()).shows(["> authz connection 1: GET /auth/a?b=c HTTP/1.1"]),
        http("by HTTP the path may be another", "path_override: /check", "", yes()).send(many()).shows(["> authz connection 1: GET /check HTTP/1.1"]),
        http(
            "by HTTP fields are added",
            "path_prefix: /auth, authorization_request: { headers_to_add: [{ key: x-a, value: new }, { key: x-p, value: \"%REQ(:path)%\" }] }",
            allowed,
            yes(),
        )
        .send(many())
        .shows(["> x-a: new", "> x-p: /a?b=c"]),
        http("by HTTP the method is that of the request", "", "", yes())
            .send(request("PUT", "/").body("hello"))
            .shows(["> authz connection 1: PUT / HTTP/1.1", "> content-length: 0"]),
        http("by HTTP a body is seen", "", "with_request_body: { max_request_bytes: 5, allow_partial_message: true }", yes())
            .send(request("POST", "/").body("hello world"))
            .shows(["> body hello", "> content-length: 5", "> x-envoy-auth-partial-body: true"]),
    ]
}

fn http_answers() -> Vec<Case> {
    const FIELDS: &str = "x-a: 1\nx-a: 2\nx-b: 3\nset-cookie: c=1\nset-cookie: c=2\nwww-authenticate: Basic\nlocation: /in\ncontent-type: text/x";
    let answer = |code, body: &str| reply(with_fields(status(code, body), FIELDS));
    let old = || {
        get("/")
            .field("x-a", "0")
            .field("x-b", "0")
            .field("x-r", "0")
    };
    let failed = |case: Case| {
        case.get("/").shows([
            "< 403",
            "log details=ext_authz_error",
            "stat http.@stat.ext_authz.error: 1",
        ])
    };
    vec![
        http("by HTTP the fields of success go nowhere", "", "", answer(200, "hidden")).send(old()).shows(["> x-a: 0"]).lacks(["< x-a*", "< set-cookie*"]),
        http(
            "by HTTP listed fields of success go upstream and to the client",
            "authorization_response: { allowed_upstream_headers: { patterns: [{ exact: x-a }] }, allowed_upstream_headers_to_append: { patterns: [{ exact: x-b }] }, \
             allowed_client_headers_on_success: { patterns: [{ exact: set-cookie }] } }",
            "",
            answer(200, ""),
        )
        .send(old())
        .both()
        .shows(["> x-a: 2", "> x-b: 0", "> x-b: 3", "< set-cookie: c=1", "< set-cookie: c=2"]),
        http("by HTTP success names the fields to remove", "", "", reply(with_fields(ok(""), "x-envoy-auth-headers-to-remove: x-r, X-B,:path")))
            .send(old())
            .shows(["> x-a: 0", "> connection 1: GET / HTTP/1.1"])
            .lacks(["> x-r:*", "> x-b*"]),
        http("by HTTP fields become metadata", "authorization_response: { dynamic_metadata_from_headers: { patterns: [{ exact: x-a }, { exact: x-b }] } }", "", answer(200, ""))
            .log_format("%DYNAMIC_METADATA(envoy.filters.http.ext_authz:x-a)% %DYNAMIC_METADATA(envoy.filters.http.ext_authz:x-b)%", "")
            .get("/")
            .shows(["log 2 3"]),
        http("by HTTP a denial is passed on whole", "", "", answer(401, "no"))
            .get("/")
            .both()
            .shows(["< 401", "< x-a: 1", "< x-a: 2", "< set-cookie: c=1", "< set-cookie: c=2", "< content-type: text/x", "< body no", "log details=ext_authz_denied"]),
        http("by HTTP only listed fields of a denial are passed on", "authorization_response: { allowed_client_headers: { patterns: [{ exact: x-b }] } }", "", answer(401, "no"))
            .get("/")
            .shows(["< 401", "< x-b: 3", "< www-authenticate: Basic", "< location: /in"])
            .lacks(["< x-a*", "< set-cookie*"]),
        http("by HTTP a redirect is a denial", "", "", answer(302, "")).get("/").shows(["< 302", "< location: /in"]),
        http("by HTTP another success is a denial", "", "", reply(status(201, ""))).get("/").shows(["< 201", "log details=ext_authz_denied"]),
        failed(http("by HTTP a status above 499 is an error", "", "", reply(status(503, "oh")))),
        failed(http("by HTTP rubbish is an error", "", "", raw("rubbish\r\n\r\n"))),
        failed(http("by HTTP half an answer is an error", "", "", acts([crate::case::send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), Act::Close]))),
        failed(asked(
            "by HTTP an authorizer that hangs is an error",
            "http_service: { server_uri: { uri: \"http://a\", cluster: \"@authz\", timeout: 0.3s } }",
            http1(late(3000, "")),
        )),
        asked(
            "by HTTP it is asked again",
            "http_service: { server_uri: { uri: \"http://a\", cluster: \"@authz\", timeout: 2s }, retry_policy: { num_retries: 2, retry_on: 5xx, retry_back_off: { base_interval: 0.01s } } }",
            Kind::Http2(vec![reply(status(503, ""))]),
        )
        .get("/")
            .shows(["< 403", "> authz connection 1: HTTP/2", "> authz connection 1: HTTP/2", "> authz connection 1: HTTP/2", "> x-envoy-expected-rq-timeout-ms: 100"]),
    ]
}

/// How it is called by gRPC.
fn grpc_calls() -> Vec<Case> {
    let unavailable = || {
        let head = "content-type: application/grpc\ngrpc-status: 14";
        reply(with_fields(ok(""), head))
    };
    let called = |title, of_cluster: &str, of_service: &str, scripts| {
        let fields = format!(
            "grpc_service: {{ timeout: 2s, envoy_grpc: {{ cluster_name: \"@authz\", {of_cluster} }}, {of_service} }}"
        );
        asked(title, &fields, Kind::Http2(scripts))
    };
    let twice = |retry_on: &str| {
        format!(
            "retry_policy: {{ {retry_on} num_retries: 2, retry_back_off: {{ base_interval: 0.01s }} }}"
        )
    };
    let unavailable_first = || vec![unavailable(), unavailable(), says(YES)];
    vec![
        called("by gRPC it is asked again", "", &twice("retry_on: unavailable,"), unavailable_first())
            .get("/")
            .stats(["cluster.@authz.upstream_rq_retry"])
            .shows(["< 200", "stat cluster.@authz.upstream_rq_retry: 2"]),
        called("by gRPC it is asked again at other hosts", "", &twice("retry_on: unavailable, retry_host_predicate: [{ name: p, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } }], host_selection_retry_max_attempts: 2,"), unavailable_first())
            .get("/")
            .shows(["< 200"]),
        called("by gRPC a policy has to say what is tried again", "", &twice(""), unavailable_first())
            .get("/")
            .stats(["cluster.@authz.upstream_rq_retry"])
            .shows(["< 403", "stat cluster.@authz.upstream_rq_retry: 0"]),
        called("the retry_policy of envoy_grpc is not for calls", &twice("retry_on: unavailable,"), "", unavailable_first())
            .get("/")
            .stats(["cluster.@authz.upstream_rq_retry"])
            .shows(["< 403", "stat cluster.@authz.upstream_rq_retry: 0"]),
        called("initial_metadata tells of the request", "", "initial_metadata: [{ key: X-Said, value: \"%REQ(:path)% %PROTOCOL% 100%%\" }, { key: x-none, value: \"%REQ(x-none)%\" }, { key: x-bytes, raw_value: AAEC }]", vec![says(YES)])
            .get("/a?b=c")
            .shows(["< 200", "> x-said: /a?b=c HTTP/1.1 100%"])
            .lacks(["> x-none*", "> x-bytes*"]),
        called("skip_envoy_headers leaves the fields of the proxy out", "skip_envoy_headers: true", "", vec![says(YES)])
            .get("/")
            .shows(["< 200", "> authz connection 1: HTTP/2"])
            .lacks(["> x-envoy-internal*"]),
    ]
}

/// Answers that would break what is sent on.
fn broken() -> Vec<Case> {
    let changed = |title, field: &str| {
        with(
            title,
            "",
            &format!("{{ ok_response: {{ headers: [{{ header: {{ {field} }} }}] }} }}"),
        )
        .log_format(
            "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%",
            "",
        )
        .get("/")
        .both()
        .lacks(["> connection*"])
    };
    vec![
        changed("a value that would end a line is not sent on", "key: x-a, value: \"a\\r\\nb: c\"")
            .shows(["< 503", "< body invalid header value for: x-a", "log 503 DPE filter_removed_required_request_headers{invalid_header_value_for:_x-a}"]),
        changed("a name that is no token is not sent on", "key: \"a b\", value: c")
            .shows(["< 503", "< body invalid header name: a b", "log 503 DPE filter_removed_required_request_headers{invalid_header_name:_a_b}"]),
        with("another body of a denial is plain text", "", "{ status: { code: 7 }, denied_response: { status: { code: 401 }, body: old, headers: [{ header: { key: content-type, value: text/x } }] } }")
            .hcm("local_reply_config: { mappers: [{ filter: { status_code_filter: { comparison: { op: EQ, value: { default_value: 401, runtime_key: z } } } }, body: { inline_string: new } }] }")
            .get("/")
            .shows(["< 401", "< content-type: text/plain", "< body new"]),
        http("by HTTP a header to add without a value is left out", "authorization_request: { headers_to_add: [{ key: x-none, value: \"%REQ(x-none)%\" }, { key: x-empty, value: \"\" }, { key: x-some, value: \"%REQ(:path)%\" }] }", "", reply(ok("")))
            .get("/a")
            .shows(["< 200", "> x-some: /a"])
            .lacks(["> x-none*", "> x-empty*"]),
    ]
}

/// What the network filter leaves behind.
fn connection_logs() -> Vec<Case> {
    const LOG: &str = "access_log: [{ name: file, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: @log, log_format: { text_format_source: { inline_string: \"flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% closed=%CONNECTION_TERMINATION_DETAILS% state=%FILTER_STATE(envoy.filters.network.ext_authz)% plain=%FILTER_STATE(envoy.filters.network.ext_authz:PLAIN)% result=%FILTER_STATE(envoy.filters.network.ext_authz:FIELD:check_result)% status=%FILTER_STATE(envoy.filters.network.ext_authz:FIELD:status_code)% took=%DYNAMIC_METADATA(envoy.filters.network.ext_authz:ext_authz_duration)% k=%DYNAMIC_METADATA(envoy.filters.network.ext_authz:k)%\\n\" } } } }]";
    let logged = |title, fields: &str, script: Script| {
        case(title)
            .network(&format!(
                "- name: authz\n  typed_config: {{ \"@type\": \"@net/ext_authz.v3.ExtAuthz\", stat_prefix: \"@stat\", transport_api_version: V3, {GRPC}, {fields} }}\n\
                 - name: tcp\n  typed_config: {{ \"@type\": \"@net/tcp_proxy.v3.TcpProxy\", stat_prefix: tcp, cluster: \"@backend\", {LOG} }}"
            ))
            .access_log("- { name: none }")
            .and_backend("authz", Kind::Http2(vec![script]))
            .backend(Kind::Tcp(vec![vec![Act::Read(4), crate::case::send("pong")]]))
            .logs(1)
            .stats(["ext_authz.@stat.cx_closed", "ext_authz.@stat.denied", "ext_authz.@stat.error", "ext_authz.@stat.ok"])
    };
    let closed = |case: Case| {
        case.bytes("ping")
            .step(crate::case::Step::ReadToEnd)
            .ends_somehow()
    };
    let served = |case: Case| {
        case.bytes("ping")
            .step(crate::case::Step::ReadBytes(4))
            .step(crate::case::Step::Close)
            .shows(["< bytes pong", "stat ext_authz.@stat.cx_closed: 0"])
    };
    let denial = || {
        says(
            "{ status: { code: 7 }, denied_response: { status: { code: 401 } }, dynamic_metadata: { k: v } }",
        )
    };
    let failure = || reply(grpc(ok(""), "grpc-status: 13"));
    vec![
        closed(logged("a denied connection has a flag and details", "", denial()))
            .shows(["log flags=UAEX details=ext_authz_denied closed=- state=- plain=- result=- status=- took=- k=v"]),
        closed(logged("a connection whose authorizer fails has a flag and details", "", failure()))
            .shows(["log flags=UAEX details=ext_authz_error closed=-*"]),
        closed(logged("without TLS there is no alert on a denial", "send_tls_alert_on_denial: true", denial()))
            .shows(["log flags=UAEX details=ext_authz_denied*"]),
        served(logged("an allowed connection tells how long that took", "", says("{ dynamic_metadata: { k: v } }")))
            .digits_aside()
            .shows(["log flags=- details=- closed=- state=- plain=- result=- status=- took=N k=v"]),
        served(logged("a shadow of connections notes what it would have denied", "shadow_mode: true", denial()))
            .shows(["stat ext_authz.@stat.denied: 1", "log flags=- details=- closed=- state={\"checkResult\":\"DENIED\",\"statusCode\":401} plain={\"check_result\":\"DENIED\",\"status_code\":401} result=DENIED status=401 took=- k=v"]),
        served(logged("a shadow of connections notes errors", "shadow_mode: true", failure()))
            .shows(["stat ext_authz.@stat.error: 1", "log flags=- details=- closed=- state={\"checkResult\":\"ERROR\"}*"]),
        served(logged("a shadow of connections notes what it allows", "shadow_mode: true", says(YES)))
            .digits_aside()
            .shows(["stat ext_authz.@stat.ok: 1", "log flags=- details=- closed=- state={\"checkResult\":\"OK\"}*"]),
    ]
}

/// The network filter.
fn connections() -> Vec<Case> {
    let tcp = |title, fields: &str, kind: Kind| {
        let mut case = case(title)
            .network(&format!(
                "- name: authz\n  typed_config: {{ \"@type\": \"@net/ext_authz.v3.ExtAuthz\", stat_prefix: \"@stat\", transport_api_version: V3, {GRPC}, {fields} }}\n\
                 - name: tcp\n  typed_config: {{ \"@type\": \"@net/tcp_proxy.v3.TcpProxy\", stat_prefix: tcp, cluster: \"@backend\" }}"
            ))
            .access_log("[]")
            .and_backend("authz", kind);
        for counter in [
            "total",
            "ok",
            "denied",
            "error",
            "disabled",
            "failure_mode_allowed",
            "cx_closed",
            "active",
        ] {
            case.stats.push(format!("ext_authz.@stat.{counter}"));
        }
        case
    };
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    vec![
        tcp("a connection that the authorizer allows goes on", "include_tls_session: true", Kind::Http2(vec![says(YES)]))
            .raw(get)
            .shows(["< 200", "> check source 127.0.0.1", "> check tls_session \"\"", "stat ext_authz.@stat.ok: 1"]),
        tcp("a connection that the authorizer denies is closed", "", Kind::Http2(vec![says(NO)]))
            .bytes(get)
            .step(crate::case::Step::AwaitClose(std::time::Duration::from_secs(2)))
            .ends_somehow()
            .shows(["stat ext_authz.@stat.denied: 1", "stat ext_authz.@stat.cx_closed: 1"])
            .lacks(["> connection*"]),
        tcp("a connection without an authorizer is closed", "", Kind::Refuse)
            .bytes(get)
            .step(crate::case::Step::AwaitClose(std::time::Duration::from_secs(2)))
            .ends_somehow()
            .shows(["stat ext_authz.@stat.error: 1", "stat ext_authz.@stat.cx_closed: 1"]),
        tcp("a connection without an authorizer may go on", "failure_mode_allow: true", Kind::Refuse)
            .raw(get)
            .shows(["< 200", "stat ext_authz.@stat.failure_mode_allowed: 1"]),
        tcp("a connection without the metadata is not asked about, with each piece of it", "filter_enabled_metadata: { filter: ns, path: [{ key: k }], value: { string_match: { exact: v } } }", Kind::Http2(vec![says(NO)]))
            .raw(get)
            .shows(["< 200", "stat ext_authz.@stat.disabled: 2"]),
    ]
}
