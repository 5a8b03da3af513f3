//! Plugs against a scripted agent that speaks real SSMMP over a real socket.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use ssmmp::{
    Address, Envelope, Hop, InstanceId, Message, MessageId, Name, PlugConfiguration, Port, SessionResponse,
    SocketConfiguration, SourceServiceSessionCloseRequest, Status,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::agent_link;
use crate::configuration::Managed;
use crate::registry::Registry;

const WITHIN: Duration = Duration::from_secs(10);

/// A resilient plug whose agent is the test.
struct Bench {
    plug: ResilientPlug,
    registry: Arc<Registry>,
    agent: TcpListener,
}

/// One connection of the instance to its agent.
struct Agent(BufReader<TcpStream>);

impl Bench {
    async fn start() -> Self {
        let agent = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let name = |text: &str| Name::new(text).expect("a name");
        let managed = Managed {
            service: name("asker"),
            id: InstanceId(7),
            address: Address("127.0.0.1".parse().expect("an address")),
            sockets: SocketConfiguration(Vec::new()),
            plugs: PlugConfiguration::parse("out, in, answerer").expect("good"),
            agent: agent.local_addr().expect("bound").to_string(),
        };
        let target = managed.plugs.target("out").cloned();
        let (at, (to_agent, outbound)) = (managed.agent.clone(), mpsc::channel(64));
        let registry = Registry::new(Some(managed), to_agent);
        tokio::spawn(agent_link::run(at, InstanceId(7), registry.clone(), outbound));
        let plug = ResilientPlug::new(Plug { registry: registry.clone(), name: name("out"), target });
        Self { plug, registry, agent }
    }

    async fn agent(&self) -> Agent {
        let (stream, _) = timeout(WITHIN, self.agent.accept()).await.expect("in time").expect("it connects");
        Agent(BufReader::new(stream))
    }

    /// Asks for the answer to `x`; whether it may be repeated is said.
    fn ask(&self, repeat: Repeat) -> tokio::task::JoinHandle<Result<u8, Error>> {
        let plug = self.plug.clone();
        tokio::spawn(async move {
            plug.exchange(repeat, |session| {
                Box::pin(async {
                    session.write_all(b"x").await?;
                    session.read_u8().await
                })
            })
            .await
        })
    }
}

impl Agent {
    async fn next(&mut self) -> Message {
        let mut line = String::new();
        timeout(WITHIN, self.0.read_line(&mut line)).await.expect("in time").expect("connected");
        Envelope::parse_bytes(line.trim_end().as_bytes()).expect("a message").message
    }

    /// The next message that a test looks at.
    async fn next_of(&mut self, kind: &str) -> Message {
        loop {
            let message = self.next().await;
            if message.message_type().to_string() == kind {
                return message;
            }
        }
    }

    async fn say(&mut self, message: impl Into<Message>) {
        let text = Envelope::new(message, Hop::AgentToInstance).encode();
        self.0.get_mut().write_all(text.as_bytes()).await.expect("connected");
    }

    /// Answers the next session_request with a place.
    async fn connect_to(&mut self, at: SocketAddr) {
        let Message::SessionRequest(request) = self.next_of("session_request").await else { panic!() };
        self.say(SessionResponse {
            message_id: request.message_id,
            source_service_name: request.source_service_name,
            source_service_instance_id: request.source_service_instance_id,
            dest_service_name: request.dest_service_name,
            dest_service_instance_id: InstanceId(9),
            dest_socket_name: request.dest_socket_name,
            dest_service_instance_network_address: at.ip().into(),
            dest_socket_port: Port(at.port()),
            status: Status::OK,
        })
        .await;
    }

    /// Asks to close the session that was acknowledged.
    async fn close(&mut self, port: Port, at: SocketAddr) {
        let name = |text: &str| Name::new(text).expect("a name");
        self.say(SourceServiceSessionCloseRequest {
            message_id: MessageId::from(5),
            source_service_name: name("asker"),
            source_service_instance_id: InstanceId(7),
            source_service_instance_network_address: at.ip().into(),
            source_plug_name: name("out"),
            source_plug_port: port,
            dest_service_name: name("answerer"),
            dest_service_instance_network_address: at.ip().into(),
            dest_socket_name: name("in"),
            dest_socket_port: Port(at.port()),
            dest_socket_new_port: Port(at.port()),
        })
        .await;
    }

    async fn acknowledged(&mut self) -> Port {
        let Message::SessionAck(ack) = self.next_of("session_ack").await else { panic!() };
        ack.source_plug_port
    }
}

async fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let at = listener.local_addr().expect("bound");
    (listener, at)
}

/// Accepts, reads the question, and answers if there is an answer.
async fn serve(listener: &TcpListener, answer: Option<u8>) -> TcpStream {
    let (mut stream, _) = timeout(WITHIN, listener.accept()).await.expect("in time").expect("connected");
    assert_eq!(stream.read_u8().await.expect("asked"), b'x');
    if let Some(answer) = answer {
        stream.write_u8(answer).await.expect("connected");
    }
    stream
}

#[tokio::test]
async fn an_exchange_goes_on_with_another_instance_when_its_session_breaks() {
    let bench = Bench::start().await;
    let (mut agent, (first, second)) = (bench.agent().await, (server().await, server().await));
    let asked = bench.ask(Repeat::Safe);
    agent.connect_to(first.1).await;
    drop(serve(&first.0, None).await);
    agent.connect_to(second.1).await;
    let _kept = serve(&second.0, Some(42)).await;
    assert_eq!(asked.await.expect("no panic").expect("answered"), 42);
}

#[tokio::test]
async fn what_was_begun_is_not_repeated_when_that_is_not_safe() {
    let bench = Bench::start().await;
    let (mut agent, (listener, at)) = (bench.agent().await, server().await);
    let asked = bench.ask(Repeat::Unsent);
    agent.connect_to(at).await;
    drop(serve(&listener, None).await);
    assert!(matches!(asked.await.expect("no panic"), Err(Error::Io(_))));
    // Nothing is begun while nobody listens: that is tried again.
    drop(listener);
    let asked = bench.ask(Repeat::Unsent);
    for _ in 0..3 {
        agent.connect_to(at).await;
    }
    let (listener, at) = server().await;
    agent.connect_to(at).await;
    let _kept = serve(&listener, Some(1)).await;
    assert_eq!(asked.await.expect("no panic").expect("answered"), 1);
}

#[tokio::test]
async fn a_close_request_in_mid_task_is_obeyed_and_answered_and_the_hooks_run() {
    static SAVED: AtomicUsize = AtomicUsize::new(0);
    static LOADED: AtomicUsize = AtomicUsize::new(0);
    let mut bench = Bench::start().await;
    let limits = Limits { finish: Duration::from_millis(50), ..Limits::default() };
    bench.plug = bench.plug.clone().with_limits(limits).on_close_request(|session| {
        SAVED.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { session.write_all(b"s").await })
    });
    bench.plug = bench.plug.clone().on_reopen(|session| {
        LOADED.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { session.read_u8().await.map(drop) })
    });
    let (mut agent, (listener, at)) = (bench.agent().await, server().await);
    let asked = bench.ask(Repeat::Safe);
    agent.connect_to(at).await;
    let port = agent.acknowledged().await;
    let mut slow = serve(&listener, None).await;
    agent.close(port, at).await;
    assert_eq!(slow.read_u8().await.expect("saved"), b's');
    assert_eq!(slow.read(&mut [0]).await.expect("closed"), 0);
    let Message::SourceServiceSessionCloseResponse(answer) =
        agent.next_of("source_service_session_close_response").await
    else {
        panic!()
    };
    assert_eq!((answer.message_id, answer.status), (MessageId::from(5), Status::OK));
    agent.connect_to(at).await;
    let (mut next, _) = listener.accept().await.expect("connected");
    next.write_u8(b'l').await.expect("connected");
    assert_eq!(next.read_u8().await.expect("asked"), b'x');
    next.write_u8(3).await.expect("connected");
    assert_eq!(asked.await.expect("no panic").expect("answered"), 3);
    assert_eq!((SAVED.load(Ordering::Relaxed), LOADED.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn an_idle_session_is_closed_at_once_when_asked_and_a_dead_one_is_not_used() {
    let bench = Bench::start().await;
    let (mut agent, (listener, at)) = (bench.agent().await, server().await);
    for answer in 0..3 {
        let asked = bench.ask(Repeat::Unsent);
        agent.connect_to(at).await;
        let port = agent.acknowledged().await;
        let mut peer = serve(&listener, Some(answer)).await;
        assert_eq!(asked.await.expect("no panic").expect("answered"), answer);
        if answer == 0 {
            agent.close(port, at).await;
            assert_eq!(peer.read(&mut [0]).await.expect("closed"), 0);
        } else {
            // The peer ends: the next exchange begins on a new session.
            drop(peer);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn sessions_live_on_through_a_restart_of_the_agent_which_is_told_of_them() {
    let bench = Bench::start().await;
    let (mut agent, (listener, at)) = (bench.agent().await, server().await);
    let asked = bench.ask(Repeat::Unsent);
    agent.connect_to(at).await;
    let port = agent.acknowledged().await;
    let mut peer = serve(&listener, None).await;
    drop(agent);
    // A request that waits is asked again too.
    let waiting = bench.ask(Repeat::Unsent);
    let mut agent = bench.agent().await;
    let mut line = String::new();
    agent.0.read_line(&mut line).await.expect("connected");
    let mut told = None;
    while told.is_none() {
        line.clear();
        agent.0.read_line(&mut line).await.expect("connected");
        let envelope = Envelope::parse_bytes(line.trim_end().as_bytes()).expect("a message");
        match &envelope.message {
            Message::SessionAck(ack) => {
                let more = envelope.extension("x_session").expect("told whole").to_owned();
                told = Some((ack.source_plug_port, more));
            }
            Message::SessionRequest(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let expected = format!("out, answerer, 9, in, {}, {}", at.ip(), at.port());
    assert_eq!(told, Some((port, expected)));
    peer.write_u8(8).await.expect("it lives");
    assert_eq!(asked.await.expect("no panic").expect("answered"), 8);
    waiting.abort();
    assert_eq!(bench.registry.acknowledgements().len(), 1);
}

#[tokio::test]
async fn tries_and_time_are_bounded_and_a_refusal_for_good_ends_it() {
    let mut bench = Bench::start().await;
    bench.plug = bench.plug.clone().with_limits(Limits { tries: 2, ..Limits::default() });
    let mut agent = bench.agent().await;
    let (listener, nobody) = server().await;
    drop(listener);
    let asked = bench.ask(Repeat::Safe);
    // Each try of the plug makes up to three connections.
    for _ in 0..6 {
        agent.connect_to(nobody).await;
    }
    assert!(matches!(asked.await.expect("no panic"), Err(Error::Exhausted { tries: 2, .. })));
    let asked = bench.ask(Repeat::Safe);
    let Message::SessionRequest(request) = agent.next_of("session_request").await else { panic!() };
    agent
        .say(SessionResponse {
            message_id: request.message_id,
            source_service_name: request.source_service_name,
            source_service_instance_id: request.source_service_instance_id,
            dest_service_name: request.dest_service_name,
            dest_service_instance_id: InstanceId::UNKNOWN,
            dest_socket_name: request.dest_socket_name,
            dest_service_instance_network_address: Address::UNKNOWN,
            dest_socket_port: Port::UNKNOWN,
            status: Status::FORBIDDEN,
        })
        .await;
    assert!(matches!(asked.await.expect("no panic"), Err(Error::Refused { status: 403, .. })));
}
