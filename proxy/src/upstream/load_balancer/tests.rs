use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::net::Address;
use crate::runtime::Runtime;
use tokio::time::Instant;

use crate::server::{LocalInfo, Random, ServerContext};
use crate::upstream::cluster::ClusterSettings;
use crate::upstream::host::{HealthFlag, HostStat, Locality};
use crate::upstream::priority_set::HostGroup;

struct Seeded {
    random: Random,
    avoid: Option<u16>,
    asked: Cell<u32>,
}

impl LoadBalancerContext for Seeded {
    fn random(&self) -> u64 {
        self.random.next()
    }
    fn should_select_another(&self, host: &Host) -> bool {
        self.asked.set(self.asked.get() + 1);
        host.address.port() == self.avoid
    }
    fn host_selection_retry_count(&self) -> u32 {
        5
    }
}

fn seeded() -> Seeded {
    Seeded {
        random: Random::new(7),
        avoid: None,
        asked: Cell::new(0),
    }
}

/// `port`, weight, and flags of its health.
type Endpoint = (u16, u32, u32);

const WELL: u32 = 0;
const ILL: u32 = HealthFlag::FailedActiveHc as u32;
const DEGRADED: u32 = HealthFlag::DegradedEdsHealth as u32;

fn group(priority: u32, zone: &str, weight: u32, endpoints: &[Endpoint]) -> HostGroup {
    let locality = Arc::new(Locality {
        zone: zone.into(),
        ..Locality::default()
    });
    let hosts = endpoints.iter().map(|(port, weight, health)| {
        let mut host = Host::new(Address::Ip(SocketAddr::from(([127, 0, 0, 1], *port))), 0);
        host.weight = *weight;
        host.priority = priority;
        host.locality = locality.clone();
        host.health.replace(*health);
        Arc::new(host)
    });
    HostGroup {
        hosts: hosts.collect(),
        locality: locality.clone(),
        weight,
        priority,
    }
}

fn balancer(settings: LoadBalancerSettings, groups: Vec<HostGroup>) -> WorkerLoadBalancer {
    let server = ServerContext::new(0, LocalInfo::default());
    let threshold = settings.healthy_panic_threshold.into();
    let settings = ClusterSettings {
        load_balancer: settings,
        ..ClusterSettings::default()
    };
    let info = ClusterInfo::new(&server, "a", Arc::new(settings));
    let threshold = Runtime::default().integer("", threshold);
    let mut balancer = WorkerLoadBalancer::new(Arc::new(info), threshold);
    balancer.update(&PrioritySet::new(groups.into_iter(), 140, false), 0);
    balancer
}

fn settings(policy: Policy) -> LoadBalancerSettings {
    LoadBalancerSettings {
        policy,
        ..LoadBalancerSettings::default()
    }
}

fn least_request() -> Policy {
    Policy::LeastRequest {
        choice_count: 2,
        active_request_bias: 1.0,
        full_scan: false,
    }
}

/// How often each port was chosen in `n` choices.
fn draw(balancer: &mut WorkerLoadBalancer, n: u32) -> BTreeMap<u16, u32> {
    let cx = seeded();
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        if let Some(host) = balancer.choose_host(&cx) {
            *counts.entry(host.address.port().unwrap()).or_insert(0) += 1;
        }
    }
    counts
}

fn assert_near(counts: &BTreeMap<u16, u32>, expected: &[(u16, u32)], tolerance: u32) {
    assert_eq!(counts.len(), expected.len(), "{counts:?}");
    for (port, expected) in expected {
        let found = counts[port];
        assert!(
            found.abs_diff(*expected) <= tolerance,
            "{counts:?}: {port} is not near {expected}"
        );
    }
}

#[test]
fn round_robin_gives_each_host_its_turn() {
    let hosts = [(1, 1, WELL), (2, 1, WELL), (3, 1, WELL)];
    let mut balancer = balancer(settings(Policy::RoundRobin), vec![group(0, "", 0, &hosts)]);
    assert_near(
        &draw(&mut balancer, 300),
        &[(1, 100), (2, 100), (3, 100)],
        0,
    );
}

#[test]
fn round_robin_follows_weights_and_spreads_them() {
    let hosts = [(1, 1, WELL), (2, 3, WELL)];
    let mut balancer = balancer(settings(Policy::RoundRobin), vec![group(0, "", 0, &hosts)]);
    assert_near(&draw(&mut balancer, 400), &[(1, 100), (2, 300)], 1);
    assert_near(&draw(&mut balancer, 4), &[(1, 1), (2, 3)], 0);
}

#[test]
fn random_knows_no_weights() {
    let hosts = [(1, 1, WELL), (2, 9, WELL)];
    let mut balancer = balancer(settings(Policy::Random), vec![group(0, "", 0, &hosts)]);
    assert_near(&draw(&mut balancer, 10_000), &[(1, 5000), (2, 5000)], 200);
}

#[test]
fn least_request_prefers_the_host_with_fewer_requests() {
    let hosts = [(1, 1, WELL), (2, 1, WELL)];
    let mut balancer = balancer(settings(least_request()), vec![group(0, "", 0, &hosts)]);
    let busy = balancer
        .hosts()
        .find(|h| h.address.port() == Some(1))
        .unwrap()
        .clone();
    busy.count(HostStat::RqActive);
    // The busy one is chosen only when both draws hit it.
    assert_near(&draw(&mut balancer, 10_000), &[(1, 2500), (2, 7500)], 200);
}

#[test]
fn a_full_scan_finds_the_least_busy_host_of_all() {
    let hosts: Vec<_> = (1..=10).map(|port| (port, 1, WELL)).collect();
    let policy = Policy::LeastRequest {
        choice_count: 2,
        active_request_bias: 1.0,
        full_scan: true,
    };
    let mut balancer = balancer(settings(policy), vec![group(0, "", 0, &hosts)]);
    for host in balancer.hosts().filter(|h| h.address.port() != Some(7)) {
        host.count(HostStat::RqActive);
    }
    assert_near(&draw(&mut balancer, 50), &[(7, 50)], 0);
}

#[test]
fn weighted_least_request_lessens_the_weight_of_a_busy_host() {
    let hosts = [(1, 2, WELL), (2, 1, WELL)];
    let mut balancer = balancer(settings(least_request()), vec![group(0, "", 0, &hosts)]);
    let heavy = balancer.hosts().find(|h| h.weight == 2).unwrap().clone();
    assert_near(&draw(&mut balancer, 300), &[(1, 200), (2, 100)], 2);
    (0..3).for_each(|_| heavy.count(HostStat::RqActive));
    // 2 / (3 + 1) against 1.
    assert_near(&draw(&mut balancer, 300), &[(1, 100), (2, 200)], 3);
}

#[test]
fn a_lower_priority_takes_what_the_higher_cannot() {
    let first = [(1, 1, WELL), (2, 1, ILL), (3, 1, WELL), (4, 1, ILL)];
    let groups = vec![group(0, "", 0, &first), group(1, "", 0, &[(9, 1, WELL)])];
    let mut balancer = balancer(settings(Policy::RoundRobin), groups);
    // 2 of 4 hosts at 140 % are 70 % of the load.
    assert_near(
        &draw(&mut balancer, 10_000),
        &[(1, 3500), (3, 3500), (9, 3000)],
        200,
    );
}

#[test]
fn overprovisioning_keeps_the_first_priority_alone_while_few_hosts_are_missing() {
    let first = [(1, 1, WELL), (2, 1, WELL), (3, 1, WELL), (4, 1, ILL)];
    let groups = vec![group(0, "", 0, &first), group(1, "", 0, &[(9, 1, WELL)])];
    let mut balancer = balancer(settings(Policy::RoundRobin), groups);
    assert_near(
        &draw(&mut balancer, 300),
        &[(1, 100), (2, 100), (3, 100)],
        0,
    );
}

#[test]
fn too_few_healthy_hosts_mean_panic_and_all_hosts_are_used() {
    let hosts = [(1, 1, WELL), (2, 1, ILL), (3, 1, ILL)];
    let mut balancer = balancer(settings(Policy::RoundRobin), vec![group(0, "", 0, &hosts)]);
    assert_near(
        &draw(&mut balancer, 300),
        &[(1, 100), (2, 100), (3, 100)],
        0,
    );
    assert_eq!(balancer.info.update_stats.lb_healthy_panic().value(), 300);
}

#[test]
fn without_a_threshold_there_is_no_panic() {
    let hosts = [(1, 1, WELL), (2, 1, ILL), (3, 1, ILL)];
    let no_panic = LoadBalancerSettings {
        healthy_panic_threshold: 0,
        ..LoadBalancerSettings::default()
    };
    let mut some_well = balancer(no_panic.clone(), vec![group(0, "", 0, &hosts)]);
    assert_near(&draw(&mut some_well, 30), &[(1, 30)], 0);
    let mut none_well = balancer(no_panic, vec![group(0, "", 0, &[(1, 1, ILL)])]);
    assert!(draw(&mut none_well, 30).is_empty());
}

#[test]
fn fail_traffic_on_panic_chooses_nothing_then() {
    let fail = LoadBalancerSettings {
        fail_traffic_on_panic: true,
        ..LoadBalancerSettings::default()
    };
    let mut balancer = balancer(fail, vec![group(0, "", 0, &[(1, 1, ILL)])]);
    assert!(draw(&mut balancer, 3).is_empty());
}

#[test]
fn in_total_panic_priorities_share_by_their_size() {
    let groups = vec![
        group(0, "", 0, &[(1, 1, ILL)]),
        group(1, "", 0, &[(2, 1, ILL), (3, 1, ILL), (4, 1, ILL)]),
    ];
    let mut balancer = balancer(settings(Policy::RoundRobin), groups);
    assert_near(
        &draw(&mut balancer, 10_000),
        &[(1, 2500), (2, 2500), (3, 2500), (4, 2500)],
        200,
    );
}

#[test]
fn degraded_hosts_take_what_healthy_ones_cannot() {
    let hosts = [
        (1, 1, WELL),
        (2, 1, DEGRADED),
        (3, 1, DEGRADED),
        (4, 1, DEGRADED),
    ];
    let mut balancer = balancer(settings(Policy::RoundRobin), vec![group(0, "", 0, &hosts)]);
    // 25 % healthy at 140 % are 35 %; the others share the rest.
    assert_near(
        &draw(&mut balancer, 10_000),
        &[(1, 3500), (2, 2167), (3, 2167), (4, 2166)],
        200,
    );
}

#[test]
fn weighted_localities_get_their_share_whatever_their_size() {
    let weighted = LoadBalancerSettings {
        locality_weighted: true,
        ..LoadBalancerSettings::default()
    };
    let groups = vec![
        group(0, "a", 80, &[(1, 1, WELL)]),
        group(0, "b", 20, &[(2, 1, WELL), (3, 1, WELL)]),
        group(0, "c", 0, &[(4, 1, WELL)]),
    ];
    let mut balancer = balancer(weighted, groups);
    assert_near(
        &draw(&mut balancer, 1000),
        &[(1, 800), (2, 100), (3, 100)],
        2,
    );
}

#[test]
fn a_locality_that_lost_hosts_gets_less() {
    let weighted = LoadBalancerSettings {
        locality_weighted: true,
        ..LoadBalancerSettings::default()
    };
    let groups = vec![
        group(0, "a", 1, &[(1, 1, WELL), (2, 1, ILL)]),
        group(0, "b", 1, &[(3, 1, WELL), (4, 1, WELL)]),
    ];
    let mut balancer = balancer(weighted, groups);
    // 0.5 * 1.4 against 1.
    assert_near(
        &draw(&mut balancer, 1700),
        &[(1, 700), (3, 500), (4, 500)],
        3,
    );
}

#[test]
fn a_host_that_is_passed_over_is_tried_again_until_the_attempts_end() {
    let mut one = balancer(
        settings(Policy::RoundRobin),
        vec![group(0, "", 0, &[(1, 1, WELL)])],
    );
    let cx = Seeded {
        avoid: Some(1),
        ..seeded()
    };
    assert!(one.choose_host(&cx).is_some());
    assert_eq!(cx.asked.get(), 5);
    let hosts = [(1, 1, WELL), (2, 1, WELL)];
    let mut two = balancer(settings(Policy::RoundRobin), vec![group(0, "", 0, &hosts)]);
    for _ in 0..10 {
        assert_eq!(two.choose_host(&cx).unwrap().address.port(), Some(2));
    }
}

#[test]
fn an_update_keeps_hosts_that_stay_and_gives_back_those_that_go() {
    let first = group(0, "", 0, &[(1, 1, WELL), (2, 1, WELL)]);
    let stays = first.hosts[0].clone();
    let mut balancer = balancer(settings(Policy::RoundRobin), vec![first]);
    let known = balancer
        .hosts()
        .find(|h| Arc::ptr_eq(h.shared(), &stays))
        .unwrap()
        .clone();
    let mut second = group(0, "", 0, &[(3, 1, WELL)]);
    second.hosts.push(stays);
    let gone = balancer.update(&PrioritySet::new([second].into_iter(), 140, false), 0);
    assert_eq!(
        gone.iter().map(|h| h.address.port()).collect::<Vec<_>>(),
        [Some(2)]
    );
    assert!(balancer.hosts().any(|host| Rc::ptr_eq(host, &known)));
    assert_eq!(balancer.hosts().count(), 2);
}

#[test]
fn no_hosts_are_no_choice() {
    let mut none = balancer(settings(Policy::RoundRobin), vec![]);
    assert!(draw(&mut none, 1).is_empty());
    let mut empty = balancer(settings(least_request()), vec![group(0, "", 0, &[])]);
    assert!(draw(&mut empty, 1).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_host_gets_its_share_little_by_little() {
    let settings = LoadBalancerSettings {
        slow_start: Some(SlowStart {
            window: Duration::from_secs(10),
            aggression: 1.0,
            min_weight: 0.1,
        }),
        ..settings(Policy::RoundRobin)
    };
    let old = group(0, "", 0, &[(1, 1, WELL)]);
    let host = old.hosts[0].clone();
    // As main does when it takes hosts over.
    host.note_first_seen(Instant::now());
    let mut balancer = balancer(settings, vec![old]);
    tokio::time::advance(Duration::from_secs(60)).await;
    let mut both = group(0, "", 0, &[(2, 1, WELL)]);
    both.hosts.insert(0, host);
    let now = Instant::now();
    both.hosts.iter().for_each(|host| host.note_first_seen(now));
    balancer.update(&PrioritySet::new([both].into_iter(), 140, false), 0);
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_near(&draw(&mut balancer, 1100), &[(1, 1000), (2, 100)], 3);
    tokio::time::advance(Duration::from_millis(4500)).await;
    assert_near(&draw(&mut balancer, 1500), &[(1, 1000), (2, 500)], 10);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_near(&draw(&mut balancer, 1000), &[(1, 500), (2, 500)], 3);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_recovers_starts_slowly_again() {
    let slow = SlowStart {
        window: Duration::from_secs(10),
        aggression: 2.0,
        min_weight: 0.0,
    };
    let host = group(0, "", 0, &[(1, 4, WELL)]).hosts[0].clone();
    let on_worker = WorkerHost::new(host.clone());
    let share = |on_worker: &WorkerHost| slow.apply(4.0, on_worker, Instant::now());
    host.note_first_seen(Instant::now());
    on_worker.note_health();
    tokio::time::advance(Duration::from_millis(2500)).await;
    // The square root of a quarter.
    assert_eq!(share(&on_worker), 2.0);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(share(&on_worker), 4.0);
    host.health.set(HealthFlag::FailedActiveHc);
    on_worker.note_health();
    assert_eq!(share(&on_worker), 4.0);
    host.health.clear(HealthFlag::FailedActiveHc);
    host.note_pass(Instant::now());
    on_worker.note_health();
    tokio::time::advance(Duration::from_millis(2500)).await;
    assert_eq!(share(&on_worker), 2.0);
}

/// The balancer of one priority of hosts that are watched, with the set that it was made of.
fn watched(
    settings: LoadBalancerSettings,
    groups: Vec<HostGroup>,
) -> (WorkerLoadBalancer, PrioritySet) {
    let mut balancer = balancer(settings, Vec::new());
    let mut set = PrioritySet::new(groups.into_iter(), 140, false);
    set.places = set.find_places();
    balancer.update(&set, 0);
    (balancer, set)
}

#[test]
fn a_change_of_one_host_leaves_a_balancer_as_one_that_is_built_anew() {
    let policies = [Policy::RoundRobin, Policy::Random, least_request()];
    for (policy, weight) in policies
        .iter()
        .flat_map(|policy| [(policy, 1), (policy, 3)])
    {
        let groups = || {
            vec![
                group(
                    0,
                    "a",
                    1,
                    &[(1, 1, WELL), (2, weight, WELL), (3, 1, DEGRADED)],
                ),
                group(0, "b", 1, &[(4, 1, WELL), (5, 1, ILL)]),
                group(1, "a", 1, &[(6, 1, WELL), (7, 1, WELL)]),
            ]
        };
        for weighted in [false, true] {
            let settings = LoadBalancerSettings {
                locality_weighted: weighted,
                ..settings(policy.clone())
            };
            let (mut followed, set) = watched(settings.clone(), groups());
            let random = Random::new(3);
            let hosts: Vec<Arc<Host>> = set.hosts().cloned().collect();
            for _ in 0..200 {
                let host = &hosts[usize::try_from(random.next() % 7).unwrap()];
                let flags = [WELL, ILL, DEGRADED, HealthFlag::EdsStatusDraining as u32];
                host.health
                    .replace(flags[usize::try_from(random.next() % 4).unwrap()]);
                followed.health_changed(&set, [host.identity()].into_iter());
                let mut anew = balancer(settings.clone(), Vec::new());
                anew.update(&set, 0);
                let reach = |balancer: &mut WorkerLoadBalancer| -> Vec<u16> {
                    draw(balancer, 300).into_keys().collect()
                };
                assert_eq!(
                    reach(&mut followed),
                    reach(&mut anew),
                    "{policy:?} {weighted}"
                );
            }
        }
    }
}

#[test]
fn round_robin_goes_on_where_it_was_when_a_host_comes_or_goes() {
    let groups = vec![group(
        0,
        "a",
        1,
        &[(1, 1, WELL), (2, 1, WELL), (3, 1, WELL), (4, 1, WELL)],
    )];
    let (mut balancer, set) = watched(settings(Policy::RoundRobin), groups);
    let cx = seeded();
    let next = |balancer: &mut WorkerLoadBalancer| {
        let host = balancer.choose_host(&cx).unwrap();
        host.address.port().unwrap()
    };
    let first = next(&mut balancer);
    let turn = |by: u16| (first - 1 + by) % 4 + 1;
    assert_eq!(next(&mut balancer), turn(1));
    // The one whose turn it was goes: the next one is next.
    let gone = set
        .hosts()
        .find(|host| host.address.port() == Some(turn(1)));
    let gone = gone.unwrap().clone();
    gone.health.set(HealthFlag::FailedActiveHc);
    balancer.health_changed(&set, [gone.identity()].into_iter());
    assert_eq!(next(&mut balancer), turn(2));
    gone.health.clear(HealthFlag::FailedActiveHc);
    balancer.health_changed(&set, [gone.identity()].into_iter());
    assert_eq!(next(&mut balancer), turn(3));
    assert_eq!(next(&mut balancer), turn(4));
    assert_eq!(next(&mut balancer), turn(5));
}

/// A balancer of these groups of hosts for a proxy in the zone `a`, whose cluster has these hosts.
fn in_zone_a(mode: ZoneAware, groups: Vec<HostGroup>, local: Vec<HostGroup>) -> WorkerLoadBalancer {
    let runtime = Runtime::default();
    let share = crate::config::Fraction {
        numerator: mode.routing_enabled,
        denominator: 100,
    };
    let routing = ZoneRouting {
        settings: mode,
        enabled: runtime.fraction("", share),
        min_cluster_size: runtime.integer("", mode.min_cluster_size),
        here: Locality {
            zone: "a".into(),
            ..Locality::default()
        },
    };
    let mut balancer = balancer(settings(Policy::RoundRobin), groups);
    let local = PrioritySet::new(local.into_iter(), 140, false);
    balancer.set_local_hosts(&Arc::new(routing), Arc::new(local));
    balancer
}

fn well(ports: std::ops::Range<u16>) -> Vec<Endpoint> {
    ports.map(|port| (port, 1, WELL)).collect()
}

fn zones(a: std::ops::Range<u16>, b: std::ops::Range<u16>) -> Vec<HostGroup> {
    vec![group(0, "b", 0, &well(b)), group(0, "a", 0, &well(a))]
}

/// The share of choices, in percent, that stays in the zone `a`, whose ports are below 100.
fn share_of_a(balancer: &mut WorkerLoadBalancer) -> u32 {
    let drawn = draw(balancer, 10_000);
    let here: u32 = drawn
        .iter()
        .filter(|(port, _)| **port < 100)
        .map(|(_, n)| n)
        .sum();
    (here + 50) / 100
}

#[test]
fn requests_stay_in_their_zone_where_it_has_its_share_of_hosts() {
    let even = ZoneAware::default();
    let mut direct = in_zone_a(even, zones(1..4, 100..103), zones(1..2, 100..101));
    assert_eq!(share_of_a(&mut direct), 100);
    let stats = &direct.info.update_stats;
    assert!(stats.lb_zone_routing_all_directly().value() > 0);
    // Half of the proxies are here, and a quarter of the hosts: half of the requests must go.
    let mut residual = in_zone_a(even, zones(1..3, 100..106), zones(1..2, 100..101));
    assert!((48..=52).contains(&share_of_a(&mut residual)));
    let stats = &residual.info.update_stats;
    assert!(stats.lb_zone_routing_sampled().value() > 4_000);
    assert!(stats.lb_zone_routing_cross_zone().value() > 4_000);
}

#[test]
fn zones_do_not_matter_for_few_hosts_one_zone_or_a_local_cluster_that_is_not_well() {
    let few = ZoneAware::default();
    let mut small = in_zone_a(few, zones(1..3, 100..102), zones(1..2, 100..101));
    assert!((49..=51).contains(&share_of_a(&mut small)));
    assert!(small.info.update_stats.lb_zone_cluster_too_small().value() > 0);
    let alone = vec![group(0, "a", 0, &well(1..3))];
    let mut alone = in_zone_a(few, zones(1..4, 100..103), alone);
    assert!((49..=51).contains(&share_of_a(&mut alone)));
    let ill = vec![
        group(0, "a", 0, &[(1, 1, WELL), (2, 1, ILL), (3, 1, ILL)]),
        group(0, "b", 0, &[(100, 1, ILL)]),
    ];
    let mut ill = in_zone_a(few, zones(1..4, 100..103), ill);
    assert!((49..=51).contains(&share_of_a(&mut ill)));
    assert!(ill.info.update_stats.lb_local_cluster_not_ok().value() > 0);
}

#[test]
fn a_share_of_requests_and_a_size_that_keeps_all_of_them_are_configured() {
    let half = ZoneAware {
        routing_enabled: 50,
        ..ZoneAware::default()
    };
    let mut half = in_zone_a(half, zones(1..4, 100..103), zones(1..2, 100..101));
    assert!((73..=77).contains(&share_of_a(&mut half)));
    let forced = ZoneAware {
        force_local_zone: Some(2),
        ..ZoneAware::default()
    };
    let mut forced = in_zone_a(forced, zones(1..3, 100..106), zones(1..2, 100..101));
    assert_eq!(share_of_a(&mut forced), 100);
}

#[test]
fn zones_follow_the_health_of_hosts() {
    let mut groups = zones(1..4, 100..104);
    for host in groups.iter().flat_map(|group| &group.hosts) {
        host.health.replace(WELL);
    }
    let hosts: Vec<Arc<Host>> = groups
        .iter()
        .flat_map(|group| group.hosts.clone())
        .collect();
    let mut set = PrioritySet::new(groups.drain(..), 140, false);
    set.places = set.find_places();
    let mut balancer = in_zone_a(ZoneAware::default(), Vec::new(), zones(1..4, 100..104));
    balancer.update(&set, 0);
    assert_eq!(share_of_a(&mut balancer), 100);
    let first = hosts
        .iter()
        .find(|host| host.address.port() == Some(1))
        .unwrap();
    first.health.replace(ILL);
    balancer.health_changed(&set, [first.identity()].into_iter());
    // A third of the hosts that are left, and three sevenths of the proxies.
    assert!((76..=80).contains(&share_of_a(&mut balancer)));
}
