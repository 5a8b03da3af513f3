//! Connections of people: bounded in number, for each who connects and in all, and in the time they may take.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
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
use tokio::sync::Notify;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::gate::Via;
use crate::certificates::Certificates;

/// Connections to the socket, or over TCP, at once; for a further one an earlier one is ended on which no request was let
/// in yet, or it is closed at once.
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

async fn serve<S, K>(stream: S, via: Via, router: Router, place: Place<K>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    K: Hash + Eq + Copy,
{
    let standing = place.standing.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(via);
        request.extensions_mut().insert(standing.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        result = connection => {
            if let Err(error) = result {
                debug!("a connection ended: {error}");
            }
        }
        () = place.standing.0.ends.notified() => debug!("a connection without a request gave its place to another"),
    }
}

/// Places for connections, in all and for each who connects.
#[derive(Debug)]
struct Places<K>(Arc<Mutex<Taken<K>>>);

#[derive(Debug)]
struct Taken<K> {
    /// By number, the oldest first.
    connections: BTreeMap<u64, (K, Standing)>,
    of: HashMap<K, usize>,
    next: u64,
    refused: u64,
}

/// What a connection has shown so far. One that nothing was let in on gives its place to others when there is none left.
#[derive(Debug, Clone, Default)]
pub struct Standing(Arc<Shown>);

#[derive(Debug, Default)]
struct Shown {
    is_let_in: AtomicBool,
    ends: Notify,
}

impl Standing {
    /// A request on it was let in.
    pub fn let_in(&self) {
        self.0.is_let_in.store(true, Ordering::Relaxed);
    }
}

/// One connection's place; left when it is dropped.
#[derive(Debug)]
struct Place<K: Hash + Eq + Copy> {
    places: Arc<Mutex<Taken<K>>>,
    number: u64,
    standing: Standing,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        let taken = Taken { connections: BTreeMap::new(), of: HashMap::new(), next: 0, refused: 0 };
        Self(Arc::new(Mutex::new(taken)))
    }
}

impl<K: Hash + Eq + Copy + std::fmt::Debug> Places<K> {
    /// A place for a connection. Where a bound is reached, one that nothing was let in on yet is ended for it: of the same
    /// one, or of the one who has most, the oldest; `None` when there is no such, which is logged in powers of two.
    fn enter(&self, who: K) -> Option<Place<K>> {
        let mut taken = lock(&self.0);
        let own = taken.of.get(&who).copied().unwrap_or(0);
        let (all, is_own_full) = (taken.connections.len(), own >= MAX_CONNECTIONS_OF_ONE);
        if (all >= MAX_CONNECTIONS || is_own_full) && !taken.end_one(is_own_full.then_some(who)) {
            taken.refused += 1;
            if taken.refused.is_power_of_two() {
                let refused = taken.refused;
                warn!(?who, own, all, refused, "a connection to the HTTP API is refused");
            }
            return None;
        }
        let (number, standing) = (taken.next, Standing::default());
        taken.next += 1;
        taken.connections.insert(number, (who, standing.clone()));
        *taken.of.entry(who).or_default() += 1;
        Some(Place { places: self.0.clone(), number, standing })
    }
}

impl<K: Hash + Eq + Copy> Taken<K> {
    /// Ends a connection that nothing was let in on; false when there is none.
    fn end_one(&mut self, of: Option<K>) -> bool {
        let waits = |(_, (who, standing)): &(&u64, &(K, Standing))| {
            of.is_none_or(|of| of == *who) && !standing.0.is_let_in.load(Ordering::Relaxed)
        };
        let waiting = self.connections.iter().filter(waits);
        // The first of those with the largest share: the oldest.
        let victim = waiting.max_by_key(|(number, (who, _))| {
            (self.of.get(who).copied().unwrap_or(0), std::cmp::Reverse(**number))
        });
        let Some((number, standing)) = victim.map(|(number, (_, standing))| (*number, standing.clone()))
        else {
            return false;
        };
        self.leave(number);
        standing.0.ends.notify_one();
        true
    }

    fn leave(&mut self, number: u64) {
        let Some((who, _)) = self.connections.remove(&number) else { return };
        if let Some(own) = self.of.get_mut(&who) {
            *own -= 1;
            if *own == 0 {
                self.of.remove(&who);
            }
        }
    }
}

impl<K: Hash + Eq + Copy> Drop for Place<K> {
    fn drop(&mut self) {
        lock(&self.places).leave(self.number);
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
        let enter = |who: u32| places.enter(who).inspect(|place| place.standing.let_in());
        let mut held: Vec<_> = (0..MAX_CONNECTIONS_OF_ONE).map(|_| enter(7).expect("free")).collect();
        assert!(enter(7).is_none());
        while held.len() < MAX_CONNECTIONS {
            held.push(enter(1_000 + held.len() as u32).expect("others have theirs"));
        }
        assert!(enter(8).is_none());
        held.clear();
        assert!(enter(7).is_some());
        assert!(lock(&places.0).of.is_empty() && lock(&places.0).connections.is_empty());
    }

    #[test]
    fn who_shows_nothing_keeps_nobody_out() {
        let places = Places::<u32>::default();
        let known = places.enter(1).expect("free");
        known.standing.let_in();
        // Five strangers take all they can get.
        let held: Vec<_> =
            (0..10 * MAX_CONNECTIONS as u32).filter_map(|number| places.enter(2 + number % 5)).collect();
        let place = places.enter(9).expect("a stranger's place is given to it");
        place.standing.let_in();
        let taken = lock(&places.0);
        assert!(taken.connections.len() <= MAX_CONNECTIONS);
        for place in [&known, &place] {
            assert!(taken.connections.contains_key(&place.number), "it was let in and stays");
        }
        drop(taken);
        drop(held);
        assert_eq!(lock(&places.0).connections.len(), 2);
    }
}
