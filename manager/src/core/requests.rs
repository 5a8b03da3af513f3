//! Sessions are asked for and answered (section 4, 6 and 7).

use patchbay_api::Traffic;
use ssmmp::{Address, Envelope, Hop, InstanceId, Port, SessionRequest, SessionResponse, Status};

use super::{Connection, Core, Edge, Effect, Session, SessionState, Waiting};
use crate::graph::Redirect;

/// Requests that may wait for one service to start; further ones are refused with 503.
pub const MAX_WAITING: usize = 10_000;
/// Those of one instance; further ones are refused with 429.
pub const MAX_WAITING_OF_ONE: usize = 1_024;
/// Answered requests of one instance that may be unacknowledged; further ones are refused with 429.
pub const MAX_PENDING_OF_ONE: usize = 16_384;
/// Refusals published in one second; further ones are answered all the same.
const MAX_REFUSALS_PUBLISHED: u32 = 100;

impl Core {
    /// An instance asks where its plug connects.
    pub(super) fn session_requested(&mut self, connection: Connection, request: SessionRequest) {
        let waiting = Waiting { connection, request };
        let request = &waiting.request;
        let source = request.source_service_instance_id;
        if !self.speaks_for(connection, source) {
            self.refuse_request(&waiting, Status::FORBIDDEN, "this agent has no such instance");
            return;
        }
        if let Some(session) = self.sessions.pending(source, request.message_id) {
            // A repeated request gets the same answer.
            self.answer(&waiting, session);
            return;
        }
        if self.sessions.pending_of(source) >= MAX_PENDING_OF_ONE {
            self.refuse_request(&waiting, Status::TOO_MANY, "too many of its sessions are unacknowledged");
            return;
        }
        match self.destination_of(request) {
            Err((status, reason)) => self.refuse_request(&waiting, status, &reason),
            Ok((app, service)) => match self.choose(&app, &service, source) {
                Some(destination) => self.connect(&waiting, destination),
                None => self.wait_for_start(&app, &service, waiting),
            },
        }
    }

    /// The application and service that a request's plug leads to, by the graph alone.
    fn destination_of(&self, request: &SessionRequest) -> Result<(String, String), (Status, String)> {
        let instance = self.inventory.instance(request.source_service_instance_id);
        let app = instance.and_then(|instance| self.apps.get(instance.app.as_str()));
        let (Some(instance), Some(app)) = (instance, app) else {
            return Err((Status::NOT_FOUND, "no such instance or application".into()));
        };
        let wanted = app.service(request.dest_service_name.as_str());
        if wanted.is_none_or(|service| !service.sockets.contains_key(request.dest_socket_name.as_str())) {
            let message =
                format!("the graph has no socket {}.{}", request.dest_service_name, request.dest_socket_name);
            return Err((Status::NOT_FOUND, message));
        }
        let plug = request.source_plug_name.as_str();
        let target = app.service(instance.service.as_str()).and_then(|service| service.plugs.get(plug));
        match target {
            Some(target)
                if target.service == request.dest_service_name.as_str()
                    && target.socket == request.dest_socket_name.as_str() =>
            {
                Ok((instance.app.to_string(), target.service.clone()))
            }
            _ => Err((
                Status::FORBIDDEN,
                format!("the graph does not connect the plug {}.{plug} there", instance.service),
            )),
        }
    }

    /// A running instance: on the asker's node first, since such a session is redirected, then the
    /// one with the fewest sessions.
    fn choose(&self, app: &str, service: &str, source: InstanceId) -> Option<InstanceId> {
        let instances = self.inventory.of_service(app, service)?;
        let near = self.inventory.instance(source).map(|instance| instance.address)?;
        let here = instances.running_on(near).next().filter(|(overloaded, ..)| !overloaded);
        let anywhere = || {
            let best = instances.running.first()?;
            // All are overloaded: then one nearby is as good as another.
            if best.0 { instances.running_on(near).next().or(Some(best)) } else { Some(best) }
        };
        here.or_else(anywhere).map(|(_, _, id)| *id)
    }

    /// One start serves all who wait.
    fn wait_for_start(&mut self, app_name: &str, service: &str, waiting: Waiting) {
        let near = self.inventory.instance(waiting.request.source_service_instance_id).map(|i| i.address);
        let Some(app) = self.apps.get_mut(app_name) else { return };
        if app.stopped {
            self.refuse_request(&waiting, Status::UNAVAILABLE, "the application is stopped");
            return;
        }
        if let Some(failures) = app.failures.get(service)
            && failures.not_before > self.now
        {
            let reason = format!("its start failed: {}", failures.problem);
            self.refuse_request(&waiting, Status::UNAVAILABLE, &reason);
            return;
        }
        let queue = app.waiting.entry(service.to_owned()).or_default();
        let source = waiting.request.source_service_instance_id;
        let own = queue.iter().filter(|earlier| earlier.request.source_service_instance_id == source);
        let (mut count, mut is_repeated) = (0, false);
        for earlier in own {
            count += 1;
            is_repeated |= earlier.request.message_id == waiting.request.message_id;
        }
        if is_repeated {
            return;
        }
        if count >= MAX_WAITING_OF_ONE {
            self.refuse_request(&waiting, Status::TOO_MANY, "too many of its requests wait for this service");
            return;
        }
        if queue.len() >= MAX_WAITING {
            self.refuse_request(&waiting, Status::UNAVAILABLE, "too many requests wait for this service");
            return;
        }
        queue.push(waiting);
        let starting = self.inventory.of_service(app_name, service).is_some_and(|of| of.starting > 0);
        if !starting && !self.start(app_name, service, near) {
            self.fail_waiting(app_name, service, "no node can execute it");
        }
    }

    /// An instance runs: who waited for its service is answered.
    pub(super) fn serve_waiting(&mut self, app: &str, service: &str) {
        let Some(waiting) = self.apps.get_mut(app).and_then(|app| app.waiting.remove(service)) else {
            return;
        };
        for waiting in waiting {
            self.session_requested(waiting.connection, waiting.request);
        }
    }

    pub(super) fn fail_waiting(&mut self, app: &str, service: &str, reason: &str) {
        let waiting = self.apps.get_mut(app).and_then(|app| app.waiting.remove(service)).unwrap_or_default();
        for waiting in waiting {
            self.refuse_request(&waiting, Status::UNAVAILABLE, reason);
        }
    }

    /// A node has come: who waits may be served now.
    pub(super) fn retry_waiting(&mut self) {
        let waiting: Vec<(String, String)> = self
            .apps
            .iter()
            .flat_map(|(name, app)| app.waiting.keys().map(|service| (name.clone(), service.clone())))
            .collect();
        for (app, service) in waiting {
            self.serve_waiting(&app, &service);
        }
    }

    /// Reserves a session with the chosen instance and answers.
    fn connect(&mut self, waiting: &Waiting, destination: InstanceId) {
        let request = &waiting.request;
        let (Some(source), Some(target)) = (
            self.inventory.instance(request.source_service_instance_id),
            self.inventory.instance(destination),
        ) else {
            return;
        };
        let Some(port) = target.port(request.dest_socket_name.as_str()) else { return };
        let edge = Edge {
            app: source.app.clone(),
            source: source.service.clone(),
            plug: request.source_plug_name.clone(),
            socket: request.dest_socket_name.clone(),
            destination: target.service.clone(),
        };
        let session = Session {
            id: 0,
            edge: edge.into(),
            message_id: request.message_id,
            source: source.id,
            source_address: source.address,
            source_port: Port::UNKNOWN,
            destination,
            destination_address: target.address,
            destination_port: port,
            new_port: Port::UNKNOWN,
            state: SessionState::Pending,
            opened: self.now,
            closed: None,
            status: None,
            path: "unknown".into(),
            reason: None,
            sent: Traffic::default(),
            received: Traffic::default(),
        };
        let id = self.session_id();
        self.add_session(Session { id, ..session });
        self.effect(Effect::SaveSession(id));
        self.answer(waiting, id);
    }

    fn answer(&mut self, waiting: &Waiting, id: u64) {
        let Some(session) = self.sessions.get(id) else { return };
        let response = SessionResponse {
            message_id: waiting.request.message_id,
            source_service_name: waiting.request.source_service_name.clone(),
            source_service_instance_id: waiting.request.source_service_instance_id,
            dest_service_name: session.edge.destination.clone(),
            dest_service_instance_id: session.destination,
            dest_socket_name: session.edge.socket.clone(),
            dest_service_instance_network_address: session.destination_address,
            dest_socket_port: session.destination_port,
            status: Status::OK,
        };
        let redirect = self
            .apps
            .get(session.edge.app.as_str())
            .and_then(|app| app.service(session.edge.source.as_str())?.plugs.get(session.edge.plug.as_str()))
            .map_or(Redirect::Never, |target| target.redirect);
        let envelope = Envelope::new(response, Hop::ManagerToAgent).with("x_redirect", redirect.as_str());
        self.effect(Effect::Send(waiting.connection, envelope));
    }

    /// Answers with a failure; the unknown values keep their places.
    pub(super) fn refuse_request(&mut self, waiting: &Waiting, status: Status, reason: &str) {
        let request = &waiting.request;
        let response = SessionResponse {
            message_id: request.message_id,
            source_service_name: request.source_service_name.clone(),
            source_service_instance_id: request.source_service_instance_id,
            dest_service_name: request.dest_service_name.clone(),
            dest_service_instance_id: InstanceId::UNKNOWN,
            dest_socket_name: request.dest_socket_name.clone(),
            dest_service_instance_network_address: Address::UNKNOWN,
            dest_socket_port: Port::UNKNOWN,
            status,
        };
        let envelope = Envelope::new(response, Hop::ManagerToAgent).with("x_reason", reason);
        self.effect(Effect::Send(waiting.connection, envelope));
        let second = self.now / 1_000;
        let (counted, published) = self.refusals;
        self.refusals = if counted == second { (second, published + 1) } else { (second, 1) };
        if self.refusals.1 > MAX_REFUSALS_PUBLISHED {
            return;
        }
        self.publish(
            "session-refused",
            format!(
                "{}/{}.{}",
                request.source_service_name, request.source_service_instance_id, request.source_plug_name
            ),
            format!("{status} {reason}"),
        );
    }
}
