//! `envoy.config.core.v3.HealthCheck` becomes settings.

use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::core::v3::health_check as pb;

use super::event_log::{EventLog, HealthCheckerType};
use super::grpc::GrpcCheck;
use super::http::HttpCheck;
use super::patched::PatchedHealthChecks;
use super::redis::{self, RedisCheck};
use super::tcp::TcpCheck;
use crate::config::{ConfigPath, Rejected, TypedConfig, json_object};
use crate::server::FactoryContext;
use crate::stream_info::DynamicMetadata;

/// How the hosts of a cluster are checked.
#[derive(Debug)]
pub(in crate::upstream) struct HealthCheckConfig {
    /// What its stats are told apart by, where a cluster has several; empty: nothing.
    pub(super) name: Box<str>,
    pub(super) timeout: Duration,
    pub(super) intervals: Intervals,
    /// Failures of the network in a row that make a host unhealthy.
    pub(super) unhealthy_threshold: u32,
    /// Successes in a row that make it healthy again.
    pub(super) healthy_threshold: u32,
    /// Whether the next check uses the same connection. Default true.
    pub(super) reuse_connection: bool,
    pub(super) always_log_failures: bool,
    pub(super) always_log_success: bool,
    pub(super) event_log: Option<EventLog>,
    /// The protocols that are offered by ALPN, in place of those of the cluster.
    pub(super) alpn: Vec<Box<str>>,
    /// What chooses the transport socket, in place of the metadata of the host.
    pub(super) transport_socket_match: Option<DynamicMetadata>,
    pub(super) kind: CheckKind,
}

/// How long to wait between checks.
#[derive(Debug)]
pub(super) struct Intervals {
    interval: Duration,
    no_traffic: Duration,
    no_traffic_healthy: Duration,
    unhealthy: Duration,
    unhealthy_edge: Duration,
    healthy_edge: Duration,
    /// Before the first one, at most.
    pub(super) initial_jitter: Duration,
    /// Is added, at most.
    pub(super) jitter: Duration,
    /// The same in percent of the interval.
    pub(super) jitter_percent: u32,
}

/// What a check consists of.
#[derive(Debug)]
pub(super) enum CheckKind {
    Http(Box<HttpCheck>),
    Tcp(TcpCheck),
    Grpc(Box<GrpcCheck>),
    Redis(RedisCheck),
}

/// What came of the last check, as far as the next interval is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastCheck {
    pub(super) succeeded: bool,
    /// The host is on its way from healthy to unhealthy, or back, but for a threshold.
    pub(super) change_pending: bool,
}

impl HealthCheckConfig {
    /// Converts a health check. `cx.scope` is that of the cluster.
    #[allow(deprecated, reason = "the older field is decided like all others")]
    pub(in crate::upstream) fn from_proto(
        proto: core::HealthCheck,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let core::HealthCheck {
            timeout,
            interval,
            initial_jitter,
            interval_jitter,
            interval_jitter_percent,
            unhealthy_threshold,
            healthy_threshold,
            // Harmless: Envoy reads neither this nor `event_service`.
            alt_port: _,
            reuse_connection,
            no_traffic_interval,
            no_traffic_healthy_interval,
            unhealthy_interval,
            unhealthy_edge_interval,
            healthy_edge_interval,
            event_log_path,
            event_logger,
            event_service: _,
            always_log_health_check_failures,
            always_log_health_check_success,
            tls_options,
            transport_socket_match_criteria,
            health_checker,
        } = proto;
        let timeout = positive(path, "timeout", timeout);
        let regular = positive(path, "interval", interval);
        let or = |name: &str, value| path.positive_duration(name, value);
        let no_traffic = or("no_traffic_interval", no_traffic_interval);
        let no_traffic_healthy = or("no_traffic_healthy_interval", no_traffic_healthy_interval);
        let unhealthy = or("unhealthy_interval", unhealthy_interval);
        let unhealthy_edge = or("unhealthy_edge_interval", unhealthy_edge_interval);
        let healthy_edge = or("healthy_edge_interval", healthy_edge_interval);
        let initial_jitter = path.duration("initial_jitter", initial_jitter);
        let jitter = path.duration("interval_jitter", interval_jitter);
        let unhealthy_threshold = path.required("unhealthy_threshold", unhealthy_threshold);
        let healthy_threshold = path.required("healthy_threshold", healthy_threshold);
        let kind = CheckKind::from_proto(health_checker, cx, path);
        let checker_type = kind.as_ref().map(CheckKind::checker_type);
        let event_log = EventLog::from_proto(
            event_log_path,
            event_logger,
            checker_type.unwrap_or(HealthCheckerType::Http),
            cx,
            path,
        );
        let (regular, no_traffic) = (regular?, no_traffic?.unwrap_or(NO_TRAFFIC_INTERVAL));
        let unhealthy = unhealthy?.unwrap_or(regular);
        Ok(Self {
            name: Box::default(),
            timeout: timeout?,
            intervals: Intervals {
                interval: regular,
                no_traffic,
                no_traffic_healthy: no_traffic_healthy?.unwrap_or(no_traffic),
                unhealthy,
                unhealthy_edge: unhealthy_edge?.unwrap_or(unhealthy),
                healthy_edge: healthy_edge?.unwrap_or(regular),
                initial_jitter: initial_jitter?.unwrap_or_default(),
                jitter: jitter?.unwrap_or_default(),
                jitter_percent: interval_jitter_percent,
            },
            unhealthy_threshold: unhealthy_threshold?.value,
            healthy_threshold: healthy_threshold?.value,
            reuse_connection: reuse_connection.is_none_or(|reuse| reuse.value),
            always_log_failures: always_log_health_check_failures,
            always_log_success: always_log_health_check_success,
            event_log: event_log?,
            alpn: tls_options.map_or_else(Vec::new, |pb::TlsOptions { alpn_protocols }| {
                alpn_protocols.into_iter().map(Into::into).collect()
            }),
            transport_socket_match: transport_socket_match_criteria.map(|criteria| {
                let mut metadata = DynamicMetadata::default();
                metadata.merge("envoy.transport_socket_match", json_object(criteria));
                metadata
            }),
            kind: kind?,
        })
    }

    /// The same with what `patched` says of the health check of this number.
    #[must_use]
    pub(in crate::upstream) fn patched(
        mut self,
        patched: &PatchedHealthChecks,
        index: usize,
    ) -> Self {
        self.name = patched.get(index).into();
        if let CheckKind::Http(http) = &mut self.kind {
            http.use_alpn = patched.uses_alpn(index);
        }
        self
    }

    /// Whether ALPN decides which protocol it speaks.
    pub(in crate::upstream) fn uses_alpn(&self) -> bool {
        matches!(&self.kind, CheckKind::Http(http) if http.use_alpn)
    }

    /// Whether it needs HTTP/2, by which a cluster must be reached then.
    pub(in crate::upstream) fn is_grpc(&self) -> bool {
        matches!(self.kind, CheckKind::Grpc(_))
    }
}

/// The default of `no_traffic_interval`.
const NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);

fn positive(
    path: &ConfigPath<'_>,
    name: &str,
    value: Option<outrigger_proto::pb::google::protobuf::Duration>,
) -> Result<Duration, Rejected> {
    let value = path.positive_duration(name, value)?;
    path.required(name, value)
}

impl CheckKind {
    fn from_proto(
        proto: Option<pb::HealthChecker>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        use pb::HealthChecker::{
            CustomHealthCheck, GrpcHealthCheck, HttpHealthCheck, TcpHealthCheck,
        };
        match path.required("health_checker", proto)? {
            HttpHealthCheck(proto) => {
                let path = path.field("http_health_check");
                let check = HttpCheck::from_proto(proto, cx, &path)?;
                Ok(Self::Http(Box::new(check)))
            }
            TcpHealthCheck(proto) => {
                let path = path.field("tcp_health_check");
                TcpCheck::from_proto(proto, &path).map(Self::Tcp)
            }
            GrpcHealthCheck(proto) => {
                let path = path.field("grpc_health_check");
                let check = GrpcCheck::from_proto(proto, cx, &path)?;
                Ok(Self::Grpc(Box::new(check)))
            }
            CustomHealthCheck(proto) => {
                let path = path.field("custom_health_check");
                // The type says what it is, whatever it is called.
                let pb::CustomHealthCheck {
                    name: _,
                    config_type,
                } = proto;
                let any =
                    config_type.map(|pb::custom_health_check::ConfigType::TypedConfig(any)| any);
                let config = TypedConfig::required("typed_config", any, &path)?;
                let path = path.field("typed_config");
                match &*config.type_name {
                    redis::TYPE_NAME => RedisCheck::from_config(&config, &path).map(Self::Redis),
                    _ => Err(config.unknown(&path, &[redis::TYPE_NAME])),
                }
            }
        }
    }

    fn checker_type(&self) -> HealthCheckerType {
        match self {
            Self::Http(_) => HealthCheckerType::Http,
            Self::Tcp(_) => HealthCheckerType::Tcp,
            Self::Grpc(_) => HealthCheckerType::Grpc,
            Self::Redis(_) => HealthCheckerType::Redis,
        }
    }
}

impl Intervals {
    /// The time until the next check, without jitter.
    pub(super) fn after(&self, last: LastCheck, has_traffic: bool) -> Duration {
        let LastCheck {
            succeeded,
            change_pending,
        } = last;
        match (has_traffic, succeeded, change_pending) {
            (true, false, true) => self.unhealthy_edge,
            (true, false, false) => self.unhealthy,
            (true, true, true) => self.healthy_edge,
            (true, true, false) => self.interval,
            (false, true, false) => self.no_traffic_healthy,
            (false, _, _) => self.no_traffic,
        }
    }
}
