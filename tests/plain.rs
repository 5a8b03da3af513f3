//! The real agent between a Manager and instances that speak the 22 types and nothing else: plain lines over TCP.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use patchbay_tests::Node;

/// How long anything may take to come: bounded, not measured.
const WITHIN: Duration = Duration::from_secs(30);
/// How long the agent may take to see a new connection.
const SEEN_WITHIN: Duration = Duration::from_millis(600);
/// Where instances find the test.
const CONTROL: u16 = 5_600;

/// A line-wise conversation.
struct Peer(BufReader<TcpStream>);

impl Peer {
    fn accepted(listener: &TcpListener) -> Self {
        listener.set_nonblocking(true).expect("set");
        let begun = Instant::now();
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).expect("set");
                    stream.set_read_timeout(Some(WITHIN)).expect("set");
                    return Self(BufReader::new(stream));
                }
                Err(_) if begun.elapsed() < WITHIN => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("nobody connects: {error}"),
            }
        }
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("connected");
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).expect("it comes in time");
        assert!(length > 0, "the connection ended");
        line.trim_end().to_owned()
    }

    /// The next line of a type. No line on the way, nor this one, has anything of ours.
    #[track_caller]
    fn hear_of(&mut self, message_type: &str) -> String {
        let mut passed = Vec::new();
        for _ in 0..50 {
            let line = self.hear();
            let is_registration = line.starts_with("type: initiation_request");
            assert!(is_registration || !line.contains(" ~ x_"), "a line of ours: {line}");
            if line.contains(&format!("type: {message_type} ")) {
                return line;
            }
            passed.push(line);
        }
        panic!("no {message_type} comes, but: {passed:#?}");
    }
}

/// The value of a field.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let start = format!("{name}: ");
    let found = line.split(" ~ ").find_map(|part| part.strip_prefix(start.as_str()));
    found.unwrap_or_else(|| panic!("{line} has no {name}"))
}

struct Plain {
    node: Node,
    listener: TcpListener,
    control: TcpListener,
    manager: Peer,
}

const REPOSITORY: &str = "
[service.A]
kind = \"native\"
program = \"{program}\"
arguments = [\"{tests}/plain_service.py\", \"5600\"]
sockets = [\"in\"]
plugs = [\"P\"]
[service.B]
kind = \"adapted\"
program = \"{program}\"
arguments = [\"-c\", \"import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\\nheld = []\\nwhile True: held.append(s.accept())\", \"{port:in}\"]
sockets = [\"in\"]
";

impl Plain {
    fn start() -> Self {
        let mut node = Node::prepare(&REPOSITORY.replace("{program}", "/usr/bin/python3"), &[], &[]);
        let listener = node.listener("127.0.0.1:55555");
        let control = node.listener(&format!("127.0.0.1:{CONTROL}"));
        node.start_agent_alone();
        let manager = registered(&listener);
        Self { node, listener, control, manager }
    }

    /// The agent's connection is lost, and it registers again.
    fn reconnect(&mut self) {
        self.manager.0.get_ref().shutdown(std::net::Shutdown::Both).expect("connected");
        self.manager = registered(&self.listener);
    }

    fn execute(&mut self, id: u16) -> Peer {
        let message = 30_000 + id;
        self.run(&execution(id, 54_000 + id, message), message);
        let mut instance = Peer::accepted(&self.control);
        assert_eq!(instance.hear(), id.to_string());
        instance
    }

    fn run(&mut self, execution: &str, message: u16) {
        self.manager.say(execution);
        let answer = self.manager.hear_of("execution_response");
        assert_eq!((field(&answer, "message_id"), field(&answer, "status")), (&*message.to_string(), "200"));
    }

    fn health(&mut self, id: u16, message: u16) -> String {
        self.manager.say(&format!("type: service_instance_health_request ~ message_id: {message} ~ sub_type: Manager_to_agent ~ service_instance_id: {id} ~ service_instance_network_address: 127.0.0.1"));
        message.to_string()
    }

    /// The status of the answer to a question.
    fn health_status(&mut self, message: &str) -> String {
        let answer = self.manager.hear_of("service_instance_health_response");
        assert_eq!(field(&answer, "message_id"), message);
        field(&answer, "status").to_owned()
    }
}

fn execution(id: u16, port: u16, message: u16) -> String {
    format!(
        "type: execution_request ~ message_id: {message} ~ agent_network_address: 127.0.0.1 ~ service_name: A ~ service_instance_id: {id} ~ socket_configuration: in, {port} ~ plug_configuration: P, in, A"
    )
}

/// The agent's next connection, registered.
fn registered(listener: &TcpListener) -> Peer {
    let mut manager = Peer::accepted(listener);
    let request = manager.hear_of("initiation_request");
    manager.say(&format!(
        "type: initiation_response ~ message_id: {} ~ status: 200",
        field(&request, "message_id")
    ));
    manager
}

fn connected(instance: &mut Peer) {
    instance.say("agent");
    assert_eq!(instance.hear(), "connected");
}

/// Instance 1 has a session with another one; returns its plug's port.
fn session(plain: &mut Plain, source: &mut Peer, message: u16, destination: u16) -> String {
    let at = 54_000 + destination;
    source.say(&format!("say type: session_request ~ message_id: {message} ~ sub_type: service_to_agent ~ source_service_name: A ~ source_service_instance_id: 1 ~ source_service_instance_network_address: 127.0.0.1 ~ source_plug_name: P ~ dest_service_name: A ~ dest_socket_name: in"));
    plain.manager.hear_of("session_request");
    plain.manager.say(&format!("type: session_response ~ message_id: {message} ~ sub_type: Manager_to_agent ~ source_service_name: A ~ source_service_instance_id: 1 ~ dest_service_name: A ~ dest_service_instance_id: {destination} ~ dest_socket_name: in ~ dest_service_instance_network_address: 127.0.0.1 ~ dest_socket_port: {at} ~ status: 200"));
    source.hear_of("session_response");
    source.say(&format!("connect 127.0.0.1 {at}"));
    let port = source.hear().strip_prefix("port ").expect("its port").to_owned();
    source.say(&format!("say type: session_ack ~ message_id: {message} ~ sub_type: service_to_agent ~ source_service_name: A ~ source_service_instance_id: 1 ~ source_plug_port: {port} ~ dest_socket_new_port: {at} ~ status: 200"));
    let ack = plain.manager.hear_of("session_ack");
    assert_eq!((field(&ack, "message_id"), field(&ack, "source_plug_port")), (&*message.to_string(), &*port));
    port
}

#[test]
fn sessions_are_acknowledged_again_and_a_killed_destinations_are_told_broken() {
    let mut plain = Plain::start();
    let (mut source, mut destination) = (plain.execute(1), plain.execute(2));
    connected(&mut source);
    connected(&mut destination);
    let port = session(&mut plain, &mut source, 1_000, 2);
    plain.reconnect();
    let again = plain.manager.hear_of("session_ack");
    assert_eq!((field(&again, "message_id"), field(&again, "source_plug_port")), ("1000", &*port));
    assert_eq!(field(&again, "status"), "200");

    plain.manager.say(&execution(1, 54_009, 30_009));
    let answer = plain.manager.hear_of("execution_response");
    assert_eq!((field(&answer, "message_id"), field(&answer, "status")), ("30009", "409"), "other sockets");

    plain.node.kill_instance("A", 2);
    let broken = plain.manager.hear_of("dest_service_session_close_info");
    let ends = (field(&broken, "dest_service_instance_id"), field(&broken, "source_plug_port"));
    assert_eq!((ends, field(&broken, "status")), (("2", &*port), "122"));
    let gone = plain.manager.hear_of("service_instance_termination_info");
    assert_eq!(field(&gone, "service_instance_id"), "2");

    // The kernel closes an adapted program's connections like the program itself would.
    let adapted = execution(3, 54_003, 30_003).replace("service_name: A", "service_name: B");
    plain.run(&adapted.replace("P, in, A", ""), 30_003);
    let port = session(&mut plain, &mut source, 1_001, 3);
    std::thread::sleep(SEEN_WITHIN);
    plain.node.kill_instance("B", 3);
    let broken = plain.manager.hear_of("dest_service_session_close_info");
    let ends = (field(&broken, "dest_service_instance_id"), field(&broken, "source_plug_port"));
    assert_eq!((ends, field(&broken, "status")), (("3", &*port), "122"));

    source.say("say type: session_request ~ message_id: 1002 ~ sub_type: service_to_agent ~ source_service_name: B ~ source_service_instance_id: 1 ~ source_service_instance_network_address: 127.0.0.1 ~ source_plug_name: P ~ dest_service_name: A ~ dest_socket_name: in");
    assert_eq!(field(&source.hear_of("session_response"), "status"), "403", "another service's name");
}

#[test]
fn instances_answers_are_passed_on_as_they_are_and_silence_is_told() {
    let mut plain = Plain::start();
    let (mut first, mut second) = (plain.execute(1), plain.execute(2));
    let question = plain.health(1, 40_000);
    assert_eq!(plain.health_status(&question), "404", "it is not connected");
    connected(&mut first);
    connected(&mut second);
    first.say("say type: service_instance_health_response ~ message_id: 1 ~ sub_type: service_instance_to_agent ~ service_instance_id: 1 ~ status: 200");
    assert_eq!(plain.health_status("1"), "200");
    let question = plain.health(1, 40_001);
    first.hear_of("service_instance_health_request");
    assert_eq!(plain.health_status(&question), "504", "it says nothing");

    plain.manager.say("type: graceful_shutdown_request ~ message_id: 40002 ~ sub_type: Manager_to_agent ~ service_name: A ~ service_instance_id: 1");
    first.hear_of("graceful_shutdown_request");
    for status in ["409", "200"] {
        if status == "200" {
            plain.manager.say("type: graceful_shutdown_request ~ message_id: 40002 ~ sub_type: Manager_to_agent ~ service_name: A ~ service_instance_id: 1");
            first.hear_of("graceful_shutdown_request");
        }
        first.say(&format!("say type: graceful_shutdown_response ~ message_id: 40002 ~ sub_type: service_instance_to_agent ~ status: {status}"));
        let answer = plain.manager.hear_of("graceful_shutdown_response");
        assert_eq!((field(&answer, "message_id"), field(&answer, "status")), ("40002", status));
    }
    assert_eq!(plain.node.processes_of("A", 1).len(), 1, "it was not waited for");
    second.say("say type: service_instance_termination_info ~ message_id: 77 ~ sub_type: service_instance_to_agent ~ service_name: A ~ service_instance_id: 2 ~ service_instance_network_address: 127.0.0.1");
    let told = plain.manager.hear_of("service_instance_termination_info");
    assert_eq!((field(&told, "message_id"), field(&told, "service_instance_id")), ("77", "2"));
    first.say("exit 0");
    second.say("exit 0");
    let node = &plain.node;
    node.wait("they are gone", |node| {
        node.processes_of("A", 1).is_empty() && node.processes_of("A", 2).is_empty()
    });
    // Nobody is told twice: the next thing that the Manager hears is the answer to a question.
    plain.manager.say("type: agent_health_control_request ~ message_id: 40003 ~ sub_type: Manager_to_agent ~ agent_network_address: 127.0.0.1");
    let next = plain.manager.hear();
    assert!(next.starts_with("type: agent_health_control_response ~ message_id: 40003"), "{next}");
}

#[test]
fn an_agent_whose_program_went_missing_starts_and_keeps_its_instances() {
    let mut plain = Plain::start();
    let _first = plain.execute(1);
    plain.node.kill_agent();
    let file = plain.node.folder().join("repository.toml");
    let text = std::fs::read_to_string(&file).expect("its repository");
    std::fs::write(&file, text.replace("/usr/bin/python3", "/no/such/program")).expect("written");
    plain.node.start_agent_alone();
    let mut manager = Peer::accepted(&plain.listener);
    let request = manager.hear_of("initiation_request");
    assert_eq!(field(&request, "service_repository"), "()");
    assert!(field(&request, "x_unavailable").contains("there is no program /no/such/program"), "{request}");
    assert!(field(&request, "x_running").starts_with("A, 1, in=54001, running"), "{request}");
    manager.say(&format!(
        "type: initiation_response ~ message_id: {} ~ status: 200",
        field(&request, "message_id")
    ));
    manager.say(&execution(2, 54_002, 30_002));
    assert_eq!(field(&manager.hear_of("execution_response"), "status"), "503");
    assert_eq!(plain.node.processes_of("A", 1).len(), 1, "it lives");
    let ids = plain.node.log("patchbay-agent");
    assert!(ids.contains("taken over from an earlier agent"), "{ids}");
}
