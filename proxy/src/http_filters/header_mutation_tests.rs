use outrigger_proto::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher_pb;
use outrigger_proto::pb::google::protobuf as wkt;
use rules::header_mutation::{Action, RemoveOnMatch};

use super::super::test_support::{Harness, errors, forward, per_filter, virtual_host};
use super::*;

fn append(key: &str, value: &str, action: HeaderAppendAction) -> rules::HeaderMutation {
    rules::HeaderMutation {
        action: Some(Action::Append(core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: key.to_owned(),
                value: value.to_owned(),
                raw_value: Vec::new(),
            }),
            append_action: action.into(),
            ..Default::default()
        })),
    }
}

fn add(key: &str, value: &str) -> rules::HeaderMutation {
    append(key, value, HeaderAppendAction::AppendIfExistsOrAdd)
}

fn remove(key: &str) -> rules::HeaderMutation {
    rules::HeaderMutation {
        action: Some(Action::Remove(key.to_owned())),
    }
}

fn remove_prefix(prefix: &str) -> rules::HeaderMutation {
    let matcher = matcher_pb::StringMatcher {
        match_pattern: Some(matcher_pb::string_matcher::MatchPattern::Prefix(
            prefix.to_owned(),
        )),
        ..Default::default()
    };
    rules::HeaderMutation {
        action: Some(Action::RemoveOnMatch(RemoveOnMatch {
            key_matcher: Some(matcher),
        })),
    }
}

fn query(key: &str, value: &str, action: KeyValueAppendAction) -> core::KeyValueMutation {
    core::KeyValueMutation {
        append: Some(core::KeyValueAppend {
            record: Some(core::KeyValuePair {
                key: key.to_owned(),
                value: Some(wkt::Value {
                    kind: Some(Kind::StringValue(value.to_owned())),
                }),
            }),
            action: action.into(),
            ..Default::default()
        }),
        remove: String::new(),
    }
}

fn filter(mutations: pb::Mutations) -> pb::HeaderMutation {
    pb::HeaderMutation {
        mutations: Some(mutations),
        ..Default::default()
    }
}

fn texts(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(n, v)| (text(n), text(v))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect()
}

#[test]
fn each_step_sees_what_the_steps_before_it_did() {
    let harness = Harness::new(&filter(pb::Mutations {
        request_mutations: vec![
            add("x-m", "%REQ(x-a)%-%REQ(x-no)%"),
            add("x-m", "second"),
            add("x-m2", "%REQ(x-m)%"),
            remove("x-del"),
            add("x-empty", "%REQ(x-no)%"),
            remove_prefix("x-b"),
        ],
        ..Default::default()
    }));
    let mut stream = harness.stream_with(&[("x-a", "va"), ("x-del", "1"), ("x-b1", "1")]);
    stream.decode_headers(true);
    assert_eq!(
        texts(&stream.request.fields),
        pairs(&[
            ("x-a", "va"),
            ("x-m", "va-"),
            ("x-m", "second"),
            ("x-m2", "va-")
        ])
    );
}

#[test]
fn responses_and_both_trailers_are_changed_as_the_action_says() {
    use HeaderAppendAction::{AddIfAbsent, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let harness = Harness::new(&filter(pb::Mutations {
        response_mutations: vec![
            add("x-r", "%RESP(:status)%"),
            append("x-o", "1", OverwriteIfExists),
            add("x-s", "s"),
            append("x-r", "a", AddIfAbsent),
            append("x-r", "%REQ(:path)%", OverwriteIfExistsOrAdd),
        ],
        request_trailers_mutations: vec![add("t", "req")],
        response_trailers_mutations: vec![add("t", "%RESP(:status)%"), remove("gone")],
        ..Default::default()
    }));
    let mut stream = harness.stream();
    stream.encode_headers(false);
    assert_eq!(
        texts(&stream.response.fields),
        pairs(&[("x-s", "s"), ("x-r", "/")])
    );
    let mut trailers = Fields::new();
    stream.decode_trailers(&mut trailers);
    assert_eq!(texts(&trailers), pairs(&[("t", "req")]));
    let mut trailers = Fields::new();
    trailers.append("gone", "1");
    stream.encode_trailers(&mut trailers);
    assert_eq!(texts(&trailers), pairs(&[("t", "200")]));
}

#[test]
fn the_query_is_sorted_and_changed() {
    use KeyValueAppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists};
    let harness = Harness::new(&filter(pb::Mutations {
        query_parameter_mutations: vec![
            query("added", "v 1&%REQ(x-a)%", AppendIfExistsOrAdd),
            core::KeyValueMutation {
                append: None,
                remove: "x".to_owned(),
            },
            query("y", "over", OverwriteIfExists),
            query("q", "no", OverwriteIfExists),
            query("z", "no", AddIfAbsent),
        ],
        ..Default::default()
    }));
    for (path, changed) in [
        (
            "/p?x=1&y=a%20b&z&w=%2B+c&y=2&%78=3&u=%ff",
            "/p?added=v%201%26va&u=%ff&w=%2B+c&y=over&z=",
        ),
        ("/p", "/p?added=v%201%26va&z=no"),
        ("/p?", "/p?added=v%201%26va&z=no"),
    ] {
        let mut stream = harness.stream_with(&[(":path", path), ("x-a", "va")]);
        stream.decode_headers(true);
        let path = stream.request.path().map(String::from_utf8_lossy);
        assert_eq!(path.as_deref(), Some(changed));
    }
}

#[test]
fn a_query_that_becomes_empty_goes_with_its_question_mark() {
    let harness = Harness::new(&filter(pb::Mutations {
        query_parameter_mutations: vec![core::KeyValueMutation {
            append: None,
            remove: "x".to_owned(),
        }],
        ..Default::default()
    }));
    let mut stream = harness.stream_with(&[(":path", "/p?x=1")]);
    stream.decode_headers(true);
    assert_eq!(stream.request.path(), Some(&b"/p"[..]));
}

#[test]
fn the_least_specific_level_wins_unless_configured_otherwise() {
    let set = |value: &str| pb::Mutations {
        request_mutations: vec![append(
            "x-m",
            value,
            HeaderAppendAction::OverwriteIfExistsOrAdd,
        )],
        ..Default::default()
    };
    let level = |value: &str| {
        per_filter(&pb::HeaderMutationPerRoute {
            mutations: Some(set(value)),
        })
    };
    for (wins, expected) in [(false, "host"), (true, "route")] {
        let route = route_pb::Route {
            typed_per_filter_config: level("route"),
            ..forward()
        };
        let host = route_pb::VirtualHost {
            typed_per_filter_config: level("host"),
            ..virtual_host(route)
        };
        let config = pb::HeaderMutation {
            mutations: Some(set("filter")),
            most_specific_header_mutations_wins: wins,
        };
        let mut stream = Harness::with_host(&config, host).stream();
        stream.decode_headers(true);
        assert_eq!(stream.request.fields.get_str("x-m"), Some(expected));
    }
}

#[test]
fn a_value_cannot_end_the_line_that_it_stands_in() {
    let harness = Harness::new(&filter(pb::Mutations {
        request_mutations: vec![add("x-m", "%QUERY_PARAM(a)%")],
        ..Default::default()
    }));
    let mut stream = harness.stream_with(&[(":path", "/?a=1%0d%0aevil:%202")]);
    stream.decode_headers(true);
    assert_eq!(stream.request.fields.get_str("x-m"), Some("1evil: 2"));
}

#[test]
fn what_must_not_be_changed_is_refused_with_its_path() {
    let config = filter(pb::Mutations {
        request_mutations: vec![
            add("host", "b"),
            add(":path", "b"),
            remove(":path"),
            add("x", "%FOO%"),
            add("a b", "x"),
        ],
        query_parameter_mutations: vec![core::KeyValueMutation::default()],
        ..Default::default()
    });
    assert_eq!(
        errors(&config),
        [
            "config / mutations / request_mutations[0] / append / header / key: :-prefixed or host headers may not be modified",
            "config / mutations / request_mutations[1] / append / header / key: :-prefixed or host headers may not be modified",
            "config / mutations / request_mutations[2] / remove: :path: a pseudo header cannot be removed",
            "config / mutations / request_mutations[3] / append / header / value: Not supported field in StreamInfo: FOO",
            "config / mutations / request_mutations[4] / append / header / key: \"a b\" is not a header name",
            "config / mutations / query_parameter_mutations[0] / remove: must not be empty",
        ]
    );
    let without_action = filter(pb::Mutations {
        request_mutations: vec![rules::HeaderMutation::default()],
        ..Default::default()
    });
    assert_eq!(
        errors(&without_action),
        [
            "config / mutations / request_mutations[0]: one of remove, append, remove_on_match has to be set"
        ]
    );
}
