//! The Manager asks for the end of a session (section 4, 11). An instance that does not obey in time has
//! its connection ended in the kernel.

use std::net::SocketAddr;
use std::time::Duration;

use ssmmp::extension::{self, Forced, Within};
use ssmmp::{
    DestServiceSessionCloseInfo, DestServiceSessionCloseResponse, Envelope, Hop, InstanceId, Message,
    MessageId, Name, Port, SourceServiceSessionCloseResponse, Status,
};

use super::timers::Timer;
use super::{Core, Effect};
use crate::repository::Kind;

/// How long an instance may take when the Manager says nothing ([`Within`]).
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Longest time that the Manager may give.
const LONGEST: Duration = Duration::from_secs(3_600);
/// How long the end of an adapted program's session waits for the Manager's choice of its next destination.
const CHOICE_WITHIN: Duration = Duration::from_secs(1);
/// Close requests that may wait for their instances; further ones are answered with 503.
const MAX_CLOSING: usize = 10_000;

/// A close request that an instance has to answer.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) instance: InstanceId,
    pub(super) request: Envelope,
}

impl Core {
    /// The Manager asks an instance to close a session.
    pub(super) fn close_asked(&mut self, id: InstanceId, envelope: Envelope) {
        match self.instances.get(&id).map(|instance| instance.kind) {
            Some(Kind::Native) => self.close_native(id, envelope),
            Some(Kind::Adapted) if self.has_room_to_close() && self.close_waits(id, &envelope) => {
                let message_id = envelope.message.message_id();
                let within = within(&envelope).min(CHOICE_WITHIN);
                if self.closing.insert(message_id, Closing { instance: id, request: envelope }).is_none() {
                    self.after(within, Timer::Close(message_id));
                }
            }
            Some(Kind::Adapted) => self.close_adapted(&envelope),
            None => self.close_answer(&envelope, Status::NOT_FOUND, None),
        }
    }

    fn has_room_to_close(&self) -> bool {
        self.closing.len() < MAX_CLOSING
    }

    /// An adapted program can't be asked: the kernel ends the connection.
    fn close_adapted(&mut self, request: &Envelope) {
        if let Some((local, remote)) = ends(&request.message) {
            self.effect(Effect::Destroy(local, remote));
        }
        self.close_answer(request, Status::OK, None);
    }

    fn close_native(&mut self, id: InstanceId, envelope: Envelope) {
        let message_id = envelope.message.message_id();
        if !self.has_room_to_close() && !self.closing.contains_key(&message_id) {
            self.close_answer(&envelope, Status::UNAVAILABLE, None);
            return;
        }
        let within = within(&envelope);
        let request = envelope.clone();
        if self.closing.insert(message_id, Closing { instance: id, request }).is_none() {
            self.after(within, Timer::Close(message_id));
        }
        self.effect(Effect::ToInstance(id, envelope.forward(Hop::AgentToInstance)));
    }

    fn take_closing(&mut self, request: &MessageId) -> Option<Closing> {
        self.timers.stop(Timer::Close(*request));
        self.closing.remove(request)
    }

    /// An instance answers a close request; false when it was not asked, or too late.
    pub(super) fn close_answered(&mut self, id: InstanceId, request: &MessageId) -> bool {
        let asked = self.closing.get(request).is_some_and(|closing| closing.instance == id);
        asked && self.take_closing(request).is_some()
    }

    /// An instance did not close a session in time, or an adapted one need not wait any longer.
    pub(super) fn close_overdue(&mut self, request: &MessageId) {
        let Some(Closing { instance, request }) = self.take_closing(request) else { return };
        if self.is_adapted(instance) {
            self.close_adapted(&request);
            return;
        }
        if let Some((local, remote)) = ends(&request.message) {
            self.effect(Effect::Destroy(local, remote));
        }
        match &request.message {
            Message::SourceServiceSessionCloseRequest(asked) => {
                let at = ends(&request.message).map(|(_, remote)| remote);
                if let Some((_, port, at)) = self.meant(instance, asked.source_plug_port, at) {
                    self.tell_source_closed(instance, port, at, Status::BROKEN);
                }
            }
            Message::DestServiceSessionCloseRequest(asked) => {
                if let Some((local, remote)) = ends(&request.message) {
                    let socket = asked.dest_socket_name.clone();
                    self.accepted_ended(instance, extension::end(remote), Port(local.port()));
                    self.tell_socket_closed(instance, socket, (remote, local), Status::BROKEN);
                }
            }
            _ => {}
        }
        self.close_answer(
            &request,
            Status::OK,
            Some("the instance did not close it in time; the kernel did"),
        );
    }

    /// An instance is gone, and its connections with it: what it was asked to close is closed.
    pub(super) fn closing_ended(&mut self, id: InstanceId) {
        let gone: Vec<MessageId> = self
            .closing
            .iter()
            .filter(|(_, closing)| closing.instance == id)
            .map(|(message_id, _)| *message_id)
            .collect();
        for message_id in gone {
            if let Some(closing) = self.take_closing(&message_id) {
                self.close_answer(&closing.request, Status::OK, None);
            }
        }
    }

    fn close_answer(&mut self, request: &Envelope, status: Status, forced: Option<&str>) {
        let message_id = request.message.message_id();
        let envelope = match &request.message {
            Message::SourceServiceSessionCloseRequest(_) => {
                Envelope::new(SourceServiceSessionCloseResponse { message_id, status }, Hop::AgentToManager)
            }
            _ => Envelope::new(DestServiceSessionCloseResponse { message_id, status }, Hop::AgentToManager),
        };
        self.send_to_manager(envelope.with_some(forced.map(Forced)));
    }

    /// Says for a destination that a session to one of its sockets ended; source and destination.
    pub(super) fn tell_socket_closed(
        &mut self,
        id: InstanceId,
        socket: Name,
        (source, destination): (SocketAddr, SocketAddr),
        status: Status,
    ) {
        let service = self.instances.get(&id).map(|instance| instance.start.service.clone());
        let (Some(service), Ok(unknown)) = (service, Name::new("-")) else { return };
        let info = DestServiceSessionCloseInfo {
            message_id: self.message_id(),
            source_service_instance_network_address: source.ip().into(),
            source_plug_name: unknown,
            source_plug_port: Port(source.port()),
            dest_service_name: service,
            dest_service_instance_network_address: destination.ip().into(),
            dest_service_instance_id: id,
            dest_socket_name: socket,
            dest_socket_port: Port(destination.port()),
            dest_socket_new_port: Port(destination.port()),
            status,
        };
        self.tell_manager(info);
    }
}

/// How long an instance may take to close.
fn within(request: &Envelope) -> Duration {
    let said = request.line().map(|Within(milliseconds)| Duration::from_millis(milliseconds));
    said.unwrap_or(CLOSE_WITHIN).min(LONGEST)
}

/// The connection that a close request means: the asked instance's own end first.
fn ends(request: &Message) -> Option<(SocketAddr, SocketAddr)> {
    match request {
        Message::SourceServiceSessionCloseRequest(r) => Some((
            SocketAddr::new(r.source_service_instance_network_address.0, r.source_plug_port.0),
            SocketAddr::new(r.dest_service_instance_network_address.0, r.dest_socket_port.0),
        )),
        Message::DestServiceSessionCloseRequest(r) => Some((
            SocketAddr::new(r.dest_service_instance_network_address.0, r.dest_socket_port.0),
            SocketAddr::new(r.source_service_instance_network_address.0, r.source_plug_port.0),
        )),
        _ => None,
    }
}
