//! A workload that is let in, and asks by name for the secret of another.

use outrigger_proto::pb::envoy::config::core::v3::Node;
use outrigger_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use outrigger_xds_tests::binaries;
use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::scene::{Scene, block};
use crate::world::{eventually, ports};

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const OWN: &str = "spiffe://mesh.local/ns/default/sa/a";
const OTHER: &str = "spiffe://mesh.local/ns/default/sa/b";

/// Sends requests and gives the first answer.
async fn first<Q, A>(channel: &Channel, path: &'static str, requests: Vec<Q>) -> A
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    // The stream stays open until there is an answer.
    let (send, receive) = tokio::sync::mpsc::channel(8);
    for request in requests {
        send.send(request).await.unwrap();
    }
    let codec = ProstCodec::<Q, A>::default();
    let stream = Requests(receive);
    let path = PathAndQuery::from_static(path);
    let request = tonic::Request::new(stream);
    let mut answers = client
        .streaming(request, path, codec)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    drop(send);
    answer
}

struct Requests<T>(tokio::sync::mpsc::Receiver<T>);

impl<T> tokio_stream::Stream for Requests<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

#[test]
fn who_asks_for_the_secret_of_another_gets_none_and_is_noted() {
    let folder = binaries::scratch("edge-theft").unwrap();
    let [gateway, a, b] = ports();
    let text = include_str!("calls.yaml")
        .replace("GATEWAY", &gateway.port().to_string())
        .replace("PORT_A", &a.port().to_string())
        .replace("PORT_B", &b.port().to_string());
    let scene = Scene::start(&folder, &text, &[]);
    let own = scene.enroll("sidecar/default/a", "a");
    let node = Some(Node {
        id: "sidecar/default/a".to_owned(),
        ..Node::default()
    });
    let denied = || scene.plane.metric("secret_denied_total", "");
    assert_eq!(denied(), 0);
    block(async {
        let channel = scene.channel(Some(&own)).await;
        let names = [OTHER, OWN, "default", "ROOTCA"]
            .map(str::to_owned)
            .to_vec();
        let delta = DeltaDiscoveryRequest {
            node: node.clone(),
            type_url: SECRET.to_owned(),
            resource_names_subscribe: names.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        let sotw = DiscoveryRequest {
            node: node.clone(),
            type_url: SECRET.to_owned(),
            resource_names: names,
            ..DiscoveryRequest::default()
        };
        // On the aggregated stream and on one of its own, in both variants.
        for (count, path) in (1..).zip([
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        ]) {
            let answer: DeltaDiscoveryResponse = first(&channel, path, vec![delta.clone()]).await;
            let mut given: Vec<_> = answer.resources.iter().map(|it| &*it.name).collect();
            given.sort_unstable();
            assert_eq!(given, ["ROOTCA", "default"], "its own, and nothing else");
            assert!(answer.removed_resources.iter().any(|name| name == OTHER));
            assert_eq!(denied(), count);
        }
        for (count, path) in (3..).zip([
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        ]) {
            let answer: DiscoveryResponse = first(&channel, path, vec![sotw.clone()]).await;
            assert_eq!(answer.resources.len(), 2, "its own, and nothing else");
            assert_eq!(denied(), count);
        }
    });
    let line = eventually(|| scene.log(&["was asked for, and not given"]).pop());
    for word in [OWN, OTHER, "audit"] {
        assert!(line.contains(word), "{line}");
    }
}
