//! Why a handshake failed, in the words of BoringSSL and Envoy.
//!
//! Envoy prints BoringSSL's error queue, `TLS_error:|<code>:SSL routines:OPENSSL_internal:<REASON>`, then what it knows itself,
//! and `:TLS_error_end`. The code is that of the library, 16, in the upper byte, and of the reason below.

use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved,
};

/// A reason of BoringSSL: its number and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reason(u32, &'static str);

pub(super) const CERTIFICATE_VERIFY_FAILED: Reason = Reason(125, "CERTIFICATE_VERIFY_FAILED");
pub(super) const CONNECTION_REJECTED: Reason = Reason(133, "CONNECTION_REJECTED");
const PEER_DID_NOT_RETURN_A_CERTIFICATE: Reason = Reason(192, "PEER_DID_NOT_RETURN_A_CERTIFICATE");
const BAD_SIGNATURE: Reason = Reason(123, "BAD_SIGNATURE");
const DECODE_ERROR: Reason = Reason(137, "DECODE_ERROR");
const DECRYPTION_FAILED_OR_BAD_RECORD_MAC: Reason =
    Reason(139, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC");
const HTTP_REQUEST: Reason = Reason(156, "HTTP_REQUEST");
const HTTPS_PROXY_REQUEST: Reason = Reason(155, "HTTPS_PROXY_REQUEST");
const CLIENTHELLO_PARSE_FAILED: Reason = Reason(131, "CLIENTHELLO_PARSE_FAILED");
const WRONG_CURVE: Reason = Reason(243, "WRONG_CURVE");
const NO_COMMON_SIGNATURE_ALGORITHMS: Reason = Reason(253, "NO_COMMON_SIGNATURE_ALGORITHMS");
const NO_SHARED_CIPHER: Reason = Reason(184, "NO_SHARED_CIPHER");
const NO_SHARED_GROUP: Reason = Reason(266, "NO_SHARED_GROUP");
const UNEXPECTED_MESSAGE: Reason = Reason(223, "UNEXPECTED_MESSAGE");
const UNSUPPORTED_PROTOCOL: Reason = Reason(240, "UNSUPPORTED_PROTOCOL");
const WRONG_VERSION_NUMBER: Reason = Reason(247, "WRONG_VERSION_NUMBER");
const INVALID_ALPN_PROTOCOL: Reason = Reason(259, "INVALID_ALPN_PROTOCOL");

/// The whole text for a reason and what Envoy adds to it.
pub(super) fn text(reason: Reason, details: Option<&str>) -> String {
    let Reason(number, name) = reason;
    let code = (16 << 24) + number;
    let mut out = format!("TLS_error:|{code}:SSL routines:OPENSSL_internal:{name}");
    let details = match (details, reason) {
        (None, PEER_DID_NOT_RETURN_A_CERTIFICATE) => {
            Some("peer did not provide required client certificate")
        }
        (details, _) => details,
    };
    if let Some(details) = details {
        out.push(':');
        out.push_str(details);
    }
    out.push_str(":TLS_error_end");
    out
}

/// The reason that BoringSSL gives where rustls gives this error. `first`: the first bytes that the peer sent.
pub(super) fn reason_of(error: &Error, first: &[u8]) -> Reason {
    match error {
        Error::AlertReceived(alert) => alert_reason(*alert),
        Error::InvalidCertificate(CertificateError::BadSignature) => BAD_SIGNATURE,
        Error::InvalidCertificate(_) => CERTIFICATE_VERIFY_FAILED,
        Error::NoCertificatesPresented => PEER_DID_NOT_RETURN_A_CERTIFICATE,
        Error::DecryptError => DECRYPTION_FAILED_OR_BAD_RECORD_MAC,
        Error::NoApplicationProtocol => INVALID_ALPN_PROTOCOL,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            UNEXPECTED_MESSAGE
        }
        Error::InvalidMessage(error) => invalid_message(error, first),
        Error::PeerIncompatible(error) => incompatible(error),
        Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            INVALID_ALPN_PROTOCOL
        }
        Error::PeerMisbehaved(_) => DECODE_ERROR,
        _ => UNEXPECTED_MESSAGE,
    }
}

/// Why there was no ClientHello, and the alert that says so. None: a client that speaks something else is told nothing.
pub(super) fn before_hello(error: &Error, first: &[u8]) -> (Reason, Option<u8>) {
    if let Some(reason) = speaks_http(first) {
        return (reason, None);
    }
    match (first, error) {
        (_, Error::PeerIncompatible(_)) => (UNSUPPORTED_PROTOCOL, Some(70)),
        (&[0x15, 3, _, 0, 2, _, alert, ..], _) => {
            (alert_reason(AlertDescription::from(alert)), None)
        }
        (&[0x16, 3, _, _, _, 1, ..], _) => (CLIENTHELLO_PARSE_FAILED, Some(50)),
        (&[0x16, 3, ..], _) => (UNEXPECTED_MESSAGE, Some(10)),
        _ => (WRONG_VERSION_NUMBER, Some(70)),
    }
}

/// Why a ClientHello was refused.
pub(super) fn of_hello(error: &Error, is_tls13: bool) -> Reason {
    match error {
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) if !is_tls13 => WRONG_CURVE,
        error => reason_of(error, b""),
    }
}

/// The whole text where an alert came in plain text after keys were agreed on.
pub(super) fn plain_alert() -> String {
    let decryption = text(DECRYPTION_FAILED_OR_BAD_RECORD_MAC, None);
    let code = (16 << 24) + 112;
    let length = format!("TLS_error:|{code}:SSL routines:OPENSSL_internal:BAD_PACKET_LENGTH|");
    decryption.replacen("TLS_error:|", &length, 1)
}

fn speaks_http(first: &[u8]) -> Option<Reason> {
    const METHODS: [&[u8]; 4] = [b"GET ", b"POST ", b"HEAD ", b"PUT "];
    if METHODS.iter().any(|method| first.starts_with(method)) {
        return Some(HTTP_REQUEST);
    }
    first.starts_with(b"CONNE").then_some(HTTPS_PROXY_REQUEST)
}

fn invalid_message(error: &InvalidMessage, first: &[u8]) -> Reason {
    if let Some(reason) = speaks_http(first) {
        return reason;
    }
    match error {
        InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion => {
            WRONG_VERSION_NUMBER
        }
        _ => DECODE_ERROR,
    }
}

fn incompatible(error: &PeerIncompatible) -> Reason {
    use PeerIncompatible as P;
    match error {
        P::NoCipherSuitesInCommon | P::NoCertificateRequestSignatureSchemesInCommon => {
            NO_SHARED_CIPHER
        }
        P::NoKxGroupsInCommon | P::NoEcPointFormatsInCommon => NO_SHARED_GROUP,
        P::NoSignatureSchemesInCommon => NO_COMMON_SIGNATURE_ALGORITHMS,
        _ => UNSUPPORTED_PROTOCOL,
    }
}

fn alert_reason(alert: AlertDescription) -> Reason {
    let number = u8::from(alert);
    let name = match number {
        0 => "SSLV3_ALERT_CLOSE_NOTIFY",
        10 => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        20 => "SSLV3_ALERT_BAD_RECORD_MAC",
        21 => "TLSV1_ALERT_DECRYPTION_FAILED",
        22 => "TLSV1_ALERT_RECORD_OVERFLOW",
        30 => "SSLV3_ALERT_DECOMPRESSION_FAILURE",
        40 => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        41 => "SSLV3_ALERT_NO_CERTIFICATE",
        42 => "SSLV3_ALERT_BAD_CERTIFICATE",
        43 => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        44 => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        45 => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        46 => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        47 => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        48 => "TLSV1_ALERT_UNKNOWN_CA",
        49 => "TLSV1_ALERT_ACCESS_DENIED",
        50 => "TLSV1_ALERT_DECODE_ERROR",
        51 => "TLSV1_ALERT_DECRYPT_ERROR",
        60 => "TLSV1_ALERT_EXPORT_RESTRICTION",
        70 => "TLSV1_ALERT_PROTOCOL_VERSION",
        71 => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        80 => "TLSV1_ALERT_INTERNAL_ERROR",
        86 => "TLSV1_ALERT_INAPPROPRIATE_FALLBACK",
        90 => "TLSV1_ALERT_USER_CANCELLED",
        100 => "TLSV1_ALERT_NO_RENEGOTIATION",
        110 => "TLSV1_ALERT_UNSUPPORTED_EXTENSION",
        111 => "TLSV1_ALERT_CERTIFICATE_UNOBTAINABLE",
        112 => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        113 => "TLSV1_ALERT_BAD_CERTIFICATE_STATUS_RESPONSE",
        114 => "TLSV1_ALERT_BAD_CERTIFICATE_HASH_VALUE",
        115 => "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY",
        116 => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        120 => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "UNKNOWN_ALERT_TYPE",
    };
    Reason(1000 + u32::from(number), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_numbers_and_words_of_boringssl() {
        assert_eq!(
            text(CERTIFICATE_VERIFY_FAILED, Some("verify cert failed: x")),
            "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: x:TLS_error_end"
        );
        assert_eq!(
            text(reason_of(&Error::NoCertificatesPresented, b""), None),
            "TLS_error:|268435648:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide required client certificate:TLS_error_end"
        );
        assert_eq!(
            text(
                reason_of(&Error::AlertReceived(AlertDescription::UnknownCA), b""),
                None
            ),
            "TLS_error:|268436504:SSL routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA:TLS_error_end"
        );
        let error = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(reason_of(&error, b"GET / HTTP/1.1"), HTTP_REQUEST);
        assert_eq!(reason_of(&error, b"SSH-2.0"), WRONG_VERSION_NUMBER);
    }

    #[test]
    fn what_is_no_client_hello_is_told_from_its_first_bytes() {
        let error = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        let told = |first: &[u8]| before_hello(&error, first);
        assert_eq!(told(b"CONNECT "), (HTTPS_PROXY_REQUEST, None));
        assert_eq!(
            told(b"\x16\x03\x01\0\x08\x02\0\0"),
            (UNEXPECTED_MESSAGE, Some(10))
        );
        assert_eq!(
            told(b"\x16\x03\x01\0\x08\x01\0\0"),
            (CLIENTHELLO_PARSE_FAILED, Some(50))
        );
        let alert = Reason(1040, "SSLV3_ALERT_HANDSHAKE_FAILURE");
        assert_eq!(told(b"\x15\x03\x01\0\x02\x02\x28\0"), (alert, None));
        assert_eq!(told(b"SSH-2.0-"), (WRONG_VERSION_NUMBER, Some(70)));
        assert_eq!(told(b""), (WRONG_VERSION_NUMBER, Some(70)));
    }
}
