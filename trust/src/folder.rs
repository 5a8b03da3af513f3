//! A folder with what one agent or the Manager proves itself with: `ca.pem`, `cert.pem`, `key.pem`, and `revoked.crl`
//! if something was revoked. All of it is looked at when it is read, so that what would fail later is said now.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::certificate::{About, hexadecimal};
use crate::role::Role;
use crate::{peer, shown_time, tls};

/// Largest file that is read, bytes: a list of many thousand revoked certificates fits.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Certificates of CAs, and of a chain, that are read from a file.
const MAX_CERTIFICATES: usize = 16;

/// Whose certificate must be in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected<'a> {
    /// The Manager's.
    Manager,
    /// The one of the node of this name.
    Node(&'a str),
    /// A person's, of any name.
    Person,
}

/// Why a folder can't be used: which file, what is wrong with it, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file.display(), self.what, self.remedy)
    }
}

impl std::error::Error for Problem {}

/// What was read, checked, and TLS configured with it.
#[derive(Clone)]
pub struct Identity {
    /// Whom the certificate names.
    pub role: Role,
    /// What else it says.
    pub about: About,
    /// The certificate with those between it and the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The CAs that are trusted.
    pub authorities: Vec<CertificateDer<'static>>,
    /// For a listener whose peers must have a certificate: agents'.
    pub for_agents: Arc<rustls::ServerConfig>,
    /// For a listener whose peers may have one: people's, who have tokens.
    pub for_people: Arc<rustls::ServerConfig>,
    /// For connections to the Manager.
    pub to_manager: Arc<rustls::ClientConfig>,
    key: Arc<PrivateKeyDer<'static>>,
    revoked: Arc<BTreeSet<String>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("role", &self.role)
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Whether a certificate is on the CA's list, by its serial number as in [`About::serial`].
    pub fn has_revoked(&self, serial: &str) -> bool {
        self.revoked.contains(serial)
    }

    /// How many certificates are on the list.
    pub fn revoked(&self) -> usize {
        self.revoked.len()
    }

    /// The key, for other libraries' configurations.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

/// Reads a folder and checks that with it one can prove to be who is expected.
///
/// # Errors
/// The first problem: which file, what is wrong, what to do.
pub fn load(folder: &Path, expected: Expected<'_>, now: SystemTime) -> Result<Identity, Problem> {
    let file = |name: &str| folder.join(name);
    let (authority, own, key_file, list) =
        (file("ca.pem"), file("cert.pem"), file("key.pem"), file("revoked.crl"));
    let remedy = expected.remedy();
    let authorities = certificates(&authority, "put the CA's certificate there, as `patchbay certs` does")?;
    let roots = Arc::new(roots(&authority, &authorities)?);
    let chain = certificates(&own, &remedy)?;
    let about = About::read(&chain[0]).map_err(|error| problem(&own, error.to_string(), &remedy))?;
    let role = check_role(&own, &about, expected)?;
    let key = key(&key_file, &remedy)?;
    let lists = revocations(&list, &authorities)?;
    let revoked = lists.iter().flat_map(|(_, serials)| serials.iter().cloned()).collect();
    let lists: Vec<_> = lists.into_iter().map(|(list, _)| list).collect();

    let unusable = |error: rustls::Error| problem(&own, error.to_string(), &remedy);
    let certified = tls::certified(chain.clone(), key.clone_key()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            problem(&key_file, "this key is not the certificate's beside it".into(), &remedy)
        }
        error => problem(&key_file, error.to_string(), &remedy),
    })?;
    let clients = tls::client_verifier(&roots, &lists, true).map_err(unusable)?;
    let optional = tls::client_verifier(&roots, &lists, false).map_err(unusable)?;
    let servers = tls::server_verifier(&roots, &lists).map_err(unusable)?;
    let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let is_good = match role {
        Role::Manager => tls::verify_manager(&servers, &chain, time),
        Role::Node(_) | Role::Person(_) => {
            clients.verify_client_cert(&chain[0], &chain[1..], time).map(|_| ())
        }
    };
    is_good.map_err(|error| unproven(&own, &about, &error, now, &remedy))?;
    let certified = Arc::new(certified);
    Ok(Identity {
        role,
        about,
        for_agents: tls::server(clients, certified.clone(), &[]).map_err(unusable)?,
        for_people: tls::server(optional, certified.clone(), &[b"http/1.1"]).map_err(unusable)?,
        to_manager: tls::client(servers, certified).map_err(unusable)?,
        chain,
        authorities,
        key: Arc::new(key),
        revoked: Arc::new(revoked),
    })
}

impl Expected<'_> {
    fn remedy(self) -> String {
        match self {
            Self::Manager => "make the Manager's with `patchbay certs init`, or renew it with `patchbay certs renew manager`".into(),
            Self::Node(name) => format!("make this node's with `patchbay certs node {name}` where the CA is, or renew it with `patchbay certs renew {name}`, and bring the folder here"),
            Self::Person => "make a person's with `patchbay certs person NAME` where the CA is".into(),
        }
    }
}

fn problem(file: &Path, what: String, remedy: &str) -> Problem {
    Problem { file: file.to_owned(), what, remedy: remedy.to_owned() }
}

fn read(file: &Path, remedy: &str) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| problem(file, format!("it can't be read: {error}"), remedy))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(problem(file, format!("it has more than {MAX_FILE_BYTES} bytes"), remedy));
    }
    Ok(bytes)
}

fn no_pem(what: &str, error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => format!("there is no {what} in it"),
        pem::Error::MissingSectionEnd { .. } => {
            format!("the {what} in it is cut off: its END line is missing")
        }
        error => format!("it is no {what} in PEM: {error:?}"),
    }
}

fn certificates(file: &Path, remedy: &str) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let bytes = read(file, remedy)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).take(MAX_CERTIFICATES).collect();
    let found = parsed.map_err(|error| problem(file, no_pem("certificate", &error), remedy))?;
    match found.is_empty() {
        true => Err(problem(file, no_pem("certificate", &pem::Error::NoItemsFound), remedy)),
        false => Ok(found),
    }
}

fn key(file: &Path, remedy: &str) -> Result<PrivateKeyDer<'static>, Problem> {
    let bytes = read(file, remedy)?;
    let mode = std::fs::metadata(file).map_or(0, |about| about.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        let what = format!("others than its owner may use this key (its mode is {mode:04o})");
        return Err(problem(
            file,
            what,
            &format!("`chmod 600 {}`, and make a new one if others could read it", file.display()),
        ));
    }
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| problem(file, no_pem("private key", &error), remedy))
}

fn roots(file: &Path, authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, Problem> {
    let remedy = "put the CA's certificate there, as `patchbay certs` does";
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let about = About::read(authority).map_err(|error| problem(file, error.to_string(), remedy))?;
        if !about.is_authority {
            return Err(problem(file, format!("{} is no CA: it may not sign others", about.subject), remedy));
        }
        roots.add(authority.clone()).map_err(|error| problem(file, error.to_string(), remedy))?;
    }
    Ok(roots)
}

fn check_role(file: &Path, about: &About, expected: Expected<'_>) -> Result<Role, Problem> {
    let wrong = |found: String| {
        let wanted = match expected {
            Expected::Manager => "the Manager's".into(),
            Expected::Node(name) => format!("node {name}'s"),
            Expected::Person => "a person's".into(),
        };
        problem(file, format!("it is {found}, and {wanted} is needed"), &expected.remedy())
    };
    let Some(role) = &about.role else {
        return Err(wrong(format!("a certificate that names nobody of Patchbay ({})", about.subject)));
    };
    let is_expected = match (role, expected) {
        (Role::Manager, Expected::Manager) | (Role::Person(_), Expected::Person) => true,
        (Role::Node(name), Expected::Node(node)) => name == node,
        _ => false,
    };
    if is_expected { Ok(role.clone()) } else { Err(wrong(format!("the certificate of {role}"))) }
}

type List = (CertificateRevocationListDer<'static>, Vec<String>);

/// The lists of revoked certificates, each verified; none when nothing was ever revoked.
fn revocations(file: &Path, authorities: &[CertificateDer<'static>]) -> Result<Vec<List>, Problem> {
    let remedy =
        "take the list that `patchbay certs revoke` wrote, or remove the file if nothing was revoked";
    if !file.exists() {
        return Ok(Vec::new());
    }
    let bytes = read(file, remedy)?;
    let parsed: Result<Vec<_>, _> =
        CertificateRevocationListDer::pem_slice_iter(&bytes).take(MAX_CERTIFICATES).collect();
    let lists = parsed.map_err(|error| problem(file, no_pem("revocation list", &error), remedy))?;
    if lists.is_empty() {
        return Err(problem(file, no_pem("revocation list", &pem::Error::NoItemsFound), remedy));
    }
    let verified = |list: CertificateRevocationListDer<'static>| {
        let (_, parsed) = CertificateRevocationList::from_der(&list)
            .map_err(|error| problem(file, format!("it is no revocation list: {error}"), remedy))?;
        let is_signed = authorities.iter().any(|authority| {
            x509_parser::parse_x509_certificate(authority)
                .is_ok_and(|(_, authority)| parsed.verify_signature(authority.public_key()).is_ok())
        });
        if !is_signed {
            let what = "the CA in ca.pem has not signed this list".into();
            return Err(problem(file, what, remedy));
        }
        let serials =
            parsed.iter_revoked_certificates().map(|entry| hexadecimal(entry.raw_serial())).collect();
        Ok((list, serials))
    };
    lists.into_iter().map(verified).collect()
}

/// Why the libraries don't take a certificate, with its dates and this machine's clock.
fn unproven(file: &Path, about: &About, error: &rustls::Error, now: SystemTime, remedy: &str) -> Problem {
    use rustls::CertificateError as Bad;
    let rustls::Error::InvalidCertificate(bad) = error else {
        return problem(file, error.to_string(), remedy);
    };
    let clock = shown_time(now);
    match bad {
        Bad::Expired | Bad::ExpiredContext { .. } => problem(
            file,
            format!("it was valid until {}, and this machine's clock says {clock}", shown_time(about.until)),
            remedy,
        ),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => problem(
            file,
            format!(
                "it is valid from {} only, and this machine's clock says {clock}",
                shown_time(about.from)
            ),
            "set this machine's clock if it is behind",
        ),
        Bad::UnknownIssuer if about.is_self_signed => {
            problem(file, "it is self-signed, not signed by the CA in ca.pem".into(), remedy)
        }
        bad => problem(file, peer::wrong(bad), remedy),
    }
}
