//! Connections of a listener, from the socket to the filter chain, over socket pairs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::listener::v3 as pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::LocalSet;

use super::handler::{Accepted, ConnectionHandler, NewListener};
use super::{Listener, ListenerManager};
use crate::config::{ConfigPath, ConfigReport};
use crate::net::Address;
use crate::server::{LocalInfo, ServerContext, Worker};
use crate::upstream::WorkerClusters;

const ECHO: &str = r#"{name: e, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}"#;
const PROXY_PROTOCOL: &str = r#"{name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}"#;

pub(super) struct Harness {
    server: Arc<ServerContext>,
    pub(super) handler: Rc<ConnectionHandler>,
    config: Arc<Listener>,
}

fn proto(yaml: &str) -> pb::Listener {
    let yaml = format!("name: l\naddress: {{pipe: {{path: '@l'}}}}\n{yaml}");
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    load(&[source], UnknownFields::Refuse).unwrap()
}

pub(super) fn harness(yaml: &str) -> Harness {
    let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "listener");
    let config = Listener::from_proto(proto(yaml), &server, &path);
    let config = Arc::new(config.unwrap_or_else(|_| panic!("{:?}", report.take())));
    let worker = Worker::new(0, server.clone(), WorkerClusters::default(), 1);
    let handler = ConnectionHandler::new(worker, Arc::new([]));
    handler
        .add_listener(NewListener {
            id: 1,
            config: config.clone(),
            sockets: Vec::new(),
            addresses: Vec::new(),
            balance: None,
        })
        .unwrap();
    Harness {
        server,
        handler,
        config,
    }
}

impl Harness {
    fn connect(&self) -> UnixStream {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let accepted = Accepted::unix(theirs, Address::Pipe("@l".into()));
        self.handler.take_connection(1, accepted);
        UnixStream::from_std(ours).unwrap()
    }
}

async fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

#[tokio::test]
async fn a_header_in_pieces_is_consumed_and_the_rest_reaches_the_chain() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let harness = harness(&format!(
                "listener_filters: [{PROXY_PROTOCOL}]\nfilter_chains: [{{filter_chain_match: {{source_prefix_ranges: [{{address_prefix: 1.2.0.0, prefix_len: 16}}]}}, filters: [{ECHO}]}}]"
            ));
            let mut client = harness.connect();
            for piece in ["PROXY TCP4 1.2.3.4 5.6", ".7.8 10 20\r\nhello"] {
                client.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
            assert_eq!(read_all(&mut client).await, b"hello");
            let stats = &harness.config.stats;
            assert_eq!(stats.downstream_cx_total().value(), 1);
            assert_eq!(stats.downstream_pre_cx_active().value(), 0);
        })
        .await;
}

#[tokio::test]
async fn a_connection_without_a_chain_is_closed_and_counted() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let harness = harness(&format!(
                "filter_chains: [{{filter_chain_match: {{transport_protocol: tls}}, filters: [{ECHO}]}}]"
            ));
            let mut client = harness.connect();
            assert_eq!(read_all(&mut client).await, b"");
            let stats = &harness.config.stats;
            assert_eq!(stats.no_filter_chain_match().value(), 1);
            assert_eq!(stats.downstream_cx_total().value(), 0);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn listener_filters_that_take_too_long_close_the_connection_or_are_passed_by() {
    let local = LocalSet::new();
    local
        .run_until(async {
            for (more, expected) in [("", &b""[..]), ("continue_on_listener_filters_timeout: true", b"PROXY")] {
                let harness = harness(&format!(
                    "listener_filters: [{PROXY_PROTOCOL}]\n{more}\nlistener_filters_timeout: 3s\nfilter_chains: [{{filters: [{ECHO}]}}]"
                ));
                let mut client = harness.connect();
                client.write_all(b"PROXY").await.unwrap();
                let began = tokio::time::Instant::now();
                tokio::time::sleep(Duration::from_secs(4)).await;
                assert!(began.elapsed() >= Duration::from_secs(3));
                let _ = client.shutdown().await;
                assert_eq!(read_all(&mut client).await, expected);
                assert_eq!(harness.config.stats.downstream_pre_cx_timeout().value(), 1);
            }
        })
        .await;
}

#[tokio::test]
async fn the_handler_has_finished_when_its_last_connection_has_gone() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let harness = harness(&format!("filter_chains: [{{filters: [{ECHO}]}}]"));
            let mut client = harness.connect();
            client.write_all(b"x").await.unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).await.unwrap();
            harness.handler.drain(false, None);
            harness.handler.stop_listening(false);
            let finished = harness.handler.finished();
            tokio::pin!(finished);
            assert!(futures_pending(&mut finished).await);
            drop(client);
            finished.await;
            assert_eq!(harness.config.stats.downstream_cx_destroy().value(), 1);
            assert_eq!(harness.server.overload.connections.active(), 0);
        })
        .await;
}

async fn futures_pending<F: Future<Output = ()> + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| {
        let pending = std::pin::Pin::new(&mut *future).poll(cx).is_pending();
        std::task::Poll::Ready(pending)
    })
    .await
}

#[test]
fn every_error_of_a_listener_is_found() {
    let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "listener \"l\"");
    let yaml = format!(
        r#"
enable_mptcp: false
udp_listener_config: {{}}
listener_filters: [{{name: x}}]
filter_chains:
- filters: [{ECHO}, {ECHO}]
- transport_socket: {{name: t, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext}}}}
  filters: [{ECHO}]
"#
    );
    assert!(Listener::from_proto(proto(&yaml), &server, &path).is_err());
    let paths: Vec<String> = report
        .take()
        .iter()
        .map(|error| error.path.clone())
        .collect();
    assert_eq!(
        paths,
        [
            "listener \"l\" / udp_listener_config",
            "listener \"l\" / listener_filters[0] / typed_config",
            "listener \"l\" / filter_chains[0] / filters[0]",
            "listener \"l\" / filter_chains[1] / transport_socket / typed_config / common_tls_context",
            "listener \"l\" / filter_chains[1] / filter_chain_match",
        ]
    );
}

#[test]
fn two_listeners_cannot_have_the_same_address() {
    let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
    let manager = ListenerManager::new(server, 1);
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "listener");
    let first = proto(&format!("filter_chains: [{{filters: [{ECHO}]}}]"));
    let second = pb::Listener {
        name: "other".into(),
        ..first.clone()
    };
    manager.add(first, &path).unwrap();
    assert!(manager.add(second, &path).is_err());
    assert_eq!(
        report.take()[0].to_string(),
        "listener / address: @l is the address of listener \"l\" already"
    );
}
