//! Outlier detection under a clock of the test.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::{HostResult, OutlierDetector, threshold};
use crate::config::{ConfigPath, ConfigReport};
use crate::net::Address;
use crate::server::{LocalInfo, Random, ServerContext};
use crate::upstream::host::{HealthFlag, Host};
use crate::upstream::host_health::HealthPublisher;
use crate::upstream::priority_set::HostGroup;
use crate::upstream::{Cluster, ClusterConfig, ClusterInfo, PrioritySet};

struct Detected {
    server: Arc<ServerContext>,
    cluster: Arc<Cluster>,
    detector: Rc<OutlierDetector>,
}

fn convert(fields: &str) -> Result<(Arc<ServerContext>, ClusterConfig), Vec<String>> {
    let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
    let yaml = format!("name: a\noutlier_detection: {{{fields}}}");
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: pb::Cluster = load(&[source], UnknownFields::Refuse).unwrap();
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "cluster");
    let config = ClusterConfig::from_proto(proto, &server, &path);
    let errors = report.take();
    match config {
        Ok(config) => Ok((server, config)),
        Err(_) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

impl Detected {
    fn start(hosts: u8, fields: &str) -> Self {
        let (server, config) = convert(fields).unwrap();
        let mut info = ClusterInfo::new(&server, "a", Arc::new(config.settings));
        info.outlier_detection = config.outlier_detection;
        let group = HostGroup {
            locality: Arc::default(),
            weight: 0,
            priority: 0,
            hosts: (1..=hosts)
                .map(|n| {
                    let address = format!("10.0.0.{n}:80").parse().unwrap();
                    Arc::new(Host::new(Address::Ip(address), 0))
                })
                .collect(),
        };
        let set = PrioritySet::new([group].into_iter(), 140, false);
        let cluster = Arc::new(Cluster::new(info, set));
        let publisher = HealthPublisher::new(&cluster, None);
        publisher.activate();
        let detector = OutlierDetector::start(&cluster, publisher, None, Random::new(1)).unwrap();
        Self {
            server,
            cluster,
            detector,
        }
    }

    fn host(&self, number: usize) -> Arc<Host> {
        self.cluster
            .hosts
            .load()
            .hosts()
            .nth(number)
            .unwrap()
            .clone()
    }

    fn is_ejected(&self, number: usize) -> bool {
        self.host(number).health.has(HealthFlag::FailedOutlierCheck)
    }

    fn ejected(&self) -> usize {
        let hosts = self.cluster.hosts.load();
        let ejected = |host: &&Arc<Host>| host.health.has(HealthFlag::FailedOutlierCheck);
        hosts.hosts().filter(ejected).count()
    }

    fn put(&self, number: usize, results: &[HostResult]) {
        let host = self.host(number);
        let info = &self.cluster.info;
        let config = info.outlier_detection.as_ref().unwrap();
        let reports = self.cluster.outliers.as_ref().unwrap();
        for result in results {
            let report = |report| reports.add(report);
            host.monitor()
                .unwrap()
                .put(config, host.identity(), *result, &report);
        }
    }

    /// A number of responses with this status.
    async fn answer(&self, number: usize, status: u16, times: usize) {
        self.put(number, &vec![HostResult::Response(status); times]);
        sleep(Duration::from_millis(1)).await;
    }

    fn stat(&self, name: &str) -> u64 {
        let groups = self.server.stats.groups();
        let stats = groups
            .iter()
            .flat_map(|group| (0..group.len()).map(move |index| (group, index)));
        let name = format!("cluster.a.{name}");
        let named = stats
            .filter(|(group, index)| format!("{}{}", group.prefix(), group.stat(*index).0) == name);
        named
            .map(|(group, index)| group.counter(index).value())
            .sum()
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

async fn wait(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

const ALL: &str = "max_ejection_percent: 100";

#[test]
fn five_errors_in_a_row_eject_a_host_and_a_success_between_starts_anew() {
    run(async {
        let detected = Detected::start(2, ALL);
        detected.answer(0, 500, 4).await;
        detected.answer(0, 200, 1).await;
        detected.answer(0, 500, 4).await;
        assert!(!detected.is_ejected(0));
        detected.answer(0, 500, 1).await;
        assert!(detected.is_ejected(0) && !detected.is_ejected(1));
        assert_eq!(detected.stat("outlier_detection.ejections_active"), 1);
        assert_eq!(
            detected.stat("outlier_detection.ejections_enforced_consecutive_5xx"),
            1
        );
        assert_eq!(detected.stat("membership_healthy"), 1);
    });
}

#[test]
fn an_ejection_grows_with_each_one_and_shrinks_in_good_times() {
    run(async {
        let detected = Detected::start(
            1,
            "max_ejection_percent: 100, base_ejection_time: 15s, max_ejection_time: 40s, interval: 5s",
        );
        let mut lasted = Vec::new();
        for _ in 0..4 {
            detected.answer(0, 500, 5).await;
            assert!(detected.is_ejected(0));
            let mut seconds = 0;
            while detected.is_ejected(0) {
                wait(5).await;
                seconds += 5;
            }
            lasted.push(seconds);
        }
        // 15, 30, and never more than 40 s, until the next look, every 5 s.
        assert_eq!(lasted, [15, 35, 45, 45]);
        // Each quiet interval takes one back.
        wait(60).await;
        detected.answer(0, 500, 5).await;
        wait(21).await;
        assert!(!detected.is_ejected(0));
    });
}

#[test]
fn no_more_hosts_are_ejected_than_the_share_says_but_one_if_it_is_to_be() {
    run(async {
        let detected = Detected::start(10, "max_ejection_percent: 20");
        for host in 0..4 {
            detected.answer(host, 503, 5).await;
        }
        assert_eq!(detected.ejected(), 2);
        // A 503 is a failure of a gateway too.
        assert_eq!(detected.stat("outlier_detection.ejections_overflow"), 4);
        let few = Detected::start(4, "max_ejection_percent: 10");
        few.answer(0, 503, 5).await;
        assert_eq!(few.ejected(), 0);
        let one = Detected::start(4, "max_ejection_percent: 10, always_eject_one_host: true");
        one.answer(0, 503, 5).await;
        one.answer(1, 503, 5).await;
        assert_eq!(one.ejected(), 1);
    });
}

#[test]
fn what_is_not_enforced_is_counted_alone_unless_the_runtime_says_otherwise() {
    run(async {
        let detected = Detected::start(1, ALL);
        detected.answer(0, 503, 4).await;
        let fields = "max_ejection_percent: 100, enforcing_consecutive_5xx: 0, consecutive_gateway_failure: 3";
        let detected = Detected::start(1, fields);
        detected.answer(0, 503, 5).await;
        assert_eq!(detected.ejected(), 0);
        assert_eq!(
            detected.stat("outlier_detection.ejections_detected_consecutive_5xx"),
            1
        );
        assert_eq!(
            detected.stat("outlier_detection.ejections_detected_consecutive_gateway_failure"),
            1
        );
        let key = "outlier_detection.enforcing_consecutive_gateway_failure".to_owned();
        let layer = [(key, "100".to_owned())];
        detected.server.runtime.set_layer("l", layer.into());
        detected.answer(0, 503, 3).await;
        assert_eq!(detected.ejected(), 1);
    });
}

#[test]
fn failures_of_connections_count_apart_where_origins_are_split() {
    run(async {
        let together = Detected::start(1, ALL);
        together.put(0, &[HostResult::ConnectFailed; 3]);
        together.answer(0, 500, 2).await;
        assert_eq!(together.ejected(), 1);
        let fields = "max_ejection_percent: 100, split_external_local_origin_errors: true, consecutive_local_origin_failure: 3";
        let split = Detected::start(1, fields);
        split.put(0, &[HostResult::ConnectFailed; 2]);
        split.answer(0, 500, 4).await;
        assert_eq!(split.ejected(), 0);
        split.put(0, &[HostResult::ConnectSuccess]);
        split.put(
            0,
            &[HostResult::ConnectFailed, HostResult::Timeout(Some(504))],
        );
        wait(1).await;
        assert_eq!(split.ejected(), 0);
        split.put(0, &[HostResult::ConnectFailed]);
        wait(1).await;
        assert_eq!(split.ejected(), 1);
        assert_eq!(
            split.stat("outlier_detection.ejections_enforced_consecutive_local_origin_failure"),
            1
        );
    });
}

#[test]
fn a_host_far_below_the_others_is_ejected_by_its_success_rate() {
    run(async {
        let detected = Detected::start(5, "max_ejection_percent: 100, consecutive_5xx: 1000");
        for host in 0..5 {
            let bad = if host == 3 { 80 } else { 2 };
            detected.answer(host, 500, bad).await;
            detected.answer(host, 200, 120 - bad).await;
        }
        wait(9).await;
        assert_eq!(detected.ejected(), 0);
        wait(1).await;
        assert!(detected.is_ejected(3));
        assert_eq!(detected.ejected(), 1);
        assert_eq!(
            detected.stat("outlier_detection.ejections_enforced_success_rate"),
            1
        );
        let (average, threshold) = detected.cluster.success_rates.external();
        assert!(
            average > 80.0 && threshold < average,
            "{average} {threshold}"
        );
        let (rate, _) = detected.host(0).monitor().unwrap().success_rates();
        assert!((98.0..99.0).contains(&rate), "{rate}");
        // Nothing has happened in the next interval.
        wait(10).await;
        assert!(detected.cluster.success_rates.external().0 < 0.0);
    });
}

#[test]
fn too_few_requests_make_no_rate() {
    run(async {
        let detected = Detected::start(5, "max_ejection_percent: 100, consecutive_5xx: 1000");
        for host in 0..5 {
            detected
                .answer(host, if host == 3 { 500 } else { 200 }, 90)
                .await;
        }
        wait(10).await;
        assert_eq!(detected.ejected(), 0);
        assert_eq!(
            detected.stat("outlier_detection.ejections_detected_failure_percentage"),
            1
        );
    });
}

#[test]
fn a_share_of_failures_ejects_where_it_is_enforced() {
    run(async {
        let fields = "max_ejection_percent: 100, consecutive_5xx: 1000, enforcing_success_rate: 0, enforcing_failure_percentage: 100, failure_percentage_threshold: 50, failure_percentage_minimum_hosts: 1, failure_percentage_request_volume: 10";
        let detected = Detected::start(2, fields);
        detected.answer(0, 500, 5).await;
        detected.answer(0, 200, 5).await;
        detected.answer(1, 500, 4).await;
        detected.answer(1, 200, 6).await;
        wait(10).await;
        assert!(detected.is_ejected(0) && !detected.is_ejected(1));
        assert_eq!(
            detected.stat("outlier_detection.ejections_enforced_failure_percentage"),
            1
        );
    });
}

#[test]
fn jitter_prolongs_an_ejection() {
    run(async {
        let fields = "max_ejection_percent: 100, base_ejection_time: 10s, max_ejection_time_jitter: 100s, interval: 1s";
        let detected = Detected::start(20, fields);
        for host in 0..20 {
            detected.answer(host, 500, 5).await;
        }
        wait(10).await;
        let early = detected.ejected();
        assert!(early >= 10, "{early}");
        wait(101).await;
        assert_eq!(detected.ejected(), 0);
    });
}

#[test]
fn a_health_check_that_succeeds_takes_an_ejection_back() {
    run(async {
        let detected = Detected::start(1, ALL);
        detected.answer(0, 500, 5).await;
        let host = detected.host(0);
        host.health.set(HealthFlag::FailedActiveHc);
        detected.detector.check_succeeded(&host);
        assert!(detected.is_ejected(0));
        host.health.clear(HealthFlag::FailedActiveHc);
        detected.detector.check_succeeded(&host);
        assert!(!detected.is_ejected(0));
        assert_eq!(detected.stat("outlier_detection.ejections_active"), 0);
    });
}

#[test]
fn the_threshold_is_some_deviations_below_the_mean() {
    let (mean, limit) = threshold(&[50.0, 100.0, 100.0, 100.0, 100.0], 1.9);
    assert!((mean - 90.0).abs() < 1e-9 && (limit - 52.0).abs() < 1e-9);
}

#[test]
fn settings_that_envoy_refuses_are_refused_in_its_words() {
    let errors = |fields: &str| convert(fields).err().unwrap_or_default();
    let found = errors("base_ejection_time: 10s, max_ejection_time: 5s");
    assert!(
        found[0].ends_with(
            "outlier detector's max_ejection_time cannot be smaller than base_ejection_time"
        ),
        "{found:?}"
    );
    let found = errors("max_ejection_percent: 101, enforcing_success_rate: 200, interval: 0s");
    assert_eq!(found.len(), 3, "{found:?}");
}
