//! How many may be connected: in all, from one address, and without having registered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Agents connected at once; further connections are closed.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Connections at once that have not registered yet; further ones are closed.
pub const MAX_UNREGISTERED: usize = 2_048;
/// The same from one address, so that one peer can't take all such places.
pub const MAX_UNREGISTERED_PER_ADDRESS: usize = 512;

/// The places for connections.
#[derive(Debug, Clone)]
pub struct Places {
    max_per_address: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    unregistered: usize,
    by_address: HashMap<IpAddr, OfAddress>,
}

#[derive(Debug, Default)]
struct OfAddress {
    all: usize,
    unregistered: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// In all.
    #[error("{MAX_CONNECTIONS} agents are connected")]
    All,
    /// From one address.
    #[error("{0} connections from this address are open (--max-connections-per-address)")]
    Address(usize),
    /// Not registered.
    #[error("{0} connections have not registered yet")]
    Unregistered(usize),
}

/// One connection's place; left when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    address: IpAddr,
    registered: bool,
}

impl Places {
    /// Empty places.
    pub fn new(max_per_address: usize) -> Self {
        Self { max_per_address, taken: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection.
    ///
    /// # Errors
    /// Says which bound is reached.
    pub fn enter(&self, address: IpAddr) -> Result<Place, Full> {
        let mut taken = self.lock();
        let here = taken.by_address.get(&address);
        let (all_here, unregistered_here) = here.map_or((0, 0), |here| (here.all, here.unregistered));
        if taken.all >= MAX_CONNECTIONS {
            return Err(Full::All);
        }
        if all_here >= self.max_per_address {
            return Err(Full::Address(all_here));
        }
        if taken.unregistered >= MAX_UNREGISTERED {
            return Err(Full::Unregistered(taken.unregistered));
        }
        if unregistered_here >= MAX_UNREGISTERED_PER_ADDRESS {
            return Err(Full::Unregistered(unregistered_here));
        }
        taken.all += 1;
        taken.unregistered += 1;
        let here = taken.by_address.entry(address).or_default();
        here.all += 1;
        here.unregistered += 1;
        Ok(Place { places: self.clone(), address, registered: false })
    }
}

impl Place {
    /// The connection has registered.
    pub fn register(&mut self) {
        if !std::mem::replace(&mut self.registered, true) {
            let mut taken = self.places.lock();
            taken.unregistered -= 1;
            if let Some(here) = taken.by_address.get_mut(&self.address) {
                here.unregistered -= 1;
            }
        }
    }

    /// Whether it has.
    pub fn is_registered(&self) -> bool {
        self.registered
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.register();
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(here) = taken.by_address.get_mut(&self.address) {
            here.all -= 1;
            if here.all == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_address_takes_its_share_only_and_what_is_left_is_free_again() {
        let places = Places::new(600);
        let mut held: Vec<Place> = Vec::new();
        for _ in 0..MAX_UNREGISTERED_PER_ADDRESS {
            held.push(places.enter(address(1)).expect("free"));
        }
        assert_eq!(
            places.enter(address(1)).expect_err("full"),
            Full::Unregistered(MAX_UNREGISTERED_PER_ADDRESS)
        );
        held.push(places.enter(address(2)).expect("another address has its own places"));
        held.iter_mut().for_each(Place::register);
        while held.len() < 601 {
            held.push(places.enter(address(1)).expect("registered ones do not count"));
        }
        assert_eq!(places.enter(address(1)).expect_err("full"), Full::Address(600));
        held.clear();
        assert!(places.enter(address(1)).is_ok());
        assert!(places.lock().by_address.is_empty());
    }

    #[test]
    fn many_addresses_together_are_bounded_too() {
        let places = Places::new(10);
        let held: Vec<_> =
            (0..MAX_UNREGISTERED).map(|n| places.enter(address((n % 250) as u8)).expect("free")).collect();
        assert_eq!(places.enter(address(251)).expect_err("full"), Full::Unregistered(held.len()));
    }
}
