//! A proxy as the control plane sees one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_control_plane::admin::client::Client as Operator;
use outrigger_proto::pb::envoy::config::core::v3::Node;
use outrigger_proto::pb::envoy::service::discovery::v3 as pb;
use outrigger_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::tokio_stream::Stream;

use super::mesh::Expected;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// The endpoints of the service that changes.
const WATCHED: &str = "default/s0/80";

/// Connects and takes what comes, for ever. Says when it has everything, and then of each change.
pub(crate) async fn run(
    server: SocketAddr,
    tls: Arc<ClientConfig>,
    node: String,
    expected: Expected,
    seen: mpsc::UnboundedSender<Instant>,
) {
    let stream = TcpStream::connect(server).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut tls = Arc::unwrap_or_clone(tls);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let stream = Operator::secure(&server.to_string(), Arc::new(tls), stream)
        .await
        .unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    drop(tokio::spawn(connection));
    let origin = http::Uri::from_static("http://control-plane");
    let mut client = AggregatedDiscoveryServiceClient::with_origin(Sender(sender), origin)
        .max_decoding_message_size(usize::MAX);
    let (requests, outgoing) = mpsc::unbounded_channel();
    let mut first = subscribe(CLUSTER, Vec::new());
    first.node = Some(Node {
        id: node,
        user_agent_name: "bench".to_owned(),
        ..Node::default()
    });
    requests.send(first).unwrap();
    requests.send(subscribe(LISTENER, Vec::new())).unwrap();
    let names = vec!["default".to_owned(), "ROOTCA".to_owned()];
    requests.send(subscribe(SECRET, names)).unwrap();
    let mut responses = client
        .delta_aggregated_resources(Requests(outgoing))
        .await
        .unwrap()
        .into_inner();
    let mut have: BTreeMap<String, usize> = BTreeMap::new();
    let mut is_complete = false;
    while let Some(response) = responses.message().await.unwrap() {
        let at = Instant::now();
        requests
            .send(pb::DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce,
                ..Default::default()
            })
            .unwrap();
        let names = response.resources.iter().map(|resource| &*resource.name);
        match response.type_url.as_str() {
            CLUSTER => {
                let names = names.filter(|name| !name.starts_with("app/"));
                let names = names.map(str::to_owned).collect();
                requests.send(subscribe(ENDPOINTS, names)).unwrap();
            }
            LISTENER => {
                let names = names.map(|name| name.trim_start_matches("outbound/").to_owned());
                requests.send(subscribe(ROUTE, names.collect())).unwrap();
            }
            ENDPOINTS if is_complete => {
                if names.into_iter().any(|name| name == WATCHED) {
                    seen.send(at).unwrap();
                }
                continue;
            }
            _ => {}
        }
        *have.entry(response.type_url).or_default() += response.resources.len();
        let count = |kind: &str| have.get(kind).copied().unwrap_or(0);
        if !is_complete
            && count(ENDPOINTS) >= expected.services
            && count(ROUTE) >= expected.listeners
            && count(SECRET) == 2
        {
            is_complete = true;
            seen.send(at).unwrap();
        }
    }
    panic!("the control plane has ended a stream");
}

fn subscribe(kind: &str, names: Vec<String>) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest {
        type_url: kind.to_owned(),
        resource_names_subscribe: names,
        ..Default::default()
    }
}

struct Requests(mpsc::UnboundedReceiver<pb::DeltaDiscoveryRequest>);

impl Stream for Requests {
    type Item = pb::DeltaDiscoveryRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

#[derive(Clone)]
struct Sender(hyper::client::conn::http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut sender = self.0.clone();
        Box::pin(async move { sender.send_request(request).await })
    }
}
