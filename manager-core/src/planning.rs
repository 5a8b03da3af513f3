//! What applying a graph would start, replace and stop.

use std::collections::BTreeMap;

use patchbay_api::{Plan, Problem};
use sha2::{Digest as _, Sha256};
use ssmmp::InstanceId;

use crate::graph::{Graph, Service, State};
use crate::state::ManagerState;
use crate::state::instance::{Instance, InstanceState};

/// What applying a graph would change and what follows, and what that was seen from.
pub(crate) fn plan(core: &ManagerState, graph: &Graph, text: &str, mut warnings: Vec<Problem>) -> Plan {
    let known = core.apps.get(&graph.app);
    let running = known.filter(|app| !app.stopped);
    let changes = graph.changes_since(running.map(|app| &app.graph), &core.config.policy());
    warnings.extend(ports_of_others(core, graph, text));
    let mut seen = Sha256::new();
    seen.update(text);
    if let Some(app) = known {
        seen.update([0, u8::from(app.stopped)]);
        seen.update(app.applied.to_be_bytes());
        seen.update(&app.text);
        for (service, state) in &app.services {
            seen.update(format!("\0{service} {:?}", state.scaled));
        }
    }
    let seen = seen.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Plan { app: graph.app.clone(), changes, steps: steps(core, graph), warnings, seen }
}

/// Fixed ports that another application's gateways have too: each node has a port once.
fn ports_of_others(core: &ManagerState, graph: &Graph, text: &str) -> Vec<Problem> {
    let others = core.apps.iter().filter(|(name, app)| **name != graph.app && !app.stopped);
    let taken: BTreeMap<u16, String> = others
        .flat_map(|(name, app)| app.graph.services.iter().map(move |service| (name, service)))
        .flat_map(|(app, (service, vertex))| {
            let ports = vertex.sockets.values().filter_map(|socket| socket.port);
            ports.map(move |port| (port, format!("{app}'s {service}")))
        })
        .collect();
    let own = graph.services.iter().flat_map(|(name, vertex)| {
        vertex.sockets.values().filter_map(move |socket| Some((name, socket.port?)))
    });
    own.filter_map(|(name, port)| {
        let other = taken.get(&port)?;
        let line = text.lines().position(|line| line.contains(&format!("[service.{name}]")));
        Some(Problem {
            message: format!("port {port} of `{name}` is {other}'s too: no node can have both"),
            help: Some("choose another port, or make sure that there are nodes enough".into()),
            line: line.map_or(1, |line| line + 1),
            column: 1,
            warning: true,
        })
    })
    .collect()
}

/// What follows from a graph for instances and sessions, a sentence each.
pub(crate) fn steps(core: &ManagerState, graph: &Graph) -> Vec<String> {
    let mut steps: Vec<String> =
        graph.services.iter().flat_map(|(name, service)| steps_of(core, graph, name, service)).collect();
    for (name, of_service) in core.inventory.of_app(&graph.app) {
        if !graph.services.contains_key(name.as_str()) && !of_service.alive.is_empty() {
            let sessions = sessions_of(core, &of_service.alive.iter().copied().collect::<Vec<_>>());
            let count = of_service.alive.len();
            steps.push(format!("{name}: {count} stop at the end, with {sessions} sessions"));
        }
    }
    steps
}

fn steps_of(core: &ManagerState, graph: &Graph, name: &str, service: &Service) -> Vec<String> {
    let mut steps = Vec::new();
    let of_service = core.inventory.of_service(&graph.app, name);
    let alive: Vec<&Instance> = of_service
        .into_iter()
        .flat_map(|of_service| &of_service.alive)
        .filter_map(|id| core.inventory.instance(*id))
        .filter(|instance| instance.state != InstanceState::Stopping)
        .collect();
    if core.inventory.connected() > 0 && core.inventory.able(&service.program).next().is_none() {
        let program = &service.program;
        steps.push(format!("{name}: waits for a node that has `{program}` in its repository"));
    }
    let missing = (service.fewest() as usize).saturating_sub(alive.len());
    if missing > 0 {
        steps.push(format!("{name}: {missing} start{}", if missing == 1 { "s" } else { "" }));
    }
    let outdated: Vec<InstanceId> = alive
        .iter()
        .filter(|instance| !instance.recipe.is_empty() && instance.recipe != service.recipe())
        .map(|instance| instance.id)
        .collect();
    if !outdated.is_empty() {
        let (count, sessions) = (outdated.len(), sessions_of(core, &outdated));
        let how = match service.state {
            State::Shared => "one at a time, the new one first",
            State::Node => "the old one ends first, since its state is on its node",
        };
        let program = &service.program;
        steps.push(format!(
            "{name}: {count} replaced by `{program}`, {how}; {sessions} sessions close and come back"
        ));
    }
    let surplus = alive.len().saturating_sub(service.most.max(service.fewest()) as usize);
    if surplus > 0 {
        steps.push(format!("{name}: {surplus} more than its replicas stop, one at a time"));
    }
    steps
}

fn sessions_of(core: &ManagerState, instances: &[InstanceId]) -> usize {
    let instances = instances.iter().filter_map(|id| core.inventory.instance(*id));
    instances.flat_map(|instance| &instance.sessions).collect::<std::collections::BTreeSet<_>>().len()
}
