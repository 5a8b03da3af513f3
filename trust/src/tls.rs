//! TLS 1.3 with ring, and nothing older: there are no earlier peers.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};

use crate::role::MANAGER_NAME;

static VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate with its key.
///
/// # Errors
/// The key is not the certificate's, or of an unknown kind.
pub(crate) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Error> {
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(certified)
}

fn unbuilt(error: VerifierBuilderError) -> Error {
    Error::General(error.to_string())
}

/// Verifies those who connect; they must have a certificate, or only may. A CA without a list has revoked nothing:
/// lists were verified when they were read.
pub(crate) fn client_verifier(
    roots: &Arc<RootCertStore>,
    lists: &[CertificateRevocationListDer<'static>],
    must: bool,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
        .with_crls(lists.iter().cloned())
        .allow_unknown_revocation_status();
    let builder = if must { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(unbuilt)
}

/// Verifies who is connected to.
pub(crate) fn server_verifier(
    roots: &Arc<RootCertStore>,
    lists: &[CertificateRevocationListDer<'static>],
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(roots.clone(), provider())
        .with_crls(lists.iter().cloned())
        .allow_unknown_revocation_status()
        .build()
        .map_err(unbuilt)
}

/// Whether a chain proves the Manager.
pub(crate) fn verify_manager(
    servers: &WebPkiServerVerifier,
    chain: &[CertificateDer<'static>],
    time: UnixTime,
) -> Result<(), Error> {
    let name = ServerName::try_from(MANAGER_NAME).map_err(|error| Error::General(error.to_string()))?;
    servers.verify_server_cert(&chain[0], &chain[1..], &name, &[], time).map(|_| ())
}

/// For a listener. Sessions are never resumed: each connection's certificate is verified anew, so that a revoked one
/// has no way back.
pub(crate) fn server(
    clients: Arc<dyn ClientCertVerifier>,
    certified: Arc<CertifiedKey>,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// For connections to the Manager.
pub(crate) fn client(
    servers: Arc<WebPkiServerVerifier>,
    certified: Arc<CertifiedKey>,
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_webpki_verifier(servers)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
