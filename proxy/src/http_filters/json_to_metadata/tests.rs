use outrigger_proto::pb::google::protobuf::Value as PbValue;
use outrigger_proto::pb::google::protobuf::value::Kind;

use super::super::test_support::{Harness, errors};
use super::*;

fn pair(key: &str, kind: ValueType, value: Option<&str>) -> Option<proto::KeyValuePair> {
    let value = value.map(|value| {
        key_value_pair::ValueType::Value(PbValue {
            kind: Some(Kind::StringValue(value.to_owned())),
        })
    });
    Some(proto::KeyValuePair {
        key: key.to_owned(),
        r#type: kind.into(),
        value_type: value,
        ..Default::default()
    })
}

fn rule(kind: ValueType) -> proto::Rule {
    let key = |key: &str| proto::Selector {
        selector: Some(selector::Selector::Key(key.to_owned())),
    };
    proto::Rule {
        selectors: vec![key("a"), key("b")],
        on_present: pair("k", kind, None),
        on_missing: pair("k", kind, Some("missing")),
        on_error: pair("k", kind, Some("bad")),
    }
}

fn config(rule: proto::Rule) -> pb::JsonToMetadata {
    pb::JsonToMetadata {
        request_rules: Some(proto::MatchRules {
            rules: vec![rule],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What stands in the metadata after a request with this body.
fn written(kind: ValueType, body: &str) -> String {
    let harness = Harness::new(&config(rule(kind)));
    let mut stream = harness.stream_with(&[("content-type", "application/json")]);
    assert!(matches!(
        stream.decode_headers(false),
        HeadersStatus::StopIteration
    ));
    let (first, second) = body.split_at(body.len() / 2);
    let _ = stream.decode_data(first, false);
    let _ = stream.decode_data(second, true);
    let values = stream.info.dynamic_metadata.get(NAME);
    values.map_or_else(String::new, |values| values["k"].to_string())
}

#[test]
fn values_are_found_and_become_what_is_asked_for() {
    use ValueType::{Number, ProtobufValue, String};
    for (body, value, text, number) in [
        ("\"7.5\"", "\"7.5\"", "\"7.5\"", "7.5"),
        ("12", "12.0", "\"12\"", "12.0"),
        ("true", "true", "\"1\"", "1.0"),
        ("null", "\"missing\"", "\"missing\"", "\"missing\""),
        ("{}", "\"missing\"", "\"missing\"", "\"missing\""),
        ("\"\"", "\"\"", "", "\"missing\""),
    ] {
        let body = format!("{{\"a\": {{\"b\": {body}}}}}");
        let all = [ProtobufValue, String, Number].map(|kind| written(kind, &body));
        assert_eq!(all, [value, text, number], "{body}");
    }
}

#[test]
fn a_body_that_is_no_json_is_an_error_and_a_deep_one_too() {
    assert_eq!(written(ValueType::String, "{\"a\""), "\"bad\"");
    let deep = "[".repeat(100_000);
    assert_eq!(written(ValueType::String, &deep), "\"bad\"");
    assert_eq!(written(ValueType::String, "{}"), "\"missing\"");
}

#[test]
fn rules_need_something_to_write() {
    let nothing = proto::Rule {
        on_present: None,
        on_missing: None,
        ..rule(ValueType::String)
    };
    assert_eq!(
        errors(&config(nothing)),
        ["config / request_rules / rules[0]: has neither on_present nor on_missing"]
    );
    let no_value = proto::Rule {
        on_missing: pair("k", ValueType::String, None),
        ..rule(ValueType::String)
    };
    assert_eq!(
        errors(&config(no_value)),
        ["config / request_rules / rules[0] / on_missing / value: is required"]
    );
}
