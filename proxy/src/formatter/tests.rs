use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use outrigger_proto::pb::envoy::config::core::v3::substitution_format_string::Format as PbFormat;
use outrigger_proto::pb::envoy::config::core::v3::{
    SubstitutionFormatString as Pb, TypedExtensionConfig,
};
use outrigger_proto::pb::google::protobuf::{Any, ListValue, Struct, Value, value::Kind};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::ConfigReport;
use crate::http::Protocol;
use crate::net::Address;
use crate::server::{InitManager, LocalInfo, ServerContext};
use crate::stream_info::{ConnectionInfo, ResponseFlag};
use crate::upstream::{Host, WorkerHost};

fn address(text: &str) -> Address {
    Address::Ip(text.parse::<SocketAddr>().unwrap())
}

fn request() -> RequestHead {
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    head.set_path(b"/p/a?x=1&y=a%20b&z");
    head.set_authority(b"Foo.com:80");
    head.set_scheme(b"http");
    head.fields.append("x-a", b"va\xffl\"ue");
    head.fields.append("x-e", b"");
    head
}

fn info() -> StreamInfo {
    let connection = ConnectionInfo::between(address("10.1.10.23:1234"), address("127.0.0.1:80"));
    let mut info = StreamInfo::new(Rc::new(connection), 7, Some(Protocol::Http11));
    info.start_time = UNIX_EPOCH + Duration::new(1_795_226_581, 45_223_000);
    info.response_code = Some(200);
    info.bytes_sent = 100_000;
    info
}

/// Renders with a request and a response.
fn text(format: &str, info: &StreamInfo) -> String {
    let request = request();
    let response = ResponseHead::new(200);
    let mut out = Vec::new();
    let data = data(info, &request, &response);
    Formatter::try_parse(format)
        .unwrap()
        .render(&data, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn data<'a>(
    info: &'a StreamInfo,
    request: &'a RequestHead,
    response: &'a ResponseHead,
) -> FormatData<'a> {
    FormatData {
        info,
        request: Some(request),
        response: Some(response),
        request_trailers: None,
        response_trailers: None,
        local_reply_body: b"",
        log_type: "DownstreamEnd",
    }
}

fn to_proto(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(to_proto).collect(),
        }),
        serde_json::Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    Value { kind: Some(kind) }
}

fn to_struct(map: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct {
        fields: map.into_iter().map(|(k, v)| (k, to_proto(v))).collect(),
    }
}

fn convert(proto: Pb) -> Result<SubstitutionFormatString, Vec<String>> {
    let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
    let scope = server.stats.scope("");
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "log_format");
    let cx = FactoryContext {
        server: &server,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    SubstitutionFormatString::from_proto(proto, &cx, &path)
        .map_err(|_| report.take().iter().map(ToString::to_string).collect())
}

fn json_line(format: serde_json::Value, omit_empty_values: bool) -> String {
    let serde_json::Value::Object(map) = format else {
        panic!("an object")
    };
    let format = convert(Pb {
        format: Some(PbFormat::JsonFormat(to_struct(map))),
        omit_empty_values,
        ..Pb::default()
    })
    .unwrap();
    let (info, request, response) = (info(), request(), ResponseHead::new(200));
    let mut out = Vec::new();
    format.render(&data(&info, &request, &response), &mut out);
    String::from_utf8(out).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_default_format_prints_as_envoys() {
    assert_eq!(
        text(DEFAULT_FORMAT, &info()),
        "[2026-11-21T02:03:01.045Z] \"GET /p/a?x=1&y=a%20b&z HTTP/1.1\" 200 - 0 100000 0 - \"-\" \"-\" \"-\" \"Foo.com:80\" \"-\"\n"
    );
}

#[tokio::test(start_paused = true)]
async fn headers_fall_back_are_cut_and_may_be_missing() {
    for (format, expected) in [
        ("%REQ(x-a):3%", "va\u{fffd}"),
        ("%REQ(x-no?:method)%", "GET"),
        ("%REQ(x-e)%", ""),
        ("a%REQ(x-no)%b", "a-b"),
        (
            "%REQ(host)% %REQ(:scheme)% %RESP(:status)%",
            "Foo.com:80 http 200",
        ),
        ("%REQ(:status)%%RESP(:path)%%TRAILER(x)%", "---"),
        ("%PATH(NQ)% %PATH(NQ:ORIG)% %PATH(WQ:PATH):3%", "/p/a - /p/"),
        (
            "%QUERY_PARAM(y)% %QUERY_PARAM(z)% %QUERY_PARAM(no)%",
            "a b  -",
        ),
        ("100%%", "100%"),
        ("%REQUEST_HEADERS_BYTES% %RESPONSE_HEADERS_BYTES%", "77 10"),
        (
            "%REQUESTED_SERVER_NAME% %REQUESTED_SERVER_NAME(SNI_FIRST)%",
            "- Foo.com:80",
        ),
        (
            "%COALESCE({\"operators\":[\"REQUESTED_SERVER_NAME\",{\"command\":\"REQ\",\"param\":\":authority\"}]}):3%",
            "Foo",
        ),
    ] {
        assert_eq!(text(format, &info()), expected, "{format}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_known_by_its_request_id_or_its_number() {
    let mut info = info();
    assert_eq!(text("%STREAM_ID%", &info), "7");
    info.request_id = Some("a-b".into());
    assert_eq!(text("%STREAM_ID%", &info), "a-b");
}

#[tokio::test(start_paused = true)]
async fn addresses_are_whole_without_port_or_masked() {
    for (format, expected) in [
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.1.10.23:1234"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.1.10.23"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%",
            "10.1.0.0/16",
        ),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(0)%", "0.0.0.0/0"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(33)%",
            "10.1.10.23/32",
        ),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(x)%", "10.1.10.23"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(-1)%", ""),
        (
            "%DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_LOCAL_PORT%",
            "1234 80",
        ),
        ("%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%", ""),
        ("%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_PORT%", "- -"),
    ] {
        assert_eq!(text(format, &info()), expected, "{format}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_upstream_side_shows_every_attempt() {
    let host = |address_text: &str, hostname: &str| {
        let mut host = Host::new(address(address_text), 0);
        host.hostname = hostname.into();
        Rc::new(WorkerHost::new(Arc::new(host)))
    };
    let mut info = info();
    let upstream = info.upstream_mut();
    upstream.earlier_attempts = vec![(host("[::1]:81", ""), None)];
    upstream.host = Some(host("10.0.0.2:82", "b.example:82"));
    upstream.connection_id = Some(5);
    upstream.protocol = Some(Protocol::Http2);
    upstream.transport_failure_reason = Some("no route to host".into());
    info.attempt_count = 2;
    info.response_flags
        .set(ResponseFlag::UpstreamConnectionFailure);
    info.response_flags
        .set(ResponseFlag::UpstreamRetryLimitExceeded);
    info.response_code_details = Some("two words".into());
    for (format, expected) in [
        (
            "%UPSTREAM_HOST% %UPSTREAM_HOST_NAME% %UPSTREAM_HOST_NAME_WITHOUT_PORT%",
            "10.0.0.2:82 b.example:82 b.example",
        ),
        ("%UPSTREAM_HOSTS_ATTEMPTED%", "[::1]:81,10.0.0.2:82"),
        ("%UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT%", "::1,10.0.0.2"),
        (
            "%UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT%",
            "::1,b.example",
        ),
        ("%UPSTREAM_CONNECTION_IDS_ATTEMPTED%", "5"),
        (
            "%UPSTREAM_PROTOCOL% %UPSTREAM_REQUEST_ATTEMPT_COUNT%",
            "HTTP/2 2",
        ),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "no_route_to_host"),
        (
            "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
            "UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded",
        ),
        (
            "%RESPONSE_CODE_DETAILS% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%",
            "two_words two words",
        ),
    ] {
        assert_eq!(text(format, &info), expected, "{format}");
    }
}

#[tokio::test(start_paused = true)]
async fn durations_count_from_their_points() {
    let mut info = info();
    info.timing.last_downstream_rx_byte = Some(info.start + Duration::from_micros(1_500));
    info.timing.first_upstream_rx_byte = Some(info.start + Duration::from_millis(20));
    info.timing.last_downstream_tx_byte = Some(info.start + Duration::from_millis(27));
    info.timing.request_complete = Some(info.start + Duration::from_millis(30));
    for (format, expected) in [
        (
            "%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%",
            "30 1 20 7",
        ),
        ("%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)%", "1500"),
        ("%COMMON_DURATION(US_RX_BEG:DS_RX_END)%", "-"),
        (
            "%COMMON_DURATION(mine:DS_RX_END)% %REQUEST_TX_DURATION% %ROUNDTRIP_DURATION%",
            "- - -",
        ),
    ] {
        assert_eq!(text(format, &info), expected, "{format}");
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_and_filter_state_print_as_text_and_as_json() {
    let mut info = info();
    let values = json!({"o": {"b": 1, "a": "é\"x"}, "s": "str", "n": 12345, "l": [1, "a", {"x": null}], "nl": null});
    let serde_json::Value::Object(values) = values else {
        unreachable!()
    };
    info.dynamic_metadata.merge("ns", values);
    info.filter_state.set("fk", Rc::new("val\"ue".to_owned()));
    for (format, text_form, json_form) in [
        (
            "%DYNAMIC_METADATA(ns:o)%",
            r#"{"a":"é\"x","b":1}"#,
            r#"{"a":"é\"x","b":1}"#,
        ),
        (
            "%DYNAMIC_METADATA(ns:o):4%",
            r#"{"a""#,
            r#"{"a":"é\"x","b":1}"#,
        ),
        ("%DYNAMIC_METADATA(ns:s):2%", "st", "\"st\""),
        ("%METADATA(DYNAMIC:ns:n):2%", "12", "12345"),
        ("%DYNAMIC_METADATA(ns:nl)%", "-", "null"),
        ("%DYNAMIC_METADATA(ns:s:x)%", "-", "null"),
        ("%FILTER_STATE(fk)%", r#""val\"ue""#, r#""val\"ue""#),
        ("%FILTER_STATE(fk:PLAIN):2%", "va", "\"va\""),
        ("%FILTER_STATE(fk:FIELD:x)%", "-", "null"),
        ("%FILTER_STATE(none)%", "-", "null"),
    ] {
        assert_eq!(text(format, &info), text_form, "{format}");
        let (request, response) = (request(), ResponseHead::new(200));
        let mut out = Vec::new();
        let found = Formatter::try_parse(format)
            .unwrap()
            .render_json(&data(&info, &request, &response), &mut out);
        let out = if found {
            String::from_utf8(out).unwrap()
        } else {
            "null".to_owned()
        };
        assert_eq!(out, json_form, "{format}");
    }
}

#[tokio::test(start_paused = true)]
async fn json_keeps_types_sorts_keys_and_writes_null() {
    let line = json_line(
        json!({
            "z": "%RESPONSE_CODE%", "a": "%BYTES_SENT%", "n": "%REQ(no)%", "num": 5, "b": true, "nul": null,
            "lst": ["%RESPONSE_CODE%", "x", 1, null], "o": {"z": "1", "n": "%REQ(no)%"}, "pct": "100%%",
            "raw": "%REQ(x-a)%", "mix": "é%REQ(x-a)%é", "two": "%RESPONSE_CODE%%RESPONSE_CODE%", "e": {}, "k\"é": "",
            "port": "%DOWNSTREAM_REMOTE_PORT%", "flags": "%CUSTOM_FLAGS%"
        }),
        false,
    );
    assert_eq!(
        line,
        concat!(
            r#"{"a":1e+05,"b":true,"e":{},"flags":"","k\"é":"","lst":[200,"x",1,null],"mix":"éva\u00ffl\u0022ueé","#,
            r#""n":null,"nul":null,"num":5,"o":{"n":null,"z":"1"},"pct":"100%","port":1234,"raw":"va\u00ffl\u0022ue","#,
            r#""two":"200200","z":200}"#,
            "\n"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn json_without_empty_values_drops_them_and_what_held_only_them() {
    let line = json_line(
        json!({
            "n": "%REQ(no)%", "o": {"n": "%REQ(no)%"}, "l": ["%REQ(no)%", null, "%BYTES_RECEIVED%"], "m": "a%REQ(no)%b",
            "nul": null, "e": "%CUSTOM_FLAGS%", "eo": {}, "oo": {"p": {"q": "%REQ(no)%"}}
        }),
        true,
    );
    assert_eq!(line, "{\"e\":\"\",\"l\":[0],\"m\":\"ab\"}\n");
    assert_eq!(json_line(json!({"n": "%REQ(no)%"}), true), "{}\n");
}

#[test]
fn every_error_of_a_json_format_names_its_place() {
    let serde_json::Value::Object(map) = json!({"a": {"b": "%FOO%"}, "c": ["x", "%"]}) else {
        unreachable!()
    };
    let errors = convert(Pb {
        format: Some(PbFormat::JsonFormat(to_struct(map))),
        ..Pb::default()
    })
    .unwrap_err();
    assert_eq!(
        errors,
        [
            "log_format / json_format / a / b: Not supported field in StreamInfo: FOO",
            "log_format / json_format / c / values[1]: Incorrect configuration: %. Couldn't find valid command at position 0"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn req_without_query_needs_its_extension_and_others_are_refused() {
    let formatter = |type_name: &str| TypedExtensionConfig {
        name: "any".to_owned(),
        typed_config: Some(Any {
            type_url: format!("type.googleapis.com/{type_name}"),
            value: Vec::new(),
        }),
    };
    #[allow(deprecated, reason = "old configurations use it")]
    let proto = |formatters| Pb {
        format: Some(PbFormat::TextFormat(
            "%REQ_WITHOUT_QUERY(:path):3%".to_owned(),
        )),
        formatters,
        ..Pb::default()
    };
    assert!(convert(proto(Vec::new())).is_err());
    let name = "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery";
    let format = convert(proto(vec![formatter(name)])).unwrap();
    assert_eq!(format.content_type(), "text/plain");
    let (info, request, response) = (info(), request(), ResponseHead::new(200));
    let mut out = Vec::new();
    format.render(&data(&info, &request, &response), &mut out);
    assert_eq!(out, b"/p/");
    let errors = convert(proto(vec![formatter(
        "envoy.extensions.formatter.none.v3.None",
    )]))
    .unwrap_err();
    assert!(errors[0].starts_with("log_format / formatters[0]: envoy.extensions.formatter.none.v3.None is not supported here"), "{errors:?}");
}

#[tokio::test(start_paused = true)]
async fn grpc_status_comes_from_trailers_head_or_http_status() {
    let mut info = info();
    let mut request = request();
    request
        .fields
        .append("content-type", "application/grpc+proto");
    let mut response = ResponseHead::new(200);
    let render = |info: &StreamInfo, response: &ResponseHead, trailers: Option<&Fields>| {
        let mut out = Vec::new();
        let data = FormatData {
            response_trailers: trailers,
            ..data(info, &request, response)
        };
        Formatter::try_parse("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%")
            .unwrap()
            .render(&data, &mut out);
        String::from_utf8(out).unwrap()
    };
    info.response_code = Some(503);
    assert_eq!(render(&info, &response, None), "Unavailable UNAVAILABLE 14");
    response.fields.append("grpc-status", "1");
    assert_eq!(render(&info, &response, None), "Canceled CANCELLED 1");
    let mut trailers = Fields::new();
    trailers.append("grpc-status", "99");
    assert_eq!(render(&info, &response, Some(&trailers)), "99 99 99");
    assert_eq!(text("%GRPC_STATUS%", &info), "-");
}

proptest! {
    #[test]
    fn whatever_parses_renders(format in "(%[A-Z_]{1,20}(\\([a-zA-Z:?%0-9_]{0,12}\\))?(:[0-9]{1,2})?%|[a-z ]{0,4}){0,6}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        if Formatter::try_parse(&format).is_ok() {
            text(&format, &info());
        }
    }
}
