//! Plugs' own addresses: where they are, who listens there, where they lead (docs/plugs.md).

mod carrier;
mod listener;
mod waiting;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use patchbay_agent_core::{Event, Lead, Start, Waiting};
use ssmmp::{InstanceId, Name};
use tokio::sync::mpsc;
use tracing::warn;

use crate::datapath::{Destination, PlugAddress, PlugAddresses, SessionReport};
use carrier::Carrier;
pub use carrier::MAX_CARRIED;
pub use listener::namespace_of;
pub use waiting::WAIT_WITHIN;
use waiting::{Desk, Verdict};

/// How long connections are led to an instance of another node after the Manager has named it: its end is not told
/// here, and its port may be another's after it. A Manager keeps an unacknowledged session for as long.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(10);

/// All plugs with addresses of their own on this node.
pub struct Plugs {
    kernel: Option<PlugAddresses>,
    instances: HashMap<InstanceId, OfInstance>,
    desk: Desk,
    carrier: Carrier,
}

struct OfInstance {
    cgroup: u64,
    plugs: BTreeMap<Name, Own>,
}

/// A plug's own address. The listener is this agent's as long as it runs, and the instance's as well: what connects
/// while no agent is there waits for the next one.
struct Own {
    at: SocketAddr,
    namespace: u64,
    listener: OwnedFd,
    accepting: tokio::task::AbortHandle,
}

impl Own {
    fn address(&self, cgroup: u64) -> PlugAddress {
        PlugAddress { cgroup, namespace: self.namespace, at: self.at }
    }
}

impl Plugs {
    /// Nothing yet. Without the kernel's part the agent carries every connection, and says once what that costs.
    pub fn new(pins: Option<&Path>, events: mpsc::Sender<Event>) -> Self {
        let kernel = PlugAddresses::load(pins);
        if let Err(missing) = &kernel {
            warn!(
                "adapted programs' plugs can't be led by this kernel: the agent carries their connections, which costs \
                 time and redirection, and ends with the agent: {missing}"
            );
        }
        Self::with(kernel.ok(), events)
    }

    fn with(kernel: Option<PlugAddresses>, events: mpsc::Sender<Event>) -> Self {
        let carrier = Carrier::new(events.clone());
        let desk = Desk::new(events, carrier.clone());
        Self { kernel, instances: HashMap::new(), desk, carrier }
    }

    /// Gives each plug of an adapted instance an address, once.
    ///
    /// # Errors
    /// What could not be done, for people.
    pub fn open(&mut self, start: &Start, cgroup: u64, folder: &Path) -> Result<(), String> {
        self.open_with(start, cgroup, folder, |_| None)
    }

    /// The same for an instance of an earlier agent, whose listeners it has kept. Returns where its plugs lead.
    ///
    /// # Errors
    /// What could not be done, for people.
    pub fn adopt(
        &mut self,
        start: &Start,
        cgroup: u64,
        folder: &Path,
        kept: impl Fn(&str) -> Option<OwnedFd>,
    ) -> Result<Vec<(Name, Lead)>, String> {
        self.open_with(start, cgroup, folder, kept)?;
        let Some(kernel) = &self.kernel else { return Ok(Vec::new()) };
        let of = self.instances.get(&start.id);
        let plugs = of.into_iter().flat_map(|of| &of.plugs);
        let leads = plugs.filter_map(|(name, own)| {
            let to = kernel.leads(&own.address(cgroup))?;
            let lead = Lead { destination: InstanceId(to.instance), at: to.at, here: false };
            Some((name.clone(), lead))
        });
        Ok(leads.collect())
    }

    fn open_with(
        &mut self,
        start: &Start,
        cgroup: u64,
        folder: &Path,
        kept: impl Fn(&str) -> Option<OwnedFd>,
    ) -> Result<(), String> {
        if start.plugs.0.is_empty() || self.instances.contains_key(&start.id) {
            return Ok(());
        }
        let mut plugs = BTreeMap::new();
        for to in &start.plugs.0 {
            let name = to.plug.as_str();
            let wanted = start.plug_addresses.get(name).copied();
            let listener = match (wanted, kept(name)) {
                (Some(at), Some(listener)) if listener::is_at(&listener, at) => Ok(listener),
                (wanted, _) => listener::open(wanted.unwrap_or_else(|| any_port(start.address.0))),
            };
            let (at, namespace, listener) = listener
                .and_then(|listener| Ok((listener::address(&listener)?, namespace_of(&listener)?, listener)))
                .map_err(|error| format!("an address for the plug `{name}` can't be had: {error}"))?;
            let accepting = self
                .desk
                .accept(start.id, to.plug.clone(), listener.as_fd(), cgroup, folder.to_owned())
                .map_err(|error| format!("connections of the plug `{name}` can't be accepted: {error}"))?;
            plugs.insert(to.plug.clone(), Own { at, namespace, listener, accepting });
        }
        if let Some(kernel) = &mut self.kernel
            && let Err(refused) = kernel.attach(cgroup, folder)
        {
            warn!(instance = %start.id, "the agent carries the connections of its plugs: {refused}");
        }
        self.instances.insert(start.id, OfInstance { cgroup, plugs });
        Ok(())
    }

    /// The addresses of an instance's plugs, with the listeners that its process inherits.
    ///
    /// # Errors
    /// Too many files are open.
    pub fn of(&self, id: InstanceId) -> std::io::Result<BTreeMap<String, (SocketAddr, OwnedFd)>> {
        let of = self.instances.get(&id);
        let plugs = of.into_iter().flat_map(|of| &of.plugs);
        plugs.map(|(name, own)| Ok((name.to_string(), (own.at, own.listener.try_clone()?)))).collect()
    }

    /// Joins a connection that waits at the agent with a destination; `tries` were tried before.
    pub fn hand(&mut self, waiting: Waiting, at: SocketAddr, tries: u8) {
        self.desk.tell(waiting, Verdict::Join(at, tries));
    }

    /// Resets a connection that waits at the agent, for a reason.
    pub fn refuse(&mut self, waiting: Waiting, why: String) {
        self.desk.tell(waiting, Verdict::Refuse(why));
    }

    /// Leads a plug's connections to a destination, or to the agent.
    pub fn lead(&mut self, id: InstanceId, plug: &Name, lead: Option<Lead>) {
        let Some(of) = self.instances.get(&id) else { return };
        let Some(own) = of.plugs.get(plug) else { return };
        let address = own.address(of.cgroup);
        let Some(kernel) = &mut self.kernel else { return };
        let done = match lead {
            Some(Lead { destination, at, here }) => {
                let within = (!here).then_some(ELSEWHERE_WITHIN);
                kernel.lead(&address, Destination { instance: destination.0, at }, within)
            }
            None => kernel.lead_nowhere(&address),
        };
        if let Err(error) = done {
            warn!(instance = %id, %plug, "its connections go through the agent: {error}");
            // Never to where it led before.
            let _ = kernel.lead_nowhere(&address);
        }
    }

    /// An instance is gone, and its plugs' addresses with it. What is carried for it ends by itself.
    pub fn forget(&mut self, id: InstanceId) {
        let Some(of) = self.instances.remove(&id) else { return };
        for own in of.plugs.values() {
            own.accepting.abort();
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.detach(of.cgroup);
        }
    }

    /// The sessions that the agent carries.
    pub fn sessions(&self) -> Vec<SessionReport> {
        self.carrier.sessions()
    }
}

/// Any port of the loopback address of a node's family.
fn any_port(node: IpAddr) -> SocketAddr {
    let loopback = match node {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(loopback, 0)
}

/// Whether a cgroup is another one, or below it.
fn is_below(id: u64, above: u64, folder: &Path) -> bool {
    /// Cgroups looked at.
    const MOST: usize = 1_024;
    if id == above {
        return true;
    }
    let mut next = vec![PathBuf::from(folder)];
    let mut looked = 0;
    while let Some(folder) = next.pop() {
        looked += 1;
        if looked > MOST {
            return false;
        }
        if crate::datapath::cgroup_id(&folder).is_ok_and(|found| found == id) {
            return true;
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        next.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    false
}
