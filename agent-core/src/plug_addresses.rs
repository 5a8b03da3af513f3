//! Plugs of adapted programs: each has an address of its own that stays as long as its instance, and the agent
//! says where connections to it lead (docs/plugs.md).
//!
//! A plug is *ready* while the kernel leads its connections to a destination. What the Manager decides later
//! reaches it by asking ahead: after each connection, for the next one. Without a destination the program reaches
//! the agent, and its connection waits for the Manager's answer.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use ssmmp::extension::Ahead;
use ssmmp::{
    Envelope, Hop, InstanceId, Message, MessageId, Name, PlugTarget, Port, SessionAck, SessionRequest,
    SourceServiceSessionCloseRequest, Status,
};

use super::{Core, Effect, Live, Stage, Start};
use crate::repository::Kind;
use crate::session_report::SessionReport;

/// Connections of one plug that may wait for a destination; further ones are reset.
pub const MAX_WAITING: usize = 256;
/// Destinations that are tried for one waiting connection before it is reset, with growing pauses (some 6 s in all).
const TRIES: u8 = 7;
/// Earlier answers of one plug, by which connections that were made on their way are known.
const RECENT: usize = 8;

/// All plugs of adapted instances here.
pub(super) type Plugs = BTreeMap<(InstanceId, Name), Plug>;

/// A connection that the agent has accepted for a plug, numbered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiting(pub u64);

/// Where a plug's connections lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    /// The destination instance.
    pub destination: InstanceId,
    /// Where it listens.
    pub at: SocketAddr,
    /// Whether it is on this node, whose agent knows when it ends. Elsewhere it is believed in for a short time only.
    pub here: bool,
}

/// A plug of an adapted instance.
#[derive(Debug)]
pub(super) struct Plug {
    to: PlugTarget,
    /// What the Manager answered last.
    ready: Option<Ready>,
    /// The request whose answer is to come.
    asked: Option<Request>,
    /// Connections at the agent, with how often a destination was tried for each.
    waiting: VecDeque<(Waiting, u8)>,
    recent: VecDeque<Live>,
}

#[derive(Debug)]
struct Ready {
    live: Live,
    /// Its request's id was acknowledged with a connection already.
    used: bool,
}

#[derive(Debug)]
struct Request {
    id: MessageId,
    ahead: bool,
}

impl Plug {
    pub(super) fn new(to: PlugTarget) -> Self {
        Self { to, ready: None, asked: None, waiting: VecDeque::new(), recent: VecDeque::new() }
    }

    fn leads_to(&self, at: SocketAddr) -> bool {
        self.ready.as_ref().is_some_and(|ready| ready.live.at == at)
    }

    fn unready(&mut self) -> bool {
        let Some(ready) = self.ready.take() else { return false };
        self.recent.push_front(ready.live);
        self.recent.truncate(RECENT);
        true
    }

    /// Who is known at a destination's address.
    fn known(&self, at: SocketAddr) -> Option<&Live> {
        let ready = self.ready.as_ref().map(|ready| &ready.live);
        ready.into_iter().chain(&self.recent).find(|live| live.at == at)
    }
}

impl Core {
    /// Asks where each plug of a new adapted instance connects.
    pub(super) fn ask_for_plugs(&mut self, id: InstanceId) {
        let plugs = self.instances.get(&id).map(|i| i.start.plugs.0.clone()).unwrap_or_default();
        for plug in plugs {
            let name = plug.plug.clone();
            self.plugs.insert((id, name.clone()), Plug::new(plug));
            self.ask_for(id, &name, false);
        }
    }

    /// Asks the Manager for a plug's destination, unless that is under way. Ahead: the choice for a connection that
    /// may come, of which the Manager keeps nothing and for which it starts nothing (`x_ahead`).
    fn ask_for(&mut self, id: InstanceId, plug: &Name, ahead: bool) {
        let message_id = self.message_id();
        let Some(instance) = self.instances.get(&id) else { return };
        let Some(found) = self.plugs.get_mut(&(id, plug.clone())) else { return };
        let Some(socket) = found.to.socket.clone() else { return };
        if found.asked.is_some() {
            return;
        }
        found.asked = Some(Request { id: message_id, ahead });
        let request = SessionRequest {
            message_id,
            source_service_name: instance.start.service.clone(),
            source_service_instance_id: id,
            source_service_instance_network_address: self.address,
            source_plug_name: plug.clone(),
            dest_service_name: found.to.service.clone(),
            dest_socket_name: socket,
        };
        let envelope = Envelope::new(request, Hop::AgentToManager).with_some(ahead.then_some(Ahead));
        self.ask(id, envelope);
    }

    /// A plug's destination is known, or can't be had.
    pub(super) fn plug_answered(&mut self, id: InstanceId, request: MessageId, status: Status, why: &str) {
        let is_it = |plug: &Plug| plug.asked.as_ref().is_some_and(|asked| asked.id == request);
        let of_it = self.plugs_of(id).find(|name| self.plug(id, name).is_some_and(is_it));
        let (Some(name), answered) = (of_it, self.asked.remove(id, request)) else { return };
        let Some(plug) = self.plugs.get_mut(&(id, name.clone())) else { return };
        let ahead = plug.asked.take().is_some_and(|asked| asked.ahead);
        let stage = self.instances.get(&id).map(|instance| instance.stage());
        match answered.and_then(|asked| asked.answer).filter(|_| status.is_success()) {
            Some(live) => {
                plug.unready();
                plug.ready = Some(Ready { live, used: false });
                self.lead(id, &name);
                self.hand_waiting(id, &name);
                if stage == Some(Stage::Plugs) && self.all_ready(id) {
                    self.start_with_plugs(id);
                }
            }
            None if stage == Some(Stage::Plugs) => {
                let reason = format!("a plug's target could not be had ({status}): {why}");
                self.start_failed(id, Status::UNAVAILABLE, &reason, &[]);
                return;
            }
            None => {
                if plug.unready() {
                    self.effect(Effect::Lead(id, name.clone(), None));
                }
                self.waiting_refused(id, &name, ahead, &format!("{status} {why}"));
            }
        }
        self.closings_go_on(id, &name);
    }

    fn start_with_plugs(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.becomes(Stage::Starting);
        let start = instance.start.clone();
        self.effect(Effect::Start(start));
    }

    fn all_ready(&self, id: InstanceId) -> bool {
        self.plugs_of(id).all(|name| self.plug(id, &name).is_some_and(|plug| plug.ready.is_some()))
    }

    fn plugs_of(&self, id: InstanceId) -> impl Iterator<Item = Name> {
        let plugs = self.instances.get(&id).map(|instance| instance.start.plugs.0.as_slice());
        plugs.unwrap_or_default().iter().map(|to| to.plug.clone())
    }

    fn plug(&self, id: InstanceId, name: &Name) -> Option<&Plug> {
        self.plugs.get(&(id, name.clone()))
    }

    /// The kernel leads a plug's connections where it is ready for.
    fn lead(&mut self, id: InstanceId, name: &Name) {
        let Some(ready) = self.plug(id, name).and_then(|plug| plug.ready.as_ref()) else { return };
        let (destination, at) = (ready.live.destination, ready.live.at);
        let lead = Lead { destination, at, here: self.is_here(destination, at) };
        self.effect(Effect::Lead(id, name.clone(), Some(lead)));
    }

    fn is_here(&self, destination: InstanceId, at: SocketAddr) -> bool {
        self.instances.contains_key(&destination) && at.ip() == self.address.0
    }

    /// What a plug was ready for holds no longer; the Manager is asked ahead where connections are to be expected.
    fn unready(&mut self, id: InstanceId, name: &Name, ask: bool) {
        let Some(plug) = self.plugs.get_mut(&(id, name.clone())) else { return };
        if !plug.unready() {
            return;
        }
        self.effect(Effect::Lead(id, name.clone(), None));
        match self.instances.get(&id).map(|instance| instance.stage()) {
            // Its start waits for an answer.
            Some(Stage::Plugs) => self.ask_for(id, name, false),
            Some(_) if ask => self.ask_for(id, name, true),
            _ => {}
        }
    }

    /// An instance here ends, or is to end: nothing is led to it any more. Whoever had sessions with it is likely to
    /// connect again.
    pub(super) fn unready_for(&mut self, destination: InstanceId) {
        let leads =
            |plug: &Plug| plug.ready.as_ref().is_some_and(|ready| ready.live.destination == destination);
        let to_it: Vec<_> =
            self.plugs.iter().filter(|(_, plug)| leads(plug)).map(|(key, _)| key.clone()).collect();
        for (id, name) in to_it {
            let has_sessions =
                self.live_of(id).any(|(_, live)| live.plug == name && live.destination == destination);
            self.unready(id, &name, has_sessions);
        }
    }

    /// The instance is gone, and its plugs with it.
    pub(super) fn forget_plugs(&mut self, id: InstanceId) {
        self.plugs.retain(|(source, _), _| *source != id);
    }

    /// Takes over the plugs of an instance that an earlier agent started, and what they lead to.
    pub(super) fn adopt_plugs(&mut self, start: &Start, leads: &[(Name, Lead)]) {
        for to in &start.plugs.0 {
            let mut plug = Plug::new(to.clone());
            let lead = leads.iter().find(|(name, _)| *name == to.plug).map(|(_, lead)| lead);
            if let (Some(lead), Some(socket)) = (lead, &to.socket) {
                let live = Live {
                    message_id: self.message_id(),
                    service: start.service.clone(),
                    plug: to.plug.clone(),
                    dest_service: to.service.clone(),
                    destination: lead.destination,
                    socket: socket.clone(),
                    at: lead.at,
                    over: false,
                };
                plug.ready = Some(Ready { live, used: true });
            }
            self.plugs.insert((start.id, to.plug.clone()), plug);
        }
    }

    /// What is known of a session that the kernel shows. An adapted source's plug is the one that leads there; a
    /// native one's the Manager knows.
    pub(super) fn seen(&mut self, start: &Start, session: &SessionReport) -> Option<Live> {
        let message_id = self.message_id();
        let plugs = start.plugs.0.iter().filter_map(|to| self.plug(start.id, &to.plug));
        let known = plugs.filter_map(|plug| plug.known(session.destination)).next();
        if let Some(known) = known {
            return Some(Live { message_id, over: false, ..known.clone() });
        }
        let unknown = Name::new("-").ok()?;
        Some(Live {
            message_id,
            service: start.service.clone(),
            plug: unknown.clone(),
            dest_service: unknown.clone(),
            destination: InstanceId(session.destination_instance),
            socket: unknown,
            at: session.destination,
            over: false,
        })
    }

    /// A connection of an adapted program stands. The first one answers its plug's request; a further one is a further
    /// session: it exists, with the instance that it leads to, so that the Manager is told, not asked. For the next one
    /// it is asked ahead.
    pub(super) fn plug_connected(&mut self, id: InstanceId, report: &SessionReport) {
        let Some(start) = self.instances.get(&id).map(|instance| instance.start.clone()) else { return };
        let unused = |plug: &Plug| plug.ready.as_ref().is_some_and(|ready| !ready.used);
        let leading: Vec<Name> = self
            .plugs_of(id)
            .filter(|name| self.plug(id, name).is_some_and(|plug| plug.leads_to(report.destination)))
            .collect();
        let first = leading.iter().find(|name| self.plug(id, name).is_some_and(unused));
        let name = first.or_else(|| leading.first()).cloned();
        let plug = name.as_ref().and_then(|name| self.plugs.get_mut(&(id, name.clone())));
        let unused = plug.and_then(|plug| plug.ready.as_mut()).filter(|ready| !ready.used);
        let live = match unused {
            Some(ready) => {
                ready.used = true;
                Some(ready.live.clone())
            }
            None => self.seen(&start, report),
        };
        if let Some(live) = live {
            self.lives(id, Port(report.source.port()), live);
        }
        if let Some(name) = name {
            self.ask_for(id, &name, true);
        }
    }

    /// The agent has accepted a connection at a plug's address: the kernel had nowhere to lead it.
    pub(super) fn plug_waits(&mut self, id: InstanceId, name: &Name, waiting: Waiting) {
        self.waits_again(id, name, waiting, 0);
    }

    fn waits_again(&mut self, id: InstanceId, name: &Name, waiting: Waiting, tries: u8) {
        let Some(plug) = self.plugs.get_mut(&(id, name.clone())) else {
            self.effect(Effect::RefusePlug(waiting, "the instance has no such plug".into()));
            return;
        };
        if tries >= TRIES || plug.waiting.len() >= MAX_WAITING {
            let why = if tries >= TRIES { "no destination answers" } else { "too many connections wait" };
            self.effect(Effect::RefusePlug(waiting, why.into()));
            return;
        }
        plug.waiting.push_back((waiting, tries));
        let lead = plug.ready.as_ref().map(|ready| (ready.live.destination, ready.live.at));
        if lead.is_some_and(|(destination, at)| self.is_here(destination, at)) {
            // It was made before the kernel knew, or with a socket that can't be led there.
            self.hand_waiting(id, name);
        } else {
            self.ask_for(id, name, false);
        }
    }

    fn hand_waiting(&mut self, id: InstanceId, name: &Name) {
        let Some(plug) = self.plugs.get_mut(&(id, name.clone())) else { return };
        let Some(at) = plug.ready.as_ref().map(|ready| ready.live.at) else { return };
        for (waiting, tries) in std::mem::take(&mut plug.waiting) {
            self.effect(Effect::HandPlug { instance: id, plug: name.clone(), waiting, at, tries });
        }
    }

    /// Nothing could be chosen. Who asked ahead asks again in earnest for those who wait.
    fn waiting_refused(&mut self, id: InstanceId, name: &Name, ahead: bool, why: &str) {
        let Some(plug) = self.plugs.get_mut(&(id, name.clone())) else { return };
        if plug.waiting.is_empty() {
            return;
        }
        if ahead {
            self.ask_for(id, name, false);
            return;
        }
        for (waiting, _) in std::mem::take(&mut plug.waiting) {
            self.effect(Effect::RefusePlug(waiting, why.to_owned()));
        }
    }

    /// A connection that waited has ended, or waited too long.
    pub(super) fn plug_gave_up(&mut self, id: InstanceId, name: &Name, waiting: Waiting) {
        if let Some(plug) = self.plugs.get_mut(&(id, name.clone())) {
            plug.waiting.retain(|(other, _)| *other != waiting);
        }
    }

    /// A connection that waited is joined with its destination through the agent, which connected from a port of its
    /// own: a session like the others.
    pub(super) fn plug_joined(&mut self, id: InstanceId, source: SocketAddr, at: SocketAddr) {
        let mut report = SessionReport::between(id.0, InstanceId::UNKNOWN.0, at);
        report.source = source;
        self.plug_connected(id, &report);
    }

    /// A destination could not be reached for a connection that waits: another one is tried.
    pub(super) fn plug_failed(
        &mut self,
        id: InstanceId,
        name: &Name,
        waiting: Waiting,
        at: SocketAddr,
        tries: u8,
    ) {
        let ready = self.plugs.get(&(id, name.clone())).and_then(|plug| plug.ready.as_ref());
        if let Some(ready) = ready.filter(|ready| ready.live.at == at) {
            if !ready.used {
                let live = ready.live.clone();
                self.tell_manager(SessionAck {
                    message_id: live.message_id,
                    source_service_name: live.service,
                    source_service_instance_id: id,
                    source_plug_port: Port::UNKNOWN,
                    dest_socket_new_port: Port::UNKNOWN,
                    status: Status::CONNECT_FAILED,
                });
            }
            self.unready(id, name, false);
        }
        self.waits_again(id, name, waiting, tries + 1);
    }

    /// The Manager asks for the end of an adapted source's session. The program will connect again at once: the Manager
    /// is asked first where that shall lead, so that it does not come back to where it is to leave.
    /// True when there is something to wait for.
    pub(super) fn close_waits(&mut self, id: InstanceId, request: &Envelope) -> bool {
        let Message::SourceServiceSessionCloseRequest(asked) = &request.message else { return false };
        let ends = self.meant(id, asked.source_plug_port, asked_at(asked));
        let Some(live) = ends.and_then(|ends| self.live.get(&ends)) else { return false };
        let (name, at) = (live.plug.clone(), live.at);
        if self.plug(id, &name).is_some_and(|plug| plug.leads_to(at)) {
            self.ask_for(id, &name, true);
        }
        self.registered && self.plug(id, &name).is_some_and(|plug| plug.asked.is_some())
    }

    /// A plug's answer has come: what waited to be closed for it is closed.
    fn closings_go_on(&mut self, id: InstanceId, name: &Name) {
        let of_it = |asked: &SourceServiceSessionCloseRequest| {
            let ends = self.meant(id, asked.source_plug_port, asked_at(asked));
            ends.and_then(|ends| self.live.get(&ends)).is_none_or(|live| live.plug == *name)
        };
        let now: Vec<MessageId> = self
            .closing
            .iter()
            .filter(|(_, closing)| closing.instance == id)
            .filter(|(_, closing)| match &closing.request.message {
                Message::SourceServiceSessionCloseRequest(asked) => of_it(asked),
                _ => false,
            })
            .map(|(message_id, _)| *message_id)
            .collect();
        for message_id in now {
            self.close_overdue(&message_id);
        }
    }

    pub(super) fn is_adapted(&self, id: InstanceId) -> bool {
        self.instances.get(&id).is_some_and(|instance| instance.kind == Kind::Adapted)
    }
}

/// Where the session leads that is to be closed.
fn asked_at(asked: &SourceServiceSessionCloseRequest) -> Option<SocketAddr> {
    Some(SocketAddr::new(asked.dest_service_instance_network_address.0, asked.dest_socket_port.0))
}
