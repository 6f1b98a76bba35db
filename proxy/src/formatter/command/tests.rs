use proptest::prelude::*;

use super::*;

fn error(format: &str) -> Option<String> {
    parse(format, Extensions::default()).err()
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn what_is_wrong_is_said_in_envoys_words() {
    for (format, message) in [
        ("%FOO%", "Not supported field in StreamInfo: FOO"),
        ("%REQ()%", "REQ requires parameters"),
        (
            "%REQ(a?b?c)%",
            "More than 1 alternative header specified in token: a?b?c",
        ),
        (
            "%REQ(a b)%",
            "Invalid header configuration. Format string contains invalid characters.",
        ),
        (
            "%REQ(::path)%",
            "Invalid header configuration. Format string contains invalid characters.",
        ),
        (
            "%REQ(a)b)%",
            "Invalid header configuration. Format string contains invalid characters.",
        ),
        (
            "%REQ(X):99999999999999999999999%",
            "Incorrect configuration: %REQ(X):99999999999999999999999%. Couldn't find valid command at position 0",
        ),
        (
            "%REQ(X):%",
            "Incorrect configuration: %REQ(X):%. Couldn't find valid command at position 0",
        ),
        (
            "a%%b%",
            "Incorrect configuration: a%%b%. Couldn't find valid command at position 4",
        ),
        (
            "%req(x)%",
            "Incorrect configuration: %req(x)%. Couldn't find valid command at position 0",
        ),
        (
            "%START_TIME(%n)%",
            "Invalid header configuration. Format string contains newline.",
        ),
        (
            "%START_TIME:3%",
            "START_TIME does not allow length to be specified.",
        ),
        (
            "%BYTES_SENT(x)%",
            "BYTES_SENT does not take any parameters or length",
        ),
        (
            "%UPSTREAM_HOST:1%",
            "UPSTREAM_HOST does not take any parameters or length",
        ),
        (
            "%COMMON_DURATION(a)%",
            "Invalid common duration configuration: a.",
        ),
        (
            "%COMMON_DURATION(a:b:s)%",
            "Invalid common duration precision: s.",
        ),
        (
            "%GRPC_STATUS(FOO)%",
            "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER. Got: FOO",
        ),
        (
            "%PATH(XX)%",
            "Invalid PATH option: 'XX', only 'WQ'/'NQ' are allowed",
        ),
        (
            "%PATH(WQ:F)%",
            "Invalid PATH option: 'F', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed",
        ),
        (
            "%QUERY_PARAMS(F)%",
            "Invalid QUERY_PARAMS option: 'F', only 'ORIG'/'DECODED' are allowed",
        ),
        (
            "%REQUESTED_SERVER_NAME(F)%",
            "Invalid REQUESTED_SERVER_NAME option: 'F', only 'SNI_ONLY'/'SNI_FIRST'/'HOST_FIRST' are allowed",
        ),
        (
            "%REQUESTED_SERVER_NAME(SNI_FIRST:F)%",
            "Invalid REQUESTED_SERVER_NAME option: 'F', only 'ORIG_OR_HOST'/'HOST'/'ORIG' are allowed",
        ),
        (
            "%FILTER_STATE%",
            "Invalid filter state configuration, key cannot be empty.",
        ),
        (
            "%FILTER_STATE(x:F)%",
            "Invalid filter state serialize type, only support PLAIN/TYPED/FIELD.",
        ),
        (
            "%FILTER_STATE(x:FIELD)%",
            "Invalid filter state serialize type, FIELD should be used with the field name.",
        ),
        (
            "%FILTER_STATE(x:PLAIN:y)%",
            "Invalid filter state serialize type, FIELD should be used with the field name.",
        ),
        ("%METADATA(FOO:x)%", "FOO is not supported type of metadata"),
        (
            "%CLUSTER_METADATA(x):5%",
            "CLUSTER_METADATA does not allow length to be specified.",
        ),
        (
            "%REQ_WITHOUT_QUERY(a)%",
            "Not supported field in StreamInfo: REQ_WITHOUT_QUERY",
        ),
        (
            "%COALESCE({\"operators\":[\"REQ\"]})%",
            "COALESCE: failed to parse operator at index 0: REQ requires parameters",
        ),
        (
            "%COALESCE({\"operators\":[\"FOO\"]})%",
            "COALESCE: failed to parse operator at index 0: unknown command: 'FOO'",
        ),
        (
            "%COALESCE({\"operators\":[]})%",
            "COALESCE: 'operators' array must not be empty",
        ),
    ] {
        assert_eq!(error(format).as_deref(), Some(message), "{format}");
    }
}

#[test]
fn what_envoy_accepts_is_accepted() {
    for format in [
        "",
        "%%",
        "%REQ(?b)%",
        "%REQ(X?Y):0%",
        "%REQ(a%b)%",
        "%START_TIME(%Y)x)%",
        "%START_TIME()%",
        "%START_TIME(%)%",
        "%COMMON_DURATION(:)%",
        "%PATH(NQ:ORIG:x)%",
        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(x)%",
        "%FILTER_STATE(x:FIELD:y:z)%",
        "%METADATA(ROUTE)%",
        "%METADATA(ROUTE:ns:key):5%",
        "%DYNAMIC_METADATA(:key)%",
        "%RESPONSE_CODE_DETAILS(FOO)%",
        "%COALESCE({\"operators\":[{\"command\":\"REQ\",\"param\":\":authority\",\"max_length\":3}]}):2%",
        "%UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT%%TRACE_ID%%DOWNSTREAM_PEER_CERT_V_END(%Y)%",
    ] {
        assert_eq!(error(format), None, "{format}");
    }
}

#[test]
fn every_operator_of_envoy_without_argument_is_known() {
    let names = include_str!("../operators.txt");
    let unknown: Vec<_> = names
        .lines()
        .filter(|name| without_argument(name).is_none() && error(&format!("%{name}%")).is_some())
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(names.lines().count() > 120);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(format in "\\PC*") {
        let _ = parse(&format, Extensions { req_without_query: true, ..Extensions::default() });
    }

    #[test]
    fn nothing_that_looks_like_a_format_makes_the_parser_panic(
        format in "(%|%%|[A-Z_]{0,12}|REQ|START_TIME|COALESCE|METADATA|PATH|\\(|\\)|:|\\?|[0-9]{1,3}|[{}\"\\[\\]]|é|\n){0,24}"
    ) {
        let _ = parse(&format, Extensions { req_without_query: true, ..Extensions::default() });
    }

    #[test]
    fn a_text_without_percent_signs_stays_as_it_is(format in "[^%]*") {
        let operators = parse(&format, Extensions::default()).unwrap();
        let [Operator::Literal(text)] = &operators[..] else { panic!("one literal") };
        prop_assert_eq!(&**text, format.as_bytes());
    }
}
