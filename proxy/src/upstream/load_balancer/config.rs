//! `lb_policy`, `load_balancing_policy` and `common_lb_config` become settings.

use std::time::Duration;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::pb::envoy::config::cluster::v3::cluster as legacy;
use outrigger_proto::pb::envoy::config::core::v3::{RuntimeDouble, TypedExtensionConfig};
use outrigger_proto::pb::envoy::extensions::load_balancing_policies as policies;
use policies::cluster_provided::v3::ClusterProvided;
use policies::common::v3 as common;
use policies::least_request::v3::LeastRequest;
use policies::least_request::v3::least_request::SelectionMethod;
use policies::maglev::v3::Maglev;
use policies::override_host::v3::OverrideHost;
use policies::random::v3::Random;
use policies::ring_hash::v3::RingHash;
use policies::round_robin::v3::RoundRobin;
use policies::subset::v3::Subset;

use super::hash_config::{self, Consistent};
use super::hashing::HashSettings;
use super::host_statuses::HostStatuses;
use super::override_host::OverrideHostSettings;
use super::slow_start::SlowStart;
use super::subset_config::SubsetSettings;
use super::zone_aware::ZoneAware;
use crate::config::{ConfigPath, Rejected, TypedConfig};

/// How hosts of a cluster are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadBalancerSettings {
    /// Among the hosts of a priority or locality.
    pub policy: Policy,
    /// Whether the weights of localities count.
    pub locality_weighted: bool,
    /// Whether nothing is chosen in panic, instead of anything.
    pub fail_traffic_on_panic: bool,
    /// Below which percentage of usable hosts a priority is in panic. Default 50; 0 disables.
    pub healthy_panic_threshold: u32,
    /// `update_merge_window`: changes of the health of hosts within this time of the last one reach workers together. Default 1 s;
    /// zero: each at once.
    pub update_merge_window: Duration,
    /// Whether hosts count nowhere before their first health check.
    pub ignore_new_hosts_until_first_hc: bool,
    /// How zones matter, where the process has a local cluster; none: they do not.
    pub zone_aware: Option<ZoneAware>,
    /// With `lb_subset_config`; each subset is balanced by the settings above.
    pub subset: Option<Box<SubsetSettings>>,
    /// How new hosts get their share: round robin and least request alone.
    pub slow_start: Option<SlowStart>,
    /// With `override_host`: where requests name their hosts. The settings above are those of its `fallback_policy`.
    pub override_host: Option<Box<OverrideHostSettings>>,
    /// `override_host_status`: the health that a host may have which a filter has chosen for a request.
    pub override_host_status: HostStatuses,
}

/// How a host is chosen among its like.
#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    /// In turn, by weight.
    RoundRobin,
    /// The least busy of a few drawn ones; where weights differ, by weight and load.
    LeastRequest {
        /// How many are drawn. Default 2.
        choice_count: u32,
        /// How much the load lessens a weight. Default 1.0; 0.0 is round robin.
        active_request_bias: f64,
        /// Looks at all instead.
        full_scan: bool,
    },
    /// Any, whatever its weight.
    Random,
    /// By the hash of the request: ring hash or Maglev.
    Hash(Box<HashSettings>),
    /// As the type of the cluster does it: that of an aggregate, which has no hosts of its own.
    ClusterProvided,
}

impl Policy {
    /// Whether hosts are placed by their hostnames.
    pub fn hashes_hostnames(&self) -> bool {
        matches!(self, Self::Hash(settings) if settings.use_hostname_for_hashing)
    }
}

/// The fields of `Cluster` that say how hosts are chosen.
#[derive(Debug)]
pub(in crate::upstream) struct LegacyPolicy {
    pub(in crate::upstream) lb_policy: i32,
    pub(in crate::upstream) lb_config: Option<legacy::LbConfig>,
    pub(in crate::upstream) common: Option<legacy::CommonLbConfig>,
    pub(in crate::upstream) typed: Option<pb::LoadBalancingPolicy>,
    pub(in crate::upstream) subset: Option<legacy::LbSubsetConfig>,
}

/// What a typed policy or the common configuration says about localities.
#[derive(Debug, Clone, Copy, Default)]
struct LocalityMode {
    weighted: bool,
    fail_traffic_on_panic: bool,
    zone_aware: ZoneAware,
}

const SUPPORTED: &[&str] = &[
    "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
    "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
    "envoy.extensions.load_balancing_policies.random.v3.Random",
    "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
    "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    "envoy.extensions.load_balancing_policies.subset.v3.Subset",
];

/// A typed policy.
#[derive(Debug)]
struct Typed {
    policy: Policy,
    mode: LocalityMode,
    subset: Option<Box<SubsetSettings>>,
    slow_start: Option<SlowStart>,
    override_host: Option<Box<OverrideHostSettings>>,
}

impl Typed {
    fn new(policy: Policy, mode: LocalityMode) -> Self {
        Self {
            policy,
            mode,
            subset: None,
            slow_start: None,
            override_host: None,
        }
    }
}

impl Default for LoadBalancerSettings {
    fn default() -> Self {
        Self {
            policy: Policy::RoundRobin,
            locality_weighted: false,
            fail_traffic_on_panic: false,
            zone_aware: Some(ZoneAware::default()),
            healthy_panic_threshold: 50,
            update_merge_window: UPDATE_MERGE_WINDOW,
            ignore_new_hosts_until_first_hc: false,
            subset: None,
            slow_start: None,
            override_host: None,
            override_host_status: HostStatuses::default(),
        }
    }
}

impl LegacyPolicy {
    pub(in crate::upstream) fn convert(
        self,
        path: &ConfigPath<'_>,
    ) -> Result<LoadBalancerSettings, Rejected> {
        let statuses =
            HostStatuses::from_proto(self.common.as_ref(), &path.field("common_lb_config"));
        let common = common_lb_config(self.common, &path.field("common_lb_config"));
        let consistent = common
            .as_ref()
            .map_or_else(|_| Consistent::default(), |c| c.consistent);
        let policy = match self.typed {
            Some(typed) => typed_policy(typed, &path.field("load_balancing_policy")).map(Ok),
            None => enum_policy(self.lb_policy, self.lb_config, consistent, path).map(Err),
        };
        let subset = path.optional("lb_subset_config", self.subset, SubsetSettings::from_legacy);
        let common = common?;
        let subset = subset?.flatten().map(Box::new);
        // A typed policy brings its own view of localities and subsets; those of the cluster are for the enum alone.
        let Typed {
            policy,
            mode,
            subset,
            slow_start,
            override_host,
        } = policy?.unwrap_or_else(|(policy, slow_start)| Typed {
            policy,
            mode: common.mode,
            subset,
            slow_start,
            override_host: None,
        });
        if policy == Policy::ClusterProvided && subset.is_some() {
            return Err(
                path.reject("LB policy CLUSTER_PROVIDED cannot be combined with lb_subset_config")
            );
        }
        let zone_aware =
            (!mode.weighted && !matches!(policy, Policy::Hash(_))).then_some(mode.zone_aware);
        Ok(LoadBalancerSettings {
            policy,
            locality_weighted: mode.weighted,
            fail_traffic_on_panic: mode.fail_traffic_on_panic,
            zone_aware,
            healthy_panic_threshold: common.healthy_panic_threshold,
            update_merge_window: common.update_merge_window,
            ignore_new_hosts_until_first_hc: common.ignore_new_hosts_until_first_hc,
            subset,
            slow_start,
            override_host,
            override_host_status: statuses?,
        })
    }
}

fn common_lb_config(
    proto: Option<legacy::CommonLbConfig>,
    path: &ConfigPath<'_>,
) -> Result<Common, Rejected> {
    use legacy::common_lb_config::{
        LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
    };
    let legacy::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        // Converted by itself.
        override_host_status: _,
        locality_config_specifier,
    } = proto.unwrap_or_default();
    let threshold = path.percent("healthy_panic_threshold", healthy_panic_threshold);
    let window = path.duration("update_merge_window", update_merge_window);
    let close = path.unsupported_if_set(
        "close_connections_on_host_set_change",
        close_connections_on_host_set_change,
    );
    let mode = match locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) => {
            LocalityMode {
                weighted: true,
                ..LocalityMode::default()
            }
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
            routing_enabled,
            min_cluster_size,
            fail_traffic_on_panic,
        })) => {
            let path = path.field("zone_aware_lb_config");
            let enabled = path.percent("routing_enabled", routing_enabled)?;
            LocalityMode {
                fail_traffic_on_panic,
                zone_aware: ZoneAware {
                    routing_enabled: enabled.map_or(100, percent_of),
                    min_cluster_size: min_cluster_size.map_or(6, |size| size.value),
                    ..ZoneAware::default()
                },
                ..LocalityMode::default()
            }
        }
        None => LocalityMode::default(),
    };
    let consistent = Consistent::from_legacy(
        consistent_hashing_lb_config,
        &path.field("consistent_hashing_lb_config"),
    );
    close?;
    let threshold = threshold?.map_or(50, percent_of);
    Ok(Common {
        healthy_panic_threshold: threshold,
        mode,
        consistent: consistent?,
        update_merge_window: window?.unwrap_or(UPDATE_MERGE_WINDOW),
        ignore_new_hosts_until_first_hc,
    })
}

/// The default of `update_merge_window`.
const UPDATE_MERGE_WINDOW: Duration = Duration::from_secs(1);

/// A converted `CommonLbConfig`.
struct Common {
    healthy_panic_threshold: u32,
    mode: LocalityMode,
    consistent: Consistent,
    update_merge_window: Duration,
    ignore_new_hosts_until_first_hc: bool,
}

fn percent_of(share: f64) -> u32 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of 0.0 to 1.0, rounded"
    )]
    let percent = (share * 100.0).round() as u32;
    percent
}

fn enum_policy(
    lb_policy: i32,
    lb_config: Option<legacy::LbConfig>,
    consistent: Consistent,
    path: &ConfigPath<'_>,
) -> Result<(Policy, Option<SlowStart>), Rejected> {
    use legacy::{LbConfig, LbPolicy};
    let policy = match (path.enumeration("lb_policy", lb_policy)?, lb_config) {
        (LbPolicy::RoundRobin, None) => Ok(Policy::RoundRobin),
        (LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            let legacy::RoundRobinLbConfig { slow_start_config } = config;
            let path = path.field("round_robin_lb_config");
            let slow = path.optional(
                "slow_start_config",
                slow_start_config,
                SlowStart::from_legacy,
            )?;
            return Ok((Policy::RoundRobin, slow.flatten()));
        }
        (LbPolicy::LeastRequest, None) => Ok(Policy::least_request()),
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            let legacy::LeastRequestLbConfig {
                choice_count,
                active_request_bias,
                slow_start_config,
            } = config;
            let path = path.field("least_request_lb_config");
            let slow = path.optional(
                "slow_start_config",
                slow_start_config,
                SlowStart::from_legacy,
            );
            let policy = least_request(
                choice_count.map(|v| v.value),
                active_request_bias,
                false,
                &path,
            );
            return Ok((policy?, slow?.flatten()));
        }
        (LbPolicy::Random, None) => Ok(Policy::Random),
        (LbPolicy::RingHash, None) => {
            hash_config::legacy_ring_hash(legacy::RingHashLbConfig::default(), consistent, path)
        }
        (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config))) => {
            let path = path.field("ring_hash_lb_config");
            hash_config::legacy_ring_hash(config, consistent, &path)
        }
        (LbPolicy::Maglev, None) => {
            hash_config::legacy_maglev(legacy::MaglevLbConfig::default(), consistent, path)
        }
        (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config))) => {
            let path = path.field("maglev_lb_config");
            hash_config::legacy_maglev(config, consistent, &path)
        }
        (
            policy @ (LbPolicy::RoundRobin
            | LbPolicy::LeastRequest
            | LbPolicy::Random
            | LbPolicy::RingHash
            | LbPolicy::Maglev),
            Some(_),
        ) => Err(path.field("lb_config").reject(format!(
            "is not the configuration of {}",
            policy.as_str_name()
        ))),
        (LbPolicy::LoadBalancingPolicyConfig, _) => Err(path
            .field("load_balancing_policy")
            .reject("is required with lb_policy LOAD_BALANCING_POLICY_CONFIG")),
        (LbPolicy::ClusterProvided, None) => Ok(Policy::ClusterProvided),
        (LbPolicy::ClusterProvided, Some(_)) => Err(path
            .field("lb_config")
            .reject("is not the configuration of CLUSTER_PROVIDED")),
    };
    policy.map(|policy| (policy, None))
}

fn typed_policy(proto: pb::LoadBalancingPolicy, path: &ConfigPath<'_>) -> Result<Typed, Rejected> {
    // Envoy takes the first that it knows.
    let mut unknown = None;
    for (index, policy) in proto.policies.into_iter().enumerate() {
        let path = path.index("policies", index);
        let extension = path.required("typed_extension_config", policy.typed_extension_config)?;
        let TypedExtensionConfig {
            name: _,
            typed_config,
        } = extension;
        let path = path.field("typed_extension_config");
        let config = TypedConfig::required("typed_config", typed_config, &path)?;
        if SUPPORTED.contains(&config.type_name.as_str()) {
            return known_policy(&config, &path.field("typed_config"));
        }
        unknown.get_or_insert(config);
    }
    match unknown {
        Some(config) => Err(config.unknown(&path.field("policies"), SUPPORTED)),
        None => Err(path
            .field("policies")
            .reject("is empty: at least one policy is needed")),
    }
}

fn known_policy(config: &TypedConfig, path: &ConfigPath<'_>) -> Result<Typed, Rejected> {
    match config.type_name.rsplit('.').next() {
        Some("RoundRobin") => {
            let RoundRobin {
                slow_start_config,
                locality_lb_config,
            } = config.decode(path)?;
            let slow = path.optional(
                "slow_start_config",
                slow_start_config,
                SlowStart::from_proto,
            );
            let mode = locality_mode(locality_lb_config, path);
            Ok(Typed {
                slow_start: slow?.flatten(),
                ..Typed::new(Policy::RoundRobin, mode?)
            })
        }
        Some("ClusterProvided") => {
            let ClusterProvided {} = config.decode(path)?;
            Ok(Typed::new(Policy::ClusterProvided, LocalityMode::default()))
        }
        Some("RingHash") => {
            let config: RingHash = config.decode(path)?;
            let mode = LocalityMode {
                weighted: config.locality_weighted_lb_config.is_some(),
                ..LocalityMode::default()
            };
            Ok(Typed::new(hash_config::ring_hash(config, path)?, mode))
        }
        Some("Maglev") => {
            let config: Maglev = config.decode(path)?;
            let mode = LocalityMode {
                weighted: config.locality_weighted_lb_config.is_some(),
                ..LocalityMode::default()
            };
            Ok(Typed::new(hash_config::maglev(config, path)?, mode))
        }
        Some("Subset") => subset_policy(config, path),
        Some("OverrideHost") => override_host_policy(config, path),
        Some("Random") => {
            let Random { locality_lb_config } = config.decode(path)?;
            Ok(Typed::new(
                Policy::Random,
                locality_mode(locality_lb_config, path)?,
            ))
        }
        _ => least_request_policy(config, path),
    }
}

fn subset_policy(config: &TypedConfig, path: &ConfigPath<'_>) -> Result<Typed, Rejected> {
    let mut config: Subset = config.decode(path)?;
    let child = config.subset_lb_policy.take();
    let settings = SubsetSettings::from_proto(config, path);
    let child = path.required("subset_lb_policy", child)?;
    let path = path.field("subset_lb_policy");
    let child = typed_policy(child, &path)?;
    if child.subset.is_some() || child.override_host.is_some() {
        return Err(path.reject("is subset or override_host, which is not supported"));
    }
    Ok(Typed {
        subset: Some(Box::new(settings?)),
        ..child
    })
}

fn override_host_policy(config: &TypedConfig, path: &ConfigPath<'_>) -> Result<Typed, Rejected> {
    let mut config: OverrideHost = config.decode(path)?;
    let child = config.fallback_policy.take();
    let settings = OverrideHostSettings::from_proto(config, path);
    let child = path.required("fallback_policy", child)?;
    let path = path.field("fallback_policy");
    let child = typed_policy(child, &path)?;
    if child.override_host.is_some() {
        return Err(path.reject("is override_host again, which is not supported"));
    }
    Ok(Typed {
        override_host: Some(Box::new(settings?)),
        ..child
    })
}

fn least_request_policy(config: &TypedConfig, path: &ConfigPath<'_>) -> Result<Typed, Rejected> {
    #[allow(
        deprecated,
        reason = "`enable_full_scan` is decided like every other field"
    )]
    let LeastRequest {
        choice_count,
        active_request_bias,
        slow_start_config,
        locality_lb_config,
        enable_full_scan,
        selection_method,
    } = config.decode(path)?;
    let slow = path.optional(
        "slow_start_config",
        slow_start_config,
        SlowStart::from_proto,
    );
    let mode = locality_mode(locality_lb_config, path);
    let method: SelectionMethod = path.enumeration("selection_method", selection_method)?;
    let full_scan =
        method == SelectionMethod::FullScan || enable_full_scan.is_some_and(|v| v.value);
    let policy = least_request(
        choice_count.map(|v| v.value),
        active_request_bias,
        full_scan,
        path,
    );
    Ok(Typed {
        slow_start: slow?.flatten(),
        ..Typed::new(policy?, mode?)
    })
}

fn locality_mode(
    proto: Option<common::LocalityLbConfig>,
    path: &ConfigPath<'_>,
) -> Result<LocalityMode, Rejected> {
    use common::locality_lb_config::{
        LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
        zone_aware_lb_config::LocalityBasis,
    };
    let Some(common::LocalityLbConfig {
        locality_config_specifier,
    }) = proto
    else {
        return Ok(LocalityMode::default());
    };
    let path = path.field("locality_lb_config");
    match path.required("locality_config_specifier", locality_config_specifier)? {
        LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}) => {
            Ok(LocalityMode {
                weighted: true,
                ..LocalityMode::default()
            })
        }
        #[allow(
            deprecated,
            reason = "the deprecated field is decided like every other"
        )]
        LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
            routing_enabled,
            min_cluster_size,
            force_locality_direct_routing,
            force_local_zone,
            locality_basis,
            fail_traffic_on_panic,
        }) => {
            let path = path.field("zone_aware_lb_config");
            let enabled = path.percent("routing_enabled", routing_enabled);
            let basis = path.enumeration::<LocalityBasis>("locality_basis", locality_basis);
            let forced = force_local_zone.map(|zone| zone.min_size.map_or(1, |size| size.value));
            Ok(LocalityMode {
                fail_traffic_on_panic,
                zone_aware: ZoneAware {
                    routing_enabled: enabled?.map_or(100, percent_of),
                    min_cluster_size: min_cluster_size.map_or(6, |size| size.value),
                    force_local_zone: forced.or(force_locality_direct_routing.then_some(1)),
                    by_weight: basis? == LocalityBasis::HealthyHostsWeight,
                },
                ..LocalityMode::default()
            })
        }
    }
}

fn least_request(
    choice_count: Option<u32>,
    active_request_bias: Option<RuntimeDouble>,
    full_scan: bool,
    path: &ConfigPath<'_>,
) -> Result<Policy, Rejected> {
    let choice_count = path.in_range("choice_count", choice_count.unwrap_or(2), 2..=u32::MAX);
    let bias = match active_request_bias {
        Some(RuntimeDouble {
            default_value,
            runtime_key: _,
        }) => {
            if default_value >= 0.0 && default_value.is_finite() {
                Ok(default_value)
            } else {
                Err(path
                    .field("active_request_bias")
                    .reject(format!("{default_value} is not 0.0 or more")))
            }
        }
        None => Ok(1.0),
    };
    Ok(Policy::LeastRequest {
        choice_count: choice_count?,
        active_request_bias: bias?,
        full_scan,
    })
}

impl Policy {
    fn least_request() -> Self {
        Self::LeastRequest {
            choice_count: 2,
            active_request_bias: 1.0,
            full_scan: false,
        }
    }
}
