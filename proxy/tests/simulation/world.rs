//! A world from its beginning to its end: a proxy between clients and hosts, and somebody who watches.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger::server::{LocalInfo, Random, ServerContext};
use outrigger::upstream::ClusterManager;
use tokio::io::DuplexStream;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::clients::{Crowd, Outcomes};
use crate::data_path::DataPath;
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
    failed_checks: u64,
    ejections: u64,
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
        self.failed_checks += other.failed_checks;
        self.ejections += other.ejections;
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
            ("failed health checks", self.failed_checks),
            ("ejections", self.ejections),
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
    #[cfg(debug_assertions)]
    let _planted = match plant {
        Some(Plant::Code(fault)) => Some(outrigger::planted::plant(fault)),
        _ => None,
    };
    let local = LocalSet::new();
    runtime.block_on(local.run_until(World::run(scenario, plant)))
}

struct World {
    path: DataPath,
}

impl World {
    async fn run(scenario: &Scenario, plant: Option<Plant>) -> Result<Summary, Violation> {
        let network = Network::new(scenario);
        let world = Rc::new(Self::new(scenario, &network, plant));
        world.path.clusters.warmed().await;
        let watch = Watch::new(scenario, &world.path.server.stats.groups());
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
            watch.always(scenario, &network)?;
            watch.ejected(scenario, &world.path.clusters)?;
            if let Some(violation) = crowd.violation.borrow_mut().take() {
                return Err(violation);
            }
            sleep(Duration::from_millis(50)).await;
        }
        crowd.over.set(true);
        for client in clients {
            client.await.expect("no client panics");
        }
        crowd.hang_up();
        let took = begin.elapsed();
        world.end(scenario, &network, &crowd, &watch).await?;
        let outcomes = crowd.outcomes.borrow().clone();
        Ok(world.summary(took, network.trace(), outcomes))
    }

    fn new(scenario: &Scenario, network: &Rc<Network>, plant: Option<Plant>) -> Self {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        let wires = Rc::new(Wires(network.clone()));
        let clusters = ClusterManager::in_world(
            server.clone(),
            1,
            network.clone(),
            wires.clone(),
            scenario.seed,
        );
        let texts = [&scenario.cluster(plant)[..], &scenario.manager(plant)];
        Self {
            path: DataPath::new(server, clusters, wires, scenario.seed, texts),
        }
    }

    /// A client's end of a new connection to the proxy.
    fn connect(&self) -> DuplexStream {
        let (io, serving) = self.path.connect();
        spawn_local(serving);
        io
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
        watch.at_rest(scenario, &self.path.clusters)?;
        network.end();
        sleep(Duration::from_secs(5)).await;
        let groups = self.path.server.stats.groups();
        watch.at_the_end(&self.path.clusters, &groups)?;
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
        let groups = self.path.server.stats.groups();
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
            failed_checks: count("cluster.c.health_check.failure"),
            ejections: count("cluster.c.outlier_detection.ejections_enforced_total"),
        }
    }
}
