//! Instances are replaced (section 4, 18; L3): one is moved, its node is drained, or the graph has
//! changed what it was executed with. The new one runs first; then the old one's sessions are closed, a
//! few at a time, and come back at the new one; then the old one ends. One at a time for each service.

use ssmmp::InstanceId;

use super::execution::{Begun, Start};
use super::inventory::Offer;
use super::row::Key;
use super::{Core, Instance, InstanceState};
use crate::graph::{Service, State};

/// What is to be done next to replace what is unwanted of a service.
enum Step {
    /// Nothing, until what is under way is done.
    Wait,
    /// Nothing any more.
    Done,
    /// Stop one whose replacement runs.
    Stop(InstanceId, String),
    /// Start a replacement.
    Replace(InstanceId, String),
}

impl Core {
    /// Why an instance is to be replaced; `None` when it is as it should be.
    pub(super) fn unwanted(&self, instance: &Instance) -> Option<String> {
        let service = self.apps.get(instance.app.as_str())?.service(instance.service.as_str())?;
        self.unwanted_by(instance, service, &service.recipe())
    }

    /// The same for an instance of a service with a recipe.
    fn unwanted_by(&self, instance: &Instance, service: &Service, recipe: &str) -> Option<String> {
        if let Some(leaving) = &instance.leaving {
            return Some(leaving.why.clone());
        }
        if self.drained.contains(&instance.address) && service.state == State::Shared {
            return Some(format!("node {} is drained", instance.node));
        }
        if service.state == State::Shared && self.inventory.is_ending(instance.address) {
            return Some(super::ending::WHY.to_owned());
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
    pub(super) fn staying(&self, app: &str, service: &str, socket: &str) -> Option<Offer> {
        if !self.replaces_some(app, service) {
            return None;
        }
        let vertex = self.apps.get(app)?.service(service)?;
        let recipe = vertex.recipe();
        let mut offer = Offer::default();
        let of_service = self.inventory.of_service(app, service)?;
        for instance in of_service.alive.iter().filter_map(|id| self.inventory.instance(*id)) {
            let takes = instance.state == InstanceState::Running && !instance.overloaded;
            if takes
                && instance.port(socket).is_some()
                && self.unwanted_by(instance, vertex, &recipe).is_none()
            {
                let rank = (instance.sessions.len() as u32, instance.id);
                offer.change(instance.address, None, Some((false, rank)));
            }
        }
        offer.has_fit().then_some(offer)
    }

    /// Whether some instance of a service may have to be replaced.
    pub(super) fn replaces_some(&self, app: &str, service: &str) -> bool {
        self.apps.get(app).and_then(|app| app.state(service)).is_some_and(|state| state.replacing)
    }

    /// Has a service looked through for instances to replace.
    pub(super) fn look_through(&mut self, app: &str, service: &str) {
        if let Some(app) = self.apps.get_mut(app) {
            app.state_mut(service).replacing = true;
        }
    }

    /// All services with an instance on a node.
    pub(super) fn look_through_node(&mut self, address: ssmmp::Address) {
        let on_node = self.inventory.on_node(address).map(|node| node.alive.clone()).unwrap_or_default();
        for id in on_node {
            let Some(instance) = self.inventory.instance(id) else { continue };
            let (app, service) = (instance.app.clone(), instance.service.clone());
            self.look_through(app.as_str(), service.as_str());
        }
    }

    pub(super) fn replace_unwanted(&mut self, app: &str, service: &str) {
        if !self.replaces_some(app, service) {
            return;
        }
        match self.next_step(app, service) {
            Step::Wait => {}
            Step::Stop(id, why) => self.stop_instance(id, &why),
            Step::Replace(id, why) => self.replace(id, &why),
            Step::Done => {
                if let Some(app) = self.apps.get_mut(app) {
                    app.state_mut(service).replacing = false;
                }
                self.stop_gone(app);
            }
        }
    }

    fn next_step(&self, app: &str, service: &str) -> Step {
        let Some(vertex) = self.apps.get(app).and_then(|known| known.service(service)) else {
            return Step::Wait;
        };
        let recipe = vertex.recipe();
        let running = |id| self.inventory.instance(id).filter(|i| i.state == InstanceState::Running);
        let unwanted = |id| Some((id, self.unwanted_by(running(id)?, vertex, &recipe)?));
        let Some(of_service) = self.inventory.of_service(app, service) else { return Step::Done };
        let mut replaced = of_service.replacements().filter(|(_, new)| running(*new).is_some());
        if let Some((id, why)) = replaced.find_map(|(old, _)| unwanted(old)) {
            return Step::Stop(id, why);
        }
        // All are looked through only when nothing is under way.
        if !of_service.all_run() || self.is_delayed(app, service) {
            return Step::Wait;
        }
        let first = of_service.alive.iter().find_map(|id| unwanted(*id));
        first.map_or(Step::Done, |(id, why)| Step::Replace(id, why))
    }

    fn replace(&mut self, id: InstanceId, why: &str) {
        let Some(old) = self.inventory.instance(id) else { return };
        let (app, service, address) = (old.app.to_string(), old.service.to_string(), old.address);
        let only = old.leaving.as_ref().map(|leaving| leaving.to);
        let Some(vertex) = self.apps.get(&app).and_then(|app| app.service(&service)).cloned() else { return };
        let pausing = self.apps.get(&app).and_then(|app| app.state(&service));
        if let Some(at) = pausing.map(|state| state.failures.not_before).filter(|at| *at > self.now) {
            self.at(at, super::Timer::Settle(app, service));
            return;
        }
        if vertex.state == State::Node {
            // Two would share the state: the old one ends first, and those who ask wait for the new one.
            self.stop_instance(id, &format!("{why}; its state is on its node, so it ends first"));
            return;
        }
        let start = Start { near: Some(address), only, replaces: Some(id), ..Start::default() };
        if self.start(&app, &service, start) == Begun::Yes {
            self.publish("instance-leaving", format!("instance {id} ({service})"), why.to_owned());
            return;
        }
        if only.is_some() {
            self.give_up_move(id, "the node can't take it any more");
            return;
        }
        let has_fixed_port = vertex.sockets.values().any(|socket| socket.port.is_some());
        let can_stay = !self.drained.contains(&address)
            && self.inventory.able(&vertex.program).any(|node| node.address == address);
        if has_fixed_port && can_stay {
            // Its port is taken by itself, and no other node can take it.
            self.stop_instance(id, &format!("{why}; no other node has its port free, so it ends first"));
        }
    }

    /// A move can't be carried out: the instance stays.
    pub(super) fn give_up_move(&mut self, id: InstanceId, why: &str) {
        let service = self.inventory.change(id, |instance| {
            instance.leaving = None;
            instance.service.clone()
        });
        if let Some(service) = service {
            self.save(Key::Instance(id));
            self.publish(
                "instance-stays",
                format!("instance {id} ({service})"),
                format!("it is not moved: {why}"),
            );
        }
    }
}
