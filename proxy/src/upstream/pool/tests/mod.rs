mod http1;
mod http2;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::LocalBoxFuture;
use crate::http::{EndStream, RequestHead};
use crate::net::Address;
use crate::server::{LocalInfo, ServerContext};
use crate::upstream::circuit_breaker::Thresholds;
use crate::upstream::cluster::{
    ClusterInfo, ClusterSettings, ClusterTrafficStats, CommonHttpOptions,
};
use crate::upstream::host::Host;
use crate::upstream::priority_set::{HostGroup, PrioritySet};
use crate::upstream::shared_cluster::Cluster;
use crate::upstream::worker_cluster::WorkerCluster;

/// Connections whose other ends the test holds.
#[derive(Debug, Default)]
struct InMemory {
    /// What comes of the next attempts; then all succeed.
    outcomes: RefCell<VecDeque<Outcome>>,
    peers: RefCell<VecDeque<DuplexStream>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Refused,
    NoAnswer,
}

impl Connector for InMemory {
    fn connect(
        &self,
        _: &Host,
        _: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>> {
        match self.outcomes.borrow_mut().pop_front() {
            Some(Outcome::Refused) => {
                let error =
                    ConnectError::Failed("delayed connect error: Connection refused".into());
                Box::pin(async { Err(error) })
            }
            Some(Outcome::NoAnswer) => Box::pin(std::future::pending()),
            None => {
                let (near, far) = tokio::io::duplex(64 * 1024);
                self.peers.borrow_mut().push_back(far);
                let connected = Connected {
                    io: near.into(),
                    local_address: None,
                    remote_address: None,
                    tls: None,
                };
                Box::pin(async { Ok(connected) })
            }
        }
    }
}

struct Harness {
    cluster: Rc<WorkerCluster>,
    host: Rc<WorkerHost>,
    connector: Rc<InMemory>,
    stats: ClusterTrafficStats,
}

impl Harness {
    fn new(settings: ClusterSettings) -> Self {
        let server = ServerContext::new(0, LocalInfo::default());
        let info = ClusterInfo::new(&server, "a", Arc::new(settings));
        let stats = info.stats.clone();
        let address = Address::Ip(SocketAddr::from(([127, 0, 0, 1], 1)));
        let group = HostGroup {
            locality: Arc::default(),
            weight: 0,
            priority: 0,
            hosts: vec![Arc::new(Host::new(address, 0))],
        };
        let hosts = PrioritySet::new([group].into_iter(), 140, false);
        let connector = Rc::new(InMemory::default());
        let cluster = Rc::new(WorkerCluster::new(
            Arc::new(Cluster::new(info, hosts)),
            0,
            connector.clone(),
        ));
        Self {
            host: cluster.choose_host(&AnyHost).unwrap(),
            cluster,
            connector,
            stats,
        }
    }

    fn acquire(&self) -> Acquire {
        self.cluster
            .new_http_stream(&self.host, &StreamRequest::default())
    }

    /// A stream on a new connection, with the peer's end.
    async fn connect(&self) -> (ClientStream, DuplexStream) {
        let stream = pending(self.acquire()).await.unwrap();
        let peer = self.connector.peers.borrow_mut().pop_front().unwrap();
        (stream, peer)
    }

    fn connections(&self) -> u64 {
        self.stats.upstream_cx_total().value()
    }
}

struct AnyHost;

impl crate::upstream::LoadBalancerContext for AnyHost {
    fn random(&self) -> u64 {
        0
    }
}

fn settings(http: CommonHttpOptions) -> ClusterSettings {
    let mut settings = ClusterSettings::default();
    settings.http.common = http;
    settings
}

fn limits(default: Thresholds) -> ClusterSettings {
    let mut settings = ClusterSettings::default();
    settings.circuit_breakers.default = default;
    settings
}

#[track_caller]
fn pending(acquire: Acquire) -> PendingStream {
    match acquire {
        Acquire::Pending(pending) => pending,
        other => panic!("not pending: {other:?}"),
    }
}

#[track_caller]
fn ready(acquire: Acquire) -> ClientStream {
    match acquire {
        Acquire::Ready(stream) => stream,
        other => panic!("not ready: {other:?}"),
    }
}

fn send_get(stream: &mut ClientStream) {
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    head.set_path(b"/");
    head.set_authority(b"a");
    stream.send_head(&head, EndStream::Yes);
}

/// Reads one request head on the peer's side and answers it.
async fn answer(peer: &mut DuplexStream, response: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(
            peer.read_buf(&mut request).await.unwrap(),
            0,
            "closed early"
        );
    }
    peer.write_all(response.as_bytes()).await.unwrap();
}

/// A whole exchange on the stream.
async fn exchange(stream: &mut ClientStream, peer: &mut DuplexStream, response: &str) {
    send_get(stream);
    poll_fn(|cx| stream.poll_flush(cx)).await;
    answer(peer, response).await;
    loop {
        match poll_fn(|cx| stream.poll_event(cx)).await {
            ResponseEvent::Head(_, EndStream::Yes)
            | ResponseEvent::Data(_, EndStream::Yes)
            | ResponseEvent::Reset(_) => return,
            _ => {}
        }
    }
}

/// Lets tasks that are ready run.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
