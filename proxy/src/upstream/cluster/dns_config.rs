//! How the names of a cluster are resolved.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::cluster::v3::cluster as pb;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::clusters::common::dns::v3 as common;
use outrigger_proto::pb::envoy::extensions::clusters::dns::v3 as dns;
use outrigger_proto::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use outrigger_proto::pb::google::protobuf as wkt;

use super::endpoint::EndpointAddress;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::net::Address;

/// How often and how names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsSettings {
    /// From one success to the next attempt. Default 5 s.
    pub refresh_rate: Duration,
    /// Whether the TTL of the answer takes its place.
    pub respect_ttl: bool,
    /// The shortest time that a TTL may bring about. Default: none.
    pub min_refresh_rate: Duration,
    /// Up to how much later, at random. Default: not at all.
    pub jitter: Duration,
    /// From one failure to the next attempt: at random up to the first, then up to twice as much each time, but never more
    /// than the second. None: `refresh_rate`.
    pub failure_backoff: Option<(Duration, Duration)>,
    /// Which addresses are asked for.
    pub family: LookupFamily,
    /// Whether only the first address of a name is used, and connections outlive a change (`LOGICAL_DNS`).
    pub logical: bool,
    /// Whom to ask.
    pub resolver: ResolverSettings,
}

/// `DnsLookupFamily`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LookupFamily {
    /// IPv6, or IPv4 if there is no IPv6 address.
    Auto,
    /// IPv4 alone.
    V4Only,
    /// IPv6 alone.
    V6Only,
    /// IPv4, or IPv6 if there is no IPv4 address.
    V4Preferred,
    /// Both.
    All,
}

/// Whom to ask for names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ResolverSettings {
    /// In order; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// Whether to ask over TCP from the start.
    pub use_tcp: bool,
    /// Whether search domains of the system are left alone.
    pub no_default_search_domain: bool,
}

/// The fields of `Cluster` about DNS.
#[derive(Debug)]
pub(super) struct LegacyDnsFields {
    pub(super) refresh_rate: Option<wkt::Duration>,
    pub(super) jitter: Option<wkt::Duration>,
    pub(super) failure_refresh_rate: Option<pb::RefreshRate>,
    pub(super) respect_ttl: bool,
    pub(super) family: i32,
    pub(super) resolvers: Vec<core::Address>,
    pub(super) use_tcp: bool,
    pub(super) resolution_config: Option<core::DnsResolutionConfig>,
    pub(super) typed_resolver: Option<core::TypedExtensionConfig>,
}

const CARES: &str = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
const GETADDRINFO: &str =
    "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig";

impl LegacyDnsFields {
    pub(super) fn convert(
        self,
        logical: bool,
        path: &ConfigPath<'_>,
    ) -> Result<DnsSettings, Rejected> {
        let refresh = path.positive_duration("dns_refresh_rate", self.refresh_rate);
        let jitter = path.duration("dns_jitter", self.jitter);
        let failure = path.optional(
            "dns_failure_refresh_rate",
            self.failure_refresh_rate,
            |proto, path| {
                let pb::RefreshRate {
                    base_interval,
                    max_interval,
                } = proto;
                failure_rate(base_interval, max_interval, path)
            },
        );
        let family = match path.enumeration::<pb::DnsLookupFamily>("dns_lookup_family", self.family)
        {
            Ok(pb::DnsLookupFamily::Auto) => Ok(LookupFamily::Auto),
            Ok(pb::DnsLookupFamily::V4Only) => Ok(LookupFamily::V4Only),
            Ok(pb::DnsLookupFamily::V6Only) => Ok(LookupFamily::V6Only),
            Ok(pb::DnsLookupFamily::V4Preferred) => Ok(LookupFamily::V4Preferred),
            Ok(pb::DnsLookupFamily::All) => Ok(LookupFamily::All),
            Err(rejected) => Err(rejected),
        };
        let resolver = match (self.typed_resolver, self.resolution_config) {
            (Some(typed), _) => typed_resolver(typed, &path.field("typed_dns_resolver_config")),
            (None, Some(config)) => {
                let core::DnsResolutionConfig {
                    resolvers,
                    dns_resolver_options,
                } = config;
                ResolverSettings::new(
                    resolvers,
                    dns_resolver_options,
                    &path.field("dns_resolution_config"),
                )
            }
            (None, None) => {
                let options = core::DnsResolverOptions {
                    use_tcp_for_dns_lookups: self.use_tcp,
                    no_default_search_domain: false,
                };
                ResolverSettings::new(self.resolvers, Some(options), path)
            }
        };
        let refresh_rate = refresh?.unwrap_or(Duration::from_secs(5));
        Ok(DnsSettings {
            refresh_rate,
            respect_ttl: self.respect_ttl,
            min_refresh_rate: Duration::ZERO,
            jitter: jitter?.unwrap_or_default(),
            failure_backoff: failure?,
            family: family?,
            logical,
            resolver: resolver?,
        })
    }
}

impl DnsSettings {
    /// Converts `envoy.extensions.clusters.dns.v3.DnsCluster`.
    pub(super) fn from_proto(
        proto: dns::DnsCluster,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let dns::DnsCluster {
            dns_refresh_rate,
            dns_failure_refresh_rate,
            respect_dns_ttl,
            dns_jitter,
            typed_dns_resolver_config,
            dns_lookup_family,
            all_addresses_in_single_endpoint,
            dns_min_refresh_rate,
        } = proto;
        let refresh = path.positive_duration("dns_refresh_rate", dns_refresh_rate);
        let min = path.duration("dns_min_refresh_rate", dns_min_refresh_rate);
        let jitter = path.duration("dns_jitter", dns_jitter);
        let failure = path.optional(
            "dns_failure_refresh_rate",
            dns_failure_refresh_rate,
            |proto, path| {
                let dns::dns_cluster::RefreshRate {
                    base_interval,
                    max_interval,
                } = proto;
                failure_rate(base_interval, max_interval, path)
            },
        );
        let family = match path
            .enumeration::<common::DnsLookupFamily>("dns_lookup_family", dns_lookup_family)
        {
            Ok(common::DnsLookupFamily::Unspecified | common::DnsLookupFamily::Auto) => {
                Ok(LookupFamily::Auto)
            }
            Ok(common::DnsLookupFamily::V4Only) => Ok(LookupFamily::V4Only),
            Ok(common::DnsLookupFamily::V6Only) => Ok(LookupFamily::V6Only),
            Ok(common::DnsLookupFamily::V4Preferred) => Ok(LookupFamily::V4Preferred),
            Ok(common::DnsLookupFamily::All) => Ok(LookupFamily::All),
            Err(rejected) => Err(rejected),
        };
        let resolver = path.optional(
            "typed_dns_resolver_config",
            typed_dns_resolver_config,
            typed_resolver,
        );
        let refresh_rate = refresh?.unwrap_or(Duration::from_secs(5));
        Ok(Self {
            refresh_rate,
            respect_ttl: respect_dns_ttl,
            min_refresh_rate: min?.unwrap_or_default(),
            jitter: jitter?.unwrap_or_default(),
            failure_backoff: failure?,
            family: family?,
            logical: all_addresses_in_single_endpoint,
            resolver: resolver?.unwrap_or_default(),
        })
    }
}

impl ResolverSettings {
    fn new(
        resolvers: Vec<core::Address>,
        options: Option<core::DnsResolverOptions>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let core::DnsResolverOptions {
            use_tcp_for_dns_lookups,
            no_default_search_domain,
        } = options.unwrap_or_default();
        let servers =
            path.each(
                "resolvers",
                resolvers,
                |proto, path| match EndpointAddress::from_proto(proto, path)? {
                    EndpointAddress::Resolved(Address::Ip(address)) => {
                        let port = if address.port() == 0 {
                            53
                        } else {
                            address.port()
                        };
                        Ok(SocketAddr::new(address.ip(), port))
                    }
                    EndpointAddress::Resolved(Address::Pipe(_)) => {
                        Err(path.reject("is not an IP address"))
                    }
                    EndpointAddress::Name { host, .. } => {
                        Err(path.reject(format!("{host:?} is not an IP address")))
                    }
                },
            );
        Ok(Self {
            servers: servers?,
            use_tcp: use_tcp_for_dns_lookups,
            no_default_search_domain,
        })
    }
}

fn failure_rate(
    base: Option<wkt::Duration>,
    max: Option<wkt::Duration>,
    path: &ConfigPath<'_>,
) -> Result<(Duration, Duration), Rejected> {
    let base = path.positive_duration("base_interval", base);
    let max = path.positive_duration("max_interval", max);
    let Some(base) = base? else {
        return Err(path.field("base_interval").reject("is required"));
    };
    let max = max?.unwrap_or(base * 10);
    if max < base {
        return Err(path
            .field("max_interval")
            .reject(format!("{max:?} is less than base_interval, {base:?}")));
    }
    Ok((base, max))
}

/// Both of Envoy's resolvers stand for ours.
fn typed_resolver(
    extension: core::TypedExtensionConfig,
    path: &ConfigPath<'_>,
) -> Result<ResolverSettings, Rejected> {
    let (config, path) = TypedConfig::of_extension(extension, path)?;
    match config.type_name.as_str() {
        GETADDRINFO => Ok(ResolverSettings::default()),
        CARES => {
            let CaresDnsResolverConfig {
                resolvers,
                use_resolvers_as_fallback,
                filter_unroutable_families,
                dns_resolver_options,
                // How c-ares goes about its work; what it finds is the same.
                udp_max_queries: _,
                query_timeout_seconds: _,
                query_tries: _,
                rotate_nameservers: _,
                edns0_max_payload_size: _,
                max_udp_channel_duration: _,
                reinit_channel_on_timeout: _,
                qcache_max_ttl: _,
            } = config.decode(&path)?;
            let fallback =
                path.unsupported_if_set("use_resolvers_as_fallback", use_resolvers_as_fallback);
            let filter =
                path.unsupported_if_set("filter_unroutable_families", filter_unroutable_families);
            let settings = ResolverSettings::new(resolvers, dns_resolver_options, &path);
            fallback?;
            filter?;
            settings
        }
        _ => Err(config.unknown(&path, &[CARES, GETADDRINFO])),
    }
}
