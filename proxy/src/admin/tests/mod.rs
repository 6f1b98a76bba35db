//! The pages over a server that does not exist.

mod commands;
mod pages;
mod serving;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use outrigger_proto::pb::envoy::config::core::v3::{
    self as core, Address, Node, SocketAddress, address,
};
use pb::server_info::State;
use tokio::time::Instant;

use super::*;
use crate::server::{LocalInfo, ServerContext};

struct Fake {
    server: Arc<ServerContext>,
    started: Instant,
    state: Cell<State>,
    admin_layer: Option<String>,
    calls: RefCell<Vec<String>>,
}

fn socket(ip: &str, port: u32) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    }
}

impl AdminSource for Fake {
    fn server(&self) -> &Arc<ServerContext> {
        &self.server
    }
    fn init_state(&self) -> State {
        self.state.get()
    }
    fn started_at(&self) -> Instant {
        self.started
    }
    fn command_line_options(&self) -> pb::CommandLineOptions {
        pb::CommandLineOptions {
            concurrency: 2,
            ..Default::default()
        }
    }
    fn node(&self) -> Node {
        Node {
            id: "n1".into(),
            ..Node::default()
        }
    }
    fn admin_layer(&self) -> Option<String> {
        self.admin_layer.clone()
    }
    fn clusters(&self) -> Vec<pb::ClusterStatus> {
        let stat = |name: &str, value| pb::SimpleMetric {
            name: name.into(),
            value,
            ..Default::default()
        };
        vec![pb::ClusterStatus {
            name: "self".into(),
            observability_name: "self".into(),
            host_statuses: vec![pb::HostStatus {
                address: Some(socket("127.0.0.1", 80)),
                stats: vec![stat("rq_total", 2), stat("cx_active", 1)],
                health_status: Some(pb::HostHealthStatus {
                    failed_active_health_check: true,
                    eds_health_status: core::HealthStatus::Degraded.into(),
                    ..Default::default()
                }),
                weight: 1,
                ..Default::default()
            }],
            circuit_breakers: Some(
                outrigger_proto::pb::envoy::config::cluster::v3::CircuitBreakers {
                    thresholds: vec![Default::default()],
                    ..Default::default()
                },
            ),
            ..Default::default()
        }]
    }
    fn listeners(&self) -> Vec<pb::ListenerStatus> {
        vec![pb::ListenerStatus {
            name: "l".into(),
            local_address: Some(socket("::1", 80)),
            additional_local_addresses: vec![socket("127.0.0.1", 81)],
        }]
    }
    fn config_dump(&self, with_endpoints: bool) -> ConfigDumps {
        let cluster = |name: &str| pb::clusters_config_dump::StaticCluster {
            cluster: Some(pack(&Cluster {
                name: name.into(),
                alt_stat_name: "alt".into(),
                ..Cluster::default()
            })),
            last_updated: None,
        };
        ConfigDumps {
            clusters: pb::ClustersConfigDump {
                static_clusters: vec![cluster("self"), cluster("other")],
                ..Default::default()
            },
            endpoints: with_endpoints.then(Default::default),
            ..Default::default()
        }
    }
    fn unready_targets(&self) -> Vec<pb::unready_targets_dumps::UnreadyTargetsDump> {
        vec![pb::unready_targets_dumps::UnreadyTargetsDump {
            name: "init manager l".into(),
            target_names: vec!["rds".into()],
        }]
    }
    fn drain_listeners(&self, request: DrainListeners) {
        self.calls.borrow_mut().push(format!("{request:?}"));
    }
    fn quit(&self) {
        self.calls.borrow_mut().push("quit".into());
    }
    fn reopen_logs(&self) {
        self.calls.borrow_mut().push("reopen".into());
    }
    fn log_levels(&self) -> Vec<(String, String)> {
        vec![("admin".into(), "info".into())]
    }
    fn set_log_levels(&self, change: LogLevels) -> Result<(), String> {
        if let LogLevels::Some(levels) = &change
            && levels.iter().any(|(name, _)| name != "admin")
        {
            return Err("unknown logger name".into());
        }
        self.calls.borrow_mut().push(format!("{change:?}"));
        Ok(())
    }
}

fn admin_with(config: &AdminConfig) -> (Admin, Rc<Fake>) {
    let fake = Rc::new(Fake {
        server: Arc::new(ServerContext::new(0, LocalInfo::default())),
        started: Instant::now(),
        state: Cell::new(State::Live),
        admin_layer: Some("admin".into()),
        calls: RefCell::default(),
    });
    (Admin::new(fake.clone(), config), fake)
}

fn ask(admin: &Admin, method: &str, target: &str) -> Response {
    let answer = admin.answer(&Request {
        method,
        target,
        query: Query::of_target(target),
    });
    match answer {
        Answer::Ready(response) => response,
        Answer::Work(work) => work(),
    }
}

fn get(admin: &Admin, target: &str) -> (u16, String) {
    let Response { status, body, .. } = ask(admin, "GET", target);
    (status, body)
}

fn post(admin: &Admin, target: &str) -> (u16, String) {
    let Response { status, body, .. } = ask(admin, "POST", target);
    (status, body)
}
