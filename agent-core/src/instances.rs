//! Instances are executed, asked how they are, and ended.

use ssmmp::extension::{self, Exiting, Output, Unlimited};
use ssmmp::{
    Envelope, ExecutionRequest, ExecutionResponse, GracefulShutdownRequest, GracefulShutdownResponse,
    HardShutdownResponse, Hop, InstanceId, Message, MessageId, Name, Port, ServiceInstanceTerminationInfo,
    SocketConfiguration, Status,
};

use super::timers::Timer;
use super::{Core, END_WITHIN, Effect, Instance, Lead, Stage, Start};
use crate::repository::Kind;
use crate::session_report::SessionReport;

impl Core {
    pub(super) fn execute(&mut self, request: ExecutionRequest, app: Option<Name>, vertex: Option<Name>) {
        let id = request.service_instance_id;
        if !id.is_known() {
            let reason = "an instance needs an id";
            self.execution_answer(request.message_id, Status::BAD_REQUEST, reason, &[]);
            return;
        }
        if let Some(instance) = self.instances.get_mut(&id) {
            let is_same = instance.start.service == request.service_name
                && has_same_sockets(&instance.start.sockets, &request.socket_configuration);
            match (is_same, instance.stage()) {
                (false, _) => {
                    let reason = format!("the id is in use by an instance of `{}`", instance.start.service);
                    self.execution_answer(request.message_id, Status::CONFLICT, &reason, &[])
                }
                (true, Stage::Running) => self.execution_done(id, request.message_id),
                (true, Stage::Ending) => {
                    self.execution_answer(request.message_id, Status::CONFLICT, "it is being ended", &[])
                }
                // The repeated request is answered when the first one is.
                (true, _) => instance.execution = Some(request.message_id),
            }
            return;
        }
        if self.ending.is_some() {
            self.execution_answer(request.message_id, Status::UNAVAILABLE, "this agent ends", &[]);
            return;
        }
        let Some(entry) = self.repository.get(&request.service_name) else {
            let reason = format!("`{}` is not in this node's repository", request.service_name);
            self.execution_answer(request.message_id, Status::NOT_FOUND, &reason, &[]);
            return;
        };
        if let Some(problem) = &entry.unavailable {
            let reason = problem.message.clone();
            self.execution_answer(request.message_id, Status::UNAVAILABLE, &reason, &[]);
            return;
        }
        let (kind, tested) = (entry.kind, entry.tested);
        let start = Start {
            id,
            app,
            vertex,
            service: request.service_name,
            address: request.agent_network_address,
            sockets: request.socket_configuration,
            plugs: request.plug_configuration,
            plug_addresses: std::collections::BTreeMap::new(),
        };
        let waits_for_plugs = kind == Kind::Adapted && !start.plugs.0.is_empty();
        let stage = if waits_for_plugs { Stage::Plugs } else { Stage::Starting };
        let instance = Instance::new(start.clone(), (kind, tested), stage, Some(request.message_id));
        self.instances.insert(id, instance);
        if waits_for_plugs {
            self.effect(Effect::Prepare(start));
            self.ask_for_plugs(id);
        } else {
            self.effect(Effect::Start(start));
        }
    }

    pub(super) fn execution_answer(
        &mut self,
        id: MessageId,
        status: Status,
        reason: &str,
        output: &[String],
    ) {
        let envelope = Envelope::new(ExecutionResponse { message_id: id, status }, Hop::AgentToManager)
            .with_some((!reason.is_empty()).then_some(extension::Reason(reason)))
            .with_some((!output.is_empty()).then(|| Output(output.to_vec())));
        self.send_to_manager(envelope);
    }

    pub(super) fn listening(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id).filter(|i| i.stage() == Stage::Starting) else {
            return;
        };
        instance.becomes(Stage::Running);
        if let Some(execution) = instance.execution {
            self.execution_done(id, execution);
        }
    }

    /// An instance runs; what was not done for it is told with that.
    fn execution_done(&mut self, id: InstanceId, message_id: MessageId) {
        let done = ExecutionResponse { message_id, status: Status::OK };
        let envelope = Envelope::new(done, Hop::AgentToManager);
        let unlimited = self.instances.get(&id).map(|instance| instance.unlimited.as_str());
        let unlimited = unlimited.filter(|text| !text.is_empty()).map(Unlimited);
        self.send_to_manager(envelope.with_some(unlimited));
    }

    /// Which limits of an instance are not applied, a sentence; empty when all are.
    pub fn note_unlimited(&mut self, id: InstanceId, text: String) {
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.unlimited = text;
        }
    }

    /// Takes over an instance of an earlier agent; the Manager is told when it is registered with.
    pub(super) fn adopt(
        &mut self,
        start: Start,
        listens: bool,
        sessions: &[SessionReport],
        leads: &[(Name, Lead)],
    ) {
        let id = start.id;
        let Some(entry) = self.repository.get(&start.service) else {
            // Nothing says any more how this service is to be treated.
            self.effect(Effect::End(id));
            return;
        };
        let (kind, tested) = (entry.kind, entry.tested);
        if kind == Kind::Adapted {
            self.adopt_plugs(&start, leads);
        }
        for session in sessions {
            if let Some(live) = self.seen(&start, session) {
                self.keep_live(id, Port(session.source.port()), live);
            }
        }
        // Without the kernel's table, sessions of before are not known.
        self.knows_all_sessions &= self.redirects.sees_all;
        let stage = if listens { Stage::Running } else { Stage::Starting };
        let instance = Instance::new(start, (kind, tested), stage, None);
        self.instances.insert(id, instance);
    }

    /// An instance that said it ends has not.
    pub(super) fn end_overdue(&mut self, id: InstanceId) {
        if self.instances.get(&id).is_some_and(|instance| instance.exiting.is_some()) {
            self.effect(Effect::End(id));
        }
    }

    pub(super) fn start_failed(&mut self, id: InstanceId, status: Status, reason: &str, output: &[String]) {
        let is_asked =
            |instance: &Instance| instance.stage() != Stage::Running && instance.execution.is_some();
        if !self.instances.get(&id).is_some_and(is_asked) {
            // Nobody waits for the answer to its execution: this is its end.
            self.ended(id, reason, output);
            return;
        }
        let Some(instance) = self.instances.remove(&id) else { return };
        self.withdraw(id);
        self.forget_plugs(id);
        self.unready_for(id);
        if instance.stage() == Stage::Plugs {
            self.effect(Effect::Abandon(instance.start.clone()));
        }
        self.asked.forget(id);
        if self.shutdown_answers(&instance) {
            return;
        }
        if let Some(execution) = instance.execution {
            self.execution_answer(execution, status, reason, output);
        }
    }

    /// The process is gone: what it did not say itself is said for it.
    pub(super) fn exited(&mut self, id: InstanceId, reason: &str, output: &[String]) {
        let starting = self.instances.get(&id).is_some_and(|i| i.stage() == Stage::Starting);
        if starting {
            self.start_failed(id, Status::INTERNAL, reason, output);
        } else {
            self.ended(id, reason, output);
        }
    }

    fn ended(&mut self, id: InstanceId, reason: &str, output: &[String]) {
        self.finishing_broke(id);
        self.tell_accepted_broken(id);
        let Some(instance) = self.instances.remove(&id) else { return };
        self.withdraw(id);
        self.forget_plugs(id);
        self.unready_for(id);
        self.closing_ended(id);
        self.unacknowledged_gone(id);
        self.timers.stop(Timer::End(id));
        self.asked.forget(id);
        let ended: Vec<_> = self.live_of(id).map(|(ends, _)| *ends).collect();
        for (source, port, at) in ended {
            self.tell_source_closed(source, port, at, Status::BROKEN);
        }
        if self.shutdown_answers(&instance) {
            return;
        }
        // A Manager without extensions has heard of this end already, from the instance itself.
        if instance.exiting.is_some() && !self.extended {
            return;
        }
        let reason = match self.ending {
            Some(_) => super::ending::WHY,
            None => instance.exiting.unwrap_or(reason),
        };
        let message_id = self.message_id();
        let info = ServiceInstanceTerminationInfo {
            message_id,
            service_name: instance.start.service,
            service_instance_id: id,
            service_instance_network_address: self.address,
        };
        let envelope = Envelope::new(info, Hop::AgentToManager)
            .with(extension::Reason(reason))
            .with(Output(output.to_vec()));
        self.send_to_manager(envelope);
    }

    /// An instance is gone: who asked it to end is answered for it. False when nobody waits.
    fn shutdown_answers(&mut self, instance: &Instance) -> bool {
        let id = instance.start.id;
        if let Some(message_id) = instance.graceful {
            self.shutdown_answer(id, message_id, true, Status::OK);
        }
        if let Some(message_id) = instance.hard {
            self.shutdown_answer(id, message_id, false, Status::OK);
        }
        instance.graceful.is_some() || instance.hard.is_some()
    }

    /// An instance answers its graceful_shutdown_request: the answer is its own, and goes on as it is. With 2xx its
    /// process has a time to end; `x_exiting` says that it is still there.
    pub(super) fn graceful_answered(&mut self, id: InstanceId, envelope: Envelope) {
        let Message::GracefulShutdownResponse(response) = &envelope.message else { return };
        let asked = |instance: &&mut Instance| instance.graceful == Some(response.message_id);
        let Some(instance) = self.instances.get_mut(&id).filter(asked) else { return };
        if !response.status.is_final() {
            self.send_for(Some(id), envelope);
            return;
        }
        instance.graceful = None;
        if response.status.is_success() {
            self.exits(id, "shut down");
            self.send_for(Some(id), envelope.with(Exiting));
            return;
        }
        if instance.hard.is_none() {
            instance.becomes(Stage::Running);
        }
        self.send_for(Some(id), envelope);
    }

    /// An instance said that it ends.
    pub(super) fn exits(&mut self, id: InstanceId, why: &'static str) {
        let Some(instance) = self.instances.get_mut(&id).filter(|i| i.exiting.is_none()) else { return };
        instance.exiting = Some(why);
        self.after(END_WITHIN, Timer::End(id));
    }

    pub(super) fn shutdown_asked(&mut self, id: InstanceId, message_id: MessageId, graceful: bool) {
        let Some(instance) = self.instances.get_mut(&id) else {
            self.shutdown_answer(id, message_id, graceful, Status::NOT_FOUND);
            return;
        };
        match graceful {
            true => instance.graceful = Some(message_id),
            false => instance.hard = Some(message_id),
        }
        self.unready_for(id);
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let native = instance.kind == Kind::Native && instance.stage() == Stage::Running;
        let service_name = instance.start.service.clone();
        let (stage, execution) = (instance.stage(), instance.execution);
        if matches!(stage, Stage::Plugs | Stage::Starting) {
            let reason = "it was shut down before it ran";
            if let Some(execution) = execution {
                self.execution_answer(execution, Status::UNAVAILABLE, reason, &[]);
            }
        }
        if stage == Stage::Plugs {
            self.start_failed(id, Status::OK, "", &[]);
            return;
        }
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.becomes(Stage::Ending);
        }
        if graceful && native {
            let request = GracefulShutdownRequest { message_id, service_name, service_instance_id: id };
            self.effect(Effect::ToInstance(id, Envelope::new(request, Hop::AgentToInstance)));
        } else {
            self.effect(Effect::End(id));
        }
    }

    fn shutdown_answer(&mut self, id: InstanceId, message_id: MessageId, graceful: bool, status: Status) {
        if graceful {
            self.tell_manager(GracefulShutdownResponse { message_id, status });
        } else {
            self.tell_manager(HardShutdownResponse { message_id, service_instance_id: id, status });
        }
    }
}

/// Whether two configurations say the same, in whatever order.
fn has_same_sockets(one: &SocketConfiguration, other: &SocketConfiguration) -> bool {
    let has_all = |of: &SocketConfiguration, in_: &SocketConfiguration| {
        of.0.iter().all(|socket| in_.0.contains(socket))
    };
    has_all(one, other) && has_all(other, one)
}
