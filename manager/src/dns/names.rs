//! Which names there are.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hickory_server::proto::rr::Name;

use patchbay_manager_core::{Core, Effect, Gateway, Row};

/// Longest label (RFC 1035, 2.3.4), in bytes; a gateway with a longer name has none in the DNS.
const MAX_LABEL_BYTES: usize = 63;

/// What does not change while the Manager runs.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The zone's name.
    pub name: Name,
    /// How long answers may be kept, seconds.
    pub ttl: u32,
    /// Where this server is reached, when it listens at one address.
    pub server: Option<IpAddr>,
}

/// The zone and the running gateway instances.
#[derive(Debug)]
pub struct Names {
    /// The zone.
    pub zone: Zone,
    serial: AtomicU32,
    apps: RwLock<Arc<Apps>>,
}

/// Applications, then gateways, in lower case.
type Apps = HashMap<String, HashMap<String, Entry>>;

/// One gateway.
#[derive(Debug, Default)]
pub struct Entry {
    instances: BTreeMap<u64, Place>,
    /// Whose turn it is, by address family: a client that asks for both must still get every instance.
    turns: [AtomicUsize; 2],
}

#[derive(Debug, Clone, Copy)]
struct Place {
    address: IpAddr,
    stays: bool,
}

impl Names {
    /// No names yet. The serial number must not be smaller than at an earlier start: seconds since 1970.
    pub fn new(zone: Zone, serial: u32) -> Self {
        Self { zone, serial: AtomicU32::new(serial), apps: RwLock::default() }
    }

    /// Takes over what effects that are on disk have changed.
    pub fn follow(&self, core: &Core, effects: &[Effect]) {
        let concerns = effects.iter().any(|effect| match effect {
            Effect::Save(Row::App(_)) => true,
            Effect::Save(Row::Instance(row, _)) => core.is_gateway(row.id),
            Effect::Publish(event) => event.kind.starts_with("node-") || event.kind == "instance-leaving",
            _ => false,
        });
        if concerns {
            self.set(core.gateways());
        }
    }

    /// Replaces all names.
    pub fn set(&self, gateways: Vec<Gateway>) {
        let before = self.apps();
        let mut apps = Apps::new();
        for gateway in gateways {
            let (app, service) =
                (gateway.app.as_str().to_ascii_lowercase(), gateway.service.as_str().to_ascii_lowercase());
            if app.len() > MAX_LABEL_BYTES || service.len() > MAX_LABEL_BYTES {
                continue;
            }
            let turns = before.get(&app).and_then(|app| app.get(&service)).map(|entry| &entry.turns);
            let turn = |family: usize| turns.map_or(0, |turns| turns[family].load(Ordering::Relaxed));
            let turns = [turn(0).into(), turn(1).into()];
            let entry = apps.entry(app).or_default().entry(service).or_default();
            entry.turns = turns;
            let place = Place { address: gateway.address, stays: gateway.stays };
            entry.instances.insert(gateway.id.0, place);
        }
        *self.apps.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(apps);
        self.serial.fetch_add(1, Ordering::Relaxed);
    }

    /// Grows with every change.
    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Whether an application has a gateway that runs.
    pub fn has_app(&self, app: &str) -> bool {
        self.apps().contains_key(app)
    }

    /// The instance of a gateway whose turn it is, of the wanted family when there is one.
    pub fn choose(&self, app: &str, service: &str, wants_ipv6: bool) -> Option<(u64, IpAddr)> {
        self.apps().get(app)?.get(service)?.choose(wants_ipv6)
    }

    /// An instance's address.
    pub fn instance(&self, app: &str, service: &str, id: u64) -> Option<IpAddr> {
        Some(self.apps().get(app)?.get(service)?.instances.get(&id)?.address)
    }

    fn apps(&self) -> Arc<Apps> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Entry {
    /// While every node is lost, as after the Manager's start, or all instances are to leave, they are named
    /// all the same.
    fn choose(&self, wants_ipv6: bool) -> Option<(u64, IpAddr)> {
        let best = |place: &Place| (place.stays, place.address.is_ipv6() == wants_ipv6);
        let rank = self.instances.values().map(best).max()?;
        let fitting: Vec<_> = self.instances.iter().filter(|(_, place)| best(place) == rank).collect();
        let turn = self.turns[usize::from(wants_ipv6)].fetch_add(1, Ordering::Relaxed);
        let (id, place) = fitting.get(turn % fitting.len())?;
        Some((**id, place.address))
    }
}
