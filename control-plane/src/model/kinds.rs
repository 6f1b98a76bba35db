//! Our own kinds, `apiVersion: outrigger.dev/v1alpha1`: what the kinds of Kubernetes and the Gateway API lack.
//!
//! Durations are Gateway API durations: `500ms`, `1m30s`.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::load_balancing::LoadBalancing;
use crate::ratelimit::RateLimitSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// The `apiVersion` of these kinds.
pub(super) const API_VERSION: &str = "outrigger.dev/v1alpha1";

/// The frame of all of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Resource<S> {
    /// Always `outrigger.dev/v1alpha1`.
    pub api_version: String,
    /// The kind's name.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: S,
}

/// A process that serves, calls, or both, without Kubernetes.
pub type Workload = Resource<WorkloadSpec>;
/// What holds for the whole mesh. There may be one.
pub type MeshDefaults = Resource<MeshDefaultsSpec>;
/// How a service is called.
pub type TrafficPolicy = Resource<TrafficPolicySpec>;
/// Who may call a service.
pub type AuthorizationPolicy = Resource<AuthorizationSpec>;
/// Whether a service takes mTLS, plain text, or both.
pub type PeerAuthentication = Resource<PeerAuthenticationSpec>;
/// What the rate limit service counts, see [`RateLimitSpec`].
pub type RateLimit = Resource<RateLimitSpec>;

/// See [`Workload`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// Where others reach it: an IP address, or a DNS name that the control plane resolves.
    pub address: Host,
    /// The last part of its identity, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Default `default`.
    pub service_account: Option<String>,
    /// The services of its namespace that it is an endpoint of. Services whose selector matches its labels are added.
    #[serde(default)]
    pub services: Vec<String>,
    /// The ports on which it serves.
    #[serde(default)]
    pub ports: Vec<WorkloadPort>,
    /// Share of the load beside the other endpoints, 1 to 128. Default 1.
    pub weight: Option<u32>,
    /// Whether it takes requests.
    #[serde(default)]
    pub health: Health,
    /// Whether a proxy stands before it. Without one it has no mTLS. Default true.
    pub sidecar: Option<bool>,
    /// Whether it is its own proxy: its gRPC reads xDS and has mTLS by itself. Default false.
    #[serde(default)]
    pub proxyless: bool,
    /// The services it calls, each on an own listener of its sidecar. None given: all services that have an address
    /// in `clusterIP`, each on that address and its port; all services if it is `proxyless`.
    pub calls: Option<Vec<Call>>,
}

/// An IP address or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, in lower case, without a dot at its end.
    Name(String),
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_label = |label: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            (1..=63).contains(&label.len())
                && label.chars().all(good)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // What is all digits was meant to be an address.
        let last_is_number = name
            .rsplit('.')
            .next()
            .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() <= 253 && name.split('.').all(is_label) && !last_is_number {
            Ok(Self::Name(name))
        } else {
            Err(format!("{text:?} is neither an IP address nor a DNS name"))
        }
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A port of a workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadPort {
    /// The name that a service's `targetPort` may use.
    pub name: Option<String>,
    /// The port on which others reach it: the sidecar's, or the process's where there is no sidecar.
    pub port: u16,
    /// The port of the process behind the sidecar, on the loopback address. Default: `port`, on the loopback address.
    pub app_port: Option<u16>,
}

/// A service that a workload calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Call {
    /// The service.
    pub service: String,
    /// Its namespace; the workload's if not given.
    pub namespace: Option<String>,
    /// The service's port.
    pub port: u16,
    /// Where the sidecar listens for it. Default: the service's `clusterIP` and port. Not used where it is `proxyless`.
    pub listen: Option<SocketAddr>,
}

/// Whether an endpoint takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum Health {
    /// It does.
    #[default]
    Healthy,
    /// It does not.
    Unhealthy,
    /// It ends what it has begun and takes nothing new.
    Draining,
}

/// See [`MeshDefaults`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MeshDefaultsSpec {
    /// mTLS of services without a `PeerAuthentication`. Default `PERMISSIVE`.
    pub mtls: Option<MtlsMode>,
    /// Time for a whole response where no route or policy says otherwise. Default 15 s.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Time to connect to an endpoint. Default 5 s.
    #[serde(default, deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// Retries where no policy says otherwise. Default none.
    pub retries: Option<Retries>,
    /// File to which every proxy writes its access log, such as `/dev/stdout`. Default none.
    pub access_log: Option<String>,
}

/// What an inbound port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// Only mTLS.
    Strict,
    /// mTLS and plain text.
    Permissive,
    /// Only plain text.
    Disable,
}

/// A service of the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceRef {
    /// The service's name.
    pub name: String,
}

/// See [`PeerAuthentication`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    /// For which service; all of the namespace if not given.
    pub service: Option<ServiceRef>,
    /// What it takes.
    pub mtls: MtlsMode,
}

/// See [`AuthorizationPolicy`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthorizationSpec {
    /// `<namespace>/<name>` of the policy, once it is attached to a service. A proxy's log says it of who it denies.
    #[serde(skip)]
    pub name: String,
    /// For which service; all of the namespace if not given.
    pub service: Option<ServiceRef>,
    /// What becomes of a request that a rule matches. A service with an `ALLOW` policy denies what none matches.
    /// `DENY` goes before `ALLOW`.
    pub action: Access,
    /// Any of them. None: an `ALLOW` policy that allows nothing.
    #[serde(default)]
    pub rules: Vec<AuthorizationRule>,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Access {
    /// Lets pass.
    Allow,
    /// Answers 403.
    Deny,
}

/// All that is given has to match.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Who calls, any of them: `spiffe://…`, or `<namespace>/<service account>` of this trust domain; a `*` at the end
    /// stands for any rest. Empty: anyone, without a certificate too.
    #[serde(default)]
    pub identities: Vec<String>,
    /// The method, any of them. Empty: all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// The path, any of them; a `*` at the end stands for any rest. Empty: all.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// See [`TrafficPolicy`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// For which service.
    pub service: Option<ServiceRef>,
    /// Time for a whole response, retries included. `0s` is no limit.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// When and how often a request is sent again.
    pub retries: Option<Retries>,
    /// Sends shares of the requests to other services. An `HTTPRoute` of the service goes before it.
    #[serde(default)]
    pub split: Vec<SplitBackend>,
    /// Sends copies of requests to another service.
    pub mirror: Option<Mirror>,
    /// Faults on purpose.
    pub fault: Option<Fault>,
    /// Bounds of what a proxy sends to the service.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Which endpoint gets a request.
    pub load_balancing: Option<LoadBalancing>,
    /// Leaves out endpoints that fail.
    pub outlier_detection: Option<OutlierDetection>,
    /// Asks endpoints whether they are well.
    pub health_check: Option<HealthCheck>,
    /// How many requests each endpoint's sidecar lets in.
    pub rate_limit: Option<LocalRateLimit>,
}

/// When and how often a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Retries {
    /// How often at most, beside the first attempt: 1 to 10.
    pub attempts: u32,
    /// On what. Default: `gateway-error`, `connect-failure`, `refused-stream`.
    #[serde(default)]
    pub on: Vec<Condition>,
    /// Time for one attempt.
    #[serde(default, deserialize_with = "duration")]
    pub per_try_timeout: Option<Duration>,
    /// Pause before an attempt.
    pub backoff: Option<Backoff>,
}

/// A condition on which a request is sent again, with Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are Envoy's")]
pub enum Condition {
    #[serde(rename = "5xx")]
    FiveXx,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    RefusedStream,
    Cancelled,
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
}

impl Condition {
    /// Envoy's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FiveXx => "5xx",
            Self::GatewayError => "gateway-error",
            Self::Reset => "reset",
            Self::ResetBeforeRequest => "reset-before-request",
            Self::ConnectFailure => "connect-failure",
            Self::Retriable4xx => "retriable-4xx",
            Self::RefusedStream => "refused-stream",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::ResourceExhausted => "resource-exhausted",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Pause before an attempt: random, between nothing and a limit that grows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Backoff {
    /// First limit.
    #[serde(deserialize_with = "some_duration")]
    pub base: Duration,
    /// Last limit; ten times the first if not given.
    #[serde(default, deserialize_with = "duration")]
    pub max: Option<Duration>,
}

/// A service that gets a share of the requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SplitBackend {
    /// The service, of the policy's namespace.
    pub service: String,
    /// Its port; the called one's number if not given.
    pub port: Option<u16>,
    /// The share, of the sum of all.
    pub weight: u32,
}

/// A service that gets copies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mirror {
    /// The service, of the policy's namespace.
    pub service: String,
    /// Its port; the called one's number if not given.
    pub port: Option<u16>,
    /// Of how many in a hundred requests. Default 100.
    pub percent: Option<u32>,
}

/// Faults on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    /// Makes requests wait.
    pub delay: Option<Delay>,
    /// Answers requests without sending them on.
    pub abort: Option<Abort>,
}

/// Makes requests wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Delay {
    /// How long.
    #[serde(deserialize_with = "some_duration")]
    pub duration: Duration,
    /// How many in a hundred.
    pub percent: u32,
}

/// Answers requests without sending them on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Abort {
    /// With which status, 200 to 599.
    pub status: u32,
    /// How many in a hundred.
    pub percent: u32,
}

/// Bounds of what one proxy sends to a service. Envoy's defaults hold for what is not given.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Connections at once. Default 1024.
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection. Default 1024.
    pub max_pending_requests: Option<u32>,
    /// Requests at once. Default 1024.
    pub max_requests: Option<u32>,
    /// Retries at once. Default 3.
    pub max_retries: Option<u32>,
}

/// Leaves out endpoints that fail.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Answers 5xx in a row. Default 5.
    pub consecutive_errors: Option<u32>,
    /// How often the endpoints are looked at. Default 10 s.
    #[serde(default, deserialize_with = "duration")]
    pub interval: Option<Duration>,
    /// How long an endpoint is left out at first. Default 30 s.
    #[serde(default, deserialize_with = "duration")]
    pub base_ejection_time: Option<Duration>,
    /// How many in a hundred endpoints may be left out. Default 10.
    pub max_ejection_percent: Option<u32>,
    /// The longest time for which an endpoint is left out. Default 5 m, or `baseEjectionTime` where that is more.
    #[serde(default, deserialize_with = "duration")]
    pub max_ejection_time: Option<Duration>,
    /// Answers 502, 503 and 504 in a row, for which an endpoint is left out earlier. Default: never.
    pub consecutive_gateway_errors: Option<u32>,
    /// Failures to connect and resets in a row, which are not counted among `consecutiveErrors` then. Default: they are.
    pub consecutive_local_errors: Option<u32>,
    /// Leaves out endpoints with too large a share of failures.
    pub failure_percentage: Option<FailurePercentage>,
}

/// Leaves out endpoints with too large a share of failures.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FailurePercentage {
    /// From how many failures in a hundred requests on.
    pub threshold: u32,
    /// How many requests in an interval an endpoint has to have had. Default 50.
    pub minimum_requests: Option<u32>,
    /// How many such endpoints there have to be. Default 5.
    pub minimum_endpoints: Option<u32>,
}

/// Asks endpoints whether they are well.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthCheck {
    /// A path that is asked for by HTTP, on ports of HTTP.
    pub path: Option<String>,
    /// The host that is asked for it. Default `NAME.NAMESPACE` of the service.
    pub host: Option<String>,
    /// The answers of who is well. Default 200.
    #[serde(default)]
    pub statuses: Vec<u16>,
    /// A service that `grpc.health.v1.Health` is asked about, on ports of HTTP/2; an empty one is the whole process.
    pub grpc_service: Option<String>,
    /// How often. Default 10 s.
    #[serde(default, deserialize_with = "duration")]
    pub interval: Option<Duration>,
    /// Time for an answer. Default 1 s.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// After how many good answers in a row an endpoint is well again. Default 2; the first one counts at once.
    pub healthy_threshold: Option<u32>,
    /// After how many bad ones it is not. Default 3; an answer other than 200, by HTTP, counts at once.
    pub unhealthy_threshold: Option<u32>,
}

/// How many requests each endpoint's sidecar lets in; more are answered with 429.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LocalRateLimit {
    /// How many.
    pub requests: u32,
    /// In which time, 50 ms at least.
    #[serde(deserialize_with = "some_duration")]
    pub per: Duration,
    /// How many at once after a pause. Default `requests`.
    pub burst: Option<u32>,
}

/// Reads a Gateway API duration: numbers with `h`, `m`, `s` or `ms`, the larger unit first.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration such as 500ms, 10s or 1m30s");
    let (mut rest, mut total, mut last) = (text, Duration::ZERO, u64::MAX);
    if text.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        if digits == 0 || digits > 5 {
            return Err(bad());
        }
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(bad()),
        };
        if unit >= last {
            return Err(bad());
        }
        last = unit;
        total += Duration::from_millis(number * unit);
        rest = &rest[letters..];
    }
    Ok(total)
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    some_duration(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name() {
        assert_eq!("10.0.0.1".parse(), Ok(Host::Ip([10, 0, 0, 1].into())));
        assert_eq!(
            "DB.example.".parse(),
            Ok(Host::Name("db.example".to_owned()))
        );
        for text in ["", ".", "a..b", "-a", "a b", "10.0.0.256", "a:80"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1h1ms", 3_600_001),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "5", "s", "1.5s", "-1s", "1s1m", "123456s", "1d", "1s1s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
