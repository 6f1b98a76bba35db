use std::net::SocketAddr;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::accesslog::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3::RuntimeUInt32;
use outrigger_proto::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use outrigger_proto::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use outrigger_proto::pb::envoy::r#type::v3::FractionalPercent;
use outrigger_proto::pb::google::protobuf::{Any, BoolValue};
use pb::access_log_filter::FilterSpecifier;
use prost::Message as _;

use super::*;
use crate::config::ConfigReport;
use crate::http::{Protocol, RequestHead};
use crate::net::Address;
use crate::server::{InitManager, LocalInfo, Random, ServerContext};
use crate::stream_info::{ConnectionInfo, ResponseFlag, StreamInfo};
use crate::upstream::WorkerClusters;

fn address() -> Address {
    Address::Ip("127.0.0.1:80".parse::<SocketAddr>().unwrap())
}

fn info() -> StreamInfo {
    let connection = Rc::new(ConnectionInfo::between(address(), address()));
    StreamInfo::new(connection, 1, Some(Protocol::Http11))
}

fn data<'a>(info: &'a StreamInfo, request: Option<&'a RequestHead>) -> FormatData<'a> {
    FormatData {
        info,
        request,
        response: None,
        request_trailers: None,
        response_trailers: None,
        local_reply_body: b"",
        log_type: "DownstreamEnd",
    }
}

fn with_cx<T>(
    server: &Arc<ServerContext>,
    convert: impl FnOnce(&FactoryContext<'_>, &ConfigPath<'_>) -> Result<T, Rejected>,
) -> Result<T, Vec<String>> {
    let scope = server.stats.scope("");
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "access_log");
    let cx = FactoryContext {
        server,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    convert(&cx, &path).map_err(|_| report.take().iter().map(ToString::to_string).collect())
}

fn server() -> Arc<ServerContext> {
    Arc::new(ServerContext::new(1, LocalInfo::default()))
}

fn filter(specifier: FilterSpecifier) -> Result<AccessLogFilter, Vec<String>> {
    let proto = pb::AccessLogFilter {
        filter_specifier: Some(specifier),
    };
    with_cx(&server(), |cx, path| {
        AccessLogFilter::from_proto(proto, cx, path)
    })
}

fn passes(specifier: FilterSpecifier, info: &StreamInfo) -> bool {
    filter(specifier)
        .unwrap()
        .evaluate(&data(info, None), &Random::new(1))
}

fn comparison(op: pb::comparison_filter::Op, value: u32) -> Option<pb::ComparisonFilter> {
    Some(pb::ComparisonFilter {
        op: op.into(),
        value: Some(RuntimeUInt32 {
            default_value: value,
            runtime_key: "log.key".to_owned(),
        }),
    })
}

fn status(op: pb::comparison_filter::Op, value: u32) -> FilterSpecifier {
    FilterSpecifier::StatusCodeFilter(pb::StatusCodeFilter {
        comparison: comparison(op, value),
    })
}

#[tokio::test(start_paused = true)]
async fn status_and_duration_are_compared_as_the_operator_says() {
    use pb::comparison_filter::Op;
    let mut info = info();
    assert!(passes(status(Op::Eq, 0), &info), "no status is 0");
    info.response_code = Some(500);
    for (op, value, expected) in [
        (Op::Eq, 500, true),
        (Op::Eq, 501, false),
        (Op::Ge, 500, true),
        (Op::Ge, 501, false),
        (Op::Le, 500, true),
        (Op::Le, 499, false),
        (Op::Ne, 500, false),
        (Op::Ne, 200, true),
    ] {
        assert_eq!(passes(status(op, value), &info), expected, "{op:?} {value}");
    }
    info.timing.request_complete = Some(info.start + Duration::from_millis(250));
    for (limit, expected) in [(250, true), (251, false)] {
        let specifier = FilterSpecifier::DurationFilter(pb::DurationFilter {
            comparison: comparison(Op::Ge, limit),
        });
        assert_eq!(passes(specifier, &info), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn flags_health_checks_and_log_types_decide() {
    let mut info = info();
    let flag = |names: &[&str]| {
        FilterSpecifier::ResponseFlagFilter(pb::ResponseFlagFilter {
            flags: names.iter().map(ToString::to_string).collect(),
        })
    };
    assert!(!passes(flag(&[]), &info));
    info.response_flags.set(ResponseFlag::NoRouteFound);
    assert!(passes(flag(&[]), &info));
    assert!(passes(flag(&["UF", "NR"]), &info));
    assert!(!passes(flag(&["UF"]), &info));
    let error = filter(flag(&["XX"])).unwrap_err();
    assert!(
        error[0].starts_with(
            "access_log / response_flag_filter / flags[0]: \"XX\" is not one of LH, UH"
        )
    );

    let health = || FilterSpecifier::NotHealthCheckFilter(pb::NotHealthCheckFilter {});
    assert!(passes(health(), &info));
    info.health_check = true;
    assert!(!passes(health(), &info));

    for (types, exclude, expected) in [
        (vec![6], false, true),
        (vec![4], false, false),
        (vec![6], true, false),
    ] {
        let specifier = FilterSpecifier::LogTypeFilter(pb::LogTypeFilter { types, exclude });
        assert_eq!(passes(specifier, &info), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_id_is_sampled_the_same_way_everywhere() {
    let sampled = |id: Option<&str>, independent: bool, seed: u64| {
        let specifier = FilterSpecifier::RuntimeFilter(pb::RuntimeFilter {
            runtime_key: "log.sample".to_owned(),
            percent_sampled: Some(FractionalPercent {
                numerator: 50,
                denominator: 0,
            }),
            use_independent_randomness: independent,
        });
        let mut info = info();
        info.request_id = id.map(Into::into);
        filter(specifier)
            .unwrap()
            .evaluate(&data(&info, None), &Random::new(seed))
    };
    // 0x31 is 49, 0x32 is 50.
    let low = Some("00000031-0000-4000-8000-000000000000");
    let high = Some("00000032-0000-4000-8000-000000000000");
    assert!((0..50).all(|seed| sampled(low, false, seed)));
    assert!((0..50).all(|seed| !sampled(high, false, seed)));
    let drawn = (0..200).filter(|seed| sampled(high, true, *seed)).count();
    assert!((60..140).contains(&drawn), "{drawn}");
    let drawn = (0..200)
        .filter(|seed| sampled(Some("no uuid"), false, *seed))
        .count();
    assert!((60..140).contains(&drawn), "{drawn}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_of_metadata_passes_unless_configured_otherwise() {
    let matches = |value: Option<&str>, not_found: Option<bool>| {
        use outrigger_proto::pb::envoy::r#type::matcher::v3::{
            MetadataMatcher, StringMatcher, ValueMatcher, metadata_matcher, string_matcher,
            value_matcher,
        };
        let string = StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::Exact("x".to_owned())),
            ..StringMatcher::default()
        };
        let segment = metadata_matcher::path_segment::Segment::Key("k".to_owned());
        let specifier = FilterSpecifier::MetadataFilter(pb::MetadataFilter {
            matcher: Some(MetadataMatcher {
                filter: "ns".to_owned(),
                path: vec![metadata_matcher::PathSegment {
                    segment: Some(segment),
                }],
                value: Some(ValueMatcher {
                    match_pattern: Some(value_matcher::MatchPattern::StringMatch(string)),
                }),
                invert: false,
            }),
            match_if_key_not_found: not_found.map(|value| BoolValue { value }),
        });
        let mut info = info();
        if let Some(value) = value {
            let map = serde_json::Map::from_iter([("k".to_owned(), value.into())]);
            info.dynamic_metadata.merge("ns", map);
        }
        passes(specifier, &info)
    };
    assert!(matches(Some("x"), None));
    assert!(!matches(Some("y"), None));
    assert!(matches(None, None));
    assert!(!matches(None, Some(false)));
}

#[tokio::test(start_paused = true)]
async fn all_or_any_of_several_filters_must_hold() {
    use pb::comparison_filter::Op;
    let mut info = info();
    info.response_code = Some(200);
    let list = |specifiers: Vec<FilterSpecifier>| -> Vec<pb::AccessLogFilter> {
        let wrap = |specifier| pb::AccessLogFilter {
            filter_specifier: Some(specifier),
        };
        specifiers.into_iter().map(wrap).collect()
    };
    let both = || list(vec![status(Op::Eq, 200), status(Op::Eq, 404)]);
    assert!(!passes(
        FilterSpecifier::AndFilter(pb::AndFilter { filters: both() }),
        &info
    ));
    assert!(passes(
        FilterSpecifier::OrFilter(pb::OrFilter { filters: both() }),
        &info
    ));
    let one = FilterSpecifier::OrFilter(pb::OrFilter {
        filters: list(vec![status(Op::Eq, 200)]),
    });
    assert_eq!(
        filter(one).unwrap_err(),
        ["access_log / or_filter / filters: must have at least 2 entries"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_log_writes_what_its_filter_lets_pass() {
    let path = std::env::temp_dir().join(format!("outrigger-log-{}", std::process::id()));
    let server = server();
    #[allow(deprecated, reason = "the shortest way to a format")]
    let config = FileAccessLog {
        path: path.to_str().unwrap().to_owned(),
        access_log_format: Some(AccessLogFormat::Format("%RESPONSE_CODE%\n".to_owned())),
    };
    let proto = pb::AccessLog {
        name: "any".to_owned(),
        filter: Some(pb::AccessLogFilter {
            filter_specifier: Some(status(pb::comparison_filter::Op::Ge, 500)),
        }),
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
                .to_owned(),
            value: config.encode_to_vec(),
        })),
    };
    let log = with_cx(&server, |cx, path| AccessLog::from_proto(proto, cx, path)).unwrap();
    let worker = Worker::new(0, server.clone(), WorkerClusters::default(), 1);
    let logs = AccessLogs::on_worker(&[log], &worker);
    let mut info = info();
    for code in [200, 503, 404, 500] {
        info.response_code = Some(code);
        logs.log(&data(&info, None));
    }
    server.access_logs.flush();
    let written = std::fs::read_to_string(&path).unwrap();
    let _ = std::fs::remove_file(&path);
    assert_eq!(written, "503\n500\n");
}

#[test]
fn an_unknown_logger_and_a_path_that_cannot_be_opened_are_refused() {
    let log = |type_name: &str, value: Vec<u8>| {
        let proto = pb::AccessLog {
            name: "envoy.access_loggers.file".to_owned(),
            filter: None,
            config_type: Some(ConfigType::TypedConfig(Any {
                type_url: format!("type.googleapis.com/{type_name}"),
                value,
            })),
        };
        with_cx(&server(), |cx, path| AccessLog::from_proto(proto, cx, path)).unwrap_err()
    };
    let error = log(
        "envoy.extensions.access_loggers.wasm.v3.WasmAccessLog",
        Vec::new(),
    );
    assert!(error[0].contains(
        "is not supported here; supported are envoy.extensions.access_loggers.file.v3.FileAccessLog"
    ));
    let config = FileAccessLog {
        path: "/nonexistent/x.log".to_owned(),
        access_log_format: None,
    };
    let error = log(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        config.encode_to_vec(),
    );
    assert_eq!(
        error,
        [
            "access_log / typed_config / path: unable to open file '/nonexistent/x.log': No such file or directory (os error 2)"
        ]
    );
}
