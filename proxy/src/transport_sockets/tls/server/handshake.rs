//! The handshake of a client: which certificate it gets, and whether its own is taken.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use rustls::{Connection, Error, HandshakeKind};
use tokio::time::{Instant, Sleep};

use super::super::failure;
use super::super::parameters::{cipher_name, group_name};
use super::super::select::ChosenCertificate;
use super::super::staple::{self, Staple};
use super::super::stats::TlsStats;
use super::super::stream::{Handshake, Role, Watch};
use super::super::verify::{ClientVerifier, Report, exchange};
use super::outcome::{count_failure, tls_info, version_name};
use super::{ServerContext, unix_now};
use crate::secrets::TlsCertificate;
use crate::stream_info::{ConnectionInfo, TlsConnectionInfo};

/// A connection whose ClientHello has not come yet.
pub(in crate::transport_sockets::tls) struct Accepting {
    pub(super) acceptor: Acceptor,
    pub(super) context: Arc<ServerContext>,
    pub(in crate::transport_sockets::tls) role: ServerRole,
    /// What came so far.
    pub(super) hello: Vec<u8>,
}

/// What a client is told whose ClientHello is none, or is not accepted.
pub(in crate::transport_sockets::tls) enum Refusal {
    /// The alert of rustls.
    Alert(Box<AcceptedAlert>),
    /// A record with an alert.
    Plain([u8; 7]),
    Silent,
}

/// Who waits for the end of a handshake as a server.
pub(in crate::transport_sockets::tls) struct ServerRole {
    pub(super) stats: Arc<TlsStats>,
    pub(super) info: Rc<ConnectionInfo>,
    #[allow(clippy::type_complexity, reason = "a timer and what it tells")]
    pub(super) limit: Option<(Pin<Box<Sleep>>, Box<dyn Fn()>)>,
    /// The certificate that the client is shown.
    pub(super) certificate: Option<Arc<TlsCertificate>>,
    pub(super) verifier: Option<Arc<ClientVerifier>>,
    /// What BoringSSL calls the version before it is agreed on.
    pub(super) version: &'static str,
}

impl Accepting {
    /// Takes bytes of the client. `Ok(None)`: the ClientHello is not complete.
    pub(in crate::transport_sockets::tls) fn feed(
        &mut self,
        bytes: &[u8],
    ) -> Result<Option<Handshake>, Refusal> {
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
    pub(in crate::transport_sockets::tls) fn into_watch(self) -> Watch {
        Watch {
            stats: self.stats,
            info: Some(self.info),
        }
    }

    pub(super) fn take(&mut self) -> Self {
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
    pub(in crate::transport_sockets::tls) fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
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
    pub(in crate::transport_sockets::tls) fn complete(
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
    pub(super) fn refused(&mut self, text: &str, own: Option<Arc<TlsCertificate>>) {
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
    pub(in crate::transport_sockets::tls) fn failed(
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

/// How many bytes tell what a peer speaks.
const FIRST: usize = 8;

/// How many bytes of a ClientHello are looked at: one record.
const HELLO: usize = 16 * 1024 + 5;
