//! `/clusters`.

use std::fmt::Write;

use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3::{HealthStatus, RoutingPriority};

use super::listeners::address;
use super::{Admin, Request, Response, json};
use crate::matchers::Regex;

pub(super) fn show(admin: &Admin, request: &Request<'_>) -> Response {
    let filter = match request.query.value("filter").map(Regex::new).transpose() {
        Ok(filter) => filter,
        Err(_) => return Response::error(400, "Invalid re2 regex"),
    };
    let mut clusters = admin.source.clusters();
    if let Some(filter) = filter {
        clusters.retain(|cluster| filter.is_partial_match(cluster.name.as_bytes()));
    }
    if request.query.value("format") == Some("json") {
        return json::message(&pb::Clusters {
            cluster_statuses: clusters,
        });
    }
    let mut out = String::new();
    let rates = admin.source.success_rates();
    for status in &clusters {
        cluster(&mut out, status, rates.get(&status.name));
    }
    Response::text(out)
}

// Writing to a string cannot fail.
fn cluster(out: &mut String, status: &pb::ClusterStatus, rates: Option<&[f64; 4]>) {
    let name = &status.name;
    let _ = writeln!(
        out,
        "{name}::observability_name::{}",
        status.observability_name
    );
    const RATES: [&str; 4] = [
        "success_rate_average",
        "success_rate_ejection_threshold",
        "local_origin_success_rate_average",
        "local_origin_success_rate_ejection_threshold",
    ];
    for (rate, value) in RATES.iter().zip(rates.into_iter().flatten()) {
        let _ = writeln!(out, "{name}::outlier::{rate}::{}", six_digits(*value));
    }
    let breakers = status.circuit_breakers.iter().flat_map(|b| &b.thresholds);
    for thresholds in breakers {
        let priority = match thresholds.priority() {
            RoutingPriority::High => "high",
            RoutingPriority::Default => "default",
        };
        for (limit, value, default) in [
            ("max_connections", thresholds.max_connections, 1024),
            (
                "max_pending_requests",
                thresholds.max_pending_requests,
                1024,
            ),
            ("max_requests", thresholds.max_requests, 1024),
            ("max_retries", thresholds.max_retries, 3),
        ] {
            let value = value.map_or(default, |value| value.value);
            let _ = writeln!(out, "{name}::{priority}_priority::{limit}::{value}");
        }
    }
    let _ = writeln!(out, "{name}::added_via_api::{}", status.added_via_api);
    if !status.eds_service_name.is_empty() {
        let _ = writeln!(out, "{name}::eds_service_name::{}", status.eds_service_name);
    }
    status
        .host_statuses
        .iter()
        .for_each(|status| host(out, name, status));
}

fn host(out: &mut String, cluster: &str, status: &pb::HostStatus) {
    let address = status.address.as_ref().map(address).unwrap_or_default();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "{cluster}::{address}::{name}::{value}");
    };
    let mut stats: Vec<_> = status.stats.iter().collect();
    stats.sort_by_key(|stat| &stat.name);
    for stat in stats {
        line(&stat.name, &stat.value);
    }
    let locality = status.locality.clone().unwrap_or_default();
    line("hostname", &status.hostname);
    line("health_flags", &health_flags(status.health_status.as_ref()));
    line("weight", &status.weight);
    line("region", &locality.region);
    line("zone", &locality.zone);
    line("sub_zone", &locality.sub_zone);
    line("canary", &false);
    line("priority", &status.priority);
    let rate = |percent: &Option<_>| percent.map_or(-1.0, percent_value);
    line("success_rate", &rate(&status.success_rate));
    line(
        "local_origin_success_rate",
        &rate(&status.local_origin_success_rate),
    );
}

/// With six digits that count, and none of them a zero behind the point.
fn six_digits(value: f64) -> String {
    let before = value.abs().max(1.0).log10().floor();
    let behind = (5.0 - before).clamp(0.0, 5.0);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 5"
    )]
    let text = format!("{value:.0$}", behind as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn percent_value(percent: outrigger_proto::pb::envoy::r#type::v3::Percent) -> f64 {
    percent.value
}

fn health_flags(status: Option<&pb::HostHealthStatus>) -> String {
    let Some(status) = status else {
        return "healthy".to_owned();
    };
    let eds = status.eds_health_status();
    let flags: String = [
        ("/failed_active_hc", status.failed_active_health_check),
        ("/failed_outlier_check", status.failed_outlier_check),
        (
            "/failed_eds_health",
            matches!(eds, HealthStatus::Unhealthy | HealthStatus::Timeout),
        ),
        ("/degraded_active_hc", status.failed_active_degraded_check),
        ("/degraded_eds_health", eds == HealthStatus::Degraded),
        ("/pending_dynamic_removal", status.pending_dynamic_removal),
        ("/pending_active_hc", status.pending_active_hc),
        (
            "/excluded_via_immediate_hc_fail",
            status.excluded_via_immediate_hc_fail,
        ),
        ("/active_hc_timeout", status.active_hc_timeout),
        ("/eds_status_draining", eds == HealthStatus::Draining),
        (
            "/degraded_outlier_detection",
            status.failed_degraded_outlier_detection,
        ),
    ]
    .into_iter()
    .filter_map(|(flag, set)| set.then_some(flag))
    .collect();
    if flags.is_empty() {
        "healthy".to_owned()
    } else {
        flags
    }
}
