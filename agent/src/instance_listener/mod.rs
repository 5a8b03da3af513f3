//! Instances' connections: who speaks is known from the socket's cgroup, not from what it says.

mod connection;
mod directory;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ssmmp::{Envelope, InstanceId, Name, Repeated};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{debug, warn};

pub use directory::Directory;

use crate::socket_table;

/// Connections of instances at once; further ones are closed.
pub const MAX_CONNECTIONS: usize = 4_096;
/// Messages that may wait for one instance; one that lets more wait is cut off.
pub const MAX_UNSENT: usize = 1_024;
/// Messages of all instances that may wait for the core; senders wait when it is full.
pub const QUEUE: usize = 4_096;
/// Pause after the listener failed, which it does when descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Instances that can't be accepted.
static NOT_ACCEPTED: Repeated = Repeated::new();

/// What an instance said, and its place among those of its connection that may wait.
#[derive(Debug)]
pub struct Said {
    /// Who said it, by its process.
    pub id: InstanceId,
    /// What.
    pub envelope: Envelope,
    _place: Option<OwnedSemaphorePermit>,
}

/// Accepts instances until the listener fails. `semi` is whether they may speak that dialect.
pub async fn serve(listener: TcpListener, directory: Directory, said: mpsc::Sender<Said>, semi: bool) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut refused: u64 = 0;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(times) = crate::again(&NOT_ACCEPTED) {
                    warn!(times, "an instance can't be accepted, it is tried again: {error}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let mut refuse = |why: &str| {
            refused += 1;
            // Whoever connects again and again does not fill the log.
            if refused.is_power_of_two() {
                warn!(%peer, refused, "a connection is refused: {why}");
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            refuse("too many instances are connected");
            continue;
        };
        let (id, service) = match who(&stream, peer, &directory) {
            Ok(found) => found,
            Err(why) => {
                refuse(&why);
                continue;
            }
        };
        let (directory, said) = (directory.clone(), said.clone());
        tokio::spawn(async move {
            let (sender, outbound) = mpsc::channel(MAX_UNSENT);
            let instance = connection::Instance::new(id, service, semi, sender.downgrade());
            directory.connected(id, sender);
            let reason = instance.serve(stream, outbound, &said).await;
            debug!(instance = %id, "its connection ended: {reason}");
            drop(place);
        });
    }
}

/// The instance whose process is behind a connection.
fn who(stream: &TcpStream, peer: SocketAddr, directory: &Directory) -> Result<(InstanceId, Name), String> {
    let local = stream.local_addr().map_err(|error| error.to_string())?;
    let cgroup = socket_table::cgroup_of(peer, local)
        .map_err(|error| format!("the process behind the connection is unknown: {error}"))?;
    directory.instance(cgroup).ok_or_else(|| {
        format!("the process behind the connection is no instance of this node (cgroup {cgroup})")
    })
}
