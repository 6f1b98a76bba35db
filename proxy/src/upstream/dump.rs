//! What `/config_dump` shows of clusters and endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::endpoint::v3 as endpoint;
use outrigger_proto::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent};
use outrigger_proto::pb::google::protobuf::{Any, Timestamp, UInt32Value};
use pb::clusters_config_dump::{DynamicCluster, StaticCluster};
use pb::endpoints_config_dump::{DynamicEndpointConfig, StaticEndpointConfig};

use super::cluster_entry::{Accepted, Discovery, Entry, Managed};
use super::cluster_manager::ClusterManager;
use super::host::{Health, Host, Locality};
use super::priority_set::HostSet;
use crate::config::json_to_struct;
use crate::net::Address;
use crate::stream_info::DynamicMetadata;
use crate::xds::ResourceKind;

impl ClusterManager {
    /// All clusters: those of the bootstrap, and those that came while the process runs, sorted by name. An update that was
    /// refused is with the version that it would have changed, or stands among the warming ones.
    pub fn config_dump(&self, static_clusters: Vec<StaticCluster>) -> pb::ClustersConfigDump {
        let clusters = self.clusters.borrow();
        let mut sorted: Vec<_> = clusters
            .iter()
            .map(|(id, entry)| {
                (
                    self.server.cluster_names.name(*id).unwrap_or_default(),
                    entry,
                )
            })
            .collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut dump = pb::ClustersConfigDump {
            version_info: self.cds_version(),
            static_clusters,
            ..Default::default()
        };
        for (_, entry) in sorted {
            let Entry {
                active,
                warming,
                refused,
            } = entry;
            let refused = refused.as_deref();
            let of = |managed: &Option<Managed>| {
                let accepted = managed.as_ref()?.accepted.as_ref()?;
                Some(dynamic_cluster(accepted))
            };
            let mut active_dump = of(active);
            let mut warming_dump = of(warming);
            if let Some(refused) = refused {
                let shown = match &mut active_dump {
                    Some(active) => active,
                    None => warming_dump.get_or_insert_default(),
                };
                shown.error_state = Some(refused.clone());
            }
            dump.dynamic_active_clusters.extend(active_dump);
            dump.dynamic_warming_clusters.extend(warming_dump);
        }
        dump
    }

    /// The endpoints of all clusters in use, as they are now.
    pub fn endpoints_dump(&self) -> pb::EndpointsConfigDump {
        let clusters = self.clusters.borrow();
        let mut active: Vec<&Managed> = clusters
            .values()
            .filter_map(|entry| entry.active.as_ref())
            .collect();
        active.sort_by(|a, b| a.cluster.name().cmp(b.cluster.name()));
        let mut dump = pb::EndpointsConfigDump::default();
        for managed in active {
            let endpoint_config = Some(pack(&assignment(managed)));
            match managed.accepted {
                None => dump.static_endpoint_configs.push(StaticEndpointConfig {
                    endpoint_config,
                    ..Default::default()
                }),
                Some(_) => dump.dynamic_endpoint_configs.push(DynamicEndpointConfig {
                    endpoint_config,
                    ..Default::default()
                }),
            }
        }
        dump
    }
}

fn dynamic_cluster(accepted: &Accepted) -> DynamicCluster {
    let Accepted { body, version, at } = accepted;
    DynamicCluster {
        version_info: version.to_string(),
        cluster: Some(Any {
            type_url: ResourceKind::Cluster.type_url(),
            value: body.to_vec(),
        }),
        last_updated: Some(timestamp(*at)),
        ..Default::default()
    }
}

/// The hosts of a cluster in the form in which they could have been assigned.
fn assignment(managed: &Managed) -> endpoint::ClusterLoadAssignment {
    use endpoint::cluster_load_assignment::{Policy, policy::DropOverload};
    let cluster = managed.cluster.shown();
    let name = match &managed.discovery {
        Discovery::Eds(eds) => eds.service_name(),
        Discovery::Static | Discovery::Dns { .. } | Discovery::Members => &cluster.info.name,
    };
    let hosts = cluster.hosts.load();
    let dropped = cluster.drop_overload.load(Relaxed);
    let category = cluster.drop_category.load_full();
    let drop_overloads = (dropped > 0).then(|| DropOverload {
        category: category
            .map(|category| category.to_string())
            .unwrap_or_default(),
        drop_percentage: Some(FractionalPercent {
            numerator: dropped,
            denominator: fractional_percent::DenominatorType::Million.into(),
        }),
    });
    let factor = match hosts.overprovisioning_factor {
        // Of a cluster that has had no hosts yet.
        0 => 140,
        factor => factor,
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: hosts.priorities.iter().flat_map(localities).collect(),
        policy: Some(Policy {
            drop_overloads: drop_overloads.into_iter().collect(),
            overprovisioning_factor: Some(UInt32Value { value: factor }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The hosts of a priority by locality.
fn localities(set: &HostSet) -> Vec<endpoint::LocalityLbEndpoints> {
    let mut by_locality: BTreeMap<&Locality, Vec<&Arc<Host>>> = BTreeMap::new();
    for host in &set.hosts {
        by_locality.entry(&host.locality).or_default().push(host);
    }
    let weight = |locality: &Locality| {
        let known = set.localities.iter();
        let mut known = known.filter(|known| *known.locality == *locality);
        known.next().map_or(0, |known| known.weight)
    };
    by_locality
        .into_iter()
        .map(|(locality, hosts)| endpoint::LocalityLbEndpoints {
            locality: Some(core::Locality {
                region: locality.region.to_string(),
                zone: locality.zone.to_string(),
                sub_zone: locality.sub_zone.to_string(),
            }),
            lb_endpoints: hosts.iter().map(|host| lb_endpoint(host)).collect(),
            load_balancing_weight: Some(UInt32Value {
                value: weight(locality),
            }),
            priority: hosts.first().map_or(0, |host| host.priority),
            ..Default::default()
        })
        .collect()
}

fn lb_endpoint(host: &Host) -> endpoint::LbEndpoint {
    use endpoint::endpoint::{AdditionalAddress, HealthCheckConfig};
    let health = match host.coarse_health() {
        Health::Healthy => core::HealthStatus::Healthy,
        Health::Degraded => core::HealthStatus::Degraded,
        Health::Unhealthy => core::HealthStatus::Unhealthy,
    };
    // What was configured is shown as what it comes to, as far as the message of Envoy goes.
    let elsewhere = host.health_check_address();
    let health_check = HealthCheckConfig {
        hostname: host.health_check_hostname().to_owned(),
        port_value: match elsewhere {
            Address::Ip(ip) if *elsewhere != host.address => ip.port().into(),
            _ => 0,
        },
        ..HealthCheckConfig::default()
    };
    let additional = host.additional_addresses.iter();
    endpoint::LbEndpoint {
        health_status: health.into(),
        metadata: metadata(&host.metadata),
        load_balancing_weight: Some(UInt32Value { value: host.weight }),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(host.address.to_proto()),
                health_check_config: Some(health_check),
                hostname: host.hostname.to_string(),
                additional_addresses: additional
                    .map(|additional| AdditionalAddress {
                        address: Some(additional.to_proto()),
                    })
                    .collect(),
                ..Default::default()
            },
        )),
    }
}

fn metadata(metadata: &DynamicMetadata) -> Option<core::Metadata> {
    let namespaces = metadata.iter();
    let filter_metadata: core::Metadata = core::Metadata {
        filter_metadata: namespaces
            .map(|(name, values)| (name.to_owned(), json_to_struct(values)))
            .collect(),
        ..Default::default()
    };
    (!filter_metadata.filter_metadata.is_empty()).then_some(filter_metadata)
}

/// A moment, as protobuf writes it.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
