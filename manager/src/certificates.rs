//! The Manager's certificates while it runs: TLS with agents and people, read again on SIGHUP, and what peers have
//! shown. Connections go on when certificates are read again, but those whose own was revoked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use patchbay_api as api;
use patchbay_trust::{About, Expected, Live, Problem, Role, refusal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a TLS handshake may take; whoever takes longer is cut off.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// A certificate that ends within this time is told as an event, once an hour.
pub const TOLD_BEFORE: Duration = Duration::from_secs(14 * 24 * 3_600);
/// How often the certificates' ends are looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(3_600);

/// The Manager's certificates, and those of its connected agents.
#[derive(Debug, Clone)]
pub struct Certificates {
    live: Arc<Live>,
    /// Changes when they were read again.
    again: Arc<watch::Sender<()>>,
    shown: Arc<Mutex<BTreeMap<u64, About>>>,
}

/// What one peer has shown; forgotten when its connection ends.
#[derive(Debug)]
pub struct Peer {
    certificates: Certificates,
    number: u64,
    about: About,
}

/// Why plain agents can't be served at an address; `None` when they can.
pub fn not_plain(address: SocketAddr, plain: bool) -> Option<String> {
    let is_here = address.ip().to_canonical().is_loopback();
    (!plain && !is_here).then(|| {
        format!(
            "--listen-agents {address} can be reached from other machines, and agents execute programs as root: \
             prove both ends with --certificates (`patchbay certs init` makes them), or say --plain"
        )
    })
}

impl Certificates {
    /// Reads the Manager's folder.
    ///
    /// # Errors
    /// Which file is not right, and what to do.
    pub fn open(folder: PathBuf) -> Result<Self, Problem> {
        let live = Arc::new(Live::read(folder, Expected::Manager)?);
        Ok(Self { live, again: Arc::new(watch::Sender::new(())), shown: Arc::default() })
    }

    /// Reads them again: further connections take the new ones, and those of revoked peers end. Returns how many
    /// certificates are revoked.
    ///
    /// # Errors
    /// Which file is not right; everything is as before.
    pub fn reload(&self) -> Result<usize, Problem> {
        let identity = self.live.reload()?;
        self.again.send_replace(());
        Ok(identity.revoked())
    }

    /// TLS with an agent, which must prove who it is.
    ///
    /// # Errors
    /// Why there is none, in words for the log. Cancel safe: the connection then ends.
    pub async fn agent(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Peer), String> {
        let stream = self.accept(stream, self.live.current().for_agents.clone(), "the agent").await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        // The verifier has let nobody in without one.
        let certificate = certificate.ok_or("the agent has no certificate")?;
        let about = About::read(certificate).map_err(|error| error.to_string())?;
        let peer = self.enter(about);
        Ok((stream, peer))
    }

    /// TLS with somebody who uses the HTTP API; who it is, a token says.
    ///
    /// # Errors
    /// As [`Self::agent`].
    pub async fn person(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        self.accept(stream, self.live.current().for_people.clone(), "the client").await
    }

    async fn accept(
        &self,
        stream: TcpStream,
        config: Arc<rustls::ServerConfig>,
        peer: &str,
    ) -> Result<TlsStream<TcpStream>, String> {
        let handshake = TlsAcceptor::from(config).accept(stream).into_fallible();
        match tokio::time::timeout(HANDSHAKE_WITHIN, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err((error, stream))) => {
                linger(stream).await;
                Err(refusal(&error, peer))
            }
            Err(_) => Err(format!(
                "{peer} did not finish the TLS handshake within {} s",
                HANDSHAKE_WITHIN.as_secs()
            )),
        }
    }

    fn enter(&self, about: About) -> Peer {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&self.shown).insert(number, about.clone());
        Peer { certificates: self.clone(), number, about }
    }

    /// The Manager's certificate and those of connected agents, for people.
    pub fn list(&self) -> Vec<api::Certificate> {
        let own = self.live.current().about.clone();
        let told = |about: &About| api::Certificate {
            name: about.role.as_ref().map_or_else(|| about.subject.clone(), |role| role.name().to_owned()),
            role: about.role.as_ref().map_or("other", Role::kind).to_owned(),
            serial: about.serial.clone(),
            until_ms: milliseconds(about.until),
            seconds_left: about.seconds_left(SystemTime::now()),
        };
        let shown: Vec<api::Certificate> = lock(&self.shown).values().map(told).collect();
        std::iter::once(told(&own)).chain(shown).collect()
    }

    /// Waits for certificates that are about to end; says each as (whose, what), again each hour.
    pub async fn watch(self, tell: impl AsyncFn(String, String)) {
        let mut pause = tokio::time::interval(LOOKED_AT_EVERY);
        loop {
            pause.tick().await;
            let soon = TOLD_BEFORE.as_secs().cast_signed();
            for one in self.list().into_iter().filter(|one| one.seconds_left < soon) {
                let until = SystemTime::UNIX_EPOCH + Duration::from_millis(one.until_ms);
                let until = patchbay_trust::shown_time(until);
                let subject =
                    if one.role == "manager" { one.role } else { format!("{} {}", one.role, one.name) };
                let text = format!(
                    "its certificate {} is valid until {until}: renew it with `patchbay certs renew`",
                    one.serial
                );
                tell(subject, text).await;
            }
        }
    }
}

impl Peer {
    /// Whom the certificate names.
    pub fn role(&self) -> Option<&Role> {
        self.about.role.as_ref()
    }

    /// Whom it names, for people.
    pub fn name(&self) -> String {
        self.role().map_or_else(|| self.about.subject.clone(), ToString::to_string)
    }

    /// Why an agent may not register under a name; `None` when it may.
    pub fn may_not_be(&self, name: &str) -> Option<String> {
        match self.role() {
            Some(Role::Node(node)) if node == name => None,
            Some(Role::Node(node)) => Some(format!(
                "the certificate is node {node}'s, and the agent says it is node {name}: start it with --node {node}, or with that node's certificate"
            )),
            Some(role) => Some(format!("the certificate is of {role}, and an agent needs its node's")),
            None => Some("the certificate names no node of Patchbay".into()),
        }
    }

    /// Waits until the certificate is revoked. Cancel safe.
    pub async fn revoked(&self) {
        // Before it is looked: no new list goes past it.
        let mut again = self.certificates.again.subscribe();
        while !self.certificates.live.current().has_revoked(&self.about.serial) {
            if again.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        lock(&self.certificates.shown).remove(&self.number);
    }
}

/// Lets the other end read why TLS failed: closing with bytes of it unread would reset the connection, and take the
/// alert away.
async fn linger(mut stream: TcpStream) {
    const LINGER: Duration = Duration::from_millis(500);
    const MOST_BYTES: usize = 16 * 1024;
    let _ = stream.shutdown().await;
    let mut left = stream.take(MOST_BYTES as u64);
    let mut bytes = [0; 1024];
    let read = async { while left.read(&mut bytes).await.is_ok_and(|length| length > 0) {} };
    let _ = tokio::time::timeout(LINGER, read).await;
}

fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_agents_are_served_on_loopback_only_unless_that_is_said() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for here in ["127.0.0.1:1", "[::1]:1", "127.9.9.9:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(not_plain(at(here), false), None, "{here}");
        }
        for there in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[fe80::1]:1"] {
            assert!(not_plain(at(there), false).is_some_and(|reason| reason.contains("--certificates")));
            assert_eq!(not_plain(at(there), true), None, "{there}");
        }
    }
}
