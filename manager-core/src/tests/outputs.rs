//! People ask for what instances wrote.

use super::*;
use crate::OutputQuestion;

fn ask(cluster: &mut Cluster, ticket: u64, id: u64) -> Vec<Effect> {
    let question = OutputQuestion { instance: InstanceId(id), after: None, lines: 10 };
    cluster.engine.core.handle(cluster.now, Event::Output(Ticket(ticket), question))
}

fn answer(effects: &[Effect]) -> Option<&Result<patchbay_api::Log, Refusal>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Output(Ticket(7), answer) => Some(answer),
        _ => None,
    })
}

#[test]
fn its_agent_reads_them_and_whoever_does_not_answer_is_not_waited_for() {
    let (mut cluster, gate) = Cluster::running();
    let asked = ask(&mut cluster, 7, gate.0);
    let [Effect::Send(Connection(1), request)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(request.extension("x_log"), Some(format!("{gate}, -, 10").as_str()));
    let id = request.message.message_id();
    let said = |more: &str| {
        Envelope::parse(&format!("type: agent_health_control_response ~ message_id: {id} ~ agent_network_address: 10.0.0.1 ~ status: 200 ~ {more}")).expect("good")
    };
    let told = said("x_log_lines: [[5,\"one: two\"],[6,\"\\u007e\"]] ~ x_log_more: yes");
    let effects = cluster.engine.core.handle(0, Event::Message(Connection(1), told));
    let Some(Ok(log)) = answer(&effects) else { panic!("{effects:?}") };
    let lines: Vec<(u64, &str)> = log.lines.iter().map(|line| (line.at_us, line.text.as_str())).collect();
    assert_eq!((lines, log.more), (vec![(5, "one: two"), (6, "~")], true));
    // Nobody there, nobody answering, nobody who keeps outputs.
    assert!(matches!(answer(&ask(&mut cluster, 7, 99)), Some(Err(Refusal::Unknown(_)))));
    ask(&mut cluster, 7, gate.0);
    let effects = cluster.engine.core.handle(5_000, Event::Tick);
    assert!(matches!(answer(&effects), Some(Err(Refusal::Conflict(text))) if text.contains("within 5 s")));
    let asked = ask(&mut cluster, 7, gate.0);
    let Some(Effect::Send(_, request)) = asked.first() else { panic!("{asked:?}") };
    let id = request.message.message_id();
    let plain = Envelope::parse(&format!("type: agent_health_control_response ~ message_id: {id} ~ agent_network_address: 10.0.0.1 ~ status: 200")).expect("good");
    let effects = cluster.engine.core.handle(5_001, Event::Message(Connection(1), plain));
    assert!(
        matches!(answer(&effects), Some(Err(Refusal::Unknown(text))) if text.contains("keeps no outputs"))
    );
    cluster.handle(Event::Lost(Connection(1)));
    assert!(matches!(answer(&ask(&mut cluster, 7, gate.0)), Some(Err(Refusal::Conflict(_)))));
}
