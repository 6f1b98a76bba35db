//! Matchers over requests and connections.

use std::rc::Rc;

use outrigger_proto::yaml::{self, Format, Source, UnknownFields};
use std::sync::Arc;

use super::*;
use crate::config::ConfigReport;
use crate::http::{Protocol, RequestHead};
use crate::net::Address;
use crate::server::{InitManager, LocalInfo, ServerContext};
use crate::stream_info::{ConnectionInfo, StreamInfo};

/// Converts a matcher whose actions are the names of their types.
fn convert(text: &str) -> Result<Matcher<String>, Vec<String>> {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: text.as_bytes(),
    };
    let proto: pb::Matcher = yaml::load(&[source], UnknownFields::Refuse).unwrap();
    let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
    let report = ConfigReport::new();
    let scope = server.stats.scope("");
    let cx = FactoryContext {
        server: &server,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    let action = |config: TypedConfig, path: &ConfigPath<'_>| {
        let value: outrigger_proto::pb::google::protobuf::StringValue = config.decode(path)?;
        Ok(value.value)
    };
    Matcher::from_proto(proto, &cx, &ConfigPath::root(&report, "matcher"), action)
        .map_err(|_| report.take().iter().map(ToString::to_string).collect())
}

/// The action for a request with the header `x`.
fn find(matcher: &Matcher<String>, value: Option<&str>) -> Option<String> {
    let address = |text: &str| Address::Ip(text.parse::<std::net::SocketAddr>().unwrap());
    let connection = ConnectionInfo::between(address("10.1.2.3:4567"), address("10.0.0.1:80"));
    let info = StreamInfo::new(Rc::new(connection), 1, Some(Protocol::Http11));
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    head.set_path(b"/a?q=blue");
    if let Some(value) = value {
        head.fields.append("x", value);
    }
    let data = MatchingData {
        connection: &info.connection,
        info: Some(&info),
        request: Some(&head),
        response: None,
    };
    matcher.find(&data).cloned()
}

fn input(name: &str, fields: &str) -> String {
    format!("{{name: i, typed_config: {{\"@type\": type.googleapis.com/{name}{fields}}}}}")
}

fn header() -> String {
    input(
        "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
        ", header_name: x",
    )
}

fn action(name: &str) -> String {
    format!(
        "{{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/google.protobuf.StringValue, value: {name}}}}}}}"
    )
}

#[test]
fn the_first_predicate_that_holds_decides() {
    let entry = |value: &str, name: &str| {
        format!(
            "{{predicate: {{single_predicate: {{input: {}, value_match: {{{value}}}}}}}, on_match: {}}}",
            header(),
            action(name)
        )
    };
    let text = format!(
        "{{matcher_list: {{matchers: [{}, {}]}}, on_no_match: {}}}",
        entry("prefix: ab", "begins"),
        entry("exact: abc", "never"),
        action("none")
    );
    let matcher = convert(&text).unwrap();
    assert_eq!(find(&matcher, Some("abc")).as_deref(), Some("begins"));
    assert_eq!(find(&matcher, Some("x")).as_deref(), Some("none"));
    assert_eq!(find(&matcher, None).as_deref(), Some("none"));
}

#[test]
fn maps_are_looked_up_whole_or_by_the_longest_prefix() {
    let map = |kind: &str| {
        format!(
            "{{matcher_tree: {{input: {}, {kind}: {{map: {{a: {}, abc: {}}}}}}}}}",
            header(),
            action("short"),
            action("long")
        )
    };
    let exact = convert(&map("exact_match_map")).unwrap();
    assert_eq!(find(&exact, Some("abc")).as_deref(), Some("long"));
    assert_eq!(find(&exact, Some("ab")), None);
    let prefix = convert(&map("prefix_match_map")).unwrap();
    assert_eq!(find(&prefix, Some("abcd")).as_deref(), Some("long"));
    assert_eq!(find(&prefix, Some("ab")).as_deref(), Some("short"));
    assert_eq!(find(&prefix, Some("b")), None);
}

#[test]
fn predicates_combine() {
    let single = |input: &str, value: &str| {
        format!("{{single_predicate: {{input: {input}, value_match: {{exact: {value}}}}}}}")
    };
    let query = input(
        "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput",
        ", query_param: q",
    );
    let text = format!(
        "{{matcher_list: {{matchers: [{{predicate: {{and_matcher: {{predicate: [{}, {{not_matcher: {}}}]}}}}, on_match: {}}}]}}}}",
        single(&query, "blue"),
        single(&header(), "bad"),
        action("both")
    );
    let matcher = convert(&text).unwrap();
    assert_eq!(find(&matcher, Some("yes")).as_deref(), Some("both"));
    assert_eq!(find(&matcher, Some("bad")), None);
}

#[test]
fn addresses_are_matched_by_range() {
    let ip = "envoy.extensions.matching.common_inputs.network.v3.SourceIPInput";
    let of = |prefix: &str| {
        format!(
            "{{matcher_list: {{matchers: [{{predicate: {{single_predicate: {{input: {}, custom_match: {{name: c, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, cidr_ranges: [{{address_prefix: {prefix}, prefix_len: 8}}], stat_prefix: s}}}}}}}}, on_match: {}}}]}}}}",
            input(ip, ""),
            action("in")
        )
    };
    assert_eq!(
        find(&convert(&of("10.0.0.0")).unwrap(), None).as_deref(),
        Some("in")
    );
    assert_eq!(find(&convert(&of("11.0.0.0")).unwrap(), None), None);
}

#[test]
fn an_action_that_keeps_matching_does_not_end_the_search() {
    let kept = action("kept").replacen('{', "{keep_matching: true, ", 1);
    let text = format!(
        "{{matcher_tree: {{input: {}, exact_match_map: {{map: {{a: {kept}}}}}}}, on_no_match: {}}}",
        header(),
        action("none")
    );
    assert_eq!(
        find(&convert(&text).unwrap(), Some("a")).as_deref(),
        Some("none")
    );
}

#[test]
fn every_error_is_found() {
    let text = format!(
        "{{matcher_list: {{matchers: [{{on_match: {}}}, {{predicate: {{or_matcher: {{predicate: []}}}}, on_match: {{}}}}]}}}}",
        action("a")
    );
    let errors = convert(&text).unwrap_err();
    assert!(errors.len() >= 3, "{errors:?}");
    assert!(errors[0].contains("matchers[0] / predicate"), "{errors:?}");
}
