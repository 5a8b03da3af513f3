//! Whether the Manager's belief is what runs.

use std::collections::{BTreeMap, BTreeSet};

use crate::Cluster;

impl Cluster {
    /// What differs between the Manager's belief and the nodes: an instance that is believed and not there or
    /// there and not believed, a port given twice, an open session with an end that is gone. Nothing, when
    /// all is well.
    pub fn difference(&self) -> Option<String> {
        let (Ok(instances), Ok(sessions)) = (self.instances(), self.sessions()) else {
            return Some("the Manager does not answer".into());
        };
        let alive: Vec<_> = instances.iter().filter(|i| i.ended_ms.is_none()).collect();
        let believed: BTreeSet<(String, u64)> = alive.iter().map(|i| (i.node.clone(), i.id)).collect();
        let real: BTreeSet<(String, u64)> =
            self.real_instances().into_iter().map(|real| (real.node, real.id)).collect();
        if believed != real {
            return Some(format!("believed {believed:?}, real {real:?}"));
        }
        let mut ports = BTreeMap::new();
        for instance in &alive {
            for (_, port) in &instance.sockets {
                if let Some(other) = ports.insert((&instance.node, port), instance.id) {
                    return Some(format!("{port} is given to {other} and {}", instance.id));
                }
            }
        }
        let ids: BTreeSet<u64> = alive.iter().map(|instance| instance.id).collect();
        let half_known = sessions
            .iter()
            .filter(|session| session.state == "open")
            .find(|s| !ids.contains(&s.source.instance) || !ids.contains(&s.destination.instance));
        half_known.map(|session| format!("session {} is open with an end that is gone", session.id))
    }
}
