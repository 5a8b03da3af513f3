//! Agents' connections: bytes to messages and back, with bounds on everything a peer can do.

mod admission;
mod connection;
mod counters;
mod outbound;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use patchbay_trust::SPEAKS_TLS;
use ssmmp::Repeated;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};

use admission::Place;
pub use admission::{MAX_CONNECTIONS, MAX_UNREGISTERED, MAX_UNREGISTERED_PER_ADDRESS, Places};
use connection::{Halves, Served};
pub use counters::{COUNTERS, Counter, Counters};
pub use outbound::{Unread, Way};

use crate::certificates::Certificates;
use crate::shell::{Handle, Input};
use patchbay_manager_core::Connection;

/// Pause after the listener failed, which it does when descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Agents that can't be accepted.
static NOT_ACCEPTED: Repeated = Repeated::new();
/// Why agents could not begin, and how often each; of more reasons the further ones are told together.
static NOT_PROVEN: Mutex<Vec<(String, Repeated)>> = Mutex::new(Vec::new());
/// So many reasons are told apart.
const MAX_REASONS: usize = 32;
static NEXT: AtomicU64 = AtomicU64::new(1);

/// How agents are served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether agents may speak the `semi` dialect.
    pub accept_semi: bool,
    /// Connections from one address; further ones are closed.
    pub max_per_address: usize,
    /// A connection must register within this time, however slowly its bytes come.
    pub register_within: Duration,
    /// A peer that takes none of what is written for so long is cut off.
    pub write_within: Duration,
    /// What both ends prove themselves with; none: agents speak without TLS.
    pub certificates: Option<Certificates>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            accept_semi: false,
            max_per_address: 2_048,
            register_within: Duration::from_secs(10),
            write_within: Duration::from_secs(10),
            certificates: None,
        }
    }
}

/// Accepts agents until the listener fails.
pub async fn serve(listener: TcpListener, handle: Handle, options: Options) {
    let places = Places::new(options.max_per_address);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(times) = crate::again(&NOT_ACCEPTED) {
                    warn!(times, "an agent can't be accepted, it is tried again: {error}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let mut place = match places.enter(peer.ip()) {
            Ok(place) => place,
            Err(full) => {
                if COUNTERS.add(Counter::RefusedConnections).is_power_of_two() {
                    warn!(%peer, "a connection is refused: {full}");
                }
                continue;
            }
        };
        let (handle, options) = (handle.clone(), options.clone());
        tokio::spawn(async move {
            let connection = Connection(NEXT.fetch_add(1, Ordering::Relaxed));
            let reason = secured(stream, peer, connection, &handle, &mut place, &options).await;
            match place.is_registered() {
                true => info!(%peer, "agent's connection ended: {reason}"),
                false => debug!(%peer, "the connection of a peer that never registered ended: {reason}"),
            }
            let _ = handle.deliver(Input::Lost(connection)).await;
            handle.turn();
        });
    }
}

/// Serves a connection, over TLS where there are certificates; returns why it ended.
async fn secured(
    stream: TcpStream,
    peer: SocketAddr,
    connection: Connection,
    handle: &Handle,
    place: &mut Place,
    options: &Options,
) -> String {
    let _ = stream.set_nodelay(true);
    let served = |known| Served { peer, known, connection, handle, options };
    let Some(certificates) = &options.certificates else {
        let reason = connection::serve(Halves::of_tcp(stream), served(None), place).await;
        if reason.ends_with(SPEAKS_TLS) {
            tell_unproven(peer, &reason);
        }
        return reason;
    };
    match certificates.agent(stream).await {
        Ok((stream, known)) => tokio::select! {
            reason = connection::serve(Halves::of_tls(stream), served(Some(&known)), place) => reason,
            () = known.revoked() => format!("the certificate of {} was revoked", known.name()),
        },
        Err(reason) => {
            COUNTERS.add(Counter::RefusedHandshakes);
            tell_unproven(peer, &reason);
            reason
        }
    }
}

/// A peer with whom nothing could begin is told, in powers of two for each reason.
fn tell_unproven(peer: SocketAddr, reason: &str) {
    let mut reasons = NOT_PROVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = reasons.iter().position(|(known, _)| known == reason);
    let at = known.unwrap_or_else(|| {
        if reasons.len() < MAX_REASONS {
            reasons.push((reason.to_owned(), Repeated::new()));
        }
        reasons.len() - 1
    });
    if let Some(times) = crate::again(&reasons[at].1) {
        warn!(%peer, times, "refused: {reason}");
    }
}
