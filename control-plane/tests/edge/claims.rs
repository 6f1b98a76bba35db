//! An authorizer of gRPC that goes by the claims of tokens which the gateway has found good.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use outrigger_proto::pb::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use outrigger_proto::pb::envoy::service::auth::v3::check_response::HttpResponse;
use outrigger_proto::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse,
};
use outrigger_proto::pb::envoy::r#type::v3::HttpStatus;
use outrigger_proto::pb::google::protobuf::value::Kind;
use outrigger_proto::pb::google::protobuf::{Struct, Value};
use outrigger_proto::pb::google::rpc::Status as RpcStatus;
use outrigger_xds_tests::binaries;
use tonic::codegen::Service;

use crate::policies::{ask, told};
use crate::scene::{Scene, block, edge};
use crate::world::{eventually, ports};

#[test]
fn an_authorizer_behind_an_envoy_goes_by_claims() {
    tell(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn an_authorizer_behind_an_outrigger_goes_by_claims() {
    tell(&binaries::outrigger().unwrap(), "outrigger");
}

/// Lets pass whose claim `role` is what the policy says in its context.
#[derive(Clone)]
struct ByRole;

fn text<'a>(fields: &'a Struct, name: &str) -> Option<&'a Value> {
    fields.fields.get(name)
}

#[tonic::async_trait]
impl Authorization for ByRole {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let attributes = request.into_inner().attributes.unwrap();
        let metadata = attributes.metadata_context.unwrap_or_default();
        let claims = metadata.filter_metadata.get("envoy.filters.http.jwt_authn");
        let role = claims
            .and_then(|claims| match &text(claims, "claims")?.kind {
                Some(Kind::StructValue(claims)) => text(claims, "role").cloned(),
                _ => None,
            })
            .and_then(|role| match role.kind {
                Some(Kind::StringValue(role)) => Some(role),
                _ => None,
            });
        let may = role.as_ref() == attributes.context_extensions.get("role");
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus { code: 403 }),
            body: format!("not as {}", role.unwrap_or_default()),
            ..DeniedHttpResponse::default()
        };
        Ok(tonic::Response::new(CheckResponse {
            status: Some(RpcStatus {
                code: if may { 0 } else { 7 },
                ..RpcStatus::default()
            }),
            http_response: (!may).then_some(HttpResponse::DeniedResponse(denied)),
            ..CheckResponse::default()
        }))
    }
}

fn authorizer() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        block(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let local = tokio::task::LocalSet::new();
            local
                .run_until(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::task::spawn_local(async move {
                            let service = service_fn(|request| async move {
                                AuthorizationServer::new(ByRole).call(request).await
                            });
                            let builder = Builder::new(TokioExecutor::new());
                            let served = builder.serve_connection(TokioIo::new(stream), service);
                            drop(served.await);
                        });
                    }
                })
                .await;
        });
    });
    address
}

pub(crate) struct Issuer(EcdsaKeyPair);

impl Issuer {
    pub(crate) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn jwks(&self) -> String {
        let point = self.0.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        format!(
            r#"{{"keys": [{{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": "{x}", "y": "{y}"}}]}}"#
        )
    }

    fn token(&self, issuer: &str, role: &str) -> String {
        self.sign(&format!(r#""iss": "{issuer}", "role": "{role}""#))
    }

    /// A token with these claims, good for ten minutes.
    pub(crate) fn sign(&self, claims: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let expires = now.as_secs() + 600;
        let head = r#"{"alg": "ES256", "typ": "JWT"}"#.to_owned();
        let claims = format!(r#"{{{claims}, "exp": {expires}}}"#);
        let signed = [head, claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .join(".");
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.unwrap());
        format!("{signed}.{signature}")
    }
}

fn input(
    gateway: SocketAddr,
    shop: SocketAddr,
    authorizer: SocketAddr,
    keys: [String; 2],
) -> String {
    let [own, partner] = keys;
    format!(
        "
{}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: shop }}
spec:
  parentRefs: [{{ name: edge }}]
  rules: [{{ backendRefs: [{{ name: shop, port: 80 }}] }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: shop }}
spec: {{ ports: [{{ port: 80, targetPort: {shop} }}] }}
---
apiVersion: v1
kind: Service
metadata: {{ name: authorizer }}
spec: {{ ports: [{{ name: grpc, port: 80, targetPort: {authorizer} }}] }}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{ name: all }}
spec:
  services: [shop, authorizer]
  address: 127.0.0.1
  sidecar: false
  ports: [{{ port: {shop} }}, {{ port: {authorizer} }}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{ name: partner }}
data: {{ jwks.json: '{partner}' }}
---
apiVersion: outrigger.dev/v1alpha1
kind: JwtProvider
metadata: {{ name: own }}
spec: {{ issuer: own, jwks: {{ inline: '{own}' }}, forward: true }}
---
apiVersion: outrigger.dev/v1alpha1
kind: JwtProvider
metadata: {{ name: partner }}
spec: {{ issuer: partner, jwks: {{ configMap: {{ name: partner }} }}, from: {{ headers: [{{ name: x-partner }}] }} }}
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: {{ name: shop }}
spec:
  targetRefs: [{{ kind: HTTPRoute, name: shop }}]
  jwt:
    anyOf: [own, partner]
    rules:
    - {{ paths: [/both], allOf: [own, partner] }}
    - {{ paths: [/maybe*], anyOf: [own], allowMissing: true }}
  extAuthz: {{ grpc: {{ service: authorizer, port: 80 }}, context: {{ role: clerk }}, timeout: 5s }}
",
        edge(gateway),
        shop = shop.port(),
        authorizer = authorizer.port(),
    )
}

fn tell(program: &Path, name: &str) {
    let folder = binaries::scratch(&format!("edge-claims-{name}")).unwrap();
    let [gateway] = ports();
    let (own, partner) = (Issuer::new(), Issuer::new());
    let keys = [own.jwks(), partner.jwks()];
    let text = input(gateway, told("shop"), authorizer(), keys);
    let mut scene = Scene::start(&folder, &text, &[]);
    scene.join(program, "gateway/default/edge", |_| {});
    let clerk = format!("authorization: Bearer {}", own.token("own", "clerk"));
    let guest = format!("authorization: Bearer {}", own.token("own", "guest"));
    let of_partner = format!("x-partner: {}", partner.token("partner", "clerk"));
    let forged = format!("x-partner: {}", own.token("partner", "clerk"));
    let call = |path: &str, headers: &[&str]| {
        let (status, _, body) = ask(gateway, path, headers);
        (status, body)
    };
    eventually(|| (call("/", &[]).0 == 401).then_some(()));
    let (status, body) = call("/", &[&clerk]);
    assert_eq!(status, 200, "{body}");
    // The provider says that the service gets it.
    assert!(body.contains("authorization: bearer "), "{body}");
    assert_eq!(call("/", &[&guest]), (403, "not as guest".to_owned()));
    let (status, body) = call("/", &[&of_partner]);
    assert_eq!(status, 200);
    assert!(!body.contains("x-partner"), "{body}");
    assert_eq!(call("/", &[&forged]).0, 401);
    assert_eq!(call("/both", &[&clerk]).0, 401);
    assert_eq!(call("/both", &[&of_partner]).0, 401);
    assert_eq!(call("/both?a=b", &[&clerk, &of_partner]).0, 200);
    // Nobody has no role.
    assert_eq!(call("/maybe", &[]), (403, "not as ".to_owned()));
    assert_eq!(call("/maybe", &[&clerk]).0, 200);
    assert_eq!(call("/maybe", &["authorization: Bearer a.b.c"]).0, 401);
    // Where nobody is asked, the token is enough.
    let (before, after) = text.split_once("  extAuthz:").unwrap();
    assert_eq!(after.lines().count(), 1);
    scene.write("mesh.yaml", before);
    eventually(|| (call("/", &[&guest]).0 == 200).then_some(()));
    assert_eq!(call("/", &[]).0, 401);
}
