//! What programs do: they ask for sessions, use them, close them, and obey, or not.

use std::rc::Rc;

use ssmmp::{
    Address, DestServiceSessionCloseInfo, DestServiceSessionCloseResponse, Envelope,
    GracefulShutdownResponse, Hop, InstanceId, Message, MessageId, Name, Port, ServiceInstanceHealthResponse,
    SessionAck, SessionRequest, SourceServiceSessionCloseInfo, SourceServiceSessionCloseResponse, Status,
};

use crate::network::{Attempt, End};
use crate::process::Asked;
use crate::schedule::{Happening, Life};
use crate::trace::Party;
use crate::world::World;

/// Sessions of one process as their source.
const MOST_SESSIONS: usize = 4;

impl World {
    /// A process does some of its own work.
    pub fn acts(&mut self, number: u64) {
        if !self.processes.contains_key(&number) {
            return;
        }
        let (least, most) = if self.plan.instances > 100 { (2_000, 20_000) } else { (200, 4_000) };
        let pause = self.random(least, most);
        if self.quiet && self.schedule.now > self.quiet_since + 5_000 {
            // Work ends, so that what is idle can be seen to end.
            return;
        }
        self.after(pause, Happening::Acts(number));
        let choice = self.random(0, 9);
        let Some(process) = self.processes.get(&number) else { return };
        if process.frozen || process.ending {
            return;
        }
        let own: Vec<u64> = process
            .connections
            .iter()
            .copied()
            .filter(|c| self.connections.get(c).is_some_and(|c| c.source == number))
            .collect();
        let served = process.connections.len() > own.len();
        let gateway = process.start.service.as_str().starts_with("gate");
        match choice {
            0..=4 if gateway || served => self.opens(number, own.len()),
            5 | 6 => self.closes_one(number),
            7 if process.habits.babbles => self.babbles(number),
            8 if self.chance(0.03) && !self.quiet => {
                // It has done its work.
                self.process_exits(number, "signal 15");
            }
            _ => {}
        }
    }

    fn opens(&mut self, number: u64, own: usize) {
        let Some(process) = self.processes.get(&number) else { return };
        let waiting = process.asked.values().filter(|asked| asked.answered == 0).count();
        let plugs = process.start.plugs.0.clone();
        let adapted = process.is_adapted();
        if plugs.is_empty() || own + waiting >= MOST_SESSIONS || self.processes.len() >= self.plan.instances {
            return;
        }
        let plug = &plugs[self.random(0, plugs.len() as u64 - 1) as usize];
        if adapted {
            self.connects_plug(number, &plug.plug);
            return;
        }
        let now = self.schedule.now;
        let Some(process) = self.processes.get_mut(&number) else { return };
        let message_id = process.message_id();
        let request = SessionRequest {
            message_id,
            source_service_name: process.start.service.clone(),
            source_service_instance_id: process.start.id,
            source_service_instance_network_address: process.start.address,
            source_plug_name: plug.plug.clone(),
            dest_service_name: plug.service.clone(),
            dest_socket_name: plug.socket.clone().unwrap_or_else(|| plug.plug.clone()),
        };
        let envelope = Envelope::new(request, Hop::InstanceToAgent);
        let asked = Asked {
            line: Rc::from(envelope.encode()),
            plug: plug.plug.clone(),
            at: now,
            sent: 0,
            answered: 0,
        };
        process.asked.insert(message_id, asked);
        self.process_says(number, &envelope);
    }

    fn closes_one(&mut self, number: u64) {
        let Some(process) = self.processes.get(&number) else { return };
        let all: Vec<u64> = process.connections.iter().copied().collect();
        if all.is_empty() {
            return;
        }
        let connection = all[self.random(0, all.len() as u64 - 1) as usize];
        let Some(end) = self.end_of(connection, number) else { return };
        self.closes(connection, end, None);
    }

    fn end_of(&self, connection: u64, process: u64) -> Option<End> {
        let connection = self.connections.get(&connection)?;
        Some(if connection.source == process { End::Source } else { End::Destination })
    }

    /// A process closes its end, and answers who asked it to.
    pub fn closes(&mut self, connection: u64, end: End, asked: Option<Rc<str>>) {
        let process = self.connections.get(&connection).map(|c| match end {
            End::Source => c.source,
            End::Destination => c.destination,
        });
        if let Some(process) = process {
            self.tell_closed(connection, end, Status::CLOSED);
            self.close_end(connection, end, false);
            if let Some(request) = asked.and_then(|line| Envelope::parse(line.trim_end()).ok()) {
                self.answer_close(process, &request.message, Status::OK);
            }
        }
    }

    fn answer_close(&mut self, number: u64, request: &Message, status: Status) {
        let message_id = request.message_id();
        let answer = match request {
            Message::SourceServiceSessionCloseRequest(_) => {
                Message::from(SourceServiceSessionCloseResponse { message_id, status })
            }
            _ => DestServiceSessionCloseResponse { message_id, status }.into(),
        };
        self.process_says(number, &Envelope::new(answer, Hop::InstanceToAgent));
    }

    /// An end tells its agent that a connection ended; adapted programs say nothing.
    pub fn tell_closed(&mut self, number: u64, end: End, status: Status) {
        let Some(connection) = self.connections.get(&number) else { return };
        if !connection.open[end as usize] {
            return;
        }
        let process = if end == End::Source { connection.source } else { connection.destination };
        let (from, at, plug) = (connection.from, connection.at, connection.plug.clone());
        let response = connection.response.clone();
        let Some(found) = self.processes.get_mut(&process).filter(|p| !p.is_adapted()) else { return };
        let message_id = found.message_id();
        let start = &found.start;
        let info: Message = match (end, response.as_deref()) {
            (End::Source, Some(Message::SessionResponse(response))) => SourceServiceSessionCloseInfo {
                message_id,
                source_service_name: start.service.clone(),
                source_service_instance_id: start.id,
                source_service_instance_network_address: start.address,
                source_plug_name: plug,
                source_plug_port: Port(from.port()),
                dest_service_name: response.dest_service_name.clone(),
                dest_service_instance_id: response.dest_service_instance_id,
                dest_service_instance_network_address: response.dest_service_instance_network_address,
                dest_socket_name: response.dest_socket_name.clone(),
                dest_socket_port: response.dest_socket_port,
                dest_socket_new_port: response.dest_socket_port,
                status,
            }
            .into(),
            (End::Source, _) => return,
            (End::Destination, _) => {
                let (Some(socket), Ok(unknown)) =
                    (start.sockets.0.iter().find(|s| s.port.0 == at.port()), Name::new("-"))
                else {
                    return;
                };
                DestServiceSessionCloseInfo {
                    message_id,
                    source_service_instance_network_address: from.ip().into(),
                    source_plug_name: unknown,
                    source_plug_port: Port(from.port()),
                    dest_service_name: start.service.clone(),
                    dest_service_instance_network_address: start.address,
                    dest_service_instance_id: start.id,
                    dest_socket_name: socket.socket.clone(),
                    dest_socket_port: Port(at.port()),
                    dest_socket_new_port: Port(at.port()),
                    status,
                }
                .into()
            }
        };
        self.process_says(process, &Envelope::new(info, Hop::InstanceToAgent));
    }

    /// A line has reached a process, which reads it when it can.
    pub fn process_hears(&mut self, number: u64, life: Life, line: &Rc<str>) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        if process.agent != Some(life) && !process.frozen {
            return;
        }
        if process.frozen {
            process.unread.push_back((life, line.clone()));
            return;
        }
        let (node, id) = (process.node, process.start.id);
        self.trace.add(self.schedule.now, Party::Agent(node), Party::Instance(id.0), line);
        let Ok(envelope) = Envelope::parse(line.trim_end()) else { return };
        match &envelope.message {
            Message::SessionResponse(response) => {
                let response = response.clone();
                self.answered(number, &response.message_id, response.status, envelope.message);
            }
            Message::SourceServiceSessionCloseRequest(request) => {
                let ends = (request.source_service_instance_network_address, request.source_plug_port);
                let to = (request.dest_service_instance_network_address, request.dest_socket_port);
                self.asked_to_close(number, End::Source, ends, to, &envelope.message, line);
            }
            Message::DestServiceSessionCloseRequest(request) => {
                let ends = (request.source_service_instance_network_address, request.source_plug_port);
                let to = (request.dest_service_instance_network_address, request.dest_socket_port);
                self.asked_to_close(number, End::Destination, ends, to, &envelope.message, line);
            }
            Message::GracefulShutdownRequest(request) => self.asked_to_end(number, request.message_id),
            Message::ServiceInstanceHealthRequest(request) => {
                self.asked_for_health(number, request.message_id, id)
            }
            _ => {}
        }
    }

    /// Where to connect, or why not. Each copy of a request is answered at most once.
    fn answered(&mut self, number: u64, id: &MessageId, status: Status, message: Message) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let Some(asked) = process.asked.get_mut(id) else { return };
        asked.answered += 1;
        let (first, too_many) = (asked.answered == 1, asked.answered > asked.sent);
        let (plug, instance) = (asked.plug.clone(), process.start.id);
        if too_many {
            self.violated(format!("instance {instance} is answered twice to its request {id}"));
        }
        let Message::SessionResponse(response) = &message else { return };
        if first && status.is_success() {
            let at = std::net::SocketAddr::new(
                response.dest_service_instance_network_address.0,
                response.dest_socket_port.0,
            );
            let request = Some((*id, Box::new(message)));
            self.connect(Attempt { process: number, at, plug, request, handed: None });
        }
    }

    /// A connection stands: it is acknowledged.
    pub fn connected(&mut self, number: u64, connection: u64, request: &MessageId) {
        let Some(found) = self.connections.get_mut(&connection) else { return };
        let (port, to) = (Port(found.from.port()), Port(found.at.port()));
        let Some(process) = self.processes.get(&number) else { return };
        found.acknowledged = true;
        if process.habits.never_acknowledges {
            found.acknowledged = false;
            return;
        }
        self.acknowledge(number, *request, port, to, Status::OK);
    }

    /// Nobody listens there.
    pub fn refused(&mut self, attempt: &Attempt) {
        if let Some(handed) = attempt.handed {
            self.hand_failed(attempt, handed);
        }
        if let Some((request, _)) = &attempt.request {
            self.acknowledge(attempt.process, *request, Port::UNKNOWN, Port::UNKNOWN, Status::CONNECT_FAILED);
        }
    }

    fn acknowledge(&mut self, number: u64, message_id: MessageId, port: Port, to: Port, status: Status) {
        let Some(process) = self.processes.get(&number) else { return };
        let ack = SessionAck {
            message_id,
            source_service_name: process.start.service.clone(),
            source_service_instance_id: process.start.id,
            source_plug_port: port,
            dest_socket_new_port: to,
            status,
        };
        self.process_says(number, &Envelope::new(ack, Hop::InstanceToAgent));
    }

    fn asked_to_close(
        &mut self,
        number: u64,
        end: End,
        from: (Address, Port),
        to: (Address, Port),
        request: &Message,
        line: &Rc<str>,
    ) {
        let Some(process) = self.processes.get(&number) else { return };
        let same = |at: std::net::SocketAddr, (address, port): (Address, Port)| {
            Address::from(at.ip()) == address && at.port() == port.0
        };
        let found = process.connections.iter().copied().find(|connection| {
            self.connections.get(connection).is_some_and(|c| same(c.from, from) && same(c.at, to))
                && self.end_of(*connection, number) == Some(end)
        });
        match found {
            None => self.answer_close(number, request, Status::NOT_FOUND),
            Some(_) if process.habits.keeps_sessions => {}
            Some(connection) => {
                let delay = self.random(0, 600);
                self.after(delay, Happening::Closes(connection, end, Some(line.clone())));
            }
        }
    }

    fn asked_to_end(&mut self, number: u64, message_id: MessageId) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        if process.habits.keeps_running || process.ending {
            return;
        }
        process.ending = true;
        let answer = GracefulShutdownResponse { message_id, status: Status::OK };
        self.process_says(number, &Envelope::new(answer, Hop::InstanceToAgent));
        let delay = self.random(5, 2_500);
        self.after(delay, Happening::Exits(number, "exit status 0"));
    }

    fn asked_for_health(&mut self, number: u64, message_id: MessageId, id: InstanceId) {
        if self.processes.get(&number).is_none_or(|process| process.habits.mute) {
            return;
        }
        let status = if !self.quiet && self.chance(0.05) { Status::OVERLOADED } else { Status::OK };
        let answer = ServiceInstanceHealthResponse { message_id, service_instance_id: id, status };
        self.process_says(number, &Envelope::new(answer, Hop::InstanceToAgent));
    }

    /// What no well-behaved program would say.
    fn babbles(&mut self, number: u64) {
        let other = self.random(1, 12);
        let line = match self.random(0, 5) {
            0 => "type: nothing ~ message_id: 1\n".to_owned(),
            1 => format!(
                "type: service_instance_termination_info ~ message_id: 9 ~ service_name: x ~ service_instance_id: {other} ~ service_instance_network_address: 10.0.0.1\n"
            ),
            2 => format!(
                "type: session_ack ~ message_id: 1001 ~ source_service_name: x ~ source_service_instance_id: {other} ~ source_plug_port: 7 ~ dest_socket_new_port: 7 ~ status: 200\n"
            ),
            3 => format!(
                "type: service_instance_health_response ~ message_id: 77 ~ service_instance_id: {other} ~ status: 199\n"
            ),
            4 => "type: graceful_shutdown_response ~ message_id: 1030002 ~ status: 200\n".to_owned(),
            _ => {
                "type: source_service_session_close_response ~ message_id: 1030002 ~ status: 404\n".to_owned()
            }
        };
        let Some(life) = self.processes.get(&number).and_then(|process| process.agent) else { return };
        self.schedule.at(self.schedule.now, Happening::FromProcess(number, life, Rc::from(line)));
    }
}
