//! What the proxy tells of its resources by `envoy.service.status.v3`, asked with a client of tonic.

use std::marker::PhantomData;
use std::net::SocketAddr;

use outrigger_proto::pb::envoy::admin::v3::ClientResourceStatus as Status;
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::service::status::v3 as pb;
use outrigger_proto::pb::envoy::r#type::matcher::v3::NodeMatcher;
use outrigger_xds_tests::plane::{Kind, Resource};
use outrigger_xds_tests::proxy::admin_get;
use pb::client_config::GenericXdsConfig;
use prost::Message;
use tokio::time::{Instant, sleep};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream;
use tonic::transport::{Channel, Endpoint};

use crate::resources::{
    bad_cluster, bad_listener, bad_routes, cluster, eds_cluster, endpoints, rds_listener, routes,
};
use crate::stage::{AGGREGATED, SOON, STREAMS, Stage, Transport, tell_alone};

const WHY: &str = "it has no such service";
const SERVICE: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService";

/// Messages of this service.
struct Messages<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Messages<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + 'static> Codec for Messages<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T: Message, U> Encoder for Messages<T, U> {
    type Item = T;
    type Error = tonic::Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        item.encode(buffer)
            .map_err(|error| tonic::Status::internal(error.to_string()))
    }
}

impl<T, U: Message + Default> Decoder for Messages<T, U> {
    type Item = U;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, tonic::Status> {
        let message = U::decode(buffer);
        message
            .map(Some)
            .map_err(|error| tonic::Status::internal(error.to_string()))
    }
}

type Codecs = Messages<pb::ClientStatusRequest, pb::ClientStatusResponse>;

async fn connect(admin: SocketAddr) -> Grpc<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{admin}")).unwrap();
    let mut client = Grpc::new(endpoint.connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

fn path(method: &str) -> PathAndQuery {
    format!("{SERVICE}/{method}").parse().unwrap()
}

async fn fetch(
    stage: &Stage,
    request: pb::ClientStatusRequest,
) -> Result<pb::ClientConfig, tonic::Status> {
    let mut client = connect(stage.admin()).await;
    let request = tonic::Request::new(request);
    let method = path("FetchClientStatus");
    let response = client.unary(request, method, Codecs::default()).await?;
    let mut configs = response.into_inner().config;
    assert_eq!(configs.len(), 1);
    Ok(configs.remove(0))
}

async fn all(stage: &Stage) -> Vec<GenericXdsConfig> {
    fetch(stage, Default::default())
        .await
        .unwrap()
        .generic_xds_configs
}

fn find(all: &[GenericXdsConfig], kind: Kind, name: &str) -> Option<GenericXdsConfig> {
    let found = all
        .iter()
        .find(|known| known.type_url == kind.type_url() && known.name == name);
    found.cloned()
}

/// Waits until this is told of a resource.
async fn told(stage: &Stage, kind: Kind, name: &str, status: Status) -> GenericXdsConfig {
    let deadline = Instant::now() + SOON;
    loop {
        let found = find(&all(stage).await, kind, name);
        match found {
            Some(found) if found.client_status() == status => return found,
            found if Instant::now() > deadline => {
                panic!("{kind:?} {name} is not {status:?}: {found:?}")
            }
            _ => sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}

#[test]
fn every_resource_is_told_of_with_its_status_version_and_content() {
    tell_alone("status", &STREAMS, WHY, async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.more = format!(
            "layered_runtime: {{ layers: [{{ name: dynamic, rtds_layer: {{ name: layer, rtds_config: {source} }} }}] }}"
        );
        let version = stage.plane.set(
            Kind::Cds,
            [cluster("a", address), eds_cluster("e", &source)],
        );
        stage.plane.set(Kind::Eds, [endpoints("e", &[address])]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        let layer = "name: layer\nlayer: { story.key: there }";
        stage
            .plane
            .set(Kind::Rtds, [Resource::yaml(Kind::Rtds, layer)]);
        stage.run().await;
        stage.answers("l", 200, "first").await;

        let known = told(stage, Kind::Cds, "a", Status::Acked).await;
        assert_eq!(known.version_info, version);
        assert!(known.last_updated.is_some() && known.error_state.is_none());
        assert!(!known.is_static_resource);
        let content = known.xds_config.unwrap();
        assert_eq!(content.type_url, Kind::Cds.type_url());
        assert_eq!(Cluster::decode(&*content.value).unwrap().name, "a");
        for (kind, name) in [
            (Kind::Eds, "e"),
            (Kind::Lds, "l"),
            (Kind::Rds, "r"),
            (Kind::Rtds, "layer"),
        ] {
            let known = told(stage, kind, name, Status::Acked).await;
            assert!(known.xds_config.is_some(), "{known:?}");
            assert!(!known.version_info.is_empty(), "{known:?}");
        }
        let fixed = find(&all(stage).await, Kind::Cds, "plane").unwrap();
        assert!(fixed.is_static_resource && fixed.xds_config.is_some());
        assert_eq!(fixed.client_status(), Status::Unknown);

        stage.plane.put(Kind::Cds, bad_cluster("bad"));
        let refused = told(stage, Kind::Cds, "bad", Status::Nacked).await;
        let error = refused.error_state.unwrap();
        assert!(error.details.contains("not-an-ip"), "{error:?}");
        assert!(error.last_update_attempt.is_some() && error.failed_configuration.is_some());
        assert_eq!(
            (refused.version_info.as_str(), refused.xds_config),
            ("", None)
        );
        stage.plane.remove(Kind::Cds, &["bad"]);
        let gone = async {
            while find(&all(stage).await, Kind::Cds, "bad").is_some() {
                sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, gone)
            .await
            .expect("what is not wanted any more is forgotten");
    });
}

#[test]
fn what_is_refused_is_told_of_with_what_is_in_force() {
    tell_alone("status-refused", &AGGREGATED, WHY, async |stage| {
        let address = stage.backend("first").await;
        let first = stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, []);
        stage.run().await;
        let second = stage.plane.set(Kind::Cds, [bad_cluster("a")]);
        let refused = told(stage, Kind::Cds, "a", Status::Nacked).await;
        assert_eq!(refused.version_info, first);
        let cluster = Cluster::decode(&*refused.xds_config.unwrap().value).unwrap();
        assert_eq!(cluster.name, "a");
        assert_eq!(refused.error_state.unwrap().version_info, second);
    });
}

/// Of every kind: what is in force stays told of, with why its successor was refused and what that was.
#[test]
fn the_error_of_a_refused_resource_is_told_of_for_every_kind() {
    tell_alone("status-errors", &STREAMS, WHY, async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.more = format!(
            "layered_runtime: {{ layers: [{{ name: dynamic, rtds_layer: {{ name: layer, rtds_config: {source} }} }}] }}"
        );
        let layer = |text: &str| Resource::yaml(Kind::Rtds, text);
        stage
            .plane
            .set(Kind::Rtds, [layer("name: layer\nlayer: { a: b }")]);
        stage.plane.set(Kind::Cds, [eds_cluster("e", &source)]);
        stage.plane.set(Kind::Eds, [endpoints("e", &[address])]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.plane.set(Kind::Rds, [routes("r", "e")]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        for (kind, name, bad, says) in [
            (Kind::Cds, "e", bad_cluster("e"), "not-an-ip"),
            (Kind::Lds, "l", bad_listener("l"), "filter_chains"),
            (Kind::Rds, "r", bad_routes("r"), "same"),
            (
                Kind::Eds,
                "e",
                Resource::yaml(Kind::Eds, "cluster_name: e\nendpoints: [{ priority: 500 }]"),
                "priority",
            ),
        ] {
            let before = told(stage, kind, name, Status::Acked).await;
            let version = stage.plane.set(kind, [bad.clone()]);
            let refused = told(stage, kind, name, Status::Nacked).await;
            assert_eq!(refused.version_info, before.version_info, "{kind:?}");
            assert_eq!(refused.xds_config, before.xds_config, "{kind:?}");
            let error = refused.error_state.unwrap();
            assert_eq!(error.version_info, version, "{kind:?}");
            assert!(error.details.contains(says), "{kind:?}: {}", error.details);
            assert!(error.last_update_attempt.is_some(), "{kind:?}");
            let failed = error.failed_configuration.map(|any| any.value);
            let sent = bad.body.map(|any| any.value);
            assert_eq!(failed, sent, "{kind:?}");
            stage.answers("l", 200, "first").await;
        }
        // An accepted version ends it.
        stage.plane.set(Kind::Rds, [routes("r", "e")]);
        let mended = told(stage, Kind::Rds, "r", Status::Acked).await;
        assert_eq!(mended.error_state, None);
    });
}

#[test]
fn what_does_not_come_is_told_of() {
    tell_alone(
        "status-missing",
        &[Transport::Ads, Transport::DeltaAds],
        WHY,
        async |stage| {
            let source = stage.source();
            let impatient = stage.source_with("initial_fetch_timeout: 0.2s,");
            stage.plane.set(
                Kind::Cds,
                [
                    eds_cluster("waits", &source),
                    eds_cluster("gives-up", &impatient),
                ],
            );
            stage.start().await;
            let waits = told(stage, Kind::Eds, "waits", Status::Requested).await;
            assert_eq!((waits.xds_config, waits.last_updated), (None, None));
            told(stage, Kind::Eds, "gives-up", Status::Timeout).await;
            let address = stage.backend("first").await;
            stage.plane.set(
                Kind::Eds,
                [
                    endpoints("waits", &[address]),
                    endpoints("gives-up", &[address]),
                ],
            );
            told(stage, Kind::Eds, "waits", Status::Acked).await;
            told(stage, Kind::Eds, "gives-up", Status::Acked).await;
            if stage.transport == Transport::DeltaAds {
                stage.plane.remove(Kind::Eds, &["waits"]);
                told(stage, Kind::Eds, "waits", Status::DoesNotExist).await;
            }
        },
    );
}

#[test]
fn requests_are_answered_one_by_one_on_the_port_of_the_pages() {
    tell_alone("status-requests", &[Transport::Ads], WHY, async |stage| {
        let address = stage.backend("first").await;
        stage
            .plane
            .set(Kind::Cds, [cluster("a", address), bad_cluster("bad")]);
        stage.plane.set(Kind::Lds, []);
        stage.run().await;
        told(stage, Kind::Cds, "bad", Status::Nacked).await;
        let bare = pb::ClientStatusRequest {
            exclude_resource_contents: true,
            ..Default::default()
        };
        let config = fetch(stage, bare.clone()).await.unwrap();
        let node = config.node.unwrap();
        assert_eq!((&*node.id, &*node.user_agent_name), ("story", "envoy"));
        assert!(config.generic_xds_configs.len() > 2);
        for known in config.generic_xds_configs {
            assert_eq!(known.xds_config, None);
            let failed = known
                .error_state
                .and_then(|error| error.failed_configuration);
            assert_eq!(failed, None);
        }

        let mut client = connect(stage.admin()).await;
        let requests = tokio_stream::iter([bare.clone(), pb::ClientStatusRequest::default()]);
        let method = path("StreamClientStatus");
        let streaming = client
            .streaming(tonic::Request::new(requests), method, Codecs::default())
            .await;
        let mut answers = streaming.unwrap().into_inner();
        let mut contents = vec![];
        while let Some(answer) = answers.message().await.unwrap() {
            let configs = &answer.config[0].generic_xds_configs;
            contents.push(configs.iter().any(|known| known.xds_config.is_some()));
        }
        assert_eq!(contents, [false, true]);

        let picky = pb::ClientStatusRequest {
            node_matchers: vec![NodeMatcher::default()],
            ..Default::default()
        };
        let refused = fetch(stage, picky).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let mut client = connect(stage.admin()).await;
        let call = client.unary(
            tonic::Request::new(bare),
            path("OtherMethod"),
            Codecs::default(),
        );
        assert_eq!(call.await.unwrap_err().code(), tonic::Code::Unimplemented);
        assert_eq!(admin_get(stage.admin(), "/ready").await.unwrap().0, 200);
    });
}
