//! A client of the JSON interface, for the command line.

use std::path::Path;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to reach a control plane.
#[derive(Debug)]
pub struct Client {
    /// `HOST:PORT`.
    pub server: String,
    /// How to know it, and itself; none for plain text.
    pub tls: Option<Arc<ClientConfig>>,
    /// The operator's token.
    pub token: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file, or the network.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// TLS or HTTP.
    #[error("{0}")]
    Protocol(String),
    /// The control plane says no.
    #[error("{0}: {1}")]
    Refused(StatusCode, Json),
}

impl Client {
    /// TLS that trusts these roots, and shows a certificate if there is one.
    ///
    /// # Errors
    /// They are no certificates.
    pub fn tls(
        roots: &str,
        certificate: Option<(&str, &str)>,
    ) -> Result<Arc<ClientConfig>, ClientError> {
        let bad = |error: &dyn std::fmt::Display| ClientError::Protocol(error.to_string());
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            let root = root.map_err(|error| bad(&error))?;
            store.add(root).map_err(|error| bad(&error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&error))?
            .with_root_certificates(store);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| bad(&error))?;
                let key =
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| bad(&error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| bad(&error))?
            }
        };
        Ok(Arc::new(config))
    }

    /// The text of a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn file(path: &Path) -> Result<String, ClientError> {
        std::fs::read_to_string(path)
            .map_err(|error| ClientError::Io(path.display().to_string(), error))
    }

    /// Speaks TLS on a connection to `HOST:PORT`.
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn secure(
        server: &str,
        config: Arc<ClientConfig>,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, ClientError> {
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| ClientError::Io(server.to_owned(), error))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// There is none, or it is a refusal.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<String, ClientError> {
        let stream = TcpStream::connect(&self.server)
            .await
            .map_err(|error| ClientError::Io(self.server.clone(), error))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.server);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map(Json::to_string).unwrap_or_default();
        let request = request
            .body(Full::new(bytes::Bytes::from(body)))
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        match &self.tls {
            None => exchange(stream, request).await,
            Some(tls) => {
                let stream = Self::secure(&self.server, Arc::clone(tls), stream).await?;
                exchange(stream, request).await
            }
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<bytes::Bytes>>,
) -> Result<String, ClientError> {
    let bad = |error: hyper::Error| ClientError::Protocol(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(bad)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let (status, text) = tokio::select! {
        answer = answer => answer.map_err(bad)?,
        _ = connection => return Err(ClientError::Protocol("the connection was closed".to_owned())),
    };
    if status.is_success() {
        Ok(text)
    } else {
        let json = serde_json::from_str(&text).unwrap_or(Json::String(text));
        Err(ClientError::Refused(status, json))
    }
}
