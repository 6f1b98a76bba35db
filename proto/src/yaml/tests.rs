use super::*;
use crate::pb::envoy::config::cluster::v3::Cluster;
use crate::pb::envoy::config::core::v3::{Metadata, Node};
use crate::pb::envoy::config::metrics::v3::HistogramBucketSettings;
use crate::pb::google::protobuf::value::Kind;
use crate::pb::google::protobuf::{Duration, UInt32Value};

fn source(text: &str) -> Source<'_> {
    Source {
        name: "envoy.yaml",
        format: Format::Yaml,
        bytes: text.as_bytes(),
    }
}

fn read<M: Name + Default>(text: &str) -> Result<M, Vec<String>> {
    load(&[source(text)], UnknownFields::Refuse)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn the_end_of_a_file_name_tells_the_format() {
    for (path, format) in [
        ("a/envoy.yaml", Format::Yaml),
        ("envoy.YML", Format::Yaml),
        ("envoy.json", Format::Json),
        ("envoy.conf", Format::Json),
        ("envoy", Format::Json),
        ("envoy.pb", Format::Binary),
        ("envoy.pb_text", Format::Text),
    ] {
        assert_eq!(Format::of_path(Path::new(path)), format, "{path}");
    }
}

#[test]
fn names_may_be_snake_case_and_camel_case_side_by_side() {
    let cluster: Cluster = read(
        "{name: a, connectTimeout: 0.25s, lb_policy: ring_hash, perConnectionBufferLimitBytes: 5}",
    )
    .expect("valid");
    assert_eq!(
        cluster.connect_timeout,
        Some(Duration {
            seconds: 0,
            nanos: 250_000_000
        })
    );
    assert_eq!(cluster.lb_policy, 2);
    assert_eq!(
        cluster.per_connection_buffer_limit_bytes,
        Some(UInt32Value { value: 5 })
    );
}

#[test]
fn values_may_be_written_in_more_than_one_way() {
    let plain: Cluster = read("{name: a, health_checks: [{timeout: 1s}], lb_policy: 2, ignore_health_on_host_removal: true, per_connection_buffer_limit_bytes: 100}").expect("valid");
    for text in [
        "{name: 'a', health_checks: {timeout: 1s}, lb_policy: '2', ignore_health_on_host_removal: 'true', per_connection_buffer_limit_bytes: '100'}",
        "{name: a, health_checks: [[{timeout: {seconds: 1}}]], lb_policy: RING_HASH, ignore_health_on_host_removal: yes, per_connection_buffer_limit_bytes: 1e2}",
        "{name: a, health_checks: [{timeout: '1s', interval: ~}], lb_policy: Ring_Hash, ignore_health_on_host_removal: on, per_connection_buffer_limit_bytes: {value: 0x64}, cleanup_interval: null}",
    ] {
        assert_eq!(read::<Cluster>(text).as_ref(), Ok(&plain), "{text}");
    }
    let buckets: HistogramBucketSettings = read("buckets: [1, 2.5, '3', ~]").expect("valid");
    assert_eq!(buckets.buckets, [1.0, 2.5, 3.0, 0.0]);
}

#[test]
fn a_struct_keeps_fractions_and_large_integers_as_strings() {
    let node: Node = read(
        "metadata: {small: 5, fraction: 1.5, large: 5000000000, yes: yes, none: ~, list: [1, a]}",
    )
    .expect("valid");
    let fields = node.metadata.expect("given").fields;
    let kind = |name: &str| fields[name].kind.clone().expect("set");
    assert_eq!(kind("small"), Kind::NumberValue(5.0));
    assert_eq!(kind("fraction"), Kind::StringValue("1.5".to_owned()));
    assert_eq!(kind("large"), Kind::StringValue("5000000000".to_owned()));
    assert_eq!(kind("yes"), Kind::BoolValue(true));
    assert_eq!(kind("none"), Kind::NullValue(0));
    assert!(matches!(kind("list"), Kind::ListValue(list) if list.values.len() == 2));
    let json = Source {
        name: "envoy.json",
        format: Format::Json,
        bytes: br#"{"metadata": {"fraction": 1.5}}"#,
    };
    let node: Node = load(&[json], UnknownFields::Refuse).expect("valid");
    assert_eq!(
        node.metadata.expect("given").fields["fraction"].kind,
        Some(Kind::NumberValue(1.5))
    );
}

#[test]
fn every_error_is_reported_with_line_and_path() {
    let text = "
node:
  id: 5
  clster: b
static_resources:
  clusters:
  - name: a
    connect_timeout: 1
    lb_policy: FOO
    type: EDS
    cluster_type: {name: b}
  - metadata:
      filter_metadata: {x: [y]}
      typed_filter_metadata:
        a: {'@type': type.googleapis.com/no.Such}
        b: {'@type': envoy.config.core.v3.Node}
        c: {id: d}
        e: {'@type': type.googleapis.com/envoy.config.core.v3.Node, idd: f}
    per_connection_buffer_limit_bytes: -1
";
    let expected = [
        "envoy.yaml:3: node.id: expected a string, found the number 5; put it in quotes",
        "envoy.yaml:4: node: no such field \"clster\" in envoy.config.core.v3.Node; did you mean \"cluster\"?",
        "envoy.yaml:8: static_resources.clusters[0].connect_timeout: expected a duration, found the number 1; write 1s",
        "envoy.yaml:9: static_resources.clusters[0].lb_policy: FOO is no envoy.config.cluster.v3.Cluster.LbPolicy; one of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG",
        "envoy.yaml:11: static_resources.clusters[0].cluster_type: cannot be set together with \"type\"",
        "envoy.yaml:13: static_resources.clusters[1].metadata.filter_metadata[\"x\"]: expected an object, found a list",
        "envoy.yaml:15: static_resources.clusters[1].metadata.typed_filter_metadata[\"a\"]: \"@type\" is \"type.googleapis.com/no.Such\"; no such message is known",
        "envoy.yaml:16: static_resources.clusters[1].metadata.typed_filter_metadata[\"b\"]: \"@type\" is \"envoy.config.core.v3.Node\"; it has to be a URL such as type.googleapis.com/envoy.config.core.v3.Node",
        "envoy.yaml:17: static_resources.clusters[1].metadata.typed_filter_metadata[\"c\"]: \"@type\" is missing; it says which message this is",
        "envoy.yaml:18: static_resources.clusters[1].metadata.typed_filter_metadata[\"e\"]: no such field \"idd\" in envoy.config.core.v3.Node; did you mean \"id\"?",
        "envoy.yaml:19: static_resources.clusters[1].per_connection_buffer_limit_bytes: -1 is not in 0..=4294967295",
    ];
    let found = read::<Bootstrap>(text).expect_err("wrong in many ways");
    assert_eq!(found, expected);
}

#[test]
fn unknown_fields_and_enum_names_may_be_ignored() {
    let text = "{name: a, nam: b, lb_policy: FOO, metadata: {typed_filter_metadata: {x: {'@type': x/envoy.config.core.v3.Node, id: inner, idd: f}}}}";
    let cluster: Cluster =
        load(&[source(text)], UnknownFields::Ignore).expect("nothing else is wrong");
    assert_eq!((cluster.name.as_str(), cluster.lb_policy), ("a", 0));
    let typed = cluster.metadata.expect("given").typed_filter_metadata;
    assert_eq!(
        crate::any::decode::<Node>(&typed["x"]).expect("a node").id,
        "inner"
    );
    let errors = load::<Cluster>(&[source("{name: 5, nam: b}")], UnknownFields::Ignore)
        .expect_err("a wrong type stays wrong");
    assert_eq!(
        errors.iter().map(|error| error.kind).collect::<Vec<_>>(),
        [ErrorKind::Type]
    );
}

#[test]
fn later_sources_are_merged_into_earlier_ones() {
    let first = "
node: {id: a, cluster: b, metadata: {x: 1, y: 1}}
static_resources: {clusters: [{name: one}]}
stats_flush_interval: 5s
";
    let second = r#"{"node": {"id": "c", "metadata": {"y": 2}}, "static_resources": {"clusters": [{"name": "two"}]}, "stats_flush_on_admin": true}"#;
    let second = Source {
        name: "--config-yaml",
        format: Format::Json,
        bytes: second.as_bytes(),
    };
    let bootstrap = load_bootstrap(&[source(first), second], UnknownFields::Refuse).expect("valid");
    let node = bootstrap.node.expect("given");
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("c", "b"));
    let fields = node.metadata.expect("given").fields;
    assert_eq!(
        (&fields["x"].kind, &fields["y"].kind),
        (&Some(Kind::NumberValue(1.0)), &Some(Kind::NumberValue(2.0)))
    );
    let names: Vec<_> = bootstrap
        .static_resources
        .expect("given")
        .clusters
        .into_iter()
        .map(|cluster| cluster.name)
        .collect();
    assert_eq!(names, ["one", "two"]);
    use crate::pb::envoy::config::bootstrap::v3::bootstrap::StatsFlush;
    assert_eq!(
        bootstrap.stats_flush,
        Some(StatsFlush::StatsFlushOnAdmin(true))
    );
}

#[test]
fn errors_of_all_sources_are_reported_by_name() {
    let second = Source {
        name: "--config-yaml",
        format: Format::Yaml,
        bytes: b"node: [}",
    };
    let third = Source {
        name: "third",
        format: Format::Yaml,
        bytes: b"node:\n  id: \xff",
    };
    let errors = load_bootstrap(
        &[source("node: {id: 5}"), second, third],
        UnknownFields::Refuse,
    )
    .expect_err("all are wrong");
    let places: Vec<_> = errors
        .iter()
        .map(|error| (error.file.as_str(), error.line, error.kind))
        .collect();
    assert_eq!(
        places,
        [
            ("envoy.yaml", 1, ErrorKind::Type),
            ("--config-yaml", 1, ErrorKind::Syntax),
            ("third", 2, ErrorKind::Syntax)
        ]
    );
}

#[test]
fn a_default_does_not_undo_what_an_earlier_source_has_set() {
    let cluster: Cluster = load(
        &[
            source("{name: a, ignore_health_on_host_removal: true}"),
            source("{name: '', ignore_health_on_host_removal: false}"),
        ],
        UnknownFields::Refuse,
    )
    .expect("valid");
    assert_eq!(
        (cluster.name.as_str(), cluster.ignore_health_on_host_removal),
        ("a", true)
    );
}

#[test]
fn an_empty_or_scalar_configuration_is_refused() {
    for (text, expected) in [
        ("", "envoy.yaml:1: expected an object, found null"),
        (
            "abc",
            "envoy.yaml:1: expected an object, found the string \"abc\"",
        ),
        ("[]", "envoy.yaml:1: expected an object, found a list"),
    ] {
        assert_eq!(read::<Bootstrap>(text), Err(vec![expected.to_owned()]));
    }
    assert_eq!(read::<Bootstrap>("{}"), Ok(Bootstrap::default()));
}

#[test]
fn encoded_configurations_are_taken_as_they_are() {
    use prost::Message as _;
    let node = Node {
        id: "a".to_owned(),
        ..Node::default()
    };
    let bytes = node.encode_to_vec();
    let encoded = Source {
        name: "node.pb",
        format: Format::Binary,
        bytes: &bytes,
    };
    assert_eq!(load(&[encoded], UnknownFields::Refuse).as_ref(), Ok(&node));
    let broken = Source {
        name: "node.pb",
        format: Format::Binary,
        bytes: &[0x0a, 9],
    };
    let errors = load::<Node>(&[broken], UnknownFields::Refuse).expect_err("cut off");
    assert_eq!(
        (errors[0].file.as_str(), errors[0].kind),
        ("node.pb", ErrorKind::Syntax)
    );
}

#[test]
fn an_any_may_hold_an_any_and_every_well_known_type() {
    let text = "
typed_filter_metadata:
  any: {'@type': a/google.protobuf.Any, value: {'@type': b/google.protobuf.Any, value: {'@type': c/envoy.config.core.v3.Node, id: deep}}}
  duration: {'@type': a/google.protobuf.Duration, value: 1.5s}
  time: {'@type': a/google.protobuf.Timestamp, value: '2026-01-02T03:04:05Z'}
  value: {'@type': a/google.protobuf.Value, value: [1, {a: ~}]}
  wrapper: {'@type': a/google.protobuf.UInt64Value, value: '18446744073709551615'}
  struct: {'@type': a/google.protobuf.Struct, value: {a: b}}
  list: {'@type': a/google.protobuf.ListValue, value: [a]}
  empty: {'@type': a/google.protobuf.Empty}
  bytes: {'@type': a/google.protobuf.BytesValue, value: 'aGVsbG8'}
";
    let fields = read::<Metadata>(text).expect("valid").typed_filter_metadata;
    use crate::any::decode;
    use crate::pb::google::protobuf::{
        Any, BytesValue, ListValue, Struct, Timestamp, UInt64Value, Value,
    };
    let inner: Any = decode(&decode::<Any>(&fields["any"]).expect("an Any")).expect("an Any");
    assert_eq!(decode::<Node>(&inner).expect("a node").id, "deep");
    assert_eq!(
        decode(&fields["duration"]),
        Ok(Duration {
            seconds: 1,
            nanos: 500_000_000
        })
    );
    assert_eq!(
        decode(&fields["time"]),
        Ok(Timestamp {
            seconds: 1_767_323_045,
            nanos: 0
        })
    );
    assert!(matches!(
        decode::<Value>(&fields["value"]).expect("a value").kind,
        Some(Kind::ListValue(_))
    ));
    assert_eq!(
        decode(&fields["wrapper"]),
        Ok(UInt64Value { value: u64::MAX })
    );
    assert_eq!(
        decode::<Struct>(&fields["struct"])
            .expect("a struct")
            .fields
            .len(),
        1
    );
    assert_eq!(
        decode::<ListValue>(&fields["list"])
            .expect("a list")
            .values
            .len(),
        1
    );
    assert_eq!(fields["empty"].value, b"");
    assert_eq!(
        decode(&fields["bytes"]),
        Ok(BytesValue {
            value: b"hello".to_vec()
        })
    );
}

#[test]
fn nesting_and_repeated_aliases_have_a_limit() {
    let deep = "metadata: ".to_owned() + &"{a: ".repeat(110) + "b" + &"}".repeat(110);
    let errors = read::<Node>(&deep).expect_err("too deep");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("100 levels"), "{}", errors[0]);
    let cycle = read::<Node>("metadata: &a {x: *a}").expect_err("a cycle");
    assert!(cycle[0].contains("its own alias"), "{}", cycle[0]);
    let mut bomb = "client_features:\n- &a0 [x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("- &a{level} [{aliases}]\n"));
    }
    let errors = read::<Node>(&bomb).expect_err("10^11 elements");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("10000000 values"), "{}", errors[0]);
}

#[test]
fn errors_have_a_limit_too() {
    let text = format!("client_features: [{}]", "1, ".repeat(5_000));
    assert_eq!(read::<Node>(&text).expect_err("all wrong").len(), 1_000);
}

#[test]
fn equal_keys_are_merged_in_json_messages_and_refused_in_maps() {
    let json = |text| Source {
        name: "envoy.json",
        format: Format::Json,
        bytes: text,
    };
    let node: Node = load(
        &[json(
            br#"{"id": "a", "id": "b", "locality": {"zone": "x"}, "locality": {"region": "y"}}"#,
        )],
        UnknownFields::Refuse,
    )
    .expect("valid");
    let locality = node.locality.expect("given");
    assert_eq!(
        (
            node.id.as_str(),
            locality.zone.as_str(),
            locality.region.as_str()
        ),
        ("b", "x", "y")
    );
    let twice = load::<Node>(
        &[json(br#"{"metadata": {"a": 1, "a": 2}}"#)],
        UnknownFields::Refuse,
    )
    .expect_err("twice");
    assert_eq!(
        twice[0].to_string(),
        "envoy.json:1: metadata: the key \"a\" is there twice"
    );
}

#[test]
fn lines_of_a_flow_collection_have_to_be_indented() {
    for text in [
        "locality: {\nzone: a }",
        "locality: { zone: \"a\nb\" }\nmetadata:\n  a: [\n1]",
        "metadata:\n  a: {\n b: c }",
    ] {
        let errors = read::<Node>(text).unwrap_err();
        assert!(errors[0].contains("indent all lines"), "{errors:?}");
    }
    let node: Node = read("locality: {\n zone: a\n}").unwrap();
    assert_eq!(node.locality.unwrap().zone, "a");
}
