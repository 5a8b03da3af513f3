//! Slow, half-open, flooding, garbage and non-reading peers: each is bounded, and nobody else waits for it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use patchbay_manager::server::{COUNTERS, Counter, MAX_UNREGISTERED_PER_ADDRESS, Options};

use super::manager::{Manager, Peer, WITHIN};

/// Bytes that this process, the Manager and its attackers, may grow by.
const MAX_GROWTH_BYTES: u64 = 512 << 20;

fn quick() -> Options {
    Options {
        register_within: Duration::from_millis(300),
        write_within: Duration::from_millis(500),
        ..Options::default()
    }
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = text.split(' ').nth(1).and_then(|t| t.parse().ok()).expect("a number");
    pages * 4096
}

fn counted(counter: Counter) -> u64 {
    COUNTERS.all().find(|(found, _)| *found == counter).map_or(0, |(_, count)| count)
}

fn ask(id: usize) -> String {
    format!(
        "type: session_request ~ message_id: {id} ~ sub_type: agent_to_Manager ~ source_service_name: gate ~ source_service_instance_id: 99 ~ source_service_instance_network_address: 127.0.0.1 ~ source_plug_name: store ~ dest_service_name: store ~ dest_socket_name: api"
    )
}

/// A good agent asks, one request after another, while `attack` goes on; each gets its one answer in time.
fn all_answered_while(manager: &Manager, attack: impl Fn(&Manager, &AtomicBool) + Sync) {
    let before = resident_bytes();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| attack(manager, &done));
        }
        let mut good = manager.agent("127.0.0.1");
        for id in 1000..1200 {
            good.say(&ask(id));
            let answer = good.hear_of(&format!("message_id: {id} "));
            assert!(answer.contains("type: session_response") && answer.contains("status: 403"), "{answer}");
        }
        done.store(true, Ordering::Relaxed);
    });
    let growth = resident_bytes().saturating_sub(before);
    assert!(growth < MAX_GROWTH_BYTES, "grew by {} MiB", growth >> 20);
}

/// Writes the same bytes again and again, without reading, until it is cut off or all is done.
fn flood(mut stream: TcpStream, bytes: &[u8], done: &AtomicBool) {
    stream.set_write_timeout(Some(Duration::from_millis(100))).expect("set");
    while !done.load(Ordering::Relaxed) {
        match stream.write_all(bytes) {
            Err(error) if !matches!(error.kind(), std::io::ErrorKind::WouldBlock) => return,
            _ => {}
        }
    }
}

#[test]
fn garbage_harms_nobody_else() {
    let manager = Manager::start(quick());
    all_answered_while(&manager, |manager, done| {
        let garbage: Vec<u8> = (0..8192u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        while !done.load(Ordering::Relaxed) {
            flood(manager.connect().0.into_inner(), &garbage, done);
        }
    });
    assert!(counted(Counter::Dropped) > 0);
}

#[test]
fn a_flood_of_requests_harms_nobody_else() {
    let manager = Manager::start(quick());
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(2);
    all_answered_while(&manager, |manager, done| {
        let requests: String = (1..200).map(|id| ask(id) + "\n").collect();
        while !done.load(Ordering::Relaxed) {
            let address = format!("127.0.0.{}", NEXT.fetch_add(1, Ordering::Relaxed) % 200 + 2);
            flood(manager.agent(&address).0.into_inner(), requests.as_bytes(), done);
        }
    });
}

#[test]
fn an_over_long_message_is_answered_and_not_kept() {
    let manager = Manager::start(quick());
    all_answered_while(&manager, |manager, done| {
        let mut peer = manager.connect();
        peer.say("type: initiation_request ~ message_id: 1 ~ agent_network_address: 127.0.9.9 ~ service_repository: ()");
        peer.0.get_mut().write_all(ask(5).as_bytes()).expect("connected");
        for _ in 0..64 {
            if done.load(Ordering::Relaxed) {
                return;
            }
            // Another of these agents may have taken the address over: then the connection ends.
            if peer.0.get_mut().write_all(&[b'x'; 256 * 1024]).is_err() {
                return;
            }
        }
    });
    let mut peer = manager.agent("127.0.0.7");
    peer.0.get_mut().write_all(format!("{} ~ x_much: ", ask(5)).as_bytes()).expect("connected");
    for _ in 0..256 {
        peer.0.get_mut().write_all(&[b'x'; 64 * 1024]).expect("it is read on");
    }
    peer.say("");
    let refused = peer.hear_of("message_id: 5 ");
    assert!(refused.contains("type: session_response") && refused.contains("status: 400"), "{refused}");
    peer.say(&ask(6));
    assert!(peer.hear_of("message_id: 6 ").contains("status: 403"), "what follows is read");
}

#[test]
fn slow_and_half_open_peers_lose_their_place_in_time() {
    let manager = Manager::start(quick());
    let mut slow: Vec<Peer> = (0..20).map(|_| manager.connect()).collect();
    let begun = Instant::now();
    // A byte now and then does not buy more time.
    while begun.elapsed() < Duration::from_millis(500) {
        for peer in &mut slow {
            let _ = peer.0.get_mut().write_all(b"t");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(slow.iter_mut().all(Peer::is_closed));
    all_answered_while(&manager, |manager, done| {
        let mut held = Vec::new();
        while !done.load(Ordering::Relaxed) {
            held.push(manager.connect());
            if held.len() > 100 {
                held.clear();
            }
        }
    });
}

#[test]
fn a_peer_that_does_not_read_is_cut_off() {
    let manager = Manager::start(quick());
    let stream = manager.agent("127.0.0.2").0.into_inner();
    let reader = stream.try_clone().expect("a descriptor");
    let done = Arc::new(AtomicBool::new(false));
    let flooding = {
        let done = done.clone();
        let requests: String = (1..2_000).map(|id| ask(id) + "\n").collect();
        std::thread::spawn(move || flood(stream, requests.as_bytes(), &done))
    };
    let begun = Instant::now();
    while !flooding.is_finished() {
        assert!(begun.elapsed() < 10 * WITHIN, "it is not cut off");
        std::thread::sleep(Duration::from_millis(20));
    }
    done.store(true, Ordering::Relaxed);
    flooding.join().expect("it ended");
    drop(reader);
    let mut good = manager.agent("127.0.0.1");
    good.say(&ask(7));
    assert!(good.hear_of("message_id: 7 ").contains("403"));
}

#[test]
fn connections_from_one_address_are_bounded() {
    let manager = Manager::start(Options { max_per_address: 8, ..Options::default() });
    let mut agents: Vec<Peer> = (1..=8).map(|n| manager.agent(&format!("127.0.0.{n}"))).collect();
    assert!(manager.connect().is_closed(), "a ninth one is refused");
    agents.pop();
    let begun = Instant::now();
    while manager.connect().is_closed() {
        assert!(begun.elapsed() < WITHIN, "the place becomes free");
    }
    drop(agents);
    // Peers that never register take only a share of the places.
    let manager = Manager::start(Options::default());
    let mut held: Vec<Peer> = (0..MAX_UNREGISTERED_PER_ADDRESS).map(|_| manager.connect()).collect();
    assert!(manager.connect().is_closed());
    held.clear();
}

#[test]
fn a_hundred_malformed_messages_in_a_row_end_the_connection_and_fewer_do_not() {
    let manager = Manager::start(Options::default());
    let mut peer = manager.agent("127.0.0.1");
    for _ in 0..99 {
        peer.say("what is this");
    }
    peer.say(&ask(1));
    assert!(peer.hear_of("message_id: 1 ").contains("403"));
    for _ in 0..100 {
        peer.say("type: session_request ~ message_id: 7");
    }
    let mut rest = String::new();
    peer.0.read_to_string(&mut rest).expect("it ends");
    assert!(rest.matches("message_id: 7 ").count() <= 100, "each is answered once at most");
    assert!(
        rest.lines()
            .all(|line| line.contains("type: session_response") || line.contains("type: execution_request"))
    );
}

#[test]
fn one_connection_is_one_agent_and_its_address_must_be_reachable() {
    let manager = Manager::start(Options::default());
    let mut peer = manager.agent("127.0.0.1");
    let register = |id: u8, address: &str| {
        format!(
            "type: initiation_request ~ message_id: {id} ~ agent_network_address: {address} ~ service_repository: (gate)"
        )
    };
    peer.say(&register(2, "10.0.0.9"));
    assert!(peer.hear().contains("message_id: 2 ~ status: 409"));
    peer.say(&register(3, "127.0.0.1"));
    assert!(peer.hear().contains("message_id: 3 ~ status: 200"));
    // A host's name is not looked up: the connection's own address stands for it.
    let mut named = manager.connect();
    named.say(&register(4, "node-4.example"));
    assert!(named.hear().contains("message_id: 4 ~ status: 200"));
    assert!(peer.is_closed(), "the newer connection of an address takes over");
}

#[test]
fn unknown_fields_and_hops_are_counted_and_the_message_is_served() {
    let manager = Manager::start(Options::default());
    let mut peer = manager.agent("127.0.0.1");
    let (fields, hops) = (counted(Counter::UnknownFields), counted(Counter::OtherHop));
    peer.say(&format!(
        "{} ~ mood: good ~ weather: fine ~ x_known: 1",
        ask(8).replace("agent_to_Manager", "service_to_agent")
    ));
    assert!(peer.hear_of("message_id: 8 ").contains("status: 403"));
    assert!(counted(Counter::UnknownFields) >= fields + 2 && counted(Counter::OtherHop) > hops);
    peer.say("type: gossip ~ message_id: 9");
    peer.say("type: service_instance_termination_info ~ message_id: 10");
    peer.say(&ask(11));
    let next = peer.hear_of("message_id");
    assert!(next.contains("message_id: 11 "), "what has no response type gets no answer: {next}");
}

/// A peer that has sent no extension line gets none, whatever is said to it; ids that can't be read are answered.
#[test]
fn who_speaks_the_protocol_alone_hears_the_protocol_alone() {
    let manager = Manager::start(Options::default());
    manager.apply(super::manager::GRAPH);
    let mut plain = manager.connect();
    // `::` and nothing at all are the protocol's words for an address that is not known: the peer's counts.
    plain.say("type: initiation_request ~ message_id: 1 ~ agent_network_address: :: ~ service_repository: (gate, store)");
    assert_eq!(plain.hear(), "type: initiation_response ~ message_id: 1 ~ status: 200");
    let execution = plain.hear_of("execution_request");
    assert!(
        !execution.contains("x_") && execution.contains("agent_network_address: 127.0.0.1"),
        "{execution}"
    );
    for id in ["0", "-7", "seven", "123456789012345678901234567890"] {
        plain.say(&format!("type: session_request ~ message_id: {id} ~ source_service_name: gate ~ source_service_instance_id: 1 ~ source_plug_name: store ~ dest_service_name: store ~ dest_socket_name: api"));
        let answer = plain.hear_of("session_response");
        assert!(answer.contains("status: 400") && !answer.contains("x_"), "{id}: {answer}");
    }
    let mut stranger = manager.connect();
    stranger.say(&ask(7));
    let answer = stranger.hear();
    assert!(
        answer.contains("message_id: 7 ") && answer.contains("status: 403") && !answer.contains("x_"),
        "{answer}"
    );
    assert!(stranger.is_closed());
    let mut extended = manager.connect();
    extended.say("type: initiation_request ~ message_id: 1 ~ agent_network_address: 127.0.0.1 ~ service_repository: () ~ x_secret: short");
    let answer = extended.hear();
    assert!(answer.contains("status: 400") && answer.contains("x_reason: "), "{answer}");
}
