//! `envoy.config.endpoint.v3.ClusterLoadAssignment` becomes endpoints.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::endpoint::v3 as pb;
use pb::lb_endpoint::HostIdentifier;

use crate::config::{ConfigPath, Fraction, Rejected};
use crate::matchers::metadata_from_proto;
use crate::net::Address;
use crate::stream_info::DynamicMetadata;
use crate::upstream::host::{HealthFlag, Host, HostHealthCheck, Locality};

/// All endpoints of a cluster, as they are configured.
#[derive(Debug)]
pub(in crate::upstream) struct LoadAssignment {
    pub(in crate::upstream) localities: Vec<LocalityEndpoints>,
    /// In percent.
    pub(in crate::upstream) overprovisioning_factor: u32,
    pub(in crate::upstream) weighted_priority_health: bool,
    /// `policy.drop_overloads`.
    pub(in crate::upstream) drop_overload: Option<DropOverload>,
    /// `policy.endpoint_stale_after`: how long it holds, where it comes from a management server. None: for ever.
    pub(in crate::upstream) stale_after: Option<Duration>,
}

/// Requests that are not even tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upstream) struct DropOverload {
    /// What they are dropped for, as reports name it.
    pub(in crate::upstream) category: String,
    /// How many of 1,000,000 are dropped.
    pub(in crate::upstream) per_million: u32,
}

/// The endpoints of one locality.
#[derive(Debug)]
pub(in crate::upstream) struct LocalityEndpoints {
    pub(in crate::upstream) locality: Arc<Locality>,
    /// For who counts requests by it.
    pub(in crate::upstream) metadata: Option<Arc<DynamicMetadata>>,
    pub(in crate::upstream) weight: u32,
    pub(in crate::upstream) priority: u32,
    pub(in crate::upstream) endpoints: Vec<EndpointConfig>,
}

/// One endpoint.
#[derive(Debug)]
pub(in crate::upstream) struct EndpointConfig {
    pub(in crate::upstream) address: EndpointAddress,
    pub(in crate::upstream) additional_addresses: Box<[Address]>,
    pub(in crate::upstream) hostname: String,
    pub(in crate::upstream) metadata: DynamicMetadata,
    pub(in crate::upstream) weight: u32,
    /// Bits of `HealthFlag`.
    pub(in crate::upstream) health: u32,
    /// None: it is checked like all others.
    health_check: Option<Box<EndpointHealthCheck>>,
}

/// `Endpoint.health_check_config`.
#[derive(Debug)]
struct EndpointHealthCheck {
    /// None: that of the endpoint.
    address: Option<Address>,
    /// In place of that of the address; 0: that one.
    port: u16,
    hostname: Box<str>,
    disabled: bool,
}

/// Where an endpoint is, or the name by which DNS knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upstream) enum EndpointAddress {
    Resolved(Address),
    Name { host: String, port: u16 },
}

impl LoadAssignment {
    /// What a management server assigns to those that ask for `name`: its endpoints have addresses.
    pub(in crate::upstream) fn from_eds(
        proto: pb::ClusterLoadAssignment,
        name: &str,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let named = match proto.cluster_name == name {
            true => Ok(()),
            false => Err(path.field("cluster_name").reject(format!(
                "{:?} is not {name:?}, which was asked for",
                proto.cluster_name
            ))),
        };
        let assignment = Self::from_proto(Some(proto), path)?;
        let mut resolved = Ok(());
        for (at, locality) in assignment.localities.iter().enumerate() {
            let path = path.index("endpoints", at);
            for (at, endpoint) in locality.endpoints.iter().enumerate() {
                if let EndpointAddress::Name { host, .. } = &endpoint.address {
                    let path = path.index("lb_endpoints", at);
                    let path = path.field("endpoint");
                    resolved = Err(path.field("address").reject(format!(
                        "{host:?} is not an IP address: EDS does not resolve names"
                    )));
                }
            }
        }
        named?;
        resolved?;
        Ok(assignment)
    }

    pub(super) fn from_proto(
        proto: Option<pb::ClusterLoadAssignment>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ClusterLoadAssignment {
            // Of EDS alone, where it is checked.
            cluster_name: _,
            endpoints,
            named_endpoints,
            policy,
        } = proto.unwrap_or_default();
        let localities = path.each("endpoints", endpoints, LocalityEndpoints::from_proto);
        let named = path.unsupported_if_set("named_endpoints", named_endpoints);
        let policy = assignment_policy(policy, &path.field("policy"));
        named?;
        Ok(Self {
            localities: localities?,
            ..policy?
        })
    }

    /// Every endpoint with the path of its place.
    pub(in crate::upstream) fn each_endpoint(&self) -> impl Iterator<Item = &EndpointConfig> {
        self.localities
            .iter()
            .flat_map(|locality| &locality.endpoints)
    }
}

/// An assignment of this policy without endpoints.
fn assignment_policy(
    proto: Option<pb::cluster_load_assignment::Policy>,
    path: &ConfigPath<'_>,
) -> Result<LoadAssignment, Rejected> {
    let pb::cluster_load_assignment::Policy {
        drop_overloads,
        overprovisioning_factor,
        endpoint_stale_after,
        weighted_priority_health,
    } = proto.unwrap_or_default();
    let drops = path.each("drop_overloads", drop_overloads, DropOverload::from_proto);
    let stale = path.duration("endpoint_stale_after", endpoint_stale_after);
    let factor = path.in_range(
        "overprovisioning_factor",
        overprovisioning_factor.map_or(140, |v| v.value),
        1..=u32::MAX,
    );
    let mut drops: Vec<DropOverload> = drops?;
    if drops.len() > 1 {
        return Err(path.field("drop_overloads").reject(format!(
            "has {} categories, and one is supported",
            drops.len()
        )));
    }
    Ok(LoadAssignment {
        localities: Vec::new(),
        overprovisioning_factor: factor?,
        weighted_priority_health,
        drop_overload: drops.pop(),
        stale_after: stale?.filter(|after| after.as_millis() > 0),
    })
}

impl DropOverload {
    fn from_proto(
        proto: pb::cluster_load_assignment::policy::DropOverload,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::cluster_load_assignment::policy::DropOverload {
            category,
            drop_percentage,
        } = proto;
        let category = path.non_empty("category", category);
        let path = path.field("drop_percentage");
        let Fraction {
            numerator,
            denominator,
        } = Fraction::from_proto(drop_percentage.unwrap_or_default(), &path)?;
        if numerator > denominator {
            return Err(path.reject(format!("{numerator} of {denominator} is more than all")));
        }
        Ok(Self {
            category: category?,
            // The denominator is a divisor of a million, and the numerator no more than it.
            per_million: numerator * (1_000_000 / denominator),
        })
    }
}

impl Default for LoadAssignment {
    fn default() -> Self {
        Self {
            localities: Vec::new(),
            overprovisioning_factor: 140,
            weighted_priority_health: false,
            drop_overload: None,
            stale_after: None,
        }
    }
}

impl LocalityEndpoints {
    fn from_proto(proto: pb::LocalityLbEndpoints, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::LocalityLbEndpoints {
            locality,
            metadata,
            lb_endpoints,
            load_balancing_weight,
            priority,
            // Envoy does not read it either.
            proximity: _,
            lb_config,
        } = proto;
        let endpoints = path.each("lb_endpoints", lb_endpoints, EndpointConfig::from_proto);
        let leds = match lb_config {
            None => Ok(()),
            Some(_) => Err(path
                .field("lb_config")
                .reject("is not supported; lb_endpoints is")),
        };
        let priority = path.in_range("priority", priority, 0..=128);
        leds?;
        let endpoints = endpoints?;
        let total: u64 = endpoints
            .iter()
            .map(|endpoint| u64::from(endpoint.weight))
            .sum();
        if total > u64::from(u32::MAX) {
            return Err(path.field("lb_endpoints").reject(format!(
                "the weights add up to {total}, more than {}",
                u32::MAX
            )));
        }
        Ok(Self {
            locality: Arc::new(locality.map(Locality::from).unwrap_or_default()),
            metadata: metadata.map(metadata_from_proto).map(Arc::new),
            weight: load_balancing_weight.map_or(0, |v| v.value),
            priority: priority?,
            endpoints,
        })
    }
}

impl From<core::Locality> for Locality {
    fn from(proto: core::Locality) -> Self {
        let core::Locality {
            region,
            zone,
            sub_zone,
        } = proto;
        Self {
            region: region.into(),
            zone: zone.into(),
            sub_zone: sub_zone.into(),
        }
    }
}

impl EndpointConfig {
    pub(in crate::upstream) fn from_proto(
        proto: pb::LbEndpoint,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::LbEndpoint {
            health_status,
            metadata,
            load_balancing_weight,
            host_identifier,
        } = proto;
        let health = health_bits(health_status, path);
        let weight = path.in_range(
            "load_balancing_weight",
            load_balancing_weight.map_or(1, |v| v.value),
            1..=u32::MAX,
        );
        let endpoint = match path.required("endpoint", host_identifier)? {
            HostIdentifier::Endpoint(endpoint) => endpoint,
            HostIdentifier::EndpointName(_) => {
                return Err(path
                    .field("endpoint_name")
                    .reject("is not supported; endpoint is"));
            }
        };
        let path = path.field("endpoint");
        let pb::Endpoint {
            address,
            health_check_config,
            hostname,
            additional_addresses,
            // Of the stats of single endpoints, which are refused where they are configured.
            observability_name: _,
        } = endpoint;
        let address = path
            .required("address", address)
            .and_then(|address| EndpointAddress::from_proto(address, &path.field("address")));
        let health_check = path.optional(
            "health_check_config",
            health_check_config,
            EndpointHealthCheck::from_proto,
        );
        let additional = path.each(
            "additional_addresses",
            additional_addresses,
            |proto, path| {
                let pb::endpoint::AdditionalAddress { address } = proto;
                let address = path.required("address", address)?;
                let path = path.field("address");
                match EndpointAddress::from_proto(address, &path)? {
                    EndpointAddress::Resolved(address) => Ok(address),
                    EndpointAddress::Name { host, .. } => {
                        Err(path.reject(format!("{host:?} is not an IP address")))
                    }
                }
            },
        );
        let (address, health_check) = (address?, health_check?.flatten());
        if let (EndpointAddress::Resolved(Address::Pipe(_)), Some(check)) =
            (&address, &health_check)
            && check.port != 0
            && check.address.is_none()
        {
            return Err(path
                .field("health_check_config")
                .reject("Invalid host configuration: non-zero port for non-IP address"));
        }
        Ok(Self {
            health: health?,
            weight: weight?,
            address,
            health_check: health_check.map(Box::new),
            additional_addresses: additional?.into(),
            hostname,
            metadata: metadata.map(metadata_from_proto).unwrap_or_default(),
        })
    }
}

impl EndpointHealthCheck {
    /// None where it says nothing.
    fn from_proto(
        proto: pb::endpoint::HealthCheckConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let pb::endpoint::HealthCheckConfig {
            port_value,
            hostname,
            address,
            disable_active_health_check,
        } = proto;
        let port = u16::try_from(port_value).map_err(|_| {
            path.field("port_value")
                .reject(format!("{port_value} is not in 0..=65535"))
        });
        let address =
            path.optional(
                "address",
                address,
                |address, path| match EndpointAddress::from_proto(address, path)? {
                    EndpointAddress::Resolved(address) => Ok(address),
                    EndpointAddress::Name { host, .. } => {
                        Err(path.reject(format!("{host:?} is not an IP address")))
                    }
                },
            );
        let (port, address) = (port?, address?);
        if port != 0 && matches!(address, Some(Address::Pipe(_))) {
            return Err(path.reject("Invalid host configuration: non-zero port for non-IP address"));
        }
        let says_nothing =
            port == 0 && address.is_none() && hostname.is_empty() && !disable_active_health_check;
        Ok((!says_nothing).then(|| Self {
            address,
            port,
            hostname: hostname.into(),
            disabled: disable_active_health_check,
        }))
    }

    /// The same for a host at `address`.
    fn of_host(&self, address: &Address) -> HostHealthCheck {
        let checked = self.address.as_ref().unwrap_or(address);
        let checked = match (checked, self.port) {
            (Address::Ip(ip), port) if port != 0 => Address::Ip(SocketAddr::new(ip.ip(), port)),
            (checked, _) => checked.clone(),
        };
        HostHealthCheck {
            address: (checked != *address).then_some(checked),
            hostname: self.hostname.clone(),
            disabled: self.disabled,
        }
    }
}

fn health_bits(status: i32, path: &ConfigPath<'_>) -> Result<u32, Rejected> {
    use core::HealthStatus;
    Ok(match path.enumeration("health_status", status)? {
        HealthStatus::Unknown => 0,
        HealthStatus::Healthy => HealthFlag::EdsStatusHealthy as u32,
        HealthStatus::Unhealthy => HealthFlag::FailedEdsHealth as u32,
        HealthStatus::Timeout => {
            HealthFlag::FailedEdsHealth as u32 | HealthFlag::EdsStatusTimeout as u32
        }
        HealthStatus::Draining => HealthFlag::EdsStatusDraining as u32,
        HealthStatus::Degraded => HealthFlag::DegradedEdsHealth as u32,
    })
}

impl EndpointAddress {
    pub(super) fn from_proto(
        proto: core::Address,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        use core::address::Address as Kind;
        let core::Address { address } = proto;
        match path.required("address", address)? {
            Kind::SocketAddress(address) => {
                Self::from_socket(address, &path.field("socket_address"))
            }
            Kind::Pipe(core::Pipe {
                path: pipe,
                // Of listeners alone.
                mode: _,
            }) => {
                let path = path.field("pipe");
                let pipe = path.non_empty("path", pipe)?;
                Ok(Self::Resolved(Address::Pipe(pipe.into())))
            }
            Kind::EnvoyInternalAddress(_) => Err(path
                .field("envoy_internal_address")
                .reject("is not supported; supported are socket_address and pipe")),
        }
    }

    fn from_socket(proto: core::SocketAddress, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use core::socket_address::{PortSpecifier, Protocol};
        let core::SocketAddress {
            protocol,
            address,
            resolver_name,
            // Of listeners alone.
            ipv4_compat: _,
            network_namespace_filepath,
            port_specifier,
        } = proto;
        let protocol = match path.enumeration("protocol", protocol)? {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => Err(path.field("protocol").reject("UDP is not supported")),
        };
        let resolver = path.unsupported_if_set("resolver_name", resolver_name);
        let namespace =
            path.unsupported_if_set("network_namespace_filepath", network_namespace_filepath);
        let address = path.non_empty("address", address);
        let port = match port_specifier {
            Some(PortSpecifier::PortValue(port)) => u16::try_from(port).map_err(|_| {
                path.field("port_value")
                    .reject(format!("{port} is not in 0..=65535"))
            }),
            Some(PortSpecifier::NamedPort(_)) => Err(path
                .field("named_port")
                .reject("is not supported; port_value is")),
            None => Err(path.field("port_value").reject("is required")),
        };
        protocol?;
        resolver?;
        namespace?;
        let (host, port) = (address?, port?);
        Ok(match host.parse::<IpAddr>() {
            Ok(ip) => Self::Resolved(Address::Ip(SocketAddr::new(ip, port))),
            Err(_) => Self::Name { host, port },
        })
    }
}

impl EndpointConfig {
    /// How the health checks of a host at `address` differ from those of others.
    pub(in crate::upstream) fn host_health_check(
        &self,
        address: &Address,
    ) -> Option<Box<HostHealthCheck>> {
        let own = self.health_check.as_ref()?;
        Some(Box::new(own.of_host(address)))
    }

    /// The host at `address`.
    pub(in crate::upstream) fn host(
        &self,
        locality: &LocalityEndpoints,
        address: Address,
        workers: usize,
    ) -> Host {
        let mut host = Host::new(address, workers);
        host.health_check = self.host_health_check(&host.address);
        host.additional_addresses = self.additional_addresses.clone();
        if !self.hostname.is_empty() {
            host.hostname = self.hostname.as_str().into();
        }
        host.locality = locality.locality.clone();
        host.metadata = self.metadata.clone();
        host.locality_metadata.clone_from(&locality.metadata);
        host.weight = self.weight;
        host.priority = locality.priority;
        host.canary =
            self.metadata.value("envoy.lb", ["canary"]) == Some(&serde_json::Value::Bool(true));
        host.health.replace(self.health);
        host
    }
}
