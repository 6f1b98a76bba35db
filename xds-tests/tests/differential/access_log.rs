//! Access logs: formats, operators and filters.

use crate::case::{
    Case, Kind, With, case, get, late, ok, reply, request, status, with_fields, with_trailers,
};

pub fn cases() -> Vec<Case> {
    [formats(), operators(), xfcc(), filters()]
        .into_iter()
        .flatten()
        .collect()
}

/// The usual file logger with these lines in place of its format.
fn logger(fields: &str) -> String {
    format!(
        "- name: file\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: @log\n{}",
        crate::case::indent(fields, 4)
    )
}

fn formats() -> Vec<Case> {
    vec![
        case("JSON keeps types and sorts its keys")
            .access_log(&logger("
                log_format:
                  json_format:
                    z: \"%PROTOCOL%\"
                    a: \"%RESPONSE_CODE%\"
                    m: \"%REQ(x-none)%\"
                    text: \"code %RESPONSE_CODE%\"
                    deep: { b: \"%BYTES_SENT%\", list: [\"%RESPONSE_FLAGS%\", 1, true] }"))
            .get("/")
            .shows(["log {\"a\":200,*"]),
        case("JSON can leave out empty values")
            .access_log(&logger("
                log_format:
                  json_format: { a: \"%REQ(x-none)%\", b: \"%PROTOCOL%\" }
                  omit_empty_values: true"))
            .get("/")
            .shows(["log {\"b\":\"HTTP/1.1\"}"]),
        case("JSON escapes what needs it")
            .access_log(&logger("log_format: { json_format: { a: \"%REQ(x-h)%\" } }"))
            .send(get("/").field("x-h", "quote \" backslash \\ slash / tab"))
            .shows(["log {\"a\":\"quote *"]),
        case("text can leave out empty values")
            .access_log(&logger("log_format: { text_format_source: { inline_string: \"[%REQ(x-none)%][%PROTOCOL%]\\n\" }, omit_empty_values: true }"))
            .get("/")
            .shows(["log [][HTTP/1.1]"]),
        case("the default format")
            .access_log(&logger(""))
            .send(get("/p").field("user-agent", "me").field("x-forwarded-for", "203.0.113.7"))
            .digits_aside()
            .shows(["log [N-N-NTN:N:N.NZ] \"GET /p HTTP/N.N\" N - N N N N \"N.N.N.N\" \"me\" \"(uuid)\" \"example.com\" \"N.N.N.N:@port:backend\""]),
        case("two loggers write the same line each")
            .access_log(&(logger("log_format: { text_format_source: { inline_string: \"one\\n\" } }") + &logger("log_format: { text_format_source: { inline_string: \"two\\n\" } }")))
            .get("/")
            .logs(2)
            .shows(["log one", "log two"]),
    ]
}

fn operators() -> Vec<Case> {
    let logged = |title, format: &str| case(title).log_format(format, "");
    vec![
        logged("REQ has an alternative and a length", "%REQ(x-none?x-h)% %REQ(x-h):2% %REQ(x-none)%")
            .send(get("/").field("x-h", "value"))
            .both()
            .shows(["log value va -"]),
        logged("a header given twice is logged with its first value", "%REQ(x-h)%")
            .send(get("/").field("x-h", "1").field("x-h", "2"))
            .shows(["log 1"]),
        logged("RESP and TRAILER read the response", "%RESP(x-r)% %RESP(content-type)% %TRAILER(x-t)%")
            .upstream_http2()
            .reply(reply(with_trailers(with_fields(ok("y"), "x-r: r"), "x-t: t")))
            .get("/")
            .http2()
            .shows(["log r - t"]),
        logged("addresses with and without port", "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT% %DOWNSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_PORT% %UPSTREAM_HOST%")
            .get("/")
            .shows(["log 127.0.0.1 @port 127.0.0.1:(port) 127.0.0.1:@port:backend @port:backend 127.0.0.1:@port:backend"]),
        logged("header bytes and wire bytes are counted", "%REQUEST_HEADERS_BYTES% %DOWNSTREAM_HEADER_BYTES_RECEIVED% %UPSTREAM_HEADER_BYTES_RECEIVED% %DOWNSTREAM_WIRE_BYTES_RECEIVED% %UPSTREAM_WIRE_BYTES_RECEIVED%")
            .raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["log 142 8 *"]),
        logged("durations that did not happen are a dash", "%RESPONSE_DURATION% %RESPONSE_TX_DURATION%")
            .routes("- { match: { prefix: / }, @say(a) }")
            .get("/")
            .shows(["log - -"]),
        logged("durations are whole numbers", "%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%")
            .get("/")
            .digits_aside()
            .shows(["log N N N N N"]),
        logged("START_TIME takes a format", "%START_TIME(%Y/%m/%dT%H:%M:%S%z %s %3f %6f %9f)%")
            .get("/")
            .digits_aside()
            .shows(["log N/N/NTN:N:N+N N N N N"]),
        logged("START_TIME without format has milliseconds", "%START_TIME% %START_TIME(%s.%3f)%")
            .get("/")
            .digits_aside()
            .shows(["log N-N-NTN:N:N.NZ N.N"]),
        logged("flags have a long form", "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["log UF UpstreamConnectionFailure"]),
        logged("the route's and cluster's metadata is read", "%METADATA(ROUTE:ns:key)% %METADATA(CLUSTER:ns:key)% %METADATA(ROUTE:ns)% %METADATA(ROUTE:none)%")
            .cluster("metadata: { filter_metadata: { ns: { key: cluster } } }")
            .route("", "metadata: { filter_metadata: { ns: { key: route } } }")
            .get("/")
            .shows(["log route cluster {\"key\":\"route\"} -"]),
        logged("names that were not given are a dash", "%ROUTE_NAME% %VIRTUAL_CLUSTER_NAME% %FILTER_CHAIN_NAME%")
            .get("/")
            .shows(["log - - -"]),
        logged("the environment is read", "%ENVIRONMENT(OUTRIGGER_NOT_SET)% %ENVIRONMENT(HOME)%")
            .get("/")
            .shows(["log - /*"]),
        logged("the response code details of an upstream's answer", "%RESPONSE_CODE_DETAILS% %RESPONSE_CODE%")
            .reply(reply(status(404, "")))
            .get("/")
            .shows(["log via_upstream 404"]),
        logged("details with blanks have underscores", "%RESPONSE_CODE_DETAILS%")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["log upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"]),
        logged("the attempts and protocol of the upstream", "%UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_PROTOCOL% %UPSTREAM_TRANSPORT_FAILURE_REASON%")
            .upstream_http2()
            .get("/")
            .shows(["log 1 HTTP/2 -"]),
        logged("the path has parts", "%PATH(NQ)% %PATH(WQ)% %PATH(NQ:ORIG)% %QUERY_PARAM(q)% %QUERY_PARAMS(ORIG)%")
            .routes("- { match: { prefix: /a }, route: { cluster: @backend, prefix_rewrite: /b } }")
            .get("/a?q=1&r=2")
            .shows(["log /a /a?q=1&r=2 /a 1 q=1&r=2"]),
        logged("alt_stat_name is the cluster's name beside the raw one", "%UPSTREAM_HOST_NAME% %UPSTREAM_CLUSTER_RAW% %UPSTREAM_CLUSTER%")
            .cluster("alt_stat_name: alternative_@stat")
            .get("/")
            .shows(["log 127.0.0.1:@port:backend @backend alternative_@stat"]),
        logged("the body of a local reply is not known to access loggers", "[%LOCAL_REPLY_BODY%]")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["log []"]),
        logged("STREAM_ID is the request id", "%STREAM_ID% %REQ(x-request-id)%")
            .get("/")
            .shows(["log (uuid) (uuid)"]),
        logged("the bytes of both bodies are counted", "%BYTES_RECEIVED% %BYTES_SENT%")
            .send(request("POST", "/").body("12345678"))
            .both()
            .shows(["log 8 5"]),
        logged("a request that never got a response has code 0", "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT%")
            .reply(late(1500, "x"))
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(150)
            .step(crate::case::Step::Close)
            .logs(1)
            .shows(["log 0 DC 0"]),
    ]
}

fn xfcc() -> Vec<Case> {
    let logged = |title, format: &str, header: &str| {
        case(title)
            .hcm("forward_client_cert_details: ALWAYS_FORWARD_ONLY")
            .log_format(format, "")
            .send(get("/").field("x-forwarded-client-cert", header))
    };
    vec![
        logged(
            "XFCC_VALUE reads one value",
            "%XFCC_VALUE(uri)% %XFCC_VALUE(By)% %XFCC_VALUE(hash)% %XFCC_VALUE(dns)%",
            "By=spiffe://a;Hash=abc;URI=spiffe://b",
        )
        .both()
        .shows(["log spiffe://b spiffe://a abc -"]),
        logged(
            "XFCC_VALUE takes the first element that has it",
            "%XFCC_VALUE(uri)% %XFCC_VALUE(hash)%",
            "Hash=1,Hash=2;URI=b,URI=c",
        )
        .shows(["log b 1"]),
        logged(
            "XFCC_VALUE takes quotes and escapes away",
            "%XFCC_VALUE(subject)%|%XFCC_VALUE(uri)%",
            r#"Subject="CN=a,O=\"b;c\" \\";URI=d"#,
        )
        .shows([r#"log CN=a,O="b;c" \|d"#]),
        logged(
            "XFCC_VALUE finds nothing behind a quote without end",
            "%XFCC_VALUE(uri)% %XFCC_VALUE(hash)%",
            r#"Hash=1,Subject="x;URI=d"#,
        )
        .shows(["log - 1"]),
        logged(
            "XFCC_VALUE looks at spaces and empty values",
            "[%XFCC_VALUE(uri)%][%XFCC_VALUE(dns)%][%XFCC_VALUE(cert)%]",
            "URI=; DNS = a ;Cert",
        )
        .shows(["log [][a][]"]),
        case("XFCC_VALUE without header is a dash")
            .log_format("%XFCC_VALUE(chain)%", "")
            .get("/")
            .shows(["log -"]),
    ]
}

fn filters() -> Vec<Case> {
    let filtered = |title, filter: &str| {
        case(title)
            .log_format("%RESPONSE_CODE% %REQ(:path)%", filter)
            .replies([
                reply(ok("")),
                reply(status(404, "")),
                reply(status(503, "")),
            ])
            .get("/1")
            .get("/2")
            .get("/3")
    };
    vec![
        filtered(
            "a status filter takes what is large enough",
            "{ status_code_filter: { comparison: { op: GE, value: { default_value: 404, runtime_key: k } } } }",
        )
        .logs(2)
        .shows(["log 404 /2", "log 503 /3"])
        .lacks(["log 200*"]),
        filtered("a header filter takes requests with the header", "{ header_filter: { header: { name: \":path\", string_match: { exact: /2 } } } }")
            .logs(1)
            .shows(["log 404 /2"])
            .lacks(["log 200*", "log 503*"]),
        filtered("a duration filter takes what lasted", "{ duration_filter: { comparison: { op: GE, value: { default_value: 5000, runtime_key: k } } } }")
            .logs(0)
            .shows(["< 200", "< 404", "< 503"])
            .lacks(["log*"]),
        case("a duration lasts until the response has ended")
            .log_format("%RESPONSE_CODE%", "{ duration_filter: { comparison: { op: GE, value: { default_value: 250, runtime_key: k } } } }")
            .reply(late(300, "x"))
            .get("/")
            .both()
            .shows(["log 200"]),
        filtered(
            "and_filter wants all its filters",
            "{ and_filter: { filters: [{ status_code_filter: { comparison: { op: GE, value: { default_value: 404, runtime_key: k } } } }, { header_filter: { header: { name: \":path\", string_match: { exact: /3 } } } }] } }",
        )
        .logs(1)
        .shows(["log 503 /3"])
        .lacks(["log 404*"]),
        filtered(
            "or_filter wants one of its filters",
            "{ or_filter: { filters: [{ status_code_filter: { comparison: { op: EQ, value: { default_value: 200, runtime_key: k } } } }, { header_filter: { header: { name: \":path\", string_match: { exact: /3 } } } }] } }",
        )
        .logs(2)
        .shows(["log 200 /1", "log 503 /3"])
        .lacks(["log 404*"]),
        filtered("not_health_check_filter takes ordinary requests", "{ not_health_check_filter: {} }")
            .logs(3)
            .shows(["log 200 /1", "log 404 /2", "log 503 /3"]),
        filtered("a runtime filter of zero takes none", "{ runtime_filter: { runtime_key: k, percent_sampled: { numerator: 0 } } }")
            .logs(0)
            .shows(["< 200"])
            .lacks(["log*"]),
        filtered("traceable_filter takes requests that are traced", "{ traceable_filter: {} }")
            .logs(0)
            .shows(["< 200"])
            .lacks(["log*"]),
        case("a response flag filter takes only its flags")
            .log_format("%RESPONSE_FLAGS%", "{ response_flag_filter: { flags: [UF, NR] } }")
            .routes("
                - match: { path: /ok }
                  route: { cluster: @backend }
                - match: { path: /refused }
                  route: { cluster: @dead }")
            .and_backend("dead", Kind::Refuse)
            .get("/ok")
            .get("/refused")
            .get("/none")
            .logs(2)
            .shows(["log UF", "log NR"])
            .lacks(["log -"]),
        case("a gRPC status filter takes only its status")
            .log_format("%GRPC_STATUS%", "{ grpc_status_filter: { statuses: [UNAVAILABLE] } }")
            .backend(Kind::Refuse)
            .send(request("POST", "/").field("content-type", "application/grpc"))
            .http2()
            .shows(["log Unavailable"]),
        case("a metadata filter that matches no metadata takes all by default")
            .log_format("%RESPONSE_CODE%", "{ metadata_filter: { matcher: { filter: f, path: [{ key: k }], value: { string_match: { exact: v } } } } }")
            .get("/")
            .shows(["log 200"]),
        case("flush_access_log_on_new_request writes a line at the start and at the end")
            .hcm("access_log_options: { flush_access_log_on_new_request: true }")
            .log_format("%RESPONSE_CODE% %ACCESS_LOG_TYPE%", "")
            .get("/")
            .logs(2)
            .shows(["log 0 DownstreamStart", "log 200 DownstreamEnd"]),
        case("log_type_filter takes one kind of line")
            .hcm("access_log_options: { flush_access_log_on_new_request: true }")
            .log_format("%ACCESS_LOG_TYPE%", "{ log_type_filter: { types: [DownstreamEnd] } }")
            .get("/")
            .logs(1)
            .shows(["log DownstreamEnd"])
            .lacks(["log DownstreamStart"]),
    ]
}
