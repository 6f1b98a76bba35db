//! The server: one port for xDS over gRPC and for the JSON interface over HTTP, with TLS unless it is turned off.
//!
//! A client may show a certificate of the mesh; one that shows another is not let in. What each path asks of a client
//! says [`api`].

pub mod api;
pub mod client;
mod metrics;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument;

use crate::ca::{Authority, CaError, svid_of_certificate};
use crate::cache::ResourceType;
use crate::control::Control;
use crate::ratelimit::Limits;
use crate::rpc::Calls;
use crate::server::session::Variant;
use crate::server::{Discovery, Implied, Peer};
use crate::spawn;
use crate::telemetry::continue_trace;
use crate::translate::Secrets;
use api::Api;

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 20_000;
/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves for ever.
///
/// # Errors
/// The certificate cannot be made.
pub async fn serve(
    listener: TcpListener,
    control: Arc<Control>,
    api: Arc<Api>,
    names: Vec<String>,
) -> Result<(), CaError> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tls = acceptor(&control, &names)?;
    let mut due = renewal(&control);
    let mut certificates = control.authority.changes();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = certificates.changed() => {
                tls = acceptor(&control, &names)?;
                continue;
            }
            () = tokio::time::sleep_until(due) => {
                tls = acceptor(&control, &names)?;
                due = renewal(&control);
                continue;
            }
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "A connection cannot be accepted.");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (control, api, tls) = (Arc::clone(&control), Arc::clone(&api), tls.clone());
        spawn(async move {
            connection(stream, address, control, api, tls).await;
            drop(place);
        });
    }
}

/// When the server's own certificate is half over.
fn renewal(control: &Control) -> Instant {
    Instant::now() + control.authority.ttl() / 2
}

/// None where TLS is turned off.
fn acceptor(control: &Control, names: &[String]) -> Result<Option<TlsAcceptor>, CaError> {
    if control.is_insecure {
        return Ok(None);
    }
    server_config(&control.authority, names).map(|config| Some(TlsAcceptor::from(Arc::new(config))))
}

fn server_config(authority: &Authority, names: &[String]) -> Result<ServerConfig, CaError> {
    let bad = |error: &dyn std::fmt::Display| CaError::Certificate(error.to_string());
    let svid = authority.server_certificate(names)?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority.roots().as_bytes()) {
        let root = root.map_err(|error| bad(&error))?;
        roots.add(root).map_err(|error| bad(&error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| bad(&error))?;
    let chain = CertificateDer::pem_slice_iter(svid.secret.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(&error))?;
    let key =
        PrivateKeyDer::from_pem_slice(svid.secret.key.as_bytes()).map_err(|error| bad(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| bad(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    control: Arc<Control>,
    api: Arc<Api>,
    tls: Option<TlsAcceptor>,
) {
    let _ = stream.set_nodelay(true);
    let mut peer = Peer {
        identity: None,
        address: address.to_string(),
    };
    let Some(tls) = tls else {
        return http(stream, peer, control, api).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await;
    match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            let certificate = session.peer_certificates().and_then(<[_]>::first);
            peer.identity = certificate.and_then(svid_of_certificate);
            http(stream, peer, control, api).await;
        }
        Err(error) => tracing::info!(%address, %error, "A TLS handshake has failed."),
    }
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    control: Arc<Control>,
    api: Arc<Api>,
) {
    let limits = Limits::new(Arc::clone(&control.limits));
    let is_insecure = control.is_insecure;
    let calls = Calls::new(Arc::clone(&control), api.operator_token());
    let discovery = Discovery::new(control);
    let service = service_fn(move |request: Request<Incoming>| {
        let (discovery, api, peer) = (discovery.clone(), Arc::clone(&api), peer.clone());
        let calls = calls.clone();
        let limits = limits.clone();
        let span = tracing::debug_span!(
            "request",
            otel.kind = "server",
            method = %request.method(),
            path = request.uri().path(),
            peer = peer.identity.as_deref().unwrap_or_default(),
            address = peer.address,
            status = tracing::field::Empty,
        );
        continue_trace(&span, request.headers());
        let answer = async move {
            if let Some((variant, implied)) = discovery_path(request.uri().path()) {
                return Ok(discovery.call(request.into_body(), variant, implied, peer));
            }
            if request.uri().path().starts_with(Limits::PREFIX) {
                if peer.identity.is_none() && !is_insecure {
                    let status = Status::unauthenticated("a certificate of the mesh is needed");
                    return Ok(status.into_http());
                }
                return limits.call(request).await;
            }
            if Calls::has(request.uri().path()) {
                return calls.call(request, &peer).await;
            }
            let (status, kind, text) = api.handle(request, &peer).await;
            Ok(reply(status, kind, text))
        };
        async move {
            let answer: Result<Response<Body>, Infallible> = answer.instrument(span.clone()).await;
            if let Ok(answer) = &answer {
                span.record("status", answer.status().as_u16());
            }
            answer
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    if let Err(error) = builder
        .serve_connection(TokioIo::new(stream), service)
        .await
    {
        tracing::debug!(error, "A connection has ended.");
    }
}

fn reply(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let body = Full::new(bytes::Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

/// The variant of a path of discovery, and the type of which it is; none for all.
fn discovery_path(path: &str) -> Option<(Variant, Option<Implied>)> {
    let (service, method) = path.strip_prefix("/envoy.service.")?.split_once('/')?;
    let (kind, words) = match service {
        "discovery.v3.AggregatedDiscoveryService" => (None, "AggregatedResources"),
        "listener.v3.ListenerDiscoveryService" => (Some(ResourceType::Listener), "Listeners"),
        "route.v3.RouteDiscoveryService" => (Some(ResourceType::Route), "Routes"),
        "cluster.v3.ClusterDiscoveryService" => (Some(ResourceType::Cluster), "Clusters"),
        "endpoint.v3.EndpointDiscoveryService" => (Some(ResourceType::Endpoints), "Endpoints"),
        "secret.v3.SecretDiscoveryService" => (Some(ResourceType::Secret), "Secrets"),
        "extension.v3.ExtensionConfigDiscoveryService" => {
            (Some(ResourceType::Extension), "ExtensionConfigs")
        }
        _ => return None,
    };
    let variant = match method.strip_suffix(words)? {
        "Stream" => Variant::Sotw,
        "Delta" => Variant::Delta,
        _ => return None,
    };
    Some((variant, kind.map(Implied)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_a_variant_and_of_one_type_or_of_all() {
        let found = |path: &str| {
            let (variant, implied) = discovery_path(&format!("/envoy.service.{path}"))?;
            Some((variant, implied.map(|Implied(kind)| kind)))
        };
        assert_eq!(
            found("secret.v3.SecretDiscoveryService/DeltaSecrets"),
            Some((Variant::Delta, Some(ResourceType::Secret)))
        );
        assert_eq!(
            found("discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"),
            Some((Variant::Sotw, None))
        );
        assert_eq!(found("secret.v3.SecretDiscoveryService/FetchSecrets"), None);
        assert!(discovery_path("/v1/status").is_none());
    }
}
