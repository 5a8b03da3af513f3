//! People switch redirection: the agents of the nodes take sessions to TCP, or let them return (`x_redirect`,
//! docs/protocol.md).

use patchbay_api::Done;
use ssmmp::extension::{Switch, Switched, SwitchedSession};
use ssmmp::{Address, AgentHealthControlRequest, Envelope, Hop};

use crate::events::{Redirected, Refusal};
use crate::naming;
use crate::naming::{conflict, counted, done, unknown};
use crate::state::ManagerState;
use crate::state::session::SessionState;

/// Sessions in one message to an agent.
const MAX_NAMED: usize = 200;

/// Checks what is to be switched and says what would be done.
pub(crate) fn preview_redirect(core: &ManagerState, what: &Redirected, on: bool) -> Result<Done, Refusal> {
    let to = if on { "through the kernel again, where they may be redirected" } else { "over TCP" };
    match what {
        Redirected::Node(name) => {
            let address = naming::known_node(core, name)?;
            able_to_switch(core, address)?;
            let count = core
                .sessions
                .iter()
                .filter(|session| session.state == SessionState::Open && session.source_address == address)
                .count();
            let sessions = counted(count, "session");
            let text =
                format!("send further messages on node {name} {to}: {sessions} now, and all later ones");
            Ok(done(text, 0, count))
        }
        _ => {
            let found = to_switch(core, what)?;
            for (address, _) in &found {
                able_to_switch(core, *address)?;
            }
            let sessions = counted(found.len(), "session");
            Ok(done(format!("send further messages of {sessions} {to}"), 0, found.len()))
        }
    }
}

/// Tells the agents.
pub(crate) fn redirect(core: &mut ManagerState, what: &Redirected, on: bool) -> Result<(), Refusal> {
    let way = if on { "on" } else { "off" };
    if let Redirected::Node(name) = what {
        let address = naming::known_node(core, name)?;
        tell_agent_to_redirect(core, address, Switch { on, which: Switched::Node });
        core.publish("redirection-switched", format!("node {name}"), format!("{way} on request"));
        return Ok(());
    }
    let mut found = to_switch(core, what)?;
    found.sort();
    for of_node in found.chunk_by(|one, other| one.0 == other.0) {
        for some in of_node.chunks(MAX_NAMED) {
            let named = some.iter().map(|(_, session)| *session).collect();
            tell_agent_to_redirect(core, some[0].0, Switch { on, which: Switched::Sessions(named) });
        }
    }
    let subject = match what {
        Redirected::Session(id) => format!("session {id}"),
        Redirected::Connection(app, plug) => format!("connection {app} {plug}"),
        Redirected::Node(name) => format!("node {name}"),
    };
    core.publish("redirection-switched", subject, format!("{way} on request"));
    Ok(())
}

fn tell_agent_to_redirect(core: &mut ManagerState, address: Address, switch: Switch) {
    let request = AgentHealthControlRequest { message_id: core.message_id(), agent_network_address: address };
    let envelope = Envelope::new(request, Hop::ManagerToAgent).with(switch);
    core.send_with(address, envelope, None);
}

/// Sessions by their node, each as its agent knows it.
fn to_switch(core: &ManagerState, what: &Redirected) -> Result<Vec<(Address, SwitchedSession)>, Refusal> {
    let ids = match what {
        Redirected::Session(id) => vec![*id],
        Redirected::Connection(app, plug) => naming::sessions_of_connection(core, app, plug)?,
        Redirected::Node(_) => Vec::new(),
    };
    let is_one = matches!(what, Redirected::Session(_));
    let mut found = Vec::new();
    for id in ids {
        let session = core.sessions.get(id).filter(|session| session.state == SessionState::Open);
        let session = session.ok_or_else(|| unknown(format!("no session {id} is open")))?;
        if session.source_address == session.destination_address {
            let at = (session.destination_address, session.destination_port);
            let named = SwitchedSession { source: session.source, port: session.source_port, at };
            found.push((session.source_address, named));
        } else if is_one {
            return Err(conflict(format!("session {id} is between two nodes: it goes over TCP anyway")));
        }
    }
    Ok(found)
}

fn able_to_switch(core: &ManagerState, address: Address) -> Result<(), Refusal> {
    let node = core.inventory.node(address);
    let name = node.map_or_else(|| address.to_string(), |node| node.name.to_string());
    match node {
        Some(node) if node.connection.is_none() => Err(conflict(format!(
            "node {name} is not connected; `patchbay-agent redirect` does it on the node itself"
        ))),
        Some(_) => Ok(()),
        None => Err(unknown(format!("there is no node `{name}`"))),
    }
}
