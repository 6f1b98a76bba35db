use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use tokio::time::sleep;

use super::cluster::ClusterConfig;
use super::*;
use crate::config::{ConfigPath, ConfigReport};
use crate::server::{LocalInfo, Random, ServerContext};
use crate::xds::{
    FetchFailure, Refused, Resource as XdsResource, ResourceKind, SourceKind, XdsClient, XdsSource,
};

/// A manager whose clusters come from a management server.
pub(super) struct Harness {
    pub(super) server: Arc<ServerContext>,
    pub(super) manager: Rc<ClusterManager>,
    client: Rc<XdsClient>,
    source: XdsSource,
}

fn parse<M: prost::Name + Default>(yaml: &str) -> M {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    load(&[source], UnknownFields::Refuse).unwrap()
}

pub(super) fn cluster(yaml: &str) -> XdsResource {
    let proto: pb::Cluster = parse(yaml);
    XdsResource {
        name: proto.name.as_str().into(),
        aliases: Vec::new(),
        version: "1".into(),
        body: Some(pack(&proto)),
    }
}

pub(super) fn endpoints(yaml: &str) -> XdsResource {
    let proto: ClusterLoadAssignment = parse(yaml);
    XdsResource {
        name: proto.cluster_name.as_str().into(),
        aliases: Vec::new(),
        version: "1".into(),
        body: Some(pack(&proto)),
    }
}

pub(super) fn static_cluster(name: &str, port: u16) -> String {
    format!(
        "{{name: {name}, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}"
    )
}

pub(super) fn eds_cluster(name: &str) -> String {
    format!(
        "{{name: {name}, type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}}}}}, connect_timeout: 1s}}"
    )
}

/// An assignment of endpoints at these ports of 127.0.0.1, each with what else it says.
pub(super) fn assignment(name: &str, ports: &[(u16, &str)]) -> XdsResource {
    endpoints(&assignment_text(name, ports))
}

pub(super) fn assignment_text(name: &str, ports: &[(u16, &str)]) -> String {
    let endpoint = |(port, rest): &(u16, &str)| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}{rest}}}"
        )
    };
    let endpoints: Vec<String> = ports.iter().map(endpoint).collect();
    format!(
        "{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}",
        endpoints.join(", ")
    )
}

impl Harness {
    pub(super) fn new() -> Self {
        Self::with_static(&[])
    }

    fn with_static(clusters: &[&str]) -> Self {
        let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
        let resolver = Rc::new(HickoryResolver::default());
        let manager = ClusterManager::new(server.clone(), 0, resolver);
        for yaml in clusters {
            let report = ConfigReport::new();
            let path = ConfigPath::root(&report, "cluster");
            manager.add([ClusterConfig::from_proto(parse(yaml), &server, &path).unwrap()]);
        }
        let client = XdsClient::new(server.clone());
        let source = XdsSource {
            kind: SourceKind::Ads,
            initial_fetch_timeout: Duration::from_secs(15),
        };
        manager.watch_cds(&client, source.clone());
        Self {
            server,
            manager,
            client,
            source,
        }
    }

    pub(super) fn deliver(
        &self,
        kind: ResourceKind,
        sent: &[XdsResource],
        removed: &[&str],
    ) -> Result<(), Vec<Refused>> {
        let removed: Vec<Arc<str>> = removed.iter().map(|name| Arc::from(*name)).collect();
        self.client
            .deliver(&self.source, kind, "v1", sent, &removed)
    }

    pub(super) fn clusters(&self, sent: &[String]) -> Result<(), Vec<Refused>> {
        let sent: Vec<_> = sent.iter().map(|yaml| cluster(yaml)).collect();
        self.deliver(ResourceKind::Cluster, &sent, &[])
    }

    pub(super) fn endpoints(&self, sent: XdsResource) -> Result<(), Vec<Refused>> {
        self.deliver(ResourceKind::Endpoints, &[sent], &[])
    }

    pub(super) fn id(&self, name: &str) -> ClusterId {
        self.server.cluster_names.id(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Cluster>> {
        self.manager.table().get(self.id(name))
    }

    /// The ports of the hosts of a cluster in use.
    fn ports(&self, name: &str) -> Vec<u16> {
        let cluster = self.get(name).expect("the cluster is in use");
        let hosts = cluster.hosts.load();
        hosts
            .hosts()
            .map(|host| match &host.address {
                crate::net::Address::Ip(address) => address.port(),
                crate::net::Address::Pipe(_) => 0,
            })
            .collect()
    }

    /// The values of stats by name.
    pub(super) fn stat(&self, name: &str) -> u64 {
        let (prefix, last) = name.rsplit_once('.').unwrap();
        let prefix = format!("{prefix}.");
        let groups = self.server.stats.groups();
        let of_prefix = groups.iter().filter(|group| group.prefix() == prefix);
        let found = of_prefix.flat_map(|group| {
            (0..group.len())
                .filter(|at| group.stat(*at).0 == last)
                .map(|at| match group.stat(at).1 {
                    crate::stats::Kind::Gauge => group.gauge(at).value(),
                    _ => group.counter(at).value(),
                })
        });
        let values: Vec<u64> = found.collect();
        assert!(!values.is_empty(), "no stat {name}");
        values.iter().sum()
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn clusters_come_change_and_go_and_what_is_unchanged_stays() {
    let harness = Harness::new();
    assert!(!harness.manager.init().is_ready());
    let (a, b) = (static_cluster("a", 1), static_cluster("b", 2));
    harness.clusters(&[a.clone(), b.clone()]).unwrap();
    harness.manager.all_ready().await;
    let (old_a, old_b) = (harness.get("a").unwrap(), harness.get("b").unwrap());
    harness
        .clusters(&[a.clone(), static_cluster("b", 3)])
        .unwrap();
    assert!(Arc::ptr_eq(&old_a, &harness.get("a").unwrap()));
    assert!(!Arc::ptr_eq(&old_b, &harness.get("b").unwrap()));
    assert_eq!(harness.ports("b"), [3]);
    harness
        .deliver(ResourceKind::Cluster, &[], &["a", "unheard-of"])
        .unwrap();
    assert!(harness.get("a").is_none());
    for (stat, expected) in [
        ("cluster_manager.cluster_added", 2),
        ("cluster_manager.cluster_modified", 1),
        ("cluster_manager.cluster_removed", 1),
        ("cluster_manager.active_clusters", 1),
        ("cluster_manager.warming_clusters", 0),
        ("cluster_manager.cds.update_success", 3),
        ("cluster_manager.cds.update_attempt", 4),
    ] {
        assert_eq!(harness.stat(stat), expected, "{stat}");
    }
    // Nobody holds what belonged to it, and its stats end with it.
    drop(old_a);
    let groups = harness.server.stats.groups();
    assert!(groups.iter().all(|group| group.prefix() != "cluster.a."));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn one_bad_cluster_does_not_hold_back_the_others_and_each_error_has_its_path() {
    let harness = Harness::new();
    let bad = "{name: bad, connect_timeout: 0s, lrs_server: {self: {}}, type: EDS}";
    let refused = harness
        .clusters(&[bad.to_owned(), static_cluster("good", 1)])
        .unwrap_err();
    assert_eq!(refused.len(), 1);
    assert_eq!(&*refused[0].name, "bad");
    let lines: Vec<&str> = refused[0].reason.lines().collect();
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("cluster \"bad\" / ")),
        "{lines:?}"
    );
    assert!(lines.len() >= 2, "{lines:?}");
    assert_eq!(harness.ports("good"), [1]);
    assert_eq!(harness.stat("cluster_manager.cds.update_rejected"), 1);
    assert!(harness.manager.init().is_ready(), "an answer came");
    let dump = harness.manager.config_dump(Vec::new());
    let shown = &dump.dynamic_warming_clusters[0];
    let state = shown.error_state.as_ref().unwrap();
    assert!(shown.cluster.is_none() && state.failed_configuration.is_some());
    assert_eq!(state.details, refused[0].reason);
    // An accepted version ends it.
    harness.clusters(&[static_cluster("bad", 2)]).unwrap();
    let dump = harness.manager.config_dump(Vec::new());
    assert!(dump.dynamic_warming_clusters.is_empty());
    assert_eq!(dump.dynamic_active_clusters.len(), 2);
    assert!(
        dump.dynamic_active_clusters
            .iter()
            .all(|shown| shown.error_state.is_none())
    );
    assert_eq!(dump.version_info, "v1");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_refused_change_leaves_the_old_version_and_shows_beside_it() {
    let harness = Harness::new();
    harness.clusters(&[static_cluster("a", 1)]).unwrap();
    harness
        .clusters(&["{name: a, connect_timeout: 0s}".to_owned()])
        .unwrap_err();
    assert_eq!(harness.ports("a"), [1]);
    let dump = harness.manager.config_dump(Vec::new());
    assert!(dump.dynamic_active_clusters[0].error_state.is_some());
    assert!(dump.dynamic_active_clusters[0].cluster.is_some());
    // The old version again: nothing changes but that the error is over.
    let before = harness.get("a").unwrap();
    harness.clusters(&[static_cluster("a", 1)]).unwrap();
    assert!(Arc::ptr_eq(&before, &harness.get("a").unwrap()));
    let dump = harness.manager.config_dump(Vec::new());
    assert!(dump.dynamic_active_clusters[0].error_state.is_none());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn of_two_clusters_of_one_name_the_first_counts() {
    let harness = Harness::new();
    let refused = harness
        .clusters(&[static_cluster("a", 1), static_cluster("a", 2)])
        .unwrap_err();
    assert!(refused[0].reason.contains("earlier cluster"), "{refused:?}");
    assert_eq!(harness.ports("a"), [1]);
    // The same twice is refused as well.
    let twice = [static_cluster("a", 1), static_cluster("a", 1)];
    assert_eq!(harness.clusters(&twice).unwrap_err().len(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn clusters_of_the_bootstrap_are_neither_changed_nor_removed() {
    let harness = Harness::with_static(&[&static_cluster("a", 1)]);
    harness.clusters(&[static_cluster("a", 2)]).unwrap();
    harness.deliver(ResourceKind::Cluster, &[], &["a"]).unwrap();
    assert_eq!(harness.ports("a"), [1]);
    assert_eq!(harness.stat("cluster_manager.cluster_modified"), 0);
    assert!(!harness.manager.status()[0].added_via_api);
    let endpoints = harness.manager.endpoints_dump();
    assert_eq!(endpoints.static_endpoint_configs.len(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_cluster_with_eds_is_used_when_its_endpoints_are_known() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    assert_eq!(
        harness.client.asked_for(ResourceKind::Endpoints),
        [Arc::from("a")]
    );
    assert!(harness.get("a").is_none());
    assert_eq!(harness.stat("cluster_manager.warming_clusters"), 1);
    assert_eq!(harness.stat("cluster.a.warming_state"), 1);
    let dump = harness.manager.config_dump(Vec::new());
    assert_eq!(dump.dynamic_warming_clusters.len(), 1);
    harness
        .endpoints(assignment(
            "a",
            &[(1, ""), (2, ", load_balancing_weight: 5"), (1, "")],
        ))
        .unwrap();
    assert_eq!(
        harness.ports("a"),
        [1, 2],
        "the first of those with one address"
    );
    harness.manager.all_ready().await;
    for (stat, expected) in [
        ("cluster.a.warming_state", 0),
        ("cluster.a.update_success", 1),
        ("cluster.a.update_attempt", 2),
        ("cluster.a.membership_total", 2),
        ("cluster.a.membership_change", 1),
        ("cluster.a.max_host_weight", 5),
    ] {
        assert_eq!(harness.stat(stat), expected, "{stat}");
    }
    let status = harness.manager.status();
    assert!(status[0].added_via_api);
    let endpoints = harness.manager.endpoints_dump();
    assert_eq!(endpoints.dynamic_endpoint_configs.len(), 1);
    // It goes, and nobody asks for its endpoints any more.
    harness.deliver(ResourceKind::Cluster, &[], &["a"]).unwrap();
    assert!(harness.client.asked_for(ResourceKind::Endpoints).is_empty());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn hosts_that_stay_are_the_same_hosts_whatever_changes_about_them() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness
        .endpoints(assignment("a", &[(1, ""), (2, "")]))
        .unwrap();
    let workers = WorkerClusters::new(harness.manager.table().clone(), 0);
    let on_worker = workers.get(harness.id("a")).unwrap();
    let hosts =
        |cluster: &Cluster| -> Vec<Arc<Host>> { cluster.hosts.load().hosts().cloned().collect() };
    let cluster = harness.get("a").unwrap();
    let before = hosts(&cluster);
    harness
        .endpoints(assignment(
            "a",
            &[
                (2, ""),
                (1, ", load_balancing_weight: 7, health_status: DRAINING"),
                (3, ""),
            ],
        ))
        .unwrap();
    let after = hosts(&cluster);
    assert!(
        Arc::ptr_eq(&before[1], &after[0]),
        "nothing about it changed"
    );
    assert_eq!(before[0].identity(), after[1].identity());
    assert_eq!(
        (after[1].weight, after[1].coarse_health()),
        (7, Health::Unhealthy)
    );
    assert_eq!(cluster.info.endpoint_stats.membership_healthy().value(), 2);
    assert!(Rc::ptr_eq(
        &on_worker,
        &workers.get(harness.id("a")).unwrap()
    ));
    // What is in another locality is another host.
    let moved =
        assignment_text("a", &[(2, ""), (1, "")]).replace("[{lb_", "[{locality: {zone: z}, lb_");
    harness.endpoints(endpoints(&moved)).unwrap();
    assert_ne!(hosts(&cluster)[0].identity(), after[0].identity());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_assignment_that_changes_nothing_rebuilds_nothing() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness
        .endpoints(assignment("a", &[(1, ""), (2, "")]))
        .unwrap();
    let cluster = harness.get("a").unwrap();
    let before = cluster.hosts.load_full();
    harness
        .endpoints(assignment("a", &[(1, ""), (2, "")]))
        .unwrap();
    harness
        .endpoints(assignment("a", &[(2, ""), (1, "")]))
        .unwrap();
    assert!(Arc::ptr_eq(&before, &cluster.hosts.load_full()));
    assert_eq!(harness.stat("cluster.a.update_no_rebuild"), 2);
    let weighted = assignment_text("a", &[(2, ""), (1, "")])
        .replace("[{lb_", "[{load_balancing_weight: 3, lb_");
    sleep(Duration::from_secs(2)).await;
    harness.endpoints(endpoints(&weighted)).unwrap();
    assert!(!Arc::ptr_eq(&before, &cluster.hosts.load_full()));
    assert_eq!(harness.stat("cluster.a.membership_change"), 1);
}

struct AnyHost(Random);

impl LoadBalancerContext for AnyHost {
    fn random(&self) -> u64 {
        self.0.next()
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_assignment_with_another_health_alone_keeps_the_hosts_and_tells_workers() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    let deliver = |ports: &[(u16, &str)]| harness.endpoints(assignment("a", ports)).unwrap();
    deliver(&[(1, ""), (2, "")]);
    let workers = WorkerClusters::new(harness.manager.table().clone(), 0);
    let on_worker = workers.get(harness.id("a")).unwrap();
    let chosen = || -> Vec<String> {
        workers.refresh();
        let mut chosen: Vec<String> = (0..4)
            .map(|_| {
                on_worker
                    .choose_host(&AnyHost(Random::new(7)))
                    .unwrap()
                    .address
                    .to_string()
            })
            .collect();
        chosen.sort();
        chosen.dedup();
        chosen
    };
    assert_eq!(chosen().len(), 2);
    let cluster = harness.get("a").unwrap();
    let before = cluster.hosts.load_full();
    deliver(&[(1, ""), (2, ", health_status: DRAINING")]);
    assert!(Arc::ptr_eq(&before, &cluster.hosts.load_full()));
    assert_eq!(cluster.info.endpoint_stats.membership_healthy().value(), 1);
    assert_eq!(harness.stat("cluster_manager.cluster_updated"), 1);
    assert_eq!(chosen(), ["127.0.0.1:1"]);
    // What says the same in another way rebuilds nothing.
    deliver(&[
        (1, ""),
        (2, ", health_status: DRAINING, load_balancing_weight: 1"),
    ]);
    assert_eq!(harness.stat("cluster.a.update_no_rebuild"), 1);
    deliver(&[
        (1, ", health_status: UNHEALTHY"),
        (2, ", health_status: HEALTHY, load_balancing_weight: 1"),
    ]);
    assert!(Arc::ptr_eq(&before, &cluster.hosts.load_full()));
    assert_eq!(chosen(), ["127.0.0.1:2"]);
    // Of two endpoints with one address the first counts.
    deliver(&[(1, ""), (2, ""), (2, ", health_status: UNHEALTHY")]);
    deliver(&[(1, ""), (2, ""), (2, ", health_status: DRAINING")]);
    assert_eq!(cluster.info.endpoint_stats.membership_healthy().value(), 2);
    assert_eq!(chosen().len(), 2);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn every_change_of_an_assignment_is_published_at_once() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    for weight in 1..5 {
        let rest = format!(", load_balancing_weight: {weight}");
        harness.endpoints(assignment("a", &[(1, &rest)])).unwrap();
        let cluster = harness.get("a").unwrap();
        let hosts = cluster.hosts.load();
        assert_eq!(hosts.hosts().next().unwrap().weight, weight);
    }
    assert_eq!(harness.stat("cluster_manager.cluster_updated"), 3);
    assert_eq!(harness.stat("cluster.a.membership_change"), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_priority_that_lost_its_hosts_stays_empty_and_counts_by_itself() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    let two = "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}, health_status: DRAINING}]}, {priority: 1, lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 2}}}}]}]}";
    harness.endpoints(endpoints(two)).unwrap();
    assert_eq!(harness.stat("cluster.a.membership_change"), 2);
    assert_eq!(harness.stat("cluster.a.membership_excluded"), 1);
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    let hosts = harness.get("a").unwrap().hosts.load_full();
    let sizes: Vec<_> = hosts.priorities.iter().map(|set| set.hosts.len()).collect();
    assert_eq!(sizes, [1, 0]);
    assert_eq!(harness.stat("cluster.a.membership_change"), 3);
    assert_eq!(harness.stat("cluster.a.membership_excluded"), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn bad_assignments_are_refused_and_leave_the_hosts_as_they_are() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    for (yaml, expected) in [
        (
            "{cluster_name: b}",
            "endpoints \"a\" / cluster_name: \"b\" is not \"a\"",
        ),
        (
            "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: name, port_value: 1}}}}]}]}",
            "endpoints \"a\" / endpoints[0] / lb_endpoints[0] / endpoint / address: \"name\" is not an IP address",
        ),
        (
            "{cluster_name: a, endpoints: [{leds_cluster_locality_config: {leds_collection_name: x}}]}",
            "endpoints \"a\" / endpoints[0] / lb_config: is not supported",
        ),
        (
            "{cluster_name: a, endpoints: [{priority: 129}]}",
            "endpoints \"a\" / endpoints[0] / priority: ",
        ),
        (
            "{cluster_name: a, policy: {drop_overloads: [{category: x, drop_percentage: {numerator: 1}}, {category: z}]}}",
            "endpoints \"a\" / policy / drop_overloads: has 2 categories",
        ),
        (
            "{cluster_name: a, policy: {drop_overloads: [{category: x, drop_percentage: {numerator: 101}}]}}",
            "endpoints \"a\" / policy / drop_overloads[0] / drop_percentage: 101 of 100",
        ),
    ] {
        let sent = XdsResource {
            name: "a".into(),
            ..endpoints(yaml)
        };
        let refused = harness.endpoints(sent).unwrap_err();
        assert!(refused[0].reason.starts_with(expected), "{refused:?}");
        assert_eq!(harness.ports("a"), [1]);
    }
    assert_eq!(harness.stat("cluster.a.update_rejected"), 6);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn endpoints_that_went_stale_are_forgotten() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    let stale = assignment_text("a", &[(1, "")]);
    let stale = format!(
        "{}, policy: {{endpoint_stale_after: 10s}}}}",
        stale.strip_suffix('}').unwrap()
    );
    harness.endpoints(endpoints(&stale)).unwrap();
    sleep(Duration::from_secs(8)).await;
    // The same again counts from the start.
    harness.endpoints(endpoints(&stale)).unwrap();
    sleep(Duration::from_secs(8)).await;
    assert_eq!(harness.ports("a"), [1]);
    sleep(Duration::from_secs(3)).await;
    assert!(harness.ports("a").is_empty());
    assert_eq!(harness.stat("cluster.a.assignment_stale"), 1);
    assert_eq!(harness.stat("cluster.a.assignment_timeout_received"), 2);
    harness.endpoints(endpoints(&stale)).unwrap();
    assert_eq!(harness.ports("a"), [1]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_changed_cluster_serves_on_until_its_endpoints_come_again() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    let old = harness.get("a").unwrap();
    harness
        .clusters(&[eds_cluster("a").replace("1s", "2s")])
        .unwrap();
    assert!(Arc::ptr_eq(&old, &harness.get("a").unwrap()));
    assert_eq!(harness.stat("cluster_manager.warming_clusters"), 1);
    assert_eq!(harness.stat("cluster_manager.active_clusters"), 1);
    // Both versions hear of it.
    harness.endpoints(assignment("a", &[(2, "")])).unwrap();
    assert!(!Arc::ptr_eq(&old, &harness.get("a").unwrap()));
    assert_eq!(harness.ports("a"), [2]);
    // Back to the first one, while a third one warms.
    harness
        .clusters(&[eds_cluster("a").replace("1s", "3s")])
        .unwrap();
    harness
        .clusters(&[eds_cluster("a").replace("1s", "2s")])
        .unwrap();
    harness.endpoints(assignment("a", &[(3, "")])).unwrap();
    let timeout = harness.get("a").unwrap().info.settings.connect_timeout;
    assert_eq!(
        (timeout, harness.ports("a")),
        (Duration::from_secs(2), vec![3])
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_changed_cluster_takes_the_cached_endpoints_when_the_server_keeps_silent() {
    let harness = Harness::new();
    harness
        .clusters(&[eds_cluster("a"), eds_cluster("new")])
        .unwrap();
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    harness
        .clusters(&[eds_cluster("a").replace("1s", "2s")])
        .unwrap();
    let old = harness.get("a").unwrap();
    harness.client.fail(
        &harness.source,
        ResourceKind::Endpoints,
        FetchFailure::ConnectionFailure,
    );
    assert!(
        Arc::ptr_eq(&old, &harness.get("a").unwrap()),
        "it is still waited for"
    );
    harness.client.fail(
        &harness.source,
        ResourceKind::Endpoints,
        FetchFailure::Timeout,
    );
    assert!(!Arc::ptr_eq(&old, &harness.get("a").unwrap()));
    assert_eq!(harness.ports("a"), [1]);
    assert_eq!(harness.stat("cluster.a.assignment_use_cached"), 1);
    assert!(
        harness.ports("new").is_empty(),
        "and one without any starts empty"
    );
    assert_eq!(harness.stat("cluster.new.init_fetch_timeout"), 1);
    drop(old);
    // When nobody asks for the name any more, nothing is kept.
    harness.deliver(ResourceKind::Cluster, &[], &["a"]).unwrap();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness.client.fail(
        &harness.source,
        ResourceKind::Endpoints,
        FetchFailure::Timeout,
    );
    assert!(harness.ports("a").is_empty());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn until_all_are_warm_endpoints_are_asked_for_when_primary_clusters_are_ready() {
    let harness = Harness::new();
    let slow = "{name: dns, type: STRICT_DNS, dns_lookup_family: V4_ONLY, load_assignment: {cluster_name: dns, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: localhost, port_value: 1}}}}]}]}}";
    harness
        .clusters(&[eds_cluster("a"), slow.to_owned()])
        .unwrap();
    assert!(harness.client.asked_for(ResourceKind::Endpoints).is_empty());
    harness.manager.primary_ready().await;
    assert_eq!(harness.client.asked_for(ResourceKind::Endpoints).len(), 1);
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    harness.manager.all_ready().await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_share_to_drop_comes_and_goes_with_the_assignment() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    let plain = assignment_text("a", &[(1, "")]);
    let dropping = format!(
        "{}, policy: {{drop_overloads: [{{category: x, drop_percentage: {{numerator: 25}}}}]}}}}",
        plain.strip_suffix('}').unwrap()
    );
    harness.endpoints(endpoints(&dropping)).unwrap();
    let workers = WorkerClusters::new(harness.manager.table().clone(), 0);
    let cluster = workers.get(harness.id("a")).unwrap();
    assert_eq!(cluster.drop_overload(), 250_000);
    harness.endpoints(endpoints(&plain)).unwrap();
    assert_eq!(cluster.drop_overload(), 0);
}

/// The memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// What 10,000 clusters with EDS cost, and what one change among them does. Run it alone:
/// `cargo test -p outrigger --lib -- --ignored --nocapture ten_thousand_clusters`.
#[tokio::test(flavor = "local")]
#[ignore = "it measures"]
async fn ten_thousand_clusters() {
    const COUNT: usize = 10_000;
    let harness = Harness::new();
    let name = |at: usize| format!("outbound|8080||service-{at}.namespace.svc.cluster.local");
    let address = |at: usize| -> u16 { u16::try_from(at % 60_000 + 1).unwrap() };
    let workers = WorkerClusters::new(harness.manager.table().clone(), 0);
    let clusters: Vec<_> = (0..COUNT)
        .map(|at| cluster(&eds_cluster(&name(at))))
        .collect();
    let assigned: Vec<_> = (0..COUNT)
        .map(|at| assignment(&name(at), &[(address(at), ""), (address(at + 1), "")]))
        .collect();
    let before = resident();
    let began = std::time::SystemTime::now();
    harness
        .deliver(ResourceKind::Cluster, &clusters, &[])
        .unwrap();
    let took_clusters = began.elapsed().unwrap();
    let after_clusters = resident();
    // Each alone, since the client of these tests looks through all who ask.
    let began = std::time::SystemTime::now();
    let watchers = harness.manager.watchers();
    for (watcher, sent) in watchers.iter().zip(&assigned) {
        let update = crate::xds::Update {
            version: &Arc::from("v1"),
            sent: std::slice::from_ref(sent),
            removed: &[],
        };
        watcher.on_update(&update).unwrap();
    }
    drop(watchers);
    let took_endpoints = began.elapsed().unwrap();
    harness.manager.all_ready().await;
    let after = resident();
    for at in 0..COUNT {
        assert!(workers.get(harness.id(&name(at))).is_some());
    }
    let touched = resident();
    let began = std::time::SystemTime::now();
    let first = harness.manager.watchers().swap_remove(0);
    for at in 0..1000 {
        let changed = assignment(&name(0), &[(address(at + 7), "")]);
        let update = crate::xds::Update {
            version: &Arc::from("v2"),
            sent: std::slice::from_ref(&changed),
            removed: &[],
        };
        first.on_update(&update).unwrap();
        workers.refresh();
    }
    let per_change = began.elapsed().unwrap() / 1000;
    let per = |bytes: u64| bytes / u64::try_from(COUNT).unwrap();
    println!(
        "clusters: {took_clusters:?}, endpoints: {took_endpoints:?}, a change: {per_change:?}"
    );
    println!(
        "bytes each: cluster {}, with endpoints {}, touched by a worker {}",
        per(after_clusters - before),
        per(after - before),
        per(touched - before)
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_cluster_that_a_request_needs_is_asked_for_and_waited_for() {
    let harness = Harness::new();
    let source = Arc::new(harness.source.clone());
    let find = |name: &str| {
        let clusters = &harness.server.on_demand_clusters;
        clusters.find(&source, name, Duration::from_secs(5))
    };
    let (first, second) = (find("a"), find("a"));
    let first = tokio::task::spawn_local(first);
    let second = tokio::task::spawn_local(second);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(
        harness.client.asked_for(ResourceKind::Cluster),
        [Arc::from("a")]
    );
    // It has to be warm.
    harness.clusters(&[eds_cluster("a")]).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert!(!first.is_finished());
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    first.await.unwrap();
    second.await.unwrap();
    // It is there already.
    find("a").await;
    // It does not come, or does not exist.
    let began = tokio::time::Instant::now();
    find("late").await;
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    let missing = tokio::task::spawn_local(find("missing"));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(harness.client.asked_for(ResourceKind::Cluster).len(), 2);
    harness
        .deliver(ResourceKind::Cluster, &[], &["missing"])
        .unwrap();
    sleep(Duration::from_millis(1)).await;
    assert!(missing.is_finished());
    assert_eq!(
        harness.client.asked_for(ResourceKind::Cluster),
        [Arc::from("a")]
    );
    assert!(harness.stat("cluster_manager.odcds.update_success") > 0);
}

/// A cluster with EDS whose hosts are checked at a port where nobody listens, and are not believed to be well otherwise.
fn checked_eds_cluster(name: &str, more: &str) -> String {
    format!(
        "{{name: {name}, type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}}}}}, connect_timeout: 1s, health_checks: [{{timeout: 1s, interval: 600s, no_traffic_interval: 600s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {{}}}}]{more}}}"
    )
}

#[tokio::test(flavor = "local")]
async fn a_cluster_with_health_checks_is_used_when_each_host_was_checked_once() {
    let harness = Harness::new();
    harness.clusters(&[checked_eds_cluster("a", "")]).unwrap();
    harness
        .endpoints(assignment("a", &[(9, ""), (10, "")]))
        .unwrap();
    assert!(harness.get("a").is_none(), "no host was checked");
    harness.manager.all_ready().await;
    let cluster = harness.get("a").unwrap();
    assert!(
        cluster
            .hosts
            .load()
            .hosts()
            .all(|host| { host.health.has(HealthFlag::FailedActiveHc) })
    );
    assert_eq!(harness.stat("cluster.a.membership_healthy"), 0);
    assert_eq!(harness.stat("cluster.a.health_check.network_failure"), 2);
}

#[tokio::test(flavor = "local")]
async fn a_host_that_is_taken_away_stays_while_its_health_checks_succeed() {
    for (more, stays) in [("", true), (", ignore_health_on_host_removal: true", false)] {
        let harness = Harness::new();
        harness.clusters(&[checked_eds_cluster("a", more)]).unwrap();
        harness
            .endpoints(assignment("a", &[(9, ""), (10, "")]))
            .unwrap();
        harness.manager.all_ready().await;
        let cluster = harness.get("a").unwrap();
        // As if both had been found well.
        let well = |port: u16| {
            let hosts = cluster.hosts.load();
            let host = hosts.hosts().find(|host| host.address.port() == Some(port));
            host.unwrap().clone()
        };
        for port in [9, 10] {
            well(port).health.clear(HealthFlag::FailedActiveHc);
        }
        let removed = well(10);
        harness.endpoints(assignment("a", &[(9, "")])).unwrap();
        assert_eq!(harness.ports("a").contains(&10), stays);
        assert_eq!(removed.health.has(HealthFlag::PendingDynamicRemoval), stays);
        if !stays {
            continue;
        }
        // It is assigned again: there is nothing left to wait for.
        harness
            .endpoints(assignment("a", &[(9, ""), (10, "")]))
            .unwrap();
        assert!(!removed.health.has(HealthFlag::PendingDynamicRemoval));
        assert!(Arc::ptr_eq(&removed, &well(10)));
        harness.endpoints(assignment("a", &[(9, "")])).unwrap();
        // With its health it loses its place.
        removed.health.set(HealthFlag::FailedActiveHc);
        discovery::remove_host(&cluster, removed.identity());
        assert_eq!(harness.ports("a"), [9]);
    }
}

#[tokio::test(flavor = "local")]
async fn a_host_whose_checks_go_elsewhere_is_a_new_one() {
    let harness = Harness::new();
    harness.clusters(&[checked_eds_cluster("a", "")]).unwrap();
    harness.endpoints(assignment("a", &[(9, "")])).unwrap();
    harness.manager.all_ready().await;
    let cluster = harness.get("a").unwrap();
    let only = || cluster.hosts.load().hosts().next().unwrap().clone();
    let first = only();
    first.health.clear(HealthFlag::FailedActiveHc);
    let elsewhere = endpoints(
        "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}, health_check_config: {port_value: 11}}}]}]}",
    );
    harness.endpoints(elsewhere).unwrap();
    let second = only();
    assert!(first.identity() != second.identity());
    assert!(second.health.has(HealthFlag::FailedActiveHc));
    assert_eq!(second.health_check_address().to_string(), "127.0.0.1:11");
}
