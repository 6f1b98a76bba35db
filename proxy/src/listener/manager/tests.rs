//! Listeners of LDS that come, change and go, with connections over the loopback and workers in this thread.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::admin::v3::ListenersConfigDump;
use outrigger_proto::pb::envoy::config::listener::v3 as pb;
use outrigger_proto::pb::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use prost::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::ListenerManager;
use crate::config::{ConfigPath, ConfigReport};
use crate::listener::ConnectionHandler;
use crate::net::Address;
use crate::server::{InitManager, LocalInfo, ServerContext, Worker, WorkerMessage};
use crate::upstream::WorkerClusters;
use crate::xds::{Refused, Resource, ResourceKind, SourceKind, XdsClient, XdsSource};

const ECHO: &str = r#"{name: e, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}"#;
const HCM: &str = r#"{name: h, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, rds: {route_config_name: r, config_source: {ads: {}}}, http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}"#;
const DRAIN: Duration = Duration::from_secs(10);

struct Fixture {
    manager: ListenerManager,
    client: Rc<XdsClient>,
    init: InitManager,
}

impl Fixture {
    fn new() -> Self {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        let manager = ListenerManager::new(server.clone(), 1);
        manager.set_drain_time(DRAIN, true);
        let client = XdsClient::new(server);
        let init = InitManager::new("server");
        manager.wait_in(&init);
        manager.watch_lds(&client, source(), &init);
        Self {
            manager,
            client,
            init,
        }
    }

    /// With one worker that runs.
    fn started() -> Self {
        let fixture = Self::new();
        fixture.start();
        fixture
    }

    fn start(&self) {
        // As long as something is ready to run, paused time does not move by itself.
        tokio::task::spawn_local(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        let (sender, mut messages) = mpsc::channel(1);
        let server = self.manager.0.server.clone();
        tokio::task::spawn_local(async move {
            let worker = Worker::new(0, server, WorkerClusters::default(), 1);
            let handler = ConnectionHandler::new(worker, Arc::new([]));
            while let Some(message) = messages.recv().await {
                match message {
                    WorkerMessage::AddListeners(new) => {
                        for listener in new {
                            handler.add_listener(listener).unwrap();
                        }
                    }
                    WorkerMessage::Listener(command) => handler.execute(command),
                    other => panic!("{other:?}"),
                }
            }
        });
        self.manager.start_workers(&[sender]).unwrap();
    }

    fn deliver(&self, sent: &[Resource], removed: &[&str]) -> Result<(), Vec<Refused>> {
        let removed: Vec<Arc<str>> = removed.iter().map(|name| Arc::from(*name)).collect();
        let kind = ResourceKind::Listener;
        self.client.deliver(&source(), kind, "7", sent, &removed)
    }

    async fn connect(&self, from: &str) -> TcpStream {
        settle().await;
        let address = self.address();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(address).await.unwrap()
    }

    fn address(&self) -> SocketAddr {
        let active = self.manager.active();
        match active[0].addresses()[0] {
            Address::Ip(address) => address,
            Address::Pipe(_) => unreachable!(),
        }
    }

    fn stats(&self) -> &crate::listener::ListenerManagerStats {
        &self.manager.0.stats
    }

    fn dump(&self) -> ListenersConfigDump {
        self.manager.dump()
    }
}

/// Lets everything run that can.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn source() -> XdsSource {
    XdsSource {
        kind: SourceKind::Ads,
        initial_fetch_timeout: Duration::from_secs(15),
    }
}

fn message<M: prost::Message + Name + Default + 'static>(yaml: &str) -> M {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    load(&[source], UnknownFields::Refuse).unwrap()
}

fn resource<M: Name>(name: &str, message: &M) -> Resource {
    Resource {
        name: name.into(),
        aliases: Vec::new(),
        version: "7".into(),
        body: Some(pack(message)),
    }
}

/// A listener on a free port, or the given one.
fn listener(name: &str, port: u16, more: &str) -> Resource {
    let yaml = format!(
        "name: {name}\naddress: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n{more}"
    );
    resource(name, &message::<pb::Listener>(&yaml))
}

/// Echoes, for each of these sources.
fn chains(sources: &[(&str, &str)]) -> String {
    let chain = |(source, name): &(&str, &str)| {
        format!(
            "{{name: {name}, filter_chain_match: {{source_prefix_ranges: [{{address_prefix: {source}, prefix_len: 32}}]}}, filters: [{ECHO}]}}"
        )
    };
    let chains: Vec<String> = sources.iter().map(chain).collect();
    format!("filter_chains: [{}]", chains.join(", "))
}

async fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").await.is_ok()
        && soon(stream.read_exact(&mut byte))
            .await
            .is_some_and(|read| read.is_ok())
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let read = soon(stream.read(&mut byte)).await;
    read.is_some_and(|read| matches!(read, Ok(0) | Err(_)))
}

/// What comes as soon as everything has run that can; none: nothing.
async fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = async { for _ in 0..50 { settle().await } } => None,
    }
}

/// Lets the drain time pass.
async fn drained() {
    settle().await;
    tokio::time::advance(DRAIN + Duration::from_millis(10)).await;
    settle().await;
}

async fn run(test: impl Future<Output = ()>) {
    tokio::time::pause();
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_removed_listener_takes_no_more_connections_and_closes_the_others_after_the_drain_time() {
    run(async {
        let fixture = Fixture::started();
        let echo = format!("filter_chains: [{{filters: [{ECHO}]}}]");
        fixture.deliver(&[listener("l", 0, &echo)], &[]).unwrap();
        assert_eq!(fixture.stats().total_listeners_warming().value(), 1);
        let mut open = fixture.connect("127.0.0.1").await;
        let address = fixture.address();
        assert!(echoes(&mut open).await);
        assert_eq!(fixture.stats().total_listeners_active().value(), 1);
        fixture.deliver(&[], &["l"]).unwrap();
        settle().await;
        assert!(TcpStream::connect(address).await.is_err());
        assert!(echoes(&mut open).await);
        assert_eq!(fixture.stats().total_listeners_draining().value(), 1);
        assert!(fixture.dump().dynamic_listeners[0].draining_state.is_some());
        drained().await;
        assert!(is_closed(&mut open).await);
        assert_eq!(fixture.stats().total_listeners_draining().value(), 0);
        assert_eq!(fixture.stats().listener_removed().value(), 1);
        assert!(fixture.dump().dynamic_listeners.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_changed_listener_goes_on_with_the_sockets_of_the_old_one() {
    run(async {
        let fixture = Fixture::started();
        let echo = format!("filter_chains: [{{filters: [{ECHO}]}}]");
        fixture.deliver(&[listener("l", 0, &echo)], &[]).unwrap();
        let mut old = fixture.connect("127.0.0.1").await;
        assert!(echoes(&mut old).await);
        let address = fixture.address();
        let changed = format!("{echo}\nper_connection_buffer_limit_bytes: 1000");
        fixture.deliver(&[listener("l", 0, &changed)], &[]).unwrap();
        let mut new = fixture.connect("127.0.0.1").await;
        assert_eq!(fixture.address(), address);
        assert!(echoes(&mut new).await && echoes(&mut old).await);
        assert_eq!(fixture.stats().listener_modified().value(), 1);
        assert_eq!(fixture.stats().listener_in_place_updated().value(), 0);
        drained().await;
        assert!(is_closed(&mut old).await);
        assert!(echoes(&mut new).await);
    })
    .await;
}

#[tokio::test]
async fn only_connections_of_changed_filter_chains_drain() {
    run(async {
        let fixture = Fixture::started();
        let before = chains(&[("127.0.0.1", "a"), ("127.0.0.2", "b")]);
        fixture.deliver(&[listener("l", 0, &before)], &[]).unwrap();
        let mut stays = fixture.connect("127.0.0.1").await;
        let mut goes = fixture.connect("127.0.0.2").await;
        assert!(echoes(&mut stays).await && echoes(&mut goes).await);
        let after = chains(&[("127.0.0.3", "c"), ("127.0.0.1", "a")]);
        fixture.deliver(&[listener("l", 0, &after)], &[]).unwrap();
        settle().await;
        assert_eq!(fixture.stats().listener_in_place_updated().value(), 1);
        assert_eq!(fixture.stats().total_filter_chains_draining().value(), 1);
        assert_eq!(fixture.stats().total_listeners_draining().value(), 0);
        assert!(echoes(&mut stays).await && echoes(&mut goes).await);
        let mut unserved = fixture.connect("127.0.0.2").await;
        assert!(is_closed(&mut unserved).await);
        let mut new = fixture.connect("127.0.0.3").await;
        assert!(echoes(&mut new).await);
        drained().await;
        assert!(is_closed(&mut goes).await);
        assert!(echoes(&mut stays).await && echoes(&mut new).await);
        assert_eq!(fixture.stats().total_filter_chains_draining().value(), 0);
    })
    .await;
}

#[tokio::test]
async fn what_comes_again_unchanged_changes_nothing() {
    run(async {
        let fixture = Fixture::started();
        let echo = format!("filter_chains: [{{filters: [{ECHO}]}}]");
        fixture.deliver(&[listener("l", 0, &echo)], &[]).unwrap();
        settle().await;
        let before = fixture.manager.active();
        let again = Resource {
            version: "8".into(),
            ..listener("l", 0, &echo)
        };
        fixture.deliver(&[again], &[]).unwrap();
        settle().await;
        assert!(Rc::ptr_eq(&before[0], &fixture.manager.active()[0]));
        assert_eq!(fixture.stats().listener_modified().value(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_listener_that_waits_for_its_routes_leaves_the_old_one_in_place() {
    run(async {
        let fixture = Fixture::started();
        let echo = format!("filter_chains: [{{filters: [{ECHO}]}}]");
        let hcm = format!("filter_chains: [{{filters: [{HCM}]}}]");
        fixture.deliver(&[listener("l", 0, &echo)], &[]).unwrap();
        settle().await;
        fixture.deliver(&[listener("l", 0, &hcm)], &[]).unwrap();
        let mut client = fixture.connect("127.0.0.1").await;
        assert!(echoes(&mut client).await);
        assert_eq!(
            fixture.manager.unready()[0].target_names,
            ["shared target RdsRouteConfigSubscription RDS init r"]
        );
        let dump = fixture.dump();
        assert!(dump.dynamic_listeners[0].warming_state.is_some());
        assert!(dump.dynamic_listeners[0].active_state.is_some());
        let routes: RouteConfiguration = message("name: r");
        let kind = ResourceKind::RouteConfiguration;
        let sent = [resource("r", &routes)];
        fixture
            .client
            .deliver(&source(), kind, "1", &sent, &[])
            .unwrap();
        settle().await;
        assert!(fixture.dump().dynamic_listeners[0].warming_state.is_none());
        let mut client = fixture.connect("127.0.0.1").await;
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn going_back_to_what_is_in_force_drops_what_waits() {
    run(async {
        let fixture = Fixture::started();
        let echo = format!("filter_chains: [{{filters: [{ECHO}]}}]");
        let hcm = format!("filter_chains: [{{filters: [{HCM}]}}]");
        fixture.deliver(&[listener("l", 0, &echo)], &[]).unwrap();
        settle().await;
        fixture.deliver(&[listener("l", 0, &hcm)], &[]).unwrap();
        assert_eq!(fixture.stats().total_listeners_warming().value(), 1);
        fixture.deliver(&[listener("l", 0, &echo)], &[]).unwrap();
        assert_eq!(fixture.stats().total_listeners_warming().value(), 0);
        assert_eq!(fixture.stats().listener_modified().value(), 2);
        settle().await;
        let kind = ResourceKind::RouteConfiguration;
        assert!(fixture.client.asked_for(kind).is_empty());
    })
    .await;
}

#[tokio::test]
async fn bad_listeners_are_refused_by_name_and_the_good_ones_are_taken() {
    run(async {
        let fixture = Fixture::started();
        let echo = format!("filter_chains: [{{filters: [{ECHO}]}}]");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let sent = [
            listener("good", 0, &echo),
            listener("bound", port, &echo),
            listener("empty", 0, ""),
            listener("good", 0, &echo),
        ];
        let refused = fixture.deliver(&sent, &[]).unwrap_err();
        let reasons: Vec<String> = refused
            .iter()
            .map(|refused| format!("{}: {}", refused.name, refused.reason))
            .collect();
        assert_eq!(reasons.len(), 3, "{reasons:#?}");
        assert!(reasons[0].contains(&format!("cannot bind '127.0.0.1:{port}': Address already in use")));
        assert!(reasons[1].starts_with("empty: listener \"empty\" / filter_chains: is empty"));
        assert_eq!(reasons[2], "good: duplicate listener good found");
        settle().await;
        let dump = fixture.dump();
        let named: Vec<&str> = dump.dynamic_listeners.iter().map(|l| &*l.name).collect();
        assert_eq!(named, ["good", "bound", "empty", "", "", ""]);
        let error = dump.dynamic_listeners[1].error_state.as_ref().unwrap();
        assert!(error.details.contains("cannot bind"));
        assert_eq!(fixture.manager.active().len(), 1);
        drop(taken);
        fixture.deliver(&[listener("bound", port, &echo)], &[]).unwrap();
        settle().await;
        assert_eq!(fixture.manager.active().len(), 2);
        let taken = listener("other", port, &echo);
        let refused = fixture.deliver(&[taken], &[]).unwrap_err();
        assert!(refused[0].reason.starts_with(&format!(
            "error adding listener: 'other' has duplicate address '127.0.0.1:{port}' as existing listener"
        )));
    })
    .await;
}

#[tokio::test]
async fn listeners_of_the_bootstrap_cannot_be_changed() {
    run(async {
        let fixture = Fixture::new();
        let echo = format!("filter_chains: [{{filters: [{ECHO}]}}]");
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "listener");
        let proto = format!("name: l\naddress: {{pipe: {{path: '@static-l'}}}}\n{echo}");
        fixture.manager.add(message(&proto), &path).unwrap();
        fixture.manager.bind().unwrap();
        fixture.start();
        fixture.deliver(&[listener("l", 0, &echo)], &["l"]).unwrap();
        settle().await;
        let dump = fixture.dump();
        assert_eq!(dump.static_listeners.len(), 1);
        assert!(dump.dynamic_listeners.is_empty());
        assert_eq!(dump.version_info, "");
        assert_eq!(fixture.stats().listener_removed().value(), 0);
    })
    .await;
}

#[tokio::test]
async fn the_start_waits_for_the_first_answer_and_for_what_its_listeners_need() {
    run(async {
        let fixture = Fixture::new();
        let hcm = format!("filter_chains: [{{filters: [{HCM}]}}]");
        assert_eq!(fixture.init.unready(), ["LDS"]);
        fixture.deliver(&[listener("l", 0, &hcm)], &[]).unwrap();
        assert_eq!(fixture.init.unready(), ["Listener-init-target l"]);
        assert!(fixture.dump().dynamic_listeners[0].warming_state.is_some());
        let routes: RouteConfiguration = message("name: r");
        let kind = ResourceKind::RouteConfiguration;
        let sent = [resource("r", &routes)];
        fixture
            .client
            .deliver(&source(), kind, "1", &sent, &[])
            .unwrap();
        fixture.init.ready().await;
        fixture.start();
        let _client = fixture.connect("127.0.0.1").await;
        assert!(fixture.dump().dynamic_listeners[0].active_state.is_some());
        assert_eq!(fixture.dump().version_info, "7");
    })
    .await;
}
