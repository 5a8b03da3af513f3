//! The `semi` dialect, as the public Java implementation was observed to speak it.

use serde_json::Value;
use ssmmp::{
    Address, AgentHealthControlRequest, Conversation, Envelope, ExecutionRequest, GracefulShutdownRequest,
    HardShutdownRequest, Hop, InitiationResponse, InstanceId, MAX_MESSAGE_BYTES, Message, MessageId, Name,
    PlugConfiguration, Port, ServiceInstanceHealthRequest, SessionResponse, SocketConfiguration,
    SourceServiceSessionCloseRequest, Speaker, Status,
};

/// Ports of the observed Manager and agent.
const MANAGER: u64 = 34010;
const AGENT: u64 = 34011;

fn vectors() -> Vec<Value> {
    let text = include_str!("vectors-observed-java-dialect.jsonl");
    text.lines().map(|line| serde_json::from_str(line).expect("a vector is JSON")).collect()
}

fn wire(vector: &Value) -> &str {
    vector["wire"].as_str().expect("a vector has a wire text")
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn localhost() -> Address {
    "127.0.0.1".parse::<std::net::IpAddr>().expect("an address").into()
}

fn with(speaker: Speaker) -> Conversation {
    Conversation::new(speaker, MAX_MESSAGE_BYTES).accepting_semi(true)
}

fn hear(conversation: &mut Conversation, line: &str) -> Option<Envelope> {
    conversation.push(line.as_bytes());
    conversation.next_message().map(|read| read.unwrap_or_else(|e| panic!("{e}: {line}")))
}

fn say(conversation: &mut Conversation, message: impl Into<Message>) -> (String, Option<Envelope>) {
    let mut out = String::new();
    let mut envelope = Envelope::new(message, Hop::ManagerToAgent);
    envelope.extensions.push(("x_more".into(), "1".into()));
    let answer = conversation.encode(&envelope, &mut out);
    (out, answer)
}

/// An agent that has registered and asked for a session.
fn agent() -> Conversation {
    let mut agent = with(Speaker::Agent);
    for vector in vectors() {
        if vector["dst_port"] == MANAGER
            && ["initiation_request", "session_request"].iter().any(|t| vector["type"] == *t)
        {
            hear(&mut agent, wire(&vector)).expect("a message");
        }
    }
    agent
}

/// An instance that has asked for a session.
fn instance(id: u64) -> Conversation {
    let mut instance = with(Speaker::Instance(name("Register"), InstanceId(id)));
    assert!(hear(&mut instance, "type:execution_response;message_id:1000;status:200\n").is_none());
    instance
}

#[test]
fn every_observed_message_of_an_agent_or_an_instance_is_understood() {
    let (mut from_agents, mut from_instances) = (0, 0);
    let (mut manager_side, mut agent_side) = (with(Speaker::Agent), instance(10));
    for vector in vectors() {
        let heard = if vector["dst_port"] == MANAGER {
            from_agents += 1;
            hear(&mut manager_side, wire(&vector))
        } else if vector["dst_port"] == AGENT {
            from_instances += 1;
            hear(&mut agent_side, wire(&vector))
        } else {
            continue;
        };
        let expected = match vector["type"].as_str().expect("a type") {
            "process_data" | "health_control_response" => "service_instance_health_response",
            "connection_request" | "execution_response" => {
                assert!(heard.is_none());
                continue;
            }
            same => same,
        };
        let heard = heard.unwrap_or_else(|| panic!("{vector}"));
        assert_eq!(heard.message.message_type().as_str(), expected);
        let id =
            wire(&vector).split(';').find_map(|f| f.strip_prefix("message_id:")).expect("an id").to_owned();
        assert_eq!(heard.message.message_id().as_str(), id, "ids are kept byte for byte");
    }
    assert_eq!((from_agents, from_instances), (7, 10));
    assert_eq!(agent_side.ignored(), 3, "twice execution_response, once connection_request");
}

#[test]
fn what_the_dialect_leaves_out_is_filled_in() {
    let mut agent = agent();
    let ack = hear(
        &mut agent,
        "type:session_ack;message_id:1000;sub_type:agent_to_Manager;status:200;source_plug_port:34100;dest_socket_new_port:34491\n",
    );
    let Some(Envelope { message: Message::SessionAck(ack), .. }) = ack else { panic!("{ack:?}") };
    assert_eq!(
        (ack.source_service_instance_id, ack.source_service_name.as_str()),
        (InstanceId(100), "Api Gateway")
    );
    let closed = vectors().into_iter().find(|v| v["sub_type"] == "source_agent_to_Manager").expect("seen");
    let closed = hear(&mut agent, wire(&closed));
    let Some(Envelope { message: Message::SourceServiceSessionCloseInfo(info), hop, .. }) = closed else {
        panic!("{closed:?}")
    };
    assert_eq!(
        (info.status, info.dest_socket_new_port, hop),
        (Status::CLOSED, Port::UNKNOWN, Hop::AgentToManager)
    );
    assert_eq!(info.dest_service_instance_network_address, localhost());
    // An instance counts itself as it likes: who it is comes from its process.
    let asked = hear(
        &mut instance(7),
        "type:session_request;message_id:0007;sub_type:service_to_agent;source_service_name:Api Gateway;source_service_instance_id:100;source_plug_name:P;dest_service_name:Login;dest_socket_name:S\n",
    );
    let Some(Envelope { message: Message::SessionRequest(request), .. }) = asked else { panic!("{asked:?}") };
    assert_eq!(
        (request.source_service_instance_id, request.source_service_name.as_str()),
        (InstanceId(7), "Register")
    );
    assert_eq!(request.message_id.as_str(), "0007");
}

/// The observed text of a type and hop.
fn observed(message_type: &str, sub_type: Option<&str>) -> Vec<String> {
    let found: Vec<String> = vectors()
        .iter()
        .filter(|v| v["type"] == message_type && v["sub_type"].as_str() == sub_type)
        .map(|v| wire(v).to_owned())
        .collect();
    assert!(!found.is_empty(), "{message_type} {sub_type:?} was observed");
    found
}

#[test]
fn an_agent_is_answered_in_the_observed_form() {
    let mut agent = agent();
    let accepted = InitiationResponse { message_id: MessageId::from(10), status: Status::OK };
    assert_eq!(say(&mut agent, accepted).0, observed("initiation_response", None)[0]);
    let execution = ExecutionRequest {
        message_id: MessageId::from(1000),
        agent_network_address: localhost(),
        service_name: name("Register"),
        service_instance_id: InstanceId(10),
        socket_configuration: SocketConfiguration::parse("S, 34491").expect("good"),
        plug_configuration: PlugConfiguration::parse("P, S, BaaS").expect("good"),
    };
    let expected = observed("execution_request", None)[0].replace("configuration of plugs", "P, S, BaaS");
    assert_eq!(say(&mut agent, execution).0, expected);
    assert_eq!(say(&mut agent, response()).0, observed("session_response", Some("Manager_to_agent"))[0]);
    let shutdown = GracefulShutdownRequest {
        message_id: MessageId::from(10),
        service_name: name("Register"),
        service_instance_id: InstanceId(10),
    };
    assert_eq!(
        say(&mut agent, shutdown).0,
        observed("graceful_shutdown_request", Some("Manager_to_agent"))[0]
    );
    let observed = observed("source_service_session_close_request", Some("Manager_to_agent"));
    let expected =
        observed[0].replace("source_plug_port:m", "source_plug_port:34100").replace("Api Gateway", "Gateway");
    let request = close("Gateway", 1, 1, 34100, ("Register", 34491));
    assert_eq!(say(&mut agent, request).0, expected);
}

#[test]
fn an_instance_is_answered_in_the_observed_form() {
    let mut instance = instance(10);
    assert_eq!(say(&mut instance, response()).0, observed("session_response", Some("agent_to_service"))[0]);
    let health = ServiceInstanceHealthRequest {
        message_id: MessageId::from(10),
        service_instance_id: InstanceId(10),
        service_instance_network_address: localhost(),
    };
    let expected = observed("health_control_request", Some("agent_to_service_instance"));
    assert_eq!(say(&mut instance, health).0, expected[0]);
    let shutdown = GracefulShutdownRequest {
        message_id: MessageId::from(10),
        service_name: name("Register"),
        service_instance_id: InstanceId(10),
    };
    let expected = observed("graceful_shutdown_request", Some("agent_to_Service_instance"));
    assert_eq!(say(&mut instance, shutdown).0, expected[0]);
    let expected = observed("source_service_session_close_request", Some("agent_to_source_Service"));
    assert_eq!(say(&mut instance, close("Chat", 13, 13, 34495, ("BaaS", 34493))).0, expected[0]);
}

fn response() -> SessionResponse {
    SessionResponse {
        message_id: MessageId::from(1000),
        source_service_name: name("Gateway"),
        source_service_instance_id: InstanceId(100),
        dest_service_name: name("Register"),
        dest_service_instance_id: InstanceId(10),
        dest_socket_name: name("S"),
        dest_service_instance_network_address: localhost(),
        dest_socket_port: Port(34491),
        status: Status::OK,
    }
}

fn close(
    source: &str,
    id: u64,
    message_id: u64,
    m: u16,
    dest: (&str, u16),
) -> SourceServiceSessionCloseRequest {
    SourceServiceSessionCloseRequest {
        message_id: MessageId::from(message_id),
        source_service_name: name(source),
        source_service_instance_id: InstanceId(id),
        source_service_instance_network_address: localhost(),
        source_plug_name: name("P"),
        source_plug_port: Port(m),
        dest_service_name: name(dest.0),
        dest_service_instance_network_address: localhost(),
        dest_socket_name: name("S"),
        dest_socket_port: Port(dest.1),
        dest_socket_new_port: Port(dest.1),
    }
}

#[test]
fn what_the_peer_has_no_message_for_is_answered_for_it() {
    let mut agent = agent();
    let (sent, answer) = say(
        &mut agent,
        AgentHealthControlRequest { message_id: MessageId::from(5), agent_network_address: localhost() },
    );
    assert!(sent.is_empty());
    assert!(
        matches!(answer.map(|a| a.message), Some(Message::AgentHealthControlResponse(r)) if r.status == Status::OK)
    );
    // A hard shutdown would end the peer's reader: it is asked gracefully, and its answer is this one's.
    let hard = HardShutdownRequest {
        message_id: MessageId::from(6),
        service_name: name("Register"),
        service_instance_id: InstanceId(10),
    };
    assert!(say(&mut agent, hard).0.starts_with("type:graceful_shutdown_request;message_id:6;"));
    let answer = hear(
        &mut agent,
        "type:graceful_shutdown_response;message_id:6;sub_type:agent_to_Manager;status:200\n",
    );
    assert!(
        matches!(answer.map(|a| a.message), Some(Message::HardShutdownResponse(r)) if r.service_instance_id == InstanceId(10))
    );
}

#[test]
fn the_dialect_is_refused_unless_it_is_allowed_and_a_canonical_peer_is_never_taken_for_it() {
    let line =
        "type:initiation_request;message_id:10;agent_network_address:localhost_34011;service_repository:A\n";
    let mut strict = Conversation::new(Speaker::Agent, MAX_MESSAGE_BYTES);
    strict.push(line.as_bytes());
    let refused = strict.next_message().expect("read").expect_err("refused");
    assert!(refused.to_string().contains("--accept-dialect semi"), "{refused}");
    let mut canonical = with(Speaker::Agent);
    assert!(
        hear(&mut canonical, "type: session_ack ~ message_id: 1 ~ source_plug_port: 1;2 ~ status: 200\n")
            .is_some()
    );
    canonical.push(line.as_bytes());
    assert!(canonical.next_message().expect("read").is_err(), "the first message decides");
}

#[test]
fn a_refusal_is_in_the_dialect_too() {
    let mut agent = agent();
    agent.push(
        b"type:session_request;message_id:9;sub_type:agent_to_Manager;source_service_name:A;nonsense\n",
    );
    let refused = agent.next_message().expect("read").expect_err("refused");
    let mut out = String::new();
    agent.encode(&refused.refusal.expect("a response type"), &mut out);
    assert_eq!(
        out,
        "type:session_response;message_id:9;sub_type:Manager_to_agent;status:400;dest_Service_instance_network_address:::_0;dest_socket_port:0\n"
    );
}
