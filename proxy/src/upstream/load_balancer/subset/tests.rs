use std::collections::BTreeMap;
use std::net::SocketAddr;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use serde_json::{Map, json};

use super::super::{LegacyPolicy, LoadBalancerSettings, WorkerLoadBalancer};
use super::*;
use crate::config::{ConfigPath, ConfigReport};
use crate::net::Address;
use crate::runtime::Runtime;
use crate::server::{LocalInfo, Random, ServerContext};
use crate::stream_info::DynamicMetadata;
use crate::upstream::cluster::ClusterSettings;
use crate::upstream::host::{HealthFlag, Locality};
use crate::upstream::priority_set::HostGroup;

struct Request {
    random: Random,
    asked: Option<MetadataMatch>,
}

impl LoadBalancerContext for Request {
    fn random(&self) -> u64 {
        self.random.next()
    }
    fn metadata_match(&self) -> Option<&MetadataMatch> {
        self.asked.as_ref()
    }
    fn host_selection_retry_count(&self) -> u32 {
        0
    }
}

fn settings(yaml: &str) -> Result<LoadBalancerSettings, String> {
    let yaml = format!("name: a\n{yaml}");
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: pb::Cluster = load(&[source], UnknownFields::Refuse).unwrap();
    let report = ConfigReport::new();
    let policy = LegacyPolicy {
        lb_policy: proto.lb_policy,
        lb_config: proto.lb_config,
        common: proto.common_lb_config,
        typed: proto.load_balancing_policy,
        subset: proto.lb_subset_config,
    };
    policy
        .convert(&ConfigPath::root(&report, "cluster"))
        .map_err(|_| format!("{:?}", report.take()))
}

/// Hosts with these metadata below `envoy.lb`; their ports count up from 1.
struct Cluster {
    info: Arc<ClusterInfo>,
    balancer: WorkerLoadBalancer,
    set: PrioritySet,
}

fn host(port: u16, lb: &Value) -> Host {
    let mut host = Host::new(Address::Ip(SocketAddr::from(([127, 0, 0, 1], port))), 0);
    let mut metadata = DynamicMetadata::default();
    metadata.merge(LB_NAMESPACE, lb.as_object().unwrap().clone());
    host.metadata = metadata;
    host
}

fn groups(localities: &[(u32, &[Arc<Host>])]) -> PrioritySet {
    let groups = (0..)
        .zip(localities)
        .map(|(zone, (weight, hosts))| HostGroup {
            locality: Arc::new(Locality {
                zone: format!("{zone}").into(),
                ..Locality::default()
            }),
            weight: *weight,
            priority: 0,
            hosts: hosts.to_vec(),
        });
    PrioritySet::new(groups, 140, false)
}

impl Cluster {
    fn of(yaml: &str, set: PrioritySet) -> Self {
        let server = ServerContext::new(1, LocalInfo::default());
        let settings = ClusterSettings {
            load_balancer: settings(yaml).unwrap(),
            ..ClusterSettings::default()
        };
        let info = Arc::new(ClusterInfo::new(&server, "a", Arc::new(settings)));
        let threshold = Runtime::default().integer("", 50);
        let balancer = WorkerLoadBalancer::new(info.clone(), threshold);
        let mut cluster = Self {
            info,
            balancer,
            set: PrioritySet::default(),
        };
        cluster.publish(set);
        cluster
    }

    fn new(yaml: &str, hosts: &[Value]) -> Self {
        let hosts: Vec<_> = (1..)
            .zip(hosts)
            .map(|(port, lb)| Arc::new(host(port, lb)))
            .collect();
        Self::of(yaml, groups(&[(0, &hosts)]))
    }

    fn publish(&mut self, mut set: PrioritySet) {
        let table = SubsetTable::new(&self.info, &set, 50).unwrap();
        table.count(self.set.subsets.as_deref(), &self.info);
        set.subsets = Some(Arc::new(table));
        self.balancer.update(&set, 0);
        self.set = set;
    }

    /// How often each port is chosen in 100 requests that ask for this.
    fn ports(&mut self, asked: Value) -> BTreeMap<u16, u32> {
        let cx = Request {
            random: Random::new(7),
            asked: asked
                .as_object()
                .map(|values: &Map<_, _>| MetadataMatch::for_request(values, None)),
        };
        let mut counts = BTreeMap::new();
        for _ in 0..100 {
            if let Some(host) = self.balancer.choose_host(&cx) {
                *counts.entry(host.address.port().unwrap()).or_insert(0) += 1;
            }
        }
        counts
    }

    fn chosen(&mut self, asked: Value) -> Vec<u16> {
        self.ports(asked).into_keys().collect()
    }
}

const BY_VERSION: &str = "lb_subset_config: { subset_selectors: [{ keys: [v] }] }";

fn two_versions() -> [Value; 3] {
    [json!({"v": 1}), json!({"v": 2}), json!({"v": 1, "w": 2})]
}

#[test]
fn a_request_goes_to_the_hosts_that_have_what_it_asks_for() {
    let mut cluster = Cluster::new(BY_VERSION, &two_versions());
    assert_eq!(cluster.chosen(json!({"v": 1.0})), [1, 3]);
    assert_eq!(cluster.chosen(json!({"v": 2})), [2]);
    assert_eq!(cluster.info.update_stats.lb_subsets_selected().value(), 200);
}

#[test]
fn without_fallback_a_request_that_names_no_subset_gets_no_host() {
    let mut cluster = Cluster::new(BY_VERSION, &two_versions());
    for asked in [
        json!(null),
        json!({}),
        json!({"v": 3}),
        json!({"v": "1"}),
        json!({"v": 1, "w": 2}),
    ] {
        assert!(cluster.chosen(asked).is_empty());
    }
}

#[test]
fn fallbacks_take_what_names_no_subset() {
    let any =
        "lb_subset_config: { fallback_policy: ANY_ENDPOINT, subset_selectors: [{ keys: [v] }] }";
    let mut cluster = Cluster::new(any, &two_versions());
    assert_eq!(cluster.chosen(json!({"v": 3})), [1, 2, 3]);
    assert_eq!(cluster.info.update_stats.lb_subsets_fallback().value(), 100);
    let default = "lb_subset_config: { fallback_policy: DEFAULT_SUBSET, default_subset: { w: 2 }, subset_selectors: [{ keys: [v] }] }";
    let mut cluster = Cluster::new(default, &two_versions());
    assert_eq!(cluster.chosen(json!(null)), [3]);
    let panic = "lb_subset_config: { fallback_policy: DEFAULT_SUBSET, default_subset: { w: 9 }, panic_mode_any: true, subset_selectors: [{ keys: [v] }] }";
    let mut cluster = Cluster::new(panic, &two_versions());
    assert_eq!(cluster.chosen(json!(null)), [1, 2, 3]);
    assert_eq!(
        cluster
            .info
            .update_stats
            .lb_subsets_fallback_panic()
            .value(),
        100
    );
}

#[test]
fn a_selector_has_a_fallback_of_its_own() {
    let yaml = "lb_subset_config: { subset_selectors: [{ keys: [w], fallback_policy: ANY_ENDPOINT }, { keys: [v, w], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [v] }, { keys: [v] }] }";
    let mut cluster = Cluster::new(yaml, &two_versions());
    assert_eq!(cluster.chosen(json!({"w": 9})), [1, 2, 3]);
    assert_eq!(cluster.chosen(json!({"v": 2, "w": 9})), [2]);
    assert_eq!(cluster.chosen(json!({"v": 1, "w": 2})), [3]);
    assert!(cluster.chosen(json!({"v": 9, "w": 2})).is_empty());
}

#[test]
fn the_fallback_of_a_selector_whose_keys_begin_an_earlier_one_is_not_known() {
    let yaml = "lb_subset_config: { subset_selectors: [{ keys: [v, w] }, { keys: [v], fallback_policy: ANY_ENDPOINT }] }";
    let mut cluster = Cluster::new(yaml, &two_versions());
    assert!(cluster.chosen(json!({"v": 9})).is_empty());
}

#[test]
fn lists_count_each_of_their_values_where_they_shall() {
    let hosts = [json!({"v": [1, 2]}), json!({"v": 2})];
    let mut cluster = Cluster::new(BY_VERSION, &hosts);
    assert_eq!(cluster.chosen(json!({"v": [1, 2]})), [1]);
    assert_eq!(cluster.chosen(json!({"v": 2})), [2]);
    let yaml = "lb_subset_config: { list_as_any: true, subset_selectors: [{ keys: [v] }] }";
    let mut cluster = Cluster::new(yaml, &hosts);
    assert_eq!(cluster.chosen(json!({"v": 1})), [1]);
    assert_eq!(cluster.chosen(json!({"v": 2})), [1, 2]);
}

#[test]
fn a_list_of_fallbacks_is_tried_in_turn() {
    let yaml = "lb_subset_config: { metadata_fallback_policy: FALLBACK_LIST, subset_selectors: [{ keys: [v] }] }";
    let mut cluster = Cluster::new(yaml, &two_versions());
    assert_eq!(
        cluster.chosen(json!({"fallback_list": [{"v": 7}, {"v": 2}]})),
        [2]
    );
    assert_eq!(cluster.chosen(json!({"v": 1, "fallback_list": []})), [1, 3]);
}

#[test]
fn keys_that_no_selector_has_may_be_passed_over() {
    let child = "{ policies: [{ typed_extension_config: { name: r, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin } } }] }";
    let yaml = format!(
        "load_balancing_policy: {{ policies: [{{ typed_extension_config: {{ name: s, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.subset.v3.Subset, allow_redundant_keys: true, subset_selectors: [{{ keys: [v] }}], subset_lb_policy: {child} }} }} }}] }}"
    );
    let mut cluster = Cluster::new(&yaml, &two_versions());
    assert_eq!(cluster.chosen(json!({"v": 2, "other": 1})), [2]);
}

#[test]
fn a_subset_of_one_host_is_the_first_of_its_hosts_well_or_not() {
    let yaml =
        "lb_subset_config: { subset_selectors: [{ keys: [v], single_host_per_subset: true }] }";
    let hosts = [host(1, &json!({"v": 1})), host(2, &json!({"v": 1}))];
    hosts[0].health.set(HealthFlag::FailedEdsHealth);
    let mut cluster = Cluster::of(yaml, groups(&[(0, &hosts.map(Arc::new))]));
    assert_eq!(cluster.chosen(json!({"v": 1})), [1]);
    let gauge = cluster
        .info
        .scope
        .gauge("lb_subsets_single_host_per_subset_duplicate");
    assert_eq!(gauge.get().value(), 1);
}

#[test]
fn weights_of_localities_count_within_subsets_and_scale_with_their_hosts() {
    let yaml = "common_lb_config: { locality_weighted_lb_config: {} }\nlb_subset_config: { locality_weight_aware: true, scale_locality_weight: true, subset_selectors: [{ keys: [v] }] }";
    let host = |port, v: u32| Arc::new(host(port, &json!({"v": v})));
    let here = [host(1, 1), host(2, 2), host(3, 2), host(4, 2)];
    let there = [host(5, 1)];
    let mut cluster = Cluster::of(yaml, groups(&[(40, &here), (30, &there)]));
    let counts = cluster.ports(json!({"v": 1}));
    assert!(
        counts[&1].abs_diff(25) <= 1 && counts[&5].abs_diff(75) <= 1,
        "{counts:?}"
    );
}

#[test]
fn subsets_come_and_go_with_their_hosts() {
    let mut cluster = Cluster::new(BY_VERSION, &two_versions());
    let stats = |cluster: &Cluster| {
        let stats = &cluster.info.update_stats;
        let counters = (
            stats.lb_subsets_created().value(),
            stats.lb_subsets_removed().value(),
        );
        (stats.lb_subsets_active().value(), counters)
    };
    assert_eq!(stats(&cluster), (4, (4, 0)));
    let kept = cluster.set.hosts().next().unwrap().clone();
    cluster.publish(groups(&[(0, &[kept, Arc::new(host(9, &json!({"v": 5})))])]));
    assert_eq!(stats(&cluster), (4, (6, 2)));
    assert_eq!(cluster.chosen(json!({"v": 1})), [1]);
    assert_eq!(cluster.chosen(json!({"v": 5})), [9]);
}

#[test]
fn a_route_is_looked_up_once() {
    let mut cluster = Cluster::new(BY_VERSION, &two_versions());
    let mut asked = MetadataMatch::for_request(json!({"v": 2}).as_object().unwrap(), None);
    asked.id = 77;
    let cx = Request {
        random: Random::new(7),
        asked: Some(asked),
    };
    for _ in 0..2 {
        assert!(cluster.balancer.choose_host(&cx).is_some());
    }
    let known = &cluster.balancer.subsets.as_ref().unwrap().known;
    assert_eq!(known.len(), 1);
    assert!(matches!(known[&77][..], [Choice::Subset(_)]));
}

#[test]
fn hashing_goes_on_within_a_subset() {
    let yaml = "lb_policy: MAGLEV\nlb_subset_config: { subset_selectors: [{ keys: [v] }] }";
    let mut cluster = Cluster::new(yaml, &two_versions());
    assert_eq!(cluster.chosen(json!({"v": 1})), [1, 3]);
}

#[test]
fn fallback_keys_must_be_some_of_the_keys() {
    let selector = |fields: &str| {
        settings(&format!(
            "lb_subset_config: {{ subset_selectors: [{{ keys: [v, w], {fields} }}] }}"
        ))
    };
    for (fields, error) in [
        ("fallback_policy: KEYS_SUBSET", "cannot be empty"),
        (
            "fallback_policy: KEYS_SUBSET, fallback_keys_subset: [x]",
            "must be a subset",
        ),
        (
            "fallback_policy: KEYS_SUBSET, fallback_keys_subset: [w, v]",
            "cannot be equal",
        ),
        (
            "fallback_policy: ANY_ENDPOINT, fallback_keys_subset: [v]",
            "only with KEYS_SUBSET",
        ),
    ] {
        let found = selector(fields).unwrap_err();
        assert!(found.contains(error), "{found}");
    }
}
