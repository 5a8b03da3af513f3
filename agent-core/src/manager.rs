//! What the Manager is told first, and what it says.

use ssmmp::extension::{App, Log, Node, Running, RunningMore, Service, Switch};
use ssmmp::{Envelope, Hop, InitiationRequest, Message, MessageId, NameList};

use super::{Core, Effect};

impl Core {
    pub(super) fn register(&mut self) {
        self.registered = false;
        self.tell_repository();
    }

    /// Tells what this node can execute and what exists on it.
    pub(super) fn tell_repository(&mut self) {
        let mut parts = self.running();
        let rest = parts.pop().unwrap_or(Running(Vec::new()));
        for part in parts {
            let request = self.registration_with(NameList(Vec::new())).1;
            self.effect(Effect::ToManager(request.with(part).with(RunningMore)));
        }
        let (id, envelope) = self.registration_with(self.offered());
        self.registration = id;
        let redirection = self.redirects.redirection.clone();
        self.redirection_told = Some(redirection.clone());
        let envelope = envelope.with(redirection).with(rest);
        let envelope = envelope.with_some(self.unlimited()).with_some(self.unavailable());
        self.effect(Effect::ToManager(envelope));
    }

    fn registration_with(&mut self, service_repository: NameList) -> (MessageId, Envelope) {
        let message_id = self.message_id();
        let request =
            InitiationRequest { message_id, agent_network_address: self.address, service_repository };
        (message_id, Envelope::new(request, Hop::AgentToManager).with(Node(&self.node)))
    }

    pub(super) fn manager_said(&mut self, envelope: Envelope) {
        self.extended |= envelope.has_extensions();
        match &envelope.message {
            Message::InitiationResponse(response) if response.message_id == self.registration => {
                self.extended = envelope.has_extensions();
                if response.status.is_success() {
                    // One that was registered all the time has only told of another repository.
                    if !std::mem::replace(&mut self.registered, true) {
                        self.effect(Effect::Registered);
                        self.tell_again();
                        self.tell_ending();
                        self.tell_redirection();
                    }
                } else {
                    self.registered = false;
                    self.effect(Effect::Refused(response.status));
                }
            }
            _ if !self.registered => {}
            Message::ExecutionRequest(request) => {
                let (app, vertex) = (envelope.line(), envelope.line());
                self.execute(request.clone(), app.map(|App(name)| name), vertex.map(|Service(name)| name));
            }
            Message::SessionResponse(response) => self.session_answered(response.clone(), envelope),
            Message::SourceServiceSessionCloseRequest(request) => {
                self.close_asked(request.source_service_instance_id, envelope);
            }
            Message::DestServiceSessionCloseRequest(request) => {
                let id = self.destination(request.dest_service_instance_id, request.dest_socket_port);
                self.close_asked(id, envelope);
            }
            Message::GracefulShutdownRequest(request) => {
                self.shutdown_asked(request.service_instance_id, request.message_id, true);
            }
            Message::HardShutdownRequest(request) => {
                self.shutdown_asked(request.service_instance_id, request.message_id, false);
            }
            Message::ServiceInstanceHealthRequest(request) => {
                self.health_asked(request.service_instance_id, envelope);
            }
            Message::AgentHealthControlRequest(request) => {
                let answer = self.own_health(request.message_id);
                if let Some(switch) = envelope.line::<Switch>() {
                    self.effect(Effect::Redirect(switch));
                }
                self.effect(match envelope.line::<Log>() {
                    Some(asked) => Effect::TellOutput(asked, answer),
                    None => Effect::ReportThen(answer),
                });
            }
            _ => {}
        }
    }
}
