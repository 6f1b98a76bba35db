use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use tokio::time::Instant;

use super::*;
use crate::LocalBoxFuture;
use crate::config::{ConfigPath, ConfigReport};
use crate::server::{LocalInfo, ServerContext};
use crate::upstream::cluster::{ClusterConfig, LookupFamily, ResolverSettings};
use crate::upstream::cluster_manager::ClusterManager;
use crate::upstream::shared_cluster::Cluster;
use crate::upstream::worker_clusters::WorkerClusters;

/// Answers that the test gives, after a second each.
#[derive(Debug, Default)]
struct Scripted {
    answers: RefCell<HashMap<String, Result<Resolved, DnsError>>>,
    asked: RefCell<Vec<(String, LookupFamily, Duration)>>,
    started: Cell<Option<Instant>>,
}

impl Resolver for Scripted {
    fn resolve(
        &self,
        name: &str,
        family: LookupFamily,
        _: &ResolverSettings,
    ) -> LocalBoxFuture<'static, Result<Resolved, DnsError>> {
        let start = self.started.get().unwrap_or_else(Instant::now);
        self.started.set(Some(start));
        self.asked
            .borrow_mut()
            .push((name.to_owned(), family, start.elapsed()));
        let answer = self.answers.borrow().get(name).cloned();
        let answer = answer.unwrap_or_else(|| Err(DnsError("no such name".to_owned())));
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            answer
        })
    }
}

impl Scripted {
    fn answer(&self, name: &str, addresses: &[&str], ttl: u64) {
        let resolved = Resolved {
            addresses: addresses
                .iter()
                .map(|a| a.parse::<IpAddr>().unwrap())
                .collect(),
            ttl: Duration::from_secs(ttl),
        };
        self.answers
            .borrow_mut()
            .insert(name.to_owned(), Ok(resolved));
    }

    /// The seconds at which names were asked for.
    fn seconds(&self) -> Vec<u64> {
        self.asked
            .borrow()
            .iter()
            .map(|(_, _, at)| at.as_secs())
            .collect()
    }
}

fn config(yaml: &str) -> ClusterConfig {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: pb::Cluster = load(&[source], UnknownFields::Refuse).unwrap();
    let report = ConfigReport::new();
    let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
    ClusterConfig::from_proto(proto, &server, &ConfigPath::root(&report, "cluster"))
        .unwrap_or_else(|_| panic!("{:?}", report.take()))
}

fn manager(resolver: &Rc<Scripted>) -> Rc<ClusterManager> {
    let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
    ClusterManager::new(server, 0, resolver.clone())
}

fn cluster(manager: &ClusterManager) -> Arc<Cluster> {
    manager
        .clusters()
        .first()
        .expect("the cluster is warm")
        .clone()
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster
        .hosts
        .load()
        .hosts()
        .map(|host| host.address.to_string())
        .collect()
}

const STRICT: &str = "
name: a
type: STRICT_DNS
dns_lookup_family: V4_ONLY
load_assignment:
  cluster_name: a
  endpoints:
  - lb_endpoints:
    - {endpoint: {address: {socket_address: {address: one, port_value: 80}}}, load_balancing_weight: 3}
    - {endpoint: {address: {socket_address: {address: two, port_value: 81}}}}
";

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_cluster_is_warm_when_a_name_is_resolved_and_has_a_host_for_every_address() {
    let resolver = Rc::new(Scripted::default());
    resolver.answer("one", &["1.1.1.1", "1.1.1.2"], 60);
    resolver.answer("two", &["2.2.2.2"], 60);
    let manager = manager(&resolver);
    manager.add([config(STRICT)]);
    assert!(manager.clusters().is_empty());
    assert_eq!(manager.warming_clusters().len(), 1);
    manager.warmed().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let cluster = cluster(&manager);
    assert_eq!(
        addresses(&cluster),
        ["1.1.1.1:80", "1.1.1.2:80", "2.2.2.2:81"]
    );
    let set = cluster.hosts.load();
    assert_eq!(
        set.hosts().map(|host| host.weight).collect::<Vec<_>>(),
        [3, 3, 1]
    );
    assert_eq!(&*set.hosts().next().unwrap().hostname, "one");
    assert_eq!(cluster.info.endpoint_stats.membership_total().value(), 3);
    assert_eq!(cluster.info.update_stats.update_success().value(), 2);
    assert_eq!(resolver.asked.borrow()[0].1, LookupFamily::V4Only);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn names_are_resolved_again_and_known_hosts_stay_the_same() {
    let resolver = Rc::new(Scripted::default());
    resolver.answer("one", &["1.1.1.1", "1.1.1.2"], 60);
    resolver.answer("two", &["2.2.2.2"], 60);
    let manager = manager(&resolver);
    manager.add([config(STRICT)]);
    manager.warmed().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let cluster = cluster(&manager);
    let before = cluster.hosts.load().hosts().next().unwrap().clone();
    resolver.answer("one", &["1.1.1.3", "1.1.1.1"], 60);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(
        addresses(&cluster),
        ["1.1.1.3:80", "1.1.1.1:80", "2.2.2.2:81"]
    );
    assert!(
        cluster
            .hosts
            .load()
            .hosts()
            .any(|host| Arc::ptr_eq(host, &before))
    );
    assert_eq!(cluster.info.update_stats.update_no_rebuild().value(), 1);
    // A second for the answer and five until the next.
    assert_eq!(resolver.seconds(), [0, 0, 6, 6]);
    let workers = WorkerClusters::new(manager.table().clone(), 0);
    assert!(workers.get(cluster.info.id).is_some());
    assert!(manager.remove("a"));
    assert!(workers.get(cluster.info.id).is_none());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        resolver.seconds().len(),
        4,
        "nothing is resolved for a removed cluster"
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_name_that_cannot_be_resolved_makes_a_cluster_without_hosts() {
    let resolver = Rc::new(Scripted::default());
    let manager = manager(&resolver);
    manager.add([config(STRICT)]);
    manager.warmed().await;
    let cluster = cluster(&manager);
    assert!(addresses(&cluster).is_empty());
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(cluster.info.update_stats.update_failure().value(), 2);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn hosts_stay_through_failures_and_go_with_an_empty_answer() {
    let resolver = Rc::new(Scripted::default());
    resolver.answer("one", &["1.1.1.1"], 60);
    resolver.answer("two", &[], 0);
    let manager = manager(&resolver);
    manager.add([config(STRICT)]);
    manager.warmed().await;
    let cluster = cluster(&manager);
    resolver.answers.borrow_mut().remove("one");
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(addresses(&cluster), ["1.1.1.1:80"]);
    resolver.answer("one", &[], 0);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(addresses(&cluster).is_empty());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_ttl_sets_the_pace_where_it_is_respected() {
    let resolver = Rc::new(Scripted::default());
    resolver.answer("one", &["1.1.1.1"], 30);
    let manager = manager(&resolver);
    manager.add([config(
        "
name: a
type: STRICT_DNS
respect_dns_ttl: true
load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: one, port_value: 80}}}}]}]}
",
    )]);
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(resolver.seconds(), [0, 31, 62]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn failures_back_off_up_to_their_maximum() {
    let resolver = Rc::new(Scripted::default());
    let manager = manager(&resolver);
    manager.add([config(
        "
name: a
cluster_type:
  name: envoy.cluster.dns
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
    dns_failure_refresh_rate: {base_interval: 1s, max_interval: 8s}
load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: one, port_value: 80}}}}]}]}
",
    )]);
    tokio::time::sleep(Duration::from_secs(2000)).await;
    let seconds = resolver.seconds();
    let longest = seconds
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap();
    assert!((8..=10).contains(&longest), "{longest}");
    // At random up to 8 s, and a second for the answer: 5 s each on the average.
    assert!((300..=500).contains(&seconds.len()), "{}", seconds.len());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_logical_cluster_has_one_host_that_stays_while_its_address_does() {
    let resolver = Rc::new(Scripted::default());
    resolver.answer("one", &["1.1.1.1", "1.1.1.2"], 60);
    let manager = manager(&resolver);
    manager.add([config(
        &STRICT.replace("STRICT_DNS", "LOGICAL_DNS").replace(
            "    - {endpoint: {address: {socket_address: {address: two, port_value: 81}}}}\n",
            "",
        ),
    )]);
    manager.warmed().await;
    let cluster = cluster(&manager);
    let first = cluster.hosts.load().hosts().next().unwrap().clone();
    assert_eq!(first.additional_addresses.len(), 1);
    resolver.answer("one", &["1.1.1.9", "1.1.1.1"], 60);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(Arc::ptr_eq(
        &first,
        cluster.hosts.load().hosts().next().unwrap()
    ));
    resolver.answer("one", &["1.1.1.9"], 60);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(addresses(&cluster), ["1.1.1.9:80"]);
    // No address is no answer here.
    resolver.answer("one", &[], 60);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(addresses(&cluster), ["1.1.1.9:80"]);
    assert_eq!(cluster.info.update_stats.update_empty().value(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_replaced_cluster_stays_in_use_until_the_new_one_is_warm() {
    let resolver = Rc::new(Scripted::default());
    resolver.answer("one", &["1.1.1.1"], 60);
    let manager = manager(&resolver);
    manager.add([config(
        "
name: a
load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 9.9.9.9, port_value: 1}}}}]}]}
",
    )]);
    let workers = WorkerClusters::new(manager.table().clone(), 0);
    let old = cluster(&manager);
    let on_worker = workers.get(old.info.id).unwrap();
    manager.add([config(STRICT)]);
    assert!(Rc::ptr_eq(&on_worker, &workers.get(old.info.id).unwrap()));
    manager.warmed().await;
    assert!(!Arc::ptr_eq(&old, &cluster(&manager)));
    assert!(!Rc::ptr_eq(&on_worker, &workers.get(old.info.id).unwrap()));
}

#[tokio::test(flavor = "local")]
async fn localhost_is_resolved_without_a_server() {
    let settings = ResolverSettings::default();
    let resolver = HickoryResolver::default();
    let found = resolver
        .resolve("localhost", LookupFamily::V4Only, &settings)
        .await;
    assert_eq!(
        found.unwrap().addresses,
        ["127.0.0.1".parse::<IpAddr>().unwrap()]
    );
}

/// Answers every question for an A record with 192.0.2.7, for 7 seconds.
async fn serve_dns(socket: tokio::net::UdpSocket) {
    let mut query = [0; 512];
    while let Ok((_, peer)) = socket.recv_from(&mut query).await {
        let name_end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 1;
        let question = &query[12..name_end + 4];
        let is_a = question.ends_with(&[0, 1, 0, 1]);
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        answer.extend(question);
        if is_a {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 7, 0, 4, 192, 0, 2, 7]);
        }
        socket.send_to(&answer, peer).await.unwrap();
    }
}

#[tokio::test(flavor = "local")]
async fn a_configured_server_is_asked_and_its_ttl_is_known() {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let settings = ResolverSettings {
        servers: vec![socket.local_addr().unwrap()],
        use_tcp: false,
        no_default_search_domain: true,
    };
    tokio::task::spawn_local(serve_dns(socket));
    let resolver = HickoryResolver::default();
    let expected = Resolved {
        addresses: vec!["192.0.2.7".parse().unwrap()],
        ttl: Duration::from_secs(7),
    };
    let found = resolver
        .resolve("a.example", LookupFamily::V4Only, &settings)
        .await;
    assert_eq!(found, Ok(expected.clone()));
    // No IPv6 address is no error, and leads to IPv4.
    let none = resolver
        .resolve("a.example", LookupFamily::V6Only, &settings)
        .await;
    assert_eq!(none, Ok(Resolved::default()));
    let found = resolver
        .resolve("a.example", LookupFamily::Auto, &settings)
        .await;
    assert_eq!(found, Ok(expected));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_worker_without_traffic_hears_of_a_removed_cluster() {
    let resolver = Rc::new(Scripted::default());
    let manager = manager(&resolver);
    manager.add([config(
        "
name: a
load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 9.9.9.9, port_value: 1}}}}]}]}
",
    )]);
    let workers = Rc::new(WorkerClusters::new(manager.table().clone(), 0));
    let following = workers.clone();
    tokio::task::spawn_local(async move { following.follow().await });
    let id = cluster(&manager).info.id;
    let gone = Rc::downgrade(&workers.get(id).unwrap());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(gone.upgrade().is_some());
    manager.remove("a");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(gone.upgrade().is_none());
    assert!(manager.status().is_empty());
}
