//! TLS with the Manager: the node's certificates, read again on SIGHUP, and where a Manager may be plain.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use patchbay_trust::{Expected, Live, MANAGER_NAME, refusal};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::{info, warn};

/// How long a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// How the Manager is spoken to.
#[derive(Debug, Clone)]
pub struct Secured {
    certificates: Option<Arc<Live>>,
    plain: bool,
}

/// A connection to the Manager.
pub enum Connected {
    /// Without TLS.
    Plain(TcpStream),
    /// Both ends have certificates; this one has verified the Manager's.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Secured {
    /// Without TLS, wherever the Manager is.
    pub fn plain() -> Self {
        Self { certificates: None, plain: true }
    }

    /// Reads a node's certificates, if it has any.
    ///
    /// # Errors
    /// A file is not right, or a Manager on another machine would be spoken to without TLS though that was not said.
    pub fn read(folder: Option<PathBuf>, node: &str, plain: bool, manager: &str) -> Result<Self> {
        let certificates = folder.map(|folder| Live::read(folder, Expected::Node(node))).transpose()?;
        let host = manager.rsplit_once(':').map_or(manager, |(host, _)| host).trim_matches(['[', ']']);
        let elsewhere = host.parse::<IpAddr>().is_ok_and(|host| !host.to_canonical().is_loopback());
        if certificates.is_none() && !plain && elsewhere {
            bail!(not_plain(manager));
        }
        Ok(Self { certificates: certificates.map(Arc::new), plain })
    }

    /// Reads the certificates again at each SIGHUP; further connections take them.
    ///
    /// # Errors
    /// The signal can't be caught.
    pub fn watch(&self) -> Result<impl Future<Output = ()> + use<>> {
        let certificates = self.certificates.clone();
        let mut again = signal(SignalKind::hangup())?;
        Ok(async move {
            let Some(certificates) = certificates else { return };
            while again.recv().await.is_some() {
                match certificates.reload() {
                    Ok(identity) => {
                        let until = patchbay_trust::shown_time(identity.about.until);
                        info!(until, "the certificates were read again; the next connection takes them");
                    }
                    Err(problem) => warn!("the certificates are as before: {problem}"),
                }
            }
        })
    }

    /// TLS over a connection, where there are certificates.
    ///
    /// # Errors
    /// Why there is none. Cancel safe: the connection then ends.
    pub async fn secure(&self, stream: TcpStream) -> Result<Connected, String> {
        let Some(certificates) = &self.certificates else {
            let peer = stream.peer_addr().map_err(|error| error.to_string())?;
            return match self.plain || peer.ip().to_canonical().is_loopback() {
                true => Ok(Connected::Plain(stream)),
                false => Err(not_plain(&peer.to_string())),
            };
        };
        let name = MANAGER_NAME.try_into().map_err(|_| "its name is none".to_owned())?;
        let connector = TlsConnector::from(certificates.current().to_manager.clone());
        match timeout(HANDSHAKE_WITHIN, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Connected::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(refusal(&error, "the Manager")),
            Err(_) => Err(format!(
                "the Manager did not finish the TLS handshake within {} s",
                HANDSHAKE_WITHIN.as_secs()
            )),
        }
    }
}

fn not_plain(manager: &str) -> String {
    format!(
        "the Manager at {manager} is on another machine, and what it says is executed as root: prove both ends with \
         --certificates (`patchbay certs node` makes them), or say --plain"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_on_another_machine_is_spoken_to_with_tls_unless_plain_is_said() {
        for here in ["127.0.0.1:55555", "[::1]:55555", "localhost:55555"] {
            assert!(Secured::read(None, "a", false, here).is_ok(), "{here}");
        }
        for there in ["10.0.0.1:55555", "[fd00::1]:55555"] {
            let refused = Secured::read(None, "a", false, there).expect_err("refused").to_string();
            assert!(refused.contains("--certificates") && refused.contains("--plain"), "{refused}");
            assert!(Secured::read(None, "a", true, there).is_ok(), "{there}");
        }
    }
}
