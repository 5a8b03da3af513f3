//! Instances are executed on the best node, ended, and started again (section 4, 3 to 5).

use std::collections::BTreeSet;

use ssmmp::extension::{self, App, Reason, Unlimited};
use ssmmp::{
    Address, Envelope, ExecutionRequest, Hop, InstanceId, Name, PlugConfiguration, PlugTarget,
    SocketConfiguration, SocketPort, Status,
};

use super::placing::Placed;
use super::row::{InstanceRow, Key};
use super::{Core, Instance, InstanceState, LONGEST_TEXT, Millis, Outstanding, Timer, first, output_of};
use crate::graph::policy::time;
use crate::graph::{Service, State};

/// What is to be known of an instance before it is started.
#[derive(Debug, Clone, Default)]
pub(super) struct Start {
    /// A node that it had better be on.
    pub(super) near: Option<Address>,
    /// The only node that it may be on.
    pub(super) only: Option<Address>,
    /// The instance that ends when it runs.
    pub(super) replaces: Option<InstanceId>,
    /// Nodes where its start failed.
    pub(super) tried: BTreeSet<Address>,
    /// It is delayed when the nodes have too many starts under way.
    pub(super) may_wait: bool,
}

/// What came of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// The execution is requested.
    Yes,
    /// Nodes that could take it have too many starts under way.
    Later,
    /// No node can take it.
    No,
}

impl Core {
    /// Requests the execution of one more instance. That no node can take it is published once.
    pub(super) fn start(&mut self, app: &str, service: &str, start: Start) -> Begun {
        let Some(vertex) = self.apps.get(app).and_then(|app| app.service(service)) else {
            return Begun::No;
        };
        let names = (Name::new(app), Name::new(service), Name::new(&vertex.program));
        let (Ok(app_name), Ok(name), Ok(program)) = names else { return Begun::No };
        let recipe = vertex.recipe();
        let (address, sockets) = match self.place(app, service, vertex, &start) {
            Placed::At(address, sockets) => (address, sockets),
            Placed::Later => return Begun::Later,
            Placed::Nowhere => {
                self.unplaced(app, service);
                return Begun::No;
            }
        };
        let id = self.instance_id();
        let node = self.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
        let mut instance = Instance::from(InstanceRow {
            id,
            app: app_name,
            service: name,
            address,
            node: node.clone(),
            sockets,
            state: InstanceState::Starting,
            created: self.now,
            ended: None,
            reason: None,
            output: Vec::new(),
            program,
            recipe,
            leaving: None,
            replaces: start.replaces,
        });
        instance.tried = start.tried;
        instance.tried.insert(address);
        let known = self.apps.get(app).and_then(|app| app.state(service));
        instance.restarts = known.map_or(0, |state| state.failures.recent());
        self.inventory.add(instance);
        self.save(Key::Instance(id));
        self.publish("instance-starting", format!("instance {id} ({service})"), format!("on node {node}"));
        self.execute_again(id);
        Begun::Yes
    }

    /// Requests an instance's execution, or its answer once more: a repeated request starts nothing.
    pub(super) fn execute_again(&mut self, id: InstanceId) {
        let message_id = self.message_id();
        let Some(instance) = self.inventory.instance(id) else { return };
        let (app, service) = (instance.app.as_str(), instance.service.as_str());
        let vertex = self.apps.get(app).and_then(|app| app.service(service));
        let within = self.policy(app, service).start_within;
        let sockets = instance.sockets.iter();
        let (address, service_name) = (instance.address, instance.program.clone());
        let (app, vertex_name) = (instance.app.clone(), instance.service.clone());
        let request = ExecutionRequest {
            message_id,
            agent_network_address: address,
            service_name,
            service_instance_id: id,
            socket_configuration: SocketConfiguration(
                sockets.map(|(socket, port)| SocketPort { socket: socket.clone(), port: *port }).collect(),
            ),
            plug_configuration: PlugConfiguration(vertex.map(plugs).unwrap_or_default()),
        };
        self.at(self.now + within, Timer::Start(id));
        let envelope =
            Envelope::new(request, Hop::ManagerToAgent).with(App(app)).with(extension::Service(vertex_name));
        self.inventory.change(id, |instance| instance.execution = Some(message_id));
        self.send_with(address, envelope, Some(Outstanding::Execution(id)));
    }

    /// An agent answers an execution. The answer to an earlier request says nothing: the agent was asked
    /// again since, and has started the instance again if it had failed.
    pub(super) fn execution_answered(&mut self, id: InstanceId, envelope: &Envelope, status: Status) {
        let latest = self.inventory.instance(id).and_then(|instance| instance.execution);
        if latest == Some(envelope.message.message_id()) {
            let Reason(reason) = envelope.line().unwrap_or(Reason("the agent gave no reason"));
            self.executed(id, status, &first(reason, LONGEST_TEXT), output_of(envelope));
            if let Some(Unlimited(text)) = envelope.line().filter(|_| status.is_success()) {
                self.note_unlimited(id, text);
            }
        }
    }

    /// Which limits of an instance its agent could not apply, and why.
    pub(super) fn note_unlimited(&mut self, id: InstanceId, text: &str) {
        self.inventory.change(id, |instance| instance.unlimited = Some(first(text, LONGEST_TEXT).into()));
    }

    /// The agent has answered an execution_request.
    pub(super) fn executed(&mut self, id: InstanceId, status: Status, reason: &str, output: Vec<String>) {
        let instance = self.inventory.instance(id).filter(|i| i.state == InstanceState::Starting);
        let Some(instance) = instance else { return };
        let (app, service) = (instance.app.to_string(), instance.service.to_string());
        if status.is_success() {
            self.runs(id, &app, &service);
            return;
        }
        let old = instance.replaces.and_then(|old| self.inventory.instance(old));
        // One that has ended meanwhile is not moved: the new one was to stand in for it.
        let old = old.filter(|old| old.state == InstanceState::Running);
        let moved = old.filter(|old| old.leaving.is_some()).map(|old| old.id);
        let start =
            Start { tried: instance.tried.clone(), replaces: old.map(|old| old.id), ..Start::default() };
        let address = instance.address;
        self.end(id, InstanceState::Failed, &format!("could not be started ({status}): {reason}"), output);
        if let Some(old) = moved {
            self.give_up_move(old, reason);
            self.settle(&app, &service);
        } else if self.inventory.is_ending(address) {
            self.settle(&app, &service);
        } else if status == Status::CONFLICT || self.start(&app, &service, start) != Begun::Yes {
            self.unplanned_end(&app, &service, None, status, reason);
        }
    }

    fn runs(&mut self, id: InstanceId, app: &str, service: &str) {
        let now = self.now;
        let running = self.inventory.change(id, |instance| {
            instance.state = InstanceState::Running;
            instance.idle_since = now;
            instance.polls.healthy = now;
            (instance.address, instance.node.clone())
        });
        let Some((address, node)) = running else { return };
        self.plan_instance_polls(id);
        self.save(Key::Instance(id));
        self.publish("instance-running", format!("instance {id} ({service})"), format!("on node {node}"));
        if let Some(known) = self.apps.get_mut(app) {
            let is_bound = known.service(service).is_some_and(|vertex| vertex.state == State::Node);
            let state = known.state_mut(service);
            state.failures.recovered();
            if is_bound && state.home != Some(address) {
                state.home = Some(address);
                self.save(Key::Service(app.to_owned(), service.to_owned()));
            }
        }
        self.serve_waiting(app, service);
        self.settle(app, service);
        self.continue_later();
    }

    pub(super) fn start_timed_out(&mut self, id: InstanceId) {
        if self.inventory.instance(id).is_none_or(|instance| instance.state != InstanceState::Starting) {
            return;
        }
        self.doubt(id);
        self.executed(id, Status::NO_ANSWER, "no answer from its agent in time", Vec::new());
    }

    /// Counts an unplanned end against the budget of restarts, and plans the next start. `ran`: how long
    /// it had run, `None` for a failed start, which also answers who waits.
    fn unplanned_end(
        &mut self,
        app_name: &str,
        service: &str,
        ran: Option<Millis>,
        status: Status,
        reason: &str,
    ) {
        let budget = self.policy(app_name, service).restarts;
        let now = self.now;
        let Some(app) = self.apps.get_mut(app_name) else { return };
        let failures = &mut app.state_mut(service).failures;
        let newly_failing = failures.count(now, ran, reason, budget);
        let (count, at) = (failures.recent(), failures.not_before);
        if ran.is_none() {
            let status = if status == Status::NO_ANSWER { status } else { Status::UNAVAILABLE };
            self.fail_waiting(app_name, service, status, reason);
        }
        if newly_failing {
            let text = format!(
                "{count} unplanned ends are more than its budget of {} within {}; it is retried with growing pauses, next in {}: {reason}",
                budget.tries,
                time(budget.within),
                time(at.saturating_sub(now).next_multiple_of(1_000))
            );
            self.publish("service-failing", format!("service {service}"), text);
        }
        if at > now {
            self.at(at, Timer::Settle(app_name.into(), service.into()));
        }
        self.settle(app_name, service);
    }

    /// An instance says that it ends, or its agent that it is gone.
    pub(super) fn instance_told_end(&mut self, id: InstanceId, envelope: &Envelope) {
        let Some(instance) = self.inventory.instance(id) else { return };
        let (app, service) = (instance.app.clone(), instance.service.clone());
        let now = self.now;
        let by_agent = envelope.line().map(|Reason(reason)| first(reason, LONGEST_TEXT));
        if by_agent.is_none()
            && let Some(app) = self.apps.get_mut(app.as_str())
        {
            app.state_mut(service.as_str()).failures.wait_for_exit(now);
        }
        self.instance_ended(id, by_agent.as_deref().unwrap_or("ended by itself"), output_of(envelope));
    }

    /// An instance has ended, however it did.
    pub(super) fn instance_ended(&mut self, id: InstanceId, reason: &str, output: Vec<String>) {
        let Some(instance) = self.inventory.instance(id).filter(|i| i.state.is_alive()) else { return };
        let (app, service, state) = (instance.app.to_string(), instance.service.to_string(), instance.state);
        let lived = self.now.saturating_sub(instance.created);
        if state == InstanceState::Starting {
            // Its agent may have been asked to start it again meanwhile.
            self.doubt(id);
        }
        let Some(instance) = self.inventory.instance(id) else { return };
        // Who ends with its agent was asked to, whatever it looks like.
        let is_asked = self.inventory.is_ending(instance.address);
        if is_asked || (state == InstanceState::Stopping && !instance.stopping.failed) {
            let usual = if is_asked { super::ending::WHY } else { reason };
            let planned = instance.reason.clone().unwrap_or_else(|| usual.to_owned());
            self.end(id, InstanceState::Ended, &planned, Vec::new());
            self.settle(&app, &service);
            return;
        }
        let reason = match state {
            InstanceState::Stopping => instance.reason.clone().unwrap_or_else(|| reason.to_owned()),
            _ => reason.to_owned(),
        };
        self.end(id, InstanceState::Ended, &reason, output);
        let ran = (state != InstanceState::Starting).then_some(lived);
        self.unplanned_end(&app, &service, ran, Status::UNAVAILABLE, &reason);
    }

    /// Instances are gone with their node or its agent: no failure of theirs, so the budget of restarts
    /// is not touched.
    pub(super) fn lost_with_node(&mut self, ids: Vec<InstanceId>, reason: &str) {
        let mut services = BTreeSet::new();
        for id in ids {
            let Some(instance) = self.inventory.instance(id).filter(|i| i.state.is_alive()) else { continue };
            services.insert((instance.app.to_string(), instance.service.to_string()));
            let planned = instance.reason.clone().unwrap_or_else(|| reason.to_owned());
            self.end(id, InstanceState::Ended, &planned, Vec::new());
        }
        for (app, service) in services {
            self.settle(&app, &service);
        }
    }

    /// Writes an instance's end down and closes its sessions.
    pub(super) fn end(&mut self, id: InstanceId, state: InstanceState, reason: &str, output: Vec<String>) {
        let now = self.now;
        let last_line = output.last().map(|line| format!("; last output: {line}")).unwrap_or_default();
        let ended = self.inventory.change(id, |instance| {
            instance.state = state;
            instance.ended = Some(now);
            instance.reason = Some(reason.to_owned());
            instance.output = output;
            let of = (instance.app.clone(), instance.service.clone(), instance.address);
            (of, instance.sessions.clone())
        });
        let Some(((app, service, address), sessions)) = ended else { return };
        self.continue_later();
        self.save(Key::Instance(id));
        let kind = if state == InstanceState::Failed { "instance-failed" } else { "instance-ended" };
        self.publish(kind, format!("instance {id} ({service})"), format!("{reason}{last_line}"));
        for session in sessions {
            self.session_closed(session, Status::BROKEN);
        }
        self.withdraw_waiting(app.as_str(), id);
        self.stop_what_holds_state(address);
    }
}

fn plugs(service: &Service) -> Vec<PlugTarget> {
    service
        .plugs
        .iter()
        .filter_map(|(plug, target)| {
            Some(PlugTarget {
                plug: Name::new(plug).ok()?,
                socket: Some(Name::new(&target.socket).ok()?),
                service: Name::new(&target.service).ok()?,
            })
        })
        .collect()
}
