//! Which instances are to be replaced, and why: moved, on a drained or ending node, out of date (section 4, 18).

use ssmmp::{Address, InstanceId};

use crate::graph::{Service, State};
use crate::inventory::offer::Offer;
use crate::row::Key;
use crate::state::ManagerState;
use crate::state::instance::{Instance, InstanceState};
use crate::state::node::ENDS_WITH_AGENT;

/// Why an instance is to be replaced; `None` when it is as it should be.
pub(crate) fn unwanted(core: &ManagerState, instance: &Instance) -> Option<String> {
    let service = core.apps.get(instance.app.as_str())?.service(instance.service.as_str())?;
    unwanted_by(core, instance, service, &service.recipe())
}

/// The same for an instance of a service with a recipe.
pub(crate) fn unwanted_by(
    core: &ManagerState,
    instance: &Instance,
    service: &Service,
    recipe: &str,
) -> Option<String> {
    if let Some(leaving) = &instance.leaving {
        return Some(leaving.why.clone());
    }
    if core.drained.contains(&instance.address) && service.state == State::Shared {
        return Some(format!("node {} is drained", instance.node));
    }
    if service.state == State::Shared && core.inventory.is_ending(instance.address) {
        return Some(ENDS_WITH_AGENT.to_owned());
    }
    if !instance.recipe.is_empty() && instance.recipe != recipe {
        let program = &instance.program;
        return Some(match program.as_str() == service.program {
            true => "the graph has changed since it was executed".into(),
            false => format!("it was executed from `{program}`, the graph says `{}`", service.program),
        });
    }
    None
}

/// The running instances with a socket that are not to be replaced: a session to another would move again.
/// `None` when there are none, or when all stay. Looks at all of them, while some are replaced.
pub(crate) fn staying(core: &ManagerState, app: &str, service: &str, socket: &str) -> Option<Offer> {
    if !replaces_some(core, app, service) {
        return None;
    }
    let vertex = core.apps.get(app)?.service(service)?;
    let recipe = vertex.recipe();
    let mut offer = Offer::default();
    let of_service = core.inventory.of_service(app, service)?;
    for instance in of_service.alive.iter().filter_map(|id| core.inventory.instance(*id)) {
        let takes = instance.state == InstanceState::Running && !instance.overloaded;
        if takes && instance.port(socket).is_some() && unwanted_by(core, instance, vertex, &recipe).is_none()
        {
            let rank = (instance.sessions.len() as u32, instance.id);
            offer.change(instance.address, None, Some((false, rank)));
        }
    }
    offer.has_fit().then_some(offer)
}

/// Whether some instance of a service may have to be replaced.
pub(crate) fn replaces_some(core: &ManagerState, app: &str, service: &str) -> bool {
    core.apps.get(app).and_then(|app| app.state(service)).is_some_and(|state| state.replacing)
}

/// Has a service looked through for instances to replace.
pub(crate) fn look_through(core: &mut ManagerState, app: &str, service: &str) {
    if let Some(app) = core.apps.get_mut(app) {
        app.state_mut(service).replacing = true;
    }
}

/// All services with an instance on a node.
pub(crate) fn look_through_node(core: &mut ManagerState, address: Address) {
    let on_node = core.inventory.on_node(address).map(|node| node.alive.clone()).unwrap_or_default();
    for id in on_node {
        let Some(instance) = core.inventory.instance(id) else { continue };
        let (app, service) = (instance.app.clone(), instance.service.clone());
        look_through(core, app.as_str(), service.as_str());
    }
}

/// A move can't be carried out: the instance stays.
pub(crate) fn give_up_move(core: &mut ManagerState, id: InstanceId, why: &str) {
    let service = core.inventory.change(id, |instance| {
        instance.leaving = None;
        instance.service.clone()
    });
    if let Some(service) = service {
        core.save(Key::Instance(id));
        core.publish(
            "instance-stays",
            format!("instance {id} ({service})"),
            format!("it is not moved: {why}"),
        );
    }
}
