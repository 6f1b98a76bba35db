//! The calls of gRPC: a certificate by Istio's, and with it a process that joins by itself.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use outrigger_control_plane::ca::validity_of;
use outrigger_control_plane::rpc::pb::istio::{IstioCertificateRequest, IstioCertificateResponse};
use outrigger_control_plane::rpc::pb::registry as pb;
use outrigger_xds_tests::binaries;
use rcgen::{CertificateParams, KeyPair, SanType};
use tonic::Code;
use tonic::transport::Channel;

use crate::scene::{Scene, block, get_host, process_at, unary};
use crate::world::{eventually, ports};

const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const REGISTER: &str = "/outrigger.registry.v1.Registry/Register";
const HEARTBEAT: &str = "/outrigger.registry.v1.Registry/Heartbeat";
const DEREGISTER: &str = "/outrigger.registry.v1.Registry/Deregister";

fn scene(name: &str) -> (Scene, SocketAddr) {
    let folder = binaries::scratch(&format!("edge-calls-{name}")).unwrap();
    let [gateway, a, b] = ports();
    let text = include_str!("calls.yaml")
        .replace("GATEWAY", &gateway.port().to_string())
        .replace("PORT_A", &a.port().to_string())
        .replace("PORT_B", &b.port().to_string());
    (Scene::start(&folder, &text, &[]), gateway)
}

/// A request for a certificate that names an identity, or none.
fn request(key: &KeyPair, identity: Option<&str>, seconds: i64) -> IstioCertificateRequest {
    let mut params = CertificateParams::default();
    let names = identity.map(|identity| SanType::URI(identity.try_into().unwrap()));
    params.subject_alt_names.extend(names);
    IstioCertificateRequest {
        csr: params.serialize_request(key).unwrap().pem().unwrap(),
        validity_duration: seconds,
        metadata: None,
    }
}

async fn create(
    channel: &Channel,
    token: Option<&str>,
    request: IstioCertificateRequest,
) -> Result<Vec<String>, Code> {
    let answer: Result<IstioCertificateResponse, _> = unary(channel, CREATE, token, request).await;
    answer
        .map(|it| it.cert_chain)
        .map_err(|status| status.code())
}

#[test]
fn istios_call_gives_a_certificate_for_a_token_or_a_certificate() {
    let (scene, _) = scene("istio");
    let own = "spiffe://mesh.local/ns/default/sa/a";
    let key = KeyPair::generate().unwrap();
    let token = scene.plane.token("sidecar/default/a", 600);
    block(async {
        let channel = scene.channel(None).await;
        let asked = request(&key, Some(own), 600);
        assert_eq!(
            create(&channel, None, asked.clone()).await,
            Err(Code::Unauthenticated)
        );
        let other = request(&key, Some("spiffe://mesh.local/ns/default/sa/b"), 600);
        let wasted = scene.plane.token("sidecar/default/a", 600);
        let before = scene.plane.metric("secret_denied_total", "");
        let denied = create(&channel, Some(&wasted), other).await;
        assert_eq!(denied, Err(Code::PermissionDenied));
        assert_eq!(scene.plane.metric("secret_denied_total", ""), before + 1);
        let line = scene.log(&["was asked for, and not given", "sa/a", "sa/b"]);
        assert_eq!(line.len(), 1);

        let chain = create(&channel, Some(&token), asked.clone()).await.unwrap();
        assert_eq!(chain.len(), 3, "certificate, intermediate and root");
        let (from, until) = validity_of(&chain[0]).unwrap();
        // A minute for clocks that differ.
        assert_eq!(
            until.duration_since(from).unwrap(),
            Duration::from_secs(660)
        );
        let roots = fs::read_to_string(scene.folder.join("state/roots.pem")).unwrap();
        assert_eq!(chain[2], roots);
        let again = create(&channel, Some(&token), asked).await;
        assert_eq!(again, Err(Code::Unauthenticated), "a token serves once");

        let directory = scene.folder.join("own");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("certificate.pem"), chain[..2].concat()).unwrap();
        fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
        let channel = scene.channel(Some(&directory)).await;
        let next = create(&channel, None, request(&key, None, 0))
            .await
            .unwrap();
        assert_eq!(next.len(), 3, "and a certificate gives the next one");
        let junk = IstioCertificateRequest {
            csr: "junk".to_owned(),
            ..IstioCertificateRequest::default()
        };
        assert_eq!(
            create(&channel, None, junk).await,
            Err(Code::InvalidArgument)
        );
    });
}

fn id() -> Option<pb::InstanceId> {
    Some(pb::InstanceId {
        namespace: "default".to_owned(),
        service: "api".to_owned(),
        instance: "one".to_owned(),
    })
}

async fn register(
    channel: &Channel,
    token: Option<&str>,
    request: pb::RegisterRequest,
) -> Result<u32, Code> {
    let answer: Result<pb::RegisterResponse, _> = unary(channel, REGISTER, token, request).await;
    answer
        .map(|it| it.ttl_seconds)
        .map_err(|status| status.code())
}

async fn heartbeat(channel: &Channel) -> Result<(), Code> {
    let request = pb::HeartbeatRequest { id: id() };
    let answer: Result<pb::HeartbeatResponse, _> = unary(channel, HEARTBEAT, None, request).await;
    answer.map(drop).map_err(|status| status.code())
}

async fn deregister(channel: &Channel) -> Result<(), Code> {
    let request = pb::DeregisterRequest { id: id() };
    let answer: Result<pb::DeregisterResponse, _> = unary(channel, DEREGISTER, None, request).await;
    answer.map(drop).map_err(|status| status.code())
}

#[test]
fn a_process_joins_over_grpc_and_is_forgotten() {
    let (mut scene, gateway) = scene("registry");
    scene.join(&binaries::envoy().unwrap(), "gateway/default/edge", |_| {});
    let process = process_at(([127, 0, 0, 1], 0).into(), "api");
    let (a, b) = (
        scene.enroll("sidecar/default/a", "a"),
        scene.enroll("sidecar/default/b", "b"),
    );
    let status = || get_host(gateway, "x", "/").0;
    eventually(|| (status() == 503).then_some(()));
    let mut request = pb::RegisterRequest {
        id: id(),
        port: 80,
        address: process.to_string(),
        ttl_seconds: 2,
        ..pb::RegisterRequest::default()
    };
    block(async {
        let channel = |own: &Path| {
            let own = own.to_owned();
            let scene = &scene;
            async move { scene.channel(Some(&own)).await }
        };
        let (a, b, stranger) = (
            channel(&a).await,
            channel(&b).await,
            scene.channel(None).await,
        );
        let nobody = register(&stranger, None, request.clone()).await;
        assert_eq!(nobody, Err(Code::Unauthenticated));
        for wrong in [
            pb::RegisterRequest {
                port: 70_000,
                ..request.clone()
            },
            pb::RegisterRequest {
                address: "here".to_owned(),
                ..request.clone()
            },
            pb::RegisterRequest {
                weight: 129,
                ..request.clone()
            },
            pb::RegisterRequest {
                ttl_seconds: 3601,
                ..request.clone()
            },
            pb::RegisterRequest {
                health: 9,
                ..request.clone()
            },
            pb::RegisterRequest {
                id: None,
                ..request.clone()
            },
        ] {
            let answer = register(&a, None, wrong.clone()).await;
            assert_eq!(answer, Err(Code::InvalidArgument), "{wrong:?}");
        }
        assert_eq!(heartbeat(&a).await, Err(Code::NotFound));
        assert_eq!(register(&a, None, request.clone()).await, Ok(2));
        eventually(|| (status() == 200).then_some(()));
        for _ in 0..6 {
            thread::sleep(Duration::from_millis(500));
            assert_eq!(heartbeat(&a).await, Ok(()));
            assert_eq!(status(), 200, "its time is not over while it is heard of");
        }
        assert_eq!(deregister(&b).await, Err(Code::PermissionDenied));
        let taken = register(&b, None, request.clone()).await;
        assert_eq!(taken, Err(Code::PermissionDenied));
        eventually(|| (status() == 503).then_some(()));
        assert_eq!(heartbeat(&a).await, Err(Code::NotFound), "it was forgotten");

        request.ttl_seconds = 0;
        assert_eq!(register(&a, None, request.clone()).await, Ok(30));
        eventually(|| (status() == 200).then_some(()));
        health_is_followed(&a, request.clone(), gateway).await;
        let body = || get_host(gateway, "x", "/").1;
        let operator = fs::read_to_string(scene.folder.join("state/operator-token")).unwrap();
        request.health = pb::Health::Healthy.into();
        let taken = register(&stranger, Some(operator.trim()), request.clone()).await;
        assert_eq!(taken, Err(Code::PermissionDenied), "it is of an identity");
        if let Some(id) = &mut request.id {
            id.instance = "three".to_owned();
        }
        let mine = register(&stranger, Some(operator.trim()), request.clone()).await;
        assert_eq!(mine, Ok(30), "an operator may, too");
        eventually(|| (body() == "api").then_some(()));
        assert_eq!(deregister(&a).await, Ok(()));
        assert_eq!(heartbeat(&a).await, Err(Code::NotFound));
    });
}

/// Of two, the one that is not well gets nothing.
async fn health_is_followed(channel: &Channel, one: pb::RegisterRequest, gateway: SocketAddr) {
    let mut second = one.clone();
    second.address = process_at(([127, 0, 0, 1], 0).into(), "second").to_string();
    if let Some(id) = &mut second.id {
        id.instance = "two".to_owned();
    }
    assert_eq!(register(channel, None, second).await, Ok(30));
    let body = || get_host(gateway, "x", "/").1;
    eventually(|| (body() == "second").then_some(()));
    let unwell = pb::RegisterRequest {
        health: pb::Health::Unhealthy.into(),
        ..one
    };
    assert_eq!(register(channel, None, unwell).await, Ok(30));
    let start = tokio::time::Instant::now();
    let mut last = start;
    // From the last answer of the one on, the other has all.
    while last.elapsed() < Duration::from_secs(2) {
        if body() == "api" {
            last = tokio::time::Instant::now();
        }
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    println!("health reached the gateway after {:?}", last - start);
}
