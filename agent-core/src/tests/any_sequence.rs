//! Whatever happens in whatever order: instances and sessions go from state to state only as it is drawn above their types.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ssmmp::{InstanceId, MessageId, Name, PlugConfiguration, SocketConfiguration, Status};

use super::{Effect, Event, Node, SessionReport};
use crate::instance::Stage;
use crate::session_report::Cause;
use crate::{Millis, SessionEnds, Start};

/// Instances: two native ones, an adapted one with a plug, and one without.
const INSTANCES: [(u64, &str, &str); 4] =
    [(7, "A", "P, in, B"), (9, "A", ""), (6, "proxy", "back, in, B"), (8, "redis", "")];

#[derive(Debug, Clone)]
enum Step {
    Execute(usize),
    Adopt(usize, bool),
    Listening(usize),
    Exited(usize),
    StartFailed(usize),
    Shutdown(usize, bool),
    Refuses(usize, u16),
    SaysItEnds(usize),
    Asks(u64),
    Answered(usize, u16),
    Acknowledges(u64, u16, u16),
    TellsAgain(u16),
    Established(usize, u16),
    Closed(usize, u16, Cause),
    SaysClosed(u16),
    CloseRequest(u64, u16),
    ManagerGone,
    ManagerBack,
    Time(Millis),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (which, request, port) = (|| 0..INSTANCES.len(), || 1000..1004u64, || 40_000..40_003u16);
    let status = || prop::sample::select(vec![200, 200, 200, 102, 409, 503]);
    let cause = prop::sample::select(vec![Cause::SourceFinished, Cause::DestinationFinished, Cause::Broken]);
    let step = prop_oneof![
        3 => which().prop_map(Step::Execute),
        1 => (which(), any::<bool>()).prop_map(|(which, listens)| Step::Adopt(which, listens)),
        4 => which().prop_map(Step::Listening),
        1 => which().prop_map(Step::Exited),
        1 => which().prop_map(Step::StartFailed),
        1 => (which(), any::<bool>()).prop_map(|(which, graceful)| Step::Shutdown(which, graceful)),
        1 => (which(), status()).prop_map(|(which, status)| Step::Refuses(which, status)),
        1 => which().prop_map(Step::SaysItEnds),
        4 => request().prop_map(Step::Asks),
        6 => (0..4usize, status()).prop_map(|(which, status)| Step::Answered(which, status)),
        5 => (request(), port(), status()).prop_map(|(id, port, status)| Step::Acknowledges(id, port, status)),
        1 => port().prop_map(Step::TellsAgain),
        3 => (which(), port()).prop_map(|(which, port)| Step::Established(which, port)),
        3 => (which(), port(), cause).prop_map(|(which, port, cause)| Step::Closed(which, port, cause)),
        2 => port().prop_map(Step::SaysClosed),
        1 => (60..63u64, port()).prop_map(|(id, port)| Step::CloseRequest(id, port)),
        1 => Just(Step::ManagerGone),
        1 => Just(Step::ManagerBack),
        2 => (1..12_000u64).prop_map(Step::Time),
    ];
    prop::collection::vec(step, 1..60)
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Lives,
    Over,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Waits,
    Answered,
}

type States =
    (BTreeMap<InstanceId, Stage>, BTreeMap<(InstanceId, MessageId), Asked>, BTreeMap<SessionEnds, Stands>);

impl Node {
    fn states(&self) -> States {
        let core = &self.0;
        let stages = core.instances.iter().map(|(id, instance)| (*id, instance.stage()));
        let asked = core
            .instances
            .keys()
            .flat_map(|id| core.asked.of(*id).map(|(number, asked)| (*id, number, asked)));
        let asked = asked.map(|(id, number, asked)| {
            let stands = if asked.is_unanswered() { Asked::Waits } else { Asked::Answered };
            ((id, number), stands)
        });
        let live = core
            .live
            .iter()
            .map(|(ends, live)| (*ends, if live.over { Stands::Over } else { Stands::Lives }));
        (stages.collect(), asked.collect(), live.collect())
    }

    fn step(&mut self, step: &Step) -> Vec<Effect> {
        let id = |which: usize| InstanceId(INSTANCES[which].0);
        match *step {
            Step::Execute(which) => {
                let (id, service, plugs) = INSTANCES[which];
                self.execute(service, id, plugs)
            }
            Step::Adopt(which, listens) => {
                let (id, service, plugs) = INSTANCES[which];
                if self.0.instances.contains_key(&InstanceId(id)) {
                    return Vec::new();
                }
                let mut start = Start::of(Name::new(service).expect("a name"), InstanceId(id));
                start.plugs = PlugConfiguration::parse(plugs).unwrap_or(PlugConfiguration(Vec::new()));
                start.sockets = SocketConfiguration::parse(&format!("in, {}", 54_000 + id)).expect("good");
                self.handle(Event::Adopted(start, listens, vec![report(0, 40_002)], Vec::new()))
            }
            Step::Listening(which) => self.handle(Event::Listening(id(which))),
            Step::Exited(which) => self.handle(Event::Exited(id(which), "signal 9".into(), Vec::new())),
            Step::StartFailed(which) => {
                self.handle(Event::StartFailed(id(which), Status::INTERNAL, "no".into(), Vec::new()))
            }
            Step::Shutdown(which, graceful) => {
                let (id, service, _) = INSTANCES[which];
                let kind = if graceful { "graceful" } else { "hard" };
                self.manager(&format!("type: {kind}_shutdown_request ~ message_id: {} ~ service_name: {service} ~ service_instance_id: {id}", 100 + id))
            }
            Step::Refuses(which, status) => {
                let id = INSTANCES[which].0;
                self.instance(id, &format!("type: graceful_shutdown_response ~ message_id: {} ~ status: {status}", 100 + id))
            }
            Step::SaysItEnds(which) => {
                let (id, service, _) = INSTANCES[which];
                self.instance(id, &format!("type: service_instance_termination_info ~ message_id: 9 ~ service_name: {service} ~ service_instance_id: {id}"))
            }
            Step::Asks(number) => self.instance(7, &format!("type: session_request ~ message_id: {number} ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in")),
            Step::Answered(which, status) => {
                let requests = self.0.asked.unanswered();
                let Some(ssmmp::Message::SessionRequest(request)) =
                    requests.get(which % requests.len().max(1)).map(|request| request.message.clone())
                else {
                    return Vec::new();
                };
                let (number, source) = (request.message_id, request.source_service_instance_id);
                self.manager(&format!("type: session_response ~ message_id: {number} ~ source_service_name: A ~ source_service_instance_id: {source} ~ dest_service_name: B ~ dest_service_instance_id: 9 ~ dest_socket_name: in ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_port: 54009 ~ status: {status}"))
            }
            Step::Acknowledges(number, port, status) => self.instance(7, &format!("type: session_ack ~ message_id: {number} ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: {port} ~ status: {status}")),
            Step::TellsAgain(port) => self.instance(7, &format!("type: session_ack ~ message_id: 1009 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: {port} ~ status: 200 ~ x_session: P, B, 9, in, 10.0.0.1, 54009")),
            Step::Established(which, port) => self.handle(Event::Established(report(which, port))),
            Step::Closed(which, port, cause) => self.handle(Event::Closed(report(which, port), cause)),
            Step::SaysClosed(port) => self.instance(7, &format!("type: source_service_session_close_info ~ message_id: 7 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ source_plug_port: {port} ~ dest_service_name: B ~ dest_service_instance_id: 9 ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_name: in ~ dest_socket_port: 54009 ~ status: 111")),
            Step::CloseRequest(number, port) => self.manager(&format!("type: source_service_session_close_request ~ message_id: {number} ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ source_plug_port: {port} ~ dest_service_name: B ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_name: in ~ dest_socket_port: 54009 ~ x_within: 250")),
            Step::ManagerGone => self.handle(Event::ManagerLost),
            Step::ManagerBack => self.register(),
            Step::Time(milliseconds) => self.pass(milliseconds),
        }
    }
}

/// A connection of an instance to the native destination.
fn report(which: usize, port: u16) -> SessionReport {
    let mut report =
        SessionReport::between(INSTANCES[which].0, 9, "10.0.0.1:54009".parse().expect("an address"));
    report.source = format!("10.0.0.1:{port}").parse().expect("an address");
    report
}

/// What has another state than before: each, with both states.
fn changes<K: Ord + Copy, S: Copy + PartialEq>(
    before: &BTreeMap<K, S>,
    after: &BTreeMap<K, S>,
) -> Vec<(K, Option<S>, Option<S>)> {
    let keys: std::collections::BTreeSet<K> = before.keys().chain(after.keys()).copied().collect();
    let both = keys.into_iter().map(|key| (key, before.get(&key).copied(), after.get(&key).copied()));
    both.filter(|(_, before, after)| before != after).collect()
}

fn instance_may(from: Option<Stage>, to: Option<Stage>, step: &Step) -> bool {
    use Stage::{Ending, Plugs, Running, Starting};
    match (from, to) {
        (None, Some(Plugs)) => matches!(step, Step::Execute(_)),
        (None, Some(Starting)) => matches!(step, Step::Execute(_) | Step::Adopt(_, false)),
        (None, Some(Running)) => matches!(step, Step::Adopt(_, true)),
        (Some(Plugs), Some(Starting)) => matches!(step, Step::Answered(_, 200)),
        (Some(Starting), Some(Running)) => matches!(step, Step::Listening(_)),
        (Some(Starting | Running), Some(Ending)) => matches!(step, Step::Shutdown(..)),
        (Some(Ending), Some(Running)) => matches!(step, Step::Refuses(_, 409 | 503)),
        (Some(_), None) if matches!(step, Step::Exited(_) | Step::StartFailed(_)) => true,
        (Some(Plugs), None) => matches!(step, Step::Answered(_, 409 | 503) | Step::Shutdown(..)),
        _ => false,
    }
}

fn request_may(from: Option<Asked>, to: Option<Asked>, step: &Step) -> bool {
    let is_gone = matches!(step, Step::Exited(_) | Step::StartFailed(_) | Step::Shutdown(..));
    match (from, to) {
        (None, Some(Asked::Waits)) | (Some(Asked::Waits), Some(Asked::Answered)) => true,
        (Some(Asked::Waits), None) => is_gone || matches!(step, Step::Answered(..) | Step::Acknowledges(..)),
        // Acknowledged, refused when it was made again, or its instance is gone.
        (Some(Asked::Answered), None) => true,
        _ => false,
    }
}

fn session_may(from: Option<Stands>, to: Option<Stands>, step: &Step) -> bool {
    let is_told =
        matches!(step, Step::SaysClosed(_) | Step::Closed(..) | Step::Time(_) | Step::CloseRequest(..));
    let is_gone = matches!(step, Step::Exited(_) | Step::StartFailed(_));
    let acknowledges = matches!(step, Step::Acknowledges(..) | Step::TellsAgain(_) | Step::Established(..));
    match (from, to) {
        (None | Some(Stands::Over), Some(Stands::Lives)) => acknowledges || matches!(step, Step::Adopt(..)),
        (Some(Stands::Lives), Some(Stands::Over)) => matches!(step, Step::Closed(..)),
        // An acknowledgement may come when its connection was ended for want of it.
        (Some(_), None) => is_told || is_gone || acknowledges,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_other_transition_happens(steps in steps()) {
        let mut node = Node::registered();
        for step in &steps {
            let before = node.states();
            node.step(step);
            let after = node.states();
            for (id, from, to) in changes(&before.0, &after.0) {
                prop_assert!(instance_may(from, to, step), "instance {id}: {from:?} became {to:?} by {step:?}");
            }
            for (id, from, to) in changes(&before.1, &after.1) {
                prop_assert!(request_may(from, to, step), "request {id:?}: {from:?} became {to:?} by {step:?}");
            }
            for (ends, from, to) in changes(&before.2, &after.2) {
                prop_assert!(session_may(from, to, step), "session {ends:?}: {from:?} became {to:?} by {step:?}");
            }
        }
    }
}
