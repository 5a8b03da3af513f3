//! Whatever people ask for, in whatever order, at any moment: it comes to rest as it should be.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::Redirected;

const NODES: [&str; 3] = ["gate, middle", "middle, middle-2, store", "middle, middle-2, store"];

#[derive(Debug, Clone)]
enum Step {
    Command(Command),
    Program(bool),
    Sessions(usize),
    Messages(usize),
    Time(Millis),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || prop_oneof![Just("n1"), Just("n2"), Just("n3")].prop_map(str::to_owned);
    let id = || (1u64..12).prop_map(InstanceId);
    let command = prop_oneof![
        3 => (id(), node()).prop_map(|(id, node)| Command::Move(id, node)),
        2 => node().prop_map(Command::Drain),
        2 => node().prop_map(Command::Undrain),
        2 => prop::option::of(0u32..4).prop_map(|n| Command::Scale("t".into(), "middle".into(), n)),
        1 => id().prop_map(Command::StopInstance),
        1 => id().prop_map(Command::CloseInstance),
        1 => (1u64..40).prop_map(Command::CloseSession),
        1 => Just(Command::CloseConnection("t".into(), "gate.middle".into())),
        1 => ((1u64..40), any::<bool>()).prop_map(|(id, on)| Command::Redirect(Redirected::Session(id), on)),
        1 => (node(), any::<bool>()).prop_map(|(node, on)| Command::Redirect(Redirected::Node(node), on)),
    ];
    let step = prop_oneof![
        6 => command.prop_map(Step::Command),
        2 => any::<bool>().prop_map(Step::Program),
        2 => (1usize..12).prop_map(Step::Sessions),
        4 => (1usize..20).prop_map(Step::Messages),
        2 => (1u64..20_000).prop_map(Step::Time),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..30)
}

fn take(cluster: &mut Cluster, step: &Step) {
    match step {
        Step::Command(command) => drop(cluster.command(command.clone())),
        Step::Program(new) => {
            let text = CHAIN.replace("[service.middle]", "[service.middle]\nreplicas = { max = 3 }");
            let program = if *new { "[service.middle]\nprogram = \"middle-2\"" } else { "[service.middle]" };
            cluster.apply_text(&text.replace("[service.middle]", program));
        }
        Step::Sessions(count) => {
            let gate = cluster.of("gate").first().map(|(id, _)| InstanceId(*id));
            for _ in 0..*count {
                if let Some(gate) = gate {
                    cluster.want(gate, "middle", "middle", "api");
                }
            }
            if let Some((id, _)) = cluster.of("middle").first() {
                cluster.want(InstanceId(*id), "store", "store", "api");
            }
        }
        Step::Messages(count) => {
            for _ in 0..*count {
                let Some((connection, envelope)) = cluster.next() else { return };
                cluster.deal_with(connection, &envelope);
            }
        }
        Step::Time(time) => cluster.live(*time),
        Step::Restart => {
            cluster.restart();
            for (number, programs) in (1..).zip(NODES) {
                cluster.reconnect(number, number, programs);
            }
        }
    }
}

/// Never true, however things stand.
fn check_always(cluster: &Cluster) -> Result<(), TestCaseError> {
    cluster.engine.core.state.inventory.assert_recount();
    let alive =
        || cluster.engine.core.state.inventory.instances().filter(|instance| instance.state.is_alive());
    let stores = alive().filter(|instance| instance.service.as_str() == "store").count();
    prop_assert!(stores <= 1, "two would share the state");
    let ports: Vec<_> = alive().flat_map(|i| i.sockets.iter().map(|(_, port)| (i.address, *port))).collect();
    prop_assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len(), "a port is given twice");
    Ok(())
}

/// Found by the property below: the store was executed for who had ended.
#[test]
fn nothing_is_executed_for_an_asker_that_has_ended() {
    let mut cluster = Cluster::with_nodes(&NODES);
    take(&mut cluster, &Step::Program(false));
    cluster.live(100);
    let stop = Step::Command(Command::StopInstance(InstanceId(3)));
    let steps = [Step::Sessions(2), Step::Messages(1), Step::Sessions(2), Step::Program(true)];
    for step in steps.iter().chain(&[Step::Messages(5), stop]) {
        take(&mut cluster, step);
    }
    cluster.live(10_000);
    let stores = cluster.sent.iter().filter(|(_, envelope)| match &envelope.message {
        Message::ExecutionRequest(request) => request.service_name.as_str() == "store",
        _ => false,
    });
    assert_eq!((stores.count(), &cluster.agents.failed[..]), (1, &[][..]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_commands_come_to_rest(steps in steps()) {
        let mut cluster = Cluster::new();
        for (programs, number) in NODES.iter().zip(1..) {
            cluster.register(number, &format!("10.0.0.{number}"), programs);
        }
        take(&mut cluster, &Step::Program(false));
        cluster.live(100);
        for step in &steps {
            take(&mut cluster, step);
            check_always(&cluster)?;
        }
        for node in ["n1", "n2", "n3"] {
            cluster.command(Command::Undrain(node.into())).expect("it is known");
        }
        cluster.live(200_000);
        check_always(&cluster)?;
        let alive: Vec<&Instance> = cluster.engine.core.state.inventory.instances().filter(|i| i.state.is_alive()).collect();
        for instance in &alive {
            prop_assert_eq!(instance.state, InstanceState::Running, "{:?}", instance);
            prop_assert!(crate::unwanted::unwanted(&cluster.engine.core.state, instance).is_none(), "{:?}", instance);
        }
        let ids: BTreeSet<InstanceId> = alive.iter().map(|instance| instance.id).collect();
        let really: BTreeSet<InstanceId> = cluster.agents.running.keys().copied().collect();
        prop_assert_eq!(ids, really);
        prop_assert_eq!(cluster.of("gate").len(), 1);
        let (least, most) = crate::replicas::bounds(&cluster.engine.core.state, "t", "middle");
        let middle = cluster.of("middle").len() as u32;
        prop_assert!((least..=most).contains(&middle), "{middle} of {least} to {most}");
        let restarted = steps.iter().any(|step| matches!(step, Step::Restart));
        let drained = steps.iter().any(|step| matches!(step, Step::Command(Command::Drain(_))));
        // With all nodes drained nothing can be executed; a Manager that dies may lose an answer.
        let excused = restarted || drained;
        prop_assert!(excused || cluster.agents.failed.is_empty(), "{:?}", cluster.agents.failed);
    }
}
