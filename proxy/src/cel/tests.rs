use serde_json::json;

use super::*;
use crate::http::{Protocol, RequestHead, ResponseHead};
use crate::net::Address;
use crate::stream_info::{ConnectionInfo, StreamInfo};

fn info() -> StreamInfo {
    let address = |port| Address::Ip(([10, 1, 2, 3], port).into());
    let connection = ConnectionInfo::between(address(40_000), address(80));
    let mut info = StreamInfo::new(connection.into(), 1, Some(Protocol::Http11));
    let values = json!({"s": "t", "n": 3, "l": [1, "a"], "m": {"k": true}});
    let values = values.as_object().cloned().unwrap_or_default();
    info.dynamic_metadata.merge("ns", values);
    info.filter_state
        .set("key", std::rc::Rc::new("val".to_owned()));
    info
}

fn request() -> RequestHead {
    let mut head = RequestHead::new(Protocol::Http11, b"POST");
    head.set_path(b"/a/b?q=1&r=2");
    head.set_authority(b"ex.com");
    for (name, value) in [("x-a", "one"), ("x-a", "two"), ("x-n", "12")] {
        head.fields.append(name, value);
    }
    head
}

/// What `text` prints; none: nothing can be said.
fn print_with(text: &str, options: Options) -> Option<String> {
    let expression = Expression::from_text(text, options, None).expect(text);
    let (info, request, mut response) = (info(), request(), ResponseHead::new(200));
    response.fields.append("x-r", "v");
    let activation = Activation {
        response: Some(&response),
        ..Activation::of_request(&info, &request)
    };
    let value = expression.evaluate(&activation)?;
    let text = String::from_utf8(value.print().into_owned());
    Some(text.expect("UTF-8"))
}

fn print(text: &str) -> Option<String> {
    print_with(text, Options::default())
}

fn all(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(print(text).as_deref(), Some(*expected), "{text}");
    }
}

fn none(cases: &[&str]) {
    for text in cases {
        assert_eq!(print(text), None, "{text}");
    }
}

#[test]
fn attributes_are_those_of_the_request() {
    all(&[
        ("request.method", "POST"),
        ("request['method']", "POST"),
        ("request.url_path", "/a/b"),
        ("request.query", "q=1&r=2"),
        ("request.host", "ex.com"),
        ("request.headers['x-a']", "one,two"),
        ("request.headers['X-A']", "one,two"),
        ("request.protocol", "HTTP/1.1"),
        ("has(request.nothing)", "false"),
        ("has(request.headers.host)", "true"),
        ("'x-b' in request.headers", "false"),
        ("request.headers", "CelMap value"),
        ("response.headers['x-r']", "v"),
        ("response.headers[':status']", "200"),
        ("connection.mtls", "false"),
        ("connection.requested_server_name", ""),
        ("source.address", "10.1.2.3:40000"),
        ("destination.port", "80"),
        ("metadata.filter_metadata['ns']['s']", "t"),
        ("metadata.filter_metadata.ns.m.k", "true"),
        ("metadata.filter_metadata.ns.l[0]", "1"),
        ("filter_state['key']", "val"),
        ("filter_state.key", "val"),
    ]);
    none(&[
        "request.nothing",
        "request.headers['x-none']",
        "connection.tls_version",
        "metadata.filter_metadata['none']",
        "filter_state['none']",
        "nothing",
        "xds.node.id",
    ]);
}

#[test]
fn values_print_as_in_a_log() {
    all(&[
        ("1", "1"),
        ("-1", "-1"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("0x1F", "31"),
        ("1u", "1"),
        ("1e20", "1e+20"),
        ("1234567.0", "1.23457e+06"),
        ("null", "NULL"),
        (r"'a\x41\u00e9'", "aAé"),
        (r"r'a\n'", r"a\n"),
        ("'''a'b'''", "a'b"),
        ("b'abc'", "abc"),
        ("[1,2]", "CelList value"),
        ("{'a':1}", "CelMap value"),
        ("type(1)", "CelType value"),
    ]);
}

#[test]
fn messages_become_values_of_the_language() {
    all(&[
        (
            "google.protobuf.Duration{seconds: 1, nanos: 5,}",
            "1.000000005s",
        ),
        (".google.protobuf.Int64Value{value: 3} + 1", "4"),
        ("google.protobuf.FloatValue{value: 0.1} == 0.1", "false"),
        ("google.protobuf.Struct{fields: {'a': 1}}.a + 0.5", "1.5"),
        ("size(google.protobuf.ListValue{values: [[1], {}]})", "2"),
        (
            "google.protobuf.Value{bool_value: false, number_value: 1.5}",
            "1.5",
        ),
    ]);
    none(&[
        "google.protobuf.Duration{seconds: 1.0}",
        "google.protobuf.Value{bool_value: 1, number_value: 1.5}",
        "google.protobuf.Struct{fields: {1: 'a'}}",
        "google.protobuf.ListValue{values: [type(1)]}",
    ]);
    for (text, error) in [
        (
            "google.protobuf.Duration{days: 1}",
            "field 'days' not found",
        ),
        (
            "envoy.config.core.v3.Node{id: 'a'}",
            "'envoy.config.core.v3.Node' cannot be made",
        ),
        ("google.protobuf.Duration{1: 1}", "a value should be"),
    ] {
        let found = Expression::from_text(text, Options::default(), None).unwrap_err();
        assert!(found.contains(error), "{text}: {found}");
    }
}

#[test]
fn templates_are_filled_in_where_string_functions_are_allowed() {
    let options = Options {
        string_functions: true,
        ..Options::default()
    };
    for (text, expected) in [
        ("'%s=%d'.format(['é', 5])", Some("é=5")),
        ("'%s'.format([request.headers['x-n']])", Some("12")),
        (
            "'%s'.format([metadata.filter_metadata.ns.l])",
            Some("[1, a]"),
        ),
        (
            "'%.3e %x'.format([-0.00012345, b'\\xab'])",
            Some("-1.234e-04 ab"),
        ),
        ("'%.2'.format([1.5])", None),
        ("'%.f'.format([1.5])", None),
        ("'%s'.format([request])", None),
        ("strings.quote('\\n')", Some("\"\\n\"")),
    ] {
        assert_eq!(print_with(text, options).as_deref(), expected, "{text}");
    }
    for text in ["'%s'.format(['a'])", "strings.quote('a')"] {
        assert!(
            Expression::from_text(text, Options::default(), None).is_err(),
            "{text}"
        );
    }
    assert!(Expression::from_text("'a'.quote('b')", options, None).is_err());
}

#[test]
fn operators_want_operands_of_their_types() {
    all(&[
        ("7 / 2", "3"),
        ("-7 % 3", "-1"),
        ("1.0 / 0.0", "inf"),
        ("1 < 2.5", "true"),
        ("1 == 1u", "true"),
        ("1 == 'a'", "false"),
        ("1 != 'a'", "true"),
        ("1 in [1, 2]", "true"),
        ("'a' in {'a': 1}", "true"),
        ("[1, 2][1]", "2"),
        ("{'a': 1}.a", "1"),
        ("[1] == [1.0]", "true"),
        ("{'a': 1} == {'a': 1}", "true"),
        ("false && 1", "false"),
        ("nothing && false", "false"),
        ("nothing || true", "true"),
        ("true ? 1 : 2", "1"),
        ("1 + 2 * 3 == 7", "true"),
        ("!(1 > 2) && 2 >= 2", "true"),
    ]);
    none(&[
        "1 + 1.0",
        "1u + 1",
        "1 / 0",
        "9223372036854775807 + 1",
        "'a' + 'b'",
        "'a' in 'abc'",
        "true && 1",
        "nothing && true",
        "1 ? 1 : 2",
        "!1",
        "[1, 2][5]",
        "{'a': 1}.b",
        "[1] + [2]",
    ]);
}

#[test]
fn functions_do_what_their_names_say() {
    all(&[
        ("size('é')", "1"),
        ("'abc'.size()", "3"),
        ("'abc'.startsWith('a')", "true"),
        ("'abc'.matches('^a.c$')", "true"),
        ("'abc'.matches(request.headers['x-n'])", "false"),
        ("int('12') + 1", "13"),
        ("int(-1.9)", "-1"),
        ("uint('12')", "12"),
        ("double('1.5')", "1.5"),
        ("bool('true')", "true"),
        ("type('a') == string", "true"),
        ("type(duration('1s')) == google.protobuf.Duration", "true"),
        ("re.extract('hello', 'h(.)l', '\\\\1')", "e"),
        ("re.capture('hello', 'h(.)l.*')", "e"),
        ("re.captureN('hello', 'h(?P<x>.)l.*').x", "e"),
    ]);
    none(&[
        "size(1)",
        "int('x')",
        "uint(-1)",
        "re.capture('hello', 'h(.)l')",
    ]);
}

#[test]
fn times_are_reckoned_with_and_taken_apart() {
    all(&[
        ("duration('1h30m')", "1h30m"),
        ("duration('90s')", "1m30s"),
        ("duration('323.35us')", "323.35us"),
        ("duration('1s') - duration('2s')", "-1s"),
        (
            "timestamp('2020-01-02T03:04:05.678Z')",
            "2020-01-02T03:04:05.678+00:00",
        ),
        (
            "timestamp('2020-01-02T03:04:05Z') + duration('1s')",
            "2020-01-02T03:04:06+00:00",
        ),
        (
            "timestamp('2020-01-02T03:04:05Z') - timestamp('2020-01-02T03:04:00Z')",
            "5s",
        ),
        ("timestamp('2020-01-02T03:04:05Z').getMonth()", "0"),
        ("timestamp('2020-01-02T03:04:05Z').getDayOfMonth()", "1"),
        ("timestamp('2020-01-02T03:04:05Z').getDayOfWeek()", "4"),
        ("timestamp('2020-01-02T03:04:05Z').getHours('+02:00')", "5"),
        ("int(timestamp('2020-01-02T03:04:05Z'))", "1577934245"),
        ("duration('90s').getSeconds()", "90"),
        ("duration('1.5s').getMilliseconds()", "500"),
        ("request.time > timestamp('2020-01-01T00:00:00Z')", "true"),
    ]);
    none(&["duration('x')", "timestamp('x')"]);
}

#[test]
fn strings_are_made_only_where_that_is_allowed() {
    let options = Options {
        string_conversion: true,
        string_concat: true,
        string_functions: true,
    };
    for (text, expected) in [
        ("string(duration('1.5s'))", "1.500s"),
        (
            "string(timestamp('2020-01-02T03:04:05.5Z'))",
            "2020-01-02T03:04:05.500Z",
        ),
        ("'a' + string(1)", "a1"),
        ("'A'.lowerAscii()", "a"),
        ("'aba'.replace('a', 'b', 1)", "bba"),
        ("'a,b,c'.split(',', 2)[1]", "b,c"),
        ("['a', 'b'].join('-')", "a-b"),
        ("'abc'.substring(1)", "bc"),
        ("' a '.trim()", "a"),
        ("'abc'.charAt(1)", "b"),
        ("'abcb'.indexOf('b')", "1"),
        ("'abcb'.lastIndexOf('b')", "3"),
    ] {
        assert_eq!(
            print_with(text, options).as_deref(),
            Some(expected),
            "{text}"
        );
        assert!(
            Expression::from_text(text, Options::default(), None).is_err(),
            "{text}"
        );
    }
}

#[test]
fn what_is_no_expression_is_refused() {
    for text in [
        "",
        "1 +",
        "1 2",
        "'a",
        "a.?b",
        "has(a)",
        "foo(1)",
        "'a'.foo()",
        "size()",
        "'abc'.extract('a', 'b')",
        "[1].all(x, x > 0)",
        "Foo{a: 1}",
        "'a'.matches('[')",
        "if",
        "18446744073709551616",
        r"'\q'",
        "f(1,)",
    ] {
        assert!(
            Expression::from_text(text, Options::default(), None).is_err(),
            "{text}"
        );
    }
    let deep = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(Expression::from_text(&deep, Options::default(), None).is_err());
    let chain = format!("1{}", " + 1".repeat(10_000));
    assert!(Expression::from_text(&chain, Options::default(), None).is_err());
    let many = format!("false{}", " || false".repeat(1_000));
    assert_eq!(print(&many).as_deref(), Some("false"));
    let minuses = format!("{}x", "-".repeat(10_000));
    assert!(Expression::from_text(&minuses, Options::default(), None).is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z0-9.\\[\\]{}()'\"\\\\ +*/%<>=!&|?:,-]{0,40}") {
        if let Ok(expression) = Expression::from_text(&text, Options::default(), None) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let _entered = runtime.enter();
            let (info, request) = (info(), request());
            let value = expression.evaluate(&Activation::of_request(&info, &request));
            if let Some(value) = value {
                let _ = (value.print(), value.to_json());
            }
        }
    }
}
