//! A dozen agents that nobody invited tell as much as they can: what the Manager keeps of it is bounded.

use patchbay_manager::server::Options;

use super::manager::{Manager, Peer};

/// Agents that attack.
const AGENTS: usize = 12;
/// What all of them together may make the Manager keep, bytes.
const MAX_KEPT_BYTES: u64 = 100 << 20;

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = text.split(' ').nth(1).and_then(|t| t.parse().ok()).expect("a number");
    pages * 4096
}

/// Tells of as many instances as fit in the parts of a registration, none of which exists, with ports.
fn strangers(peer: &mut Peer, address: &str, agent: usize) {
    let mut id = 1_000_000 * (agent + 1);
    for part in 0..14 {
        let mut items = String::new();
        while items.len() < 32 * 1024 {
            items.push_str(&format!("s,{id},a=1 & "));
            id += 1;
        }
        let more = if part < 13 { " ~ x_running_more: yes" } else { "" };
        peer.say(&format!("type: initiation_request ~ message_id: 1 ~ agent_network_address: {address} ~ service_repository: () ~ x_running: {items}{more}"));
    }
}

/// As many instances and names as are accepted.
fn allowed(peer: &mut Peer, address: &str, agent: usize) {
    let names: String = (0..4_096).map(|name| format!("{agent:x}b{name:x},")).collect();
    let items: String =
        (0..2_000).map(|id| format!("s,{},a=1 & ", 900_000_000 + agent * 10_000 + id)).collect();
    peer.say(&format!("type: initiation_request ~ message_id: 1 ~ agent_network_address: {address} ~ service_repository: ({names}) ~ x_running: {}", &items[..items.len().min(24_000)]));
}

/// Registers with as many names as a message holds, all of them its own.
fn names(peer: &mut Peer, address: &str, agent: usize) {
    let names: String = (0..6_000).map(|name| format!("{agent:x}a{name:x},")).collect();
    peer.say(&format!("type: initiation_request ~ message_id: 1 ~ agent_network_address: {address} ~ service_repository: ({names})"));
}

#[test]
fn a_dozen_fake_agents_can_make_the_manager_keep_only_so_much() {
    let manager = Manager::start(Options::default());
    manager.agent("127.0.0.1");
    let before = resident_bytes();
    for round in 0..3 {
        for agent in 0..AGENTS {
            let number = round * AGENTS + agent;
            let address = format!("10.66.{}.{}", number / 250, number % 250);
            for (attack, answers) in [(strangers as fn(&mut Peer, &str, usize), 14), (names, 1), (allowed, 1)]
            {
                let mut peer = manager.connect();
                attack(&mut peer, &address, number);
                // What it can make be kept is kept once it is answered; then it goes without a word.
                for _ in 0..answers {
                    peer.hear_of("initiation_response");
                }
            }
        }
    }
    let kept = resident_bytes().saturating_sub(before);
    assert!(kept < MAX_KEPT_BYTES, "{} MiB are kept", kept >> 20);
    manager.agent("127.0.0.2");
}
