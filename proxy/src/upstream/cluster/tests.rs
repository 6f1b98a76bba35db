use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};

use super::*;
use crate::codec::h1::HeaderKeyFormat;
use crate::config::{ConfigPath, ConfigReport};
use crate::server::{LocalInfo, ServerContext};
use crate::upstream::circuit_breaker::RetryBudget;
use crate::upstream::load_balancer::Policy;

/// The cluster, or what is wrong with it.
fn convert(yaml: &str) -> Result<ClusterConfig, Vec<String>> {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: pb::Cluster = load(&[source], UnknownFields::Refuse).unwrap();
    let report = ConfigReport::new();
    let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
    let converted =
        ClusterConfig::from_proto(proto, &server, &ConfigPath::root(&report, "cluster"));
    converted.map_err(|_| report.take().iter().map(ToString::to_string).collect())
}

#[track_caller]
fn settings(yaml: &str) -> ClusterSettings {
    convert(&format!("name: a\n{yaml}")).unwrap().settings
}

#[track_caller]
fn errors(yaml: &str) -> Vec<String> {
    convert(&format!("name: a\n{yaml}")).unwrap_err()
}

#[test]
fn an_empty_cluster_has_envoys_defaults() {
    let config = convert("name: a").unwrap();
    assert_eq!(config.settings, ClusterSettings::default());
    assert!(config.dns.is_none());
    assert_eq!(config.settings.connect_timeout, Duration::from_secs(5));
    assert_eq!(
        config.settings.http.common.idle_timeout,
        Some(Duration::from_secs(3600))
    );
}

#[test]
fn every_error_of_a_cluster_is_reported() {
    let errors = errors(
        "
type: EDS
lb_policy: MAGLEV
health_checks: [{timeout: 1s, interval: 1s}]
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}
load_assignment:
  cluster_name: a
  endpoints:
  - lb_endpoints:
    - {endpoint: {address: {socket_address: {address: 1.2.3.4}}}, load_balancing_weight: 0}
",
    );
    let paths: Vec<_> = errors
        .iter()
        .map(|e| e.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "cluster / eds_cluster_config",
            "cluster / load_assignment / endpoints[0] / lb_endpoints[0] / load_balancing_weight",
            "cluster / load_assignment / endpoints[0] / lb_endpoints[0] / endpoint / address / socket_address / port_value",
            "cluster / health_checks[0] / unhealthy_threshold",
            "cluster / health_checks[0] / healthy_threshold",
            "cluster / health_checks[0] / health_checker",
        ]
    );
}

#[test]
fn a_name_in_a_static_cluster_is_refused_with_advice() {
    let yaml = "load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: b.c, port_value: 1}}}}]}]}";
    assert_eq!(
        errors(yaml),
        [
            "cluster / load_assignment: \"b.c\" is not an IP address: a STATIC cluster does not resolve names, STRICT_DNS and LOGICAL_DNS do"
        ]
    );
    assert!(convert(&format!("name: a\ntype: STRICT_DNS\n{yaml}")).is_ok());
}

#[test]
fn health_checks_that_envoy_refuses_are_refused_in_its_words() {
    let check = |kind: &str| {
        let yaml = format!(
            "health_checks: [{{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, {kind}}}]"
        );
        let found = errors(&yaml);
        assert_eq!(found.len(), 1, "{kind}: {found:?}");
        let (_, text) = found[0].split_once(": ").unwrap();
        text.to_owned()
    };
    let http = |fields: &str| check(&format!("http_health_check: {{path: /, {fields}}}"));
    assert_eq!(
        http("send: {text: '00'}"),
        "HTTP health check cannot specify a request payload with method 'GET'. Only methods that support a request body (POST, PUT, PATCH, OPTIONS) can be used with payload."
    );
    assert_eq!(http("receive: [{text: '0g'}]"), "invalid hex string '0g'");
    assert_eq!(
        http("receive: [{text: '000102'}], response_buffer_size: 2"),
        "The expected response length '3' is over than http health response buffer size '2'"
    );
    assert_eq!(
        http("expected_statuses: [{start: 200, end: 200}]"),
        "Invalid http expected status range: expecting start < end, but found start=200 and end=200"
    );
    assert_eq!(
        http("expected_statuses: [{start: 99, end: 200}]"),
        "Invalid http expected status range: expecting start >= 100, but found start=99"
    );
    assert_eq!(
        http("retriable_statuses: [{start: 200, end: 601}]"),
        "Invalid http retriable status range: expecting end <= 600, but found end=601"
    );
    assert_eq!(
        check("grpc_health_check: {}"),
        "a cluster must support HTTP/2 for gRPC healthchecking"
    );
    assert_eq!(
        check("tcp_health_check: {send: {text: x}}"),
        "invalid hex string 'x'"
    );
    assert_eq!(check("custom_health_check: {name: redis}"), "is required");
    let custom = |kind: &str, fields: &str| {
        check(&format!(
            "custom_health_check: {{name: c, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.health_checkers.{kind}, {fields}}}}}"
        ))
    };
    assert_eq!(
        custom(
            "redis.v3.Redis",
            "aws_iam: {region: r, service_name: s, cache_name: c}"
        ),
        "is not supported"
    );
    assert_eq!(
        custom(
            "thrift.v3.Thrift",
            "method_name: m, transport: FRAMED, protocol: BINARY"
        ),
        "envoy.extensions.health_checkers.thrift.v3.Thrift is not supported here; supported are envoy.extensions.health_checkers.redis.v3.Redis"
    );
    assert!(http("codec_client_type: HTTP3").contains("HTTP3 is not supported"));
}

#[test]
fn a_logical_cluster_has_exactly_one_endpoint() {
    assert_eq!(
        errors("type: LOGICAL_DNS"),
        ["cluster / load_assignment: has not exactly one endpoint, as LOGICAL_DNS needs"]
    );
}

#[test]
fn older_and_typed_http_options_say_the_same() {
    let older = settings(
        "
http2_protocol_options: {max_concurrent_streams: 5}
common_http_protocol_options: {idle_timeout: 7s}
",
    );
    let typed = settings(
        "
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    common_http_protocol_options: {idle_timeout: 7s}
    explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 5}}
",
    );
    assert_eq!(older, typed);
    assert_eq!(typed.http.protocol, ProtocolChoice::Http2);
    assert_eq!(typed.http.http2.max_concurrent_streams, 5);
    assert_eq!(typed.http.common.idle_timeout, Some(Duration::from_secs(7)));
}

#[test]
fn an_idle_timeout_of_zero_means_never() {
    let settings = settings("common_http_protocol_options: {idle_timeout: 0s}");
    assert_eq!(settings.http.common.idle_timeout, None);
}

#[test]
fn the_protocol_of_the_client_counts_only_with_http2_options() {
    let typed = |inner: &str| {
        settings(&format!(
            "
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    use_downstream_protocol_config: {inner}
"
        ))
    };
    let both = typed(
        "{http2_protocol_options: {}, http_protocol_options: {header_key_format: {proper_case_words: {}}}}",
    );
    assert_eq!(both.http.protocol, ProtocolChoice::UseDownstream);
    assert_eq!(
        both.http.http1.header_key_format,
        HeaderKeyFormat::ProperCaseWords
    );
    assert_eq!(typed("{}").http.protocol, ProtocolChoice::Http1);
    assert_eq!(
        settings("protocol_selection: USE_DOWNSTREAM_PROTOCOL")
            .http
            .protocol,
        ProtocolChoice::UseDownstream
    );
}

const TYPED: &str = "
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
";

#[test]
fn a_protocol_chosen_by_alpn_needs_tls() {
    let config = format!("{TYPED}    auto_config: {{}}\n");
    let found = errors(&config);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("non-ALPN transport socket"), "{found:?}");
}

#[test]
fn filters_that_belong_before_the_router_are_refused() {
    let errors = errors(&format!(
        "{TYPED}
    auto_config: {{}}
    http_filters:
    - {{name: x, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}}}
    - {{name: codec, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec}}}}
"
    ));
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("http_filters") && errors[0].contains("buffer.v3.Buffer"),
        "{errors:?}"
    );
}

#[test]
fn upstream_filters_end_in_the_upstream_codec() {
    let list = |filters: &str| {
        format!(
            "{TYPED}    explicit_http_config: {{http_protocol_options: {{}}}}\n    http_filters: {filters}"
        )
    };
    let mutation = "{name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation}}";
    let codec = "{name: codec, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec}}";
    let errors = errors(&list(&format!("[{mutation}]")));
    assert!(
        errors[0].contains(
            "must end with a filter of type envoy.extensions.filters.http.upstream_codec"
        ),
        "{errors:?}"
    );
    let filters = |filters: &str| {
        convert(&format!("name: a\n{}", list(filters)))
            .unwrap()
            .http_filters
            .map(|chain| format!("{chain:?}"))
    };
    assert_eq!(
        filters(&format!("[{mutation}, {codec}]")).as_deref(),
        Some("[\"x\"]")
    );
    assert_eq!(filters(&format!("[{codec}]")).as_deref(), Some("[]"));
    assert_eq!(filters("[]"), None);
}

#[test]
fn circuit_breakers_take_the_first_thresholds_of_a_priority() {
    let breakers = settings(
        "
circuit_breakers:
  thresholds:
  - {max_connections: 1, retry_budget: {budget_percent: {value: 25.0}, budget_interval: 10s, min_retry_concurrency: 4}}
  - {max_connections: 2}
  - {priority: HIGH, max_requests: 3, track_remaining: true}
  per_host_thresholds: [{max_connections: 9}]
",
    )
    .circuit_breakers;
    assert_eq!(breakers.default.max_connections, 1);
    assert_eq!(
        breakers.default.retry_budget,
        Some(RetryBudget {
            budget_ppm: 250_000,
            interval: Duration::from_secs(10),
            min_retry_concurrency: 4
        })
    );
    assert_eq!(breakers.high.max_requests, 3);
    assert_eq!(breakers.high.max_pending_requests, 1024);
    assert_eq!(breakers.per_host_max_connections, [Some(9), None]);
}

#[test]
fn a_typed_policy_takes_the_place_of_the_enum_and_of_the_common_configuration() {
    let balancer = settings(
        "
lb_policy: RANDOM
common_lb_config: {locality_weighted_lb_config: {}, healthy_panic_threshold: {value: 12.4}}
load_balancing_policy:
  policies:
  - typed_extension_config:
      name: unknown
      typed_config: {'@type': type.googleapis.com/envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst}
  - typed_extension_config:
      name: known
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
        choice_count: 3
",
    )
    .load_balancer;
    assert_eq!(
        balancer.policy,
        Policy::LeastRequest {
            choice_count: 3,
            active_request_bias: 1.0,
            full_scan: false
        }
    );
    assert!(!balancer.locality_weighted);
    assert_eq!(balancer.healthy_panic_threshold, 12);
    assert!(
        settings("common_lb_config: {locality_weighted_lb_config: {}}")
            .load_balancer
            .locality_weighted
    );
}

#[test]
fn dns_settings_come_from_the_cluster_or_from_its_type() {
    let older = convert(
        "
name: a
type: STRICT_DNS
dns_refresh_rate: 9s
dns_jitter: 1s
dns_lookup_family: V4_PREFERRED
dns_failure_refresh_rate: {base_interval: 2s}
typed_dns_resolver_config:
  name: envoy.network.dns_resolver.cares
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
    resolvers: [{socket_address: {address: 10.0.0.1, port_value: 0}}]
    dns_resolver_options: {use_tcp_for_dns_lookups: true}
",
    );
    let typed = convert(
        "
name: a
cluster_type:
  name: envoy.cluster.dns
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
    dns_refresh_rate: 9s
    dns_jitter: 1s
    dns_lookup_family: V4_PREFERRED
    dns_failure_refresh_rate: {base_interval: 2s}
    typed_dns_resolver_config:
      name: envoy.network.dns_resolver.cares
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
        resolvers: [{socket_address: {address: 10.0.0.1, port_value: 0}}]
        dns_resolver_options: {use_tcp_for_dns_lookups: true}
",
    );
    let (older, typed) = (older.unwrap().dns.unwrap(), typed.unwrap().dns.unwrap());
    assert_eq!(older, typed);
    assert_eq!(
        older.failure_backoff,
        Some((Duration::from_secs(2), Duration::from_secs(20)))
    );
    assert_eq!(older.family, LookupFamily::V4Preferred);
    assert_eq!(older.resolver.servers, ["10.0.0.1:53".parse().unwrap()]);
    assert!(older.resolver.use_tcp);
}

#[test]
fn sockets_are_bound_and_kept_alive_as_configured() {
    let sockets = settings(
        "
upstream_bind_config:
  source_address: {address: 127.0.0.6, port_value: 0}
  freebind: true
  socket_options: [{level: 6, name: 1, int_value: 1}]
  extra_source_addresses: [{address: {address: '::6', port_value: 0}}]
upstream_connection_options: {tcp_keepalive: {keepalive_time: 300}}
",
    )
    .sockets;
    let sources: Vec<_> = sockets
        .source_addresses
        .iter()
        .map(|s| s.address.to_string())
        .collect();
    assert_eq!(sources, ["127.0.0.6:0", "[::6]:0"]);
    assert!(sockets.freebind);
    assert!(sockets.keepalive.is_some());
    assert_eq!(sockets.socket_options.len(), 1);
}

#[test]
fn endpoints_have_health_weight_priority_metadata_and_further_addresses() {
    let config = convert(
        "
name: a
load_assignment:
  cluster_name: a
  policy: {overprovisioning_factor: 100, weighted_priority_health: true}
  endpoints:
  - priority: 1
    load_balancing_weight: 5
    locality: {zone: z}
    lb_endpoints:
    - health_status: DRAINING
      load_balancing_weight: 4
      metadata: {filter_metadata: {envoy.lb: {canary: true}}}
      endpoint:
        hostname: h
        address: {pipe: {path: '@abstract'}}
        additional_addresses: [{address: {socket_address: {address: 1.2.3.4, port_value: 5}}}]
",
    )
    .unwrap();
    assert_eq!(config.assignment.overprovisioning_factor, 100);
    assert!(config.assignment.weighted_priority_health);
    let locality = &config.assignment.localities[0];
    assert_eq!((locality.priority, locality.weight), (1, 5));
    let endpoint = &locality.endpoints[0];
    let EndpointAddress::Resolved(address) = &endpoint.address else {
        panic!("it has an address");
    };
    let host = endpoint.host(locality, address.clone(), 0);
    assert_eq!(host.address.to_string(), "@abstract");
    assert_eq!(host.additional_addresses[0].to_string(), "1.2.3.4:5");
    assert_eq!(
        (&*host.hostname, host.weight, host.priority, host.canary),
        ("h", 4, 1, true)
    );
    assert_eq!(&*host.locality.zone, "z");
    assert_eq!(host.coarse_health(), crate::upstream::Health::Unhealthy);
}
