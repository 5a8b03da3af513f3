//! Agents' connections: bytes to messages and back, with bounds on everything a peer can do.

mod admission;
mod connection;
mod counters;
mod outbound;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ssmmp::Repeated;
use tokio::net::TcpListener;
use tracing::{debug, info, warn};

pub use admission::{MAX_CONNECTIONS, MAX_UNREGISTERED, MAX_UNREGISTERED_PER_ADDRESS, Places};
pub use counters::{COUNTERS, Counter, Counters};
pub use outbound::{Unread, Way};

use crate::shell::{Handle, Input};
use patchbay_manager_core::Connection;

/// Pause after the listener failed, which it does when descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Agents that can't be accepted.
static NOT_ACCEPTED: Repeated = Repeated::new();
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            accept_semi: false,
            max_per_address: 2_048,
            register_within: Duration::from_secs(10),
            write_within: Duration::from_secs(10),
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
            let reason = connection::serve(stream, peer, connection, &handle, &mut place, &options).await;
            match place.is_registered() {
                true => info!(%peer, "agent's connection ended: {reason}"),
                false => debug!(%peer, "the connection of a peer that never registered ended: {reason}"),
            }
            let _ = handle.deliver(Input::Lost(connection)).await;
            handle.turn();
        });
    }
}
