//! A handshake under way, of either side.

use std::io;
use std::task::Context;

use bytes::BytesMut;
use rustls::{Connection, Error, ProtocolVersion};

use super::super::client::ClientRole;
use super::super::failure;
use super::super::server::ServerRole;
use super::super::verify::{FailureStat, Report, exchange};
use super::transfer::feed;
use super::{FIRST, Watch};

/// A handshake under way.
pub(in crate::transport_sockets::tls) struct Handshake {
    pub(in crate::transport_sockets::tls) connection: Box<Connection>,
    pub(in crate::transport_sockets::tls) role: Role,
    pub(in crate::transport_sockets::tls) report: Option<Report>,
    /// The first bytes that came, to tell what else than TLS a peer speaks.
    pub(in crate::transport_sockets::tls) first: Vec<u8>,
    /// The last record that came is an alert in plain text.
    pub(in crate::transport_sockets::tls) plain_alert: bool,
}

/// Which side we are, and who wants to know how the handshake ends.
pub(in crate::transport_sockets::tls) enum Role {
    Server(ServerRole),
    Client(ClientRole),
}

impl Handshake {
    /// Gives rustls bytes of the peer.
    pub(super) fn feed(&mut self, bytes: &[u8], unread: &mut BytesMut) -> Result<(), Error> {
        if self.first.is_empty() {
            self.first
                .extend_from_slice(bytes.get(..FIRST).unwrap_or(bytes));
        }
        self.plain_alert = matches!(bytes, [.., 0x15, 3, 3, 0, 2, _, _]);
        let Self {
            connection,
            role,
            report,
            ..
        } = self;
        let (server_name, names) = role.wanted();
        exchange(server_name, names, report, || {
            feed(connection, bytes, unread)
        })
    }

    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.role {
            Role::Server(role) => role.poll_expired(cx),
            Role::Client(_) => false,
        }
    }

    pub(super) fn complete(&mut self) -> io::Result<()> {
        let report = self.report.take().unwrap_or_default();
        match &mut self.role {
            Role::Server(role) => role.complete(&self.connection, report),
            Role::Client(role) => role.complete(&self.connection, report),
        }
    }

    pub(super) fn failed(&mut self, error: &Error) -> io::Error {
        let mut report = self.report.take().unwrap_or_default();
        let text = match &report.verdict.failure {
            Some(failed) if failed.stat == FailureStat::KeyUsage => {
                // The library has not taken the certificate at all.
                report.peer_chain.clear();
                failure::text(failure::KEY_USAGE_BIT_INCORRECT, None)
            }
            Some(failed) => failure::text(
                failure::CERTIFICATE_VERIFY_FAILED,
                Some(&*failed.text).filter(|text| !text.is_empty()),
            ),
            None if self.plain_alert
                && matches!(error, Error::AlertReceived(_))
                && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) =>
            {
                failure::plain_alert()
            }
            None if matches!(self.role, Role::Client(_))
                && self.connection.protocol_version().is_none() =>
            {
                failure::of_server(error, &self.first)
            }
            None => failure::text(failure::reason_of(error, &self.first), None),
        };
        match &mut self.role {
            Role::Server(role) => role.failed(Some(&self.connection), error, report, &text),
            Role::Client(role) => role.failed(error, &report),
        }
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// The peer went away.
    pub(super) fn closed(&mut self) -> io::Error {
        io::ErrorKind::UnexpectedEof.into()
    }
}

impl Role {
    pub(super) fn into_watch(self) -> Watch {
        match self {
            Self::Server(role) => role.into_watch(),
            Self::Client(role) => role.into_watch(),
        }
    }

    fn wanted(&self) -> (Option<&str>, &[Box<str>]) {
        match self {
            Self::Server(_) => (None, &[]),
            Self::Client(role) => (role.server_name.as_deref(), &role.verify_names),
        }
    }
}
