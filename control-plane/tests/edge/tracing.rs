//! What the control plane tells of itself: spans at a collector of OpenTelemetry, and logs as JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use outrigger_control_plane::rpc::pb::registry;
use outrigger_proto::pb::envoy::config::core::v3::Node;
use outrigger_proto::pb::envoy::service::discovery::v3 as xds;
use outrigger_proto::pb::google::rpc::Status as RpcStatus;
use outrigger_xds_tests::binaries;
use parking_lot::Mutex;
use serde_json::Value as Json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::codegen::Service;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Response, Status};
use tonic_prost::ProstCodec;
use xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

use crate::scene::{Scene, block};
use crate::world::{eventually, ports};

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: api}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: a}
spec:
  address: 127.0.0.1
  serviceAccount: a
  ports: [{port: 9001, appPort: 9}]
  calls: [{service: api, port: 80, listen: \"127.0.0.1:9002\"}]
";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[derive(Clone, Debug)]
struct Seen {
    name: String,
    service: String,
    trace: String,
    parent: String,
    fields: BTreeMap<String, String>,
    is_error: bool,
}

/// A collector.
#[derive(Clone, Debug, Default)]
struct Collector(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
        for of_resource in request.into_inner().resource_spans {
            let service = fields(&of_resource.resource.unwrap_or_default().attributes);
            let service = service.get("service.name").cloned().unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter();
            for span in spans.flat_map(|scope| scope.spans) {
                self.0.lock().push(Seen {
                    fields: fields(&span.attributes),
                    trace: hex(&span.trace_id),
                    parent: hex(&span.parent_span_id),
                    is_error: span.status.is_some_and(|status| status.code == 2),
                    name: span.name,
                    service: service.clone(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn fields(list: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |it: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        let value = it.value.as_ref()?.value.as_ref()?;
        Some((it.key.clone(), text(value)))
    };
    list.iter().filter_map(value).collect()
}

impl Collector {
    fn start(address: SocketAddr) -> Self {
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        thread::spawn(move || {
            block(async {
                let listener = TcpListener::bind(address).await.unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let service = service.clone();
                    let call = service_fn(move |request| service.clone().call(request));
                    // Its client ends it without a word.
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), call)
                        .await;
                }
            });
        });
        collector
    }

    /// The first span of a name with these fields.
    fn find(&self, name: &str, wanted: &[(&str, &str)]) -> Option<Seen> {
        let has = |seen: &&Seen| {
            let mut wanted = wanted.iter();
            seen.name == name
                && wanted
                    .all(|(key, value)| seen.fields.get(*key).map(String::as_str) == Some(*value))
        };
        self.0.lock().iter().find(has).cloned()
    }
}

async fn register(channel: &Channel, port: u16, flags: &str) {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(registry::RegisterRequest {
        id: Some(registry::InstanceId {
            namespace: String::new(),
            service: "api".to_owned(),
            instance: "one".to_owned(),
        }),
        port: 80,
        address: format!("127.0.0.1:{port}"),
        ttl_seconds: 600,
        ..Default::default()
    });
    let parent = format!("00-{TRACE}-{CALLER}-{flags}").parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    let codec = ProstCodec::<_, registry::RegisterResponse>::default();
    let path = PathAndQuery::from_static("/outrigger.registry.v1.Registry/Register");
    client.unary(request, path, codec).await.unwrap();
}

/// A client of A that accepts its clusters and refuses the endpoints of a change.
async fn client(channel: Channel) {
    const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    let (send, receive) = mpsc::channel(8);
    let stream = tonic::codegen::tokio_stream::wrappers::ReceiverStream::new(receive);
    let subscribe = |kind: &str, names: &[&str]| xds::DeltaDiscoveryRequest {
        node: Some(Node {
            id: "sidecar/default/a".to_owned(),
            ..Node::default()
        }),
        type_url: kind.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    send.send(subscribe(CLUSTERS, &[])).await.unwrap();
    send.send(subscribe(ENDPOINTS, &["default/api/80"]))
        .await
        .unwrap();
    let mut discovery = AggregatedDiscoveryServiceClient::new(channel.clone());
    let responses = discovery.delta_aggregated_resources(stream).await.unwrap();
    let mut responses = responses.into_inner();
    let mut pushes = 0;
    while let Some(response) = responses.message().await.unwrap() {
        pushes += 1;
        let is_last = pushes == 3;
        let refusal = RpcStatus {
            message: "not this one".to_owned(),
            ..RpcStatus::default()
        };
        let answer = xds::DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail: is_last.then_some(refusal),
            ..Default::default()
        };
        send.send(answer).await.unwrap();
        if pushes == 2 {
            register(&channel, 9003, "01").await;
        }
        if is_last {
            // It is to read the answer before the end.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            return;
        }
    }
}

#[test]
fn a_collector_sees_what_led_to_a_push_and_what_became_of_it() {
    let folder = binaries::scratch("edge-tracing").unwrap();
    let [address] = ports();
    let collector = Collector::start(address);
    let url = format!("http://{address}");
    let flags = ["--tracing-otlp", &url, "--tracing-service", "the-mesh"];
    let flags = [&flags[..], &["--log-format", "json"]].concat();
    let scene = Scene::start(&folder, MESH, &flags);
    let own = scene.enroll("sidecar/default/a", "a");
    // The watcher reads the directory once more when it has begun to watch; what it causes is not to meet the registration.
    eventually(|| (scene.log(&["The input was taken over."]).len() >= 2).then_some(()));
    block(async { client(scene.channel(Some(&own)).await).await });
    let find = |name: &str, wanted: &[(&str, &str)]| eventually(|| collector.find(name, wanted));

    let node = ("node", "sidecar/default/a");
    let accepted = find(
        "push",
        &[node, ("kind", "clusters"), ("answer", "accepted")],
    );
    assert_eq!(accepted.fields["resources"], "2");
    assert_eq!(accepted.fields["version"].len(), 16);
    assert_eq!((&*accepted.service, accepted.is_error), ("the-mesh", false));
    assert_ne!(accepted.trace, TRACE);
    // From the call that registers an endpoint, which has a trace already, to the proxy that refuses it.
    let path = "/outrigger.registry.v1.Registry/Register";
    let request = find("request", &[("path", path), ("status", "200")]);
    assert_eq!((&*request.trace, &*request.parent), (TRACE, CALLER));
    let registration = find("registration", &[("service", "default/api")]);
    assert_eq!(registration.trace, TRACE);
    assert_eq!(find("build_world", &[("changed", "1")]).trace, TRACE);
    let refused = find("push", &[node, ("answer", "refused")]);
    assert_eq!((&*refused.trace, refused.is_error), (TRACE, true));
    assert_eq!(refused.fields["kind"], "endpoints");
    // And of what else it does.
    find("read_files", &[("files", "1"), ("errors", "0")]);
    let identity = "spiffe://mesh.local/ns/default/sa/a";
    find("sign_certificate", &[("identity", identity)]);
    find("request", &[("path", "/v1/enroll"), ("method", "POST")]);
    assert!(scene.plane.metric("spans_total", "exported") > 0);
    assert_eq!(scene.plane.metric("spans_total", "dropped"), 0);
    for line in scene.log(&[]) {
        let line: Json = serde_json::from_str(&line).unwrap();
        assert!(
            line["message"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    let refusal = &scene.log(&["A proxy has refused resources."])[0];
    let refusal: Json = serde_json::from_str(refusal).unwrap();
    assert_eq!(refusal["reason"], "not this one");
}

fn enrolled(name: &str, flags: &[&str]) -> (Scene, std::path::PathBuf) {
    let folder = binaries::scratch(name).unwrap();
    let scene = Scene::start(Path::new(&folder), MESH, flags);
    let own = scene.enroll("sidecar/default/a", "a");
    (scene, own)
}

#[test]
fn who_keeps_no_traces_of_its_own_goes_on_with_those_of_others() {
    let [address] = ports();
    let collector = Collector::start(address);
    let url = format!("http://{address}");
    let flags = ["--tracing-otlp", &url, "--tracing-sampling", "0"];
    let (scene, own) = enrolled("edge-tracing-sampling", &flags);
    block(async {
        let channel = scene.channel(Some(&own)).await;
        register(&channel, 9004, "00").await;
        register(&channel, 9005, "01").await;
    });
    eventually(|| collector.find("registration", &[]));
    thread::sleep(std::time::Duration::from_millis(500));
    let seen = collector.0.lock();
    assert!(seen.iter().all(|seen| seen.trace == TRACE), "{seen:?}");
    let calls = seen.iter().filter(|seen| seen.name == "registration");
    assert_eq!(calls.count(), 1, "the caller kept one of two");
}

#[test]
fn a_collector_that_is_not_there_stops_nothing() {
    let [address] = ports();
    let url = format!("http://{address}");
    let (scene, own) = enrolled("edge-tracing-dead", &["--tracing-otlp", &url]);
    block(async { client(scene.channel(Some(&own)).await).await });
    eventually(|| (scene.plane.metric("spans_total", "failed") > 10).then_some(()));
    assert_eq!(scene.plane.metric("spans_total", "exported"), 0);
    assert_eq!(scene.log(&["Spans cannot be sent"]).len(), 1);
}
