//! Things by the names that people use, or a refusal that says what there is.

use patchbay_api::Done;
use ssmmp::{Address, InstanceId};

use crate::events::Refusal;
use crate::state::ManagerState;
use crate::state::instance::Instance;
use crate::state::session::SessionState;

pub(crate) fn living(core: &ManagerState, id: InstanceId) -> Result<&Instance, Refusal> {
    core.inventory
        .instance(id)
        .filter(|instance| instance.state.is_alive())
        .ok_or_else(|| unknown(format!("there is no running instance {id}")))
}

pub(crate) fn known_node(core: &ManagerState, node: &str) -> Result<Address, Refusal> {
    find_node(core, node).ok_or_else(|| {
        let names: Vec<&str> = core.inventory.nodes().take(20).map(|node| node.name.as_str()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        unknown(format!("there is no node `{node}`, or several are called so; there are: {names}"))
    })
}

/// A node, known or not: one that was drained and has not come back is named by its address.
pub(crate) fn drained_node(core: &ManagerState, node: &str) -> Result<Address, Refusal> {
    let by_address = node.parse().ok().map(|ip: std::net::IpAddr| Address::from(ip));
    match by_address.filter(|address| core.drained.contains(address)) {
        Some(address) => Ok(address),
        None => known_node(core, node).map_err(|refusal| match refusal {
            Refusal::Unknown(text) if !core.drained.is_empty() => {
                let drained: Vec<String> = core.drained.iter().take(20).map(ToString::to_string).collect();
                unknown(format!("{text}; drained are: {}", drained.join(", ")))
            }
            other => other,
        }),
    }
}

/// The open sessions of an abstract connection, by its plug.
pub(crate) fn sessions_of_connection(
    core: &ManagerState,
    app: &str,
    plug: &str,
) -> Result<Vec<u64>, Refusal> {
    let known = core.apps.get(app).ok_or_else(|| unknown(format!("there is no application `{app}`")))?;
    let (service, name) = plug.split_once('.').unwrap_or((plug, ""));
    if !known.service(service).is_some_and(|vertex| vertex.plugs.contains_key(name)) {
        let plugs: Vec<String> = known
            .graph
            .services
            .iter()
            .flat_map(|(service, vertex)| vertex.plugs.keys().map(move |plug| format!("{service}.{plug}")))
            .collect();
        return Err(unknown(format!("`{app}` has no plug `{plug}`; it has {}", plugs.join(", "))));
    }
    let of_service = core.inventory.of_service(app, service);
    let sources = of_service.into_iter().flat_map(|of| &of.alive).copied();
    let sessions =
        sources.filter_map(|id| Some((id, core.inventory.instance(id)?))).flat_map(|(id, instance)| {
            instance.sessions.iter().copied().filter(move |session| {
                core.sessions.get(*session).is_some_and(|session| {
                    session.source == id
                        && session.edge.plug.as_str() == name
                        && session.state == SessionState::Open
                })
            })
        });
    Ok(sessions.collect())
}

/// A node by its name or address; a name that several nodes have is nobody's.
fn find_node(core: &ManagerState, text: &str) -> Option<Address> {
    let mut named = core.inventory.nodes().filter(|node| node.name == text);
    let only = named.next().filter(|_| named.next().is_none());
    let by_address = || text.parse().ok().map(|ip: std::net::IpAddr| Address::from(ip));
    only.map(|node| node.address).or_else(|| by_address().filter(|at| core.inventory.node(*at).is_some()))
}

pub(crate) fn done(text: String, instances: usize, sessions: usize) -> Done {
    Done { text, instances, sessions }
}

pub(crate) fn unknown(text: String) -> Refusal {
    Refusal::Unknown(text)
}

pub(crate) fn conflict(text: String) -> Refusal {
    Refusal::Conflict(text)
}

/// An instance as people see it.
pub(crate) fn called(instance: &Instance) -> String {
    format!("instance {} ({})", instance.id, instance.service)
}

/// So many of them.
pub(crate) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
