//! Whatever happens, ids and ports are unique and the indexes agree.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_sequence_of_events_keeps_the_invariants(steps in prop::collection::vec((0u8..10, 1u64..6, 1u64..4), 1..80)) {
        let mut cluster = Cluster::new();
        for (step, a, b) in steps {
            let sent = cluster.sent.len();
            let of = |core: &Core| core.state.inventory.nodes().filter(|n| n.ending).filter_map(|n| n.connection).collect::<Vec<_>>();
            let ending = of(&cluster.engine.core);
            match step {
                0 => cluster.register(b, &format!("10.0.0.{b}"), "gate, store"),
                1 => cluster.apply(),
                2 => cluster.handle(Event::Lost(Connection(b))),
                3 => cluster.request(b, InstanceId(a), a * 100 + b, "store"),
                4 if cluster.executions() > 0 => drop(cluster.execute("gate", if b == 1 { 500 } else { 200 })),
                5 => cluster.handle(Event::Command(Ticket(1), Command::StopInstance(InstanceId(a)))),
                6 => cluster.pass(a * 3_000),
                7 => cluster.message(b, &format!("type: service_instance_termination_info ~ message_id: 5 ~ service_name: gate ~ service_instance_id: {a}")),
                8 => cluster.message(b, &format!("type: agent_health_control_response ~ message_id: 6 ~ agent_network_address: 10.0.0.{b} ~ status: 503 ~ x_ending: {}", a * 1_000)),
                _ => cluster.message(b, &format!("type: session_ack ~ message_id: {} ~ source_service_name: gate ~ source_service_instance_id: {a} ~ source_plug_port: 40000 ~ status: 200", a * 100 + b)),
            }
            cluster.engine.core.state.inventory.assert_recount();
            cluster.engine.core.state.sessions.assert_recount();
            for (to, envelope) in &cluster.sent[sent..] {
                let executes = matches!(envelope.message, Message::ExecutionRequest(_));
                prop_assert!(!executes || !ending.contains(to), "executed where an agent ends");
            }
            let alive: Vec<_> = cluster.engine.core.state.inventory.instances().filter(|i| i.state.is_alive()).collect();
            let mut ports: Vec<(Address, u16)> = alive.iter().flat_map(|i| i.sockets.iter().map(|(_, p)| (i.address, p.0))).collect();
            let all = ports.len();
            ports.sort();
            ports.dedup();
            prop_assert_eq!(ports.len(), all, "a port is given twice");
            for session in cluster.engine.core.state.sessions.iter() {
                prop_assert!(cluster.engine.core.state.inventory.instance(session.source).is_some());
                prop_assert!(cluster.engine.core.state.inventory.instance(session.destination).is_some());
            }
        }
        let mut answered: Vec<_> = cluster.sent.iter().filter(|(_, e)| matches!(e.message, Message::ExecutionRequest(_))).map(|(_, e)| e.message.message_id()).collect();
        let all = answered.len();
        answered.sort();
        answered.dedup();
        prop_assert_eq!(answered.len(), all, "a message id is used twice");
    }

    /// Hash maps have another order in each Manager: none of them decides an order on the wire.
    #[test]
    fn the_same_events_have_the_same_bytes_sent(steps in prop::collection::vec((0u8..9, 1u64..6, 1u64..4), 1..60)) {
        let run = || {
            let mut cluster = Cluster::new();
            for (step, a, b) in steps.iter().copied() {
                let wants = |cluster: &Cluster, name: &str| {
                    cluster.sent.iter().any(|(_, e)| matches!(&e.message, Message::ExecutionRequest(r) if r.service_name.as_str() == name))
                };
                match step {
                    0 => cluster.register(b, &format!("10.0.0.{b}"), "gate, store"),
                    1 => cluster.apply(),
                    2 => cluster.handle(Event::Lost(Connection(b))),
                    3 => cluster.request(b, InstanceId(a), a * 100 + b, "store"),
                    4 if wants(&cluster, "gate") => drop(cluster.execute("gate", if b == 1 { 500 } else { 200 })),
                    5 if wants(&cluster, "store") => drop(cluster.execute("store", 200)),
                    6 => cluster.pass(a * 3_000),
                    7 => cluster.handle(Event::Command(Ticket(1), Command::Drain(format!("n{b}")))),
                    _ => cluster.message(b, &format!("type: session_ack ~ message_id: {} ~ source_service_instance_id: {a} ~ source_plug_port: {} ~ status: 200", a * 100 + b, 40_000 + a)),
                }
            }
            cluster.sent.iter().map(|(connection, envelope)| format!("{} {}", connection.0, envelope.encode())).collect::<Vec<String>>()
        };
        prop_assert_eq!(run(), run());
    }
}
