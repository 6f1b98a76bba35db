use prost::Name;

use super::*;
use crate::pb::envoy;
use crate::yaml::{self, Format, Source, UnknownFields};

/// What is found in a message given as YAML, one line each.
fn found<M: Name>(text: &str) -> Vec<String> {
    let source = Source {
        name: "test.yaml",
        format: Format::Yaml,
        bytes: text.as_bytes(),
    };
    let bytes = yaml::encode(&M::full_name(), &[source], UnknownFields::Refuse).expect(text);
    check(&M::full_name(), &bytes)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_message_that_keeps_all_rules_is_passed() {
    assert_eq!(
        found::<envoy::config::core::v3::Address>(
            "socket_address: {address: 127.0.0.1, port_value: 80}"
        ),
        [""; 0]
    );
    assert_eq!(
        found::<envoy::config::cluster::v3::Cluster>("{name: c, connect_timeout: 1s}"),
        [""; 0]
    );
}

#[test]
fn a_required_message_is_missed() {
    assert_eq!(
        found::<envoy::config::core::v3::HealthCheck>(
            "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1}"
        ),
        [
            "one of http_health_check, tcp_health_check, grpc_health_check, custom_health_check has to be set"
        ]
    );
    assert_eq!(
        found::<envoy::config::core::v3::HealthCheck>(
            "{tcp_health_check: {}, unhealthy_threshold: 1, healthy_threshold: 1}"
        ),
        ["timeout: has to be set", "interval: has to be set"]
    );
}

#[test]
fn rules_reach_into_lists_and_maps() {
    let text = "
endpoints:
- lb_endpoints:
  - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 80}}}
  - load_balancing_weight: 0
    endpoint: {address: {socket_address: {address: '', port_value: 65536}}}
  priority: 129
";
    assert_eq!(
        found::<envoy::config::endpoint::v3::ClusterLoadAssignment>(text),
        [
            "cluster_name: \"\": must not be empty",
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.address: \"\": must not be empty",
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value: 65536: has to be <= 65535",
            "endpoints[0].lb_endpoints[1].load_balancing_weight: 0: has to be >= 1",
            "endpoints[0].priority: 129: has to be <= 128",
        ]
    );
    assert_eq!(
        found::<envoy::config::core::v3::Metadata>("filter_metadata: {'': {a: b}}"),
        ["filter_metadata[\"\"]: \"\": must not be empty"]
    );
}

#[test]
fn each_kind_of_rule_says_what_is_legal() {
    use envoy::config::core::v3::{
        HeaderValue, Http2ProtocolOptions, SchemeHeaderTransformation, SocketAddress,
    };
    use envoy::config::route::v3::{RouteMatch, VirtualHost, WeightedCluster};
    assert_eq!(
        found::<envoy::config::cluster::v3::Cluster>(
            "{name: c, lb_policy: 77, connect_timeout: -1s}"
        )
        .len(),
        2
    );
    assert_eq!(
        found::<envoy::config::cluster::v3::Cluster>("{name: c, connect_timeout: 0s}"),
        ["connect_timeout: 0s: has to be > 0s"]
    );
    assert_eq!(
        found::<SchemeHeaderTransformation>("scheme_to_overwrite: ftp"),
        ["scheme_to_overwrite: \"ftp\": has to be one of \"http\", \"https\""]
    );
    assert_eq!(
        found::<HeaderValue>("{key: \"a\\nb\", value: c}"),
        ["key: \"a\\nb\": must not have line breaks or NUL"]
    );
    assert_eq!(
        found::<HeaderValue>(&format!("{{key: a, value: {}}}", "x".repeat(16_385))).len(),
        1
    );
    assert_eq!(
        found::<RouteMatch>("path_separated_prefix: /a/"),
        ["path_separated_prefix: \"/a/\": has to match ^[^?#]+[^?#/]$"]
    );
    assert_eq!(found::<RouteMatch>("path_separated_prefix: /a"), [""; 0]);
    assert_eq!(
        found::<VirtualHost>("name: v"),
        ["domains: 0 elements: has to have at least 1 elements"]
    );
    assert_eq!(
        found::<WeightedCluster>("{clusters: [{name: a}], header_name: 'a\\n'}"),
        [""; 0]
    );
    assert_eq!(
        found::<Http2ProtocolOptions>("max_concurrent_streams: 0"),
        ["max_concurrent_streams: 0: has to be >= 1 and <= 2147483647"]
    );
    assert_eq!(
        found::<SocketAddress>("{address: a, port_value: 1, protocol: 7}"),
        ["protocol: 7: has to be one of TCP (0), UDP (1)"]
    );
}

#[test]
fn rules_given_one_by_one_all_hold() {
    use envoy::config::route::v3::VirtualHost;
    let header = "{name: v, domains: [a], request_headers_to_remove: [a, '']}";
    assert_eq!(
        found::<VirtualHost>(header),
        ["request_headers_to_remove[1]: \"\": must not be empty"]
    );
    use envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
    let manager = "{stat_prefix: a, route_config: {}, max_request_headers_kb: 8193}";
    assert_eq!(
        found::<HttpConnectionManager>(manager),
        ["max_request_headers_kb: 8193: has to be > 0 and <= 8192"]
    );
}

#[test]
fn rules_that_only_envoy_has_hold_too() {
    use envoy::config::route::v3::RouteConfiguration;
    assert_eq!(
        found::<RouteConfiguration>(r#"vhost_header: "a\nb""#),
        ["vhost_header: \"a\\nb\": must not have line breaks or NUL"]
    );
}

#[test]
fn elements_that_have_to_differ_are_compared() {
    use envoy::config::metrics::v3::HistogramBucketSettings;
    let text = "{match: {prefix: a}, buckets: [1, 2, 1, 0]}";
    assert_eq!(
        found::<HistogramBucketSettings>(text),
        [
            "buckets[2]: 1: appears twice, but all elements have to differ",
            "buckets[3]: 0: has to be > 0"
        ]
    );
}

#[test]
fn fields_that_do_not_exist_are_told_from_broken_rules() {
    let mut node = Vec::new();
    crate::wire::put_bytes_field(&mut node, 1, b"id");
    crate::wire::put_varint_field(&mut node, 99, 1);
    crate::wire::put_varint_field(&mut node, 99, 2);
    let mut bootstrap = Vec::new();
    crate::wire::put_bytes_field(&mut bootstrap, 1, &node);
    let problem = Problem::UnknownField {
        message: "envoy.config.core.v3.Node",
        number: 99,
    };
    assert_eq!(
        check("envoy.config.bootstrap.v3.Bootstrap", &bootstrap),
        [Violation {
            path: "node".to_owned(),
            problem
        }]
    );
}

#[test]
fn what_envoy_has_given_up_names_its_runtime_key() {
    use envoy::config::route::v3::{HeaderMatcher, RateLimit};
    let limit = "actions: [{dynamic_metadata: {descriptor_key: a, metadata_key: {key: b, path: [{key: c}]}}}]";
    let key = "envoy.deprecated_features:envoy.config.route.v3.RateLimit.Action.dynamic_metadata";
    let expected = Violation {
        path: "actions[0].dynamic_metadata".to_owned(),
        problem: Problem::Disallowed {
            runtime_key: key.to_owned(),
        },
    };
    assert_eq!(found::<RateLimit>(limit), [expected.to_string()]);
    let matcher = "{name: a, exact_match: b}";
    assert_eq!(
        found::<HeaderMatcher>(matcher),
        [
            "exact_match: is deprecated; the runtime key envoy.deprecated_features:envoy.config.route.v3.HeaderMatcher.exact_match decides whether it is allowed"
        ]
    );
}

#[test]
fn fields_that_the_rust_types_lack_are_pointed_out() {
    let text = "{tcp_cluster_name: c, scale_histogram_units_to_milliseconds: true}";
    assert_eq!(
        found::<envoy::config::metrics::v3::StatsdSink>(text),
        ["scale_histogram_units_to_milliseconds: is not supported yet"]
    );
    let taken = "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /, use_alpn_protocol: true}, name: probe}";
    assert!(found::<envoy::config::core::v3::HealthCheck>(taken).is_empty());
}

#[test]
fn broken_and_bottomless_messages_are_refused() {
    let name = "envoy.config.core.v3.Node";
    let malformed = |path: &str| {
        vec![Violation {
            path: path.to_owned(),
            problem: Problem::Malformed,
        }]
    };
    assert_eq!(check(name, &[0x0a, 9]), malformed(""));
    assert_eq!(check("no.such.Message", &[0x0a, 9]), []);
    let mut nested = Vec::new();
    for _ in 0..200 {
        let mut outer = Vec::new();
        crate::wire::put_bytes_field(&mut outer, 8, &nested);
        nested = outer;
    }
    let deep = check("envoy.config.rbac.v3.Principal", &nested);
    assert!(
        deep.iter().any(|found| found.problem == Problem::Malformed),
        "{deep:?}"
    );
}
