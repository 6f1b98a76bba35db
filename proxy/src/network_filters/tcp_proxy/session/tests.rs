//! Proxied connections over in-memory pipes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy as Proto;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::LocalSet;

use super::super::config::Config;
use super::*;
use crate::LocalBoxFuture;
use crate::access_loggers::AccessLogs;
use crate::config::{ConfigPath, ConfigReport};
use crate::net::Address;
use crate::network_filters::DrainSignal;
use crate::server::{FactoryContext, InitManager, LocalInfo, ServerContext};
use crate::stream_info::ConnectionInfo;
use crate::upstream::pool::{Connected, Connector, SocketSettings};
use crate::upstream::{ClusterConfig, ClusterManager, HickoryResolver, Host, WorkerClusters};

/// Gives the upstreams that the test has prepared, one after the other.
#[derive(Default)]
struct Prepared(RefCell<VecDeque<Result<DuplexStream, ConnectError>>>);

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared")
    }
}

impl Connector for Prepared {
    fn connect(
        &self,
        _: &Host,
        _: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>> {
        let next = self.0.borrow_mut().pop_front();
        Box::pin(async move {
            let io = next.unwrap_or(Err(ConnectError::Timeout))?.into();
            Ok(Connected {
                io,
                local_address: None,
                remote_address: None,
                tls: None,
            })
        })
    }
}

#[derive(Debug)]
struct NoDrain;

impl DrainSignal for NoDrain {
    fn is_draining(&self) -> bool {
        false
    }
    fn draining(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

struct Harness {
    proxy: Rc<TcpProxy>,
    worker: Rc<Worker>,
    upstreams: Rc<Prepared>,
    manager: Rc<ClusterManager>,
}

fn parse<M: prost::Name + Default>(yaml: &str) -> M {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    load(&[source], UnknownFields::Refuse).unwrap()
}

fn harness(yaml: &str) -> Harness {
    let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "test");
    let scope = server.stats.scope("");
    let cx = FactoryContext {
        server: &server,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    let proto: Proto = parse(&format!("stat_prefix: t\n{yaml}"));
    let config = Config::from_proto(proto, &cx, &path);
    let config = config.unwrap_or_else(|_| panic!("{:?}", report.take()));
    let cluster: Cluster = parse(
        "name: c\nload_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 1}}}}]}]}",
    );
    let manager = ClusterManager::new(server.clone(), 1, Rc::new(HickoryResolver::default()));
    let cluster = ClusterConfig::from_proto(cluster, &server, &path);
    manager.add([cluster.unwrap_or_else(|_| panic!("{:?}", report.take()))]);
    let upstreams = Rc::new(Prepared::default());
    let clusters = WorkerClusters::with_connector(manager.table().clone(), 0, upstreams.clone());
    let worker = Worker::new(0, server, clusters, 1);
    let proxy = Rc::new(TcpProxy {
        logs: AccessLogs::on_worker(&config.access_logs, &worker),
        config: Arc::new(config),
    });
    Harness {
        proxy,
        worker,
        upstreams,
        manager,
    }
}

impl Harness {
    fn prepare(&self) -> DuplexStream {
        let (near, far) = duplex(1024);
        self.upstreams.0.borrow_mut().push_back(Ok(near));
        far
    }

    fn connect(&self) -> (DuplexStream, impl Future<Output = ()> + use<>) {
        let (near, far) = duplex(1024);
        let address = Address::Pipe("@t".into());
        let connection = Connection {
            io: near.into(),
            info: Rc::new(ConnectionInfo::between(address.clone(), address)),
            worker: self.worker.clone(),
            drain: Rc::new(NoDrain),
            buffer_limit: 1 << 20,
        };
        (far, serve(self.proxy.clone(), connection))
    }

    fn cluster_stat(&self, name: &str) -> u64 {
        let stats = &self.manager.clusters()[0].info.stats;
        match name {
            "exceeded" => stats.upstream_cx_connect_attempts_exceeded().value(),
            _ => stats.upstream_cx_active().value(),
        }
    }
}

#[tokio::test]
async fn bytes_go_both_ways_and_ends_are_passed_on() {
    let harness = harness("cluster: c");
    let mut upstream = harness.prepare();
    let (mut client, served) = harness.connect();
    let talk = async {
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let mut request = Vec::new();
        upstream.read_to_end(&mut request).await.unwrap();
        assert_eq!(request, b"ping");
        upstream.write_all(b"pong!").await.unwrap();
        drop(upstream);
        let mut response = Vec::new();
        client.read_to_end(&mut response).await.unwrap();
        assert_eq!(response, b"pong!");
    };
    LocalSet::new()
        .run_until(async { tokio::join!(served, talk) })
        .await;
    let stats = &harness.proxy.config.stats;
    assert_eq!(stats.downstream_cx_rx_bytes_total().value(), 4);
    assert_eq!(stats.downstream_cx_tx_bytes_total().value(), 5);
    assert_eq!(harness.cluster_stat("active"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_is_followed_by_another_up_to_the_limit() {
    let harness =
        harness("cluster: c\nmax_connect_attempts: 2\nbackoff_options: {base_interval: 1s}");
    let refused = || Err(ConnectError::Failed("refused".into()));
    harness.upstreams.0.borrow_mut().push_back(refused());
    let upstream = harness.prepare();
    let (client, served) = harness.connect();
    drop((client, upstream));
    LocalSet::new().run_until(served).await;
    assert_eq!(harness.cluster_stat("exceeded"), 0);
    for _ in 0..2 {
        harness.upstreams.0.borrow_mut().push_back(refused());
    }
    let (mut client, served) = harness.connect();
    LocalSet::new().run_until(served).await;
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(harness.cluster_stat("exceeded"), 1);
}

#[tokio::test]
async fn a_cluster_that_does_not_exist_closes_the_connection() {
    let harness = harness("cluster: nobody");
    let (mut client, served) = harness.connect();
    LocalSet::new().run_until(served).await;
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(
        harness.proxy.config.stats.downstream_cx_no_route().value(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_after_its_time_since_the_last_byte() {
    let harness = harness("cluster: c\nidle_timeout: 10s");
    let mut upstream = harness.prepare();
    let (mut client, served) = harness.connect();
    let began = Instant::now();
    let talk = async {
        tokio::time::sleep(Duration::from_secs(6)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(upstream.read(&mut [0; 9]).await.unwrap(), 1);
        assert_eq!(upstream.read(&mut [0; 9]).await.unwrap(), 0);
        began.elapsed()
    };
    let ((), took) = LocalSet::new()
        .run_until(async { tokio::join!(served, talk) })
        .await;
    assert_eq!(took.as_secs(), 16);
    assert_eq!(harness.proxy.config.stats.idle_timeout().value(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_lasts_no_longer_than_its_maximum() {
    let harness = harness("cluster: c\nmax_downstream_connection_duration: 5s");
    let _upstream = harness.prepare();
    let (_client, served) = harness.connect();
    let began = Instant::now();
    LocalSet::new().run_until(served).await;
    assert_eq!(began.elapsed().as_secs(), 5);
    let stats = &harness.proxy.config.stats;
    assert_eq!(stats.max_downstream_connection_duration().value(), 1);
}

#[tokio::test]
async fn an_overloaded_proxy_connects_to_no_upstream() {
    let harness = harness("cluster: c");
    let shed = &harness.worker.server.overload.load_shed;
    shed.shed_all(LoadShedPoint::TcpProxyUpstreamConnect);
    let (mut client, served) = harness.connect();
    LocalSet::new().run_until(served).await;
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    let stats = &harness.proxy.config.stats;
    assert_eq!(stats.downstream_cx_overload_close().value(), 1);
}

#[tokio::test]
async fn an_overloaded_proxy_passes_nothing_on_that_a_client_sends() {
    let harness = harness("cluster: c");
    let shed = &harness.worker.server.overload.load_shed;
    shed.shed_all(LoadShedPoint::TcpProxyOnData);
    let mut upstream = harness.prepare();
    let (mut client, served) = harness.connect();
    let talk = async {
        upstream.write_all(b"first").await.unwrap();
        let mut response = [0; 5];
        client.read_exact(&mut response).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        assert_eq!(client.read(&mut response).await.unwrap(), 0);
        assert_eq!(upstream.read(&mut response).await.unwrap(), 0);
    };
    LocalSet::new()
        .run_until(async { tokio::join!(served, talk) })
        .await;
    let stats = &harness.proxy.config.stats;
    assert_eq!(stats.downstream_cx_overload_close().value(), 1);
    assert_eq!(stats.downstream_cx_rx_bytes_total().value(), 4);
}
