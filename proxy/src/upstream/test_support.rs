//! Clusters whose hosts are tasks of the test: they note what they are asked and answer what they are told to.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::cluster::{LookupFamily, ResolverSettings};
use super::pool::{ConnectError, Connected, Connector, SocketSettings};
use super::{ClusterConfig, ClusterManager, DnsError, Host, Resolved, Resolver, WorkerClusters};
use crate::LocalBoxFuture;
use crate::config::{ConfigPath, ConfigReport};
use crate::server::{LocalInfo, ServerContext, Worker};

/// All hosts of all clusters.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    requests: RefCell<VecDeque<String>>,
    responses: RefCell<VecDeque<Answer>>,
    /// All bytes that came, whole requests or not.
    received: RefCell<Vec<u8>>,
    /// Connections that were closed from our side.
    closed: Cell<usize>,
}

/// How a backend answers its next request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// By these bytes.
    With(String),
    /// Not at all.
    Never,
    /// By closing the connection.
    Close,
}

/// A worker, the manager of its clusters, and their hosts.
pub(crate) struct TestWorker {
    pub(crate) server: Arc<ServerContext>,
    pub(crate) worker: Rc<Worker>,
    pub(crate) backends: Rc<Backends>,
    _manager: Rc<ClusterManager>,
}

#[derive(Debug)]
struct NoResolver;

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

impl TestWorker {
    /// A worker with the cluster `name` for each of `clusters`: a name, and what else it says in YAML.
    pub(crate) fn new(clusters: &[(&str, &str)]) -> Self {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        let manager = ClusterManager::new(server.clone(), 1, Rc::new(NoResolver));
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "cluster");
        for (name, fields) in clusters {
            let endpoint =
                "{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}}";
            let yaml = format!(
                "name: {name}\nload_assignment: {{cluster_name: x, endpoints: [{{lb_endpoints: [{endpoint}]}}]}}\n{fields}"
            );
            let source = Source {
                name: "test",
                format: Format::Yaml,
                bytes: yaml.as_bytes(),
            };
            let proto: pb::Cluster = load(&[source], UnknownFields::Refuse).unwrap();
            manager.add(ClusterConfig::from_proto(proto, &server, &path).ok());
        }
        assert!(report.is_empty(), "{:?}", report.take());
        let backends = Rc::new(Backends::default());
        let clusters = WorkerClusters::with_connector(
            manager.table().clone(),
            0,
            Rc::new(ToBackends(backends.clone())),
        );
        let worker = Worker::new(0, server.clone(), clusters, 1);
        Self {
            server,
            worker,
            backends,
            _manager: manager,
        }
    }

    /// The value of a counter or gauge; 0 for one that was never made.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let groups = self.server.stats.groups();
        let stats = groups
            .iter()
            .flat_map(|group| (0..group.len()).map(move |index| (group, index)));
        let named = stats
            .filter(|(group, index)| format!("{}{}", group.prefix(), group.stat(*index).0) == name);
        named
            .map(|(group, index)| group.counter(index).value())
            .sum()
    }
}

impl Backends {
    /// The next request without an answer yet is answered by `response`, with a body of known length.
    pub(crate) fn respond(&self, status: u16, fields: &str, body: &str) {
        self.answer(Answer::With(format!(
            "HTTP/1.1 {status} X\r\n{fields}content-length: {}\r\n\r\n{body}",
            body.len()
        )));
    }

    pub(crate) fn answer(&self, answer: Answer) {
        self.responses.borrow_mut().push_back(answer);
    }

    /// The next request that came, head and body; none if there is none.
    pub(crate) fn request(&self) -> Option<String> {
        self.requests.borrow_mut().pop_front()
    }

    /// All that came since this was last asked, whole requests or not.
    pub(crate) fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.take()).into_owned()
    }

    /// How many connections have ended.
    pub(crate) fn closed(&self) -> usize {
        self.closed.get()
    }

    async fn serve(self: Rc<Self>, mut peer: DuplexStream) {
        let mut input = Vec::new();
        loop {
            let Some(request) = read_request(&mut peer, &mut input, &self.received).await else {
                break;
            };
            self.requests.borrow_mut().push_back(request);
            let answer = self.responses.borrow_mut().pop_front();
            match answer {
                Some(Answer::With(response)) => {
                    if peer.write_all(response.as_bytes()).await.is_err() {
                        break;
                    }
                }
                Some(Answer::Never) => {}
                Some(Answer::Close) | None => break,
            }
        }
        self.closed.set(self.closed.get() + 1);
    }
}

/// Head and body of one request; none at the end of the connection.
async fn read_request(
    peer: &mut DuplexStream,
    input: &mut Vec<u8>,
    received: &RefCell<Vec<u8>>,
) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(input).into_owned();
        if let Some(head_end) = text.find("\r\n\r\n").map(|at| at + 4) {
            let head = &text[..head_end];
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let end = match length {
                Some(length) => Some(head_end + length).filter(|end| input.len() >= *end),
                None if head.contains("transfer-encoding: chunked") => text
                    .find("\r\n0\r\n")
                    .and_then(|at| Some(at + 1 + text[at + 1..].find("\r\n\r\n")? + 4)),
                None => Some(head_end),
            };
            if let Some(end) = end {
                return Some(
                    String::from_utf8_lossy(&input.drain(..end).collect::<Vec<_>>()).into_owned(),
                );
            }
        }
        let known = input.len();
        if peer.read_buf(input).await.ok()? == 0 {
            return None;
        }
        received.borrow_mut().extend_from_slice(&input[known..]);
    }
}

/// Connects to the backends.
#[derive(Debug)]
struct ToBackends(Rc<Backends>);

impl Connector for ToBackends {
    fn connect(
        &self,
        _: &Host,
        _: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::task::spawn_local(self.0.clone().serve(far));
        Box::pin(async {
            Ok(Connected {
                io: near.into(),
                local_address: None,
                remote_address: None,
                tls: None,
            })
        })
    }
}
