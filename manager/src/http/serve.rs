//! Connections of people: bounded in number, for each who connects and in all, and in the time they may take.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use ssmmp::Repeated;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::gate::Via;
use crate::certificates::Certificates;

/// Connections to the socket, or over TCP, at once; further ones are closed at once.
pub const MAX_CONNECTIONS: usize = 256;
/// The same of one user of this machine, or of one address.
pub const MAX_CONNECTIONS_OF_ONE: usize = 64;
/// How long a request's head may take, and how long a connection may stay without one.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long one who connected over TCP may leave bytes unread; the kernel then ends the connection.
const UNREAD_WITHIN: Duration = Duration::from_secs(30);
/// Largest head of a request, bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Pause after the listener failed, which it does when descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// People who can't be accepted.
static NOT_ACCEPTED: Repeated = Repeated::new();
/// People with whom TLS could not begin.
static NOT_SECURED: Repeated = Repeated::new();

/// Serves users of this machine until the listener is dropped.
pub async fn over_socket(listener: UnixListener, router: Router) {
    let places = Places::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                not_accepted("the socket", &error).await;
                continue;
            }
        };
        // Nobody that the kernel does not know connects to a Unix socket.
        let user = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        let Some(place) = places.enter(user) else { continue };
        tokio::spawn(serve(stream, Via::Socket, router.clone(), place));
    }
}

/// Serves whoever connects over TCP, with TLS where there are certificates, until the listener is dropped.
pub async fn over_tcp(listener: TcpListener, router: Router, certificates: Option<Certificates>) {
    let places = Places::<IpAddr>::default();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                not_accepted("TCP", &error).await;
                continue;
            }
        };
        let Some(place) = places.enter(peer.ip()) else { continue };
        let _ = stream.set_nodelay(true);
        if let Err(error) =
            setsockopt(&stream.as_fd(), sockopt::TcpUserTimeout, &(UNREAD_WITHIN.as_millis() as u32))
        {
            debug!("one who does not read keeps its connection: {error}");
        }
        let (router, certificates) = (router.clone(), certificates.clone());
        tokio::spawn(async move {
            let Some(certificates) = certificates else {
                return serve(stream, Via::Tcp(peer), router, place).await;
            };
            match certificates.person(stream).await {
                Ok(stream) => serve(stream, Via::Tcp(peer), router, place).await,
                Err(reason) => {
                    if let Some(times) = crate::again(&NOT_SECURED) {
                        warn!(%peer, times, "HTTPS: {reason}");
                    }
                }
            }
        });
    }
}

async fn not_accepted(via: &str, error: &io::Error) {
    if let Some(times) = crate::again(&NOT_ACCEPTED) {
        warn!(times, "a connection over {via} can't be accepted, it is tried again: {error}");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn serve<S, K>(stream: S, via: Via, router: Router, _place: Place<K>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    K: Hash + Eq + Copy,
{
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(via);
        router.clone().oneshot(request.map(Body::new))
    });
    let result = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = result {
        debug!("a connection ended: {error}");
    }
}

/// Places for connections, in all and for each who connects.
#[derive(Debug)]
struct Places<K>(Arc<Mutex<Taken<K>>>);

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    of: HashMap<K, usize>,
    refused: u64,
}

/// One connection's place; left when it is dropped.
#[derive(Debug)]
struct Place<K: Hash + Eq + Copy> {
    places: Arc<Mutex<Taken<K>>>,
    who: K,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Taken { all: 0, of: HashMap::new(), refused: 0 })))
    }
}

impl<K: Hash + Eq + Copy + std::fmt::Debug> Places<K> {
    /// A place for a connection; `None` when a bound is reached, which is logged in powers of two.
    fn enter(&self, who: K) -> Option<Place<K>> {
        let mut taken = lock(&self.0);
        let own = taken.of.get(&who).copied().unwrap_or(0);
        if taken.all >= MAX_CONNECTIONS || own >= MAX_CONNECTIONS_OF_ONE {
            taken.refused += 1;
            if taken.refused.is_power_of_two() {
                let (all, refused) = (taken.all, taken.refused);
                warn!(?who, own, all, refused, "a connection to the HTTP API is refused");
            }
            return None;
        }
        taken.all += 1;
        taken.of.insert(who, own + 1);
        Some(Place { places: self.0.clone(), who })
    }
}

impl<K: Hash + Eq + Copy> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.places);
        taken.all -= 1;
        if let Some(own) = taken.of.get_mut(&self.who) {
            *own -= 1;
            if *own == 0 {
                taken.of.remove(&self.who);
            }
        }
    }
}

fn lock<K>(taken: &Mutex<Taken<K>>) -> MutexGuard<'_, Taken<K>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_takes_its_share_only_and_all_together_so_many() {
        let places = Places::<u32>::default();
        let mut held: Vec<_> = (0..MAX_CONNECTIONS_OF_ONE).map(|_| places.enter(7).expect("free")).collect();
        assert!(places.enter(7).is_none());
        while held.len() < MAX_CONNECTIONS {
            held.push(places.enter(1_000 + held.len() as u32).expect("others have theirs"));
        }
        assert!(places.enter(8).is_none());
        held.clear();
        assert!(places.enter(7).is_some());
        assert!(lock(&places.0).of.is_empty());
    }
}
