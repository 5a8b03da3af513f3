//! Sessions are asked for and answered (section 4, 6 and 7).

use patchbay_api::Traffic;
use ssmmp::extension::{self, Allow};
use ssmmp::{Address, Envelope, Hop, InstanceId, Name, Port, SessionRequest, SessionResponse, Status};

use super::policy::choice::{self, Turn};
use super::row::Key;
use super::waiting::{MAX_PENDING_OF_ONE, MAX_SESSIONS, MAX_SESSIONS_OF_ONE};
use super::{Connection, Core, Edge, Effect, Instance, Session, SessionState, Waiting};
use crate::graph::Target;

/// Refusals published in one second; further ones are answered all the same.
const MAX_REFUSALS_PUBLISHED: u32 = 100;

impl Core {
    /// An agent asks ahead for a connection that one of its instances may make (`x_ahead`): it gets the choice of this
    /// moment, of which nothing is kept. Nothing is started for it.
    pub(super) fn choice_requested(&mut self, connection: Connection, request: SessionRequest) {
        let waiting = Waiting { connection, request, since: self.now };
        let request = &waiting.request;
        if !self.speaks_for(connection, request.source_service_instance_id) {
            self.refuse(&waiting, Status::FORBIDDEN, "this agent has no such instance");
            return;
        }
        let chosen = match self.destination_of(request) {
            Ok((app, service)) => self.choose(&app, &service, request),
            Err((status, reason)) => return self.refuse(&waiting, status, &reason),
        };
        match chosen.and_then(|chosen| self.session_with(request, chosen)) {
            Some(session) => self.answer_with(&waiting, &session),
            None => self.refuse(&waiting, Status::UNAVAILABLE, "no instance of it runs"),
        }
    }

    /// An instance asks where its plug connects.
    pub(super) fn session_requested(&mut self, connection: Connection, request: SessionRequest) {
        let waiting = Waiting { connection, request, since: self.now };
        let request = &waiting.request;
        let source = request.source_service_instance_id;
        if !self.speaks_for(connection, source) {
            self.refuse_request(&waiting, Status::FORBIDDEN, "this agent has no such instance");
            return;
        }
        let named = request.source_service_name.as_str();
        let is_its =
            |instance: &Instance| [instance.service.as_str(), instance.program.as_str()].contains(&named);
        if !self.inventory.instance(source).is_some_and(is_its) {
            let reason = format!("instance {source} is none of the service {named}");
            self.refuse_request(&waiting, Status::FORBIDDEN, &reason);
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
        if let Some((status, reason)) = self.inventory.instance(source).and_then(|i| self.sessions_full(i)) {
            self.refuse_request(&waiting, status, reason);
            return;
        }
        match self.destination_of(request) {
            Err((status, reason)) => self.refuse_request(&waiting, status, &reason),
            Ok((app, service)) => match self.choose(&app, &service, request) {
                Some(destination) => self.connect(&waiting, destination),
                None => self.wait_for_start(&app, &service, waiting),
            },
        }
    }

    /// Why an instance can't have one more session as a source, if it can't.
    pub(super) fn sessions_full(&self, source: &Instance) -> Option<(Status, &'static str)> {
        if source.sessions.len().saturating_sub(source.accepted as usize) >= MAX_SESSIONS_OF_ONE {
            return Some((Status::TOO_MANY, "it has too many sessions"));
        }
        (self.sessions.living() >= MAX_SESSIONS)
            .then_some((Status::UNAVAILABLE, "there are too many sessions"))
    }

    /// The application and service that a request's plug leads to, by the graph alone.
    fn destination_of(&self, request: &SessionRequest) -> Result<(String, String), (Status, String)> {
        let instance = self.inventory.instance(request.source_service_instance_id);
        let app = instance.and_then(|instance| self.apps.get(instance.app.as_str()));
        let (Some(instance), Some(app)) = (instance, app) else {
            return Err((Status::NOT_FOUND, "no such instance or application".into()));
        };
        let (service, socket) = (request.dest_service_name.as_str(), request.dest_socket_name.as_str());
        let in_graph = app.service(service).is_some_and(|service| service.sockets.contains_key(socket));
        if !in_graph && !self.is_offered(&instance.app, service, socket) {
            return Err((Status::NOT_FOUND, format!("the graph has no socket {service}.{socket}")));
        }
        let plug = request.source_plug_name.as_str();
        let target = app.service(instance.service.as_str()).and_then(|service| service.plugs.get(plug));
        let is_connected = target.is_some_and(|target| target.service == service && target.socket == socket);
        // One that was executed by an earlier graph keeps its plugs until it is replaced.
        if is_connected || connects(&instance.recipe, plug, service, socket) {
            return Ok((instance.app.to_string(), service.to_owned()));
        }
        let text = format!("the graph does not connect the plug {}.{plug} there", instance.service);
        Err((Status::FORBIDDEN, text))
    }

    /// Whether a running instance has a socket, whatever the graph says by now.
    fn is_offered(&self, app: &Name, service: &str, socket: &str) -> bool {
        let of_service = self.inventory.of_service(app.as_str(), service);
        of_service.is_some_and(|of_service| of_service.offers(socket))
    }

    /// The running instance that gets a session, by policy.
    fn choose(&mut self, app: &str, service: &str, request: &SessionRequest) -> Option<InstanceId> {
        let source = self.inventory.instance(request.source_service_instance_id)?;
        let near = source.address;
        let policy = self.policy(app, service);
        let known = self.apps.get(app)?;
        let plug = known
            .service(source.service.as_str())
            .and_then(|vertex| vertex.plugs.get(request.source_plug_name.as_str()));
        let balance = plug.and_then(|target| target.balance).unwrap_or(policy.balance);
        let (latest, turn) =
            known.state(service).map_or((InstanceId(0), 0), |state| (state.latest, state.turn));
        let turn = Turn { latest, random: mixed(self.seed ^ turn) };
        let socket = request.dest_socket_name.as_str();
        let staying = self.staying(app, service, socket);
        let fields = match &staying {
            Some(staying) => vec![staying.field(near, true)],
            None => self.inventory.of_service(app, service)?.fields(socket, near),
        };
        let sessions = |id| self.inventory.instance(id).map_or(0, |instance| instance.sessions.len() as u32);
        let chosen = choice::choose(&fields, sessions, balance, policy.near, turn);
        if let Some(known) = self.apps.get_mut(app) {
            let state = known.state_mut(service);
            state.turn += 1;
            state.latest = chosen.unwrap_or(state.latest);
        }
        chosen
    }

    /// Reserves a session with the chosen instance and answers.
    fn connect(&mut self, waiting: &Waiting, destination: InstanceId) {
        let Some(session) = self.session_with(&waiting.request, destination) else {
            self.refuse_request(waiting, Status::NOT_FOUND, "the chosen instance has no such socket");
            return;
        };
        let (app, service) = (session.edge.app.clone(), session.edge.destination.clone());
        let id = self.session_id();
        self.add_session(Session { id, ..session });
        self.save(Key::Session(id));
        self.answer(waiting, id);
        self.weigh_after_session(app.as_str(), service.as_str());
    }

    /// The session that a request would get with an instance; `None` when that has no such socket.
    fn session_with(&self, request: &SessionRequest, destination: InstanceId) -> Option<Session> {
        let source = self.inventory.instance(request.source_service_instance_id)?;
        let target = self.inventory.instance(destination)?;
        let port = target.port(request.dest_socket_name.as_str())?;
        let edge = Edge {
            app: source.app.clone(),
            source: source.service.clone(),
            plug: request.source_plug_name.clone(),
            socket: request.dest_socket_name.clone(),
            destination: target.service.clone(),
        };
        Some(Session {
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
            details: None,
        })
    }

    fn answer(&mut self, waiting: &Waiting, id: u64) {
        if let Some(session) = self.sessions.get(id).cloned() {
            self.answer_with(waiting, &session);
        }
    }

    fn answer_with(&mut self, waiting: &Waiting, session: &Session) {
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
        let target = self
            .apps
            .get(session.edge.app.as_str())
            .and_then(|app| app.service(session.edge.source.as_str())?.plugs.get(session.edge.plug.as_str()));
        let redirect = target.map_or(extension::Redirect::Never, |target| target.redirect.to_wire());
        let allow = target.map(Target::allowances_to_wire).filter(|Allow(allowances)| !allowances.is_empty());
        let envelope = Envelope::new(response, Hop::ManagerToAgent).with(redirect).with_some(allow);
        self.effect(Effect::Send(waiting.connection, envelope));
    }

    /// Whether one more refusal is published in this second.
    pub(super) fn may_publish_refusal(&mut self) -> bool {
        let second = self.now / 1_000;
        let (counted, published) = self.refusals;
        self.refusals = if counted == second { (second, published + 1) } else { (second, 1) };
        self.refusals.1 <= MAX_REFUSALS_PUBLISHED
    }

    /// Answers with a failure; the unknown values keep their places.
    fn refuse(&mut self, waiting: &Waiting, status: Status, reason: &str) {
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
        let envelope = Envelope::new(response, Hop::ManagerToAgent).with(extension::Reason(reason));
        self.effect(Effect::Send(waiting.connection, envelope));
    }

    /// The same, told to people.
    pub(super) fn refuse_request(&mut self, waiting: &Waiting, status: Status, reason: &str) {
        self.refuse(waiting, status, reason);
        let request = &waiting.request;
        if !self.may_publish_refusal() {
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

/// Whether an instance was executed with a plug that leads to a socket.
pub(super) fn connects(recipe: &str, plug: &str, service: &str, socket: &str) -> bool {
    let wanted = format!("{plug}>{service}.{socket}");
    recipe.split(' ').any(|word| word == wanted)
}

/// A number that looks random, another one for each: SplitMix64's last step.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}
