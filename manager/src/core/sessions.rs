//! Sessions: asked for, answered, acknowledged, closed (section 4, 6 to 11).

use ssmmp::{
    Address, Envelope, Hop, InstanceId, Message, Port, SessionAck, SessionRequest, SessionResponse,
    SourceServiceSessionCloseRequest, Status,
};

use super::state::{Session, SessionKey, SessionState, Waiting};
use super::{Connection, Core, Effect, InstanceState, Millis, Outstanding, Timer};
use crate::graph::Redirect;

/// How long an answered session may stay without its acknowledgement, milliseconds.
const ACKNOWLEDGE_WITHIN: Millis = 10_000;
/// Requests that may wait for one service to start; further ones are refused with 503.
const MAX_WAITING: usize = 10_000;

impl Core {
    /// An instance asks where its plug connects.
    pub(super) fn session_requested(&mut self, connection: Connection, request: SessionRequest) {
        let waiting = Waiting { connection, request };
        let request = &waiting.request;
        let source = request.source_service_instance_id;
        if let Some(session) = self.pending.get(&(source, request.message_id)).copied() {
            // A repeated request gets the same answer.
            self.answer(&waiting, session);
            return;
        }
        if !self.speaks_for(connection, source) {
            self.refuse_request(&waiting, Status::FORBIDDEN, "this agent has no such instance");
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
        let instance = self.instances.get(&request.source_service_instance_id);
        let app = instance.and_then(|instance| self.apps.get(&instance.app));
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
                Ok((instance.app.clone(), target.service.clone()))
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
        let near = self.instances.get(&source).map(|instance| instance.address);
        self.instances
            .values()
            .filter(|i| i.app == app && i.service.as_str() == service && i.state == InstanceState::Running)
            .min_by_key(|i| (i.overloaded, Some(i.address) != near, i.sessions.len(), i.id))
            .map(|instance| instance.id)
    }

    /// One start serves all who wait.
    fn wait_for_start(&mut self, app_name: &str, service: &str, waiting: Waiting) {
        let near = self.instances.get(&waiting.request.source_service_instance_id).map(|i| i.address);
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
        let is_repeated = queue.iter().any(|earlier| {
            earlier.request.source_service_instance_id == waiting.request.source_service_instance_id
                && earlier.request.message_id == waiting.request.message_id
        });
        if is_repeated {
            return;
        }
        if queue.len() >= MAX_WAITING {
            self.refuse_request(&waiting, Status::UNAVAILABLE, "too many requests wait for this service");
            return;
        }
        queue.push(waiting);
        let starting = self.instances.values().any(|i| {
            i.app == app_name && i.service.as_str() == service && i.state == InstanceState::Starting
        });
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
        let (Some(source), Some(target)) =
            (self.instances.get(&request.source_service_instance_id), self.instances.get(&destination))
        else {
            return;
        };
        let Some(port) = target.port(request.dest_socket_name.as_str()) else { return };
        let session = Session {
            id: 0,
            app: source.app.clone(),
            message_id: request.message_id,
            source: source.id,
            source_service: source.service.clone(),
            plug: request.source_plug_name.clone(),
            source_address: source.address,
            source_port: Port::UNKNOWN,
            destination,
            destination_service: target.service.clone(),
            socket: request.dest_socket_name.clone(),
            destination_address: target.address,
            destination_port: port,
            new_port: Port::UNKNOWN,
            state: SessionState::Pending,
            opened: self.now,
            closed: None,
            status: None,
            path: "unknown".into(),
            reason: None,
            sent: patchbay_api::Traffic::default(),
            received: patchbay_api::Traffic::default(),
        };
        let id = self.session_id();
        let source = session.source;
        self.pending.insert((source, session.message_id), id);
        self.sessions.insert(id, Session { id, ..session });
        for end in [source, destination] {
            if let Some(instance) = self.instances.get_mut(&end) {
                instance.sessions.insert(id);
            }
        }
        self.effect(Effect::SaveSession(id));
        self.at(self.now + ACKNOWLEDGE_WITHIN, Timer::Acknowledge(id));
        self.answer(waiting, id);
    }

    fn answer(&mut self, waiting: &Waiting, id: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        let response = SessionResponse {
            message_id: waiting.request.message_id,
            source_service_name: waiting.request.source_service_name.clone(),
            source_service_instance_id: waiting.request.source_service_instance_id,
            dest_service_name: session.destination_service.clone(),
            dest_service_instance_id: session.destination,
            dest_socket_name: session.socket.clone(),
            dest_service_instance_network_address: session.destination_address,
            dest_socket_port: session.destination_port,
            status: Status::OK,
        };
        let redirect = self
            .apps
            .get(&session.app)
            .and_then(|app| app.service(session.source_service.as_str())?.plugs.get(session.plug.as_str()))
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
        self.publish(
            "session-refused",
            format!(
                "{}/{}.{}",
                request.source_service_name, request.source_service_instance_id, request.source_plug_name
            ),
            format!("{status} {reason}"),
        );
    }

    /// The source has connected, or could not.
    pub(super) fn session_acknowledged(&mut self, connection: Connection, ack: SessionAck) {
        let source = ack.source_service_instance_id;
        if !self.speaks_for(connection, source) {
            return;
        }
        let Some(id) = self.pending.get(&(source, ack.message_id)).copied() else { return };
        if !ack.status.is_success() {
            self.session_closed(id, ack.status);
            return;
        }
        self.pending.remove(&(source, ack.message_id));
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.state = SessionState::Open;
        session.opened = now;
        session.source_port = ack.source_plug_port;
        session.new_port = if ack.dest_socket_new_port.is_known() {
            ack.dest_socket_new_port
        } else {
            session.destination_port
        };
        let text = format!(
            "{}/{}.{} → {}/{}.{}",
            session.source_service,
            source,
            session.plug,
            session.destination_service,
            session.destination,
            session.socket
        );
        if let Some(key) = session.key() {
            self.by_key.insert(key, id);
        }
        self.effect(Effect::SaveSession(id));
        self.publish("session-opened", format!("session {id}"), text);
    }

    pub(super) fn not_acknowledged(&mut self, id: u64) {
        if self.sessions.get(&id).is_some_and(|session| session.state == SessionState::Pending) {
            self.session_closed(id, Status::NO_ANSWER);
        }
    }

    /// Either end tells that a session ended; the second report of one finds nothing.
    pub(super) fn session_close_told(&mut self, message: &Message) {
        let (key, source, status) = match message {
            Message::SourceServiceSessionCloseInfo(info) => (
                (
                    info.source_service_instance_network_address,
                    info.source_plug_port,
                    info.dest_service_instance_network_address,
                    info.dest_socket_port,
                ),
                Some(info.source_service_instance_id),
                info.status,
            ),
            Message::DestServiceSessionCloseInfo(info) => (
                (
                    info.source_service_instance_network_address,
                    info.source_plug_port,
                    info.dest_service_instance_network_address,
                    info.dest_socket_port,
                ),
                None,
                info.status,
            ),
            _ => return,
        };
        // Loopback or translated addresses hide the key: then the source and its port m decide.
        let found = self.by_key.get(&key).copied().or_else(|| {
            let source = source?;
            let mut same = self.sessions.values().filter(|session| {
                session.source == source
                    && session.source_port == key.1
                    && session.state == SessionState::Open
            });
            let only = same.next()?.id;
            same.next().is_none().then_some(only)
        });
        if let Some(id) = found {
            self.session_closed(id, status);
        }
    }

    /// A session is over. Closing it again changes nothing.
    pub(super) fn session_closed(&mut self, id: u64, status: Status) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.state == SessionState::Closed {
            return;
        }
        let was_open = session.state == SessionState::Open;
        session.state = SessionState::Closed;
        session.closed = Some(now);
        session.status = Some(status);
        let (key, source, destination, message_id) =
            (session.key(), session.source, session.destination, session.message_id);
        self.pending.remove(&(source, message_id));
        for end in [source, destination] {
            let Some(instance) = self.instances.get_mut(&end) else { continue };
            instance.sessions.remove(&id);
            if instance.sessions.is_empty() {
                instance.idle_since = now;
            }
        }
        self.effect(Effect::SaveSession(id));
        if was_open {
            self.publish("session-closed", format!("session {id}"), format!("status {status}"));
        }
        if let Some(key) = key {
            // The key stays for late counters until the ports are used again.
            self.by_key.entry(key).or_insert(id);
        }
        for end in [source, destination] {
            self.sessions_of_stopping_closed(end);
        }
        self.forget_old_sessions();
    }

    /// Has a session's source close it.
    pub(super) fn ask_to_close(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.state != SessionState::Open {
            self.session_closed(id, Status::CLOSED);
            return;
        }
        let node = session.source_address;
        let request = SourceServiceSessionCloseRequest {
            message_id: ssmmp::MessageId::from(1),
            source_service_name: session.source_service.clone(),
            source_service_instance_id: session.source,
            source_service_instance_network_address: session.source_address,
            source_plug_name: session.plug.clone(),
            source_plug_port: session.source_port,
            dest_service_name: session.destination_service.clone(),
            dest_service_instance_network_address: session.destination_address,
            dest_socket_name: session.socket.clone(),
            dest_socket_port: session.destination_port,
            dest_socket_new_port: session.new_port,
        };
        let request = SourceServiceSessionCloseRequest { message_id: self.message_id(), ..request };
        self.send_to(node, request, Some(Outstanding::CloseSession(id)));
    }

    pub(super) fn find_by_key(&mut self, key: SessionKey) -> Option<&mut Session> {
        let id = self.by_key.get(&key)?;
        self.sessions.get_mut(id)
    }

    fn forget_old_sessions(&mut self) {
        let Some((&oldest, _)) = self.sessions.first_key_value() else { return };
        let open_bound = self.sessions.len().saturating_sub(super::ENDED_KEPT * 2);
        if open_bound == 0 || self.sessions[&oldest].state != SessionState::Closed {
            return;
        }
        if let Some(session) = self.sessions.remove(&oldest)
            && let Some(key) = session.key()
            && self.by_key.get(&key) == Some(&oldest)
        {
            self.by_key.remove(&key);
        }
    }
}
