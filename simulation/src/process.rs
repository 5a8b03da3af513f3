//! Programs of instances: started, listening, connected to their agent, ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use patchbay_agent_core::repository::Kind;
use patchbay_agent_core::{Event, Start};
use ssmmp::extension::WholeSession;
use ssmmp::{
    Envelope, Hop, InstanceId, Message, MessageId, Port, ServiceInstanceHealthResponse,
    ServiceInstanceTerminationInfo, SessionAck, Status,
};

use crate::network::End;
use crate::plan::FaultKind;
use crate::schedule::{Happening, Life, Millis};
use crate::trace::Party;
use crate::world::World;

/// How long sockets may take to listen before the agent gives up, milliseconds.
const LISTEN_WITHIN: Millis = 8_000;

/// How a program breaks the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Habits {
    /// It answers no health request.
    pub mute: bool,
    /// It does not close when it is asked to.
    pub keeps_sessions: bool,
    /// It does not end when it is asked to.
    pub keeps_running: bool,
    /// It never acknowledges its sessions.
    pub never_acknowledges: bool,
    /// It says things twice.
    pub repeats: bool,
    /// It says what it is not asked, and in the name of others.
    pub babbles: bool,
}

/// A request of a program.
#[derive(Debug)]
pub struct Asked {
    /// The request, to be sent again to the next agent.
    pub line: Rc<str>,
    /// The plug.
    pub plug: ssmmp::Name,
    /// When it was made.
    pub at: Millis,
    /// How often it was sent.
    pub sent: u32,
    /// How often it was answered.
    pub answered: u32,
}

/// A process.
pub struct Process {
    /// Its number.
    pub number: u64,
    /// Its node.
    pub node: usize,
    /// What it was started with.
    pub start: Start,
    /// Whether it speaks SSMMP itself.
    pub kind: Kind,
    /// How it misbehaves.
    pub habits: Habits,
    /// Whether its sockets listen.
    pub listening: bool,
    /// Whether it is stopped (SIGSTOP).
    pub frozen: bool,
    /// Lines that wait because it is stopped.
    pub unread: VecDeque<(Life, Rc<str>)>,
    /// The agent that it is connected to.
    pub agent: Option<Life>,
    /// Messages for the agent while there is none.
    pub unsent: VecDeque<Rc<str>>,
    /// Requests and what came of them.
    pub asked: BTreeMap<MessageId, Asked>,
    /// Its connections.
    pub connections: BTreeSet<u64>,
    /// When its last line reaches the agent.
    pub says: Millis,
    /// When the agent's last line reaches it.
    pub told: Millis,
    /// Whether it is ending.
    pub ending: bool,
    next_message: u64,
}

impl Process {
    /// Whether the agent speaks for it.
    pub fn is_adapted(&self) -> bool {
        self.kind == Kind::Adapted
    }

    /// Whether one of its sockets listens there.
    pub fn listens_at(&self, at: SocketAddr) -> bool {
        self.listening
            && self.start.address.0 == at.ip()
            && self.start.sockets.0.iter().any(|socket| socket.port.0 == at.port())
    }

    /// A message id of its own.
    pub fn message_id(&mut self) -> MessageId {
        self.next_message += 1;
        MessageId::from(self.next_message)
    }
}

impl World {
    /// A process is started, if it can be; whether it will listen is another question.
    pub fn process_starts(&mut self, node: usize, start: &Start) -> Option<u64> {
        let bad = self.plan.has(FaultKind::BadStarts) && !self.quiet;
        if bad && self.chance(0.1) {
            return None;
        }
        let kind = self.nodes[node].repository.get(&start.service)?.kind;
        self.check_ports(node, start);
        self.processes_made += 1;
        let number = self.processes_made;
        let habits = self.habits();
        let process = Process {
            number,
            node,
            start: start.clone(),
            kind,
            habits,
            listening: false,
            frozen: false,
            unread: VecDeque::new(),
            agent: None,
            unsent: VecDeque::new(),
            asked: BTreeMap::new(),
            connections: BTreeSet::new(),
            says: 0,
            told: 0,
            ending: false,
            next_message: 1_000,
        };
        self.processes.insert(number, process);
        let text =
            if habits == Habits::default() { "starts".to_owned() } else { format!("starts, {habits:?}") };
        self.note(Party::Instance(start.id.0), &text);
        let ready = self.random(20, 1_500);
        match () {
            () if bad && self.chance(0.08) => self.after(LISTEN_WITHIN, Happening::Exits(number, "hangs")),
            () if bad && self.chance(0.08) => {
                let delay = self.random(1, ready);
                self.after(delay, Happening::Exits(number, "exit status 1"));
            }
            () => self.after(ready, Happening::Listens(number)),
        }
        Some(number)
    }

    fn habits(&mut self) -> Habits {
        if !self.plan.has(FaultKind::Misbehaviour) || self.quiet || self.chance(0.7) {
            return Habits::default();
        }
        let mut habits = Habits::default();
        match self.random(0, 5) {
            0 => habits.mute = true,
            1 => habits.keeps_sessions = true,
            2 => habits.keeps_running = true,
            3 => habits.never_acknowledges = true,
            4 => habits.repeats = true,
            _ => habits.babbles = true,
        }
        habits
    }

    /// No port is given twice among what runs on a node.
    fn check_ports(&mut self, node: usize, start: &Start) {
        let ports: Vec<u16> = start.sockets.0.iter().map(|socket| socket.port.0).collect();
        let taken = self
            .processes
            .values()
            .filter(|process| process.node == node)
            .find(|process| process.start.sockets.0.iter().any(|socket| ports.contains(&socket.port.0)));
        if let Some(process) = taken {
            let other = process.start.id;
            self.violated(format!(
                "instance {} gets a port on node {node} that instance {other}, which runs there, has",
                start.id
            ));
        }
        if self.processes.values().any(|process| process.start.id == start.id) {
            self.violated(format!("instance {} runs twice", start.id));
        }
    }

    /// A process's sockets listen; its agent sees it.
    pub fn process_listens(&mut self, number: u64) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.listening = true;
        let (node, id, adapted) = (process.node, process.start.id, process.is_adapted());
        let watcher = self.nodes[node].agent.as_ref().filter(|agent| agent.watched.get(&id) == Some(&number));
        if let Some(life) = watcher.map(|agent| agent.life) {
            let delay = self.random(0, 10);
            self.after(delay, Happening::AgentEvent(node, life, Box::new(Event::Listening(id))));
        }
        if !adapted {
            let delay = self.random(0, 20);
            self.after(delay, Happening::ProcessConnects(number));
        }
        let delay = self.random(10, 500);
        self.after(delay, Happening::Acts(number));
    }

    /// A process ends as it was planned, unless it has ended already.
    pub fn process_exits(&mut self, number: u64, how: &'static str) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        if how == "hangs" && process.listening {
            return;
        }
        let well_behaved = !process.ending && !process.frozen && !process.is_adapted() && process.listening;
        process.ending = true;
        if how == "signal 15" && well_behaved {
            let message_id = process.message_id();
            let info = ServiceInstanceTerminationInfo {
                message_id,
                service_name: process.start.service.clone(),
                service_instance_id: process.start.id,
                service_instance_network_address: process.start.address,
            };
            self.process_says(number, &Envelope::new(info, Hop::InstanceToAgent));
            self.after(20, Happening::Exits(number, "exit status 0"));
            return;
        }
        self.process_ends(number, how);
    }

    /// A process is gone: its connections break, its agent sees it.
    pub fn process_ends(&mut self, number: u64, how: &'static str) {
        let Some(process) = self.processes.remove(&number) else { return };
        let (node, id) = (process.node, process.start.id);
        self.note(Party::Instance(id.0), how);
        let connections: Vec<u64> = process.connections.iter().copied().collect();
        self.close_all_of(number, &connections);
        let Some(agent) = &mut self.nodes[node].agent else { return };
        if agent.connected.get(&id) == Some(&number) {
            agent.connected.remove(&id);
        }
        if agent.watched.get(&id) != Some(&number) {
            return;
        }
        let life = agent.life;
        let event = match how {
            "hangs" => {
                Event::StartFailed(id, Status::NO_ANSWER, "its sockets do not listen".into(), Vec::new())
            }
            how => Event::Exited(id, how.into(), vec!["last words".into()]),
        };
        // Its last messages are read before its end is seen, unless they are slow.
        let at = self.schedule.now + self.random(0, 20);
        self.schedule.at(at, Happening::AgentEvent(node, life, Box::new(event)));
    }

    /// A native process connects to its agent: first its health, then what was not answered.
    pub fn process_connects(&mut self, number: u64) {
        let Some(process) = self.processes.get(&number) else { return };
        let (node, id) = (process.node, process.start.id);
        if process.agent.is_some() || process.is_adapted() {
            return;
        }
        let agent = self.nodes[node].agent.as_mut().filter(|agent| agent.watched.contains_key(&id));
        let Some(agent) = agent.filter(|_| !process.frozen) else {
            let pause = self.random(50, 2_000);
            self.after(pause, Happening::ProcessConnects(number));
            return;
        };
        let life = agent.life;
        agent.connected.insert(id, number);
        let early = agent.early.remove(&id).unwrap_or_default();
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.agent = Some(life);
        let health = ServiceInstanceHealthResponse {
            message_id: MessageId::from(1),
            service_instance_id: id,
            status: Status::OK,
        };
        let mut lines = vec![Rc::from(Envelope::new(health, Hop::InstanceToAgent).encode())];
        for asked in process.asked.values_mut().filter(|asked| asked.answered == 0) {
            asked.sent += 1;
            lines.push(asked.line.clone());
        }
        let unsent: Vec<_> = process.unsent.drain(..).collect();
        lines.extend(self.told_again(number));
        lines.extend(unsent);
        for line in early {
            self.line_to_process(number, life, line);
        }
        for line in lines {
            self.line_from_process(number, life, line);
        }
    }

    /// Open sessions of a source, as the SDK tells them to an agent that did not see them begin.
    fn told_again(&self, number: u64) -> Vec<Rc<str>> {
        let Some(process) = self.processes.get(&number) else { return Vec::new() };
        let own = process.connections.iter().filter_map(|connection| self.connections.get(connection));
        own.filter(|connection| connection.source == number && connection.acknowledged)
            .filter_map(|connection| {
                let Some(Message::SessionResponse(response)) = connection.response.as_deref() else {
                    return None;
                };
                let ack = SessionAck {
                    message_id: response.message_id,
                    source_service_name: response.source_service_name.clone(),
                    source_service_instance_id: response.source_service_instance_id,
                    source_plug_port: Port(connection.from.port()),
                    dest_socket_new_port: response.dest_socket_port,
                    status: Status::OK,
                };
                let session = WholeSession {
                    plug: connection.plug.clone(),
                    service: response.dest_service_name.clone(),
                    destination: response.dest_service_instance_id,
                    socket: response.dest_socket_name.clone(),
                    at: (response.dest_service_instance_network_address, response.dest_socket_port),
                };
                let envelope = Envelope::new(ack, Hop::InstanceToAgent).with(session);
                Some(Rc::from(envelope.encode()))
            })
            .collect()
    }

    /// A process says something to its agent, now or when it is connected.
    pub fn process_says(&mut self, number: u64, envelope: &Envelope) {
        let line: Rc<str> = Rc::from(envelope.encode());
        let Some(process) = self.processes.get_mut(&number) else { return };
        let times = if process.habits.repeats { 2 } else { 1 };
        if let Some(asked) = process.asked.get_mut(&envelope.message.message_id())
            && matches!(envelope.message, Message::SessionRequest(_))
        {
            if process.agent.is_none() {
                // It is sent when the process connects, with all that was not answered.
                return;
            }
            asked.sent += times;
        }
        for _ in 0..times {
            let Some(process) = self.processes.get_mut(&number) else { return };
            match process.agent {
                Some(life) => self.line_from_process(number, life, line.clone()),
                None => process.unsent.push_back(line.clone()),
            }
        }
    }

    fn line_from_process(&mut self, number: u64, life: Life, line: Rc<str>) {
        let delay = self.short_delay();
        let now = self.schedule.now;
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.says = process.says.max(now + delay);
        let at = process.says;
        self.schedule.at(at, Happening::FromProcess(number, life, line));
    }

    /// A line of a process has reached its agent, unless it was another agent's.
    pub fn agent_hears(&mut self, number: u64, life: Life, line: &Rc<str>) {
        // A process that has ended may still be heard: its bytes are in the agent's socket.
        let Some((node, id)) = self.owner_of(number) else { return };
        if self.nodes[node].agent.as_ref().is_none_or(|agent| agent.life != life) {
            return;
        }
        self.trace.add(self.schedule.now, Party::Instance(id.0), Party::Agent(node), line);
        match Envelope::parse(line.trim_end()) {
            Ok(envelope) => self.agent_event(node, life, Event::FromInstance(id, envelope)),
            Err(problem) => {
                if let Some(refusal) = problem.refusal {
                    self.line_to_process(number, life, Rc::from(refusal.encode()));
                }
            }
        }
    }

    fn owner_of(&self, number: u64) -> Option<(usize, InstanceId)> {
        self.processes.get(&number).map(|process| (process.node, process.start.id))
    }

    /// A process is stopped for a while.
    pub fn process_freezes(&mut self, number: u64) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.frozen = true;
        let id = process.start.id;
        self.note(Party::Instance(id.0), "is stopped");
        let pause = self.random(100, 30_000);
        self.after(pause, Happening::ProcessThaws(number));
    }

    /// A process is continued and reads what waited.
    pub fn process_thaws(&mut self, number: u64) {
        let Some(process) = self.processes.get_mut(&number).filter(|process| process.frozen) else { return };
        process.frozen = false;
        let id = process.start.id;
        let unread: Vec<_> = process.unread.drain(..).collect();
        self.note(Party::Instance(id.0), "is continued");
        for (life, line) in unread {
            self.process_hears(number, life, &line);
        }
    }

    /// An end of a connection learns that the other is gone, and closes.
    pub fn peer_gone(&mut self, number: u64, end: End, broken: bool) {
        let Some(connection) = self.connections.get(&number) else { return };
        let process = if end == End::Source { connection.source } else { connection.destination };
        let frozen = self.processes.get(&process).is_some_and(|process| process.frozen);
        if frozen {
            self.after(500, Happening::PeerGone(number, end, broken));
            return;
        }
        self.tell_closed(number, end, if broken { Status::BROKEN } else { Status::CLOSED });
        self.close_end(number, end, broken);
    }
}
