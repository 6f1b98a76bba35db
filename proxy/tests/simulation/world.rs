//! A world from its beginning to its end: a proxy between clients and hosts, and somebody who watches.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger::config::{ConfigPath, ConfigReport, TypedConfig};
use outrigger::http_connection_manager::Factory;
use outrigger::http_filters::LocalBoxFuture;
use outrigger::net::Address;
use outrigger::network_filters::{
    Connection, DrainSignal, NetworkFilterConfig, NetworkFilterFactory, TerminalFilter,
};
use outrigger::server::{FactoryContext, InitManager, LocalInfo, Random, ServerContext, Worker};
use outrigger::stream_info::ConnectionInfo;
use outrigger::upstream::{
    ClusterConfig, ClusterId, ClusterManager, RoutingPriority, WorkerClusters,
};
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use prost::Message;
use tokio::io::{DuplexStream, duplex};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::clients::{Crowd, Outcomes};
use crate::hosts::{Network, Wires};
use crate::invariants::{Stat, Violation, Watch, at_least, equal};
use crate::scenario::{Plant, Scenario};
use crate::{REQUESTS, SECONDS};

/// What happened in a world, or in many.
#[derive(Debug, Default, Clone)]
pub(crate) struct Summary {
    pub(crate) virtual_seconds: u64,
    pub(crate) requests: u64,
    /// A fingerprint of all that happened and when; of many worlds, nothing.
    pub(crate) trace: u64,
    outcomes: Outcomes,
    retries: u64,
    timeouts: u64,
    overflows: u64,
    membership_changes: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.virtual_seconds += other.virtual_seconds;
        self.requests += other.requests;
        let (all, more) = (&mut self.outcomes, &other.outcomes);
        all.sent += more.sent;
        all.good += more.good;
        all.failed += more.failed;
        all.local += more.local;
        all.cut += more.cut;
        all.abandoned += more.abandoned;
        self.retries += other.retries;
        self.timeouts += other.timeouts;
        self.overflows += other.overflows;
        self.membership_changes += other.membership_changes;
    }

    /// Everything that worlds are made for has happened in some of them.
    pub(crate) fn assert_eventful(&self) {
        let all = &self.outcomes;
        for (what, count) in [
            ("good answers", all.good),
            ("failed answers", all.failed),
            ("local replies", all.local),
            ("broken answers", all.cut),
            ("abandoned requests", all.abandoned),
            ("retries", self.retries),
            ("timeouts", self.timeouts),
            ("overflows", self.overflows),
            ("changes of hosts", self.membership_changes),
        ] {
            assert!(count > 0, "no {what} in all these worlds");
        }
    }
}

/// A world in which `plant` is wrong; or nothing, as far as we know.
pub(crate) fn run(scenario: &Scenario, plant: Option<Plant>) -> Result<Summary, Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    runtime.block_on(local.run_until(World::run(scenario, plant)))
}

struct World {
    server: Arc<ServerContext>,
    manager: Rc<ClusterManager>,
    worker: Rc<Worker>,
    filter: Rc<dyn TerminalFilter>,
}

impl World {
    async fn run(scenario: &Scenario, plant: Option<Plant>) -> Result<Summary, Violation> {
        let network = Network::new(scenario, plant);
        let world = Rc::new(Self::new(scenario, &network));
        world.manager.warmed().await;
        let watch = Watch::new(scenario, &world.server.stats.groups());
        let begin = Instant::now();
        let crowd = Rc::new(Crowd::new(network.clone(), scenario));
        let clients: Vec<_> = (1..=scenario.clients)
            .map(|number| {
                let world = world.clone();
                let random = Random::new(scenario.seed << 8 | number);
                spawn_local(
                    crowd
                        .clone()
                        .client(number, random, move || world.connect()),
                )
            })
            .collect();
        let enough = || {
            begin.elapsed() >= Duration::from_secs(SECONDS)
                && crowd.outcomes.borrow().sent >= REQUESTS
        };
        while !enough() {
            if plant == Some(Plant::LeakedCounter) && begin.elapsed().as_secs() == 30 {
                world.leak();
            }
            watch.always(scenario, &network)?;
            if let Some(violation) = crowd.violation.borrow_mut().take() {
                return Err(violation);
            }
            sleep(Duration::from_millis(50)).await;
        }
        crowd.over.set(true);
        for client in clients {
            client.await.expect("no client panics");
        }
        let took = begin.elapsed();
        world.end(scenario, &network, &crowd, &watch).await?;
        let outcomes = crowd.outcomes.borrow().clone();
        Ok(world.summary(took, network.trace(), outcomes))
    }

    fn new(scenario: &Scenario, network: &Rc<Network>) -> Self {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        let manager = ClusterManager::new(server.clone(), 1, network.clone());
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "simulation");
        let cluster: Cluster = parse(&scenario.cluster());
        manager.add(ClusterConfig::from_proto(cluster, &server, &path).ok());
        let proto: HttpConnectionManager = parse(&scenario.manager());
        let config = TypedConfig {
            type_name: Factory.type_names()[0].to_owned(),
            value: proto.encode_to_vec().into(),
        };
        let scope = server.stats.scope("");
        let cx = FactoryContext {
            server: &server,
            scope: &scope,
            init: &InitManager::new("simulation"),
        };
        let config = Factory.from_proto(&config, &cx, &path);
        let Ok(NetworkFilterConfig::Terminal(config)) = config else {
            panic!("{:?}", report.take());
        };
        let wires = Rc::new(Wires(network.clone()));
        let clusters = WorkerClusters::with_connector(manager.table().clone(), 0, wires);
        let worker = Worker::new(0, server.clone(), clusters, scenario.seed);
        Self {
            filter: config.on_worker(&worker),
            server,
            manager,
            worker,
        }
    }

    /// A client's end of a new connection to the proxy.
    fn connect(&self) -> DuplexStream {
        let (client, server) = duplex(64 * 1024);
        let address = |port| Address::Ip(([127, 0, 0, 1], port).into());
        spawn_local(self.filter.clone().serve(Connection {
            io: server.into(),
            info: Rc::new(ConnectionInfo::between(address(1000), address(80))),
            worker: self.worker.clone(),
            drain: Rc::new(NeverDrains),
            buffer_limit: 32 * 1024,
        }));
        client
    }

    /// Takes a place among the requests and never gives it back.
    fn leak(&self) {
        let cluster = self
            .worker
            .clusters
            .get(ClusterId(0))
            .expect("it is the only one");
        std::mem::forget(cluster.try_acquire_request(RoutingPriority::Default));
    }

    async fn end(
        &self,
        scenario: &Scenario,
        network: &Rc<Network>,
        crowd: &Crowd,
        watch: &Watch,
    ) -> Result<(), Violation> {
        // Longer than any timeout of a request.
        sleep(Duration::from_secs(20)).await;
        watch.always(scenario, network)?;
        if let Some(violation) = crowd.violation.borrow_mut().take() {
            return Err(violation);
        }
        watch.at_rest(scenario, &self.manager)?;
        network.end();
        sleep(Duration::from_secs(5)).await;
        let groups = self.server.stats.groups();
        watch.at_the_end(&self.manager, &groups)?;
        let count = |name| Stat::new(name, &groups).counter();
        let sent = crowd.outcomes.borrow().sent;
        let total = count("http.s.downstream_rq_total");
        equal("requests sent and received", sent, total)?;
        // A request that its client has abandoned is completed only if its answer had begun.
        let completed = count("http.s.downstream_rq_completed");
        let answered = crowd.outcomes.borrow().answered();
        at_least("requests completed", completed, answered)?;
        at_least("requests received", total, completed)
    }

    fn summary(&self, took: Duration, trace: u64, outcomes: Outcomes) -> Summary {
        let groups = self.server.stats.groups();
        let count = |name| Stat::new(name, &groups).counter();
        Summary {
            virtual_seconds: took.as_secs(),
            requests: outcomes.sent,
            trace,
            outcomes,
            retries: count("cluster.c.upstream_rq_retry"),
            timeouts: count("cluster.c.upstream_rq_timeout")
                + count("cluster.c.upstream_rq_per_try_timeout"),
            overflows: count("cluster.c.upstream_rq_pending_overflow")
                + count("cluster.c.upstream_cx_overflow"),
            membership_changes: count("cluster.c.membership_change"),
        }
    }
}

fn parse<T: Message + Default + prost::Name>(yaml: &str) -> T {
    let source = Source {
        name: "simulation",
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
