//! The seam to rustls: its verifiers, and what they have to say beside yes and no.
//!
//! A verifier belongs to a configuration that many connections share, and the error that it gives rustls only chooses the
//! alert. So what one connection asks and hears lies in a place of the thread while rustls looks at its bytes: [`exchange`].

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, RawPublicKeyEntity};

use super::{Failure, FailureStat, Peer, Validation, Verdict};
use crate::x509::{Certificate, key_usage};

/// What verifiers have found out about the peer of one connection.
#[derive(Debug, Default)]
pub(in crate::transport_sockets::tls) struct Report {
    /// What the peer sent, in DER.
    pub(in crate::transport_sockets::tls) peer_chain: Vec<Box<[u8]>>,
    pub(in crate::transport_sockets::tls) verdict: Verdict,
    /// How the peer signed the handshake.
    pub(in crate::transport_sockets::tls) scheme: Option<SignatureScheme>,
}

#[derive(Default)]
struct Exchange {
    verify_names: Vec<Box<str>>,
    server_name: Option<Box<str>>,
    report: Option<Report>,
}

thread_local! {
    static EXCHANGE: RefCell<Exchange> = RefCell::default();
}

/// Lets rustls work on a connection whose peer must have one of `verify_names`, if there are any. What the verifiers have
/// found out is added to `report`.
pub(in crate::transport_sockets::tls) fn exchange<T>(
    server_name: Option<&str>,
    verify_names: &[Box<str>],
    report: &mut Option<Report>,
    work: impl FnOnce() -> T,
) -> T {
    EXCHANGE.with_borrow_mut(|exchange| {
        *exchange = Exchange {
            verify_names: verify_names.to_vec(),
            server_name: server_name.map(Into::into),
            report: report.take(),
        };
    });
    let done = work();
    *report = EXCHANGE.take().report;
    done
}

/// Verifies clients.
#[derive(Debug)]
pub(in crate::transport_sockets::tls) struct ClientVerifier {
    validation: Arc<Validation>,
    mandatory: bool,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// None: clients are not asked for certificates. `required`: `require_client_certificate`.
    pub(in crate::transport_sockets::tls) fn new(
        validation: &Arc<Validation>,
        required: bool,
    ) -> Option<Self> {
        if !validation.wants_certificate() {
            return None;
        }
        let mut hints: Vec<DistinguishedName> = Vec::new();
        if !validation.suppress_client_ca_list {
            for certificate in validation.trusted.iter() {
                let name = DistinguishedName::from(certificate.raw_subject().to_vec());
                if !hints.iter().any(|hint| hint.as_ref() == name.as_ref()) {
                    hints.push(name);
                }
            }
        }
        Some(Self {
            mandatory: validation.requires_certificate(required),
            validation: validation.clone(),
            hints,
            algorithms: algorithms(),
        })
    }

    /// Judges a client whose session is resumed, by the certificates of the first handshake.
    pub(in crate::transport_sockets::tls) fn verify_again(
        &self,
        chain: &[CertificateDer<'_>],
    ) -> Verdict {
        self.validation.verify(Peer::Client, chain, None, &[])
    }
}

/// Verifies servers.
#[derive(Debug)]
pub(in crate::transport_sockets::tls) struct ServerVerifier {
    /// None: any server is good.
    pub(in crate::transport_sockets::tls) validation: Option<Arc<Validation>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(in crate::transport_sockets::tls) fn new(validation: Option<Arc<Validation>>) -> Self {
        Self {
            validation,
            algorithms: algorithms(),
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = whole_chain(end_entity, intermediates);
        let verdict = may_sign(end_entity)
            .unwrap_or_else(|| self.validation.verify(Peer::Client, &chain, None, &[]));
        conclude(&chain, verdict).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature12(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature13(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = whole_chain(end_entity, intermediates);
        let judge = |exchange: &Exchange| {
            let name = exchange.server_name.as_deref();
            let names = &exchange.verify_names;
            match &self.validation {
                Some(validation) => validation.verify(Peer::Server, &chain, name, names),
                None if names.is_empty() => Verdict::default(),
                None => Validation::default().verify(Peer::Server, &chain, name, names),
            }
        };
        let verdict = may_sign(end_entity).unwrap_or_else(|| EXCHANGE.with_borrow(judge));
        conclude(&chain, verdict).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature12(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature13(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

/// How peers may sign, in the order of BoringSSL.
const SCHEMES: [SignatureScheme; 8] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// Refuses a key that is not meant for signatures, whatever else is asked of a peer.
fn may_sign(end_entity: &CertificateDer<'_>) -> Option<Verdict> {
    let usage = Certificate::from_der(end_entity)
        .ok()?
        .extensions
        .key_usage?;
    (usage & key_usage::DIGITAL_SIGNATURE == 0).then(|| {
        Verdict::failed(Failure {
            text: String::new(),
            error: CertificateError::InvalidPurpose,
            stat: FailureStat::KeyUsage,
        })
    })
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

fn whole_chain<'a>(
    end_entity: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(end_entity)
        .chain(intermediates)
        .map(|der| CertificateDer::from(der.as_ref()))
        .collect()
}

fn conclude(chain: &[CertificateDer<'_>], verdict: Verdict) -> Result<(), Error> {
    let error = verdict
        .failure
        .as_ref()
        .map(|Failure { error, .. }| Error::InvalidCertificate(error.clone()));
    EXCHANGE.with_borrow_mut(|exchange| {
        let report = exchange.report.get_or_insert_default();
        report.peer_chain = chain.iter().map(|der| der.as_ref().into()).collect();
        report.verdict = verdict;
    });
    error.map_or(Ok(()), Err)
}

fn note_scheme(scheme: SignatureScheme) {
    EXCHANGE.with_borrow_mut(|exchange| {
        exchange.report.get_or_insert_default().scheme = Some(scheme);
    });
}

fn signature12(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    note_scheme(dss.scheme);
    if EndEntityCert::try_from(cert).is_ok() {
        return verify_tls12_signature(message, cert, dss, algorithms);
    }
    let key = key_of(cert)?;
    let entity = RawPublicKeyEntity::try_from(&key).map_err(|_| bad_encoding())?;
    let fitting = algorithms
        .mapping
        .iter()
        .filter(|(scheme, _)| *scheme == dss.scheme)
        .flat_map(|(_, algorithms)| algorithms.iter());
    let good = |algorithm: &&'static dyn SignatureVerificationAlgorithm| {
        entity
            .verify_signature(*algorithm, message, dss.signature())
            .is_ok()
    };
    match fitting.into_iter().any(good) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(Error::InvalidCertificate(CertificateError::BadSignature)),
    }
}

fn signature13(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    note_scheme(dss.scheme);
    if EndEntityCert::try_from(cert).is_ok() {
        return verify_tls13_signature(message, cert, dss, algorithms);
    }
    verify_tls13_signature_with_raw_key(message, &key_of(cert)?, dss, algorithms)
}

/// The key of a certificate that webpki cannot read.
fn key_of(cert: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let certificate = Certificate::from_der(cert).map_err(|_| bad_encoding())?;
    Ok(SubjectPublicKeyInfoDer::from(
        certificate.public_key().to_vec(),
    ))
}

fn bad_encoding() -> Error {
    Error::InvalidCertificate(CertificateError::BadEncoding)
}
