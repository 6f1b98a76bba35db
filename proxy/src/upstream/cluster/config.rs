//! `envoy.config.cluster.v3.Cluster` becomes a cluster.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/cluster/v3/cluster.proto>
//! Type URLs: `envoy.extensions.clusters.dns.v3.DnsCluster` and `envoy.extensions.clusters.aggregate.v3.ClusterConfig` in
//! `cluster_type`.
//! Deviations: `typed_filter_metadata` is not kept, and the stats below `zone.` are not.
//! Deviations: discovery by original destination is refused by name.

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig as AggregateConfig;
use pb::cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType};

use super::ClusterSettings;
use super::dns_config::{DnsSettings, LegacyDnsFields};
use super::eds_config::EdsSettings;
use super::endpoint::{EndpointAddress, LoadAssignment};
use super::http_options::{
    LegacyHttpFields, ProtocolChoice, TYPE_NAME, TypedHttpOptions, UpstreamHttpOptions,
};
use super::limits::circuit_breakers;
use super::request_policies::RequestPolicies;
use super::sockets::socket_settings;
use super::transport::UpstreamTransport;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http_filters::chain_config::ChainConfig;
use crate::matchers::metadata_from_proto;
use crate::server::{FactoryContext, InitManager, ServerContext};
use crate::stream_info::DynamicMetadata;
use crate::upstream::health_check::{HealthCheckConfig, PatchedHealthChecks};
use crate::upstream::load_balancer::{LegacyPolicy, LoadBalancerSettings, Policy};
use crate::upstream::outlier_detection::OutlierDetectionConfig;
use crate::upstream::shared_cluster::stats_scope;

/// A converted cluster, from which the cluster manager makes one.
#[derive(Debug)]
pub struct ClusterConfig {
    /// `Cluster.name`.
    pub name: String,
    /// The name in stats and logs; empty: the name.
    pub alt_stat_name: String,
    pub(in crate::upstream) settings: ClusterSettings,
    pub(in crate::upstream) metadata: DynamicMetadata,
    pub(in crate::upstream) assignment: LoadAssignment,
    /// None: all endpoints have addresses.
    pub(in crate::upstream) dns: Option<DnsSettings>,
    /// None: all endpoints are configured, or found by DNS.
    pub(in crate::upstream) eds: Option<EdsSettings>,
    /// The clusters whose hosts it has; none: it has its own.
    pub(in crate::upstream) members: Option<Vec<String>>,
    /// Whether it says itself how sockets are bound.
    pub(in crate::upstream) has_bind_config: bool,
    /// Whether the cluster is used only when its names are resolved. Default true.
    pub(in crate::upstream) wait_for_warm: bool,
    pub(in crate::upstream) timeout_budgets: bool,
    pub(in crate::upstream) request_response_sizes: bool,
    /// `HttpProtocolOptions.http_filters`; none: the router's count.
    pub(in crate::upstream) http_filters: Option<Arc<ChainConfig>>,
    /// What `HttpProtocolOptions` say of requests; none: nothing.
    pub(in crate::upstream) request_policies: Option<Arc<RequestPolicies>>,
    pub(in crate::upstream) transport: UpstreamTransport,
    pub(in crate::upstream) health_checks: Box<[Arc<HealthCheckConfig>]>,
    pub(in crate::upstream) outlier_detection: Option<Arc<OutlierDetectionConfig>>,
    /// What must be there before the cluster may be used, beside its hosts.
    pub(in crate::upstream) init: InitManager,
}

const AGGREGATE_CLUSTER: &str = "envoy.extensions.clusters.aggregate.v3.ClusterConfig";
const DNS_CLUSTER: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";

impl ClusterConfig {
    /// Converts a cluster whose health checks have no names. `path` is that of the cluster.
    pub fn from_proto(
        proto: pb::Cluster,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Self::with_names(proto, &PatchedHealthChecks::default(), server, path)
    }

    /// Converts a cluster. `path` is that of the cluster.
    #[allow(
        deprecated,
        clippy::too_many_lines,
        reason = "the older fields are decided like all others, and there are many"
    )]
    pub fn with_names(
        proto: pb::Cluster,
        names: &PatchedHealthChecks,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Cluster {
            transport_socket_matches,
            transport_socket_matcher,
            name,
            alt_stat_name,
            stats_matcher,
            eds_cluster_config,
            connect_timeout,
            per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout,
            lb_policy,
            load_assignment,
            health_checks,
            max_requests_per_connection,
            circuit_breakers: breakers,
            upstream_http_protocol_options,
            common_http_protocol_options,
            http_protocol_options,
            http2_protocol_options,
            typed_extension_protocol_options,
            dns_refresh_rate,
            dns_jitter,
            dns_failure_refresh_rate,
            respect_dns_ttl,
            dns_lookup_family,
            dns_resolvers,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            wait_for_warm_on_init,
            outlier_detection,
            // Of ORIGINAL_DST alone; DNS hosts go with the answer that lacks them.
            cleanup_interval: _,
            upstream_bind_config,
            lb_subset_config,
            common_lb_config,
            transport_socket,
            metadata,
            protocol_selection,
            upstream_connection_options,
            close_connections_on_host_health_failure,
            ignore_health_on_host_removal,
            filters,
            load_balancing_policy,
            lrs_server,
            // Of `lrs_server` alone.
            lrs_report_endpoint_metrics: _,
            track_timeout_budgets,
            upstream_config,
            track_cluster_stats,
            preconnect_policy,
            connection_pool_per_downstream_connection,
            queuing_policies,
            cluster_discovery_type,
            lb_config,
        } = proto;
        let refused = [
            path.unsupported_if_set("transport_socket_matcher", transport_socket_matcher),
            path.unsupported_if_set("stats_matcher", stats_matcher),
            path.unsupported_if_set(
                "per_connection_buffer_high_watermark_timeout",
                per_connection_buffer_high_watermark_timeout,
            ),
            path.unsupported_if_set("filters", filters),
            path.unsupported_if_set("lrs_server", lrs_server),
            path.unsupported_if_set("upstream_config", upstream_config),
            path.unsupported_if_set("preconnect_policy", preconnect_policy),
            path.unsupported_if_set(
                "connection_pool_per_downstream_connection",
                connection_pool_per_downstream_connection,
            ),
            path.unsupported_if_set("queuing_policies", queuing_policies),
        ];
        let name = path.non_empty("name", name);
        let connect_timeout = path.positive_duration("connect_timeout", connect_timeout);
        let legacy_http = LegacyHttpFields {
            common: common_http_protocol_options,
            http1: http_protocol_options,
            http2: http2_protocol_options,
            upstream: upstream_http_protocol_options,
            use_downstream: uses_downstream_protocol(protocol_selection, path)?,
            max_requests_per_connection: max_requests_per_connection.map(|v| v.value),
        };
        let observability_name = match alt_stat_name.as_str() {
            "" => name.as_deref().unwrap_or_default(),
            other => other,
        };
        let init = InitManager::new(&format!("Cluster {}", name.as_deref().unwrap_or_default()));
        let cx = FactoryContext {
            server,
            scope: &stats_scope(server, observability_name),
            init: &init,
        };
        let transport =
            UpstreamTransport::from_proto(transport_socket, transport_socket_matches, &cx, path);
        let http = http_options(typed_extension_protocol_options, legacy_http, &cx, path);
        let policy = LegacyPolicy {
            lb_policy,
            lb_config,
            common: common_lb_config,
            typed: load_balancing_policy,
            subset: lb_subset_config,
        };
        let load_balancer = policy.convert(path);
        let breakers = path.optional("circuit_breakers", breakers, circuit_breakers);
        let has_bind_config = upstream_bind_config.is_some();
        let sockets = socket_settings(upstream_bind_config, upstream_connection_options, path);
        let legacy_dns = LegacyDnsFields {
            refresh_rate: dns_refresh_rate,
            jitter: dns_jitter,
            failure_refresh_rate: dns_failure_refresh_rate,
            respect_ttl: respect_dns_ttl,
            family: dns_lookup_family,
            resolvers: dns_resolvers,
            use_tcp: use_tcp_for_dns_lookups,
            resolution_config: dns_resolution_config,
            typed_resolver: typed_dns_resolver_config,
        };
        let discovery = discovery(cluster_discovery_type, legacy_dns, path);
        let eds = match (&discovery, eds_cluster_config) {
            (Ok(Discovery::Eds), proto) => {
                let name = name.as_deref().unwrap_or_default();
                EdsSettings::from_proto(proto, name, server, path).map(Some)
            }
            (Ok(_), Some(_)) => Err(path
                .field("eds_cluster_config")
                .reject("is for clusters of the type EDS alone")),
            _ => Ok(None),
        };
        let assignment =
            LoadAssignment::from_proto(load_assignment, &path.field("load_assignment"));
        let outlier_detection =
            path.optional("outlier_detection", outlier_detection, |proto, path| {
                OutlierDetectionConfig::from_proto(proto, &server.runtime, path).map(Arc::new)
            });
        let named = names.check(health_checks.len(), path);
        let mut index = 0..;
        let health_checks = path.each("health_checks", health_checks, |proto, path| {
            let config = HealthCheckConfig::from_proto(proto, &cx, path)?;
            Ok(Arc::new(
                config.patched(names, index.next().unwrap_or_default()),
            ))
        });
        let pb::TrackClusterStats {
            timeout_budgets,
            request_response_sizes,
            per_endpoint_stats,
        } = track_cluster_stats.unwrap_or_default();
        path.field("track_cluster_stats")
            .unsupported_if_set("per_endpoint_stats", per_endpoint_stats)?;
        for result in refused {
            result?;
        }
        let (eds, assignment) = (eds?, assignment?);
        let (health_checks, outlier_detection) = (health_checks?, outlier_detection?);
        named?;
        let (dns, members) = match discovery? {
            Discovery::Dns(dns) => (Some(dns), None),
            Discovery::Members(members) => (None, Some(members)),
            Discovery::Static | Discovery::Eds => (None, None),
        };
        if let (Ok(name), Ok(settings)) = (&name, &load_balancer) {
            check_provided(name, members.is_some(), settings, path)?;
        }
        if dns.is_none()
            && let Ok(settings) = &load_balancer
            && settings.policy.hashes_hostnames()
        {
            return Err(path.reject(
                "Cannot use hostname for consistent hashing loadbalancing for cluster of type: 'envoy.cluster.static'",
            ));
        }
        if eds.is_none() {
            check_addresses(dns.as_ref(), &assignment, path)?;
        }
        let TypedHttpOptions {
            options: http,
            filters: http_filters,
            policies: request_policies,
        } = http?;
        if health_checks.iter().any(|check| check.is_grpc())
            && http.protocol == ProtocolChoice::Http1
        {
            return Err(path.reject(format!(
                "{} cluster must support HTTP/2 for gRPC healthchecking",
                name.as_deref().unwrap_or_default()
            )));
        }
        let transport = transport?;
        if http.protocol == ProtocolChoice::Auto && !transport.supports_alpn() {
            return Err(path.reject(
                "ALPN configured for a cluster which has a non-ALPN transport socket: auto_config needs TLS",
            ));
        }
        if health_checks.iter().any(|check| check.uses_alpn()) && !transport.supports_alpn() {
            return Err(path.reject(format!(
                "use_alpn_protocol configured for the health check of cluster {} which has a non-ALPN transport socket",
                name.as_deref().unwrap_or_default()
            )));
        }
        Ok(Self {
            name: name?,
            init,
            alt_stat_name,
            settings: ClusterSettings {
                connect_timeout: connect_timeout?.unwrap_or(Duration::from_secs(5)),
                per_connection_buffer_limit_bytes: per_connection_buffer_limit_bytes
                    .map_or(1024 * 1024, |v| v.value),
                http,
                circuit_breakers: breakers?.unwrap_or_default(),
                load_balancer: load_balancer?,
                sockets: sockets?,
                close_connections_on_host_health_failure,
                ignore_health_on_host_removal,
            },
            metadata: metadata.map(metadata_from_proto).unwrap_or_default(),
            assignment,
            dns,
            eds,
            members,
            has_bind_config,
            wait_for_warm: wait_for_warm_on_init.is_none_or(|v| v.value),
            timeout_budgets: timeout_budgets || track_timeout_budgets,
            request_response_sizes,
            http_filters,
            request_policies,
            transport,
            health_checks: health_checks.into(),
            outlier_detection,
        })
    }
}

fn uses_downstream_protocol(value: i32, path: &ConfigPath<'_>) -> Result<bool, Rejected> {
    use pb::cluster::ClusterProtocolSelection;
    Ok(match path.enumeration("protocol_selection", value)? {
        ClusterProtocolSelection::UseConfiguredProtocol => false,
        ClusterProtocolSelection::UseDownstreamProtocol => true,
    })
}

/// The typed options take the place of the older fields.
fn http_options(
    typed: impl IntoIterator<Item = (String, outrigger_proto::pb::google::protobuf::Any)>,
    legacy: LegacyHttpFields,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<TypedHttpOptions, Rejected> {
    let mut options = None;
    for (key, any) in typed {
        let path = path.key("typed_extension_protocol_options", &key);
        let config = TypedConfig::from_any_or_default(any, TYPE_NAME, &path)?;
        if key.rsplit('.').next() != TYPE_NAME.rsplit('.').next() {
            return Err(config.unknown(&path, &[TYPE_NAME]));
        }
        options = Some(UpstreamHttpOptions::from_any(&config, cx, &path)?);
    }
    match options {
        Some(options) => Ok(options),
        None => legacy.convert(path).map(|options| TypedHttpOptions {
            options,
            ..TypedHttpOptions::default()
        }),
    }
}

/// How hosts are found.
enum Discovery {
    Static,
    Dns(DnsSettings),
    Eds,
    /// They are those of the clusters of these names.
    Members(Vec<String>),
}

/// A type of cluster that brings its own load balancer takes no other, and all others have none.
fn check_provided(
    name: &str,
    provides: bool,
    settings: &LoadBalancerSettings,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    match (settings.policy == Policy::ClusterProvided, provides) {
        (true, false) => Err(path.reject(format!(
            "cluster provided LB specified but cluster '{name}' did not provide one. Check cluster documentation."
        ))),
        (false, true) => Err(path.reject(format!(
            "cluster provided LB not specified but cluster '{name}' provided one. Check cluster documentation."
        ))),
        _ => Ok(()),
    }
}

/// How hosts are found: by DNS, by EDS, as they are configured, or as other clusters find them.
fn discovery(
    proto: Option<ClusterDiscoveryType>,
    legacy: LegacyDnsFields,
    path: &ConfigPath<'_>,
) -> Result<Discovery, Rejected> {
    match proto {
        Some(ClusterDiscoveryType::Type(kind)) => match path.enumeration("type", kind)? {
            DiscoveryType::Static => legacy.convert(false, path).map(|_| Discovery::Static),
            DiscoveryType::StrictDns => legacy.convert(false, path).map(Discovery::Dns),
            DiscoveryType::LogicalDns => legacy.convert(true, path).map(Discovery::Dns),
            DiscoveryType::Eds => legacy.convert(false, path).map(|_| Discovery::Eds),
            DiscoveryType::OriginalDst => Err(path
                .field("type")
                .reject("ORIGINAL_DST is not supported yet")),
        },
        Some(ClusterDiscoveryType::ClusterType(CustomClusterType { name, typed_config })) => {
            let path = path.key("cluster_type", &name);
            let config = TypedConfig::required("typed_config", typed_config, &path)?;
            let path = path.field("typed_config");
            match config.type_name.as_str() {
                AGGREGATE_CLUSTER => {
                    let AggregateConfig { clusters } = config.decode(&path)?;
                    if clusters.is_empty() {
                        return Err(path
                            .field("clusters")
                            .reject("is empty: at least one cluster is needed"));
                    }
                    legacy
                        .convert(false, &path)
                        .map(|_| Discovery::Members(clusters))
                }
                DNS_CLUSTER => {
                    DnsSettings::from_proto(config.decode(&path)?, &path).map(Discovery::Dns)
                }
                _ => Err(config.unknown(&path, &[AGGREGATE_CLUSTER, DNS_CLUSTER])),
            }
        }
        None => legacy.convert(false, path).map(|_| Discovery::Static),
    }
}

/// Names need DNS, and a logical cluster has exactly one.
fn check_addresses(
    dns: Option<&DnsSettings>,
    assignment: &LoadAssignment,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    let path = path.field("load_assignment");
    let Some(dns) = dns else {
        let named = assignment
            .each_endpoint()
            .find_map(|endpoint| match &endpoint.address {
                EndpointAddress::Name { host, .. } => Some(host),
                EndpointAddress::Resolved(_) => None,
            });
        return named.map_or(Ok(()), |host| {
            Err(path.reject(format!(
                "{host:?} is not an IP address: a STATIC cluster does not resolve names, STRICT_DNS and LOGICAL_DNS do"
            )))
        });
    };
    if dns.logical && assignment.each_endpoint().count() != 1 {
        return Err(path.reject("has not exactly one endpoint, as LOGICAL_DNS needs"));
    }
    Ok(())
}
