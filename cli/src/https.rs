//! HTTPS to a Manager: whom to believe, and what to prove oneself with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use patchbay_trust::{Expected, load};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::client::Failure;

/// The files.
#[derive(Args)]
pub struct Https {
    /// The CA's certificate (ca.pem), which proves a Manager at an https:// address
    #[arg(long, global = true, env = "PATCHBAY_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A person's certificate to show there, besides the token: ca.pem, cert.pem, key.pem, made by `patchbay certs person`
    #[arg(long, global = true, env = "PATCHBAY_PERSON", value_name = "FOLDER")]
    person: Option<PathBuf>,
}

impl Https {
    /// The configuration for an https:// address.
    ///
    /// # Errors
    /// A file is missing or not right.
    pub fn config(&self) -> Result<TlsConfig, Failure> {
        let in_folder = self.person.as_ref().map(|folder| folder.join("ca.pem"));
        let ca = self.ca.as_ref().or(in_folder.as_ref()).ok_or_else(|| {
            let text = "name the CA's certificate with --ca or PATCHBAY_CA: `patchbay certs init` made it, as ca.pem";
            Failure::Said(text.into())
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = self.person.as_deref().map(client).transpose()?;
        Ok(TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::new_with_certs(&certificates(ca)?))
            .client_cert(client)
            .build())
    }
}

fn client(folder: &Path) -> Result<ClientCert, Failure> {
    load(folder, Expected::Person, SystemTime::now())
        .map_err(|problem| Failure::Said(problem.to_string()))?;
    let file = folder.join("key.pem");
    let key = fs::read(&file).map_err(|error| unreadable(&file, &error.to_string()))?;
    let key = PrivateKey::from_pem(&key).map_err(|error| unreadable(&file, &error.to_string()))?;
    Ok(ClientCert::new_with_certs(&certificates(&folder.join("cert.pem"))?, key))
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let bytes = fs::read(file).map_err(|error| unreadable(file, &error.to_string()))?;
    let items: Result<Vec<_>, _> = parse_pem(&bytes).collect();
    let items = items.map_err(|error| unreadable(file, &error.to_string()))?;
    let found: Vec<_> = items
        .into_iter()
        .filter_map(|item| if let PemItem::Certificate(one) = item { Some(one) } else { None })
        .collect();
    if found.is_empty() {
        return Err(unreadable(file, "there is no certificate in it"));
    }
    Ok(found)
}

fn unreadable(file: &Path, reason: &str) -> Failure {
    Failure::Said(format!("{}: {reason}", file.display()))
}
