//! Sessions are asked for and answered (section 4, 6 and 7).

use ssmmp::{InstanceId, Name, SessionRequest, Status};

use crate::graph::connects;
use crate::policy::choice::{self, Turn};
use crate::row::Key;
use crate::state::ManagerState;
use crate::state::app::Waiting;
use crate::state::instance::Instance;
use crate::state::node::Connection;
use crate::state::session::{Edge, Session};
use crate::{answering, queued_requests, scaling, sessions, unwanted};

/// Answered requests of one instance that may be unacknowledged; further ones are refused with 429.
pub const MAX_PENDING_OF_ONE: usize = 16_384;

/// An agent asks ahead for a connection that one of its instances may make (`x_ahead`): it gets the choice of this
/// moment, of which nothing is kept. Nothing is started for it.
pub(crate) fn choice_requested(core: &mut ManagerState, connection: Connection, request: SessionRequest) {
    let waiting = Waiting { connection, request, since: core.now };
    let request = &waiting.request;
    if !core.speaks_for(connection, request.source_service_instance_id) {
        answering::refuse(core, &waiting, Status::FORBIDDEN, "this agent has no such instance");
        return;
    }
    let chosen = match destination_of(core, request) {
        Ok((app, service)) => choose(core, &app, &service, request),
        Err((status, reason)) => return answering::refuse(core, &waiting, status, &reason),
    };
    match chosen.and_then(|chosen| session_with(core, request, chosen)) {
        Some(session) => answering::answer_with(core, &waiting, &session),
        None => answering::refuse(core, &waiting, Status::UNAVAILABLE, "no instance of it runs"),
    }
}

/// An instance asks where its plug connects.
pub(crate) fn session_requested(core: &mut ManagerState, connection: Connection, request: SessionRequest) {
    let waiting = Waiting { connection, request, since: core.now };
    let request = &waiting.request;
    let source = request.source_service_instance_id;
    if !core.speaks_for(connection, source) {
        answering::refuse_request(core, &waiting, Status::FORBIDDEN, "this agent has no such instance");
        return;
    }
    let named = request.source_service_name.as_str();
    let is_its =
        |instance: &Instance| [instance.service.as_str(), instance.program.as_str()].contains(&named);
    if !core.inventory.instance(source).is_some_and(is_its) {
        let reason = format!("instance {source} is none of the service {named}");
        answering::refuse_request(core, &waiting, Status::FORBIDDEN, &reason);
        return;
    }
    if let Some(session) = core.sessions.pending(source, request.message_id) {
        // A repeated request gets the same answer.
        answering::answer(core, &waiting, session);
        return;
    }
    if core.sessions.pending_of(source) >= MAX_PENDING_OF_ONE {
        answering::refuse_request(
            core,
            &waiting,
            Status::TOO_MANY,
            "too many of its sessions are unacknowledged",
        );
        return;
    }
    if let Some((status, reason)) =
        core.inventory.instance(source).and_then(|i| sessions::sessions_full(core, i))
    {
        answering::refuse_request(core, &waiting, status, reason);
        return;
    }
    match destination_of(core, request) {
        Err((status, reason)) => answering::refuse_request(core, &waiting, status, &reason),
        Ok((app, service)) => match choose(core, &app, &service, request) {
            Some(destination) => connect(core, &waiting, destination),
            None => queued_requests::wait_for_start(core, &app, &service, waiting),
        },
    }
}

/// The application and service that a request's plug leads to, by the graph alone.
fn destination_of(
    core: &ManagerState,
    request: &SessionRequest,
) -> Result<(String, String), (Status, String)> {
    let instance = core.inventory.instance(request.source_service_instance_id);
    let app = instance.and_then(|instance| core.apps.get(instance.app.as_str()));
    let (Some(instance), Some(app)) = (instance, app) else {
        return Err((Status::NOT_FOUND, "no such instance or application".into()));
    };
    let (service, socket) = (request.dest_service_name.as_str(), request.dest_socket_name.as_str());
    let in_graph = app.service(service).is_some_and(|service| service.sockets.contains_key(socket));
    if !in_graph && !is_offered(core, &instance.app, service, socket) {
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
fn is_offered(core: &ManagerState, app: &Name, service: &str, socket: &str) -> bool {
    let of_service = core.inventory.of_service(app.as_str(), service);
    of_service.is_some_and(|of_service| of_service.offers(socket))
}

/// The running instance that gets a session, by policy.
fn choose(core: &mut ManagerState, app: &str, service: &str, request: &SessionRequest) -> Option<InstanceId> {
    let source = core.inventory.instance(request.source_service_instance_id)?;
    let near = source.address;
    let policy = core.policy(app, service);
    let known = core.apps.get(app)?;
    let plug = known
        .service(source.service.as_str())
        .and_then(|vertex| vertex.plugs.get(request.source_plug_name.as_str()));
    let balance = plug.and_then(|target| target.balance).unwrap_or(policy.balance);
    let (latest, turn) = known.state(service).map_or((InstanceId(0), 0), |state| (state.latest, state.turn));
    let turn = Turn { latest, random: mixed(core.seed ^ turn) };
    let socket = request.dest_socket_name.as_str();
    let staying = unwanted::staying(core, app, service, socket);
    let fields = match &staying {
        Some(staying) => vec![staying.field(near, true)],
        None => core.inventory.of_service(app, service)?.fields(socket, near),
    };
    let sessions = |id| core.inventory.instance(id).map_or(0, |instance| instance.sessions.len() as u32);
    let chosen = choice::choose(&fields, sessions, balance, policy.near, turn);
    if let Some(known) = core.apps.get_mut(app) {
        let state = known.state_mut(service);
        state.turn += 1;
        state.latest = chosen.unwrap_or(state.latest);
    }
    chosen
}

/// Reserves a session with the chosen instance and answers.
fn connect(core: &mut ManagerState, waiting: &Waiting, destination: InstanceId) {
    let Some(session) = session_with(core, &waiting.request, destination) else {
        answering::refuse_request(core, waiting, Status::NOT_FOUND, "the chosen instance has no such socket");
        return;
    };
    let (app, service) = (session.edge.app.clone(), session.edge.destination.clone());
    let id = core.session_id();
    sessions::add_session(core, Session { id, ..session });
    core.save(Key::Session(id));
    answering::answer(core, waiting, id);
    scaling::weigh_after_session(core, app.as_str(), service.as_str());
}

/// The session that a request would get with an instance; `None` when that has no such socket.
fn session_with(core: &ManagerState, request: &SessionRequest, destination: InstanceId) -> Option<Session> {
    let source = core.inventory.instance(request.source_service_instance_id)?;
    let target = core.inventory.instance(destination)?;
    let port = target.port(request.dest_socket_name.as_str())?;
    let edge = Edge {
        app: source.app.clone(),
        source: source.service.clone(),
        plug: request.source_plug_name.clone(),
        socket: request.dest_socket_name.clone(),
        destination: target.service.clone(),
    };
    let (from, to) = ((source.id, source.address), (destination, target.address, port));
    Some(Session::pending(edge, request.message_id, from, to, core.now))
}

/// An instance runs: who waited for its service is answered.
pub(crate) fn serve_waiting(core: &mut ManagerState, app: &str, service: &str) {
    for waiting in queued_requests::take_waiting(core, app, service) {
        session_requested(core, waiting.connection, waiting.request);
    }
}

/// A number that looks random, another one for each: SplitMix64's last step.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}
