//! Messages between native instances and the Manager pass through, checked; sessions are declared to
//! the kernel before they exist.

use std::net::SocketAddr;

use patchbay_ebpf_common::{Habit, Reason};
use ssmmp::extension::{self, Allow, Exiting, Live as LiveLine, NoMemory, Redirect, WholeSession};
use ssmmp::{
    Envelope, Hop, InstanceId, Message, Name, Port, SessionAck, SessionResponse,
    SourceServiceSessionCloseInfo, Status,
};

use super::allowance::Allowed;
use super::asked::Asked;
use super::profiles::{Endpoint, Ends};
use super::{Core, Declare, Effect, Live, resync};
use crate::repository::Kind;

impl Core {
    /// A message from an instance; the kernel says which one it is, whatever the message says.
    pub(super) fn instance_said(&mut self, id: InstanceId, mut envelope: Envelope) {
        let Some(instance) = self.instances.get(&id) else { return };
        fill_in(&mut envelope.message, id, &instance.start.service, self.address);
        match &envelope.message {
            Message::SessionRequest(request) => {
                if request.source_service_instance_id != id {
                    let reason = "the process behind this connection is another instance";
                    self.refuse(id, request.clone(), Status::FORBIDDEN, reason);
                    return;
                }
                if !instance.start.is_of(&request.source_service_name) {
                    let own = instance.start.vertex.as_ref().unwrap_or(&instance.start.service);
                    let reason = format!("the process behind this connection is an instance of `{own}`");
                    self.refuse(id, request.clone(), Status::FORBIDDEN, &reason);
                    return;
                }
                self.ask(id, envelope);
                return;
            }
            Message::SessionAck(ack) => {
                if ack.source_service_instance_id != id {
                    return;
                }
                let told: Option<WholeSession> = envelope.line();
                if told.is_none() && self.asked.get(id, ack.message_id).is_some_and(Asked::is_unanswered) {
                    // There is nothing to acknowledge yet; its answer is still to come.
                    return;
                }
                let (port, connected) = (ack.source_plug_port, ack.status.is_success());
                let asked = self.asked.remove(id, ack.message_id);
                // It comes too late for the connection from this port, not for another one of this request.
                let is_ended = asked.as_ref().is_some_and(|asked| asked.ended == Some(port));
                let answer = asked.and_then(|asked| asked.answer);
                let live = answer.or_else(|| self.told_again(id, ack, told?));
                self.acknowledged(id, port, live.as_ref().map(|live| live.at));
                if let (Some(live), true) = (live, connected) {
                    // The Manager may have given the session up meanwhile: it is told all of it.
                    let (line, at) = (LiveLine(vec![resync::told(id, port, &live)]), live.at);
                    self.keep_live(id, port, live);
                    self.send_for(Some(id), envelope.with(line));
                    if is_ended {
                        self.tell_source_closed(id, port, at, Status::BROKEN);
                    }
                    return;
                }
                // The kernel showed this session to an agent that did not see it begin: now its request is known.
                let message_id = ack.message_id;
                let ends = self.meant(id, port, None).filter(|_| connected);
                if let Some(live) = ends.and_then(|ends| self.live.get_mut(&ends)) {
                    live.message_id = message_id;
                }
            }
            Message::SourceServiceSessionCloseInfo(info) => {
                if info.source_service_instance_id != id {
                    return;
                }
                let address = info.dest_service_instance_network_address.0;
                let at = SocketAddr::new(address, info.dest_socket_port.0);
                if let Some((_, port, at)) = self.meant(id, info.source_plug_port, Some(at)) {
                    self.forget_live(id, port, at);
                }
            }
            Message::DestServiceSessionCloseInfo(info) => {
                if info.dest_service_instance_id != id {
                    return;
                }
                let address = info.source_service_instance_network_address;
                self.accepted_ended(id, (address, info.source_plug_port), info.dest_socket_port);
            }
            Message::ServiceInstanceTerminationInfo(info) => {
                if info.service_instance_id != id {
                    return;
                }
                self.exits(id, "ended by itself");
                self.send_for(Some(id), envelope.with(Exiting));
                return;
            }
            Message::GracefulShutdownResponse(_) => {
                self.graceful_answered(id, envelope);
                return;
            }
            Message::ServiceInstanceHealthResponse(response) => {
                if response.service_instance_id != id {
                    return;
                }
                if response.status.is_final() {
                    let question = response.message_id;
                    self.health_answered(id, question);
                }
            }
            Message::SourceServiceSessionCloseResponse(_) | Message::DestServiceSessionCloseResponse(_) => {
                if !self.close_answered(id, &envelope.message.message_id()) {
                    return;
                }
            }
            // Nothing else comes from an instance.
            _ => return,
        }
        self.send_for(Some(id), envelope);
    }

    /// The instance that a request to a destination means: its socket tells where the id does not.
    pub(super) fn destination(&self, said: InstanceId, port: Port) -> InstanceId {
        let listens = |instance: &super::Instance| instance.start.sockets.0.iter().any(|s| s.port == port);
        match said.is_known() {
            true => said,
            false => {
                let found = self.instances.iter().find(|(_, instance)| listens(instance));
                found.map_or(said, |(id, _)| *id)
            }
        }
    }

    /// A session that an earlier agent saw begin: its source tells it whole (docs/protocol.md).
    fn told_again(&self, id: InstanceId, ack: &SessionAck, session: WholeSession) -> Option<Live> {
        let WholeSession { plug, service: dest_service, destination, socket, at: (address, port) } = session;
        let service = self.instances.get(&id)?.start.service.clone();
        let at = SocketAddr::new(address.0, port.0);
        let message_id = ack.message_id;
        Some(Live { message_id, service, plug, dest_service, destination, socket, at, over: false })
    }

    pub(super) fn refuse(
        &mut self,
        id: InstanceId,
        request: ssmmp::SessionRequest,
        status: Status,
        reason: &str,
    ) {
        let response = SessionResponse {
            message_id: request.message_id,
            source_service_name: request.source_service_name,
            source_service_instance_id: id,
            dest_service_name: request.dest_service_name,
            dest_service_instance_id: InstanceId::UNKNOWN,
            dest_socket_name: request.dest_socket_name,
            dest_service_instance_network_address: ssmmp::Address::UNKNOWN,
            dest_socket_port: Port::UNKNOWN,
            status,
        };
        let envelope = Envelope::new(response, Hop::AgentToInstance).with(extension::Reason(reason));
        self.effect(Effect::ToInstance(id, envelope));
    }

    /// The Manager has chosen: the kernel is told first, then the instance.
    pub(super) fn session_answered(&mut self, response: SessionResponse, envelope: Envelope) {
        let source = response.source_service_instance_id;
        let Some(instance) = self.instances.get(&source) else { return };
        let (kind, service) = (instance.kind, instance.start.service.clone());
        let asked = self.asked.get_mut(source, response.message_id);
        // A second answer to one request is none.
        let Some(asked) = asked.filter(|asked| asked.waits()) else { return };
        asked.again &= !response.status.is_final();
        let at =
            SocketAddr::new(response.dest_service_instance_network_address.0, response.dest_socket_port.0);
        let asked_plug = asked.plug.clone();
        if response.status.is_success() {
            asked.answer = Some(Live {
                message_id: response.message_id,
                service,
                plug: asked.plug.clone(),
                dest_service: response.dest_service_name.clone(),
                destination: response.dest_service_instance_id,
                socket: response.dest_socket_name.clone(),
                at,
                over: false,
            });
            let Allow(allowed) = envelope.line().unwrap_or_default();
            let (allowed, mode) = (allowed.into_iter().collect(), envelope.line::<Redirect>());
            let ends = Ends { allowed, ..self.ends_of(source, &asked_plug, &response) };
            let declare = Declare {
                source,
                destination: response.dest_service_instance_id,
                at,
                redirect: self.may_redirect(&response, mode),
                memory: envelope.line::<NoMemory>().is_none(),
                always: mode == Some(Redirect::Always),
                about: Habit::NONE,
                observe: false,
            };
            self.declare(declare, ends);
        } else if response.status.is_final() {
            self.asked.remove(source, response.message_id);
        }
        match kind {
            Kind::Native => self.effect(Effect::ToInstance(source, envelope.forward(Hop::AgentToInstance))),
            Kind::Adapted if !response.status.is_final() => {}
            Kind::Adapted => {
                let extension::Reason(why) = envelope.line().unwrap_or(extension::Reason(""));
                self.plug_answered(source, response.message_id, response.status, why);
            }
        }
    }

    /// What forbids redirection whatever the programs do: the graph, or another node.
    fn may_redirect(&self, response: &SessionResponse, mode: Option<Redirect>) -> Result<(), Reason> {
        let here = self.instances.contains_key(&response.dest_service_instance_id)
            && response.dest_service_instance_network_address == self.address;
        match mode {
            Some(Redirect::Never) => Err(Reason::Never),
            _ if !here => Err(Reason::OtherNode),
            _ => Ok(()),
        }
    }

    fn ends_of(&self, source: InstanceId, plug: &Name, response: &SessionResponse) -> Ends {
        let destination = response.dest_service_instance_id;
        let tested = |id| self.instances.get(&id).is_some_and(|instance| instance.tested);
        // Habits are a program's, and a service may be executed from one or another.
        let program =
            |id, service| self.instances.get(&id).map_or(service, |instance| &instance.start.service);
        Ends {
            source: Endpoint::new(program(source, &response.source_service_name), plug),
            destination: Endpoint::new(
                program(destination, &response.dest_service_name),
                &response.dest_socket_name,
            ),
            tested: [tested(source), tested(destination)],
            allowed: Allowed::default(),
        }
    }

    /// Says for a source that its session ended; nothing when that was said already.
    pub(super) fn tell_source_closed(
        &mut self,
        source: InstanceId,
        port: Port,
        at: SocketAddr,
        status: Status,
    ) {
        let Some(live) = self.forget_live(source, port, at) else { return };
        let info = SourceServiceSessionCloseInfo {
            message_id: self.message_id(),
            source_service_name: live.service,
            source_service_instance_id: source,
            source_service_instance_network_address: self.address,
            source_plug_name: live.plug,
            source_plug_port: port,
            dest_service_name: live.dest_service,
            dest_service_instance_id: live.destination,
            dest_service_instance_network_address: live.at.ip().into(),
            dest_socket_name: live.socket,
            dest_socket_port: Port(live.at.port()),
            dest_socket_new_port: Port(live.at.port()),
            status,
        };
        self.tell_manager(info);
    }
}

/// Older dialects leave out who speaks: the connection says it.
fn fill_in(message: &mut Message, id: InstanceId, service: &Name, address: ssmmp::Address) {
    let known = |said: &mut InstanceId| {
        if !said.is_known() {
            *said = id;
        }
    };
    match message {
        Message::SessionRequest(m) if !m.source_service_instance_network_address.is_known() => {
            m.source_service_instance_network_address = address;
        }
        Message::SessionAck(m) => {
            if m.source_service_name == Name::unnamed() {
                m.source_service_name = service.clone();
            }
            known(&mut m.source_service_instance_id);
        }
        Message::SourceServiceSessionCloseInfo(m) => known(&mut m.source_service_instance_id),
        Message::DestServiceSessionCloseInfo(m) => known(&mut m.dest_service_instance_id),
        _ => {}
    }
}
