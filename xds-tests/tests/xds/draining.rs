//! What an update leaves alone, and what it drains.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use outrigger_xds_tests::backend::{Act, Kind as BackendKind, Script};
use outrigger_xds_tests::plane::{Kind, Resource};
use tokio::time::sleep;

use crate::client::{Connection, connect_from, echo};
use crate::resources::{
    cluster, cluster_with, eds_cluster, endpoints, inline_manager, listener, listener_of,
    listener_with, rds_manager, routes, tcp_proxy,
};
use crate::stage::{AGGREGATED, Stage, Transport, tell};

const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const UPGRADE: &str =
    "GET / HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
/// Longer than the drain time.
const DRAINED: Duration = Duration::from_secs(20);

/// A backend that upgrades, and returns eight messages of four bytes.
fn sockets() -> BackendKind {
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut acts = vec![Act::Send(head.into())];
    acts.extend(pings());
    BackendKind::Http1(vec![Script { early: true, acts }])
}

fn pings() -> Vec<Act> {
    (0..8)
        .flat_map(|_| [Act::Read(4), Act::Send(b"ping".to_vec())])
        .collect()
}

/// A filter chain for connections from there, and one for the others.
fn two_chains(there: &str, others: &str) -> String {
    format!(
        "[{{ name: there, filter_chain_match: {{ source_prefix_ranges: [{{ address_prefix: 127.0.0.2, prefix_len: 32 }}] }}, filters: [{there}] }}, {{ name: others, filters: [{others}] }}]"
    )
}

async fn upgraded(source: Ipv4Addr, address: SocketAddr) -> Connection {
    let mut connection = Connection::open_from(source, address).await;
    let reply = connection.request(UPGRADE).await.unwrap();
    assert_eq!(reply.status, 101);
    connection.echo(b"ping").await.unwrap();
    connection
}

/// A connection manager that upgrades.
fn upgrading(cluster: &str) -> String {
    inline_manager(cluster, "upgrade_configs: [{ upgrade_type: websocket }],")
}

#[test]
fn another_filter_chain_changes_and_this_ones_connections_stay() {
    tell("in-place", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        let sockets = stage.backend_of(sockets()).await;
        let echoes = stage.backend_of(BackendKind::Tcp(vec![pings()])).await;
        let clusters = [
            cluster("a", address),
            cluster("ws", sockets),
            cluster("tcp", echoes),
        ];
        stage.plane.set(Kind::Cds, clusters);
        let chains = |more: &str| {
            [
                listener_of(
                    "l",
                    &two_chains(&upgrading("ws"), &inline_manager("a", more)),
                ),
                listener_of(
                    "t",
                    &two_chains(&tcp_proxy("tcp"), &inline_manager("a", more)),
                ),
            ]
        };
        stage.plane.set(Kind::Lds, chains(""));
        stage.run().await;
        let (l, t) = (stage.listener("l").await, stage.listener("t").await);
        let mut websocket = upgraded(THERE, l).await;
        let mut tcp = connect_from(THERE, t).await;
        echo(&mut tcp, b"ping").await.unwrap();
        let mut other = Connection::open_from(HERE, l).await;
        assert_eq!(other.get("/").await.body, "first");
        let version = stage.plane.set(Kind::Lds, chains("via: changed,"));
        stage.plane.acked(Kind::Lds, &version).await;
        assert!(
            other.closed_within(DRAINED).await,
            "the old chain's connection stays"
        );
        websocket.echo(b"ping").await.unwrap();
        echo(&mut tcp, b"ping").await.unwrap();
        sleep(Duration::from_secs(2)).await;
        websocket.echo(b"ping").await.unwrap();
        echo(&mut tcp, b"ping").await.unwrap();
        assert_eq!(stage.listener("l").await, l);
        stage.answers("l", 200, "first").await;
        stage
            .note_stats(&[
                "listener_manager.listener_in_place_updated",
                "listener_manager.listener_modified",
                "listener_manager.listener_added",
                "listener_manager.total_filter_chains_draining",
            ])
            .await;
        stage.note_dump().await;
    });
}

#[test]
fn a_filter_chain_that_is_removed_drains() {
    tell("chain-removed", &[Transport::Ads], async |stage| {
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let manager = inline_manager("a", "");
        stage.plane.set(
            Kind::Lds,
            [listener_of("l", &two_chains(&manager, &manager))],
        );
        stage.run().await;
        let l = stage.listener("l").await;
        let mut there = Connection::open_from(THERE, l).await;
        there.get("/").await;
        let mut here = Connection::open_from(HERE, l).await;
        here.get("/").await;
        let left = listener_of("l", &format!("[{{ name: others, filters: [{manager}] }}]"));
        stage.plane.set(Kind::Lds, [left]);
        assert!(there.closed_within(DRAINED).await);
        assert_eq!(here.get("/").await.body, "first");
        let mut again = Connection::open_from(THERE, l).await;
        assert_eq!(again.get("/").await.body, "first");
        stage
            .note_stats(&["listener_manager.listener_in_place_updated"])
            .await;
    });
}

#[test]
fn updates_of_routes_clusters_and_endpoints_leave_upgraded_connections_alone() {
    tell("survive", &AGGREGATED, async |stage| {
        let (one, two) = (
            stage.backend_of(sockets()).await,
            stage.backend_of(sockets()).await,
        );
        let echoes = stage.backend_of(BackendKind::Tcp(vec![pings()])).await;
        let source = stage.source();
        let clusters = |more: &str| [eds_cluster("a", &source), cluster_with("tcp", echoes, more)];
        stage.plane.set(Kind::Cds, clusters(""));
        stage.plane.set(Kind::Eds, [endpoints("a", &[one])]);
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        let manager = rds_manager("r", &source).replacen(
            "stat_prefix",
            "upgrade_configs: [{ upgrade_type: websocket }], stat_prefix",
            1,
        );
        let listeners = [
            listener_with("l", &manager),
            listener_with("t", &tcp_proxy("tcp")),
        ];
        stage.plane.set(Kind::Lds, listeners);
        stage.run().await;
        let mut websocket = upgraded(HERE, stage.listener("l").await).await;
        let mut tcp = connect_from(HERE, stage.listener("t").await).await;
        echo(&mut tcp, b"ping").await.unwrap();
        #[expect(clippy::type_complexity, reason = "a table of steps")]
        let updates: [(&str, &dyn Fn(&Stage) -> (Kind, String)); 4] = [
            ("routes", &|stage| {
                (
                    Kind::Rds,
                    stage.plane.set(Kind::Rds, [routes("r", "nowhere")]),
                )
            }),
            ("endpoints", &|stage| {
                (
                    Kind::Eds,
                    stage.plane.set(Kind::Eds, [endpoints("a", &[two])]),
                )
            }),
            ("a cluster", &|stage| {
                let changed = clusters("per_connection_buffer_limit_bytes: 4096");
                (Kind::Cds, stage.plane.set(Kind::Cds, changed))
            }),
            ("no cluster", &|stage| {
                (Kind::Cds, stage.plane.set(Kind::Cds, []))
            }),
        ];
        for (what, update) in updates {
            let (kind, version) = update(stage);
            stage.plane.acked(kind, &version).await;
            sleep(Duration::from_millis(300)).await;
            let survives = (websocket.echo(b"ping").await, echo(&mut tcp, b"ping").await);
            assert_eq!(survives, (Ok(()), Ok(())), "{what}");
        }
    });
}

#[test]
fn a_removed_listener_drains_and_closes() {
    tell("listener-removed", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        let l = stage.listener("l").await;
        let mut connection = Connection::open(l).await;
        connection.get("/").await;
        stage.plane.set(Kind::Lds, []);
        stage.no_listener("l").await;
        assert!(connection.closed_within(DRAINED).await);
        assert!(tokio::net::TcpStream::connect(l).await.is_err());
        stage
            .note_stats(&[
                "listener_manager.listener_removed",
                "listener_manager.total_listeners_active",
            ])
            .await;
    });
}

#[test]
fn a_listener_that_changes_beside_its_chains_is_replaced_on_its_socket() {
    tell("replaced", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let limited = |bytes: u32| {
            let chains = format!(
                "[{{ filters: [{}] }}]\nper_connection_buffer_limit_bytes: {bytes}",
                inline_manager("a", "")
            );
            listener_of("l", &chains)
        };
        stage.plane.set(Kind::Lds, [limited(4096)]);
        stage.run().await;
        let l = stage.listener("l").await;
        let mut connection = Connection::open(l).await;
        connection.get("/").await;
        let version = stage.plane.set(Kind::Lds, [limited(8192)]);
        stage.plane.acked(Kind::Lds, &version).await;
        assert!(connection.closed_within(DRAINED).await);
        assert_eq!(stage.listener("l").await, l);
        stage.answers("l", 200, "first").await;
        stage
            .note_stats(&[
                "listener_manager.listener_modified",
                "listener_manager.listener_in_place_updated",
            ])
            .await;
    });
}

#[test]
fn a_request_in_flight_ends_before_its_listener() {
    tell("in-flight", &AGGREGATED, async |stage| {
        stage.flags = vec![
            "--drain-time-s".into(),
            "4".into(),
            "--drain-strategy".into(),
            "immediate".into(),
        ];
        let response = outrigger_xds_tests::backend::Response {
            status: 200,
            fields: vec![],
            body: b"late".to_vec(),
            trailers: vec![],
            chunked: false,
        };
        let acts = vec![
            Act::Wait(Duration::from_millis(1500)),
            Act::Respond(response),
        ];
        let slow = BackendKind::Http1(vec![Script { early: false, acts }]);
        let address = stage.backend_of(slow).await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        let mut connection = Connection::open(stage.listener("l").await).await;
        let request = connection.get("/");
        let removal = async {
            stage.settles("http.ingress.downstream_rq_active", 1).await;
            stage.plane.set(Kind::Lds, []);
        };
        let (reply, ()) = tokio::join!(request, removal);
        assert_eq!((reply.status, reply.body.as_str()), (200, "late"));
    });
}

#[test]
fn a_listener_moves_to_another_address() {
    tell("moved", &[Transport::Ads], async |stage| {
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let chains = format!("[{{ filters: [{}] }}]", inline_manager("a", ""));
        stage.plane.set(Kind::Lds, [listener_of("l", &chains)]);
        stage.run().await;
        let old = stage.listener("l").await;
        let moved: Resource = crate::resources::listener_on("l", "127.0.0.3", 0, &chains);
        let version = stage.plane.set(Kind::Lds, [moved]);
        stage.plane.acked(Kind::Lds, &version).await;
        let mut new = old;
        while new.ip() == old.ip() {
            sleep(Duration::from_millis(20)).await;
            new = stage.listener("l").await;
        }
        stage.answers("l", 200, "first").await;
        stage.note(new.ip().to_string());
    });
}

#[test]
fn a_thousand_upgraded_connections_survive_updates() {
    tell("thousand", &[Transport::DeltaAds], async |stage| {
        let (sockets, address) = (
            stage.backend_of(sockets()).await,
            stage.backend("first").await,
        );
        let source = stage.source();
        let more =
            "circuit_breakers: { thresholds: [{ max_connections: 2000, max_requests: 2000 }] }";
        let clusters = |more: &str| [cluster_with("ws", sockets, more), cluster("a", address)];
        stage.plane.set(Kind::Cds, clusters(more));
        let rds = rds_manager("r", &source);
        let manager = rds.replacen(
            "stat_prefix",
            "upgrade_configs: [{ upgrade_type: websocket }], stat_prefix",
            1,
        );
        let chains =
            |more: &str| listener_of("l", &two_chains(&manager, &inline_manager("a", more)));
        stage.plane.set(Kind::Rds, [routes("r", "ws")]);
        stage.plane.set(Kind::Lds, [chains("")]);
        stage.run().await;
        let l = stage.listener("l").await;
        let mut websockets = vec![];
        for _ in 0..1000 {
            websockets.push(upgraded(THERE, l).await);
        }
        let changed = format!("{more}\nper_connection_buffer_limit_bytes: 65536");
        let versions = [
            (Kind::Rds, stage.plane.set(Kind::Rds, [routes("r", "a")])),
            (Kind::Cds, stage.plane.set(Kind::Cds, clusters(&changed))),
            (
                Kind::Lds,
                stage.plane.set(Kind::Lds, [chains("via: changed,")]),
            ),
        ];
        for (kind, version) in versions {
            stage.plane.acked(kind, &version).await;
        }
        sleep(Duration::from_secs(3)).await;
        for websocket in &mut websockets {
            websocket.echo(b"ping").await.unwrap();
        }
    });
}
