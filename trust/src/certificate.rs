//! What stands in a certificate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use crate::role::Role;

/// What a certificate says, not whether it is true: who trusts it has verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Whom it names; none: a CA, or a certificate of others.
    pub role: Option<Role>,
    /// DNS names and addresses in it, as text.
    pub names: Vec<String>,
    /// Its serial number, lower-case hexadecimal digits.
    pub serial: String,
    /// Not valid before, to the second.
    pub from: SystemTime,
    /// Not valid after, to the second.
    pub until: SystemTime,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// Whether it names itself as its issuer.
    pub is_self_signed: bool,
    /// The subject, for people.
    pub subject: String,
}

/// A certificate that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no X.509 certificate: {0}")]
pub struct Unreadable(pub String);

impl About {
    /// Reads a certificate.
    ///
    /// # Errors
    /// It is none, or has bytes behind its end.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| Unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(Unreadable("there are bytes behind its end".into()));
        }
        let names = certificate.subject_alternative_name().map_err(|error| Unreadable(error.to_string()))?;
        let (mut uris, mut texts) = (Vec::new(), Vec::new());
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::DNSName(name) => texts.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => texts.extend(address(bytes)),
                _ => {}
            }
        }
        // Exactly one, as SPIFFE wants it: with several, two readers might choose differently.
        let role = match uris.as_slice() {
            [uri] if !certificate.is_ca() => uri.parse().ok(),
            _ => None,
        };
        let validity = certificate.validity();
        Ok(Self {
            role,
            names: texts,
            serial: hexadecimal(certificate.raw_serial()),
            from: time(validity.not_before),
            until: time(validity.not_after),
            is_authority: certificate.is_ca(),
            is_self_signed: certificate.subject() == certificate.issuer(),
            subject: certificate.subject().to_string(),
        })
    }

    /// Seconds until it is no longer valid; below zero when it is not.
    pub fn seconds_left(&self, now: SystemTime) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match self.until.duration_since(now) {
            Ok(left) => seconds(left),
            Err(over) => -seconds(over.duration()),
        }
    }
}

/// A certificate's SHA-256, in lower-case hexadecimal digits: `openssl x509 -fingerprint -sha256` without colons.
pub fn fingerprint(der: &CertificateDer<'_>) -> String {
    hexadecimal(&Sha256::digest(der.as_ref()))
}

/// Bytes in lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn time(at: ASN1Time) -> SystemTime {
    let since = Duration::from_secs(at.timestamp().unsigned_abs());
    if at.timestamp() >= 0 { UNIX_EPOCH + since } else { UNIX_EPOCH - since }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string())).ok()
}
