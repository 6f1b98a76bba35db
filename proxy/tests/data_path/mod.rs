//! A connection manager with one cluster, on a worker whose connections to hosts are made by the test: the whole way of a
//! request without a socket.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use outrigger::LocalBoxFuture;
use outrigger::config::{ConfigPath, ConfigReport, TypedConfig};
use outrigger::http_connection_manager::Factory;
use outrigger::net::Address;
use outrigger::network_filters::{
    Connection, DrainSignal, NetworkFilterConfig, NetworkFilterFactory, TerminalFilter,
};
use outrigger::server::{FactoryContext, InitManager, ServerContext, Worker};
use outrigger::stream_info::ConnectionInfo;
use outrigger::upstream::cluster::{LookupFamily, ResolverSettings};
use outrigger::upstream::pool::{Connected, Connector};
use outrigger::upstream::{
    ClusterConfig, ClusterManager, DnsError, Resolved, Resolver, WorkerClusters,
};
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use prost::Message;
use tokio::io::{DuplexStream, duplex};

/// The parts of a proxy between a client's connection and its upstreams.
#[allow(dead_code, reason = "not every test looks at all of them")]
pub(crate) struct DataPath {
    pub(crate) server: Arc<ServerContext>,
    /// Keeps the cluster alive.
    pub(crate) clusters: Rc<ClusterManager>,
    pub(crate) worker: Rc<Worker>,
    filter: Rc<dyn TerminalFilter>,
}

impl DataPath {
    /// One worker with the cluster and the connection manager of these texts. Panics where one of them is refused.
    pub(crate) fn new(
        server: Arc<ServerContext>,
        clusters: Rc<ClusterManager>,
        connector: Rc<dyn Connector>,
        seed: u64,
        [cluster, manager]: [&str; 2],
    ) -> Self {
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "test");
        let cluster: Cluster = parse(cluster);
        clusters.add(ClusterConfig::from_proto(cluster, &server, &path).ok());
        let manager: HttpConnectionManager = parse(manager);
        let config = TypedConfig {
            type_name: Factory.type_names()[0].to_owned(),
            value: manager.encode_to_vec().into(),
        };
        let scope = server.stats.scope("");
        let cx = FactoryContext {
            server: &server,
            scope: &scope,
            init: &InitManager::new("test"),
        };
        let config = Factory.from_proto(&config, &cx, &path);
        let Ok(NetworkFilterConfig::Terminal(config)) = config else {
            panic!("{:?}", report.take());
        };
        let table = clusters.table().clone();
        let of_worker = WorkerClusters::with_connector(table, 0, connector);
        let worker = Worker::new(0, server.clone(), of_worker, seed);
        Self {
            filter: config.on_worker(&worker),
            server,
            clusters,
            worker,
        }
    }

    /// A client's end of a new connection, and what serves the other one.
    pub(crate) fn connect(&self) -> (DuplexStream, impl Future<Output = ()> + 'static) {
        let (client, server) = duplex(64 * 1024);
        let address = |port| Address::Ip(([127, 0, 0, 1], port).into());
        let serving = self.filter.clone().serve(Connection {
            io: server.into(),
            info: Rc::new(ConnectionInfo::between(address(1000), address(80))),
            worker: self.worker.clone(),
            drain: Rc::new(NeverDrains),
            buffer_limit: 32 * 1024,
        });
        (client, serving)
    }
}

fn parse<T: Message + Default + prost::Name>(yaml: &str) -> T {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    match load(&[source], UnknownFields::Refuse) {
        Ok(message) => message,
        Err(error) => panic!("{error:?}"),
    }
}

#[derive(Debug)]
struct NeverDrains;

impl DrainSignal for NeverDrains {
    fn is_draining(&self) -> bool {
        false
    }

    fn draining(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// A connection to a host, as a connector in memory makes it.
pub(crate) fn connected(near: DuplexStream) -> Connected {
    Connected {
        io: near.into(),
        local_address: None,
        remote_address: None,
        tls: None,
    }
}

/// A resolver for clusters of addresses: it is never asked.
#[derive(Debug)]
#[allow(dead_code, reason = "the simulation has a resolver of its own")]
pub(crate) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        name: &str,
        _: LookupFamily,
        _: &ResolverSettings,
    ) -> LocalBoxFuture<'static, Result<Resolved, DnsError>> {
        panic!("{name} is to be resolved")
    }
}
