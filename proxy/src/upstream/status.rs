//! What `/clusters` shows.

use std::collections::HashMap;

use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::envoy::config::cluster::v3 as cluster;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::r#type::v3::Percent;
use outrigger_proto::pb::google::protobuf::UInt32Value;

use super::circuit_breaker::Thresholds;
use super::cluster_manager::ClusterManager;
use super::host::{HealthFlag, Host, HostStat, Locality};
use super::outlier_detection::Monitor;
use super::shared_cluster::Cluster;

impl ClusterManager {
    /// Every cluster in use with its hosts, sorted by name.
    pub fn status(&self) -> Vec<pb::ClusterStatus> {
        self.clusters()
            .iter()
            .map(|cluster| {
                let mut status = cluster.status();
                let (added_via_api, service_name) = self.origin(cluster);
                status.added_via_api = added_via_api;
                status.eds_service_name = service_name;
                status
            })
            .collect()
    }
}

impl ClusterManager {
    /// Averages and thresholds of success rates, in percent, of clusters with outlier detection: of responses, then of connections.
    /// Negative: there are none.
    pub fn success_rates(&self) -> HashMap<String, [f64; 4]> {
        let clusters = self.clusters();
        let detecting = clusters
            .iter()
            .filter(|cluster| cluster.info.outlier_detection.is_some());
        let rates = detecting.map(|cluster| {
            let (average, threshold) = cluster.success_rates.external();
            let (local_average, local_threshold) = cluster.success_rates.local();
            let rates = [average, threshold, local_average, local_threshold];
            (cluster.info.name.to_string(), rates)
        });
        rates.collect()
    }
}

impl Cluster {
    /// The cluster and its hosts.
    pub fn status(&self) -> pb::ClusterStatus {
        let breakers = &self.info.settings.circuit_breakers;
        pb::ClusterStatus {
            name: self.info.name.to_string(),
            added_via_api: false,
            success_rate_ejection_threshold: percent(self.success_rates.external().1),
            host_statuses: self
                .hosts
                .load()
                .hosts()
                .map(|host| host.status())
                .collect(),
            local_origin_success_rate_ejection_threshold: percent(self.success_rates.local().1),
            circuit_breakers: Some(cluster::CircuitBreakers {
                thresholds: vec![
                    thresholds(core::RoutingPriority::Default, &breakers.default),
                    thresholds(core::RoutingPriority::High, &breakers.high),
                ],
                per_host_thresholds: Vec::new(),
            }),
            observability_name: self.info.observability_name.to_string(),
            eds_service_name: String::new(),
        }
    }
}

impl Host {
    fn status(&self) -> pb::HostStatus {
        use pb::simple_metric::Type::{Counter, Gauge};
        let metric = |kind: pb::simple_metric::Type, name: &str, stat| pb::SimpleMetric {
            r#type: kind.into(),
            value: self.stats.get(stat),
            name: name.to_owned(),
        };
        let Locality {
            region,
            zone,
            sub_zone,
        } = &*self.locality;
        let (external, local) = self.monitor().map_or((-1.0, -1.0), Monitor::success_rates);
        pb::HostStatus {
            address: Some(self.address.to_proto()),
            stats: vec![
                metric(Counter, "cx_connect_fail", HostStat::CxConnectFail),
                metric(Counter, "cx_total", HostStat::CxTotal),
                metric(Counter, "rq_error", HostStat::RqError),
                metric(Counter, "rq_success", HostStat::RqSuccess),
                metric(Counter, "rq_timeout", HostStat::RqTimeout),
                metric(Counter, "rq_total", HostStat::RqTotal),
                metric(Gauge, "cx_active", HostStat::CxActive),
                metric(Gauge, "rq_active", HostStat::RqActive),
                metric(Gauge, "rq_pending_active", HostStat::RqPendingActive),
            ],
            health_status: Some(self.health_status()),
            success_rate: percent(external),
            weight: self.weight,
            hostname: self.hostname.to_string(),
            priority: self.priority,
            local_origin_success_rate: percent(local),
            locality: Some(core::Locality {
                region: region.to_string(),
                zone: zone.to_string(),
                sub_zone: sub_zone.to_string(),
            }),
        }
    }

    fn health_status(&self) -> pb::HostHealthStatus {
        let eds = if self.health.has(HealthFlag::FailedEdsHealth) {
            core::HealthStatus::Unhealthy
        } else if self.health.has(HealthFlag::EdsStatusDraining) {
            core::HealthStatus::Draining
        } else if self.health.has(HealthFlag::DegradedEdsHealth) {
            core::HealthStatus::Degraded
        } else {
            core::HealthStatus::Healthy
        };
        pb::HostHealthStatus {
            failed_active_health_check: self.health.has(HealthFlag::FailedActiveHc),
            failed_outlier_check: self.health.has(HealthFlag::FailedOutlierCheck),
            failed_active_degraded_check: self.health.has(HealthFlag::DegradedActiveHc),
            eds_health_status: eds.into(),
            pending_dynamic_removal: self.health.has(HealthFlag::PendingDynamicRemoval),
            pending_active_hc: self.health.has(HealthFlag::PendingActiveHc),
            excluded_via_immediate_hc_fail: self.health.has(HealthFlag::ExcludedViaImmediateHcFail),
            active_hc_timeout: self.health.has(HealthFlag::ActiveHcTimeout),
            failed_degraded_outlier_detection: self
                .health
                .has(HealthFlag::DegradedOutlierDetection),
        }
    }
}

/// A success rate, if there is one.
fn percent(value: f64) -> Option<Percent> {
    (value >= 0.0).then_some(Percent { value })
}

fn thresholds(
    priority: core::RoutingPriority,
    limits: &Thresholds,
) -> cluster::circuit_breakers::Thresholds {
    let value = |value: u32| Some(UInt32Value { value });
    cluster::circuit_breakers::Thresholds {
        priority: priority.into(),
        max_connections: value(limits.max_connections),
        max_pending_requests: value(limits.max_pending_requests),
        max_requests: value(limits.max_requests),
        max_retries: value(limits.max_retries),
        ..Default::default()
    }
}
