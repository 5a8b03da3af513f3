//! What is told of a peer with whom TLS could not begin.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Whether the first bytes of a connection are TLS's: a record of the handshake, or an alert.
pub fn looks_like_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

/// Why a handshake, or what came after it, failed; `peer` is how the other end is called, as in `the agent`.
pub fn refusal(error: &io::Error, peer: &str) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => format!(
                "{peer} closed it during the TLS handshake: it may not speak TLS (is it started with --certificates?)"
            ),
            _ => error.to_string(),
        };
    };
    match error {
        Error::InvalidCertificate(bad) => format!("{peer}'s certificate is refused: {}", wrong(bad)),
        Error::NoCertificatesPresented => format!("{peer} has no certificate: start it with --certificates"),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            format!("{peer} does not speak TLS here, where only TLS is spoken: start it with --certificates")
        }
        Error::PeerIncompatible(reason) => {
            format!("{peer} does not speak TLS 1.3 as it is spoken here ({reason:?})")
        }
        Error::AlertReceived(alert) => told(*alert, peer),
        error => error.to_string(),
    }
}

/// What the other end says of our certificate.
fn told(alert: AlertDescription, peer: &str) -> String {
    let reason = match alert {
        AlertDescription::CertificateExpired => "it has expired, or its clock is wrong",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::UnknownCA => "its CA is another one",
        AlertDescription::CertificateRequired => "there is none: start this with --certificates",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::DecryptError
        | AlertDescription::AccessDenied => "it does not prove what it must there",
        alert => return format!("{peer} ended TLS: {alert:?}"),
    };
    format!("{peer} refuses the certificate of this side: {reason}")
}

/// What is wrong with a certificate.
pub(crate) fn wrong(bad: &CertificateError) -> String {
    use CertificateError as Bad;
    match bad {
        Bad::Expired | Bad::ExpiredContext { .. } => "it has expired".into(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "it is not valid yet: one of the two clocks is wrong".into()
        }
        Bad::Revoked => "it was revoked".into(),
        Bad::UnknownIssuer | Bad::BadSignature => "another CA than the one in ca.pem has signed it".into(),
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "it is not the Manager's".into(),
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
            "it is for another purpose: a node's is no server's, and the Manager's no client's".into()
        }
        bad => bad.to_string(),
    }
}
