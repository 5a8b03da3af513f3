//! A certificate authority for one installation: it signs certificates of the Manager, nodes and people, and lists
//! what it has revoked.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::certificate::{About, Unreadable, hexadecimal};
use crate::role::{InvalidName, MANAGER_NAME, Role, check_name};

/// How long before its making a certificate is valid: machines whose clocks are so far behind take it at once.
pub const BACKDATED: Duration = Duration::from_secs(300);
/// Bytes of a serial number, random: nobody meets one twice, and none is guessed.
const SERIAL_BYTES: usize = 16;
/// Longest signing request that is read, bytes.
const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// A CA, with its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Why something can't be signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The name is not fit for a certificate.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The CA's own certificate makes no sense.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The CA's own certificate may not sign.
    #[error("it is no CA's certificate: it may not sign others")]
    NoAuthority,
    /// It would end after the CA.
    #[error("the CA itself is valid until {until} only: choose a shorter validity, or make a new CA")]
    Longer {
        /// The CA's end.
        until: String,
    },
    /// What was sent is no signing request, or was not signed by the key in it.
    #[error("it is no certificate signing request: {0}")]
    Request(String),
    /// The libraries say no.
    #[error("{0}")]
    Signing(#[from] rcgen::Error),
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// Names besides the role by which clients verify a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub hosts: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// A certificate that was made.
#[derive(Debug, Clone)]
pub struct Issued {
    /// It, in PEM.
    pub certificate: String,
    /// What it says.
    pub about: About,
}

impl Authority {
    /// Makes a CA: its certificate and key in PEM come with it.
    ///
    /// # Errors
    /// The libraries or the system's random numbers fail.
    pub fn make(name: &str, now: SystemTime, valid: Duration) -> Result<(Self, String), AuthorityError> {
        let key = KeyPair::generate()?;
        // Two CAs of one subject could not be told apart by whoever verifies.
        let name = format!("{name} {}", hexadecimal(&random_serial()?.to_bytes()[..4]));
        let mut params = params(&name, now, now + valid)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let key_pem = key.serialize_pem();
        Ok((Self::read(&certificate.pem(), &key_pem)?, key_pem))
    }

    /// A CA from its certificate and key in PEM.
    ///
    /// # Errors
    /// They can't be read, are no CA's, or don't belong together.
    pub fn read(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| Unreadable(error.to_string()))?;
        if !About::read(&certificate)?.is_authority {
            return Err(AuthorityError::NoAuthority);
        }
        let key = KeyPair::from_pem(key_pem)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| Unreadable(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Unreadable("the key is not the one in the certificate".into()).into());
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, pem: certificate_pem.to_owned(), issuer })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a certificate for a key: what it says is decided here, by the caller, never by who asks.
    ///
    /// # Errors
    /// The name is not fit, or it would outlive the CA.
    pub fn issue(
        &self,
        role: &Role,
        names: &Names,
        key: &impl PublicKeyData,
        now: SystemTime,
        valid: Duration,
    ) -> Result<Issued, AuthorityError> {
        check_name(role.name())?;
        let (until, own_until) = (now + valid, About::read(&self.certificate)?.until);
        if until > own_until {
            return Err(AuthorityError::Longer { until: crate::shown_time(own_until) });
        }
        let mut params = params(role.name(), now, until)?;
        let fit = |text: String| text.clone().try_into().map_err(|_| InvalidName(text));
        params.subject_alt_names.push(SanType::URI(fit(role.to_uri())?));
        let hosts = names.hosts.iter().map(String::as_str);
        for host in hosts.chain((*role == Role::Manager).then_some(MANAGER_NAME)) {
            params.subject_alt_names.push(SanType::DnsName(fit(host.to_owned())?));
        }
        params.subject_alt_names.extend(names.addresses.iter().copied().map(SanType::IpAddress));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match role {
            Role::Manager => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Node(_) | Role::Person(_) => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued { about: About::read(certificate.der())?, certificate: certificate.pem() })
    }

    /// Signs a certificate for the key of a signing request in PEM; whatever names the request has are ignored.
    ///
    /// # Errors
    /// It is no request, its signature is not its key's, or as [`Self::issue`].
    pub fn sign(
        &self,
        role: &Role,
        request: &str,
        now: SystemTime,
        valid: Duration,
    ) -> Result<Issued, AuthorityError> {
        if request.len() > MAX_REQUEST_BYTES {
            return Err(AuthorityError::Request(format!("it has more than {MAX_REQUEST_BYTES} bytes")));
        }
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| AuthorityError::Request(error.to_string()))?;
        self.issue(role, &Names::default(), &request.public_key, now, valid)
    }

    /// The list of revoked certificates in PEM: serial numbers as in [`About::serial`], and when each was revoked.
    ///
    /// # Errors
    /// A serial number is none.
    pub fn revocations(
        &self,
        revoked: &[(String, SystemTime)],
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let revoked_certs = revoked.iter().map(|(serial, at)| {
            Ok(RevokedCertParams {
                serial_number: serial_number(serial)?,
                revocation_time: (*at).into(),
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            })
        });
        // Numbers of lists only grow (RFC 5280, 5.2.3).
        let number = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: About::read(&self.certificate)?.until.max(now + BACKDATED).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect::<Result<_, AuthorityError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

fn params(name: &str, now: SystemTime, until: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATED).into();
    params.not_after = until.into();
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Patchbay");
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; SERIAL_BYTES];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    // Positive, and its first byte no zero: the same digits everywhere.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn serial_number(digits: &str) -> Result<SerialNumber, AuthorityError> {
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    let bytes = bytes.filter(|bytes| !bytes.is_empty() && hexadecimal(bytes) == digits);
    let bytes = bytes.ok_or_else(|| Unreadable(format!("`{digits}` is no serial number")))?;
    Ok(SerialNumber::from_slice(&bytes))
}
