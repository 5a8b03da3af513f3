//! The folder of a CA: its key, and everything it has signed. `patchbay certs` works on it.
//!
//! ```text
//! authority/   ca.pem, key.pem, revoked.crl, issued/SERIAL.pem
//! manager/     ca.pem, cert.pem, key.pem, revoked.crl: what the Manager's --certificates names
//! nodes/NAME/  the same for a node, to be brought there
//! people/NAME/ the same for a person
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::authority::{Authority, AuthorityError, Issued, Names};
use crate::certificate::{About, hexadecimal};
use crate::files::{make_folder, write_new, write_over};
use crate::role::{InvalidName, Role, check_name};

/// Certificates that one CA keeps; more are refused.
const MAX_ISSUED: usize = 100_000;

/// A CA's folder.
#[derive(Debug, Clone)]
pub struct AuthorityFolder(PathBuf);

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file.
    #[error("{file}: {error}")]
    File {
        /// Which.
        file: String,
        /// What happened.
        error: io::Error,
    },
    /// It is there.
    #[error("{0} is there already, and nothing is replaced: {1}")]
    There(String, &'static str),
    /// It is not there.
    #[error("{0}")]
    Missing(String),
    /// The name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The CA.
    #[error("the CA in {file} can't be used: {error}")]
    Authority {
        /// Where.
        file: String,
        /// Why.
        error: AuthorityError,
    },
}

/// How a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Valid now.
    Valid,
    /// Not yet.
    Early,
    /// No longer.
    Expired,
    /// Revoked.
    Revoked,
    /// A newer one of the same holder was made.
    Replaced,
}

/// A certificate of the CA, or the CA's own.
#[derive(Debug, Clone)]
pub struct Shown {
    /// What it says.
    pub about: About,
    /// How it is.
    pub state: State,
}

impl AuthorityFolder {
    /// The folder at a path.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    fn authority_file(&self, name: &str) -> PathBuf {
        self.0.join("authority").join(name)
    }

    /// Where what a role proves itself with is kept.
    pub fn of(&self, role: &Role) -> PathBuf {
        match role {
            Role::Manager => self.0.join("manager"),
            Role::Node(name) => self.0.join("nodes").join(name),
            Role::Person(name) => self.0.join("people").join(name),
        }
    }

    /// Makes the CA.
    ///
    /// # Errors
    /// There is one, or it can't be written.
    pub fn make(&self, now: SystemTime, valid: Duration) -> Result<Authority, FolderError> {
        let (certificate, key_file) = (self.authority_file("ca.pem"), self.authority_file("key.pem"));
        let (authority, key) = Authority::make("Patchbay CA", now, valid).map_err(|e| self.unusable(e))?;
        make_folder(&self.authority_file("issued")).map_err(|e| file_error(&self.0, e))?;
        // The key first: a certificate without it would be a CA that can't sign, and can't be made again.
        let remedy = "remove the folder if that CA is to be forgotten with everything it signed";
        write_new(&key_file, &key).map_err(|error| there(&key_file, error, remedy))?;
        write_new(&certificate, authority.pem()).map_err(|error| there(&certificate, error, remedy))?;
        Ok(authority)
    }

    /// The CA.
    ///
    /// # Errors
    /// It is not there or can't be used.
    pub fn authority(&self) -> Result<Authority, FolderError> {
        let (certificate, key) = (self.authority_file("ca.pem"), self.authority_file("key.pem"));
        if !certificate.exists() {
            let text = format!("there is no CA in {}: make one with `patchbay certs init`", self.0.display());
            return Err(FolderError::Missing(text));
        }
        let read = |file: &Path| fs::read_to_string(file).map_err(|error| file_error(file, error));
        Authority::read(&read(&certificate)?, &read(&key)?).map_err(|error| self.unusable(error))
    }

    /// Makes a key and certificate for a role, in a folder of its own. The first certificate of the Manager is the
    /// only one.
    ///
    /// # Errors
    /// It has one already, or as [`Authority::issue`].
    pub fn issue(
        &self,
        role: &Role,
        names: &Names,
        now: SystemTime,
        valid: Duration,
    ) -> Result<Issued, FolderError> {
        check_name(role.name())?;
        let authority = self.authority()?;
        let folder = self.of(role);
        let remedy = "`patchbay certs renew` makes a new certificate for the same key";
        if folder.join("cert.pem").exists() || folder.join("key.pem").exists() {
            return Err(FolderError::There(folder.display().to_string(), remedy));
        }
        let _lock = self.lock()?;
        let key = KeyPair::generate().map_err(|error| self.unusable(error.into()))?;
        let issued = authority.issue(role, names, &key, now, valid).map_err(|error| self.unusable(error))?;
        self.keep(&issued)?;
        make_folder(&folder).map_err(|error| file_error(&folder, error))?;
        let put = |name: &str, text: &str| {
            let file = folder.join(name);
            write_new(&file, text).map_err(|error| there(&file, error, remedy))
        };
        put("key.pem", &key.serialize_pem())?;
        let ca = folder.join("ca.pem");
        write_over(&ca, authority.pem()).map_err(|error| file_error(&ca, error))?;
        self.put_list(&folder)?;
        // Last: a folder with a certificate is whole.
        put("cert.pem", &issued.certificate)?;
        Ok(issued)
    }

    /// Signs a new certificate for the key and names that a role has; the earlier one stays valid until it ends.
    ///
    /// # Errors
    /// It has none, or as [`Authority::issue`].
    pub fn renew(&self, role: &Role, now: SystemTime, valid: Duration) -> Result<Issued, FolderError> {
        let authority = self.authority()?;
        let folder = self.of(role);
        let (file, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
        if !file.exists() {
            return Err(FolderError::Missing(format!(
                "there is no certificate of {role} in {}",
                folder.display()
            )));
        }
        let _lock = self.lock()?;
        let text = |file: &Path| fs::read_to_string(file).map_err(|error| file_error(file, error));
        let earlier = about(&text(&file)?).ok_or_else(|| unreadable(&file))?;
        if self.revoked()?.iter().any(|(serial, _)| *serial == earlier.serial) {
            return Err(FolderError::Missing(format!(
                "the certificate of {role} was revoked: whoever had its key could be it; remove {} and make a new one with a new key",
                folder.display()
            )));
        }
        let key = KeyPair::from_pem(&text(&key_file)?).map_err(|_| unreadable(&key_file))?;
        let (mut names, own) = (Names::default(), crate::MANAGER_NAME);
        for name in earlier.names {
            match name.parse() {
                Ok(address) => names.addresses.push(address),
                Err(_) if name == own => {}
                Err(_) => names.hosts.push(name),
            }
        }
        let issued = authority.issue(role, &names, &key, now, valid).map_err(|error| self.unusable(error))?;
        self.keep(&issued)?;
        write_over(&file, &issued.certificate).map_err(|error| file_error(&file, error))?;
        Ok(issued)
    }

    /// Signs a certificate for a signing request, and keeps it among what was issued.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn sign(
        &self,
        role: &Role,
        request: &str,
        now: SystemTime,
        valid: Duration,
    ) -> Result<Issued, FolderError> {
        let authority = self.authority()?;
        let _lock = self.lock()?;
        let issued = authority.sign(role, request, now, valid).map_err(|error| self.unusable(error))?;
        self.keep(&issued)?;
        Ok(issued)
    }

    /// Revokes every certificate of a role that is valid still, and writes the list, for the Manager too. Returns how
    /// many.
    ///
    /// # Errors
    /// There is none, or the list can't be written: then nothing was revoked.
    pub fn revoke(&self, role: &Role, now: SystemTime) -> Result<usize, FolderError> {
        let authority = self.authority()?;
        let _lock = self.lock()?;
        let issued = self.issued()?;
        let mut revoked = self.revoked()?;
        let known = revoked.len();
        let of_role = issued.iter().filter(|about| about.role.as_ref() == Some(role));
        let live = of_role.clone().filter(|about| about.until > now);
        for about in live {
            if !revoked.iter().any(|(serial, _)| *serial == about.serial) {
                revoked.push((about.serial.clone(), now));
            }
        }
        if revoked.len() == known {
            let text = match of_role.count() {
                0 => format!("no certificate was ever made for {role}; `patchbay certs show` lists them"),
                _ => format!("every certificate of {role} is revoked or has expired already"),
            };
            return Err(FolderError::Missing(text));
        }
        let list = authority.revocations(&revoked, now).map_err(|error| self.unusable(error))?;
        let file = self.authority_file("revoked.crl");
        write_over(&file, &list).map_err(|error| file_error(&file, error))?;
        let manager = self.of(&Role::Manager);
        if manager.exists() {
            self.put_list(&manager)?;
        }
        Ok(revoked.len() - known)
    }

    /// The CA's certificate and all it signed, the newest of each holder first.
    ///
    /// # Errors
    /// Something can't be read.
    pub fn show(&self, now: SystemTime) -> Result<Vec<Shown>, FolderError> {
        let authority = self.authority()?;
        let revoked = self.revoked()?;
        let state = |about: &About| match () {
            () if revoked.iter().any(|(serial, _)| *serial == about.serial) => State::Revoked,
            () if about.until < now => State::Expired,
            () if about.from > now => State::Early,
            () => State::Valid,
        };
        let mut issued = self.issued()?;
        issued.sort_by(|a, b| (&a.role, b.until, &b.serial).cmp(&(&b.role, a.until, &a.serial)));
        let own = About::read(authority.certificate()).map_err(|error| self.unusable(error.into()))?;
        let mut shown = vec![Shown { state: state(&own), about: own }];
        for about in issued {
            let newer = shown.last().is_some_and(|newer| newer.about.role == about.role);
            let state = match state(&about) {
                State::Valid | State::Expired if newer => State::Replaced,
                state => state,
            };
            shown.push(Shown { about, state });
        }
        Ok(shown)
    }

    /// One change at a time: a list that two write would lose a revocation.
    fn lock(&self) -> Result<File, FolderError> {
        let file = self.authority_file("ca.pem");
        let lock = File::open(&file).map_err(|error| file_error(&file, error))?;
        lock.lock().map_err(|error| file_error(&file, error))?;
        Ok(lock)
    }

    fn keep(&self, issued: &Issued) -> Result<(), FolderError> {
        let file = self.authority_file("issued").join(format!("{}.pem", issued.about.serial));
        write_new(&file, &issued.certificate).map_err(|error| file_error(&file, error))
    }

    fn issued(&self) -> Result<Vec<About>, FolderError> {
        let folder = self.authority_file("issued");
        let mut issued = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|error| file_error(&folder, error))? {
            let file = entry.map_err(|error| file_error(&folder, error))?.path();
            if file.extension().is_none_or(|extension| extension != "pem") {
                continue;
            }
            if issued.len() >= MAX_ISSUED {
                let text = format!(
                    "{} has more than {MAX_ISSUED} certificates: move expired ones away",
                    folder.display()
                );
                return Err(FolderError::Missing(text));
            }
            let text = fs::read_to_string(&file).map_err(|error| file_error(&file, error))?;
            issued.push(about(&text).ok_or_else(|| unreadable(&file))?);
        }
        Ok(issued)
    }

    /// What is on the list: serial numbers, and since when.
    fn revoked(&self) -> Result<Vec<(String, SystemTime)>, FolderError> {
        let file = self.authority_file("revoked.crl");
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.map_err(|error| file_error(&file, error))?,
        };
        let list = rustls::pki_types::CertificateRevocationListDer::from_pem_slice(text.as_bytes())
            .map_err(|_| unreadable(&file))?;
        let (_, list) = CertificateRevocationList::from_der(&list).map_err(|_| unreadable(&file))?;
        let since = |at: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(at.unsigned_abs());
        Ok(list
            .iter_revoked_certificates()
            .map(|entry| (hexadecimal(entry.raw_serial()), since(entry.revocation_date.timestamp())))
            .collect())
    }

    fn put_list(&self, folder: &Path) -> Result<(), FolderError> {
        let (from, to) = (self.authority_file("revoked.crl"), folder.join("revoked.crl"));
        match fs::read_to_string(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            text => text.and_then(|text| write_over(&to, &text)).map_err(|error| file_error(&to, error)),
        }
    }

    fn unusable(&self, error: AuthorityError) -> FolderError {
        match error {
            AuthorityError::Name(name) => name.into(),
            error => FolderError::Authority { file: self.0.display().to_string(), error },
        }
    }
}

fn about(pem: &str) -> Option<About> {
    About::read(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?).ok()
}

fn unreadable(file: &Path) -> FolderError {
    file_error(
        file,
        io::Error::new(io::ErrorKind::InvalidData, "it is cut off or no PEM of what it should be"),
    )
}

fn file_error(file: &Path, error: io::Error) -> FolderError {
    FolderError::File { file: file.display().to_string(), error }
}

fn there(file: &Path, error: io::Error, remedy: &'static str) -> FolderError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => FolderError::There(file.display().to_string(), remedy),
        _ => file_error(file, error),
    }
}
