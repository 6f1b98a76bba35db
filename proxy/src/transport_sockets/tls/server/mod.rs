//! The downstream side: `DownstreamTlsContext`.

mod handshake;
mod outcome;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::downstream_tls_context::{OcspStaplePolicy, SessionTicketKeysType};
use rustls::ServerConfig;
use rustls::server::{
    Acceptor, NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache,
    WebPkiClientVerifier,
};
use tokio::time::sleep;

use super::context::{CommonContext, Follower, Materials, Rebuild, build};
use super::parameters::Side;
use super::select::{Certificates, ChosenCertificate};
use super::staple;
use super::stats::TlsStats;
use super::stream::TlsStream;
use super::tickets::Tickets;
use super::verify::ClientVerifier;
use crate::config::{ConfigPath, ConfigReport, Rejected};
use crate::net::Io;
use crate::secrets::{ContextCertificates, SecretCell, SecretKind, SecretWatcher};
use crate::server::FactoryContext;
use crate::stream_info::ConnectionInfo;
use crate::transport_sockets::{DownstreamSocket, HandshakeLimit};

pub(super) use handshake::{Accepting, Refusal, ServerRole};
pub(super) use outcome::{count_failure, tls_info};

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

pub(super) fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// What Envoy says of a connection that comes before the secrets.
const NOT_READY: &str = "TLS error: Secret is not supplied by SDS";

/// How long a session may be resumed: Envoy's default of two hours, in seconds.
const DEFAULT_TIMEOUT: u64 = 7200;

/// How many sessions of TLS 1.2 clients without tickets are remembered.
const SESSIONS: usize = 1024;
