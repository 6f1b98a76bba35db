//! What a seed decides before the world begins: the configuration, and who behaves how.

use std::fmt::Write as _;
use std::time::Duration;

use outrigger::server::Random;

/// What is wrong with a proxy on purpose, to see that it is found. The invariants are those of the world without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// A fault in the code itself.
    #[cfg(debug_assertions)]
    Code(outrigger::planted::Fault),
    // The others are made by another configuration than the one that the invariants know.
    /// The router retries more often than the route says.
    TooManyRetries,
    /// The circuit breaker of requests lets more through than it is set to.
    OpenBreaker,
    /// The route has no timeout, and neither have its attempts.
    NoTimeout,
}

/// One world.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// By priority, how many hosts.
    pub(crate) hosts: Vec<u8>,
    /// Whether hosts leave and come back by DNS.
    pub(crate) dns: bool,
    /// Whether hosts speak HTTP/2, and whether clients do.
    pub(crate) http2: bool,
    pub(crate) http2_clients: bool,
    pub(crate) clients: u64,
    pub(crate) policy: &'static str,
    pub(crate) retries: u32,
    pub(crate) route_timeout: Duration,
    pub(crate) per_try_timeout: Option<Duration>,
    pub(crate) breakers: Breakers,
    /// Whether hosts are asked how they are.
    pub(crate) health_checks: bool,
    /// `max_ejection_percent`, where outlier detection is on.
    pub(crate) ejection_cap: Option<u64>,
    /// How bad the world is: of a hundred phases of a host, how many are not good ones.
    pub(crate) trouble: u64,
}

/// `circuit_breakers` of the cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Breakers {
    pub(crate) connections: u64,
    pub(crate) pending: u64,
    pub(crate) requests: u64,
    pub(crate) retries: u64,
    /// `retry_budget` in place of `max_retries`.
    pub(crate) budget: bool,
}

impl Scenario {
    pub(crate) fn of(seed: u64) -> Self {
        let random = Random::new(seed);
        let pick = |from: u64, to: u64| from + random.next() % (to - from + 1);
        let priorities = pick(1, 2);
        let hosts = (0..priorities).map(|_| pick(2, 6) as u8).collect();
        let tight = pick(0, 2) == 0;
        let limit = |small: u64, large: u64| if tight { pick(1, small) } else { large };
        Self {
            seed,
            hosts,
            dns: pick(0, 1) == 1,
            http2: pick(0, 2) == 0,
            clients: pick(20, 28),
            policy: [
                "ROUND_ROBIN",
                "LEAST_REQUEST",
                "RANDOM",
                "RING_HASH",
                "MAGLEV",
            ][pick(0, 4) as usize],
            retries: pick(0, 3) as u32,
            route_timeout: Duration::from_millis(pick(500, 8_000)),
            per_try_timeout: (pick(0, 1) == 1).then(|| Duration::from_millis(pick(100, 1_500))),
            breakers: Breakers {
                connections: limit(20, 200),
                pending: limit(20, 200),
                requests: limit(20, 200),
                retries: limit(5, 50),
                budget: pick(0, 3) == 0,
            },
            trouble: pick(0, 60),
            health_checks: pick(0, 1) == 1,
            ejection_cap: (pick(0, 1) == 1).then(|| pick(10, 100)),
            http2_clients: pick(0, 1) == 1,
        }
    }

    /// The cluster, as its users write it, but for what a plant changes.
    pub(crate) fn cluster(&self, plant: Option<Plant>) -> String {
        let Breakers {
            connections,
            pending,
            requests,
            retries,
            budget,
        } = self.breakers;
        let requests = match plant {
            Some(Plant::OpenBreaker) => requests + 5,
            _ => requests,
        };
        let retries = match budget {
            true => {
                "retry_budget: { budget_percent: { value: 20.0 }, min_retry_concurrency: 3 }".into()
            }
            false => format!("max_retries: {retries}"),
        };
        let mut yaml = format!(
            "name: c
connect_timeout: 0.5s
lb_policy: {}
type: {}
dns_refresh_rate: 1s
circuit_breakers: {{ thresholds: [{{ track_remaining: true, max_connections: {connections}, max_pending_requests: {pending}, max_requests: {requests}, {retries} }}] }}
",
            self.policy,
            if self.dns { "STRICT_DNS" } else { "STATIC" },
        );
        if self.policy == "MAGLEV" {
            // So that most of the time is not that of making tables.
            yaml.push_str("maglev_lb_config: { table_size: 1021 }\n");
        }
        if self.http2 {
            yaml.push_str(
                "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: { http2_protocol_options: {} }
",
            );
        }
        if self.health_checks {
            let codec = if self.http2 { "HTTP2" } else { "HTTP1" };
            let _ = writeln!(
                yaml,
                "health_checks: [{{ timeout: 0.3s, interval: 1s, interval_jitter: 0.2s, no_traffic_interval: 2s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: {{ path: /health, codec_client_type: {codec} }} }}]"
            );
        }
        if let Some(cap) = self.ejection_cap {
            let _ = writeln!(
                yaml,
                "outlier_detection: {{ consecutive_5xx: 3, consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100, interval: 1s, base_ejection_time: 2s, max_ejection_time: 10s, max_ejection_percent: {cap}, success_rate_minimum_hosts: 3, success_rate_request_volume: 5, failure_percentage_minimum_hosts: 3, failure_percentage_request_volume: 5, enforcing_failure_percentage: 100 }}"
            );
        }
        yaml.push_str("load_assignment:\n  cluster_name: c\n  endpoints:\n");
        for (priority, count) in self.hosts.iter().enumerate() {
            let _ = write!(yaml, "  - priority: {priority}\n    lb_endpoints:\n");
            let addresses: Vec<String> = match self.dns {
                true => vec![format!("p{priority}.sim")],
                false => (0..*count).map(|n| address(priority, n)).collect(),
            };
            for address in addresses {
                let _ = writeln!(
                    yaml,
                    "    - endpoint: {{ address: {{ socket_address: {{ address: {address}, port_value: 80 }} }} }}"
                );
            }
        }
        yaml
    }

    /// The connection manager, likewise, but for what a plant changes.
    pub(crate) fn manager(&self, plant: Option<Plant>) -> String {
        let (timeout, per_try) = match plant {
            Some(Plant::NoTimeout) => (Duration::ZERO, None),
            _ => (self.route_timeout, self.per_try_timeout),
        };
        let retries = match plant {
            Some(Plant::TooManyRetries) => self.retries + 2,
            _ => self.retries,
        };
        let per_try = per_try.map_or_else(String::new, |timeout| {
            format!(", per_try_timeout: {:.3}s", timeout.as_secs_f64())
        });
        let retry = match retries {
            0 => String::new(),
            n => format!(
                "retry_policy: {{ retry_on: \"5xx,reset,connect-failure,refused-stream\", num_retries: {n}{per_try} }}"
            ),
        };
        let codec = if self.http2_clients { "AUTO" } else { "HTTP1" };
        format!(
            "stat_prefix: s
codec_type: {codec}
use_remote_address: true
http_filters: [{{ name: router, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
route_config:
  virtual_hosts:
  - name: v
    domains: [\"*\"]
    include_request_attempt_count: true
    routes:
    - match: {{ prefix: / }}
      route:
        cluster: c
        timeout: {:.3}s
        hash_policy: [{{ header: {{ header_name: x-key }} }}]
        {retry}
",
            timeout.as_secs_f64(),
        )
    }
}

/// The address of a host, without its port.
pub(crate) fn address(priority: usize, number: u8) -> String {
    format!("10.{priority}.0.{}", number + 1)
}
