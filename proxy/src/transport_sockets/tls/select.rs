//! Which of our certificates a client is shown: by server name first, then by the kind of key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::OcspStaplePolicy;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureScheme};

use super::server::unix_now;
use super::staple::Staple;
use crate::secrets::TlsCertificate;
use crate::x509::SubjectAltName;

/// The certificates of a listener.
#[derive(Debug)]
pub(super) struct Certificates {
    all: Vec<Arc<TlsCertificate>>,
    /// Names of certificates in lower case, `.example.com` for `*.example.com`; of each kind of key the first one.
    by_name: HashMap<Box<str>, Vec<usize>>,
    /// A server name that no certificate has is answered with the best of all, not with the first.
    full_scan: bool,
}

impl Certificates {
    pub(super) fn new(all: Vec<Arc<TlsCertificate>>, full_scan: bool) -> Self {
        let mut by_name: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (index, certificate) in all.iter().enumerate() {
            let leaf = &certificate.leaf;
            let mut names: Vec<String> = leaf
                .names(SubjectAltName::as_dns)
                .map(str::to_ascii_lowercase)
                .collect();
            if names.is_empty() {
                names.extend(leaf.common_name().map(|name| name.to_ascii_lowercase()));
            }
            for name in names {
                let name = name
                    .strip_prefix('*')
                    .filter(|rest| rest.starts_with('.'))
                    .unwrap_or(&name);
                let known = by_name.entry(name.into()).or_default();
                let is_first = |at: &usize| all[*at].is_ecdsa != certificate.is_ecdsa;
                if known.iter().all(is_first) {
                    known.push(index);
                }
            }
        }
        Self {
            all,
            by_name,
            full_scan,
        }
    }

    /// The one that is configured first.
    pub(super) fn first(&self) -> Option<&Arc<TlsCertificate>> {
        self.all.first()
    }

    /// The certificate for a client.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Option<&Arc<TlsCertificate>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.find(name.as_deref(), takes_ecdsa(hello))
    }

    fn find(&self, name: Option<&str>, ecdsa: bool) -> Option<&Arc<TlsCertificate>> {
        let scans = match name {
            None => true,
            Some(name) => {
                let exact = self.of_name(name, ecdsa);
                let found = exact.or_else(|| {
                    // The first dot at the very start begins no domain.
                    let dot = name.char_indices().skip(1).find(|(_, c)| *c == '.')?.0;
                    self.of_name(name.get(dot..)?, ecdsa)
                });
                if found.is_some() {
                    return found;
                }
                self.full_scan
            }
        };
        let best = scans.then(|| self.best(self.all.iter(), ecdsa)).flatten();
        best.or(self.all.first())
    }

    fn of_name(&self, name: &str, ecdsa: bool) -> Option<&Arc<TlsCertificate>> {
        let indices = self.by_name.get(name)?;
        self.best(indices.iter().filter_map(|at| self.all.get(*at)), ecdsa)
    }

    /// Who takes ECDSA gets it, or else RSA; who does not gets RSA only.
    fn best<'a>(
        &self,
        mut among: impl Iterator<Item = &'a Arc<TlsCertificate>> + Clone,
        ecdsa: bool,
    ) -> Option<&'a Arc<TlsCertificate>> {
        let fallback = among.clone().find(|certificate| !certificate.is_ecdsa);
        among
            .find(|certificate| certificate.is_ecdsa == ecdsa)
            .or(fallback)
    }
}

/// Gives rustls the certificate that was chosen a moment ago on this thread. A client that had to send a second ClientHello
/// (it had no key for a group of ours) is chosen for again.
#[derive(Debug)]
pub(super) struct ChosenCertificate {
    pub(super) certificates: Arc<Certificates>,
    pub(super) staple_policy: OcspStaplePolicy,
}

/// What is shown; none: the handshake fails.
type Shown = Option<Arc<CertifiedKey>>;

thread_local! {
    static CHOSEN: RefCell<Option<Shown>> = const { RefCell::new(None) };
}

impl ChosenCertificate {
    /// What `begin` shows if it asks for a certificate.
    pub(super) fn with<T>(shown: Shown, begin: impl FnOnce() -> T) -> T {
        CHOSEN.set(Some(shown));
        let begun = begin();
        CHOSEN.set(None);
        begun
    }
}

impl ResolvesServerCert for ChosenCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        CHOSEN.take().unwrap_or_else(|| {
            let certificate = self.certificates.choose(&hello)?;
            // rustls itself shows no response to who has not asked for it.
            let staple = Staple::of(certificate, self.staple_policy, true, unix_now());
            staple.certified(certificate)
        })
    }
}

/// Whether the client can verify ECDSA signatures, and offers a cipher suite for them.
fn takes_ecdsa(hello: &ClientHello<'_>) -> bool {
    let signs = hello.signature_schemes().iter().any(|scheme| {
        matches!(
            scheme,
            SignatureScheme::ECDSA_NISTP256_SHA256
                | SignatureScheme::ECDSA_NISTP384_SHA384
                | SignatureScheme::ECDSA_NISTP521_SHA512
        )
    });
    let has_suite = hello.cipher_suites().iter().any(|suite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS13_AES_256_GCM_SHA384
                | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        )
    });
    signs && has_suite
}

#[cfg(test)]
mod tests {
    use super::super::tests::certificate;
    use super::*;

    fn certificates(full_scan: bool) -> Certificates {
        let all = vec![
            certificate(&["a.example"]),
            certificate(&["*.wild.example", "b.example"]),
            certificate(&["b.example"]),
        ];
        Certificates::new(all.into_iter().map(Arc::new).collect(), full_scan)
    }

    fn chosen(certificates: &Certificates, name: Option<&str>) -> usize {
        let found = certificates.find(name, true).unwrap();
        let same = |cert: &Arc<TlsCertificate>| Arc::ptr_eq(cert, found);
        certificates.all.iter().position(same).unwrap()
    }

    #[test]
    fn the_server_name_chooses_and_the_first_certificate_is_the_default() {
        let certificates = certificates(false);
        assert_eq!(chosen(&certificates, Some("a.example")), 0);
        assert_eq!(chosen(&certificates, Some("x.wild.example")), 1);
        assert_eq!(chosen(&certificates, Some("b.example")), 1);
        assert_eq!(chosen(&certificates, Some("y.x.wild.example")), 0);
        assert_eq!(chosen(&certificates, Some("unknown")), 0);
        assert_eq!(chosen(&certificates, None), 0);
    }
}
