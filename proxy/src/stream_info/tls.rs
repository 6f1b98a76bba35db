//! What a TLS handshake agreed on, for logs, headers and decisions about who the peer is.

use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use crate::x509::Certificate;

/// A TLS connection, or the attempt at one. Certificates of the peer are taken apart when somebody asks for them.
pub struct TlsConnectionInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: Option<&'static str>,
    /// The cipher suite, as BoringSSL names it.
    pub cipher: Option<&'static str>,
    /// The key exchange, as BoringSSL names it: `X25519`.
    pub group: Option<&'static str>,
    /// The protocol that both sides took, by ALPN.
    pub alpn: Option<Box<[u8]>>,
    /// The name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// The certificate that the peer sent, and those after it, in DER.
    pub peer_chain: Vec<Box<[u8]>>,
    /// The certificates from the peer's to the trusted one, in DER. Empty: nothing was verified.
    pub verified_chain: Vec<Box<[u8]>>,
    /// Whether a certificate of the peer was there and was found good.
    pub peer_validated: bool,
    /// Our certificate, if one was shown.
    pub local: Option<Arc<Certificate>>,
    peer: OnceCell<Option<Rc<Certificate>>>,
}

impl TlsConnectionInfo {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            version: None,
            cipher: None,
            group: None,
            alpn: None,
            server_name: None,
            peer_chain: Vec::new(),
            verified_chain: Vec::new(),
            peer_validated: false,
            local: None,
            peer: OnceCell::new(),
        }
    }

    /// The certificate of the peer; none: it sent none, or one that nobody can read.
    pub fn peer(&self) -> Option<&Rc<Certificate>> {
        let parse = || {
            let first = self.peer_chain.first()?;
            Certificate::from_der(first).ok().map(Rc::new)
        };
        self.peer.get_or_init(parse).as_ref()
    }

    /// The certificates that the peer sent, taken apart.
    pub fn peer_chain(&self) -> impl Iterator<Item = Certificate> {
        let parse = |der| Certificate::from_der(der).ok();
        self.peer_chain.iter().map(|der| &**der).filter_map(parse)
    }

    /// The certificate that issued the peer's; none: nothing was verified.
    pub fn peer_issuer(&self) -> Option<Certificate> {
        Certificate::from_der(self.verified_chain.get(1)?).ok()
    }
}

impl Default for TlsConnectionInfo {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TlsConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnectionInfo")
            .field("version", &self.version)
            .field("cipher", &self.cipher)
            .field("server_name", &self.server_name)
            .field("peer_validated", &self.peer_validated)
            .finish_non_exhaustive()
    }
}
