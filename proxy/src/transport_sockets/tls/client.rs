//! The upstream side: `UpstreamTlsContext`.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ClientConnection, Connection, Error, HandshakeKind};

use super::context::{CommonContext, Follower, Materials, Rebuild, build};
use super::failure;
use super::parameters::Side;
use super::server::{count_failure, tls_info};
use super::stats::TlsStats;
use super::stream::{Handshake, Role, TlsStream, Watch};
use super::verify::{Report, ServerVerifier};
use crate::LocalBoxFuture;
use crate::config::{ConfigPath, Rejected};
use crate::net::{Address, Io};
use crate::secrets::{ContextCertificates, SecretWatcher, TlsCertificate};
use crate::server::FactoryContext;
use crate::stream_info::TlsConnectionInfo;
use crate::transport_sockets::{UpstreamConnected, UpstreamSocket, UpstreamSocketRequest};

/// A converted `UpstreamTlsContext`. Connections take what it is at the moment when they begin.
pub(super) struct UpstreamTls {
    common: CommonContext,
    settings: Settings,
    stats: Arc<TlsStats>,
    current: ArcSwapOption<ClientContext>,
    in_use: Arc<ContextCertificates>,
    /// Keeps the watch on secrets alive.
    follower: OnceLock<Arc<dyn SecretWatcher>>,
}

struct Settings {
    /// The name that servers are asked for.
    sni: Option<Box<str>>,
    /// The hostname of the endpoint is asked for, if it has one.
    auto_host_sni: bool,
    /// The name asked for must be in the certificate.
    match_server_name: bool,
    max_session_keys: usize,
}

struct ClientContext {
    config: Arc<ClientConfig>,
    verifier: Arc<ServerVerifier>,
    certificate: Option<Arc<TlsCertificate>>,
}

impl UpstreamTls {
    #[allow(deprecated, reason = "every field is decided, also old ones")]
    pub(super) fn from_proto(
        proto: pb::UpstreamTlsContext,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<Self>, Rejected> {
        let pb::UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            // Harmless: rustls never renegotiates, and a server that must is told so.
            allow_renegotiation: _,
            max_session_keys,
            // Harmless: the use of keys is always enforced where a certificate limits it, as in Envoy.
            enforce_rsa_key_usage: _,
        } = proto;
        let common_path = path.field("common_tls_context");
        let common = CommonContext::from_proto(
            common_tls_context.unwrap_or_default(),
            Side::Client,
            cx,
            &common_path,
        );
        let sni = match sni.as_str() {
            "" => Ok(None),
            name if ServerName::try_from(name).is_ok() => Ok(Some(name.into())),
            name => Err(path
                .field("sni")
                .reject(format!("\"{name}\" is not a server name"))),
        };
        let common = common?;
        if common.certificate_count() > 1 {
            return Err(common_path
                .field("tls_certificates")
                .reject("Multiple TLS certificates are not supported for client contexts"));
        }
        let keys = max_session_keys.map_or(1, |keys| keys.value);
        let made = Arc::new(Self {
            common,
            settings: Settings {
                sni: sni?,
                auto_host_sni,
                match_server_name: auto_sni_san_validation,
                max_session_keys: usize::try_from(keys)
                    .unwrap_or(usize::MAX)
                    .min(MOST_SESSIONS),
            },
            stats: Arc::new(TlsStats::new(cx.scope, "client_ssl_socket_factory")),
            current: ArcSwapOption::empty(),
            in_use: cx.server.certificates.add(),
            follower: OnceLock::new(),
        });
        build(&*made).map_err(|error| common_path.reject(error))?;
        let follower: Arc<dyn SecretWatcher> = Arc::new(Follower(Arc::downgrade(&made)));
        for cell in made.common.secrets() {
            cell.watch(Arc::downgrade(&follower));
        }
        let _ = made.follower.set(follower);
        Ok(made)
    }

    /// The name to ask for, and as what rustls must be told.
    fn server_name(
        &self,
        request: &UpstreamSocketRequest<'_>,
    ) -> (Option<Box<str>>, ServerName<'static>) {
        let asked = request
            .options
            .and_then(|options| options.server_name.as_deref());
        let of_host =
            Some(request.hostname).filter(|name| self.settings.auto_host_sni && !name.is_empty());
        let name = asked.or(of_host).or(self.settings.sni.as_deref());
        let valid = name.and_then(|name| {
            let parsed = ServerName::try_from(name.to_owned()).ok()?;
            Some((Some(name.into()), parsed))
        });
        // Without a name, an address: it is not sent.
        valid.unwrap_or_else(|| (None, ServerName::IpAddress(peer_ip(request.peer).into())))
    }

    fn begin(&self, request: &UpstreamSocketRequest<'_>) -> Result<Handshake, Box<str>> {
        let Some(context) = self.current.load_full() else {
            self.stats
                .factory
                .upstream_context_secrets_not_ready()
                .inc();
            return Err("TLS error: Secret is not supplied by SDS".into());
        };
        let (server_name, name) = self.server_name(request);
        let asked = request.options.map_or(&[][..], |options| &options.alpn);
        let alpn = match self.common.alpn.is_empty() {
            _ if !asked.is_empty() => asked.iter().map(|name| name.as_bytes().to_vec()).collect(),
            true => request
                .alpn_fallback
                .iter()
                .map(|name| name.to_vec())
                .collect(),
            false => self.common.alpn.clone(),
        };
        let connection = ClientConnection::new_with_alpn(context.config.clone(), name, alpn)
            .map_err(|error| failure::text(failure::reason_of(&error, b""), None))?;
        let options = request.options;
        let role = ClientRole {
            server_name,
            verify_names: options.map_or_else(Vec::new, |options| options.verify_names.clone()),
            stats: self.stats.clone(),
            context,
            done: Rc::default(),
        };
        Ok(Handshake {
            connection: Box::new(Connection::Client(connection)),
            role: Role::Client(role),
            report: None,
            first: Vec::new(),
            plain_alert: false,
        })
    }
}

impl Rebuild for UpstreamTls {
    fn rebuild(&self, materials: Option<Materials>) -> Result<(), String> {
        let Some(mut materials) = materials else {
            return Ok(());
        };
        let used = materials.in_use();
        if self.settings.match_server_name {
            match &mut materials.validation {
                Some(validation) if !validation.trusted.is_empty() => {
                    validation.match_server_name = true;
                }
                _ => {
                    return Err(
                        "'auto_sni_san_validation' was configured without configuring a trusted CA"
                            .to_owned(),
                    );
                }
            }
        }
        let certificate = materials.certificates.into_iter().next();
        let verifier = Arc::new(ServerVerifier::new(materials.validation.map(Arc::new)));
        let parameters = &self.common.parameters;
        let builder = ClientConfig::builder_with_provider(parameters.provider.clone())
            .with_protocol_versions(parameters.versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match &certificate {
            Some(certificate) => builder.with_client_cert_resolver(Arc::new(
                SingleCertAndKey::from(certificate.certified.clone()),
            )),
            None => builder.with_no_client_auth(),
        };
        config.resumption = match self.settings.max_session_keys {
            0 => Resumption::disabled(),
            keys => Resumption::store(Arc::new(ClientSessionMemoryCache::new(keys))),
        };
        if let Some(log) = &self.common.key_log {
            config.key_log = log.clone();
        }
        self.current.store(Some(Arc::new(ClientContext {
            config: Arc::new(config),
            verifier,
            certificate,
        })));
        self.in_use.replace(used);
        Ok(())
    }

    fn common(&self) -> &CommonContext {
        &self.common
    }

    fn stats(&self) -> &TlsStats {
        &self.stats
    }
}

impl UpstreamSocket for UpstreamTls {
    fn connect(
        &self,
        io: Io,
        request: UpstreamSocketRequest<'_>,
    ) -> LocalBoxFuture<'static, Result<UpstreamConnected, Box<str>>> {
        let handshake = self.begin(&request);
        Box::pin(async move {
            let handshake = handshake?;
            let done = match &handshake.role {
                Role::Client(role) => role.done.clone(),
                Role::Server(_) => Rc::default(),
            };
            let mut stream = TlsStream::client(io, handshake);
            if let Err(error) = poll_fn(|cx| stream.poll_handshake(cx)).await {
                return Err(match error.kind() {
                    io::ErrorKind::InvalidData => error.to_string().into(),
                    // Nothing is known of a peer that just goes away.
                    io::ErrorKind::UnexpectedEof => "".into(),
                    _ => system_error(&error).into(),
                });
            }
            Ok(UpstreamConnected {
                io: Io::layered(Box::new(stream)),
                tls: done.borrow_mut().take().map(Rc::new),
            })
        })
    }

    fn is_secure(&self) -> bool {
        true
    }

    fn supports_alpn(&self) -> bool {
        true
    }

    fn is_ready(&self) -> bool {
        self.current.load().is_some()
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").finish_non_exhaustive()
    }
}

/// Who waits for the end of a handshake as a client.
pub(super) struct ClientRole {
    /// The name that the server is asked for.
    pub(super) server_name: Option<Box<str>>,
    /// One of these must be in its certificate.
    pub(super) verify_names: Vec<Box<str>>,
    stats: Arc<TlsStats>,
    context: Arc<ClientContext>,
    done: Rc<std::cell::RefCell<Option<TlsConnectionInfo>>>,
}

impl ClientRole {
    /// Who is told of failures after the handshake.
    pub(super) fn into_watch(self) -> Watch {
        Watch {
            stats: self.stats,
            info: None,
        }
    }

    pub(super) fn complete(
        &mut self,
        connection: &Connection,
        mut report: Report,
    ) -> io::Result<()> {
        let chain = connection.peer_certificates().unwrap_or_default();
        if connection.handshake_kind() == Some(HandshakeKind::Resumed)
            && let Some(validation) = &self.context.verifier.validation
        {
            // What was good when the session began may not be what this connection wants.
            let name = self.server_name.as_deref();
            report.verdict = validation.verify_server(chain, name, &self.verify_names);
            if let Some(failed) = &report.verdict.failure {
                let error = Error::InvalidCertificate(failed.error.clone());
                let text = failure::text(failure::CERTIFICATE_VERIFY_FAILED, Some(&failed.text));
                self.failed(&error, &report);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        if report.verdict.counts_error {
            self.stats.ssl.fail_verify_error().inc();
        }
        let certificate = self.context.certificate.as_ref();
        let mut tls = tls_info(connection, report, &self.stats, certificate);
        tls.server_name = self.server_name.clone();
        self.done.replace(Some(tls));
        Ok(())
    }

    pub(super) fn failed(&mut self, error: &Error, report: &Report) {
        count_failure(&self.stats, error, report);
    }
}

/// An error of the socket as BoringSSL's queue shows it.
fn system_error(error: &io::Error) -> String {
    let code =
        (2 << 24) + u32::try_from(error.raw_os_error().unwrap_or_default()).unwrap_or_default();
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("TLS_error:|{code}:system library:OPENSSL_internal:{text}:TLS_error_end")
}

fn peer_ip(peer: &Address) -> IpAddr {
    match peer {
        Address::Ip(address) => address.ip(),
        Address::Pipe(_) => IpAddr::from([127, 0, 0, 1]),
    }
}

/// More sessions than anybody has servers for one cluster.
const MOST_SESSIONS: usize = 4096;
