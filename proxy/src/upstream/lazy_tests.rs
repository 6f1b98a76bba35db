//! Clusters that no stream has touched yet.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;

use super::dynamic_tests::{
    Harness, assignment, assignment_text, eds_cluster, endpoints, static_cluster,
};
use super::*;
use crate::stats::Kind;
use crate::xds::{Refused, Resource as XdsResource, ResourceKind};

/// One thing that a control plane does.
enum Step {
    Cluster(String),
    Endpoints(XdsResource),
    Remove(ResourceKind),
    Wait(u64),
}

/// Everything that is counted: by name, the value (of a histogram, how many), whether it is used.
fn counted(harness: &Harness) -> BTreeMap<String, (u64, bool)> {
    harness.server.stats.flush();
    let mut all = BTreeMap::new();
    for group in harness.server.stats.groups() {
        for index in 0..group.len() {
            let (last, kind) = group.stat(index);
            let (value, used) = match kind {
                Kind::Counter => {
                    let counter = group.counter(index);
                    (counter.value(), counter.is_used())
                }
                Kind::Gauge => {
                    let gauge = group.gauge(index);
                    (gauge.value(), gauge.is_used())
                }
                Kind::Histogram(_) => {
                    let flushed = group.flushed(index).unwrap_or_default();
                    let used = group.histogram(index).is_used();
                    (flushed.cumulative.count(), used)
                }
            };
            let name = format!("{}{last}", group.prefix());
            // The time of day, and how long things took, differ.
            let value = if name.contains("time") { 0 } else { value };
            let known = all.insert(name.clone(), (value, used));
            assert!(known.is_none(), "{name} is there twice");
        }
    }
    all
}

fn texts(harness: &Harness) -> Vec<(String, String)> {
    let texts = harness.server.stats.texts().into_iter();
    let mut texts: Vec<_> = texts.map(|(name, text)| (name.to_string(), text)).collect();
    texts.sort();
    texts
}

async fn play(harness: &Harness, step: &Step) -> Result<(), Vec<Refused>> {
    match step {
        Step::Cluster(yaml) => harness.clusters(std::slice::from_ref(yaml)),
        Step::Endpoints(resource) => {
            let sent = std::slice::from_ref(resource);
            harness.deliver(ResourceKind::Endpoints, sent, &[])
        }
        Step::Remove(kind) => harness.deliver(*kind, &[], &["a"]),
        Step::Wait(seconds) => {
            sleep(Duration::from_secs(*seconds)).await;
            Ok(())
        }
    }
}

/// The same with and without somebody who touches the cluster after each step.
async fn looks_the_same(steps: &[Step]) {
    let (cold, touched) = (Harness::new(), Harness::new());
    for (at, step) in steps.iter().enumerate() {
        let results = (play(&cold, step).await, play(&touched, step).await);
        assert_eq!(results.0, results.1, "step {at}");
        let _ = touched.get("a");
        let (left, right) = (counted(&cold), counted(&touched));
        let names = left.keys().chain(right.keys());
        for name in names {
            assert_eq!(left.get(name), right.get(name), "{name} after step {at}");
        }
        assert_eq!(texts(&cold), texts(&touched), "after step {at}");
        assert_eq!(cold.manager.status(), touched.manager.status());
        assert_eq!(
            cold.manager.endpoints_dump(),
            touched.manager.endpoints_dump()
        );
    }
    assert!(!cold.server.stats.has_prefix("cluster.a."));
    // The first stream comes: nothing is lost of what was counted.
    let before = counted(&cold);
    let _ = cold.get("a");
    let after = counted(&cold);
    for (name, before) in &before {
        assert_eq!(after.get(name), Some(before), "{name}");
    }
    assert_eq!(texts(&cold), texts(&touched));
}

fn with(yaml: &str, more: &str) -> String {
    format!("{}, {more}}}", yaml.strip_suffix('}').unwrap())
}

fn with_policy(ports: &[(u16, &str)], policy: &str) -> XdsResource {
    endpoints(&with(
        &assignment_text("a", ports),
        &format!("policy: {{{policy}}}"),
    ))
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_is_shown_of_a_cluster_does_not_tell_whether_a_stream_has_touched_it() {
    let second = "priority: 1, lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}}}]";
    let two_priorities =
        assignment_text("a", &[(1, "")]).replace("}]}]}", &format!("}}]}}, {{{second}}}]}}"));
    looks_the_same(&[
        Step::Cluster(eds_cluster("a")),
        Step::Endpoints(assignment("a", &[(1, ""), (2, "")])),
        Step::Endpoints(assignment("a", &[(1, ""), (2, "")])),
        Step::Endpoints(assignment("a", &[(2, ""), (1, "")])),
        Step::Endpoints(assignment("b", &[(2, "")])),
        Step::Endpoints(assignment(
            "a",
            &[(2, ", load_balancing_weight: 9"), (1, ", health_status: DEGRADED"), (7, "")],
        )),
        Step::Endpoints(endpoints(&two_priorities)),
        Step::Endpoints(assignment("a", &[(1, ", health_status: DRAINING")])),
        Step::Endpoints(with_policy(
            &[(1, "")],
            "overprovisioning_factor: 200, drop_overloads: [{category: x, drop_percentage: {numerator: 25}}]",
        )),
        Step::Endpoints(with_policy(&[(3, "")], "endpoint_stale_after: 5s")),
        Step::Wait(10),
        Step::Endpoints(assignment("a", &[(4, "")])),
        Step::Remove(ResourceKind::Endpoints),
    ])
    .await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn clusters_of_every_kind_look_the_same_untouched() {
    for more in [
        "alt_stat_name: other",
        "lb_policy: RING_HASH",
        "lb_policy: MAGLEV",
        "track_cluster_stats: {timeout_budgets: true, request_response_sizes: true}",
        "metadata: {filter_metadata: {x: {y: z}}}",
        "circuit_breakers: {thresholds: [{max_connections: 3, track_remaining: true}]}",
    ] {
        looks_the_same(&[
            Step::Cluster(with(&eds_cluster("a"), more)),
            Step::Endpoints(assignment("a", &[(1, ""), (2, "")])),
            Step::Endpoints(assignment("a", &[(2, "")])),
        ])
        .await;
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn hosts_of_an_untouched_cluster_find_their_transport_sockets() {
    let raw = "{name: raw, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}";
    let more = format!(
        "transport_socket_matches: [{{name: m, match: {{x: y}}, transport_socket: {raw}}}]"
    );
    let matched = ", metadata: {filter_metadata: {envoy.transport_socket_match: {x: y}}}";
    looks_the_same(&[
        Step::Cluster(with(&eds_cluster("a"), &more)),
        Step::Endpoints(assignment("a", &[(1, matched), (2, "")])),
        Step::Endpoints(assignment("a", &[(1, matched), (2, ""), (3, matched)])),
        Step::Endpoints(assignment("a", &[(4, "")])),
    ])
    .await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_new_version_of_an_untouched_cluster_counts_on() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    for port in 1..4 {
        let sent = [assignment("a", &[(port, "")])];
        harness
            .deliver(ResourceKind::Endpoints, &sent, &[])
            .unwrap();
    }
    assert_eq!(harness.stat("cluster.a.update_success"), 3);
    let newer = eds_cluster("a").replace("1s", "2s");
    harness.clusters(&[newer]).unwrap();
    assert_eq!(harness.manager.warming_clusters().len(), 1);
    assert_eq!(harness.stat("cluster.a.warming_state"), 1);
    // Both versions hear of it.
    let sent = [assignment("a", &[(9, "")])];
    harness
        .deliver(ResourceKind::Endpoints, &sent, &[])
        .unwrap();
    assert!(harness.manager.warming_clusters().is_empty());
    assert_eq!(harness.stat("cluster.a.warming_state"), 0);
    assert_eq!(harness.stat("cluster.a.update_success"), 5);
    assert!(!harness.server.stats.has_prefix("cluster.a."));
    let cluster = harness.get("a").unwrap();
    assert_eq!(cluster.info.settings.connect_timeout.as_secs(), 2);
    assert_eq!(cluster.info.update_stats.update_success().value(), 5);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_cluster_is_made_once_for_all_workers_and_its_next_version_at_once() {
    let harness = Harness::new();
    let named = with(
        &eds_cluster("a"),
        "metadata: {filter_metadata: {x: {y: z}}}",
    );
    harness.clusters(std::slice::from_ref(&named)).unwrap();
    let sent = [assignment("a", &[(1, "")])];
    harness
        .deliver(ResourceKind::Endpoints, &sent, &[])
        .unwrap();
    let (table, id) = (harness.manager.table().clone(), harness.id("a"));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let table = table.clone();
            std::thread::spawn(move || table.get(id).unwrap())
        })
        .collect();
    let made: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(
        made.iter()
            .all(|cluster| std::sync::Arc::ptr_eq(cluster, &made[0]))
    );
    assert!(made[0].info.metadata.get("x").is_some());
    assert_eq!(made[0].hosts.load().hosts().count(), 1);
    assert_eq!(made[0].info.update_stats.update_success().value(), 1);
    // What comes now goes to what is made.
    let sent = [assignment("a", &[(1, ""), (2, "")])];
    harness
        .deliver(ResourceKind::Endpoints, &sent, &[])
        .unwrap();
    assert_eq!(made[0].hosts.load().hosts().count(), 2);
    harness.clusters(&[named.replace("1s", "2s")]).unwrap();
    let sent = [assignment("a", &[(3, "")])];
    harness
        .deliver(ResourceKind::Endpoints, &sent, &[])
        .unwrap();
    let next = harness.manager.table().find(id).unwrap();
    assert!(next.get_if_made().is_some());
    assert_eq!(harness.stat("cluster.a.update_success"), 4);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn stats_that_several_clusters_share_are_there_once() {
    let harness = Harness::new();
    let shared = |name: &str| with(&eds_cluster(name), "alt_stat_name: shared");
    harness.clusters(&[shared("a"), shared("b")]).unwrap();
    for name in ["a", "b"] {
        let sent = [assignment(name, &[(1, "")])];
        harness
            .deliver(ResourceKind::Endpoints, &sent, &[])
            .unwrap();
    }
    assert_eq!(harness.stat("cluster.shared.update_success"), 2);
    assert_eq!(
        counted(&harness)["cluster.shared.update_success"],
        (2, true)
    );
    let _ = harness.get("a");
    assert_eq!(
        counted(&harness)["cluster.shared.update_success"],
        (2, true)
    );
    assert!(
        texts(&harness)
            .iter()
            .any(|(name, _)| name == "cluster.shared.version_text")
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn only_counters_are_set_back_and_nothing_is_made_for_it() {
    let harness = Harness::new();
    harness
        .clusters(&[eds_cluster("a"), static_cluster("b", 1)])
        .unwrap();
    let sent = [assignment("a", &[(1, ""), (2, "")])];
    harness
        .deliver(ResourceKind::Endpoints, &sent, &[])
        .unwrap();
    harness.server.stats.reset_counters();
    for (stat, expected) in [
        ("cluster.a.update_success", 0),
        ("cluster.a.membership_change", 0),
        ("cluster.a.membership_total", 2),
        ("cluster.b.membership_change", 0),
        ("cluster.b.membership_total", 1),
    ] {
        assert_eq!(harness.stat(stat), expected, "{stat}");
    }
    assert!(!harness.server.stats.has_prefix("cluster.a."));
    assert!(harness.server.stats.has_prefix("cluster.b."));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn many_slow_updates_are_not_lost() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    let id = harness.id("a");
    let sent = [assignment("a", &[(1, "")])];
    harness
        .deliver(ResourceKind::Endpoints, &sent, &[])
        .unwrap();
    let lazy = harness.manager.table().find(id).unwrap();
    let version = "v".into();
    for _ in 0..100 {
        lazy.count(lazy_cluster::EdsEvent::Taken {
            version: &version,
            took: Duration::from_millis(7),
        });
    }
    let flushed = counted(&harness);
    assert_eq!(flushed["cluster.a.update_success"].0, 101);
    let groups = harness.server.stats.groups();
    let recorded: u64 = groups
        .iter()
        .filter(|group| group.prefix() == "cluster.a.")
        .flat_map(|group| (0..group.len()).map(move |index| (group, index)))
        .filter(|(group, index)| group.stat(*index).0 == "update_duration")
        .map(|(group, index)| group.histogram(index).snapshot().count())
        .sum();
    assert_eq!(recorded, 101);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn nothing_outlives_its_server() {
    for steps in 0..4 {
        let harness = Harness::new();
        let mut lazy = None;
        if steps > 0 {
            harness
                .clusters(&[eds_cluster("a"), static_cluster("b", 1)])
                .unwrap();
        }
        if steps > 1 {
            let sent = [assignment("a", &[(1, "")])];
            harness
                .deliver(ResourceKind::Endpoints, &sent, &[])
                .unwrap();
            let cluster = harness.manager.table().find(harness.id("a")).unwrap();
            lazy = Some(std::sync::Arc::downgrade(&cluster));
        }
        if steps > 2 {
            let _ = harness.get("a");
        }
        let server = std::sync::Arc::downgrade(&harness.server);
        drop(harness);
        assert_eq!(server.strong_count(), 0, "after {steps} steps");
        assert!(lazy.is_none_or(|lazy| lazy.strong_count() == 0));
    }
}
