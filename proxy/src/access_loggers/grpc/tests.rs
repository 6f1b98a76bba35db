use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::data::accesslog::v3 as data_pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};

use super::*;
use crate::config::ConfigReport;
use crate::http::{Protocol, RequestHead, ResponseHead};
use crate::net::Address;
use crate::server::{InitManager, ServerContext};
use crate::stream_info::{ConnectionInfo, ResponseFlag, StreamInfo};
use crate::upstream::test_support::{Answer, TestWorker};

const SERVICE: &str = "log_name: the-log, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: a}, initial_metadata: [{key: X-Team, value: red}]}";

fn convert(
    server: &Arc<ServerContext>,
    yaml: &str,
) -> Result<Arc<dyn AccessLoggerConfig>, Vec<String>> {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: pb::HttpGrpcAccessLogConfig = load(&[source], UnknownFields::Refuse).unwrap();
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "log");
    let scope = server.stats.scope("");
    let cx = FactoryContext {
        server,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    let config = TypedConfig::from_any(outrigger_proto::any::pack(&proto), &path);
    let converted = config.and_then(|config| HttpFactory.from_proto(&config, &cx, &path));
    converted.map_err(|_| report.take().iter().map(ToString::to_string).collect())
}

fn address() -> Address {
    Address::Ip("127.0.0.1:80".parse().unwrap())
}

fn info() -> StreamInfo {
    let connection = Rc::new(ConnectionInfo::between(address(), address()));
    let mut info = StreamInfo::new(connection, 7, Some(Protocol::Http11));
    info.response_code = Some(503);
    info.response_flags.set(ResponseFlag::NoHealthyUpstream);
    info.bytes_sent = 19;
    info
}

fn with_data(info: &StreamInfo, log: impl FnOnce(&FormatData<'_>)) {
    let mut request = RequestHead::new(Protocol::Http11, b"GET");
    request.set_path(b"/the/path");
    request.set_authority(b"host.example");
    request.fields.append("user-agent", "curl");
    request.fields.append("x-more", "one");
    request.fields.append("x-more", "two");
    let mut response = ResponseHead::new(503);
    response.fields.append("x-answer", "yes");
    log(&FormatData {
        info,
        request: Some(&request),
        response: Some(&response),
        request_trailers: None,
        response_trailers: None,
        local_reply_body: b"",
        log_type: "DownstreamEnd",
    });
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn test_worker() -> TestWorker {
    TestWorker::new(&[("a", "")])
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn entries_wait_for_the_interval_and_the_first_message_says_who_sends() {
    let test = test_worker();
    test.backends.answer(Answer::Never);
    let config = format!("common_config: {{{SERVICE}, buffer_flush_interval: 2s}}");
    let config = convert(&test.server, &config).unwrap();
    let log = config.on_worker(&test.worker);
    with_data(&info(), |data| log.log(data));
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert!(test.backends.received().is_empty());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sent = test.backends.received();
    for expected in [
        "POST /envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        "host: a\r\n",
        "content-type: application/grpc",
        "te: trailers",
        "x-team: red",
        "the-log",
        "/the/path",
        "host.example",
        "curl",
    ] {
        assert!(sent.contains(expected), "{expected} in {sent}");
    }
    assert_eq!(test.stat("access_logs.grpc_access_log.logs_written"), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_full_buffer_is_sent_at_once_on_the_same_stream() {
    let test = test_worker();
    test.backends.answer(Answer::Never);
    let config = format!("common_config: {{{SERVICE}, buffer_size_bytes: 0}}");
    let config = convert(&test.server, &config).unwrap();
    // Another logger with the same settings has the same stream.
    let (log, other) = (
        config.clone().on_worker(&test.worker),
        config.on_worker(&test.worker),
    );
    with_data(&info(), |data| log.log(data));
    settle().await;
    with_data(&info(), |data| other.log(data));
    settle().await;
    assert_eq!(test.stat("cluster.a.upstream_rq_total"), 1);
    assert_eq!(test.stat("access_logs.grpc_access_log.logs_written"), 2);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn without_the_cluster_entries_are_lost_and_the_buffer_stays_small() {
    let test = test_worker();
    let service = SERVICE.replace("cluster_name: a", "cluster_name: missing");
    let config = format!("common_config: {{{service}, buffer_size_bytes: 100}}");
    let log = convert(&test.server, &config)
        .unwrap()
        .on_worker(&test.worker);
    for _ in 0..100 {
        with_data(&info(), |data| log.log(data));
    }
    settle().await;
    with_data(&info(), |data| log.log(data));
    assert_eq!(test.stat("access_logs.grpc_access_log.logs_written"), 101);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_a_server_does_not_read_is_dropped_in_the_end() {
    let test = test_worker();
    test.backends.answer(Answer::Never);
    let config = format!("common_config: {{{SERVICE}, buffer_size_bytes: 1000}}");
    let log = convert(&test.server, &config)
        .unwrap()
        .on_worker(&test.worker);
    // Nobody runs in between: nothing is taken off the stream.
    for _ in 0..10_000 {
        with_data(&info(), |data| log.log(data));
    }
    let written = test.stat("access_logs.grpc_access_log.logs_written");
    let dropped = test.stat("access_logs.grpc_access_log.logs_dropped");
    assert_eq!(written + dropped, 10_000);
    assert!(dropped > 1000, "{dropped}");
}

#[test]
fn an_entry_says_what_is_known_of_the_stream() {
    let fields = HttpFields {
        request_headers: [HeaderName::new("X-More"), HeaderName::new("x-none")].into(),
        response_headers: [HeaderName::new("x-answer")].into(),
        response_trailers: Box::default(),
    };
    let common = CommonFields {
        filter_state: ["k".to_owned(), "missing".to_owned()].into(),
        tags: Box::default(),
    };
    let mut info = info();
    info.filter_state.set("k", Rc::new("v".to_owned()));
    info.timing.request_complete = Some(info.start + Duration::from_millis(1500));
    with_data(&info, |data| {
        let entry = fields.entry(common.properties(data), data);
        let common = entry.common_properties.unwrap();
        assert_eq!(
            common.access_log_type,
            i32::from(data_pb::AccessLogType::DownstreamEnd)
        );
        assert_eq!(common.stream_id, "7");
        assert!(common.response_flags.unwrap().no_healthy_upstream);
        assert_eq!(common.duration.unwrap().nanos, 500_000_000);
        assert_eq!(common.filter_state_objects.len(), 1);
        let request = entry.request.unwrap();
        assert_eq!(request.request_method, 1);
        assert_eq!(request.request_headers["x-more"], "one,two");
        assert_eq!(request.request_headers.len(), 1);
        let response = entry.response.unwrap();
        assert_eq!(response.response_code.unwrap().value, 503);
        assert_eq!(response.response_body_bytes, 19);
        assert_eq!(response.response_headers["x-answer"], "yes");
    });
}

#[test]
fn tags_come_from_where_they_say() {
    let test = Arc::new(ServerContext::new(0, crate::server::LocalInfo::default()));
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "tag");
    let scope = test.stats.scope("");
    let cx = FactoryContext {
        server: &test,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    let mut info = info();
    let values = serde_json::json!({"b": {"c": 3}});
    info.dynamic_metadata
        .merge("ns", values.as_object().unwrap().clone());
    for (yaml, expected) in [
        ("{tag: t, literal: {value: x}}", Some("x")),
        (
            "{tag: t, environment: {name: NO_SUCH_VARIABLE_X, default_value: d}}",
            Some("d"),
        ),
        ("{tag: t, environment: {name: NO_SUCH_VARIABLE_X}}", None),
        ("{tag: t, request_header: {name: User-Agent}}", Some("curl")),
        (
            "{tag: t, request_header: {name: x-none, default_value: d}}",
            Some("d"),
        ),
        (
            "{tag: t, metadata: {kind: {request: {}}, metadata_key: {key: ns, path: [{key: b}, {key: c}]}}}",
            Some("3"),
        ),
        (
            "{tag: t, metadata: {kind: {host: {}}, metadata_key: {key: ns, path: [{key: b}]}, default_value: d}}",
            Some("d"),
        ),
        ("{tag: t, value: \"%REQ(:PATH)%!\"}", Some("/the/path!")),
    ] {
        let source = Source {
            name: "test",
            format: Format::Yaml,
            bytes: yaml.as_bytes(),
        };
        let proto = load(&[source], UnknownFields::Refuse).unwrap();
        let tag = CustomTag::from_proto(proto, &cx, &path).unwrap();
        with_data(&info, |data| {
            assert_eq!(tag.value(data).as_deref(), expected, "{yaml}");
        });
    }
}

#[test]
fn what_is_wrong_with_a_configuration_is_found_at_once() {
    let server = Arc::new(ServerContext::new(0, crate::server::LocalInfo::default()));
    let errors = convert(
        &server,
        "common_config: {log_name: x, grpc_service: {google_grpc: {target_uri: a, stat_prefix: b}}, grpc_stream_retry_policy: {num_retries: 1}}",
    );
    let errors = errors.err().unwrap();
    let paths: Vec<_> = errors
        .iter()
        .map(|error| error.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "log / common_config / grpc_service / google_grpc",
            "log / common_config / transport_api_version",
            "log / common_config / grpc_stream_retry_policy",
        ]
    );
}
