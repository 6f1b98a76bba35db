//! Health checks of hosts that are tasks of the test, under its clock.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;
use tokio::time::{Instant, advance, sleep};

use super::HealthChecker;
use crate::LocalBoxFuture;
use crate::config::{ConfigPath, ConfigReport};
use crate::net::Address;
use crate::server::{LocalInfo, Random, ServerContext};
use crate::upstream::host::{HealthFlag, Host};
use crate::upstream::host_health::HealthPublisher;
use crate::upstream::pool::{ConnectError, Connected, Connector, SocketSettings};
use crate::upstream::priority_set::HostGroup;
use crate::upstream::{Cluster, ClusterConfig, ClusterInfo, Health, PrioritySet};

/// How a host treats its next connection or request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Refuse,
    Answer(u16),
    /// Closes instead of answering.
    Close,
    Silence,
    /// Bytes, whatever was asked.
    Say(&'static str),
}

#[derive(Debug, Default)]
pub(super) struct Hosts {
    turns: RefCell<VecDeque<Turn>>,
    last: Cell<Option<Turn>>,
    pub(super) connections: Cell<usize>,
    /// When requests came.
    asked: RefCell<Vec<Instant>>,
    /// What came with a turn to say something.
    pub(super) heard: RefCell<String>,
}

impl Hosts {
    fn next(&self) -> Turn {
        let next = self.turns.borrow_mut().pop_front();
        let turn = next.or(self.last.get()).unwrap_or(Turn::Answer(200));
        self.last.set(Some(turn));
        turn
    }

    /// From now on.
    fn then(&self, turn: Turn) {
        self.turns.borrow_mut().push_back(turn);
    }

    fn peek(&self) -> Turn {
        let next = self.turns.borrow().front().copied();
        next.or(self.last.get()).unwrap_or(Turn::Answer(200))
    }
}

#[derive(Debug)]
struct ToHosts(Rc<Hosts>);

impl Connector for ToHosts {
    fn connect(
        &self,
        _: &Host,
        _: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>> {
        let hosts = self.0.clone();
        Box::pin(async move {
            if hosts.peek() == Turn::Refuse {
                hosts.next();
                hosts.asked.borrow_mut().push(Instant::now());
                return Err(ConnectError::Failed("refused".into()));
            }
            hosts.connections.set(hosts.connections.get() + 1);
            let (near, mut far) = tokio::io::duplex(4096);
            tokio::task::spawn_local(async move {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = far.read(&mut buffer).await {
                    hosts.asked.borrow_mut().push(Instant::now());
                    match hosts.next() {
                        Turn::Answer(status) => {
                            let answer =
                                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                            let _ = far.write_all(answer.as_bytes()).await;
                        }
                        Turn::Say(bytes) => {
                            let heard = String::from_utf8_lossy(&buffer[..length]);
                            hosts.heard.borrow_mut().push_str(&heard);
                            let _ = far.write_all(bytes.as_bytes()).await;
                        }
                        Turn::Silence => std::future::pending().await,
                        Turn::Refuse | Turn::Close => return,
                    }
                }
            });
            Ok(Connected {
                io: near.into(),
                local_address: None,
                remote_address: None,
                tls: None,
            })
        })
    }
}

pub(super) struct Checked {
    server: Arc<ServerContext>,
    cluster: Arc<Cluster>,
    pub(super) hosts: Rc<Hosts>,
    checker: Rc<HealthChecker>,
    is_ready: Rc<Cell<bool>>,
    began: Instant,
}

impl Checked {
    /// A cluster with this many hosts and this health check, whose checks have begun.
    pub(super) fn start(count: u16, check: &str, turns: &[Turn]) -> Self {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        let yaml = format!("name: a\nhealth_checks: [{{{check}}}]");
        let source = Source {
            name: "test",
            format: Format::Yaml,
            bytes: yaml.as_bytes(),
        };
        let proto: pb::Cluster = load(&[source], UnknownFields::Refuse).unwrap();
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "cluster");
        let config = ClusterConfig::from_proto(proto, &server, &path).ok();
        assert!(report.is_empty(), "{:?}", report.take());
        let config = config.unwrap();
        let mut info = ClusterInfo::new(&server, "a", Arc::new(config.settings));
        info.health_checks = config.health_checks;
        let set = set(&(0..count).map(host).collect::<Vec<_>>());
        let cluster = Arc::new(Cluster::new(info, set));
        let hosts = Rc::new(Hosts::default());
        hosts.turns.borrow_mut().extend(turns);
        let connector: Rc<dyn Connector> = Rc::new(ToHosts(hosts.clone()));
        let publisher = HealthPublisher::new(&cluster, None);
        let checker = HealthChecker::new(
            &cluster,
            publisher,
            &connector,
            &server.runtime,
            Random::new(1),
        )
        .unwrap();
        let is_ready = Rc::new(Cell::new(false));
        let (ready, weak) = (is_ready.clone(), Rc::downgrade(&checker));
        checker.start(Box::new(move || {
            ready.set(true);
            weak.upgrade().unwrap().activate();
        }));
        Self {
            server,
            cluster,
            hosts,
            checker,
            is_ready,
            began: Instant::now(),
        }
    }

    pub(super) fn first(&self) -> Arc<Host> {
        self.cluster.hosts.load().hosts().next().unwrap().clone()
    }

    /// When the host was asked, in milliseconds from the start.
    pub(super) fn asked(&self) -> Vec<u128> {
        let asked = self.hosts.asked.borrow();
        asked
            .iter()
            .map(|at| at.duration_since(self.began).as_millis())
            .collect()
    }

    pub(super) fn stat(&self, name: &str) -> u64 {
        let groups = self.server.stats.groups();
        let stats = groups
            .iter()
            .flat_map(|group| (0..group.len()).map(move |index| (group, index)));
        let named = stats.filter(|(group, index)| {
            format!("{}{}", group.prefix(), group.stat(*index).0) == format!("cluster.a.{name}")
        });
        named
            .map(|(group, index)| group.counter(index).value())
            .sum()
    }

    fn carry_traffic(&self) {
        self.cluster.info.stats.upstream_cx_total().inc();
    }
}

fn host(number: u16) -> Arc<Host> {
    let address = format!("10.0.{}.{}:80", number / 250, number % 250 + 1);
    Arc::new(Host::new(Address::Ip(address.parse().unwrap()), 0))
}

fn set(hosts: &[Arc<Host>]) -> PrioritySet {
    let group = HostGroup {
        locality: Arc::default(),
        weight: 0,
        priority: 0,
        hosts: hosts.to_vec(),
    };
    PrioritySet::new([group].into_iter(), 140, false)
}

const TIMES: &str = "timeout: 1s, interval: 5s, unhealthy_interval: 7s, unhealthy_edge_interval: 2s, healthy_edge_interval: 3s, no_traffic_interval: 60s, no_traffic_healthy_interval: 90s, unhealthy_threshold: 2, healthy_threshold: 2";

fn http() -> String {
    format!("{TIMES}, http_health_check: {{path: /}}")
}

pub(super) async fn wait(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn hosts_get_no_requests_before_their_first_success_and_the_cluster_waits_for_all() {
    run(async {
        let checked = Checked::start(2, &http(), &[Turn::Answer(200), Turn::Silence]);
        assert_eq!(checked.first().coarse_health(), Health::Unhealthy);
        wait(0).await;
        sleep(Duration::from_millis(900)).await;
        assert!(!checked.is_ready.get());
        assert_eq!(checked.stat("membership_healthy"), 0);
        sleep(Duration::from_millis(200)).await;
        assert!(checked.is_ready.get());
        assert_eq!(checked.stat("membership_healthy"), 1);
        assert_eq!(checked.stat("health_check.healthy"), 1);
        assert_eq!(checked.stat("health_check.network_failure"), 1);
    });
}

#[test]
fn without_traffic_checks_are_rare() {
    run(async {
        let checked = Checked::start(1, &http(), &[Turn::Answer(200), Turn::Answer(503)]);
        wait(220).await;
        assert_eq!(checked.asked(), [0, 90_000, 150_000, 210_000]);
    });
}

#[test]
fn each_state_has_its_interval() {
    run(async {
        let turns = [
            Turn::Answer(200),
            Turn::Close,
            Turn::Close,
            Turn::Answer(503),
            Turn::Answer(200),
            Turn::Answer(200),
            Turn::Answer(200),
        ];
        let checked = Checked::start(1, &http(), &turns);
        checked.carry_traffic();
        wait(30).await;
        // Healthy: 5 s. On the edge: 2 s. Unhealthy: 7 s. On the edge of healthy: 3 s. Healthy: 5 s.
        assert_eq!(
            checked.asked(),
            [0, 5_000, 7_000, 14_000, 21_000, 24_000, 29_000]
        );
        assert_eq!(checked.stat("health_check.failure"), 3);
        assert_eq!(checked.stat("health_check.network_failure"), 2);
        assert_eq!(checked.stat("health_check.success"), 4);
    });
}

#[test]
fn a_bad_answer_fails_at_once_and_lost_connections_by_their_number() {
    run(async {
        let checked = Checked::start(1, &http(), &[Turn::Answer(200), Turn::Refuse]);
        checked.carry_traffic();
        sleep(Duration::from_millis(5_500)).await;
        assert_eq!(checked.first().coarse_health(), Health::Healthy);
        wait(2).await;
        assert_eq!(checked.first().coarse_health(), Health::Unhealthy);
        assert_eq!(checked.stat("membership_healthy"), 0);
        let checked = Checked::start(1, &http(), &[Turn::Answer(200), Turn::Answer(500)]);
        checked.carry_traffic();
        sleep(Duration::from_millis(5_500)).await;
        assert_eq!(checked.first().coarse_health(), Health::Unhealthy);
    });
}

#[test]
fn a_timeout_of_a_failed_host_is_flagged_until_it_fails_otherwise() {
    run(async {
        let turns = [Turn::Silence, Turn::Answer(503), Turn::Silence];
        let checked = Checked::start(1, &http(), &turns);
        checked.carry_traffic();
        let has_timed_out =
            |checked: &Checked| checked.first().health.has(HealthFlag::ActiveHcTimeout);
        wait(2).await;
        assert!(has_timed_out(&checked));
        wait(7).await;
        assert!(!has_timed_out(&checked));
        wait(8).await;
        assert!(has_timed_out(&checked));
    });
}

#[test]
fn a_connection_is_kept_or_not() {
    run(async {
        let kept = Checked::start(1, &http(), &[]);
        kept.carry_traffic();
        wait(21).await;
        assert_eq!((kept.asked().len(), kept.hosts.connections.get()), (5, 1));
        let check = format!("{}, reuse_connection: false", http());
        let single = Checked::start(1, &check, &[]);
        single.carry_traffic();
        wait(21).await;
        assert_eq!(
            (single.asked().len(), single.hosts.connections.get()),
            (5, 5)
        );
    });
}

#[test]
fn jitter_spreads_the_first_checks_and_those_that_follow() {
    run(async {
        let check = format!(
            "{}, initial_jitter: 10s, interval_jitter: 1s, interval_jitter_percent: 20",
            http()
        );
        let checked = Checked::start(50, &check, &[]);
        checked.carry_traffic();
        wait(10).await;
        let first: Vec<u128> = checked.asked().into_iter().take(50).collect();
        assert!(
            *first.last().unwrap() > 5_000 && first[0] < 5_000,
            "{first:?}"
        );
        let one = Checked::start(1, &check, &[]);
        one.carry_traffic();
        wait(70).await;
        let asked = one.asked();
        let gaps: Vec<u128> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // 5 s, a fifth of that, and a second.
        assert!(
            gaps.iter().all(|gap| (5_000..7_000).contains(gap)),
            "{gaps:?}"
        );
        assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "{gaps:?}");
    });
}

#[test]
fn runtime_values_bound_intervals() {
    run(async {
        let checked = Checked::start(1, &http(), &[]);
        checked.carry_traffic();
        let layer = [("health_check.max_interval".to_owned(), "1500".to_owned())];
        checked.server.runtime.set_layer("l", layer.into());
        wait(4).await;
        assert_eq!(checked.asked(), [0, 1_500, 3_000]);
        let layer = [("health_check.min_interval".to_owned(), "20000".to_owned())];
        checked.server.runtime.set_layer("l", layer.into());
        wait(30).await;
        assert_eq!(checked.asked(), [0, 1_500, 3_000, 4_500, 24_500]);
    });
}

#[test]
fn hosts_that_come_are_checked_and_hosts_that_go_are_not() {
    run(async {
        let checked = Checked::start(2, &http(), &[]);
        checked.carry_traffic();
        wait(1).await;
        assert_eq!(checked.stat("health_check.healthy"), 2);
        let hosts: Vec<Arc<Host>> = checked.cluster.hosts.load().hosts().cloned().collect();
        checked.hosts.then(Turn::Answer(503));
        checked.cluster.set_hosts(set(&[hosts[0].clone(), host(9)]));
        assert_eq!(checked.stat("membership_healthy"), 1);
        wait(1).await;
        assert_eq!(checked.stat("health_check.healthy"), 1);
        assert_eq!(checked.stat("membership_total"), 2);
        assert_eq!(checked.stat("membership_healthy"), 1);
        drop(checked.checker);
    });
}

#[test]
fn a_passive_failure_fails_the_host_until_a_check_succeeds() {
    run(async {
        let checked = Checked::start(1, &http(), &[]);
        checked.carry_traffic();
        wait(1).await;
        let host = checked.first();
        host.health.set(HealthFlag::ExcludedViaImmediateHcFail);
        let reports = checked.cluster.reports.as_ref().unwrap();
        reports.add(crate::upstream::host_health::HostReport::ImmediateFailure(
            host.identity(),
        ));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(checked.stat("health_check.passive_failure"), 1);
        assert_eq!(checked.stat("membership_healthy"), 0);
        assert_eq!(checked.stat("membership_excluded"), 1);
        // Two successes are needed.
        wait(8).await;
        assert_eq!(checked.stat("membership_healthy"), 1);
        assert_eq!(checked.stat("membership_excluded"), 0);
    });
}

#[test]
fn changes_within_the_merge_window_are_published_together() {
    run(async {
        let checked = Checked::start(1, &http(), &[]);
        wait(1).await;
        let host = checked.first();
        let publisher = HealthPublisher::new(&checked.cluster, None);
        publisher.activate();
        let seen = checked.cluster.health_changes.version();
        let published = || checked.cluster.health_changes.version() - seen;
        let toggle = || {
            match host.health.has(HealthFlag::FailedActiveHc) {
                true => host.health.clear(HealthFlag::FailedActiveHc),
                false => host.health.set(HealthFlag::FailedActiveHc),
            }
            publisher.changed(&host);
        };
        advance(Duration::from_secs(5)).await;
        toggle();
        assert_eq!(published(), 1);
        toggle();
        toggle();
        assert_eq!(published(), 1);
        sleep(Duration::from_millis(1_001)).await;
        assert_eq!(published(), 3);
    });
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_host_is_as_all_of_several_health_checks_say() {
    let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
    let check = |name: &str| {
        // `HealthCheck.name` is beyond the type, so it is said beside.
        (
            name.to_owned(),
            format!("{{{TIMES}, http_health_check: {{path: /{name}}}}}"),
        )
    };
    let (names, checks): (Vec<_>, Vec<_>) = [check("one"), check("two")].into_iter().unzip();
    let yaml = format!("name: a\nhealth_checks: [{}]", checks.join(", "));
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: pb::Cluster = load(&[source], UnknownFields::Refuse).unwrap();
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "cluster");
    assert!(ClusterConfig::from_proto(proto.clone(), &server, &path).is_err());
    let errors: Vec<String> = report.take().iter().map(ToString::to_string).collect();
    assert!(
        errors[0].contains("all health checks must have a name"),
        "{errors:?}"
    );
    let names = super::PatchedHealthChecks::from_names(&names);
    let config = ClusterConfig::with_names(proto, &names, &server, &path).unwrap();
    let mut info = ClusterInfo::new(&server, "a", Arc::new(config.settings));
    info.health_checks = config.health_checks;
    let cluster = Arc::new(Cluster::new(info, set(&[host(0)])));
    let hosts = Rc::new(Hosts::default());
    // The first check of each, in turn.
    hosts
        .turns
        .borrow_mut()
        .extend([Turn::Answer(200), Turn::Answer(503)]);
    let connector: Rc<dyn Connector> = Rc::new(ToHosts(hosts.clone()));
    let publisher = HealthPublisher::new(&cluster, None);
    let runtime = &server.runtime;
    let checker =
        HealthChecker::new(&cluster, publisher, &connector, runtime, Random::new(1)).unwrap();
    let is_ready = Rc::new(Cell::new(false));
    let ready = is_ready.clone();
    checker.start(Box::new(move || ready.set(true)));
    sleep(Duration::from_millis(10)).await;
    let first = cluster.hosts.load().hosts().next().unwrap().clone();
    assert!(is_ready.get());
    assert!(first.health.has(HealthFlag::FailedActiveHc));
    hosts.then(Turn::Answer(200));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(first.health.get(), 0);
}
