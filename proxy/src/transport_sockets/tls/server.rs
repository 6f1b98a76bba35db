//! The downstream side: `DownstreamTlsContext`.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::downstream_tls_context::{OcspStaplePolicy, SessionTicketKeysType};
use rustls::server::{
    Accepted, AcceptedAlert, Acceptor, NoServerSessionStorage, ProducesTickets,
    ServerSessionMemoryCache, WebPkiClientVerifier,
};
use rustls::{Connection, Error, HandshakeKind, ServerConfig};
use tokio::time::{Instant, Sleep, sleep};

use super::context::{CommonContext, Follower, Materials, Rebuild, build};
use super::failure;
use super::parameters::{Side, cipher_name, group_name, signature_name};
use super::select::{Certificates, ChosenCertificate};
use super::staple::{self, Staple};
use super::stats::TlsStats;
use super::stream::{Handshake, Role, TlsStream, Watch};
use super::tickets::Tickets;
use super::verify::{ClientVerifier, FailureStat, Report, exchange};
use crate::config::{ConfigPath, ConfigReport, Rejected};
use crate::net::Io;
use crate::secrets::{ContextCertificates, SecretCell, SecretKind, SecretWatcher, TlsCertificate};
use crate::server::FactoryContext;
use crate::stream_info::{ConnectionInfo, TlsConnectionInfo};
use crate::transport_sockets::{DownstreamSocket, HandshakeLimit};

/// A converted `DownstreamTlsContext`. Connections take what it is at the moment when they begin.
pub(super) struct DownstreamTls {
    common: CommonContext,
    settings: Settings,
    stats: Arc<TlsStats>,
    current: ArcSwapOption<ServerContext>,
    in_use: Arc<ContextCertificates>,
    /// Keeps the watch on secrets alive.
    follower: std::sync::OnceLock<Arc<dyn SecretWatcher>>,
}

struct Settings {
    require_client_certificate: bool,
    stateful_resumption: bool,
    /// Seconds.
    session_timeout: u32,
    full_scan: bool,
    prefer_client_ciphers: bool,
    staple_policy: OcspStaplePolicy,
    tickets: TicketSource,
}

enum TicketSource {
    /// Keys of the process.
    Own,
    Off,
    Keys(pb::TlsSessionTicketKeys),
    Secret(Arc<SecretCell>),
}

/// What handshakes need, made of one state of all secrets.
#[derive(Debug)]
pub(super) struct ServerContext {
    /// By whether ALPN is answered, and whether the order of our cipher suites counts.
    configs: [[Arc<ServerConfig>; 2]; 2],
    certificates: Arc<Certificates>,
    verifier: Option<Arc<ClientVerifier>>,
    alpn: Vec<Vec<u8>>,
    own_order: bool,
    /// TLS 1.3 may be agreed on.
    has_tls13: bool,
    staple_policy: OcspStaplePolicy,
}

impl DownstreamTls {
    pub(super) fn from_proto(
        proto: pb::DownstreamTlsContext,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<Self>, Rejected> {
        let pb::DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            disable_stateful_session_resumption,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = proto;
        let common_path = path.field("common_tls_context");
        let common = CommonContext::from_proto(
            common_tls_context.unwrap_or_default(),
            Side::Server,
            cx,
            &common_path,
        );
        let timeout = path.duration("session_timeout", session_timeout);
        let policy = path.enumeration::<OcspStaplePolicy>("ocsp_staple_policy", ocsp_staple_policy);
        let sni = path.unsupported_if_set("require_sni", require_sni);
        let tickets = ticket_source(session_ticket_keys_type, cx, path);
        sni?;
        let staple_policy = policy?;
        let common = common?;
        if common.certificate_count() == 0 {
            return Err(common_path.reject("No TLS certificates found for server context"));
        }
        let is_set = |value: Option<outrigger_proto::pb::google::protobuf::BoolValue>| {
            value.is_some_and(|value| value.value)
        };
        let timeout = timeout?.map_or(DEFAULT_TIMEOUT, |timeout| timeout.as_secs());
        let made = Arc::new(Self {
            common,
            settings: Settings {
                require_client_certificate: is_set(require_client_certificate),
                stateful_resumption: !disable_stateful_session_resumption,
                session_timeout: u32::try_from(timeout).unwrap_or(u32::MAX),
                full_scan: is_set(full_scan_certs_on_sni_mismatch),
                prefer_client_ciphers,
                staple_policy,
                tickets: tickets?,
            },
            stats: Arc::new(TlsStats::new(cx.scope, "server_ssl_socket_factory")),
            current: ArcSwapOption::empty(),
            in_use: cx.server.certificates.add(),
            follower: std::sync::OnceLock::new(),
        });
        build(&*made).map_err(|error| common_path.reject(error))?;
        let follower: Arc<dyn SecretWatcher> = Arc::new(Follower(Arc::downgrade(&made)));
        for cell in made.common.secrets().chain(made.settings.tickets.secret()) {
            cell.watch(Arc::downgrade(&follower));
        }
        let _ = made.follower.set(follower);
        Ok(made)
    }

    fn tickets(
        &self,
        materials: &Materials,
    ) -> Result<Option<Option<Arc<dyn ProducesTickets>>>, String> {
        let proto = match &self.settings.tickets {
            TicketSource::Off => return Ok(Some(None)),
            TicketSource::Own => {
                let own = Tickets::own(self.settings.session_timeout, materials.trust());
                return Ok(Some(
                    own.map(|own| Arc::new(own) as Arc<dyn ProducesTickets>),
                ));
            }
            TicketSource::Keys(keys) => keys.clone(),
            TicketSource::Secret(cell) => match cell.get().and_then(|secret| secret.r#type.clone())
            {
                Some(pb::secret::Type::SessionTicketKeys(keys)) => keys,
                _ => return Ok(None),
            },
        };
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "session_ticket_keys");
        let tickets = Tickets::from_proto(
            proto,
            self.settings.session_timeout,
            materials.trust(),
            &path,
        );
        match tickets {
            Ok(tickets) => Ok(Some(Some(Arc::new(tickets)))),
            Err(_) => Err(report.take().iter().map(ToString::to_string).collect()),
        }
    }

    fn make(
        &self,
        materials: Materials,
        tickets: Option<Arc<dyn ProducesTickets>>,
    ) -> Result<ServerContext, String> {
        let Materials {
            certificates,
            validation,
        } = materials;
        for certificate in &certificates {
            staple::check(certificate, self.settings.staple_policy)?;
        }
        let verifier = validation.and_then(|validation| {
            ClientVerifier::new(
                &Arc::new(validation),
                self.settings.require_client_certificate,
            )
        });
        let verifier = verifier.map(Arc::new);
        let certificates = Arc::new(Certificates::new(certificates, self.settings.full_scan));
        let parameters = &self.common.parameters;
        let builder = ServerConfig::builder_with_provider(parameters.provider.clone())
            .with_protocol_versions(parameters.versions)
            .map_err(|error| error.to_string())?;
        let mut config = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth()),
        }
        .with_cert_resolver(Arc::new(ChosenCertificate {
            certificates: certificates.clone(),
            staple_policy: self.settings.staple_policy,
        }));
        match tickets {
            Some(tickets) => config.ticketer = tickets,
            None => config.send_tls13_tickets = 0,
        }
        config.session_storage = match self.settings.stateful_resumption {
            true => ServerSessionMemoryCache::new(SESSIONS),
            false => Arc::new(NoServerSessionStorage {}),
        };
        if let Some(log) = &self.common.key_log {
            config.key_log = log.clone();
        }
        let variant = |with_alpn: bool, own_order: bool| {
            let mut variant = config.clone();
            if with_alpn {
                variant.alpn_protocols.clone_from(&self.common.alpn);
            }
            variant.ignore_client_order = own_order;
            Arc::new(variant)
        };
        Ok(ServerContext {
            configs: [
                [variant(false, false), variant(false, true)],
                [variant(true, false), variant(true, true)],
            ],
            certificates,
            verifier,
            alpn: self.common.alpn.clone(),
            own_order: !self.settings.prefer_client_ciphers,
            has_tls13: parameters.versions.contains(&&rustls::version::TLS13),
            staple_policy: self.settings.staple_policy,
        })
    }
}

impl Rebuild for DownstreamTls {
    fn rebuild(&self, materials: Option<Materials>) -> Result<(), String> {
        let Some(materials) = materials else {
            return Ok(());
        };
        let Some(tickets) = self.tickets(&materials)? else {
            return Ok(());
        };
        let used = materials.in_use();
        let context = self.make(materials, tickets)?;
        self.current.store(Some(Arc::new(context)));
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

impl DownstreamSocket for DownstreamTls {
    fn accept(&self, io: Io, info: &Rc<ConnectionInfo>, limit: Option<HandshakeLimit>) -> Io {
        let Some(context) = self.current.load_full() else {
            self.stats
                .factory
                .downstream_context_secrets_not_ready()
                .inc();
            info.transport_failure_reason
                .replace(Some(NOT_READY.into()));
            return Io::layered(Box::new(TlsStream::refused(io)));
        };
        let role = ServerRole {
            stats: self.stats.clone(),
            info: info.clone(),
            limit: limit.map(|limit| (Box::pin(sleep(limit.after)), limit.on_timeout)),
            certificate: None,
            verifier: context.verifier.clone(),
            version: "TLSv1.2",
        };
        let accepting = Accepting {
            acceptor: Acceptor::default(),
            context,
            role,
            hello: Vec::new(),
        };
        Io::layered(Box::new(TlsStream::server(io, accepting)))
    }

    fn is_secure(&self) -> bool {
        true
    }

    fn is_ready(&self) -> bool {
        self.current.load().is_some()
    }
}

impl fmt::Debug for DownstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownstreamTls").finish_non_exhaustive()
    }
}

impl TicketSource {
    fn secret(&self) -> Option<&Arc<SecretCell>> {
        match self {
            Self::Secret(cell) => Some(cell),
            _ => None,
        }
    }
}

fn ticket_source(
    proto: Option<SessionTicketKeysType>,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<TicketSource, Rejected> {
    Ok(match proto {
        None => TicketSource::Own,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => TicketSource::Off,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => TicketSource::Own,
        Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
            let path = path.field("session_ticket_keys");
            Tickets::from_proto(keys.clone(), 0, [0; 32], &path)?;
            TicketSource::Keys(keys)
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(config)) => {
            let path = path.field("session_ticket_keys_sds_secret_config");
            let secrets = &cx.server.secrets;
            TicketSource::Secret(secrets.find(SecretKind::SessionTicketKeys, config, cx, &path)?)
        }
    })
}

/// A connection whose ClientHello has not come yet.
pub(super) struct Accepting {
    acceptor: Acceptor,
    context: Arc<ServerContext>,
    pub(super) role: ServerRole,
    /// What came so far.
    hello: Vec<u8>,
}

/// What a client is told whose ClientHello is none, or is not accepted.
pub(super) enum Refusal {
    /// The alert of rustls.
    Alert(Box<AcceptedAlert>),
    /// A record with an alert.
    Plain([u8; 7]),
    Silent,
}

pub(super) fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// Who waits for the end of a handshake as a server.
pub(super) struct ServerRole {
    stats: Arc<TlsStats>,
    info: Rc<ConnectionInfo>,
    #[allow(clippy::type_complexity, reason = "a timer and what it tells")]
    limit: Option<(Pin<Box<Sleep>>, Box<dyn Fn()>)>,
    /// The certificate that the client is shown.
    certificate: Option<Arc<TlsCertificate>>,
    verifier: Option<Arc<ClientVerifier>>,
    /// What BoringSSL calls the version before it is agreed on.
    version: &'static str,
}

impl Accepting {
    /// Takes bytes of the client. `Ok(None)`: the ClientHello is not complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Option<Handshake>, Refusal> {
        let room = HELLO.saturating_sub(self.hello.len());
        self.hello
            .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        let mut rest = bytes;
        while !rest.is_empty() {
            // What came with the ClientHello is read by the acceptor as well.
            if !matches!(self.acceptor.read_tls(&mut rest), Ok(1..)) {
                break;
            }
        }
        match self.acceptor.accept() {
            Ok(None) => Ok(None),
            Ok(Some(accepted)) => self
                .choose(accepted)
                .map(Some)
                .map_err(|alert| Refusal::Alert(Box::new(alert))),
            Err((error, _)) => {
                let (reason, alert) = failure::before_hello(&error, &self.hello);
                let text = failure::text(reason, None);
                self.role.certificate = self.context.certificates.first().cloned();
                self.role.failed(None, &error, Report::default(), &text);
                Err(alert.map_or(Refusal::Silent, |code| {
                    Refusal::Plain([0x15, 3, 1, 0, 2, 2, code])
                }))
            }
        }
    }

    fn choose(&mut self, accepted: Accepted) -> Result<Handshake, AcceptedAlert> {
        let hello = accepted.client_hello();
        let with_alpn = hello.alpn().is_some_and(|mut offered| {
            offered.any(|name| self.context.alpn.iter().any(|own| own == name))
        });
        // TLS 1.3 lets the client choose among suites that are equally good.
        let has_tls13 = hello
            .cipher_suites()
            .iter()
            .any(|suite| u16::from(*suite) >> 8 == 0x13);
        let is_tls13 = has_tls13 && self.context.has_tls13;
        if is_tls13 {
            self.role.version = "TLSv1.3";
        }
        let own_order = self.context.own_order && !is_tls13;
        let certificate = self.context.certificates.choose(&hello).cloned();
        let staple = certificate.as_deref().map(|certificate| {
            let asked = staple::is_asked(&self.hello);
            Staple::of(certificate, self.context.staple_policy, asked, unix_now())
        });
        if let Some(staple) = staple {
            staple.count(&self.role.stats.ssl);
        }
        let chosen = certificate.as_deref().zip(staple);
        let shown = chosen.and_then(|(certificate, staple)| staple.certified(certificate));
        self.role.certificate = certificate;
        let config = self.context.configs[usize::from(with_alpn)][usize::from(own_order)].clone();
        let mut report = None;
        let begin = || accepted.into_connection(config);
        let connection = ChosenCertificate::with(shown, || exchange(None, &[], &mut report, begin));
        match connection {
            Ok(connection) => Ok(Handshake {
                connection: Box::new(Connection::Server(connection)),
                role: Role::Server(self.role.take()),
                report,
                first: self.hello.get(..FIRST).unwrap_or(&self.hello).to_vec(),
                plain_alert: false,
            }),
            Err((_, alert)) if staple == Some(Staple::Missing) => {
                let text = failure::text(failure::CONNECTION_REJECTED, None);
                let own = self.role.certificate.take();
                self.role.refused(&text, own);
                Err(alert)
            }
            Err((error, alert)) => {
                let text = failure::text(failure::of_hello(&error, is_tls13), None);
                self.role.failed(None, &error, Report::default(), &text);
                Err(alert)
            }
        }
    }
}

impl ServerRole {
    /// Who is told of failures after the handshake.
    pub(super) fn into_watch(self) -> Watch {
        Watch {
            stats: self.stats,
            info: Some(self.info),
        }
    }

    fn take(&mut self) -> Self {
        Self {
            stats: self.stats.clone(),
            info: self.info.clone(),
            limit: self.limit.take(),
            certificate: self.certificate.take(),
            verifier: self.verifier.take(),
            version: self.version,
        }
    }

    /// Whether the handshake has taken too long.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((timer, on_timeout)) = &mut self.limit else {
            return false;
        };
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        on_timeout();
        let info = &self.info;
        info.transport_failure_reason
            .replace(Some("connect timeout".into()));
        let details = "transport socket timeout was reached";
        info.termination_details.replace(Some(details.into()));
        self.limit = None;
        true
    }

    /// The handshake is complete: counts it and tells the connection what was agreed on.
    pub(super) fn complete(
        &mut self,
        connection: &Connection,
        mut report: Report,
    ) -> io::Result<()> {
        self.limit = None;
        let chain = connection.peer_certificates().unwrap_or_default();
        if connection.handshake_kind() == Some(HandshakeKind::Resumed)
            && let Some(verifier) = self.verifier.as_ref().filter(|_| !chain.is_empty())
        {
            // What was good when the session began may have been revoked since.
            report.peer_chain = chain.iter().map(|der| der.as_ref().into()).collect();
            report.verdict = verifier.verify_again(chain);
            if let Some(failed) = &report.verdict.failure {
                let error = Error::InvalidCertificate(failed.error.clone());
                let text = failure::text(failure::CERTIFICATE_VERIFY_FAILED, Some(&failed.text));
                self.failed(Some(connection), &error, report, &text);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        if report.verdict.counts_error {
            self.stats.ssl.fail_verify_error().inc();
        }
        let tls = tls_info(connection, report, &self.stats, self.certificate.as_ref());
        if let Connection::Server(server) = connection {
            let mut tls = tls;
            tls.server_name = server.server_name().map(Into::into);
            let _ = self.info.tls.set(Box::new(tls));
        }
        self.info.handshake_complete.set(Some(Instant::now()));
        Ok(())
    }

    /// The handshake is refused before it has begun, because of our own certificate.
    fn refused(&mut self, text: &str, own: Option<Arc<TlsCertificate>>) {
        self.stats.ssl.connection_error().inc();
        let mut tls = TlsConnectionInfo::new();
        tls.version = Some("TLSv1.2");
        tls.local = own.map(|own| own.leaf.clone());
        let _ = self.info.tls.set(Box::new(tls));
        self.info
            .transport_failure_reason
            .replace(Some(text.into()));
    }

    /// The handshake has failed: counts it and tells the connection why.
    pub(super) fn failed(
        &mut self,
        connection: Option<&Connection>,
        error: &Error,
        report: Report,
        text: &str,
    ) {
        count_failure(&self.stats, error, &report);
        let mut tls = TlsConnectionInfo::new();
        if let Some(connection) = connection {
            tls.version = connection.protocol_version().and_then(version_name);
            tls.cipher = connection
                .negotiated_cipher_suite()
                .map(|suite| cipher_name(suite.suite()));
            tls.group = connection
                .negotiated_key_exchange_group()
                .map(|group| group_name(group.name()));
        } else {
            tls.version = Some(self.version);
        }
        tls.local = self.certificate.as_ref().map(|own| own.leaf.clone());
        tls.peer_chain = report.peer_chain;
        let _ = self.info.tls.set(Box::new(tls));
        self.info
            .transport_failure_reason
            .replace(Some(text.into()));
    }
}

/// Counts why a handshake failed.
pub(super) fn count_failure(stats: &TlsStats, error: &Error, report: &Report) {
    let stats = &stats.ssl;
    match (&report.verdict.failure, error) {
        (Some(failed), _) => match failed.stat {
            FailureStat::Error => stats.fail_verify_error().inc(),
            FailureStat::San => stats.fail_verify_san().inc(),
            FailureStat::CertHash => stats.fail_verify_cert_hash().inc(),
            FailureStat::KeyUsage => stats.connection_error().inc(),
        },
        (None, Error::NoCertificatesPresented) => stats.fail_verify_no_cert().inc(),
        _ => stats.connection_error().inc(),
    }
}

/// Counts a handshake and says what it agreed on.
pub(super) fn tls_info(
    connection: &Connection,
    report: Report,
    stats: &TlsStats,
    certificate: Option<&Arc<TlsCertificate>>,
) -> TlsConnectionInfo {
    let mut tls = TlsConnectionInfo::new();
    tls.version = connection.protocol_version().and_then(version_name);
    tls.cipher = connection
        .negotiated_cipher_suite()
        .map(|suite| cipher_name(suite.suite()));
    tls.group = connection
        .negotiated_key_exchange_group()
        .map(|group| group_name(group.name()));
    tls.alpn = connection.alpn_protocol().map(Into::into);
    tls.local = certificate.map(|certificate| certificate.leaf.clone());
    let chain = connection.peer_certificates().unwrap_or_default();
    tls.peer_chain = chain.iter().map(|der| der.as_ref().into()).collect();
    tls.peer_validated = report.verdict.validated;
    tls.verified_chain = report.verdict.chain;
    stats.ssl.handshake().inc();
    if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
        stats.ssl.session_reused().inc();
    }
    if tls.peer_chain.is_empty() {
        stats.ssl.no_certificate().inc();
    }
    for (kind, name) in [
        ("versions", tls.version),
        ("ciphers", tls.cipher),
        ("curves", tls.group),
        ("sigalgs", report.scheme.map(signature_name)),
    ] {
        if let Some(name) = name {
            stats.count(kind, name);
        }
    }
    tls
}

fn version_name(version: rustls::ProtocolVersion) -> Option<&'static str> {
    match version {
        rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        _ => None,
    }
}

/// What Envoy says of a connection that comes before the secrets.
const NOT_READY: &str = "TLS error: Secret is not supplied by SDS";
/// How long a session may be resumed: Envoy's default of two hours, in seconds.
const DEFAULT_TIMEOUT: u64 = 7200;
/// How many sessions of TLS 1.2 clients without tickets are remembered.
const SESSIONS: usize = 1024;
/// How many bytes tell what a peer speaks.
const FIRST: usize = 8;
/// How many bytes of a ClientHello are looked at: one record.
const HELLO: usize = 16 * 1024 + 5;
