//! The agent beside a proxy: gets a certificate for a join token, renews it at half of its life, and writes what the
//! proxy needs to reach the control plane.
//!
//! The directory gets `key.pem` (mode 0600), `certificate.pem` and `roots.pem`; `certificate.yaml` and `roots.yaml`,
//! through which a proxy of Envoy's kind takes over each new certificate without a restart; `bootstrap.yaml`; and
//! `grpc-bootstrap.json` for a process whose gRPC needs no proxy.

mod files;
mod grpc;
mod socket;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use serde_json::{Value as Json, json};

use crate::admin::api::{SignRequest, Signed};
use crate::admin::client::{Client, ClientError};
use crate::ca::validity_of;

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct Agent {
    /// `HOST:PORT` of the control plane.
    pub server: String,
    /// The roots by which the control plane is known, in PEM; none for plain text.
    pub roots: Option<String>,
    /// The join token; not needed where there is a certificate.
    pub token: Option<String>,
    /// Where to write.
    pub directory: PathBuf,
    /// The node's ID.
    pub node: String,
    /// Where the proxy's admin interface is to listen.
    pub admin: Option<SocketAddr>,
    /// A UNIX socket by which gRPC reaches the control plane through the agent, without TLS of its own.
    pub socket: Option<PathBuf>,
}

impl Agent {
    /// Gets the first certificate, if there is none that is still good, and writes the bootstrap.
    ///
    /// # Errors
    /// The control plane refuses, or a file cannot be written.
    pub async fn enroll(&self) -> Result<(), ClientError> {
        fs::create_dir_all(&self.directory).map_err(|error| at(&self.directory, error))?;
        if self.roots.is_some() && self.renewal().is_none_or(|due| due <= SystemTime::now()) {
            self.sign("/v1/enroll", self.token.clone()).await?;
        }
        if !self.node.starts_with("gateway/") {
            self.write("grpc-bootstrap.json", &self.grpc_bootstrap(), 0o644)?;
        }
        if self.node.starts_with("grpc/") {
            return Ok(());
        }
        self.write("bootstrap.yaml", &self.bootstrap(), 0o644)
    }

    /// Renews the certificate whenever half of its life is over, for ever.
    pub async fn renew(&self) {
        loop {
            let due = self.renewal().unwrap_or_else(SystemTime::now);
            let pause = due.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(pause.max(Duration::from_secs(5))).await;
            if let Err(error) = self.sign("/v1/renew", None).await {
                tracing::warn!(%error, "The certificate cannot be renewed now.");
            }
        }
    }

    /// When half of the certificate's life is over.
    fn renewal(&self) -> Option<SystemTime> {
        let text = fs::read_to_string(self.directory.join("certificate.pem")).ok()?;
        let (from, until) = validity_of(&text)?;
        Some(from + until.duration_since(from).ok()? / 2)
    }

    async fn sign(&self, path: &str, token: Option<String>) -> Result<(), ClientError> {
        let bad = |error: rcgen::Error| ClientError::Protocol(error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(bad)?;
        let request = CertificateParams::default()
            .serialize_request(&key)
            .map_err(bad)?;
        let request = SignRequest {
            token,
            request: request.pem().map_err(bad)?,
        };
        let tls = match (path, &self.roots) {
            ("/v1/enroll", Some(roots)) => Client::tls(roots, None)?,
            _ => self.own_tls()?,
        };
        let client = Client {
            server: self.server.clone(),
            tls: Some(tls),
            token: None,
        };
        let answer = client
            .call(Method::POST, path, Some(&json!(request)))
            .await?;
        let signed: Signed = serde_json::from_str(&answer)
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        tracing::info!(identity = signed.identity, "A certificate was received.");
        let set = [
            ("key.pem", &*key.serialize_pem(), 0o600),
            ("certificate.pem", &signed.certificate, 0o644),
            ("roots.pem", &signed.roots, 0o644),
        ];
        files::write_set(&self.directory, &set).map_err(|error| at(&self.directory, error))?;
        self.write(
            "certificate.yaml",
            &secret(
                "own",
                &json!({
                    "tls_certificate": {
                        "certificate_chain": {"filename": self.path("certificate.pem")},
                        "private_key": {"filename": self.path("key.pem")},
                        "watched_directory": {"path": self.directory},
                    },
                }),
            ),
            0o644,
        )?;
        self.write(
            "roots.yaml",
            &secret(
                "roots",
                &json!({
                    "validation_context": {
                        "trusted_ca": {"filename": self.path("roots.pem")},
                        "watched_directory": {"path": self.directory},
                    },
                }),
            ),
            0o644,
        )
    }

    /// TLS with the certificate that was written last.
    fn own_tls(&self) -> Result<Arc<ClientConfig>, ClientError> {
        let certificate = Client::file(&self.path("certificate.pem"))?;
        let key = Client::file(&self.path("key.pem"))?;
        let roots = Client::file(&self.path("roots.pem"))?;
        Client::tls(&roots, Some((&certificate, &key)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// JSON is YAML.
    fn bootstrap(&self) -> String {
        let (host, port) = self
            .server
            .rsplit_once(':')
            .unwrap_or((&self.server, "443"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port: u16 = port.parse().unwrap_or(443);
        let kind = if host.parse::<std::net::IpAddr>().is_ok() {
            "STATIC"
        } else {
            "STRICT_DNS"
        };
        const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let mut cluster = json!({
            "name": "control_plane",
            "type": kind,
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": "control_plane",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                    "socket_address": {"address": host, "port_value": port},
                }}}]}],
            },
            "typed_extension_protocol_options": {HTTP: {
                "@type": format!("type.googleapis.com/{HTTP}"),
                "explicit_http_config": {"http2_protocol_options": {
                    "connection_keepalive": {"interval": "30s", "timeout": "5s"},
                }},
            }},
        });
        if self.roots.is_some() {
            let file = |name: &str| {
                json!({
                    "path_config_source": {
                        "path": self.path(name),
                        "watched_directory": {"path": self.directory},
                    },
                    "resource_api_version": "V3",
                })
            };
            cluster["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": host,
                    "common_tls_context": {
                        "alpn_protocols": ["h2"],
                        "tls_certificate_sds_secret_configs": [
                            {"name": "own", "sds_config": file("certificate.yaml")},
                        ],
                        "validation_context_sds_secret_config": {
                            "name": "roots", "sds_config": file("roots.yaml"),
                        },
                    },
                },
            });
        }
        let ads = json!({"ads": {}, "resource_api_version": "V3"});
        let mut bootstrap = json!({
            "node": {"id": self.node, "cluster": "outrigger"},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "control_plane"}}],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "static_resources": {"clusters": [cluster]},
        });
        if let Some(admin) = self.admin {
            bootstrap["admin"] = json!({"address": {"socket_address": {
                "address": admin.ip().to_string(), "port_value": admin.port(),
            }}});
        }
        serde_json::to_string_pretty(&bootstrap).unwrap_or_default() + "\n"
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), ClientError> {
        files::write(&self.directory, (name, text, mode))
            .map_err(|error| at(&self.path(name), error))
    }
}

fn at(path: &Path, error: io::Error) -> ClientError {
    ClientError::Io(path.display().to_string(), error)
}

/// A file that Envoy reads as a response of SDS.
fn secret(name: &str, content: &Json) -> String {
    let mut secret = content.clone();
    secret["@type"] = json!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
    secret["name"] = json!(name);
    json!({"resources": [secret]}).to_string()
}
